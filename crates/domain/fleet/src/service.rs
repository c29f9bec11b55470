//! One service as the controller keeps it: what is wanted, what was built, who runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::InstanceId;

use crate::builder::{Building, Built};
use crate::context::Context;
use crate::plan::{Slot, SlotState, Step, plan};
use crate::replica::{Order, Seat};
use crate::status::{
    BuildFailure, BuildState, ReplicaState, ReplicaStatus, ServiceStatus, Stopped,
};
use crate::workload::{Condition, Workload};

pub(crate) struct Service {
    /// As last applied.
    pub(crate) wanted: Workload,
    /// What replicas are started from: as wanted, once it is built.
    pub(crate) adopted: Option<Arc<Workload>>,
    /// Of `adopted`; rises when its replicas must be replaced.
    generation: u64,
    /// Replicas asked for by hand, until the description asks for another number.
    scaled: Option<u32>,
    pub(crate) build: Build,
    pub(crate) removed: bool,
    pub(crate) seats: BTreeMap<u32, Seat>,
}

/// How far the build of `wanted` is.
pub(crate) enum Build {
    None,
    Queued,
    Running,
    Done(Duration),
    Failed(BuildFailure),
}

impl Service {
    pub(crate) fn new(wanted: Workload) -> Self {
        let mut service = Self {
            wanted,
            adopted: None,
            generation: 0,
            scaled: None,
            build: Build::None,
            removed: false,
            seats: BTreeMap::new(),
        };
        service.prepare();
        service
    }

    /// Takes over a new description. True when a build that runs is of no use now.
    pub(crate) fn want(&mut self, wanted: Workload) -> bool {
        let back = std::mem::replace(&mut self.removed, false);
        if wanted.replicas != self.wanted.replicas {
            self.scaled = None;
        }
        let failed = matches!(self.build, Build::Failed(_));
        if wanted == self.wanted && !failed && !back {
            return false;
        }
        let built =
            self.wanted.builds_as(&wanted) && matches!(self.build, Build::None | Build::Done(_));
        let runs = matches!(self.build, Build::Running);
        let same_build = self.wanted.builds_as(&wanted) && !failed;
        self.wanted = wanted;
        if built {
            self.adopt(false);
            false
        } else if runs && same_build {
            false // it goes on, and is adopted in its newest form
        } else {
            self.prepare();
            runs
        }
    }

    fn prepare(&mut self) {
        if self.wanted.build.is_some() {
            self.build = Build::Queued;
        } else {
            self.build = Build::None;
            self.adopt(false);
        }
    }

    pub(crate) fn built(&mut self, built: Built) {
        // A result that came after the description had changed again is of no use.
        if !matches!(self.build, Build::Running) {
            return;
        }
        match built {
            Built::Done { took } => {
                self.build = Build::Done(took);
                self.adopt(true);
            }
            Built::Failed(failure) => self.build = Build::Failed(failure),
            Built::Cancelled => self.build = Build::Queued,
        }
    }

    fn adopt(&mut self, rebuilt: bool) {
        let keeps = self
            .adopted
            .as_ref()
            .is_some_and(|adopted| adopted.runs_as(&self.wanted));
        if rebuilt || !keeps {
            self.generation += 1;
        }
        self.adopted = Some(Arc::new(self.wanted.clone()));
    }

    pub(crate) fn scale(&mut self, replicas: u32) {
        self.scaled = Some(replicas);
    }

    pub(crate) fn replicas_wanted(&self) -> u32 {
        self.scaled.unwrap_or(self.wanted.replicas)
    }

    /// Takes out the replicas that are over.
    pub(crate) fn purge(&mut self) -> Vec<Stopped> {
        let mut stopped = Vec::new();
        self.seats
            .retain(|_, seat| match seat.see(|view| view.stopped.clone()) {
                // Not told to, its task ended by a defect: the plan starts another.
                Some(report) => {
                    stopped.push(report);
                    false
                }
                None => true,
            });
        stopped
    }

    /// Starts and stops replicas towards what is wanted.
    pub(crate) fn advance(&mut self, context: &Arc<Context>) {
        let Some(adopted) = self.adopted.clone() else {
            return;
        };
        let slots = self.seats.iter().map(|(number, seat)| {
            let current = seat.generation == self.generation;
            let state = slot_state(seat);
            (*number, Slot { current, state })
        });
        let slots = slots.collect();
        let wanted = self.replicas_wanted() as usize;
        for step in plan(wanted, adopted.port.is_some(), &slots) {
            match step {
                Step::Start(number) => {
                    let id = replica_id(&adopted, number);
                    let seat = Seat::open(context, &adopted, id, self.generation);
                    self.seats.insert(number, seat);
                }
                Step::Stop(number) => {
                    if let Some(seat) = self.seats.get(&number) {
                        seat.order(Order::Stop);
                    }
                }
            }
        }
    }

    pub(crate) fn order_all(&self, order: Order) {
        for seat in self.seats.values() {
            seat.order(order);
        }
    }

    /// Lets the replicas go that wait for their dependencies.
    pub(crate) fn go(&self) {
        self.order_all(Order::Go);
    }

    /// Whether its replicas have reached `condition`.
    pub(crate) fn has_reached(&self, condition: Condition) -> bool {
        if self.adopted.is_none() {
            return false; // not built yet
        }
        let reached = |seat: &&Seat| {
            seat.see(|view| match condition {
                Condition::Started => view.spawned,
                Condition::Healthy => view.status.state == ReplicaState::Running,
                Condition::CompletedSuccessfully => view.succeeded,
            })
        };
        let staying = |seat: &&Seat| seat.ordered() < Order::Stop;
        let count = self.seats.values().filter(staying).filter(reached).count();
        count >= self.replicas_wanted() as usize
    }

    pub(crate) fn status(
        &self,
        building: Option<&Building>,
        unmet: &[(atoll_model::ServiceName, Condition)],
    ) -> ServiceStatus {
        let replicas: Vec<ReplicaStatus> = self
            .seats
            .values()
            .map(|seat| {
                let mut status = seat.see(|view| view.status.clone());
                if let ReplicaState::Waiting { on } = &mut status.state {
                    *on = unmet.to_vec();
                }
                status
            })
            .collect();
        let build = match (&self.build, building) {
            (Build::None, _) => BuildState::None,
            (Build::Running, Some(building)) => BuildState::Running {
                since: building.since,
                last_line: building.last_line(),
            },
            (Build::Queued | Build::Running, _) => BuildState::Queued,
            (Build::Done(took), _) => BuildState::Done { took: *took },
            (Build::Failed(failure), _) => BuildState::Failed(failure.clone()),
        };
        let old = |seat: &Seat| seat.generation != self.generation;
        ServiceStatus {
            replicas_wanted: self.replicas_wanted(),
            build,
            updating: self.seats.values().any(old)
                || matches!(self.build, Build::Queued | Build::Running),
            removed: self.removed,
            replicas,
        }
    }
}

fn slot_state(seat: &Seat) -> SlotState {
    if seat.ordered() >= Order::Stop {
        return SlotState::Leaving;
    }
    seat.see(|view| match view.status.state {
        ReplicaState::Running => SlotState::Ready,
        ReplicaState::Exited => SlotState::Done,
        ReplicaState::Draining | ReplicaState::Stopping | ReplicaState::Stopped => {
            SlotState::Leaving
        }
        ReplicaState::Waiting { .. }
        | ReplicaState::Starting
        | ReplicaState::Unhealthy
        | ReplicaState::BackingOff { .. } => SlotState::Pending,
    })
}

fn replica_id(workload: &Workload, number: u32) -> InstanceId {
    #[expect(
        clippy::expect_used,
        reason = "a service name is an instance id, and shorter"
    )]
    format!("{}-{number}", workload.service)
        .parse()
        .expect("a service name with a number is an instance id")
}
