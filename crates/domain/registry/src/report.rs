//! What the registry tells a person about one instance beyond the catalogue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{Check, Health, Instance, Probe};

use crate::record::Record;
use crate::{Outcome, Source};

/// All that is known of one instance.
#[derive(Clone, Debug)]
pub struct Detail {
    /// As it stands in the catalogue.
    pub instance: Arc<Instance>,
    /// When this was so; what is said to be so long ago counts from here.
    pub at: Instant,
    /// Who registered it.
    pub source: Source,
    /// Its share of the requests as registered.
    pub weight: u16,
    /// The share while it is in warning; `None` is the same.
    pub warning_weight: Option<u16>,
    /// How long it is believed without a renewal.
    pub lease: Option<Duration>,
    /// What is left of that.
    pub expires_in: Option<Duration>,
    /// Whether self-preservation may stretch the lease.
    pub patient: bool,
    /// What it says of itself, if its word counts.
    pub own: Option<Health>,
    /// What an administrator forced on it.
    pub forced: Option<Health>,
    /// How long it has been registered; a restart of Atoll begins anew.
    pub registered: Duration,
    /// How long ago it was last registered or renewed.
    pub renewed: Duration,
    /// How long ago it last became something else than it was.
    pub changed: Duration,
    /// How long ago it was first fit to take requests.
    pub up: Option<Duration>,
    /// Why it is out for maintenance, if it is.
    pub maintenance: Option<String>,
    /// Whether it is this process that watches its lease and asks its checks, and not
    /// another that shares the store.
    pub cared_for: bool,
    /// How the node that it is on stands, where something is known of that.
    pub node_health: Option<Health>,
    /// Its checks, in the order of the registration.
    pub checks: Vec<CheckReport>,
}

/// One check of one instance and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// What was registered.
    pub check: Check,
    /// How it is asked.
    pub probe: Probe,
    /// What its answers amount to.
    pub health: Health,
    /// How long that has been so.
    pub since: Duration,
    /// Good answers in a row.
    pub successes: u32,
    /// Bad answers in a row.
    pub failures: u32,
    /// What the last answer said, at most 4 KiB.
    pub output: String,
    /// The last answer; `None` before the first.
    pub last: Option<LastAnswer>,
}

/// When and how a check was last answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastAnswer {
    /// How long ago.
    pub ago: Duration,
    /// How long it took.
    pub took: Duration,
    /// What it was.
    pub outcome: Outcome,
}

impl Detail {
    pub(crate) fn of(record: &Record, now: Instant) -> Self {
        let checks = record.checks.iter().map(|checked| CheckReport {
            check: checked.check.clone(),
            probe: checked.check.probe.clone(),
            health: checked.verdict.health,
            since: now.saturating_duration_since(checked.verdict.since),
            successes: checked.verdict.successes,
            failures: checked.verdict.failures,
            output: checked.output.to_string(),
            last: checked.answered.map(|answered| LastAnswer {
                ago: now.saturating_duration_since(answered.at),
                took: answered.took,
                outcome: answered.outcome,
            }),
        });
        Self {
            instance: Arc::clone(&record.instance),
            at: now,
            source: record.source,
            weight: record.weight,
            warning_weight: record.warning_weight,
            lease: record.lease,
            expires_in: record
                .deadline
                .map(|deadline| deadline.saturating_duration_since(now)),
            patient: record.patient,
            own: record.own.as_ref().map(|own| own.health),
            forced: record.forced,
            registered: now.saturating_duration_since(record.times.registered),
            renewed: now.saturating_duration_since(record.times.renewed),
            changed: now.saturating_duration_since(record.times.changed),
            up: (record.times.up).map(|up| now.saturating_duration_since(up)),
            maintenance: record.maintenance.clone(),
            cared_for: record.is_ours(),
            node_health: record.around.as_ref().map(|around| around.health),
            checks: checks.collect(),
        }
    }
}
