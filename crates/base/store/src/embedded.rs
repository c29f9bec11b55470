//! The store of one process: everything in memory, everything durable in one file.
//!
//! Reads, watches and keep-alives are answered from memory by whoever asks. All
//! changes go through one task (`owner`), which shows them only when they are on
//! disk (`disk`, redb). Start with [`open`]; look at `state` for what is kept.

mod disk;
mod leases;
mod medium;
mod owner;
mod plan;
mod state;
mod stored;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Clock, Tasks};
use tokio::sync::{mpsc, oneshot, watch};

use self::disk::{Disk, Loaded};
use self::leases::Leases;
use self::owner::{Owner, Reply, Request};
use self::state::State;
use crate::{
    Answer, Backend, Changes, Lease, LeaseId, LeaseState, Range, Snapshot, Span, Standing, Store,
    StoreError, Txn, TxnReply, Watch, WatchSource,
};

/// Requests that may wait for the owner; more writers than that wait to ask. At
/// [`crate::REQUEST_BYTES_MAX`] each they take 384 MiB, at a usual 1 KiB 256 KiB.
const REQUESTS_WAITING_MAX: usize = 256;

/// etcd's longest lease: 9,000,000,000 s.
const TTL_MAX: Duration = Duration::from_secs(9_000_000_000);

/// What of the embedded store can be set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Revisions that stay readable and can be watched from. When an eighth more
    /// have gathered, the oldest are dropped. 10,000 let a watcher that is 10 s
    /// late at 1,000 writes/s go on without a resync.
    pub history_revisions_max: usize,
    /// Bytes of history, likewise.
    pub history_bytes_max: u64,
    /// Bytes of keys and values that may be kept; etcd's default quota, 2 GiB.
    pub live_bytes_max: u64,
    /// What every lease gets beyond its time to live after a restart, for holders
    /// that need a while to find the store again.
    pub lease_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_revisions_max: 10_000,
            history_bytes_max: 32 * 1_024 * 1_024,
            live_bytes_max: 2 * 1_024 * 1_024 * 1_024,
            lease_grace: Duration::from_secs(10),
        }
    }
}

/// Opens the store in `dir`, which is created (mode 0700) if it is not there. Runs
/// until `tasks` stop; the directory is free when they have.
///
/// # Errors
/// [`StoreError::InUse`], [`StoreError::Damaged`], [`StoreError::Format`],
/// [`StoreError::Open`].
pub async fn open(
    dir: impl AsRef<Path>,
    options: Options,
    tasks: &Tasks,
) -> Result<Store, StoreError> {
    let dir = dir.as_ref().to_owned();
    let opening = tasks.blocking("store.open", move || Disk::open_dir(&dir));
    let (disk, loaded) = opening.await.map_err(|_| StoreError::Closed)??;
    Ok(start(Some(disk), loaded, options, tasks))
}

/// A store without a file, which ends with the process; for tests.
pub fn in_memory(options: Options, tasks: &Tasks) -> Store {
    let loaded = Loaded {
        state: State::new(),
        leases: Vec::new(),
        next_lease: 1,
    };
    start(None, loaded, options, tasks)
}

fn start(disk: Option<Disk>, loaded: Loaded, options: Options, tasks: &Tasks) -> Store {
    let clock = tasks.clock().clone();
    let now = clock.now();
    let mut leases = Leases::default();
    for lease in loaded.leases {
        // Whoever held it could not renew it while we were down.
        leases.insert(lease, options.lease_grace, now);
    }
    let (published, revision) = watch::channel(loaded.state.revision);
    let (send, requests) = mpsc::channel(REQUESTS_WAITING_MAX);
    let shared = Arc::new(Shared {
        state: RwLock::new(loaded.state),
        leases: Mutex::new(leases),
        clock,
    });
    let tasks = tasks.group("store");
    let owner = Owner {
        shared: Arc::clone(&shared),
        requests,
        published,
        tasks: tasks.clone(),
        options,
        durable: disk.is_some(),
        disk,
        next_lease: loaded.next_lease,
        pending: None,
        last_gathered: 0,
    };
    // Its end is what the group waits for; there is no result.
    drop(tasks.once("owner", owner.run(tasks.stop_signal())));
    Store::new(Embedded {
        shared,
        requests: send,
        revision,
        standing: watch::Sender::new(Standing::Ready),
    })
}

/// What readers and the owner share. Only the owner writes to `state`.
struct Shared {
    state: RwLock<State>,
    leases: Mutex<Leases>,
    clock: Clock,
}

struct Embedded {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    /// The last revision that can be read; closed when the owner has ended.
    revision: watch::Receiver<Revision>,
    /// Never changes; kept, so that waiting for a change does not fail.
    standing: watch::Sender<Standing>,
}

// Nothing that is done under these locks can leave them half-changed but a bug that
// the debug assertions would have found.
impl Shared {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Embedded {
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(request(reply)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    fn check_open(&self) -> Result<(), StoreError> {
        let open = self.revision.has_changed();
        open.map(drop).map_err(|_| StoreError::Closed)
    }

    /// Runs a transaction that changes nothing on what is in memory.
    fn commit_read(&self, txn: &Txn) -> Result<TxnReply, StoreError> {
        self.check_open()?;
        let state = self.shared.state();
        plan::Plan::new(&state, &self.shared.leases, u64::MAX, 0).txn(txn)
    }
}

impl Backend for Embedded {
    fn commit(&self, txn: Txn) -> Answer<'_, TxnReply> {
        Box::pin(async move {
            txn.check()?;
            if txn.only_reads() {
                return self.commit_read(&txn);
            }
            self.ask(|reply| Request::Txn(txn, reply)).await
        })
    }

    fn read(&self, range: Range) -> Answer<'_, Snapshot> {
        Box::pin(async move {
            self.check_open()?;
            self.shared.state().read(&range)
        })
    }

    fn watch(&self, span: Span, after: Revision) -> Answer<'_, Watch> {
        Box::pin(async move {
            self.check_open()?;
            Ok(Watch::new(Cursor {
                shared: Arc::clone(&self.shared),
                revision: self.revision.clone(),
                span,
                at: after,
                asked: Some(after),
                ended: None,
            }))
        })
    }

    fn compact(&self, to: Revision) -> Answer<'_, ()> {
        Box::pin(self.ask(move |reply| Request::Compact(to, reply)))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, Lease> {
        Box::pin(async move {
            if ttl < Duration::from_millis(1) || ttl > TTL_MAX {
                return Err(StoreError::BadTtl);
            }
            // Whole milliseconds are what the file holds.
            let ttl = Duration::from_millis(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            self.ask(|reply| Request::Grant(ttl, reply)).await
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Lease> {
        Box::pin(async move {
            self.check_open()?;
            let now = self.shared.clock.now();
            let kept = self.shared.leases().keep_alive(lease, now);
            kept.ok_or(StoreError::LeaseNotFound(lease))
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, Revision> {
        Box::pin(self.ask(move |reply| Request::Revoke(lease, reply)))
    }

    fn lease(&self, lease: LeaseId) -> Answer<'_, LeaseState> {
        Box::pin(async move {
            self.check_open()?;
            let now = self.shared.clock.now();
            let found = self.shared.leases().remaining(lease, now);
            let (granted, remaining) = found.ok_or(StoreError::LeaseNotFound(lease))?;
            Ok(LeaseState {
                lease: granted,
                remaining,
                keys: self.shared.state().attached(lease).cloned().collect(),
            })
        })
    }

    fn leases(&self) -> Answer<'_, Vec<LeaseId>> {
        Box::pin(async move {
            self.check_open()?;
            Ok(self.shared.leases().ids())
        })
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}

/// A watch is only a place in the history that is kept anyway, so that a slow one
/// costs no memory: when its place is dropped it is told that it lags.
struct Cursor {
    shared: Arc<Shared>,
    revision: watch::Receiver<Revision>,
    span: Span,
    /// The last revision that was looked at.
    at: Revision,
    /// What was asked for, until the first look.
    asked: Option<Revision>,
    ended: Option<StoreError>,
}

impl Cursor {
    /// The next changes if there are any yet.
    fn look(&mut self) -> Result<Option<Changes>, StoreError> {
        let state = self.shared.state();
        let compacted = state.compacted;
        if self.at < compacted {
            return Err(match self.asked {
                Some(asked) => StoreError::Compacted { asked, compacted },
                None => StoreError::Lagged {
                    at: self.at,
                    compacted,
                },
            });
        }
        self.asked = None;
        match state.changes_after(self.at, &self.span) {
            Ok(changes) => {
                self.at = changes.revision;
                Ok(Some(changes))
            }
            Err(seen) => {
                self.at = seen;
                Ok(None)
            }
        }
    }

    async fn advance(&mut self) -> Result<Changes, StoreError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        loop {
            // Before looking, so that what comes while we look wakes us.
            self.revision.mark_unchanged();
            match self.look() {
                Ok(Some(changes)) => return Ok(changes),
                Ok(None) => {
                    if self.revision.changed().await.is_err() {
                        return Err(self.ended.insert(StoreError::Closed).clone());
                    }
                }
                Err(error) => return Err(self.ended.insert(error).clone()),
            }
        }
    }
}

impl WatchSource for Cursor {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Changes, StoreError>> + Send + '_>> {
        Box::pin(self.advance())
    }
}
