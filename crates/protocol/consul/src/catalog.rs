//! `/v1/catalog`: nodes and what is on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_model::{Address, Instance, ServiceName};
use atoll_registry::Source;
use atoll_store::{Op, Span, Txn};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::acl::{self, Resource};
use crate::agent::gone;
use crate::checks::{self, Owner, Parsed};
use crate::copying::LEASE;
use crate::filter::Filter;
use crate::keys::{COORDINATES, COORDINATES_MARK, NODES, NODES_MARK};
use crate::server::{Answer, Asked, Front};
use crate::stored;
use crate::translate::{self, Node, definition, shown_id, shown_name};
use crate::view::Topic;
use crate::wire::{Fields, Query, Refusal, Reply};

/// All nodes by their names.
pub(crate) type Nodes = BTreeMap<String, Node>;

impl Front {
    pub(crate) fn catalog_datacenters(&self) -> Reply {
        Reply::json(vec![self.node.datacenter.clone()])
    }

    fn nodes_of(&self, items: &[Arc<atoll_store::KeyValue>]) -> Nodes {
        let mut nodes = Nodes::from([(self.node.name.clone(), self.node.clone())]);
        for item in items {
            let name = item.key.strip_prefix(NODES.as_bytes()).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let stored: stored::Node = stored::read(&item.value).unwrap_or_default();
            let node = Node {
                name: name.clone(),
                id: stored.id,
                address: stored.address,
                datacenter: self.node.datacenter.clone(),
                tagged: stored.tagged,
                meta: stored.meta,
                created: item.create_revision.0,
                modified: item.mod_revision.0,
            };
            nodes.insert(name, node);
        }
        nodes
    }

    pub(crate) async fn nodes(&self) -> Result<Nodes, Refusal> {
        Ok(self.nodes_of(&self.store.list(NODES).await?.items))
    }

    /// The node of an instance.
    pub(crate) fn node_of<'n>(&'n self, nodes: &'n Nodes, instance: &Instance) -> &'n Node {
        let name = definition(instance).node;
        // A node that was deleted took its instances along, or soon will have.
        nodes.get(&name).unwrap_or(&self.node)
    }

    pub(crate) async fn catalog_nodes(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let found = self.keys(Span::prefix(NODES), NODES_MARK, asked).await?;
        let rows = async {
            let nodes = self.nodes_of(&found.items);
            let nodes = nodes.values().filter(|node| has_meta(node, &asked.query));
            Ok(nodes.map(translate::node).collect())
        };
        let endpoint = "catalog/nodes".to_owned();
        self.told(endpoint, found.index, asked, rows).await
    }

    pub(crate) async fn catalog_services(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let filter = asked.query.get("filter").filter(|text| !text.is_empty());
        let filter = filter.map(Filter::parse).transpose()?;
        // A filter may look at more than names and tags.
        let topic = filter.as_ref().map_or(Topic::Names, |_| Topic::Any);
        let index = self.settled(topic, asked).await;
        let authority = asked.caller.who()?.authority;
        let rows = async {
            let nodes = self.nodes().await?;
            let catalog = self.registry.current();
            let mut services = BTreeMap::new();
            // Consul's own service is always there, and clients look for it.
            let own = translate::own_service(&self.node);
            if filter
                .as_ref()
                .map_or(Ok(true), |filter| filter.holds(&own))?
            {
                services.insert("consul".to_owned(), BTreeSet::new());
            }
            for instance in catalog.services.values().flat_map(|list| list.iter()) {
                let node = self.node_of(&nodes, instance);
                if !has_meta(node, &asked.query) {
                    continue;
                }
                if !authority.reads(Resource::Service, instance.service.as_str())
                    || (filter.is_some() && !authority.reads(Resource::Node, &node.name))
                {
                    // Else a filter would tell of what is left out.
                    asked.caller.note_filtered();
                    continue;
                }
                if let Some(filter) = &filter {
                    let times = self.view.times(instance);
                    let row = translate::catalog_service(instance, node, times);
                    if !filter.holds(&row)? {
                        continue;
                    }
                }
                let name = shown_name(instance, &definition(instance)).to_owned();
                services
                    .entry(name)
                    .or_default()
                    .extend(instance.tags.iter().cloned());
            }
            let services = services.into_iter().map(|(name, tags)| (name, json!(tags)));
            Ok(Value::Object(services.collect()))
        };
        let sight = acl::sight(&asked.endpoint, &authority);
        let endpoint = format!("catalog/services {sight}");
        self.told(endpoint, index, asked, rows).await
    }

    pub(crate) async fn catalog_service(
        &self,
        name: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let Some(service) = named(name) else {
            return Ok(Answer::at(1, Reply::json(Vec::<Value>::new())));
        };
        let index = self.settled(Topic::Service(service.clone()), asked).await;
        let rows = async {
            let nodes = self.nodes().await?;
            let catalog = self.registry.current();
            let mut all = Vec::new();
            for instance in catalog.instances(service.as_str()) {
                let node = self.node_of(&nodes, instance);
                if has_tags(instance, &asked.query) && has_meta(node, &asked.query) {
                    let times = self.view.times(instance);
                    all.push(translate::catalog_service(instance, node, times));
                }
            }
            Ok(Value::from(all))
        };
        let endpoint = format!("catalog/service/{service}");
        self.told(endpoint, index, asked, rows).await
    }

    /// The node of a name, and what is on it.
    fn on_node(&self, nodes: &Nodes, name: &str) -> Option<(Node, Vec<Arc<Instance>>)> {
        let node = nodes.get(name)?;
        let catalog = self.registry.current();
        let all = catalog.services.values().flat_map(|list| list.iter());
        let here = all.filter(|instance| self.node_of(nodes, instance).name == name);
        Some((node.clone(), here.cloned().collect()))
    }

    pub(crate) async fn catalog_node(&self, name: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let index = self.settled(Topic::Any, asked).await;
        let rows = async {
            let Some((node, here)) = self.on_node(&self.nodes().await?, name) else {
                return Ok(Value::Null);
            };
            let services = here.iter().map(|instance| {
                let service = translate::health_service(instance, self.view.times(instance));
                (shown_id(instance), service)
            });
            let services: Map<String, Value> = services.collect();
            Ok(json!({ "Node": translate::node(&node), "Services": services }))
        };
        let endpoint = format!("catalog/node/{name}");
        self.told(endpoint, index, asked, rows).await
    }

    pub(crate) async fn catalog_node_services(
        &self,
        name: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let index = self.settled(Topic::Any, asked).await;
        let rows = async {
            let Some((node, here)) = self.on_node(&self.nodes().await?, name) else {
                return Ok(Value::Null);
            };
            let services = here
                .iter()
                .map(|instance| translate::health_service(instance, self.view.times(instance)));
            let services: Vec<Value> = services.collect();
            Ok(json!({ "Node": translate::node(&node), "Services": services }))
        };
        let endpoint = format!("catalog/node-services/{name}");
        self.told(endpoint, index, asked, rows).await
    }

    pub(crate) async fn catalog_register(&self, asked: &Asked) -> Result<Answer, Refusal> {
        self.enrol(&Fields::of_body(&asked.body)?, None).await?;
        Ok(Reply::json(true).into())
    }

    /// Registers what stands in the body of `catalog/register`; a migration says where
    /// it has it from.
    pub(crate) async fn enrol(
        &self,
        fields: &Fields,
        copied_from: Option<&str>,
    ) -> Result<(), Refusal> {
        let (name, address) = (fields.text("node")?, fields.text("address")?);
        let skip = fields.flag("skipnodeupdate")?;
        let failed = |text: &str| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text);
        if name.is_empty() || (address.is_empty() && !skip) {
            return Err(failed("Must provide node and address"));
        }
        if name.contains('/') || name.len() > 128 {
            return Err(Refusal::bad(format!("Invalid node name {name:?}")));
        }
        self.in_our_datacenter(fields)?;
        let foreign = name != self.node.name;
        if foreign {
            self.put_node(&name, fields, skip).await?;
        }
        let nodes = self.nodes().await?;
        let node = nodes
            .get(&name)
            .ok_or_else(|| failed("Must provide node and address"))?;
        let service = fields.object("service")?;
        let mut checks = fields.objects("checks")?;
        checks.extend(fields.object("check")?);
        let mut defined = match &service {
            Some(service) => Some(translate::define(service, node, true)?),
            None => None,
        };
        if let Some(defined) = defined.as_mut().filter(|_| !foreign) {
            // On our node it is as if the agent had been asked.
            let mut shown = definition_of(&defined.registration);
            let id = std::mem::take(&mut shown.id);
            shown.node.clear();
            defined.registration.node = None;
            defined.registration.id = id
                .parse()
                .map_err(|error| Refusal::bad(format!("Invalid service ID: {error}")))?;
            set_definition(&mut defined.registration, &shown);
        }
        let mut others = Vec::new();
        for check in &checks {
            let id = check.text("serviceid")?;
            let (Some(defined), true) = (defined.as_mut(), service_is(service.as_ref(), &id)?)
            else {
                others.push((id, check));
                continue;
            };
            let registration = &mut defined.registration;
            let mut parsed = told(check, &registration.service, &registration.address, &id)?;
            if copied_from.is_some() {
                // Who asks it how is shown, although it is asked elsewhere.
                parsed.shown.kind = check.text("type")?;
                parsed.shown.definition = check.raw("definition").cloned().unwrap_or_default();
            }
            let mut shown = definition_of(registration);
            let status = (parsed.shown.id.clone(), parsed.first);
            shown.checks.push(parsed.shown);
            set_definition(registration, &shown);
            registration.checks.push(parsed.check);
            defined
                .said
                .extend(status.1.map(|(health, output)| (status.0, health, output)));
        }
        if let Some(mut defined) = defined {
            if let Some(from) = copied_from {
                let registration = &mut defined.registration;
                registration.lease = Some(LEASE);
                let mut shown = definition_of(registration);
                from.clone_into(&mut shown.copied_from);
                set_definition(registration, &shown);
            }
            self.tell_anew(defined).await?;
        }
        for (id, check) in others {
            if id.is_empty() {
                self.tell_node(node, check).await?;
                continue;
            }
            self.tell_other(&name, &id, check).await?;
        }
        Ok(())
    }

    fn in_our_datacenter(&self, fields: &Fields) -> Result<(), Refusal> {
        let datacenter = fields.text("datacenter")?;
        if datacenter.is_empty() || datacenter == self.node.datacenter {
            return Ok(());
        }
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Err(Refusal::new(status, "No path to datacenter"))
    }

    async fn put_node(&self, name: &str, fields: &Fields, skip: bool) -> Result<(), Refusal> {
        let key = format!("{NODES}{name}");
        let before = self.store.get(&key[..]).await?;
        if skip && before.is_some() {
            return Ok(());
        }
        let node = stored::write(&node_of_body(fields)?);
        // A registration that says nothing new wakes nobody.
        if before.is_none_or(|before| *before.value != *node.as_bytes()) {
            self.store.put(key, node).await?;
        }
        Ok(())
    }

    /// Registers, and lets what the catalogue says of its checks count each time.
    async fn tell_anew(&self, defined: translate::Defined) -> Result<(), Refusal> {
        let said = defined.said.clone();
        let registration = &defined.registration;
        let (service, id) = (registration.service.clone(), registration.id.clone());
        self.register(defined, false).await?;
        for (check, health, output) in said {
            let (service, id) = (service.clone(), id.clone());
            self.registry
                .report_check(service, id, check, health, output)
                .await?;
        }
        Ok(())
    }

    /// A check of a service that was registered before.
    async fn tell_other(&self, node: &str, id: &str, check: &Fields) -> Result<(), Refusal> {
        let _alone = self.lock(&format!("{id}@{node}")).await;
        let instance = self.on(node, id).ok_or_else(|| {
            let text = format!("Missing service '{id}' on node '{node}'");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
        })?;
        let parsed = told(check, &instance.service, &instance.address, id)?;
        let name = parsed.shown.id.clone();
        self.recheck(&instance, |shown, checks| {
            shown.checks.retain(|known| known.id != name);
            checks.retain(|known| known.name != name);
            shown.checks.push(parsed.shown);
            checks.push(parsed.check);
        })
        .await?;
        if let Some((health, output)) = parsed.first {
            let (service, id) = (instance.service.clone(), instance.id.clone());
            self.registry
                .report_check(service, id, name, health, output)
                .await?;
        }
        Ok(())
    }

    /// The instance with this id on a node.
    pub(crate) fn on(&self, node: &str, id: &str) -> Option<Arc<Instance>> {
        if node == self.node.name {
            return self.local_instance(id);
        }
        let known = self.view.find(id).into_iter();
        let found = known.filter_map(|known| self.registry.get(&known.service, &known.id));
        let mut found = found.filter(|instance| definition(instance).node == node);
        found.next()
    }

    pub(crate) async fn catalog_deregister(&self, asked: &Asked) -> Result<Answer, Refusal> {
        self.strike(&Fields::of_body(&asked.body)?).await
    }

    /// Removes what `catalog/deregister` says.
    pub(crate) async fn strike(&self, fields: &Fields) -> Result<Answer, Refusal> {
        let name = fields.text("node")?;
        if name.is_empty() {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Refusal::new(status, "Must provide node"));
        }
        self.in_our_datacenter(fields)?;
        let (service, check) = (fields.text("serviceid")?, fields.text("checkid")?);
        self.view.caught_up(self.registry.current().revision).await;
        if !service.is_empty() {
            if let Some(instance) = self.on(&name, &service) {
                let (service, id) = (instance.service.clone(), instance.id.clone());
                gone(self.registry.deregister(service, id, Source::Client).await)?;
            }
        } else if !check.is_empty() {
            let owners = self.view.find_check(&check).into_iter();
            let owners = owners.filter_map(|(service, id)| self.registry.get(&service, &id));
            let nodes = self.nodes().await?;
            if let Some(node) = nodes.get(&name) {
                self.forget_node_check(node, &check).await?;
            }
            for instance in owners.filter(|i| self.node_of(&nodes, i).name == name) {
                self.recheck(&instance, |shown, checks| {
                    shown.checks.retain(|known| known.id != check);
                    checks.retain(|known| known.name != check);
                })
                .await?;
            }
        } else if name == self.node.name {
            return Err(Refusal::unsupported("to deregister the agent's own node"));
        } else {
            self.delete_node(&name).await?;
        }
        self.view.caught_up(self.registry.current().revision).await;
        Ok(Reply::json(true).into())
    }

    /// Forgets a node that a migration brought, once nothing is on it.
    pub(crate) async fn forget_if_empty(&self, name: &str) -> Result<(), Refusal> {
        let here = self.on_node(&self.nodes().await?, name);
        if name != self.node.name && here.is_some_and(|(_, here)| here.is_empty()) {
            self.delete_node(name).await?;
        }
        Ok(())
    }

    async fn delete_node(&self, name: &str) -> Result<(), Refusal> {
        let nodes = self.nodes().await?;
        let Some((_, here)) = self.on_node(&nodes, name) else {
            return Ok(());
        };
        for instance in here {
            let (service, id) = (instance.service.clone(), instance.id.clone());
            gone(self.registry.deregister(service, id, Source::Client).await)?;
        }
        self.forget_node(name).await?;
        let key = format!("{NODES}{name}");
        let coordinate = format!("{COORDINATES}{name}");
        let delete = [
            Op::Delete(Span::from(&key[..])),
            Op::put(NODES_MARK, ""),
            Op::Delete(Span::from(&coordinate[..])),
            Op::put(COORDINATES_MARK, ""),
        ];
        self.store.commit(Txn::of(delete)).await?;
        Ok(self.end_sessions_of(name).await?)
    }
}

/// A check of a service in the catalogue.
fn told(
    check: &Fields,
    service: &ServiceName,
    address: &Address,
    id: &str,
) -> Result<Parsed, Refusal> {
    let service = service.as_str();
    let owner = Owner::Instance { service, address };
    checks::told(check, owner, &format!("service:{id}"))
}

/// A node as it is registered.
pub(crate) fn node_of_body(fields: &Fields) -> Result<stored::Node, Refusal> {
    Ok(stored::Node {
        id: fields.text("id")?,
        address: fields.text("address")?,
        tagged: fields.pairs("taggedaddresses")?.into_iter().collect(),
        meta: fields.pairs("nodemeta")?.into_iter().collect(),
    })
}

fn definition_of(registration: &atoll_registry::Registration) -> stored::Definition {
    let text = registration.metadata.get(stored::DEFINITION);
    text.and_then(|text| stored::read(text.as_bytes()))
        .unwrap_or_default()
}

fn set_definition(registration: &mut atoll_registry::Registration, shown: &stored::Definition) {
    let key = stored::DEFINITION.to_owned();
    registration.metadata.insert(key, stored::write(shown));
}

/// Whether a check of this ServiceID is one of the service that is registered with it.
fn service_is(service: Option<&Fields>, id: &str) -> Result<bool, Refusal> {
    let Some(service) = service else {
        return Ok(false);
    };
    let own = service.text("id")?;
    let own = if own.is_empty() {
        service.text("service")?
    } else {
        own
    };
    Ok(!id.is_empty() && own == id)
}

/// The service of a name; a name that no service can have has none.
pub(crate) fn named(name: &str) -> Option<ServiceName> {
    name.parse().ok()
}

/// Whether an instance has all tags that are asked for.
pub(crate) fn has_tags(instance: &Instance, query: &Query) -> bool {
    let mut wanted = query.all("tag").filter(|tag| !tag.is_empty());
    // Consul compares tags without case.
    wanted.all(|tag| {
        instance
            .tags
            .iter()
            .any(|known| known.eq_ignore_ascii_case(tag))
    })
}

/// Whether a node has all `node-meta=KEY:VALUE` that are asked for.
pub(crate) fn has_meta(node: &Node, query: &Query) -> bool {
    query.all("node-meta").all(|pair| {
        let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
        node.meta.get(key).is_some_and(|known| known == value)
    })
}
