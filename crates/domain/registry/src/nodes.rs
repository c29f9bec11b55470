//! Nodes: machines (or agents) on which instances are. What is known of one, its checks
//! and whether it is out for maintenance, counts for all instances on it.
//!
//! The registry keeps a node as it keeps an instance, of a service that no instance can
//! have and no catalogue shows; so its checks are scheduled, damped, told, kept and
//! restored like all others. Nobody has to register a node for instances to be on it.

use std::collections::BTreeMap;

use atoll_model::{Address, Check, Health, InstanceId, Revision, ServiceName};

use crate::{Detail, Registration, Registry, RegistryError, Source, Word};

/// What our own node is called among nodes.
const OURS: &str = "@";

/// A request to register a node, or to register it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRegistration {
    /// Which; `None` is ours.
    pub node: Option<InstanceId>,
    /// Where it is; checks that name no address of their own ask there.
    pub address: Address,
    /// Its checks.
    pub checks: Vec<Check>,
    /// Metadata.
    pub metadata: BTreeMap<String, String>,
}

/// The id under which a node is kept.
pub(crate) fn id_of(node: Option<&InstanceId>) -> Result<InstanceId, RegistryError> {
    let invalid = |reason: String| RegistryError::Invalid {
        field: "node",
        reason,
    };
    match node {
        None => OURS.parse().map_err(|error| invalid(format!("{error}"))),
        Some(node) if node.as_str() == OURS => Err(invalid(format!("`{OURS}` is our own node"))),
        Some(node) => Ok(node.clone()),
    }
}

/// The node that is kept under an id; `None` is ours.
pub(crate) fn node_of(id: &InstanceId) -> Option<InstanceId> {
    (id.as_str() != OURS).then(|| id.clone())
}

impl Registry {
    /// Registers a node with its checks, or replaces them; acknowledged once durable.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub async fn register_node(
        &self,
        registration: NodeRegistration,
    ) -> Result<Revision, RegistryError> {
        let id = id_of(registration.node.as_ref())?;
        let nodes = ServiceName::of_nodes();
        self.register(Registration {
            checks: registration.checks,
            metadata: registration.metadata,
            ..Registration::new(nodes, id, registration.address, Source::Client)
        })
        .await
    }

    /// Forgets a node: its checks end, and count no more for what is on it.
    ///
    /// # Errors
    /// As [`Registry::deregister`].
    pub async fn deregister_node(
        &self,
        node: Option<InstanceId>,
    ) -> Result<Revision, RegistryError> {
        let id = id_of(node.as_ref())?;
        self.deregister(ServiceName::of_nodes(), id, Source::Client)
            .await
    }

    /// Takes a node that is registered out for maintenance, with the reason, or back in.
    ///
    /// # Errors
    /// As [`Registry::report_health`].
    pub async fn report_node(
        &self,
        node: Option<InstanceId>,
        maintenance: Option<String>,
    ) -> Result<Revision, RegistryError> {
        let id = id_of(node.as_ref())?;
        let word = Word::Maintenance(maintenance);
        self.report_health(ServiceName::of_nodes(), id, word).await
    }

    /// Takes in what somebody says of one check of a node.
    ///
    /// # Errors
    /// As [`Registry::report_check`].
    pub async fn report_node_check(
        &self,
        node: Option<InstanceId>,
        check: String,
        health: Health,
        output: String,
    ) -> Result<Revision, RegistryError> {
        let id = id_of(node.as_ref())?;
        self.report_check(ServiceName::of_nodes(), id, check, health, output)
            .await
    }

    /// All that is known of a node; `None` when it was not registered.
    ///
    /// # Errors
    /// [`RegistryError::Closed`].
    pub async fn node(&self, node: Option<InstanceId>) -> Result<Option<Detail>, RegistryError> {
        let id = id_of(node.as_ref())?;
        match self.detail(ServiceName::of_nodes(), id).await {
            Ok(detail) => Ok(Some(detail)),
            Err(RegistryError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that is known of all nodes that were registered, ours as `None`.
    ///
    /// # Errors
    /// [`RegistryError::Closed`].
    pub async fn nodes(&self) -> Result<Vec<(Option<InstanceId>, Detail)>, RegistryError> {
        let all = self.checks(Some(ServiceName::of_nodes())).await?;
        let all = all.into_iter();
        Ok(all
            .map(|detail| (node_of(&detail.instance.id), detail))
            .collect())
    }
}
