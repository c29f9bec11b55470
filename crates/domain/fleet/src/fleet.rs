//! The fleet's handle: start it, tell it what should run, watch it, stop it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_model::{InstanceId, ServiceName};
use atoll_runtime::{Backoff, Random, Tasks};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::warn;

use crate::context::Context;
use crate::controller::{Command, Controller};
use crate::error::FleetError;
use crate::guardian::GuardianCommand;
use crate::ledger::Ledger;
use crate::orphans;
use crate::output::{Follower, LogLine, Logs};
use crate::port::Ports;
use crate::ports::{Directory, Traffic};
use crate::status::{FleetStatus, Report};
use crate::workload::Workload;

/// Commands come from people and a file; more waiting than this is a defect, and then
/// the caller waits.
const COMMANDS_MAX: usize = 16;

/// First pause before another guardian is started.
const GUARDIAN_AGAIN_FIRST: Duration = Duration::from_millis(100);
/// Longest such pause.
const GUARDIAN_AGAIN_MOST: Duration = Duration::from_secs(10);

/// What the fleet is given once.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// `.atoll`: below it are `fleet/` and `logs/`.
    pub data_dir: PathBuf,
    /// How to start the guardian.
    pub guardian: GuardianCommand,
    /// What every process gets of Atoll's own environment: `PATH`, `HOME`, `LANG`
    /// and `TZ`, as far as they are set.
    pub environment: BTreeMap<String, String>,
    /// What builds get beside that, as far as it is set: `CARGO_HOME` and
    /// `RUSTUP_HOME`, without which cargo fails in the usual container images.
    pub build_environment: BTreeMap<String, String>,
    /// For the jitter of restarts.
    pub seed: u64,
}

/// The processes that Atoll runs. Clones are the same fleet; when the last one is
/// dropped, everything is stopped as by [`Fleet::stop`].
#[derive(Clone)]
pub struct Fleet {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<FleetStatus>>,
    logs: Arc<Logs>,
}

impl Fleet {
    /// Starts an empty fleet: locks the folder, ends what an earlier run left (which
    /// may take 2 s), starts the guardian.
    ///
    /// # Errors
    /// [`FleetError::InUse`], [`FleetError::State`], [`FleetError::Guardian`],
    /// [`FleetError::Signals`].
    pub async fn start(
        tasks: &Tasks,
        directory: Arc<dyn Directory>,
        traffic: Arc<dyn Traffic>,
        settings: FleetSettings,
    ) -> Result<Self, FleetError> {
        let tasks = tasks.group("fleet");
        let run = format!("{:016x}", Random::from_entropy().bits());
        let data_dir = settings.data_dir.clone();
        let ledger = tasks
            .blocking("leftovers", move || Ledger::open(&data_dir, run))
            .await
            .map_err(|_| FleetError::Stopping)??;
        let ledger = Arc::new(ledger);
        guard(&tasks, &ledger, settings.guardian)?;
        if orphans::come_to_us() {
            let ends = signal(SignalKind::child()).map_err(FleetError::Signals)?;
            let (stop, reap) = (tasks.stop_signal(), orphans::reap(ledger.clone(), ends));
            drop(tasks.once("orphans", async move { stop.unless(reap).await }));
        }

        let logs = Arc::new(Logs::default());
        let context = Arc::new(Context {
            tasks: tasks.clone(),
            directory,
            traffic,
            ledger,
            ports: Ports::default(),
            logs: Arc::clone(&logs),
            log_dir: settings.data_dir.join("logs"),
            environment: settings.environment,
            build_environment: settings.build_environment,
            changed: Notify::new(),
            random: Mutex::new(Random::from_seed(settings.seed)),
        });
        let (commands, obeyed) = mpsc::channel(COMMANDS_MAX);
        let (published, status) = watch::channel(Arc::default());
        let controller = Controller::new(context, obeyed, published);
        let stop = tasks.stop_signal();
        drop(tasks.once("controller", controller.run(stop)));
        Ok(Self {
            commands,
            status,
            logs,
        })
    }

    /// Sets what should run; returns once the status shows it, not once it runs.
    ///
    /// A service that is new is built and started, one that is missing is drained and
    /// stopped, one whose description changed is built anew if its build did, and its
    /// replicas are replaced one by one, the new one first; a change of `replicas` or
    /// `depends_on` alone replaces nobody. A build that failed is tried again.
    ///
    /// # Errors
    /// [`FleetError::Duplicate`], [`FleetError::FixedPort`], [`FleetError::Stopping`];
    /// then nothing changes.
    pub async fn apply(&self, workloads: Vec<Workload>) -> Result<(), FleetError> {
        self.ask(|answer| Command::Apply(workloads, answer)).await
    }

    /// Sets the number of replicas of a service, until its description asks for
    /// another one than before.
    ///
    /// # Errors
    /// [`FleetError::UnknownService`], [`FleetError::FixedPort`],
    /// [`FleetError::Stopping`].
    pub async fn scale(&self, service: ServiceName, replicas: u32) -> Result<(), FleetError> {
        self.ask(|answer| Command::Scale(service, replicas, answer))
            .await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), FleetError>>) -> Command,
    ) -> Result<(), FleetError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(command(answer)).await;
        sent.map_err(|_| FleetError::Stopping)?;
        answered.await.unwrap_or(Err(FleetError::Stopping))
    }

    /// The state, as it changes; at most 20 times a second.
    pub fn status(&self) -> watch::Receiver<Arc<FleetStatus>> {
        self.status.clone()
    }

    /// The last `tail` lines of a service in memory, oldest first; of one replica if
    /// named (`users.build` names the build).
    pub fn logs(
        &self,
        service: &ServiceName,
        replica: Option<&InstanceId>,
        tail: usize,
    ) -> Vec<LogLine> {
        self.logs.tail(service, replica, tail)
    }

    /// The lines of a service from now on; `None` when it has printed nothing and is
    /// not known.
    pub fn follow(&self, service: &ServiceName) -> Option<Follower> {
        self.logs.follow(service)
    }

    /// Stops everything, those first that others do not lean on, and ends the fleet.
    /// Takes as long as the longest drains and graces on the way.
    pub async fn stop(&self) -> Report {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Stop(answer)).await.is_err() {
            return Report::default(); // it is stopped
        }
        answered.await.unwrap_or_default()
    }

    /// Ends everything at once, without drain or grace; for a second Ctrl-C. A
    /// [`Fleet::stop`] that waits is answered soon after.
    pub async fn kill(&self) {
        // Closed: it is stopped.
        drop(self.commands.send(Command::Kill).await);
    }
}

/// Starts the guardian, and another if it ends before the fleet.
fn guard(tasks: &Tasks, ledger: &Arc<Ledger>, command: GuardianCommand) -> Result<(), FleetError> {
    // Listened to before the start, so that no end is missed.
    let mut ends = signal(SignalKind::child()).map_err(FleetError::Signals)?;
    let mut guardian = engage(&command, ledger)?;
    let ledger = Arc::clone(ledger);
    let watch_over = async move {
        let mut random = Random::from_entropy();
        let mut backoff = Backoff::new(GUARDIAN_AGAIN_FIRST, GUARDIAN_AGAIN_MOST, 0.2);
        loop {
            while matches!(guardian.try_wait(), Ok(None)) {
                ends.recv().await;
            }
            if ledger.is_detached() {
                return;
            }
            warn!("the guardian ended, starting another");
            guardian = loop {
                tokio::time::sleep(backoff.next(&mut random)).await;
                match engage(&command, &ledger) {
                    Ok(guardian) => break guardian,
                    Err(error) => warn!(%error, "if Atoll is killed now, its replicas stay"),
                }
            };
        }
    };
    drop(tasks.once("guardian", watch_over));
    Ok(())
}

fn engage(command: &GuardianCommand, ledger: &Ledger) -> Result<Child, FleetError> {
    let mut guardian = command.spawn()?;
    if let Some(pipe) = guardian.stdin.take() {
        ledger.attach(pipe);
    }
    Ok(guardian)
}
