//! Cases: the past, and its end by compaction.

use atoll_model::Revision;

use super::{get, keys, names, put};
use crate::{Range, Span, Store, StoreError, Value};

/// A revision stays readable as it was.
pub async fn a_snapshot_reads_the_past(store: Store) {
    let one = put(&store, "a", "1").await.mod_revision;
    let two = put(&store, "b", "1").await.mod_revision;
    let three = put(&store, "a", "2").await.mod_revision;
    let four = store.delete("a").await.unwrap();
    let five = put(&store, "a", "5").await.mod_revision;
    let expected = [
        (one, &[("a", "1")][..]),
        (two, &[("a", "1"), ("b", "1")]),
        (three, &[("a", "2"), ("b", "1")]),
        (four, &[("b", "1")]),
        (five, &[("a", "5"), ("b", "1")]),
    ];
    for (revision, items) in expected {
        let range = Range::of(Span::all()).at(revision);
        let snapshot = store.read(range).await.unwrap();
        assert_eq!(
            snapshot.revision, five,
            "the store's, not the one asked for"
        );
        let found: Vec<_> = snapshot
            .items
            .iter()
            .map(|kv| (kv.key.clone(), kv.value.clone()))
            .collect();
        let items: Vec<_> = items
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        assert_eq!(found, items, "at {revision}");
    }
}

/// The future is refused, not empty.
pub async fn a_revision_to_come_cannot_be_read(store: Store) {
    let current = put(&store, "a", "1").await.mod_revision;
    let asked = Revision(current.0 + 1);
    let error = store.read(Range::of("a").at(asked)).await.unwrap_err();
    assert_eq!(error, StoreError::FutureRevision { asked, current });
}

/// What was superseded goes, what stands stays.
pub async fn compaction_forgets_the_past_and_keeps_the_present(store: Store) {
    let one = put(&store, "a", "1").await.mod_revision;
    put(&store, "kept", "k").await;
    let three = put(&store, "a", "2").await.mod_revision;
    let four = put(&store, "a", "3").await.mod_revision;
    store.compact(three).await.unwrap();
    let error = store.read(Range::of("a").at(one)).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    assert!(error.wants_resync());
    for (at, value) in [(three, "2"), (four, "3")] {
        let snapshot = store.read(Range::of("a").at(at)).await.unwrap();
        assert_eq!(snapshot.items[0].value, Value::from(value), "at {at}");
        let kept = store.read(Range::of("kept").at(at)).await.unwrap();
        assert_eq!(kept.items.len(), 1);
    }
    let now = get(&store, "a").await.unwrap();
    assert_eq!((now.version, now.create_revision), (3, one));
    assert_eq!(put(&store, "a", "4").await.mod_revision.0, four.0 + 1);
}

/// Only forwards, only what has happened.
pub async fn compaction_of_what_is_gone_or_to_come_is_refused(store: Store) {
    put(&store, "a", "1").await;
    let current = put(&store, "a", "2").await.mod_revision;
    let future = Revision(current.0 + 1);
    let error = store.compact(future).await.unwrap_err();
    assert!(
        matches!(error, StoreError::FutureRevision { .. }),
        "{error}"
    );
    store.compact(current).await.unwrap();
    for again in [current, Revision(current.0 - 1)] {
        let error = store.compact(again).await.unwrap_err();
        assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    }
}

/// A deletion that compaction drops must not bring back what it deleted.
pub async fn a_compacted_deletion_stays_deleted(store: Store) {
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    put(&store, "b", "1").await;
    let deleted = store.delete("a").await.unwrap();
    store.compact(deleted).await.unwrap();
    assert_eq!(keys(&store, "").await, names(&["b"]));
    let again = put(&store, "a", "3").await;
    assert_eq!(again.version, 1);
    store.compact(again.mod_revision).await.unwrap();
    assert_eq!(keys(&store, "").await, names(&["a", "b"]));
}
