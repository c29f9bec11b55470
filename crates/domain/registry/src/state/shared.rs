//! The state over a store that other processes of Atoll write to as well.
//!
//! Each registration belongs to the process that last heard of it: that one watches
//! its lease, asks its checks and writes what comes of them, so that renewals cost the
//! store nothing and nobody is asked by three. The others show what is written. A
//! process that renews, changes or registers what belongs to another takes it over;
//! what belonged to a process that is gone is shared out among those that live
//! ([`State::adopt`]).
//!
//! A change of ours is in the state at once, but in the catalogue only when the store
//! tells of it, at the store's revision, so that an index that one process gave means
//! the same to all others. While the store is away each goes on alone: what it runs and
//! asks itself still changes its catalogue, no lease ends, and clients' writes are
//! refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{InstanceId, Revision, ServiceName};
use tracing::{info, warn};

use super::{Effects, Event, Lease, Reverse, State, find, target_of};
use crate::record::Record;
use crate::shared::Outcome;
use crate::stored::{self, Mark, Restored, Wall};
use crate::{Entry, RegistryError, Source};

/// Names one life of one process among those that share a store.
pub(crate) type Member = Arc<str>;

/// Who is there and what there is, an instance's two names together.
type Name = (ServiceName, InstanceId);

/// What nobody adopted is looked at again after this long: two that did not know the
/// same members may each have left it to the other.
const ADOPT_AGAIN: Duration = Duration::from_secs(3);

/// Adopted in one step: some ten milliseconds of work for the task that owns the state.
const ADOPT_MAX: usize = 1_000;

/// An entry that the state wants kept.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    pub(crate) entry: Entry,
    /// The revision of the version that this one follows; 0 when there was none.
    pub(crate) base: Revision,
    /// Only if nobody else wrote meanwhile. A client's own word is not guarded: the
    /// last one counts, whomever it was told to.
    pub(crate) guarded: bool,
    /// Which of our writes it is.
    pub(crate) write: u64,
}

impl Owed {
    /// The key of this process once more, for a revision.
    pub(crate) fn bump(key: &str) -> Self {
        Self {
            entry: Entry {
                key: key.to_owned(),
                value: Some(Vec::new()),
            },
            base: Revision(0),
            guarded: false,
            write: 0,
        }
    }
}

/// What ties a registration to the store that it shares with other processes.
#[derive(Debug)]
pub(crate) struct Tie {
    owner: Member,
    ours: bool,
    /// The last revision of it that the store told of.
    base: Revision,
    /// Which of our writes made it what it is.
    write: u64,
}

/// One key as the store told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fed {
    pub(crate) key: String,
    /// Its value and the revision of that; none when it is gone.
    pub(crate) value: Option<(Vec<u8>, Revision)>,
}

/// What the state must know of those it shares with.
#[derive(Debug)]
pub(crate) struct Shared {
    me: Member,
    members: BTreeSet<Member>,
    /// Writes so far.
    write: u64,
    /// Deletions of ours that the store may not have told of yet.
    deleting: BTreeMap<Name, Deletion>,
    /// Changes of ours that it has not told of yet: not for the catalogue.
    held: BTreeSet<Name>,
    pub(super) away: bool,
    /// Whether the step under way is a client's own word.
    sovereign: bool,
    /// All up to this revision is taken in.
    fed: Revision,
    /// Something was told since the last catalogue.
    news: bool,
    /// A revision was asked for, for changes that are not kept.
    bumping: bool,
    adopt_at: Option<Instant>,
    /// All that there is is being taken in. It counts even if we wrote something newer
    /// once, but for what is about to be written: a store may be restored from a backup.
    resyncing: bool,
}

/// A deletion under way.
#[derive(Clone, Copy, Debug)]
struct Deletion {
    /// Which of our writes it is.
    write: u64,
    /// The revision by which the store has told of it; none before it is written.
    told_by: Option<Revision>,
}

impl Shared {
    /// What shall be written next of a record, which is ours by that.
    fn sign(&mut self, record: &mut Record) -> (Revision, bool) {
        self.write += 1;
        let base = record.tie.as_ref().map_or(Revision(0), |tie| tie.base);
        record.tie = Some(Box::new(Tie {
            owner: Arc::clone(&self.me),
            ours: true,
            base,
            write: self.write,
        }));
        let instance = &record.instance;
        self.held
            .insert((instance.service.clone(), instance.id.clone()));
        (base, !self.sovereign)
    }

    fn release(&mut self, name: &Name) {
        self.held.remove(name);
    }

    /// Forgets the deletions that the store has told of.
    fn settle(&mut self) {
        let fed = self.fed;
        let held = &mut self.held;
        self.deleting.retain(|name, deletion| {
            let told = deletion.told_by.is_some_and(|by| by <= fed);
            if told {
                held.remove(name);
            }
            !told
        });
    }

    /// Whether of those who live it is us who should care for an orphan: the same
    /// answer everywhere, and about as many for each (rendezvous hashing).
    fn falls_to_us(&self, name: &Name) -> bool {
        let rank = |member: &Member| stored::hash(&[member, name.0.as_str(), name.1.as_str()]);
        self.members.iter().max_by_key(|member| rank(member)) == Some(&self.me)
    }
}

impl Tie {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            owner: self.owner.to_string(),
            write: self.write,
        }
    }
}

impl Record {
    /// Whether it is this process that watches its lease and asks its checks.
    pub(crate) fn is_ours(&self) -> bool {
        self.tie.as_ref().is_none_or(|tie| tie.ours)
    }
}

impl Effects {
    /// Keeps a client's record as it is now.
    pub(super) fn keep(&mut self, shared: &mut Option<Shared>, wall: Wall, record: &mut Record) {
        if record.source != Source::Client {
            return;
        }
        let (base, guarded) = match shared {
            Some(shared) => shared.sign(record),
            None => (Revision(0), false),
        };
        self.entries.push(Owed {
            entry: stored::keep(record, wall),
            base,
            guarded,
            write: record.tie.as_ref().map_or(0, |tie| tie.write),
        });
    }

    /// Forgets a client's record.
    pub(super) fn forget(&mut self, shared: &mut Option<Shared>, record: &Record) {
        if record.source != Source::Client {
            return;
        }
        let instance = &record.instance;
        let mut owed = Owed {
            entry: stored::forget(instance),
            base: Revision(0),
            guarded: false,
            write: 0,
        };
        if let Some(shared) = shared {
            owed.base = record.tie.as_ref().map_or(Revision(0), |tie| tie.base);
            owed.guarded = !shared.sovereign;
            shared.write += 1;
            owed.write = shared.write;
            let name = (instance.service.clone(), instance.id.clone());
            let deletion = Deletion {
                write: owed.write,
                told_by: None,
            };
            shared.deleting.insert(name.clone(), deletion);
            shared.held.insert(name);
        }
        self.entries.push(owed);
    }
}

impl State {
    /// From now on others write to the store, too: what they wrote up to `fed` is
    /// given next, as [`State::take_in`] wants it.
    pub(crate) fn share(&mut self, me: Member, fed: Revision) {
        self.effects = Effects::default();
        self.shared = Some(Shared {
            members: BTreeSet::from([Arc::clone(&me)]),
            me,
            write: 0,
            deleting: BTreeMap::new(),
            held: BTreeSet::new(),
            away: false,
            sovereign: false,
            fed,
            news: false,
            bumping: false,
            adopt_at: None,
            resyncing: false,
        });
    }

    /// Before a step: whose word it is, and whether it can be taken now.
    pub(super) fn prepare(&mut self, event: &Event, now: Instant) -> Result<(), RegistryError> {
        let Some(shared) = &mut self.shared else {
            return Ok(());
        };
        shared.sovereign = false;
        let (service, id) = match event {
            Event::Register(registration) if registration.source == Source::Client => {
                shared.sovereign = true;
                return if shared.away {
                    Err(RegistryError::Away)
                } else {
                    Ok(())
                };
            }
            Event::Deregister {
                by: Source::Client, ..
            } => {
                shared.sovereign = true;
                return if shared.away {
                    Err(RegistryError::Away)
                } else {
                    Ok(())
                };
            }
            Event::Register(_) | Event::Deregister { .. } | Event::Answer(_) | Event::Tick => {
                return Ok(());
            }
            Event::Renew { service, id }
            | Event::Drain { service, id, .. }
            | Event::Report { service, id, .. } => (service, id),
            Event::Said(said) => (&said.service, &said.id),
        };
        let forced = matches!(event, Event::Report { .. } | Event::Drain { .. });
        let Ok(record) = find(&mut self.services, service, id) else {
            return Ok(());
        };
        let client = record.source == Source::Client;
        if shared.away && (!record.is_ours() || (client && forced)) {
            return Err(RegistryError::Away);
        }
        if !record.is_ours() {
            self.take_over(&service.clone(), &id.clone(), Duration::ZERO, now);
        }
        Ok(())
    }

    /// Makes a record ours: its lease begins anew, its checks are asked from here.
    pub(super) fn take_over(
        &mut self,
        service: &ServiceName,
        id: &InstanceId,
        grace: Duration,
        now: Instant,
    ) {
        let stamp = self.next_stamp();
        let name = (service.clone(), id.clone());
        let held = (self.shared.as_ref()).is_some_and(|shared| shared.held.contains(&name));
        let Ok(record) = find(&mut self.services, service, id) else {
            return;
        };
        record.stamp = stamp;
        record.deadline = record.lease.map(|lease| now + lease.max(grace));
        self.effects.keep(&mut self.shared, self.wall, record);
        // Whose it is shows in no catalogue.
        if let Some(shared) = &mut self.shared
            && !held
        {
            shared.release(&name);
        }
        record.queued = record.deadline;
        if let Some(at) = record.deadline {
            self.leases.push(Reverse(Lease {
                at,
                stamp,
                service: service.clone(),
                id: id.clone(),
            }));
        }
        self.preserver.join(record.is_patient());
        for index in 0..record.checks.len() {
            let target = target_of(record, index);
            let checked = &mut record.checks[index];
            checked.queued = None;
            // Who speaks had no reason to speak to us before.
            checked.believed = checked.believed.map(|until| until.max(now + grace));
            self.deadlines.arm(target.clone(), checked);
            if checked.is_asked() {
                self.schedule.restored(target, &checked.check, now);
            }
        }
    }

    /// A client that registers again what is here already shall find it here, even if
    /// another process has removed it and we have not heard of it yet.
    pub(super) fn confirm(
        &mut self,
        service: &ServiceName,
        id: &InstanceId,
    ) -> Result<(), RegistryError> {
        let record = find(&mut self.services, service, id)?;
        if self.shared.is_some() {
            self.effects.keep(&mut self.shared, self.wall, record);
        }
        Ok(())
    }

    /// Takes in what the store tells of one revision.
    pub(crate) fn take_in(&mut self, revision: Revision, fed: Vec<Fed>, now: Instant) {
        self.now = now;
        for Fed { key, value } in fed {
            match stored::Key::of(&key) {
                stored::Key::Instance(service, id) => match value {
                    Some((bytes, at)) => self.put((service, id), &key, &bytes, at, now),
                    None => self.gone(&(service, id)),
                },
                stored::Key::Member(member) => self.member(member, value.is_some(), now),
                stored::Key::Other => {}
            }
        }
        if let Some(shared) = &mut self.shared {
            // A second look at a key tells of no new revision; one is asked for then.
            shared.news |= revision > shared.fed;
            shared.fed = shared.fed.max(revision);
            shared.settle();
        }
    }

    /// Takes in all that the store has, and that what it has not is gone.
    pub(crate) fn take_in_all(&mut self, revision: Revision, all: Vec<Fed>, now: Instant) {
        let mut there = BTreeSet::new();
        let mut members = BTreeSet::new();
        for fed in &all {
            match stored::Key::of(&fed.key) {
                stored::Key::Instance(service, id) => drop(there.insert((service, id))),
                stored::Key::Member(member) => drop(members.insert(member)),
                stored::Key::Other => {}
            }
        }
        let Some(shared) = &mut self.shared else {
            return;
        };
        shared.resyncing = true;
        // First, so that nobody adopts what somebody has adopted meanwhile.
        members.insert(Arc::clone(&shared.me));
        shared.members = members;
        // What we are about to write is not there yet.
        let gone = (self.services.iter())
            .flat_map(|(service, all)| all.values().map(move |record| (service, record)))
            .filter(|(_, record)| record.source == Source::Client)
            .map(|(service, record)| (service.clone(), record.instance.id.clone()))
            .filter(|name| !there.contains(name) && !shared.held.contains(name));
        let gone: Vec<Name> = gone.collect();
        for name in &gone {
            self.gone(name);
        }
        self.take_in(revision, all, now);
        if let Some(shared) = &mut self.shared {
            shared.resyncing = false;
            // Lower than before, if the store was restored from a backup.
            shared.fed = revision;
            shared.news = true;
            for deletion in shared.deleting.values_mut() {
                deletion.told_by = deletion.told_by.map(|by| by.min(revision));
            }
        }
        self.adopt(now);
    }

    fn put(&mut self, name: Name, key: &str, bytes: &[u8], at: Revision, now: Instant) {
        let restored = match stored::read(bytes) {
            Ok(restored) => restored,
            Err(reason) => {
                warn!(key, reason, "registration cannot be read, left out");
                return;
            }
        };
        let Some(shared) = &mut self.shared else {
            return;
        };
        let newer = shared.held.remove(&name) || !shared.resyncing;
        let known = find(&mut self.services, &name.0, &name.1).ok();
        let Mark { owner, write } = restored.mark.clone().unwrap_or_default();
        let ours = *owner == *shared.me;
        let deleted = shared.deleting.get(&name);
        if ours && deleted.is_some_and(|deletion| deletion.write > write) {
            return;
        }
        if let Some(record) = &known
            && record.source != Source::Client
        {
            warn!(service = %name.0, instance = %name.1, "another process registered what Atoll itself put here: not shown here");
            return;
        }
        if let Some(record) = known
            && let Some(tie) = &mut record.tie
            && ours
            && tie.ours
            && (tie.write == write || (tie.write > write && newer))
        {
            tie.base = at;
            return;
        }
        let known = self.record(&name.0, &name.1).and_then(|r| r.tie.as_ref());
        if known.is_some_and(|tie| *tie.owner == *owner && tie.write == write && tie.base == at) {
            return;
        }
        let tie = Tie {
            owner: owner.into(),
            ours,
            base: at,
            write,
        };
        self.replace(restored, tie, now);
    }

    /// Puts a record as the store has it into the place of what we had.
    fn replace(&mut self, restored: Restored, tie: Tie, now: Instant) {
        let stamp = self.next_stamp();
        let ours = tie.ours;
        let mut record = Record::restored(restored, stamp, Duration::ZERO, self.wall, now);
        record.tie = Some(Box::new(tie));
        let instance = &record.instance;
        if let Some(known) = self.record(&instance.service, &instance.id) {
            record.times.registered = known.times.registered;
            record.times.up = known.times.up.or(record.times.up);
            if known.instance.health == instance.health {
                record.times.changed = known.times.changed;
            }
        }
        if ours {
            self.arm(&mut record, now);
        } else {
            record.deadline = None;
        }
        let orphan = record
            .tie
            .as_ref()
            .is_some_and(|tie| !self.lives(&tie.owner));
        self.insert(record);
        if orphan && let Some(shared) = &mut self.shared {
            shared.adopt_at.get_or_insert(now + ADOPT_AGAIN);
        }
        self.tidy();
    }

    fn gone(&mut self, name: &Name) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        shared.release(name);
        let deleted = shared.deleting.get(name).map(|deletion| deletion.write);
        let Some(record) = self.record(&name.0, &name.1) else {
            return;
        };
        let write = record.tie.as_ref().map(|tie| tie.write);
        // Ours again after we deleted it: what is gone is what was before.
        let anew = record.is_ours() && deleted.is_some() && write > deleted;
        if record.source == Source::Client && !anew {
            drop(self.take_out(&name.0, &name.1));
        }
    }

    fn lives(&self, member: &Member) -> bool {
        let shared = self.shared.as_ref();
        shared.is_none_or(|shared| shared.members.contains(member))
    }

    fn member(&mut self, member: Member, lives: bool, now: Instant) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        if member == shared.me {
            shared.bumping = false;
        } else if lives {
            shared.members.insert(member);
        } else if shared.members.remove(&member) {
            info!(%member, "a process that shares the registry is gone");
            self.adopt(now);
        }
    }

    /// Takes over what belongs to nobody who lives and falls to us.
    pub(super) fn adopt(&mut self, now: Instant) {
        let Some(shared) = &self.shared else {
            return;
        };
        if shared.away {
            return;
        }
        let (mut left, mut at_once) = (false, false);
        let mut ours = Vec::new();
        // Nodes have leases and checks as well.
        for record in self.services.values().flat_map(BTreeMap::values) {
            let Some(tie) = &record.tie else { continue };
            if tie.ours || self.lives(&tie.owner) {
                continue;
            }
            let instance = &record.instance;
            let name = (instance.service.clone(), instance.id.clone());
            if shared.falls_to_us(&name) {
                if ours.len() == ADOPT_MAX {
                    at_once = true;
                    break;
                }
                ours.push(name);
            } else {
                left = true;
            }
        }
        let grace = self.settings.grace;
        if !ours.is_empty() {
            info!(
                instances = ours.len(),
                "adopted from processes that are gone"
            );
        }
        for (service, id) in &ours {
            self.take_over(service, id, grace, now);
        }
        if let Some(shared) = &mut self.shared {
            shared.adopt_at = match at_once {
                true => Some(now),
                false => left.then_some(now + ADOPT_AGAIN),
            };
        }
    }

    /// Looks after orphans when it is time.
    pub(super) fn adopt_in_time(&mut self, now: Instant) {
        let due = self.shared.as_ref().and_then(|shared| shared.adopt_at);
        if due.is_some_and(|at| at <= now) {
            self.adopt(now);
        }
    }

    pub(super) fn adopt_due(&self) -> Option<Instant> {
        let shared = self.shared.as_ref()?;
        shared.adopt_at.filter(|_| !shared.away)
    }

    /// The store is away, or there again.
    pub(crate) fn stand(&mut self, away: bool, now: Instant) {
        let grace = self.settings.grace;
        let Some(shared) = &mut self.shared else {
            return;
        };
        if shared.away && !away {
            // Clients could not register anew meanwhile, and may have gone elsewhere.
            self.mercy = self.mercy.max(now + grace);
            shared.adopt_at.get_or_insert(now + ADOPT_AGAIN);
        }
        shared.away = away;
        shared.bumping = false;
    }

    /// What came of a write of ours. Those before it of the same key are done with, too.
    pub(crate) fn written(&mut self, key: &str, write: u64, outcome: &Outcome) {
        let (stored::Key::Instance(service, id), Some(shared)) =
            (stored::Key::of(key), &mut self.shared)
        else {
            return;
        };
        let at = match outcome {
            Outcome::Wrote(at) => Some(*at),
            Outcome::Nothing | Outcome::Raced(_) => None,
            Outcome::Failed(_) => return,
        };
        let name = (service, id);
        if let Some(deletion) = shared.deleting.get_mut(&name)
            && deletion.write <= write
        {
            // With nothing written the store has told of what was before.
            let told_by = at.or(deletion.told_by).unwrap_or(Revision(0));
            deletion.told_by = Some(told_by);
        }
        if at.is_none() {
            shared.release(&name);
        }
        shared.settle();
    }

    /// How much there is to be kept; see [`State::owed_since`].
    pub(crate) fn owes(&self) -> usize {
        self.effects.entries.len()
    }

    /// The last key that a step left to be kept.
    pub(crate) fn owed_since(&self, before: usize) -> Option<String> {
        let owed = self.effects.entries.get(before..)?.last()?;
        Some(owed.entry.key.clone())
    }

    pub(crate) fn is_away(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.away)
    }

    /// Whether there are changes that nothing in the store stands for, so that it must
    /// be asked for a revision.
    pub(crate) fn wants_revision(&mut self) -> bool {
        let Some(shared) = &mut self.shared else {
            return false;
        };
        // With news there is a revision already.
        let wants = !shared.away
            && !shared.news
            && !shared.bumping
            && self.changed.iter().any(|name| !shared.held.contains(name));
        shared.bumping |= wants;
        wants
    }

    /// Whether a change that is not kept waits for the catalogue.
    pub(crate) fn is_bumping(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.bumping)
    }

    /// All up to this revision of the store is in the catalogue.
    pub(crate) fn fed(&self) -> Revision {
        self.shared.as_ref().map_or(Revision(0), |s| s.fed)
    }

    /// What may be shown now and at which revision; the rest waits for the store.
    pub(super) fn showable(&mut self) -> Option<(Revision, BTreeSet<Name>)> {
        let current = self.catalog.revision;
        let Some(shared) = &mut self.shared else {
            let changed = std::mem::take(&mut self.changed);
            return (!changed.is_empty()).then(|| (Revision(current.0 + 1), changed));
        };
        let next = |changed: &BTreeSet<Name>| Revision(current.0 + u64::from(!changed.is_empty()));
        if shared.away {
            let changed = std::mem::take(&mut self.changed);
            return (!changed.is_empty()).then(|| (next(&changed), changed));
        }
        if !std::mem::take(&mut shared.news) {
            return None;
        }
        let (held, shown) = std::mem::take(&mut self.changed)
            .into_iter()
            .partition(|name| shared.held.contains(name));
        self.changed = held;
        // After an outage the index may be ahead of the store's.
        let revision = next(&shown).max(shared.fed);
        (revision > current).then_some((revision, shown))
    }
}
