//! Leases: a time to live that many keys can hang on.

use std::fmt;
use std::time::Duration;

use crate::Key;

/// Names a lease for its whole life; never given twice by one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A lease as granted or renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives after each keep-alive. A backend may have rounded up what
    /// was asked for: etcd counts whole seconds and has a minimum.
    pub ttl: Duration,
}

/// A lease at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// The lease.
    pub lease: Lease,
    /// What is left until it ends.
    pub remaining: Duration,
    /// The keys that its end deletes, in order.
    pub keys: Vec<Key>,
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As etcdctl prints it, so that logs of both can be compared.
        write!(f, "{:016x}", self.0)
    }
}
