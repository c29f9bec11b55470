//! `/v1/kv`: keys in the store, changed by one small machine, which `/v1/txn` uses, too.
//!
//! Every request is a list of operations. They are tried on what stands in the store at
//! one revision, and what that comes to is committed if nothing of it has changed
//! meanwhile; else they are tried again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_model::Revision;
use atoll_store::{KeyValue, Op, Order, Range, Span, Test, Txn};
use http::StatusCode;
use serde_json::{Value, json};

use crate::acl::authority::Authority;
use crate::acl::{self, Resource};
use crate::keys::{DELAYS, KV, KV_MARK, SESSIONS, lock_hint};
use crate::server::{Answer, Asked, Front};
use crate::stored::{self, Entry, Session};
use crate::wire::{Fields, Refusal, Reply, base64, from_base64};

/// Times that a change is tried while others change the same keys. Each failure means
/// that somebody else succeeded, so that 64 in a row are no accident.
const ATTEMPTS_MAX: usize = 64;
/// Keys of a tree that are compared before a commit: half of what the store takes.
const COMPARED_MAX: usize = 64;

/// One operation on one key, or on all that begin with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvOp {
    pub(crate) key: String,
    pub(crate) verb: Verb,
}

/// What to do; the words are those of Consul's transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Set(Vec<u8>, u64),
    Cas(Vec<u8>, u64, u64),
    Lock(Vec<u8>, u64, String),
    Unlock(Vec<u8>, u64, String),
    Get,
    GetOrEmpty,
    GetTree,
    CheckIndex(u64),
    CheckSession(String),
    CheckNotExists,
    Delete,
    DeleteTree,
    DeleteCas(u64),
}

/// A key as it stands; what this transaction itself wrote has no index yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    key: String,
    entry: Entry,
    created: Option<u64>,
    modified: Option<u64>,
    without_value: bool,
}

/// Which operation failed and why.
pub(crate) type Failures = Vec<(usize, String)>;

/// What operations are tried on: keys as they were read, with the changes so far.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    keys: BTreeMap<String, Slot>,
    sessions: BTreeMap<String, Option<Session>>,
    delays: BTreeMap<String, bool>,
    hints: Vec<Op>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    now: Option<Held>,
    /// The revision at which it was read; 0 when there was none.
    read: u64,
    dirty: bool,
    /// Named by itself, not only found in a tree.
    single: bool,
}

impl Front {
    /// Runs all operations or none.
    pub(crate) async fn run(
        &self,
        ops: &[KvOp],
    ) -> Result<Result<(u64, Vec<Held>), Failures>, Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let mut draft = self.draft(ops).await?;
            let results = match draft.run_each(ops) {
                Ok(results) => results.into_iter().flatten().collect(),
                Err(failures) => return Ok(Err(failures)),
            };
            let Some(txn) = draft.into_txn(ops) else {
                return Ok(Ok((0, results)));
            };
            let reply = self.store.commit(txn).await?;
            if reply.held {
                return Ok(Ok((reply.revision.0, results)));
            }
        }
        let text = "the keys are changed by too many at once; try again";
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
    }

    /// Reads what `ops` need, all of it at one revision.
    pub(crate) async fn draft(&self, ops: &[KvOp]) -> Result<Draft, Refusal> {
        let at = self
            .store
            .read(Range::of(Span::from(KV_MARK)))
            .await?
            .revision;
        let mut draft = Draft::default();
        for op in ops {
            let key = format!("{KV}{}", op.key);
            let (span, single) = match op.verb {
                // Deleted without being read, however many there are.
                Verb::DeleteTree if ops.len() == 1 => continue,
                Verb::GetTree | Verb::DeleteTree => (Span::prefix(key), false),
                _ => (Span::Key(key.into()), true),
            };
            let found = self.store.read(Range::of(span).at(at)).await?;
            if single {
                draft.keys.entry(op.key.clone()).or_default().single = true;
            }
            for item in &found.items {
                let held = held(item);
                let slot = draft.keys.entry(held.key.clone()).or_default();
                slot.read = item.mod_revision.0;
                slot.now = Some(held);
            }
            if let Verb::Lock(_, _, session) = &op.verb {
                let key = format!("{SESSIONS}{session}");
                let kept = self
                    .store
                    .read(Range::of(Span::Key(key.into())).at(at))
                    .await?;
                let kept = kept
                    .items
                    .first()
                    .and_then(|item| stored::read(&item.value));
                draft.sessions.insert(session.clone(), kept);
                let key = format!("{DELAYS}{}", op.key);
                let delay = self
                    .store
                    .read(Range::of(Span::Key(key.into())).at(at))
                    .await?;
                draft.delays.insert(op.key.clone(), !delay.items.is_empty());
            }
        }
        Ok(draft)
    }
}

impl Draft {
    /// Tries all operations, and gives what each shows; those that fail do not hide the
    /// others' failures.
    pub(crate) fn run_each(&mut self, ops: &[KvOp]) -> Result<Vec<Vec<Held>>, Failures> {
        let (mut results, mut failures) = (Vec::new(), Failures::new());
        for (index, op) in ops.iter().enumerate() {
            match self.apply(op) {
                Ok(found) => results.push(found),
                Err(what) => failures.push((index, what)),
            }
        }
        if failures.is_empty() {
            Ok(results)
        } else {
            Err(failures)
        }
    }

    fn apply(&mut self, op: &KvOp) -> Result<Vec<Held>, String> {
        let key = &op.key;
        let now = self.keys.get(key).and_then(|slot| slot.now.clone());
        let modified = now.as_ref().map(|held| held.modified);
        match &op.verb {
            Verb::Set(value, flags) => Ok(vec![self.put(key, now, value, *flags, |_| {})]),
            Verb::Cas(value, flags, index) => match (index, modified) {
                (0, None) => Ok(vec![self.put(key, now, value, *flags, |_| {})]),
                (index, Some(Some(at))) if *index == at => {
                    Ok(vec![self.put(key, now, value, *flags, |_| {})])
                }
                _ => Err(format!("failed to set key {key:?}, index is stale")),
            },
            Verb::Lock(value, flags, session) => self.lock(key, now, value, *flags, session),
            Verb::Unlock(value, flags, session) => {
                if now
                    .as_ref()
                    .is_none_or(|held| held.entry.session != *session)
                {
                    return Err(format!(
                        "failed to unlock key {key:?}, lock isn't held, or is held by another session"
                    ));
                }
                self.hints
                    .push(Op::Delete(Span::from(&lock_hint(session, key)[..])));
                Ok(vec![self.put(key, now, value, *flags, |entry| {
                    entry.session.clear()
                })])
            }
            Verb::Get => match now {
                Some(held) => Ok(vec![held]),
                None => Err(format!("key {key:?} doesn't exist")),
            },
            Verb::GetOrEmpty => Ok(vec![now.unwrap_or_else(|| Held {
                key: key.clone(),
                entry: Entry::default(),
                created: Some(0),
                modified: Some(0),
                without_value: false,
            })]),
            Verb::GetTree => {
                let below = self
                    .keys
                    .range(key.clone()..)
                    .take_while(|(k, _)| k.starts_with(key));
                Ok(below.filter_map(|(_, slot)| slot.now.clone()).collect())
            }
            Verb::CheckIndex(index) => match modified.flatten() {
                Some(at) if at == *index => Ok(now.into_iter().map(without_value).collect()),
                at => Err(format!(
                    "failed index check for key {key:?}, current modify index {} != {index}",
                    at.unwrap_or(0)
                )),
            },
            Verb::CheckSession(session) => match now {
                None => Err(format!(
                    "failed to check session for key {key:?}, key doesn't exist"
                )),
                Some(held) if held.entry.session == *session => Ok(vec![without_value(held)]),
                Some(held) => Err(format!(
                    "failed session check for key {key:?}, current session {:?} != {session:?}",
                    held.entry.session
                )),
            },
            Verb::CheckNotExists => match now {
                None => Ok(Vec::new()),
                Some(_) => Err(format!("key {key:?} exists")),
            },
            Verb::Delete => {
                self.delete(key);
                Ok(Vec::new())
            }
            Verb::DeleteTree => {
                let below = self
                    .keys
                    .range(key.clone()..)
                    .take_while(|(k, _)| k.starts_with(key));
                let below: Vec<String> = below.map(|(key, _)| key.clone()).collect();
                below.iter().for_each(|key| self.delete(key));
                Ok(Vec::new())
            }
            Verb::DeleteCas(index) => match modified {
                None => Ok(Vec::new()),
                Some(Some(at)) if at == *index => {
                    self.delete(key);
                    Ok(Vec::new())
                }
                Some(_) => Err(format!("failed to delete key {key:?}, index is stale")),
            },
        }
    }

    fn lock(
        &mut self,
        key: &str,
        now: Option<Held>,
        value: &[u8],
        flags: u64,
        session: &str,
    ) -> Result<Vec<Held>, String> {
        let Some(Some(known)) = self.sessions.get(session) else {
            return Err(format!("invalid session {session:?}"));
        };
        let holder = now.as_ref().map_or("", |held| &held.entry.session);
        if holder == session {
            return Ok(vec![self.put(key, now, value, flags, |_| {})]);
        }
        if !holder.is_empty() || self.delays.get(key) == Some(&true) {
            return Err(format!("failed to lock key {key:?}, lock is already held"));
        }
        // Tells, when the session ends, what it held and what is to become of it.
        self.hints
            .push(Op::put(lock_hint(session, key), stored::write(known)));
        Ok(vec![self.put(key, now, value, flags, |entry| {
            session.clone_into(&mut entry.session);
            entry.lock_index += 1;
        })])
    }

    fn put(
        &mut self,
        key: &str,
        now: Option<Held>,
        value: &[u8],
        flags: u64,
        change: impl FnOnce(&mut Entry),
    ) -> Held {
        let mut held = now.unwrap_or_else(|| Held {
            key: key.to_owned(),
            entry: Entry::default(),
            created: None,
            modified: None,
            without_value: false,
        });
        held.modified = None;
        held.entry.flags = flags;
        held.entry.value = value.to_vec();
        change(&mut held.entry);
        let slot = self.keys.entry(key.to_owned()).or_default();
        slot.now = Some(held.clone());
        slot.dirty = true;
        without_value(held)
    }

    fn delete(&mut self, key: &str) {
        if let Some(slot) = self.keys.get_mut(key) {
            slot.dirty |= slot.now.take().is_some();
        }
    }

    /// What is to be committed; `None` when nothing changes.
    pub(crate) fn into_txn(self, ops: &[KvOp]) -> Option<Txn> {
        if let [
            KvOp {
                key,
                verb: Verb::DeleteTree,
            },
        ] = ops
        {
            let delete = Op::Delete(Span::prefix(format!("{KV}{key}")));
            return Some(Txn::of([delete, Op::put(KV_MARK, "")]));
        }
        if !self.keys.values().any(|slot| slot.dirty) {
            return None;
        }
        let few = self.keys.len() <= COMPARED_MAX;
        let (mut txn, mut changes, mut deletes) = (Txn::default(), Vec::new(), false);
        for (key, slot) in self.keys {
            let key = format!("{KV}{key}");
            if slot.dirty || slot.single || few {
                let same = Test::ModRevision(Order::Equal, Revision(slot.read));
                txn = txn.when(&key[..], same);
            }
            match slot.now {
                _ if !slot.dirty => {}
                Some(held) => changes.push(Op::put(key, held.entry.to_bytes())),
                None => {
                    deletes = true;
                    changes.push(Op::Delete(Span::from(&key[..])));
                }
            }
        }
        for session in self.sessions.into_keys() {
            txn = txn.when(format!("{SESSIONS}{session}"), Test::Exists);
        }
        for key in self.delays.into_keys() {
            txn = txn.when(format!("{DELAYS}{key}"), Test::Missing);
        }
        changes.extend(self.hints);
        if deletes {
            changes.push(Op::put(KV_MARK, ""));
        }
        txn.then = changes;
        Some(txn)
    }
}

fn held(item: &KeyValue) -> Held {
    Held {
        key: name_of(item).into_owned(),
        entry: Entry::of_bytes(&item.value).unwrap_or_default(),
        created: Some(item.create_revision.0),
        modified: Some(item.mod_revision.0),
        without_value: false,
    }
}

/// Those of the keys that may be read.
fn visible<'i>(items: &'i [Arc<KeyValue>], authority: &Authority) -> Vec<&'i KeyValue> {
    let all = items.iter().map(|item| &**item);
    all.filter(|item| authority.reads(Resource::Key, &name_of(item)))
        .collect()
}

fn name_of(item: &KeyValue) -> Cow<'_, str> {
    let key = item.key.strip_prefix(KV.as_bytes()).unwrap_or_default();
    String::from_utf8_lossy(key)
}

fn without_value(mut held: Held) -> Held {
    held.without_value = true;
    held
}

/// A key as Consul shows it; `revision` is that of the transaction which wrote it.
pub(crate) fn shown(held: &Held, revision: u64) -> Value {
    let entry = &held.entry;
    let value = match entry.value.is_empty() || held.without_value {
        true => Value::Null,
        false => Value::String(base64(&entry.value)),
    };
    let mut shown = json!({
        "LockIndex": entry.lock_index,
        "Key": held.key,
        "Flags": entry.flags,
        "Value": value,
    });
    if !entry.session.is_empty() {
        shown["Session"] = json!(entry.session);
    }
    shown["CreateIndex"] = json!(held.created.unwrap_or(revision));
    shown["ModifyIndex"] = json!(held.modified.unwrap_or(revision));
    shown
}

impl Front {
    pub(crate) async fn kv_get(&self, key: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let query = &asked.query;
        let tree = query.has("recurse") || query.has("keys");
        if key.is_empty() && !tree {
            return Err(Refusal::bad("Missing key name"));
        }
        let stored = format!("{KV}{key}");
        let span = if tree {
            Span::prefix(stored)
        } else {
            Span::Key(stored.into())
        };
        let found = self.keys(span, KV_MARK, asked).await?;
        // Before separators: of keys that may not be read, no folder is told either.
        let authority = asked.caller.who()?.authority;
        let items = visible(&found.items, &authority);
        if items.len() < found.items.len() {
            asked.caller.note_filtered();
        }
        let sight = acl::sight(&asked.endpoint, &authority);
        let index = found.index;
        if query.has("keys") {
            // An empty prefix is always there.
            if items.is_empty() && !key.is_empty() {
                return Ok(Answer::at(index, Reply::Absent));
            }
            let separator = query.get("separator").or(query.get("seperator"));
            let names = async {
                let items: Vec<Held> = items.iter().map(|item| held(item)).collect();
                Ok(names(&items, key, separator.unwrap_or_default()).into())
            };
            let endpoint = format!("{sight} kv/{key}?keys");
            return self.told(endpoint, index, asked, names).await;
        }
        let Some(first) = items.first() else {
            return Ok(Answer::at(index, Reply::Absent));
        };
        if query.has("raw") {
            let value = held(first).entry.value;
            return Ok(Answer::at(index, Reply::Raw(value.into())));
        }
        let all = async {
            let shown = items.iter().map(|item| shown(&held(item), 0));
            Ok(shown.collect())
        };
        let endpoint = format!("{sight} kv/{key}?{tree}");
        self.told(endpoint, index, asked, all).await
    }

    pub(crate) async fn kv_put(&self, key: &str, asked: &Asked) -> Result<Answer, Refusal> {
        if key.is_empty() {
            return Err(Refusal::bad("Missing key name"));
        }
        let query = &asked.query;
        let kinds = ["cas", "acquire", "release"].map(|kind| query.has(kind));
        if kinds.into_iter().filter(|kind| *kind).count() > 1 {
            let text = "Conflicting flags: only one of cas, acquire and release may be given";
            return Err(Refusal::bad(text));
        }
        let number = |name: &str| -> Result<u64, Refusal> {
            let text = query
                .get(name)
                .filter(|text| !text.is_empty())
                .unwrap_or("0");
            let wrong = |_| Refusal::bad(format!("Invalid {name}: {text:?} is no number"));
            text.parse().map_err(wrong)
        };
        let (flags, value) = (number("flags")?, asked.body.to_vec());
        let session = |name: &str| query.get(name).unwrap_or_default().to_owned();
        let verb = match kinds {
            [true, ..] => Verb::Cas(value, flags, number("cas")?),
            [_, true, _] => Verb::Lock(value, flags, session("acquire")),
            [.., true] => Verb::Unlock(value, flags, session("release")),
            _ => Verb::Set(value, flags),
        };
        self.one(key, verb).await
    }

    pub(crate) async fn kv_delete(&self, key: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let query = &asked.query;
        let verb = match (query.has("recurse"), query.get("cas")) {
            (true, Some(_)) => {
                let text = "Conflicting flags: recurse and cas cannot be given together";
                return Err(Refusal::bad(text));
            }
            (true, None) => Verb::DeleteTree,
            (false, Some(index)) => {
                let wrong = |_| Refusal::bad(format!("Invalid cas: {index:?} is no number"));
                Verb::DeleteCas(index.parse().map_err(wrong)?)
            }
            (false, None) => Verb::Delete,
        };
        if key.is_empty() && verb != Verb::DeleteTree {
            return Err(Refusal::bad("Missing key name"));
        }
        self.one(key, verb).await
    }

    /// One operation whose answer is whether it was done.
    async fn one(&self, key: &str, verb: Verb) -> Result<Answer, Refusal> {
        let locks = matches!(verb, Verb::Lock(..));
        let key = key.to_owned();
        let done = match self.run(&[KvOp { key, verb }]).await? {
            Ok(_) => true,
            Err(failures) => {
                let text = failures.into_iter().next().map(|(_, text)| text);
                let text = text.filter(|text| locks && text.starts_with("invalid session"));
                if let Some(text) = text {
                    return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
                }
                false
            }
        };
        Ok(Reply::json(done).into())
    }
}

/// Keys, each up to the first separator after the prefix, without repeats.
fn names(items: &[Held], prefix: &str, separator: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for held in items {
        let below = held.key.get(prefix.len()..).unwrap_or_default();
        let cut = match below.find(separator) {
            Some(at) if !separator.is_empty() => prefix.len() + at + separator.len(),
            _ => held.key.len(),
        };
        let name = held.key.get(..cut).unwrap_or(&held.key);
        if names.last().is_none_or(|last| last != name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// An operation on a key, of a transaction.
pub(crate) fn parse_op(op: &Fields) -> Result<KvOp, Refusal> {
    let key = op.text("key")?;
    let text = op.text("value")?;
    let value = from_base64(&text).ok_or_else(|| {
        Refusal::bad(format!(
            "Failed to parse body: the value of {key:?} is no base64"
        ))
    })?;
    let (flags, index) = (
        op.number("flags")?.unwrap_or(0),
        op.number("index")?.unwrap_or(0),
    );
    let session = op.text("session")?;
    let verb = match &op.text("verb")?[..] {
        "set" => Verb::Set(value, flags),
        "cas" => Verb::Cas(value, flags, index),
        "lock" => Verb::Lock(value, flags, session),
        "unlock" => Verb::Unlock(value, flags, session),
        "get" => Verb::Get,
        "get-or-empty" => Verb::GetOrEmpty,
        "get-tree" => Verb::GetTree,
        "check-index" => Verb::CheckIndex(index),
        "check-session" => Verb::CheckSession(session),
        "check-not-exists" => Verb::CheckNotExists,
        "delete" => Verb::Delete,
        "delete-tree" => Verb::DeleteTree,
        "delete-cas" => Verb::DeleteCas(index),
        other => return Err(Refusal::bad(format!("unknown KV verb {other:?}"))),
    };
    if key.is_empty() && !matches!(verb, Verb::GetTree | Verb::DeleteTree) {
        return Err(Refusal::bad("Missing key name"));
    }
    Ok(KvOp { key, verb })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &[&str]) -> Vec<Held> {
        let held = |key: &&str| Held {
            key: (*key).to_owned(),
            entry: Entry::default(),
            created: Some(1),
            modified: Some(1),
            without_value: false,
        };
        list.iter().map(held).collect()
    }

    #[test]
    fn names_are_cut_at_the_first_separator_after_the_prefix() {
        let items = keys(&["a/b/1", "a/b/2", "a/c", "a/d/e/f"]);
        assert_eq!(names(&items, "a/", "/"), ["a/b/", "a/c", "a/d/"]);
        assert_eq!(
            names(&items, "a/", ""),
            ["a/b/1", "a/b/2", "a/c", "a/d/e/f"]
        );
        assert_eq!(names(&items, "", "/"), ["a/"]);
    }
}
