//! All instances at one revision: what the gateway compiles into a snapshot.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::{Instance, ServiceName};

/// A point in the history of a store or catalogue; later is larger, 0 is before
/// anything happened (etcd's revision, Consul's index).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Every registered instance at one revision, by service, ordered by id.
///
/// Immutable: a change makes a new catalogue that shares what did not change.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// The revision of the last change that this catalogue holds.
    pub revision: Revision,
    /// Instances of each service; a service without instances has no entry.
    pub services: BTreeMap<ServiceName, Arc<[Arc<Instance>]>>,
}

impl Catalog {
    /// The instances of `service`, ordered by id; empty when it is unknown.
    pub fn instances(&self, service: &str) -> &[Arc<Instance>] {
        self.services.get(service).map_or(&[], |list| &list[..])
    }
}
