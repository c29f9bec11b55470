//! The one task that changes the store. Gathers what many writers want, works it
//! out, commits it with one sync, lets the state take it up, then answers:
//!
//! `gather -> plan -> commit -> apply -> publish -> answer`
//!
//! While a commit is on its way the next writers gather, so that the sync's price is
//! shared by as many as wait (group commit). It also ends leases and bounds history.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Stop, Tasks};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::disk::{Disk, Failure};
use super::plan::{Batch, Plan};
use super::{Options, Shared};
use crate::{Lease, LeaseId, StoreError, Txn, TxnReply};

/// Requests that share one commit. At 1,000 syncs/s that is 256,000 writes/s, and
/// the longest pause of readers while a batch is taken up stays far below 1 ms.
const BATCH_REQUESTS_MAX: usize = 256;

/// Revisions that one commit compacts at most, so that no writer waits long.
const COMPACT_STEP_REVISIONS: usize = 2_048;

/// How often the owner lets others run so that those who were just answered can ask
/// again and share the next sync. Some microseconds against milliseconds of sync;
/// without it the first to ask takes a whole sync alone (measured: 64 writers made
/// batches of 14).
const GATHER_YIELDS_MAX: usize = 64;

/// How soon what the disk refused is tried again without anybody asking.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Request {
    Txn(Txn, Reply<TxnReply>),
    Grant(Duration, Reply<Lease>),
    Revoke(LeaseId, Reply<Revision>),
    Compact(Revision, Reply<()>),
}

/// Answers one request once it is known whether the batch is durable.
type Ack = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) published: watch::Sender<Revision>,
    pub(super) tasks: Tasks,
    pub(super) options: Options,
    /// None when the store is in memory only, while a task has it, and after such a
    /// task panicked.
    pub(super) disk: Option<Disk>,
    /// What is acknowledged must be on disk.
    pub(super) durable: bool,
    pub(super) next_lease: u64,
    /// A batch of which the disk could not say whether it has it.
    pub(super) pending: Option<Arc<Batch>>,
    /// Requests in the last batch: so many may well come again.
    pub(super) last_gathered: usize,
}

impl Owner {
    /// Runs until told to stop, or until nobody can ask for anything; what had been
    /// asked for by then is still done.
    pub(super) async fn run(mut self, stop: Stop) {
        let mut gathered = Vec::with_capacity(BATCH_REQUESTS_MAX);
        let mut closing = false;
        loop {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = stop.requested(), if !closing => {
                    self.requests.close();
                    closing = true;
                }
                count = self.requests.recv_many(&mut gathered, BATCH_REQUESTS_MAX) => {
                    if count == 0 {
                        break;
                    }
                    self.gather(&mut gathered).await;
                    self.step(&mut gathered).await;
                }
                () = sleep_until(wake) => self.step(&mut gathered).await,
            }
        }
        if let Some(disk) = self.disk.take() {
            let closed = self.tasks.blocking("close", move || disk.close()).await;
            if closed.is_err() {
                warn!("store file was not closed cleanly");
            }
        }
    }

    /// Waits a moment for as many requests as there were last time.
    async fn gather(&mut self, gathered: &mut Vec<Request>) {
        for _ in 0..GATHER_YIELDS_MAX {
            if gathered.len() >= self.last_gathered {
                break;
            }
            tokio::task::yield_now().await;
            while gathered.len() < BATCH_REQUESTS_MAX
                && let Ok(request) = self.requests.try_recv()
            {
                gathered.push(request);
            }
        }
        self.last_gathered = gathered.len();
    }

    fn wake_at(&self) -> Option<tokio::time::Instant> {
        let leases = self.shared.leases();
        let due = leases.next_due();
        let now = self.shared.clock.now();
        let retry = !leases.ending().is_empty() || self.is_broken();
        let retry = retry.then(|| now + RETRY_AFTER);
        [due, retry].into_iter().flatten().min().map(Into::into)
    }

    fn is_broken(&self) -> bool {
        self.disk.as_ref().is_some_and(Disk::is_broken)
    }

    /// Everything between two waits. Leaves `gathered` empty.
    async fn step(&mut self, gathered: &mut Vec<Request>) {
        if self.is_broken()
            && let Err(error) = self.recover().await
        {
            let error = StoreError::Unavailable(error.to_string());
            gathered
                .drain(..)
                .for_each(|request| refuse(request, &error));
            return;
        }
        let (batch, acks) = self.plan(gathered);
        let batch = Arc::new(batch);
        let (result, len_bytes) = match self.commit(&batch).await {
            Ok(len_bytes) => {
                self.apply(&batch);
                (Ok(()), len_bytes)
            }
            Err(Failure::NotWritten(error)) => (Err(error), 0),
            Err(Failure::Landed(error)) => {
                self.apply(&batch);
                (Err(error), 0)
            }
            Err(Failure::Unknown(error)) => {
                self.pending = Some(batch);
                (Err(error), 0)
            }
        };
        if let Err(error) = &result {
            error!(%error, writers = acks.len(), "store commit failed");
        }
        acks.into_iter().for_each(|ack| ack(result.clone()));
        self.rewrite_if_wasteful(len_bytes).await;
    }

    fn plan(&mut self, gathered: &mut Vec<Request>) -> (Batch, Vec<Ack>) {
        let now = self.shared.clock.now();
        let expired = {
            let mut leases = self.shared.leases();
            leases.expire(now);
            // Also those whose keys the disk would not delete before.
            leases.ending()
        };
        let state = self.shared.state.read();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let limit_bytes = self.options.live_bytes_max;
        let mut plan = Plan::new(&state, &self.shared.leases, limit_bytes, self.next_lease);
        for id in expired {
            info!(lease = %id, "lease ended");
            plan.end_lease(id);
        }
        let mut acks = Vec::with_capacity(gathered.len());
        for request in gathered.drain(..) {
            acks.push(match request {
                Request::Txn(txn, reply) => later(reply, plan.txn(&txn)),
                Request::Grant(ttl, reply) => later(reply, Ok(plan.grant(ttl))),
                Request::Revoke(id, reply) => {
                    let lives = plan.lease_lives(id);
                    let done = lives.then(|| plan.end_lease(id));
                    later(reply, done.ok_or(StoreError::LeaseNotFound(id)))
                }
                Request::Compact(to, reply) => later(reply, plan.compact(to)),
            });
        }
        let mut batch = plan.finish();
        if batch.compaction.is_none() && !batch.changes.is_empty() {
            let Options {
                history_revisions_max,
                history_bytes_max,
                ..
            } = self.options;
            let step = COMPACT_STEP_REVISIONS;
            let to = state.excess(history_revisions_max, history_bytes_max, step);
            if to > batch.compacted {
                batch.compacted = to;
                batch.compaction = Some(state.compaction(to));
            }
        }
        (batch, acks)
    }

    /// Makes the batch durable; gives the length of the file, 0 if there is none.
    async fn commit(&mut self, batch: &Arc<Batch>) -> Result<u64, Failure> {
        if batch.is_empty() {
            return Ok(0);
        }
        let Some(mut disk) = self.disk.take() else {
            return if self.durable {
                Err(Failure::NotWritten(disk_lost()))
            } else {
                Ok(0)
            };
        };
        let written = Arc::clone(batch);
        let task = self.tasks.blocking("commit", move || {
            let result = disk.commit(&written);
            (disk, result)
        });
        match task.await {
            Ok((disk, result)) => {
                self.disk = Some(disk);
                result
            }
            // It panicked, or the runtime is going down: what is in the file is
            // known at the next start.
            Err(_) => Err(Failure::NotWritten(disk_lost())),
        }
    }

    /// Opens the file again and takes up the pending batch if it is in there.
    async fn recover(&mut self) -> Result<(), StoreError> {
        let Some(mut disk) = self.disk.take() else {
            return Ok(());
        };
        let task = self.tasks.blocking("recover", move || {
            let result = disk.recover();
            (disk, result)
        });
        let (disk, result) = task.await.map_err(|_| disk_lost())?;
        self.disk = Some(disk);
        let landed = result?;
        info!(landed, "store file opened again after a failure");
        if let Some(batch) = self.pending.take()
            && landed
        {
            self.apply(&batch);
        }
        Ok(())
    }

    /// Shows a durable batch to readers, then to watches.
    fn apply(&mut self, batch: &Batch) {
        let now = self.shared.clock.now();
        self.next_lease = batch.next_lease;
        {
            let state = self.shared.state.write();
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            for changes in &batch.changes {
                state.apply(changes.clone());
            }
            if let Some(compaction) = &batch.compaction {
                state.compact(compaction.to);
            }
            debug_assert_eq!(state.revision, batch.revision, "as planned");
        }
        {
            let mut leases = self.shared.leases();
            for lease in &batch.granted {
                leases.insert(*lease, Duration::ZERO, now);
            }
            for id in &batch.ended {
                leases.remove(*id);
            }
        }
        if !(batch.changes.is_empty() && batch.compaction.is_none()) {
            self.published.send_replace(batch.revision);
        }
    }

    async fn rewrite_if_wasteful(&mut self, len_bytes: u64) {
        let kept_bytes = {
            let state = self.shared.state.read();
            state.unwrap_or_else(PoisonError::into_inner).kept_bytes()
        };
        let wants = |disk: &mut Disk| disk.wants_rewrite(len_bytes, kept_bytes);
        if let Some(mut disk) = self.disk.take_if(wants) {
            let task = self.tasks.blocking("rewrite", move || {
                disk.rewrite(len_bytes);
                disk
            });
            self.disk = task.await.ok();
        }
    }
}

/// Whoever had the file did not give it back. Whether the change that was on its way
/// is in there nobody can tell, so nothing more is acknowledged in this life.
fn disk_lost() -> StoreError {
    StoreError::Unavailable("the task that wrote it ended by a defect; restart Atoll".to_owned())
}

/// Answers with `outcome` if the batch gets durable.
fn later<T: Send + 'static>(reply: Reply<T>, outcome: Result<T, StoreError>) -> Ack {
    Box::new(move |durable| {
        // Whoever asked may have stopped waiting.
        drop(reply.send(durable.and(outcome)));
    })
}

fn refuse(request: Request, error: &StoreError) {
    let error = error.clone();
    match request {
        Request::Txn(_, reply) => drop(reply.send(Err(error))),
        Request::Grant(_, reply) => drop(reply.send(Err(error))),
        Request::Revoke(_, reply) => drop(reply.send(Err(error))),
        Request::Compact(_, reply) => drop(reply.send(Err(error))),
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
