//! The endpoints of one service at one revision, and the choice among them.
//!
//! A group is shared by all routes to its service and reused by the next snapshot
//! when the catalogue did not change the service.

use std::sync::Arc;

use atoll_model::{Health, Instance, ServiceName};
use atoll_resilience::{Ring, Rotation, Weights, less_loaded};
use atoll_runtime::Random;

use super::{Endpoint, EndpointKey, InFlight};
use crate::metrics::ServiceMetrics;

/// Draws before all endpoints are looked at in order.
const DRAWS: usize = 4;

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
        // Two rounds' worth of points would be needed only if nearly all were tried.
        ring.walk(key)
            .take(ring.len())
            .filter(|&member| fresh(member))
            .find_map(|member| self.fit[member].enter())
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
