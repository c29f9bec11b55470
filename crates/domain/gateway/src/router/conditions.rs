//! What a match asks beside host and path: method, headers, query.

use std::borrow::Cow;
use std::cmp::Reverse;

use http::{HeaderName, Method};

use super::Chosen;
use super::path::hex_byte;
use crate::config::{Match, Segment, ValueMatch};
use crate::view::RequestView;

/// The conditions of one match, path and host aside.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    pub(crate) chosen: Chosen,
    method: Option<Method>,
    headers: Box<[(HeaderName, ValueMatch)]>,
    query: Box<[(String, ValueMatch)]>,
}

impl Conditions {
    pub(crate) fn new(chosen: Chosen, spec: &Match) -> Self {
        Self {
            chosen,
            method: spec.method.clone(),
            headers: spec.headers.clone().into(),
            query: spec.query.clone().into(),
        }
    }

    /// Sorts the matches of one path, the first to be asked first. HEAD leads: it
    /// alone is matched by two methods, its own and GET.
    pub(crate) fn rank(&self) -> impl Ord + use<> {
        (
            method_rank(self.method.as_ref()),
            Reverse(self.headers.len()),
            Reverse(self.query.len()),
            self.chosen.route,
            self.chosen.matching,
        )
    }

    pub(crate) fn hold<V: RequestView>(&self, request: &V) -> bool {
        self.method_holds(request.method()) && self.values_hold(request)
    }

    pub(crate) fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// HEAD is answered by whoever answers GET (RFC 9110 §9.3.2).
    pub(crate) fn method_holds(&self, method: &Method) -> bool {
        method_holds(self.method.as_ref(), method)
    }

    pub(crate) fn values_hold<V: RequestView>(&self, request: &V) -> bool {
        values_hold(&self.headers, &self.query, request)
    }

    /// Whether both ask the same, so that the one in front takes all.
    pub(crate) fn same(&self, other: &Self) -> bool {
        fn alike<T: PartialEq>(a: &[T], b: &[T]) -> bool {
            a.len() == b.len() && a.iter().all(|item| b.contains(item))
        }
        self.method == other.method
            && alike(&self.headers, &other.headers)
            && alike(&self.query, &other.query)
    }
}

/// Whether a match takes a request, host and path aside.
pub(crate) fn match_holds<V: RequestView>(matching: &Match, request: &V) -> bool {
    method_holds(matching.method.as_ref(), request.method())
        && values_hold(&matching.headers, &matching.query, request)
}

/// Sorts the matches of one route that fit one request, the best first.
pub(crate) fn rank(matching: &Match) -> impl Ord + use<> {
    let path = matching.path.segments.iter().map(|segment| match segment {
        Segment::Literal(_) => 0,
        Segment::Param(_) => 2,
        Segment::Rest(_) => 3,
    });
    (
        // Shorter is a longer one's beginning only where that goes on with `Rest`.
        path.chain([1]).collect::<Vec<u8>>(),
        method_rank(matching.method.as_ref()),
        Reverse(matching.headers.len()),
        Reverse(matching.query.len()),
    )
}

fn method_rank(method: Option<&Method>) -> u8 {
    match method {
        Some(method) if method == Method::HEAD => 0,
        Some(_) => 1,
        None => 2,
    }
}

fn method_holds(wanted: Option<&Method>, method: &Method) -> bool {
    wanted
        .is_none_or(|wanted| wanted == method || (method == Method::HEAD && wanted == Method::GET))
}

fn values_hold<V: RequestView>(
    headers: &[(HeaderName, ValueMatch)],
    query: &[(String, ValueMatch)],
    request: &V,
) -> bool {
    headers
        .iter()
        .all(|(name, wanted)| value_holds(wanted, request.header(name)))
        && query.iter().all(|(name, wanted)| {
            let value = request.query().and_then(|query| query_value(query, name));
            value_holds(wanted, value.as_deref())
        })
}

pub(crate) fn value_holds(wanted: &ValueMatch, value: Option<&[u8]>) -> bool {
    match (wanted, value) {
        (_, None) => false,
        (ValueMatch::Present, Some(_)) => true,
        (ValueMatch::Exact(wanted), Some(value)) => wanted.as_bytes() == value,
    }
}

/// The first value of a query parameter, decoded; a bare name has an empty value.
/// A `%` without digits stands for itself, since the query is not the router's to
/// judge.
pub(crate) fn query_value<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decoded(key) == *name.as_bytes()).then(|| decoded(value))
    })
}

fn decoded(raw: &str) -> Cow<'_, [u8]> {
    let raw = raw.as_bytes();
    if memchr::memchr2(b'%', b'+', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        let encoded = (byte == b'%')
            .then(|| after.split_first_chunk())
            .flatten()
            .and_then(|(digits, after)| Some((hex_byte(*digits)?, after)));
        let plain = if byte == b'+' { b' ' } else { byte };
        let (byte, after) = encoded.unwrap_or((plain, after));
        bytes.push(byte);
        rest = after;
    }
    Cow::Owned(bytes)
}
