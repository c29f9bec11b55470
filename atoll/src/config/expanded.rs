//! The file as it was understood, with every default: read back, it means the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use atoll_fleet::workload::{CommandLine, Condition, RestartPolicy, Workload};
use atoll_gateway::config::{
    Balance, HashKey, HeaderEdit, Limits, LogFormat, Match, Rewrite, Route, ValueMatch,
};
use atoll_model::{Check, Probe};
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::pattern::shown_hostname;
use super::value::{shown_duration, shown_size};
use super::variables::{Keep, escape};
use super::{External, Loaded, Store};

/// What is shown instead of a secret.
const REDACTED: &str = "***";

/// Whether secrets are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrets {
    Redacted,
    /// Only to hold the expanded form to its promise.
    Shown,
}

impl Loaded {
    /// The whole file in its long form with every default, in a stable order. What
    /// looks secret is `***`; otherwise it is read back to the same.
    pub fn expanded(&self) -> Value {
        self.expand(Secrets::Redacted)
    }

    pub(crate) fn expand(&self, secrets: Secrets) -> Value {
        let mut all = Map::new();
        all.insert("name".to_owned(), text(&self.name));
        let listen = |at: Option<SocketAddr>| match at {
            Some(address) => json!(address.to_string()),
            None => json!("off"),
        };
        let listen = json!({
            "gateway": listen(self.listen.gateway),
            "console": listen(self.listen.console),
            "dns": listen(self.listen.dns),
            "eureka": listen(self.listen.eureka),
            "consul": listen(self.listen.consul),
        });
        all.insert("listen".to_owned(), listen);
        let preservation = self.registry.self_preservation;
        let preservation = match preservation.enabled {
            true => json!({
                "lapsed_max": format!("{}%", preservation.lapsed_percent_max),
                "leases_min": preservation.leases_min,
                "window": shown_duration(preservation.window),
            }),
            false => json!(false),
        };
        let registry = json!({
            "self_preservation": preservation,
            "script_checks": self.registry.script_checks,
        });
        all.insert("registry".to_owned(), registry);
        if let Some(token) = &self.admin_token {
            let token = match secrets {
                Secrets::Redacted => json!(REDACTED),
                Secrets::Shown => text(token.expose()),
            };
            all.insert("admin_token".to_owned(), token);
        }
        all.insert("gateway".to_owned(), self.gateway_expanded());
        all.insert("dns".to_owned(), self.dns_expanded());
        all.insert("store".to_owned(), store_expanded(&self.store, secrets));
        let acl = self.consul.acl;
        let acl = json!({
            "enabled": acl.enabled,
            "default_policy": if acl.default_allow { "allow" } else { "deny" },
        });
        all.insert("consul".to_owned(), json!({ "acl": acl }));
        let mut services = Map::new();
        let ours = self
            .workloads
            .iter()
            .map(|one| (&one.service, workload_expanded(one, secrets)));
        let elsewhere = self.external.iter();
        let elsewhere = elsewhere.map(|one| (&one.service, external_expanded(one, secrets)));
        let mut expanded: BTreeMap<_, _> = ours.chain(elsewhere).collect();
        for name in &self.order {
            if let Some(value) = expanded.remove(name) {
                services.insert(name.to_string(), value);
            }
        }
        all.insert("services".to_owned(), Value::Object(services));
        let routes = self.gateway.routes.iter();
        let routes = routes.map(|route| (route.name.clone(), route_expanded(route, secrets)));
        all.insert("routes".to_owned(), Value::Object(routes.collect()));
        Value::Object(all)
    }

    fn dns_expanded(&self) -> Value {
        let dns = &self.dns;
        let shown = |all: &mut dyn Iterator<Item = String>| -> Vec<_> { all.collect() };
        let mut all = json!({
            "domains": shown(&mut dns.domains.iter().map(ToString::to_string)),
            "ttl": shown_duration(dns.ttl),
            "only_passing": dns.only_passing,
            "recursors": shown(&mut dns.recursors.iter().map(ToString::to_string)),
        });
        // Without them it is for the machine to say.
        if let Some(node) = &dns.node {
            all["node"] = text(node);
        }
        if let Some(address) = dns.address {
            all["address"] = json!(address.to_string());
        }
        all
    }

    fn gateway_expanded(&self) -> Value {
        let proxies = self.gateway.trusted_proxies.iter();
        let proxies = proxies.map(|block| json!(format!("{}/{}", block.address, block.prefix)));
        let log = &self.gateway.access_log;
        let mut access_log = Map::new();
        let format = match log.format {
            LogFormat::Off => "off",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        access_log.insert("format".to_owned(), json!(format));
        if let Some(path) = &log.path {
            access_log.insert("path".to_owned(), text(&path.to_string_lossy()));
        }
        json!({
            "trusted_proxies": proxies.collect::<Vec<_>>(),
            "access_log": access_log,
            "limits": limits_expanded(&self.gateway.limits),
            "drain": shown_duration(self.gateway_drain),
        })
    }
}

fn store_expanded(store: &Store, secrets: Secrets) -> Value {
    let etcd = match store {
        Store::Embedded => return json!("embedded"),
        Store::Etcd(etcd) => etcd,
    };
    let endpoints = etcd.endpoints.iter().map(|one| text(&one.to_string()));
    let mut all = json!({
        "etcd": endpoints.collect::<Vec<_>>(),
        "prefix": text(&etcd.prefix),
    });
    let path = |path: &std::path::Path| text(&path.to_string_lossy());
    if let Some(ca) = &etcd.tls.ca {
        all["tls"]["ca"] = path(ca);
    }
    if let Some((cert, key)) = &etcd.tls.identity {
        all["tls"]["cert"] = path(cert);
        all["tls"]["key"] = path(key);
    }
    if let Some(login) = &etcd.login {
        all["username"] = text(&login.username);
        all["password"] = match secrets {
            Secrets::Redacted => json!(REDACTED),
            Secrets::Shown => text(&login.password),
        };
    }
    all
}

fn limits_expanded(limits: &Limits) -> Value {
    json!({
        "head_size": shown_size(limits.head_bytes_max as u64),
        "header_count": limits.header_count_max,
        "connections": limits.connections_max,
        "connections_per_client": limits.connections_per_client_max,
        "head_timeout": shown_duration(limits.head_timeout),
        "idle_timeout": shown_duration(limits.idle_timeout),
        "body_progress_timeout": shown_duration(limits.body_progress_timeout),
        "h2_streams": limits.h2_streams_max,
    })
}

/// A text, so that it is read back as it is.
fn text(raw: &str) -> Value {
    Value::String(escape(raw, Keep::Nothing))
}

fn pairs(pairs: &BTreeMap<String, String>, secrets: Secrets) -> Value {
    let shown = pairs.iter().map(|(name, value)| {
        let hidden = secrets == Secrets::Redacted && is_secret(name, value);
        let value = if hidden { json!(REDACTED) } else { text(value) };
        (name.clone(), value)
    });
    Value::Object(shown.collect())
}

/// Errs on the side of hiding: by name, or a password within a URL.
fn is_secret(name: &str, value: &str) -> bool {
    const WORDS: [&str; 9] = [
        "TOKEN",
        "PASS",
        "PWD",
        "SECRET",
        "KEY",
        "CREDENTIAL",
        "PRIVATE",
        "AUTHORIZATION",
        "COOKIE",
    ];
    let name = name.to_ascii_uppercase();
    let in_url = || {
        let (_, rest) = value.split_once("://")?;
        let (user, _) = rest.split(['/', '?', '#']).next()?.rsplit_once('@')?;
        user.contains(':').then_some(())
    };
    WORDS.iter().any(|word| name.contains(word)) || in_url().is_some()
}

fn workload_expanded(workload: &Workload, secrets: Secrets) -> Value {
    let mut all = Map::new();
    let mut put = |key: &str, value: Value| all.insert(key.to_owned(), value);
    if let Some(build) = &workload.build {
        put("build", command(build));
    }
    put("command", command(&workload.command));
    put("working_dir", text(&workload.working_dir.to_string_lossy()));
    put("environment", pairs(&workload.environment, secrets));
    put("replicas", json!(workload.replicas));
    if let Some(port) = workload.port {
        put("port", json!(port));
    }
    let depends_on = workload.depends_on.iter().map(|(service, condition)| {
        let condition = match condition {
            Condition::Started => "service_started",
            Condition::Healthy => "service_healthy",
            Condition::CompletedSuccessfully => "service_completed_successfully",
        };
        (service.to_string(), json!({ "condition": condition }))
    });
    put("depends_on", Value::Object(depends_on.collect()));
    put("health", health(&workload.check));
    let restart = match workload.restart {
        RestartPolicy::Always => "always".to_owned(),
        RestartPolicy::No => "no".to_owned(),
        RestartPolicy::OnFailure { restarts_max: None } => "on-failure".to_owned(),
        RestartPolicy::OnFailure {
            restarts_max: Some(most),
        } => format!("on-failure:{most}"),
    };
    put("restart", json!(restart));
    put("drain", json!(shown_duration(workload.drain)));
    put(
        "stop_grace_period",
        json!(shown_duration(workload.stop_grace)),
    );
    put(
        "logs",
        json!({ "max_size": shown_size(workload.log_bytes_max) }),
    );
    Value::Object(all)
}

fn command(command: &CommandLine) -> Value {
    match command {
        CommandLine::Shell(script) => json!(escape(script, Keep::ForShell)),
        CommandLine::Exec(words) => {
            let words = words.iter().map(|word| json!(escape(word, Keep::ForFleet)));
            Value::Array(words.collect())
        }
    }
}

fn health(check: &Check) -> Value {
    let (key, value) = match &check.probe {
        Probe::Http { path } => ("path", text(path)),
        Probe::Tcp => ("tcp", json!(true)),
        // No file can ask for any other.
        other => (other.kind(), json!(true)),
    };
    json!({
        key: value,
        "interval": shown_duration(check.interval),
        "timeout": shown_duration(check.timeout),
        "start_period": shown_duration(check.start_period),
        "start_interval": shown_duration(check.start_interval),
        "retries": check.failures_before_critical,
        "failures_before_warning": check.failures_before_warning,
        "success_before_passing": check.success_before_passing,
    })
}

fn external_expanded(external: &External, secrets: Secrets) -> Value {
    let endpoints = external.endpoints.iter().map(|endpoint| {
        json!({
            "address": endpoint.address.to_string(),
            "weight": endpoint.weight,
        })
    });
    json!({
        "endpoints": endpoints.collect::<Vec<_>>(),
        "health": external.check.as_ref().map_or(json!("none"), health),
        "tags": external.tags.iter().map(|tag| text(tag)).collect::<Vec<_>>(),
        "metadata": pairs(&external.metadata, secrets),
    })
}

fn route_expanded(route: &Route, secrets: Secrets) -> Value {
    let hostnames = route
        .hostnames
        .iter()
        .map(|host| json!(shown_hostname(host)));
    let backends = route.backends.iter().map(|backend| {
        json!({
            "service": backend.service.to_string(),
            "weight": backend.weight,
        })
    });
    let balance = match &route.balance {
        Balance::LeastRequest => json!("least_request"),
        Balance::RoundRobin => json!("round_robin"),
        Balance::Hash(HashKey::Header(name)) => json!({ "hash": format!("header:{name}") }),
        Balance::Hash(HashKey::Cookie(name)) => json!({ "hash": text(&format!("cookie:{name}")) }),
        Balance::Hash(HashKey::ClientIp) => json!({ "hash": "client.ip" }),
    };
    let rewrite = match &route.rewrite {
        Rewrite::Keep => json!({ "strip_prefix": false }),
        Rewrite::StripPrefix => json!({ "strip_prefix": true }),
        Rewrite::Template(path) => json!({ "path": text(path) }),
    };
    let timeouts = json!({
        "connect": shown_duration(route.timeouts.connect),
        "response_head": shown_duration(route.timeouts.response_head),
        "idle": shown_duration(route.timeouts.idle),
        "request": shown_duration(route.timeouts.request),
    });
    let retry = json!({
        "attempts": route.retry.attempts,
        "budget": format!("{}%", route.retry.budget_percent),
        "min_per_second": route.retry.budget_min_per_second,
    });
    json!({
        "hostnames": hostnames.collect::<Vec<_>>(),
        "matches": route.matches.iter().map(matching).collect::<Vec<_>>(),
        "backends": backends.collect::<Vec<_>>(),
        "balance": balance,
        "rewrite": rewrite,
        "headers": {
            "request": header_edit(&route.request_headers, secrets),
            "response": header_edit(&route.response_headers, secrets),
        },
        "timeouts": timeouts,
        "retry": retry,
        "body_limit": route.body_bytes_max.map_or("none".to_owned(), shown_size),
    })
}

fn matching(matching: &Match) -> Value {
    let condition = |value: &ValueMatch| match value {
        ValueMatch::Exact(exact) => json!({ "exact": text(exact) }),
        ValueMatch::Present => json!({ "present": true }),
    };
    let headers = matching.headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), condition(value)));
    let query = matching.query.iter();
    let query = query.map(|(name, value)| (name.clone(), condition(value)));
    json!({
        "path": text(&matching.path.pattern),
        "method": matching.method.as_ref().map_or("*", |method| method.as_str()),
        "headers": headers.collect::<Map<_, _>>(),
        "query": query.collect::<Map<_, _>>(),
    })
}

fn header_edit(edit: &HeaderEdit, secrets: Secrets) -> Value {
    let shown = |name: &HeaderName, value: &HeaderValue| {
        let raw = String::from_utf8_lossy(value.as_bytes());
        match secrets == Secrets::Redacted && is_secret(name.as_str(), &raw) {
            true => json!(REDACTED),
            false => text(&raw),
        }
    };
    let set = edit.set.iter();
    let set = set.map(|(name, value)| (name.to_string(), shown(name, value)));
    let mut add: Map<String, Value> = Map::new();
    for (name, value) in &edit.add {
        let values = add.entry(name.to_string()).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(shown(name, value));
        }
    }
    let remove = edit.remove.iter().map(|name| json!(name.as_str()));
    json!({
        "set": set.collect::<Map<_, _>>(),
        "add": add,
        "remove": remove.collect::<Vec<_>>(),
    })
}
