//! Random histories, done to the embedded store and to etcd: both must say the same,
//! whatever is asked of them. (`tests/model.rs` holds the embedded one to a model.)

use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Clock, Tasks};
use atoll_store::embedded;
use atoll_store::{
    Changes, Event, KeyValue, LeaseId, Op, OpReply, Order, Range, Span, Store, StoreError, Test,
    Txn, TxnReply,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::server::Etcd;
use crate::soon;

const CASES: u32 = 24;
const STEPS_MAX: usize = 40;
/// Nothing expires here: time is what the two have not in common.
const TTL: Duration = Duration::from_secs(3_600);

#[derive(Clone, Debug)]
enum Step {
    Txn(Vec<(u8, Ask)>, Vec<Do>, Vec<Do>),
    Grant,
    KeepAlive(usize),
    Revoke(usize),
    /// So many revisions back.
    Compact(u64),
    Read(u8, u8, Option<usize>, Option<u64>),
}

#[derive(Clone, Debug)]
enum Ask {
    Exists,
    Missing,
    Value(Order, u8),
    Version(Order, u64),
    /// So many revisions back.
    Changed(Order, u64),
    Created(Order, u64),
}

#[derive(Clone, Debug)]
enum Do {
    Put(u8, u8, Option<usize>),
    Delete(u8),
    DeleteFrom(u8, u8),
    DeletePrefix(u8),
    Get(u8),
    GetPrefix(u8),
}

fn key(number: u8) -> String {
    format!("{}/{number}", number % 3)
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Equal),
        Just(Order::NotEqual),
        Just(Order::Greater),
        Just(Order::Less),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        Just(Ask::Exists),
        Just(Ask::Missing),
        (order(), 0..4_u8).prop_map(|(order, value)| Ask::Value(order, value)),
        (order(), 0..4_u64).prop_map(|(order, version)| Ask::Version(order, version)),
        (order(), 0..6_u64).prop_map(|(order, back)| Ask::Changed(order, back)),
        (order(), 0..6_u64).prop_map(|(order, back)| Ask::Created(order, back)),
    ]
}

fn deed() -> impl Strategy<Value = Do> {
    prop_oneof![
        6 => (0..9_u8, 0..4_u8, proptest::option::weighted(0.3, 0..3_usize))
            .prop_map(|(key, value, lease)| Do::Put(key, value, lease)),
        1 => (0..9_u8).prop_map(Do::Delete),
        1 => (0..9_u8, 0..9_u8).prop_map(|(from, to)| Do::DeleteFrom(from, to)),
        1 => (0..3_u8).prop_map(Do::DeletePrefix),
        1 => (0..9_u8).prop_map(Do::Get),
        1 => (0..3_u8).prop_map(Do::GetPrefix),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let deeds = || proptest::collection::vec(deed(), 0..4);
    let asks = proptest::collection::vec((0..9_u8, ask()), 0..3);
    prop_oneof![
        12 => (asks, deeds(), deeds()).prop_map(|(asks, then, or)| Step::Txn(asks, then, or)),
        2 => Just(Step::Grant),
        1 => (0..3_usize).prop_map(Step::KeepAlive),
        1 => (0..3_usize).prop_map(Step::Revoke),
        1 => (0..8_u64).prop_map(Step::Compact),
        3 => (
            0..9_u8,
            0..9_u8,
            proptest::option::of(1..4_usize),
            proptest::option::of(0..6_u64),
        ).prop_map(|(from, to, limit, back)| Step::Read(from, to, limit, back)),
    ]
}

/// One of the two, as far as they may differ: etcd has revisions before this case,
/// and names leases as it likes.
struct Side {
    store: Store,
    /// Its revision when the case began.
    zero: u64,
    granted: Vec<LeaseId>,
}

impl Side {
    async fn new(store: Store) -> Self {
        let zero = store.list("").await.unwrap().revision.0;
        Self {
            store,
            zero,
            granted: Vec::new(),
        }
    }

    /// The nth lease from the last; one that does not exist when there are fewer.
    fn lease(&self, nth: usize) -> LeaseId {
        let unknown = LeaseId(u64::MAX >> 1);
        self.granted
            .iter()
            .rev()
            .nth(nth)
            .copied()
            .unwrap_or(unknown)
    }

    fn revision(&self, plain: u64) -> Revision {
        Revision(self.zero + plain)
    }

    fn plain(&self, revision: Revision) -> u64 {
        revision.0.saturating_sub(self.zero)
    }

    fn txn(&self, now: u64, asks: &[(u8, Ask)], then: &[Do], or: &[Do]) -> Txn {
        let back = |back: &u64| self.revision(now.saturating_sub(*back));
        let ops = |deeds: &[Do]| deeds.iter().map(|deed| self.op(deed)).collect::<Vec<_>>();
        let mut txn = Txn::of(ops(then)).or_else(ops(or));
        for (number, ask) in asks {
            let test = match ask {
                Ask::Exists => Test::Exists,
                Ask::Missing => Test::Missing,
                Ask::Value(order, value) => Test::Value(*order, vec![*value].into()),
                Ask::Version(order, version) => Test::Version(*order, *version),
                Ask::Changed(order, ago) => Test::ModRevision(*order, back(ago)),
                Ask::Created(order, ago) => Test::CreateRevision(*order, back(ago)),
            };
            txn = txn.when(key(*number), test);
        }
        txn
    }

    fn op(&self, deed: &Do) -> Op {
        match deed {
            Do::Put(number, value, lease) => Op::Put {
                key: key(*number).into(),
                value: vec![*value].into(),
                lease: lease.map(|nth| self.lease(nth)),
            },
            Do::Delete(number) => Op::Delete(Span::Key(key(*number).into())),
            Do::DeleteFrom(from, to) => Op::Delete(between(*from, *to)),
            Do::DeletePrefix(family) => Op::Delete(Span::prefix(format!("{family}/"))),
            Do::Get(number) => Op::Get(Span::Key(key(*number).into())),
            Do::GetPrefix(family) => Op::Get(Span::prefix(format!("{family}/"))),
        }
    }

    /// What it did, in words that both have in common.
    async fn step(&mut self, step: &Step, now: u64) -> String {
        match step {
            Step::Txn(asks, then, or) => {
                let txn = self.txn(now, asks, then, or);
                let reply = self.store.commit(txn).await;
                self.shown(reply, |side, reply| side.reply(&reply))
            }
            Step::Grant => {
                let lease = self.store.grant(TTL).await.unwrap();
                self.granted.push(lease.id);
                format!("{:?}", lease.ttl)
            }
            Step::KeepAlive(nth) => {
                let kept = self.store.keep_alive(self.lease(*nth)).await;
                self.shown(kept, |_, lease| format!("{:?}", lease.ttl))
            }
            Step::Revoke(nth) => {
                let revoked = self.store.revoke(self.lease(*nth)).await;
                self.shown(revoked, |side, at| side.plain(at).to_string())
            }
            Step::Compact(back) => {
                let to = self.revision(now.saturating_sub(*back));
                let done = self.store.compact(to).await;
                self.shown(done, |_, ()| "done".to_owned())
            }
            Step::Read(from, to, limit, back) => {
                let range = Range {
                    span: between(*from, *to),
                    at: back.map(|back| self.revision(now.saturating_sub(back))),
                    limit: *limit,
                };
                let read = self.store.read(range).await;
                self.shown(read, |side, read| {
                    let items = read.items.iter().map(|kv| side.kv(kv));
                    let items = items.collect::<Vec<_>>();
                    format!("{} {items:?} {}", side.plain(read.revision), read.more)
                })
            }
        }
    }

    fn shown<T>(
        &self,
        result: Result<T, StoreError>,
        show: impl FnOnce(&Self, T) -> String,
    ) -> String {
        match result {
            Ok(done) => show(self, done),
            Err(StoreError::LeaseNotFound(lease)) => {
                let nth = self.granted.iter().position(|granted| *granted == lease);
                format!("no lease {nth:?}")
            }
            Err(StoreError::Compacted { asked, compacted }) => {
                let (asked, compacted) = (self.plain(asked), self.plain(compacted));
                format!("compacted {asked} {compacted}")
            }
            Err(other @ StoreError::WrittenTwice { .. }) => other.to_string(),
            Err(other) => panic!("{other}"),
        }
    }

    fn kv(&self, kv: &KeyValue) -> String {
        let lease = kv
            .lease
            .map(|lease| self.granted.iter().position(|one| *one == lease));
        format!(
            "{:?}={:?} {} {} {} {lease:?}",
            kv.key,
            kv.value,
            self.plain(kv.create_revision),
            self.plain(kv.mod_revision),
            kv.version
        )
    }

    fn reply(&self, reply: &TxnReply) -> String {
        let many = |kvs: &[std::sync::Arc<KeyValue>]| -> Vec<_> {
            kvs.iter().map(|kv| self.kv(kv)).collect()
        };
        let replies = reply.replies.iter().map(|one| match one {
            OpReply::Put(before) => format!("put {:?}", before.as_ref().map(|kv| self.kv(kv))),
            OpReply::Deleted(gone) => format!("deleted {:?}", many(gone)),
            OpReply::Got(found) => format!("got {:?}", many(found)),
        });
        let replies = replies.collect::<Vec<_>>();
        format!("{} {} {replies:?}", reply.held, self.plain(reply.revision))
    }

    fn changes(&self, changes: &Changes) -> String {
        let shown = |event: &Event| {
            let after = event.after.as_ref().map(|kv| self.kv(kv));
            let before = event.before.as_ref().map(|kv| self.kv(kv));
            format!("{:?}: {before:?} -> {after:?}", event.key)
        };
        let events = changes.events.iter().map(shown).collect::<Vec<_>>();
        format!("{} {events:?}", self.plain(changes.revision))
    }

    /// Everything that a watch after `from` tells until `last` is put.
    async fn told(&self, from: u64) -> Vec<String> {
        let from = self.revision(from);
        let mut watch = self.store.watch(Span::all(), from).await.unwrap();
        let mut told = Vec::new();
        loop {
            match soon("a change", watch.next()).await {
                Ok(changes) => {
                    told.push(self.changes(&changes));
                    if changes.events.iter().any(|event| *event.key == *b"last") {
                        return told;
                    }
                }
                Err(error) => {
                    told.push(self.shown::<()>(Err(error), |_, ()| String::new()));
                    return told;
                }
            }
        }
    }
}

fn between(from: u8, to: u8) -> Span {
    Span::Between(key(from).into_bytes(), key(to).into_bytes())
}

async fn check(steps: &[Step], etcd: &Etcd, prefix: &str) {
    let embedded_tasks = Tasks::root(Clock::system());
    let embedded = embedded::in_memory(embedded::Options::default(), &embedded_tasks);
    let (store, store_tasks) = etcd.store(prefix).await;
    let mut sides = [Side::new(embedded).await, Side::new(store).await];
    let mut now = 0;
    for step in steps {
        let [one, other] = &mut sides;
        assert_eq!(
            one.step(step, now).await,
            other.step(step, now).await,
            "{step:?}"
        );
        let revision = one.store.list("").await.unwrap().revision;
        now = one.plain(revision);
    }
    for side in &sides {
        side.store.put("last", "").await.unwrap();
    }
    // Also for one that was opened since, whose past is all in etcd.
    let [one, other] = &sides;
    let (late, late_tasks) = etcd.store(prefix).await;
    let late = Side {
        store: late,
        zero: other.zero,
        granted: other.granted.clone(),
    };
    for from in [0, now / 2, now] {
        let expected = one.told(from).await;
        assert_eq!(expected, other.told(from).await, "from {from}");
        assert_eq!(expected, late.told(from).await, "from {from}, opened late");
    }
    for tasks in [embedded_tasks, store_tasks, late_tasks] {
        tasks.stop(Duration::from_secs(10)).await.unwrap();
    }
}

#[test]
fn any_history_is_the_same_in_both_stores() {
    let etcd = Etcd::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        // Each is a history of its own; to see it smaller is worth few of them.
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    };
    let case = std::cell::Cell::new(0);
    let steps = proptest::collection::vec(step(), 1..STEPS_MAX);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        case.set(case.get() + 1);
        let prefix = format!("/case/{}", case.get());
        runtime.block_on(check(&steps, &etcd, &prefix));
        Ok(())
    });
    outcome.unwrap();
}
