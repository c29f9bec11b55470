//! The seam between those who keep things in the store and where they are kept.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::Revision;
use tokio::sync::watch;

use crate::{
    Key, KeyValue, Lease, LeaseId, LeaseState, Op, Span, StoreError, Txn, TxnReply, Value, Watch,
};

/// What a backend's calls return.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where the keys are: the embedded store or etcd. The [`crate::suite`] (feature
/// `suite`) says what each call must do; [`Store`] documents it.
pub trait Backend: Send + Sync + 'static {
    /// See [`Store::commit`].
    fn commit(&self, txn: Txn) -> Answer<'_, TxnReply>;
    /// See [`Store::read`].
    fn read(&self, range: Range) -> Answer<'_, Snapshot>;
    /// See [`Store::watch`].
    fn watch(&self, span: Span, after: Revision) -> Answer<'_, Watch>;
    /// See [`Store::compact`].
    fn compact(&self, to: Revision) -> Answer<'_, ()>;
    /// See [`Store::grant`].
    fn grant(&self, ttl: Duration) -> Answer<'_, Lease>;
    /// See [`Store::keep_alive`].
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Lease>;
    /// See [`Store::revoke`].
    fn revoke(&self, lease: LeaseId) -> Answer<'_, Revision>;
    /// See [`Store::lease`].
    fn lease(&self, lease: LeaseId) -> Answer<'_, LeaseState>;
    /// See [`Store::leases`].
    fn leases(&self) -> Answer<'_, Vec<LeaseId>>;
    /// See [`Store::standing`].
    fn standing(&self) -> watch::Receiver<Standing>;
}

/// Whether the store can be had at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Ready,
    /// It does not: writes fail, leases cannot be kept alive, and what is or was read of
    /// it may be out of date. Whether leases end meanwhile only the store knows: not
    /// while it is down, but while just our way to it is cut.
    Away {
        /// Since when, by the clock of the task tree.
        since: Instant,
        /// For a person: which machine, and what it said.
        why: String,
    },
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Range {
    /// Which keys.
    pub span: Span,
    /// As of which revision; none means the latest.
    pub at: Option<Revision>,
    /// At most this many keys, the first in order; none means all.
    pub limit: Option<usize>,
}

/// Keys as they were at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision when it was read (not the one asked for): etcd's
    /// header. When nothing was asked for, watch on after this.
    pub revision: Revision,
    /// In the order of their keys.
    pub items: Vec<Arc<KeyValue>>,
    /// Whether the limit cut some off.
    pub more: bool,
}

impl Range {
    /// The keys of `span` as they are now.
    pub fn of(span: impl Into<Span>) -> Self {
        Self {
            span: span.into(),
            at: None,
            limit: None,
        }
    }

    /// The same as of `revision`.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.at = Some(revision);
        self
    }

    /// At most the first `count`.
    #[must_use]
    pub fn limit(mut self, count: usize) -> Self {
        self.limit = Some(count);
        self
    }
}

/// A store; clones are the same one.
#[derive(Clone)]
pub struct Store(Arc<dyn Backend>);

impl Store {
    /// The store that `backend` keeps.
    pub fn new(backend: impl Backend) -> Self {
        Self(Arc::new(backend))
    }

    /// Runs a transaction. All its changes get one new revision; if it changes
    /// nothing there is none. When this returns they are durable and visible.
    ///
    /// # Errors
    /// [`Txn::check`]'s, [`StoreError::LeaseNotFound`], limits, and the disk's. After
    /// any but [`StoreError::Uncertain`] and [`StoreError::Unavailable`] nothing has
    /// changed.
    pub async fn commit(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        self.0.commit(txn).await
    }

    /// Sets one key without a condition; gives the revision.
    ///
    /// # Errors
    /// See [`Store::commit`].
    pub async fn put(
        &self,
        key: impl Into<Key>,
        value: impl Into<Value>,
    ) -> Result<Revision, StoreError> {
        let reply = self.commit(Txn::of([Op::put(key, value)])).await?;
        Ok(reply.revision)
    }

    /// Deletes the keys of `span`; gives the store's revision after it.
    ///
    /// # Errors
    /// See [`Store::commit`].
    pub async fn delete(&self, span: impl Into<Span>) -> Result<Revision, StoreError> {
        let reply = self.commit(Txn::of([Op::Delete(span.into())])).await?;
        Ok(reply.revision)
    }

    /// Reads a range, now or at an earlier revision that is still kept.
    ///
    /// What is read now is the latest that was committed by anybody. Only while the
    /// store is [`Standing::Away`] a backend may answer a read of the present with what
    /// it knew last, whole and as of the revision that it gives: never older than what
    /// a watch of this process has told, but perhaps older than an earlier read or
    /// write. Who minds looks at [`Store::standing`] after reading.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::FutureRevision`], and
    /// [`StoreError::Unavailable`] while the store is away and the backend does not know
    /// these keys.
    pub async fn read(&self, range: Range) -> Result<Snapshot, StoreError> {
        self.0.read(range).await
    }

    /// One key as it is now.
    ///
    /// # Errors
    /// [`StoreError::EmptyKey`].
    pub async fn get(&self, key: impl Into<Key>) -> Result<Option<Arc<KeyValue>>, StoreError> {
        let snapshot = self.read(Range::of(Span::Key(key.into()))).await?;
        Ok(snapshot.items.into_iter().next())
    }

    /// All keys with `prefix` as they are now.
    ///
    /// # Errors
    /// See [`Store::read`].
    pub async fn list(&self, prefix: impl AsRef<[u8]>) -> Result<Snapshot, StoreError> {
        self.read(Range::of(Span::prefix(prefix))).await
    }

    /// Every change of `span` after `after`, past ones first, then live. The pair
    /// `read` and `watch(span, snapshot.revision)` misses nothing and repeats
    /// nothing. A revision that has not happened is waited for.
    ///
    /// # Errors
    /// None that the watch itself would give: history that is gone is told by
    /// [`Watch::next`].
    pub async fn watch(&self, span: impl Into<Span>, after: Revision) -> Result<Watch, StoreError> {
        self.0.watch(span.into(), after).await
    }

    /// Drops the history up to and including `to`; the state at `to` stays readable.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when it has been dropped already,
    /// [`StoreError::FutureRevision`].
    pub async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.0.compact(to).await
    }

    /// Grants a lease that ends `ttl` after its last keep-alive.
    ///
    /// # Errors
    /// [`StoreError::BadTtl`], and the disk's.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.0.grant(ttl).await
    }

    /// Lets a lease live for its whole time again. Never touches the disk.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`]: it has ended, its keys are or will be deleted.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<Lease, StoreError> {
        self.0.keep_alive(lease).await
    }

    /// Ends a lease now and deletes its keys in one revision, which is returned
    /// (the present one when there were none).
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`], and the disk's.
    pub async fn revoke(&self, lease: LeaseId) -> Result<Revision, StoreError> {
        self.0.revoke(lease).await
    }

    /// What is left of a lease, and what hangs on it.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`].
    pub async fn lease(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.0.lease(lease).await
    }

    /// All leases that live, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::Unavailable`].
    pub async fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        self.0.leases().await
    }

    /// Whether the store can be had, and each change of it. The embedded store is
    /// always [`Standing::Ready`]; that of another machine is looked at all the time.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}
