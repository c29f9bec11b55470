//! Between Eureka's instances and the registry's. Pure.
//!
//! What the registry has no word for lies in the metadata under keys that begin with
//! `eureka.`, hidden from Eureka's clients and plain to everybody else. An instance
//! that came otherwise gets what Eureka needs from what is known of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{Address, Health, Instance, is_front_label};
use atoll_registry::{Detail, Registration, Source};
use serde_json::Value;

use crate::wire::{
    Action, DURATION_SECS, DataCenter, Format, InstanceInfo, Lease, Port, RENEWAL_SECS, Status,
    TEXTS,
};

/// What the keys of this protocol begin with.
const PREFIX: &str = "eureka.";
/// A user's own key that begins so, too.
const USERS: &str = "eureka.user.";
/// Marks what was registered here.
const DIRTY: &str = "eureka.lastDirtyTimestamp";
const STATUS: &str = "eureka.status";
/// Where an instance was copied from by a migration (`copies.rs`).
pub(crate) const COPIED_FROM: &str = "eureka.copiedFrom";
/// What its client wants for a lease, when that of a copy is another.
pub(crate) const DURATION: &str = "eureka.durationInSecs";
/// All else, as one text: a dozen entries of a map would weigh more than the instance.
const FACTS: &str = "eureka.facts";

/// Times as the protocol has them: milliseconds since 1970. An instant is the same
/// number whenever it is asked for, as long as nobody sets the clock.
pub(crate) struct Now {
    /// Now.
    pub(crate) ms: u64,
    /// An instant and its number.
    pub(crate) anchor: (Instant, u64),
}

impl Now {
    /// The number of what was `ago` at `at`.
    fn before(&self, at: Instant, ago: Duration) -> u64 {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (anchor, anchor_ms) = self.anchor;
        let Some(instant) = at.checked_sub(ago) else {
            return self.ms.saturating_sub(millis(ago));
        };
        match instant.checked_duration_since(anchor) {
            Some(later) => anchor_ms.saturating_add(millis(later)),
            None => anchor_ms.saturating_sub(millis(anchor.duration_since(instant))),
        }
    }
}

/// Whether an instance was registered by a client of this protocol.
pub(crate) fn is_ours(instance: &Instance) -> bool {
    instance.metadata.contains_key(DIRTY)
}

/// When its client says that it last changed, if it did.
pub(crate) fn dirty_ms(instance: &Instance) -> Option<u64> {
    let dirty = instance.metadata.get(DIRTY)?.parse().ok();
    dirty.filter(|ms| *ms > 0)
}

/// The status that an instance has for Eureka.
pub(crate) fn status(instance: &Instance) -> Status {
    match instance.health {
        Health::Passing | Health::Warning => Status::Up,
        Health::Starting => Status::Starting,
        Health::Draining => Status::OutOfService,
        Health::Critical => match instance.metadata.get(STATUS) {
            Some(_) => Status::Unknown,
            None => Status::Down,
        },
    }
}

/// The health that a status means.
pub(crate) fn health(status: Status) -> Health {
    match status {
        Status::Up => Health::Passing,
        Status::Starting => Health::Starting,
        Status::OutOfService => Health::Draining,
        Status::Down | Status::Unknown => Health::Critical,
    }
}

/// What is registered for an instance; else why that cannot be, in words for its owner.
pub(crate) fn registration(info: &InstanceInfo) -> Result<Registration, String> {
    let app = info.app.as_deref().unwrap_or_default();
    let service = app.parse().map_err(|error| format!("app: {error}"))?;
    let id = info.id.as_deref().unwrap_or_default();
    let id = id.parse().map_err(|error| format!("instanceId: {error}"))?;
    let address = address(info)?;
    let mut metadata = facts(info, &address);
    for (key, value) in &info.metadata {
        let key = match key.strip_prefix(PREFIX) {
            Some(rest) => format!("{USERS}{rest}"),
            None => key.clone(),
        };
        metadata.insert(key, value.clone());
    }
    Ok(Registration {
        metadata,
        lease: Some(Duration::from_secs(info.lease.duration_secs)),
        patient: true,
        health: health(info.status),
        ..Registration::new(service, id, address, Source::Client)
    })
}

/// Where requests go: the open port, the plain one first.
fn address(info: &InstanceInfo) -> Result<Address, String> {
    let ports = [info.port, info.secure_port];
    let open = ports.iter().find(|port| port.enabled && port.number != 0);
    let port = open.or_else(|| ports.iter().find(|port| port.number != 0));
    let port = port
        .ok_or("port: an instance needs one, open or not")?
        .number;
    let ip = info.ip_addr.as_deref().unwrap_or_default();
    let host = info.host_name.as_deref().unwrap_or_default();
    Address::new(ip, port)
        .or_else(|_| Address::new(host, port))
        .map_err(|error| format!("ipAddr, hostName: {error}"))
}

/// What the registry has no field for; what can be told from the rest is left out.
fn facts(info: &InstanceInfo, address: &Address) -> BTreeMap<String, String> {
    let mut text = String::new();
    let mut put = |name: &str, value: String| {
        let separator = if text.is_empty() { "" } else { "\n" };
        let value = value.replace('\\', "\\\\").replace('\n', "\\n");
        text.push_str(&format!("{separator}{name}={value}"));
    };
    if let Some(host) = &info.host_name {
        put("hostName", host.clone());
    }
    if let Some(ip) = info.ip_addr.as_ref().filter(|ip| *ip != address.host()) {
        put("ipAddr", ip.clone());
    }
    put("port", port_text(info.port));
    put("securePort", port_text(info.secure_port));
    if info.country_id != 1 {
        put("countryId", info.country_id.to_string());
    }
    if let Some(center) = info
        .data_center
        .as_ref()
        .filter(|it| **it != DataCenter::own())
    {
        put("dataCenterInfo", center.to_value(Format::Json).to_string());
    }
    if info.lease.renewal_secs != RENEWAL_SECS {
        put("renewalIntervalInSecs", info.lease.renewal_secs.to_string());
    }
    for (name, value) in &info.texts {
        put(name, value.clone());
    }
    if let Some(sid) = &info.sid {
        put("sid", sid.clone());
    }
    if info.coordinating {
        put("isCoordinatingDiscoveryServer", "true".to_owned());
    }
    let dirty = info.dirty_ms.unwrap_or(0).to_string();
    let mut facts = BTreeMap::from([(DIRTY.to_owned(), dirty), (FACTS.to_owned(), text)]);
    if info.status == Status::Unknown {
        facts.insert(STATUS.to_owned(), info.status.as_str().to_owned());
    }
    facts
}

/// What [`facts`] wrote, by its names.
fn facts_from(text: &str) -> BTreeMap<&str, String> {
    let pairs = text.split('\n').filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(name, escaped)| {
        let mut value = String::with_capacity(escaped.len());
        let mut letters = escaped.chars();
        while let Some(letter) = letters.next() {
            value.push(match letter {
                '\\' if letters.next() == Some('n') => '\n',
                letter => letter,
            });
        }
        (name, value)
    });
    pairs.collect()
}

fn port_text(port: Port) -> String {
    let state = if port.enabled { "open" } else { "closed" };
    format!("{} {state}", port.number)
}

fn port_from(text: &str) -> Port {
    let (number, state) = text.split_once(' ').unwrap_or((text, ""));
    Port {
        number: number.parse().unwrap_or(0),
        enabled: state == "open",
    }
}

/// An instance as a client of Eureka sees it.
pub(crate) fn info(detail: &Detail, now: &Now) -> InstanceInfo {
    let mut info = last_known(&detail.instance, now);
    info.overridden = detail
        .forced
        .map_or(Status::Unknown, |forced| match forced {
            Health::Passing | Health::Warning => Status::Up,
            Health::Starting => Status::Starting,
            Health::Critical => Status::Down,
            Health::Draining => Status::OutOfService,
        });
    if let Some(lease) = detail.lease {
        info.lease.duration_secs = lease.as_secs().max(1);
    }
    let said = detail.instance.metadata.get(DURATION);
    if let Some(said) = said.and_then(|text| text.parse().ok()) {
        info.lease.duration_secs = said;
    }
    let before = |ago| now.before(detail.at, ago);
    info.lease.registered_ms = before(detail.registered);
    info.lease.renewed_ms = before(detail.renewed);
    info.lease.up_ms = detail.up.map_or(0, before);
    info.updated_ms = before(detail.changed);
    info.dirty_ms = info.dirty_ms.or(Some(before(detail.registered)));
    info
}

/// As much as an instance of the catalogue tells by itself, one that is gone, say.
pub(crate) fn last_known(instance: &Arc<Instance>, now: &Now) -> InstanceInfo {
    let facts = instance.metadata.get(FACTS);
    let mut facts = facts.map_or_else(BTreeMap::new, |text| facts_from(text));
    // Each by itself is how they were kept at first.
    let alone = |name: &str| instance.metadata.get(&format!("{PREFIX}{name}")).cloned();
    let mut fact = |name: &str| facts.remove(name).or_else(|| alone(name));
    let ours = is_ours(instance);
    let host = instance.address.host().to_owned();
    let service = instance.service.as_str();
    let port = match fact("port") {
        Some(text) => port_from(&text),
        None => Port {
            number: instance.address.port(),
            enabled: true,
        },
    };
    let secure_port = fact("securePort").map_or(
        Port {
            number: 443,
            enabled: false,
        },
        |text| port_from(&text),
    );
    let mut texts: BTreeMap<&'static str, String> = BTreeMap::new();
    if ours {
        texts.extend(TEXTS.iter().filter_map(|name| Some((*name, fact(name)?))));
    } else {
        texts.insert("vipAddress", service.to_owned());
        texts.insert("homePageUrl", format!("http://{}/", instance.address));
    }
    let data_center = fact("dataCenterInfo")
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .map_or_else(DataCenter::own, |it| {
            DataCenter::from_value(Format::Json, &it)
        });
    InstanceInfo {
        id: Some(instance.id.to_string()),
        host_name: fact("hostName").or_else(|| Some(host.clone())),
        app: Some(service.to_uppercase()),
        ip_addr: fact("ipAddr").or(Some(host)),
        sid: fact("sid"),
        status: status(instance),
        overridden: Status::Unknown,
        port,
        secure_port,
        country_id: fact("countryId")
            .and_then(|it| it.parse().ok())
            .unwrap_or(1),
        data_center: Some(data_center),
        lease: Lease {
            renewal_secs: fact("renewalIntervalInSecs")
                .and_then(|it| it.parse().ok())
                .unwrap_or(RENEWAL_SECS),
            duration_secs: DURATION_SECS,
            registered_ms: 0,
            renewed_ms: 0,
            evicted_ms: 0,
            up_ms: 0,
        },
        metadata: users_metadata(instance),
        texts,
        coordinating: fact("isCoordinatingDiscoveryServer").is_some(),
        updated_ms: now.ms,
        dirty_ms: dirty_ms(instance),
        action: Action::Added,
    }
}

/// The metadata without what this protocol keeps there.
fn users_metadata(instance: &Instance) -> BTreeMap<String, String> {
    let pairs = instance.metadata.iter().filter_map(|(key, value)| {
        let key = match key.strip_prefix(USERS) {
            Some(rest) => format!("{PREFIX}{rest}"),
            None if is_front_label(key) => return None,
            None => key.clone(),
        };
        Some((key, value.clone()))
    });
    pairs.collect()
}

/// Whether an instance answers to a VIP: its list is parted by commas and compared as
/// it is (`ResponseCacheImpl.getApplicationsForVip`).
pub(crate) fn answers_to(info: &InstanceInfo, which: &str, wanted: &str) -> bool {
    let vips = info
        .texts
        .get(which)
        .map(String::as_str)
        .unwrap_or_default();
    vips.split(',').any(|vip| vip == wanted)
}

#[cfg(test)]
mod tests;
