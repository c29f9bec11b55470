//! The whole registry with its tasks: durability, restart, watching, real checks.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test is a failed test"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_model::{Address, Check, Health, InstanceId, Probe, Revision, ServiceName};
use atoll_registry::{
    Change, Entry, InStore, Journal, JournalError, Kept, Memory, Pending, Registration, Registry,
    RegistryError, Settings, Source, WatchEvent, Word,
};
use atoll_runtime::{Clock, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn name(service: &str) -> ServiceName {
    service.parse().unwrap()
}

fn id(id: &str) -> InstanceId {
    id.parse().unwrap()
}

fn registration(service: &str, instance: &str, address: &Address) -> Registration {
    Registration::new(name(service), id(instance), address.clone(), Source::Client)
}

fn somewhere() -> Address {
    "127.0.0.1:1".parse().unwrap()
}

async fn open(journal: Arc<dyn Journal>) -> (Registry, Tasks) {
    let tasks = Tasks::root(Clock::system());
    let registry = Registry::open(journal, &tasks, Settings::default())
        .await
        .unwrap();
    (registry, tasks)
}

async fn until_health(registry: &Registry, service: &str, health: Health) {
    let service = service.to_owned();
    let mut catalog = registry.catalog();
    catalog
        .wait_for(|catalog| {
            let all = catalog.instances(&service);
            !all.is_empty() && all.iter().all(|instance| instance.health == health)
        })
        .await
        .unwrap();
}

/// Keeps entries in memory and refuses while `broken`.
#[derive(Default)]
struct Fickle {
    memory: Memory,
    broken: AtomicBool,
    writes: Mutex<Vec<Vec<Entry>>>,
}

impl Journal for Fickle {
    fn load(&self) -> Pending<'_, Result<Kept, JournalError>> {
        self.memory.load()
    }

    fn write(&self, entries: Vec<Entry>) -> Pending<'_, Result<(), JournalError>> {
        if self.broken.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(JournalError(
                "disk full".to_owned(),
            ))));
        }
        self.writes.lock().unwrap().push(entries.clone());
        self.memory.write(entries)
    }
}

#[tokio::test]
async fn clients_survive_a_restart_and_fleet_and_config_do_not() {
    let journal = Arc::new(Memory::default());
    let (registry, tasks) = open(journal.clone()).await;
    let mut client = registration("users", "u1", &somewhere());
    client.lease = Some(Duration::from_secs(1));
    registry.register(client).await.unwrap();
    for source in [Source::Fleet, Source::Config] {
        let mut other = registration("users", &format!("{source:?}"), &somewhere());
        other.source = source;
        registry.register(other).await.unwrap();
    }
    let gone = registration("users", "gone", &somewhere());
    registry.register(gone).await.unwrap();
    registry
        .deregister(name("users"), id("gone"), Source::Client)
        .await
        .unwrap();
    let word = Word::Forced(Some(Health::Warning));
    let last = registry
        .report_health(name("users"), id("u1"), word)
        .await
        .unwrap();
    tasks.stop(Duration::from_secs(10)).await.unwrap();
    let closed = registry.renew(name("users"), id("u1")).await;
    assert_eq!(closed, Err(RegistryError::Closed));

    let (registry, _tasks) = open(journal).await;
    let catalog = registry.current();
    let all = catalog.instances("users");
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].id.as_str(), all[0].health), ("u1", Health::Warning));
    assert!(catalog.revision > last, "revisions never go back");
    let detail = registry.detail(name("users"), id("u1")).await.unwrap();
    assert!(
        detail.expires_in.unwrap() > Duration::from_secs(25),
        "the grace period"
    );
}

#[tokio::test]
async fn a_registration_that_is_not_durable_is_not_acknowledged_but_is_kept_later() {
    let journal = Arc::new(Fickle::default());
    let (registry, tasks) = open(journal.clone()).await;
    journal.broken.store(true, Ordering::SeqCst);
    let refused = registry
        .register(registration("users", "u1", &somewhere()))
        .await;
    assert!(
        matches!(refused, Err(RegistryError::NotDurable(_))),
        "{refused:?}"
    );
    assert!(registry.get(&name("users"), &id("u1")).is_some());
    // Saying the same again must not be acknowledged either.
    let again = registry
        .register(registration("users", "u1", &somewhere()))
        .await;
    assert!(matches!(again, Err(RegistryError::NotDurable(_))));
    journal.broken.store(false, Ordering::SeqCst);
    tasks.stop(Duration::from_secs(10)).await.unwrap();
    let (registry, _tasks) = open(journal).await;
    assert!(registry.get(&name("users"), &id("u1")).is_some());
}

#[tokio::test]
async fn renewals_do_not_touch_the_disk() {
    let journal = Arc::new(Fickle::default());
    let (registry, _tasks) = open(journal.clone()).await;
    let mut client = registration("users", "u1", &somewhere());
    client.lease = Some(Duration::from_secs(30));
    let revision = registry.register(client).await.unwrap();
    let writes = journal.writes.lock().unwrap().len();
    for _ in 0..1000 {
        registry.renew(name("users"), id("u1")).await.unwrap();
    }
    assert_eq!(journal.writes.lock().unwrap().len(), writes);
    assert_eq!(registry.current().revision, revision);
}

#[tokio::test]
async fn a_registration_is_in_the_catalogue_of_the_revision_that_it_was_given() {
    let (registry, _tasks) = open(Arc::new(Memory::default())).await;
    let jobs: Vec<_> = (0..100)
        .map(|number| {
            let registry = registry.clone();
            async move {
                let instance = format!("u{number}");
                let revision = registry
                    .register(registration("users", &instance, &somewhere()))
                    .await
                    .unwrap();
                let catalog = registry.wait_for(revision).await.unwrap();
                let ids: Vec<_> = catalog
                    .instances("users")
                    .iter()
                    .map(|i| i.id.as_str())
                    .collect();
                assert!(ids.contains(&instance.as_str()));
                assert!(ids.is_sorted());
            }
        })
        .collect();
    futures_util::future::join_all(jobs).await;
    assert!(registry.current().revision.0 < 100, "a burst is merged");
}

#[tokio::test]
async fn a_watcher_is_told_everything_once_and_then_what_changes() {
    let (registry, _tasks) = open(Arc::new(Memory::default())).await;
    let first = registry
        .register(registration("users", "u1", &somewhere()))
        .await
        .unwrap();
    let mut watch = registry.watch(Revision(0));
    match watch.next().await.unwrap() {
        WatchEvent::Resync(catalog) => assert_eq!(catalog.instances("users").len(), 1),
        other => panic!("{other:?}"),
    }
    registry
        .register(registration("users", "u2", &somewhere()))
        .await
        .unwrap();
    registry
        .deregister(name("users"), id("u1"), Source::Client)
        .await
        .unwrap();
    let mut changes = Vec::new();
    while changes.len() < 2 {
        match watch.next().await.unwrap() {
            WatchEvent::Changes { changes: more, .. } => changes.extend(more),
            WatchEvent::Resync(_) => panic!("nothing was missed"),
        }
    }
    assert!(matches!(&changes[0], Change::Put(instance) if instance.id == id("u2")));
    assert!(matches!(&changes[1], Change::Gone { id: gone, .. } if *gone == id("u1")));

    // Somebody who saw `first` is told the same; who comes from the future begins again.
    match registry.watch(first).next().await.unwrap() {
        WatchEvent::Changes { changes: same, .. } => assert_eq!(same, changes),
        WatchEvent::Resync(_) => panic!("nothing was missed"),
    }
    let future = registry.watch(Revision(u64::MAX - 1)).next().await.unwrap();
    assert!(matches!(future, WatchEvent::Resync(_)));
}

#[tokio::test]
async fn a_watcher_of_an_empty_registry_is_told_so_at_once() {
    let (registry, _tasks) = open(Arc::new(Memory::default())).await;
    let mut watch = registry.watch(Revision(0));
    match watch.next().await.unwrap() {
        WatchEvent::Resync(catalog) => assert!(catalog.services.is_empty()),
        other => panic!("{other:?}"),
    }
    let first = registry
        .register(registration("users", "u1", &somewhere()))
        .await
        .unwrap();
    match watch.next().await.unwrap() {
        WatchEvent::Resync(catalog) => assert_eq!(catalog.revision, first),
        WatchEvent::Changes { revision, .. } => assert_eq!(revision, first),
    }
}

#[tokio::test]
async fn a_burst_is_kept_in_the_store_and_read_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let tasks = Tasks::root(Clock::system());
        let store = atoll_store::embedded::open(
            dir.path().join("store"),
            atoll_store::embedded::Options::default(),
            &tasks.group("store"),
        )
        .await
        .unwrap();
        let journal = Arc::new(InStore::new(store));
        let registry = Registry::open(journal, &tasks, Settings::default())
            .await
            .unwrap();
        if round == 0 {
            let jobs = (0..1000).map(|number| {
                let instance = registration("users", &format!("u{number}"), &somewhere());
                registry.register(instance)
            });
            for result in futures_util::future::join_all(jobs).await {
                result.unwrap();
            }
            let gone = (name("users"), id("u7"));
            registry
                .deregister(gone.0, gone.1, Source::Client)
                .await
                .unwrap();
        } else {
            assert_eq!(registry.current().instances("users").len(), 999);
            assert!(registry.get(&name("users"), &id("u7")).is_none());
        }
        tasks.stop(Duration::from_secs(20)).await.unwrap();
    }
}

/// A server that answers with the status that is set, and keeps what it was asked.
struct Server {
    address: Address,
    status: Arc<AtomicU16>,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: Tasks,
}

async fn server() -> Server {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap().into();
    let status = Arc::new(AtomicU16::new(200));
    let heads = Arc::new(Mutex::new(Vec::new()));
    let tasks = Tasks::root(Clock::system());
    let (answer, seen) = (status.clone(), heads.clone());
    drop(tasks.once("server", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 2048];
            let read = stream.read(&mut head).await.unwrap();
            seen.lock()
                .unwrap()
                .push(String::from_utf8_lossy(&head[..read]).into_owned());
            let status = answer.load(Ordering::SeqCst);
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nwhy?");
            // The prober may have gone away.
            drop(stream.write_all(answer.as_bytes()).await);
        }
        #[expect(unreachable_code, reason = "gives the endless block a type")]
        Ok::<(), Infallible>(())
    }));
    Server {
        address,
        status,
        heads,
        _tasks: tasks,
    }
}

fn quick(probe: Probe) -> Check {
    let mut check = Check::new(probe);
    check.interval = Duration::from_millis(20);
    check.start_interval = Duration::from_millis(20);
    check.start_period = Duration::ZERO;
    check
}

#[tokio::test]
async fn an_http_check_follows_what_the_instance_answers() {
    let server = server().await;
    let (registry, _tasks) = open(Arc::new(Memory::default())).await;
    let mut instance = registration("users", "u1", &server.address);
    instance.checks = vec![quick(Probe::Http {
        path: "/healthz?deep=1".to_owned(),
    })];
    registry.register(instance).await.unwrap();
    until_health(&registry, "users", Health::Passing).await;
    server.status.store(503, Ordering::SeqCst);
    until_health(&registry, "users", Health::Critical).await;
    let critical = registry.get(&name("users"), &id("u1")).unwrap();
    assert_eq!(
        critical.note,
        "GET /healthz?deep=1: 503 Service Unavailable: why?"
    );
    server.status.store(429, Ordering::SeqCst);
    until_health(&registry, "users", Health::Warning).await;
    server.status.store(204, Ordering::SeqCst);
    until_health(&registry, "users", Health::Passing).await;
    let detail = registry.detail(name("users"), id("u1")).await.unwrap();
    assert!(detail.checks[0].last.is_some());
    assert_eq!(detail.checks[0].failures, 0);

    let head = server.heads.lock().unwrap()[0].to_lowercase();
    assert!(
        head.starts_with("get /healthz?deep=1 http/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("user-agent: atoll-health/0.1\r\n"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert!(
        head.contains(&format!("host: {}\r\n", server.address)),
        "{head}"
    );
}

#[tokio::test]
async fn a_tcp_check_passes_while_somebody_listens() {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let address: Address = listener.local_addr().unwrap().into();
    let (registry, _tasks) = open(Arc::new(Memory::default())).await;
    let mut instance = registration("users", "u1", &address);
    instance.checks = vec![quick(Probe::Tcp)];
    registry.register(instance).await.unwrap();
    until_health(&registry, "users", Health::Passing).await;
    drop(listener);
    until_health(&registry, "users", Health::Critical).await;
    let critical = registry.get(&name("users"), &id("u1")).unwrap();
    assert!(
        critical.note.contains("no connection to"),
        "{}",
        critical.note
    );
}

#[tokio::test]
async fn a_check_that_hangs_fails_after_its_timeout() {
    // It is connected by the kernel and never answered.
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let address: Address = listener.local_addr().unwrap().into();
    let (registry, _tasks) = open(Arc::new(Memory::default())).await;
    let mut instance = registration("users", "u1", &address);
    let mut check = quick(Probe::Http {
        path: "/".to_owned(),
    });
    check.timeout = Duration::from_millis(20);
    instance.checks = vec![check];
    registry.register(instance).await.unwrap();
    until_health(&registry, "users", Health::Critical).await;
    let critical = registry.get(&name("users"), &id("u1")).unwrap();
    assert!(
        critical.note.contains("did not answer within 20 ms"),
        "{}",
        critical.note
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_instance_leaves_the_catalogue_when_its_lease_ends() {
    let (registry, _tasks) = open(Arc::new(Memory::default())).await;
    let mut instance = registration("users", "u1", &somewhere());
    instance.lease = Some(Duration::from_secs(30));
    registry.register(instance).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut catalog = registry.catalog();
    catalog
        .wait_for(|catalog| catalog.instances("users").is_empty())
        .await
        .unwrap();
    let lived = begun.elapsed();
    assert!(
        lived >= Duration::from_secs(30) && lived < Duration::from_secs(31),
        "{lived:?}"
    );
}

/// What a peer that is no proper server does after it was asked.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Says this and keeps the connection open.
    Holds(&'static str),
    /// Says the first, then the second again and again.
    Repeats(&'static str, &'static str),
    /// Says this and closes.
    Closes(&'static str),
}

async fn strange(manner: Manner) -> (Address, Tasks) {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap().into();
    let tasks = Tasks::root(Clock::system());
    let group = tasks.clone();
    drop(tasks.once("server", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(group.once("connection", async move {
                let mut head = vec![0; 2048];
                drop(stream.read(&mut head).await);
                let (first, rest) = match manner {
                    Manner::Holds(text) | Manner::Closes(text) => (text, ""),
                    Manner::Repeats(text, rest) => (text, rest),
                };
                drop(stream.write_all(first.as_bytes()).await);
                while !rest.is_empty() && stream.write_all(rest.as_bytes()).await.is_ok() {}
                if matches!(manner, Manner::Holds(_)) {
                    // Until the prober has had enough.
                    drop(stream.read(&mut head).await);
                }
            }));
        }
    }));
    (address, tasks)
}

#[tokio::test]
async fn answers_of_every_kind_are_judged_within_bounds() {
    use Manner::{Closes, Holds, Repeats};
    let table = [
        // Keeps alive although it was asked to close.
        (
            Holds("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            Health::Passing,
            ": 200 OK: ok",
        ),
        (
            Closes("HTTP/1.0 200 OK\r\n\r\nold"),
            Health::Passing,
            ": 200 OK: old",
        ),
        // A body without end is cut; the status has said it all.
        (
            Repeats("HTTP/1.1 200 OK\r\n\r\n", "more and more "),
            Health::Passing,
            "more and more",
        ),
        (
            Repeats("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"),
            Health::Critical,
            "broke the exchange off",
        ),
        (
            Repeats("", "HTTP/1.1 100 Continue\r\n\r\n"),
            Health::Critical,
            "did not answer within",
        ),
        (
            Holds("HTTP/1.1 200 OK\r\nContent-"),
            Health::Critical,
            "did not answer within",
        ),
        (
            Closes("SSH-2.0-OpenSSH_9.9\r\n"),
            Health::Critical,
            "broke the exchange off",
        ),
        (Closes(""), Health::Critical, "broke the exchange off"),
    ];
    for (manner, health, note) in table {
        let (address, _server) = strange(manner).await;
        let (registry, _tasks) = open(Arc::new(Memory::default())).await;
        let mut instance = registration("users", "u1", &address);
        let mut check = quick(Probe::Http {
            path: "/".to_owned(),
        });
        // Short only where it is what ends the wait.
        check.timeout = match note {
            "did not answer within" => Duration::from_millis(200),
            _ => Duration::from_secs(30),
        };
        check.failures_before_critical = 1;
        instance.checks = vec![check];
        registry.register(instance).await.unwrap();
        let settled = async {
            let mut catalog = registry.catalog();
            let settled = |catalog: &Arc<atoll_model::Catalog>| {
                catalog.instances("users")[0].health != Health::Starting
            };
            catalog.wait_for(settled).await.unwrap().instances("users")[0].clone()
        };
        let judged = tokio::time::timeout(Duration::from_secs(30), settled).await;
        let judged = judged.unwrap_or_else(|_| panic!("{manner:?}: no verdict"));
        assert_eq!(judged.health, health, "{manner:?}: {}", judged.note);
        assert!(judged.note.contains(note), "{manner:?}: {}", judged.note);
        assert!(judged.note.len() <= 200);
    }
}
