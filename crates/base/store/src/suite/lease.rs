//! Cases: leases. Times to live are whole seconds, since etcd's are.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{commit, get, keys, names, put};
use crate::{LeaseId, Op, Span, Store, StoreError, Txn};

const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_secs(1);

async fn lease(store: &Store, ttl: Duration) -> LeaseId {
    let lease = store.grant(ttl).await.unwrap();
    assert!(lease.ttl >= ttl, "a backend may round up, never down");
    lease.id
}

/// Revoking.
pub async fn keys_go_with_their_lease_in_one_revision(store: Store) {
    let id = lease(&store, LONG).await;
    let ops = [Op::put_leased("l/b", "", id), Op::put_leased("l/a", "", id)];
    commit(&store, ops).await;
    let last = put(&store, "l/other", "").await.mod_revision;
    assert_eq!(get(&store, "l/a").await.unwrap().lease, Some(id));
    let mut watch = store.watch(Span::prefix("l/"), last).await.unwrap();
    let revision = store.revoke(id).await.unwrap();
    assert_eq!(revision.0, last.0 + 1);
    assert_eq!(keys(&store, "l/").await, names(&["l/other"]));
    let changes = watch.next().await.unwrap();
    assert_eq!(changes.revision, revision);
    let gone: Vec<_> = changes
        .events
        .iter()
        .map(|event| event.key.clone())
        .collect();
    assert_eq!(gone, names(&["l/a", "l/b"]));
    assert!(changes.events.iter().all(|event| event.after.is_none()));
}

/// Expiry.
pub async fn a_lease_that_is_not_kept_alive_ends_and_watches_see_it(store: Store) {
    let id = lease(&store, SHORT).await;
    let ops = [Op::put_leased("a", "", id), Op::put_leased("b", "", id)];
    let put = commit(&store, ops).await.revision;
    let mut watch = store.watch(Span::all(), put).await.unwrap();
    let changes = watch.next().await.unwrap();
    assert_eq!(changes.events.len(), 2, "both in one revision");
    assert!(changes.events.iter().all(|event| event.after.is_none()));
    assert_eq!(keys(&store, "").await, []);
    let error = store.keep_alive(id).await.unwrap_err();
    assert_eq!(error, StoreError::LeaseNotFound(id));
}

/// The kept one outlives one that is not, whatever the backend's rounding.
pub async fn a_lease_that_is_kept_alive_does_not_end(store: Store) {
    let kept = lease(&store, SHORT * 3).await;
    let put = commit(&store, [Op::put_leased("kept", "", kept)])
        .await
        .revision;
    for round in 0..5 {
        let other = lease(&store, SHORT).await;
        let key = format!("other/{round}");
        commit(&store, [Op::put_leased(key.as_str(), "", other)]).await;
        let mut watch = store.watch(key.as_str(), put).await.unwrap();
        while watch.next().await.unwrap().events[0].after.is_some() {}
        let renewed = store.keep_alive(kept).await.unwrap();
        assert!(renewed.id == kept && renewed.ttl >= SHORT * 3);
    }
    assert!(
        get(&store, "kept").await.is_some(),
        "five seconds on three of life"
    );
}

/// In every call that names one; and the transaction does nothing.
pub async fn an_unknown_or_ended_lease_is_refused(store: Store) {
    let ended = lease(&store, LONG).await;
    store.revoke(ended).await.unwrap();
    for id in [ended, LeaseId(0x7fff_ffff_1234)] {
        let not_found = StoreError::LeaseNotFound(id);
        let ops = [Op::put("a", ""), Op::put_leased("b", "", id)];
        let error = store.commit(Txn::of(ops)).await.unwrap_err();
        assert_eq!(error, not_found);
        assert_eq!(store.keep_alive(id).await, Err(not_found.clone()));
        assert_eq!(store.revoke(id).await, Err(not_found.clone()));
        assert_eq!(store.lease(id).await, Err(not_found));
    }
    assert_eq!(keys(&store, "").await, []);
    assert_eq!(store.grant(Duration::ZERO).await, Err(StoreError::BadTtl));
    let endless = Duration::from_secs(9_000_000_001);
    assert_eq!(store.grant(endless).await, Err(StoreError::BadTtl));
}

/// A key hangs on the lease of its last put.
pub async fn a_put_moves_a_key_to_another_lease_or_none(store: Store) {
    let (one, two) = (lease(&store, LONG).await, lease(&store, LONG).await);
    for key in ["moved", "freed", "left", "deleted"] {
        commit(&store, [Op::put_leased(key, "", one)]).await;
    }
    commit(&store, [Op::put_leased("moved", "", two)]).await;
    put(&store, "freed", "").await;
    store.delete("deleted").await.unwrap();
    put(&store, "deleted", "again").await;
    store.revoke(one).await.unwrap();
    assert_eq!(
        keys(&store, "").await,
        names(&["deleted", "freed", "moved"])
    );
    store.revoke(two).await.unwrap();
    assert_eq!(keys(&store, "").await, names(&["deleted", "freed"]));
}

/// Grants and empty ends are no changes of keys.
pub async fn a_lease_without_keys_ends_without_a_revision(store: Store) {
    let last = put(&store, "a", "").await.mod_revision;
    let id = lease(&store, LONG).await;
    assert_eq!(store.list("").await.unwrap().revision, last);
    store.keep_alive(id).await.unwrap();
    assert_eq!(store.revoke(id).await.unwrap(), last);
    assert_eq!(put(&store, "b", "").await.mod_revision.0, last.0 + 1);
}

/// For people and for takeover.
pub async fn a_lease_tells_its_keys_and_what_is_left(store: Store) {
    let id = lease(&store, LONG).await;
    let ops = [Op::put_leased("b", "", id), Op::put_leased("a", "", id)];
    commit(&store, ops).await;
    let state = store.lease(id).await.unwrap();
    assert_eq!(state.keys, names(&["a", "b"]));
    assert!(state.remaining <= state.lease.ttl && state.remaining > LONG / 2);
    assert_eq!(store.leases().await.unwrap(), [id]);
}

/// Also after earlier ones have ended.
pub async fn leases_are_never_named_alike(store: Store) {
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        let id = lease(&store, LONG).await;
        assert!(seen.insert(id));
        store.revoke(id).await.unwrap();
    }
}
