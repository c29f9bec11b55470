//! One instance as the data plane knows it: where it listens, how many requests it
//! has in flight, and whether it may get another.
//!
//! An [`Endpoint`] outlives snapshots: the next one carries it over as long as
//! service, id and address stay the same, so that its counts stay true.
//!
//! Draining is race-free: [`Endpoint::enter`] counts first and looks at the health
//! second; whoever drains sets the health first and waits for zero second. Both are
//! sequentially consistent, so one of the two sees the other.

mod group;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use atoll_model::{Address, Health, Instance, InstanceId, ServiceName};
use tokio::sync::Notify;

pub use group::Census;
pub(crate) use group::{Ask, Group};

/// Identity of an endpoint, unique for the life of the process: the key of a
/// worker's connection pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey(pub u64);

/// An instance that requests are sent to.
#[derive(Debug)]
pub struct Endpoint {
    /// Never given twice.
    pub key: EndpointKey,
    /// The service.
    pub service: ServiceName,
    /// The instance within the service.
    pub id: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// The same, when it needs no look-up of a name.
    pub socket: Option<SocketAddr>,
    in_flight: AtomicU32,
    /// Place in [`Health::ALL`]: the newest that is known, which may be newer than
    /// the snapshot that a request holds.
    health: AtomicU8,
    idle: Notify,
}

/// A request counted in flight to an endpoint; dropping it counts it out.
pub struct InFlight {
    /// Where the request goes.
    pub endpoint: Arc<Endpoint>,
}

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

impl Endpoint {
    /// An endpoint with no requests in flight, for an instance seen for the first time.
    pub fn new(instance: &Instance) -> Self {
        Self {
            key: EndpointKey(NEXT_KEY.fetch_add(1, Ordering::Relaxed)),
            service: instance.service.clone(),
            id: instance.id.clone(),
            address: instance.address.clone(),
            socket: instance.address.socket(),
            in_flight: AtomicU32::new(0),
            health: AtomicU8::new(instance.health as u8),
            idle: Notify::new(),
        }
    }

    /// Requests in flight, of all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The newest health that is known.
    pub fn health(&self) -> Health {
        Health::ALL[usize::from(self.health.load(Ordering::SeqCst))]
    }

    /// Sets the health for every snapshot at once. One that takes no requests gets
    /// none from now on, whichever snapshot a worker holds.
    pub fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::SeqCst);
        self.idle.notify_waiters();
    }

    /// Counts a request in flight; `None` when the endpoint takes no requests.
    pub fn enter(self: &Arc<Self>) -> Option<InFlight> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        if self.health().takes_requests() {
            return Some(InFlight {
                endpoint: Arc::clone(self),
            });
        }
        self.leave();
        None
    }

    /// Resolves when the endpoint takes no more requests (it drains, is critical or
    /// is gone) and none is in flight.
    pub async fn idle(&self) {
        loop {
            let changed = self.idle.notified();
            if !self.health().takes_requests() && self.in_flight.load(Ordering::SeqCst) == 0 {
                return;
            }
            changed.await;
        }
    }

    fn leave(&self) {
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "left more often than entered");
        if before == 1 && !self.health().takes_requests() {
            self.idle.notify_waiters();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.leave();
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "InFlight({} at {})",
            self.endpoint.id, self.endpoint.address
        )
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// No endpoint takes a request; the answer is 503.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service `{service}` {why}")]
pub struct NoEndpoint {
    /// The backend that was chosen first.
    pub service: ServiceName,
    /// What its instances are.
    pub why: NoEndpointReason,
}

/// Why no endpoint of a service takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpointReason {
    /// None is registered.
    NoInstances,
    /// All are registered and not yet seen healthy.
    AllStarting,
    /// All fail their checks.
    AllCritical,
    /// All are finishing what they have.
    AllDraining,
    /// All that are healthy, or the route's backends, have weight 0.
    NoWeight,
    /// Some of this, some of that.
    Mixed(Census),
}

impl NoEndpointReason {
    /// The reason that a census shows.
    pub fn of(census: Census) -> Self {
        let unfit = census.starting + census.critical + census.draining + census.weightless;
        let all = |count: usize| count > 0 && count == unfit;
        match census {
            _ if census == Census::default() => Self::NoInstances,
            _ if census.fit > 0 => Self::Mixed(census),
            _ if all(census.starting) => Self::AllStarting,
            _ if all(census.critical) => Self::AllCritical,
            _ if all(census.draining) => Self::AllDraining,
            _ if all(census.weightless) => Self::NoWeight,
            _ => Self::Mixed(census),
        }
    }

    /// A word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoInstances => "no_instances",
            Self::AllStarting => "all_starting",
            Self::AllCritical => "all_critical",
            Self::AllDraining => "all_draining",
            Self::NoWeight => "no_weight",
            Self::Mixed(_) => "mixed",
        }
    }
}

impl fmt::Display for NoEndpointReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInstances => f.write_str("has no instances"),
            Self::AllStarting => f.write_str("has only instances that are still starting"),
            Self::AllCritical => f.write_str("has only instances that fail their checks"),
            Self::AllDraining => f.write_str("has only instances that are draining"),
            Self::NoWeight => f.write_str("has only instances of weight 0"),
            Self::Mixed(census) => write!(
                f,
                "has no instance that takes requests: {} starting, {} critical, {} draining, {} of weight 0",
                census.starting, census.critical, census.draining, census.weightless
            ),
        }
    }
}
