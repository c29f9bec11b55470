//! What can be set, checked once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use domain::base::Name;

/// Longest domain: a node's or a service's name, its kind and its data centre must
/// fit before it (RFC 1035 §2.3.4 allows 255 bytes for all).
const DOMAIN_BYTES_MAX: usize = 96;

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Domains that are ours; the first is the one that reverse names point into.
    /// Default `consul` and `atoll`.
    pub domains: Vec<Domain>,
    /// The one data centre. Default `dc1`.
    pub datacenter: String,
    /// The name of this machine; dots are allowed. Default `localhost`.
    pub node: String,
    /// Where this machine is reached. Default 127.0.0.1.
    pub node_address: IpAddr,
    /// What `TXT` says of this machine, as `key=value` (RFC 1464).
    pub node_meta: BTreeMap<String, String>,
    /// How long an answer may be kept. Default 0, as Consul's: not at all.
    pub ttl: Duration,
    /// Whether instances in `warning` are left out, too. Default false.
    pub only_passing: bool,
    /// Who is asked about all other names, one after the other; when empty such
    /// questions are refused.
    pub recursors: Vec<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        let word = |word: &str| Domain(vec![word.to_owned()]);
        Self {
            domains: vec![word("consul"), word("atoll")],
            datacenter: "dc1".to_owned(),
            node: "localhost".to_owned(),
            node_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            node_meta: BTreeMap::new(),
            ttl: Duration::ZERO,
            only_passing: false,
            recursors: Vec::new(),
        }
    }
}

/// A domain that is ours: `consul`, `service.example.com`. Lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(Vec<String>);

/// Why a domain was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainError(&'static str);

impl Domain {
    /// Its labels, the leftmost first.
    pub(crate) fn labels(&self) -> &[String] {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(raw: &str) -> Result<Self, DomainError> {
        let name = raw.strip_suffix('.').unwrap_or(raw);
        if name.is_empty() || name.len() > DOMAIN_BYTES_MAX {
            return Err(DomainError("a domain has from 1 to 96 characters"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let well_formed = |label: &str| label.chars().all(plain);
        if !name.split('.').all(well_formed) || Name::<Vec<u8>>::from_str(name).is_err() {
            let allowed = "a domain is made of letters, digits, `-` and `_` between dots";
            return Err(DomainError(allowed));
        }
        let labels = name.split('.').map(str::to_ascii_lowercase);
        Ok(Self(labels.collect()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for DomainError {}
