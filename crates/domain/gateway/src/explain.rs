//! What would happen to a request, and why: the route that takes it, those that
//! nearly did, what is done to it, and the instances that it may go to.
//!
//! Reads the same snapshot that serves requests and asks its router, so that the
//! answer cannot differ from what is done. Plain fields for the command line and the
//! API to show; slow and thorough, not for the hot path.

mod miss;
#[cfg(test)]
mod tests;

use http::Method;

use atoll_model::{Health, Instance};

use crate::config::{Balance, HeaderEdit, Hostname, Match, Retry, Segment, Timeouts};
use crate::endpoint::Endpoint;
use crate::router::{BadPath, Chosen, Lookup, PathSegments};
use crate::snapshot::{CompiledBackend, CompiledRoute, Snapshot};
use crate::view::RequestView;

pub use miss::{Criterion, Miss, NearMiss};

/// What would happen to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Which route takes it, or the refusal.
    pub verdict: Verdict,
    /// Routes that nearly took it, the nearest first; at most ten.
    pub near_misses: Vec<NearMiss>,
}

/// Which route takes a request, or the refusal.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// This route.
    Routed(Box<RouteExplained>),
    /// None; 404.
    NoRoute,
    /// Only with one of these methods; 405.
    MethodNotAllowed(Vec<Method>),
    /// The path is refused; 400.
    BadPath(BadPath),
}

/// The route that takes a request, and what it does to it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteExplained {
    /// Its name.
    pub name: String,
    /// Where it stands in the file.
    pub origin: String,
    /// What matched, most weighty first: `host shop.example`, `path /users/{id}`, ...
    pub matched: Vec<String>,
    /// Parameters of the path, decoded.
    pub parameters: Vec<(String, String)>,
    /// Path and query that the upstream is asked with.
    pub upstream_path: String,
    /// Changes to the request's headers.
    pub request_headers: HeaderEdit,
    /// Changes to the response's headers.
    pub response_headers: HeaderEdit,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// When a failed attempt is repeated.
    pub retry: Retry,
    /// Larger bodies are refused.
    pub body_bytes_max: Option<u64>,
    /// How an instance is chosen.
    pub balance: Balance,
    /// Where it goes.
    pub backends: Vec<BackendExplained>,
}

/// One backend of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendExplained {
    /// The service.
    pub service: String,
    /// Share relative to the other backends, as configured.
    pub weight: u32,
    /// Share of the requests now, percent: 0 without a fit instance.
    pub share_percent: f64,
    /// Its instances, by id.
    pub endpoints: Vec<EndpointExplained>,
}

/// One instance of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointExplained {
    /// The instance.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// How fit it is.
    pub health: Health,
    /// What its last check said.
    pub note: String,
    /// Share relative to its siblings.
    pub weight: u16,
    /// Requests in flight to it.
    pub in_flight: u32,
    /// Why it gets no requests; `None` when it does.
    pub excluded: Option<String>,
}

/// Explains what `snapshot` would do with `request`.
pub fn explain<V: RequestView>(snapshot: &Snapshot, request: &V) -> Explanation {
    let lookup = snapshot.lookup(request);
    let winner = match lookup {
        Lookup::Found(chosen) => Some(chosen),
        Lookup::NoRoute | Lookup::MethodNotAllowed(_) | Lookup::BadPath(_) => None,
    };
    let near_misses = match PathSegments::parse(request.path()) {
        Ok(path) => miss::near_misses(&snapshot.config, request, &path, winner),
        Err(_) => Vec::new(),
    };
    let verdict = match lookup {
        Lookup::Found(chosen) => Verdict::Routed(Box::new(routed(snapshot, chosen, request))),
        Lookup::NoRoute => Verdict::NoRoute,
        Lookup::MethodNotAllowed(allow) => Verdict::MethodNotAllowed(allow),
        Lookup::BadPath(bad) => Verdict::BadPath(bad),
    };
    Explanation {
        verdict,
        near_misses,
    }
}

fn routed<V: RequestView>(snapshot: &Snapshot, chosen: Chosen, request: &V) -> RouteExplained {
    let route = &snapshot.routes()[chosen.route];
    let spec = &route.spec;
    let matching = &spec.matches[chosen.matching];
    RouteExplained {
        name: spec.name.clone(),
        origin: spec.origin.clone(),
        matched: matched(&spec.hostnames, matching, request),
        parameters: parameters(&matching.path.segments, request),
        upstream_path: route.upstream_path(request).into_owned(),
        request_headers: spec.request_headers.clone(),
        response_headers: spec.response_headers.clone(),
        timeouts: spec.timeouts.clone(),
        retry: spec.retry.clone(),
        body_bytes_max: spec.body_bytes_max,
        balance: spec.balance.clone(),
        backends: backends(route),
    }
}

fn matched<V: RequestView>(hosts: &[Hostname], matching: &Match, request: &V) -> Vec<String> {
    let mut matched = vec![match miss::host_match(hosts, request.host()) {
        Some(Some(Hostname::Exact(host))) => format!("host {host}"),
        Some(Some(Hostname::Wildcard(host))) => format!("host *.{host}"),
        Some(None) | None => "every host".to_owned(),
    }];
    matched.push(format!("path {}", matching.path.pattern));
    matched.extend(matching.method.as_ref().map(|method| {
        if method == request.method() {
            format!("method {method}")
        } else {
            format!("method {method}, which answers HEAD too")
        }
    }));
    for (name, wanted) in &matching.headers {
        matched.push(format!("header {}", miss::condition(name.as_str(), wanted)));
    }
    for (name, wanted) in &matching.query {
        matched.push(format!("query {}", miss::condition(name, wanted)));
    }
    matched
}

fn parameters<V: RequestView>(pattern: &[Segment], request: &V) -> Vec<(String, String)> {
    let Ok(path) = PathSegments::parse(request.path()) else {
        return Vec::new();
    };
    let text = |at: usize| String::from_utf8_lossy(path.get(at).unwrap_or_default()).into_owned();
    let named = pattern.iter().enumerate();
    let named = named.filter_map(|(at, segment)| match segment {
        Segment::Literal(_) => None,
        Segment::Param(name) => Some((name.clone(), text(at))),
        Segment::Rest(name) => {
            let rest: Vec<_> = (at..path.len()).map(text).collect();
            Some((name.clone(), rest.join("/")))
        }
    });
    named.collect()
}

fn backends(route: &CompiledRoute) -> Vec<BackendExplained> {
    let share = |backend: &CompiledBackend| match backend.group.is_fit() {
        true => f64::from(backend.weight),
        false => 0.0,
    };
    let total: f64 = route.backends().iter().map(share).sum();
    let explained = route.backends().iter().map(|backend| BackendExplained {
        service: backend.service().to_string(),
        weight: backend.weight,
        share_percent: if total > 0.0 {
            100.0 * share(backend) / total
        } else {
            0.0
        },
        endpoints: backend.group.members().map(endpoint).collect(),
    });
    explained.collect()
}

fn endpoint((instance, endpoint): (&Instance, &Endpoint)) -> EndpointExplained {
    // The live state, which may be newer than the snapshot.
    let health = endpoint.health();
    let excluded = match health {
        Health::Starting => Some("it has not been seen healthy yet".to_owned()),
        Health::Critical if instance.note.is_empty() => Some("it is critical".to_owned()),
        Health::Critical => Some(format!("it is critical: {}", instance.note)),
        Health::Draining => Some("it is draining".to_owned()),
        Health::Passing | Health::Warning if instance.weight == 0 => {
            Some("its weight is 0".to_owned())
        }
        Health::Passing | Health::Warning => None,
    };
    EndpointExplained {
        id: instance.id.to_string(),
        address: instance.address.to_string(),
        health,
        note: instance.note.clone(),
        weight: instance.weight,
        in_flight: endpoint.in_flight(),
        excluded,
    }
}
