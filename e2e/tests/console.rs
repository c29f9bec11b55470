//! The admin API as a stranger finds it: by its own OpenAPI document, guarded, and
//! with metrics for Prometheus.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use atoll_e2e::http::{self, Connection};
use atoll_e2e::{World, describe, eventually, service_command};
use serde_json::{Value, json};

fn echo() -> World {
    let mut world = World::new(&format!(
        "services:\n  echo:\n    command: {}\n    health: /healthz\nroutes:\n  /echo/{{path*}}: echo\n",
        service_command()
    ));
    world.up();
    world.wait_passing("echo", 1);
    world
}

#[test]
fn every_operation_of_the_openapi_document_answers() {
    let world = echo();
    let document = world.api("openapi.json");
    let version = document["openapi"].as_str().unwrap();
    assert!(version.starts_with("3.1"), "{version}");
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if method == "parameters" {
                continue;
            }
            operations += 1;
            operate(&world, path, &method.to_uppercase(), operation);
        }
    }
    assert!(operations >= 12, "{document}");
}

/// Does what the document says can be done, and gets what it says will come.
fn operate(world: &World, template: &str, method: &str, operation: &Value) {
    // A registration that each operation may change or take away.
    let instance = json!({"address": "127.0.0.1:9", "lease_ms": 60_000});
    let made = world.tell("PUT", "services/other/instances/probe", &instance);
    assert_eq!(made.status, 200, "{}", made.text());
    let service = match template.contains("{id}") {
        true => "other",
        false => "echo",
    };
    let path = template
        .replace("{service}", service)
        .replace("{id}", "probe");
    assert!(!path.contains('{'), "a new parameter: {path}");
    if operation["responses"]["200"]["content"]["text/event-stream"].is_object() {
        let mut lines = Connection::open(&world.console())
            .and_then(|connection| connection.follow(&path))
            .expect("a stream");
        assert!(lines.next().expect("a line").is_ok());
        return;
    }
    let body = match &path[..] {
        _ if operation["requestBody"].is_null() => Value::Null,
        "/api/v1/explain" => json!({"method": "GET", "url": "/echo/7"}),
        "/api/v1/services/other/instances/probe" => instance,
        other => panic!("{other} takes a body that this test does not know"),
    };
    let Some(path) = path.strip_prefix("/api/v1/") else {
        let answer = http::get(&world.console(), &path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        return;
    };
    let answer = world.tell(method, path, &body);
    let described = &operation["responses"][answer.status.to_string()];
    assert!(
        (200..300).contains(&answer.status) && described.is_object(),
        "{method} {path}: {} {}",
        answer.status,
        answer.text()
    );
    let kinds = described["content"].as_object();
    for kind in kinds.iter().flat_map(|kinds| kinds.keys()) {
        let given = answer.header("content-type").unwrap_or_default();
        assert!(given.starts_with(&kind[..]), "{method} {path}: {given}");
    }
}

#[test]
fn prometheus_finds_requests_by_route_and_service() {
    let world = echo();
    for _ in 0..3 {
        world.get("/echo/x");
    }
    assert_eq!(world.get("/nowhere").status, 404);
    eventually("the requests are counted", || {
        let text = http::get(&world.console(), "/metrics").ok()?.text();
        let value = |name: &str, labels: &[&str]| -> f64 {
            let lines = text.lines().filter(|line| {
                line.starts_with(&format!("{name}{{")) && labels.iter().all(|l| line.contains(l))
            });
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.sum()
        };
        let route = "route=\"/echo/{path*}\"";
        let service = "service=\"echo\"";
        let ok = "status=\"200\"";
        (value("atoll_gateway_requests_total", &[route, ok]) == 3.0
            && value("atoll_gateway_upstream_requests_total", &[service, ok]) == 3.0
            && value("atoll_gateway_request_duration_seconds_count", &[route]) == 3.0
            && value("atoll_gateway_unrouted_requests_total", &[]) == 1.0
            && value("atoll_registry_instances", &[service, "health=\"passing\""]) == 1.0)
            .then_some(())
    });
    let text = http::get(&world.console(), "/metrics").unwrap().text();
    // A path that a stranger made up is no label: labels would never end.
    assert!(!text.contains("/nowhere"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn readiness_is_refused_while_nothing_can_answer() {
    let mut world = World::new(&format!(
        "services:\n  echo:\n    command: while [ ! -e go ]; do sleep 0.05; done; exec {}\n    health: /healthz\n",
        service_command()
    ));
    world.up();
    let ready = |world: &World| http::get(&world.console(), "/readyz").unwrap();
    let not_yet = ready(&world);
    assert_eq!(not_yet.status, 503, "{}", not_yet.text());
    assert!(not_yet.text().contains("echo"), "{}", not_yet.text());
    let status = world.api("status");
    assert_eq!(status["ready"], false, "{status}");
    fs::write(world.path().join("go"), "").unwrap();
    eventually("it is ready", || {
        (ready(&world).status == 200).then_some(())
    });
}

#[test]
fn web_pages_and_strangers_are_kept_out() {
    let world = echo();
    let ask = |headers: &[(&str, &str)]| {
        http::request(&world.console(), "GET", "/api/v1/status", headers, b"").unwrap()
    };
    assert_eq!(ask(&[]).status, 200);
    let refused = ask(&[("Origin", "https://evil.example")]);
    assert_eq!(refused.status, 403, "{}", refused.text());
}

#[test]
fn an_admin_token_is_asked_for_and_never_shown() {
    let mut world = World::new("admin_token: s3cret-s3cret-s3cret\n");
    world.up();
    let console = world.console();
    let ask = |headers: &[(&str, &str)]| {
        let answer = http::request(&console, "GET", "/api/v1/status", headers, b"");
        answer.unwrap().status
    };
    assert_eq!(ask(&[]), 401);
    assert_eq!(ask(&[("Authorization", "Bearer s3cret")]), 401);
    let right = "Bearer s3cret-s3cret-s3cret";
    assert_eq!(ask(&[("Authorization", right)]), 200);
    // The command line is the owner's: it needs no set-up.
    let status = world.run(&["status"]);
    assert!(status.status.success(), "{}", describe(&status));
    let shown = world.run(&["config"]);
    assert!(shown.status.success(), "{}", describe(&shown));
    let run_file = fs::metadata(world.path().join(".atoll/run.json")).unwrap();
    assert_eq!(run_file.permissions().mode() & 0o077, 0);
    for text in [describe(&status), describe(&shown), world.printed()] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn a_listener_past_loopback_needs_a_token() {
    let world = World::new(
        "listen: { gateway: \"127.0.0.1:0\", console: \"0.0.0.0:0\", dns: off, eureka: off, consul: off }\n",
    );
    let output = world.run(&["up", "."]);
    let text = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("admin_token"), "{text}");
}

#[test]
fn the_data_folder_is_private_and_tidied() {
    let mut world = World::new("");
    world.up();
    let data = world.path().join(".atoll");
    let mode = fs::metadata(&data).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(world.stop().success(), "{}", world.printed());
    assert!(!data.join("run.json").exists(), "nothing runs any more");
}
