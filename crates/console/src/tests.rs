//! Real requests over a socket against a control that is made up.

use std::sync::Mutex;
use std::time::Duration;

use atoll_model::{Catalog, Fault, FaultKind, Health, Instance, InstanceId, Revision, ServiceName};
use atoll_net::client::{Request, Response};
use atoll_net::listen::bind;
use atoll_runtime::Clock;
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::watch;

use super::*;

mod truth;

struct Made {
    catalog: watch::Sender<Arc<Catalog>>,
    /// Kept, so that no follower ends by itself.
    followed: Mutex<Vec<tokio::sync::mpsc::Sender<wire::LogLine>>>,
}

fn catalog(revision: u64, service: &str) -> Arc<Catalog> {
    let service: ServiceName = service.parse().unwrap();
    let instance = Instance {
        id: "a-1".parse().unwrap(),
        service: service.clone(),
        address: "127.0.0.1:9".parse().unwrap(),
        weight: 1,
        health: Health::Passing,
        note: String::new(),
        tags: Vec::new(),
        metadata: Default::default(),
    };
    Arc::new(Catalog {
        revision: Revision(revision),
        services: [(service, Arc::from([Arc::new(instance)]))].into(),
    })
}

fn missing<T>() -> Result<T, Fault> {
    Err(Fault::new(
        FaultKind::NotFound,
        "no such instance; register it again",
    ))
}

/// An id that asks for a fault.
fn fault_named(id: &InstanceId) -> Option<FaultKind> {
    Some(match id.as_str() {
        "conflict" => FaultKind::Conflict,
        "exhausted" => FaultKind::Exhausted,
        "unavailable" => FaultKind::Unavailable,
        "internal" => FaultKind::Internal,
        _ => return None,
    })
}

impl Control for Made {
    fn status(&self) -> wire::Status {
        wire::Status {
            name: "shop".into(),
            reason: self.not_ready(),
            last_reload: Some(wire::LastReload::default()),
            listeners: [("gateway".into(), "127.0.0.1:8080".into())].into(),
            services: vec![wire::ServiceSummary {
                note: "building".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }
    fn not_ready(&self) -> Option<String> {
        Some("draining".into())
    }
    fn metrics(&self) -> String {
        "# TYPE up gauge\nup 1\n".into()
    }
    fn services(&self) -> wire::Services {
        wire::Services {
            revision: 3,
            services: self
                .service(&"users".parse().unwrap())
                .into_iter()
                .collect(),
        }
    }
    fn service(&self, name: &ServiceName) -> Option<wire::Service> {
        self.catalog
            .borrow()
            .services
            .get(name)
            .map(|list| wire::Service {
                name: name.to_string(),
                instances: list
                    .iter()
                    .map(|i| wire::Instance {
                        id: i.id.to_string(),
                        health: i.health.to_string(),
                        note: "GET /healthz: 200 OK".into(),
                        tags: vec!["blue".into()],
                        metadata: [("version".into(), "1".into())].into(),
                        pid: Some(7),
                        restarts: Some(0),
                        uptime_ms: Some(1),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            })
    }
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }
    fn register(
        &self,
        _: ServiceName,
        id: InstanceId,
        instance: wire::Register,
    ) -> Pending<'_, Result<u64, Fault>> {
        if let Some(kind) = fault_named(&id) {
            return Box::pin(async move { Err(Fault::new(kind, "as asked for")) });
        }
        let known = instance.address.parse::<atoll_model::Address>();
        Box::pin(async move {
            known
                .map(|_| 7)
                .map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))
        })
    }
    fn renew(&self, _: ServiceName, _: InstanceId) -> Pending<'_, Result<(), Fault>> {
        Box::pin(async { missing() })
    }
    fn drain(&self, _: ServiceName, _: InstanceId) -> Pending<'_, Result<u64, Fault>> {
        Box::pin(async { missing() })
    }
    fn deregister(&self, _: ServiceName, _: InstanceId) -> Pending<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(8) })
    }
    fn routes(&self) -> wire::Routes {
        let users = wire::RouteBackend {
            service: "users".into(),
            weight: 1,
        };
        let route = wire::Route {
            backends: vec![users],
            ..Default::default()
        };
        wire::Routes {
            routes: vec![route],
        }
    }
    fn explain(&self, request: &wire::ExplainRequest) -> Result<wire::Explanation, Fault> {
        Ok(wire::Explanation {
            verdict: format!("{} {}", request.method, request.url),
            status: Some(503),
            route: self.routes().routes.pop(),
            upstream_path: Some("/7".into()),
            near: vec![wire::NearMiss::default()],
            instances: vec![wire::Candidate::default()],
        })
    }
    fn logs(
        &self,
        service: &ServiceName,
        replica: Option<&str>,
        tail: usize,
        follow: bool,
    ) -> Result<Followed, Fault> {
        if service.as_str() != "users" {
            return missing();
        }
        let line = |text: String| wire::LogLine {
            replica: replica.unwrap_or("all").into(),
            text,
            ..Default::default()
        };
        let (send, next) = tokio::sync::mpsc::channel(1);
        send.try_send(line("next".into())).unwrap();
        self.followed.lock().unwrap().push(send);
        Ok(Followed {
            kept: (0..tail).map(|n| line(n.to_string())).collect(),
            next: follow.then_some(next),
        })
    }
    fn reload(&self) -> Pending<'_, Result<wire::Reloaded, Fault>> {
        Box::pin(async {
            Err(Fault::new(
                FaultKind::Invalid,
                "atoll.yaml:3:5: unknown key",
            ))
        })
    }
    fn config(&self) -> serde_json::Value {
        serde_json::json!({"name": "shop"})
    }
}

struct World {
    tasks: Tasks,
    made: Arc<Made>,
    address: atoll_model::Address,
}

async fn world(token: Option<&str>) -> World {
    let tasks = Tasks::root(Clock::system());
    let made = Arc::new(Made {
        catalog: watch::Sender::new(catalog(3, "users")),
        followed: Mutex::default(),
    });
    let settings = Settings {
        admin_token: token.map(str::to_owned),
    };
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let control: Arc<dyn Control> = made.clone();
    let address = start(&tasks, listener, settings, control).unwrap().into();
    World {
        tasks,
        made,
        address,
    }
}

impl World {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> Response {
        let mut request = Request::new(method, &self.address, path);
        request.headers = HeaderMap::new();
        for (name, value) in headers {
            request
                .headers
                .insert(*name, HeaderValue::from_str(value).unwrap());
        }
        request.body = body.to_owned().into();
        let answer = request.clone().send().await.unwrap();
        truth::check(&request.method, path, &answer);
        answer
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.with(Method::GET, path, &[], "").await
    }

    async fn with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> (u16, String) {
        let answer = self.ask(method, path, headers, body).await;
        (
            answer.status.as_u16(),
            String::from_utf8_lossy(&answer.body).into_owned(),
        )
    }

    async fn json(&self, method: Method, path: &str, body: &str) -> (u16, String) {
        self.with(method, path, &[("content-type", "application/json")], body)
            .await
    }
}

const INSTANCE: &str = "/api/v1/services/users/instances/a-1";

#[tokio::test]
async fn probes_answer_with_words_and_statuses() {
    let world = world(None).await;
    assert_eq!(world.get("/healthz").await, (200, "ok\n".into()));
    assert_eq!(world.get("/readyz").await, (503, "draining\n".into()));
    assert!(world.get("/metrics").await.1.contains("up 1"));
}

#[tokio::test]
async fn an_instance_is_registered_and_forgotten() {
    let world = world(None).await;
    let put = r#"{"address": "10.0.0.5:80", "checks": [{"http": "/healthz"}]}"#;
    assert_eq!(
        world.json(Method::PUT, INSTANCE, put).await,
        (200, r#"{"revision":7}"#.into())
    );
    assert_eq!(
        world.json(Method::DELETE, INSTANCE, "").await,
        (200, r#"{"revision":8}"#.into())
    );
}

#[tokio::test]
async fn errors_are_problems_that_name_the_place() {
    let world = world(None).await;
    for (method, path, body, status, word) in [
        (
            Method::PUT,
            INSTANCE,
            "{\"address\": \"10.0.0.5:80\",\n \"wieght\": 2}",
            400,
            "unknown field `wieght`",
        ),
        (
            Method::PUT,
            INSTANCE,
            "{\"address\": \"10.0.0.5:80\",\n \"wieght\": 2}",
            400,
            "line 2 column",
        ),
        (Method::PUT, INSTANCE, "{", 400, "line 1 column 1"),
        (
            Method::PUT,
            INSTANCE,
            r#"{"address": "nowhere"}"#,
            400,
            "HOST:PORT",
        ),
        (
            Method::POST,
            "/api/v1/services/users/instances/a-1/renew",
            "",
            404,
            "register it again",
        ),
        (
            Method::GET,
            "/api/v1/services/us%20ers",
            "",
            400,
            "position 3",
        ),
        (Method::GET, "/api/v1/services/orders", "", 404, "orders"),
        (Method::POST, "/api/v1/reload", "", 400, "atoll.yaml:3:5"),
        (Method::GET, "/api/v1/nothing", "", 404, "openapi.json"),
        (Method::DELETE, "/api/v1/status", "", 405, "DELETE"),
        (Method::GET, "/api/v1/services/%ff", "", 400, "UTF-8"),
        (
            Method::DELETE,
            "/api/v1/services/users/instances/%ff",
            "",
            400,
            "UTF-8",
        ),
        (
            Method::GET,
            "/api/v1/watch?since=yesterday",
            "",
            400,
            "since=yesterday",
        ),
        (Method::GET, "/api/v1/logs/orders", "", 404, "no such"),
        (
            Method::GET,
            "/api/v1/logs/users?tail=many",
            "",
            400,
            "tail=many",
        ),
    ] {
        let answer = world
            .ask(
                method.clone(),
                path,
                &[("content-type", "application/json")],
                body,
            )
            .await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {text}");
        assert_eq!(
            answer.headers["content-type"], "application/problem+json",
            "{path}"
        );
        let problem: wire::Problem = serde_json::from_str(&text).unwrap();
        assert!(problem.detail.contains(word), "{word}: {}", problem.detail);
        assert_eq!(problem.status, status);
    }
}

#[tokio::test]
async fn every_fault_has_a_status_that_the_document_names() {
    let world = world(None).await;
    let put = r#"{"address": "10.0.0.5:80"}"#;
    for (id, status) in [
        ("conflict", 409),
        ("exhausted", 429),
        ("unavailable", 503),
        ("internal", 500),
    ] {
        let path = format!("/api/v1/services/users/instances/{id}");
        let answer = world.json(Method::PUT, &path, put).await;
        assert_eq!(answer.0, status, "{}", answer.1);
    }
    // Without a word on what it is.
    assert_eq!(world.with(Method::PUT, INSTANCE, &[], put).await.0, 415);
}

#[tokio::test]
async fn every_endpoint_answers_as_the_document_says() {
    let world = world(None).await;
    // `World::ask` holds each answer to it.
    for path in [
        "/api/v1/status",
        "/api/v1/config",
        "/api/v1/services",
        "/api/v1/services/users",
        "/api/v1/routes",
        "/api/v1/logs/users?tail=3",
        "/api/v1/openapi.json",
        "/healthz",
        "/metrics",
    ] {
        assert_eq!(world.get(path).await.0, 200, "{path}");
    }
    let allowed = world.ask(Method::DELETE, "/api/v1/status", &[], "").await;
    assert_eq!(allowed.headers["allow"], "GET,HEAD");
}

#[tokio::test]
async fn a_body_over_a_mebibyte_is_refused() {
    let world = world(None).await;
    let (status, _) = world
        .json(Method::PUT, INSTANCE, &" ".repeat(BODY_BYTES_MAX + 1))
        .await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn with_a_token_only_the_probes_are_open() {
    let world = world(Some("s3cret")).await;
    let path = "/api/v1/status";
    assert_eq!(world.get("/healthz").await.0, 200);
    let refused = world.ask(Method::GET, path, &[], "").await;
    assert_eq!(refused.status.as_u16(), 401);
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    for (given, status) in [
        ("Bearer s3cret", 200),
        ("Bearer s3creT", 401),
        ("Bearer ", 401),
        ("s3cret", 401),
    ] {
        let answer = world
            .with(Method::GET, path, &[("authorization", given)], "")
            .await;
        assert_eq!(answer.0, status, "{given}");
    }
}

#[tokio::test]
async fn without_a_token_other_hosts_and_other_pages_are_refused() {
    let world = world(None).await;
    let path = "/api/v1/status";
    let port = world.address.port();
    let own = format!("localhost:{port}");
    for (host, origin, status) in [
        (own.clone(), None, 200),
        (format!("[::1]:{port}"), None, 200),
        ("evil.example".into(), None, 403),
        (format!("127.0.0.1.evil.example:{port}"), None, 403),
        (own.clone(), Some(format!("http://{own}")), 200),
        (own.clone(), Some("http://evil.example".into()), 403),
        (own, Some("null".into()), 403),
    ] {
        let mut headers = vec![("host", host.as_str())];
        headers.extend(origin.as_deref().map(|origin| ("origin", origin)));
        assert_eq!(
            world.with(Method::GET, path, &headers, "").await.0,
            status,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn logs_are_given_line_by_line_and_followed() {
    let world = world(None).await;
    let (status, text) = world.get("/api/v1/logs/users?tail=2&replica=users-1").await;
    let lines: Vec<wire::LogLine> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(status, 200);
    assert_eq!(
        lines.iter().map(|l| &l.text[..]).collect::<Vec<_>>(),
        ["0", "1"]
    );
    assert_eq!(lines[0].replica, "users-1");
    let path = "/api/v1/logs/users?tail=0&follow=true";
    let request = Request::new(Method::GET, &world.address, path);
    let mut lines = request.lines().await.unwrap();
    let followed = lines.next().await.unwrap().unwrap();
    let followed: wire::LogLine = serde_json::from_str(&followed).unwrap();
    assert_eq!(followed.text, "next");

    // A follower that goes away is let go, though nothing more is written.
    drop(lines);
    let senders = std::mem::take(&mut *world.made.followed.lock().unwrap());
    for sender in senders {
        sender.closed().await;
    }
}

async fn watch(world: &World, query: &str, last: Option<&str>) -> atoll_net::client::Lines {
    let path = format!("/api/v1/watch{query}");
    let mut request = Request::new(Method::GET, &world.address, &path);
    if let Some(last) = last {
        let last = HeaderValue::from_str(last).unwrap();
        request.headers.insert("last-event-id", last);
    }
    let lines = request.lines().await.unwrap();
    assert_eq!(lines.headers()["content-type"], "text/event-stream");
    lines
}

/// The next event: its revision, whether it is all there is, and the services in it
/// with the number of their instances.
async fn next(lines: &mut atoll_net::client::Lines) -> (u64, bool, Vec<(String, usize)>) {
    loop {
        let line = lines.next().await.unwrap().unwrap();
        if let Some(json) = line.strip_prefix("data: ") {
            truth::check_event(json);
            let event: wire::WatchEvent = serde_json::from_str(json).unwrap();
            let services = event.services.into_iter();
            let services = services.map(|s| (s.name, s.instances.len())).collect();
            return (event.revision, event.resync, services);
        }
    }
}

fn services(list: &[(&str, usize)]) -> Vec<(String, usize)> {
    let owned = |(name, count): &(&str, usize)| ((*name).to_owned(), *count);
    list.iter().map(owned).collect()
}

#[tokio::test]
async fn a_watcher_sees_each_change_and_nothing_twice() {
    let world = world(None).await;
    let mut lines = watch(&world, "?since=0", None).await;
    let all = (3, true, services(&[("users", 1)]));
    assert_eq!(next(&mut lines).await, all);
    world.made.catalog.send_replace(catalog(4, "orders"));
    // The one that is gone has no instances.
    let changed = (4, false, services(&[("orders", 1), ("users", 0)]));
    assert_eq!(next(&mut lines).await, changed);

    // Who has the current revision gets only what comes after it.
    for (query, last) in [("?since=4", None), ("?since=1", Some("4"))] {
        let before = world.made.catalog.borrow().clone();
        let mut lines = watch(&world, query, last).await;
        world.made.catalog.send_replace(catalog(5, "orders"));
        let changed = (5, false, services(&[("orders", 1)]));
        assert_eq!(next(&mut lines).await, changed);
        world.made.catalog.send_replace(before);
    }
    world.tasks.stop(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn a_watcher_with_another_past_begins_anew() {
    let world = world(None).await;
    // An older revision, of which nothing is known, and one of another life of Atoll.
    for since in [1, 900] {
        let mut lines = watch(&world, &format!("?since={since}"), None).await;
        let all = (3, true, services(&[("users", 1)]));
        assert_eq!(next(&mut lines).await, all);
    }
    // Nothing at all is told at once, too.
    world.made.catalog.send_replace(Arc::default());
    let mut lines = watch(&world, "", None).await;
    assert_eq!(next(&mut lines).await, (0, true, vec![]));
}

#[tokio::test]
async fn watchers_and_followers_end_with_the_server() {
    let world = world(None).await;
    let mut watching = watch(&world, "", None).await;
    next(&mut watching).await;
    let path = "/api/v1/logs/users?tail=1&follow=true";
    let mut following = Request::new(Method::GET, &world.address, path)
        .lines()
        .await
        .unwrap();
    assert!(following.next().await.unwrap().is_some());
    // Sooner than the drain's own end.
    world.tasks.stop(Duration::from_secs(5)).await.unwrap();
    for mut lines in [watching, following] {
        while lines.next().await.unwrap().is_some() {}
    }
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_names_every_endpoint() {
    let world = world(None).await;
    let (status, text) = world.get("/api/v1/openapi.json").await;
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "status",
        "reload",
        "config",
        "services",
        "watch",
        "routes",
        "explain",
        "logs/{service}",
        "openapi.json",
    ] {
        assert!(paths.contains_key(&format!("/api/v1/{path}")), "{path}");
    }
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            assert!(
                !operation["summary"].as_str().unwrap_or_default().is_empty(),
                "{method} {path}"
            );
        }
    }
    // What the token guards says so, and how it is sent.
    let scheme = &document["components"]["securitySchemes"]["admin_token"]["scheme"];
    assert_eq!(scheme, "bearer");
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let guarded = operation["responses"]["401"].is_object();
            let open = guard::OPEN_PATHS.contains(&path.as_str());
            assert_eq!(guarded, !open, "{method} {path}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let described = response["description"].as_str();
                assert!(
                    described.is_some_and(|d| !d.is_empty()),
                    "{method} {path} {status}"
                );
            }
        }
    }
    // The document's own example is taken.
    let example = document["components"]["schemas"]["Register"]["example"].to_string();
    assert_eq!(world.json(Method::PUT, INSTANCE, &example).await.0, 200);
    let example = document["components"]["schemas"]["ExplainRequest"]["example"].to_string();
    assert_eq!(
        world
            .json(Method::POST, "/api/v1/explain", &example)
            .await
            .0,
        200
    );
}
