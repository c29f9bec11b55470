//! Consul's clients, unchanged: py-consul where there is one, and plain HTTP for what
//! must hold anywhere.
//!
//! The former needs a Python with `conformance/requirements.txt`: the folder with its
//! `python` stands in `ATOLL_E2E_PYTHON`, as in `shop_python.rs`.

#![expect(
    clippy::disallowed_methods,
    reason = "the test command says in the environment where the Python is"
)]

use std::path::Path;
use std::process::Command;

use atoll_e2e::http::{self, Answer};
use atoll_e2e::outside::Service;
use atoll_e2e::{World, describe, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A world that routes `/web` to a service that nobody has registered yet.
fn world() -> World {
    let mut world =
        World::new("services:\n  web: { endpoints: [] }\nroutes:\n  /web/{path*}: web\n");
    world.up();
    world
}

fn ask(world: &World, method: &str, path: &str, body: &Value) -> Answer {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let answer = http::request(&world.consul(), method, path, &[], body.as_bytes());
    answer.expect("Consul's API answers")
}

fn read(world: &World, path: &str) -> Value {
    let answer = ask(world, "GET", path, &Value::Null);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn write(world: &World, path: &str, body: &Value) -> String {
    let answer = ask(world, "PUT", path, body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text()
}

#[test]
#[ignore = "needs ATOLL_E2E_PYTHON; `cargo xtask test` sets it"]
fn py_consul_holds_its_conversation() {
    let python = std::env::var("ATOLL_E2E_PYTHON")
        .expect("ATOLL_E2E_PYTHON is the folder of a python with what requirements.txt lists");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/consul_client.py");
    let service = Service::start("web");
    let world = world();
    let consul = world.consul();
    let (host, port) = consul.rsplit_once(':').expect("HOST:PORT");
    let (_, service_port) = service.address.rsplit_once(':').expect("HOST:PORT");
    let mut client = Command::new(Path::new(&python).join("python"));
    client.arg(script).args([host, port, service_port]);
    let output = client.output().expect("python runs");
    assert!(output.status.success(), "{}", describe(&output));
    assert_eq!(world.get("/web/whoami").text(), "web", "routed at once");
}

/// Asks with a token.
fn ask_as(world: &World, token: &str, path: &str) -> Answer {
    let headers = [("X-Consul-Token", token)];
    let answer = http::request(&world.consul(), "GET", path, &headers, b"");
    answer.expect("Consul's API answers")
}

#[test]
#[ignore = "needs ATOLL_E2E_PYTHON; `cargo xtask test` sets it"]
fn py_consul_gives_rights_that_count_and_outlive_a_kill() {
    let python = std::env::var("ATOLL_E2E_PYTHON")
        .expect("ATOLL_E2E_PYTHON is the folder of a python with what requirements.txt lists");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/consul_acl.py");
    let mut world = World::new("consul: { acl: true }\n");
    world.up();
    let consul = world.consul();
    let (host, port) = consul.rsplit_once(':').expect("HOST:PORT");
    let mut client = Command::new(Path::new(&python).join("python"));
    client.arg(script).args([host, port]);
    let output = client.output().expect("python runs");
    assert!(output.status.success(), "{}", describe(&output));
    let told = String::from_utf8_lossy(&output.stdout);
    let words: Vec<&str> = told.split_whitespace().collect();
    let ["ok", root, app] = words[..] else {
        panic!("{told}");
    };
    let policies = ask_as(&world, root, "/v1/acl/policies").json();

    world.signal(Signal::KILL);
    world.ended();
    world.up();
    assert_eq!(ask_as(&world, root, "/v1/acl/policies").json(), policies);
    assert_eq!(ask_as(&world, app, "/v1/kv/other").status, 200);
    assert_eq!(ask_as(&world, app, "/v1/kv/app/secret").status, 403);
    assert_eq!(ask_as(&world, "", "/v1/kv/other").status, 403);
    let again = ask(&world, "PUT", "/v1/acl/bootstrap", &Value::Null);
    assert_eq!(again.status, 403, "{}", again.text());
}

#[test]
#[ignore = "needs ATOLL_E2E_PYTHON; `cargo xtask test` sets it"]
fn py_consul_finds_all_that_is_beyond_services_and_keys() {
    let python = std::env::var("ATOLL_E2E_PYTHON")
        .expect("ATOLL_E2E_PYTHON is the folder of a python with what requirements.txt lists");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/consul_operations.py");
    let world = world();
    let consul = world.consul();
    let (host, port) = consul.rsplit_once(':').expect("HOST:PORT");
    let mut client = Command::new(Path::new(&python).join("python"));
    let output = client.arg(script).args([host, port]).output();
    let output = output.expect("python runs");
    assert!(output.status.success(), "{}", describe(&output));
}

#[test]
fn what_consul_registers_is_listed_and_routed_and_what_others_register_is_seen() {
    let (first, second) = (Service::start("first"), Service::start("second"));
    let world = world();
    let (_, port) = first.address.rsplit_once(':').expect("HOST:PORT");
    let port: u16 = port.parse().expect("a port");
    let body = json!({ "Name": "Web", "ID": "web-1", "Address": "127.0.0.1", "Port": port });
    write(&world, "/v1/agent/service/register", &body);
    assert_eq!(world.instances("web")[0]["id"], "web-1");
    eventually("the gateway routes to it", || {
        (world.get("/web/whoami").text() == "first").then_some(())
    });

    let at = json!({ "address": second.address });
    let put = world.tell("PUT", "services/web/instances/web-2", &at);
    assert_eq!(put.status, 200, "{}", put.text());
    let seen = read(&world, "/v1/health/service/web?passing");
    let ids = seen.as_array().expect("a list").iter();
    let ids: Vec<&Value> = ids.map(|entry| &entry["Service"]["ID"]).collect();
    assert_eq!(ids, ["web-1", "web-2"]);
    assert_eq!(
        read(&world, "/v1/agent/services")["web-2"]["Service"],
        "web"
    );

    write(
        &world,
        "/v1/agent/service/maintenance/web-1?enable=true",
        &Value::Null,
    );
    eventually("the gateway avoids it", || {
        (world.get("/web/whoami").text() == "second").then_some(())
    });
    write(&world, "/v1/agent/service/deregister/web-1", &Value::Null);
    assert_eq!(world.instances("web").len(), 1);
}

#[test]
fn services_keys_locks_and_the_node_outlive_a_kill() {
    let mut world = world();
    let body = json!({
        "Name": "web", "Port": 9, "Tags": ["blue"],
        "Check": { "TTL": "10m", "Status": "passing" },
    });
    write(&world, "/v1/agent/service/register", &body);
    let session = write(&world, "/v1/session/create", &json!({ "TTL": "1h" }));
    let session: Value = serde_json::from_str(&session).expect("JSON");
    let session = session["ID"].as_str().expect("an id");
    write(
        &world,
        &format!("/v1/kv/lock?acquire={session}&flags=7"),
        &Value::Null,
    );
    let (key, node) = (read(&world, "/v1/kv/lock"), read(&world, "/v1/agent/self"));

    world.signal(Signal::KILL);
    world.ended();
    world.up();
    assert_eq!(read(&world, "/v1/kv/lock"), key);
    assert_eq!(read(&world, "/v1/agent/self")["Config"], node["Config"]);
    let kept = read(&world, "/v1/health/service/web?passing");
    assert_eq!(kept[0]["Service"]["Tags"], json!(["blue"]));
    assert_eq!(kept[0]["Checks"][1]["Type"], "ttl");
    assert_eq!(
        read(&world, &format!("/v1/session/info/{session}"))[0]["TTL"],
        "1h"
    );
    // The lock is still tied to its session.
    write(
        &world,
        &format!("/v1/session/destroy/{session}"),
        &Value::Null,
    );
    assert!(read(&world, "/v1/kv/lock")[0].get("Session").is_none());
}
