//! `PUT /v1/atoll/copies`: what `atoll migrate consul` tells, instances that it copies
//! from a running Consul. Consul has no such endpoint: its catalogue's entries live for
//! ever and belong to nobody, and a copy must do neither.
//!
//! A copy is marked with where it comes from and lives by a lease that the migration
//! renews. It is taken over by a registration that is not a migration's: of the same node
//! and id, or with this Atoll as the agent under the same name, id and address. Then the
//! migration may neither change nor remove it and is told so with 409. `copying.rs` is
//! the other end.

use atoll_model::{InstanceId, ServiceName};
use atoll_registry::Source;
use http::StatusCode;
use serde_json::json;

use crate::agent::gone;
use crate::server::{Answer, Asked, Front};
use crate::translate::{self, Node, is_copy};
use crate::wire::{Fields, Refusal, Reply};

/// Entries of one request; a migration sends 250.
const ENTRIES_MAX: usize = 1_000;

/// One instance as it is named by a migration.
struct Named {
    service: ServiceName,
    /// On its node.
    id: String,
    node: String,
    /// In the registry.
    instance: InstanceId,
}

fn switched() -> Refusal {
    let text = "it has registered with Atoll itself";
    Refusal::new(StatusCode::CONFLICT, text)
}

fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is no copy of it")
}

impl Front {
    pub(crate) async fn copies(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let from = fields.text("copiedfrom")?;
        if from.is_empty() {
            return Err(Refusal::bad(
                "CopiedFrom must say where the copies are from",
            ));
        }
        let dry_run = fields.flag("dryrun")?;
        let entries = fields.objects("entries")?;
        if entries.len() > ENTRIES_MAX {
            let text = format!("at most {ENTRIES_MAX} entries at once");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        let mut results = Vec::with_capacity(entries.len());
        for entry in &entries {
            results.push(match self.copy(&from, dry_run, entry).await {
                Ok(()) => json!({ "Status": 200 }),
                Err(refusal) => json!({ "Status": refusal.status.as_u16(), "Said": refusal.text }),
            });
        }
        self.view.caught_up(self.registry.current().revision).await;
        Ok(Reply::json(json!({ "Results": results })).into())
    }

    async fn copy(&self, from: &str, dry_run: bool, entry: &Fields) -> Result<(), Refusal> {
        match &entry.text("action")?[..] {
            "Register" => {
                let body = entry.object("body")?.unwrap_or_default();
                self.copy_in(from, dry_run, &body).await
            }
            "Renew" => {
                let named = self.named(entry)?;
                let (service, id) = self.a_copy(&named).await?;
                Ok(self.registry.renew(service, id).await?)
            }
            "Deregister" => {
                let named = self.named(entry)?;
                let (service, id) = self.a_copy(&named).await?;
                if dry_run {
                    return Ok(());
                }
                gone(self.registry.deregister(service, id, Source::Client).await)?;
                self.forget_if_empty(&named.node).await
            }
            other => Err(Refusal::bad(format!(
                "a migration knows Register, Renew and Deregister, not {other:?}"
            ))),
        }
    }

    /// Registers a copy as its source has it, unless its client has come here.
    async fn copy_in(&self, from: &str, dry_run: bool, body: &Fields) -> Result<(), Refusal> {
        let service = body.object("service")?.unwrap_or_default();
        let node = Node {
            name: body.text("node")?,
            address: body.text("address")?,
            ..Node::default()
        };
        let registration = translate::define(&service, &node, true)?.registration;
        let id = service.text("id")?;
        let id = if id.is_empty() {
            service.text("service")?
        } else {
            id
        };
        let named = self.name(&registration.service, id, node.name)?;
        if self.taken_over(&named, &registration.address) {
            self.drop_copy(&named).await?;
            return Err(switched());
        }
        let known = self.registry.get(&named.service, &named.instance);
        if known.is_some_and(|known| !is_copy(&known)) {
            return Err(switched());
        }
        if dry_run {
            return Ok(());
        }
        self.enrol(body, Some(from)).await
    }

    /// The copy of this name; 404 without one, 409 when it has switched.
    async fn a_copy(&self, named: &Named) -> Result<(ServiceName, InstanceId), Refusal> {
        let known = self.registry.get(&named.service, &named.instance);
        let Some(known) = known else {
            return Err(absent());
        };
        if !is_copy(&known) {
            return Err(switched());
        }
        if self.taken_over(named, &known.address) {
            self.drop_copy(named).await?;
            return Err(switched());
        }
        Ok((named.service.clone(), named.instance.clone()))
    }

    /// Whether an instance of another node, at `address`, is registered with us as its
    /// agent. The id alone does not say so: each agent has ids of its own, and several
    /// nodes often have one of the same.
    fn taken_over(&self, named: &Named, address: &atoll_model::Address) -> bool {
        if named.node == self.node.name {
            return false;
        }
        let Ok(own) = named.id.parse() else {
            return false;
        };
        let own = self.registry.get(&named.service, &own);
        own.is_some_and(|own| !is_copy(&own) && own.address == *address)
    }

    /// What was copied of an instance that is here itself would be there twice.
    async fn drop_copy(&self, named: &Named) -> Result<(), Refusal> {
        let known = self.registry.get(&named.service, &named.instance);
        if known.is_some_and(|known| is_copy(&known)) {
            let (service, id) = (named.service.clone(), named.instance.clone());
            gone(self.registry.deregister(service, id, Source::Client).await)?;
            self.forget_if_empty(&named.node).await?;
        }
        Ok(())
    }

    fn named(&self, entry: &Fields) -> Result<Named, Refusal> {
        // What nothing can be called is not here either.
        let service = entry.text("service")?.parse().map_err(|_| absent())?;
        self.name(&service, entry.text("id")?, entry.text("node")?)
    }

    fn name(&self, service: &ServiceName, id: String, node: String) -> Result<Named, Refusal> {
        let instance = if node == self.node.name {
            id.parse()
        } else {
            format!("{id}@{node}").parse()
        };
        Ok(Named {
            service: service.clone(),
            instance: instance.map_err(|_| absent())?,
            id,
            node,
        })
    }
}
