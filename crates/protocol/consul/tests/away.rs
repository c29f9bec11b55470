//! The store that several Atolls share goes away and comes back: what a client is told
//! meanwhile.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use atoll_consul::Settings;
use atoll_model::{Address, Revision};
use atoll_net::client::{Request, Response};
use atoll_registry::Registry;
use atoll_runtime::{Clock, Tasks};
use atoll_store::{
    Answer, Backend, Lease, LeaseId, LeaseState, Range, Snapshot, Span, Standing, Store,
    StoreError, Txn, TxnReply, Watch,
};
use http::{Method, StatusCode};
use tokio::sync::watch;

/// A store that can be away, and knows then what it knew last, as that on etcd does.
struct Far {
    store: Store,
    standing: Arc<watch::Sender<Standing>>,
}

impl Far {
    /// Gives the answer if it is there.
    fn go<'a, T: Send + 'a>(
        &'a self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let standing = self.standing.borrow().clone();
            match standing {
                Standing::Away { why, .. } => Err(StoreError::Unavailable(why)),
                Standing::Ready => call.await,
            }
        })
    }
}

impl Backend for Far {
    fn commit(&self, txn: Txn) -> Answer<'_, TxnReply> {
        self.go(self.store.commit(txn))
    }

    fn read(&self, range: Range) -> Answer<'_, Snapshot> {
        match range.at {
            None => Box::pin(self.store.read(range)),
            Some(_) => self.go(self.store.read(range)),
        }
    }

    fn watch(&self, span: Span, after: Revision) -> Answer<'_, Watch> {
        // Nobody changes anything while it is away.
        Box::pin(self.store.watch(span, after))
    }

    fn compact(&self, to: Revision) -> Answer<'_, ()> {
        self.go(self.store.compact(to))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, Lease> {
        self.go(self.store.grant(ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Lease> {
        self.go(self.store.keep_alive(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, Revision> {
        self.go(self.store.revoke(lease))
    }

    fn lease(&self, lease: LeaseId) -> Answer<'_, LeaseState> {
        self.go(self.store.lease(lease))
    }

    fn leases(&self) -> Answer<'_, Vec<LeaseId>> {
        self.go(self.store.leases())
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}

/// A front over it, with a key, a session and a service.
struct World {
    at: Address,
    standing: Arc<watch::Sender<Standing>>,
    session: String,
    tasks: Tasks,
}

impl World {
    async fn start() -> Self {
        let tasks = Tasks::root(Clock::system());
        let standing = Arc::new(watch::Sender::new(Standing::Ready));
        let store = Store::new(Far {
            store: atoll_store::embedded::in_memory(Default::default(), &tasks),
            standing: Arc::clone(&standing),
        });
        let registry = Registry::open_shared(store.clone(), &tasks, Default::default());
        let listener = atoll_net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let settings = Settings {
            node: "n".to_owned(),
            address: "127.0.0.1".to_owned(),
            datacenter: "dc1".to_owned(),
            token: None,
            acl: None,
        };
        let registry = registry.await.unwrap();
        let started = atoll_consul::start(&tasks, listener, settings, registry, store);
        let mut world = Self {
            at: started.await.unwrap().address.into(),
            standing,
            session: String::new(),
            tasks,
        };
        world.put("/v1/kv/k", "before").await;
        world
            .put("/v1/agent/service/register", r#"{"Name":"web","Port":1}"#)
            .await;
        let made = world.put("/v1/session/create", r#"{"TTL":"10s"}"#).await;
        let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
        world.session = made["ID"].as_str().unwrap().to_owned();
        world
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> Response {
        let mut request = Request::new(method, &self.at, path);
        request.body = body.to_owned().into();
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, "").await
    }

    /// Which succeeds.
    async fn put(&self, path: &str, body: &str) -> Response {
        let response = self.send(Method::PUT, path, body).await;
        assert_eq!(response.status, StatusCode::OK, "{}", text(&response));
        response
    }

    fn cut(&self) {
        self.standing.send_replace(Standing::Away {
            since: Clock::system().now(),
            why: "nobody is at etcd:2379".to_owned(),
        });
    }

    fn mend(&self) {
        self.standing.send_replace(Standing::Ready);
    }
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

fn header(response: &Response, name: &str) -> String {
    let value = response.headers.get(name);
    value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

/// What a response tells of its age: whether a leader is known, and how consistent it is.
fn age(response: &Response) -> (String, String) {
    let leader = header(response, "x-consul-knownleader");
    (leader, header(response, "x-consul-effective-consistency"))
}

fn is(leader: &str, consistency: &str) -> (String, String) {
    (leader.to_owned(), consistency.to_owned())
}

#[tokio::test]
async fn while_the_store_is_away_reads_go_on_and_say_so() {
    let world = World::start().await;
    let session = format!("/v1/session/info/{}", world.session);
    let paths = [
        "/v1/kv/k?raw",
        "/v1/kv/?recurse",
        "/v1/health/service/web",
        "/v1/health/service/web?passing&stale",
        "/v1/catalog/nodes",
        "/v1/catalog/service/web",
        "/v1/query",
        &session,
    ];
    let mut before = Vec::new();
    for path in paths {
        let response = world.get(path).await;
        assert_eq!(response.status, StatusCode::OK, "{path}");
        let consistency = if path.contains("stale") {
            "stale"
        } else {
            "leader"
        };
        assert_eq!(age(&response), is("true", consistency), "{path}");
        assert_eq!(header(&response, "x-consul-lastcontact"), "0");
        before.push((text(&response), header(&response, "x-consul-index")));
    }
    world.cut();
    let mut contact_ms = 0;
    for (path, before) in paths.into_iter().zip(&before) {
        let response = world.get(path).await;
        assert_eq!(response.status, StatusCode::OK, "{path}");
        let now = (text(&response), header(&response, "x-consul-index"));
        assert_eq!(&now, before, "{path}");
        assert_eq!(age(&response), is("false", "stale"), "{path}");
        let later: u64 = header(&response, "x-consul-lastcontact").parse().unwrap();
        assert!(later >= contact_ms, "{later}");
        contact_ms = later;
    }
    // It grows with the time that passes: at the latest one of these comes a while after.
    while contact_ms == 0 {
        let response = world.get("/v1/kv/k").await;
        contact_ms = header(&response, "x-consul-lastcontact").parse().unwrap();
    }
    assert_eq!(world.get("/v1/kv/none").await.status, StatusCode::NOT_FOUND);
    world.mend();
    let back = world.get("/v1/kv/k").await;
    assert_eq!(age(&back), is("true", "leader"));
    drop(world.tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn who_asks_for_consistency_is_refused_in_consuls_words() {
    let world = World::start().await;
    for path in ["/v1/kv/k?consistent", "/v1/health/service/web?consistent"] {
        assert_eq!(world.get(path).await.status, StatusCode::OK);
        world.cut();
        let refused = world.get(path).await;
        assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(text(&refused), "No cluster leader");
        assert_eq!(age(&refused), is("false", "stale"));
        world.mend();
        let back = world.get(path).await;
        assert_eq!(age(&back), is("true", "consistent"));
    }
    drop(world.tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn writes_are_503_and_change_nothing() {
    let world = World::start().await;
    let renew = format!("/v1/session/renew/{}", world.session);
    let destroy = format!("/v1/session/destroy/{}", world.session);
    let node = r#"{"Node":"m","Address":"10.0.0.1"}"#;
    let txn = r#"[{"KV":{"Verb":"set","Key":"k","Value":"eA=="}}]"#;
    let writes = [
        ("PUT", "/v1/kv/k", "after"),
        ("PUT", "/v1/kv/k?cas=0", "after"),
        ("DELETE", "/v1/kv/k", ""),
        ("PUT", "/v1/txn", txn),
        ("PUT", "/v1/session/create", ""),
        ("PUT", &renew, ""),
        ("PUT", &destroy, ""),
        (
            "POST",
            "/v1/query",
            r#"{"Name":"q","Service":{"Service":"web"}}"#,
        ),
        ("PUT", "/v1/event/fire/deploy", ""),
        ("PUT", "/v1/catalog/register", node),
        (
            "PUT",
            "/v1/agent/service/register",
            r#"{"Name":"other","Port":2}"#,
        ),
        ("PUT", "/v1/agent/service/deregister/web", ""),
    ];
    world.cut();
    for (method, path, body) in writes {
        let refused = world.send(method.parse().unwrap(), path, body).await;
        let said = text(&refused);
        assert_eq!(
            refused.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{path}: {said}"
        );
        let told = ["nobody is at etcd:2379", "the store is away"];
        assert!(told.iter().any(|why| said.contains(why)), "{path}: {said}");
    }
    world.mend();
    assert_eq!(text(&world.get("/v1/kv/k?raw").await), "before");
    let info = format!("/v1/session/info/{}", world.session);
    assert!(text(&world.get(&info).await).contains(&world.session));
    world.put("/v1/kv/k", "after").await;
    assert_eq!(text(&world.get("/v1/kv/k?raw").await), "after");
    drop(world.tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_blocked_query_waits_through_it() {
    let world = World::start().await;
    let index = header(&world.get("/v1/kv/k").await, "x-consul-index");
    let path = format!("/v1/kv/k?index={index}&wait=60s");
    let (response, ()) = tokio::join!(world.get(&path), async {
        world.cut();
        let waited = world
            .get(&format!("/v1/kv/k?index={index}&wait=50ms"))
            .await;
        assert_eq!(waited.status, StatusCode::OK);
        assert_eq!(header(&waited, "x-consul-index"), index);
        assert_eq!(age(&waited), is("false", "stale"));
        world.mend();
        world.put("/v1/kv/k", "after").await;
    });
    assert_eq!(response.status, StatusCode::OK);
    assert!(header(&response, "x-consul-index") != index);
    assert_eq!(age(&response).0, "true");
    drop(world.tasks.stop(Duration::from_secs(5)).await);
}
