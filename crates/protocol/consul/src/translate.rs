//! Between Consul's services and checks and the registry's instances; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::{
    Address, Check, Health, Instance, InstanceId, Probe, ServiceName, is_front_label,
};
use atoll_registry::{Detail, Registration, Source};
use serde_json::{Map, Value, json};

use crate::stored::{self, CheckDefinition, DEFINITION, Definition};
use crate::wire::{Fields, Refusal, duration, go_duration};

/// Consul's limits of a service's Meta.
const META_PAIRS_MAX: usize = 64;
const META_KEY_CHARS_MAX: usize = 128;
const META_VALUE_CHARS_MAX: usize = 512;
/// Consul asks no more often than each second.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Consul's time-out when none is given.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Consul's `check_deregister_interval_min`.
const DEREGISTER_MIN: Duration = Duration::from_secs(60);
/// What an instance without a port has for one; it takes no requests (weight 0).
const NO_PORT: u16 = 1;

/// A node as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) datacenter: String,
    pub(crate) tagged: BTreeMap<String, String>,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) created: u64,
    pub(crate) modified: u64,
}

/// What a definition of a service comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Defined {
    pub(crate) registration: Registration,
    /// How checks that are told stand at first: name, health, output.
    pub(crate) said: Vec<(String, Health, String)>,
}

/// The id that Consul's clients know an instance by.
pub(crate) fn shown_id(instance: &Instance) -> String {
    let definition = definition(instance);
    if definition.id.is_empty() {
        instance.id.to_string()
    } else {
        definition.id
    }
}

/// What was defined beyond the instance; nothing for those of other protocols.
pub(crate) fn definition(instance: &Instance) -> Definition {
    let text = instance.metadata.get(DEFINITION);
    text.and_then(|text| stored::read(text.as_bytes()))
        .unwrap_or_else(|| Definition {
            passing_weight: instance.weight,
            warning_weight: 1,
            ..Definition::default()
        })
}

/// The service in the body of `agent/service/register`, or in `Service` of
/// `catalog/register` on a `foreign` node.
pub(crate) fn define(fields: &Fields, node: &Node, foreign: bool) -> Result<Defined, Refusal> {
    let mut name = fields.text("name")?;
    if name.is_empty() {
        name = fields.text("service")?;
    }
    if name.is_empty() {
        return Err(Refusal::bad("Missing service name"));
    }
    let service: ServiceName = (name.parse())
        .map_err(|error| Refusal::bad(format!("Invalid service name {name:?}: {error}")))?;
    let mut id = fields.text("id")?;
    if id.is_empty() {
        id.clone_from(&name);
    }
    refuse_mesh(fields)?;
    let port = fields.number("port")?.unwrap_or(0);
    let port = u16::try_from(port).map_err(|_| Refusal::bad(format!("Invalid port: {port}")))?;
    let host = fields.text("address")?;
    let (passing_weight, warning_weight) = weights(fields)?;
    let mut definition = Definition {
        name: if service.as_str() == name {
            String::new()
        } else {
            name
        },
        no_address: host.is_empty(),
        no_port: port == 0,
        tagged: fields.raw("taggedaddresses").cloned().unwrap_or_default(),
        warning_weight,
        passing_weight,
        tag_override: fields.flag("enabletagoverride")?,
        ..Definition::default()
    };
    let mut instance_id = id.clone();
    if foreign {
        definition.node.clone_from(&node.name);
        definition.id.clone_from(&id);
        instance_id = format!("{id}@{}", node.name);
    }
    let instance_id: InstanceId = (instance_id.parse())
        .map_err(|error| Refusal::bad(format!("Invalid service ID {id:?}: {error}")))?;
    let host = if host.is_empty() {
        &node.address
    } else {
        &host
    };
    let address = Address::new(host, if port == 0 { NO_PORT } else { port })
        .map_err(|error| Refusal::bad(format!("Invalid service address: {error}")))?;

    let mut given = fields.objects("checks")?;
    given.extend(fields.object("check")?);
    let many = given.len() > 1;
    let (mut checks, mut said) = (Vec::new(), Vec::new());
    for (number, fields) in (1..).zip(&given) {
        let usual = if many {
            format!("service:{id}:{number}")
        } else {
            format!("service:{id}")
        };
        let parsed = if foreign {
            told(fields, &service, &usual)?
        } else {
            check(fields, &service, &usual, &address)?
        };
        said.extend(
            parsed
                .first
                .map(|(health, output)| (parsed.shown.id.clone(), health, output)),
        );
        definition.checks.push(parsed.shown);
        checks.push(parsed.check);
    }
    let mut metadata = meta(fields)?;
    metadata.insert(DEFINITION.to_owned(), stored::write(&definition));
    let mut registration = Registration::new(service, instance_id, address, Source::Client);
    registration.weight = if port == 0 { 0 } else { passing_weight };
    registration.tags = fields.texts("tags")?;
    registration.metadata = metadata;
    registration.checks = checks;
    Ok(Defined { registration, said })
}

/// The mesh is another product: taken for plain services they would not be reached.
fn refuse_mesh(fields: &Fields) -> Result<(), Refusal> {
    if !matches!(&fields.text("kind")?[..], "" | "typical") {
        return Err(Refusal::unsupported("a service with a Kind (Connect)"));
    }
    let connect = fields.object("connect")?.unwrap_or_default();
    if connect.flag("native")? || connect.raw("sidecarservice").is_some() {
        return Err(Refusal::unsupported("Connect"));
    }
    if !fields.text("socketpath")?.is_empty() {
        return Err(Refusal::unsupported("a service at a SocketPath"));
    }
    Ok(())
}

fn weights(fields: &Fields) -> Result<(u16, u16), Refusal> {
    let Some(weights) = fields.object("weights")? else {
        return Ok((1, 1));
    };
    let weight = |key| -> Result<u16, Refusal> {
        let weight = weights.number(key)?.unwrap_or(1);
        let refuse = |_| Refusal::bad(format!("Invalid Weight: {weight} is not in 0..65535"));
        u16::try_from(weight).map_err(refuse)
    };
    Ok((weight("passing")?, weight("warning")?))
}

fn meta(fields: &Fields) -> Result<BTreeMap<String, String>, Refusal> {
    let pairs = fields.pairs("meta")?;
    let refuse = |what| Err(Refusal::bad(format!("Invalid Service Meta: {what}")));
    if pairs.len() > META_PAIRS_MAX {
        return refuse(format!(
            "Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"
        ));
    }
    for (key, value) in &pairs {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if key.is_empty() || !key.chars().all(fine) {
            return refuse(format!("Key name '{key}' contains invalid characters"));
        }
        if key.len() > META_KEY_CHARS_MAX {
            return refuse(format!(
                "Key is too long (limit: {META_KEY_CHARS_MAX} characters)"
            ));
        }
        if value.len() > META_VALUE_CHARS_MAX {
            return refuse(format!(
                "Value is too long (limit: {META_VALUE_CHARS_MAX} characters)"
            ));
        }
    }
    Ok(pairs.into_iter().collect())
}

/// A check and what is shown of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) check: Check,
    pub(crate) shown: CheckDefinition,
    /// How it stands before anybody said anything, if it is told.
    pub(crate) first: Option<(Health, String)>,
}

fn invalid(what: impl std::fmt::Display) -> Refusal {
    Refusal::bad(format!("Invalid check: {what}"))
}

fn named(fields: &Fields, service: &ServiceName, usual: &str) -> Result<CheckDefinition, Refusal> {
    let mut id = fields.text("checkid")?;
    if id.is_empty() {
        id = fields.text("id")?;
    }
    let name = fields.text("name")?;
    let name = if name.is_empty() {
        format!("Service '{service}' check")
    } else {
        name
    };
    Ok(CheckDefinition {
        id: if id.is_empty() { usual.to_owned() } else { id },
        name,
        notes: fields.text("notes")?,
        ..CheckDefinition::default()
    })
}

/// The health that a Status means; none when it is empty.
pub(crate) fn status(text: &str) -> Result<Option<Health>, Refusal> {
    match text {
        "" => Ok(None),
        "passing" => Ok(Some(Health::Passing)),
        "warning" => Ok(Some(Health::Warning)),
        "critical" => Ok(Some(Health::Critical)),
        other => Err(Refusal::bad(format!("Invalid check status: '{other}'"))),
    }
}

/// The word that a health is: what is not known to be fit is critical.
pub(crate) fn status_of(health: Health) -> &'static str {
    match health {
        Health::Passing => "passing",
        Health::Warning => "warning",
        Health::Starting | Health::Critical | Health::Draining => "critical",
    }
}

/// A check of the catalogue: whoever registers it runs it and tells how it stands.
pub(crate) fn told(fields: &Fields, service: &ServiceName, usual: &str) -> Result<Parsed, Refusal> {
    let shown = named(fields, service, usual)?;
    let mut check = Check::new(Probe::Told { ttl: None });
    check.name.clone_from(&shown.id);
    let health = status(&fields.text("status")?)?.unwrap_or(Health::Critical);
    let first = Some((health, fields.text("output")?));
    Ok(Parsed {
        check,
        shown,
        first,
    })
}

/// A check of the agent, for an instance at `address`.
pub(crate) fn check(
    fields: &Fields,
    service: &ServiceName,
    usual: &str,
    address: &Address,
) -> Result<Parsed, Refusal> {
    for (key, what) in [
        ("script", "Script"),
        ("args", "Args"),
        ("scriptargs", "ScriptArgs"),
        ("dockercontainerid", "DockerContainerID"),
        ("grpc", "GRPC"),
        ("udp", "UDP"),
        ("h2ping", "H2PING"),
        ("aliasnode", "AliasNode"),
        ("aliasservice", "AliasService"),
        ("osservice", "OSService"),
        ("body", "Body"),
        ("header", "Header"),
        ("disableredirects", "DisableRedirects"),
        ("tcpusetls", "TCPUseTLS"),
    ] {
        let empty = |value: &Value| match value {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            other => *other == Value::Bool(false),
        };
        if fields.raw(key).is_some_and(|value| !empty(value)) {
            return Err(Refusal::unsupported(format_args!("a check with {what}")));
        }
    }
    let mut shown = named(fields, service, usual)?;
    let ttl = fields.duration("ttl")?.filter(|ttl| !ttl.is_zero());
    let (http, tcp) = (fields.text("http")?, fields.text("tcp")?);
    let kinds = [ttl.is_some(), !http.is_empty(), !tcp.is_empty()];
    if kinds.into_iter().filter(|kind| *kind).count() != 1 {
        return Err(invalid("exactly one of TTL, HTTP and TCP must be set"));
    }
    let (probe, at) = if let Some(ttl) = ttl {
        shown.kind = "ttl".to_owned();
        (Probe::Told { ttl: Some(ttl) }, None)
    } else if !tcp.is_empty() {
        shown.kind = "tcp".to_owned();
        shown.definition = json!({ "TCP": tcp });
        let at = tcp.parse::<Address>().map_err(invalid)?;
        (Probe::Tcp, Some(at))
    } else {
        if !matches!(&fields.text("method")?[..], "" | "GET") {
            return Err(Refusal::unsupported("a check with another Method than GET"));
        }
        shown.kind = "http".to_owned();
        shown.definition = json!({ "HTTP": http, "Method": "GET" });
        let (at, path) = url(&http)?;
        (Probe::Http { path }, Some(at))
    };
    let mut check = Check::new(probe);
    check.name.clone_from(&shown.id);
    check.at = at.filter(|at| at != address);
    // Consul counts from the first answer on, and never warns between.
    check.start_period = Duration::ZERO;
    let count = |key| -> Result<u32, Refusal> {
        let count = fields.number(key)?.unwrap_or(0);
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    };
    // 0 and 1 both act at once.
    check.success_before_passing = count("successbeforepassing")?.max(1);
    check.failures_before_critical = count("failuresbeforecritical")?.max(1);
    check.failures_before_warning = match count("failuresbeforewarning")? {
        0 => check.failures_before_critical,
        count => count,
    };
    let deregister = fields.duration("deregistercriticalserviceafter")?;
    check.deregister_after = deregister
        .filter(|after| !after.is_zero())
        .map(|after| after.max(DEREGISTER_MIN));
    if ttl.is_none() {
        let interval = fields
            .duration("interval")?
            .filter(|interval| !interval.is_zero());
        let interval =
            interval.ok_or_else(|| invalid("Interval must be > 0 for HTTP, TCP checks"))?;
        let timeout = fields
            .duration("timeout")?
            .filter(|timeout| !timeout.is_zero());
        check.interval = interval.max(INTERVAL_MIN);
        check.timeout = timeout.unwrap_or(TIMEOUT);
        shown.interval = go_duration(interval);
        shown.timeout = timeout.map(go_duration).unwrap_or_default();
    }
    let first = match (ttl, status(&fields.text("status")?)?) {
        (Some(_), Some(health)) => Some((health, String::new())),
        _ => None,
    };
    Ok(Parsed {
        check,
        shown,
        first,
    })
}

/// Host and path of a URL without TLS, which the registry's checks do not speak.
fn url(text: &str) -> Result<(Address, String), Refusal> {
    if text.starts_with("https://") {
        return Err(Refusal::unsupported("a check over HTTPS"));
    }
    let rest = text
        .strip_prefix("http://")
        .ok_or_else(|| invalid(format_args!("{text:?} is no http:// URL")))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let at = host.parse::<Address>().or_else(|error| {
        // A host without a port, be it an IPv6 address in brackets.
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let bare = bare.or((!host.contains(':')).then_some(host));
        bare.ok_or(error).and_then(|host| Address::new(host, 80))
    });
    Ok((at.map_err(invalid)?, path))
}

/// The name as it was registered.
pub(crate) fn shown_name<'i>(instance: &'i Instance, definition: &'i Definition) -> &'i str {
    if definition.name.is_empty() {
        instance.service.as_str()
    } else {
        &definition.name
    }
}

/// What every view of a service has in common.
struct Parts {
    id: String,
    name: String,
    address: String,
    port: u16,
    tagged: Value,
    meta: Map<String, Value>,
    weights: Value,
    tag_override: bool,
}

fn parts(instance: &Instance) -> Parts {
    let definition = definition(instance);
    let address = match definition.no_address {
        true => String::new(),
        false => instance.address.host().to_owned(),
    };
    let port = if definition.no_port {
        0
    } else {
        instance.address.port()
    };
    let mut tagged = match &definition.tagged {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    if address.parse::<std::net::Ipv4Addr>().is_ok() {
        for key in ["lan_ipv4", "wan_ipv4"] {
            let usual = || json!({ "Address": address, "Port": port });
            tagged.entry(key).or_insert_with(usual);
        }
    }
    let meta = instance.metadata.iter();
    let meta = meta.filter(|(key, _)| !is_front_label(key));
    Parts {
        id: shown_id(instance),
        name: shown_name(instance, &definition).to_owned(),
        address,
        port,
        tagged: Value::Object(tagged),
        meta: meta.map(|(k, v)| (k.clone(), json!(v))).collect(),
        weights: json!({
            "Passing": definition.passing_weight, "Warning": definition.warning_weight,
        }),
        tag_override: definition.tag_override,
    }
}

/// As `agent/services` and `agent/service/:id` show it.
pub(crate) fn agent_service(instance: &Instance, datacenter: &str) -> Value {
    let parts = parts(instance);
    json!({
        "ID": parts.id,
        "Service": parts.name,
        "Tags": instance.tags,
        "Meta": parts.meta,
        "Port": parts.port,
        "Address": parts.address,
        "TaggedAddresses": parts.tagged,
        "Weights": parts.weights,
        "EnableTagOverride": parts.tag_override,
        "Datacenter": datacenter,
    })
}

/// As `health/service/:name` shows it in `Service`.
pub(crate) fn health_service(instance: &Instance, times: (u64, u64)) -> Value {
    let parts = parts(instance);
    json!({
        "ID": parts.id,
        "Service": parts.name,
        "Tags": instance.tags,
        "Address": parts.address,
        "TaggedAddresses": parts.tagged,
        "Meta": parts.meta,
        "Port": parts.port,
        "Weights": parts.weights,
        "EnableTagOverride": parts.tag_override,
        "Proxy": { "Mode": "", "MeshGateway": {}, "Expose": {} },
        "Connect": {},
        "CreateIndex": times.0,
        "ModifyIndex": times.1,
    })
}

/// As `catalog/service/:name` shows it: flat, with its node.
pub(crate) fn catalog_service(instance: &Instance, node: &Node, times: (u64, u64)) -> Value {
    let parts = parts(instance);
    json!({
        "ID": node.id,
        "Node": node.name,
        "Address": node.address,
        "Datacenter": node.datacenter,
        "TaggedAddresses": node.tagged,
        "NodeMeta": node.meta,
        "ServiceKind": "",
        "ServiceID": parts.id,
        "ServiceName": parts.name,
        "ServiceTags": instance.tags,
        "ServiceAddress": parts.address,
        "ServiceTaggedAddresses": parts.tagged,
        "ServiceWeights": parts.weights,
        "ServiceMeta": parts.meta,
        "ServicePort": parts.port,
        "ServiceEnableTagOverride": parts.tag_override,
        "ServiceProxy": { "Mode": "", "MeshGateway": {}, "Expose": {} },
        "ServiceConnect": {},
        "CreateIndex": times.0,
        "ModifyIndex": times.1,
    })
}

/// The servers' own service, as a row of the catalogue: it has no instances here.
pub(crate) fn own_service(node: &Node) -> Value {
    json!({
        "ID": node.id,
        "Node": node.name,
        "Address": node.address,
        "Datacenter": node.datacenter,
        "TaggedAddresses": node.tagged,
        "NodeMeta": node.meta,
        "ServiceKind": "",
        "ServiceID": "consul",
        "ServiceName": "consul",
        "ServiceTags": [],
        "ServiceAddress": "",
        "ServiceTaggedAddresses": {},
        "ServiceWeights": { "Passing": 1, "Warning": 1 },
        "ServiceMeta": {},
        "ServicePort": 8300,
        "ServiceEnableTagOverride": false,
        "ServiceProxy": { "Mode": "", "MeshGateway": {}, "Expose": {} },
        "ServiceConnect": {},
    })
}

/// As every view shows a node.
pub(crate) fn node(node: &Node) -> Value {
    json!({
        "ID": node.id,
        "Node": node.name,
        "Address": node.address,
        "Datacenter": node.datacenter,
        "TaggedAddresses": node.tagged,
        "Meta": node.meta,
        "CreateIndex": node.created,
        "ModifyIndex": node.modified,
    })
}

/// The check that every node of Consul's has, and that sessions stand on.
pub(crate) fn serf(node: &Node) -> Value {
    json!({
        "Node": node.name,
        "CheckID": "serfHealth",
        "Name": "Serf Health Status",
        "Status": "passing",
        "Notes": "",
        "Output": "Agent alive and reachable",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [],
        "Type": "",
        "Interval": "",
        "Timeout": "",
        "ExposedPort": 0,
        "Definition": {},
        "CreateIndex": node.created,
        "ModifyIndex": node.modified,
    })
}

/// The checks of an instance. What makes it unfit beside them (maintenance, its own
/// word in another protocol, draining) is a check, too: nobody may take it for fit.
pub(crate) fn checks(detail: &Detail, node: &str, times: (u64, u64)) -> Vec<Value> {
    let instance = &*detail.instance;
    let definition = definition(instance);
    let id = shown_id(instance);
    let name = shown_name(instance, &definition);
    let one = |shown: &CheckDefinition, status: &str, output: &str| {
        json!({
            "Node": node,
            "CheckID": shown.id,
            "Name": shown.name,
            "Status": status,
            "Notes": shown.notes,
            "Output": output,
            "ServiceID": id,
            "ServiceName": name,
            "ServiceTags": instance.tags,
            "Type": shown.kind,
            "Interval": shown.interval,
            "Timeout": shown.timeout,
            "ExposedPort": 0,
            "Definition": if shown.definition.is_null() { json!({}) } else { shown.definition.clone() },
            "CreateIndex": times.0,
            "ModifyIndex": times.1,
        })
    };
    let many = detail.checks.len() > 1;
    let mut all = Vec::new();
    for (number, report) in (1..).zip(&detail.checks) {
        let known = definition
            .checks
            .iter()
            .find(|known| known.id == report.check.name);
        let shown = known.cloned().unwrap_or_else(|| CheckDefinition {
            id: if many {
                format!("service:{id}:{number}")
            } else {
                format!("service:{id}")
            },
            name: format!("Service '{name}' check"),
            kind: report.check.probe.kind().to_owned(),
            ..CheckDefinition::default()
        });
        all.push(one(&shown, status_of(report.health), &report.output));
    }
    let worst = detail.checks.iter().map(|report| rank(report.health)).max();
    if let Some(reason) = &detail.maintenance {
        let shown = CheckDefinition {
            id: format!("_service_maintenance:{id}"),
            name: "Service Maintenance Mode".to_owned(),
            notes: reason.clone(),
            ..CheckDefinition::default()
        };
        all.push(one(&shown, "critical", ""));
    } else if rank(instance.health) > worst.unwrap_or(0) {
        let shown = CheckDefinition {
            id: format!("atoll:{id}"),
            name: format!("Atoll: {}", instance.health),
            ..CheckDefinition::default()
        };
        all.push(one(&shown, status_of(instance.health), &instance.note));
    }
    all
}

fn rank(health: Health) -> u8 {
    match status_of(health) {
        "passing" => 0,
        "warning" => 1,
        _ => 2,
    }
}

/// The worst status among checks, as agents aggregate them; maintenance is told apart.
pub(crate) fn aggregate(checks: &[Value]) -> &'static str {
    let is = |check: &Value, status: &str| check["Status"] == status;
    let maintenance = |check: &Value| {
        let id = check["CheckID"].as_str().unwrap_or_default();
        id.starts_with("_service_maintenance:") || id == "_node_maintenance"
    };
    if checks.iter().any(maintenance) {
        "maintenance"
    } else if checks.iter().any(|check| is(check, "critical")) {
        "critical"
    } else if checks.iter().any(|check| is(check, "warning")) {
        "warning"
    } else {
        "passing"
    }
}

/// A session's TTL: empty, or between 10 s and a day.
pub(crate) fn session_ttl(text: &str) -> Result<Option<Duration>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let ttl = duration(text).filter(|ttl| (10..=86_400).contains(&ttl.as_secs()));
    match ttl {
        Some(ttl) => Ok(Some(ttl)),
        None => Err(Refusal::bad(format!(
            "Invalid Session TTL '{text}', must be between [10s=24h0m0s]"
        ))),
    }
}
