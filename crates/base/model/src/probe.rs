//! How an instance can be asked whether it is fit.

use std::time::Duration;

use crate::InstanceId;

/// How an instance is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET path`; any 2xx passes, 429 warns, the rest fails (Consul's rule).
    Http {
        /// Begins with `/`; may hold a query.
        path: String,
    },
    /// Another HTTP request, or one over TLS, judged likewise.
    Request(Box<HttpRequest>),
    /// A TCP connection that is accepted passes.
    Tcp,
    /// A TCP connection over which TLS is agreed on passes.
    Tls(Tls),
    /// An empty datagram passes unless the system says that nobody takes it: who is
    /// there need not answer.
    Udp,
    /// `grpc.health.v1.Health/Check`; only `SERVING` passes.
    Grpc {
        /// The service asked for; empty is the server as a whole.
        service: String,
        /// Over TLS.
        tls: Option<Tls>,
    },
    /// An HTTP/2 connection whose peer answers a PING passes.
    H2Ping {
        /// Over TLS.
        tls: Option<Tls>,
    },
    /// A program on this machine: exit code 0 passes, 1 warns, the rest fails. Runs
    /// only where the registry's settings allow it.
    Script {
        /// The program and its arguments; no shell reads them.
        args: Vec<String>,
    },
    /// As fit as another is, whose checks are not asked again.
    Alias(Alias),
    /// Nobody asks: somebody says how it is (Consul's TTL checks).
    Told {
        /// For how long each word is believed; then it is critical. `None` is for ever.
        ttl: Option<Duration>,
    },
}

/// An HTTP request that is more than a `GET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method.
    pub method: String,
    /// Begins with `/`; may hold a query.
    pub path: String,
    /// Headers; a `Host` among them wins over the address.
    pub headers: Vec<(String, String)>,
    /// The body; may be empty.
    pub body: String,
    /// Over TLS.
    pub tls: Option<Tls>,
    /// Whether a redirect is followed; if not, it fails.
    pub redirects: bool,
}

/// How TLS is spoken with an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The name that its certificate must bear, when not the host.
    pub name: Option<String>,
    /// Whether its certificate is verified.
    pub verify: bool,
}

/// Whose fitness another takes over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alias {
    /// The instance of this id, of whichever service, with its node.
    Instance(InstanceId),
    /// A node alone; `None` is ours.
    Node(Option<InstanceId>),
}

impl Probe {
    /// Its kind in a word, as people and Consul call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } | Self::Request(_) => "http",
            Self::Tcp | Self::Tls(_) => "tcp",
            Self::Udp => "udp",
            Self::Grpc { .. } => "grpc",
            Self::H2Ping { .. } => "h2ping",
            Self::Script { .. } => "script",
            Self::Alias(_) => "alias",
            Self::Told { .. } => "ttl",
        }
    }

    /// The path, if it is a plain `GET`.
    pub fn plain_path(&self) -> Option<&str> {
        match self {
            Self::Http { path } => Some(path),
            _ => None,
        }
    }

    /// For how long a word is believed, if it is told and not for ever.
    pub fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Told { ttl } => *ttl,
            _ => None,
        }
    }

    /// Whether somebody has to ask again and again.
    pub fn is_asked(&self) -> bool {
        !matches!(self, Self::Alias(_) | Self::Told { .. })
    }
}
