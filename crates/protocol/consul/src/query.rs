//! `/v1/query`: prepared queries, which stand in the store and are run by their name or
//! id, here and in DNS ([`Queries`]).
//!
//! There is one piece of code that runs them (`execute.rs`), and DNS asks it through a
//! port of its own that the binary plugs in: what a query needs (checks, nodes and their
//! meta, templates) are Consul's notions, which neither the registry nor DNS has, and two
//! readings of one query would differ one day. `definition.rs` is what a query says,
//! `template.rs` how one is made for a name.

mod definition;
mod execute;
mod template;

use std::sync::Arc;

use atoll_model::Revision;
use atoll_store::{KeyValue, Op, Order, Span, StoreError, Test, Txn};
use http::{Method, StatusCode};
use serde_json::{Value, json};

pub use self::execute::{Queries, QueryError, Run};
use crate::keys::SESSIONS;
use crate::query::definition::Definition;
use crate::server::{Answer, Asked, Front};
use crate::wire::{Fields, Refusal, Reply};

/// Definitions, by id.
const QUERIES: &str = "consul/queries/";
/// Rewritten whenever one is deleted.
const QUERIES_MARK: &str = "consul/marks/queries";
/// Whose a name is: id by folded name. That of a template may be empty.
const NAMES: &str = "consul/query-names/";
/// Which of the names are those of templates: id by folded name.
const TEMPLATES: &str = "consul/query-templates/";
/// Times that a change is tried while others change the same query.
const ATTEMPTS_MAX: usize = 64;

/// What there is below `query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    All,
    One(String),
    Execute(String),
    Explain(String),
}

impl Endpoint {
    /// Ids and names may hold anything.
    pub(crate) fn find(parts: &[&str]) -> Self {
        match parts {
            [] => Self::All,
            [name @ .., "execute"] if !name.is_empty() => Self::Execute(name.join("/")),
            [name @ .., "explain"] if !name.is_empty() => Self::Explain(name.join("/")),
            name => Self::One(name.join("/")),
        }
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::All => &[Method::GET, Method::POST],
            Self::One(_) => &[Method::GET, Method::PUT, Method::DELETE],
            Self::Execute(_) | Self::Explain(_) => &[Method::GET],
        }
    }
}

/// Consul's word for a query that is not there.
pub(crate) fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "Query not found")
}

/// Consul's servers refuse with it whatever they do not like in a query.
fn failed(text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
}

impl Front {
    pub(crate) async fn query(&self, endpoint: Endpoint, asked: &Asked) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::All if asked.method == Method::POST => self.query_create(asked).await,
            Endpoint::All => self.query_list(asked).await,
            Endpoint::One(id) => match asked.method {
                Method::PUT => self.query_update(&id, asked).await,
                Method::DELETE => self.query_delete(&id).await,
                _ => self.query_read(&id, asked).await,
            },
            Endpoint::Execute(name) => self.query_execute(&name, asked).await,
            Endpoint::Explain(name) => self.query_explain(&name).await,
        }
    }

    async fn query_create(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        if !fields.text("id")?.is_empty() {
            return Err(failed(
                "ID must be empty when creating a new prepared query",
            ));
        }
        let definition = Definition::parse(&fields)?;
        let id = self.uuid();
        self.put_query(&id, None, &definition).await?;
        Ok(Reply::json(json!({ "ID": id })).into())
    }

    async fn query_update(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let definition = Definition::parse(&Fields::of_body(&asked.body)?)?;
        for _ in 0..ATTEMPTS_MAX {
            let kept = self.query_to_change(id).await?;
            if self.put_query(id, Some(&kept), &definition).await? {
                return Ok(Reply::Nothing.into());
            }
        }
        Err(failed(
            "the query is changed by too many at once; try again",
        ))
    }

    async fn query_delete(&self, id: &str) -> Result<Answer, Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let kept = self.query_to_change(id).await?;
            if self.remove_query(&kept).await? {
                return Ok(Reply::Nothing.into());
            }
        }
        Err(failed(
            "the query is changed by too many at once; try again",
        ))
    }

    /// The name of the query with this id.
    pub(crate) async fn query_name(&self, id: &str) -> Result<Option<String>, Refusal> {
        let kept = self.store.get(format!("{QUERIES}{id}")).await?;
        let query = kept.and_then(|kept| Definition::of_kept(&kept.value));
        Ok(query.map(|query| query.name))
    }

    async fn query_to_change(&self, id: &str) -> Result<Arc<KeyValue>, Refusal> {
        let kept = self.store.get(format!("{QUERIES}{id}")).await?;
        let missing = || format!("Cannot modify non-existent prepared query: '{id}'");
        kept.ok_or_else(|| failed(missing()))
    }

    /// Writes a query, new or in the place of `before`; gives whether that was still
    /// there as it was.
    async fn put_query(
        &self,
        id: &str,
        before: Option<&KeyValue>,
        definition: &Definition,
    ) -> Result<bool, Refusal> {
        let key = format!("{QUERIES}{id}");
        let read = before.map_or(0, |before| before.mod_revision.0);
        let (had, has) = (before.map(names_of), names(definition));
        let had = had.unwrap_or_default();
        let mut ops = vec![Op::put(&key[..], definition.to_value().to_string())];
        let mut txn =
            Txn::default().when(&key[..], Test::ModRevision(Order::Equal, Revision(read)));
        for name in &has {
            if !had.contains(name) {
                txn = txn.when(&name[..], Test::Missing);
                ops.push(Op::put(&name[..], id));
            }
        }
        let lost = had.iter().filter(|name| !has.contains(name));
        ops.extend(lost.map(|name| Op::Delete(Span::from(&name[..]))));
        if !definition.session.is_empty() {
            // One that ends from now on takes the query along.
            let session = format!("{SESSIONS}{}", definition.session);
            txn = txn.when(session, Test::Exists);
        }
        txn.then = ops;
        if self.store.commit(txn).await?.held {
            return Ok(true);
        }
        self.why_not_put(id, definition).await?;
        match before {
            Some(_) => Ok(false),
            None => Err(failed(
                "the query is changed by too many at once; try again",
            )),
        }
    }

    /// What stands in the way of a query, in Consul's words.
    async fn why_not_put(&self, id: &str, definition: &Definition) -> Result<(), Refusal> {
        let (name, session) = (&definition.name, &definition.session);
        for key in names(definition) {
            let owner = self.store.get(key).await?;
            if owner.is_some_and(|owner| *owner.value != *id.as_bytes()) {
                return Err(failed(match name.is_empty() {
                    true => "a query template with an empty name already exists".to_owned(),
                    false => format!("name '{name}' aliases an existing query name"),
                }));
            }
        }
        let gone = self
            .store
            .get(format!("{SESSIONS}{session}"))
            .await?
            .is_none();
        if !session.is_empty() && gone {
            return Err(failed(format!("invalid session {session:?}")));
        }
        Ok(())
    }

    /// Deletes a query as it was read; gives whether it was still so.
    async fn remove_query(&self, kept: &KeyValue) -> Result<bool, StoreError> {
        let mut ops = vec![
            Op::Delete(Span::Key(kept.key.clone())),
            Op::put(QUERIES_MARK, ""),
        ];
        let names = names_of(kept).into_iter();
        ops.extend(names.map(|name| Op::Delete(Span::Key(name.into()))));
        let same = Test::ModRevision(Order::Equal, kept.mod_revision);
        let txn = Txn::of(ops).when(kept.key.clone(), same);
        Ok(self.store.commit(txn).await?.held)
    }

    /// Deletes the queries that are bound to a session that has ended: to `session`, or
    /// to any that is not there any more.
    pub(crate) async fn end_queries(&self, session: Option<&str>) -> Result<(), StoreError> {
        for kept in self.store.list(QUERIES).await?.items {
            let Some(bound) = Definition::of_kept(&kept.value).map(|query| query.session) else {
                continue;
            };
            let ended = match session {
                Some(session) => bound == session,
                None if bound.is_empty() => false,
                None => self
                    .store
                    .get(format!("{SESSIONS}{bound}"))
                    .await?
                    .is_none(),
            };
            // One that was changed meanwhile was bound to a session that lived then.
            if ended && !self.remove_query(&kept).await? {
                tracing::debug!("a prepared query was changed while its session ended");
            }
        }
        Ok(())
    }

    async fn query_list(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let span = Span::prefix(QUERIES);
        let found = self.keys(span, QUERIES_MARK, asked).await?;
        let all: Vec<Value> = found.items.iter().filter_map(|kept| shown(kept)).collect();
        Ok(Answer::at(found.index, Reply::json(all)))
    }

    async fn query_read(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let span = Span::Key(format!("{QUERIES}{id}").into());
        let found = self.keys(span, QUERIES_MARK, asked).await?;
        let one = found.items.first().and_then(|kept| shown(kept));
        let one = one.ok_or_else(not_found)?;
        Ok(Answer::at(found.index, Reply::json(vec![one])))
    }
}

/// Reads a query that anybody may have sent, and makes it for a name.
///
/// # Panics
/// When what is kept of it is read as another: a defect.
pub(crate) fn fuzz(fields: &Fields) {
    let Ok(query) = Definition::parse(fields) else {
        return;
    };
    let kept = Definition::of_kept(query.to_value().to_string().as_bytes());
    assert_eq!(kept.as_ref(), Some(&query), "kept as it was");
    drop(template::rendered(&query, "geo-db-äö"));
}

/// The keys that say whose a query's name is.
fn names(definition: &Definition) -> Vec<String> {
    let name = folded(&definition.name);
    match (definition.is_template(), name.is_empty()) {
        (true, _) => vec![format!("{NAMES}{name}"), format!("{TEMPLATES}{name}")],
        (false, false) => vec![format!("{NAMES}{name}")],
        (false, true) => Vec::new(),
    }
}

fn names_of(kept: &KeyValue) -> Vec<String> {
    let definition = Definition::of_kept(&kept.value);
    definition.map(|query| names(&query)).unwrap_or_default()
}

/// Consul finds queries without regard to case, as DNS does.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn id_of(kept: &KeyValue) -> String {
    let id = kept
        .key
        .strip_prefix(QUERIES.as_bytes())
        .unwrap_or_default();
    String::from_utf8_lossy(id).into_owned()
}

fn shown(kept: &KeyValue) -> Option<Value> {
    let mut shown = Definition::of_kept(&kept.value)?.shown(&id_of(kept));
    shown["CreateIndex"] = json!(kept.create_revision.0);
    shown["ModifyIndex"] = json!(kept.mod_revision.0);
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_slashes_and_end_like_an_endpoint() {
        let find = |path: &str| Endpoint::find(&path.split('/').collect::<Vec<_>>());
        assert_eq!(Endpoint::find(&[]), Endpoint::All);
        assert_eq!(find("a/b/execute"), Endpoint::Execute("a/b".to_owned()));
        assert_eq!(find("a/explain"), Endpoint::Explain("a".to_owned()));
        assert_eq!(find("execute"), Endpoint::One("execute".to_owned()));
        assert_eq!(find("a/b"), Endpoint::One("a/b".to_owned()));
    }
}
