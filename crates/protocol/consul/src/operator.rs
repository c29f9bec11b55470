//! `/v1/operator`: what tools poll of a cluster's servers. There is one, which leads and
//! is healthy as long as it answers; several Atolls over one etcd are each one server.

use http::Method;
use serde_json::json;

use crate::agent::VERSION;
use crate::moment::rfc3339;
use crate::server::{Answer, Asked, Front};
use crate::view::Topic;
use crate::wire::{Refusal, Reply};

/// What there is below `operator`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Raft,
    RaftChange,
    Autopilot,
    AutopilotHealth,
    AutopilotState,
    Keyring,
    Usage,
}

impl Endpoint {
    pub(crate) fn find(parts: &[&str]) -> Option<Self> {
        match parts {
            ["raft", "configuration"] => Some(Self::Raft),
            ["raft", "peer" | "transfer-leader"] => Some(Self::RaftChange),
            ["autopilot", "configuration"] => Some(Self::Autopilot),
            ["autopilot", "health"] => Some(Self::AutopilotHealth),
            ["autopilot", "state"] => Some(Self::AutopilotState),
            ["keyring"] => Some(Self::Keyring),
            ["usage"] => Some(Self::Usage),
            _ => None,
        }
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::RaftChange => &[Method::POST, Method::PUT, Method::DELETE],
            Self::Autopilot => &[Method::GET, Method::PUT],
            Self::Keyring => &[Method::GET, Method::POST, Method::PUT, Method::DELETE],
            Self::Raft | Self::AutopilotHealth | Self::AutopilotState | Self::Usage => {
                &[Method::GET]
            }
        }
    }
}

impl Front {
    pub(crate) async fn operator(
        &self,
        endpoint: Endpoint,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::Raft => Ok(Reply::json(json!({
                "Servers": [{
                    "ID": self.node.id,
                    "Node": self.node.name,
                    "Address": self.server_address(),
                    "Leader": true,
                    "ProtocolVersion": "3",
                    "Voter": true,
                    "LastIndex": self.last_index().await?,
                }],
                "Index": self.last_index().await?,
            }))
            .into()),
            Endpoint::RaftChange => Err(Refusal::because(
                "a change of servers",
                "there is one, and no Raft",
            )),
            Endpoint::Autopilot if asked.method == Method::GET => Ok(Reply::json(json!({
                "CleanupDeadServers": true,
                "LastContactThreshold": "200ms",
                "MaxTrailingLogs": 250,
                "MinQuorum": 0,
                "ServerStabilizationTime": "10s",
                "RedundancyZoneTag": "",
                "DisableUpgradeMigration": false,
                "UpgradeVersionTag": "",
                "CreateIndex": 1,
                "ModifyIndex": 1,
            }))
            .into()),
            Endpoint::Autopilot => Err(Refusal::because(
                "a change of autopilot's configuration",
                "there are no other servers that it could steer",
            )),
            Endpoint::AutopilotHealth => self.autopilot_health().await,
            Endpoint::AutopilotState => self.autopilot_state().await,
            Endpoint::Keyring => Err(Refusal::because(
                "/v1/operator/keyring",
                "there is no gossip that could be encrypted",
            )),
            Endpoint::Usage => self.usage(asked).await,
        }
    }

    fn server_address(&self) -> String {
        format!("{}:8300", self.node.address)
    }

    /// The store's revision, which is what Raft's index is for Consul.
    async fn last_index(&self) -> Result<u64, Refusal> {
        let nothing = atoll_store::Range::of("consul/marks/none").limit(1);
        Ok(self.store.read(nothing).await?.revision.0)
    }

    async fn autopilot_health(&self) -> Result<Answer, Refusal> {
        let answer = json!({
            "Healthy": true,
            "FailureTolerance": 0,
            "Servers": [{
                "ID": self.node.id,
                "Name": self.node.name,
                "Address": self.server_address(),
                "SerfStatus": "alive",
                "Version": VERSION,
                "Leader": true,
                "LastContact": "0s",
                "LastTerm": 1,
                "LastIndex": self.last_index().await?,
                "Healthy": true,
                "Voter": true,
                "StableSince": rfc3339(self.started_unix_ms),
            }],
        });
        Ok(Reply::json(answer).into())
    }

    async fn autopilot_state(&self) -> Result<Answer, Refusal> {
        let id = &self.node.id;
        let server = json!({
            "ID": id,
            "Name": self.node.name,
            "Address": self.server_address(),
            "NodeStatus": "alive",
            "Version": VERSION,
            "LastContact": "0s",
            "LastTerm": 1,
            "LastIndex": self.last_index().await?,
            "Healthy": true,
            "StableSince": rfc3339(self.started_unix_ms),
            "ReadReplica": false,
            "Status": "leader",
            "Meta": self.node.meta,
            "NodeType": "voter",
        });
        let answer = json!({
            "Healthy": true,
            "FailureTolerance": 0,
            "OptimisticFailureTolerance": 0,
            "Servers": { id: server },
            "Leader": id,
            "Voters": [id],
        });
        Ok(Reply::json(answer).into())
    }

    async fn usage(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let index = self.settled(Topic::Any, asked).await;
        let catalog = self.registry.current();
        let instances: usize = catalog.services.values().map(|list| list.len()).sum();
        let answer = json!({
            "Usage": {
                &self.node.datacenter: {
                    "Nodes": self.nodes().await?.len(),
                    "Services": catalog.services.len(),
                    "ServiceInstances": instances,
                    "ConnectServiceInstances": {
                        "connect-native": 0,
                        "connect-proxy": 0,
                        "ingress-gateway": 0,
                        "mesh-gateway": 0,
                        "terminating-gateway": 0,
                    },
                    "BillableServiceInstances": 0,
                },
            },
            "Index": index,
            "LastContact": 0,
            "KnownLeader": true,
            "ConsistencyLevel": "leader",
            "NotModified": false,
            "Backend": 0,
            "ResultsFilteredByACLs": false,
        });
        Ok(Answer::at(index, Reply::Json(http::StatusCode::OK, answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_enterprise_has_is_not_found() {
        assert_eq!(Endpoint::find(&["area"]), None);
        assert_eq!(Endpoint::find(&["usage"]), Some(Endpoint::Usage));
        assert_eq!(Endpoint::find(&["usage", "x"]), None);
    }
}
