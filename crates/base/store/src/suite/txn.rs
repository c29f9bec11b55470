//! Cases: transactions, and many writers at once.

use std::sync::Arc;

use atoll_model::Revision;
use atoll_runtime::{Clock, Tasks};

use super::{commit, get, keys, names, put};
use crate::{
    LIST_OPS_MAX, Op, OpReply, Order, REQUEST_BYTES_MAX, Span, Store, StoreError, Test, Txn, Value,
};

/// One revision, all or nothing.
pub async fn a_transaction_gets_one_revision_for_all_its_changes(store: Store) {
    let old = put(&store, "old/1", "").await;
    put(&store, "old/2", "").await;
    let reply = commit(
        &store,
        [
            Op::put("a", "1"),
            Op::put("b", "2"),
            Op::Delete(Span::prefix("old/")),
        ],
    )
    .await;
    assert!(reply.held);
    assert_eq!(reply.revision.0, old.mod_revision.0 + 2);
    assert_eq!(get(&store, "a").await.unwrap().mod_revision, reply.revision);
    assert_eq!(get(&store, "b").await.unwrap().mod_revision, reply.revision);
    assert_eq!(keys(&store, "").await, names(&["a", "b"]));
    let [
        OpReply::Put(None),
        OpReply::Put(None),
        OpReply::Deleted(gone),
    ] = &reply.replies[..]
    else {
        panic!("one reply for each operation, not {:?}", reply.replies);
    };
    assert_eq!(gone.len(), 2);
}

/// Reads and deletions of nothing.
pub async fn a_transaction_that_changes_nothing_has_no_revision(store: Store) {
    let last = put(&store, "a", "1").await.mod_revision;
    for ops in [
        vec![],
        vec![Op::Delete(Span::prefix("none/"))],
        vec![Op::Get("a".into())],
        vec![Op::Get("a".into()), Op::Delete("b".into())],
    ] {
        assert_eq!(commit(&store, ops).await.revision, last);
    }
    assert_eq!(put(&store, "a", "2").await.mod_revision.0, last.0 + 1);
}

/// Every kind of comparison, both ways.
pub async fn comparisons_choose_the_list_that_runs(store: Store) {
    put(&store, "k", "1").await;
    let kv = put(&store, "k", "m").await;
    let (created, modified) = (kv.create_revision, kv.mod_revision);
    let before = |revision: Revision| Revision(revision.0 - 1);
    let value = |order, text: &str| Test::Value(order, Value::from(text));
    let true_tests = [
        value(Order::Equal, "m"),
        value(Order::NotEqual, "n"),
        value(Order::Less, "n"),
        value(Order::Greater, "a"),
        Test::ModRevision(Order::Equal, modified),
        Test::ModRevision(Order::Greater, before(modified)),
        Test::CreateRevision(Order::Equal, created),
        Test::CreateRevision(Order::Less, modified),
        Test::Version(Order::Equal, 2),
        Test::Version(Order::NotEqual, 1),
        Test::Exists,
    ];
    let false_tests = [
        value(Order::Equal, "n"),
        value(Order::NotEqual, "m"),
        value(Order::Less, "m"),
        value(Order::Greater, "m"),
        Test::ModRevision(Order::Equal, created),
        Test::CreateRevision(Order::Greater, created),
        Test::Version(Order::Less, 2),
        Test::Missing,
    ];
    let get_k = [Op::Get("k".into())];
    let all = true_tests.map(|test| (test, true));
    for (test, expected) in all.into_iter().chain(false_tests.map(|test| (test, false))) {
        let txn = Txn::of(get_k.clone()).when("k", test.clone());
        let reply = store.commit(txn.clone()).await.unwrap();
        assert_eq!(reply.held, expected, "{test:?}");
        assert_eq!(reply.replies.len(), usize::from(expected), "{test:?}");
        // One that does not hold is enough.
        let both = txn
            .when("k", Test::Exists)
            .when("k", Test::Version(Order::Equal, 9));
        assert!(!store.commit(both).await.unwrap().held);
    }
    let txn = Txn::of([Op::put("k", "then")])
        .when("k", Test::Missing)
        .or_else([Op::put("k", "else"), Op::put("l", "else")]);
    let reply = store.commit(txn).await.unwrap();
    assert!(!reply.held);
    assert_eq!(get(&store, "k").await.unwrap().value, Value::from("else"));
    assert_eq!(get(&store, "l").await.unwrap().mod_revision, reply.revision);
}

/// etcd: numbers of a missing key are 0, its value equals nothing.
pub async fn a_missing_key_has_version_zero_and_no_value(store: Store) {
    let cases = [
        (Test::Version(Order::Equal, 0), true),
        (Test::ModRevision(Order::Equal, Revision(0)), true),
        (Test::CreateRevision(Order::Equal, Revision(0)), true),
        (Test::Missing, true),
        (Test::Exists, false),
        (Test::Value(Order::Equal, Value::from("")), false),
        (Test::Value(Order::NotEqual, Value::from("x")), false),
    ];
    for (test, expected) in cases {
        let reply = store
            .commit(Txn::default().when("none", test.clone()))
            .await;
        assert_eq!(reply.unwrap().held, expected, "{test:?}");
    }
}

/// Reads after writes within one transaction.
pub async fn operations_see_those_before_them(store: Store) {
    put(&store, "a", "old").await;
    let all = || Op::Get(Span::all());
    let ops = [
        all(),
        Op::put("b", "new"),
        all(),
        Op::Delete("a".into()),
        all(),
        Op::Delete(Span::prefix("a")),
    ];
    let reply = commit(&store, ops).await;
    let seen = |reply: &OpReply| match reply {
        OpReply::Got(found) | OpReply::Deleted(found) => {
            found.iter().map(|kv| kv.key.clone()).collect()
        }
        OpReply::Put(_) => Vec::new(),
    };
    let seen: Vec<_> = reply.replies.iter().map(seen).collect();
    let expected = [&["a"][..], &[], &["a", "b"], &["a"], &["b"], &[]];
    assert_eq!(seen, expected.map(names));
}

/// etcd's ErrDuplicateKey.
pub async fn a_key_written_twice_in_a_transaction_is_refused(store: Store) {
    let put_a = || Op::put("a", "1");
    for ops in [
        vec![put_a(), put_a()],
        vec![put_a(), Op::Delete("a".into())],
        vec![Op::Delete(Span::all()), put_a()],
    ] {
        let error = store.commit(Txn::of(ops)).await.unwrap_err();
        assert_eq!(error, StoreError::WrittenTwice { key: "a".into() });
    }
    // In one list each, or deleted twice, is no contradiction.
    let txn = Txn::of([put_a()]).or_else([put_a()]);
    store.commit(txn).await.unwrap();
    commit(&store, [Op::Delete("a".into()), Op::Delete(Span::all())]).await;
    assert_eq!(keys(&store, "").await, []);
}

/// At the limit it passes, above it nothing happens.
pub async fn limits_of_a_transaction_are_kept(store: Store) {
    let puts = |count: usize| -> Vec<Op> {
        let key = |index| format!("{index:04}");
        (0..count).map(|index| Op::put(key(index), "")).collect()
    };
    commit(&store, puts(LIST_OPS_MAX)).await;
    assert_eq!(keys(&store, "").await.len(), LIST_OPS_MAX);
    let count = LIST_OPS_MAX + 1;
    let error = store.commit(Txn::of(puts(count))).await.unwrap_err();
    assert_eq!(error, StoreError::TooManyOps { count });
    let big = vec![0_u8; REQUEST_BYTES_MAX];
    let error = store.put("big", big).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    // Far enough below for the frame that a backend may put around it.
    let big = vec![7_u8; REQUEST_BYTES_MAX - 64 * 1_024];
    store.put("big", big.clone()).await.unwrap();
    assert_eq!(*get(&store, "big").await.unwrap().value, *big);
}

/// The recipe of every lock and leader.
pub async fn of_many_racing_writers_one_creates(store: Store) {
    let tasks = Tasks::root(Clock::system());
    let racers: Vec<_> = (0..32)
        .map(|racer| {
            let store = store.clone();
            tasks.once("racer", async move {
                let txn = Txn::of([Op::put("leader", racer.to_string())]);
                let txn = txn.when("leader", Test::Missing);
                store.commit(txn).await.unwrap().held
            })
        })
        .collect();
    let mut winners = Vec::new();
    for (racer, task) in racers.into_iter().enumerate() {
        if task.await.unwrap() {
            winners.push(racer);
        }
    }
    assert_eq!(winners.len(), 1);
    let leader = get(&store, "leader").await.unwrap();
    assert_eq!(leader.value, Value::from(winners[0].to_string()));
}

/// Compare-and-put in a loop.
pub async fn no_increment_of_many_writers_is_lost(store: Store) {
    const WRITERS: usize = 8;
    const EACH: usize = 10;
    store.put("count", "0").await.unwrap();
    let tasks = Tasks::root(Clock::system());
    let store = Arc::new(store);
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = Arc::clone(&store);
            tasks.once("writer", async move {
                for _ in 0..EACH {
                    while !increment(&store).await {}
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let count = get(&store, "count").await.unwrap();
    assert_eq!(count.value, Value::from((WRITERS * EACH).to_string()));
    assert_eq!(count.version, (WRITERS * EACH + 1) as u64);
}

async fn increment(store: &Store) -> bool {
    let now = get(store, "count").await.unwrap();
    let count: u64 = String::from_utf8(now.value.to_vec())
        .unwrap()
        .parse()
        .unwrap();
    let test = Test::ModRevision(Order::Equal, now.mod_revision);
    let txn = Txn::of([Op::put("count", (count + 1).to_string())]).when("count", test);
    store.commit(txn).await.unwrap().held
}
