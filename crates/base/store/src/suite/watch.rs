//! Cases: watches.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use atoll_model::Revision;
use atoll_runtime::{Clock, Tasks};

use super::{commit, names, put};
use crate::{Changes, Key, Op, Span, Store, StoreError, Value, Watch};

fn changed(changes: &Changes) -> Vec<Key> {
    changes
        .events
        .iter()
        .map(|event| event.key.clone())
        .collect()
}

async fn from_now(store: &Store, span: Span) -> Watch {
    let now = store.list("").await.unwrap().revision;
    store.watch(span, now).await.unwrap()
}

/// No gap and no repetition where the past meets the present.
pub async fn a_watch_gives_past_then_live_changes_once_and_in_order(store: Store) {
    let start = put(&store, "a", "0").await.mod_revision;
    for value in 1..=5 {
        put(&store, "a", &value.to_string()).await;
    }
    let mut watch = store.watch("a", start).await.unwrap();
    for value in 1..=10_u64 {
        if value > 5 {
            put(&store, "a", &value.to_string()).await;
        }
        let changes = watch.next().await.unwrap();
        assert_eq!(changes.revision.0, start.0 + value);
        let after = changes.events[0].after.as_ref().unwrap();
        assert_eq!(after.value, Value::from(value.to_string()));
        assert_eq!(after.mod_revision, changes.revision);
    }
}

/// Spans of every kind.
pub async fn a_watch_sees_only_its_span(store: Store) {
    let start = put(&store, "other", "").await.mod_revision;
    let spans = [
        (Span::from("a/1"), &["a/1"][..]),
        (Span::prefix("a/"), &["a/1", "a/2"]),
        (Span::Between("a/2".into(), "b".into()), &["a/2", "a0"]),
    ];
    for key in ["a", "a/1", "b", "a/2", "a0"] {
        put(&store, key, "").await;
    }
    put(&store, "a/1", "last").await;
    put(&store, "a/2", "last").await;
    for (span, expected) in spans {
        let mut watch = store.watch(span.clone(), start).await.unwrap();
        for key in expected {
            let changes = watch.next().await.unwrap();
            assert_eq!(changed(&changes), names(&[key]), "{span:?}");
        }
    }
}

/// All of a revision at once, in the order of keys, cut to the span.
pub async fn a_watch_gives_a_transaction_as_one(store: Store) {
    put(&store, "w/gone", "").await;
    let mut all = from_now(&store, Span::all()).await;
    let mut some = from_now(&store, Span::prefix("w/")).await;
    let ops = [
        Op::put("w/b", ""),
        Op::Delete("w/gone".into()),
        Op::put("v", ""),
        Op::put("w/a", ""),
    ];
    let revision = commit(&store, ops).await.revision;
    let changes = all.next().await.unwrap();
    assert_eq!(changes.revision, revision);
    assert_eq!(changed(&changes), names(&["v", "w/a", "w/b", "w/gone"]));
    let changes = some.next().await.unwrap();
    assert_eq!(changed(&changes), names(&["w/a", "w/b", "w/gone"]));
}

/// Created, changed and deleted can be told apart, and what was lost is known.
pub async fn a_watch_tells_what_was_before(store: Store) {
    let mut watch = from_now(&store, "a".into()).await;
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    store.delete("a").await.unwrap();
    let third = put(&store, "a", "3").await;
    let expected = [
        (None, Some(&first)),
        (Some(&first), Some(&second)),
        (Some(&second), None),
        (None, Some(&third)),
    ];
    for (before, after) in expected {
        let changes = watch.next().await.unwrap();
        let event = &changes.events[0];
        assert_eq!(
            (event.before.as_deref(), event.after.as_deref()),
            (before, after)
        );
    }
}

/// And goes on saying so.
pub async fn a_watch_from_compacted_history_says_so(store: Store) {
    let old = put(&store, "a", "0").await.mod_revision;
    for value in ["1", "2", "3"] {
        put(&store, "a", value).await;
    }
    let now = put(&store, "a", "4").await.mod_revision;
    let to = Revision(now.0 - 1);
    store.compact(to).await.unwrap();
    let mut watch = store.watch("a", old).await.unwrap();
    for _ in 0..2 {
        let error = watch.next().await.unwrap_err();
        let expected = StoreError::Compacted {
            asked: old,
            compacted: to,
        };
        assert_eq!(error, expected);
    }
    // The first revision that is kept can be had.
    let mut watch = store.watch("a", to).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, now);
}

/// Starting ahead of the store is allowed.
pub async fn a_watch_of_a_revision_to_come_waits_for_it(store: Store) {
    let now = put(&store, "a", "0").await.mod_revision;
    let after = Revision(now.0 + 2);
    let mut watch = store.watch("a", after).await.unwrap();
    for value in ["1", "2", "3"] {
        put(&store, "a", value).await;
    }
    assert_eq!(watch.next().await.unwrap().revision.0, now.0 + 3);
}

/// As `select!` does to the branch that was not taken.
pub async fn a_dropped_wait_loses_no_change(store: Store) {
    let mut watch = from_now(&store, Span::all()).await;
    let start = store.list("").await.unwrap().revision;
    for round in 1..=10_u64 {
        for _ in 0..3 {
            let mut context = Context::from_waker(Waker::noop());
            let poll = Box::pin(watch.next()).as_mut().poll(&mut context);
            assert!(matches!(poll, Poll::Pending), "nothing has happened yet");
        }
        put(&store, "a", "").await;
        assert_eq!(watch.next().await.unwrap().revision.0, start.0 + round);
    }
}

/// What a cache does: read, watch on, and have the same as the store.
pub async fn reading_then_watching_misses_nothing(store: Store) {
    const WRITES: usize = 60;
    let tasks = Tasks::root(Clock::system());
    let writer = {
        let store = store.clone();
        tasks.once("writer", async move {
            for write in 0..WRITES {
                let key = format!("k{}", write % 7);
                if write % 5 == 4 {
                    store.delete(key.as_str()).await.unwrap();
                } else {
                    store.put(key, write.to_string()).await.unwrap();
                }
            }
            store.put("k-last", "").await.unwrap()
        })
    };
    let snapshot = store.list("k").await.unwrap();
    let mut mirror: std::collections::BTreeMap<_, _> = snapshot
        .items
        .iter()
        .map(|kv| (kv.key.clone(), kv.clone()))
        .collect();
    let mut watch = store
        .watch(Span::prefix("k"), snapshot.revision)
        .await
        .unwrap();
    while !mirror.contains_key(&b"k-last"[..]) {
        for event in watch.next().await.unwrap().events.iter() {
            match &event.after {
                Some(kv) => mirror.insert(event.key.clone(), kv.clone()),
                None => mirror.remove(&event.key),
            };
        }
    }
    writer.await.unwrap();
    let items: Vec<_> = mirror.into_values().collect();
    assert_eq!(items, store.list("k").await.unwrap().items);
}
