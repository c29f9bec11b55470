//! What is asked of an instance to learn whether it is fit.

use std::time::Duration;

use crate::{Address, Probe};

/// One active check of an instance, run by the registry.
///
/// Defaults follow Consul (interval 10 s, timeout 10 s) only where they suit a
/// fleet on one machine: Atoll asks faster, since a check on loopback costs little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is called among the instance's checks; empty when nobody named it.
    pub name: String,
    /// How to ask.
    pub probe: Probe,
    /// Whom to ask, when not the instance at its own address (a management port).
    pub at: Option<Address>,
    /// Pause between two questions once the instance has passed. Default 5 s.
    pub interval: Duration,
    /// Pause between two questions while it is starting. Default 200 ms.
    pub start_interval: Duration,
    /// Failures in this time after the registration do not count (Compose's
    /// `start_period`). Default 60 s; the first success ends it.
    pub start_period: Duration,
    /// An answer that takes longer is a failure. Default 2 s.
    pub timeout: Duration,
    /// Successes in a row before the instance passes (Consul's
    /// `success_before_passing`). Default 1.
    pub success_before_passing: u32,
    /// Failures in a row before it is in warning. Default 1.
    pub failures_before_warning: u32,
    /// Failures in a row before it is critical. Default 3.
    pub failures_before_critical: u32,
    /// The first answer decides alone, and the thresholds count from the next on
    /// (Consul's rule). Default no.
    pub first_decides: bool,
    /// Critical for this long, the instance is deregistered (Consul's
    /// `DeregisterCriticalServiceAfter`). Default never.
    pub deregister_after: Option<Duration>,
}

impl Check {
    /// A check with the defaults named on each field.
    pub fn new(probe: Probe) -> Self {
        Self {
            name: String::new(),
            probe,
            at: None,
            interval: Duration::from_secs(5),
            start_interval: Duration::from_millis(200),
            start_period: Duration::from_secs(60),
            timeout: Duration::from_secs(2),
            success_before_passing: 1,
            failures_before_warning: 1,
            failures_before_critical: 3,
            first_decides: false,
            deregister_after: None,
        }
    }
}
