//! Which route takes a request: host table, then path trie, then the conditions of
//! the few matches at the node.
//!
//! Precedence is the Gateway API's (HTTPRouteMatch), across all routes: exact host,
//! longest wildcard, no host; then the path, where at the first segment that differs
//! a literal beats the end of the path, that a parameter, that the rest; then method;
//! then most headers; then most query parameters; then order in the file. The next
//! host table is asked when one has no match.
//!
//! The cost depends on the request's path, not on the number of routes; see
//! `trie.rs` for the one exception. Pure: look next at `snapshot.rs`, which owns one.

mod conditions;
mod grow;
mod path;
#[cfg(test)]
mod tests;
mod trie;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use http::Method;

use crate::config::{Hostname, Route};
use crate::view::RequestView;

pub(crate) use conditions::{
    Conditions, match_holds, method_holds, method_rank, query_value, rank, value_holds,
};
use grow::Growing;
pub use path::BadPath;
pub(crate) use path::fits;
pub(crate) use path::{PathSegments, SEGMENTS_MAX};
use trie::Trie;

/// Compiled conditions of all routes.
#[derive(Debug)]
pub(crate) struct Router {
    exact: HashMap<Box<str>, Trie, FastHash>,
    /// `*.example.com` under `example.com`.
    wildcard: HashMap<Box<str>, Trie, FastHash>,
    /// Lengths that keys of `wildcard` have, longest first.
    wildcard_lengths: Vec<usize>,
    any: Trie,
}

/// One match of one route, as places in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) route: usize,
    pub(crate) matching: usize,
}

/// What became of a look-up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Found(Chosen),
    NoRoute,
    MethodNotAllowed(Vec<Method>),
    BadPath(BadPath),
}

/// Two matches with the same conditions: the second is never reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shadowed {
    pub(crate) winner: Chosen,
    pub(crate) shadowed: Chosen,
}

/// Longest host that is looked up (RFC 1035 §2.3.4); longer ones have no table.
const HOST_BYTES_MAX: usize = 253;

impl Router {
    pub(crate) fn compile(routes: &[Route]) -> (Self, Vec<Shadowed>) {
        let mut exact: HashMap<Box<str>, Growing> = HashMap::new();
        let mut wildcard: HashMap<Box<str>, Growing> = HashMap::new();
        let mut any = Growing::default();
        for (route, spec) in routes.iter().enumerate() {
            for (matching, conditions) in spec.matches.iter().enumerate() {
                let chosen = Chosen { route, matching };
                let add = |trie: &mut Growing| {
                    let pattern = &conditions.path.segments;
                    trie.insert(pattern, Conditions::new(chosen, conditions));
                };
                if spec.hostnames.is_empty() {
                    add(&mut any);
                }
                for host in &spec.hostnames {
                    add(match host {
                        Hostname::Exact(host) => exact.entry(key(host)).or_default(),
                        Hostname::Wildcard(host) => wildcard.entry(key(host)).or_default(),
                    });
                }
            }
        }
        let mut shadowed = Vec::new();
        let mut finish = |growing: Growing| {
            let (trie, found) = growing.finish();
            shadowed.extend(found);
            trie
        };
        let mut finish_all = |hosts: HashMap<Box<str>, Growing>| {
            let hosts = hosts.into_iter();
            hosts
                .map(|(host, growing)| (host, finish(growing)))
                .collect()
        };
        let (exact, wildcard): (_, HashMap<Box<str>, _, _>) =
            (finish_all(exact), finish_all(wildcard));
        let any = finish(any);
        let mut wildcard_lengths: Vec<_> = wildcard.keys().map(|host| host.len()).collect();
        wildcard_lengths.sort_unstable_by(|a, b| b.cmp(a));
        wildcard_lengths.dedup();
        shadowed.sort_by_key(|pair: &Shadowed| (pair.shadowed.route, pair.shadowed.matching));
        shadowed.dedup();
        let router = Self {
            exact,
            wildcard,
            wildcard_lengths,
            any,
        };
        (router, shadowed)
    }

    pub(crate) fn find<V: RequestView>(&self, request: &V) -> Lookup {
        let path = match PathSegments::parse(request.path()) {
            Ok(path) => path,
            Err(bad) => return Lookup::BadPath(bad),
        };
        let found = self.first_table(request.host(), |trie| trie.find(&path, request));
        if let Some(chosen) = found {
            return Lookup::Found(chosen);
        }
        let mut allowed = Vec::new();
        self.first_table(request.host(), |trie| {
            trie.allowed(&path, request, &mut allowed);
            None::<()>
        });
        if allowed.is_empty() {
            return Lookup::NoRoute;
        }
        Lookup::MethodNotAllowed(allow(allowed))
    }

    /// Asks the tables that hold `host`, most specific first, until one answers.
    fn first_table<T>(&self, host: &str, mut ask: impl FnMut(&Trie) -> Option<T>) -> Option<T> {
        if !self.exact.is_empty() || !self.wildcard.is_empty() {
            let mut buffer = [0; HOST_BYTES_MAX];
            if let Some(host) = folded(host, &mut buffer) {
                let exact = self.exact.get(host).and_then(&mut ask);
                if exact.is_some() {
                    return exact;
                }
                for &length in &self.wildcard_lengths {
                    let below = wildcard_suffix(host, length).and_then(|at| self.wildcard.get(at));
                    let found = below.and_then(&mut ask);
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        ask(&self.any)
    }
}

/// `host` without what precedes its last `length` bytes, when that is some labels.
fn wildcard_suffix(host: &str, length: usize) -> Option<&str> {
    let dot = host.len().checked_sub(length + 1)?;
    // At least one byte before the dot: `.example.com` is no host below it.
    (dot > 0 && host.as_bytes()[dot] == b'.').then(|| &host[dot + 1..])
}

fn key(host: &str) -> Box<str> {
    host.strip_suffix('.')
        .unwrap_or(host)
        .to_ascii_lowercase()
        .into()
}

/// `host` in lower case and without the root's dot; `None` when it is too long.
fn folded<'a>(host: &'a str, buffer: &'a mut [u8; HOST_BYTES_MAX]) -> Option<&'a str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return (host.len() <= HOST_BYTES_MAX).then_some(host);
    }
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// The `Allow` list: sorted, once each, HEAD beside GET.
fn allow(mut methods: Vec<Method>) -> Vec<Method> {
    if methods.contains(&Method::GET) {
        methods.push(Method::HEAD);
    }
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    methods.dedup();
    methods
}

/// Hashes a short text: unkeyed, since the tables hold only what the configuration
/// names, and a stranger's text is looked up without being stored. Whoever uses it
/// compares the texts afterwards.
#[inline]
fn hash(seed: u64, text: &[u8]) -> u64 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let half = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
    let stir = |hash: u64, word: u64| (hash ^ word).wrapping_mul(PRIME).rotate_left(29);
    let start = stir(seed, text.len() as u64);
    let hash = match (
        text.first_chunk(),
        text.last_chunk(),
        text.first_chunk(),
        text.last_chunk(),
    ) {
        (Some(first), Some(last), ..) if text.len() > 8 => {
            // The last word overlaps the one before it, so that there is no rest.
            let (middle, _) = text[8..text.len() - 1].as_chunks();
            let start = stir(start, word(first));
            let hash = middle
                .iter()
                .fold(start, |hash, bytes| stir(hash, word(bytes)));
            stir(hash, word(last))
        }
        (_, _, Some(first), Some(last)) => stir(start, half(first) | half(last) << 32),
        _ => text
            .iter()
            .fold(start, |hash, &byte| stir(hash, byte.into())),
    };
    // The tables use the low and the high bits.
    (hash ^ (hash >> 29)).wrapping_mul(PRIME)
}

/// [`hash()`] for a `HashMap` whose keys the configuration names.
#[derive(Default)]
pub(crate) struct FastHasher(u64);

pub(crate) type FastHash = BuildHasherDefault<FastHasher>;

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(self.0, bytes);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
