//! `/v1/acl`: what its endpoints have in common.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use atoll_runtime::unguessable;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::state::State;
use super::stored::{Links, NodeIdentity, RESERVED, ServiceIdentity};
use super::{Acl, AclPath};
use crate::server::{Answer, Asked, Front, uuid_of};
use crate::wire::{Fields, Refusal, Reply, base64};

/// Policies, roles and identities of one token or role.
const LINKS_MAX: usize = 256;

impl Front {
    pub(crate) async fn acl_endpoint(
        &self,
        path: &AclPath,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let Some(acl) = &self.acl else {
            return Err(disabled());
        };
        let who = asked.caller.who()?;
        let reading = asked.method == Method::GET;
        let deleting = asked.method == Method::DELETE;
        match path {
            AclPath::Bootstrap => acl.bootstrap(asked).await,
            AclPath::Replication => Ok(replication()),
            AclPath::Tokens => acl.tokens(asked).await,
            AclPath::TokenCreate => acl.token_create(asked).await,
            AclPath::TokenSelf => acl.token_self(asked),
            AclPath::Token(id) if reading => acl.token_read(id, asked),
            AclPath::Token(id) if deleting => acl.token_delete(id, &who).await,
            AclPath::Token(id) => acl.token_update(id, asked).await,
            AclPath::TokenClone(id) => acl.token_clone(id, asked).await,
            AclPath::Policies => acl.policies(asked).await,
            AclPath::PolicyCreate => acl.policy_create(asked).await,
            AclPath::PolicyNamed(name) => acl.policy_named(name),
            AclPath::Policy(id) if reading => acl.policy_read(id),
            AclPath::Policy(id) if deleting => acl.policy_delete(id).await,
            AclPath::Policy(id) => acl.policy_update(id, asked).await,
            AclPath::Roles => acl.roles(asked).await,
            AclPath::RoleCreate => acl.role_create(asked).await,
            AclPath::RoleNamed(name) => acl.role_named(name),
            AclPath::Role(id) if reading => acl.role_read(id),
            AclPath::Role(id) if deleting => acl.role_delete(id).await,
            AclPath::Role(id) => acl.role_update(id, asked).await,
            AclPath::Refused(why) => {
                let text =
                    format!("not supported by Atoll: {why}; see SPEC.md of its Consul front");
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text))
            }
        }
    }
}

/// As an agent whose ACLs are off, which clients know how to take.
pub(crate) fn disabled() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "ACL support disabled")
}

/// There is one datacenter, and nothing to copy from another.
fn replication() -> Answer {
    let never = "0001-01-01T00:00:00Z";
    let status = json!({
        "Enabled": false,
        "Running": false,
        "SourceDatacenter": "",
        "ReplicationType": "",
        "ReplicatedIndex": 0,
        "ReplicatedRoleIndex": 0,
        "ReplicatedTokenIndex": 0,
        "LastSuccess": never,
        "LastError": never,
        "LastErrorMessage": "",
    });
    Reply::json(status).into()
}

impl Acl {
    /// Waits as asked until something has changed; gives the index then.
    pub(super) async fn settled(&self, asked: &Asked) -> u64 {
        if asked.wait.index > 0 {
            asked.hold(self.changed(asked.wait.index)).await;
        }
        self.read().index
    }
}

/// A new id that nobody can guess: a secret, too.
pub(super) fn new_id() -> Result<String, Refusal> {
    let bits = unguessable().map_err(|error| {
        let text = format!("the system gives no random bits: {error}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    let bits = u128::from_be_bytes(bits);
    Ok(uuid_of((bits >> 64) as u64, bits as u64))
}

/// An id that a client gives, in the field of this name.
pub(super) fn given_id(what: &str, id: &str) -> Result<(), Refusal> {
    let formed = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if !formed {
        let text = format!("Invalid Token: {what} is not a valid UUID");
        return Err(Refusal::bad(text));
    }
    if id.starts_with(RESERVED) {
        let text = format!("Invalid Token: UUIDs with the prefix {RESERVED:?} are reserved");
        return Err(Refusal::bad(text));
    }
    Ok(())
}

/// Whether a name is of these characters and of 1 to `max` bytes.
pub(super) fn is_name(name: &str, max: usize, also: &[u8]) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || also.contains(&byte);
    (1..=max).contains(&name.len()) && name.bytes().all(plain)
}

/// That what is asked for is not there, in Consul's words.
pub(super) fn absent(what: &str) -> Refusal {
    let text = format!("Requested {what} does not exist: ACL not found");
    Refusal::new(StatusCode::NOT_FOUND, text)
}

/// What a token or role is linked to, as it was sent. Policies are found by id or name.
pub(super) fn links(fields: &Fields, state: &State) -> Result<Links, Refusal> {
    let by_name = |name: &str| {
        let mut all = state.policies.iter();
        let found = all.find(|(_, policy)| policy.kept.value.name == name);
        found.map(|(id, _)| id.clone())
    };
    let known = |id: &str| state.policies.contains_key(id);
    let policies = linked(fields, "policies", "policy", known, by_name)?;
    let mut services = Vec::new();
    for identity in fields.objects("serviceidentities")? {
        let name = identity.text("servicename")?;
        // Consul takes names of DNS in lower case; ours have no case.
        if !is_name(&name, 255, b"-_.") {
            let text = format!("Invalid Token: service identity {name:?} is no name of a service");
            return Err(Refusal::bad(text));
        }
        let (name, datacenters) = (name.to_ascii_lowercase(), identity.texts("datacenters")?);
        services.push(ServiceIdentity { name, datacenters });
    }
    let mut nodes = Vec::new();
    for identity in fields.objects("nodeidentities")? {
        let (name, datacenter) = (identity.text("nodename")?, identity.text("datacenter")?);
        if !is_name(&name, 255, b"-_.") {
            let text = format!("Invalid Token: node identity {name:?} is no name of a node");
            return Err(Refusal::bad(text));
        }
        if datacenter.is_empty() {
            let text = "Invalid Token: a node identity needs its Datacenter";
            return Err(Refusal::bad(text));
        }
        nodes.push(NodeIdentity { name, datacenter });
    }
    if !fields.objects("templatedpolicies")?.is_empty() {
        return Err(Refusal::unsupported("a templated policy"));
    }
    if policies.len() + services.len() + nodes.len() > LINKS_MAX {
        let text = format!("Invalid Token: at most {LINKS_MAX} policies and identities");
        return Err(Refusal::bad(text));
    }
    Ok(Links {
        policies,
        services,
        nodes,
    })
}

/// Ids of what is linked under `key`, each `{"ID": ..}` or `{"Name": ..}`.
pub(super) fn linked(
    fields: &Fields,
    key: &str,
    what: &str,
    known: impl Fn(&str) -> bool,
    by_name: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, Refusal> {
    let mut ids: Vec<String> = Vec::new();
    for link in fields.objects(key)? {
        let (id, name) = (link.text("id")?, link.text("name")?);
        let found = match &id[..] {
            "" => by_name(&name),
            id => Some(id.to_owned()).filter(|id| known(id)),
        };
        let Some(found) = found else {
            let by = if id.is_empty() { "name" } else { "ID" };
            let given = if id.is_empty() { name } else { id };
            let text = format!("No such ACL {what} with {by} {given:?}");
            return Err(Refusal::bad(text));
        };
        if !ids.contains(&found) {
            ids.push(found);
        }
    }
    if ids.len() > LINKS_MAX {
        let text = format!("Invalid Token: at most {LINKS_MAX} links of a kind");
        return Err(Refusal::bad(text));
    }
    Ok(ids)
}

/// Adds links to what is shown, as Consul: those that are empty are left out, and so is
/// what is gone.
pub(super) fn show_links(shown: &mut Map<String, Value>, links: &Links, state: &State) {
    let policies = links.policies.iter().filter_map(|id| {
        let name = &state.policies.get(id)?.kept.value.name;
        Some(json!({ "ID": id, "Name": name }))
    });
    let services = links.services.iter().map(|identity| {
        let mut shown = Map::new();
        shown.insert("ServiceName".to_owned(), json!(identity.name));
        if !identity.datacenters.is_empty() {
            shown.insert("Datacenters".to_owned(), json!(identity.datacenters));
        }
        Value::from(shown)
    });
    let nodes = links
        .nodes
        .iter()
        .map(|identity| json!({ "NodeName": identity.name, "Datacenter": identity.datacenter }));
    let all: [(&str, Vec<Value>); 3] = [
        ("Policies", policies.collect()),
        ("ServiceIdentities", services.collect()),
        ("NodeIdentities", nodes.collect()),
    ];
    for (key, list) in all {
        if !list.is_empty() {
            shown.insert(key.to_owned(), list.into());
        }
    }
}

/// `Hash` of what is shown: another whenever the content is. Consul's is a BLAKE2 sum,
/// which its clients compare and never compute.
pub(super) fn content_hash(content: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    base64(&hasher.finish().to_be_bytes())
}
