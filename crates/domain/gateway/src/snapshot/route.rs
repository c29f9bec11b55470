//! One route, ready for requests: where they go and with which path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::ServiceName;
use atoll_resilience::{RetryBudget, Weights, hash_key};
use atoll_runtime::{Clock, Random};

use super::Groups;
use crate::config::{Balance, HashKey, Route};
use crate::endpoint::{Ask, EndpointKey, Group, InFlight, NoEndpoint, NoEndpointReason};
use crate::metrics::{RouteMetrics, ServiceMetrics};
use crate::view::RequestView;

/// A route with its endpoints and its live state.
#[derive(Debug)]
pub struct CompiledRoute {
    /// As configured.
    pub spec: Arc<Route>,
    /// Its counters; they outlive reloads that keep the route's name.
    pub metrics: Arc<RouteMetrics>,
    /// Its retry budget; it outlives reloads that keep name and limits.
    pub retry_budget: Arc<RetryBudget>,
    backends: Vec<CompiledBackend>,
    shares: Weights,
}

/// A service that takes a share of a route.
#[derive(Clone, Debug)]
pub struct CompiledBackend {
    /// Share relative to the other backends.
    pub weight: u32,
    pub(crate) group: Arc<Group>,
}

impl CompiledBackend {
    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.group.service
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<ServiceMetrics> {
        &self.group.metrics
    }
}

impl CompiledRoute {
    pub(super) fn compile(
        spec: &Route,
        groups: &Groups,
        before: Option<&Self>,
        revived: Option<&Arc<RouteMetrics>>,
    ) -> Self {
        let (percent, minimum) = (spec.retry.budget_percent, spec.retry.budget_min_per_second);
        let metrics = before.map(|before| &before.metrics).or(revived);
        let budget = before
            .filter(|before| before.retry_budget.has_limits(percent, minimum))
            .map(|before| Arc::clone(&before.retry_budget));
        let backends = spec.backends.iter().map(|backend| CompiledBackend {
            weight: backend.weight,
            group: Arc::clone(&groups[&backend.service]),
        });
        Self::assemble(
            Arc::new(spec.clone()),
            metrics.map_or_else(|| Arc::new(RouteMetrics::new(&spec.name)), Arc::clone),
            budget.unwrap_or_else(|| {
                Arc::new(RetryBudget::new(percent, minimum, Clock::system().now()))
            }),
            backends.collect(),
        )
    }

    /// This route with the groups of its services in `groups`.
    pub(super) fn with_groups(self: &Arc<Self>, groups: &Groups) -> Arc<Self> {
        let same = |backend: &CompiledBackend| {
            Arc::ptr_eq(&backend.group, &groups[&backend.group.service])
        };
        if self.backends.iter().all(same) {
            return Arc::clone(self);
        }
        let backends = self.backends.iter().map(|backend| CompiledBackend {
            weight: backend.weight,
            group: Arc::clone(&groups[&backend.group.service]),
        });
        Arc::new(Self::assemble(
            Arc::clone(&self.spec),
            Arc::clone(&self.metrics),
            Arc::clone(&self.retry_budget),
            backends.collect(),
        ))
    }

    fn assemble(
        spec: Arc<Route>,
        metrics: Arc<RouteMetrics>,
        retry_budget: Arc<RetryBudget>,
        backends: Vec<CompiledBackend>,
    ) -> Self {
        // A backend without a fit instance takes no share, so that a canary that is
        // down costs no request (the Gateway API would answer its share with 503).
        let fit = |backend: &CompiledBackend| match backend.group.is_fit() {
            true => backend.weight,
            false => 0,
        };
        let shares = Weights::new(backends.iter().map(fit));
        Self {
            spec,
            metrics,
            retry_budget,
            backends,
            shares,
        }
    }

    /// Where requests go, in the order of the file.
    pub fn backends(&self) -> &[CompiledBackend] {
        &self.backends
    }

    /// The counters of a service that this route sends to.
    pub fn service_metrics(&self, service: &ServiceName) -> Option<&Arc<ServiceMetrics>> {
        let backend = self.backends.iter().find(|at| at.service() == service);
        backend.map(CompiledBackend::metrics)
    }

    /// How much longer a request that nobody takes may wait for an instance.
    pub(crate) fn patience(&self, now: Instant) -> Duration {
        let weighty = self.backends.iter().filter(|backend| backend.weight > 0);
        let patience = weighty.map(|backend| backend.group.patience(now));
        patience.max().unwrap_or_default()
    }

    /// A connection to an instance of the service could be opened.
    pub(crate) fn reached(&self, service: &ServiceName) {
        if let Some(backend) = self.backends.iter().find(|at| at.service() == service) {
            backend.group.reached();
        }
    }

    /// Chooses an endpoint, not one of `tried` if another is left, and counts a
    /// request in flight to it until the guard drops.
    ///
    /// The backend is drawn by weight; when all of its endpoints were tried, those of
    /// the others are asked, and then the same again.
    ///
    /// # Errors
    /// When no endpoint takes requests, and why.
    pub fn pick<V: RequestView>(
        &self,
        request: &V,
        tried: &[EndpointKey],
        random: &mut Random,
    ) -> Result<InFlight, NoEndpoint> {
        let drawn = match self.backends.len() {
            1 => Some(0),
            _ => self.shares.draw(random.bits()),
        };
        let ask = self.ask(request, random);
        let picked = drawn.and_then(|drawn| {
            self.backends[drawn]
                .group
                .pick(ask, tried, random)
                .or_else(|| self.pick_elsewhere(drawn, ask, tried, random))
        });
        picked.ok_or_else(|| self.no_endpoint(drawn))
    }

    fn pick_elsewhere(
        &self,
        drawn: usize,
        ask: Ask,
        tried: &[EndpointKey],
        random: &mut Random,
    ) -> Option<InFlight> {
        let others = self.backends.iter().enumerate();
        let mut others = others.filter(|&(index, backend)| index != drawn && backend.weight > 0);
        let fresh = others.find_map(|(_, backend)| backend.group.pick(ask, tried, random));
        if fresh.is_some() || tried.is_empty() {
            return fresh;
        }
        self.backends[drawn].group.pick(ask, &[], random)
    }

    fn ask<V: RequestView>(&self, request: &V, random: &mut Random) -> Ask {
        match &self.spec.balance {
            Balance::LeastRequest => Ask::LeastRequest,
            Balance::RoundRobin => Ask::RoundRobin,
            Balance::Hash(key) => Ask::Hash(match hash_of(key, request) {
                Some(key) => key,
                // Without a key any instance will do.
                None => random.bits(),
            }),
        }
    }

    fn no_endpoint(&self, drawn: Option<usize>) -> NoEndpoint {
        let weighty = self.backends.iter().position(|backend| backend.weight > 0);
        let backend = &self.backends[drawn.or(weighty).unwrap_or(0)];
        NoEndpoint {
            service: backend.group.service.clone(),
            why: match weighty {
                Some(_) => NoEndpointReason::of(backend.group.census()),
                None => NoEndpointReason::NoWeight,
            },
        }
    }
}

fn hash_of<V: RequestView>(key: &HashKey, request: &V) -> Option<u64> {
    match key {
        HashKey::Header(name) => request.header(name).map(hash_key),
        HashKey::Cookie(name) => {
            let cookies = request.header(&http::header::COOKIE)?;
            cookie(cookies, name.as_bytes()).map(hash_key)
        }
        HashKey::ClientIp => Some(match request.client_ip() {
            std::net::IpAddr::V4(v4) => hash_key(&v4.octets()),
            std::net::IpAddr::V6(v6) => hash_key(&v6.octets()),
        }),
    }
}

/// The value of the first cookie of this name (RFC 6265 §5.4).
fn cookie<'c>(cookies: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    cookies.split(|&byte| byte == b';').find_map(|pair| {
        pair.trim_ascii_start()
            .strip_prefix(name)?
            .strip_prefix(b"=")
            .map(<[u8]>::trim_ascii_end)
    })
}
