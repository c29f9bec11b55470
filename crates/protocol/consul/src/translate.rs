//! Between Consul's services and checks and the registry's instances; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::{Address, Health, Instance, InstanceId, ServiceName, is_front_label};
use atoll_registry::{Detail, Registration, Source};
use serde_json::{Map, Value, json};

use crate::checks::{self, Owner};
use crate::stored::{self, CheckDefinition, DEFINITION, Definition};
use crate::wire::{Fields, Refusal, duration};

/// Consul's limits of a service's Meta.
const META_PAIRS_MAX: usize = 64;
const META_KEY_CHARS_MAX: usize = 128;
const META_VALUE_CHARS_MAX: usize = 512;
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

/// Whether a migration told of an instance, and not its client.
pub(crate) fn is_copy(instance: &Instance) -> bool {
    !definition(instance).copied_from.is_empty()
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
    let (mut instance_id, mut on) = (id.clone(), None);
    if foreign {
        on = Some(node_id(&node.name)?);
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
    let (mut parsed_checks, mut said) = (Vec::new(), Vec::new());
    for (number, fields) in (1..).zip(&given) {
        let usual = checks::usual_id(&id, number, many);
        let owner = Owner::Instance {
            service: service.as_str(),
            address: &address,
        };
        let parsed = if foreign {
            checks::told(fields, owner, &usual)?
        } else {
            checks::check(fields, owner, &usual, node)?
        };
        said.extend(
            parsed
                .first
                .map(|(health, output)| (parsed.shown.id.clone(), health, output)),
        );
        definition.checks.push(parsed.shown);
        parsed_checks.push(parsed.check);
    }
    let mut metadata = meta(fields)?;
    metadata.insert(DEFINITION.to_owned(), stored::write(&definition));
    let mut registration = Registration::new(service, instance_id, address, Source::Client);
    registration.weight = if port == 0 { 0 } else { passing_weight };
    registration.warning_weight = Some(if port == 0 { 0 } else { warning_weight });
    registration.tags = fields.texts("tags")?;
    registration.metadata = metadata;
    registration.checks = parsed_checks;
    registration.node = on;
    Ok(Defined { registration, said })
}

/// A foreign node as the registry knows it.
pub(crate) fn node_id(name: &str) -> Result<InstanceId, Refusal> {
    let refuse = |error| Refusal::bad(format!("Invalid node name {name:?}: {error}"));
    name.parse().map_err(refuse)
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

/// One check as every view shows it, with its status and output: of a service (id, name
/// and tags), or of the node.
pub(crate) fn check_row(
    node: &str,
    service: Option<(&str, &str, &[String])>,
    shown: &CheckDefinition,
    (status, output): (&str, &str),
    times: (u64, u64),
) -> Value {
    let (id, name, tags) = service.unwrap_or(("", "", &[]));
    json!({
        "Node": node,
        "CheckID": shown.id,
        "Name": shown.name,
        "Status": status,
        "Notes": shown.notes,
        "Output": output,
        "ServiceID": id,
        "ServiceName": name,
        "ServiceTags": tags,
        "Type": shown.kind,
        "Interval": shown.interval,
        "Timeout": shown.timeout,
        "ExposedPort": 0,
        "Definition": if shown.definition.is_null() { json!({}) } else { shown.definition.clone() },
        "CreateIndex": times.0,
        "ModifyIndex": times.1,
    })
}

/// The checks of an instance. What makes it unfit beside them (maintenance, its own
/// word in another protocol, draining) is a check, too: nobody may take it for fit.
pub(crate) fn checks(detail: &Detail, node: &str, times: (u64, u64)) -> Vec<Value> {
    let instance = &*detail.instance;
    let definition = definition(instance);
    let id = shown_id(instance);
    let name = shown_name(instance, &definition);
    let service = Some((&id[..], name, &instance.tags[..]));
    let one = |shown: &CheckDefinition, status: &str, output: &str| {
        check_row(node, service, shown, (status, output), times)
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
    // What the node is unfit for is said by its own checks.
    let worst = detail.checks.iter().map(|report| report.health);
    let worst = worst.chain(detail.node_health).map(rank).max();
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
