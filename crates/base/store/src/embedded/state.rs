//! What the store knows, in memory: the kept versions of every key, and the changes
//! of every kept revision. Readers and watches use nothing else, so that they never
//! wait for the disk. It holds only what is durable.
//!
//! After [`State::apply`]: `log` has one entry for each revision after `compacted`
//! (and after the first, which changed nothing) up to `revision`; each key has the versions that are still
//! readable, oldest first, and at least one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use atoll_model::Revision;

use crate::{Changes, Event, Key, KeyValue, LeaseId, Range, Snapshot, Span, StoreError};

/// An empty store is at revision 1, as etcd's is: 0 means "none" to its clients
/// and to Consul's.
pub(crate) const FIRST_REVISION: Revision = Revision(1);

/// About what one version costs on disk and in memory beyond its bytes.
const VERSION_OVERHEAD_BYTES: u64 = 48;

pub(crate) struct State {
    /// The last revision.
    pub(crate) revision: Revision,
    /// Up to here, what was superseded is gone.
    pub(crate) compacted: Revision,
    keys: BTreeMap<Key, Versions>,
    log: VecDeque<Changes>,
    /// Bytes of the versions that the log made, whether still newest or not.
    log_bytes: u64,
    attached: HashMap<LeaseId, BTreeSet<Key>>,
    /// Keys and values of the newest versions.
    live_bytes: u64,
    /// All kept versions with their overhead: what the file should need.
    kept_bytes: u64,
}

/// The kept versions of one key. Most keys have one, which needs no allocation.
struct Versions {
    older: Vec<Version>,
    newest: Version,
}

/// One version; a deletion has no `kv`.
#[derive(Clone)]
struct Version {
    revision: Revision,
    kv: Option<Arc<KeyValue>>,
}

/// A version on disk: its revision, and which key it is of.
pub(crate) type Row = (Revision, Key);

/// History to drop: everything up to `to`, which are these rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compaction {
    pub(crate) to: Revision,
    pub(crate) rows: Vec<Row>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            revision: FIRST_REVISION,
            compacted: Revision(0),
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            attached: HashMap::new(),
            live_bytes: 0,
            kept_bytes: 0,
        }
    }

    /// A state whose history up to `compacted` is gone; [`State::restore`] follows.
    pub(crate) fn compacted_to(compacted: Revision) -> Self {
        Self {
            compacted,
            revision: compacted.max(FIRST_REVISION),
            ..Self::new()
        }
    }

    /// Takes up a version that was the newest of its key at the compacted revision.
    pub(crate) fn restore(&mut self, kv: Arc<KeyValue>) {
        self.attach(&kv);
        self.live_bytes += payload_bytes(&kv);
        self.kept_bytes += payload_bytes(&kv) + VERSION_OVERHEAD_BYTES;
        let newest = Version {
            revision: kv.mod_revision,
            kv: Some(Arc::clone(&kv)),
        };
        let versions = Versions {
            older: Vec::new(),
            newest,
        };
        self.keys.insert(kv.key.clone(), versions);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<KeyValue>> {
        self.keys.get(key)?.newest.kv.as_ref()
    }

    /// The newest versions in `span`, by key.
    pub(crate) fn span<'s>(&'s self, span: &Span) -> impl Iterator<Item = &'s Arc<KeyValue>> {
        self.versions(span)
            .filter_map(|versions| versions.newest.kv.as_ref())
    }

    fn versions<'s>(&'s self, span: &Span) -> impl Iterator<Item = &'s Versions> {
        let bounds = span.bounds();
        let found = bounds.map(|(from, to)| {
            let from = from.as_ref().map(Vec::as_slice);
            let to = to.as_ref().map(Vec::as_slice);
            self.keys.range::<[u8], _>((from, to))
        });
        found.into_iter().flatten().map(|(_, versions)| versions)
    }

    pub(crate) fn read(&self, range: &Range) -> Result<Snapshot, StoreError> {
        if matches!(&range.span, Span::Key(key) if key.is_empty()) {
            return Err(StoreError::EmptyKey);
        }
        let at = range.at.unwrap_or(self.revision);
        if at > self.revision {
            return Err(StoreError::FutureRevision {
                asked: at,
                current: self.revision,
            });
        }
        if at < self.compacted {
            return Err(StoreError::Compacted {
                asked: at,
                compacted: self.compacted,
            });
        }
        let limit = range.limit.unwrap_or(usize::MAX);
        let mut found = self
            .versions(&range.span)
            .filter_map(|versions| versions.at(at));
        let items = found.by_ref().take(limit).cloned().collect();
        Ok(Snapshot {
            revision: self.revision,
            items,
            more: found.next().is_some(),
        })
    }

    pub(crate) fn attached(&self, lease: LeaseId) -> impl Iterator<Item = &Key> {
        self.attached.get(&lease).into_iter().flatten()
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// The first changes after `after` that touch `span`, or up to where there are none.
    pub(crate) fn changes_after(&self, after: Revision, span: &Span) -> Result<Changes, Revision> {
        let first = self.log.front().map_or(0, |first| first.revision.0);
        let skip = (after.0 + 1).saturating_sub(first);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        for changes in self.log.iter().skip(skip) {
            let holds = |event: &&Event| span.holds(&event.key);
            let matching = changes.events.iter().filter(holds).count();
            if matching == changes.events.len() {
                return Ok(changes.clone());
            }
            if matching > 0 {
                let events = changes.events.iter().filter(holds).cloned().collect();
                return Ok(Changes {
                    revision: changes.revision,
                    events,
                });
            }
        }
        Err(self.revision.max(after))
    }

    /// Takes up the changes of the next revision.
    pub(crate) fn apply(&mut self, changes: Changes) {
        debug_assert!(changes.revision > self.revision, "revisions rise");
        debug_assert!(!changes.events.is_empty(), "a revision changes something");
        self.revision = changes.revision;
        for event in changes.events.iter() {
            self.apply_event(changes.revision, event);
        }
        self.log_bytes += changes.events.iter().map(event_bytes).sum::<u64>();
        self.log.push_back(changes);
    }

    fn apply_event(&mut self, revision: Revision, event: &Event) {
        self.kept_bytes += event_bytes(event);
        if let Some(before) = &event.before {
            self.live_bytes -= payload_bytes(before);
            self.detach(before);
        }
        if let Some(after) = &event.after {
            self.live_bytes += payload_bytes(after);
            self.attach(after);
        }
        let version = Version {
            revision,
            kv: event.after.clone(),
        };
        match self.keys.get_mut(&event.key) {
            Some(versions) => {
                let older = std::mem::replace(&mut versions.newest, version);
                versions.older.push(older);
            }
            None => {
                let versions = Versions {
                    older: Vec::new(),
                    newest: version,
                };
                self.keys.insert(event.key.clone(), versions);
            }
        }
    }

    fn attach(&mut self, kv: &KeyValue) {
        if let Some(lease) = kv.lease {
            let keys = self.attached.entry(lease).or_default();
            keys.insert(kv.key.clone());
        }
    }

    fn detach(&mut self, kv: &KeyValue) {
        if let Some(lease) = kv.lease
            && let Some(keys) = self.attached.get_mut(&lease)
        {
            keys.remove(&kv.key);
            if keys.is_empty() {
                self.attached.remove(&lease);
            }
        }
    }

    /// How far to compact so that the log stays within both limits; at most `step`
    /// revisions at once, so that no writer waits long.
    pub(crate) fn excess(&self, revisions_max: usize, bytes_max: u64, step: usize) -> Revision {
        let mut bytes = self.log_bytes;
        let mut count = self.log.len();
        let mut to = self.compacted;
        for changes in self.log.iter().take(step) {
            if count <= revisions_max && bytes <= bytes_max {
                break;
            }
            bytes -= changes.events.iter().map(event_bytes).sum::<u64>();
            count -= 1;
            to = changes.revision;
        }
        to
    }

    /// What compacting up to `to` would drop.
    pub(crate) fn compaction(&self, to: Revision) -> Compaction {
        let mut rows = Vec::new();
        let dropped = self.log.iter().take_while(|changes| changes.revision <= to);
        for changes in dropped {
            for event in changes.events.iter() {
                if let Some(before) = &event.before {
                    rows.push((before.mod_revision, event.key.clone()));
                }
                if event.after.is_none() {
                    rows.push((changes.revision, event.key.clone()));
                }
            }
        }
        Compaction { to, rows }
    }

    /// Drops the history up to `to`.
    pub(crate) fn compact(&mut self, to: Revision) {
        while self.log.front().is_some_and(|first| first.revision <= to) {
            let Some(changes) = self.log.pop_front() else {
                break;
            };
            for event in changes.events.iter() {
                self.log_bytes -= event_bytes(event);
                self.prune(&event.key, to);
            }
        }
        self.compacted = self.compacted.max(to);
    }

    /// Drops the versions of `key` that nobody can read once `to` is compacted.
    fn prune(&mut self, key: &Key, to: Revision) {
        let Some(versions) = self.keys.get_mut(key) else {
            return;
        };
        let mut dropped_bytes = 0;
        let overhead = VERSION_OVERHEAD_BYTES;
        let newest_is_base = versions.newest.revision <= to;
        let base = versions.older.iter().rposition(|old| old.revision <= to);
        let drop_until = match base {
            Some(_) if newest_is_base => versions.older.len(),
            // The base itself stays, unless it is a deletion.
            Some(base) if versions.older.get(base).is_some_and(|v| v.kv.is_none()) => base + 1,
            Some(base) => base,
            None => 0,
        };
        for old in versions.older.drain(..drop_until) {
            dropped_bytes += old.kv.as_deref().map_or(key.len() as u64, payload_bytes) + overhead;
        }
        if versions.older.is_empty() {
            versions.older = Vec::new();
        }
        if newest_is_base && versions.newest.kv.is_none() {
            dropped_bytes += key.len() as u64 + overhead;
            self.keys.remove(key);
        }
        self.kept_bytes -= dropped_bytes;
    }
}

impl Versions {
    /// The version that was the newest at `revision`, if the key existed then.
    fn at(&self, revision: Revision) -> Option<&Arc<KeyValue>> {
        if self.newest.revision <= revision {
            return self.newest.kv.as_ref();
        }
        let older = self.older.iter().rev();
        let mut visible = older.skip_while(|version| version.revision > revision);
        visible.next()?.kv.as_ref()
    }
}

fn payload_bytes(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64
}

fn event_bytes(event: &Event) -> u64 {
    let payload = event.after.as_deref().map(payload_bytes);
    payload.unwrap_or(event.key.len() as u64) + VERSION_OVERHEAD_BYTES
}
