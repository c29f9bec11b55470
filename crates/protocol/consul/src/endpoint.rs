//! What endpoints there are: paths and methods, as Consul registers them
//! (`agent/http_register.go`).

use http::Method;

use crate::acl::AclPath;
use crate::{config, coordinates, events, machine, mesh, operator, query, ui};

/// An endpoint with what stands in its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    AgentSelf,
    AgentMembers,
    AgentServices,
    AgentService(String),
    AgentHealthById(String),
    AgentHealthByName(String),
    AgentServiceRegister,
    AgentServiceDeregister(String),
    AgentServiceMaintenance(String),
    AgentMaintenance,
    AgentChecks,
    AgentCheckRegister,
    AgentCheckDeregister(String),
    AgentCheckPass(String),
    AgentCheckWarn(String),
    AgentCheckFail(String),
    AgentCheckUpdate(String),
    CatalogDatacenters,
    CatalogNodes,
    CatalogServices,
    CatalogService(String),
    CatalogNode(String),
    CatalogNodeServices(String),
    CatalogRegister,
    CatalogDeregister,
    HealthService(String),
    HealthChecks(String),
    HealthNode(String),
    HealthState(String),
    StatusLeader,
    StatusPeers,
    Kv(String),
    Txn,
    SessionCreate,
    SessionDestroy(String),
    SessionRenew(String),
    SessionInfo(String),
    SessionNode(String),
    SessionList,
    Query(query::Endpoint),
    Event(events::Endpoint),
    Coordinate(coordinates::Endpoint),
    Operator(operator::Endpoint),
    Machine(machine::Endpoint),
    Ui(ui::Endpoint),
    Config(config::Endpoint),
    Mesh(mesh::Empty),
    /// Atoll's own, for migrations.
    Copies,
    Acl(AclPath),
    /// Consul has it and we do not.
    Unsupported(&'static str),
}

/// Consul's endpoints that we do not have, by the beginning of their path.
const UNSUPPORTED: &[&str] = &[
    "agent/connect",
    "agent/health",
    "agent/token",
    "connect",
    "discovery-chain",
    "exported-services",
    "internal",
    "operator",
    "peering",
    "peerings",
    "snapshot",
];

/// The endpoint at a path below `/v1/`, decoded.
pub(crate) fn find(path: &str) -> Option<Endpoint> {
    use Endpoint as E;
    let parts: Vec<&str> = path.split('/').collect();
    Some(match parts[..] {
        ["agent", "self"] => E::AgentSelf,
        ["agent", "members"] => E::AgentMembers,
        ["agent", "services"] => E::AgentServices,
        ["agent", "service", "register"] => E::AgentServiceRegister,
        ["agent", "service", "deregister", id] => E::AgentServiceDeregister(id.to_owned()),
        ["agent", "service", "maintenance", id] => E::AgentServiceMaintenance(id.to_owned()),
        ["agent", "service", id] => E::AgentService(id.to_owned()),
        ["agent", "health", "service", "id", id] => E::AgentHealthById(id.to_owned()),
        ["agent", "health", "service", "name", name] => E::AgentHealthByName(name.to_owned()),
        ["agent", "maintenance"] => E::AgentMaintenance,
        ["agent", "checks"] => E::AgentChecks,
        ["agent", "check", "register"] => E::AgentCheckRegister,
        // The ids of checks may hold anything.
        ["agent", "check", "deregister", ..] => E::AgentCheckDeregister(rest(&parts, 3)),
        ["agent", "check", "pass", ..] => E::AgentCheckPass(rest(&parts, 3)),
        ["agent", "check", "warn", ..] => E::AgentCheckWarn(rest(&parts, 3)),
        ["agent", "check", "fail", ..] => E::AgentCheckFail(rest(&parts, 3)),
        ["agent", "check", "update", ..] => E::AgentCheckUpdate(rest(&parts, 3)),
        ["catalog", "datacenters"] => E::CatalogDatacenters,
        ["catalog", "nodes"] => E::CatalogNodes,
        ["catalog", "services"] => E::CatalogServices,
        ["catalog", "service", name] => E::CatalogService(name.to_owned()),
        ["catalog", "node", node] => E::CatalogNode(node.to_owned()),
        ["catalog", "node-services", node] => E::CatalogNodeServices(node.to_owned()),
        ["catalog", "register"] => E::CatalogRegister,
        ["catalog", "deregister"] => E::CatalogDeregister,
        ["health", "service", name] => E::HealthService(name.to_owned()),
        ["health", "checks", name] => E::HealthChecks(name.to_owned()),
        ["health", "node", node] => E::HealthNode(node.to_owned()),
        ["health", "state", state] => E::HealthState(state.to_owned()),
        ["status", "leader"] => E::StatusLeader,
        ["status", "peers"] => E::StatusPeers,
        ["kv"] => E::Kv(String::new()),
        ["kv", ..] => E::Kv(rest(&parts, 1)),
        ["txn"] => E::Txn,
        ["session", "create"] => E::SessionCreate,
        ["session", "destroy", id] => E::SessionDestroy(id.to_owned()),
        ["session", "renew", id] => E::SessionRenew(id.to_owned()),
        ["session", "info", id] => E::SessionInfo(id.to_owned()),
        ["session", "node", node] => E::SessionNode(node.to_owned()),
        ["session", "list"] => E::SessionList,
        ["atoll", "copies"] => E::Copies,
        ["acl", ..] => E::Acl(AclPath::find(&parts[1..])?),
        _ => return further(&parts).or_else(|| unsupported(path)),
    })
}

/// What has a table of its own.
fn further(parts: &[&str]) -> Option<Endpoint> {
    use Endpoint as E;
    if let Some(empty) = mesh::Empty::find(parts) {
        return Some(E::Mesh(empty));
    }
    match parts {
        ["agent", below @ ..] => machine::Endpoint::find(below).map(E::Machine),
        ["config", below @ ..] => Some(E::Config(config::Endpoint::find(below))),
        ["coordinate", below @ ..] => coordinates::Endpoint::find(below).map(E::Coordinate),
        ["event", below @ ..] => events::Endpoint::find(below).map(E::Event),
        ["internal", "ui", below @ ..] => ui::Endpoint::find(below).map(E::Ui),
        ["operator", below @ ..] => operator::Endpoint::find(below).map(E::Operator),
        ["query", below @ ..] => Some(E::Query(query::Endpoint::find(below))),
        _ => None,
    }
}

fn unsupported(path: &str) -> Option<Endpoint> {
    let below = |known: &&&str| {
        let after = path.strip_prefix(**known);
        after.is_some_and(|after| after.is_empty() || after.starts_with('/'))
    };
    UNSUPPORTED
        .iter()
        .find(below)
        .copied()
        .map(Endpoint::Unsupported)
}

fn rest(parts: &[&str], from: usize) -> String {
    parts[from..].join("/")
}

impl Endpoint {
    /// Whether `?filter=` means something here, and where what it filters stands in the
    /// answer: nowhere special, or below a key.
    pub(crate) fn filtered(&self) -> Option<Option<&'static str>> {
        match self {
            Self::AgentServices
            | Self::AgentChecks
            | Self::CatalogNodes
            | Self::CatalogService(_)
            | Self::Mesh(_)
            | Self::Ui(ui::Endpoint::Nodes)
            | Self::HealthService(_)
            | Self::HealthChecks(_)
            | Self::HealthNode(_)
            | Self::HealthState(_) => Some(None),
            Self::CatalogNode(_) | Self::CatalogNodeServices(_) => Some(Some("Services")),
            _ => None,
        }
    }

    /// The methods that it takes.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::AgentServiceRegister
            | Self::AgentServiceDeregister(_)
            | Self::AgentServiceMaintenance(_)
            | Self::AgentMaintenance
            | Self::AgentCheckRegister
            | Self::AgentCheckDeregister(_)
            | Self::AgentCheckPass(_)
            | Self::AgentCheckWarn(_)
            | Self::AgentCheckFail(_)
            | Self::AgentCheckUpdate(_)
            | Self::CatalogRegister
            | Self::CatalogDeregister
            | Self::Txn
            | Self::SessionCreate
            | Self::SessionDestroy(_)
            | Self::SessionRenew(_)
            | Self::Copies => &[Method::PUT],
            Self::Kv(_) => &[Method::GET, Method::PUT, Method::DELETE],
            Self::Query(below) => below.methods(),
            Self::Event(below) => below.methods(),
            Self::Coordinate(below) => below.methods(),
            Self::Operator(below) => below.methods(),
            Self::Machine(below) => below.methods(),
            Self::Ui(below) => below.methods(),
            Self::Config(below) => below.methods(),
            Self::Mesh(below) => below.methods(),
            Self::Acl(path) => path.methods(),
            // To say that there is none, any method will do.
            Self::Unsupported(_) => &[Method::GET, Method::PUT, Method::POST, Method::DELETE],
            Self::AgentSelf
            | Self::AgentMembers
            | Self::AgentServices
            | Self::AgentService(_)
            | Self::AgentHealthById(_)
            | Self::AgentHealthByName(_)
            | Self::AgentChecks
            | Self::CatalogDatacenters
            | Self::CatalogNodes
            | Self::CatalogServices
            | Self::CatalogService(_)
            | Self::CatalogNode(_)
            | Self::CatalogNodeServices(_)
            | Self::HealthService(_)
            | Self::HealthChecks(_)
            | Self::HealthNode(_)
            | Self::HealthState(_)
            | Self::StatusLeader
            | Self::StatusPeers
            | Self::SessionInfo(_)
            | Self::SessionNode(_)
            | Self::SessionList => &[Method::GET],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_with_what_stands_in_them() {
        let id = || "web:1".to_owned();
        assert_eq!(
            find("agent/service/web:1"),
            Some(Endpoint::AgentService(id()))
        );
        assert_eq!(
            find("agent/service/register"),
            Some(Endpoint::AgentServiceRegister)
        );
        assert_eq!(
            find("agent/check/pass/service:a/b"),
            Some(Endpoint::AgentCheckPass("service:a/b".to_owned()))
        );
        assert_eq!(
            find("acl/token/self"),
            Some(Endpoint::Acl(AclPath::TokenSelf))
        );
        assert_eq!(find("configuration"), None);
        assert_eq!(find("agent/service/a/b"), None);
        assert_eq!(find(""), None);
    }
}
