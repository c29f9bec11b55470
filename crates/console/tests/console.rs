//! The admin API over sockets, with a small world behind its ports.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test is a failed test"
)]

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::{Health, Probe};
use atoll_net::client::{Request, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use world::World;

impl World {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        lines: &[(&'static str, &str)],
        body: &str,
    ) -> Response {
        let mut request = Request::new(method, &self.address, path);
        for (name, value) in lines {
            request
                .headers
                .insert(*name, HeaderValue::from_str(value).unwrap());
        }
        request.body = Bytes::from(body.to_owned());
        request.body_bytes_max = 4 * 1024 * 1024;
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, &[], "").await
    }

    async fn put(&self, path: &str, body: &str) -> Response {
        let kind = [("content-type", "application/json")];
        self.ask(Method::PUT, path, &kind, body).await
    }
}

fn body(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

fn refusal(response: &Response, status: u16) -> Value {
    assert_eq!(response.status.as_u16(), status, "{:?}", response.body);
    assert_eq!(response.headers["content-type"], "application/problem+json");
    let problem = body(response);
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string() && problem["detail"].is_string());
    problem
}

#[tokio::test]
async fn an_instance_is_registered_with_all_that_was_said_of_it() {
    let world = World::start(None);
    let response = world
        .put(
            "/api/v1/services/Users/instances/u:1",
            r#"{"address": "[::1]:8080", "weight": 3, "tags": ["blue"], "metadata": {"version": "2"},
                "lease_ms": 30000, "health": "starting",
                "checks": [{"http": "/healthz", "timeout_ms": 500}, {"tcp": true, "failures_before_critical": 7}]}"#,
        )
        .await;
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(body(&response), json!({ "revision": 1 }));
    let seen = world.registered.lock().unwrap().remove(0);
    assert_eq!(seen.service.as_str(), "users");
    assert_eq!(seen.id.as_str(), "u:1");
    assert_eq!(seen.address.to_string(), "[::1]:8080");
    assert_eq!((seen.weight, seen.health), (3, Health::Starting));
    assert_eq!(seen.tags, ["blue"]);
    assert_eq!(
        seen.metadata,
        BTreeMap::from([("version".to_owned(), "2".to_owned())])
    );
    assert_eq!(seen.lease, Some(Duration::from_secs(30)));
    assert_eq!(
        seen.checks[0].probe,
        Probe::Http {
            path: "/healthz".to_owned()
        }
    );
    assert_eq!(seen.checks[0].timeout, Duration::from_millis(500));
    assert_eq!(seen.checks[0].interval, Duration::from_secs(5));
    assert_eq!(seen.checks[1].probe, Probe::Tcp);
    assert_eq!(seen.checks[1].failures_before_critical, 7);

    let listed = body(&world.get("/api/v1/services/users").await);
    let instance = &listed["instances"][0];
    assert_eq!(instance["id"], "u:1");
    assert_eq!(instance["health"], "passing");
    assert_eq!(instance["process"]["pid"], 42);
    assert_eq!(instance["checks"][0]["probe"], "GET /healthz");
    let services = body(&world.get("/api/v1/services").await);
    assert_eq!(services["services"][0]["health"]["passing"], 1);
    assert_eq!(services["services"][0]["healthy"], 1);
}

#[tokio::test]
async fn an_instance_is_renewed_drained_and_forgotten() {
    let world = World::start(None);
    let path = "/api/v1/services/users/instances/u1";
    let renew = format!("{path}/renew");
    refusal(&world.ask(Method::POST, &renew, &[], "").await, 404);
    world.put(path, r#"{"address": "10.0.0.1:80"}"#).await;
    let renewed = world.ask(Method::POST, &renew, &[], "").await;
    assert_eq!(renewed.status, StatusCode::NO_CONTENT);
    let kind = [("content-type", "application/json; charset=utf-8")];
    let drain = format!("{path}/drain");
    let drained = world
        .ask(Method::POST, &drain, &kind, r#"{"draining": true}"#)
        .await;
    assert_eq!(body(&drained), json!({ "revision": 2 }));
    let gone = world.ask(Method::DELETE, path, &[], "").await;
    assert_eq!(body(&gone), json!({ "revision": 3 }));
    refusal(&world.ask(Method::DELETE, path, &[], "").await, 404);
}

#[tokio::test]
async fn a_body_that_cannot_be_used_is_refused_with_line_column_and_field() {
    let world = World::start(None);
    let path = "/api/v1/services/users/instances/u1";
    let check = async |text: &str, field: Value, line: Value, words: &str| {
        let problem = refusal(&world.put(path, text).await, 400);
        assert_eq!(problem["field"], field, "{text}");
        assert_eq!(problem["line"], line, "{text}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{detail}");
    };
    check(
        "{\n  \"address\": 7}",
        json!("address"),
        json!(2),
        "expected a string",
    )
    .await;
    check(
        "{\"address\": \"a:1\",\n\"wieght\": 1}",
        json!("wieght"),
        json!(2),
        "unknown field `wieght`",
    )
    .await;
    check("{\"address\": \"a:1\",", Value::Null, json!(1), "EOF").await;
    check(
        "{\"address\": \"a:1\"} x",
        Value::Null,
        json!(1),
        "trailing",
    )
    .await;
    check(
        "{\"address\": \"a:1\", \"checks\": [{\"http\": \"/\"}, {\"interval_ms\": -1}]}",
        json!("checks[1].interval_ms"),
        json!(1),
        "-1",
    )
    .await;
    check("{}", Value::Null, json!(1), "missing field `address`").await;
    check(
        "{\"address\": \"users\"}",
        json!("address"),
        Value::Null,
        "HOST:PORT",
    )
    .await;
    check(
        "{\"address\": \"a:1\", \"health\": \"fine\"}",
        json!("health"),
        Value::Null,
        "passing",
    )
    .await;
    check(
        "{\"address\": \"a:1\", \"checks\": [{}]}",
        json!("checks[0]"),
        Value::Null,
        "either",
    )
    .await;
    assert!(world.registered.lock().unwrap().is_empty());

    let long = format!("{{\"address\": \"{}\"}}", "a".repeat(1024 * 1024));
    refusal(&world.put(path, &long).await, 413);
    refusal(&world.ask(Method::PUT, path, &[], "{}").await, 415);
    let named = world
        .put(
            "/api/v1/services/us%20ers/instances/u1",
            "{\"address\":\"a:1\"}",
        )
        .await;
    assert_eq!(refusal(&named, 400)["field"], "service");
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_that_points_to_the_document() {
    let world = World::start(None);
    let missing = refusal(&world.get("/api/v1/nothing").await, 404);
    assert!(missing["detail"].as_str().unwrap().contains("openapi.json"));
    let wrong = world.ask(Method::DELETE, "/api/v1/status", &[], "").await;
    refusal(&wrong, 405);
    assert!(wrong.headers.contains_key("allow"), "RFC 9110 §15.5.6");
    refusal(&world.get("/api/v1/services/nobody").await, 404);
    let unknown = refusal(&world.get("/api/v1/logs/users?folow=1").await, 400);
    assert_eq!(unknown["field"], "folow");
}

#[tokio::test]
async fn strangers_pages_and_changes_without_the_token_are_refused() {
    let world = World::start(Some("s3cret"));
    let path = "/api/v1/services/users/instances/u1";
    let refused = world.put(path, "{\"address\": \"a:1\"}").await;
    refusal(&refused, 401);
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    let rebound = world
        .ask(
            Method::GET,
            "/api/v1/config",
            &[("host", "evil.example")],
            "",
        )
        .await;
    refusal(&rebound, 403);
    // A load balancer may ask under any name.
    let ready = world
        .ask(Method::GET, "/readyz", &[("host", "lb.example")], "")
        .await;
    assert_eq!(ready.status, StatusCode::OK);
    let lines = [
        ("authorization", "Bearer s3cret"),
        ("content-type", "application/json"),
    ];
    let allowed = world
        .ask(Method::PUT, path, &lines, "{\"address\": \"a:1\"}")
        .await;
    assert_eq!(allowed.status, StatusCode::OK);
    assert_eq!(world.get("/api/v1/status").await.status, StatusCode::OK);
}

#[tokio::test]
async fn status_routes_config_metrics_and_reload_are_shown() {
    let world = World::start(None);
    let response = world.get("/api/v1/status").await;
    assert_eq!(response.headers["cache-control"], "no-store");
    let status = body(&response);
    assert_eq!(status["name"], "shop");
    assert_eq!(status["ready"], true);
    assert_eq!(status["uptime_ms"], 1500);
    assert_eq!(
        status["listeners"][0],
        json!({ "key": "gateway", "address": "127.0.0.1:8080" })
    );
    assert_eq!(status["config"]["generation"], 1);
    let routes = body(&world.get("/api/v1/routes").await);
    assert_eq!(
        routes["routes"][0]["backends"][0],
        json!({ "service": "users", "weight": 1 })
    );
    let config = world.get("/api/v1/config").await;
    assert_eq!(config.headers["content-type"], "application/json");
    assert_eq!(body(&config), json!({ "name": "shop" }));
    let metrics = world.get("/metrics").await;
    assert_eq!(
        metrics.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert_eq!(&metrics.body[..], b"atoll_up 1\n");
    let reload = body(&world.ask(Method::POST, "/api/v1/reload", &[], "").await);
    assert_eq!(reload["applied"], false);
    assert_eq!(
        reload["messages"][0],
        "atoll.yaml:3:1: unknown key `replica`"
    );
    assert_eq!(reload["at_ms"], 1000);
}

#[tokio::test]
async fn a_request_is_explained_with_its_method_url_and_headers() {
    let world = World::start(None);
    let path = "/api/v1/explain?method=POST&url=http%3A%2F%2Fshop.example%2Fusers%2F7%3Fa%3Db&header=X-A:%201&header=X-A:2";
    let explained = body(&world.get(path).await);
    assert_eq!(explained["verdict"], "routed");
    assert_eq!(
        explained["route"]["backends"][0]["instances"][0]["eligible"],
        false
    );
    assert_eq!(explained["near_misses"][0]["why_not"], "method");
    let asked = world.explained.lock().unwrap().remove(0);
    assert_eq!(asked.method, Method::POST);
    assert_eq!(asked.url.to_string(), "http://shop.example/users/7?a=b");
    let mut headers = HeaderMap::new();
    headers.append("x-a", HeaderValue::from_static("1"));
    headers.append("x-a", HeaderValue::from_static("2"));
    assert_eq!(asked.headers, headers);
    for (query, field) in [
        ("", "url"),
        ("?url=/&header=x", "header"),
        ("?url=/&method=A%20B", "method"),
        ("?url=%20", "url"),
    ] {
        let problem = refusal(&world.get(&format!("/api/v1/explain{query}")).await, 400);
        assert_eq!(problem["field"], field);
    }
}

#[tokio::test]
async fn readiness_ends_before_the_listener_does() {
    let world = World::start(None);
    assert_eq!(world.get("/readyz").await.status, StatusCode::OK);
    *world.not_ready.lock().unwrap() = Some("draining".to_owned());
    let draining = world.get("/readyz").await;
    assert_eq!(draining.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(&draining.body[..], b"draining\n");
    assert_eq!(world.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(
        body(&world.get("/api/v1/status").await)["not_ready"],
        "draining"
    );
}

#[tokio::test]
async fn the_watch_begins_with_everything_and_ends_when_atoll_stops() {
    let world = World::start(None);
    let mut events = Request::new(Method::GET, &world.address, "/api/v1/watch?since=0")
        .lines()
        .await
        .unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let mut seen = Vec::new();
    while !seen.contains(&"id: 7".to_owned()) {
        seen.push(events.next().await.unwrap().unwrap());
    }
    let names: Vec<&str> = seen
        .iter()
        .filter_map(|l| l.strip_prefix("event: "))
        .collect();
    assert_eq!(names, ["resync", "put", "done", "gone", "done"]);
    assert!(
        seen.iter()
            .any(|line| line.starts_with("data: {\"service\":\"users\",\"id\":\"u1\""))
    );
    let stopping = world.tasks.stop(Duration::from_secs(20));
    let rest = async { while let Some(_line) = events.next().await.unwrap() {} };
    let (stopped, ()) = tokio::join!(stopping, rest);
    assert_eq!(
        stopped,
        Ok(()),
        "an endless stream must not hold the stop up"
    );
    assert_eq!(*world.since.lock().unwrap(), [0]);
}

#[tokio::test]
async fn a_watcher_that_comes_back_says_what_it_knows() {
    let world = World::start(None);
    for (path, id) in [
        ("/api/v1/watch?since=5", None),
        ("/api/v1/watch?since=5", Some("6")),
    ] {
        let mut request = Request::new(Method::GET, &world.address, path);
        if let Some(id) = id {
            request
                .headers
                .insert("last-event-id", HeaderValue::from_static(id));
        }
        assert_eq!(request.lines().await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(*world.since.lock().unwrap(), [5, 6]);
    refusal(&world.get("/api/v1/watch?since=x").await, 400);
}

#[tokio::test]
async fn logs_are_objects_or_text_line_by_line() {
    let world = World::start(None);
    let response = world.get("/api/v1/logs/users?tail=5&replica=users-1").await;
    assert_eq!(response.headers["content-type"], "application/x-ndjson");
    let lines: Vec<Value> = response
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            json!({ "at_ms": 1000, "replica": "users-1", "stream": "stdout", "text": "hello" }),
            json!({ "missed": 3 })
        ]
    );
    let asked = world.logs.lock().unwrap().remove(0);
    assert_eq!((asked.tail, asked.follow), (5, false));
    assert_eq!(asked.replica.unwrap().as_str(), "users-1");

    let text = world
        .ask(
            Method::GET,
            "/api/v1/logs/users",
            &[("accept", "text/plain")],
            "",
        )
        .await;
    assert_eq!(&text.body[..], b"users-1 | hello\n... 3 lines left out\n");

    let mut following = Request::new(Method::GET, &world.address, "/api/v1/logs/users?follow")
        .lines()
        .await
        .unwrap();
    assert!(following.next().await.unwrap().unwrap().contains("hello"));
    assert!(world.logs.lock().unwrap()[1].follow);
    let stopping = world.tasks.stop(Duration::from_secs(20));
    let rest = async { while let Some(_line) = following.next().await.unwrap() {} };
    assert_eq!(tokio::join!(stopping, rest).0, Ok(()));
}

/// Every path with its parameters' examples filled in.
fn filled(path: &str, operation: &Value) -> String {
    let mut filled = path.to_owned();
    for parameter in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
        let name = parameter["name"].as_str().unwrap();
        if parameter["in"] == "path" {
            let example = parameter["example"]
                .as_str()
                .expect("an example for each path parameter");
            filled = filled.replace(&format!("{{{name}}}"), example);
        }
    }
    assert!(
        !filled.contains('{'),
        "{path}: a parameter is not described"
    );
    filled
}

#[tokio::test]
async fn the_document_describes_what_is_served_and_its_example_works() {
    let world = World::start(None);
    let document = body(&world.get("/api/v1/openapi.json").await);
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        document["openapi"]
    );
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 16);
    let mut operations = 0;
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            assert!(
                operation["summary"].is_string() || operation["description"].is_string(),
                "{path}"
            );
            assert!(
                operation["responses"]
                    .as_object()
                    .is_some_and(|all| !all.is_empty()),
                "{path}"
            );
            let filled = filled(path, operation);
            if path.ends_with("/watch") {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let example = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                .as_str()
                .map(|name| document.pointer(&name[1..]).unwrap()["example"].to_string());
            let kind = [("content-type", "application/json")];
            let response = world
                .ask(
                    method,
                    &filled,
                    &kind,
                    example.as_deref().unwrap_or_default(),
                )
                .await;
            let status = response.status.as_u16().to_string();
            assert!(
                !operation["responses"][&status].is_null(),
                "{path} answered {status}, which is not described: {:?}",
                response.body
            );
        }
    }
    assert_eq!(operations, 17);
    let registered = world.registered.lock().unwrap();
    assert_eq!(registered[0].metadata["version"], "1.2.3");
    dangling(&document, &document);
}

/// Every reference leads somewhere.
fn dangling(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let ("$ref", Some(to)) = (&name[..], value.as_str()) {
                    assert!(document.pointer(&to[1..]).is_some(), "{to} leads nowhere");
                }
                dangling(document, value);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| dangling(document, item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
