//! Cases: single keys and ranges of them.

use super::{get, keys, names, put};
use crate::{Key, Range, Span, Store, StoreError, Value};

/// Revisions, versions and what a deletion resets.
pub async fn a_put_creates_then_changes_then_a_delete_forgets(store: Store) {
    let first = put(&store, "a", "1").await;
    assert_eq!(first.version, 1);
    assert_eq!(first.create_revision, first.mod_revision);
    assert_eq!(first.lease, None);
    let second = put(&store, "a", "2").await;
    assert_eq!(second.version, 2);
    assert_eq!(second.value, Value::from("2"));
    assert_eq!(second.create_revision, first.create_revision);
    assert_eq!(second.mod_revision.0, first.mod_revision.0 + 1);
    let deleted = store.delete("a").await.unwrap();
    assert_eq!(deleted.0, second.mod_revision.0 + 1);
    assert_eq!(get(&store, "a").await, None);
    let again = put(&store, "a", "3").await;
    assert_eq!(again.version, 1);
    assert_eq!(again.create_revision, again.mod_revision);
    assert!(again.create_revision > deleted);
}

/// Bytewise order, and where a prefix ends.
pub async fn keys_are_listed_in_byte_order_within_their_prefix(store: Store) {
    for key in ["b/2", "b", "b0", "a", "b/10", "b/1", "c", "b/"] {
        put(&store, key, key).await;
    }
    assert_eq!(
        keys(&store, "b/").await,
        names(&["b/", "b/1", "b/10", "b/2"])
    );
    assert_eq!(keys(&store, "").await.len(), 8);
    assert_eq!(keys(&store, "d").await, []);
}

/// Limit, and the flag that says that there is more.
pub async fn a_limit_cuts_and_says_so(store: Store) {
    for key in ["a", "b", "c"] {
        put(&store, key, "").await;
    }
    for (limit, count, more) in [(1, 1, true), (2, 2, true), (3, 3, false), (4, 3, false)] {
        let range = Range::of(Span::all()).limit(limit);
        let snapshot = store.read(range).await.unwrap();
        assert_eq!((snapshot.items.len(), snapshot.more), (count, more));
    }
}

/// Half-open spans, as pages of a long list are read.
pub async fn a_span_between_two_keys_excludes_the_second(store: Store) {
    for key in ["a", "b", "c", "d"] {
        put(&store, key, "").await;
    }
    for (from, to, expected) in [
        ("b", "d", &["b", "c"][..]),
        ("b", "b", &[]),
        ("d", "a", &[]),
    ] {
        let span = Span::Between(from.into(), to.into());
        let snapshot = store.read(Range::of(span)).await.unwrap();
        let found: Vec<Key> = snapshot.items.iter().map(|kv| kv.key.clone()).collect();
        assert_eq!(found, names(expected));
    }
}

/// Keys and values are bytes.
pub async fn any_bytes_are_keys_and_values_but_an_empty_key_is_refused(store: Store) {
    let odd = Key::from(vec![0, 0xff, b'/', 0xff]);
    let value = Value::from(vec![0xff, 0, 1]);
    store.put(odd.clone(), value.clone()).await.unwrap();
    store.put("empty", "").await.unwrap();
    let found = store.get(odd.clone()).await.unwrap().unwrap();
    assert_eq!((&found.key, &found.value), (&odd, &value));
    assert_eq!(store.list([0, 0xff]).await.unwrap().items.len(), 1);
    assert_eq!(get(&store, "empty").await.unwrap().value, Value::from(""));
    assert_eq!(store.put("", "x").await, Err(StoreError::EmptyKey));
    assert_eq!(store.get("").await, Err(StoreError::EmptyKey));
    assert_eq!(store.delete("").await, Err(StoreError::EmptyKey));
}
