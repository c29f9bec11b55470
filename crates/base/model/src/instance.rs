//! One running copy of a service, as everybody but its supervisor sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use crate::{Health, InstanceId, ServiceName};

/// Longest host name (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// One instance of a service: who it is, where it listens, how fit it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Identity within [`Instance::service`].
    pub id: InstanceId,
    /// The service that this is a copy of.
    pub service: ServiceName,
    /// Where it listens.
    pub address: Address,
    /// Share of the requests relative to its siblings; 0 takes none. Default 1.
    pub weight: u16,
    /// Current fitness.
    pub health: Health,
    /// What the last check or its owner said about `health`; may be empty.
    pub note: String,
    /// Free words to select by (Consul's tags).
    pub tags: Vec<String>,
    /// Free key-value pairs; `version` is the deployed version by convention.
    pub metadata: BTreeMap<String, String>,
}

/// What begins the keys of metadata in which a protocol's front keeps what
/// [`Instance`] has no field for. No user wrote them, so nobody else shows them.
const FRONT_LABELS: [&str; 2] = ["consul.definition", "eureka."];

/// Whether a key of [`Instance::metadata`] is a protocol's own business.
pub fn is_front_label(key: &str) -> bool {
    FRONT_LABELS.iter().any(|label| key.starts_with(label))
}

/// A host and a port; the host is an IP address or a name to look up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: Arc<str>,
    port: u16,
}

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not an address: {reason}")]
pub struct AddressError {
    given: String,
    reason: &'static str,
}

impl Address {
    /// An address from its parts; IPv6 hosts come without brackets.
    ///
    /// # Errors
    /// When the host is neither an IP address nor a host name, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let refuse = |reason| AddressError {
            given: format!("{host}:{port}"),
            reason,
        };
        if port == 0 {
            return Err(refuse("the port may not be 0"));
        }
        if host.parse::<IpAddr>().is_err() && !is_host_name(host) {
            return Err(refuse("the host is neither an IP address nor a host name"));
        }
        Ok(Self {
            host: host.to_ascii_lowercase().into(),
            port,
        })
    }

    /// The host without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address, when the host is an IP address and needs no look-up.
    pub fn socket(&self) -> Option<SocketAddr> {
        let ip = self.host.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for Address {
    /// # Panics
    /// Never; port 0 is kept, since the address was given by the system.
    fn from(socket: SocketAddr) -> Self {
        Self {
            host: socket.ip().to_string().into(),
            port: socket.port(),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `host:port` or `[v6]:port`.
    fn from_str(raw: &str) -> Result<Self, AddressError> {
        let refuse = |reason| AddressError {
            given: raw.to_owned(),
            reason,
        };
        let (host, port) = raw
            .rsplit_once(':')
            .ok_or_else(|| refuse("write it as HOST:PORT"))?;
        let port = port
            .parse::<u16>()
            .map_err(|_| refuse("the port is not a number from 1 to 65535"))?;
        let host = match host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(v6) => v6,
            None if host.contains(':') => return Err(refuse("put an IPv6 address in brackets")),
            None => host,
        };
        Self::new(host, port)
    }
}

/// RFC 1123 §2.1, with `_` allowed since container networks use it.
fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= HOST_BYTES_MAX
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(raw: &str) -> String {
        match raw.parse::<Address>() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn addresses_are_read_and_written_alike() {
        assert_eq!(shown("10.0.0.5:8080"), "10.0.0.5:8080");
        assert_eq!(shown("[::1]:80"), "[::1]:80");
        assert_eq!(shown("Users.Internal:80"), "users.internal:80");
    }

    #[test]
    fn a_refused_address_says_why() {
        assert!(shown("users").contains("HOST:PORT"));
        assert!(shown("users:http").contains("not a number"));
        assert!(shown("::1:80").contains("brackets"));
        assert!(shown("us ers:80").contains("neither an IP address nor a host name"));
        assert!(shown("users:0").contains("may not be 0"));
    }

    #[test]
    fn labels_of_fronts_are_told_from_those_of_users() {
        for (key, front) in [
            ("eureka.vipAddress", true),
            ("consul.definition", true),
            ("eureka", false),
            ("consul.team", false),
            ("version", false),
        ] {
            assert_eq!(is_front_label(key), front, "{key}");
        }
    }

    #[test]
    fn only_ip_addresses_have_a_socket() {
        assert!("10.0.0.5:80".parse::<Address>().unwrap().socket().is_some());
        assert!("users:80".parse::<Address>().unwrap().socket().is_none());
    }
}
