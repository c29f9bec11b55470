//! `/v1/agent`: this Atoll as the agent of all that is registered without a node.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use atoll_model::{Health, Instance};
use atoll_registry::{Detail, Registration, RegistryError, Source, Word};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::acl::Resource;
use crate::checks::{self, Owner};
use crate::server::{Answer, Asked, Front};
use crate::stored::{self, DEFINITION};
use crate::translate::{self, agent_service, definition, is_copy, shown_id};
use crate::view::{Known, Topic};
use crate::wire::{self, Fields, Refusal, Reply};

/// The Consul whose API this is.
pub(crate) const VERSION: &str = "1.20.0";
/// What Consul says when nobody gave a reason.
const MAINTENANCE: &str = "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";

/// A service of the agent with the hash of what it says, written.
#[derive(Clone)]
pub(crate) struct Hashed {
    content: String,
    /// The service's name.
    name: String,
    plain: Bytes,
    pretty: Bytes,
}

impl Hashed {
    fn of(mut service: Value) -> Self {
        let mut hasher = DefaultHasher::new();
        service.to_string().hash(&mut hasher);
        let content = format!("{:016x}", hasher.finish());
        service["ContentHash"] = json!(content);
        Self {
            content,
            name: service["Service"].as_str().unwrap_or_default().to_owned(),
            plain: wire::json(&service, false).into(),
            pretty: wire::json(&service, true).into(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.plain.len() + self.pretty.len()
    }
}

impl Front {
    pub(crate) fn agent_self(&self) -> Reply {
        let node = &self.node;
        Reply::json(json!({
            "Config": {
                "Datacenter": node.datacenter,
                "PrimaryDatacenter": node.datacenter,
                "NodeName": node.name,
                "NodeID": node.id,
                "Server": true,
                "Revision": "",
                "Version": VERSION,
            },
            "DebugConfig": { "ConnectEnabled": false, "Datacenter": node.datacenter, "NodeName": node.name },
            "Coord": null,
            "Member": self.member(),
            "Stats": { "agent": { "product": "atoll" }, "consul": { "leader": "true", "server": "true" } },
            "Meta": node.meta,
        }))
    }

    fn member(&self) -> Value {
        json!({
            "Name": self.node.name,
            "Addr": self.node.address,
            "Port": 8301,
            "Tags": { "role": "consul", "dc": self.node.datacenter, "id": self.node.id, "build": VERSION },
            "Status": 1,
            "ProtocolMin": 1,
            "ProtocolMax": 5,
            "ProtocolCur": 2,
            "DelegateMin": 2,
            "DelegateMax": 5,
            "DelegateCur": 4,
        })
    }

    pub(crate) fn agent_members(&self) -> Reply {
        Reply::json(vec![self.member()])
    }

    /// All instances that are no other node's.
    pub(crate) fn local(&self) -> Vec<Arc<Instance>> {
        let catalog = self.registry.current();
        let all = catalog.services.values().flat_map(|list| list.iter());
        let local = all.filter(|instance| definition(instance).node.is_empty());
        local.cloned().collect()
    }

    pub(crate) fn agent_services(&self) -> Reply {
        let mut map = Map::new();
        for instance in self.local() {
            let service = agent_service(&instance, &self.node.datacenter);
            let id = shown_id(&instance);
            // Other protocols know ids within a service only.
            let id = match map.contains_key(&id) {
                true => format!("{}:{id}", instance.service),
                false => id,
            };
            map.insert(id, service);
        }
        Reply::json(map)
    }

    /// The instance that is meant by an id on our node.
    pub(crate) fn local_instance(&self, id: &str) -> Option<Arc<Instance>> {
        let known = self.view.find(id).into_iter();
        let found = known.filter_map(|Known { service, id, .. }| self.registry.get(&service, &id));
        let mut found = found.filter(|instance| definition(instance).node.is_empty());
        found.next()
    }

    pub(crate) async fn agent_service(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let unknown = || {
            let text = format!("unknown service ID: {id}");
            Refusal::new(StatusCode::NOT_FOUND, text)
        };
        let hash = asked.query.get("hash").unwrap_or_default();
        let read = async |index: u64| {
            self.view.caught_up(self.registry.current().revision).await;
            let instance = self.local_instance(id).ok_or_else(unknown)?;
            let topic = Topic::Service(instance.service.clone());
            if index > 0 {
                self.view.changed(topic.clone(), index).await;
            }
            let index = self.view.index(&topic);
            let make = async {
                let instance = self.local_instance(id).ok_or_else(unknown)?;
                Ok(Hashed::of(agent_service(&instance, &self.node.datacenter)))
            };
            // Those whom a change wakes are told the same.
            let question = format!("{id:?}{}", asked.question);
            let hashed = self.hashed.answer(question, index, make).await?;
            Ok::<_, Refusal>((index, hashed))
        };
        let (mut index, mut hashed) = read(0).await?;
        let until_other = async {
            while !hash.is_empty() && hashed.content == hash {
                (index, hashed) = read(index).await?;
            }
            Ok(())
        };
        if let Some(Err(gone)) = asked.hold(until_other).await {
            return Err(gone);
        }
        // An id may have become another service's while it waited.
        asked
            .caller
            .who()?
            .need_read(Resource::Service, &hashed.name)?;
        let pretty = asked.query.has("pretty");
        let hash = HeaderValue::from_str(&hashed.content).ok();
        let reply = Reply::Written(if pretty { hashed.pretty } else { hashed.plain });
        Ok(Answer {
            hash,
            ..reply.into()
        })
    }

    pub(crate) async fn detail(&self, instance: &Instance) -> Result<Detail, Refusal> {
        let (service, id) = (instance.service.clone(), instance.id.clone());
        Ok(self.registry.detail(service, id).await?)
    }

    async fn standing(&self, instance: &Instance) -> Result<(&'static str, Value), Refusal> {
        let detail = self.detail(instance).await?;
        let mut checks = self.own_node_checks().await?;
        let times = self.view.times(instance);
        checks.extend(translate::checks(&detail, &self.node.name, times));
        let status = translate::aggregate(&checks);
        let standing = json!({
            "AggregatedStatus": status,
            "Service": agent_service(instance, &self.node.datacenter),
            "Checks": checks,
        });
        Ok((status, standing))
    }

    pub(crate) async fn agent_health_by_id(
        &self,
        id: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let Some(instance) = self.local_instance(id) else {
            return Ok(health_of("", Value::Null, asked));
        };
        let (status, standing) = self.standing(&instance).await?;
        Ok(health_of(status, standing, asked))
    }

    pub(crate) async fn agent_health_by_name(
        &self,
        name: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        if name.is_empty() {
            return Err(Refusal::bad("Bad request. Missing service Name"));
        }
        let name = name.to_ascii_lowercase();
        let (mut worst, mut all) = ("", Vec::new());
        for instance in self.registry.current().instances(&name) {
            if !definition(instance).node.is_empty() {
                continue;
            }
            let (status, standing) = self.standing(instance).await?;
            let rank = |status| {
                ["", "passing", "warning", "critical", "maintenance"]
                    .iter()
                    .position(|known| *known == status)
            };
            if rank(status) > rank(worst) {
                worst = status;
            }
            all.push(standing);
        }
        Ok(health_of(worst, Value::Array(all), asked))
    }

    pub(crate) async fn agent_register(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let defined = translate::define(&fields, &self.node, false)?;
        let replace = asked.query.has("replace-existing-checks");
        self.register(defined, replace).await?;
        Ok(Reply::Nothing.into())
    }

    /// Registers an instance; checks that it had and that are not given again stay,
    /// unless they are to be replaced.
    pub(crate) async fn register(
        &self,
        defined: translate::Defined,
        replace: bool,
    ) -> Result<(), Refusal> {
        let translate::Defined {
            mut registration,
            said,
        } = defined;
        let given = registration.metadata.get(DEFINITION);
        let mut shown: stored::Definition = given
            .and_then(|text| stored::read(text.as_bytes()))
            .unwrap_or_default();
        let id = registration.id.to_string();
        let _alone = self.lock(&id).await;
        let before = self.registry.get(&registration.service, &registration.id);
        let before = match before {
            Some(instance) => Some(self.detail(&instance).await?),
            None => None,
        };
        let copying = !shown.copied_from.is_empty();
        let was_copy = before.as_ref().map(|before| is_copy(&before.instance));
        if copying && was_copy == Some(false) {
            let text = "it has registered with Atoll itself";
            return Err(Refusal::new(StatusCode::CONFLICT, text));
        }
        // Of a copy nothing stays: neither for the client that takes it over, nor when
        // its source has less.
        let before = before.filter(|_| was_copy == Some(false));
        let had = |name: &str| {
            let reports = before.iter().flat_map(|before| &before.checks);
            reports.into_iter().any(|report| report.check.name == name)
        };
        // What was told stays told, as Consul keeps the status of what it knows.
        let said: Vec<_> = said
            .into_iter()
            .filter(|(name, ..)| replace || !had(name))
            .collect();
        if let Some(before) = before.as_ref().filter(|_| !replace) {
            for known in definition(&before.instance).checks {
                let report = before.checks.iter().find(|r| r.check.name == known.id);
                if let (Some(report), false) =
                    (report, shown.checks.iter().any(|c| c.id == known.id))
                {
                    registration.checks.push(report.check.clone());
                    shown.checks.push(known);
                }
            }
        }
        registration
            .metadata
            .insert(DEFINITION.to_owned(), stored::write(&shown));
        let (service, instance) = (registration.service.clone(), registration.id.clone());
        self.registry.register(registration).await?;
        for (check, health, output) in said {
            let (service, id) = (service.clone(), instance.clone());
            self.registry
                .report_check(service, id, check, health, output)
                .await?;
        }
        // An agent has one service of an id, so that of another name is gone.
        self.view.caught_up(self.registry.current().revision).await;
        for other in self.view.find(&id) {
            let owner = self.registry.get(&other.service, &other.id);
            // `web@far` may be `web` on the node `far`, or an id that somebody has here.
            let ours = owner.is_some_and(|i| {
                i.id == instance
                    && i.metadata.contains_key(DEFINITION)
                    && definition(&i).node == shown.node
                    // Nor does what a migration tells take that of a client.
                    && (!copying || is_copy(&i))
            });
            if ours && other.service != service {
                gone(
                    self.registry
                        .deregister(other.service, other.id, Source::Client)
                        .await,
                )?;
            }
        }
        Ok(())
    }

    /// Changes the checks of an instance and leaves the rest as it is.
    pub(crate) async fn recheck(
        &self,
        instance: &Instance,
        change: impl FnOnce(&mut stored::Definition, &mut Vec<atoll_model::Check>),
    ) -> Result<(), Refusal> {
        let detail = self.detail(instance).await?;
        let instance = &*detail.instance;
        let mut shown = definition(instance);
        let mut checks = detail
            .checks
            .iter()
            .map(|report| report.check.clone())
            .collect();
        change(&mut shown, &mut checks);
        let mut metadata = instance.metadata.clone();
        metadata.insert(DEFINITION.to_owned(), stored::write(&shown));
        let registration = Registration {
            weight: detail.weight,
            warning_weight: detail.warning_weight,
            tags: instance.tags.clone(),
            metadata,
            node: match &shown.node[..] {
                "" => None,
                node => Some(translate::node_id(node)?),
            },
            lease: detail.lease,
            patient: detail.patient,
            health: match detail.checks.is_empty() && detail.maintenance.is_none() {
                true => instance.health,
                false => Health::Passing,
            },
            checks,
            ..Registration::new(
                instance.service.clone(),
                instance.id.clone(),
                instance.address.clone(),
                Source::Client,
            )
        };
        self.registry.register(registration).await?;
        Ok(())
    }

    pub(crate) async fn agent_deregister(&self, id: &str) -> Result<Answer, Refusal> {
        let instance = self.local_instance(id).ok_or_else(|| unknown_service(id))?;
        let (service, id) = (instance.service.clone(), instance.id.clone());
        self.registry
            .deregister(service, id, Source::Client)
            .await?;
        self.view.caught_up(self.registry.current().revision).await;
        Ok(Reply::Nothing.into())
    }

    pub(crate) async fn agent_maintenance(
        &self,
        id: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let enable = enabled(asked)?;
        let instance = self.local_instance(id).ok_or_else(|| unknown_service(id))?;
        let reason = asked
            .query
            .get("reason")
            .filter(|reason| !reason.is_empty());
        let word = enable.then(|| reason.unwrap_or(MAINTENANCE).to_owned());
        let (service, id) = (instance.service.clone(), instance.id.clone());
        let word = Word::Maintenance(word);
        self.registry.report_health(service, id, word).await?;
        Ok(Reply::Nothing.into())
    }

    pub(crate) async fn agent_checks(&self) -> Result<Answer, Refusal> {
        let mut map = Map::new();
        for check in self.own_node_checks().await? {
            let id = check["CheckID"].as_str().unwrap_or_default().to_owned();
            map.insert(id, check);
        }
        for detail in self.registry.checks(None).await? {
            if !definition(&detail.instance).node.is_empty() {
                continue;
            }
            let times = self.view.times(&detail.instance);
            for check in translate::checks(&detail, &self.node.name, times) {
                let id = check["CheckID"].as_str().unwrap_or_default().to_owned();
                map.insert(id, check);
            }
        }
        Ok(Reply::json(map).into())
    }

    pub(crate) async fn agent_check_register(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let name = fields.text("name")?;
        if name.is_empty() {
            return Err(Refusal::bad("Missing check name"));
        }
        let owner = fields.text("serviceid")?;
        if owner.is_empty() {
            return self.agent_node_check(&fields, &name).await;
        }
        let unknown = || {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("ServiceID {owner:?} does not exist"),
            )
        };
        let _alone = self.lock(&owner).await;
        let instance = self.local_instance(&owner).ok_or_else(unknown)?;
        // Without an ID, a check of the agent is called by its name.
        let owner = Owner::Instance {
            service: instance.service.as_str(),
            address: &instance.address,
        };
        let parsed = checks::check(&fields, owner, &name, &self.node)?;
        let known = self.detail(&instance).await?;
        let known = known.checks.iter().any(|r| r.check.name == parsed.shown.id);
        let id = parsed.shown.id.clone();
        self.recheck(&instance, |shown, checks| {
            shown.checks.retain(|known| known.id != id);
            checks.retain(|known| known.name != id);
            shown.checks.push(parsed.shown);
            checks.push(parsed.check);
        })
        .await?;
        if let Some((health, output)) = parsed.first.filter(|_| !known) {
            let (service, instance) = (instance.service.clone(), instance.id.clone());
            self.registry
                .report_check(service, instance, id, health, output)
                .await?;
        }
        self.view.caught_up(self.registry.current().revision).await;
        Ok(Reply::Nothing.into())
    }

    /// The instance on our node that a check belongs to.
    pub(crate) fn owner_of(&self, check: &str) -> Option<Arc<Instance>> {
        let owners = self.view.find_check(check).into_iter();
        let found = owners.filter_map(|(service, id)| self.registry.get(&service, &id));
        let mut found = found.filter(|instance| definition(instance).node.is_empty());
        found.next()
    }

    pub(crate) async fn agent_check_deregister(&self, id: &str) -> Result<Answer, Refusal> {
        let Some(instance) = self.owner_of(id) else {
            return match self.forget_node_check(&self.node, id).await? {
                true => Ok(Reply::Nothing.into()),
                false => Err(unknown_check(id)),
            };
        };
        let _alone = self.lock(&shown_id(&instance)).await;
        self.recheck(&instance, |shown, checks| {
            shown.checks.retain(|known| known.id != id);
            checks.retain(|known| known.name != id);
        })
        .await?;
        self.view.caught_up(self.registry.current().revision).await;
        Ok(Reply::Nothing.into())
    }

    pub(crate) async fn agent_check_said(
        &self,
        id: &str,
        status: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let note = asked.query.get("note").unwrap_or_default().to_owned();
        self.said(id, status, note).await
    }

    pub(crate) async fn agent_check_update(
        &self,
        id: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let status = fields.text("status")?;
        self.said(id, &status, fields.text("output")?).await
    }

    async fn said(&self, check: &str, status: &str, output: String) -> Result<Answer, Refusal> {
        let health = translate::status(status)?;
        let health = health.ok_or_else(|| Refusal::bad("Invalid check status: ''"))?;
        let Some(instance) = self.owner_of(check) else {
            return self.node_said(check, health, output).await;
        };
        // A client that speaks of a copy's check has come here: on this it registers.
        if is_copy(&instance) {
            return Err(unknown_check(check));
        }
        let definition = definition(&instance);
        let ttl = definition
            .checks
            .iter()
            .any(|known| known.id == check && known.kind == "ttl");
        if !ttl {
            let text = format!("CheckID {check:?} does not have associated TTL");
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let (service, id) = (instance.service.clone(), instance.id.clone());
        let check = check.to_owned();
        self.registry
            .report_check(service, id, check, health, output)
            .await?;
        Ok(Reply::Nothing.into())
    }
}

/// What `?enable` says.
pub(crate) fn enabled(asked: &Asked) -> Result<bool, Refusal> {
    let enable = asked.query.get("enable").filter(|text| !text.is_empty());
    let enable = enable.ok_or_else(|| Refusal::bad("Missing value for enable"))?;
    go_bool(enable).ok_or_else(|| Refusal::bad(format!("Invalid value for enable: {enable:?}")))
}

/// What is gone already needs no removal.
pub(crate) fn gone<T>(result: Result<T, RegistryError>) -> Result<(), Refusal> {
    match result {
        Ok(_) | Err(RegistryError::Unknown { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn health_of(status: &str, standing: Value, asked: &Asked) -> Answer {
    let (code, word) = match status {
        "" => (StatusCode::NOT_FOUND, "critical"),
        "passing" => (StatusCode::OK, status),
        "warning" => (StatusCode::TOO_MANY_REQUESTS, status),
        _ => (StatusCode::SERVICE_UNAVAILABLE, status),
    };
    let accepts = asked
        .headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    let text = asked.query.get("format") == Some("text")
        || accepts.is_some_and(|accept| accept.starts_with("text/plain"));
    match text {
        true => Reply::Text(code, word.to_owned()).into(),
        false => Reply::Json(code, standing).into(),
    }
}

fn unknown_service(id: &str) -> Refusal {
    let text = format!(
        "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
    );
    Refusal::new(StatusCode::NOT_FOUND, text)
}

pub(crate) fn unknown_check(id: &str) -> Refusal {
    let text =
        format!("Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name.");
    Refusal::new(StatusCode::NOT_FOUND, text)
}

/// As Go's `strconv.ParseBool`.
pub(crate) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
