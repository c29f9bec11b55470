//! Drives one replica: gives its supervisor the events, does what it answers.
//!
//! One task owns the process, the port and the place in the directory. It is told
//! orders that only ever rise (wait, go, stop, kill), so that none can be missed, and
//! shows its state to the controller. It ends when the supervisor has stopped.

use std::collections::VecDeque;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use atoll_model::{Address, Catalog, InstanceId};
use atoll_runtime::Task;
use futures_util::FutureExt;
use rustix::process::Signal;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::context::Context;
use crate::output::Output;
use crate::port::PortLease;
use crate::ports::{Enlisted, Pending};
use crate::process::{Process, Start};
use crate::status::{Exit, LastExit, ReplicaState, ReplicaStatus, Stopped};
use crate::supervisor::{Action, Event, Phase, Supervisor};
use crate::workload::Workload;

/// Pause before the directory is asked again to take a replica.
const ENLIST_AGAIN: Duration = Duration::from_secs(1);
/// How often to look whether grandchildren have ended within their grace.
const GROUP_POLL: Duration = Duration::from_millis(50);
/// Pause before a replica whose task panicked is taken for over and another is put
/// in its place, which may do the same.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// Lines of output shown with the state.
const LAST_LINES: usize = 10;

/// What a replica is to do; only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    Wait,
    Go,
    Stop,
    Kill,
}

/// The controller's end of a replica.
pub(crate) struct Seat {
    pub(crate) generation: u64,
    order: watch::Sender<Order>,
    view: Arc<Mutex<View>>,
}

/// What the controller sees.
pub(crate) struct View {
    pub(crate) status: ReplicaStatus,
    /// A process was started at least once.
    pub(crate) spawned: bool,
    /// It ended with status 0 at least once.
    pub(crate) succeeded: bool,
    /// It is over.
    pub(crate) stopped: Option<Stopped>,
}

impl Seat {
    /// Starts the task of a replica, which waits to be told [`Order::Go`].
    pub(crate) fn open(
        context: &Arc<Context>,
        workload: &Arc<Workload>,
        id: InstanceId,
        generation: u64,
    ) -> Self {
        let (order, orders) = watch::channel(Order::Wait);
        let view = Arc::new(Mutex::new(View {
            status: ReplicaStatus {
                id: id.clone(),
                generation,
                state: ReplicaState::Waiting { on: Vec::new() },
                pid: None,
                port: None,
                restarts: 0,
                crash_looping: false,
                started_at: None,
                last_exit: None,
                last_lines: Vec::new(),
            },
            spawned: false,
            succeeded: false,
            stopped: None,
        }));
        let supervisor = Supervisor::new(
            workload.restart,
            workload.drain,
            workload.stop_grace,
            context.random(),
        );
        let replica = Replica {
            output: context.output(&workload.service, &id),
            catalog: Some(context.directory.catalog()),
            context: Arc::clone(context),
            workload: Arc::clone(workload),
            id,
            supervisor,
            orders: Some(orders),
            view: Arc::clone(&view),
            process: None,
            reading: None,
            enlisted: None,
            enlist_again: None,
            idle: None,
            group_poll: false,
            started_at: None,
            last_exit: None,
        };
        let name = format!("replica.{}", replica.id);
        let end = End {
            context: Arc::clone(context),
            workload: Arc::clone(workload),
            id: replica.id.clone(),
            view: Arc::clone(&view),
        };
        drop(context.tasks.once(&name, async move {
            let _end = end;
            let id = replica.id.clone();
            if AssertUnwindSafe(replica.run())
                .catch_unwind()
                .await
                .is_err()
            {
                error!(instance = %id, "replica task panicked");
                tokio::time::sleep(AFTER_PANIC).await;
            }
        }));
        Self {
            generation,
            order,
            view,
        }
    }

    /// Raises the order; one that was given already changes nothing.
    pub(crate) fn order(&self, order: Order) {
        self.order.send_if_modified(|given| {
            let rises = order > *given;
            *given = order.max(*given);
            rises
        });
    }

    pub(crate) fn ordered(&self) -> Order {
        *self.order.borrow()
    }

    /// Looks at what it shows; the replica waits meanwhile.
    pub(crate) fn see<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&lock(&self.view))
    }
}

/// Shows the end of a replica whose task ended by a defect: the controller waits for
/// each to be over, and starts another in its place.
struct End {
    context: Arc<Context>,
    workload: Arc<Workload>,
    id: InstanceId,
    view: Arc<Mutex<View>>,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut view = lock(&self.view);
        if view.stopped.is_some() {
            return;
        }
        view.status.state = ReplicaState::Stopped;
        (view.status.pid, view.status.port) = (None, None);
        view.stopped = Some(Stopped {
            service: self.workload.service.clone(),
            id: self.id.clone(),
            exit: Some(Exit::Unknown),
            killed: true, // with its `Process`
            drain_expired: false,
        });
        drop(view);
        self.context.changed.notify_one();
    }
}

struct Replica {
    context: Arc<Context>,
    workload: Arc<Workload>,
    id: InstanceId,
    supervisor: Supervisor,
    /// `None` once the controller is gone, which means stop.
    orders: Option<watch::Receiver<Order>>,
    /// `None` once the directory is gone.
    catalog: Option<watch::Receiver<Arc<Catalog>>>,
    view: Arc<Mutex<View>>,
    output: Arc<Output>,
    process: Option<(Process, Arc<PortLease>)>,
    /// The task that reads the output, and how it is told that the process ended.
    reading: Option<(Task<()>, watch::Sender<bool>)>,
    /// What the directory was told. It holds the port, too, which must not become
    /// another replica's while the directory may send requests there.
    enlisted: Option<(Address, Arc<PortLease>)>,
    enlist_again: Option<Instant>,
    idle: Option<Pending<'static, ()>>,
    /// The leader is reaped, others of its group have their grace.
    group_poll: bool,
    started_at: Option<SystemTime>,
    last_exit: Option<LastExit>,
}

impl Replica {
    async fn run(mut self) {
        while self.supervisor.phase() != Phase::Stopped {
            self.publish();
            let event = self.next_event().await;
            let mut events = VecDeque::from([event]);
            while let Some(event) = events.pop_front() {
                let now = self.context.clock().now();
                for action in self.supervisor.step(event, now) {
                    events.extend(self.act(action).await);
                }
            }
        }
        self.finish().await;
    }

    async fn next_event(&mut self) -> Event {
        loop {
            let deadline = self.supervisor.deadline();
            tokio::select! {
                biased;
                order = order(&mut self.orders) => match order {
                    Order::Wait => {}
                    Order::Go => return Event::Go,
                    Order::Stop => return Event::Stop,
                    Order::Kill => return Event::Kill,
                },
                exit = ended(&mut self.process), if !self.group_poll => {
                    return self.ended(exit);
                }
                () = wait_idle(&mut self.idle) => {
                    self.idle = None;
                    return Event::Idle;
                }
                () = changed(&mut self.catalog) => {
                    if let Some(event) = self.fitness() {
                        return event;
                    }
                }
                () = tokio::time::sleep(GROUP_POLL), if self.group_poll => {
                    if !self.others_remain() {
                        return Event::GroupGone;
                    }
                }
                () = at(self.enlist_again) => self.enlist().await,
                () = at(deadline) => return Event::Tick,
            }
        }
    }

    fn ended(&mut self, exit: Exit) -> Event {
        let success = exit.is_success();
        info!(service = %self.workload.service, instance = %self.id, %exit, "replica ended");
        self.output.note(exit.to_string());
        let at = self.context.clock().wall();
        self.last_exit = Some(LastExit { exit, at });
        lock(&self.view).succeeded |= success;
        Event::Ended { success }
    }

    /// What the catalogue says, if it is news.
    fn fitness(&self) -> Option<Event> {
        let catalog = self.catalog.as_ref()?.borrow();
        // Under another port it is the predecessor, whose news came late.
        let fit = self.enlisted.as_ref().is_some_and(|(address, _)| {
            catalog
                .instances(self.workload.service.as_str())
                .iter()
                .any(|instance| {
                    instance.id == self.id
                        && instance.address == *address
                        && instance.health.takes_requests()
                })
        });
        match self.supervisor.phase() {
            Phase::Running { ready_since: None } if fit => Some(Event::Ready),
            Phase::Running {
                ready_since: Some(_),
            } if !fit => Some(Event::Unready),
            _ => None,
        }
    }

    async fn act(&mut self, action: Action) -> Option<Event> {
        if matches!(
            action,
            Action::Enlist | Action::Delist | Action::Drain { .. }
        ) {
            // Who reads the catalogue finds the same here: the directory takes its time.
            self.publish();
        }
        match action {
            Action::Spawn => return Some(self.spawn().await),
            Action::Enlist => {
                self.enlist().await;
                return self.fitness();
            }
            Action::Delist => self.delist().await,
            Action::Drain { wait } => self.drain(wait).await,
            Action::Terminate => self.signal(Signal::TERM),
            Action::Kill => self.signal(Signal::KILL),
            Action::Clear => self.clear(),
            Action::ReapLeader => {
                if let Some((process, _)) = &mut self.process {
                    process.reap_leader();
                }
                self.group_poll = self.others_remain();
                if !self.group_poll {
                    return Some(Event::GroupGone);
                }
            }
        }
        None
    }

    async fn spawn(&mut self) -> Event {
        self.end_reading().await;
        match self.start() {
            Ok(()) => {
                lock(&self.view).spawned = true;
                Event::Spawned
            }
            Err(error) => {
                warn!(service = %self.workload.service, instance = %self.id, %error, "replica cannot be started");
                let exit = Exit::NotStarted(error.to_string());
                self.output.note(exit.to_string());
                let at = self.context.clock().wall();
                self.last_exit = Some(LastExit { exit, at });
                Event::SpawnFailed
            }
        }
    }

    fn start(&mut self) -> std::io::Result<()> {
        let lease = Arc::new(self.context.ports.lease(self.workload.port)?);
        let mut environment = self.context.environment(&self.workload);
        environment.insert("PORT".to_owned(), lease.port().to_string());
        environment.insert("ATOLL_INSTANCE".to_owned(), self.id.to_string());
        let start = Start {
            command: &self.workload.command,
            working_dir: &self.workload.working_dir,
            environment: &environment,
        };
        let (process, stdout, stderr) = Process::start(&start, &self.context.ledger)?;
        let (close, closing) = watch::channel(false);
        let (output, bytes_max) = (Arc::clone(&self.output), self.workload.log_bytes_max);
        let (view, context) = (Arc::clone(&self.view), Arc::clone(&self.context));
        let reading = self
            .context
            .tasks
            .once(&format!("output.{}", self.id), async move {
                output.read(stdout, stderr, bytes_max, closing).await;
                // The last words of a process are read after its end was shown.
                lock(&view).status.last_lines = output.last(LAST_LINES);
                context.changed.notify_one();
            });
        let (pid, port) = (process.pid(), lease.port());
        info!(service = %self.workload.service, instance = %self.id, pid, port, "replica started");
        self.reading = Some((reading, close));
        self.process = Some((process, lease));
        self.started_at = Some(self.context.clock().wall());
        Ok(())
    }

    async fn enlist(&mut self) {
        self.enlist_again = None;
        let Some((process, lease)) = &self.process else {
            return;
        };
        let lease = Arc::clone(lease);
        let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], lease.port())));
        let replica = Enlisted {
            service: self.workload.service.clone(),
            id: self.id.clone(),
            address: address.clone(),
            check: self.workload.check.clone(),
            pid: process.pid(),
        };
        let call = self.context.directory.enlist(replica);
        let taken = self.context.ask("enlist", &self.id, call).await;
        // Without an answer it may have been taken: it is taken back at the end.
        self.enlisted = Some((address, lease));
        if !taken {
            self.enlist_again = Some(self.context.clock().now() + ENLIST_AGAIN);
        }
    }

    async fn delist(&mut self) {
        self.enlist_again = None;
        // Let go of at the end.
        if let Some((_, _port)) = self.enlisted.take() {
            let (service, id) = (self.workload.service.clone(), self.id.clone());
            let call = self.context.directory.delist(service, id);
            // If it failed, its own checks find a replica that is gone.
            self.context.ask("delist", &self.id, call).await;
        }
    }

    async fn drain(&mut self, wait: bool) {
        self.enlist_again = None;
        let (service, id) = (self.workload.service.clone(), self.id.clone());
        let call = self.context.directory.drain(service.clone(), id.clone());
        // If it failed, the wait for requests in flight is worth it all the same.
        self.context.ask("drain", &self.id, call).await;
        if wait {
            let traffic = Arc::clone(&self.context.traffic);
            self.idle = Some(Box::pin(async move { traffic.idle(service, id).await }));
        }
    }

    fn signal(&mut self, signal: Signal) {
        self.idle = None;
        if let Some((process, _)) = &self.process {
            process.signal(signal);
        }
    }

    fn clear(&mut self) {
        self.idle = None;
        self.group_poll = false;
        if let Some((mut process, _lease)) = self.process.take() {
            process.clear();
        }
        if let Some((_, close)) = &self.reading {
            close.send_replace(true);
        }
    }

    fn others_remain(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|(process, _)| process.others_remain())
    }

    /// Waits until what the process printed is read, which has its own limit.
    async fn end_reading(&mut self) {
        if let Some((reading, close)) = self.reading.take() {
            close.send_replace(true);
            // A panic there was logged there.
            drop(reading.await);
        }
    }

    async fn finish(mut self) {
        self.clear();
        self.delist().await;
        self.end_reading().await;
        lock(&self.view).stopped = Some(Stopped {
            service: self.workload.service.clone(),
            id: self.id.clone(),
            exit: self.last_exit.as_ref().map(|last| last.exit.clone()),
            killed: self.supervisor.killed(),
            drain_expired: self.supervisor.drain_expired(),
        });
        self.publish();
    }

    fn publish(&self) {
        let running = self.process.as_ref();
        let mut view = lock(&self.view);
        view.status.state = self.state();
        // Reaped, its number may be anybody's.
        let pid = running.filter(|_| !self.group_poll);
        view.status.pid = pid.map(|(process, _)| process.pid());
        view.status.port = running.map(|(_, lease)| lease.port());
        view.status.restarts = self.supervisor.restarts();
        view.status.crash_looping = self.supervisor.crash_looping();
        view.status.started_at = self.started_at;
        view.status.last_exit = self.last_exit.clone();
        view.status.last_lines = self.output.last(LAST_LINES);
        drop(view);
        self.context.changed.notify_one();
    }

    fn state(&self) -> ReplicaState {
        match self.supervisor.phase() {
            // The controller knows for whom.
            Phase::Waiting => ReplicaState::Waiting { on: Vec::new() },
            Phase::Running {
                ready_since: Some(_),
            } => ReplicaState::Running,
            Phase::Running { ready_since: None } if self.supervisor.was_ready() => {
                ReplicaState::Unhealthy
            }
            Phase::Spawning | Phase::Running { .. } => ReplicaState::Starting,
            Phase::BackingOff { until } => ReplicaState::BackingOff { until },
            Phase::Done => ReplicaState::Exited,
            Phase::Draining { .. } => ReplicaState::Draining,
            Phase::Terminating { .. } | Phase::Killing => ReplicaState::Stopping,
            Phase::Stopped => ReplicaState::Stopped,
        }
    }
}

/// The next order; the last one is to stop when the controller is gone.
async fn order(orders: &mut Option<watch::Receiver<Order>>) -> Order {
    let Some(receiver) = orders else {
        return pending().await;
    };
    if receiver.changed().await.is_ok() {
        return *receiver.borrow_and_update();
    }
    *orders = None;
    Order::Stop
}

async fn ended(process: &mut Option<(Process, Arc<PortLease>)>) -> Exit {
    match process {
        Some((process, _)) => process.ended().await,
        None => pending().await,
    }
}

async fn wait_idle(idle: &mut Option<Pending<'static, ()>>) {
    match idle {
        Some(idle) => idle.await,
        None => pending().await,
    }
}

async fn changed(catalog: &mut Option<watch::Receiver<Arc<Catalog>>>) {
    if let Some(receiver) = catalog
        && receiver.changed().await.is_ok()
    {
        return;
    }
    *catalog = None;
    pending().await
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => pending().await,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
