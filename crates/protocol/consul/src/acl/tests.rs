//! ACLs over a whole front, asked over sockets as clients ask.

use std::collections::BTreeSet;

use atoll_model::Address;
use atoll_net::client::{Request, Response};
use atoll_registry::{Memory, Registry};
use atoll_runtime::Tasks;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::walk::{NUMBERS, number, walk};
use super::*;
use crate::Settings;
use crate::endpoint::{Endpoint, find};

const ROOT: &str = "the-root-secret";

struct World {
    at: Address,
    store: Store,
    _tasks: Tasks,
}

/// A front with ACLs on, whose store may be another's, too.
async fn front(default_allow: bool, management: Option<&str>, store: Option<Store>) -> World {
    let tasks = Tasks::root(Clock::system());
    let store =
        store.unwrap_or_else(|| atoll_store::embedded::in_memory(Default::default(), &tasks));
    let journal = std::sync::Arc::new(Memory::default());
    let registry = Registry::open(journal, &tasks, Default::default());
    let registry = registry.await.unwrap();
    let listener = atoll_net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let settings = Settings {
        node: "n".to_owned(),
        address: "127.0.0.1".to_owned(),
        datacenter: "dc1".to_owned(),
        token: None,
        acl: Some(AclSettings {
            default_allow,
            management: management.map(str::to_owned),
        }),
    };
    let at = crate::start(&tasks, listener, settings, registry, store.clone());
    World {
        at: at.await.unwrap().address.into(),
        store,
        _tasks: tasks,
    }
}

impl World {
    async fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> Response {
        let mut request = Request::new(method.parse().unwrap(), &self.at, path);
        if !token.is_empty() {
            let token = HeaderValue::from_str(token).unwrap();
            request.headers.insert("x-consul-token", token);
        }
        if !body.is_null() {
            request.body = body.to_string().into();
        }
        request.send().await.unwrap()
    }

    async fn get(&self, token: &str, path: &str) -> Value {
        let response = self.ask(token, "GET", path, &Value::Null).await;
        let told = text(&response);
        assert_eq!(response.status, 200, "{path}: {told}");
        serde_json::from_str(&told).unwrap()
    }

    async fn put(&self, token: &str, path: &str, body: &Value) -> Value {
        let response = self.ask(token, "PUT", path, body).await;
        let told = text(&response);
        assert_eq!(response.status, 200, "{path}: {told}");
        serde_json::from_str(&told).unwrap_or_default()
    }

    /// The words of a refusal with this status.
    async fn refused(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: &Value,
        as_: u16,
    ) -> String {
        let response = self.ask(token, method, path, body).await;
        let told = text(&response);
        assert_eq!(response.status, as_, "{path}: {told}");
        told
    }

    /// The secret of a new token with these rules; its accessor is the secret's, reversed.
    async fn token(&self, rules: &str) -> String {
        let made = new_id();
        let policy = json!({ "Name": format!("p-{made}"), "Rules": rules });
        let policy = self.put(ROOT, "/v1/acl/policy", &policy).await;
        let token = json!({ "Policies": [{ "ID": policy["ID"] }] });
        let token = self.put(ROOT, "/v1/acl/token", &token).await;
        token["SecretID"].as_str().unwrap().to_owned()
    }

    /// Things that only some may see.
    async fn seed(&self) {
        let service = json!({
            "Name": "hidden-svc", "ID": "hidden-id", "Port": 1, "Tags": ["hidden-tag"],
            "Check": { "CheckID": "hidden-check", "TTL": "10m", "Status": "passing" },
        });
        self.put(ROOT, "/v1/agent/service/register", &service).await;
        let check = json!({ "Name": "hidden-own", "TTL": "10m", "Status": "passing" });
        self.put(ROOT, "/v1/agent/check/register", &check).await;
        let node = json!({
            "Node": "hidden-node", "Address": "10.9.9.9", "NodeMeta": { "hidden": "meta" },
            "ID": "hidden-uuid", "Check": { "CheckID": "hidden-far-check", "Status": "warning" },
            "Service": { "Service": "hidden-far", "ID": "hidden-far", "Port": 2 },
        });
        self.put(ROOT, "/v1/catalog/register", &node).await;
        self.put(ROOT, "/v1/kv/hidden/key", &json!("hidden-value"))
            .await;
        let entry = json!({ "Kind": "service-defaults", "Name": "hidden-svc", "Protocol": "tcp" });
        self.put(ROOT, "/v1/config", &entry).await;
        self.put(ROOT, "/v1/event/fire/hidden-event", &Value::Null)
            .await;
        let query = json!({ "Name": "hidden-query", "Service": { "Service": "hidden-svc" } });
        let made = self.ask(ROOT, "POST", "/v1/query", &query).await;
        assert_eq!(made.status, 200, "{}", text(&made));
        let session = json!({ "Name": "hidden-session" });
        self.put(ROOT, "/v1/session/create", &session).await;
    }
}

fn new_id() -> String {
    super::endpoints::new_id().unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

fn text(response: &Response) -> String {
    String::from_utf8(response.body.to_vec()).unwrap()
}

#[test]
fn every_endpoint_is_walked() {
    let walked = walk("id", "id").into_iter().map(|(_, path, _)| {
        let path = path.split('?').next().unwrap_or_default();
        number(&find(path.strip_prefix("/v1/").unwrap()).unwrap())
    });
    let walked: BTreeSet<usize> = walked.collect();
    assert_eq!(walked, (0..NUMBERS).collect());
}

/// What is told to who may do nothing does not depend on what there is, word for word,
/// and changes nothing of it.
#[tokio::test]
async fn who_may_do_nothing_is_told_nothing_by_any_endpoint() {
    let (empty, seeded) = (
        front(false, Some(ROOT), None).await,
        front(false, Some(ROOT), None).await,
    );
    seeded.seed().await;
    let nobody = json!({
        "AccessorID": "aaaaaaaa-0000-0000-0000-000000000001",
        "SecretID": "bbbbbbbb-0000-0000-0000-000000000001",
    });
    for world in [&empty, &seeded] {
        world.put(ROOT, "/v1/acl/token", &nobody).await;
    }
    let everything = async || {
        let mut all = Vec::new();
        for path in [
            "agent/services",
            "agent/checks",
            "catalog/nodes",
            "catalog/services",
            "health/state/any",
            "kv/?recurse",
            "session/list",
            "query",
            "event/list",
            "config/service-defaults",
            "coordinate/nodes",
            "acl/tokens",
            "acl/policies",
            "acl/roles",
        ] {
            all.push(seeded.get(ROOT, &format!("/v1/{path}")).await);
        }
        all
    };
    let before = everything().await;
    let sessions = seeded.get(ROOT, "/v1/session/list").await;
    let session = sessions[0]["ID"].as_str().unwrap();
    let queries = seeded.get(ROOT, "/v1/query").await;
    let query = queries[0]["ID"].as_str().unwrap();
    for token in ["bbbbbbbb-0000-0000-0000-000000000001", ""] {
        for (method, path, body) in walk(session, query) {
            let here = seeded.ask(token, method, &path, &body).await;
            let there = empty.ask(token, method, &path, &body).await;
            let told = text(&here);
            assert_eq!(here.status, there.status, "{method} {path}: {told}");
            // The time at which the token itself was made differs.
            if path != "/v1/acl/token/self" {
                assert_eq!(told, text(&there), "{method} {path}");
            }
            // What a refusal repeats, it has from the question.
            let known = here.status != 200 && path.contains("hidden");
            assert!(
                known || !told.contains("hidden-tag") && !told.contains("10.9.9.9"),
                "{told}"
            );
        }
    }
    assert_eq!(everything().await, before);
}

/// What a service may do, which has keys of its own.
const APP_RULES: &str = r#"service "web" { policy = "write" } node "n" { policy = "read" } key_prefix "app/" { policy = "write" }
               key "app/secret" { policy = "deny" } session "n" { policy = "write" } agent "n" { policy = "read" }"#;

#[tokio::test]
async fn reads_are_filtered_and_say_so_and_writes_are_refused_in_consuls_words() {
    let world = front(false, Some(ROOT), None).await;
    world.seed().await;
    let web = json!({ "Name": "Web", "ID": "web-1", "Port": 1 });
    world.put(ROOT, "/v1/agent/service/register", &web).await;
    let token = world.token(APP_RULES).await;
    let listed = world
        .ask(&token, "GET", "/v1/catalog/services", &Value::Null)
        .await;
    assert_eq!(text(&listed), r#"{"Web":[]}"#);
    assert_eq!(listed.headers["x-consul-results-filtered-by-acls"], "true");
    assert_eq!(listed.headers["x-consul-default-acl-policy"], "deny");
    let own = world
        .ask(&token, "GET", "/v1/health/service/web", &Value::Null)
        .await;
    assert!(text(&own).contains("web-1"));
    assert!(
        !own.headers
            .contains_key("x-consul-results-filtered-by-acls")
    );
    let nodes = world.get(&token, "/v1/catalog/nodes").await;
    assert_eq!(nodes.as_array().unwrap().len(), 1);
    // Nobody tells the anonymous that there is something.
    let anonymous = world
        .ask("", "GET", "/v1/catalog/services", &Value::Null)
        .await;
    assert_eq!(text(&anonymous), "{}");
    assert!(
        !anonymous
            .headers
            .contains_key("x-consul-results-filtered-by-acls")
    );

    let me = world.get(&token, "/v1/acl/token/self").await;
    let accessor = me["AccessorID"].as_str().unwrap();
    let other = json!({ "Name": "other", "Port": 1 });
    let told = world
        .refused(&token, "PUT", "/v1/agent/service/register", &other, 403)
        .await;
    assert_eq!(
        told,
        format!(
            "Permission denied: token with AccessorID '{accessor}' lacks permission 'service:write' on \"other\""
        )
    );
    // Not even in another's place.
    let taken = json!({ "Name": "web", "ID": "hidden-id", "Port": 1 });
    let told = world
        .refused(&token, "PUT", "/v1/agent/service/register", &taken, 403)
        .await;
    assert!(
        told.ends_with("'service:write' on \"hidden-svc\""),
        "{told}"
    );
    let told = world
        .refused("", "PUT", "/v1/kv/a", &Value::Null, 403)
        .await;
    assert_eq!(
        told,
        "Permission denied: anonymous token lacks permission 'key:write' on \"a\". The anonymous token is used implicitly when a request does not specify a token."
    );
    let told = world
        .refused("unknown", "GET", "/v1/catalog/services", &Value::Null, 403)
        .await;
    assert_eq!(told, "ACL not found");
}

#[tokio::test]
async fn keys_sessions_and_nodes_are_left_out_or_refused_one_by_one() {
    let world = front(false, Some(ROOT), None).await;
    world.seed().await;
    world.put(ROOT, "/v1/kv/app/a", &json!("1")).await;
    let token = world.token(APP_RULES).await;
    let web = json!({ "Name": "Web", "ID": "web-1", "Port": 1 });
    world.put(&token, "/v1/agent/service/register", &web).await;
    world.put(&token, "/v1/kv/app/b", &json!("2")).await;
    world.put(ROOT, "/v1/kv/app/secret", &json!("3")).await;
    let keys = world.get(&token, "/v1/kv/?keys").await;
    assert_eq!(keys, json!(["app/a", "app/b"]));
    assert_eq!(
        world.get(&token, "/v1/kv/?keys&separator=/").await,
        json!(["app/"])
    );
    world
        .refused(&token, "GET", "/v1/kv/app/secret", &Value::Null, 403)
        .await;
    world
        .refused(&token, "DELETE", "/v1/kv/app/?recurse", &Value::Null, 403)
        .await;
    let tree = json!([{ "KV": { "Verb": "get-tree", "Key": "app/" } }]);
    let tree = world.put(&token, "/v1/txn", &tree).await;
    assert_eq!(tree["Results"].as_array().unwrap().len(), 2);
    let txn = json!([
        { "KV": { "Verb": "set", "Key": "app/c", "Value": "YQ==" } },
        { "KV": { "Verb": "get", "Key": "app/secret" } },
    ]);
    let told = world.refused(&token, "PUT", "/v1/txn", &txn, 409).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["Errors"][0]["OpIndex"], 1);
    assert_eq!(
        world.get(&token, "/v1/kv/?keys").await,
        json!(["app/a", "app/b"])
    );

    let session = world.put(&token, "/v1/session/create", &Value::Null).await;
    let info = format!("/v1/session/info/{}", session["ID"].as_str().unwrap());
    assert_eq!(world.get(&token, &info).await[0]["Node"], "n");
    let far = json!({ "Node": "hidden-node" });
    world
        .refused(&token, "PUT", "/v1/session/create", &far, 403)
        .await;
    assert_eq!(
        world.get(&token, "/v1/agent/self").await["Config"]["NodeName"],
        "n"
    );
    // A service comes with its node, which is as it was; anything else of it needs more.
    let mut far = json!({
        "Node": "hidden-node", "ID": "hidden-uuid", "Address": "10.9.9.9", "NodeMeta": { "hidden": "meta" },
        "Service": { "Service": "web", "ID": "web-far", "Port": 4 },
    });
    world.put(&token, "/v1/catalog/register", &far).await;
    far["Address"] = json!("10.9.9.8");
    world
        .refused(&token, "PUT", "/v1/catalog/register", &far, 403)
        .await;
    let own = json!({ "Node": "hidden-node", "ServiceID": "web-far" });
    world.put(&token, "/v1/catalog/deregister", &own).await;
}

#[tokio::test]
async fn who_waits_is_judged_by_what_holds_when_there_is_something_to_tell() {
    let world = front(false, Some(ROOT), None).await;
    let token = world.token(r#"key_prefix "" { policy = "read" }"#).await;
    world.put(ROOT, "/v1/kv/a", &json!("1")).await;
    let first = world.ask(&token, "GET", "/v1/kv/a", &Value::Null).await;
    let index = first.headers["x-consul-index"].to_str().unwrap().to_owned();
    let (single, tree) = (
        format!("/v1/kv/a?index={index}&wait=60s"),
        format!("/v1/kv/?recurse&index={index}&wait=60s"),
    );
    let me = world.get(&token, "/v1/acl/token/self").await;
    let accessor = me["AccessorID"].as_str().unwrap();
    let (held, kept, ()) = tokio::join!(
        world.ask(&token, "GET", &single, &Value::Null),
        world.ask(&token, "GET", &tree, &Value::Null),
        async {
            let path = format!("/v1/acl/token/{accessor}");
            world.put(ROOT, &path, &json!({ "Policies": [] })).await;
            world.put(ROOT, "/v1/kv/a", &json!("2")).await;
        }
    );
    assert_eq!(held.status, 403, "{}", text(&held));
    assert_eq!((kept.status.as_u16(), text(&kept)), (404, String::new()));
    let own = format!("/v1/acl/token/{accessor}");
    let gone = world.ask(ROOT, "DELETE", &own, &Value::Null).await;
    assert_eq!(gone.status, 200);
    let told = world
        .refused(&token, "GET", "/v1/kv/a", &Value::Null, 403)
        .await;
    assert_eq!(told, "ACL not found");
}

/// Those whom one change wakes share answers, but only with who may see the same.
#[tokio::test]
async fn of_those_who_wait_for_one_service_each_gets_what_they_may_see() {
    let world = front(false, Some(ROOT), None).await;
    for node in ["a", "b"] {
        let body = json!({
            "Node": node, "Address": "10.0.0.1", "Service": { "Service": "web", "ID": node, "Port": 1 },
        });
        world.put(ROOT, "/v1/catalog/register", &body).await;
    }
    let only = |node: &str| {
        format!(r#"service "web" {{ policy = "read" }} node "{node}" {{ policy = "read" }}"#)
    };
    let (a, b, none) = (
        world.token(&only("a")).await,
        world.token(&only("b")).await,
        world.token("").await,
    );
    let first = world
        .ask(ROOT, "GET", "/v1/health/service/web", &Value::Null)
        .await;
    let index = first.headers["x-consul-index"].to_str().unwrap().to_owned();
    let path = format!("/v1/health/service/web?index={index}&wait=60s");
    let tokens = [ROOT, &a, &b, &none].map(str::to_owned);
    let waiting = (0..200).map(|at| {
        let (token, world, path) = (&tokens[at % 4], &world, &path);
        async move { world.ask(token, "GET", path, &Value::Null).await }
    });
    let (woken, ()) = tokio::join!(futures_util::future::join_all(waiting), async {
        let body = json!({
            "Node": "a", "Address": "10.0.0.1", "Service": { "Service": "web", "ID": "a", "Port": 2 },
        });
        world.put(ROOT, "/v1/catalog/register", &body).await;
    });
    for (at, response) in woken.iter().enumerate() {
        let rows: Value = serde_json::from_str(&text(response)).unwrap();
        let nodes = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["Node"]["Node"]);
        let nodes: Vec<&Value> = nodes.collect();
        let expected: &[&str] = [&["a", "b"][..], &["a"], &["b"], &[]][at % 4];
        assert_eq!(nodes, expected);
        let told = response
            .headers
            .contains_key("x-consul-results-filtered-by-acls");
        assert_eq!(told, at % 4 != 0);
    }
}

/// Whatever it is that many wait for: who is woken is told what he would be told if he
/// asked anew, and whether something was left out of it.
#[tokio::test]
async fn who_is_woken_is_told_what_he_would_be_told_at_once() {
    let world = front(false, Some(ROOT), None).await;
    let register = async |node: &str, tag: &str| {
        let body = json!({
            "Node": node, "Address": "10.0.0.1", "NodeMeta": { "tag": tag },
            "Service": { "Service": "web", "ID": node, "Port": 1, "Tags": [tag] },
        });
        world.put(ROOT, "/v1/catalog/register", &body).await;
    };
    for name in ["a", "b"] {
        register(name, "first").await;
        let other = json!({ "Name": format!("svc-{name}"), "Port": 1 });
        world.put(ROOT, "/v1/agent/service/register", &other).await;
        let key = format!("/v1/kv/{name}/key");
        world.put(ROOT, &key, &json!("first")).await;
    }
    let only = |name: &str| {
        format!(
            r#"service "web" {{ policy = "read" }} service "svc-{name}" {{ policy = "read" }}
               node "{name}" {{ policy = "read" }} key_prefix "{name}/" {{ policy = "read" }}"#
        )
    };
    // Another policy each, by which everything may be seen all the same.
    let all = |word: &str| {
        format!(
            r#"service_prefix "" {{ policy = "{word}" }} node_prefix "" {{ policy = "{word}" }}
               key_prefix "" {{ policy = "{word}" }}"#
        )
    };
    let tokens = [
        ROOT.to_owned(),
        world.token(&only("a")).await,
        world.token(&all("read")).await,
        world.token(&only("b")).await,
        world.token("").await,
        world.token(&all("write")).await,
    ];
    for (at, path) in [
        "catalog/nodes?",
        "catalog/services?",
        "catalog/services?filter=Node==b",
        "catalog/service/web?",
        "catalog/service/web?filter=Node==b&pretty",
        "catalog/node/a?",
        "catalog/node-services/a?filter=Service==web",
        "health/service/web?",
        "health/service/web?filter=Node.Node==b",
        "health/checks/web?",
        "health/node/a?",
        "health/state/any?",
        "kv/?keys",
        "kv/?keys&separator=/",
        "kv/?recurse",
    ]
    .into_iter()
    .enumerate()
    {
        let now = format!("/v1/{path}");
        let first = world.ask(ROOT, "GET", &now, &Value::Null).await;
        let index = first.headers["x-consul-index"].to_str().unwrap();
        let later = format!("{now}&index={index}&wait=60s");
        let waiting = (0..60).map(|at| world.ask(&tokens[at % 6], "GET", &later, &Value::Null));
        let (woken, ()) = tokio::join!(futures_util::future::join_all(waiting), async {
            if path.starts_with("kv") {
                let value = json!(format!("v{at}"));
                world.put(ROOT, "/v1/kv/b/key", &value).await;
            } else {
                register("b", &format!("t{at}")).await;
            }
        });
        for (at, woken) in woken.iter().enumerate() {
            let anew = world.ask(&tokens[at % 6], "GET", &now, &Value::Null).await;
            assert_eq!(text(woken), text(&anew), "{path} {}", at % 6);
            let said = |response: &Response| {
                let headers = &response.headers;
                headers.contains_key("x-consul-results-filtered-by-acls")
            };
            assert_eq!(said(woken), said(&anew), "{path} {}", at % 6);
            if at % 6 == 1 {
                assert!(!text(woken).contains("svc-b") && !text(woken).contains("b/key"));
            }
        }
    }
}

/// Clients compute the index of a list from the last event in it.
#[tokio::test]
async fn the_index_of_a_list_of_events_is_of_what_may_be_seen() {
    let world = front(false, Some(ROOT), None).await;
    let token = world.token(r#"event "open" { policy = "read" }"#).await;
    let of = async |token: &str, path: &str| {
        let told = world.ask(token, "GET", path, &Value::Null).await;
        let index = told.headers["x-consul-index"].to_str().unwrap();
        (text(&told), index.to_owned(), told.headers.len())
    };
    let fire = async |name: &str| {
        let path = format!("/v1/event/fire/{name}");
        world.put(ROOT, &path, &Value::Null).await;
    };
    fire("open").await;
    let before = of(&token, "/v1/event/list").await;
    assert!(before.0.contains("open"));
    fire("hidden").await;
    let after = of(&token, "/v1/event/list").await;
    assert_eq!((&after.0, &after.1), (&before.0, &before.1));
    assert_eq!(after.2, before.2 + 1, "that something was left out");
    // With it one waits, and for what may be seen.
    let path = format!("/v1/event/list?index={}&wait=60s", after.1);
    let (woken, ()) = tokio::join!(of(&token, &path), fire("open"));
    assert_ne!(woken.1, after.1);
    assert_eq!(woken.0.matches("open").count(), 2);
}

#[tokio::test]
async fn a_check_of_a_node_is_changed_by_who_may_write_the_node_alone() {
    let world = front(false, Some(ROOT), None).await;
    world.seed().await;
    let all = r#"service_prefix "" { policy = "write" }"#;
    let blind = world.token(all).await;
    let reader = format!(r#"{all} node_prefix "" {{ policy = "read" }}"#);
    let reader = world.token(&reader).await;
    let writer = world.token(r#"node "n" { policy = "write" }"#).await;
    let own = json!({ "Node": "n", "CheckID": "hidden-own" });
    let none = Value::Null;
    // A check of his own service of the same id does not help.
    let body = json!({
        "Name": "web", "ID": "web", "Port": 1,
        "Check": { "CheckID": "hidden-far-check", "TTL": "1m" },
    });
    let far = json!({
        "Node": "hidden-node", "SkipNodeUpdate": true,
        "Service": { "Service": "web", "ID": "web-far", "Port": 1 },
        "Check": { "CheckID": "hidden-far-check", "ServiceID": "web-far" },
    });
    for token in [&blind, &reader] {
        world.put(token, "/v1/agent/service/register", &body).await;
        world.put(token, "/v1/catalog/register", &far).await;
        let shadow = json!({ "Name": "hidden-own", "ServiceID": "web", "TTL": "1m" });
        let of_node = json!({ "Name": "mine", "TTL": "1m" });
        let told = json!({ "Node": "n", "Address": "127.0.0.1", "Check": { "CheckID": "x" } });
        let elsewhere = json!({ "Node": "hidden-node", "CheckID": "hidden-far-check" });
        for (path, body) in [
            ("agent/check/register", &shadow),
            ("agent/check/register", &of_node),
            ("agent/maintenance?enable=true", &none),
            ("catalog/register", &told),
            ("catalog/deregister", &own),
            ("catalog/deregister", &elsewhere),
        ] {
            let path = format!("/v1/{path}");
            world.refused(token, "PUT", &path, body, 403).await;
        }
        for delete in [&own, &elsewhere] {
            let op = json!([{ "Check": { "Verb": "delete", "Check": delete } }]);
            let told = world.refused(token, "PUT", "/v1/txn", &op, 409).await;
            assert!(told.contains("lacks permission 'node:write'"), "{told}");
        }
        // Who may not see it is not told that there is one.
        let status = if token == &blind { 404 } else { 403 };
        for path in ["pass", "fail", "deregister"] {
            let path = format!("/v1/agent/check/{path}/hidden-own");
            world.refused(token, "PUT", &path, &none, status).await;
        }
    }
    let checks = world.get(&writer, "/v1/agent/checks").await;
    assert_eq!(checks["hidden-own"]["Status"], "passing");
    assert_eq!(checks.as_object().unwrap().len(), 1, "{checks}");
    let far = world.get(ROOT, "/v1/health/node/hidden-node").await;
    let far = far.as_array().unwrap().iter();
    let of_node = |check: &&Value| check["CheckID"] == "hidden-far-check";
    assert_eq!(
        far.filter(of_node).count(),
        2,
        "the node's and the service's"
    );
    for path in [
        "agent/check/fail/hidden-own",
        "agent/maintenance?enable=true",
        "agent/check/deregister/hidden-own",
        "agent/maintenance?enable=false",
    ] {
        let path = format!("/v1/{path}");
        let done = world.ask(&writer, "PUT", &path, &none).await;
        assert_eq!(done.status, 200, "{path}: {}", text(&done));
    }
}

/// Neither comes between a check and whoever says how it stands.
#[tokio::test]
async fn a_service_does_not_take_the_id_of_anothers_check_along() {
    let world = front(false, Some(ROOT), None).await;
    world.seed().await;
    let mine = world.token(r#"service "web" { policy = "write" }"#).await;
    let service = json!({ "Name": "web", "ID": "web", "Port": 1 });
    world
        .put(&mine, "/v1/agent/service/register", &service)
        .await;
    for id in ["hidden-check", "hidden-own"] {
        let mut with = service.clone();
        with["Check"] = json!({ "CheckID": id, "TTL": "1m" });
        let beside = json!({
            "Node": "n", "SkipNodeUpdate": true,
            "Check": { "CheckID": id, "ServiceID": "web", "Status": "passing" },
        });
        let within = json!({ "Node": "n", "SkipNodeUpdate": true, "Service": with });
        for (path, body) in [
            ("agent/service/register", &with),
            ("catalog/register", &beside),
            ("catalog/register", &within),
        ] {
            let path = format!("/v1/{path}");
            world.refused(&mine, "PUT", &path, body, 403).await;
        }
        let op = json!([{ "Check": { "Verb": "set", "Check": {
            "Node": "n", "CheckID": id, "ServiceID": "web", "Status": "passing",
        } } }]);
        world.refused(&mine, "PUT", "/v1/txn", &op, 409).await;
    }
    // His own again, and one that nobody has.
    for id in ["own", "own", "service:web"] {
        let mut with = service.clone();
        with["Check"] = json!({ "CheckID": id, "TTL": "1m" });
        world.put(&mine, "/v1/agent/service/register", &with).await;
    }
}

#[tokio::test]
async fn a_service_of_another_node_takes_no_place_on_ours() {
    let world = front(false, Some(ROOT), None).await;
    let far = json!({ "Node": "far", "Address": "10.0.0.1" });
    world.put(ROOT, "/v1/catalog/register", &far).await;
    let here = json!({ "Name": "other", "ID": "web@far", "Port": 1 });
    world.put(ROOT, "/v1/agent/service/register", &here).await;
    let mine = world.token(r#"service "web" { policy = "write" }"#).await;
    let body = json!({
        "Node": "far", "SkipNodeUpdate": true,
        "Service": { "Service": "web", "ID": "web", "Port": 1 },
    });
    world.put(&mine, "/v1/catalog/register", &body).await;
    let services = world.get(ROOT, "/v1/agent/services").await;
    assert_eq!(services["web@far"]["Service"], "other", "{services}");
}

#[tokio::test]
async fn an_operation_on_the_catalogue_needs_what_its_endpoint_needs() {
    let world = front(false, Some(ROOT), None).await;
    world.seed().await;
    let rules = r#"service "web" { policy = "write" } node "n" { policy = "read" } node "mine" { policy = "write" }"#;
    let token = world.token(rules).await;
    let service = |verb: &str, id: &str, name: &str| {
        let service = json!({ "ID": id, "Service": name, "Port": 5 });
        json!({ "Service": { "Verb": verb, "Node": "n", "Service": service } })
    };
    let check = |verb: &str, id: &str, of: &str| {
        let check = json!({ "Node": "n", "CheckID": id, "ServiceID": of, "Status": "passing" });
        json!({ "Check": { "Verb": verb, "Check": check } })
    };
    let node = |verb: &str, node: Value| json!({ "Node": { "Verb": verb, "Node": node } });
    let mine = json!({ "Node": "mine", "Address": "10.0.0.1" });
    let done = json!([
        node("set", mine.clone()),
        service("set", "w", "web"),
        check("set", "c", "w"),
        service("get", "w", "web"),
        check("get", "c", "w"),
        node("get", json!({ "Node": "n" })),
    ]);
    let told = world.put(&token, "/v1/txn", &done).await;
    let results = told["Results"].as_array().unwrap();
    assert_eq!(results.len(), 6, "{told}");
    for (op, lacks) in [
        (service("set", "x", "other"), "service:write"),
        // It would take that one's place.
        (service("set", "hidden-id", "web"), "service:write"),
        (service("get", "hidden-id", "web"), "service:read"),
        (service("delete", "hidden-id", "web"), "service:write"),
        (check("set", "c", "hidden-id"), "service:write"),
        (check("get", "hidden-check", ""), "service:read"),
        (check("delete", "hidden-check", ""), "service:write"),
        (
            node("set", json!({ "Node": "n", "Address": "x" })),
            "node:write",
        ),
        (
            node("delete", json!({ "Node": "hidden-node" })),
            "node:write",
        ),
        (node("get", json!({ "Node": "hidden-node" })), "node:read"),
        (
            node("delete", json!({ "ID": "hidden-uuid", "Node": "mine" })),
            "node:write",
        ),
    ] {
        // What comes before it is not done either.
        let ops = json!([service("delete", "w", "web"), op]);
        let told = world.refused(&token, "PUT", "/v1/txn", &ops, 409).await;
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["Errors"].as_array().unwrap().len(), 1, "{told}");
        assert_eq!(told["Errors"][0]["OpIndex"], 1);
        let what = told["Errors"][0]["What"].as_str().unwrap();
        assert!(
            what.contains(&format!("permission '{lacks}'")),
            "{op}: {what}"
        );
        assert!(!what.contains("hidden-uuid"), "{what}");
    }
    assert_eq!(world.get(&token, "/v1/agent/service/w").await["ID"], "w");
    let undone = json!([
        check("delete", "c", "w"),
        service("delete", "w", "web"),
        node("delete", mine)
    ]);
    world.put(&token, "/v1/txn", &undone).await;
}

#[tokio::test]
async fn a_migration_needs_the_operators_right_or_that_to_each_of_its_entries() {
    let world = front(false, Some(ROOT), None).await;
    let operator = world.token(r#"operator = "write""#).await;
    let rules = r#"service "web" { policy = "write" } node "far" { policy = "write" }"#;
    let token = world.token(rules).await;
    let register = |node: &str, service: &str| {
        let service = json!({ "ID": "1", "Service": service, "Port": 1, "Address": "10.0.0.2" });
        let body = json!({ "Node": node, "Address": "10.0.0.1", "Service": service });
        json!({ "Action": "Register", "Body": body })
    };
    let other = |action: &str, node: &str, service: &str| {
        let mut entry = json!({ "Action": action, "Node": node, "Service": service, "ID": "1" });
        // Which is nothing that it would look at.
        entry["Body"] = register("far", "web")["Body"].clone();
        entry
    };
    let path = "/v1/atoll/copies";
    let of = |entries: Value| json!({ "CopiedFrom": "x", "Entries": entries });
    let put = async |token: &str, entry: Value| {
        let told = world.put(token, path, &of(json!([entry]))).await;
        assert_eq!(told["Results"][0]["Status"], 200, "{told}");
    };
    put(&operator, register("far2", "db")).await;
    put(&operator, other("Renew", "far2", "db")).await;
    put(&token, register("far", "web")).await;
    put(&token, other("Renew", "far", "web")).await;
    for entry in [
        register("far", "db"),
        register("far2", "web"),
        other("Renew", "far2", "db"),
        other("Deregister", "far2", "db"),
        other("Deregister", "far", "db"),
    ] {
        let entries = of(json!([entry]));
        world.refused(&token, "PUT", path, &entries, 403).await;
    }
    world
        .refused(&token, "PUT", path, &of(json!([])), 403)
        .await;
    put(&token, other("Deregister", "far", "web")).await;
    let left = world.get(ROOT, "/v1/catalog/services").await;
    assert_eq!(left, json!({ "consul": [], "db": [] }));
}

#[tokio::test]
async fn the_first_token_is_made_once_and_what_is_made_outlives_the_process() {
    let world = front(false, None, None).await;
    let first = world.put("", "/v1/acl/bootstrap", &Value::Null).await;
    let root = first["SecretID"].as_str().unwrap();
    assert_eq!(first["ID"], first["SecretID"]);
    assert_eq!(first["Policies"][0]["Name"], "global-management");
    let told = world
        .refused("", "PUT", "/v1/acl/bootstrap", &Value::Null, 403)
        .await;
    assert!(told.starts_with("Permission denied: ACL bootstrap no longer allowed (reset index: "));
    // Another process over the same store knows it, and follows what changes.
    let other = front(false, None, Some(world.store.clone())).await;
    assert_eq!(
        other
            .get(root, "/v1/acl/tokens")
            .await
            .as_array()
            .unwrap()
            .len(),
        2
    );
    other
        .refused("", "PUT", "/v1/acl/bootstrap", &Value::Null, 403)
        .await;
    let role = json!({ "Name": "r", "NodeIdentities": [{ "NodeName": "n", "Datacenter": "dc1" }] });
    other.put(root, "/v1/acl/role", &role).await;
    let mut index = 0;
    let roles = loop {
        let path = format!("/v1/acl/roles?index={index}&wait=10s");
        let roles = world.ask(root, "GET", &path, &Value::Null).await;
        if text(&roles) != "[]" {
            break text(&roles);
        }
        index = roles.headers["x-consul-index"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap();
    };
    assert!(roles.contains("NodeName"));
    let token =
        json!({ "Roles": [{ "Name": "r" }], "ServiceIdentities": [{ "ServiceName": "web" }] });
    let token = world.put(root, "/v1/acl/token", &token).await;
    let secret = token["SecretID"].as_str().unwrap();
    let web = json!({ "Name": "web", "Port": 1 });
    world.put(secret, "/v1/agent/service/register", &web).await;
    let node = json!({ "Node": "n", "Address": "127.0.0.1", "Check": { "Name": "c", "Status": "passing" } });
    // The right is there; that checks of nodes are not done is another matter.
    let told = world
        .ask(secret, "PUT", "/v1/catalog/register", &node)
        .await;
    assert_ne!(told.status, 403, "{}", text(&told));
}

#[tokio::test]
async fn what_the_config_file_names_is_never_shown_nor_changed() {
    let world = front(true, Some(ROOT), None).await;
    world
        .refused("", "PUT", "/v1/acl/bootstrap", &Value::Null, 403)
        .await;
    let shown = world.get(ROOT, "/v1/acl/token/self").await;
    assert_eq!(shown["SecretID"], "<hidden>");
    let tokens = world.get(ROOT, "/v1/acl/tokens").await.to_string();
    assert!(tokens.contains("<hidden>") && !tokens.contains(ROOT));
    let me = format!("/v1/acl/token/{}", stored::MANAGEMENT);
    for method in ["PUT", "DELETE"] {
        world.refused(ROOT, method, &me, &Value::Null, 400).await;
    }
    // Everything but ACLs is allowed by default.
    world.put("", "/v1/kv/a", &json!("1")).await;
    world
        .refused("", "GET", "/v1/acl/tokens", &Value::Null, 403)
        .await;
    // A reader sees everything but secrets.
    let reader = world.token("acl = \"read\"").await;
    let tokens = world.get(&reader, "/v1/acl/tokens").await.to_string();
    assert!(!tokens.contains(&reader) && tokens.contains("<hidden>"));
    let body = json!({ "Description": "x" });
    world
        .refused(&reader, "PUT", "/v1/acl/token", &body, 403)
        .await;
}

#[tokio::test]
async fn a_token_is_taken_from_where_consul_takes_it() {
    let world = front(false, Some(ROOT), None).await;
    let of = async |path: &str, headers: &[(&'static str, &str)]| {
        let mut request = Request::new(Method::GET, &world.at, path);
        for (name, value) in headers {
            request
                .headers
                .insert(*name, HeaderValue::from_str(value).unwrap());
        }
        request.send().await.unwrap().status.as_u16()
    };
    let path = "/v1/acl/policies";
    assert_eq!(of(path, &[("x-consul-token", ROOT)]).await, 200);
    assert_eq!(
        of(path, &[("authorization", &format!("Bearer {ROOT}"))]).await,
        200
    );
    let asked = format!("{path}?token={ROOT}");
    assert_eq!(of(&asked, &[("x-consul-token", "wrong")]).await, 200);
    assert_eq!(
        of(&format!("{path}?token="), &[("x-consul-token", ROOT)]).await,
        200
    );
    assert_eq!(of(path, &[]).await, 403);
    // A web page is kept out, by whatever name it calls the token of everybody.
    let evil = ("host", "evil.example");
    for named in ["/v1/status/leader", "/v1/status/leader?token=anonymous"] {
        assert_eq!(of(named, &[]).await, 200);
        assert_eq!(of(named, &[evil]).await, 403);
        assert_eq!(of(named, &[("origin", "https://evil.example")]).await, 403);
    }
    assert_eq!(of(path, &[evil, ("x-consul-token", ROOT)]).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_expired_is_unknown_and_goes_by_itself() {
    let clock = Clock::starting_at(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let tasks = Tasks::root(clock.clone());
    let store = atoll_store::embedded::in_memory(Default::default(), &tasks);
    let settings = AclSettings {
        default_allow: false,
        management: None,
    };
    let acl = Acl::open(settings, "dc1", store.clone(), clock)
        .await
        .unwrap();
    let acl = std::sync::Arc::new(acl);
    let following = std::sync::Arc::clone(&acl);
    tasks.run("acl", atoll_runtime::Restart::Never, move |stop| {
        let acl = std::sync::Arc::clone(&following);
        async move {
            stop.unless(acl.follow()).await;
        }
    });
    let asked = |body: Value| crate::server::Asked {
        method: Method::PUT,
        query: Default::default(),
        headers: Default::default(),
        peer: None,
        endpoint: Endpoint::Txn,
        question: String::new(),
        filter: None,
        caller: Caller::new(None, ""),
        body: body.to_string().into(),
        wait: crate::server::Wait {
            index: 0,
            hold: Duration::ZERO,
        },
        stop: tasks.stop_signal(),
    };
    for (body, told) in [
        (
            json!({ "ExpirationTTL": "10s" }),
            "between 1m0s and 24h0m0s",
        ),
        (
            json!({ "ExpirationTTL": "25h" }),
            "between 1m0s and 24h0m0s",
        ),
        (json!({ "ExpirationTime": "soon" }), "RFC 3339"),
        (
            json!({ "ExpirationTTL": "1h", "ExpirationTime": "2030-01-01T00:00:00Z" }),
            "both",
        ),
        (
            json!({ "SecretID": "short" }),
            "SecretID is not a valid UUID",
        ),
        (json!({ "AccessorID": stored::ANONYMOUS }), "reserved"),
        (
            json!({ "Policies": [{ "Name": "none" }] }),
            "No such ACL policy with name \"none\"",
        ),
    ] {
        let refusal = acl.token_create(&asked(body.clone())).await.err().unwrap();
        assert!(refusal.text.contains(told), "{body}: {}", refusal.text);
        assert_eq!(refusal.status, 400);
    }
    let made = acl
        .token_create(&asked(json!({ "ExpirationTTL": "2m" })))
        .await;
    let crate::wire::Reply::Json(_, made) = made.unwrap().reply else {
        panic!("no token");
    };
    assert_eq!(made["ExpirationTime"], "1970-01-12T13:48:40.000Z");
    let secret = made["SecretID"].as_str().unwrap();
    let stays = asked(json!({ "SecretID": secret }));
    assert!(acl.token_create(&stays).await.is_err(), "in use");
    tokio::time::sleep(Duration::from_secs(119)).await;
    assert!(acl.who(secret).is_some());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(acl.who(secret).is_none());
    // And its lease takes it away.
    let mut seen = acl.seen.subscribe();
    seen.wait_for(|_| acl.read().tokens.is_empty())
        .await
        .unwrap();
}
