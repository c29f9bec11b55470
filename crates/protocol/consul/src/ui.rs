//! `/v1/internal/ui`: what Consul's page polls, and tools that draw the same picture.
//!
//! None of it is documented; the shapes are those of `agent/ui_endpoint.go` and of
//! `structs.CatalogSummary`.

use std::collections::{BTreeMap, BTreeSet};

use atoll_registry::Detail;
use http::Method;
use serde_json::{Value, json};

use crate::acl::Resource;
use crate::catalog::Nodes;
use crate::server::{Answer, Asked, Front};
use crate::translate::{self, Node, definition, shown_name};
use crate::view::Topic;
use crate::wire::{Refusal, Reply};

/// What there is below `internal/ui`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Nodes,
    Node(String),
    Services,
    Overview,
}

impl Endpoint {
    pub(crate) fn find(parts: &[&str]) -> Option<Self> {
        match parts {
            ["nodes"] => Some(Self::Nodes),
            ["node", name] => Some(Self::Node((*name).to_owned())),
            ["services"] => Some(Self::Services),
            ["catalog-overview"] => Some(Self::Overview),
            _ => None,
        }
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        &[Method::GET]
    }
}

/// How many checks, services or nodes stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passing: u64,
    warning: u64,
    critical: u64,
}

impl Tally {
    fn add(&mut self, status: &str) {
        match status {
            "passing" => self.passing += 1,
            "warning" => self.warning += 1,
            _ => self.critical += 1,
        }
    }

    fn total(self) -> u64 {
        self.passing + self.warning + self.critical
    }

    fn shown(self, name: Option<&str>) -> Value {
        let mut shown = json!({
            "Total": self.total(),
            "Passing": self.passing,
            "Warning": self.warning,
            "Critical": self.critical,
        });
        if let Some(name) = name {
            shown["Name"] = json!(name);
        }
        shown
    }
}

/// All that is known, with the checks of each instance.
struct Picture {
    nodes: Nodes,
    details: Vec<Detail>,
}

impl Picture {
    /// The instances of each node, by its name.
    fn by_node<'p>(&'p self, front: &'p Front) -> BTreeMap<&'p str, Vec<&'p Detail>> {
        let mut all: BTreeMap<&str, Vec<&Detail>> = BTreeMap::new();
        for detail in &self.details {
            let node = front.node_of(&self.nodes, &detail.instance);
            all.entry(&node.name).or_default().push(detail);
        }
        all
    }
}

impl Front {
    pub(crate) async fn ui(&self, endpoint: Endpoint, asked: &Asked) -> Result<Answer, Refusal> {
        let index = self.settled(Topic::Any, asked).await;
        let picture = Picture {
            nodes: self.nodes().await?,
            details: self.registry.checks(None).await?,
        };
        let picture = self.seen(picture, asked)?;
        let reply = match endpoint {
            Endpoint::Nodes => {
                let here = picture.by_node(self);
                let nodes = picture.nodes.values();
                let nodes = nodes.map(|node| self.ui_node(node, here.get(&node.name[..])));
                Reply::json(nodes.collect::<Vec<_>>())
            }
            Endpoint::Node(name) => match picture.nodes.get(&name) {
                Some(node) => {
                    let here = picture.by_node(self);
                    Reply::json(self.ui_node(node, here.get(&name[..])))
                }
                None => Reply::Absent,
            },
            Endpoint::Services => Reply::json(self.ui_services(&picture)),
            Endpoint::Overview => Reply::json(self.ui_overview(&picture)),
        };
        Ok(Answer::at(index, reply))
    }

    /// What of it the caller may see: all figures are of that alone.
    fn seen(&self, mut picture: Picture, asked: &Asked) -> Result<Picture, Refusal> {
        let authority = asked.caller.who()?.authority;
        let node = |name: &str| authority.reads(Resource::Node, name);
        let before = (picture.details.len(), picture.nodes.len());
        let nodes = &picture.nodes;
        picture.details.retain(|detail| {
            let instance = &detail.instance;
            node(&self.node_of(nodes, instance).name)
                && authority.reads(Resource::Service, instance.service.as_str())
        });
        picture.nodes.retain(|name, _| node(name));
        if before != (picture.details.len(), picture.nodes.len()) {
            asked.caller.note_filtered();
        }
        Ok(picture)
    }

    fn ui_node(&self, node: &Node, here: Option<&Vec<&Detail>>) -> Value {
        let (mut services, mut checks) = (Vec::new(), vec![translate::serf(node)]);
        for detail in here.into_iter().flatten() {
            let times = self.view.times(&detail.instance);
            services.push(translate::health_service(&detail.instance, times));
            checks.extend(self.checks_of(detail, node));
        }
        let mut shown = translate::node(node);
        shown["Services"] = Value::Array(services);
        shown["Checks"] = Value::Array(checks);
        shown
    }

    fn ui_services(&self, picture: &Picture) -> Vec<Value> {
        #[derive(Default)]
        struct Summary {
            tags: BTreeSet<String>,
            nodes: BTreeSet<String>,
            instances: u64,
            checks: Tally,
        }
        let mut all: BTreeMap<String, Summary> = BTreeMap::new();
        for detail in &picture.details {
            let instance = &*detail.instance;
            let node = self.node_of(&picture.nodes, instance);
            let name = shown_name(instance, &definition(instance)).to_owned();
            let summary = all.entry(name).or_default();
            summary.tags.extend(instance.tags.iter().cloned());
            // The checks of a node count once for each service on it.
            if summary.nodes.insert(node.name.clone()) {
                summary.checks.add(status(&translate::serf(node)));
            }
            summary.instances += 1;
            let checks = self.checks_of(detail, node);
            checks
                .iter()
                .for_each(|check| summary.checks.add(status(check)));
        }
        let shown = all.into_iter().map(|(name, summary)| {
            json!({
                "Name": name,
                "Datacenter": self.node.datacenter,
                "Tags": summary.tags,
                "Nodes": summary.nodes,
                "ExternalSources": null,
                "InstanceCount": summary.instances,
                "ChecksPassing": summary.checks.passing,
                "ChecksWarning": summary.checks.warning,
                "ChecksCritical": summary.checks.critical,
                "GatewayConfig": {},
                "TransparentProxy": false,
                "ConnectNative": false,
                "ConnectedWithProxy": false,
                "ConnectedWithGateway": false,
            })
        });
        shown.collect()
    }

    fn ui_overview(&self, picture: &Picture) -> Value {
        let mut nodes = Tally::default();
        let mut services: BTreeMap<String, Tally> = BTreeMap::new();
        let mut checks: BTreeMap<String, Tally> = BTreeMap::new();
        for node in picture.nodes.values() {
            let serf = translate::serf(node);
            nodes.add(status(&serf));
            let name = serf["Name"].as_str().unwrap_or_default().to_owned();
            checks.entry(name).or_default().add(status(&serf));
        }
        for detail in &picture.details {
            let instance = &*detail.instance;
            let own = self.checks_of(detail, self.node_of(&picture.nodes, instance));
            for check in &own {
                let name = check["Name"].as_str().unwrap_or_default().to_owned();
                checks.entry(name).or_default().add(status(check));
            }
            let name = shown_name(instance, &definition(instance)).to_owned();
            // A service in maintenance takes nothing, as a critical one.
            services
                .entry(name)
                .or_default()
                .add(translate::aggregate(&own));
        }
        let named = |all: BTreeMap<String, Tally>| -> Vec<Value> {
            all.iter()
                .map(|(name, tally)| tally.shown(Some(name)))
                .collect()
        };
        json!({
            "Nodes": [nodes.shown(None)],
            "Services": named(services),
            "Checks": named(checks),
        })
    }
}

fn status(check: &Value) -> &str {
    check["Status"].as_str().unwrap_or_default()
}
