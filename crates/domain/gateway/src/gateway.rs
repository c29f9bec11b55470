//! The gateway as the rest of Atoll sees it: started once, reconfigured while it
//! runs, drained at the end.
//!
//! One task owns what is published: it alone compiles snapshots, from the newest
//! configuration and the newest catalogue, and swaps them whole. A configuration
//! that does not compile changes nothing.

use std::collections::HashMap;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_model::{Catalog, InstanceId, Revision, ServiceName};
use atoll_runtime::{Random, Restart, Stop, Tasks, WorkerError};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::config::{AccessLog, Config};
use crate::metrics::{self, GatewayMetrics, ListenerMetrics};
use crate::record::{self, QUEUE_RECORDS_MAX, recorders};
use crate::snapshot::{CompileErrors, Snapshot};
use crate::worker::{self, Worker};

/// Reconfigurations waiting for their turn; each waits for its answer, so that
/// more would only be of use to somebody who does not.
const PUBLISH_QUEUE_MAX: usize = 8;

/// What stays the same while the gateway runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the gateway calls itself in `Via` and `Proxy-Status`.
    pub name: String,
    /// The listener's name in metrics.
    pub listener: String,
    /// The access log, where the configuration names no other.
    pub access_log: PathBuf,
    /// How long requests in flight are waited for at the end.
    pub drain: Duration,
    /// For the choice of instances and for ids; `None` is the system's.
    pub seed: Option<u64>,
}

/// Why the gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// There must be one listener for each worker, and at least one.
    #[error("the gateway was given no listener")]
    NoListener,
    /// A listener could not be used.
    #[error("a listener of the gateway could not be used")]
    Listener(#[source] std::io::Error),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] CompileErrors),
    /// A thread could not be started.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// The running data plane; clones are the same.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
    publish: mpsc::Sender<Publish>,
    revision: watch::Receiver<Revision>,
}

/// A new configuration, and where its fate is told.
struct Publish {
    config: Config,
    done: oneshot::Sender<Result<u64, CompileErrors>>,
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    /// `1.1 name`.
    pub(crate) via: String,
    /// The port that clients come to.
    pub(crate) port: u16,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Tells that `snapshot` was swapped.
    published: watch::Receiver<Revision>,
    pub(crate) metrics: Arc<GatewayMetrics>,
    pub(crate) listener: Arc<ListenerMetrics>,
    /// Client connections of all workers.
    pub(crate) open: AtomicUsize,
    /// Connections by client, where that is limited.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

impl Gateway {
    /// Starts one worker for each listener (which share one address by
    /// `SO_REUSEPORT`), and the task that follows `catalog`.
    ///
    /// # Errors
    /// When the configuration is wrong, or threads or listeners are refused.
    pub fn start(
        tasks: &Tasks,
        listeners: Vec<TcpListener>,
        config: Config,
        mut catalog: watch::Receiver<Arc<Catalog>>,
        settings: Settings,
    ) -> Result<Self, GatewayError> {
        let first = listeners.first().ok_or(GatewayError::NoListener)?;
        let port = first.local_addr().map_err(GatewayError::Listener)?.port();
        let (access_log, access_log_changes) = watch::channel(config.access_log.clone());
        let snapshot = Snapshot::compile(
            Arc::new(config),
            1,
            &Arc::clone(&catalog.borrow_and_update()),
            None,
        )?;
        let (revision, revisions) = watch::channel(snapshot.catalog_revision);
        let metrics = Arc::new(GatewayMetrics::default());
        let shared = Arc::new(Shared {
            via: format!("1.1 {}", settings.name),
            port,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            published: revisions.clone(),
            listener: metrics.listener(&settings.listener),
            metrics,
            open: AtomicUsize::new(0),
            clients: Mutex::default(),
            settings,
        });
        let tasks = tasks.group("gateway");
        let (recorders, recorded) = recorders(listeners.len(), QUEUE_RECORDS_MAX, &shared.metrics);
        let log_path = shared.settings.access_log.clone();
        tasks.run("access-log", Restart::WithBackoff, move |stop| {
            record::write(
                recorded.clone(),
                access_log_changes.clone(),
                log_path.clone(),
                stop,
            )
        });
        let (publish, publishes) = mpsc::channel(PUBLISH_QUEUE_MAX);
        let publisher = Publisher {
            shared: Arc::clone(&shared),
            catalog,
            publishes,
            access_log,
            revision,
        };
        drop(tasks.once("publish", publisher.run(tasks.stop_signal())));
        let mut seeds = match shared.settings.seed {
            Some(seed) => Random::from_seed(seed),
            None => Random::from_entropy(),
        };
        // Workers stop first: what they record is still to be written.
        let workers = tasks.group("workers");
        for (index, (listener, recorder)) in listeners.into_iter().zip(recorders).enumerate() {
            listener
                .set_nonblocking(true)
                .map_err(GatewayError::Listener)?;
            let shared = Arc::clone(&shared);
            let clock = tasks.clock().clone();
            let random = seeds.fork();
            workers.worker(&format!("gateway-{index}"), move |stop| async move {
                let worker = Rc::new(Worker::new(shared, recorder, clock, random));
                worker::run(worker, listener, stop).await;
            })?;
        }
        Ok(Self {
            shared,
            publish,
            revision: revisions,
        })
    }

    /// Compiles `config` beside the one in use and swaps them whole; gives the new
    /// generation. Requests in flight keep the old one to their end.
    ///
    /// # Errors
    /// Everything that is wrong with `config`; the old one then serves on.
    pub async fn publish(&self, config: Config) -> Result<u64, CompileErrors> {
        let (done, told) = oneshot::channel();
        if self.publish.send(Publish { config, done }).await.is_err() {
            // The gateway is stopping: nothing will change any more.
            return Ok(self.snapshot().generation);
        }
        match told.await {
            Ok(outcome) => outcome,
            Err(_) => Ok(self.snapshot().generation),
        }
    }

    /// What requests that begin now see.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Resolves when an instance gets no more requests (it drains, is critical or
    /// left) and none is in flight to it.
    pub async fn idle(&self, service: &ServiceName, id: &InstanceId) {
        let snapshot = self.snapshot();
        for endpoint in snapshot.endpoints_of(service.as_str(), id.as_str()) {
            endpoint.idle().await;
        }
    }

    /// Appends all counters, as Prometheus reads them.
    pub fn metrics(&self, out: &mut String) {
        out.push_str(&metrics::render(&self.shared.metrics, &self.snapshot()));
    }

    /// Resolves when the snapshot holds at least this revision of the catalogue.
    pub async fn wait_catalog(&self, revision: Revision) {
        let mut revisions = self.revision.clone();
        // Asked in one line: what it gives is a lock, which may not be held while waiting.
        let gone = revisions.wait_for(|now| *now >= revision).await.is_err();
        if gone {
            // The publisher is gone: the revision will never come.
            std::future::pending::<()>().await;
        }
    }
}

impl Shared {
    /// Changes after each swap of the snapshot.
    pub(crate) fn published(&self) -> watch::Receiver<Revision> {
        self.published.clone()
    }

    /// Counts a client's connection; false when it has `limit` already.
    pub(crate) fn enter_client(&self, ip: IpAddr, limit: usize) -> bool {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(ip).or_default();
        if *count >= limit {
            return false;
        }
        *count += 1;
        true
    }

    pub(crate) fn leave_client(&self, ip: IpAddr) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&ip);
            }
        }
    }
}

/// The one task that compiles and publishes.
struct Publisher {
    shared: Arc<Shared>,
    catalog: watch::Receiver<Arc<Catalog>>,
    publishes: mpsc::Receiver<Publish>,
    access_log: watch::Sender<AccessLog>,
    revision: watch::Sender<Revision>,
}

impl Publisher {
    async fn run(mut self, stop: Stop) {
        loop {
            tokio::select! {
                () = stop.requested() => return,
                // A burst of changes is one change: only the newest is compiled.
                changed = self.catalog.changed() => match changed {
                    Ok(()) => self.follow_catalog(),
                    Err(_) => return self.serve_publishes(&stop).await,
                },
                request = self.publishes.recv() => match request {
                    Some(request) => self.publish(request),
                    None => return,
                },
            }
        }
    }

    /// Nobody will change the catalogue any more.
    async fn serve_publishes(&mut self, stop: &Stop) {
        while let Some(Some(request)) = stop.unless(self.publishes.recv()).await {
            self.publish(request);
        }
    }

    fn follow_catalog(&mut self) {
        let now = self.shared.snapshot.load_full();
        let config = Arc::clone(&now.config);
        if let Err(errors) = self.compile(config, now.generation) {
            // It compiled before, and a catalogue cannot be wrong.
            error!(%errors, "the catalogue's change could not be published");
        }
    }

    fn publish(&mut self, request: Publish) {
        let generation = self.shared.snapshot.load().generation + 1;
        let access_log = request.config.access_log.clone();
        let outcome = self.compile(Arc::new(request.config), generation);
        if outcome.is_ok() {
            self.access_log.send_if_modified(|current| {
                let changed = *current != access_log;
                *current = access_log;
                changed
            });
        }
        // Whoever asked may have stopped waiting.
        drop(request.done.send(outcome.map(|()| generation)));
    }

    fn compile(&mut self, config: Arc<Config>, generation: u64) -> Result<(), CompileErrors> {
        let catalog = Arc::clone(&self.catalog.borrow_and_update());
        let previous = self.shared.snapshot.load_full();
        let next = Snapshot::compile(config, generation, &catalog, Some(&previous))?;
        let revision = next.catalog_revision;
        self.shared.snapshot.store(Arc::new(next));
        self.revision.send_replace(revision);
        Ok(())
    }
}
