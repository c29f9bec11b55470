//! Services as people see them: what the registry knows and what the fleet does,
//! in one list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_console::wire;
use atoll_fleet::{BuildState, FleetStatus, ReplicaState, ReplicaStatus, ServiceStatus};
use atoll_gateway::snapshot::Snapshot;
use atoll_model::{Catalog, Instance, ServiceName, is_front_label};

use super::control::millis;
use super::live::Live;

/// All services that are registered, run or configured.
pub(crate) fn all(live: &Live) -> wire::Services {
    let view = View::of(live);
    let names: BTreeSet<&ServiceName> = view
        .catalog
        .services
        .keys()
        .chain(view.fleet.services.keys())
        .chain(view.configured.iter())
        .collect();
    wire::Services {
        revision: view.catalog.revision.0,
        services: names.into_iter().map(|name| view.service(name)).collect(),
    }
}

/// One service; `None` when nobody knows it.
pub(crate) fn one(live: &Live, name: &ServiceName) -> Option<wire::Service> {
    let view = View::of(live);
    let known = view.catalog.services.contains_key(name)
        || view.fleet.services.contains_key(name)
        || view.configured.contains(name);
    known.then(|| view.service(name))
}

/// A service in one line.
pub(crate) fn summary(service: &wire::Service) -> wire::ServiceSummary {
    let takes = |instance: &&wire::Instance| {
        matches!(&instance.health[..], "passing" | "warning") && instance.weight > 0
    };
    wire::ServiceSummary {
        name: service.name.clone(),
        passing: service.instances.iter().filter(takes).count(),
        instances: service.instances.len(),
        source: service.source.clone(),
        note: service.note.clone(),
    }
}

/// One look at everything, so that one answer does not contradict itself.
struct View {
    catalog: Arc<Catalog>,
    fleet: Arc<FleetStatus>,
    snapshot: Option<Arc<Snapshot>>,
    /// Services of the file whose instances run elsewhere.
    configured: BTreeSet<ServiceName>,
    /// Services of the file whose instances the fleet runs.
    run_here: BTreeSet<ServiceName>,
    now: std::time::SystemTime,
}

impl View {
    fn of(live: &Live) -> Self {
        let loaded = live.loaded();
        Self {
            catalog: live.registry.current(),
            fleet: live.fleet_status(),
            snapshot: live.gateway.as_ref().map(|gateway| gateway.snapshot()),
            configured: loaded
                .external
                .iter()
                .map(|external| external.service.clone())
                .collect(),
            run_here: loaded
                .workloads
                .iter()
                .map(|workload| workload.service.clone())
                .collect(),
            now: live.clock.wall(),
        }
    }

    fn service(&self, name: &ServiceName) -> wire::Service {
        let run = self.fleet.services.get(name);
        let ours = run.is_some() || self.run_here.contains(name);
        let mut instances: BTreeMap<String, wire::Instance> = self
            .catalog
            .instances(name.as_str())
            .iter()
            .map(|known| (known.id.to_string(), self.instance(known, ours)))
            .collect();
        for replica in run.iter().flat_map(|run| &run.replicas) {
            let shown = instances
                .entry(replica.id.to_string())
                .or_insert_with(|| absent(replica));
            self.add_replica(shown, replica);
        }
        let source = match ours {
            true => "fleet",
            false if self.configured.contains(name) => "config",
            false => "client",
        };
        wire::Service {
            name: name.to_string(),
            source: source.to_owned(),
            note: run.map(note).unwrap_or_default(),
            instances: in_order(instances),
        }
    }

    /// `ours` is whether the fleet registered it, and so wrote its process into the
    /// metadata: the catalogue is newer than the fleet's own status, which is
    /// published at most 20 times a second.
    fn instance(&self, instance: &Instance, ours: bool) -> wire::Instance {
        let mut metadata = instance.metadata.clone();
        metadata.retain(|key, _| !is_front_label(key));
        let pid = match ours {
            true => metadata.remove("pid").and_then(|pid| pid.parse().ok()),
            false => None,
        };
        let in_flight = self.snapshot.iter().flat_map(|snapshot| {
            snapshot.endpoints_of(instance.service.as_str(), instance.id.as_str())
        });
        wire::Instance {
            id: instance.id.to_string(),
            health: instance.health.to_string(),
            address: instance.address.to_string(),
            note: instance.note.clone(),
            weight: instance.weight,
            tags: instance.tags.clone(),
            metadata,
            in_flight: in_flight.map(|e| u64::from(e.in_flight())).sum(),
            pid,
            restarts: None,
            uptime_ms: None,
        }
    }

    fn add_replica(&self, shown: &mut wire::Instance, replica: &ReplicaStatus) {
        shown.pid = replica.pid.or(shown.pid);
        shown.restarts = Some(u64::from(replica.restarts));
        if replica.pid.is_some()
            && let Some(started) = replica.started_at
        {
            shown.uptime_ms = Some(millis(self.now.duration_since(started).unwrap_or_default()));
        }
    }
}

/// By name, but `users-2` before `users-10`.
fn in_order(instances: BTreeMap<String, wire::Instance>) -> Vec<wire::Instance> {
    let mut list: Vec<_> = instances.into_values().collect();
    list.sort_by_cached_key(|instance| {
        let (stem, number) = instance.id.rsplit_once('-').unwrap_or((&instance.id, ""));
        (
            stem.to_owned(),
            number.parse::<u64>().ok(),
            instance.id.clone(),
        )
    });
    list
}

/// A replica that the registry does not hold at the moment.
fn absent(replica: &ReplicaStatus) -> wire::Instance {
    wire::Instance {
        id: replica.id.to_string(),
        health: state_word(replica).to_owned(),
        note: replica_note(replica),
        ..wire::Instance::default()
    }
}

/// What a replica without an instance does, in one word or two.
pub(crate) fn state_word(replica: &ReplicaStatus) -> &'static str {
    match replica.state {
        ReplicaState::BackingOff { .. } | ReplicaState::Starting if replica.crash_looping => {
            "crash-looping"
        }
        ReplicaState::Waiting { .. } => "waiting",
        ReplicaState::Starting => "starting",
        ReplicaState::Running => "passing",
        ReplicaState::Unhealthy => "critical",
        ReplicaState::BackingOff { .. } => "backing off",
        ReplicaState::Draining => "draining",
        ReplicaState::Stopping => "stopping",
        ReplicaState::Exited => "exited",
        ReplicaState::Stopped => "stopped",
    }
}

fn replica_note(replica: &ReplicaStatus) -> String {
    if let ReplicaState::Waiting { on } = &replica.state {
        let names: Vec<_> = on.iter().map(|(name, _)| name.to_string()).collect();
        return format!("waits for {}", names.join(", "));
    }
    replica
        .last_exit
        .as_ref()
        .map(|last| last.exit.to_string())
        .unwrap_or_default()
}

fn note(service: &ServiceStatus) -> String {
    let word = match service.build {
        BuildState::Queued => "waiting to be built",
        BuildState::Running { .. } => "building",
        BuildState::Failed(_) => "build failed",
        BuildState::None | BuildState::Done { .. } if service.removed => "being removed",
        BuildState::None | BuildState::Done { .. } if service.updating => "updating",
        BuildState::None | BuildState::Done { .. } => "",
    };
    word.to_owned()
}
