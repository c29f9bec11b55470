//! How a check asks, where that is neither a plain `GET` nor a TCP connection.

use atoll_model::{Alias, HttpRequest, InstanceId, Probe, Tls};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredProbe {
    Request(StoredRequest),
    Tls(StoredTls),
    Udp {},
    Grpc {
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tls: Option<StoredTls>,
    },
    H2Ping {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tls: Option<StoredTls>,
    },
    Script {
        args: Vec<String>,
    },
    /// Of an instance.
    Alias {
        id: String,
    },
    /// Of a node; without a name, of ours.
    NodeAlias {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredRequest {
    method: String,
    path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    body: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<StoredTls>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    redirects: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTls {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    skip_verify: bool,
}

impl StoredProbe {
    /// None for what has a form of its own.
    pub(crate) fn of(probe: &Probe) -> Option<Self> {
        let tls = |tls: &Option<Tls>| tls.as_ref().map(StoredTls::of);
        Some(match probe {
            Probe::Http { .. } | Probe::Tcp | Probe::Told { .. } => return None,
            Probe::Request(request) => Self::Request(StoredRequest {
                method: request.method.clone(),
                path: request.path.clone(),
                headers: request.headers.clone(),
                body: request.body.clone(),
                tls: tls(&request.tls),
                redirects: request.redirects,
            }),
            Probe::Tls(tls) => Self::Tls(StoredTls::of(tls)),
            Probe::Udp => Self::Udp {},
            Probe::Grpc { service, tls: over } => Self::Grpc {
                service: service.clone(),
                tls: tls(over),
            },
            Probe::H2Ping { tls: over } => Self::H2Ping { tls: tls(over) },
            Probe::Script { args } => Self::Script { args: args.clone() },
            Probe::Alias(Alias::Instance(id)) => Self::Alias { id: id.to_string() },
            Probe::Alias(Alias::Node(node)) => Self::NodeAlias {
                node: node.as_ref().map(InstanceId::to_string),
            },
        })
    }

    pub(crate) fn checked(self) -> Result<Probe, String> {
        let id = |id: String| {
            let id = id.parse::<InstanceId>();
            id.map_err(|error| error.to_string())
        };
        let tls = |tls: Option<StoredTls>| tls.map(StoredTls::checked);
        Ok(match self {
            Self::Request(request) => Probe::Request(Box::new(HttpRequest {
                method: request.method,
                path: request.path,
                headers: request.headers,
                body: request.body,
                tls: tls(request.tls),
                redirects: request.redirects,
            })),
            Self::Tls(tls) => Probe::Tls(tls.checked()),
            Self::Udp {} => Probe::Udp,
            Self::Grpc { service, tls: over } => Probe::Grpc {
                service,
                tls: tls(over),
            },
            Self::H2Ping { tls: over } => Probe::H2Ping { tls: tls(over) },
            Self::Script { args } => Probe::Script { args },
            Self::Alias { id: of } => Probe::Alias(Alias::Instance(id(of)?)),
            Self::NodeAlias { node } => Probe::Alias(Alias::Node(node.map(id).transpose()?)),
        })
    }
}

impl StoredTls {
    fn of(tls: &Tls) -> Self {
        Self {
            name: tls.name.clone(),
            skip_verify: !tls.verify,
        }
    }

    fn checked(self) -> Tls {
        Tls {
            name: self.name,
            verify: !self.skip_verify,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_is_read_back_as_it_was() {
        let named = Tls {
            name: Some("users.internal".to_owned()),
            verify: false,
        };
        let request = HttpRequest {
            method: "POST".to_owned(),
            path: "/healthz?deep=1".to_owned(),
            headers: vec![
                ("X-A".to_owned(), "1".to_owned()),
                ("X-A".to_owned(), "2".to_owned()),
            ],
            body: "ping".to_owned(),
            tls: Some(named.clone()),
            redirects: true,
        };
        let plain = HttpRequest {
            headers: Vec::new(),
            body: String::new(),
            tls: None,
            redirects: false,
            ..request.clone()
        };
        let id: InstanceId = "users:1".parse().unwrap();
        for probe in [
            Probe::Request(Box::new(request)),
            Probe::Request(Box::new(plain)),
            Probe::Tls(named.clone()),
            Probe::Udp,
            Probe::Grpc {
                service: "users.Users".to_owned(),
                tls: None,
            },
            Probe::H2Ping { tls: Some(named) },
            Probe::Script {
                args: vec!["/bin/true".to_owned(), "-x".to_owned()],
            },
            Probe::Alias(Alias::Instance(id.clone())),
            Probe::Alias(Alias::Node(Some(id))),
            Probe::Alias(Alias::Node(None)),
        ] {
            let text = serde_json::to_string(&StoredProbe::of(&probe)).unwrap();
            let read: Option<StoredProbe> = serde_json::from_str(&text).unwrap();
            assert_eq!(read.unwrap().checked(), Ok(probe), "{text}");
        }
        for probe in [Probe::Tcp, Probe::Told { ttl: None }] {
            assert_eq!(StoredProbe::of(&probe), None);
        }
    }
}
