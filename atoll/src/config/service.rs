//! `services:`, as the fleet and the registry take them.

use std::collections::{BTreeMap, HashSet};

use atoll_fleet::workload::{CommandLine, Condition, RestartPolicy, Workload};
use atoll_model::{Address, ServiceName};

use super::decode::{Context, Fields};
use super::environment::{Pairs, pairs, variables};
use super::health::{Checked, decode as decode_health};
use super::keys;
use super::source::Span;
use super::tree::{Entry, Node, Value};
use super::value;
use super::variables::Keep;
use super::{Endpoint, External};

/// A service and where its key stands.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) span: Span,
    pub(crate) service: Service,
    /// Where `port` stands.
    pub(crate) port: Option<Span>,
    pub(crate) depends_on: Vec<Dependency>,
}

#[derive(Debug)]
pub(crate) enum Service {
    Ours(Workload),
    Elsewhere(External),
}

/// What another service must have come to.
#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) service: String,
    pub(crate) condition: Condition,
    pub(crate) required: bool,
    pub(crate) span: Span,
}

impl Placed {
    pub(crate) fn name(&self) -> &ServiceName {
        match &self.service {
            Service::Ours(workload) => &workload.service,
            Service::Elsewhere(external) => &external.service,
        }
    }
}

/// Keys that say how to run a service, and make no sense for one that runs elsewhere.
const OURS: [&str; 14] = [
    "command",
    "build",
    "working_dir",
    "environment",
    "env_file",
    "replicas",
    "deploy",
    "port",
    "ports",
    "depends_on",
    "restart",
    "stop_grace_period",
    "drain",
    "logs",
];

/// And the other way round.
const ELSEWHERE: [&str; 3] = ["weight", "tags", "metadata"];

/// What may keep a service from having a `command`, and was reported.
const NO_COMMAND: [&str; 2] = ["image", "entrypoint"];

pub(crate) fn decode(
    cx: &Context<'_>,
    entry: &Entry,
    env_files: &mut Vec<std::path::PathBuf>,
) -> Option<Placed> {
    let name = entry.key.parse::<ServiceName>();
    let name = cx.ok(entry.key_span, name.map_err(|error| error.to_string()));
    let fields = Fields::of(cx, &entry.node, &keys::SERVICE)?;
    let elsewhere = fields.get("endpoints").is_some();
    let (wrong, instead) = match elsewhere {
        true => (
            &OURS[..],
            "does not go with `endpoints`: Atoll does not run this service",
        ),
        false => (&ELSEWHERE[..], "goes only with `endpoints`"),
    };
    for key in wrong {
        if let Some(field) = fields.entry(key) {
            cx.error(field.key_span, format!("`{key}` {instead}"));
        }
    }
    let placed = match elsewhere {
        true => external(cx, entry, &fields, name),
        false => workload(cx, entry, &fields, name, env_files),
    };
    fields.finish();
    placed
}

fn external(
    cx: &Context<'_>,
    entry: &Entry,
    fields: &Fields<'_>,
    name: Option<ServiceName>,
) -> Option<Placed> {
    let usual = match fields.get("weight") {
        Some(_) => fields.count(cx, "weight").unwrap_or(1),
        None => 1,
    };
    let mut seen = HashSet::new();
    let mut endpoints = Vec::new();
    if let Some(node) = fields.get("endpoints") {
        for item in cx.list(node).unwrap_or_default() {
            let Some(endpoint) = endpoint(cx, item, usual) else {
                continue;
            };
            if !seen.insert(endpoint.address.clone()) {
                cx.error(
                    item.span,
                    format!("the endpoint `{}` stands here twice", endpoint.address),
                );
            }
            endpoints.push(endpoint);
        }
    }
    let tags = fields
        .get("tags")
        .and_then(|node| cx.list(node))
        .unwrap_or_default();
    let tags = tags
        .iter()
        .filter_map(|node| cx.words(node))
        .map(|word| word.text)
        .collect();
    let metadata = fields
        .get("metadata")
        .map(|node| pairs(cx, node, Pairs::Free));
    let check = match decode_health(cx, fields, Checked::Elsewhere) {
        Ok(check) => check,
        Err(()) => return None,
    };
    Some(Placed {
        span: entry.key_span,
        service: Service::Elsewhere(External {
            service: name?,
            endpoints,
            check,
            tags,
            metadata: metadata.unwrap_or_default(),
        }),
        port: None,
        depends_on: Vec::new(),
    })
}

fn endpoint(cx: &Context<'_>, node: &Node, usual: u16) -> Option<Endpoint> {
    let (word, weight) = match &node.value {
        Value::Map(_) => {
            let fields = Fields::of(cx, node, &keys::ENDPOINT)?;
            let address = fields.get("address");
            let weight = match fields.get("weight") {
                Some(_) => fields.count(cx, "weight"),
                None => Some(usual),
            };
            fields.finish();
            let Some(address) = address else {
                cx.error(node.span, "an endpoint needs an `address`");
                return None;
            };
            (cx.words(address)?, weight?)
        }
        Value::Null | Value::Text(_) | Value::List(_) => (cx.words(node)?, usual),
    };
    let address = word.text.parse::<Address>();
    let address = cx.ok(word.span, address.map_err(|error| error.to_string()))?;
    Some(Endpoint { address, weight })
}

fn workload(
    cx: &Context<'_>,
    entry: &Entry,
    fields: &Fields<'_>,
    name: Option<ServiceName>,
    env_files: &mut Vec<std::path::PathBuf>,
) -> Option<Placed> {
    let command = match fields.get("command") {
        Some(node) => command(cx, node),
        None => {
            let said = NO_COMMAND.iter().any(|key| fields.has(key));
            if !said && !fields.misspelt(&["command", "endpoints"]) {
                let message = format!(
                    "the service `{}` needs a `command`, or `endpoints` if it runs elsewhere",
                    entry.key
                );
                cx.error(entry.key_span, message);
            }
            None
        }
    };
    let build = fields.get("build").map(|node| build(cx, node));
    let working_dir = fields.get("working_dir").map(|node| cx.words(node));
    let environment = variables(cx, fields, env_files);
    let replicas = replicas(cx, fields);
    let port = port(cx, fields);
    if let (Some((_, span)), Some(2..)) = (port, replicas) {
        cx.error(span, "a fixed port and more than one replica exclude each other; leave the port out: each replica gets a free one in $PORT");
    }
    let restart = fields.get("restart").map(|node| restart(cx, node));
    let stop_grace = fields
        .get("stop_grace_period")
        .map(|node| cx.duration(node));
    let drain = fields.get("drain").map(|node| cx.duration(node));
    let log_bytes_max = log_size(cx, fields);
    let depends_on = fields.get("depends_on").map(|node| dependencies(cx, node));
    let check = decode_health(cx, fields, Checked::Ours);
    let workload = || {
        Some(Workload {
            service: name?,
            build: match build {
                Some(build) => Some(build?),
                None => None,
            },
            command: command?,
            working_dir: match working_dir {
                Some(word) => cx.path(&word?.text),
                None => cx.folder.to_owned(),
            },
            environment,
            replicas: replicas?,
            port: port.map(|(port, _)| port),
            depends_on: BTreeMap::new(),
            restart: restart.unwrap_or(Some(RestartPolicy::Always))?,
            check: check.ok().flatten()?,
            drain: drain.unwrap_or(Some(super::DRAIN_DEFAULT))?,
            stop_grace: stop_grace.unwrap_or(Some(super::STOP_GRACE_DEFAULT))?,
            log_bytes_max: log_bytes_max?,
        })
    };
    let workload = workload();
    let depends_on = depends_on.unwrap_or_default();
    let Some(workload) = workload else {
        cx.stranded.borrow_mut().extend(depends_on);
        return None;
    };
    Some(Placed {
        span: entry.key_span,
        port: port.map(|(_, span)| span),
        depends_on,
        service: Service::Ours(workload),
    })
}

fn command(cx: &Context<'_>, node: &Node) -> Option<CommandLine> {
    match &node.value {
        Value::List(items) => {
            let words = items
                .iter()
                .map(|item| cx.text_keeping(item, Keep::ForFleet));
            let words: Option<Vec<_>> = words.map(|word| Some(word?.text)).collect();
            let words = words?;
            if words.first().is_none_or(|program| program.is_empty()) {
                cx.error(node.span, "the command is empty");
                return None;
            }
            Some(CommandLine::Exec(words))
        }
        Value::Null | Value::Text(_) | Value::Map(_) => {
            let word = cx.text_keeping(node, Keep::ForShell)?;
            if word.text.trim().is_empty() {
                cx.error(node.span, "the command is empty");
                return None;
            }
            Some(CommandLine::Shell(word.text))
        }
    }
}

fn build(cx: &Context<'_>, node: &Node) -> Option<CommandLine> {
    const CONTAINERS: &str = "building an image needs the container driver, which does not exist yet; give a command, such as `build: cargo build --release`";
    if matches!(node.value, Value::Map(_) | Value::List(_)) {
        cx.error(node.span, CONTAINERS);
        return None;
    }
    let found = command(cx, node)?;
    let CommandLine::Shell(script) = &found else {
        return Some(found);
    };
    // Compose's short form: the folder of a Dockerfile.
    let one_word = !script.trim().contains(char::is_whitespace);
    if one_word && cx.reads_files && cx.path(script.trim()).is_dir() {
        cx.error(node.span, CONTAINERS);
        return None;
    }
    Some(found)
}

fn replicas(cx: &Context<'_>, fields: &Fields<'_>) -> Option<u32> {
    let deploy = fields
        .get("deploy")
        .and_then(|node| Fields::of(cx, node, &keys::DEPLOY));
    let long = deploy.as_ref().and_then(|deploy| deploy.get("replicas"));
    let found = match (fields.entry("replicas"), long) {
        (Some(short), Some(_)) => {
            cx.error(
                short.key_span,
                "`replicas` and `deploy.replicas` say the same; remove one",
            );
            None
        }
        (Some(_), None) => fields.count(cx, "replicas"),
        (None, Some(_)) => deploy
            .as_ref()
            .and_then(|deploy| deploy.count(cx, "replicas")),
        (None, None) => Some(1),
    };
    if let Some(deploy) = deploy {
        deploy.finish();
    }
    found
}

fn port(cx: &Context<'_>, fields: &Fields<'_>) -> Option<(u16, Span)> {
    let found = fields.either(cx, "port", "ports")?;
    if *found.key == *"port" {
        return Some((fields.count(cx, "port")?, found.node.span));
    }
    let items = cx.list(&found.node)?;
    const HELP: &str = "a process has no port of its own to map to; give `port: 8080` and let the command listen on $PORT, or leave it out";
    let [item] = items else {
        cx.error(
            found.node.span,
            "one port for each service; the gateway takes requests for all",
        );
        return None;
    };
    if matches!(item.value, Value::Map(_) | Value::List(_)) {
        cx.error_with(
            item.span,
            "this form of `ports` has no meaning for a process",
            HELP,
        );
        return None;
    }
    let word = cx.words(item)?;
    match word.text.split_once(':') {
        Some((published, target)) if published == target => {
            let parsed = published.parse::<u16>().ok().filter(|&port| port > 0);
            let parsed =
                parsed.ok_or_else(|| format!("`{published}` is not a port from 1 to 65535"));
            Some((cx.ok(word.span, parsed)?, word.span))
        }
        _ => {
            cx.error_with(
                item.span,
                "this form of `ports` has no meaning for a process",
                HELP,
            );
            None
        }
    }
}

fn restart(cx: &Context<'_>, node: &Node) -> Option<RestartPolicy> {
    let word = cx.text(node)?;
    match &word.text[..] {
        "always" | "unless-stopped" => return Some(RestartPolicy::Always),
        "no" | "false" => return Some(RestartPolicy::No),
        "on-failure" => return Some(RestartPolicy::OnFailure { restarts_max: None }),
        _ => {}
    }
    let most = word
        .text
        .strip_prefix("on-failure:")
        .and_then(|most| most.parse().ok());
    if most.is_none() {
        let known = [
            "always",
            "unless-stopped",
            "on-failure",
            "on-failure:3",
            "no",
        ];
        cx.unknown(word.span, "value", &word.text, &known);
    }
    most.map(|most| RestartPolicy::OnFailure {
        restarts_max: Some(most),
    })
}

fn log_size(cx: &Context<'_>, fields: &Fields<'_>) -> Option<u64> {
    let Some(node) = fields.get("logs") else {
        return Some(super::LOG_BYTES_DEFAULT);
    };
    let logs = Fields::of(cx, node, &keys::LOGS)?;
    let size = logs.get("max_size").map(|node| (cx.size(node), node.span));
    logs.finish();
    match size {
        None => Some(super::LOG_BYTES_DEFAULT),
        Some((Some(bytes), span)) if bytes < super::LOG_BYTES_MIN => {
            let least = value::shown_size(super::LOG_BYTES_MIN);
            cx.error(span, format!("at least {least}"));
            None
        }
        Some((size, _)) => size,
    }
}

fn dependencies(cx: &Context<'_>, node: &Node) -> Vec<Dependency> {
    if let Value::Map(entries) = &node.value {
        let found = entries.iter().filter_map(|entry| dependency(cx, entry));
        return found.collect();
    }
    let words = cx.list(node).unwrap_or_default().iter();
    let words = words.filter_map(|item| cx.words(item));
    let found = words.map(|word| Dependency {
        service: word.text,
        condition: Condition::Started,
        required: true,
        span: word.span,
    });
    found.collect()
}

fn dependency(cx: &Context<'_>, entry: &Entry) -> Option<Dependency> {
    let fields = Fields::of(cx, &entry.node, &keys::DEPENDENCY)?;
    let condition = fields.get("condition").map(|node| {
        let known = [
            "service_started",
            "service_healthy",
            "service_completed_successfully",
        ];
        cx.choice(node, &known)
    });
    let required = fields.get("required").map(|node| cx.flag(node));
    fields.finish();
    Some(Dependency {
        service: entry.key.to_string(),
        condition: match condition {
            None => Condition::Started,
            Some(word) => match word? {
                "service_healthy" => Condition::Healthy,
                "service_completed_successfully" => Condition::CompletedSuccessfully,
                _ => Condition::Started,
            },
        },
        required: required.unwrap_or(Some(true))?,
        span: entry.key_span,
    })
}
