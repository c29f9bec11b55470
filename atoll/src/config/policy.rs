//! Policies: what the gateway, a group and a route may all set, merged downward.
//!
//! The nearest wins, value by value: a route that sets `timeouts.connect` keeps the
//! group's `timeouts.idle`. Of headers, each name is taken from the nearest.

use std::collections::HashSet;
use std::time::Duration;

use atoll_gateway::config::{Balance, HashKey, HeaderEdit, Retry, Rewrite, Timeouts};
use http::{HeaderName, HeaderValue};

use super::decode::{Context, Fields, Word, number};
use super::keys;
use super::pattern;
use super::source::Span;
use super::tree::{Node, Value};

/// What was set; `None` is taken from above.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    pub(crate) balance: Option<Balance>,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) request_headers: HeaderEdit,
    pub(crate) response_headers: HeaderEdit,
    connect: Option<Duration>,
    response_head: Option<Duration>,
    idle: Option<Duration>,
    request: Option<Duration>,
    attempts: Option<u32>,
    budget_percent: Option<u32>,
    budget_min_per_second: Option<u32>,
    /// `Some(None)` is no limit.
    pub(crate) body_bytes_max: Option<Option<u64>>,
}

impl Policies {
    /// Of a route, a group or the gateway.
    pub(crate) fn decode(cx: &Context<'_>, fields: &Fields<'_>) -> Self {
        let mut policies = Self {
            balance: fields.get("balance").and_then(|node| balance(cx, node)),
            rewrite: fields.get("rewrite").and_then(|node| rewrite(cx, node)),
            body_bytes_max: fields
                .get("body_limit")
                .and_then(|node| body_limit(cx, node)),
            ..Self::default()
        };
        if let Some(headers) = fields
            .get("headers")
            .and_then(|node| Fields::of(cx, node, &keys::HEADERS))
        {
            let edit = |name| headers.get(name).map(|node| header_edit(cx, node));
            policies.request_headers = edit("request").unwrap_or_default();
            policies.response_headers = edit("response").unwrap_or_default();
            headers.finish();
        }
        if let Some(timeouts) = fields
            .get("timeouts")
            .and_then(|node| Fields::of(cx, node, &keys::TIMEOUTS))
        {
            let read = |name| timeouts.get(name).and_then(|node| cx.duration(node));
            policies.connect = read("connect");
            policies.response_head = read("response_head");
            policies.idle = read("idle");
            policies.request = read("request");
            timeouts.finish();
        }
        if let Some(entry) = fields.entry("timeout") {
            if policies.request.is_some() {
                cx.error(
                    entry.key_span,
                    "`timeout` and `timeouts.request` say the same; remove one",
                );
            }
            policies.request = cx.duration(&entry.node);
        }
        if let Some(node) = fields.get("retry") {
            policies.retry(cx, node);
        }
        policies
    }

    fn retry(&mut self, cx: &Context<'_>, node: &Node) {
        match &node.value {
            Value::Text(text) if **text == *"off" => self.attempts = Some(1),
            Value::Map(_) => {
                let Some(fields) = Fields::of(cx, node, &keys::RETRY) else {
                    return;
                };
                self.attempts = fields.count(cx, "attempts");
                self.budget_percent = fields.get("budget").and_then(|node| cx.percent(node));
                self.budget_min_per_second = fields.count(cx, "min_per_second");
                fields.finish();
            }
            Value::Null | Value::Text(_) | Value::List(_) => {
                self.attempts = number(cx, node, 1, 100);
            }
        }
    }

    /// These, and what they leave open from `above`.
    pub(crate) fn below(self, above: &Self) -> Self {
        Self {
            balance: self.balance.or_else(|| above.balance.clone()),
            rewrite: self.rewrite.or_else(|| above.rewrite.clone()),
            request_headers: edits_below(self.request_headers, &above.request_headers),
            response_headers: edits_below(self.response_headers, &above.response_headers),
            connect: self.connect.or(above.connect),
            response_head: self.response_head.or(above.response_head),
            idle: self.idle.or(above.idle),
            request: self.request.or(above.request),
            attempts: self.attempts.or(above.attempts),
            budget_percent: self.budget_percent.or(above.budget_percent),
            budget_min_per_second: self.budget_min_per_second.or(above.budget_min_per_second),
            body_bytes_max: self.body_bytes_max.or(above.body_bytes_max),
        }
    }

    /// Bytes of all that is edited.
    pub(crate) fn header_bytes(&self) -> usize {
        let edits = [&self.request_headers, &self.response_headers];
        let pairs = edits
            .iter()
            .flat_map(|edit| edit.set.iter().chain(&edit.add));
        let pairs = pairs.map(|(name, value)| name.as_str().len() + value.len() + 64);
        let removed = edits.iter().flat_map(|edit| &edit.remove);
        pairs.sum::<usize>() + removed.map(|name| name.as_str().len() + 64).sum::<usize>()
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        let usual = Timeouts::default();
        Timeouts {
            connect: self.connect.unwrap_or(usual.connect),
            response_head: self.response_head.unwrap_or(usual.response_head),
            idle: self.idle.unwrap_or(usual.idle),
            request: self.request.unwrap_or(usual.request),
        }
    }

    pub(crate) fn retries(&self) -> Retry {
        let usual = Retry::default();
        Retry {
            attempts: self.attempts.unwrap_or(usual.attempts),
            budget_percent: self.budget_percent.unwrap_or(usual.budget_percent),
            budget_min_per_second: self
                .budget_min_per_second
                .unwrap_or(usual.budget_min_per_second),
        }
    }
}

/// Names that `near` mentions are its own business.
fn edits_below(near: HeaderEdit, above: &HeaderEdit) -> HeaderEdit {
    let mentioned: HashSet<HeaderName> = near
        .set
        .iter()
        .chain(&near.add)
        .map(|(name, _)| name)
        .chain(&near.remove)
        .cloned()
        .collect();
    let inherited = |pairs: &[(HeaderName, HeaderValue)], own: Vec<_>| {
        let kept = pairs.iter().filter(|(name, _)| !mentioned.contains(name));
        kept.cloned().chain(own).collect()
    };
    let removed = above
        .remove
        .iter()
        .filter(|name| !mentioned.contains(*name));
    HeaderEdit {
        set: inherited(&above.set, near.set),
        add: inherited(&above.add, near.add),
        remove: removed.cloned().chain(near.remove).collect(),
    }
}

fn balance(cx: &Context<'_>, node: &Node) -> Option<Balance> {
    if !matches!(node.value, Value::Map(_)) {
        return Some(match cx.choice(node, &["least_request", "round_robin"])? {
            "round_robin" => Balance::RoundRobin,
            _ => Balance::LeastRequest,
        });
    }
    let fields = Fields::of(cx, node, &keys::BALANCE)?;
    let key = fields.get("hash");
    fields.finish();
    let Some(key) = key else {
        cx.error(
            node.span,
            "give what to hash: `hash: header:NAME`, `cookie:NAME` or `client.ip`",
        );
        return None;
    };
    let word = cx.text(key)?;
    let parsed = match word.text.split_once(':') {
        Some(("header", name)) => header_name(name).map(HashKey::Header),
        Some(("cookie", name)) if is_token(name) && name.len() <= 256 => {
            Ok(HashKey::Cookie(name.to_owned()))
        }
        Some(("cookie", name)) => Err(format!("`{name}` is not a cookie's name")),
        None if word.text == "client.ip" => Ok(HashKey::ClientIp),
        _ => Err(format!(
            "`{}`: write `header:NAME`, `cookie:NAME` or `client.ip`",
            word.text
        )),
    };
    cx.ok(word.span, parsed).map(Balance::Hash)
}

fn is_token(name: &str) -> bool {
    // RFC 6265 §4.1.1 takes tokens, as header names are.
    name.parse::<HeaderName>().is_ok()
}

fn template(cx: &Context<'_>, path: Word) -> Option<Rewrite> {
    let visible = |b: u8| b.is_ascii_graphic() && b != b'#';
    if path.text.len() > pattern::PATH_BYTES_MAX {
        let message = format!("a path may have at most {} bytes", pattern::PATH_BYTES_MAX);
        cx.error(path.span, message);
    }
    if !path.text.bytes().all(visible) {
        cx.error(
            path.span,
            "a path is visible ASCII without `#`; encode the rest as %XX",
        );
    }
    Some(Rewrite::Template(path.text))
}

fn rewrite(cx: &Context<'_>, node: &Node) -> Option<Rewrite> {
    if matches!(node.value, Value::Text(_)) {
        return template(cx, cx.words(node)?);
    }
    let fields = Fields::of(cx, node, &keys::REWRITE)?;
    let strip = fields.get("strip_prefix").map(|node| cx.flag(node));
    let path = fields.get("path").map(|node| cx.words(node));
    fields.finish();
    match (strip, path) {
        (Some(_), Some(_)) => {
            cx.error(node.span, "`strip_prefix` and `path` exclude each other");
            None
        }
        (Some(strip), None) => Some(match strip? {
            true => Rewrite::StripPrefix,
            false => Rewrite::Keep,
        }),
        (None, Some(path)) => template(cx, path?),
        (None, None) => {
            cx.error(node.span, "give `strip_prefix: true` or a `path`");
            None
        }
    }
}

fn body_limit(cx: &Context<'_>, node: &Node) -> Option<Option<u64>> {
    match &node.value {
        Value::Text(text) if **text == *"none" => Some(None),
        _ => cx.size(node).map(Some),
    }
}

fn header_edit(cx: &Context<'_>, node: &Node) -> HeaderEdit {
    let mut edit = HeaderEdit::default();
    let Some(fields) = Fields::of(cx, node, &keys::HEADER_EDIT) else {
        return edit;
    };
    if let Some(entries) = fields.get("set").and_then(|node| cx.map(node)) {
        let mut seen = HashSet::new();
        for entry in entries {
            let name = edited_name(cx, &entry.key, entry.key_span);
            let value = header_value(cx, &entry.node);
            if let (Some(name), Some(value)) = (name, value) {
                once(cx, &mut seen, &name, entry.key_span);
                edit.set.push((name, value));
            }
        }
    }
    if let Some(entries) = fields.get("add").and_then(|node| cx.map(node)) {
        let mut seen = HashSet::new();
        for entry in entries {
            let Some(name) = edited_name(cx, &entry.key, entry.key_span) else {
                continue;
            };
            once(cx, &mut seen, &name, entry.key_span);
            let values: Vec<_> = match &entry.node.value {
                Value::List(items) => items.iter().collect(),
                Value::Null | Value::Text(_) | Value::Map(_) => vec![&entry.node],
            };
            let values = values.into_iter().filter_map(|node| header_value(cx, node));
            edit.add.extend(values.map(|value| (name.clone(), value)));
        }
    }
    if let Some(node) = fields.get("remove") {
        let names = cx.texts(node).into_iter();
        let names = names.filter_map(|word| edited_name(cx, &word.text, word.span));
        edit.remove.extend(names);
    }
    fields.finish();
    edit
}

/// Header names are compared without case, keys of maps with.
pub(crate) fn once(
    cx: &Context<'_>,
    seen: &mut HashSet<HeaderName>,
    name: &HeaderName,
    span: Span,
) {
    if !seen.insert(name.clone()) {
        cx.error(span, format!("the header `{name}` stands here twice"));
    }
}

pub(crate) fn header_name(raw: &str) -> Result<HeaderName, String> {
    raw.parse()
        .map_err(|_| format!("`{raw}` is not a header's name"))
}

/// A header that may be edited: not one that says where a message ends or belongs
/// to one connection (RFC 9110 §7.6.1).
fn edited_name(cx: &Context<'_>, raw: &str, span: Span) -> Option<HeaderName> {
    const OURS: [&str; 9] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    let name = cx.ok(span, header_name(raw))?;
    if OURS.contains(&name.as_str()) {
        cx.error(
            span,
            format!("the header `{name}` belongs to the connection and may not be changed"),
        );
        return None;
    }
    Some(name)
}

fn header_value(cx: &Context<'_>, node: &Node) -> Option<HeaderValue> {
    let word = cx.text(node)?;
    let value = HeaderValue::from_str(&word.text).ok();
    let value = value.filter(|_| word.text.is_ascii());
    let value = value.ok_or_else(|| "a header's value is visible ASCII".to_owned());
    cx.ok(word.span, value)
}
