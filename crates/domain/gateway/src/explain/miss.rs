//! Why a route did not take a request, and how near it came.

use std::cmp::Ordering;
use std::fmt;

use http::Method;

use crate::config::{Config, Hostname, Match, Segment, ValueMatch};
use crate::router::{Chosen, PathSegments, method_holds, method_rank, query_value, value_holds};
use crate::view::RequestView;

/// Letters that a slip of the pen adds, drops, changes or swaps.
const SLIPS_MAX: usize = 2;
/// Near misses that are shown.
const NEAR_MISSES_MAX: usize = 10;

/// A match of a route that did not take the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The route.
    pub route: String,
    /// Where it stands in the file.
    pub origin: String,
    /// The match's path.
    pub pattern: String,
    /// Everything that kept it from taking the request; never empty.
    pub reasons: Vec<Miss>,
}

/// One reason why a match did not take a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The host is none of these.
    Host {
        /// As configured.
        wanted: Vec<String>,
        /// As asked.
        given: String,
    },
    /// The path differs.
    Path {
        /// Place of the first segment that differs, counted from 1.
        segment: usize,
        /// What the pattern has there; `None` where it ends.
        wanted: Option<String>,
        /// What the path has there, decoded; `None` where it ends.
        given: Option<String>,
    },
    /// The method is another.
    Method {
        /// As configured.
        wanted: Method,
        /// As asked.
        given: Method,
    },
    /// A header is missing or has another value.
    Header {
        /// `name` or `name: value`, as configured.
        wanted: String,
        /// Its value in the request.
        given: Option<String>,
    },
    /// A query parameter is missing or has another value.
    Query {
        /// `name` or `name: value`, as configured.
        wanted: String,
        /// Its value in the request, decoded.
        given: Option<String>,
    },
    /// All fits, and the winner goes before it.
    Precedence {
        /// The winning route.
        winner: String,
        /// By what it wins.
        by: Criterion,
    },
}

/// What decides between two matches that both fit, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// Its host is more specific.
    Host,
    /// Its path is more specific at the first difference.
    Path,
    /// It names the method, or this very one.
    Method,
    /// It asks for more headers.
    Headers,
    /// It asks for more query parameters.
    Query,
    /// It stands first in the file.
    Order,
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "has the more specific host",
            Self::Path => "has the more specific path",
            Self::Method => "names the method",
            Self::Headers => "asks for more headers",
            Self::Query => "asks for more query parameters",
            Self::Order => "stands first in the file",
        })
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "nothing".to_owned();
        match self {
            Self::Host { wanted, given } => {
                write!(f, "host is `{given}`, not {}", wanted.join(" or "))
            }
            Self::Path {
                segment,
                wanted: Some(wanted),
                given: Some(given),
            } => write!(
                f,
                "path differs at segment {segment}: `{given}`, not `{wanted}`"
            ),
            Self::Path {
                segment,
                wanted: Some(wanted),
                given: None,
            } => write!(f, "path ends before segment {segment}, `{wanted}`"),
            Self::Path { segment, given, .. } => write!(
                f,
                "path goes on at segment {segment} with `{}`",
                given.as_deref().unwrap_or_default()
            ),
            Self::Method { wanted, given } => write!(f, "method is {given}, not {wanted}"),
            Self::Header { wanted, given } => {
                let given = given.clone().unwrap_or_else(none);
                write!(f, "header `{wanted}` is wanted, {given} was sent")
            }
            Self::Query { wanted, given } => {
                let given = given.clone().unwrap_or_else(none);
                write!(f, "query `{wanted}` is wanted, {given} was sent")
            }
            Self::Precedence { winner, by } => write!(f, "route `{winner}` {by}"),
        }
    }
}

/// A condition as people write it.
pub(super) fn condition(name: &str, wanted: &ValueMatch) -> String {
    match wanted {
        ValueMatch::Exact(value) => format!("{name}: {value}"),
        ValueMatch::Present => name.to_owned(),
    }
}

/// The most specific of `hosts` that holds `given`: `None` when none does,
/// `Some(None)` when every host will do.
pub(super) fn host_match<'h>(hosts: &'h [Hostname], given: &str) -> Option<Option<&'h Hostname>> {
    if hosts.is_empty() {
        return Some(None);
    }
    let given = given
        .strip_suffix('.')
        .unwrap_or(given)
        .to_ascii_lowercase();
    let holding = hosts.iter().filter(|host| match host {
        Hostname::Exact(host) => *host == given,
        Hostname::Wildcard(host) => given
            .strip_suffix(host.as_str())
            .and_then(|above| above.strip_suffix('.'))
            .is_some_and(|above| !above.is_empty()),
    });
    holding.max_by_key(|host| host_rank(Some(host))).map(Some)
}

fn host_rank(host: Option<&Hostname>) -> usize {
    match host {
        None => 0,
        Some(Hostname::Wildcard(host)) => host.len(),
        Some(Hostname::Exact(_)) => usize::MAX,
    }
}

/// All matches but the winner that came near, the nearest first.
pub(super) fn near_misses<V: RequestView>(
    config: &Config,
    request: &V,
    path: &PathSegments<'_>,
    winner: Option<Chosen>,
) -> Vec<NearMiss> {
    let mut misses = Vec::new();
    for (route, spec) in config.routes.iter().enumerate() {
        for (matching, conditions) in spec.matches.iter().enumerate() {
            let chosen = Chosen { route, matching };
            if winner == Some(chosen) {
                continue;
            }
            let mut reasons = reasons(&spec.hostnames, conditions, request, path);
            if reasons.is_empty() {
                // Without a winner something would have been missed.
                let Some(winner) = winner else { continue };
                reasons.push(Miss::Precedence {
                    winner: config.routes[winner.route].name.clone(),
                    by: by_what(config, winner, chosen, request),
                });
            }
            let Some(distance) = distance(&reasons, conditions) else {
                continue;
            };
            let near = NearMiss {
                route: spec.name.clone(),
                origin: spec.origin.clone(),
                pattern: conditions.path.pattern.clone(),
                reasons,
            };
            misses.push((distance, near));
        }
    }
    // Stable, so that the order of the file decides among the equally near.
    misses.sort_by_key(|(distance, _)| *distance);
    misses.truncate(NEAR_MISSES_MAX);
    misses.into_iter().map(|(_, miss)| miss).collect()
}

fn reasons<V: RequestView>(
    hosts: &[Hostname],
    matching: &Match,
    request: &V,
    path: &PathSegments<'_>,
) -> Vec<Miss> {
    let mut reasons = Vec::new();
    if host_match(hosts, request.host()).is_none() {
        let wanted = hosts.iter().map(|host| match host {
            Hostname::Exact(host) => format!("`{host}`"),
            Hostname::Wildcard(host) => format!("`*.{host}`"),
        });
        reasons.push(Miss::Host {
            wanted: wanted.collect(),
            given: request.host().to_owned(),
        });
    }
    reasons.extend(path_miss(&matching.path.segments, path));
    if let Some(wanted) = &matching.method
        && !method_holds(Some(wanted), request.method())
    {
        reasons.push(Miss::Method {
            wanted: wanted.clone(),
            given: request.method().clone(),
        });
    }
    let text = |value: &[u8]| format!("`{}`", String::from_utf8_lossy(value));
    for (name, wanted) in &matching.headers {
        let given = request.header(name);
        if !value_holds(wanted, given) {
            reasons.push(Miss::Header {
                wanted: condition(name.as_str(), wanted),
                given: given.map(text),
            });
        }
    }
    for (name, wanted) in &matching.query {
        let given = request.query().and_then(|query| query_value(query, name));
        if !value_holds(wanted, given.as_deref()) {
            reasons.push(Miss::Query {
                wanted: condition(name, wanted),
                given: given.as_deref().map(text),
            });
        }
    }
    reasons
}

/// Where a path leaves a pattern, if it does.
fn path_miss(pattern: &[Segment], path: &PathSegments<'_>) -> Option<Miss> {
    for at in 0..=pattern.len().max(path.len()) {
        let given = path.get(at);
        let fits = match (pattern.get(at), given) {
            (Some(Segment::Rest(_)), _) | (None, None) => return None,
            (Some(Segment::Literal(text)), Some(given)) => text.as_bytes() == given,
            (Some(Segment::Param(_)), Some(given)) => !given.is_empty(),
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !fits {
            return Some(Miss::Path {
                segment: at + 1,
                wanted: pattern.get(at).map(|segment| match segment {
                    Segment::Literal(text) => text.clone(),
                    Segment::Param(name) => format!("{{{name}}}"),
                    Segment::Rest(name) => format!("{{{name}*}}"),
                }),
                given: given.map(|given| String::from_utf8_lossy(given).into_owned()),
            });
        }
    }
    None
}

/// How far from taking the request; `None` when it is not worth a line: a path that
/// differs from its first segment on by more than a slip, or a path and more.
fn distance(reasons: &[Miss], matching: &Match) -> Option<(usize, usize)> {
    let path = reasons.iter().find_map(|reason| match reason {
        Miss::Path {
            segment,
            wanted,
            given,
        } => Some((*segment, wanted.as_deref(), given.as_deref())),
        _ => None,
    });
    match path {
        None => Some((reasons.len(), 0)),
        Some(_) if reasons.len() > 1 => None,
        Some((1, wanted, given)) if !alike(wanted, given) => None,
        Some((segment, ..)) => {
            let beyond = matching.path.segments.len().abs_diff(segment - 1);
            Some((reasons.len() + 1, beyond))
        }
    }
}

/// Whether one may be a slip of the pen for the other: `user` for `users`.
fn alike(wanted: Option<&str>, given: Option<&str>) -> bool {
    let (Some(wanted), Some(given)) = (wanted, given) else {
        return false;
    };
    let (wanted, given) = (wanted.to_lowercase(), given.to_lowercase());
    let longer = wanted.chars().count().max(given.chars().count());
    strsim::osa_distance(&wanted, &given) <= longer.div_ceil(3).min(SLIPS_MAX)
}

/// By what `winner` goes before `loser`, both of which fit.
fn by_what<V: RequestView>(
    config: &Config,
    winner: Chosen,
    loser: Chosen,
    request: &V,
) -> Criterion {
    let of = |chosen: Chosen| {
        let spec = &config.routes[chosen.route];
        let host = host_match(&spec.hostnames, request.host()).flatten();
        (host_rank(host), &spec.matches[chosen.matching])
    };
    let ((winner_host, winner), (loser_host, loser)) = (of(winner), of(loser));
    let kinds = |matching: &Match| {
        let kinds = matching.path.segments.iter().map(|segment| match segment {
            Segment::Literal(_) => 0,
            Segment::Param(_) => 2,
            Segment::Rest(_) => 3,
        });
        kinds.chain([1]).collect::<Vec<u8>>()
    };
    let methods = (
        method_rank(winner.method.as_ref()),
        method_rank(loser.method.as_ref()),
    );
    let decided = [
        (winner_host.cmp(&loser_host), Criterion::Host),
        (kinds(loser).cmp(&kinds(winner)), Criterion::Path),
        (methods.1.cmp(&methods.0), Criterion::Method),
        (
            winner.headers.len().cmp(&loser.headers.len()),
            Criterion::Headers,
        ),
        (winner.query.len().cmp(&loser.query.len()), Criterion::Query),
    ];
    let first = decided
        .into_iter()
        .find(|(order, _)| *order != Ordering::Equal);
    debug_assert!(first.is_none_or(|(order, _)| order == Ordering::Greater));
    first.map_or(Criterion::Order, |(_, criterion)| criterion)
}
