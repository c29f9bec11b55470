//! Real requests over a socket against a control that is made up.

use std::time::Duration;

use atoll_model::{Catalog, Fault, FaultKind, Health, Instance, InstanceId, Revision, ServiceName};
use atoll_net::client::{Request, Response};
use atoll_net::listen::bind;
use atoll_runtime::Clock;
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::watch;

use super::*;

struct Made {
    catalog: watch::Sender<Arc<Catalog>>,
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

impl Control for Made {
    fn status(&self) -> wire::Status {
        wire::Status {
            name: "shop".into(),
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
        wire::Services::default()
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
        _: InstanceId,
        instance: wire::Register,
    ) -> Pending<'_, Result<u64, Fault>> {
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
        wire::Routes::default()
    }
    fn explain(&self, request: &wire::ExplainRequest) -> Result<wire::Explanation, Fault> {
        Ok(wire::Explanation {
            verdict: format!("{} {}", request.method, request.url),
            ..Default::default()
        })
    }
    fn logs(
        &self,
        _: &ServiceName,
        replica: Option<&str>,
        tail: usize,
        follow: bool,
    ) -> Result<Followed, Fault> {
        let line = |text: String| wire::LogLine {
            replica: replica.unwrap_or("all").into(),
            text,
            ..Default::default()
        };
        let (send, next) = tokio::sync::mpsc::channel(1);
        send.try_send(line("next".into())).unwrap();
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
        request.send().await.unwrap()
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
    assert_eq!(world.get(path).await.0, 401);
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
    let (_, text) = world.get("/api/v1/logs/users?tail=0&follow=true").await;
    assert!(text.contains("next"));
}

#[tokio::test]
async fn a_watcher_sees_each_change_and_nothing_twice() {
    let world = world(None).await;
    let request = Request::new(Method::GET, &world.address, "/api/v1/watch?since=0");
    let mut lines = request.lines().await.unwrap();
    let next = async |lines: &mut atoll_net::client::Lines| loop {
        let line = lines.next().await.unwrap().unwrap();
        if let Some(json) = line.strip_prefix("data: ") {
            return serde_json::from_str::<wire::WatchEvent>(json).unwrap();
        }
    };
    let first = next(&mut lines).await;
    assert_eq!(
        (first.revision, first.services[0].name.as_str()),
        (3, "users")
    );
    world.made.catalog.send_replace(catalog(4, "orders"));
    let second = next(&mut lines).await;
    assert_eq!(second.revision, 4);
    let shown: Vec<_> = second
        .services
        .iter()
        .map(|s| (s.name.as_str(), s.instances.len()))
        .collect();
    assert_eq!(
        shown,
        [("orders", 1), ("users", 0)],
        "the one that is gone has no instances"
    );

    // Who has the current revision gets only what comes after it.
    let request = Request::new(Method::GET, &world.address, "/api/v1/watch?since=4");
    let mut lines = request.lines().await.unwrap();
    world.made.catalog.send_replace(catalog(5, "orders"));
    assert_eq!(next(&mut lines).await.revision, 5);
    drop(lines);
    world.tasks.stop(Duration::from_secs(30)).await.unwrap();
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
