//! Everything that a request needs to know, immutable and published whole: compiled
//! routes, policies, endpoint groups.
//!
//! Compiled off the hot path from a configuration and a catalogue; what both have
//! not changed is shared with the predecessor, and live state (requests in flight,
//! keys, counters, retry budgets) is carried over by identity. Health is live: each
//! compilation sets it on the endpoints at once, so snapshots must be compiled in the
//! order of the catalogue's revisions, each from the one before.

mod check;
mod rewrite;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use atoll_model::{Catalog, Health, Instance, Revision, ServiceName};
use http::Method;

use crate::config::{Balance, Config, Route};
use crate::endpoint::{Endpoint, Group};
use crate::metrics::{RouteMetrics, ServiceMetrics};
use crate::router::{Chosen, FastHash, Lookup, Router};
use crate::view::RequestView;

pub use crate::router::BadPath;
pub use check::{CompileError, CompileErrors, Warning};
pub use route::{CompiledBackend, CompiledRoute};

/// What one request sees of the world, from its start to its end.
#[derive(Debug)]
pub struct Snapshot {
    /// The configuration that this was compiled from.
    pub config: Arc<Config>,
    /// Of the configuration; grows with each reload.
    pub generation: u64,
    /// Of the catalogue.
    pub catalog_revision: Revision,
    /// What is odd about the configuration without being wrong.
    pub warnings: Arc<[Warning]>,
    router: Arc<Router>,
    routes: Vec<Arc<CompiledRoute>>,
    groups: Groups,
    /// Endpoints that no group has any more and that have requests in flight.
    lingering: Vec<Arc<Endpoint>>,
    /// Counters of routes that are gone and have requests in flight.
    lingering_metrics: Vec<Arc<RouteMetrics>>,
}

/// One for each service that a route names.
type Groups = HashMap<ServiceName, Arc<Group>, FastHash>;

/// What became of a look-up.
#[derive(Debug)]
pub enum Routing<'s> {
    /// The route that takes the request.
    Found(&'s Arc<CompiledRoute>),
    /// None does; 404.
    NoRoute,
    /// Only with another method, one of these (sorted); 405 with `Allow`.
    MethodNotAllowed(Vec<Method>),
    /// The path might mean another one to the upstream; 400.
    BadPath(BadPath),
}

impl Snapshot {
    /// Compiles `config` and `catalog`, taking over what `previous` has.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration. The catalogue cannot be
    /// wrong: a service that it does not hold has no endpoints.
    pub fn compile(
        config: Arc<Config>,
        generation: u64,
        catalog: &Catalog,
        previous: Option<&Self>,
    ) -> Result<Self, CompileErrors> {
        let same_config = previous.filter(|previous| Arc::ptr_eq(&previous.config, &config));
        let (router, warnings) = match same_config {
            Some(previous) => (Arc::clone(&previous.router), Arc::clone(&previous.warnings)),
            None => {
                check::check(&config)?;
                let (router, shadowed) = Router::compile(&config.routes);
                let warnings = check::warnings(&config, &shadowed);
                (Arc::new(router), warnings.into())
            }
        };
        let groups = compile_groups(&config, catalog, previous);
        let routes: Vec<_> = match same_config {
            Some(previous) => previous
                .routes
                .iter()
                .map(|route| route.with_groups(&groups))
                .collect(),
            None => {
                let known = previous.map(Self::routes_by_name).unwrap_or_default();
                let compile = |spec: &Route| {
                    let before = known.get(&spec.name[..]).copied();
                    let revived = previous.and_then(|previous| previous.lingering_metrics_of(spec));
                    Arc::new(CompiledRoute::compile(spec, &groups, before, revived))
                };
                config.routes.iter().map(compile).collect()
            }
        };
        let lingering_metrics = match (same_config, previous) {
            (None, Some(previous)) => previous.metrics_without(&routes),
            (Some(same), _) => same.lingering_metrics.clone(),
            (None, None) => Vec::new(),
        };
        let snapshot = Self {
            lingering_metrics,
            config,
            generation,
            catalog_revision: catalog.revision,
            warnings,
            router,
            routes,
            lingering: lingering(&groups, previous),
            groups,
        };
        snapshot.publish_health(previous);
        Ok(snapshot)
    }

    /// The route that takes `request`.
    pub fn route<V: RequestView>(&self, request: &V) -> Routing<'_> {
        match self.router.find(request) {
            Lookup::Found(Chosen { route, .. }) => Routing::Found(&self.routes[route]),
            Lookup::NoRoute => Routing::NoRoute,
            Lookup::MethodNotAllowed(allow) => Routing::MethodNotAllowed(allow),
            Lookup::BadPath(bad) => Routing::BadPath(bad),
        }
    }

    /// The match that takes `request`.
    pub(crate) fn lookup<V: RequestView>(&self, request: &V) -> Lookup {
        self.router.find(request)
    }

    /// Every endpoint that a request may still be in flight to: all instances of the
    /// services that routes name, and those gone from there that are not yet idle.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let groups = self.groups.values().flat_map(|group| &group.all);
        groups.chain(&self.lingering)
    }

    /// The endpoints of one instance: more than one when it moved to another address
    /// and is not yet idle at the old one.
    pub fn endpoints_of<'s>(
        &'s self,
        service: &'s str,
        id: &'s str,
    ) -> impl Iterator<Item = &'s Arc<Endpoint>> {
        let group = self.groups.get(service);
        let grouped = group.into_iter().flat_map(|group| &group.all);
        let lingering = self.lingering.iter();
        grouped
            .chain(lingering)
            .filter(move |at| at.service.as_str() == service && at.id.as_str() == id)
    }

    /// The routes, in the order of the file.
    pub fn routes(&self) -> &[Arc<CompiledRoute>] {
        &self.routes
    }

    /// Counters of all routes, and of those gone that have requests in flight.
    pub(crate) fn route_metrics(&self) -> impl Iterator<Item = &RouteMetrics> {
        let gone = self
            .lingering_metrics
            .iter()
            .filter(|gone| gone.in_flight.get() > 0);
        let routes = self.routes.iter().map(|route| &route.metrics);
        routes.chain(gone).map(|metrics| &**metrics)
    }

    /// Counters of all services that routes name, and requests in flight to each; by
    /// name.
    pub(crate) fn service_traffic(&self) -> impl Iterator<Item = (&ServiceMetrics, u32)> {
        let mut groups: Vec<_> = self.groups.values().collect();
        groups.sort_unstable_by(|a, b| a.service.cmp(&b.service));
        groups.into_iter().map(|group| {
            let in_flight = group.all.iter().map(|endpoint| endpoint.in_flight()).sum();
            (&*group.metrics, in_flight)
        })
    }

    fn lingering_metrics_of(&self, spec: &Route) -> Option<&Arc<RouteMetrics>> {
        let mut gone = self.lingering_metrics.iter();
        gone.find(|metrics| metrics.route == spec.name)
    }

    /// Counters that `routes` have not taken over and that are still in use.
    fn metrics_without(&self, routes: &[Arc<CompiledRoute>]) -> Vec<Arc<RouteMetrics>> {
        let kept: HashSet<_> = routes.iter().map(|route| &route.metrics.route).collect();
        // A worker may hold this snapshot and be about to count a request, so that
        // routes just gone are kept whether or not one is in flight now.
        let asked = self.routes.iter().map(|route| &route.metrics);
        let asked = asked.filter(|metrics| metrics.was_asked());
        let busy = self.lingering_metrics.iter();
        let busy = busy.filter(|metrics| metrics.in_flight.get() > 0);
        asked
            .chain(busy)
            .filter(|metrics| !kept.contains(&metrics.route))
            .cloned()
            .collect()
    }

    fn routes_by_name(&self) -> HashMap<&str, &CompiledRoute> {
        let named = self
            .routes
            .iter()
            .map(|route| (&route.spec.name[..], &**route));
        named.collect()
    }

    /// From here on every snapshot, also the one in use, sees the new health.
    fn publish_health(&self, previous: Option<&Self>) {
        for group in self.groups.values() {
            let before = previous.and_then(|previous| previous.groups.get(&group.service));
            if before.is_some_and(|before| Arc::ptr_eq(before, group)) {
                continue;
            }
            for (instance, endpoint) in group.instances.iter().zip(&group.all) {
                if endpoint.health() != instance.health {
                    endpoint.set_health(instance.health);
                }
            }
        }
    }
}

fn compile_groups(config: &Config, catalog: &Catalog, previous: Option<&Snapshot>) -> Groups {
    // Whether any route needs the ring of the service.
    let mut wanted: HashMap<&ServiceName, bool, FastHash> = HashMap::default();
    for route in &config.routes {
        let hashed = matches!(route.balance, Balance::Hash(_));
        for backend in &route.backends {
            *wanted.entry(&backend.service).or_default() |= hashed;
        }
    }
    let none: Arc<[Arc<Instance>]> = Arc::new([]);
    let mut groups = Groups::with_capacity_and_hasher(wanted.len(), FastHash::default());
    for (service, hashed) in wanted {
        let before = previous.and_then(|previous| previous.groups.get(service));
        let instances = catalog.services.get(service).unwrap_or(&none);
        let unchanged = before.filter(|before| {
            let same = Arc::ptr_eq(&before.instances, instances);
            let both_empty = before.instances.is_empty() && instances.is_empty();
            (same || both_empty) && before.has_ring() >= hashed
        });
        let group = match unchanged {
            Some(group) => Arc::clone(group),
            None => {
                let all = carry_over(service, instances, before, previous);
                let metrics = match before {
                    Some(before) => Arc::clone(&before.metrics),
                    None => Arc::new(ServiceMetrics::new(service)),
                };
                let instances = Arc::clone(instances);
                let before = before.map(Arc::as_ref);
                Arc::new(Group::new(metrics, instances, all, hashed, before))
            }
        };
        groups.insert(service.clone(), group);
    }
    groups
}

/// An endpoint for each instance: the known one of the same id and address, or new.
fn carry_over(
    service: &ServiceName,
    instances: &[Arc<Instance>],
    before: Option<&Arc<Group>>,
    previous: Option<&Snapshot>,
) -> Vec<Arc<Endpoint>> {
    let lingering = previous
        .into_iter()
        .flat_map(|previous| &previous.lingering);
    let known: HashMap<_, _> = before
        .into_iter()
        .flat_map(|group| &group.all)
        .chain(lingering.filter(|endpoint| endpoint.service == *service))
        .map(|endpoint| ((endpoint.id.as_str(), &endpoint.address), endpoint))
        .collect();
    instances
        .iter()
        .map(
            |instance| match known.get(&(instance.id.as_str(), &instance.address)) {
                Some(&endpoint) => Arc::clone(endpoint),
                None => Arc::new(Endpoint::new(instance)),
            },
        )
        .collect()
}

/// Shuts the endpoints that `previous` had and `groups` have not; gives those that
/// are not yet idle.
fn lingering(groups: &Groups, previous: Option<&Snapshot>) -> Vec<Arc<Endpoint>> {
    let Some(previous) = previous else {
        return Vec::new();
    };
    let mut gone = Vec::new();
    for (service, before) in &previous.groups {
        let now = groups.get(service);
        if now.is_some_and(|now| Arc::ptr_eq(now, before)) {
            continue;
        }
        let kept: HashSet<_> = now
            .into_iter()
            .flat_map(|now| &now.all)
            .map(|endpoint| endpoint.key)
            .collect();
        gone.extend(before.all.iter().filter(|old| !kept.contains(&old.key)));
    }
    let revived = |old: &Arc<Endpoint>| {
        let group = groups.get(&old.service);
        group.is_some_and(|group| group.all.iter().any(|endpoint| endpoint.key == old.key))
    };
    gone.extend(previous.lingering.iter().filter(|old| !revived(old)));
    gone.into_iter()
        .inspect(|endpoint| endpoint.set_health(Health::Draining))
        .filter(|endpoint| endpoint.in_flight() > 0)
        .cloned()
        .collect()
}
