//! What stands where in the store, and blocking on it.
//!
//! A span's index is the revision of its last change. The changes of keys tell that by
//! themselves, a deletion leaves nothing behind; so each writes a marker, and the index
//! is at least the marker's. Waiting is exact: a watch of the span alone.

use std::sync::Arc;

use atoll_model::Revision;
use atoll_store::{KeyValue, Range, Span, StoreError};

use crate::server::{Asked, Front};
use crate::wire::Refusal;

/// The id of our node.
pub(crate) const NODE_ID: &str = "consul/node-id";
/// Nodes of the catalogue, by name.
pub(crate) const NODES: &str = "consul/nodes/";
/// Rewritten whenever a node is deleted.
pub(crate) const NODES_MARK: &str = "consul/marks/nodes";

/// Keys of `/v1/kv`.
pub(crate) const KV: &str = "consul/kv/";
/// Rewritten whenever a key is deleted.
pub(crate) const KV_MARK: &str = "consul/marks/kv";
/// Sessions, by id.
pub(crate) const SESSIONS: &str = "consul/sessions/";
/// Rewritten whenever a session ends.
pub(crate) const SESSIONS_MARK: &str = "consul/marks/sessions";
/// What each session holds, by session and key.
pub(crate) const HINTS: &str = "consul/locks/";
/// Keys that nobody may lock for a while, each with a lease.
pub(crate) const DELAYS: &str = "consul/delays/";

/// Coordinates of nodes, by name.
pub(crate) const COORDINATES: &str = "consul/coordinates/";
/// Rewritten whenever one is deleted.
pub(crate) const COORDINATES_MARK: &str = "consul/marks/coordinates";

/// Where it stands that a session holds a key.
pub(crate) fn lock_hint(session: &str, key: &str) -> String {
    format!("{HINTS}{session}/{key}")
}

/// Keys of a span and the index of the span.
pub(crate) struct Found {
    pub(crate) items: Vec<Arc<KeyValue>>,
    pub(crate) index: u64,
}

impl Front {
    /// The keys of `span`, once its index is another than the one asked with.
    pub(crate) async fn keys(
        &self,
        span: Span,
        mark: &str,
        asked: &Asked,
    ) -> Result<Arc<Found>, Refusal> {
        self.keys_after(span, mark, asked.wait.index, asked).await
    }

    /// The same for who has seen this index.
    pub(crate) async fn keys_after(
        &self,
        span: Span,
        mark: &str,
        seen: u64,
        asked: &Asked,
    ) -> Result<Arc<Found>, Refusal> {
        let (found, now) = self.keys_now(&span, mark).await?;
        // An index from the future is of another life. Who can see that something changed
        // is told what is there now; only those who have to wait share what comes of it.
        let has_changed = found.items.iter().any(|item| item.mod_revision.0 > seen);
        if seen == 0 || seen > now.0 || has_changed {
            return Ok(found.into());
        }
        let changed = async {
            self.keys_changed(&span, mark, seen).await?;
            let (found, _) = self.keys_now(&span, mark).await?;
            Ok(Arc::new(found))
        };
        let changed = self.awaited.answer(format!("{span:?}"), seen, changed);
        if let Some(found) = asked.hold(changed).await {
            return found;
        }
        // Nothing happened, and the client's index says so best.
        let (found, _) = self.keys_now(&span, mark).await?;
        let index = seen;
        Ok(Arc::new(Found { index, ..found }))
    }

    /// The keys of `span` now, and the store's revision.
    async fn keys_now(&self, span: &Span, mark: &str) -> Result<(Found, Revision), Refusal> {
        let mark = self.store.get(mark).await?;
        let snapshot = self.store.read(Range::of(span.clone())).await?;
        // One key that is there tells all of itself.
        let mark = match span {
            Span::Key(_) if !snapshot.items.is_empty() => None,
            Span::Key(_) | Span::Prefix(_) | Span::Between(..) => mark,
        };
        let changes = snapshot
            .items
            .iter()
            .chain(&mark)
            .map(|item| item.mod_revision.0);
        let index = changes.max().unwrap_or(0).max(1);
        let items = snapshot.items;
        Ok((Found { items, index }, snapshot.revision))
    }

    async fn keys_changed(&self, span: &Span, mark: &str, seen: u64) -> Result<(), StoreError> {
        let mut after = Revision(seen);
        loop {
            let mut watch = self.store.watch(span.clone(), after).await?;
            match watch.next().await {
                Ok(_) => return Ok(()),
                // The history does not tell any more; what is there does, if it is newer.
                Err(StoreError::Compacted { .. } | StoreError::Lagged { .. }) => {
                    let mark = self.store.get(mark).await?;
                    let snapshot = self.store.read(Range::of(span.clone())).await?;
                    let mut changes = snapshot.items.iter().chain(&mark);
                    if changes.any(|item| item.mod_revision.0 > seen) {
                        return Ok(());
                    }
                    after = snapshot.revision;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
