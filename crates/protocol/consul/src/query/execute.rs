//! Finding a query by what it was called, and running it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::Instance;
use atoll_net::serve::Peer;
use http::StatusCode;
use serde_json::{Value, json};

use super::definition::{Definition, Wanted};
use super::{NAMES, QUERIES, TEMPLATES, failed, folded, id_of, not_found, template};
use crate::catalog::named;
use crate::server::{Answer, Asked, Front};
use crate::translate::{self, Node};
use crate::wire::{Refusal, Reply};

/// Prepared queries for whoever else answers by them: DNS.
#[derive(Clone)]
pub struct Queries(pub(crate) Arc<Front>);

/// What running a query gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whom it found, the nearest first, else in random order.
    pub instances: Vec<Arc<Instance>>,
    /// How long DNS may keep it, when the query says so.
    pub ttl: Option<Duration>,
}

/// Why a query could not be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// There is none of that name.
    Unknown,
    /// There is one, and what it needs cannot be read; the text says why.
    Failed(String),
}

impl std::fmt::Display for QueryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("there is no such prepared query"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for QueryError {}

impl Queries {
    /// Runs the query that is called `name`, or has it as its id, for `client`.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn run(&self, name: &str, client: IpAddr) -> Result<Run, QueryError> {
        let wrong = |refusal: Refusal| match refusal.status {
            StatusCode::NOT_FOUND => QueryError::Unknown,
            _ => QueryError::Failed(refusal.text),
        };
        let (_, query) = self.0.resolve(name).await.map_err(wrong)?;
        let found = self
            .0
            .found(&query, "", Some(client))
            .await
            .map_err(wrong)?;
        Ok(Run {
            instances: found.into_iter().map(|found| found.instance).collect(),
            ttl: query.ttl(),
        })
    }
}

impl std::fmt::Debug for Queries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queries")
    }
}

/// An instance that fits, and how it is shown.
struct Found {
    instance: Arc<Instance>,
    node: Node,
    checks: Vec<Value>,
}

impl Front {
    /// The query that is meant by an id or a name: made from a template, when it is one.
    async fn resolve(&self, name: &str) -> Result<(String, Definition), Refusal> {
        if let Some(kept) = self.store.get(format!("{QUERIES}{name}")).await? {
            let query = Definition::of_kept(&kept.value).ok_or_else(not_found)?;
            if query.is_template() {
                return Err(failed(
                    "prepared query templates can only be resolved up by name, not by ID",
                ));
            }
            return Ok((id_of(&kept), query));
        }
        let name_key = format!("{NAMES}{}", folded(name));
        let owner = match self.store.get(name_key).await? {
            Some(owner) => Some(owner),
            None => self.longest_template(&folded(name)).await?,
        };
        let owner = owner.ok_or_else(not_found)?;
        let id = String::from_utf8_lossy(&owner.value).into_owned();
        let kept = self.store.get(format!("{QUERIES}{id}")).await?;
        let query = kept.and_then(|kept| Definition::of_kept(&kept.value));
        let query = query.ok_or_else(not_found)?;
        match query.is_template() {
            true => Ok((id, template::rendered(&query, name).map_err(failed)?)),
            false => Ok((id, query)),
        }
    }

    /// The template with the longest name that `name` begins with.
    async fn longest_template(
        &self,
        name: &str,
    ) -> Result<Option<Arc<atoll_store::KeyValue>>, Refusal> {
        let all = self.store.list(TEMPLATES).await?.items.into_iter();
        let fits = all.filter(|kept| {
            let prefix = kept.key.strip_prefix(TEMPLATES.as_bytes());
            prefix.is_some_and(|prefix| name.as_bytes().starts_with(prefix))
        });
        Ok(fits.max_by_key(|kept| kept.key.len()))
    }

    /// Whom a query finds; `near` is a node, asked for beside the query's own.
    async fn found(
        &self,
        query: &Definition,
        near: &str,
        client: Option<IpAddr>,
    ) -> Result<Vec<Found>, Refusal> {
        let wanted = query.wanted()?;
        let Some(service) = named(&wanted.service) else {
            return Ok(Vec::new());
        };
        let nodes = self.nodes().await?;
        let mut all = Vec::new();
        for detail in self.registry.checks(Some(service)).await? {
            let node = self.node_of(&nodes, &detail.instance);
            let mut checks = vec![translate::serf(node)];
            checks.extend(self.checks_of(&detail, node));
            if wanted.fits(&detail.instance, node, &checks) {
                all.push(Found {
                    instance: Arc::clone(&detail.instance),
                    node: node.clone(),
                    checks,
                });
            }
        }
        self.shuffle(&mut all);
        let near = if near.is_empty() { &wanted.near } else { near };
        let near = match near {
            "_agent" => Some(self.node.name.clone()),
            "_ip" => nodes.values().find_map(|node| {
                let here = node.address.parse().ok() == client;
                (here && client.is_some()).then(|| node.name.clone())
            }),
            near => Some(near.to_owned()),
        };
        // All other nodes are equally far.
        all.sort_by_key(|found| Some(&found.node.name) != near.as_ref());
        Ok(all)
    }

    fn shuffle<T>(&self, list: &mut [T]) {
        let mut random = self.random();
        for at in (1..list.len()).rev() {
            list.swap(at, random.below(at + 1));
        }
    }

    pub(super) async fn query_execute(&self, name: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let limit = asked.query.get("limit").filter(|text| !text.is_empty());
        let limit: i64 = match limit {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| failed(format!("Bad limit: {text:?} is no number")))?,
        };
        if asked.query.has("connect") {
            return Err(Refusal::unsupported("?connect"));
        }
        let (_, query) = self.resolve(name).await?;
        let near = asked.query.get("near").unwrap_or_default();
        let mut found = self.found(&query, near, client(asked)).await?;
        if let Some(limit) = usize::try_from(limit).ok().filter(|limit| *limit > 0) {
            found.truncate(limit);
        }
        let rows = found.iter().map(|found| {
            let times = self.view.times(&found.instance);
            json!({
                "Node": translate::node(&found.node),
                "Service": translate::health_service(&found.instance, times),
                "Checks": found.checks,
            })
        });
        let answer = json!({
            "Service": query.wanted()?.service,
            "Nodes": rows.collect::<Vec<_>>(),
            "DNS": query.dns(),
            "Datacenter": self.node.datacenter,
            // Datacenters that nobody knows are passed over without being counted.
            "Failovers": 0,
        });
        Ok(Reply::json(answer).into())
    }

    pub(super) async fn query_explain(&self, name: &str) -> Result<Answer, Refusal> {
        let (id, query) = self.resolve(name).await?;
        Ok(Reply::json(json!({ "Query": query.shown(&id) })).into())
    }
}

/// Whose address `_ip` stands for.
fn client(asked: &Asked) -> Option<IpAddr> {
    let told = asked.headers.get("x-forwarded-for");
    let told = told.and_then(|value| value.to_str().ok()?.split(',').next());
    match told {
        Some(address) => address.trim().parse().ok(),
        None => asked.peer.as_ref().map(|Peer(address)| address.ip()),
    }
}

impl Wanted {
    fn fits(&self, instance: &Instance, node: &Node, checks: &[Value]) -> bool {
        let sick = checks.iter().any(|check| {
            let id = check["CheckID"].as_str().unwrap_or_default();
            let ignored = self.ignored_checks.iter().any(|known| known == id);
            let status = &check["Status"];
            !ignored && (status == "critical" || self.only_passing && status != "passing")
        });
        let has_tag = |tag: &str| {
            let mut tags = instance.tags.iter();
            tags.any(|known| known.eq_ignore_ascii_case(tag))
        };
        let tagged = self.tags.iter().all(|tag| match tag.strip_prefix('!') {
            Some(tag) => !has_tag(tag),
            None => has_tag(tag),
        });
        let mut node_meta = self.node_meta.iter();
        let node_meta = node_meta.all(|(key, value)| node.meta.get(key) == Some(value));
        let mut meta = self.service_meta.iter();
        let meta = meta.all(|(key, value)| instance.metadata.get(key) == Some(value));
        !sick && tagged && node_meta && meta
    }
}
