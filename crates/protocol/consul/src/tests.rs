//! The front over a registry and a store in memory, on a clock that the tests move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_registry::{Memory, Registry};
use atoll_runtime::{Clock, Tasks};
use http::{HeaderMap, Method};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::acl::Caller;
use crate::endpoint::Endpoint;
use crate::kv::{KvOp, Verb};
use crate::server::{Answer, Asked, Wait};
use crate::wire::{Fields, Query, Refusal, Reply};

mod copies;

struct World {
    front: Arc<Front>,
    tasks: Tasks,
}

async fn world() -> World {
    let tasks = Tasks::root(Clock::system());
    let world = unwatched(&tasks).await;
    run(&tasks, &world.front, world.front.registry.clone());
    world
}

/// Without the tasks that go on beside the requests.
async fn unwatched(tasks: &Tasks) -> World {
    let tasks = tasks.clone();
    let store = atoll_store::embedded::in_memory(Default::default(), &tasks);
    let journal = Arc::new(Memory::default());
    let registry = Registry::open(journal, &tasks, Default::default())
        .await
        .unwrap();
    let settings = Settings {
        node: "n".to_owned(),
        address: "127.0.0.1".to_owned(),
        datacenter: "dc1".to_owned(),
        token: None,
        acl: None,
    };
    let front = Front::new(settings, "id".to_owned(), registry, store, None, true);
    World { front, tasks }
}

impl World {
    fn asked(&self, query: &str, body: &str) -> Asked {
        let query = Query::parse(query);
        let index = query.get("index").map_or(0, |index| index.parse().unwrap());
        let wait = query.get("wait").and_then(wire::duration);
        Asked {
            endpoint: Endpoint::AgentSelf,
            method: Method::GET,
            headers: HeaderMap::new(),
            caller: Caller::new(None, ""),
            body: body.to_owned().into(),
            wait: Wait {
                index,
                hold: wait.unwrap_or(Duration::from_secs(300)),
            },
            question: query.question(),
            filter: None,
            stop: self.tasks.stop_signal(),
            peer: None,
            query,
        }
    }

    async fn put(&self, key: &str, query: &str, value: &str) -> bool {
        let answer = self
            .front
            .kv_put(key, &self.asked(query, value))
            .await
            .unwrap();
        answer.reply == Reply::json(true)
    }

    async fn get(&self, key: &str, query: &str) -> (u64, Value) {
        read(self.front.kv_get(key, &self.asked(query, "")).await)
    }

    async fn session(&self, body: &Value) -> String {
        let asked = self.asked("", &body.to_string());
        let (_, created) = read(self.front.session_create(&asked).await);
        created["ID"].as_str().unwrap().to_owned()
    }

    async fn register(&self, body: &Value) {
        let asked = self.asked("", &body.to_string());
        assert!(self.front.agent_register(&asked).await.is_ok());
    }

    async fn health(&self, service: &str, query: &str) -> (u64, Value) {
        read(
            self.front
                .health_service(service, &self.asked(query, ""))
                .await,
        )
    }
}

/// Index and body; of an absence `null`.
fn read(answer: Result<Answer, Refusal>) -> (u64, Value) {
    let answer = answer.unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let body = match answer.reply {
        Reply::Json(_, body) => body,
        Reply::Absent => Value::Null,
        Reply::Written(body) => serde_json::from_slice(&body).unwrap(),
        other => panic!("{other:?}"),
    };
    (answer.index.unwrap_or(0), body)
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_one_of_its_checks_becomes_critical_or_is_gone() {
    let world = world().await;
    let front = &world.front;
    let disk = json!({ "Name": "disk", "TTL": "10s", "Status": "passing" });
    let web = json!({
        "Name": "web", "Check": { "CheckID": "web", "TTL": "1h", "Status": "passing" },
    });
    let body = json!({
        "LockDelay": "0s", "NodeChecks": ["disk"], "ServiceChecks": [{ "ID": "web" }],
    });
    let fail = async |check: &str| {
        let asked = world.asked("", "");
        assert!(
            front
                .agent_check_said(check, "critical", &asked)
                .await
                .is_ok()
        );
    };
    let forget = async |check: &str| {
        assert!(front.agent_check_deregister(check).await.is_ok());
    };
    let leave = async || assert!(front.agent_deregister("web").await.is_ok());
    for way in 0..5 {
        let asked = world.asked("", &disk.to_string());
        assert!(front.agent_check_register(&asked).await.is_ok());
        let asked = world.asked("", "");
        assert!(
            front
                .agent_check_said("disk", "passing", &asked)
                .await
                .is_ok()
        );
        world.register(&web).await;
        assert!(
            front
                .agent_check_said("web", "passing", &asked)
                .await
                .is_ok()
        );
        let session = world.session(&body).await;
        let other = world.session(&json!({})).await;
        let key = format!("lock-{way}");
        assert!(world.put(&key, &format!("acquire={session}"), "mine").await);
        match way {
            0 => fail("disk").await,
            1 => fail("web").await,
            2 => forget("disk").await,
            3 => leave().await,
            // Nobody says anything for longer than the TTL of the node's check.
            _ => tokio::time::sleep(Duration::from_secs(11)).await,
        }
        while world.get(&key, "").await.1[0]["Session"] == session[..] {
            tokio::task::yield_now().await;
        }
        let asked = world.asked("", "");
        let (_, gone) = read(front.session_info(&session, &asked).await);
        assert_eq!(gone, json!([]), "way {way}");
        let (_, stays) = read(front.session_info(&other, &asked).await);
        assert_eq!(stays[0]["ID"], other, "way {way}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_service_is_woken_by_its_node() {
    let world = world().await;
    world.register(&json!({ "Name": "web" })).await;
    let (index, _) = world.health("web", "").await;
    let query = format!("index={index}&passing");
    let waiting = world.health("web", &query);
    let enable = async {
        let asked = world.asked("enable=true", "");
        assert!(world.front.agent_node_maintenance(&asked).await.is_ok());
    };
    let ((woken, rows), ()) = tokio::join!(waiting, enable);
    assert!(woken > index);
    assert_eq!(rows, json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_renewed_ends_and_its_locks_are_free_after_the_delay() {
    let world = world().await;
    let body = json!({ "TTL": "10s", "LockDelay": "5s" });
    let (ended, renewed) = (world.session(&body).await, world.session(&body).await);
    let other = world.session(&json!({})).await;
    assert!(world.put("a", &format!("acquire={ended}"), "1").await);
    assert!(world.put("b", &format!("acquire={renewed}"), "1").await);
    let (index, _) = world.get("a", "").await;
    // Twice the TTL, as Consul has it.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(world.front.session_renew(&renewed).await.is_ok());
    }
    let (_, released) = world.get("a", &format!("index={index}")).await;
    assert_eq!(released[0].get("Session"), None);
    assert_eq!(released[0]["LockIndex"], 1);
    let (_, kept) = world.get("b", "").await;
    assert_eq!(kept[0]["Session"], json!(renewed));
    assert_eq!(
        world
            .front
            .session_renew(&ended)
            .await
            .err()
            .unwrap()
            .status,
        404
    );

    assert!(
        world.put("a", &format!("acquire={other}"), "2").await,
        "7 s have passed"
    );
    assert!(read(world.front.session_destroy(&other).await).1 == json!(true));
    let last = world.session(&json!({})).await;
    assert!(
        !world.put("a", &format!("acquire={last}"), "3").await,
        "within 15 s"
    );
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(!world.put("a", &format!("acquire={last}"), "3").await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.put("a", &format!("acquire={last}"), "3").await);
    assert_eq!(world.get("a", "").await.1[0]["LockIndex"], 3);
}

#[tokio::test(start_paused = true)]
async fn what_a_session_held_that_ended_unseen_is_freed_at_the_start() {
    let tasks = Tasks::root(Clock::system());
    let world = unwatched(&tasks).await;
    let session = world
        .session(&json!({ "Behavior": "delete", "LockDelay": 0 }))
        .await;
    assert!(world.put("a", &format!("acquire={session}"), "1").await);
    // As if it had ended while nobody watched: only the session is gone.
    let key = format!("{}{session}", keys::SESSIONS);
    world.front.store.delete(&key[..]).await.unwrap();
    let (index, held) = world.get("a", "").await;
    assert_eq!(held[0]["Session"], json!(session));
    run(&world.tasks, &world.front, world.front.registry.clone());
    let (_, freed) = world.get("a", &format!("index={index}")).await;
    assert!(freed.is_null());
    let hints = world.front.store.list(keys::HINTS).await.unwrap();
    assert!(hints.items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_blocked_key_is_woken_by_its_own_change_and_keeps_its_index_otherwise() {
    let world = world().await;
    assert!(world.put("a/1", "", "x").await);
    assert!(world.put("b", "", "x").await);
    let (index, _) = world.get("a/", "recurse").await;
    let blocked = format!("recurse&wait=10s&index={index}");
    let began = tokio::time::Instant::now();
    let (waked, ()) = tokio::join!(world.get("a/", &blocked), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.put("b", "", "y").await);
        let asked = world.asked("", "");
        assert!(world.front.kv_delete("b", &asked).await.is_ok());
    });
    assert_eq!(waked.0, index, "nothing of it changed");
    assert_eq!(began.elapsed(), Duration::from_secs(10));

    let began = tokio::time::Instant::now();
    let (waked, ()) = tokio::join!(world.get("a/", &blocked), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = world.asked("", "");
        assert!(world.front.kv_delete("a/1", &asked).await.is_ok());
    });
    assert!(waked.0 > index && waked.1.is_null());
    assert_eq!(began.elapsed(), Duration::from_secs(1));

    // A key that is not there has an index, too, and its creation wakes.
    let (index, _) = world.get("new", "").await;
    let blocked = format!("index={index}");
    let (waked, ()) = tokio::join!(world.get("new", &blocked), async {
        assert!(world.put("new", "", "x").await)
    });
    assert!(waked.0 > index && waked.1[0]["Key"] == "new");
    // An index of another life is answered at once.
    assert_eq!(world.get("new", "index=100000").await.0, waked.0);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_service_is_woken_by_its_own_change_alone() {
    let world = world().await;
    world
        .register(&json!({ "Name": "a", "Port": 1, "Check": { "TTL": "1h" } }))
        .await;
    world.register(&json!({ "Name": "b", "Port": 1 })).await;
    let (index, _) = world.health("a", "").await;
    let blocked = format!("index={index}&wait=10s");
    let began = tokio::time::Instant::now();
    let (waked, ()) = tokio::join!(world.health("a", &blocked), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.register(&json!({ "Name": "b", "Port": 2 })).await;
        world.register(&json!({ "Name": "c", "Port": 1 })).await;
    });
    assert_eq!((waked.0, began.elapsed()), (index, Duration::from_secs(10)));

    let began = tokio::time::Instant::now();
    let (waked, ()) = tokio::join!(world.health("a", &blocked), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = world.asked("note=fine", "");
        let said = world
            .front
            .agent_check_said("service:a", "passing", &asked)
            .await;
        assert!(said.is_ok());
    });
    assert!(waked.0 > index);
    assert_eq!(waked.1[0]["Checks"][1]["Output"], "fine");
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    // A note alone wakes nobody (hashicorp/consul#1244), but is there when asked for.
    let blocked = format!("index={}&wait=10s", waked.0);
    let (same, ()) = tokio::join!(world.health("a", &blocked), async {
        let asked = world.asked("note=still+fine", "");
        assert!(
            world
                .front
                .agent_check_said("service:a", "passing", &asked)
                .await
                .is_ok()
        );
    });
    assert_eq!(same.0, waked.0);
    assert_eq!(same.1[0]["Checks"][1]["Output"], "still fine");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_service_that_never_was_is_woken_by_the_very_first_registration() {
    let world = world().await;
    let (index, none) = world.health("a", "").await;
    assert_eq!((index, none), (1, json!([])));
    let (waked, ()) = tokio::join!(world.health("a", "index=1"), async {
        tokio::task::yield_now().await;
        world.register(&json!({ "Name": "a", "Port": 1 })).await;
    });
    assert!(waked.0 > 1 && waked.1[0]["Service"]["Service"] == "a");
}

#[tokio::test(start_paused = true)]
async fn an_id_is_one_service_of_an_agent_and_those_who_block_are_let_go_at_the_end() {
    let world = world().await;
    world
        .register(&json!({ "Name": "a", "ID": "x", "Port": 1 }))
        .await;
    world
        .register(&json!({ "Name": "b", "ID": "x", "Port": 1 }))
        .await;
    assert_eq!(world.health("a", "").await.1, json!([]));
    let (index, found) = world.health("b", "").await;
    assert_eq!(found[0]["Service"]["ID"], "x");
    let blocked = format!("index={index}&wait=300s");
    let stopping = world.tasks.stop_signal();
    let asked = world.asked(&blocked, "");
    let (held, stopped) = tokio::join!(
        asked.hold(std::future::pending::<()>()),
        world.tasks.stop(Duration::from_secs(5))
    );
    assert!(held.is_none() && stopped.is_ok() && stopping.is_requested());
}

/// Lets a thousand wait for what `ask` asks for, each in a task of its own, as their
/// connections are; gives what they were answered after `change`.
async fn herd<F>(
    world: &World,
    query: &str,
    ask: impl Fn(Arc<Front>, Asked) -> F,
    change: impl Future<Output = ()>,
) -> Vec<Reply>
where
    F: Future<Output = Result<Answer, Refusal>> + Send + 'static,
{
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let answer = ask(Arc::clone(&world.front), world.asked(query, ""));
            let (sender, receiver) = tokio::sync::oneshot::channel();
            drop(world.tasks.once("client", async move {
                drop(sender.send(answer.await.map(|answer| answer.reply)));
            }));
            receiver
        })
        .collect();
    // All of them wait before time passes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    change.await;
    let all = futures_util::future::join_all(waiting).await;
    all.into_iter()
        .map(|answer| answer.unwrap().unwrap())
        .collect()
}

/// The one answer that all got: the same bytes, not equal ones.
fn only_one(replies: &[Reply]) -> Value {
    let mut places = BTreeSet::new();
    for reply in replies {
        let Reply::Written(body) = reply else {
            panic!("not shared: {reply:?}");
        };
        places.insert(body.as_ptr());
    }
    assert_eq!(places.len(), 1, "answers were made for {}", replies.len());
    let Reply::Written(body) = &replies[0] else {
        panic!("checked above");
    };
    serde_json::from_slice(body).unwrap()
}

macro_rules! herds {
    ($($name:ident: $ask:expr, $seen:expr;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            let world = world().await;
            world.register(&json!({ "Name": "a", "Port": 1, "Tags": ["1"] })).await;
            assert!(world.put("k", "", "1").await);
            let asked = world.asked("", "");
            let answer = $ask(Arc::clone(&world.front), asked).await;
            let (index, _) = read(answer);
            let query = format!("index={index}");
            let replies = herd(&world, &query, $ask, async {
                world.register(&json!({ "Name": "a", "Port": 2, "Tags": ["2"] })).await;
                assert!(world.put("k", "", "2").await);
            })
            .await;
            let told = only_one(&replies);
            assert!($seen(&told), "{told}");
        }
    )*};
}

async fn ask_health(front: Arc<Front>, asked: Asked) -> Result<Answer, Refusal> {
    front.health_service("a", &asked).await
}

async fn ask_checks(front: Arc<Front>, asked: Asked) -> Result<Answer, Refusal> {
    front.health_checks("a", &asked).await
}

async fn ask_state(front: Arc<Front>, asked: Asked) -> Result<Answer, Refusal> {
    front.health_state("any", &asked).await
}

async fn ask_catalog(front: Arc<Front>, asked: Asked) -> Result<Answer, Refusal> {
    front.catalog_service("a", &asked).await
}

async fn ask_services(front: Arc<Front>, asked: Asked) -> Result<Answer, Refusal> {
    front.catalog_services(&asked).await
}

async fn ask_key(front: Arc<Front>, asked: Asked) -> Result<Answer, Refusal> {
    front.kv_get("k", &asked).await
}

herds! {
    a_thousand_who_wait_for_the_health_of_a_service_cost_one_answer:
        ask_health, |told: &Value| told[0]["Service"]["Port"] == 2;
    a_thousand_who_wait_for_the_checks_of_a_service_cost_one_answer:
        ask_checks, Value::is_array;
    a_thousand_who_wait_for_a_state_cost_one_answer:
        ask_state, |told: &Value| told[0]["CheckID"] == "serfHealth";
    a_thousand_who_wait_for_a_service_of_the_catalogue_cost_one_answer:
        ask_catalog, |told: &Value| told[0]["ServicePort"] == 2;
    a_thousand_who_wait_for_the_names_of_services_cost_one_answer:
        ask_services, |told: &Value| told["a"] == json!(["2"]);
    a_thousand_who_wait_for_a_key_cost_one_answer:
        ask_key, |told: &Value| told[0]["Value"] == "Mg==";
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_wait_for_keys_below_another_or_a_node_cost_one_answer() {
    let world = world().await;
    assert!(world.put("k/1", "", "1").await);
    for query in ["recurse", "keys"] {
        let (index, _) = world.get("k", query).await;
        let query = format!("{query}&index={index}");
        let ask = |front: Arc<Front>, asked| async move { front.kv_get("k", &asked).await };
        let replies = herd(&world, &query, ask, async {
            assert!(world.put(&format!("k/{index}"), "", "2").await);
        })
        .await;
        assert!(only_one(&replies)[1].to_string().contains("k/"));
    }
    let (index, _) = read(world.front.catalog_nodes(&world.asked("", "")).await);
    let query = format!("index={}", index.max(1));
    let ask = |front: Arc<Front>, asked| async move { front.catalog_nodes(&asked).await };
    let replies = herd(&world, &query, ask, async {
        let node = json!({ "Node": "other", "Address": "10.0.0.9" }).to_string();
        let asked = world.asked("", &node);
        assert!(world.front.catalog_register(&asked).await.is_ok());
    })
    .await;
    assert_eq!(only_one(&replies)[1]["Node"], "other");
}

#[tokio::test(start_paused = true)]
async fn who_asks_something_else_or_wants_it_filtered_gets_his_own_answer() {
    let world = world().await;
    world
        .register(&json!({ "Name": "a", "Port": 1, "Tags": ["t"] }))
        .await;
    let (index, _) = world.health("a", "").await;
    let queries = ["", "&tag=t", "&tag=u", "&pretty"].map(|more| format!("index={index}{more}"));
    let waiting = queries.iter().map(|query| world.health("a", query));
    let (told, ()) = tokio::join!(futures_util::future::join_all(waiting), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let again = json!({ "Name": "a", "Port": 2, "Tags": ["t"] });
        world.register(&again).await;
    });
    let counts: Vec<_> = told
        .iter()
        .map(|(_, rows)| rows.as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [1, 1, 0, 1]);
    assert_eq!(
        Query::parse("tag=t&index=7&wait=1s&token=x").question(),
        Query::parse("tag=t").question()
    );
    assert_ne!(
        Query::parse("tag=t").question(),
        Query::parse("filter=t").question()
    );
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_a_path_is_not_taken_for_the_query_of_another() {
    let world = world().await;
    world.register(&json!({ "Name": "a", "Port": 1 })).await;
    // Who has not the index of now is answered at once, and shares what others made.
    let ask = async |name: &str, query: &str| {
        let asked = world.asked(query, "");
        read(world.front.catalog_node(name, &asked).await).1
    };
    let strange = ask(r#"n&"pretty"="""#, "index=1").await;
    assert_eq!(strange, Value::Null);
    let told = ask("n", "index=1&pretty").await;
    assert_eq!(told["Node"]["Node"], "n");
}

/// Many put the same key at once; each success of a compare-and-set is one step.
#[tokio::test]
async fn of_many_who_compare_and_set_at_once_each_step_has_one_winner() {
    let world = world().await;
    assert!(world.put("n", "", "0").await);
    let work = (0..8).map(|_| async {
        let mut won = 0;
        while won < 5 {
            let (_, now) = world.get("n", "").await;
            let value = wire::from_base64(now[0]["Value"].as_str().unwrap()).unwrap();
            let value: u32 = String::from_utf8(value).unwrap().parse().unwrap();
            let query = format!("cas={}", now[0]["ModifyIndex"]);
            won += u32::from(world.put("n", &query, &(value + 1).to_string()).await);
        }
    });
    futures_util::future::join_all(work).await;
    assert_eq!(world.get("n", "").await.1[0]["Value"], wire::base64(b"40"));
}

fn operation() -> impl Strategy<Value = KvOp> {
    let key = prop_oneof!["a", "a/b", "a/c", "d"];
    let verb = prop_oneof![
        "[xy]{0,2}".prop_map(|value| Verb::Set(value.into(), 1)),
        Just(Verb::Cas(b"new".to_vec(), 2, 0)),
        Just(Verb::Delete),
        Just(Verb::DeleteTree),
        Just(Verb::CheckNotExists),
        Just(Verb::Get),
    ];
    (key, verb).prop_map(|(key, verb)| KvOp { key, verb })
}

/// What the operations should leave behind; `None` when they fail.
fn model(mut keys: BTreeMap<String, Vec<u8>>, ops: &[KvOp]) -> Option<BTreeMap<String, Vec<u8>>> {
    for KvOp { key, verb } in ops {
        let there = keys.contains_key(key);
        match verb {
            Verb::Set(value, _) => drop(keys.insert(key.clone(), value.clone())),
            Verb::Cas(..) | Verb::CheckNotExists if there => return None,
            Verb::Cas(value, ..) => drop(keys.insert(key.clone(), value.clone())),
            Verb::Delete => drop(keys.remove(key)),
            Verb::DeleteTree => keys.retain(|known, _| !known.starts_with(key)),
            Verb::Get if !there => return None,
            _ => {}
        }
    }
    Some(keys)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn transactions_leave_what_a_map_would(
        txns in proptest::collection::vec(proptest::collection::vec(operation(), 1..6), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = world().await;
            let mut keys = BTreeMap::new();
            for ops in &txns {
                let done = world.front.run(ops).await.unwrap().is_ok();
                let after = model(keys.clone(), ops);
                assert_eq!(done, after.is_some(), "{ops:?} on {keys:?}");
                keys = after.unwrap_or(keys);
                let (_, all) = world.get("", "recurse").await;
                let all = all.as_array().cloned().unwrap_or_default();
                let all = all.iter().map(|held| {
                    let value = held["Value"].as_str().unwrap_or_default();
                    (held["Key"].as_str().unwrap().to_owned(), wire::from_base64(value).unwrap())
                });
                assert_eq!(all.collect::<BTreeMap<_, _>>(), keys);
            }
        });
    }

    #[test]
    fn what_is_defined_is_shown_as_it_was(
        name in "[A-Za-z]([A-Za-z0-9-]{0,10}[a-z0-9])?",
        id in "[a-zA-Z0-9:._-]{1,20}",
        tags in proptest::collection::vec("[ -~]{0,10}", 0..4),
        meta in proptest::collection::btree_map("[a-zA-Z0-9_-]{1,8}", "[ -~]{0,12}", 0..4),
        port in 0_u16..,
        address in prop_oneof![Just(String::new()), Just("10.1.2.3".to_owned()), "[a-z]{1,8}\\.local"],
        weights in (0_u16.., 0_u16..),
    ) {
        let body = json!({
            "Name": name, "ID": id, "Tags": tags, "Meta": meta, "Port": port, "Address": address,
            "Weights": { "Passing": weights.0, "Warning": weights.1 },
        });
        let fields = Fields::of_body(body.to_string().as_bytes()).unwrap();
        let node = translate::Node { address: "127.0.0.1".to_owned(), ..Default::default() };
        let defined = translate::define(&fields, &node, false).unwrap().registration;
        let instance = atoll_model::Instance {
            id: defined.id, service: defined.service, address: defined.address,
            weight: defined.weight, health: atoll_model::Health::Passing, note: String::new(),
            tags: defined.tags, metadata: defined.metadata,
        };
        let shown = translate::agent_service(&instance, "dc1");
        for (key, was) in [
            ("Service", "Name"), ("ID", "ID"), ("Tags", "Tags"), ("Meta", "Meta"),
            ("Port", "Port"), ("Address", "Address"), ("Weights", "Weights"),
        ] {
            prop_assert_eq!(&shown[key], &body[was], "{}", key);
        }
        // What has no port must take no requests.
        prop_assert!(port != 0 || instance.weight == 0);
    }

    #[test]
    fn no_definition_makes_it_panic(
        key in "(Name|ID|Port|Tags|Meta|Check|Checks|Weights|TaggedAddresses)",
        value in prop_oneof![
            Just(json!(null)), Just(json!(-1)), Just(json!("x")), Just(json!([1])), Just(json!({})),
            Just(json!({ "TTL": "10s", "HTTP": "x" })), Just(json!([{ "HTTP": "http://", "Interval": "1s" }])),
            Just(json!({ "TCP": "[::1]", "Interval": "1s" })), Just(json!({ "HTTP": "http://[::1]?a#b", "Interval": 1 })),
        ],
    ) {
        let mut body = json!({ "Name": "a" });
        body[&key] = value;
        let fields = Fields::of_body(body.to_string().as_bytes()).unwrap();
        let node = translate::Node { address: "127.0.0.1".to_owned(), ..Default::default() };
        for foreign in [false, true] {
            drop(translate::define(&fields, &node, foreign));
        }
    }
}

impl World {
    /// The prepared queries that there are, and the index of their list.
    async fn queries(&self, query: &str) -> (u64, Vec<String>) {
        let asked = self.asked(query, "");
        let (index, list) = read(self.front.query(query::Endpoint::All, &asked).await);
        let names = list.as_array().unwrap().iter();
        let name = |query: &Value| query["Name"].as_str().unwrap().to_owned();
        (index, names.map(name).collect())
    }

    async fn query_of(&self, name: &str, session: &str) {
        let service = json!({ "Service": "web" });
        let body = json!({ "Name": name, "Session": session, "Service": service });
        let mut asked = self.asked("", &body.to_string());
        asked.method = Method::POST;
        assert!(self.front.query(query::Endpoint::All, &asked).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_goes_with_its_session_and_wakes_those_who_watch_the_list() {
    let world = world().await;
    let session = world.session(&json!({ "TTL": "10s" })).await;
    world.query_of("bound", &session).await;
    world.query_of("free", "").await;
    let (index, names) = world.queries("").await;
    assert_eq!(names.len(), 2);
    let began = tokio::time::Instant::now();
    let (later, names) = world.queries(&format!("index={index}")).await;
    assert_eq!(names, ["free"]);
    assert!(later > index);
    // Twice the TTL, as Consul has it.
    assert_eq!(began.elapsed().as_secs(), 20);
    world.query_of("bound", "").await;
}

#[tokio::test(start_paused = true)]
async fn a_query_whose_session_ended_unseen_goes_at_the_start() {
    let tasks = Tasks::root(Clock::system());
    let world = unwatched(&tasks).await;
    let session = world.session(&json!({})).await;
    world.query_of("bound", &session).await;
    let key = format!("{}{session}", keys::SESSIONS);
    world.front.store.delete(&key[..]).await.unwrap();
    let (index, names) = world.queries("").await;
    assert_eq!(names, ["bound"]);
    run(&world.tasks, &world.front, world.front.registry.clone());
    let (_, names) = world.queries(&format!("index={index}")).await;
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test]
async fn no_more_events_are_kept_than_consul_remembers() {
    let world = world().await;
    let fire = events::Endpoint::Fire("many".to_owned());
    for number in 0..300 {
        let asked = world.asked("", &number.to_string());
        assert!(world.front.event(fire.clone(), &asked).await.is_ok());
    }
    let asked = world.asked("", "");
    let (_, list) = read(world.front.event(events::Endpoint::List, &asked).await);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 256);
    assert_eq!(list[255]["Payload"], json!(wire::base64(b"299")));
    let kept = world.front.store.list("consul/events/").await.unwrap();
    assert_eq!(kept.items.len(), 256);
}
