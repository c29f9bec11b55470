//! Which requests a route takes: its key, and `matches` instead of it.

use std::collections::HashSet;

use atoll_gateway::config::{Hostname, Match, PathMatch, ValueMatch};
use http::{HeaderName, Method};

use super::decode::{Context, Fields};
use super::keys;
use super::pattern::{self, RouteKey};
use super::policy::{header_name, once};
use super::route::Group;
use super::tree::{Entry, Node, Value};

pub(crate) fn matches(cx: &Context<'_>, node: &Node, key: &Key<'_>) -> Option<Vec<Match>> {
    let items = cx.list(node)?;
    if items.is_empty() {
        cx.error(node.span, "at least one match is needed");
        return None;
    }
    let matches: Vec<_> = items.iter().map(|item| matching(cx, item, key)).collect();
    matches.into_iter().collect()
}

fn matching(cx: &Context<'_>, node: &Node, key: &Key<'_>) -> Option<Match> {
    let fields = Fields::of(cx, node, &keys::MATCH)?;
    let path = match fields.get("path") {
        Some(node) => {
            let word = cx.words(node)?;
            let whole = pattern::below(&key.group.prefix, &word.text);
            match word.text.starts_with('/') {
                true => cx.ok(word.span, pattern::path(&whole)),
                false => cx.ok(word.span, pattern::path(&word.text)),
            }
        }
        None => key.path(cx),
    };
    let method = match fields.get("method") {
        Some(node) => {
            let word = cx.words(node)?;
            match &word.text[..] {
                "*" => Some(None),
                text => cx.ok(word.span, pattern::method(text)).map(Some),
            }
        }
        None => key.method(cx),
    };
    let headers = fields.get("headers").map(|node| headers(cx, node));
    let query = fields.get("query").map(|node| query(cx, node));
    fields.finish();
    Some(Match {
        path: path?,
        method: method?,
        headers: headers.unwrap_or_default(),
        query: query.unwrap_or_default(),
    })
}

fn headers(cx: &Context<'_>, node: &Node) -> Vec<(HeaderName, ValueMatch)> {
    let mut seen = HashSet::new();
    let entries = cx.map(node).unwrap_or_default().iter();
    let found = entries.filter_map(|entry| {
        let name = cx.ok(entry.key_span, header_name(&entry.key))?;
        once(cx, &mut seen, &name, entry.key_span);
        Some((name, value(cx, entry)?))
    });
    found.collect()
}

fn query(cx: &Context<'_>, node: &Node) -> Vec<(String, ValueMatch)> {
    let entries = cx.map(node).unwrap_or_default().iter();
    let found = entries.filter_map(|entry| Some((entry.key.to_string(), value(cx, entry)?)));
    found.collect()
}

fn value(cx: &Context<'_>, entry: &Entry) -> Option<ValueMatch> {
    if !matches!(entry.node.value, Value::Map(_)) {
        return Some(ValueMatch::Exact(cx.text(&entry.node)?.text));
    }
    let fields = Fields::of(cx, &entry.node, &keys::VALUE_MATCH)?;
    let exact = fields.get("exact").map(|node| cx.text(node));
    let present = fields.get("present").map(|node| cx.flag(node));
    fields.finish();
    match (exact, present) {
        (Some(exact), None) => Some(ValueMatch::Exact(exact?.text)),
        (None, Some(present)) if present? => Some(ValueMatch::Present),
        _ => {
            cx.error(
                entry.node.span,
                "give either `exact: VALUE` or `present: true`",
            );
            None
        }
    }
}

/// A route's key; looked into only where the route itself does not say.
pub(crate) struct Key<'a> {
    entry: &'a Entry,
    group: &'a Group,
    pub(crate) name: String,
    parsed: Result<RouteKey, String>,
}

impl<'a> Key<'a> {
    pub(crate) fn new(entry: &'a Entry, group: &'a Group) -> Self {
        let parsed = pattern::route_key(&entry.key);
        let name = match &parsed {
            Ok(key) => {
                let method = key.method.as_ref().or(group.method.as_ref());
                let method = method.map_or_else(String::new, |method| format!("{method} "));
                let path = pattern::below(&group.prefix, &key.path);
                format!("{method}{}{path}", host_text(key, group))
            }
            Err(_) => entry.key.to_string(),
        };
        // The key as it was written, where nothing was added to it.
        let alone = group.prefix.is_empty() && group.method.is_none() && group.host_text.is_empty();
        let name = if alone { entry.key.to_string() } else { name };
        Self {
            entry,
            group,
            name,
            parsed,
        }
    }

    fn parsed(&self, cx: &Context<'_>) -> Option<&RouteKey> {
        match &self.parsed {
            Ok(key) => Some(key),
            Err(why) => {
                cx.error(self.entry.key_span, why.clone());
                None
            }
        }
    }

    pub(crate) fn path(&self, cx: &Context<'_>) -> Option<PathMatch> {
        let key = self.parsed(cx)?;
        let whole = pattern::below(&self.group.prefix, &key.path);
        if whole.is_empty() {
            let host = &self.entry.key;
            let (message, hint) = match host.contains('.') {
                true => (
                    "the route has no path",
                    format!("for all of it write `{host}/{{path*}}`"),
                ),
                false => (
                    "a path begins with `/`",
                    format!("did you mean `/{host}`, or `/{host}/{{path*}}` with all below it?"),
                ),
            };
            cx.error_with(self.entry.key_span, message, hint);
            return None;
        }
        cx.ok(self.entry.key_span, pattern::path(&whole))
    }

    pub(crate) fn method(&self, cx: &Context<'_>) -> Option<Option<Method>> {
        let method = self.parsed(cx)?.method.clone();
        Some(method.or_else(|| self.group.method.clone()))
    }

    pub(crate) fn host(&self, cx: &Context<'_>) -> Option<Option<Hostname>> {
        Some(self.parsed(cx)?.host.clone())
    }

    pub(crate) fn matching(&self, cx: &Context<'_>) -> Option<Match> {
        Some(Match {
            path: self.path(cx)?,
            method: self.method(cx)?,
            headers: Vec::new(),
            query: Vec::new(),
        })
    }
}

/// The host of a key, or else of its group, as written.
pub(crate) fn host_text(key: &RouteKey, group: &Group) -> String {
    match &key.host {
        Some(host) => pattern::shown_hostname(host),
        None => group.host_text.clone(),
    }
}
