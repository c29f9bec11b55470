//! What somebody says of an instance when it is registered.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::{Address, Alias, Check, Health, InstanceId, Probe, ServiceName};

use crate::{RegistryError, checks};

/// A request to register, or to register again, one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The service.
    pub service: ServiceName,
    /// Identity within the service; registering it again replaces it.
    pub id: InstanceId,
    /// The node that it is on; `None` is ours. What makes a node unfit makes all unfit
    /// that is on it.
    pub node: Option<InstanceId>,
    /// Where it listens.
    pub address: Address,
    /// Share of requests; 1 by default, 0 takes none.
    pub weight: u16,
    /// The share while it is in warning (Consul's `Weights.Warning`); `None` is the same.
    pub warning_weight: Option<u16>,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub metadata: BTreeMap<String, String>,
    /// How long it is believed without a renewal; `None` is for ever.
    pub lease: Option<Duration>,
    /// When many such leases lapse at once, they are kept: it is likelier that the
    /// network is away than all of them ([`crate::SelfPreservation`]).
    pub patient: bool,
    /// How it is checked; with none, its own word (`health`) counts.
    pub checks: Vec<Check>,
    /// What it says of itself. With checks it begins as `Starting` whatever it says.
    pub health: Health,
    /// Who registered it.
    pub source: Source,
}

/// Who registered an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Itself or its agent, over a registry protocol.
    Client,
    /// Atoll's fleet, which also takes it away. Not kept over a restart of Atoll.
    Fleet,
    /// The config file's `endpoints`. Not kept over a restart of Atoll.
    Config,
}

/// Tags of one instance.
const TAGS_MAX: usize = 64;
/// Bytes of all tags and metadata of one instance. The promise of 100,000
/// instances in 300 MB leaves 3 KB for each; few come near this.
const LABEL_BYTES_MAX: usize = 32 * 1024;
/// Checks of one instance.
const CHECKS_MAX: usize = 16;
/// Longest wait for an answer to a client's check: each takes a place among those
/// under way, of which there are few, and no client may block the others'.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Longest lease or pause: beyond a year somebody mixed up units.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

impl Registration {
    /// A registration with one share of the requests, no lease, no check, passing
    /// by its own word.
    pub fn new(service: ServiceName, id: InstanceId, address: Address, source: Source) -> Self {
        Self {
            service,
            id,
            node: None,
            address,
            weight: 1,
            warning_weight: None,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            lease: None,
            patient: false,
            checks: Vec::new(),
            health: Health::Passing,
            source,
        }
    }

    /// What could never work is refused before it changes anything.
    pub(crate) fn validate(&self) -> Result<(), RegistryError> {
        let refuse = |field, reason: String| Err(RegistryError::Invalid { field, reason });
        if self.tags.len() > TAGS_MAX {
            return refuse(
                "tags",
                format!("at most {TAGS_MAX}, not {}", self.tags.len()),
            );
        }
        let labels = self.tags.iter().map(String::len).sum::<usize>()
            + self
                .metadata
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum::<usize>();
        if labels > LABEL_BYTES_MAX {
            return refuse(
                "metadata",
                format!("at most {LABEL_BYTES_MAX} bytes with the tags, not {labels}"),
            );
        }
        if let Some(lease) = self.lease
            && (lease.is_zero() || lease > DURATION_MAX)
        {
            return refuse("lease", "between 1 ms and 366 days".to_owned());
        }
        if self.checks.len() > CHECKS_MAX {
            return refuse(
                "checks",
                format!("at most {CHECKS_MAX}, not {}", self.checks.len()),
            );
        }
        let timeouts = self.checks.iter().map(|check| check.timeout).max();
        if self.source == Source::Client && timeouts > Some(TIMEOUT_MAX) {
            return refuse(
                "checks.timeout",
                format!("at most {} s", TIMEOUT_MAX.as_secs()),
            );
        }
        for (index, check) in self.checks.iter().enumerate() {
            let before = &self.checks[..index];
            if !check.name.is_empty() && before.iter().any(|other| other.name == check.name) {
                return refuse("checks", format!("`{}` stands there twice", check.name));
            }
        }
        let itself = |check: &Check| match &check.probe {
            Probe::Alias(Alias::Instance(of)) => *of == self.id,
            _ => false,
        };
        if self.checks.iter().any(itself) {
            return refuse(
                "checks.alias",
                format!("`{}` cannot be an alias of itself", self.id),
            );
        }
        self.checks.iter().try_for_each(checks::validate)
    }
}
