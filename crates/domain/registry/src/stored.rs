//! What a client's registration looks like on disk: one JSON object for each
//! instance, under `registry/instances/SERVICE/ID`, and the revisions reserved so
//! far under `registry/revisions`.
//!
//! Fields may be added with a default; a key is never given another meaning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{
    Address, Check, Health, Instance, InstanceId, NameError, Probe, Revision, ServiceName,
};
use serde::{Deserialize, Serialize};

use crate::probe::stored::StoredProbe;
use crate::record::{Checked, NOTE_BYTES_MAX, Own, Record, cut};
use crate::{Entry, Kept, Registration, Source};

/// What all of the registry's keys begin with.
pub(crate) const PREFIX: &str = "registry/";
const INSTANCES: &str = "registry/instances/";
const REVISIONS: &str = "registry/revisions";
const MEMBERS: &str = "registry/members/";

/// One instance as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    service: String,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    host: String,
    port: u16,
    weight: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warning_weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    patient: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    checks: Vec<StoredCheck>,
    health: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    own_note: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forced: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    protest: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    draining: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maintenance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
}

/// Which process wrote it, in a store that several share, and which of its writes it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) owner: String,
    pub(crate) write: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredCheck {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    /// The path of an HTTP check; none is a TCP check, unless it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    told: bool,
    /// What is neither of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<StoredProbe>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    first_decides: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    interval_ms: u64,
    start_interval_ms: u64,
    start_period_ms: u64,
    timeout_ms: u64,
    success_before_passing: u32,
    failures_before_warning: u32,
    failures_before_critical: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deregister_after_ms: Option<u64>,
    /// How it stands, when it is told, since nobody can be asked after a restart, and
    /// when other processes show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<String>,
    /// The beginning of what it said, when other processes show it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    output: String,
    /// Since when it is critical, in milliseconds since 1970, when that removes its
    /// instance in the end: a restart now and then must not keep it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    critical_since_unix_ms: Option<u64>,
}

/// The same moment on both clocks, so that what is on disk can tell times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wall {
    pub(crate) at: Instant,
    pub(crate) unix_ms: u64,
}

impl Wall {
    fn unix_ms_of(self, at: Instant) -> u64 {
        let after = millis(at.saturating_duration_since(self.at));
        let before = millis(self.at.saturating_duration_since(at));
        self.unix_ms.saturating_add(after).saturating_sub(before)
    }

    /// How long before `now` that was; no time for what is to come, since somebody has
    /// set the clock.
    pub(crate) fn passed_since(self, unix_ms: u64, now: Instant) -> Duration {
        Duration::from_millis(self.unix_ms_of(now).saturating_sub(unix_ms))
    }
}

/// What was said of an instance beside its checks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) own: Option<Own>,
    pub(crate) forced: Option<Health>,
    pub(crate) protest: bool,
    pub(crate) draining: bool,
    pub(crate) maintenance: Option<String>,
}

/// One instance as it was kept, every part of it checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) registration: Registration,
    /// Its last health.
    pub(crate) health: Health,
    /// How each check stood.
    pub(crate) checks: Vec<Stood>,
    pub(crate) words: Words,
    /// Whose it is.
    pub(crate) mark: Option<Mark>,
}

/// How a check stood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stood {
    /// Where it was kept.
    pub(crate) health: Option<Health>,
    pub(crate) output: String,
    /// In milliseconds since 1970, where that matters.
    pub(crate) critical_since_unix_ms: Option<u64>,
}

/// Everything that was kept, read back.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) instances: Vec<Restored>,
    pub(crate) ceiling: Revision,
    /// Entries that could not be read, with the reason.
    pub(crate) unreadable: Vec<String>,
}

/// Reads what a journal gave. An entry that cannot be read is reported and left
/// out: one bad record must not keep the whole fleet down.
pub(crate) fn load(entries: Kept) -> Loaded {
    let mut loaded = Loaded::default();
    for (key, value) in entries {
        if key == REVISIONS {
            match serde_json::from_slice(&value) {
                Ok(ceiling) => loaded.ceiling = Revision(ceiling),
                Err(error) => loaded.unreadable.push(format!("{key}: {error}")),
            }
        } else if key.starts_with(INSTANCES) {
            match read(&value) {
                Ok(restored) => loaded.instances.push(restored),
                Err(reason) => loaded.unreadable.push(format!("{key}: {reason}")),
            }
        }
    }
    loaded
}

/// Reads one instance.
pub(crate) fn read(value: &[u8]) -> Result<Restored, String> {
    let stored = serde_json::from_slice::<Stored>(value).map_err(|error| error.to_string())?;
    stored.checked()
}

/// Whether it is this process that wrote an instance.
pub(crate) fn is_of(value: &[u8], member: &str) -> bool {
    #[derive(Deserialize)]
    struct Marked {
        mark: Option<Mark>,
    }
    let marked = serde_json::from_slice::<Marked>(value).ok();
    let mark = marked.and_then(|marked| marked.mark);
    mark.is_some_and(|mark| mark.owner == member)
}

/// What a key is of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Instance(ServiceName, InstanceId),
    /// A process that shares the store.
    Member(Arc<str>),
    Other,
}

impl Key {
    pub(crate) fn of(key: &str) -> Self {
        let instance = || {
            let (service, id) = key.strip_prefix(INSTANCES)?.split_once('/')?;
            Some(Self::Instance(
                service_named(service).ok()?,
                id.parse().ok()?,
            ))
        };
        match key.strip_prefix(MEMBERS) {
            Some(member) => Self::Member(member.into()),
            None => instance().unwrap_or(Self::Other),
        }
    }
}

/// The key that tells of a process that shares the store for as long as it lives.
pub(crate) fn member(member: &str) -> String {
    format!("{MEMBERS}{member}")
}

/// The same number on every machine and in every version: FNV-1a of 64 bits, whose high
/// bits are then mixed as MurmurHash3 does, since it is compared.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

pub(crate) fn ceiling(ceiling: Revision) -> Entry {
    Entry {
        key: REVISIONS.to_owned(),
        value: Some(ceiling.0.to_string().into_bytes()),
    }
}

pub(crate) fn forget(instance: &Instance) -> Entry {
    Entry {
        key: key_of(instance),
        value: None,
    }
}

pub(crate) fn keep(record: &Record, wall: Wall) -> Entry {
    let instance = &record.instance;
    let own = record.own.as_ref();
    let mark = record.tie.as_ref().map(|tie| tie.mark());
    let shown = mark.is_some();
    let stored = Stored {
        service: instance.service.to_string(),
        id: instance.id.to_string(),
        node: record.node.as_ref().map(InstanceId::to_string),
        host: instance.address.host().to_owned(),
        port: instance.address.port(),
        weight: record.weight,
        warning_weight: record.warning_weight,
        tags: instance.tags.clone(),
        metadata: instance.metadata.clone(),
        lease_ms: record.lease.map(millis),
        patient: record.patient,
        checks: (record.checks.iter())
            .map(|checked| StoredCheck::of(checked, shown, wall))
            .collect(),
        health: instance.health.to_string(),
        own: own.map(|own| own.health.to_string()),
        own_note: own.map(|own| own.note.clone()).unwrap_or_default(),
        forced: record.forced.map(|health| health.to_string()),
        protest: record.protest,
        draining: record.draining,
        maintenance: record.maintenance.clone(),
        mark,
    };
    Entry {
        key: key_of(instance),
        // Maps with text keys and numbers always serialise.
        value: serde_json::to_vec(&stored).ok(),
    }
}

fn key_of(instance: &Instance) -> String {
    format!("{INSTANCES}{}/{}", instance.service, instance.id)
}

impl Stored {
    /// What it says, when every part of it can be used.
    fn checked(self) -> Result<Restored, String> {
        fn word(word: &str) -> Result<Health, String> {
            Health::from_word(word).ok_or_else(|| format!("`{word}` is not a health"))
        }
        fn in_words(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        let own = self.own.as_deref().map(word).transpose()?;
        let words = Words {
            own: own.map(|health| Own::new(health, &self.own_note)),
            forced: self.forced.as_deref().map(word).transpose()?,
            protest: self.protest,
            draining: self.draining,
            maintenance: self.maintenance,
        };
        let stood = |check: &StoredCheck| {
            Ok::<_, String>(Stood {
                health: check.health.as_deref().map(word).transpose()?,
                output: check.output.clone(),
                critical_since_unix_ms: check.critical_since_unix_ms,
            })
        };
        let checks = self.checks.iter().map(stood);
        let checks = checks.collect::<Result<_, _>>()?;
        let registration = Registration {
            service: service_named(&self.service)?,
            node: (self.node.map(|node| node.parse::<InstanceId>()).transpose())
                .map_err(in_words)?,
            id: self.id.parse::<InstanceId>().map_err(in_words)?,
            address: Address::new(&self.host, self.port).map_err(in_words)?,
            weight: self.weight,
            warning_weight: self.warning_weight,
            tags: self.tags,
            metadata: self.metadata,
            lease: self.lease_ms.map(Duration::from_millis),
            patient: self.patient,
            checks: (self.checks.into_iter().map(StoredCheck::checked))
                .collect::<Result<_, _>>()?,
            health: own.unwrap_or(Health::Passing),
            source: Source::Client,
        };
        registration.validate().map_err(in_words)?;
        Ok(Restored {
            registration,
            health: word(&self.health)?,
            checks,
            words,
            mark: self.mark,
        })
    }
}

/// A service's name, or that of nodes, which is no other's.
fn service_named(name: &str) -> Result<ServiceName, String> {
    let nodes = ServiceName::of_nodes();
    if name == nodes.as_str() {
        return Ok(nodes);
    }
    name.parse().map_err(|error: NameError| error.to_string())
}

impl StoredCheck {
    fn of(checked: &Checked, shown: bool, wall: Wall) -> Self {
        let (check, verdict) = (&checked.check, &checked.verdict);
        let critical = verdict.health == Health::Critical && check.deregister_after.is_some();
        let told = matches!(check.probe, Probe::Told { .. });
        Self {
            name: check.name.clone(),
            http: check.probe.plain_path().map(str::to_owned),
            told,
            probe: StoredProbe::of(&check.probe),
            first_decides: check.first_decides,
            ttl_ms: check.probe.ttl().map(millis),
            at: check.at.as_ref().map(Address::to_string),
            deregister_after_ms: check.deregister_after.map(millis),
            health: (told || shown).then(|| verdict.health.to_string()),
            output: match shown {
                true => cut(&checked.output, NOTE_BYTES_MAX).to_owned(),
                false => String::new(),
            },
            critical_since_unix_ms: critical.then(|| wall.unix_ms_of(verdict.since)),
            interval_ms: millis(check.interval),
            start_interval_ms: millis(check.start_interval),
            start_period_ms: millis(check.start_period),
            timeout_ms: millis(check.timeout),
            success_before_passing: check.success_before_passing,
            failures_before_warning: check.failures_before_warning,
            failures_before_critical: check.failures_before_critical,
        }
    }

    fn checked(self) -> Result<Check, String> {
        let stored = self;
        let at = stored.at.map(|at| at.parse::<Address>()).transpose();
        Ok(Check {
            name: stored.name,
            probe: match (stored.probe, stored.told, stored.http) {
                (Some(probe), ..) => probe.checked()?,
                (None, true, _) => Probe::Told {
                    ttl: stored.ttl_ms.map(Duration::from_millis),
                },
                (None, false, Some(path)) => Probe::Http { path },
                (None, false, None) => Probe::Tcp,
            },
            first_decides: stored.first_decides,
            at: at.map_err(|error| error.to_string())?,
            deregister_after: stored.deregister_after_ms.map(Duration::from_millis),
            interval: Duration::from_millis(stored.interval_ms),
            start_interval: Duration::from_millis(stored.start_interval_ms),
            start_period: Duration::from_millis(stored.start_period_ms),
            timeout: Duration::from_millis(stored.timeout_ms),
            success_before_passing: stored.success_before_passing,
            failures_before_warning: stored.failures_before_warning,
            failures_before_critical: stored.failures_before_critical,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;

    #[test]
    fn what_is_kept_is_read_back_whole() {
        let mut registration = Registration::new(
            "users".parse().unwrap(),
            "u:1".parse().unwrap(),
            "[::1]:80".parse().unwrap(),
            Source::Client,
        );
        registration.weight = 7;
        registration.warning_weight = Some(3);
        registration.node = Some("db-1".parse().unwrap());
        registration.tags = vec!["blue".to_owned()];
        registration.metadata = BTreeMap::from([("version".to_owned(), "1".to_owned())]);
        registration.lease = Some(Duration::from_secs(30));
        registration.patient = true;
        let mut check = Check::new(Probe::Http {
            path: "/healthz?deep=1".to_owned(),
        });
        check.failures_before_critical = 9;
        check.first_decides = true;
        check.at = Some("10.0.0.2:81".parse().unwrap());
        check.deregister_after = Some(Duration::from_secs(60));
        let mut told = Check::new(Probe::Told {
            ttl: Some(Duration::from_secs(10)),
        });
        told.name = "service:u:1".to_owned();
        let forever = Check::new(Probe::Told { ttl: None });
        let udp = Check::new(Probe::Udp);
        registration.checks = vec![check, Check::new(Probe::Tcp), told, forever, udp];
        let now = tokio::time::Instant::now().into_std();
        let mut record = Record::new(registration.clone(), 1, now);
        record.forced = Some(Health::Draining);
        record.checks[0].verdict =
            Verdict::restored(Health::Critical, now - Duration::from_secs(1));
        record.maintenance = Some("new disk".to_owned());
        record.refresh(now);

        let wall = Wall {
            at: now,
            unix_ms: 5_000,
        };
        let entry = keep(&record, wall);
        assert_eq!(entry.key, "registry/instances/users/u:1");
        let mut loaded = load(vec![(entry.key, entry.value.unwrap())]);
        let words = Words {
            own: None,
            forced: Some(Health::Draining),
            protest: false,
            draining: false,
            maintenance: Some("new disk".to_owned()),
        };
        let starting = Some(Health::Starting);
        let expected = Restored {
            registration,
            health: Health::Draining,
            checks: [None, None, starting, starting, None]
                .into_iter()
                .enumerate()
                .map(|(index, health)| Stood {
                    health,
                    output: String::new(),
                    critical_since_unix_ms: (index == 0).then_some(4_000),
                })
                .collect(),
            words,
            mark: None,
        };
        assert_eq!(loaded.instances.remove(0), expected);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_is_used() {
        let good = br#"{"service":"users","id":"u1","host":"10.0.0.1","port":80,"weight":1,"health":"passing"}"#;
        // A lease that no clock can count must not end Atoll at its start.
        let endless =
            String::from_utf8_lossy(good).replace('}', r#","lease_ms":18446744073709551615}"#);
        let endless = endless.into_bytes();
        let loaded = load(vec![
            ("registry/instances/users/u1".to_owned(), good.to_vec()),
            ("registry/instances/users/u2".to_owned(), b"{".to_vec()),
            ("registry/instances/users/u3".to_owned(), endless),
            ("registry/revisions".to_owned(), b"42".to_vec()),
            ("something/else".to_owned(), b"?".to_vec()),
        ]);
        assert_eq!(loaded.instances.len(), 1);
        assert_eq!(loaded.ceiling, Revision(42));
        assert_eq!(loaded.unreadable.len(), 2);
        assert!(loaded.unreadable[0].starts_with("registry/instances/users/u2: "));
        assert!(loaded.unreadable[1].starts_with("registry/instances/users/u3: lease: "));
    }
}
