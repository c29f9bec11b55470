//! The owner of the desired state: takes commands, watches what is, closes the gap.
//!
//! One task. It never waits for a replica, a build or the directory: it gives orders,
//! is woken when something changed, and looks at everything again. After each look:
//! no service has more than one replica above its number, none starts before its
//! dependencies, none that is removed ends before those that lean on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::ServiceName;
use atoll_runtime::Stop;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::builder::{Building, Built};
use crate::context::Context;
use crate::error::FleetError;
use crate::replica::Order;
use crate::service::{Build, Service};
use crate::status::{FleetStatus, Report};
use crate::workload::{Condition, Workload};

/// Least time between two looks for a new state to publish: a person sees no more, and
/// a thousand replicas that start at once do not make a thousand states of a thousand.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// Grace for processes that left their group, at the very end.
const STRAY_GRACE: Duration = Duration::from_secs(1);

pub(crate) enum Command {
    Apply(Vec<Workload>, oneshot::Sender<Result<(), FleetError>>),
    Scale(ServiceName, u32, oneshot::Sender<Result<(), FleetError>>),
    Stop(oneshot::Sender<Report>),
    Kill,
}

pub(crate) struct Controller {
    context: Arc<Context>,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Arc<FleetStatus>>,
    services: BTreeMap<ServiceName, Service>,
    building: Option<Building>,
    /// At most one build runs, so one place suffices.
    built: (mpsc::Sender<Built>, mpsc::Receiver<Built>),
    stopping: Option<Stopping>,
    published: Option<Instant>,
}

struct Stopping {
    since: Instant,
    report: Report,
    waiting: Vec<oneshot::Sender<Report>>,
}

impl Controller {
    pub(crate) fn new(
        context: Arc<Context>,
        commands: mpsc::Receiver<Command>,
        status: watch::Sender<Arc<FleetStatus>>,
    ) -> Self {
        Self {
            context,
            commands,
            status,
            services: BTreeMap::new(),
            building: None,
            built: mpsc::channel(1),
            stopping: None,
            published: None,
        }
    }

    /// Runs until everything is stopped: on command, because the task tree ends, or
    /// because every handle is gone and nobody could stop it later.
    pub(crate) async fn run(mut self, stop: Stop) {
        let mut catalog = self.context.directory.catalog();
        let (mut catalog_open, mut handles_left) = (true, true);
        loop {
            self.reconcile();
            let publish_at = self.publish();
            if self.stopping.is_some() && self.services.is_empty() && self.building.is_none() {
                return self.finish().await;
            }
            let context = Arc::clone(&self.context);
            tokio::select! {
                () = stop.requested(), if self.stopping.is_none() => self.begin_stop(),
                command = self.commands.recv(), if handles_left => match command {
                    Some(command) => self.obey(command),
                    None => {
                        handles_left = false;
                        self.begin_stop();
                    }
                },
                Some(built) = self.built.1.recv() => self.built(built),
                changed = catalog.changed(), if catalog_open => catalog_open = changed.is_ok(),
                () = context.changed.notified() => {}
                () = at(publish_at) => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Apply(workloads, answer) => {
                let result = self.apply(workloads);
                self.answer(answer, result);
            }
            Command::Scale(service, replicas, answer) => {
                let result = self.scale(service, replicas);
                self.answer(answer, result);
            }
            Command::Stop(report) => {
                self.begin_stop();
                if let Some(stopping) = &mut self.stopping {
                    stopping.waiting.push(report);
                }
            }
            Command::Kill => {
                self.begin_stop();
                for service in self.services.values() {
                    service.order_all(Order::Kill);
                }
            }
        }
    }

    /// Who has the answer sees its effect in the status.
    fn answer(
        &mut self,
        answer: oneshot::Sender<Result<(), FleetError>>,
        result: Result<(), FleetError>,
    ) {
        self.reconcile();
        self.published = None;
        self.publish();
        drop(answer.send(result)); // the asker may have gone
    }

    fn apply(&mut self, workloads: Vec<Workload>) -> Result<(), FleetError> {
        if self.stopping.is_some() {
            return Err(FleetError::Stopping);
        }
        let mut names = BTreeSet::new();
        for workload in &workloads {
            check_port(&workload.service, workload.port, workload.replicas)?;
            if !names.insert(workload.service.clone()) {
                let service = workload.service.clone();
                return Err(FleetError::Duplicate { service });
            }
        }
        for (name, service) in &mut self.services {
            if !names.contains(name) {
                service.removed = true;
                cancel(self.building.as_ref(), name);
            }
        }
        for workload in workloads {
            let name = workload.service.clone();
            if let Some(service) = self.services.get_mut(&name) {
                if service.want(workload) {
                    cancel(self.building.as_ref(), &name);
                }
            } else {
                self.services.insert(name, Service::new(workload));
            }
        }
        Ok(())
    }

    fn scale(&mut self, name: ServiceName, replicas: u32) -> Result<(), FleetError> {
        if self.stopping.is_some() {
            return Err(FleetError::Stopping);
        }
        match self.services.get_mut(&name) {
            Some(service) if !service.removed => {
                check_port(&name, service.wanted.port, replicas)?;
                service.scale(replicas);
                Ok(())
            }
            _ => Err(FleetError::UnknownService { service: name }),
        }
    }

    fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Stopping {
            since: self.context.clock().now(),
            report: Report::default(),
            waiting: Vec::new(),
        });
        for service in self.services.values_mut() {
            service.removed = true;
        }
        if let Some(building) = &self.building {
            building.cancel();
        }
    }

    fn built(&mut self, built: Built) {
        let Some(building) = self.building.take() else {
            return;
        };
        let Some(service) = self.services.get_mut(&building.service) else {
            return;
        };
        let name = &building.service;
        match &built {
            Built::Done { took } => info!(service = %name, took_ms = took.as_millis(), "built"),
            Built::Failed(failure) => warn!(service = %name, exit = %failure.exit, "build failed"),
            Built::Cancelled => {}
        }
        service.built(built);
    }

    fn reconcile(&mut self) {
        for service in self.services.values_mut() {
            for stopped in service.purge() {
                if let Some(stopping) = &mut self.stopping {
                    stopping.report.replicas.push(stopped);
                }
            }
        }
        let gone = |service: &Service| service.removed && service.seats.is_empty();
        let (services, context) = (&mut self.services, &self.context);
        services.retain(|name, service| {
            if gone(service) {
                context.logs.forget(name);
            }
            !gone(service)
        });
        let stoppable = self.stoppable();
        for (name, service) in &mut self.services {
            if !service.removed {
                service.advance(&self.context);
            } else if stoppable.contains(name) {
                service.order_all(Order::Stop);
            }
        }
        for service in self.services.values() {
            if !service.removed && self.unmet(&service.wanted).is_empty() {
                service.go();
            }
        }
        self.build_next();
    }

    /// Removed services that no other removed one leans on any more.
    fn stoppable(&self) -> BTreeSet<ServiceName> {
        let removed: BTreeMap<_, _> = self.services.iter().filter(|(_, s)| s.removed).collect();
        let is_needed = |name: &ServiceName| {
            removed.iter().any(|(other, service)| {
                *other != name && service.wanted.depends_on.contains_key(name)
            })
        };
        let free: BTreeSet<_> = removed
            .keys()
            .filter(|name| !is_needed(name))
            .map(|name| (*name).clone())
            .collect();
        if free.is_empty() {
            // A circle, which the configuration refuses: rather end than wait for ever.
            removed.keys().map(|name| (*name).clone()).collect()
        } else {
            free
        }
    }

    /// The dependencies of `workload` that have not reached their condition.
    fn unmet(&self, workload: &Workload) -> Vec<(ServiceName, Condition)> {
        let is_met = |name: &ServiceName, condition: Condition| {
            match self.services.get(name) {
                Some(service) => !service.removed && service.has_reached(condition),
                // Not ours to run: the catalogue knows.
                None => match condition {
                    Condition::Started => true,
                    Condition::Healthy => {
                        let catalog = self.context.directory.catalog();
                        let catalog = catalog.borrow();
                        let instances = catalog.instances(name.as_str());
                        instances.iter().any(|one| one.health.takes_requests())
                    }
                    Condition::CompletedSuccessfully => false,
                },
            }
        };
        let unmet = |(name, condition): &(&ServiceName, &Condition)| !is_met(name, **condition);
        let dependencies = workload.depends_on.iter().filter(unmet);
        dependencies
            .map(|(name, condition)| (name.clone(), *condition))
            .collect()
    }

    /// Starts the next build, dependencies first.
    fn build_next(&mut self) {
        if self.building.is_some() || self.stopping.is_some() {
            return;
        }
        let queued = |name: &ServiceName| {
            self.services
                .get(name)
                .is_some_and(|service| matches!(service.build, Build::Queued) && !service.removed)
        };
        let names: Vec<_> = self.services.keys().filter(|name| queued(name)).collect();
        let waits = |name: &&&ServiceName| {
            let service = self.services.get(**name);
            service.is_some_and(|service| service.wanted.depends_on.keys().any(queued))
        };
        let free = names.iter().find(|name| !waits(name));
        // In a circle, any.
        let Some(next) = free.or(names.first()).map(|name| (*name).clone()) else {
            return;
        };
        let Some(service) = self.services.get_mut(&next) else {
            return;
        };
        let Some(command) = service.wanted.build.clone() else {
            return;
        };
        service.build = Build::Running;
        let results = self.built.0.clone();
        let workload = service.wanted.clone();
        let building = Building::start(&self.context, workload, command, move |built| {
            // Room for one, and there is one; closed only when the controller is gone.
            drop(results.try_send(built));
        });
        self.building = Some(building);
    }

    /// Publishes what changed, unless that was done just now: then says when to look
    /// again. The last state is never held back.
    fn publish(&mut self) -> Option<Instant> {
        let now = self.context.clock().now();
        let due = self.published.map(|published| published + PUBLISH_EVERY);
        match due {
            Some(due) if due > now && !self.services.is_empty() => return Some(due),
            _ => self.published = Some(now),
        }
        let status = self.current();
        self.status.send_if_modified(|published| {
            let differs = **published != status;
            if differs {
                *published = Arc::new(status);
            }
            differs
        });
        None
    }

    fn current(&self) -> FleetStatus {
        let services = self.services.iter().map(|(name, service)| {
            let building = self
                .building
                .as_ref()
                .filter(|building| building.service == *name);
            let unmet = self.unmet(&service.wanted);
            (name.clone(), service.status(building, &unmet))
        });
        FleetStatus {
            services: services.collect(),
            stopping: self.stopping.is_some(),
        }
    }

    /// All are stopped: ends who left their group, lets the guardian go, answers.
    async fn finish(mut self) {
        let Some(mut stopping) = self.stopping.take() else {
            return;
        };
        let ledger = Arc::clone(&self.context.ledger);
        let sweep = move || {
            let strays = ledger.end_strays(STRAY_GRACE);
            ledger.detach();
            strays
        };
        let strays = self.context.tasks.blocking("strays", sweep).await;
        stopping.report.strays = strays.unwrap_or(0);
        let now = self.context.clock().now();
        stopping.report.took = now.saturating_duration_since(stopping.since);
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Stop(waiting) => stopping.waiting.push(waiting),
                Command::Apply(_, answer) | Command::Scale(_, _, answer) => {
                    drop(answer.send(Err(FleetError::Stopping)));
                }
                Command::Kill => {}
            }
        }
        for waiting in stopping.waiting {
            drop(waiting.send(stopping.report.clone()));
        }
    }
}

fn check_port(service: &ServiceName, port: Option<u16>, replicas: u32) -> Result<(), FleetError> {
    match port {
        Some(port) if replicas > 1 => Err(FleetError::FixedPort {
            service: service.clone(),
            replicas,
            port,
        }),
        _ => Ok(()),
    }
}

fn cancel(building: Option<&Building>, service: &ServiceName) {
    if let Some(building) = building
        && building.service == *service
    {
        building.cancel();
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
