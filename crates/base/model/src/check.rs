//! What is asked of an instance to learn whether it is fit.

use std::time::Duration;

use crate::Address;

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
    /// Critical for this long, the instance is deregistered (Consul's
    /// `DeregisterCriticalServiceAfter`). Default never.
    pub deregister_after: Option<Duration>,
}

/// How an instance is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET path`; any 2xx passes, 429 warns, the rest fails (Consul's rule).
    Http {
        /// Begins with `/`; may hold a query.
        path: String,
    },
    /// A TCP connection that is accepted passes.
    Tcp,
    /// Nobody asks: somebody says how it is (Consul's TTL checks).
    Told {
        /// For how long each word is believed; then it is critical. `None` is for ever.
        ttl: Option<Duration>,
    },
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
            deregister_after: None,
        }
    }
}
