//! Several clients, others beside us, long histories and large answers.

use std::time::Duration;

use atoll_model::Revision;
use atoll_store::{Op, Range, Span, Store, StoreError, Txn};

use crate::server::Etcd;
use crate::{alone, events, soon};

/// More than one page of a read, and than one batch of etcd's old history.
const MANY: usize = 2_500;

/// Puts `MANY` keys; gives the revision before.
async fn fill(store: &Store) -> Revision {
    let before = store.list("").await.unwrap().revision;
    for chunk in (0..MANY).collect::<Vec<_>>().chunks(100) {
        let puts = chunk.iter().map(|key| Op::put(format!("m/{key:05}"), "x"));
        store
            .commit(Txn::of(puts.collect::<Vec<_>>()))
            .await
            .unwrap();
    }
    before
}

#[tokio::test]
async fn two_clients_of_one_prefix_are_one_store_and_others_are_not_seen() {
    let etcd = Etcd::start();
    let (one, _one) = etcd.store("/atoll").await;
    let (two, _two) = etcd.store("/atoll/").await;
    let (other, _other) = etcd.store("/atoll2").await;
    let begin = two.list("").await.unwrap().revision;
    let mut watch = two.watch(Span::all(), begin).await.unwrap();
    other.put("a", "other").await.unwrap();
    let lease = one.grant(Duration::from_secs(60)).await.unwrap();
    let leased = Txn::of([Op::put_leased("a", "one", lease.id)]);
    one.commit(leased).await.unwrap();
    let seen = events(&mut watch).await;
    assert_eq!(seen.len(), 1);
    let kv = seen[0].after.as_ref().unwrap();
    assert_eq!((&*kv.value, kv.lease), (&b"one"[..], Some(lease.id)));
    assert_eq!(two.get("a").await.unwrap().as_ref(), Some(kv));
    let state = two.lease(lease.id).await.unwrap();
    assert_eq!(state.keys, ["a".into()]);
    // A lease is the cluster's, its keys are ours or not.
    assert_eq!(other.lease(lease.id).await.unwrap().keys, []);
    two.revoke(lease.id).await.unwrap();
    assert!(events(&mut watch).await[0].after.is_none());
    assert_eq!(*other.get("a").await.unwrap().unwrap().value, *b"other");
    assert_eq!(
        etcd.ctl(&["get", "--prefix", "--keys-only", "/"]).trim(),
        "/atoll2/a"
    );
}

#[tokio::test]
async fn a_running_watch_outlives_a_compaction() {
    let (store, (_tasks, etcd)) = alone().await;
    let begin = store.put("a", "0").await.unwrap();
    let mut watch = store.watch("a", begin).await.unwrap();
    for value in ["1", "2", "3"] {
        store.put("a", value).await.unwrap();
    }
    let now = store.put("b", "").await.unwrap();
    etcd.ctl(&["compaction", &now.to_string()]);
    store.put("a", "4").await.unwrap();
    for value in ["1", "2", "3", "4"] {
        let seen = events(&mut watch).await;
        assert_eq!(*seen[0].after.as_ref().unwrap().value, *value.as_bytes());
    }
    let past = store.read(Range::of("a").at(begin)).await.unwrap_err();
    let compacted = StoreError::Compacted {
        asked: begin,
        compacted: now,
    };
    assert_eq!(past, compacted);
}

#[tokio::test]
async fn a_watch_from_before_the_store_was_opened_tells_all_then_goes_on() {
    let etcd = Etcd::start();
    let (writer, _writer) = etcd.store("/atoll").await;
    let before = fill(&writer).await;
    let (store, _store) = etcd.store("/atoll").await;
    let mut watch = store.watch(Span::prefix("m/"), before).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < MANY {
        seen.extend(events(&mut watch).await);
    }
    let expected = |at: usize| format!("m/{at:05}").into_bytes();
    assert!(
        seen.iter()
            .enumerate()
            .all(|(at, event)| *event.key == *expected(at))
    );
    // The past ends where the present begins.
    for value in ["1", "2", "3"] {
        writer.put("m/live", value).await.unwrap();
        let live = events(&mut watch).await;
        assert_eq!(live.len(), 1);
        assert_eq!(*live[0].after.as_ref().unwrap().value, *value.as_bytes());
    }
    // History that others dropped is refused.
    let now = writer.put("m/live", "4").await.unwrap();
    etcd.ctl(&["compaction", &now.to_string()]);
    let mut watch = store.watch(Span::prefix("m/"), before).await.unwrap();
    let error = soon("an end", watch.next()).await.unwrap_err();
    let expected = StoreError::Compacted {
        asked: before,
        compacted: now,
    };
    assert_eq!(error, expected);
}

#[tokio::test]
async fn a_long_range_is_read_whole_and_at_one_revision() {
    let (store, _kept) = alone().await;
    fill(&store).await;
    let all = store.list("m/").await.unwrap();
    assert_eq!((all.items.len(), all.more), (MANY, false));
    assert!(all.items.is_sorted_by(|a, b| a.key < b.key));
    let past = Range::of(Span::all()).at(all.revision);
    store.delete(Span::prefix("m/")).await.unwrap();
    assert_eq!(store.read(past.clone()).await.unwrap().items, all.items);
    let some = store.read(past.clone().limit(1_500)).await.unwrap();
    assert_eq!((some.items.len(), some.more), (1_500, true));
    let exact = store.read(past.limit(MANY)).await.unwrap();
    assert_eq!((exact.items.len(), exact.more), (MANY, false));
}

/// etcd cuts what it tells of a revision where that is longer than a request may be;
/// with what was there before, this is.
#[tokio::test]
async fn a_large_revision_is_told_as_one() {
    const KEYS: usize = 100;
    let (store, _kept) = alone().await;
    let puts = |byte: u8| {
        let put = |key| Op::put(format!("big/{key:03}"), vec![byte; 14 * 1_024]);
        Txn::of((0..KEYS).map(put).collect::<Vec<_>>())
    };
    let first = store.commit(puts(1)).await.unwrap().revision;
    let mut watch = store.watch(Span::all(), first).await.unwrap();
    store.commit(puts(2)).await.unwrap();
    let seen = events(&mut watch).await;
    assert_eq!(seen.len(), KEYS);
    assert!(seen.iter().all(|event| event.before.is_some()));
    assert!(seen.is_sorted_by(|a, b| a.key < b.key));
}
