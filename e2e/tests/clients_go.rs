//! HashiCorp's own Go client against the binary: the program in `conformance/go`, of
//! which `cargo xtask test` makes the folder in `ATOLL_E2E_GO`.

#![expect(
    clippy::disallowed_methods,
    reason = "the test command says in the environment where the program is"
)]

use std::path::Path;
use std::process::Command;

use atoll_e2e::outside::Service;
use atoll_e2e::{World, describe};

#[test]
#[ignore = "needs ATOLL_E2E_GO; `cargo xtask test` sets it"]
fn consuls_own_go_client_holds_its_conversation() {
    let folder = std::env::var("ATOLL_E2E_GO")
        .expect("ATOLL_E2E_GO is the folder of conformance/go as `cargo xtask test` builds it");
    let service = Service::start("web");
    let mut world =
        World::new("services:\n  web: { endpoints: [] }\nroutes:\n  /web/{path*}: web\n");
    world.up();
    let (_, port) = service.address.rsplit_once(':').expect("host:port");
    let output = Command::new(Path::new(&folder).join("conformance"))
        .args([&world.consul(), port])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", describe(&output));
    assert_eq!(output.stdout, b"ok\n", "{}", describe(&output));
    assert_eq!(world.get("/web/whoami").text(), "web", "routed at once");
}
