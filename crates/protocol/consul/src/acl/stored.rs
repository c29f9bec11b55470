//! What of ACLs stands in the store. Fields may be added with a default; none changes
//! its meaning.

use serde::{Deserialize, Serialize};

/// The policy that allows everything.
pub(crate) const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";
/// The token of those who send none.
pub(crate) const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";
pub(crate) const ANONYMOUS_SECRET: &str = "anonymous";
/// The token of the config file, which is not kept here. Consul reserves these ids.
pub(crate) const MANAGEMENT: &str = "00000000-0000-0000-0000-000000000003";
/// What reserved ids begin with.
pub(crate) const RESERVED: &str = "00000000-0000-0000-0000-0000000000";

/// A token.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Token {
    pub(crate) secret: String,
    pub(crate) description: String,
    #[serde(flatten)]
    pub(crate) links: Links,
    /// Ids of roles.
    pub(crate) roles: Vec<String>,
    pub(crate) local: bool,
    pub(crate) created_ms: u64,
    /// From when on it counts no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_ms: Option<u64>,
    /// The lease that takes it away then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<u64>,
}

impl std::fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("description", &self.description)
            .field("links", &self.links)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

/// What gives rights, to a token or a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Links {
    /// Ids of policies.
    pub(crate) policies: Vec<String>,
    pub(crate) services: Vec<ServiceIdentity>,
    pub(crate) nodes: Vec<NodeIdentity>,
}

/// The rights that a service needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceIdentity {
    pub(crate) name: String,
    /// Where it counts; everywhere, if empty.
    pub(crate) datacenters: Vec<String>,
}

/// The rights that an agent of a node needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeIdentity {
    pub(crate) name: String,
    pub(crate) datacenter: String,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) description: String,
    /// As they were written.
    pub(crate) rules: String,
    /// Where it counts; everywhere, if empty.
    pub(crate) datacenters: Vec<String>,
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) description: String,
    #[serde(flatten)]
    pub(crate) links: Links,
}
