//! What somebody says of an instance when it is registered.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::{Address, Check, Health, InstanceId, ServiceName};

/// A request to register, or to register again, one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The service.
    pub service: ServiceName,
    /// Identity within the service; registering it again replaces it.
    pub id: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// Share of requests; 1 by default, 0 takes none.
    pub weight: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub metadata: BTreeMap<String, String>,
    /// How long it is believed without a renewal; `None` is for ever.
    pub lease: Option<Duration>,
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
