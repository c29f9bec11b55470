//! Random histories against a model that is too simple to be wrong: a whole map for
//! each revision. Transactions, leases, time, compaction, restarts, watches.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic as it may"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Clock, Tasks};
use atoll_store::embedded::{self, Options};
use atoll_store::{Key, KeyValue, LeaseId, Op, Range, Span, Store, StoreError, Test, Txn};
use proptest::prelude::*;

/// Histories tried in memory; each restart of those on disk syncs, so those are fewer.
const CASES_IN_MEMORY: u32 = 192;
const CASES_ON_DISK: u32 = 24;

const TTL: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum Step {
    /// Conditions on keys that exist or not; puts, with the nth lease; deletions.
    Txn(Vec<(u8, bool)>, Vec<Change>, Vec<Change>),
    Grant,
    KeepAlive(usize),
    Revoke(usize),
    /// Seconds pass.
    Wait(u8),
    /// So many revisions back.
    Compact(u8),
    Restart,
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8, u8, Option<usize>),
    Delete(u8),
    DeletePrefix(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..12_u8, any::<u8>(), proptest::option::weighted(0.3, 0..4_usize))
            .prop_map(|(key, value, lease)| Change::Put(key, value, lease)),
        2 => (0..12_u8).prop_map(Change::Delete),
        1 => (0..3_u8).prop_map(Change::DeletePrefix),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes = || proptest::collection::vec(change(), 0..4);
    let conditions = proptest::collection::vec((0..12_u8, any::<bool>()), 0..2);
    prop_oneof![
        12 => (conditions, changes(), changes()).prop_map(|(c, t, o)| Step::Txn(c, t, o)),
        2 => Just(Step::Grant),
        2 => (0..4_usize).prop_map(Step::KeepAlive),
        1 => (0..4_usize).prop_map(Step::Revoke),
        2 => (1..8_u8).prop_map(Step::Wait),
        1 => (0..6_u8).prop_map(Step::Compact),
        1 => Just(Step::Restart),
    ]
}

/// Keys come in three families, so that prefixes hold some of them.
fn key(number: u8) -> String {
    format!("{}/{number}", number % 3)
}

#[derive(Default)]
struct Model {
    /// The whole store at each revision.
    states: Vec<BTreeMap<Key, KeyValue>>,
    compacted: usize,
    /// Each lease and the seconds that are left of it.
    leases: BTreeMap<LeaseId, Duration>,
    granted: Vec<LeaseId>,
}

impl Model {
    fn new() -> Self {
        Self {
            // Revision 0 never was; the store begins at 1.
            states: vec![BTreeMap::new(); 2],
            ..Self::default()
        }
    }

    fn revision(&self) -> usize {
        self.states.len() - 1
    }

    fn now(&self) -> &BTreeMap<Key, KeyValue> {
        &self.states[self.revision()]
    }

    fn lease(&self, nth: usize) -> LeaseId {
        let unknown = LeaseId(u64::MAX >> 1);
        self.granted
            .iter()
            .rev()
            .nth(nth)
            .copied()
            .unwrap_or(unknown)
    }

    /// The list of operations and what they must lead to.
    fn run(&self, changes: &[Change]) -> (Vec<Op>, Result<BTreeMap<Key, KeyValue>, StoreError>) {
        let mut next = self.now().clone();
        let revision = Revision(self.states.len() as u64);
        let mut error = None;
        let mut ops = Vec::new();
        let mut written = BTreeSet::new();
        for change in changes {
            match change {
                Change::Put(number, value, lease) => {
                    let name = Key::from(key(*number));
                    if !written.insert(name.clone()) {
                        continue;
                    }
                    let lease = lease.map(|nth| self.lease(nth));
                    let value = vec![*value];
                    ops.push(Op::Put {
                        key: name.clone(),
                        value: value.clone().into(),
                        lease,
                    });
                    let unknown = lease.filter(|lease| !self.leases.contains_key(lease));
                    error = error.or(unknown.map(StoreError::LeaseNotFound));
                    let before = next.get(&name);
                    let kv = KeyValue {
                        key: name.clone(),
                        value: value.into(),
                        create_revision: before.map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: before.map_or(0, |kv| kv.version) + 1,
                        lease,
                    };
                    next.insert(name, kv);
                }
                Change::Delete(number) => {
                    let name = Key::from(key(*number));
                    if written.insert(name.clone()) {
                        next.remove(&name);
                        ops.push(Op::Delete(name.into()));
                    }
                }
                Change::DeletePrefix(family) => {
                    let prefix = format!("{family}/");
                    let within = |key: &Key| key.starts_with(prefix.as_bytes());
                    if !written.iter().any(within) {
                        next.retain(|key, _| !within(key));
                        written.extend((0..12).map(|n| Key::from(key(n))).filter(within));
                        ops.push(Op::Delete(Span::prefix(&prefix)));
                    }
                }
            }
        }
        (ops, error.map_or(Ok(next), Err))
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let mut next = self.now().clone();
        next.retain(|_, kv| kv.lease != Some(lease));
        self.advance(next);
    }

    fn advance(&mut self, next: BTreeMap<Key, KeyValue>) {
        // A put always changes the revision of its key, so that equal is unchanged.
        if next != *self.now() {
            self.states.push(next);
        }
    }
}

struct World {
    tasks: Tasks,
    store: Store,
    dir: Option<tempfile::TempDir>,
    model: Model,
}

fn options() -> Options {
    Options {
        lease_grace: Duration::ZERO,
        ..Options::default()
    }
}

impl World {
    async fn new(on_disk: bool) -> Self {
        let tasks = Tasks::root(Clock::system());
        let dir = on_disk.then(|| tempfile::tempdir().unwrap());
        let store = match &dir {
            Some(dir) => embedded::open(dir.path(), options(), &tasks).await.unwrap(),
            None => embedded::in_memory(options(), &tasks),
        };
        Self {
            tasks,
            store,
            dir,
            model: Model::new(),
        }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Txn(conditions, then, otherwise) => self.txn(conditions, then, otherwise).await,
            Step::Grant => {
                let lease = self.store.grant(TTL).await.unwrap();
                self.model.leases.insert(lease.id, TTL);
                self.model.granted.push(lease.id);
            }
            Step::KeepAlive(nth) => {
                let id = self.model.lease(*nth);
                let kept = self.store.keep_alive(id).await;
                assert_eq!(kept.is_ok(), self.model.leases.contains_key(&id));
                self.model.leases.entry(id).and_modify(|left| *left = TTL);
            }
            Step::Revoke(nth) => {
                let id = self.model.lease(*nth);
                let revoked = self.store.revoke(id).await;
                if self.model.leases.contains_key(&id) {
                    self.model.end(id);
                    assert_eq!(revoked.unwrap().0, self.model.revision() as u64);
                } else {
                    assert_eq!(revoked, Err(StoreError::LeaseNotFound(id)));
                }
            }
            Step::Wait(seconds) => self.wait(Duration::from_secs(u64::from(*seconds))).await,
            Step::Compact(back) => {
                let to = self.model.revision().saturating_sub(usize::from(*back));
                let done = self.store.compact(Revision(to as u64)).await;
                assert_eq!(done.is_ok(), to > self.model.compacted, "{done:?}");
                self.model.compacted = self.model.compacted.max(to);
            }
            Step::Restart => self.restart().await,
        }
        let now = self.store.list("").await.unwrap();
        let found: Vec<_> = now.items.iter().map(|kv| (**kv).clone()).collect();
        let expected: Vec<_> = self.model.now().values().cloned().collect();
        assert_eq!(found, expected);
        assert_eq!(now.revision.0, self.model.revision() as u64);
    }

    async fn txn(&mut self, conditions: &[(u8, bool)], then: &[Change], otherwise: &[Change]) {
        let holds = |(number, exists): &(u8, bool)| {
            self.model.now().contains_key(key(*number).as_bytes()) == *exists
        };
        let held = conditions.iter().all(holds);
        let (then, after_then) = self.model.run(then);
        let (otherwise, after_otherwise) = self.model.run(otherwise);
        let mut txn = Txn::of(then).or_else(otherwise);
        for (number, exists) in conditions {
            let test = if *exists { Test::Exists } else { Test::Missing };
            txn = txn.when(key(*number), test);
        }
        let expected = if held { after_then } else { after_otherwise };
        let found = self.store.commit(txn).await;
        match expected {
            Ok(next) => {
                self.model.advance(next);
                let reply = found.unwrap();
                assert_eq!(reply.held, held);
                assert_eq!(reply.revision.0, self.model.revision() as u64);
            }
            Err(error) => assert_eq!(found, Err(error)),
        }
    }

    /// One second after another, so that leases end in the order of their ends.
    async fn wait(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            tokio::time::advance(Duration::from_secs(1)).await;
            let left = self.model.leases.values_mut();
            left.for_each(|left| *left = left.saturating_sub(Duration::from_secs(1)));
            let ended: Vec<_> = self
                .model
                .leases
                .iter()
                .filter(|(_, left)| left.is_zero())
                .collect();
            let ended: Vec<LeaseId> = ended.into_iter().map(|(id, _)| *id).collect();
            for lease in ended {
                self.model.end(lease);
            }
            // Any write makes the store look at the time first.
            let settled = self.store.delete("none").await.unwrap();
            assert_eq!(settled.0, self.model.revision() as u64);
        }
    }

    async fn restart(&mut self) {
        let Some(dir) = &self.dir else { return };
        self.tasks.stop(Duration::from_secs(60)).await.unwrap();
        self.tasks = Tasks::root(Clock::system());
        let opened = embedded::open(dir.path(), options(), &self.tasks).await;
        self.store = opened.unwrap();
        self.model.leases.values_mut().for_each(|left| *left = TTL);
    }

    /// Every kept revision can be read and watched from; every other is refused.
    async fn check_history(&self) {
        let model = &self.model;
        for revision in 1..=model.revision() {
            let range = Range::of(Span::all()).at(Revision(revision as u64));
            let found = self.store.read(range).await;
            if revision < model.compacted {
                assert!(found.unwrap_err().wants_resync());
                continue;
            }
            let items: Vec<_> = found.unwrap().items;
            let items: Vec<_> = items.iter().map(|kv| (**kv).clone()).collect();
            let expected: Vec<_> = model.states[revision].values().cloned().collect();
            assert_eq!(items, expected, "at {revision}");
        }
        for family in 0..3 {
            self.check_watch(&format!("{family}/")).await;
        }
    }

    async fn check_watch(&self, prefix: &str) {
        let model = &self.model;
        let after = model.compacted.max(1);
        let span = Span::prefix(prefix);
        let watched = self.store.watch(span.clone(), Revision(after as u64)).await;
        let mut watch = watched.unwrap();
        for revision in after + 1..=model.revision() {
            let (old, new) = (&model.states[revision - 1], &model.states[revision]);
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            let differs = |key: &&&Key| old.get(**key) != new.get(**key) && span.holds(key);
            let expected: Vec<_> = keys
                .iter()
                .filter(differs)
                .map(|key| {
                    (
                        (*key).clone(),
                        old.get(*key).cloned(),
                        new.get(*key).cloned(),
                    )
                })
                .collect();
            if expected.is_empty() {
                continue;
            }
            let changes = watch.next().await.unwrap();
            assert_eq!(changes.revision.0, revision as u64);
            let found: Vec<_> = changes
                .events
                .iter()
                .map(|event| {
                    let own = |kv: &std::sync::Arc<KeyValue>| (**kv).clone();
                    let before = event.before.as_ref().map(own);
                    (event.key.clone(), before, event.after.as_ref().map(own))
                })
                .collect();
            assert_eq!(found, expected, "revision {revision}");
        }
    }
}

fn run(steps: &[Step], on_disk: bool) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(on_disk).await;
        for step in steps {
            world.step(step).await;
        }
        world.check_history().await;
        world.tasks.stop(Duration::from_secs(60)).await.unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES_IN_MEMORY, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_in_memory_is_as_the_model_says(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        run(&steps, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES_ON_DISK, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_on_disk_with_restarts_is_as_the_model_says(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        run(&steps, true);
    }
}
