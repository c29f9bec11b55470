//! `/v1/acl/policy` and `/v1/acl/policies`.

use atoll_store::{Op, Span};
use serde_json::{Map, Value, json};

use super::endpoints::{absent, content_hash, is_name, new_id};
use super::state::{Kept, State};
use super::stored::{GLOBAL_MANAGEMENT, Policy};
use super::{Acl, POLICIES, rules};
use crate::server::{Answer, Asked};
use crate::stored::write;
use crate::wire::{Fields, Refusal, Reply};

/// Policies at all: each is read into memory by every process.
const POLICIES_MAX: usize = 10_000;
/// Consul's limit.
const NAME_BYTES_MAX: usize = 128;

impl Acl {
    pub(super) async fn policies(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let index = self.settled(asked).await;
        let state = self.read();
        let all = state.policies.iter();
        let all = all.map(|(id, policy)| shown(id, &policy.kept, false));
        Ok(Answer::at(index, Reply::json(all.collect::<Vec<_>>())))
    }

    pub(super) fn policy_read(&self, id: &str) -> Result<Answer, Refusal> {
        let state = self.read();
        let policy = state.policies.get(id).ok_or_else(|| absent("policy"))?;
        let shown = shown(id, &policy.kept, true);
        Ok(Answer::at(state.index, Reply::json(shown)))
    }

    pub(super) fn policy_named(&self, name: &str) -> Result<Answer, Refusal> {
        let id = named(&self.read(), name).ok_or_else(|| absent("policy"))?;
        self.policy_read(&id)
    }

    pub(super) async fn policy_create(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        if !fields.text("id")?.is_empty() {
            let text = "Cannot specify the ID when creating a new policy";
            return Err(Refusal::bad(text));
        }
        let policy = of(&fields)?;
        let id = new_id()?;
        let put = |state: &State| {
            if state.policies.len() >= POLICIES_MAX {
                let text = format!("Invalid Policy: there are {POLICIES_MAX} already");
                return Err(Refusal::bad(text));
            }
            free(state, &policy.name, &id)?;
            Ok((vec![Op::put(format!("{POLICIES}{id}"), write(&policy))], ()))
        };
        let ((), revision) = self.change(put).await?;
        let kept = Kept {
            value: policy.clone(),
            created: revision,
            modified: revision,
        };
        Ok(Reply::json(shown(&id, &kept, true)).into())
    }

    pub(super) async fn policy_update(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let given = fields.text("id")?;
        if !given.is_empty() && given != id {
            let text = "Policy ID in URL and payload do not match";
            return Err(Refusal::bad(text));
        }
        if id == GLOBAL_MANAGEMENT {
            let text = "the builtin global-management policy cannot be changed";
            return Err(Refusal::bad(text));
        }
        let policy = of(&fields)?;
        let put = |state: &State| {
            let known = state.policies.get(id).ok_or_else(|| absent("policy"))?;
            free(state, &policy.name, id)?;
            let put = Op::put(format!("{POLICIES}{id}"), write(&policy));
            Ok((vec![put], known.kept.created))
        };
        let (created, modified) = self.change(put).await?;
        let kept = Kept {
            value: policy.clone(),
            created,
            modified,
        };
        Ok(Reply::json(shown(id, &kept, true)).into())
    }

    pub(super) async fn policy_delete(&self, id: &str) -> Result<Answer, Refusal> {
        if id == GLOBAL_MANAGEMENT {
            let text = "Delete operation not permitted on the builtin global-management policy";
            return Err(Refusal::bad(text));
        }
        let delete = |state: &State| {
            if !state.policies.contains_key(id) {
                return Err(absent("policy"));
            }
            let key = format!("{POLICIES}{id}");
            Ok((vec![Op::Delete(Span::Key(key.into()))], ()))
        };
        self.change(delete).await?;
        Ok(Reply::json(true).into())
    }
}

/// The id of the policy with this name.
fn named(state: &State, name: &str) -> Option<String> {
    let mut all = state.policies.iter();
    let found = all.find(|(_, policy)| policy.kept.value.name == name);
    found.map(|(id, _)| id.clone())
}

/// Refuses a name that another policy has.
fn free(state: &State, name: &str, id: &str) -> Result<(), Refusal> {
    match named(state, name) {
        Some(other) if other != id => {
            let text = format!("Invalid Policy: A Policy with Name {name:?} already exists");
            Err(Refusal::bad(text))
        }
        _ => Ok(()),
    }
}

/// A policy as it was sent, with rules that can be read.
fn of(fields: &Fields) -> Result<Policy, Refusal> {
    let name = fields.text("name")?;
    if name.is_empty() {
        return Err(Refusal::bad("Invalid Policy: no Name is set"));
    }
    let once = name.matches('/').count() <= 1 && !name.starts_with('/');
    if !is_name(&name, NAME_BYTES_MAX, b"-_/") || !once {
        let text = "Invalid Policy: invalid Policy.Name. Only alphanumeric characters, a single '/', '-' and '_' are allowed";
        return Err(Refusal::bad(text));
    }
    let rules = fields.text("rules")?;
    rules::parse(&rules).map_err(|wrong| {
        let text = format!("Invalid Policy: failed to parse the rules: {wrong}");
        Refusal::bad(text)
    })?;
    Ok(Policy {
        name,
        description: fields.text("description")?,
        rules,
        datacenters: fields.texts("datacenters")?,
    })
}

fn shown(id: &str, kept: &Kept<Policy>, whole: bool) -> Value {
    let policy = &kept.value;
    let mut shown = Map::new();
    let mut set = |key: &str, value: Value| shown.insert(key.to_owned(), value);
    set("ID", json!(id));
    set("Name", json!(policy.name));
    set("Description", json!(policy.description));
    if whole {
        set("Rules", json!(policy.rules));
    }
    if !policy.datacenters.is_empty() {
        set("Datacenters", json!(policy.datacenters));
    }
    set("Hash", json!(content_hash(policy)));
    set("CreateIndex", json!(kept.created));
    set("ModifyIndex", json!(kept.modified));
    shown.into()
}
