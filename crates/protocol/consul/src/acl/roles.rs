//! `/v1/acl/role` and `/v1/acl/roles`: rights that several tokens have by one name.

use atoll_store::{Op, Span};
use serde_json::{Map, Value, json};

use super::endpoints::{absent, content_hash, is_name, links, new_id, show_links};
use super::state::{Kept, State};
use super::stored::Role;
use super::{Acl, ROLES};
use crate::server::{Answer, Asked};
use crate::stored::write;
use crate::wire::{Fields, Refusal, Reply};

/// Roles at all: each is read into memory by every process.
const ROLES_MAX: usize = 10_000;
/// Consul's limit.
const NAME_BYTES_MAX: usize = 256;

impl Acl {
    pub(super) async fn roles(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let index = self.settled(asked).await;
        let state = self.read();
        let policy = asked.query.get("policy").filter(|id| !id.is_empty());
        let linked = |role: &Role| {
            policy.is_none_or(|policy| role.links.policies.iter().any(|id| id == policy))
        };
        let all = state.roles.iter().filter(|(_, role)| linked(&role.value));
        let all = all.map(|(id, role)| shown(id, role, &state));
        Ok(Answer::at(index, Reply::json(all.collect::<Vec<_>>())))
    }

    pub(super) fn role_read(&self, id: &str) -> Result<Answer, Refusal> {
        let state = self.read();
        let role = state.roles.get(id).ok_or_else(|| absent("role"))?;
        Ok(Answer::at(
            state.index,
            Reply::json(shown(id, role, &state)),
        ))
    }

    pub(super) fn role_named(&self, name: &str) -> Result<Answer, Refusal> {
        let id = named(&self.read(), name).ok_or_else(|| absent("role"))?;
        self.role_read(&id)
    }

    pub(super) async fn role_create(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        if !fields.text("id")?.is_empty() {
            let text = "Cannot specify the ID when creating a new role";
            return Err(Refusal::bad(text));
        }
        let id = new_id()?;
        let put = |state: &State| {
            if state.roles.len() >= ROLES_MAX {
                let text = format!("Invalid Role: there are {ROLES_MAX} already");
                return Err(Refusal::bad(text));
            }
            let role = of(&fields, state, &id)?;
            Ok((vec![Op::put(format!("{ROLES}{id}"), write(&role))], role))
        };
        let (value, revision) = self.change(put).await?;
        let (created, modified) = (revision, revision);
        let kept = Kept {
            value,
            created,
            modified,
        };
        Ok(Reply::json(shown(&id, &kept, &self.read())).into())
    }

    pub(super) async fn role_update(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let given = fields.text("id")?;
        if !given.is_empty() && given != id {
            return Err(Refusal::bad("Role ID in URL and payload do not match"));
        }
        let put = |state: &State| {
            let known = state.roles.get(id).ok_or_else(|| absent("role"))?;
            let role = of(&fields, state, id)?;
            let put = Op::put(format!("{ROLES}{id}"), write(&role));
            Ok((vec![put], (role, known.created)))
        };
        let ((value, created), modified) = self.change(put).await?;
        let kept = Kept {
            value,
            created,
            modified,
        };
        Ok(Reply::json(shown(id, &kept, &self.read())).into())
    }

    pub(super) async fn role_delete(&self, id: &str) -> Result<Answer, Refusal> {
        let delete = |state: &State| {
            if !state.roles.contains_key(id) {
                return Err(absent("role"));
            }
            let key = format!("{ROLES}{id}");
            Ok((vec![Op::Delete(Span::Key(key.into()))], ()))
        };
        self.change(delete).await?;
        Ok(Reply::json(true).into())
    }
}

/// The id of the role with this name.
pub(super) fn named(state: &State, name: &str) -> Option<String> {
    let mut all = state.roles.iter();
    let found = all.find(|(_, role)| role.value.name == name);
    found.map(|(id, _)| id.clone())
}

/// A role as it was sent.
fn of(fields: &Fields, state: &State, id: &str) -> Result<Role, Refusal> {
    let name = fields.text("name")?;
    if !is_name(&name, NAME_BYTES_MAX, b"-_") {
        let text = "Invalid Role: invalid Role.Name. Only alphanumeric characters, '-' and '_' are allowed";
        return Err(Refusal::bad(text));
    }
    if named(state, &name).is_some_and(|other| other != id) {
        let text = format!("Invalid Role: A Role with Name {name:?} already exists");
        return Err(Refusal::bad(text));
    }
    Ok(Role {
        name,
        description: fields.text("description")?,
        links: links(fields, state)?,
    })
}

fn shown(id: &str, kept: &Kept<Role>, state: &State) -> Value {
    let role = &kept.value;
    let mut shown = Map::new();
    shown.insert("ID".to_owned(), json!(id));
    shown.insert("Name".to_owned(), json!(role.name));
    shown.insert("Description".to_owned(), json!(role.description));
    show_links(&mut shown, &role.links, state);
    shown.insert("Hash".to_owned(), json!(content_hash(role)));
    shown.insert("CreateIndex".to_owned(), json!(kept.created));
    shown.insert("ModifyIndex".to_owned(), json!(kept.modified));
    shown.into()
}
