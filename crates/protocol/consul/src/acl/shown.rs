//! What of an answer the caller may see: rows of services, nodes, checks, keys and
//! sessions that they may not read are left out, as in Consul (`aclfilter`). A row that
//! does not say whose it is is left out, too.
//!
//! This comes before `?filter=`, so that a filter tells nothing of what is left out.

use http::StatusCode;
use serde_json::{Map, Value};

use super::authority::Authority;
use super::permit::about_entry;
use super::rules::{Access, Resource};
use crate::endpoint::Endpoint;
use crate::server::{Answer, Asked, Front};
use crate::wire::{Refusal, Reply};
use crate::{config, coordinates, events, query};

impl Front {
    /// Leaves out of `answer` what the caller may not see by now. Of those that were made
    /// for many (`Front::told`), it was left out where they were made.
    pub(crate) fn show(&self, asked: &Asked, answer: &mut Answer) -> Result<(), Refusal> {
        if self.acl.is_none() {
            return Ok(());
        }
        let authority = asked.caller.who()?.authority;
        match &mut answer.reply {
            Reply::Json(StatusCode::OK, value) => {
                if let Endpoint::Query(below) = &asked.endpoint {
                    may_know_query(&authority, below, value)?;
                }
                if left_out(&asked.endpoint, &authority, value) {
                    asked.caller.note_filtered();
                }
            }
            // Besides, a key or a service, which was asked for by its name; what has no
            // rows; refusals.
            Reply::Written(_)
            | Reply::Json(..)
            | Reply::Nothing
            | Reply::Absent
            | Reply::Text(..)
            | Reply::Raw(_) => {}
        }
        Ok(())
    }
}

/// By whom one answer may be shared: those of one authority, and all who may see
/// everything of it, who are most where each service has a token of its own.
pub(crate) fn sight(endpoint: &Endpoint, authority: &Authority) -> u64 {
    match sees_all(endpoint, authority) {
        true => 0,
        false => authority.id,
    }
}

/// Whether nothing of these answers is ever left out.
fn sees_all(endpoint: &Endpoint, authority: &Authority) -> bool {
    use Endpoint as E;
    match endpoint {
        E::CatalogNodes
        | E::CatalogServices
        | E::CatalogService(_)
        | E::CatalogNode(_)
        | E::CatalogNodeServices(_)
        | E::HealthService(_)
        | E::HealthChecks(_)
        | E::HealthNode(_)
        | E::HealthState(_) => {
            authority.reads_all(Resource::Node) && authority.reads_all(Resource::Service)
        }
        E::Kv(_) => authority.reads_all(Resource::Key),
        _ => false,
    }
}

/// Leaves out what may not be read; tells whether there was any.
pub(crate) fn left_out(endpoint: &Endpoint, authority: &Authority, value: &mut Value) -> bool {
    !sees_all(endpoint, authority) && leave_out(endpoint, authority, value)
}

fn leave_out(endpoint: &Endpoint, authority: &Authority, value: &mut Value) -> bool {
    use Endpoint as E;
    let node = |name: &Value| may(authority, Resource::Node, name);
    let service = |name: &Value| may(authority, Resource::Service, name);
    let check = |row: &Value| {
        // A check of a node has no service.
        let of_service = row["ServiceName"]
            .as_str()
            .is_some_and(|name| !name.is_empty());
        node(&row["Node"]) && (!of_service || service(&row["ServiceName"]))
    };
    match endpoint {
        E::AgentMembers => rows(value, |row| node(&row["Name"])),
        E::AgentServices => entries(value, |_, row| service(&row["Service"])),
        // As Consul's agent: of a service's check, its service counts alone.
        E::AgentChecks => entries(value, |_, row| {
            match row["ServiceName"]
                .as_str()
                .is_some_and(|name| !name.is_empty())
            {
                true => service(&row["ServiceName"]),
                false => node(&row["Node"]),
            }
        }),
        E::CatalogNodes => rows(value, |row| node(&row["Node"])),
        E::CatalogServices => entries(value, |name, _| authority.reads(Resource::Service, name)),
        E::CatalogService(_) => rows(value, |row| {
            node(&row["Node"]) && service(&row["ServiceName"])
        }),
        E::CatalogNode(_) | E::CatalogNodeServices(_) => leave_out_of_node(authority, value),
        E::HealthService(_) => rows(value, |row| {
            node(&row["Node"]["Node"]) && service(&row["Service"]["Service"])
        }),
        E::HealthChecks(_) | E::HealthNode(_) | E::HealthState(_) => rows(value, check),
        E::SessionInfo(_) | E::SessionNode(_) | E::SessionList => {
            rows(value, |row| may(authority, Resource::Session, &row["Node"]))
        }
        E::Txn => rows(&mut value["Results"], |row| {
            // As Consul's `filterTxnResults`: of a service, its node does not count.
            may(authority, Resource::Key, &row["KV"]["Key"])
                || node(&row["Node"]["Node"])
                || service(&row["Service"]["Service"])
                || service(&row["Check"]["ServiceName"])
        }),
        E::Query(below) => leave_out_of_query(below, authority, value),
        E::Event(events::Endpoint::List) => {
            rows(value, |row| may(authority, Resource::Event, &row["Name"]))
        }
        E::Coordinate(coordinates::Endpoint::Nodes | coordinates::Endpoint::Node(_)) => {
            rows(value, |row| node(&row["Node"]))
        }
        E::Config(config::Endpoint::Kind(_)) => rows(value, |row| {
            let text = |key: &str| row[key].as_str().unwrap_or_default();
            let (resource, name) = about_entry(text("Kind"), text("Name"));
            authority.reads(resource, name)
        }),
        // Asked for beforehand (`permit.rs`), filtered where they are read (keys), or of
        // nobody.
        E::AgentSelf
        | E::AgentService(_)
        | E::AgentHealthById(_)
        | E::AgentHealthByName(_)
        | E::AgentServiceRegister
        | E::AgentServiceDeregister(_)
        | E::AgentServiceMaintenance(_)
        | E::AgentMaintenance
        | E::Copies
        | E::AgentCheckRegister
        | E::AgentCheckDeregister(_)
        | E::AgentCheckPass(_)
        | E::AgentCheckWarn(_)
        | E::AgentCheckFail(_)
        | E::AgentCheckUpdate(_)
        | E::CatalogDatacenters
        | E::CatalogRegister
        | E::CatalogDeregister
        | E::StatusLeader
        | E::StatusPeers
        | E::Kv(_)
        | E::SessionCreate
        | E::SessionDestroy(_)
        | E::SessionRenew(_)
        | E::Event(events::Endpoint::Fire(_))
        | E::Coordinate(coordinates::Endpoint::Datacenters | coordinates::Endpoint::Update)
        | E::Operator(_)
        | E::Machine(_)
        | E::Ui(_)
        | E::Config(config::Endpoint::Apply | config::Endpoint::One(..))
        | E::Mesh(_)
        | E::Acl(_)
        | E::Unsupported(_) => false,
    }
}

fn leave_out_of_node(authority: &Authority, value: &mut Value) -> bool {
    if value.is_null() {
        return false;
    }
    if !may(authority, Resource::Node, &value["Node"]["Node"]) {
        *value = Value::Null;
        return true;
    }
    let service = |row: &Value| may(authority, Resource::Service, &row["Service"]);
    match &mut value["Services"] {
        list @ Value::Array(_) => rows(list, service),
        map => entries(map, |_, row| service(row)),
    }
}

fn leave_out_of_query(below: &query::Endpoint, authority: &Authority, value: &mut Value) -> bool {
    use query::Endpoint as E;
    match below {
        // Without a name they are shown by their id alone, to who may read all.
        E::All => {
            let left_out = rows(value, |row| may(authority, Resource::Query, &row["Name"]));
            hide_tokens(authority, value);
            left_out
        }
        E::One(_) => {
            hide_tokens(authority, value);
            false
        }
        E::Explain(_) => {
            hide_token(authority, &mut value["Query"]);
            false
        }
        E::Execute(_) => rows(&mut value["Nodes"], |row| {
            may(authority, Resource::Node, &row["Node"]["Node"])
                && may(authority, Resource::Service, &row["Service"]["Service"])
        }),
    }
}

/// Whether a query that was run or explained may be known at all; else it is as if there
/// were none, as its name may be anything.
fn may_know_query(
    authority: &Authority,
    endpoint: &query::Endpoint,
    value: &Value,
) -> Result<(), Refusal> {
    let known = match endpoint {
        query::Endpoint::Explain(_) => may(authority, Resource::Query, &value["Query"]["Name"]),
        query::Endpoint::Execute(name) => {
            may(authority, Resource::Service, &value["Service"])
                || authority.reads(Resource::Query, name)
        }
        query::Endpoint::All | query::Endpoint::One(_) => true,
    };
    match known {
        true => Ok(()),
        false => Err(query::not_found()),
    }
}

/// The token that a query is run with is for those who may see all tokens.
fn hide_tokens(authority: &Authority, value: &mut Value) {
    let rows = value.as_array_mut().into_iter().flatten();
    rows.for_each(|row| hide_token(authority, row));
}

fn hide_token(authority: &Authority, query: &mut Value) {
    let kept = query["Token"]
        .as_str()
        .is_some_and(|token| !token.is_empty());
    if kept && !authority.allows(Resource::Acl, "", Access::Write) {
        query["Token"] = Value::from("<hidden>");
    }
}

fn may(authority: &Authority, resource: Resource, name: &Value) -> bool {
    name.as_str()
        .is_some_and(|name| authority.reads(resource, name))
}

fn rows(value: &mut Value, keep: impl Fn(&Value) -> bool) -> bool {
    let Value::Array(rows) = value else {
        return false;
    };
    let before = rows.len();
    rows.retain(keep);
    rows.len() < before
}

fn entries(value: &mut Value, keep: impl Fn(&str, &Value) -> bool) -> bool {
    let Value::Object(map) = value else {
        return false;
    };
    let before = map.len();
    let kept = std::mem::take(map).into_iter();
    *map = kept
        .filter(|(key, row)| keep(key, row))
        .collect::<Map<_, _>>();
    map.len() < before
}
