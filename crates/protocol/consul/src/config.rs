//! `/v1/config`: config entries, kept for those who write and read them.
//!
//! They steer Consul's mesh, which is not here: nothing acts on them. What an entry says
//! beyond its kind and name is kept as it came.

use atoll_model::Revision;
use atoll_store::{KeyValue, Op, Order, Span, Test, Txn};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::server::{Answer, Asked, Front};
use crate::wire::{Fields, Refusal, Reply};

/// Entries, by kind and name.
const ENTRIES: &str = "consul/config/";
/// Rewritten whenever one is deleted.
const ENTRIES_MARK: &str = "consul/marks/config";
/// Bytes of a name: that of a service, and more than any has.
const NAME_BYTES_MAX: usize = 255;

/// Kinds of Consul's free edition, and the only name that those have which have one.
const KINDS: &[(&str, Option<&str>)] = &[
    ("api-gateway", None),
    ("exported-services", Some("default")),
    ("file-system-certificate", None),
    ("http-route", None),
    ("ingress-gateway", None),
    ("inline-certificate", None),
    ("jwt-provider", None),
    ("mesh", Some("mesh")),
    ("proxy-defaults", Some("global")),
    ("service-defaults", None),
    ("service-intentions", None),
    ("service-resolver", None),
    ("service-router", None),
    ("service-splitter", None),
    ("tcp-route", None),
    ("terminating-gateway", None),
];

/// What there is at `config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Apply,
    Kind(String),
    One(String, String),
}

impl Endpoint {
    pub(crate) fn find(parts: &[&str]) -> Self {
        match parts {
            [] => Self::Apply,
            [kind] => Self::Kind((*kind).to_owned()),
            [kind, name @ ..] => Self::One((*kind).to_owned(), name.join("/")),
        }
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Apply => &[Method::PUT],
            Self::Kind(_) => &[Method::GET],
            Self::One(..) => &[Method::GET, Method::DELETE],
        }
    }
}

/// The kind of this name.
fn kind(name: &str) -> Result<(&'static str, Option<&'static str>), Refusal> {
    let known = KINDS.iter().find(|(known, _)| *known == name).copied();
    known.ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
        let known = known.join(", ");
        Refusal::bad(format!(
            "invalid config entry kind: {name}; known are {known}"
        ))
    })
}

impl Front {
    pub(crate) async fn config(
        &self,
        endpoint: Endpoint,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::Apply => self.config_apply(asked).await,
            Endpoint::Kind(kind) => self.config_list(&kind, asked).await,
            Endpoint::One(kind, name) if asked.method == Method::DELETE => {
                self.config_delete(&kind, &name, asked).await
            }
            Endpoint::One(kind, name) => self.config_read(&kind, &name, asked).await,
        }
    }

    async fn config_apply(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let (key, entry) = entry(&asked.body)?;
        let mut txn = Txn::of([Op::put(&key[..], entry.to_string())]);
        if let Some(index) = cas(asked)? {
            // 0 is the revision of what is not there, as it is Consul's word for it.
            txn = txn.when(&key[..], Test::ModRevision(Order::Equal, Revision(index)));
        }
        let held = self.store.commit(txn).await?.held;
        Ok(Reply::json(held).into())
    }

    async fn config_list(&self, name: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let (kind, _) = kind(name)?;
        let span = Span::prefix(format!("{ENTRIES}{kind}/"));
        let found = self.keys(span, ENTRIES_MARK, asked).await?;
        let all: Vec<Value> = found.items.iter().filter_map(|kept| shown(kept)).collect();
        Ok(Answer::at(found.index, Reply::json(all)))
    }

    async fn config_read(&self, name: &str, entry: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let (kind, _) = kind(name)?;
        let span = Span::Key(format!("{ENTRIES}{kind}/{entry}").into());
        let found = self.keys(span, ENTRIES_MARK, asked).await?;
        match found.items.first().and_then(|kept| shown(kept)) {
            Some(shown) => Ok(Answer::at(found.index, Reply::json(shown))),
            None => {
                let text = format!("Config entry not found for {kind:?} / {entry:?}");
                let reply = Reply::Text(StatusCode::NOT_FOUND, text);
                Ok(Answer::at(found.index, reply))
            }
        }
    }

    async fn config_delete(
        &self,
        name: &str,
        entry: &str,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let (kind, _) = kind(name)?;
        let key = format!("{ENTRIES}{kind}/{entry}");
        let delete = [Op::Delete(Span::from(&key[..])), Op::put(ENTRIES_MARK, "")];
        let txn = Txn::of(delete).when(&key[..], Test::Exists);
        let Some(index) = cas(asked)? else {
            self.store.commit(txn).await?;
            return Ok(Reply::json(json!({})).into());
        };
        let txn = txn.when(&key[..], Test::ModRevision(Order::Equal, Revision(index)));
        let held = self.store.commit(txn).await?.held;
        Ok(Reply::json(held).into())
    }
}

/// `?cas=`, when it is there.
fn cas(asked: &Asked) -> Result<Option<u64>, Refusal> {
    let text = asked.query.get("cas").filter(|text| !text.is_empty());
    let wrong = |text: &str| Refusal::bad(format!("Invalid cas: {text:?} is no number"));
    text.map(|text| text.parse().map_err(|_| wrong(text)))
        .transpose()
}

/// What a body says: where it stands, and what is kept.
pub(crate) fn entry(body: &[u8]) -> Result<(String, Value), Refusal> {
    let wrong = |what: String| Refusal::bad(format!("Request decoding failed: {what}"));
    let fields = Fields::of_body(body)?;
    let (given, name) = (fields.text("kind")?, fields.text("name")?);
    if given.is_empty() {
        return Err(wrong(
            "Payload does not contain a kind/Kind key at the top level".to_owned(),
        ));
    }
    let (kind, only) = kind(&given)?;
    let name = match only {
        Some(only) if name.is_empty() => only.to_owned(),
        Some(only) if name != only => {
            return Err(wrong(format!(
                "invalid name ({name:?}), only {only:?} is supported"
            )));
        }
        _ => name,
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(wrong(format!(
            "Name must have from 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    let given: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    let ours = ["kind", "name", "createindex", "modifyindex", "hash"];
    let rest = given.into_iter().filter(|(key, _)| {
        let folded = key.replace('_', "").to_ascii_lowercase();
        !ours.contains(&&folded[..])
    });
    let mut kept = Map::new();
    kept.insert("Kind".to_owned(), json!(kind));
    kept.insert("Name".to_owned(), json!(name));
    kept.extend(rest);
    Ok((format!("{ENTRIES}{kind}/{name}"), Value::Object(kept)))
}

fn shown(kept: &KeyValue) -> Option<Value> {
    let mut entry: Value = serde_json::from_slice(&kept.value).ok()?;
    entry["CreateIndex"] = json!(kept.create_revision.0);
    entry["ModifyIndex"] = json!(kept.mod_revision.0);
    Some(entry)
}
