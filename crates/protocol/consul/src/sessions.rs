//! `/v1/session`, and what becomes of what a session held when it ends.
//!
//! A session is a key of the store, with a lease if it has a TTL. Whoever sees the key
//! go (`watch_sessions`) frees what the session held; each lock left a hint, with the
//! session in it, so that this works after a restart and when done twice.

use std::time::Duration;

use atoll_model::Revision;
use atoll_store::{KeyValue, LeaseId, Op, Order, Span, StoreError, Test, Txn};
use http::StatusCode;
use serde_json::{Value, json};

use crate::keys::{DELAYS, HINTS, KV, KV_MARK, SESSIONS, SESSIONS_MARK, lock_hint};
use crate::server::{Answer, Asked, Front};
use crate::stored::{self, Entry, Session};
use crate::translate::session_ttl;
use crate::wire::{Fields, Refusal, Reply};

/// Consul's default and its longest.
const LOCK_DELAY: Duration = Duration::from_secs(15);
const LOCK_DELAY_MAX: Duration = Duration::from_secs(60);
/// Consul's `sessionTTLMultiplier`: a TTL is a lower bound, and clients renew late.
const TTL_MULTIPLIER: u32 = 2;
/// Checks that one session can stand on.
const CHECKS_MAX: usize = 64;
/// Below it Consul takes a number for seconds.
const LOCK_DELAY_NANOS_MIN: u128 = 1000;

impl Front {
    pub(crate) async fn session_create(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let node = fields.text("node")?;
        let node = if node.is_empty() {
            self.node.name.clone()
        } else {
            node
        };
        if !self.nodes().await?.contains_key(&node) {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Refusal::new(
                status,
                format!("Missing node registration: {node:?}"),
            ));
        }
        let mut checks = vec!["serfHealth".to_owned()];
        for key in ["checks", "nodechecks"] {
            if fields.has(key) {
                checks = fields.texts(key)?;
            }
        }
        let service_checks = fields.objects("servicechecks")?;
        let service_checks = service_checks.iter().map(|check| check.text("id"));
        let service_checks = service_checks.collect::<Result<Vec<_>, _>>()?;
        if checks.len() + service_checks.len() > CHECKS_MAX {
            return Err(Refusal::bad(format!(
                "a session can stand on at most {CHECKS_MAX} checks"
            )));
        }
        let delete = match &fields.text("behavior")?[..] {
            "" | "release" => false,
            "delete" => true,
            other => {
                let text = format!("Invalid Behavior setting '{other}'");
                return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
            }
        };
        let delay = fields.duration("lockdelay")?.unwrap_or(LOCK_DELAY);
        let delay = match u64::try_from(delay.as_nanos()) {
            Ok(number) if delay.as_nanos() < LOCK_DELAY_NANOS_MIN => Duration::from_secs(number),
            _ => delay,
        };
        let ttl = fields.text("ttl")?;
        let kept_for = session_ttl(&ttl)?;
        let mut session = Session {
            name: fields.text("name")?,
            node,
            lock_delay_ms: delay.min(LOCK_DELAY_MAX).as_millis() as u64,
            delete,
            ttl,
            node_checks: checks,
            service_checks,
            lease: None,
        };
        if let Some(reason) = self.unfit(&session).await? {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Refusal::new(status, reason));
        }
        let lease = match kept_for {
            Some(ttl) => Some(self.store.grant(ttl * TTL_MULTIPLIER).await?.id),
            None => None,
        };
        session.lease = lease.map(|lease| lease.0);
        let id = self.uuid();
        let put = Op::Put {
            key: format!("{SESSIONS}{id}").into(),
            value: stored::write(&session).into(),
            lease,
        };
        self.store.commit(Txn::of([put])).await?;
        Ok(Reply::json(json!({ "ID": id })).into())
    }

    pub(crate) async fn session_destroy(&self, id: &str) -> Result<Answer, Refusal> {
        let key = format!("{SESSIONS}{id}");
        if let Some(kept) = self.store.get(&key[..]).await? {
            self.end(&kept).await?;
        }
        Ok(Reply::json(true).into())
    }

    /// Ends a session and frees what it held.
    pub(crate) async fn end(&self, kept: &KeyValue) -> Result<(), StoreError> {
        let end = [
            Op::Delete(Span::Key(kept.key.clone())),
            Op::put(SESSIONS_MARK, ""),
        ];
        self.store.commit(Txn::of(end)).await?;
        let session: Option<Session> = stored::read(&kept.value);
        if let Some(lease) = session.and_then(|session| session.lease) {
            match self.store.revoke(LeaseId(lease)).await {
                Ok(_) | Err(StoreError::LeaseNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.free(&id_of(&kept.key)).await
    }

    /// Ends the sessions of a node that is gone.
    pub(crate) async fn end_sessions_of(&self, node: &str) -> Result<(), StoreError> {
        for kept in self.store.list(SESSIONS).await?.items {
            let session: Option<Session> = stored::read(&kept.value);
            if session.is_some_and(|session| session.node == node) {
                self.end(&kept).await?;
            }
        }
        Ok(())
    }

    /// Releases or deletes what a session that is gone held. Done twice, or by two at
    /// once, it comes to the same.
    async fn free(&self, session: &str) -> Result<(), StoreError> {
        let prefix = lock_hint(session, "");
        for hint in self.store.list(&prefix).await?.items {
            let name = hint.key.strip_prefix(prefix.as_bytes()).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let ended: Option<Session> = stored::read(&hint.value);
            self.free_key(session, &name, ended.as_ref()).await?;
        }
        self.end_queries(Some(session)).await
    }

    async fn free_key(
        &self,
        session: &str,
        name: &str,
        ended: Option<&Session>,
    ) -> Result<(), StoreError> {
        let key = format!("{KV}{name}");
        let mut delay = ended.map_or(LOCK_DELAY, Session::lock_delay);
        loop {
            let mut ops = vec![Op::Delete(Span::from(&lock_hint(session, name)[..]))];
            let kept = self.store.get(&key[..]).await?;
            let entry = kept.as_ref().and_then(|kept| Entry::of_bytes(&kept.value));
            let mut read = 0;
            if let (Some(kept), Some(mut entry)) = (kept, entry)
                && entry.session == session
            {
                read = kept.mod_revision.0;
                if ended.is_some_and(|ended| ended.delete) {
                    ops.push(Op::Delete(Span::from(&key[..])));
                    ops.push(Op::put(KV_MARK, ""));
                } else {
                    entry.session.clear();
                    ops.push(Op::put(&key[..], entry.to_bytes()));
                }
                if !delay.is_zero() {
                    let lease = Some(self.store.grant(delay).await?.id);
                    ops.push(Op::Put {
                        key: format!("{DELAYS}{name}").into(),
                        value: "".into(),
                        lease,
                    });
                }
            }
            let mut txn = Txn::of(ops);
            if read > 0 {
                txn = txn.when(&key[..], Test::ModRevision(Order::Equal, Revision(read)));
            }
            match self.store.commit(txn).await {
                Ok(done) if done.held => return Ok(()),
                Ok(_) => {}
                // A delay of milliseconds can be over before it is written down.
                Err(StoreError::LeaseNotFound(_)) => delay = Duration::ZERO,
                Err(error) => return Err(error),
            }
        }
    }

    /// Frees what sessions held that end by their TTL, and at first what those held
    /// that ended while nobody looked. Ends only with an error.
    pub(crate) async fn watch_sessions(&self) -> Result<(), StoreError> {
        loop {
            let sessions = self.store.list(SESSIONS).await?;
            let alive = |id: &str| sessions.items.iter().any(|kept| id_of(&kept.key) == id);
            for hint in self.store.list(HINTS).await?.items {
                let below = hint.key.strip_prefix(HINTS.as_bytes()).unwrap_or_default();
                let below = String::from_utf8_lossy(below);
                let id = below.split('/').next().unwrap_or_default();
                // One that began after we looked is not gone.
                if !alive(id) && self.store.get(format!("{SESSIONS}{id}")).await?.is_none() {
                    self.free(id).await?;
                }
            }
            self.end_queries(None).await?;
            let mut watch = self
                .store
                .watch(Span::prefix(SESSIONS), sessions.revision)
                .await?;
            loop {
                let changes = match watch.next().await {
                    Ok(changes) => changes,
                    Err(StoreError::Lagged { .. } | StoreError::Compacted { .. }) => break,
                    Err(error) => return Err(error),
                };
                for event in changes.events.iter().filter(|event| event.after.is_none()) {
                    self.store.put(SESSIONS_MARK, "").await?;
                    self.free(&id_of(&event.key)).await?;
                }
            }
        }
    }

    pub(crate) async fn session_renew(&self, id: &str) -> Result<Answer, Refusal> {
        let unknown = || {
            let text = format!("Session id '{id}' not found");
            Refusal::new(StatusCode::NOT_FOUND, text)
        };
        let kept = self
            .store
            .get(format!("{SESSIONS}{id}"))
            .await?
            .ok_or_else(unknown)?;
        let session: Option<Session> = stored::read(&kept.value);
        if let Some(lease) = session.and_then(|session| session.lease) {
            match self.store.keep_alive(LeaseId(lease)).await {
                Ok(_) => {}
                Err(StoreError::LeaseNotFound(_)) => return Err(unknown()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Reply::json(vec![shown(&kept)]).into())
    }

    pub(crate) async fn session_info(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let span = Span::Key(format!("{SESSIONS}{id}").into());
        let found = self.keys(span, SESSIONS_MARK, asked).await?;
        let all: Vec<Value> = found.items.iter().map(|kept| shown(kept)).collect();
        Ok(Answer::at(found.index, Reply::json(all)))
    }

    /// All sessions, or those of one node.
    pub(crate) async fn session_list(
        &self,
        node: Option<&str>,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let found = self
            .keys(Span::prefix(SESSIONS), SESSIONS_MARK, asked)
            .await?;
        let all = found.items.iter().map(|kept| shown(kept));
        let all = all.filter(|session| node.is_none_or(|node| session["Node"] == node));
        let all: Vec<Value> = all.collect();
        Ok(Answer::at(found.index, Reply::json(all)))
    }
}

pub(crate) fn id_of(key: &[u8]) -> String {
    let id = key.strip_prefix(SESSIONS.as_bytes()).unwrap_or_default();
    String::from_utf8_lossy(id).into_owned()
}

fn shown(kept: &KeyValue) -> Value {
    let Some(session) = stored::read::<Session>(&kept.value) else {
        return Value::Null;
    };
    let service_checks = session.service_checks.iter();
    let service_checks = service_checks.map(|id| json!({ "ID": id, "Namespace": "" }));
    let service_checks: Vec<Value> = service_checks.collect();
    json!({
        "ID": id_of(&kept.key),
        "Name": session.name,
        "Node": session.node,
        "LockDelay": session.lock_delay().as_nanos() as u64,
        "Behavior": if session.delete { "delete" } else { "release" },
        "TTL": session.ttl,
        "NodeChecks": session.node_checks,
        "ServiceChecks": if service_checks.is_empty() { Value::Null } else { Value::Array(service_checks) },
        "CreateIndex": kept.create_revision.0,
        "ModifyIndex": kept.mod_revision.0,
    })
}
