//! The path that the upstream is asked with.
//!
//! Pieces of the client's path are taken as they were sent, still encoded, so that
//! the upstream decodes once what the client encoded once.

use std::borrow::Cow;

use super::CompiledRoute;
use crate::config::{Match, Rewrite, Segment};
use crate::router::{PathSegments, fits, match_holds};
use crate::view::RequestView;

impl CompiledRoute {
    /// The path and query that the upstream is asked with; borrowed when it is what
    /// the client sent.
    pub fn upstream_path<'r, V: RequestView>(&self, request: &'r V) -> Cow<'r, str> {
        match &self.spec.rewrite {
            Rewrite::Keep => Cow::Borrowed(request.path_and_query()),
            Rewrite::StripPrefix => {
                let prefix = self.matching(request).map_or(0, literal_prefix);
                strip(request.path_and_query(), prefix)
            }
            Rewrite::Template(template) => match self.matching(request) {
                Some(matching) => Cow::Owned(fill(template, matching, request)),
                // Not a request that the router gave this route.
                None => Cow::Borrowed(request.path_and_query()),
            },
        }
    }

    /// The route's best match for a request that it takes.
    fn matching<V: RequestView>(&self, request: &V) -> Option<&Match> {
        if let [only] = &self.spec.matches[..] {
            return Some(only);
        }
        let path = PathSegments::parse(request.path()).ok()?;
        let fitting = self.spec.matches.iter().filter(|matching| {
            fits(&matching.path.segments, &path) && match_holds(matching, request)
        });
        fitting.min_by_key(|matching| crate::router::rank(matching))
    }
}

fn literal_prefix(matching: &Match) -> usize {
    let segments = matching.path.segments.iter();
    segments
        .take_while(|segment| matches!(segment, Segment::Literal(_)))
        .count()
}

/// `target` without its first `count` segments: `/users/7?a=b` becomes `/7?a=b`.
fn strip(target: &str, count: usize) -> Cow<'_, str> {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let slashes = path.bytes().enumerate().filter(|&(_, byte)| byte == b'/');
    match slashes.map(|(at, _)| at).nth(count) {
        Some(at) => Cow::Borrowed(&target[at..]),
        None => Cow::Owned(format!("/{}", &target[path.len()..])),
    }
}

/// A piece of a rewrite's template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    /// Place of the parameter's segment in the pattern.
    Param(usize),
}

/// The pieces of `template`, or what is wrong with it.
pub(super) fn template_parts<'t>(
    template: &'t str,
    segments: &[Segment],
) -> Result<Vec<Part<'t>>, String> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| "a `{` is not closed".to_owned())?;
        let place = segments.iter().position(|segment| match segment {
            Segment::Literal(_) => false,
            Segment::Param(known) | Segment::Rest(known) => known == name,
        });
        let place = place.ok_or_else(|| format!("the path has no parameter `{{{name}}}`"))?;
        parts.push(Part::Text(text));
        parts.push(Part::Param(place));
        rest = after;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

fn fill<V: RequestView>(template: &str, matching: &Match, request: &V) -> String {
    let segments = &matching.path.segments;
    let sent = request.path().strip_prefix('/').unwrap_or_default();
    let mut filled = String::with_capacity(template.len() + request.path_and_query().len());
    // Checked when the route was compiled.
    for part in template_parts(template, segments).unwrap_or_default() {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Param(place) if matches!(segments[place], Segment::Rest(_)) => {
                filled.push_str(sent.splitn(place + 1, '/').nth(place).unwrap_or_default());
            }
            Part::Param(place) => {
                filled.push_str(sent.split('/').nth(place).unwrap_or_default());
            }
        }
    }
    if let Some(query) = request.query() {
        filled.push(if filled.contains('?') { '&' } else { '?' });
        filled.push_str(query);
    }
    filled
}
