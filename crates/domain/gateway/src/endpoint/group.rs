//! The endpoints of one service at one revision, and the choice among them.
//!
//! A group is shared by all routes to its service and reused by the next snapshot
//! when the catalogue did not change the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atoll_model::{Health, Instance, ServiceName};
use atoll_resilience::{Ring, Rotation, Weights, less_loaded};
use atoll_runtime::{Clock, Random};

use super::{Endpoint, EndpointKey, InFlight};
use crate::metrics::ServiceMetrics;

/// Draws before all endpoints are looked at in order.
const DRAWS: usize = 4;

/// Points of the ring that are looked at before all endpoints are, in order: enough
/// to pass what a request has tried, few enough when nearly all drain at once.
const STEPS_MAX: usize = 256;

/// How long after a service has lost its last fit instance a request waits for the
/// next one: a killed replica is back within it. (Linkerd's fail-fast: 3 s.)
const LOST_WAIT: Duration = Duration::from_secs(5);

/// How long requests wait for news when no instance that seems fit can be reached:
/// the catalogue learns of a death some milliseconds after the first request that
/// meets it. Counted from that request on, so that a service that stays unreachable
/// makes nobody wait.
const UNREACHABLE_WAIT: Duration = Duration::from_secs(1);

/// How the members of a group are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    LeastRequest,
    RoundRobin,
    /// With the place of the key on the ring.
    Hash(u64),
}

/// The instances of one service.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) service: ServiceName,
    pub(crate) metrics: Arc<ServiceMetrics>,
    /// The catalogue's list that this was made from; compared by identity.
    pub(crate) instances: Arc<[Arc<Instance>]>,
    /// One for each of `instances`.
    pub(crate) all: Vec<Arc<Endpoint>>,
    /// Those that take requests and have a weight, in the order of the catalogue.
    fit: Vec<Arc<Endpoint>>,
    weights: Weights,
    rotation: Rotation,
    ring: Option<Ring>,
    /// When the last fit instance left, if there was one and none has come since.
    lost: Option<Instant>,
    made: Instant,
    /// Microseconds from `made` to the first request that could reach nobody; 0 when
    /// the last connection could be opened.
    unreachable_us: AtomicU64,
}

impl Group {
    /// Groups `all`, the endpoints of `instances`.
    pub(crate) fn new(
        metrics: Arc<ServiceMetrics>,
        instances: Arc<[Arc<Instance>]>,
        all: Vec<Arc<Endpoint>>,
        hashed: bool,
        previous: Option<&Self>,
    ) -> Self {
        let (fit, weights): (Vec<_>, Vec<_>) = instances
            .iter()
            .zip(&all)
            .filter(|(instance, _)| instance.health.takes_requests() && instance.weight > 0)
            .map(|(instance, endpoint)| (Arc::clone(endpoint), u32::from(instance.weight)))
            .unzip();
        let made = Clock::system().now();
        let lost = match previous {
            Some(previous) if fit.is_empty() && previous.is_fit() => Some(made),
            Some(previous) if fit.is_empty() => previous.lost,
            _ => None,
        };
        let mut rotation = Rotation::new(&weights);
        if let Some(previous) = previous {
            rotation = rotation.starting_as(&previous.rotation);
        }
        let ring = hashed.then(|| {
            let ids = fit.iter().map(|endpoint| endpoint.id.as_str());
            Ring::new(ids.zip(weights.iter().copied()))
        });
        Self {
            service: metrics.service.clone(),
            metrics,
            instances,
            all,
            fit,
            weights: Weights::new(weights),
            rotation,
            ring,
            lost,
            made,
            unreachable_us: AtomicU64::new(0),
        }
    }

    /// Whether the ring that hash balancing needs was made.
    pub(crate) fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Whether any endpoint was fit when the snapshot was made.
    pub(crate) fn is_fit(&self) -> bool {
        !self.fit.is_empty()
    }

    /// How much longer a request that no instance takes may wait for one. Nothing
    /// when the service never had one: waiting would hide a mistake.
    pub(crate) fn patience(&self, now: Instant) -> Duration {
        let (since, limit) = match self.lost {
            _ if self.is_fit() => (self.unreachable_since(now), UNREACHABLE_WAIT),
            Some(lost) => (lost, LOST_WAIT),
            None => return Duration::ZERO,
        };
        limit.saturating_sub(now.saturating_duration_since(since))
    }

    /// A connection to one of the instances could be opened.
    pub(crate) fn reached(&self) {
        if self.unreachable_us.load(Ordering::Relaxed) != 0 {
            self.unreachable_us.store(0, Ordering::Relaxed);
        }
    }

    fn unreachable_since(&self, now: Instant) -> Instant {
        let now_us = now.saturating_duration_since(self.made).as_micros();
        let now_us = u64::try_from(now_us).unwrap_or(u64::MAX).max(1);
        let order = Ordering::Relaxed;
        let first = self
            .unreachable_us
            .compare_exchange(0, now_us, order, order);
        let since_us = first.err().unwrap_or(now_us);
        self.made + Duration::from_micros(since_us)
    }

    /// All instances, fit or not, by id.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&Instance, &Endpoint)> {
        let instances = self.instances.iter().map(Arc::as_ref);
        instances.zip(self.all.iter().map(Arc::as_ref))
    }

    /// Chooses one that is not in `tried`.
    pub(crate) fn pick(
        &self,
        ask: Ask,
        tried: &[EndpointKey],
        random: &mut Random,
    ) -> Option<InFlight> {
        let fresh = |member: usize| !tried.contains(&self.fit[member].key);
        let drawn = match ask {
            Ask::LeastRequest => (0..DRAWS).find_map(|_| {
                let member = self.less_busy(random, &fresh)?;
                self.fit[member].enter()
            }),
            Ask::RoundRobin => (0..DRAWS.min(self.fit.len())).find_map(|_| {
                let member = self.rotation.turn().filter(|&member| fresh(member))?;
                self.fit[member].enter()
            }),
            Ask::Hash(key) => {
                return self.nearest(key, &fresh);
            }
        };
        drawn.or_else(|| self.first_from(random.below(self.fit.len()), &fresh))
    }

    /// The less busy of two, as far as they are fresh.
    fn less_busy(&self, random: &mut Random, fresh: &impl Fn(usize) -> bool) -> Option<usize> {
        let first = self.weights.draw(random.bits())?;
        let second = self.weights.draw_other(random.bits(), first);
        let Some(second) = second.filter(|&second| fresh(second)) else {
            return Some(first).filter(|&first| fresh(first));
        };
        let load = |member: usize| (self.fit[member].in_flight(), self.weights.weight(member));
        if fresh(first) && less_loaded(load(first), load(second)) {
            Some(first)
        } else {
            Some(second)
        }
    }

    /// The first on the ring from `key` on that takes requests.
    fn nearest(&self, key: u64, fresh: &impl Fn(usize) -> bool) -> Option<InFlight> {
        let ring = self.ring.as_ref()?;
        let home = ring.member(key)?;
        ring.walk(key)
            .take(STEPS_MAX)
            .filter(|&member| fresh(member))
            .find_map(|member| self.fit[member].enter())
            .or_else(|| self.first_from(home, fresh))
    }

    fn first_from(&self, start: usize, fresh: &impl Fn(usize) -> bool) -> Option<InFlight> {
        let count = self.fit.len();
        (0..count)
            .map(|offset| (start + offset) % count)
            .filter(|&member| fresh(member))
            .find_map(|member| self.fit[member].enter())
    }

    /// How many instances are in each state, for the answer that none took a request.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for (instance, endpoint) in self.instances.iter().zip(&self.all) {
            match endpoint.health() {
                Health::Starting => census.starting += 1,
                Health::Critical => census.critical += 1,
                Health::Draining => census.draining += 1,
                Health::Passing | Health::Warning if instance.weight == 0 => census.weightless += 1,
                Health::Passing | Health::Warning => census.fit += 1,
            }
        }
        census
    }
}

/// Instances by what they are fit for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Not yet seen healthy.
    pub starting: usize,
    /// Failing their checks.
    pub critical: usize,
    /// Finishing what they have.
    pub draining: usize,
    /// Healthy, with weight 0.
    pub weightless: usize,
    /// Taking requests.
    pub fit: usize,
}
