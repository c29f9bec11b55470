//! `/v1/health`: services with their checks.

use atoll_model::ServiceName;
use atoll_registry::Detail;
use serde_json::{Value, json};

use crate::agent::go_bool;
use crate::catalog::{has_meta, has_tags, named};
use crate::server::{Answer, Asked, Front};
use crate::translate::{self, Node};
use crate::view::Topic;
use crate::wire::{Refusal, Reply};

impl Front {
    pub(crate) async fn health_service(
        &self,
        name: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        if name.is_empty() {
            return Err(Refusal::bad("Missing service name"));
        }
        let passing = match asked.query.get("passing") {
            None => false,
            Some("") => true,
            Some(text) => {
                go_bool(text).ok_or_else(|| Refusal::bad("Invalid value for ?passing"))?
            }
        };
        let Some(service) = named(name) else {
            return Ok(Answer::at(1, Reply::json(Vec::<Value>::new())));
        };
        let index = self.settled(Topic::Service(service.clone()), asked).await;
        let endpoint = format!("health/service/{service}");
        let rows = self.service_rows(service.clone(), passing, asked);
        self.told(endpoint, index, asked, rows).await
    }

    async fn service_rows(
        &self,
        service: ServiceName,
        passing: bool,
        asked: &Asked,
    ) -> Result<Value, Refusal> {
        let nodes = self.nodes().await?;
        let around = self.all_node_checks(&nodes).await?;
        let mut all = Vec::new();
        for detail in self.registry.checks(Some(service)).await? {
            let instance = &*detail.instance;
            let node = self.node_of(&nodes, instance);
            if !has_tags(instance, &asked.query) || !has_meta(node, &asked.query) {
                continue;
            }
            let mut checks = vec![translate::serf(node)];
            checks.extend(around.get(&node.name).into_iter().flatten().cloned());
            checks.extend(self.checks_of(&detail, node));
            if passing && checks.iter().any(|check| check["Status"] != "passing") {
                continue;
            }
            all.push(json!({
                "Node": translate::node(node),
                "Service": translate::health_service(instance, self.view.times(instance)),
                "Checks": checks,
            }));
        }
        Ok(Value::from(all))
    }

    /// The checks of an instance, shown.
    pub(crate) fn checks_of(&self, detail: &Detail, node: &Node) -> Vec<Value> {
        translate::checks(detail, &node.name, self.view.times(&detail.instance))
    }

    pub(crate) async fn health_checks(&self, name: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let Some(service) = named(name) else {
            return Ok(Answer::at(1, Reply::json(Vec::<Value>::new())));
        };
        let index = self.settled(Topic::Service(service.clone()), asked).await;
        let rows = async {
            let nodes = self.nodes().await?;
            let mut all = Vec::new();
            for detail in self.registry.checks(Some(service.clone())).await? {
                let node = self.node_of(&nodes, &detail.instance);
                if has_meta(node, &asked.query) {
                    all.extend(self.checks_of(&detail, node));
                }
            }
            Ok(Value::from(all))
        };
        let endpoint = format!("health/checks/{service}");
        self.told(endpoint, index, asked, rows).await
    }

    pub(crate) async fn health_node(&self, name: &str, asked: &Asked) -> Result<Answer, Refusal> {
        if name.is_empty() {
            return Err(Refusal::bad("Missing node name"));
        }
        let index = self.settled(Topic::Any, asked).await;
        let rows = async {
            let nodes = self.nodes().await?;
            let mut all: Vec<Value> = nodes.get(name).map(translate::serf).into_iter().collect();
            let mut around = self.all_node_checks(&nodes).await?;
            all.extend(around.remove(name).into_iter().flatten());
            for detail in self.registry.checks(None).await? {
                let node = self.node_of(&nodes, &detail.instance);
                if node.name == name {
                    all.extend(self.checks_of(&detail, node));
                }
            }
            Ok(Value::from(all))
        };
        let endpoint = format!("health/node/{name}");
        self.told(endpoint, index, asked, rows).await
    }

    pub(crate) async fn health_state(&self, state: &str, asked: &Asked) -> Result<Answer, Refusal> {
        if !matches!(state, "any" | "passing" | "warning" | "critical") {
            return Err(Refusal::bad(format!("Invalid check status: '{state}'")));
        }
        let index = self.settled(Topic::Any, asked).await;
        let rows = async {
            let nodes = self.nodes().await?;
            let asked_for = |node: &&Node| has_meta(node, &asked.query);
            let mut around = self.all_node_checks(&nodes).await?;
            let mut all = Vec::new();
            for node in nodes.values().filter(asked_for) {
                all.push(translate::serf(node));
                all.extend(around.remove(&node.name).into_iter().flatten());
            }
            for detail in self.registry.checks(None).await? {
                let node = self.node_of(&nodes, &detail.instance);
                if asked_for(&node) {
                    all.extend(self.checks_of(&detail, node));
                }
            }
            all.retain(|check| state == "any" || check["Status"] == state);
            Ok(Value::from(all))
        };
        let endpoint = format!("health/state/{state}");
        self.told(endpoint, index, asked, rows).await
    }
}
