//! Routes and explanations as JSON.

use serde::Serialize;
use utoipa::ToSchema;

use crate::ports;

/// Every route in the order of the file.
#[derive(Serialize, ToSchema)]
pub(crate) struct RouteList {
    routes: Vec<Route>,
}

/// One route.
#[derive(Serialize, ToSchema)]
struct Route {
    name: String,
    /// Where it stands in the file.
    origin: String,
    /// None is every host.
    hostnames: Vec<String>,
    /// What it takes, in words.
    matches: Vec<String>,
    backends: Vec<Backend>,
    policies: Vec<Named>,
}

/// A service and its share.
#[derive(Serialize, ToSchema)]
struct Backend {
    service: String,
    weight: u32,
}

/// A name and its value.
#[derive(Serialize, ToSchema)]
struct Named {
    name: String,
    value: String,
}

impl From<Vec<ports::RouteView>> for RouteList {
    fn from(views: Vec<ports::RouteView>) -> Self {
        let routes = views.into_iter().map(|view| Route {
            name: view.name,
            origin: view.origin,
            hostnames: view.hostnames,
            matches: view.matches,
            backends: view
                .backends
                .into_iter()
                .map(|(service, weight)| Backend {
                    service: service.to_string(),
                    weight,
                })
                .collect(),
            policies: named(view.policies),
        });
        Self {
            routes: routes.collect(),
        }
    }
}

/// What would become of a request.
#[derive(Serialize, ToSchema)]
pub(crate) struct Explanation {
    /// routed, or why not: no_route, method_not_allowed, bad_path.
    verdict: &'static str,
    /// The same for a person.
    summary: String,
    /// The status that the gateway itself would answer with; null when routed.
    status: Option<u16>,
    route: Option<ExplainedRoute>,
    /// Routes that nearly took it, nearest first.
    near_misses: Vec<NearMiss>,
}

/// The route that takes the request.
#[derive(Serialize, ToSchema)]
struct ExplainedRoute {
    name: String,
    origin: String,
    matched: Vec<String>,
    parameters: Vec<Named>,
    /// What the upstream is asked for.
    upstream_path: String,
    policies: Vec<Named>,
    backends: Vec<ExplainedBackend>,
}

/// Where the request may go.
#[derive(Serialize, ToSchema)]
struct ExplainedBackend {
    service: String,
    weight: u32,
    /// Share of the requests now.
    share_percent: f64,
    instances: Vec<ExplainedInstance>,
}

/// An instance that the request may go to, or why not.
#[derive(Serialize, ToSchema)]
struct ExplainedInstance {
    id: String,
    address: String,
    health: &'static str,
    eligible: bool,
    /// Why it gets no requests.
    excluded: Option<String>,
}

/// A route that nearly took the request.
#[derive(Serialize, ToSchema)]
struct NearMiss {
    route: String,
    origin: String,
    why_not: String,
}

impl From<ports::Explanation> for Explanation {
    fn from(explanation: ports::Explanation) -> Self {
        let misses = explanation.near_misses.into_iter();
        Self {
            verdict: explanation.verdict,
            summary: explanation.summary,
            status: explanation.status,
            route: explanation.route.map(ExplainedRoute::from),
            near_misses: misses
                .map(|(route, origin, why_not)| NearMiss {
                    route,
                    origin,
                    why_not,
                })
                .collect(),
        }
    }
}

impl From<ports::ExplainedRoute> for ExplainedRoute {
    fn from(route: ports::ExplainedRoute) -> Self {
        Self {
            name: route.name,
            origin: route.origin,
            matched: route.matched,
            parameters: named(route.parameters),
            upstream_path: route.upstream_path,
            policies: named(route.policies),
            backends: route
                .backends
                .into_iter()
                .map(ExplainedBackend::from)
                .collect(),
        }
    }
}

impl From<ports::ExplainedBackend> for ExplainedBackend {
    fn from(backend: ports::ExplainedBackend) -> Self {
        Self {
            service: backend.service,
            weight: backend.weight,
            share_percent: backend.share_percent,
            instances: backend
                .instances
                .into_iter()
                .map(|instance| ExplainedInstance {
                    id: instance.id,
                    address: instance.address,
                    health: instance.health.as_str(),
                    eligible: instance.excluded.is_none(),
                    excluded: instance.excluded,
                })
                .collect(),
        }
    }
}

fn named(pairs: Vec<(String, String)>) -> Vec<Named> {
    let pairs = pairs.into_iter();
    pairs.map(|(name, value)| Named { name, value }).collect()
}
