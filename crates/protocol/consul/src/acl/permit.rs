//! What a request needs before it is answered, for each endpoint, as Consul's agent and
//! servers ask it (`agent/acl.go`, `consul/acl.go`). Lists need nothing: what may not be
//! seen is left out of them (`shown.rs`).

use std::sync::Arc;

use atoll_model::Instance;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::AclPath;
use super::caller::Who;
use super::rules::{Access, Resource};
use crate::agent::unknown_check;
use crate::endpoint::Endpoint;
use crate::keys::{NODES, SESSIONS};
use crate::server::{Answer, Asked, Front};
use crate::stored::{self, Session};
use crate::translate::definition;
use crate::wire::{Fields, Refusal, Reply};
use crate::{checks, config, coordinates, events, machine, operator, query, ui};

impl Front {
    /// Refuses what the caller may not do; gives the answer where a refusal has a shape
    /// of its own.
    pub(crate) async fn permit(&self, asked: &Asked) -> Result<Option<Answer>, Refusal> {
        use Endpoint as E;
        if self.acl.is_none() {
            return Ok(None);
        }
        let who = asked.caller.who()?;
        let node = &self.node.name[..];
        match &asked.endpoint {
            E::AgentSelf => who.need_read(Resource::Agent, node)?,
            E::AgentService(id) | E::AgentHealthById(id) => self.permit_instance_read(&who, id)?,
            E::AgentHealthByName(name) => who.need_read(Resource::Service, name)?,
            E::AgentServiceRegister => {
                let fields = Fields::of_body(&asked.body)?;
                self.permit_registration(&who, node, &fields).await?;
            }
            E::AgentMaintenance => who.need_write(Resource::Node, node)?,
            E::Copies => self.permit_copies(&who, asked).await?,
            E::AgentServiceDeregister(id) | E::AgentServiceMaintenance(id) => {
                who.need_some(Resource::Service)?;
                need_writes(&who, self.local_instance(id))?;
            }
            E::AgentCheckRegister => self.permit_check_register(&who, asked).await?,
            E::AgentCheckDeregister(id)
            | E::AgentCheckPass(id)
            | E::AgentCheckWarn(id)
            | E::AgentCheckFail(id)
            | E::AgentCheckUpdate(id) => self.permit_check(&who, id).await?,
            E::CatalogRegister => {
                (self.permit_enrol(&who, &Fields::of_body(&asked.body)?)).await?;
            }
            E::CatalogDeregister => {
                (self.permit_strike(&who, &Fields::of_body(&asked.body)?)).await?;
            }
            E::Kv(key) => permit_key(&who, key, asked)?,
            E::Txn => return permit_txn(&who, &asked.body),
            E::SessionCreate => {
                let of = Fields::of_body(&asked.body)?.text("node")?;
                let of = if of.is_empty() { node } else { &of };
                who.need_write(Resource::Session, of)?;
            }
            E::SessionDestroy(id) | E::SessionRenew(id) => {
                who.need_some(Resource::Session)?;
                let kept = self.store.get(format!("{SESSIONS}{id}")).await?;
                let session: Option<Session> = kept.and_then(|kept| stored::read(&kept.value));
                if let Some(session) = session {
                    who.need_write(Resource::Session, &session.node)?;
                }
            }
            // What may not be seen is left out.
            E::AgentMembers
            | E::AgentServices
            | E::AgentChecks
            | E::CatalogNodes
            | E::CatalogServices
            | E::CatalogService(_)
            | E::CatalogNode(_)
            | E::CatalogNodeServices(_)
            | E::HealthService(_)
            | E::HealthChecks(_)
            | E::HealthNode(_)
            | E::HealthState(_)
            | E::SessionInfo(_)
            | E::SessionNode(_)
            | E::SessionList => {}
            // Made by who has no token yet, shown to whoever has it, refused to everybody.
            E::Acl(AclPath::Bootstrap | AclPath::TokenSelf | AclPath::Refused(_)) => {}
            E::Acl(_) if asked.method == Method::GET => who.need_read(Resource::Acl, "")?,
            E::Acl(_) => who.need_write(Resource::Acl, "")?,
            E::Query(below) => self.permit_query(&who, below, asked).await?,
            E::Event(events::Endpoint::Fire(name)) => who.need_write(Resource::Event, name)?,
            E::Coordinate(below) => permit_coordinate(&who, below, asked)?,
            E::Operator(operator::Endpoint::Keyring) => {
                who.need(Resource::Keyring, "", wanted(asked))?;
            }
            E::Operator(_) => who.need(Resource::Operator, "", wanted(asked))?,
            E::Machine(machine::Endpoint::Host) => who.need_read(Resource::Operator, "")?,
            E::Machine(machine::Endpoint::ForceLeave) => who.need_write(Resource::Operator, "")?,
            E::Machine(_) => who.need(Resource::Agent, node, wanted(asked))?,
            E::Ui(ui::Endpoint::Overview) => who.need_read(Resource::Operator, "")?,
            E::Config(config::Endpoint::Apply) => {
                let fields = Fields::of_body(&asked.body)?;
                let (kind, name) = (fields.text("kind")?, fields.text("name")?);
                need_entry(&who, &kind, &name, Access::Write)?;
            }
            E::Config(config::Endpoint::One(kind, name)) => {
                need_entry(&who, kind, name, wanted(asked))?;
            }
            // What may not be seen is left out, too.
            E::Event(events::Endpoint::List)
            | E::Config(config::Endpoint::Kind(_))
            | E::Ui(ui::Endpoint::Nodes | ui::Endpoint::Node(_) | ui::Endpoint::Services) => {}
            // They tell nothing that is anybody's.
            E::Mesh(_)
            | E::CatalogDatacenters
            | E::StatusLeader
            | E::StatusPeers
            | E::Unsupported(_) => {}
        }
        Ok(None)
    }

    /// Rights to a query are rights to its name, and the ids of those without one are
    /// nobody's: theirs are rights to all names.
    async fn permit_query(
        &self,
        who: &Who,
        endpoint: &query::Endpoint,
        asked: &Asked,
    ) -> Result<(), Refusal> {
        let id = match endpoint {
            query::Endpoint::All if asked.method == Method::GET => return Ok(()),
            query::Endpoint::All => {
                let name = Fields::of_body(&asked.body)?.text("name")?;
                return who.need_write(Resource::Query, &name);
            }
            query::Endpoint::One(id) => id,
            // Judged by what they tell (`shown.rs`).
            query::Endpoint::Execute(_) | query::Endpoint::Explain(_) => return Ok(()),
        };
        who.need_some(Resource::Query)?;
        if let Some(name) = self.query_name(id).await? {
            who.need(Resource::Query, &name, wanted(asked))?;
        }
        if asked.method == Method::PUT {
            let name = Fields::of_body(&asked.body)?.text("name")?;
            who.need_write(Resource::Query, &name)?;
        }
        Ok(())
    }

    fn permit_instance_read(&self, who: &Who, id: &str) -> Result<(), Refusal> {
        who.need_some(Resource::Service)?;
        match self.local_instance(id) {
            Some(instance) => who.need_read(Resource::Service, instance.service.as_str()),
            None => Ok(()),
        }
    }

    /// The right to write the service, and those whose place it takes.
    async fn permit_registration(
        &self,
        who: &Who,
        node: &str,
        service: &Fields,
    ) -> Result<(), Refusal> {
        let mut name = service.text("name")?;
        if name.is_empty() {
            name = service.text("service")?;
        }
        who.need_write(Resource::Service, &name)?;
        let id = service.text("id")?;
        let id = if id.is_empty() { name } else { id };
        self.view.caught_up(self.registry.current().revision).await;
        need_writes(who, self.instances_on(node, &id))?;
        let mut given = service.objects("checks")?;
        given.extend(service.object("check")?);
        let many = given.len() > 1;
        for (number, check) in (1..).zip(&given) {
            let usual = checks::usual_id(&id, number, many);
            self.permit_check_id(who, node, &checks::id_of(check, &usual)?)
                .await?;
        }
        Ok(())
    }

    /// The right to take this id for a check of a service: on our own node an id means one
    /// check (`agent/check/pass`), and whose it was could not say how it stands any more.
    async fn permit_check_id(&self, who: &Who, node: &str, id: &str) -> Result<(), Refusal> {
        if node != self.node.name {
            return Ok(());
        }
        need_writes(who, self.owners_on(node, id))?;
        match self.has_node_check(node, id).await? {
            true => who.need_write(Resource::Node, node),
            false => Ok(()),
        }
    }

    /// The right to say how a check stands, or to remove it: it is a service's, or our
    /// node's. Who may see neither is refused alike, whether there is one or not.
    async fn permit_check(&self, who: &Who, id: &str) -> Result<(), Refusal> {
        let node = &self.node.name[..];
        let owner = self.owner_of(id);
        let of_node = owner.is_none() && self.has_node_check(node, id).await?;
        if of_node && who.authority.reads(Resource::Node, node) {
            return who.need_write(Resource::Node, node);
        }
        who.need_some(Resource::Service)?;
        match of_node {
            true => Err(unknown_check(id)),
            false => need_writes(who, owner),
        }
    }

    async fn permit_check_register(&self, who: &Who, asked: &Asked) -> Result<(), Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let owner = fields.text("serviceid")?;
        if owner.is_empty() {
            who.need_write(Resource::Node, &self.node.name)?;
        } else {
            who.need_some(Resource::Service)?;
        }
        need_writes(who, self.local_instance(&owner))?;
        // And those whose place it would take, by whichever of these it is called.
        for key in ["checkid", "id", "name"] {
            let id = fields.text(key)?;
            need_writes(who, self.owner_of(&id))?;
            if self.has_node_check(&self.node.name, &id).await? {
                who.need_write(Resource::Node, &self.node.name)?;
            }
        }
        Ok(())
    }

    /// A migration brings all that another Consul has: who operates this one may do it,
    /// and who could register and deregister each of the entries.
    async fn permit_copies(&self, who: &Who, asked: &Asked) -> Result<(), Refusal> {
        if who.authority.allows(Resource::Operator, "", Access::Write) {
            return Ok(());
        }
        who.need_some(Resource::Service)?;
        let fields = Fields::of_body(&asked.body)?;
        let entries = fields.objects("entries")?;
        if entries.is_empty() {
            return Err(who.lacks(Resource::Operator, "", Access::Write));
        }
        for entry in &entries {
            if entry.text("action")? == "Register" {
                let body = entry.object("body")?.unwrap_or_default();
                who.need_write(Resource::Node, &body.text("node")?)?;
                self.permit_enrol(who, &body).await?;
            } else {
                who.need_write(Resource::Node, &entry.text("node")?)?;
                who.need_write(Resource::Service, &entry.text("service")?)?;
            }
        }
        Ok(())
    }

    /// All instances with this id on a node.
    fn instances_on(&self, node: &str, id: &str) -> Vec<Arc<Instance>> {
        let known = self.view.find(id).into_iter();
        let found = known.filter_map(|known| self.registry.get(&known.service, &known.id));
        found
            .filter(|instance| self.is_on(node, instance))
            .collect()
    }

    /// All instances on a node with a check of this id.
    fn owners_on(&self, node: &str, check: &str) -> Vec<Arc<Instance>> {
        let known = self.view.find_check(check).into_iter();
        let found = known.filter_map(|(service, id)| self.registry.get(&service, &id));
        found
            .filter(|instance| self.is_on(node, instance))
            .collect()
    }

    fn is_on(&self, node: &str, instance: &Instance) -> bool {
        let of = definition(instance).node;
        of == node || (of.is_empty() && node == self.node.name)
    }

    /// What `catalog/register` needs, as Consul's `vetRegisterWithACL`: a service may come
    /// with what is known of its node.
    pub(crate) async fn permit_enrol(&self, who: &Who, fields: &Fields) -> Result<(), Refusal> {
        let name = fields.text("node")?;
        let service = fields.object("service")?;
        let mut given = fields.objects("checks")?;
        given.extend(fields.object("check")?);
        if !who.authority.allows(Resource::Node, &name, Access::Write) {
            who.need_some(Resource::Service)?;
            let nothing_else = service.is_none() && given.is_empty();
            if nothing_else || self.changes_node(&name, fields).await? {
                return Err(who.lacks(Resource::Node, &name, Access::Write));
            }
        }
        if let Some(service) = &service {
            self.permit_registration(who, &name, service).await?;
        }
        for check in &given {
            let id = check.text("serviceid")?;
            if id.is_empty() {
                who.need_write(Resource::Node, &name)?;
            } else {
                who.need_some(Resource::Service)?;
            }
            need_writes(who, self.instances_on(&name, &id))?;
            if !id.is_empty() {
                let usual = checks::usual_id(&id, 1, false);
                let id = checks::id_of(check, &usual)?;
                self.permit_check_id(who, &name, &id).await?;
            }
        }
        Ok(())
    }

    /// Whether a registration would make a node or change it. Our own is never changed.
    async fn changes_node(&self, name: &str, fields: &Fields) -> Result<bool, Refusal> {
        if name == self.node.name {
            return Ok(false);
        }
        let kept = self.store.get(format!("{NODES}{name}")).await?;
        let Some(kept) = kept else {
            return Ok(true);
        };
        let was: stored::Node = stored::read(&kept.value).unwrap_or_default();
        Ok(!fields.flag("skipnodeupdate")? && was != crate::catalog::node_of_body(fields)?)
    }

    /// What `catalog/deregister` needs, as Consul's `vetDeregisterWithACL`: who may write
    /// the node may take away all.
    pub(crate) async fn permit_strike(&self, who: &Who, fields: &Fields) -> Result<(), Refusal> {
        let name = fields.text("node")?;
        if who.authority.allows(Resource::Node, &name, Access::Write) {
            return Ok(());
        }
        who.need_some(Resource::Service)?;
        self.view.caught_up(self.registry.current().revision).await;
        let (service, check) = (fields.text("serviceid")?, fields.text("checkid")?);
        let owners = match (&service[..], &check[..]) {
            ("", "") => Vec::new(),
            // A check of the node goes with those of services of the same id.
            ("", check) if self.has_node_check(&name, check).await? => Vec::new(),
            ("", check) => self.owners_on(&name, check),
            (service, _) => self.instances_on(&name, service),
        };
        match owners.is_empty() {
            true => Err(who.lacks(Resource::Node, &name, Access::Write)),
            false => need_writes(who, owners),
        }
    }
}

/// The right to write the services of all these.
fn need_writes(
    who: &Who,
    instances: impl IntoIterator<Item = Arc<Instance>>,
) -> Result<(), Refusal> {
    let mut all = instances.into_iter();
    all.try_for_each(|instance| who.need_write(Resource::Service, instance.service.as_str()))
}

/// To look needs the right to read, all else the right to write.
fn wanted(asked: &Asked) -> Access {
    match asked.method == Method::GET {
        true => Access::Read,
        false => Access::Write,
    }
}

fn permit_coordinate(
    who: &Who,
    endpoint: &coordinates::Endpoint,
    asked: &Asked,
) -> Result<(), Refusal> {
    match endpoint {
        coordinates::Endpoint::Node(name) => who.need_read(Resource::Node, name),
        coordinates::Endpoint::Update => {
            let name = Fields::of_body(&asked.body)?.text("node")?;
            who.need_write(Resource::Node, &name)
        }
        // The former is about this agent; of the latter, nodes are left out.
        coordinates::Endpoint::Datacenters | coordinates::Endpoint::Nodes => Ok(()),
    }
}

/// What a config entry is about: a service, or the mesh.
pub(super) fn about_entry<'n>(kind: &str, name: &'n str) -> (Resource, &'n str) {
    match kind.starts_with("service-") {
        true => (Resource::Service, name),
        false => (Resource::Mesh, ""),
    }
}

fn need_entry(who: &Who, kind: &str, name: &str, access: Access) -> Result<(), Refusal> {
    let (resource, name) = about_entry(kind, name);
    who.need(resource, name, access)
}

fn permit_key(who: &Who, key: &str, asked: &Asked) -> Result<(), Refusal> {
    let has = |flag: &str| asked.query.has(flag);
    if asked.method == Method::GET {
        return match has("recurse") || has("keys") {
            // Consul's `enable_key_list_policy` is off: keys are left out one by one.
            true => Ok(()),
            false => who.need_read(Resource::Key, key),
        };
    }
    if asked.method == Method::DELETE && has("recurse") {
        return match who.authority.writes_tree(key) {
            true => Ok(()),
            false => Err(who.lacks(Resource::Key, key, Access::Write)),
        };
    }
    who.need_write(Resource::Key, key)
}

/// Asks for each operation on a key; a refusal is that of the operation, as Consul has it.
/// What the catalogue's need is asked for when it is known what they are about (`txn.rs`).
fn permit_txn(who: &Who, body: &[u8]) -> Result<Option<Answer>, Refusal> {
    // What cannot be read is refused for that, and runs nothing.
    let ops: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
    let mut errors = Vec::new();
    for (index, op) in ops.into_iter().enumerate() {
        let fields = Fields::of_body(op.to_string().as_bytes())?;
        let Some(kv) = fields.object("kv")? else {
            continue;
        };
        if let Err(refusal) = permit_key_op(who, &kv) {
            errors.push(json!({ "OpIndex": index, "What": refusal.text }));
        }
    }
    if errors.is_empty() {
        return Ok(None);
    }
    let both = json!({ "Results": null, "Errors": errors });
    Ok(Some(Reply::Json(StatusCode::CONFLICT, both).into()))
}

fn permit_key_op(who: &Who, op: &Fields) -> Result<(), Refusal> {
    let key = op.text("key")?;
    match &op.text("verb")?[..] {
        // Left out of the results one by one.
        "get-tree" => Ok(()),
        // Consul lets the first two run and leaves their results out; whether they fail
        // tells whether there is such a key.
        "get" | "get-or-empty" | "check-index" | "check-session" | "check-not-exists" => {
            who.need_read(Resource::Key, &key)
        }
        "delete-tree" => match who.authority.writes_tree(&key) {
            true => Ok(()),
            false => Err(who.lacks(Resource::Key, &key, Access::Write)),
        },
        _ => who.need_write(Resource::Key, &key),
    }
}
