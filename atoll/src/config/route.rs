//! `routes:`, groups opened and policies merged, as the gateway takes them.

use std::collections::HashSet;

use atoll_gateway::config::{Backend, Balance, Hostname, Match, Rewrite, Route};
use atoll_model::ServiceName;
use http::Method;

use super::decode::{Context, Fields, Word, number};
use super::keys;
use super::matching::{Key, host_text, matches};
use super::pattern;
use super::policy::Policies;
use super::resolve::Names;
use super::source::Span;
use super::tree::{Entry, Node, Value};

/// Routes that one file may have, as many as the router was measured with and more.
const ROUTES_MAX: usize = 20_000;

/// Bytes of hosts and edited headers that all routes together may have, each with
/// what it inherits.
const INHERITED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes that a route's name may have, all its groups' keys together.
const NAME_BYTES_MAX: usize = 900;

/// A route and where its key stands.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) route: Route,
    pub(crate) span: Span,
}

/// What a group hands to its routes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) prefix: String,
    pub(crate) method: Option<Method>,
    pub(crate) hostnames: Vec<Hostname>,
    /// As written in the keys, for the names of routes.
    pub(crate) host_text: String,
    pub(crate) policies: Policies,
}

/// All routes of the file, in its order.
pub(crate) fn decode(
    cx: &Context<'_>,
    node: &Node,
    policies: Policies,
    services: &Names<'_>,
    file_name: &str,
) -> Vec<Placed> {
    let mut routes = Routes {
        cx,
        services,
        file_name,
        found: Vec::new(),
        inherited_bytes: 0,
    };
    let top = Group {
        policies,
        ..Group::default()
    };
    routes.group(node, &top);
    routes.found
}

struct Routes<'a> {
    cx: &'a Context<'a>,
    services: &'a Names<'a>,
    file_name: &'a str,
    found: Vec<Placed>,
    inherited_bytes: usize,
}

impl Routes<'_> {
    fn group(&mut self, node: &Node, group: &Group) {
        for entry in self.cx.map(node).unwrap_or_default() {
            if self.found.len() >= ROUTES_MAX {
                let message = format!("more than {ROUTES_MAX} routes");
                return self.cx.error(entry.key_span, message);
            }
            if self.inherited_bytes > INHERITED_BYTES_MAX {
                let message = "too much in all: hosts and headers of the groups are taken over by each of their routes";
                return self.cx.error(entry.key_span, message);
            }
            self.entry(entry, group);
        }
    }

    fn entry(&mut self, entry: &Entry, group: &Group) {
        let cx = self.cx;
        match &entry.node.value {
            Value::Null => {
                let message = format!("the route `{}` goes nowhere; give a service", entry.key);
                cx.error(entry.key_span, message);
            }
            Value::Map(_) => {
                let Some(fields) = Fields::of(cx, &entry.node, &keys::ROUTE) else {
                    return;
                };
                match fields.get("routes") {
                    Some(routes) => {
                        if let Some(inner) = self.inner(entry, &fields, group) {
                            self.group(routes, &inner);
                        }
                    }
                    None if fields.has("routes") => {}
                    None => self.route(entry, Some(fields), group),
                }
            }
            Value::Text(_) | Value::List(_) => self.route(entry, None, group),
        }
    }

    /// The group that `entry` opens within `group`.
    fn inner(&self, entry: &Entry, fields: &Fields<'_>, group: &Group) -> Option<Group> {
        let cx = self.cx;
        for field in fields.entries() {
            let known = keys::ROUTE.find(&field.key).is_some();
            let fits = keys::GROUP_KEYS.contains(&&*field.key) || keys::is_policy(&field.key);
            if known && !fits {
                cx.error(
                    field.key_span,
                    format!(
                        "`{}` is for one route; this one has `routes` and is a group",
                        field.key
                    ),
                );
            }
        }
        let policies = Policies::decode(cx, fields).below(&group.policies);
        let key = cx.ok(entry.key_span, pattern::route_key(&entry.key))?;
        if key.path.contains("*}") {
            cx.error(
                entry.key_span,
                "a group's key is the beginning of a path; `{…*}` takes all of it",
            );
            return None;
        }
        let hostnames = self.hostnames(fields, key.host.as_ref(), group);
        Some(Group {
            prefix: pattern::below(&group.prefix, &key.path),
            host_text: host_text(&key, group),
            method: key.method.or_else(|| group.method.clone()),
            hostnames: hostnames?,
            policies,
        })
    }

    fn hostnames(
        &self,
        fields: &Fields<'_>,
        of_key: Option<&Hostname>,
        group: &Group,
    ) -> Option<Vec<Hostname>> {
        let cx = self.cx;
        match (fields.get("hostnames"), of_key) {
            (Some(node), _) => {
                let words = cx.texts(node).into_iter();
                let hosts = words.map(|word| cx.ok(word.span, pattern::hostname(&word.text)));
                let hosts: Option<Vec<_>> = hosts.collect();
                let mut seen = HashSet::new();
                let mut hosts = hosts?;
                hosts.retain(|host| seen.insert(host.clone()));
                Some(hosts)
            }
            (None, Some(host)) => Some(vec![host.clone()]),
            (None, None) => Some(group.hostnames.clone()),
        }
    }

    fn route(&mut self, entry: &Entry, fields: Option<Fields<'_>>, group: &Group) {
        let cx = self.cx;
        let mut key = Key::new(entry, group);
        let Some(fields) = fields else {
            // The shorthand: `/users/{path*}: users`.
            let backends = self.backends(&entry.node);
            let matching = key.matching(cx);
            let host = key.host(cx);
            if let (Some(backends), Some(matching), Some(host)) = (backends, matching, host) {
                let hostnames = host.map_or_else(|| group.hostnames.clone(), |host| vec![host]);
                self.push(
                    entry,
                    &key,
                    hostnames,
                    vec![matching],
                    backends,
                    &group.policies,
                );
            }
            return;
        };
        let policies = Policies::decode(cx, &fields).below(&group.policies);
        let backends = match fields.either(cx, "to", "backends") {
            Some(entry) => self.backends(&entry.node),
            None => {
                let message = format!("the route `{}` goes nowhere; give `to: SERVICE`", entry.key);
                cx.error(entry.key_span, message);
                None
            }
        };
        let matches = match fields.get("matches") {
            None => key.matching(cx).map(|matching| vec![matching]),
            Some(node) => matches(self.cx, node, &key),
        };
        // With hosts and paths of its own, the key is only a name.
        let of_key = match fields.has("hostnames") {
            true => Some(None),
            false => key.host(cx),
        };
        let hostnames = of_key.and_then(|host| self.hostnames(&fields, host.as_ref(), group));
        let name = fields.get("name").map(|node| self.name(node));
        fields.finish();
        let (Some(backends), Some(matches), Some(hostnames)) = (backends, matches, hostnames)
        else {
            return;
        };
        match name {
            None => {}
            Some(Some(name)) => key.name = name,
            Some(None) => return,
        }
        self.push(entry, &key, hostnames, matches, backends, &policies);
    }

    fn name(&self, node: &Node) -> Option<String> {
        let word = self.cx.words(node)?;
        if word.text.len() > NAME_BYTES_MAX || word.text.chars().any(char::is_control) {
            let message =
                format!("a name has at most {NAME_BYTES_MAX} bytes and no control characters");
            self.cx.error(word.span, message);
            return None;
        }
        Some(word.text)
    }

    fn push(
        &mut self,
        entry: &Entry,
        key: &Key<'_>,
        hostnames: Vec<Hostname>,
        matches: Vec<Match>,
        backends: Vec<Backend>,
        policies: &Policies,
    ) {
        if key.name.len() > NAME_BYTES_MAX || key.name.chars().any(char::is_control) {
            let message = format!(
                "the key, with its groups', has more than {NAME_BYTES_MAX} bytes, or a control character"
            );
            return self.cx.error(entry.key_span, message);
        }
        self.inherited_bytes += policies.header_bytes() + hostnames.len() * 64;
        let route = Route {
            name: key.name.clone(),
            hostnames,
            matches,
            backends,
            balance: policies.balance.clone().unwrap_or(Balance::LeastRequest),
            rewrite: policies.rewrite.clone().unwrap_or(Rewrite::Keep),
            request_headers: policies.request_headers.clone(),
            response_headers: policies.response_headers.clone(),
            timeouts: policies.timeouts(),
            retry: policies.retries(),
            body_bytes_max: policies.body_bytes_max.flatten(),
            origin: format!("{}:{}", self.file_name, entry.key_span.line),
        };
        self.found.push(Placed {
            route,
            span: entry.key_span,
        });
    }

    fn backends(&self, node: &Node) -> Option<Vec<Backend>> {
        let cx = self.cx;
        let mut all = true;
        let mut backends: Vec<Backend> = Vec::new();
        let mut seen = HashSet::new();
        let mut push = |found: Option<(ServiceName, u32)>, span: Span| match found {
            Some((service, weight)) => {
                if !seen.insert(service.clone()) {
                    cx.error(span, format!("the service `{service}` stands here twice"));
                }
                backends.push(Backend { service, weight });
            }
            None => all = false,
        };
        match &node.value {
            Value::Null | Value::Text(_) => {
                let service = self.service(cx.words(node)?);
                push(service.map(|service| (service, 1)), node.span);
            }
            Value::List(items) => {
                for item in items.iter() {
                    push(self.backend(item), item.span);
                }
            }
            Value::Map(entries) => {
                for entry in entries.iter() {
                    let word = Word {
                        text: entry.key.to_string(),
                        span: entry.key_span,
                        unset: Vec::new(),
                    };
                    let service = self.service(word);
                    let weight = number(cx, &entry.node, 0, 1_000_000);
                    push(service.zip(weight), entry.key_span);
                }
            }
        }
        if all && backends.is_empty() {
            cx.error(node.span, "at least one service is needed");
            return None;
        }
        all.then_some(backends)
    }

    fn backend(&self, node: &Node) -> Option<(ServiceName, u32)> {
        let cx = self.cx;
        if !matches!(node.value, Value::Map(_)) {
            return Some((self.service(cx.words(node)?)?, 1));
        }
        let fields = Fields::of(cx, node, &keys::BACKEND)?;
        let service = fields.get("service");
        let weight = match fields.get("weight") {
            Some(_) => fields.count(cx, "weight"),
            None => Some(1),
        };
        fields.finish();
        let Some(service) = service else {
            cx.error(node.span, "a backend needs a `service`");
            return None;
        };
        Some((self.service(cx.words(service)?)?, weight?))
    }

    fn service(&self, word: Word) -> Option<ServiceName> {
        if !self.services.check(self.cx, &word.text, word.span) {
            return None;
        }
        let name = word.text.parse::<ServiceName>();
        self.cx
            .ok(word.span, name.map_err(|error| error.to_string()))
    }
}
