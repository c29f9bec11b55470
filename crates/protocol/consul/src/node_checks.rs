//! Checks of nodes, and nodes out for maintenance: what of a node counts for all that is
//! on it.
//!
//! The registry knows a node from its first check on, and forgets it with the last.

use std::collections::BTreeMap;

use atoll_model::{Address, Health, InstanceId};
use atoll_registry::{Detail, NodeRegistration};
use http::StatusCode;
use serde_json::Value;

use crate::agent::{enabled, gone, unknown_check};
use crate::catalog::Nodes;
use crate::checks::{self, Owner, Parsed};
use crate::server::{Answer, Asked, Front};
use crate::stored::{self, CheckDefinition, DEFINITION, Definition};
use crate::translate::{self, Node, definition, node_id, status_of};
use crate::wire::{Fields, Refusal, Reply};

/// What Consul says when nobody gave a reason.
const MAINTENANCE: &str = "Maintenance mode is enabled for this node, but no reason was provided. This is a default message.";

/// The port of a node's address where one is needed; its checks have their own.
const NO_PORT: u16 = 1;

/// What is shown of all nodes' checks, by the nodes' names.
pub(crate) type NodeChecks = BTreeMap<String, Vec<Value>>;

impl Front {
    /// A node as the registry knows it.
    fn known_as(&self, node: &str) -> Result<Option<InstanceId>, Refusal> {
        if node == self.node.name {
            return Ok(None);
        }
        node_id(node).map(Some)
    }

    /// The checks of all nodes, but those that every node has.
    pub(crate) async fn all_node_checks(&self, nodes: &Nodes) -> Result<NodeChecks, Refusal> {
        let mut all = NodeChecks::new();
        for (id, detail) in self.registry.nodes().await? {
            let name = id.map_or_else(|| self.node.name.clone(), |id| id.to_string());
            if let Some(node) = nodes.get(&name) {
                all.insert(name, shown(&detail, node));
            }
        }
        Ok(all)
    }

    /// The checks of our own node, but the one that every node has.
    pub(crate) async fn own_node_checks(&self) -> Result<Vec<Value>, Refusal> {
        let known = self.registry.node(None).await?;
        Ok(known.map_or_else(Vec::new, |detail| shown(&detail, &self.node)))
    }

    /// Whether a node has a check of this id.
    pub(crate) async fn has_node_check(&self, node: &str, id: &str) -> Result<bool, Refusal> {
        // What no node can be called has none.
        let Ok(node) = self.known_as(node) else {
            return Ok(false);
        };
        let known = self.registry.node(node).await?;
        let checks = known.iter().flat_map(|known| &known.checks);
        Ok(checks.into_iter().any(|report| report.check.name == id))
    }

    /// Changes the checks of a node.
    async fn change_node(
        &self,
        node: &Node,
        change: impl FnOnce(&mut Definition, &mut Vec<atoll_model::Check>),
    ) -> Result<(), Refusal> {
        let id = self.known_as(&node.name)?;
        let known = self.registry.node(id.clone()).await?;
        let mut definition = known.as_ref().map(|known| definition(&known.instance));
        let mut definition = definition.take().unwrap_or_default();
        let reports = known.iter().flat_map(|known| &known.checks);
        let mut checks = reports.map(|report| report.check.clone()).collect();
        change(&mut definition, &mut checks);
        let in_use = known.is_some_and(|known| known.maintenance.is_some());
        if checks.is_empty() && !in_use {
            return gone(self.registry.deregister_node(id).await);
        }
        self.put_node_checks(node, id, checks, &definition).await
    }

    async fn put_node_checks(
        &self,
        node: &Node,
        id: Option<InstanceId>,
        checks: Vec<atoll_model::Check>,
        definition: &Definition,
    ) -> Result<(), Refusal> {
        // A node may have been registered at something else than an address.
        let address = Address::new(&node.address, NO_PORT)
            .or_else(|_| Address::new("127.0.0.1", NO_PORT))
            .map_err(|error| Refusal::bad(error.to_string()))?;
        let metadata = [(DEFINITION.to_owned(), stored::write(definition))];
        let registration = NodeRegistration {
            node: id,
            address,
            checks,
            metadata: metadata.into(),
        };
        self.registry.register_node(registration).await?;
        Ok(())
    }

    /// Registers a check of a node; one that is told says so each time (`anew`), or only
    /// if it was not known.
    async fn put_node_check(&self, node: &Node, parsed: Parsed, anew: bool) -> Result<(), Refusal> {
        let _alone = self.lock(&format!("@{}", node.name)).await;
        let name = parsed.shown.id.clone();
        let mut known = false;
        self.change_node(node, |shown, checks| {
            known = checks.iter().any(|check| check.name == name);
            shown.checks.retain(|known| known.id != name);
            checks.retain(|known| known.name != name);
            shown.checks.push(parsed.shown);
            checks.push(parsed.check);
        })
        .await?;
        if let Some((health, output)) = parsed.first.filter(|_| anew || !known) {
            let node = self.known_as(&node.name)?;
            self.registry
                .report_node_check(node, name, health, output)
                .await?;
        }
        self.view.caught_up(self.registry.current().revision).await;
        Ok(())
    }

    /// `agent/check/register` without a ServiceID.
    pub(crate) async fn agent_node_check(
        &self,
        fields: &Fields,
        name: &str,
    ) -> Result<Answer, Refusal> {
        let parsed = checks::check(fields, Owner::Node, name, &self.node)?;
        self.put_node_check(&self.node, parsed, false).await?;
        Ok(Reply::Nothing.into())
    }

    /// A check without a ServiceID in `catalog/register`.
    pub(crate) async fn tell_node(&self, node: &Node, check: &Fields) -> Result<(), Refusal> {
        let usual = check.text("name")?;
        let parsed = checks::told(check, Owner::Node, &usual)?;
        if parsed.shown.id.is_empty() {
            return Err(Refusal::bad("Must provide CheckID or Name of a check"));
        }
        if parsed.shown.id == "serfHealth" {
            // Whoever can be asked has it already, and it is always passing.
            return Ok(());
        }
        self.put_node_check(node, parsed, true).await
    }

    /// Forgets a check of a node; false when it has none of this name.
    pub(crate) async fn forget_node_check(&self, node: &Node, id: &str) -> Result<bool, Refusal> {
        let _alone = self.lock(&format!("@{}", node.name)).await;
        let mut had = false;
        let known = self.known_as(&node.name)?;
        if self.registry.node(known).await?.is_none() {
            return Ok(false);
        }
        self.change_node(node, |shown, checks| {
            had = checks.iter().any(|check| check.name == id);
            shown.checks.retain(|known| known.id != id);
            checks.retain(|known| known.name != id);
        })
        .await?;
        self.view.caught_up(self.registry.current().revision).await;
        Ok(had)
    }

    /// Forgets all that is known of a node.
    pub(crate) async fn forget_node(&self, node: &str) -> Result<(), Refusal> {
        let known = self.known_as(node)?;
        gone(self.registry.deregister_node(known).await)
    }

    /// `agent/check/pass` and its like, for a TTL check of our node.
    pub(crate) async fn node_said(
        &self,
        check: &str,
        health: Health,
        output: String,
    ) -> Result<Answer, Refusal> {
        let known = self.registry.node(None).await?;
        let known = known.map(|detail| definition(&detail.instance).checks);
        let known = known.unwrap_or_default();
        let known = known.iter().find(|known| known.id == check);
        let known = known.ok_or_else(|| unknown_check(check))?;
        if known.kind != "ttl" {
            let text = format!("CheckID {check:?} does not have associated TTL");
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        self.registry
            .report_node_check(None, check.to_owned(), health, output)
            .await?;
        Ok(Reply::Nothing.into())
    }

    /// `agent/maintenance`.
    pub(crate) async fn agent_node_maintenance(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let enable = enabled(asked)?;
        let reason = asked.query.get("reason");
        let reason = reason.filter(|reason| !reason.is_empty());
        let word = enable.then(|| reason.unwrap_or(MAINTENANCE).to_owned());
        let _alone = self.lock(&format!("@{}", self.node.name)).await;
        let known = self.registry.node(None).await?;
        match (&known, enable) {
            (None, false) => return Ok(Reply::Nothing.into()),
            (None, true) => {
                let none = Definition::default();
                self.put_node_checks(&self.node, None, Vec::new(), &none)
                    .await?;
            }
            (Some(_), _) => {}
        }
        self.registry.report_node(None, word).await?;
        if !enable && known.is_some_and(|known| known.checks.is_empty()) {
            gone(self.registry.deregister_node(None).await)?;
        }
        self.view.caught_up(self.registry.current().revision).await;
        Ok(Reply::Nothing.into())
    }
}

/// The checks of a node, its maintenance among them.
fn shown(detail: &Detail, node: &Node) -> Vec<Value> {
    let known = definition(&detail.instance).checks;
    let times = (node.created, node.modified);
    let mut all = Vec::new();
    for report in &detail.checks {
        let known = known.iter().find(|known| known.id == report.check.name);
        let known = known.cloned().unwrap_or_else(|| CheckDefinition {
            id: report.check.name.clone(),
            name: report.check.name.clone(),
            kind: report.check.probe.kind().to_owned(),
            ..CheckDefinition::default()
        });
        let status = status_of(report.health);
        let row = translate::check_row(&node.name, None, &known, (status, &report.output), times);
        all.push(row);
    }
    if let Some(reason) = &detail.maintenance {
        let known = CheckDefinition {
            id: "_node_maintenance".to_owned(),
            name: "Node Maintenance Mode".to_owned(),
            notes: reason.clone(),
            ..CheckDefinition::default()
        };
        all.push(translate::check_row(
            &node.name,
            None,
            &known,
            ("critical", ""),
            times,
        ));
    }
    all
}
