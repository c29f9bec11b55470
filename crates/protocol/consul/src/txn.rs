//! `/v1/txn`: several operations, all or none.
//!
//! Keys and the records of nodes stand in the store, and change in one transaction of
//! its. Services and checks are the registry's, which has no transactions: so everything
//! is tried first, as if all before it were done, then the store's part is committed, and
//! then the registry's done in order. What that is weaker in is in SPEC.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_model::{Instance, Revision};
use atoll_registry::Source;
use atoll_store::{Op, Order, Test};
use http::StatusCode;
use serde_json::{Value, json};

use crate::acl::{Access, Resource, Who};
use crate::catalog::Nodes;
use crate::keys::NODES;
use crate::kv::{self, Failures, Held, KvOp};
use crate::server::{Answer, Asked, Front};
use crate::stored;
use crate::translate::{self, Node};
use crate::wire::{Fields, Refusal, Reply};

/// Consul's limit of a transaction.
const OPS_MAX: usize = 64;
/// Times that the store's part is tried while others change the same.
const ATTEMPTS_MAX: usize = 64;
/// Consul's limit of a node's name.
const NODE_CHARS_MAX: usize = 128;

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TxnOp {
    Kv(KvOp),
    Catalog(Verb, What),
}

/// What is done with something of the catalogue; a number is its ModifyIndex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Set,
    Cas(u64),
    Get,
    Delete,
    DeleteCas(u64),
}

/// With what: the objects as they were sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    Node(Value),
    Service { node: String, service: Value },
    Check(Value),
}

/// Reads the body of a request.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<TxnOp>, Refusal> {
    let list: Vec<Value> = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad(format!("Failed to parse body: {error}")))?;
    if list.len() > OPS_MAX {
        let text = format!(
            "Transaction contains too many operations ({} > {OPS_MAX})",
            list.len()
        );
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    list.into_iter().map(parse_op).collect()
}

fn parse_op(op: Value) -> Result<TxnOp, Refusal> {
    let fields = Fields::of(op, "an operation")?;
    if let Some(op) = fields.object("kv")? {
        return kv::parse_op(&op).map(TxnOp::Kv);
    }
    for kind in ["node", "service", "check"] {
        let Some(op) = fields.object(kind)? else {
            continue;
        };
        let object = op.object(kind)?.unwrap_or_default();
        let index = object.number("modifyindex")?.unwrap_or(0);
        let verb = match &op.text("verb")?[..] {
            "set" => Verb::Set,
            "cas" => Verb::Cas(index),
            "get" => Verb::Get,
            "delete" => Verb::Delete,
            "delete-cas" => Verb::DeleteCas(index),
            other => return Err(Refusal::bad(format!("unknown {kind} verb {other:?}"))),
        };
        let object = op.raw(kind).cloned().unwrap_or_default();
        let what = match kind {
            "node" => What::Node(object),
            "service" => What::Service {
                node: op.text("node")?,
                service: object,
            },
            _ => What::Check(object),
        };
        return Ok(TxnOp::Catalog(verb, what));
    }
    Err(Refusal::bad(
        "an operation has none of KV, Node, Service and Check",
    ))
}

/// What has an operation of the catalogue to do with.
#[derive(Debug)]
enum Target {
    Node(String),
    Service { node: String, id: String },
    Check { node: String, id: String },
}

impl Verb {
    fn sets(self) -> bool {
        matches!(self, Self::Set | Self::Cas(_))
    }
}

/// What `catalog/register` or `catalog/deregister` would be sent to do the same.
fn body_of(verb: Verb, target: &Target, object: Option<&Value>) -> Value {
    match (target, object) {
        (Target::Service { node, .. }, Some(service)) if verb.sets() => {
            json!({ "Node": node, "SkipNodeUpdate": true, "Service": service })
        }
        (Target::Check { node, .. }, Some(check)) if verb.sets() => {
            json!({ "Node": node, "SkipNodeUpdate": true, "Check": check })
        }
        (Target::Node(node), _) => json!({ "Node": node }),
        (Target::Service { node, id }, _) => json!({ "Node": node, "ServiceID": id }),
        (Target::Check { node, id }, _) => json!({ "Node": node, "CheckID": id }),
    }
}

/// The catalogue as operations are tried on it.
struct Draft<'f> {
    front: &'f Front,
    who: &'f Who,
    nodes: Nodes,
    /// Services that the operations themselves register or remove, by node and id.
    services: BTreeMap<(String, String), bool>,
    /// The same of checks.
    checks: BTreeMap<(String, String), bool>,
    /// Nodes that they write; each may be once.
    written: BTreeSet<String>,
    compares: Vec<(String, u64)>,
    puts: Vec<Op>,
}

/// Why an operation is not done: alone, or with all that is asked.
enum Wrong {
    Failed(String),
    Refused(Refusal),
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Self {
        match refusal.status {
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::FORBIDDEN => {
                Self::Failed(refusal.text)
            }
            _ => Self::Refused(refusal),
        }
    }
}

fn stale<T>(what: impl std::fmt::Display) -> Result<T, Wrong> {
    Err(Wrong::Failed(format!("failed to {what}, index is stale")))
}

fn missing<T>(what: impl std::fmt::Display) -> Result<T, Wrong> {
    Err(Wrong::Failed(format!("{what} doesn't exist")))
}

impl Draft<'_> {
    async fn try_op(&mut self, verb: Verb, what: &What) -> Result<Target, Wrong> {
        match what {
            What::Node(object) => self.try_node(verb, object),
            What::Service { node, service } => self.try_service(verb, node, service).await,
            What::Check(object) => self.try_check(verb, object).await,
        }
    }

    fn try_node(&mut self, verb: Verb, object: &Value) -> Result<Target, Wrong> {
        let fields = Fields::of(object.clone(), "Node")?;
        let (id, name) = (fields.text("id")?, fields.text("node")?);
        // The id counts before the name.
        let by_id = self
            .nodes
            .values()
            .find(|node| !id.is_empty() && node.id.eq_ignore_ascii_case(&id));
        let given = name.clone();
        let name = by_id.map_or(name, |node| node.name.clone());
        let access = match verb {
            Verb::Get => Access::Read,
            _ => Access::Write,
        };
        if !self.who.authority.allows(Resource::Node, &name, access) {
            // Whose id it is is not told.
            return Err(self.who.lacks(Resource::Node, &given, access).into());
        }
        if name.is_empty() || name.contains('/') || name.len() > NODE_CHARS_MAX {
            return Err(Wrong::Failed(format!("Invalid node name {name:?}")));
        }
        let known = self.nodes.get(&name).map(|node| node.modified);
        match (verb, known) {
            (Verb::Get, None) => return missing(format_args!("node {name:?}")),
            (Verb::Cas(index), known) if index != known.unwrap_or(0) => {
                return stale(format_args!("set node {name:?}"));
            }
            (Verb::DeleteCas(index), known) if known != Some(index) => {
                return stale(format_args!("delete node {name:?}"));
            }
            _ => {}
        }
        let own = name == self.front.node.name;
        if verb != Verb::Get && !self.written.insert(name.clone()) {
            let text = format!("node {name:?} is written by more than one operation");
            return Err(Wrong::Failed(text));
        }
        match verb {
            Verb::Get => {}
            Verb::Delete | Verb::DeleteCas(_) if own => {
                let text = "the agent's own node cannot be deleted";
                return Err(Wrong::Failed(text.to_owned()));
            }
            Verb::Delete | Verb::DeleteCas(_) => {
                self.nodes.remove(&name);
            }
            // Ours is what the machine is.
            Verb::Set | Verb::Cas(_) if own => {}
            Verb::Set | Verb::Cas(_) => self.put_node(&name, id, &fields, verb)?,
        }
        Ok(Target::Node(name))
    }

    fn put_node(
        &mut self,
        name: &str,
        id: String,
        fields: &Fields,
        verb: Verb,
    ) -> Result<(), Wrong> {
        let address = fields.text("address")?;
        if address.is_empty() {
            return Err(Wrong::Failed("Must provide node and address".to_owned()));
        }
        let record = stored::Node {
            id,
            address,
            tagged: fields.pairs("taggedaddresses")?.into_iter().collect(),
            meta: fields.pairs("meta")?.into_iter().collect(),
        };
        let key = format!("{NODES}{name}");
        let same = self.nodes.get(name).is_some_and(|known| {
            let whom = (&known.id, &known.address);
            whom == (&record.id, &record.address)
                && (&known.tagged, &known.meta) == (&record.tagged, &record.meta)
        });
        // What says nothing new wakes nobody.
        if !same {
            self.puts.push(Op::put(&key[..], stored::write(&record)));
        }
        if let Verb::Cas(index) = verb {
            self.compares.push((key, index));
        }
        let node = Node {
            name: name.to_owned(),
            id: record.id,
            address: record.address,
            datacenter: self.front.node.datacenter.clone(),
            ..Node::default()
        };
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// Whether there is such a service once all operations before are done.
    fn has_service(&self, node: &str, id: &str) -> bool {
        let own = self.services.get(&(node.to_owned(), id.to_owned()));
        own.copied()
            .unwrap_or_else(|| self.nodes.contains_key(node) && self.front.on(node, id).is_some())
    }

    async fn try_service(
        &mut self,
        verb: Verb,
        node: &str,
        service: &Value,
    ) -> Result<Target, Wrong> {
        let fields = Fields::of(service.clone(), "Service")?;
        let mut id = fields.text("id")?;
        if id.is_empty() {
            id = fields.text("service")?;
        }
        let what = format!("service {id:?} on node {node:?}");
        if verb == Verb::Get {
            self.may_read(node, self.front.on(node, &id))?;
        } else {
            let target = Target::Service {
                node: node.to_owned(),
                id: id.clone(),
            };
            let body = body_of(verb, &target, Some(service));
            self.may_change(verb, body).await?;
        }
        let here = self.has_service(node, &id);
        let known = self.front.on(node, &id);
        let modified = known.as_ref().map(|known| self.front.view.times(known).1);
        match verb {
            Verb::Get if !here => return missing(what),
            Verb::Cas(index) if index != modified.unwrap_or(0) => {
                return stale(format_args!("set {what}"));
            }
            Verb::DeleteCas(index) if modified != Some(index) => {
                return stale(format_args!("delete {what}"));
            }
            _ => {}
        }
        if verb != Verb::Get {
            self.is_clients(known.as_deref()).await?;
        }
        if matches!(verb, Verb::Set | Verb::Cas(_)) {
            let Some(node) = self.nodes.get(node) else {
                return Err(Wrong::Failed("Missing node registration".to_owned()));
            };
            translate::define(&fields, node, true)?;
        }
        let key = (node.to_owned(), id);
        if verb != Verb::Get {
            let stays = matches!(verb, Verb::Set | Verb::Cas(_));
            self.services.insert(key.clone(), stays);
        }
        let (node, id) = key;
        Ok(Target::Service { node, id })
    }

    /// What the fleet or the config file registered is theirs to change.
    async fn is_clients(&self, known: Option<&Instance>) -> Result<(), Wrong> {
        let Some(known) = known else {
            return Ok(());
        };
        let detail = self.front.detail(known).await?;
        match detail.source {
            Source::Client => Ok(()),
            other => Err(Wrong::Failed(format!(
                "service {:?} is not a client's to change ({other:?})",
                known.id.as_str()
            ))),
        }
    }

    /// What a client asks of one thing needs the right to read it.
    fn may_read(&self, node: &str, owner: Option<Arc<Instance>>) -> Result<(), Refusal> {
        self.who.need_read(Resource::Node, node)?;
        self.who.need_some(Resource::Service)?;
        owner.map_or(Ok(()), |owner| {
            let service = owner.service.as_str();
            self.who.need_read(Resource::Service, service)
        })
    }

    /// A change needs what the catalogue's own endpoints need for the same.
    async fn may_change(&self, verb: Verb, body: Value) -> Result<(), Refusal> {
        if self.front.acl.is_none() {
            return Ok(());
        }
        let fields = Fields::of(body, "an operation")?;
        match verb.sets() {
            true => self.front.permit_enrol(self.who, &fields).await,
            false => self.front.permit_strike(self.who, &fields).await,
        }
    }

    async fn try_check(&mut self, verb: Verb, object: &Value) -> Result<Target, Wrong> {
        let fields = Fields::of(object.clone(), "Check")?;
        let (node, id) = (fields.text("node")?, fields.text("checkid")?);
        let what = format!("check {id:?} on node {node:?}");
        if id.is_empty() || node.is_empty() {
            return Err(Wrong::Failed("Must provide node and CheckID".to_owned()));
        }
        if verb == Verb::Get {
            let owner = self.front.owner_of_check(&self.nodes, &node, &id);
            self.may_read(&node, owner)?;
        } else {
            let target = Target::Check {
                node: node.clone(),
                id: id.clone(),
            };
            let body = body_of(verb, &target, Some(object));
            self.may_change(verb, body).await?;
        }
        let known = self.front.owner_of_check(&self.nodes, &node, &id);
        let modified = known.as_ref().map(|known| self.front.view.times(known).1);
        let key = (node, id);
        let here = self.checks.get(&key).copied();
        let here = here.unwrap_or(modified.is_some());
        match verb {
            Verb::Get if !here => return missing(what),
            Verb::Cas(index) if index != modified.unwrap_or(0) => {
                return stale(format_args!("set {what}"));
            }
            Verb::DeleteCas(index) if modified != Some(index) => {
                return stale(format_args!("delete {what}"));
            }
            _ => {}
        }
        if matches!(verb, Verb::Set | Verb::Cas(_)) {
            let service = fields.text("serviceid")?;
            if service.is_empty() {
                let what = "a check of a node (one without ServiceID)";
                return Err(Refusal::unsupported(what).into());
            }
            if !self.has_service(&key.0, &service) {
                let text = format!("Missing service '{service}' on node '{}'", key.0);
                return Err(Wrong::Failed(text));
            }
            translate::status(&fields.text("status")?)?;
        }
        if verb != Verb::Get {
            let stays = matches!(verb, Verb::Set | Verb::Cas(_));
            self.checks.insert(key.clone(), stays);
        }
        let (node, id) = key;
        Ok(Target::Check { node, id })
    }
}

/// What all operations come to, when none fails.
struct Tried {
    keys: Vec<Vec<Held>>,
    /// The store's revision after its part.
    revision: u64,
    /// Of those of the catalogue, in their order.
    targets: Vec<Target>,
}

impl Front {
    pub(crate) async fn txn(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let ops = parse(&asked.body)?;
        let who = asked.caller.who()?;
        let catalog = ops.iter().any(|op| matches!(op, TxnOp::Catalog(..)));
        // Each sees what the one before it did.
        let _alone = match catalog {
            true => Some(self.catalog_txns.lock().await),
            false => None,
        };
        self.view.caught_up(self.registry.current().revision).await;
        let (status, both) = match self.tried(&ops, &who).await? {
            Ok(tried) => {
                let results = self.apply(ops, tried).await?;
                let both = json!({ "Results": results, "Errors": null });
                (StatusCode::OK, both)
            }
            Err(failures) => {
                let failures = failures.into_iter();
                let failures: Vec<Value> = failures
                    .map(|(index, what)| json!({ "OpIndex": index, "What": what }))
                    .collect();
                let both = json!({ "Results": null, "Errors": failures });
                (StatusCode::CONFLICT, both)
            }
        };
        Ok(Reply::Json(status, both).into())
    }

    /// Tries all operations and commits the store's part of them.
    async fn tried(&self, ops: &[TxnOp], who: &Who) -> Result<Result<Tried, Failures>, Refusal> {
        let keys = ops.iter().enumerate().filter_map(|(index, op)| match op {
            TxnOp::Kv(op) => Some((index, op.clone())),
            TxnOp::Catalog(..) => None,
        });
        let (places, keys): (Vec<usize>, Vec<KvOp>) = keys.unzip();
        for _ in 0..ATTEMPTS_MAX {
            let mut draft = Draft {
                front: self,
                who,
                nodes: self.nodes().await?,
                services: BTreeMap::new(),
                checks: BTreeMap::new(),
                written: BTreeSet::new(),
                compares: Vec::new(),
                puts: Vec::new(),
            };
            let (mut targets, mut failures) = (Vec::new(), Failures::new());
            for (index, op) in ops.iter().enumerate() {
                let TxnOp::Catalog(verb, what) = op else {
                    continue;
                };
                match draft.try_op(*verb, what).await {
                    Ok(target) => targets.push(target),
                    Err(Wrong::Failed(what)) => failures.push((index, what)),
                    Err(Wrong::Refused(refusal)) => return Err(refusal),
                }
            }
            let mut of_keys = self.draft(&keys).await?;
            let held = of_keys.run_each(&keys);
            let (Ok(held), true) = (&held, failures.is_empty()) else {
                let of_keys = held.err().into_iter().flatten();
                failures.extend(of_keys.map(|(index, what)| (places[index], what)));
                failures.sort_by_key(|(index, _)| *index);
                return Ok(Err(failures));
            };
            let held = held.clone();
            let mut txn = of_keys.into_txn(&keys).unwrap_or_default();
            txn.then.append(&mut draft.puts);
            for (key, index) in draft.compares {
                let same = Test::ModRevision(Order::Equal, Revision(index));
                txn = txn.when(key, same);
            }
            let revision = match txn.then.is_empty() {
                true => Some(0),
                false => {
                    let reply = self.store.commit(txn).await?;
                    reply.held.then_some(reply.revision.0)
                }
            };
            if let Some(revision) = revision {
                return Ok(Ok(Tried {
                    keys: held,
                    revision,
                    targets,
                }));
            }
        }
        let text = "the keys are changed by too many at once; try again";
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
    }

    /// Does the registry's part, in order, and gives what all operations show.
    async fn apply(&self, ops: Vec<TxnOp>, tried: Tried) -> Result<Vec<Value>, Refusal> {
        let (mut keys, mut targets) = (tried.keys.into_iter(), tried.targets.into_iter());
        let mut results = Vec::new();
        for (index, op) in ops.into_iter().enumerate() {
            let (verb, what) = match op {
                TxnOp::Kv(_) => {
                    let held = keys.next().unwrap_or_default();
                    let shown = held.iter().map(|held| kv::shown(held, tried.revision));
                    results.extend(shown.map(|shown| json!({ "KV": shown })));
                    continue;
                }
                TxnOp::Catalog(verb, what) => (verb, what),
            };
            let Some(target) = targets.next() else {
                continue;
            };
            let done = self.apply_one(verb, what, target).await;
            results.extend(done.map_err(|refusal| {
                let text = format!(
                    "operation {index} failed when it was its turn, and those before it stay done: {}",
                    refusal.text
                );
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
            })?);
        }
        Ok(results)
    }

    async fn apply_one(
        &self,
        verb: Verb,
        what: What,
        target: Target,
    ) -> Result<Option<Value>, Refusal> {
        let sets = verb.sets();
        let gone = matches!(verb, Verb::Delete | Verb::DeleteCas(_));
        let object = match &what {
            What::Node(_) => None,
            What::Service { service, .. } => Some(service),
            What::Check(check) => Some(check),
        };
        let body = body_of(verb, &target, object);
        let fields = Fields::of(body, "an operation")?;
        match target {
            // The record of a node is in the store already.
            Target::Node(_) if sets => {}
            _ if sets => self.enrol(&fields, None).await?,
            _ if gone => drop(self.strike(&fields).await?),
            _ => {}
        }
        if gone {
            return Ok(None);
        }
        self.view.caught_up(self.registry.current().revision).await;
        self.shown(&target).await
    }

    /// What a transaction shows of what it wrote or read.
    async fn shown(&self, target: &Target) -> Result<Option<Value>, Refusal> {
        let nodes = self.nodes().await?;
        Ok(match target {
            Target::Node(name) => nodes
                .get(name)
                .map(|node| json!({ "Node": translate::node(node) })),
            Target::Service { node, id } => self.on(node, id).map(|instance| {
                let times = self.view.times(&instance);
                json!({ "Service": translate::health_service(&instance, times) })
            }),
            Target::Check { node, id } => {
                let owner = self.owner_of_check(&nodes, node, id);
                let (Some(owner), Some(node)) = (owner, nodes.get(node)) else {
                    return Ok(None);
                };
                let detail = self.detail(&owner).await?;
                let mut checks = self.checks_of(&detail, node).into_iter();
                let check = checks.find(|check| check["CheckID"] == **id);
                check.map(|check| json!({ "Check": check }))
            }
        })
    }

    /// The instance on a node that a check belongs to.
    fn owner_of_check(&self, nodes: &Nodes, node: &str, check: &str) -> Option<Arc<Instance>> {
        let owners = self.view.find_check(check).into_iter();
        let mut owners = owners.filter_map(|(service, id)| self.registry.get(&service, &id));
        owners.find(|instance| self.node_of(nodes, instance).name == node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Verb as KvVerb;

    #[test]
    fn a_transaction_is_read_in_any_case_and_a_bad_one_says_why() {
        let body = br#"[{"kv":{"VERB":"cas","key":"a","value":"YQ==","index":4,"flags":2}},
            {"Check":{"Verb":"cas","Check":{"Node":"n","CheckID":"c","ModifyIndex":22}}}]"#;
        let mut ops = parse(body).unwrap();
        let TxnOp::Kv(op) = ops.remove(0) else {
            panic!("{ops:?}");
        };
        assert_eq!(op.verb, KvVerb::Cas(b"a".to_vec(), 2, 4));
        let check = json!({ "Node": "n", "CheckID": "c", "ModifyIndex": 22 });
        assert_eq!(ops, [TxnOp::Catalog(Verb::Cas(22), What::Check(check))]);
        let refused = |body: &str| parse(body.as_bytes()).unwrap_err();
        for (body, why) in [
            (
                "[{\"KV\":{\"Verb\":\"x\",\"Key\":\"a\"}}]",
                "unknown KV verb",
            ),
            (
                "[{\"KV\":{\"Verb\":\"set\",\"Key\":\"a\",\"Value\":\"?\"}}]",
                "base64",
            ),
            ("[{\"Node\":{\"Verb\":\"lock\"}}]", "unknown node verb"),
            ("[{\"Session\":{}}]", "none of KV"),
            ("[7]", "an object"),
        ] {
            assert!(refused(body).text.contains(why), "{body}");
        }
        let many = format!("[{}]", vec!["{\"KV\":{}}"; 65].join(","));
        assert!(refused(&many).text.contains("(65 > 64)"));
    }
}
