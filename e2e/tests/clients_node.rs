//! Clients in Node against the binary: eureka-js-client and node's `consul`, by the
//! programs in `conformance/node`, of which `cargo xtask test` makes the folder in
//! `ATOLL_E2E_NODE`.

#![expect(
    clippy::disallowed_methods,
    reason = "the test command says in the environment where the programs are"
)]

use std::process::Command;

use atoll_e2e::outside::Service;
use atoll_e2e::{World, describe, service_command};

/// Runs a program to its end, which must be a good one.
fn run(program: &str, arguments: &[&str]) {
    let folder = std::env::var("ATOLL_E2E_NODE")
        .expect("ATOLL_E2E_NODE is the folder of conformance/node as `cargo xtask test` makes it");
    let output = Command::new("node")
        .arg(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("node runs");
    assert!(output.status.success(), "{}", describe(&output));
    assert_eq!(output.stdout, b"ok\n", "{}", describe(&output));
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("host:port").1
}

#[test]
#[ignore = "needs ATOLL_E2E_NODE; `cargo xtask test` sets it"]
fn eureka_js_client_works_unchanged() {
    let first = Service::start("first");
    let mut world = World::new(&format!(
        "services:\n  legacy: {{ endpoints: [\"{}\"] }}\n  orders: {{ endpoints: [] }}\n  \
         echo:\n    command: {}\n    health: /healthz\n\
         routes:\n  /orders/{{path*}}: orders\n",
        first.address,
        service_command(),
    ));
    world.up();
    world.wait_passing("echo", 1);
    let (eureka, consul) = (world.listener("eureka"), world.consul());
    run(
        "eureka.mjs",
        &[&eureka, &consul, &world.gateway(), port(&first.address)],
    );
    assert_eq!(world.instances("orders").len(), 0, "it took its leave");
}

#[test]
#[ignore = "needs ATOLL_E2E_NODE; `cargo xtask test` sets it"]
fn node_consul_holds_its_conversation() {
    let service = Service::start("web");
    let mut world =
        World::new("services:\n  web: { endpoints: [] }\nroutes:\n  /web/{path*}: web\n");
    world.up();
    let consul = world.consul();
    let (host, _) = consul.rsplit_once(':').expect("host:port");
    run("consul.mjs", &[host, port(&consul), port(&service.address)]);
    assert_eq!(world.get("/web/whoami").text(), "web", "routed at once");
}
