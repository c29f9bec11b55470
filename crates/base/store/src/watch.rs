//! Watches: every change of a span of keys after a revision, in order, once.
//!
//! A watch never holds an unbounded backlog. Whoever is too slow is told so
//! ([`StoreError::Lagged`]), reads the present state and watches on from there.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use atoll_model::Revision;

use crate::{Key, KeyValue, StoreError};

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose.
    pub key: Key,
    /// The version after it; none when it was deleted.
    pub after: Option<Arc<KeyValue>>,
    /// The version before it; none when it was created.
    pub before: Option<Arc<KeyValue>>,
}

/// The changes of one revision, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: Revision,
    /// What changed in it; never empty. A watch gives those of its span.
    pub events: Arc<[Event]>,
}

/// Where a backend's watch takes its changes from.
pub trait WatchSource: Send {
    /// The next changes. Dropping the future before it is done loses nothing.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Changes, StoreError>> + Send + '_>>;
}

/// A running watch; dropping it ends it.
pub struct Watch(Box<dyn WatchSource>);

impl Watch {
    /// A watch that takes its changes from `source`.
    pub fn new(source: impl WatchSource + 'static) -> Self {
        Self(Box::new(source))
    }

    /// The next revision that changed something in the span. Waits until there is
    /// one; may be dropped while waiting, as in `select!`, without losing any.
    ///
    /// # Errors
    /// The watch is over, and gives the same answer again, on
    /// [`StoreError::Compacted`] (the history that was asked for is gone),
    /// [`StoreError::Lagged`] (this watch was too slow for the history that is
    /// kept) and [`StoreError::Closed`]. After the first two, read the span and
    /// watch on from the revision that the read was at.
    pub async fn next(&mut self) -> Result<Changes, StoreError> {
        self.0.next().await
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
