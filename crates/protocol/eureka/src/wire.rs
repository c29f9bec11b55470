//! What crosses the socket: Eureka's types and their shape in JSON.
//!
//! The shape is that of Netflix' `EurekaJacksonCodec` and `Converters`, oddities
//! included (`SPEC.md`, Shapes). XML is the same tree in another dress: `@key` is an
//! attribute, `$` the text beside attributes, a list the element repeated. So there is
//! one encoder and one decoder, and `xml.rs` only dresses and undresses.
//!
//! The decoder is lenient where Eureka's is: numbers may be texts, one element may
//! stand for a list of one, unknown keys are ignored.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::xml;

/// How an empty map is marked, and what says that one is empty.
const EMPTY_MAP: &str = "java.util.Collections$EmptyMap";
/// A data centre that is nobody's cloud.
pub(crate) const OWN_DATA_CENTER: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";
/// Amazon's.
pub(crate) const AMAZON_DATA_CENTER: &str = "com.netflix.appinfo.AmazonInfo";

/// Texts of an instance that Eureka passes on as they are, in the order of its XML.
pub(crate) const TEXTS: [&str; 8] = [
    "appGroupName",
    "homePageUrl",
    "statusPageUrl",
    "healthCheckUrl",
    "secureHealthCheckUrl",
    "vipAddress",
    "secureVipAddress",
    "asgName",
];
/// Those of them that a compact answer leaves out (`MiniInstanceInfoMixIn`).
const TEXTS_FULL_ONLY: [&str; 5] = [
    "appGroupName",
    "homePageUrl",
    "statusPageUrl",
    "healthCheckUrl",
    "secureHealthCheckUrl",
];

/// How often a client renews when it does not say, in seconds.
pub(crate) const RENEWAL_SECS: u64 = 30;
/// How long it is believed without that, in seconds.
pub(crate) const DURATION_SECS: u64 = 90;

/// `InstanceInfo.InstanceStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    // In the order of their names, which is that of the hash code.
    Down,
    OutOfService,
    Starting,
    Unknown,
    Up,
}

impl Status {
    pub(crate) const ALL: [Self; 5] = [
        Self::Down,
        Self::OutOfService,
        Self::Starting,
        Self::Unknown,
        Self::Up,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Down => "DOWN",
            Self::OutOfService => "OUT_OF_SERVICE",
            Self::Starting => "STARTING",
            Self::Unknown => "UNKNOWN",
            Self::Up => "UP",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let word = word.trim();
        let named = |status: &Self| status.as_str().eq_ignore_ascii_case(word);
        Self::ALL.into_iter().find(named)
    }
}

/// `InstanceInfo.ActionType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Added,
    Modified,
    Deleted,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A port and whether it is open; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) enabled: bool,
}

/// Where an instance runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataCenter {
    pub(crate) class: String,
    pub(crate) name: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// `LeaseInfo`; times are milliseconds since 1970, set by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) renewal_secs: u64,
    pub(crate) duration_secs: u64,
    pub(crate) registered_ms: u64,
    pub(crate) renewed_ms: u64,
    pub(crate) evicted_ms: u64,
    pub(crate) up_ms: u64,
}

/// `InstanceInfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InstanceInfo {
    pub(crate) id: Option<String>,
    pub(crate) host_name: Option<String>,
    /// Always upper case.
    pub(crate) app: Option<String>,
    pub(crate) ip_addr: Option<String>,
    pub(crate) sid: Option<String>,
    pub(crate) status: Status,
    pub(crate) overridden: Status,
    pub(crate) port: Port,
    pub(crate) secure_port: Port,
    pub(crate) country_id: i64,
    pub(crate) data_center: Option<DataCenter>,
    pub(crate) lease: Lease,
    pub(crate) metadata: BTreeMap<String, String>,
    /// By their names in [`TEXTS`].
    pub(crate) texts: BTreeMap<&'static str, String>,
    pub(crate) coordinating: bool,
    pub(crate) updated_ms: u64,
    pub(crate) dirty_ms: Option<u64>,
    pub(crate) action: Action,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) format: Format,
    /// `X-Eureka-Accept: compact`.
    pub(crate) compact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Xml,
}

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) String);

/// Reads a body into the tree that both formats share.
pub(crate) fn parse(format: Format, body: &[u8]) -> Result<Value, Unreadable> {
    match format {
        Format::Json => {
            serde_json::from_slice(body).map_err(|error| Unreadable(format!("not JSON: {error}")))
        }
        Format::Xml => xml::parse(body).map_err(|error| Unreadable(format!("not XML: {error}"))),
    }
}

/// Writes a document whose root is called `root`.
pub(crate) fn write(format: Format, root: &str, value: Value) -> Vec<u8> {
    match format {
        Format::Json => {
            let mut document = Map::new();
            document.insert(root.to_owned(), value);
            // A tree of texts and numbers always serialises.
            serde_json::to_vec(&Value::Object(document)).unwrap_or_default()
        }
        Format::Xml => xml::write(root, &value).into_bytes(),
    }
}

impl InstanceInfo {
    /// Reads `{"instance": {...}}`.
    pub(crate) fn from_document(format: Format, document: &Value) -> Result<Self, Unreadable> {
        let Some(value) = document.get("instance").filter(|value| value.is_object()) else {
            return Err(Unreadable("no `instance` in the body".to_owned()));
        };
        Ok(Self::from_value(format, value))
    }

    /// Reads the object itself.
    pub(crate) fn from_value(format: Format, value: &Value) -> Self {
        let data_center = value.get("dataCenterInfo").filter(|it| it.is_object());
        let data_center = data_center.map(|it| DataCenter::from_value(format, it));
        let id = text(value, "instanceId").or_else(|| {
            // Old clients have none (`InstanceInfo.getId`).
            let unique = data_center.as_ref()?.metadata.get("instance-id").cloned();
            unique.filter(|id| !id.is_empty())
        });
        let host_name = text(value, "hostName");
        let texts = TEXTS
            .iter()
            .filter_map(|name| Some((*name, text(value, name)?)));
        let status = text(value, "status");
        let overridden =
            text(value, "overriddenstatus").or_else(|| text(value, "overriddenStatus"));
        let known = |word: String| Status::from_word(&word).unwrap_or(Status::Unknown);
        Self {
            id: id.or_else(|| host_name.clone()),
            host_name,
            app: text(value, "app").map(|app| app.to_uppercase()),
            ip_addr: text(value, "ipAddr"),
            sid: text(value, "sid").filter(|sid| sid != "na" && sid != "unknown"),
            status: status.map_or(Status::Up, known),
            overridden: overridden.map_or(Status::Unknown, known),
            port: port(value.get("port"), true),
            secure_port: port(value.get("securePort"), false),
            country_id: number(value.get("countryId")).unwrap_or(1),
            data_center,
            lease: Lease::from_value(value.get("leaseInfo")),
            metadata: pairs(format, value.get("metadata")),
            texts: texts.collect(),
            coordinating: text(value, "isCoordinatingDiscoveryServer").as_deref() == Some("true"),
            updated_ms: unsigned(value.get("lastUpdatedTimestamp")).unwrap_or(0),
            dirty_ms: unsigned(value.get("lastDirtyTimestamp")).filter(|ms| *ms > 0),
            action: match text(value, "actionType").as_deref() {
                Some("DELETED") => Action::Deleted,
                Some("MODIFIED") => Action::Modified,
                _ => Action::Added,
            },
        }
    }

    /// The object, in the order of Netflix' codecs.
    pub(crate) fn to_value(&self, shape: Shape) -> Value {
        let mut map = Map::new();
        let full = !shape.compact;
        let mut put = |name: &str, value: Value| drop(map.insert(name.to_owned(), value));
        let texts = [
            ("instanceId", &self.id),
            ("hostName", &self.host_name),
            ("app", &self.app),
            ("ipAddr", &self.ip_addr),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                put(name, json!(value));
            }
        }
        if let Some(sid) = self.sid.as_ref().filter(|_| full) {
            put("sid", json!(sid));
        }
        put("status", json!(self.status.as_str()));
        if full {
            // Readers disagree on the spelling: JSON has both, XML what all know.
            if shape.format == Format::Json {
                put("overriddenStatus", json!(self.overridden.as_str()));
            }
            put("overriddenstatus", json!(self.overridden.as_str()));
        }
        put("port", port_value(self.port));
        put("securePort", port_value(self.secure_port));
        if full {
            put("countryId", json!(self.country_id));
        }
        if let Some(data_center) = &self.data_center {
            put("dataCenterInfo", data_center.to_value(shape.format));
        }
        if full {
            put("leaseInfo", self.lease.to_value());
            put("metadata", pairs_value(shape.format, &self.metadata));
        }
        for (name, value) in TEXTS
            .iter()
            .filter_map(|name| self.texts.get_key_value(name))
        {
            if full || !TEXTS_FULL_ONLY.contains(name) {
                put(name, json!(value));
            }
        }
        if full {
            put(
                "isCoordinatingDiscoveryServer",
                json!(self.coordinating.to_string()),
            );
        }
        put("lastUpdatedTimestamp", json!(self.updated_ms.to_string()));
        if let Some(dirty) = self.dirty_ms.filter(|_| full) {
            put("lastDirtyTimestamp", json!(dirty.to_string()));
        }
        put("actionType", json!(self.action.as_str()));
        Value::Object(map)
    }
}

impl DataCenter {
    /// One that says nothing.
    pub(crate) fn own() -> Self {
        Self {
            class: OWN_DATA_CENTER.to_owned(),
            name: Some("MyOwn".to_owned()),
            metadata: BTreeMap::new(),
        }
    }

    pub(crate) fn from_value(format: Format, value: &Value) -> Self {
        let name = text(value, "name");
        let class = text(value, "@class").or_else(|| text(value, "class"));
        let usual = || match name.as_deref() {
            Some("Amazon") => AMAZON_DATA_CENTER.to_owned(),
            _ => OWN_DATA_CENTER.to_owned(),
        };
        Self {
            class: class.unwrap_or_else(usual),
            metadata: pairs(format, value.get("metadata")),
            name,
        }
    }

    pub(crate) fn to_value(&self, format: Format) -> Value {
        let mut map = Map::new();
        map.insert("@class".to_owned(), json!(self.class));
        if let Some(name) = &self.name {
            map.insert("name".to_owned(), json!(name));
        }
        if !self.metadata.is_empty() {
            map.insert("metadata".to_owned(), pairs_value(format, &self.metadata));
        }
        Value::Object(map)
    }
}

impl Lease {
    fn from_value(value: Option<&Value>) -> Self {
        let field = |name: &str| unsigned(value?.get(name)).filter(|number| *number > 0);
        Self {
            // 0 or less is the default (`LeaseInfo.Builder`).
            renewal_secs: field("renewalIntervalInSecs").unwrap_or(RENEWAL_SECS),
            duration_secs: field("durationInSecs").unwrap_or(DURATION_SECS),
            registered_ms: field("registrationTimestamp").unwrap_or(0),
            renewed_ms: field("lastRenewalTimestamp")
                .or_else(|| field("renewalTimestamp"))
                .unwrap_or(0),
            evicted_ms: field("evictionTimestamp").unwrap_or(0),
            up_ms: field("serviceUpTimestamp").unwrap_or(0),
        }
    }

    fn to_value(self) -> Value {
        json!({
            "renewalIntervalInSecs": self.renewal_secs,
            "durationInSecs": self.duration_secs,
            "registrationTimestamp": self.registered_ms,
            "lastRenewalTimestamp": self.renewed_ms,
            "evictionTimestamp": self.evicted_ms,
            "serviceUpTimestamp": self.up_ms,
        })
    }
}

/// `Applications`: instances by their application, in order.
pub(crate) fn applications(version: &str, hash: &str, apps: Vec<(String, Vec<Value>)>) -> Value {
    let apps = apps
        .into_iter()
        .map(|(name, list)| application(&name, list));
    json!({
        "versions__delta": version,
        "apps__hashcode": hash,
        "application": apps.collect::<Vec<_>>(),
    })
}

/// `Applications` in JSON, written as its instances come, those of one application
/// after the other.
#[derive(Debug, Default)]
pub(crate) struct ListWriter {
    /// What stands between the brackets of `application`.
    text: Vec<u8>,
    app: Option<String>,
}

impl ListWriter {
    pub(crate) fn add(&mut self, info: &InstanceInfo, shape: Shape) {
        let app = info.app.as_deref().unwrap_or_default();
        if self.app.as_deref() == Some(app) {
            self.text.push(b',');
        } else {
            if self.app.is_some() {
                self.text.extend_from_slice(b"]},");
            }
            let name = Value::from(app);
            self.text
                .extend_from_slice(format!("{{\"name\":{name},\"instance\":[").as_bytes());
            self.app = Some(app.to_owned());
        }
        let instance = info.to_value(shape).to_string();
        self.text.extend_from_slice(instance.as_bytes());
    }

    /// The whole document.
    pub(crate) fn finish(self, version: &str, hash: &str) -> Vec<u8> {
        let (version, hash) = (Value::from(version), Value::from(hash));
        let mut document = self.text;
        if self.app.is_some() {
            document.extend_from_slice(b"]}");
        }
        let head = format!(
            "{{\"applications\":{{\"versions__delta\":{version},\"apps__hashcode\":{hash},\"application\":["
        );
        document.splice(0..0, head.into_bytes());
        document.extend_from_slice(b"]}}");
        document
    }
}

/// `Application`: never without `instance`, which eureka-js-client counts on.
pub(crate) fn application(name: &str, instances: Vec<Value>) -> Value {
    json!({ "name": name, "instance": instances })
}

/// Instances for each status, in the order of [`Status::ALL`], as one text by which a
/// client sees whether its list is right (`Applications.getReconcileHashCode`).
pub(crate) fn hash_code(statuses: impl Iterator<Item = Status>) -> String {
    let mut counts = [0_usize; Status::ALL.len()];
    for status in statuses {
        counts[status as usize] += 1;
    }
    let counted = Status::ALL.into_iter().zip(counts);
    counted
        .filter(|(_, count)| *count > 0)
        .map(|(status, count)| format!("{}_{count}_", status.as_str()))
        .collect()
}

/// A text at `name`; empty is none.
pub(crate) fn text(value: &Value, name: &str) -> Option<String> {
    scalar(value.get(name)?).filter(|text| !text.is_empty())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Object(map) => map.get("$").and_then(scalar),
        Value::Array(list) => list.first().and_then(scalar),
        Value::Null => None,
    }
}

fn number(value: Option<&Value>) -> Option<i64> {
    scalar(value?)?.trim().parse().ok()
}

pub(crate) fn unsigned(value: Option<&Value>) -> Option<u64> {
    number(value).and_then(|number| number.try_into().ok())
}

/// A list, or one that stands for itself.
pub(crate) fn list(value: Option<&Value>) -> &[Value] {
    match value {
        None | Some(Value::Null) => &[],
        Some(Value::Array(all)) => all,
        Some(one) => std::slice::from_ref(one),
    }
}

/// An absent port is 0 and closed; one that does not say whether it is open is if
/// `usually` (`InstanceInfoConverter`).
fn port(value: Option<&Value>, usually: bool) -> Port {
    let Some(number) = number(value).and_then(|number| u16::try_from(number).ok()) else {
        return Port::default();
    };
    let enabled = value.and_then(|value| text(value, "@enabled"));
    let enabled = match enabled.map(|word| word.to_lowercase()).as_deref() {
        Some("true") => true,
        Some("false") => false,
        _ => usually,
    };
    Port { number, enabled }
}

fn port_value(port: Port) -> Value {
    json!({ "$": port.number, "@enabled": port.enabled.to_string() })
}

fn pairs(format: Format, value: Option<&Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(map)) = value else {
        return BTreeMap::new();
    };
    let marks_kind = |key: &str| key == "@class" || (format == Format::Xml && key == "$");
    let told = map.iter().filter(|(key, _)| !marks_kind(key));
    let alone = told.clone().count() == 1;
    let marks_empty =
        |key: &str, value: &Value| alone && key == "class" && value.as_str() == Some(EMPTY_MAP);
    let told = told.filter(|(key, value)| !marks_empty(key, value));
    let told = told.filter_map(|(key, value)| {
        let key = match format {
            Format::Json => key.clone(),
            Format::Xml => xml::key_of(key),
        };
        Some((key, scalar(value)?))
    });
    told.collect()
}

fn pairs_value(format: Format, pairs: &BTreeMap<String, String>) -> Value {
    let named = pairs.iter().filter_map(|(key, value)| {
        let name = match format {
            Format::Json => Some(key.clone()),
            // A key that no element can be called cannot be told.
            Format::Xml => xml::name_of(key),
        };
        Some((name?, json!(value)))
    });
    let map: Map<String, Value> = named.collect();
    if map.is_empty() {
        return json!({ "@class": EMPTY_MAP });
    }
    Value::Object(map)
}
