//! The same shop in FastAPI and Flask, from `examples/shop-python` as it stands.
//!
//! Needs a Python with `examples/shop-python/requirements.txt`: the folder with its
//! `python` stands in `ATOLL_E2E_PYTHON`. `cargo xtask test` makes one and runs these
//! tests too; elsewhere they are shown as ignored.

#![expect(
    clippy::disallowed_methods,
    reason = "the test command says in the environment where the Python is"
)]

use std::fs;
use std::path::Path;

use atoll_e2e::{World, eventually, send, shop};
use rustix::process::Signal;

/// The example's own files, in a folder of its own with free ports.
fn example() -> World {
    let python = std::env::var("ATOLL_E2E_PYTHON")
        .expect("ATOLL_E2E_PYTHON is the folder of a python with what requirements.txt lists");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop-python");
    let read = |name: &str| fs::read_to_string(example.join(name)).expect("the example's file");
    let mut world = World::new(&read("atoll.yaml"));
    for name in ["database.py", "users.py", "products.py"] {
        fs::write(world.path().join(name), read(name)).expect("a copy");
    }
    let env = format!("PYTHON={python}/python\n");
    fs::write(world.path().join(".env"), env).expect("write .env");
    world.up();
    world.wait_passing("users", 2);
    world.wait_passing("products", 2);
    world
}

#[test]
#[ignore = "needs ATOLL_E2E_PYTHON; `cargo xtask test` sets it"]
fn the_shop_in_python_holds_the_same_conversation() {
    shop::converse(&example());
}

#[test]
#[ignore = "needs ATOLL_E2E_PYTHON; `cargo xtask test` sets it"]
fn a_killed_python_replica_comes_back_by_itself() {
    let world = example();
    for service in ["users", "products"] {
        let killed = world.pids(service)[0];
        send(killed, Signal::KILL);
        eventually("another process takes its place", || {
            assert_eq!(world.get(&format!("/{service}/1")).status, 200);
            let now = world.pids(service);
            (now.len() == 2 && !now.contains(&killed)).then_some(())
        });
        world.wait_passing(service, 2);
    }
}
