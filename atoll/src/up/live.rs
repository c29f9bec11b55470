//! All of a running Atoll in one place: what the admin API, the screen and the
//! reloader look at. It owns nothing but what is said about the configuration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_console::wire;
use atoll_fleet::{BuildState, Fleet, FleetStatus, ReplicaState, ServiceStatus};
use atoll_gateway::Gateway;
use atoll_model::{Fault, ServiceName};
use atoll_registry::Registry;
use atoll_runtime::Clock;
use atoll_store::{Standing, Store};
use tokio::sync::{mpsc, oneshot};

use crate::config::Loaded;

/// Somebody who asked for a reload and waits for its fate.
pub(crate) type ReloadRequest = oneshot::Sender<Result<wire::Reloaded, Fault>>;

pub(crate) struct Live {
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) registry: Registry,
    /// Where registrations and keys are kept.
    pub(crate) store: Store,
    /// `None` when its listener is off.
    pub(crate) gateway: Option<Gateway>,
    pub(crate) fleet: Fleet,
    /// Open listeners by their key in the file: `127.0.0.1:8080`.
    pub(crate) listeners: BTreeMap<String, String>,
    pub(crate) reload: mpsc::Sender<ReloadRequest>,
    configured: Mutex<Configured>,
    stopping: AtomicBool,
    /// Everything has come up once: from then on a replica that restarts makes
    /// nobody stop sending requests here.
    came_up: AtomicBool,
}

/// The configuration in force, and what became of the last attempt to change it.
pub(crate) struct Configured {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) generation: u64,
    pub(crate) last_reload: Option<wire::LastReload>,
}

/// The parts that a [`Live`] is made of.
pub(crate) struct Parts {
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) fleet: Fleet,
    pub(crate) listeners: BTreeMap<String, String>,
    pub(crate) reload: mpsc::Sender<ReloadRequest>,
    pub(crate) loaded: Arc<Loaded>,
}

impl Live {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            started: parts.clock.now(),
            clock: parts.clock,
            registry: parts.registry,
            store: parts.store,
            gateway: parts.gateway,
            fleet: parts.fleet,
            listeners: parts.listeners,
            reload: parts.reload,
            configured: Mutex::new(Configured {
                loaded: parts.loaded,
                generation: 1,
                last_reload: None,
            }),
            stopping: AtomicBool::new(false),
            came_up: AtomicBool::new(false),
        }
    }

    pub(crate) fn configured(&self) -> MutexGuard<'_, Configured> {
        // Held for copies only; nothing can be left half-changed.
        self.configured
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.configured().loaded)
    }

    /// Since when the store is away and why, if it is.
    pub(crate) fn store_away(&self) -> Option<(Duration, String)> {
        match &*self.store.standing().borrow() {
            Standing::Ready => None,
            Standing::Away { since, why } => {
                let away = self.clock.now().saturating_duration_since(*since);
                Some((away, why.clone()))
            }
        }
    }

    pub(crate) fn fleet_status(&self) -> Arc<FleetStatus> {
        Arc::clone(&self.fleet.status().borrow())
    }

    pub(crate) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Why requests should not be sent here.
    pub(crate) fn not_ready(&self) -> Option<String> {
        if self.stopping.load(Ordering::Acquire) {
            return Some("stopping".to_owned());
        }
        if self.came_up.load(Ordering::Acquire) {
            return None;
        }
        let status = self.fleet_status();
        let loaded = self.loaded();
        let coming = loaded.workloads.iter().find_map(|workload| {
            let service = &workload.service;
            still_coming_up(service, status.services.get(service))
        });
        if coming.is_none() {
            self.came_up.store(true, Ordering::Release);
        }
        coming
    }
}

/// What a service is still waiting for; `None` once it serves, and once it is clear
/// that it will not by itself: others should not wait for a broken one.
fn still_coming_up(service: &ServiceName, status: Option<&ServiceStatus>) -> Option<String> {
    let Some(status) = status else {
        return Some(format!("{service} is not started yet"));
    };
    if status.ready() > 0 || status.replicas_wanted == 0 {
        return None;
    }
    match status.build {
        BuildState::Failed(_) => return None,
        BuildState::Queued | BuildState::Running { .. } => {
            return Some(format!("{service} is being built"));
        }
        BuildState::None | BuildState::Done { .. } => {}
    }
    let given_up = status
        .replicas
        .iter()
        .any(|replica| replica.crash_looping || replica.state == ReplicaState::Exited);
    (!given_up).then(|| {
        let wanted = status.replicas_wanted;
        format!("{service} has 0 of {wanted} replicas ready")
    })
}
