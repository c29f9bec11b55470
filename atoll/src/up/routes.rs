//! Routes and explanations in the admin API's words.

use std::time::Duration;

use atoll_console::wire;
use atoll_gateway::config::{
    Balance, HashKey, HeaderEdit, Hostname, Match, Rewrite, Route, ValueMatch,
};
use atoll_gateway::explain::{Explanation, RouteExplained, Verdict};
use atoll_gateway::snapshot::Snapshot;
use atoll_gateway::view::{PlainRequest, RequestView};

/// A route with its conditions and policies, each in one line.
pub(crate) fn route(route: &Route) -> wire::Route {
    wire::Route {
        name: route.name.clone(),
        origin: route.origin.clone(),
        hostnames: route.hostnames.iter().map(hostname).collect(),
        matches: route.matches.iter().map(matching).collect(),
        backends: route
            .backends
            .iter()
            .map(|backend| wire::RouteBackend {
                service: backend.service.to_string(),
                weight: backend.weight,
            })
            .collect(),
        policies: policies(route),
    }
}

fn hostname(host: &Hostname) -> String {
    match host {
        Hostname::Exact(host) => host.clone(),
        Hostname::Wildcard(host) => format!("*.{host}"),
    }
}

fn matching(matching: &Match) -> String {
    let mut words = Vec::new();
    words.extend(matching.method.as_ref().map(ToString::to_string));
    words.push(matching.path.pattern.clone());
    let condition = |kind: &str, name: &str, value: &ValueMatch| match value {
        ValueMatch::Exact(value) => format!("{kind} {name}={value}"),
        ValueMatch::Present => format!("{kind} {name}"),
    };
    for (name, value) in &matching.headers {
        words.push(condition("header", name.as_str(), value));
    }
    for (name, value) in &matching.query {
        words.push(condition("query", name, value));
    }
    words.join(" ")
}

/// What is done to a request of this route, defaults included.
fn policies(route: &Route) -> Vec<String> {
    let mut lines = Vec::new();
    let timeouts = &route.timeouts;
    lines.push(format!(
        "timeout connect {}, response head {}, idle {}, request {}",
        limit(timeouts.connect),
        limit(timeouts.response_head),
        limit(timeouts.idle),
        limit(timeouts.request),
    ));
    let retry = &route.retry;
    lines.push(match retry.attempts {
        0 | 1 => "no retries".to_owned(),
        attempts => format!(
            "retry {attempts} attempts, budget {}% and {}/s",
            retry.budget_percent, retry.budget_min_per_second
        ),
    });
    lines.push(match &route.balance {
        Balance::LeastRequest => "balance least request".to_owned(),
        Balance::RoundRobin => "balance round robin".to_owned(),
        Balance::Hash(HashKey::Header(name)) => format!("balance by header {name}"),
        Balance::Hash(HashKey::Cookie(name)) => format!("balance by cookie {name}"),
        Balance::Hash(HashKey::ClientIp) => "balance by client address".to_owned(),
    });
    match &route.rewrite {
        Rewrite::Keep => {}
        Rewrite::StripPrefix => lines.push("rewrite: prefix stripped".to_owned()),
        Rewrite::Template(template) => lines.push(format!("rewrite to {template}")),
    }
    if let Some(bytes) = route.body_bytes_max {
        lines.push(format!("request body up to {bytes} bytes"));
    }
    lines.extend(edits("request", &route.request_headers));
    lines.extend(edits("response", &route.response_headers));
    lines
}

fn limit(duration: Duration) -> String {
    if duration.is_zero() {
        return "none".to_owned();
    }
    format!("{duration:?}")
}

fn edits(of: &str, edit: &HeaderEdit) -> Vec<String> {
    // Values may be secrets (an Authorization that the gateway adds): names only.
    let removed = edit
        .remove
        .iter()
        .map(|name| format!("{of} header {name} removed"));
    let set = edit
        .set
        .iter()
        .map(|(name, _)| format!("{of} header {name} set"));
    let added = edit
        .add
        .iter()
        .map(|(name, _)| format!("{of} header {name} added"));
    removed.chain(set).chain(added).collect()
}

/// Why `request` goes where it goes.
pub(crate) fn explanation(
    snapshot: &Snapshot,
    explained: Explanation,
    request: &PlainRequest,
) -> wire::Explanation {
    let asked = format!("{} {}", request.method, request.path());
    let near = explained.near_misses.iter().map(|miss| {
        let reasons: Vec<_> = miss.reasons.iter().map(ToString::to_string).collect();
        wire::NearMiss {
            route: miss.route.clone(),
            origin: miss.origin.clone(),
            why: format!("{}: {}", miss.pattern, reasons.join("; ")),
        }
    });
    let refused = |verdict: String, status| wire::Explanation {
        verdict,
        status: Some(status),
        ..wire::Explanation::default()
    };
    let told = match explained.verdict {
        Verdict::Routed(taken) => routed(snapshot, &taken, &asked),
        Verdict::NoRoute => refused(
            format!("no route takes {asked}; the gateway answers 404"),
            404,
        ),
        Verdict::MethodNotAllowed(methods) => {
            let methods: Vec<_> = methods.iter().map(ToString::to_string).collect();
            let verdict = format!(
                "{} is routed with {} only; the gateway answers 405",
                request.path(),
                methods.join(", ")
            );
            refused(verdict, 405)
        }
        Verdict::BadPath(bad) => refused(
            format!("the path is refused: {bad}; the gateway answers 400"),
            400,
        ),
    };
    wire::Explanation {
        near: near.collect(),
        ..told
    }
}

fn routed(snapshot: &Snapshot, taken: &RouteExplained, asked: &str) -> wire::Explanation {
    let instances: Vec<_> = taken
        .backends
        .iter()
        .flat_map(|backend| {
            backend.endpoints.iter().map(|endpoint| wire::Candidate {
                service: backend.service.clone(),
                id: endpoint.id.clone(),
                address: endpoint.address.clone(),
                eligible: endpoint.excluded.is_none() && backend.weight > 0,
                why: match &endpoint.excluded {
                    Some(why) => why.clone(),
                    None if backend.weight == 0 => "the backend's weight is 0".to_owned(),
                    None => format!(
                        "{}, weight {}, {} in flight; {:.0}% of the route's requests go to {}",
                        endpoint.health,
                        endpoint.weight,
                        endpoint.in_flight,
                        backend.share_percent,
                        backend.service
                    ),
                },
            })
        })
        .collect();
    let backends: Vec<_> = taken
        .backends
        .iter()
        .map(|backend| backend.service.clone())
        .collect();
    let goes_to = backends.join(" or ");
    let fit = instances.iter().any(|candidate| candidate.eligible);
    let why = taken.matched.join(", ");
    let verdict = if fit {
        format!(
            "{asked} goes to {goes_to} by route `{}` ({why})",
            taken.name
        )
    } else {
        format!(
            "{asked} is for {goes_to} by route `{}` ({why}), which has no instance that takes requests; the gateway answers 503",
            taken.name
        )
    };
    let spec = snapshot
        .config
        .routes
        .iter()
        .find(|spec| spec.name == taken.name);
    wire::Explanation {
        verdict,
        status: (!fit).then_some(503),
        route: spec.map(route),
        upstream_path: Some(taken.upstream_path.clone()),
        near: Vec::new(),
        instances,
    }
}
