//! Eureka's clients against the binary: py-eureka-client by `conformance/eureka.py`, and
//! plain requests for what it does not do.
//!
//! The first needs a Python with `conformance/requirements.txt`: the folder with its
//! `python` stands in `ATOLL_E2E_PYTHON`, as for the Python services.

use std::path::Path;
use std::process::Command;

use atoll_e2e::outside::Service;
use atoll_e2e::{World, describe, eventually, http, service_command};
use serde_json::{Value, json};

/// A world with a service of each kind and a route to one that registers itself.
fn world(elsewhere: &Service) -> World {
    let mut world = World::new(&format!(
        "services:\n  legacy:\n    endpoints: [\"{}\"]\n  orders:\n    endpoints: []\n  \
         echo:\n    command: {}\n    health: /healthz\n\
         routes:\n  /orders/{{path*}}: orders\n",
        elsewhere.address,
        service_command(),
    ));
    world.up();
    world.wait_passing("echo", 1);
    world
}

fn ask(world: &World, method: &str, path: &str, body: Option<&Value>) -> http::Answer {
    let headers = [
        ("Accept", "application/json"),
        ("Content-Type", "application/json"),
    ];
    let body = body.map(Value::to_string).unwrap_or_default();
    let path = format!("/eureka/{path}");
    let answer = http::request(
        &world.listener("eureka"),
        method,
        &path,
        &headers,
        body.as_bytes(),
    );
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// What a client says that listens at `address`.
fn instance(id: &str, address: &str) -> Value {
    let (ip, port) = address.rsplit_once(':').expect("host:port");
    let port: u16 = port.parse().expect("a port");
    json!({ "instance": {
        "instanceId": id, "hostName": "localhost", "ipAddr": ip, "app": "ORDERS",
        "vipAddress": "orders", "port": { "$": port, "@enabled": "true" },
        "dataCenterInfo": { "name": "MyOwn" }, "leaseInfo": { "durationInSecs": 60 },
    }})
}

#[test]
fn what_is_registered_by_eureka_is_listed_routed_and_gone_at_once() {
    let first = Service::start("first");
    let world = world(&first);
    let said = instance("o:1", &first.address);
    assert_eq!(ask(&world, "POST", "apps/ORDERS", Some(&said)).status, 204);
    let listed = world.instances("orders");
    assert_eq!(listed[0]["id"], "o:1", "{listed:?}");
    assert_eq!(listed[0]["address"], first.address);
    eventually("it is routed", || {
        let answer = world.get("/orders/whoami");
        (answer.status == 200 && answer.text() == "first").then_some(())
    });
    assert_eq!(ask(&world, "DELETE", "apps/ORDERS/o:1", None).status, 200);
    assert_eq!(ask(&world, "PUT", "apps/ORDERS/o:1", None).status, 404);
    assert!(ask(&world, "GET", "apps/ORDERS", None).status == 404);
    eventually("it is not routed", || {
        (world.get("/orders/whoami").status == 503).then_some(())
    });
}

#[test]
fn what_atoll_runs_and_what_the_file_names_is_found_by_eureka() {
    let first = Service::start("first");
    let world = world(&first);
    let apps = ask(&world, "GET", "v2/apps/", None).json();
    let apps = &apps["applications"];
    assert_eq!(apps["apps__hashcode"], "UP_2_", "{apps}");
    let (echo, legacy) = (&apps["application"][0], &apps["application"][1]);
    assert_eq!(
        (&echo["name"], &legacy["name"]),
        (&json!("ECHO"), &json!("LEGACY"))
    );
    let echo = &echo["instance"][0];
    assert_eq!(echo["status"], "UP", "{echo}");
    assert_eq!(echo["ipAddr"], "127.0.0.1", "{echo}");
    assert_eq!(echo["vipAddress"], "echo", "{echo}");
    // Nobody but the fleet may take it away.
    let path = format!("apps/ECHO/{}", echo["instanceId"].as_str().expect("an id"));
    assert_eq!(ask(&world, "DELETE", &path, None).status, 409);
}

#[test]
fn an_override_and_a_registration_survive_kill_9() {
    let first = Service::start("first");
    let mut world = world(&first);
    let said = instance("o:1", &first.address);
    assert_eq!(ask(&world, "POST", "apps/ORDERS", Some(&said)).status, 204);
    let path = "apps/ORDERS/o:1/status?value=OUT_OF_SERVICE";
    assert_eq!(ask(&world, "PUT", path, None).status, 200);
    world.signal(rustix::process::Signal::KILL);
    world.ended();
    world.up();
    let kept = ask(&world, "GET", "apps/ORDERS/o:1", None).json();
    assert_eq!(kept["instance"]["status"], "OUT_OF_SERVICE", "{kept}");
    assert_eq!(kept["instance"]["overriddenstatus"], "OUT_OF_SERVICE");
    assert_eq!(kept["instance"]["leaseInfo"]["durationInSecs"], 60);
    // What changed before the restart is not known, so everything is told as new.
    let delta = ask(&world, "GET", "apps/delta", None).json();
    assert!(delta.to_string().contains("o:1"), "{delta}");
}

#[test]
#[ignore = "needs ATOLL_E2E_PYTHON; `cargo xtask test` sets it"]
#[expect(
    clippy::disallowed_methods,
    reason = "the test command says in the environment where the Python is"
)]
fn py_eureka_client_works_unchanged() {
    let python = std::env::var("ATOLL_E2E_PYTHON")
        .expect("ATOLL_E2E_PYTHON is the folder of a python with conformance/requirements.txt");
    let first = Service::start("first");
    let world = world(&first);
    let (_, port) = first.address.rsplit_once(':').expect("host:port");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/eureka.py");
    let output = Command::new(format!("{python}/python"))
        .arg(script)
        .args([&world.listener("eureka"), &world.gateway(), port])
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{}", describe(&output));
}
