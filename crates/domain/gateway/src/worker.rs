//! One thread of the data plane: its listener, its connections, and what they
//! share without locks.

use std::cell::{Cell, RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_runtime::{Clock, Random, Stop, local};
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tracing::warn;

use crate::buffer::Buffers;
use crate::config::Limits;
use crate::connection;
use crate::gateway::Shared;
use crate::h1::request::RequestHead;
use crate::metrics::Rejection;
use crate::record::Recorder;
use crate::snapshot::Snapshot;
use crate::upstream::Pool;

/// Pause between two looks at idle upstream connections.
const SWEEP: Duration = Duration::from_secs(2);
/// Pause after `accept` failed, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Parsed heads and output buffers kept for connections that wake up.
const SPARES_MAX: usize = 256;
/// Requests of one worker that wait for an instance to come back; more are refused
/// at once. Each holds its connection and its head: some 10 MiB in all.
const WAITING_MAX: usize = 1_024;
/// Spares that grew beyond this are not kept.
const SPARE_BYTES_MAX: usize = 16 * 1024;

type SnapshotCache = arc_swap::cache::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>;

/// What the connections of one thread share.
pub(crate) struct Worker {
    pub(crate) clock: Clock,
    pub(crate) buffers: Buffers,
    pub(crate) pool: Pool,
    pub(crate) recorder: Recorder,
    /// No new requests: told to connections that wait for one.
    pub(crate) drain: Notify,
    pub(crate) draining: Cell<bool>,
    shared: Arc<Shared>,
    snapshot: RefCell<SnapshotCache>,
    random: RefCell<Random>,
    open: Cell<usize>,
    waiting: Cell<usize>,
    closed: Notify,
    heads: RefCell<Vec<RequestHead>>,
    prefixes: RefCell<Vec<Vec<u8>>>,
}

/// Counts one request as waiting for an instance until it is dropped.
pub(crate) struct Waiting<'w>(&'w Cell<usize>);

/// Counts one connection as open until it is dropped.
pub(crate) struct Open {
    worker: Rc<Worker>,
    address: SocketAddr,
    counted_client: bool,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        recorder: Recorder,
        clock: Clock,
        random: Random,
    ) -> Self {
        let snapshot = arc_swap::cache::Cache::new(Arc::clone(&shared.snapshot));
        Self {
            clock,
            buffers: Buffers::default(),
            pool: Pool::default(),
            recorder,
            drain: Notify::new(),
            draining: Cell::new(false),
            shared,
            snapshot: RefCell::new(snapshot),
            random: RefCell::new(random),
            open: Cell::new(0),
            waiting: Cell::new(0),
            closed: Notify::new(),
            heads: RefCell::default(),
            prefixes: RefCell::default(),
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What a request sees of the world from its start to its end.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshot.borrow_mut().load())
    }

    pub(crate) fn limits(&self) -> Limits {
        self.snapshot.borrow_mut().load().config.limits.clone()
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        self.snapshot.borrow_mut().load().config.limits.idle_timeout
    }

    pub(crate) fn random(&self) -> RefMut<'_, Random> {
        self.random.borrow_mut()
    }

    /// A place to wait for an instance in; `None` when all are taken.
    pub(crate) fn wait(&self) -> Option<Waiting<'_>> {
        let count = self.waiting.get();
        (count < WAITING_MAX).then(|| {
            self.waiting.set(count + 1);
            Waiting(&self.waiting)
        })
    }

    /// The value of `Via` on responses.
    pub(crate) fn via(&self) -> &str {
        &self.shared.via
    }

    pub(crate) fn spare_head(&self) -> RequestHead {
        self.heads.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn spare_prefix(&self) -> Vec<u8> {
        self.prefixes.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back what a connection going idle does not need.
    pub(crate) fn keep_spares(&self, head: RequestHead, prefix: Vec<u8>) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < SPARES_MAX && (1..SPARE_BYTES_MAX).contains(&head.bytes.capacity()) {
            heads.push(head);
        }
        let mut prefixes = self.prefixes.borrow_mut();
        if prefixes.len() < SPARES_MAX && (1..SPARE_BYTES_MAX).contains(&prefix.capacity()) {
            prefixes.push(prefix);
        }
    }
}

/// Accepts and serves until told to stop, then drains.
pub(crate) async fn run(worker: Rc<Worker>, listener: std::net::TcpListener, stop: Stop) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "a listener could not be used");
            return;
        }
    };
    accept_without_delay(&listener);
    local::spawn(sweep(Rc::clone(&worker)));
    stop.unless(accept_all(&worker, &listener)).await;
    worker.draining.set(true);
    // Clients that connected before the listener closes are served, not reset.
    while let Some(Ok((stream, address))) = listener.accept().now_or_never() {
        admit(&worker, stream, address);
    }
    drop(listener);
    worker.drain.notify_waiters();
    let drained = async {
        while worker.open.get() > 0 {
            worker.closed.notified().await;
        }
    };
    let deadline = worker.shared.settings.drain;
    if tokio::time::timeout(deadline, drained).await.is_err() {
        let connections = worker.open.get();
        warn!(connections, "cut off at the end of the drain time");
    }
}

/// Small responses must not wait for an acknowledgement. Accepted sockets have this
/// from their listener, which saves a system call for each; nothing but speed is lost
/// where it cannot be set.
fn accept_without_delay(listener: &TcpListener) {
    drop(SockRef::from(listener).set_tcp_nodelay(true));
}

async fn accept_all(worker: &Rc<Worker>, listener: &TcpListener) {
    loop {
        // All workers count together; one that is full leaves its backlog to the kernel.
        while worker.shared.open.load(Ordering::Relaxed) >= worker.limits().connections_max {
            // Another worker's connection may end: look again soon.
            let waited = tokio::time::timeout(ACCEPT_PAUSE, worker.closed.notified()).await;
            drop(waited);
        }
        match listener.accept().await {
            Ok((stream, address)) => admit(worker, stream, address),
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    let Some(open) = Open::count(worker, address) else {
        worker
            .shared
            .metrics
            .rejected(Rejection::TooManyConnections);
        return;
    };
    local::spawn(connection::run(Rc::clone(worker), stream, address, open));
}

/// Closes upstream connections that are of no more use.
async fn sweep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let snapshot = worker.snapshot();
        let known: std::collections::HashSet<_> =
            snapshot.endpoints().map(|endpoint| endpoint.key).collect();
        let now = worker.clock.now();
        worker.pool.sweep(now, |key| known.contains(&key));
    }
}

impl Open {
    /// `None` when the client has too many.
    fn count(worker: &Rc<Worker>, address: SocketAddr) -> Option<Self> {
        let limit = worker.limits().connections_per_client_max;
        let counted_client = limit > 0;
        if counted_client && !worker.shared.enter_client(address.ip(), limit) {
            return None;
        }
        worker.open.set(worker.open.get() + 1);
        worker.shared.open.fetch_add(1, Ordering::Relaxed);
        worker.shared.listener.accepted.add(1);
        worker.shared.listener.open.up();
        Some(Self {
            worker: Rc::clone(worker),
            address,
            counted_client,
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.open.set(worker.open.get() - 1);
        worker.shared.open.fetch_sub(1, Ordering::Relaxed);
        worker.shared.listener.open.down();
        if self.counted_client {
            worker.shared.leave_client(self.address.ip());
        }
        worker.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_send_small_responses_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        accept_without_delay(&listener);
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(connect, listener.accept());
        let (accepted, _) = accepted.unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
