//! etcd goes away and comes back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atoll_model::FaultKind;
use atoll_runtime::{Clock, Task, Tasks};
use atoll_store::{Key, Span, Standing, Store, StoreError, Watch, etcd};

use crate::server::Etcd;
use crate::{alone, events, soon, until_away};

/// What a call may take when nobody answers, with some slack for this machine.
const CALL_MOST: Duration = Duration::from_secs(8);

/// The values that come until `last` does.
async fn values_until(watch: &mut Watch, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seen| seen != last) {
        for event in events(watch).await {
            let value = event.after.unwrap().value.to_vec();
            seen.push(String::from_utf8(value).unwrap());
        }
    }
    seen
}

#[tokio::test]
async fn while_etcd_is_dead_writes_fail_at_once_and_watches_wait() {
    let (store, (_tasks, mut etcd)) = alone().await;
    let mut standing = store.standing();
    let begin = store.list("").await.unwrap().revision;
    let mut watch = store.watch("k", begin).await.unwrap();
    store.put("k", "before").await.unwrap();
    etcd.kill();
    until_away(&mut standing, true).await;
    let Standing::Away { why, .. } = standing.borrow().clone() else {
        panic!("it is away");
    };
    assert!(why.contains(&etcd.url()), "{why}");
    let begun = Instant::now();
    let error = store.put("k", "lost").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(error.kind(), FaultKind::Unavailable);
    assert!(store.list("").await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(1), "known to be away");
    etcd.run_again();
    until_away(&mut standing, false).await;
    store.put("k", "after").await.unwrap();
    assert_eq!(values_until(&mut watch, "after").await, ["before", "after"]);
}

/// A process that is stopped keeps its connections and says nothing, as one behind
/// a network that drops everything.
#[tokio::test]
async fn while_etcd_is_silent_nothing_hangs() {
    let (store, (_tasks, etcd)) = alone().await;
    let mut standing = store.standing();
    let begin = store.put("k", "0").await.unwrap();
    let mut watch = store.watch("k", begin).await.unwrap();
    etcd.signal("STOP");
    let begun = Instant::now();
    let error = store.put("k", "1").await.unwrap_err();
    // It may be done when etcd wakes up.
    assert!(matches!(error, StoreError::Uncertain { .. }), "{error}");
    assert!(begun.elapsed() < CALL_MOST, "{:?}", begun.elapsed());
    until_away(&mut standing, true).await;
    let begun = Instant::now();
    let error = store.get("k").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    etcd.signal("CONT");
    until_away(&mut standing, false).await;
    store.put("k", "2").await.unwrap();
    let values = values_until(&mut watch, "2").await;
    assert!(values == ["2"] || values == ["1", "2"], "{values:?}");
}

#[tokio::test]
async fn being_away_is_noticed_within_three_seconds() {
    let (store, (_tasks, etcd)) = alone().await;
    let mut standing = store.standing();
    etcd.signal("STOP");
    let begun = Instant::now();
    until_away(&mut standing, true).await;
    // A second more, for a machine that is busy.
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    etcd.signal("CONT");
}

/// Puts keys until it is told to stop; what was acknowledged, and what may be there.
async fn write(store: Store, stop: Arc<AtomicBool>) -> (BTreeSet<Key>, BTreeSet<Key>) {
    let (mut done, mut unsure) = (BTreeSet::new(), BTreeSet::new());
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = Key::from(format!("k/{number:06}"));
        match store.put(key.clone(), "").await {
            Ok(_) => drop(done.insert(key)),
            Err(StoreError::Uncertain { .. }) => drop(unsure.insert(key)),
            Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
    (done, unsure)
}

/// One who writes and one who watches, while a test does harm.
struct Audit {
    store: Store,
    watch: Watch,
    seen: Vec<Key>,
    stop: Arc<AtomicBool>,
    writer: Task<(BTreeSet<Key>, BTreeSet<Key>)>,
}

impl Audit {
    async fn start(store: &Store, tasks: &Tasks) -> Self {
        let begin = store.list("").await.unwrap().revision;
        let watch = store.watch(Span::all(), begin).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tasks.once("writer", write(store.clone(), Arc::clone(&stop)));
        Self {
            store: store.clone(),
            watch,
            seen: Vec::new(),
            stop,
            writer,
        }
    }

    /// Waits until fifty more changes have come.
    async fn goes_on(&mut self) {
        let until = self.seen.len() + 50;
        while self.seen.len() < until {
            self.see().await;
        }
    }

    async fn see(&mut self) {
        let events = events(&mut self.watch).await;
        self.seen.extend(events.into_iter().map(|event| event.key));
    }

    /// Nothing acknowledged was lost, nothing was seen twice, nothing came from nowhere.
    async fn check(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let (done, unsure) = soon("the writer", &mut self.writer).await.unwrap();
        self.store.put("last", "").await.unwrap();
        while self.seen.last() != Some(&"last".into()) {
            self.see().await;
        }
        let once: BTreeSet<Key> = self.seen.iter().cloned().collect();
        assert_eq!(once.len(), self.seen.len(), "each was put once");
        let there = self.store.list("").await.unwrap().items;
        let there: BTreeSet<Key> = there.iter().map(|kv| kv.key.clone()).collect();
        assert_eq!(once, there);
        assert!(there.is_superset(&done), "acknowledged and lost");
        let surplus = there.difference(&done).filter(|key| !unsure.contains(*key));
        assert_eq!(surplus.collect::<Vec<_>>(), [&Key::from("last")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_nothing_acknowledged_is_lost_and_nothing_is_seen_twice() {
    let (store, (tasks, mut etcd)) = alone().await;
    let mut standing = store.standing();
    let mut audit = Audit::start(&store, &tasks).await;
    for _ in 0..3 {
        audit.goes_on().await;
        etcd.kill();
        until_away(&mut standing, true).await;
        etcd.run_again();
        until_away(&mut standing, false).await;
    }
    audit.goes_on().await;
    audit.check().await;
}

/// Each member in turn, the one that leads among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_without_any_one_of_its_members_but_not_without_two() {
    let mut members = Etcd::cluster(3);
    let mut options = members[0].options("/atoll");
    let urls = members.iter().map(|member| member.url().parse().unwrap());
    options.endpoints = urls.collect();
    let tasks = Tasks::root(Clock::system());
    let store = etcd::open(options, &tasks).await.unwrap();
    let mut standing = store.standing();
    let mut audit = Audit::start(&store, &tasks).await;
    for member in &mut members {
        audit.goes_on().await;
        member.kill();
        audit.goes_on().await;
        member.run_again();
    }
    audit.goes_on().await;
    until_away(&mut standing, false).await;
    audit.check().await;
    members[0].kill();
    members[1].kill();
    until_away(&mut standing, true).await;
    let begun = Instant::now();
    let error = store.put("a", "").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    members[1].run_again();
    until_away(&mut standing, false).await;
    store.put("a", "").await.unwrap();
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let etcd = Etcd::start();
    let mut dead = Etcd::start();
    dead.kill();
    let mut options = etcd.options("/atoll");
    options.endpoints.insert(0, dead.url().parse().unwrap());
    let tasks = Tasks::root(Clock::system());
    let store = etcd::open(options, &tasks).await.unwrap();
    let begin = store.put("a", "1").await.unwrap();
    let mut watch = store.watch("a", begin).await.unwrap();
    store.put("a", "2").await.unwrap();
    assert_eq!(values_until(&mut watch, "2").await, ["2"]);
    assert_eq!(*store.standing().borrow(), Standing::Ready);
}

#[tokio::test]
async fn without_etcd_the_start_fails_and_names_the_endpoints() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let tasks = Tasks::root(Clock::system());
    let opened = soon("an error", etcd::open(etcd.options("/atoll"), &tasks)).await;
    let error = opened.unwrap_err().to_string();
    assert!(error.contains(&etcd.url()), "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let (store, (tasks, _etcd)) = alone().await;
    let begin = store.put("a", "").await.unwrap();
    let mut watch = store.watch("a", begin).await.unwrap();
    tasks.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!(watch.next().await, Err(StoreError::Closed));
    assert_eq!(store.put("a", "").await, Err(StoreError::Closed));
    assert_eq!(store.list("").await, Err(StoreError::Closed));
}
