//! Works out what a batch of writes would do, one after another, without doing it:
//! an overlay on the state. Only when the disk has the result does the state take
//! it up, so that nobody can read what a failed commit would take back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::Revision;

use super::leases::Leases;
use super::state::{Compaction, State};
use crate::{
    Changes, Event, Key, KeyValue, Lease, LeaseId, Op, OpReply, Span, StoreError, Txn, TxnReply,
};

/// What a batch writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// One for each new revision, in order.
    pub(crate) changes: Vec<Changes>,
    pub(crate) granted: Vec<Lease>,
    pub(crate) ended: Vec<LeaseId>,
    pub(crate) compaction: Option<Compaction>,
    /// After the batch.
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) next_lease: u64,
}

pub(crate) struct Plan<'s> {
    state: &'s State,
    leases: &'s Mutex<Leases>,
    /// etcd has a quota on its file; here it is on what is live, so that deleting
    /// always helps at once.
    live_bytes_max: u64,
    live_bytes: u64,
    changed: BTreeMap<Key, Option<Arc<KeyValue>>>,
    batch: Batch,
}

impl Batch {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.granted.is_empty()
            && self.ended.is_empty()
            && self.compaction.is_none()
    }
}

impl<'s> Plan<'s> {
    pub(crate) fn new(
        state: &'s State,
        leases: &'s Mutex<Leases>,
        live_bytes_max: u64,
        next_lease: u64,
    ) -> Self {
        Self {
            state,
            leases,
            live_bytes_max,
            live_bytes: state.live_bytes(),
            changed: BTreeMap::new(),
            batch: Batch {
                revision: state.revision,
                compacted: state.compacted,
                next_lease,
                ..Batch::default()
            },
        }
    }

    pub(crate) fn finish(self) -> Batch {
        self.batch
    }

    /// Runs a transaction that has passed [`Txn::check`]; on an error it has done nothing.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnReply, StoreError> {
        let holds = |compare: &crate::Compare| compare.holds(self.get(&compare.key));
        let held = txn.compares.iter().all(holds);
        let ops = if held { &txn.then } else { &txn.otherwise };
        self.admit(ops)?;
        let mut events = Vec::new();
        let replies = ops.iter().map(|op| self.op(op, &mut events)).collect();
        self.close_revision(events);
        Ok(TxnReply {
            held,
            revision: self.batch.revision,
            replies,
        })
    }

    pub(crate) fn grant(&mut self, ttl: Duration) -> Lease {
        let id = LeaseId(self.batch.next_lease);
        self.batch.next_lease += 1;
        let lease = Lease { id, ttl };
        self.batch.granted.push(lease);
        lease
    }

    /// Ends a lease that lives, or that is ending by itself.
    pub(crate) fn end_lease(&mut self, id: LeaseId) -> Revision {
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        let kept = |key: &&Key| !self.changed.contains_key(*key);
        keys.extend(self.state.attached(id).filter(kept).cloned());
        let changed = self.changed.iter();
        let hung = changed.filter(|(_, kv)| kv.as_ref().is_some_and(|kv| kv.lease == Some(id)));
        keys.extend(hung.map(|(key, _)| key.clone()));

        let mut events = Vec::new();
        for key in keys {
            self.remove(key, &mut events);
        }
        self.close_revision(events);
        self.batch.ended.push(id);
        self.batch.revision
    }

    pub(crate) fn lease_lives(&self, id: LeaseId) -> bool {
        if self.batch.ended.contains(&id) {
            return false;
        }
        self.batch.granted.iter().any(|lease| lease.id == id)
            || self
                .leases
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .lives(id)
    }

    /// Drops history up to `to`, which must be durable.
    pub(crate) fn compact(&mut self, to: Revision) -> Result<(), StoreError> {
        let current = self.state.revision;
        if to > current {
            return Err(StoreError::FutureRevision { asked: to, current });
        }
        let compacted = self.batch.compacted;
        if to <= compacted {
            return Err(StoreError::Compacted {
                asked: to,
                compacted,
            });
        }
        self.batch.compacted = to;
        self.batch.compaction = Some(self.state.compaction(to));
        Ok(())
    }

    /// Finds before anything is done what would make an operation fail.
    fn admit(&self, ops: &[Op]) -> Result<(), StoreError> {
        let mut grown = 0;
        let mut shrunk = 0;
        for op in ops {
            if let Op::Put { key, value, lease } = op {
                if let Some(id) = lease
                    && !self.lease_lives(*id)
                {
                    return Err(StoreError::LeaseNotFound(*id));
                }
                grown += (key.len() + value.len()) as u64;
                shrunk += self.get(key).map_or(0, size);
            }
        }
        if grown > shrunk && self.live_bytes + grown - shrunk > self.live_bytes_max {
            return Err(StoreError::OverLimit {
                limit_bytes: self.live_bytes_max,
            });
        }
        Ok(())
    }

    fn op(&mut self, op: &Op, events: &mut Vec<Event>) -> OpReply {
        match op {
            Op::Put { key, value, lease } => {
                let before = self.get_shared(key);
                let revision = Revision(self.batch.revision.0 + 1);
                let after = Arc::new(KeyValue {
                    // Versions of one key share its bytes.
                    key: before.as_ref().map_or(key, |before| &before.key).clone(),
                    value: value.clone(),
                    create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
                    mod_revision: revision,
                    version: before.as_ref().map_or(0, |kv| kv.version) + 1,
                    lease: *lease,
                });
                self.live_bytes += size(&after);
                self.live_bytes -= before.as_deref().map_or(0, size);
                let key = after.key.clone();
                self.changed.insert(key.clone(), Some(Arc::clone(&after)));
                events.push(Event {
                    key,
                    after: Some(after),
                    before: before.clone(),
                });
                OpReply::Put(before)
            }
            Op::Delete(span) => {
                let found = self.span(span);
                for kv in &found {
                    self.remove(kv.key.clone(), events);
                }
                OpReply::Deleted(found)
            }
            Op::Get(span) => OpReply::Got(self.span(span)),
        }
    }

    fn remove(&mut self, key: Key, events: &mut Vec<Event>) {
        let before = self.get_shared(&key);
        self.live_bytes -= before.as_deref().map_or(0, size);
        self.changed.insert(key.clone(), None);
        events.push(Event {
            key,
            after: None,
            before,
        });
    }

    fn close_revision(&mut self, mut events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        // In the order in which they are read back from the disk.
        events.sort_by(|a, b| a.key.cmp(&b.key));
        self.batch.revision.0 += 1;
        self.batch.changes.push(Changes {
            revision: self.batch.revision,
            events: events.into(),
        });
    }

    fn get_shared(&self, key: &[u8]) -> Option<Arc<KeyValue>> {
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => self.state.get(key).cloned(),
        }
    }

    fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.as_deref(),
            None => self.state.get(key).map(AsRef::as_ref),
        }
    }

    fn span(&self, span: &Span) -> Vec<Arc<KeyValue>> {
        let kept = |kv: &&Arc<KeyValue>| !self.changed.contains_key(&kv.key);
        let mut found: Vec<_> = self.state.span(span).filter(kept).cloned().collect();
        if let Some((from, to)) = span.bounds() {
            let from = from.as_ref().map(Vec::as_slice);
            let to = to.as_ref().map(Vec::as_slice);
            let changed = self.changed.range::<[u8], _>((from, to));
            found.extend(changed.filter_map(|(_, kv)| kv.clone()));
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }
}

fn size(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64
}
