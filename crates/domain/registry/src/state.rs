//! All that the registry knows, as a synchronous machine that is given `now`.
//!
//! [`State::step`] takes one event in; [`State::publish`] then makes one catalogue
//! of all that changed since the last, however many events that were, and
//! [`State::take_effects`] says what the world has to do: keep entries, ask
//! instances. What has not changed is shared with the catalogue before.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{Address, Catalog, Health, Instance, InstanceId, Probe, Revision, ServiceName};
use atoll_runtime::Random;
use tracing::info;

use crate::aliases::Aliases;
use crate::checks::FORBIDDEN;
use crate::deadlines::Deadlines;
use crate::history::History;
use crate::preservation::Preserver;
use crate::recent::Recent;
use crate::record::{Answered, Checked, Own, Record};
use crate::schedule::{Schedule, Target};
use crate::state::shared::{Owed, Shared};
use crate::stored::{self, Restored, Wall};
use crate::verdict::Verdict;
use crate::{Change, Detail, Outcome, Preservation, Registration, RegistryError, Settings, Source};

/// Revisions that are reserved on disk at a time, so that a restart goes on above
/// every revision that was ever shown, without a write for each.
const REVISIONS_RESERVED: u64 = 1_000_000;

/// Entries of a queue before stale ones are looked for.
const TIDY_LEAST: usize = 1024;

/// When a wake-up comes this late, the whole process was stopped (a paused virtual
/// machine, SIGSTOP), and silence in that time is not the instances' fault.
const STALL: Duration = Duration::from_secs(5);

/// What happens to the registry.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Register(Box<Registration>),
    Renew {
        service: ServiceName,
        id: InstanceId,
    },
    Deregister {
        service: ServiceName,
        id: InstanceId,
        by: Source,
    },
    Drain {
        service: ServiceName,
        id: InstanceId,
        draining: bool,
    },
    Report {
        service: ServiceName,
        id: InstanceId,
        word: Word,
    },
    /// Somebody says how one check stands.
    Said(Box<Said>),
    /// A probe came back.
    Answer(Answer),
    /// Time has passed: leases end and checks are due.
    Tick,
}

/// What somebody says of a check that nobody asks.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) service: ServiceName,
    pub(crate) id: InstanceId,
    /// Its name.
    pub(crate) check: String,
    pub(crate) health: Health,
    pub(crate) output: String,
}

/// What is said of an instance's health by somebody, not by a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// What it says itself; with checks the worse of both counts.
    Own {
        /// How it feels.
        health: Health,
        /// Why, in a few words.
        note: String,
    },
    /// An administrator's word, which wins over checks and over its own (Eureka's
    /// status override); `None` takes it back.
    Forced(Option<Health>),
    /// Out for maintenance, with the reason; `None` takes it back.
    Maintenance(Option<String>),
}

/// An instance that changed lately.
#[derive(Clone, Debug)]
pub enum Touched {
    /// It is there.
    Put {
        /// As it is now.
        detail: Detail,
        /// It was registered, or registered again with something new; otherwise only
        /// its health changed.
        anew: bool,
    },
    /// It is gone; this is the last that was known of it.
    Gone(Arc<Instance>),
}

/// A question to be put to an instance.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) target: Target,
    pub(crate) address: Address,
    pub(crate) probe: Probe,
    pub(crate) timeout: Duration,
}

/// What came of a [`Question`].
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) target: Target,
    pub(crate) outcome: Outcome,
    pub(crate) output: String,
    pub(crate) took: Duration,
}

/// What the world has to do after some steps.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) entries: Vec<Owed>,
    pub(crate) questions: Vec<Question>,
}

#[derive(Debug)]
pub(crate) struct State {
    settings: Settings,
    services: BTreeMap<ServiceName, BTreeMap<InstanceId, Record>>,
    count: usize,
    catalog: Arc<Catalog>,
    history: History,
    recent: Recent,
    preserver: Preserver,
    /// The time of the last step.
    now: Instant,
    wall: Wall,
    /// Instances that differ from `catalog`.
    changed: BTreeSet<(ServiceName, InstanceId)>,
    leases: BinaryHeap<Reverse<Lease>>,
    schedule: Schedule,
    /// When checks change by themselves.
    deadlines: Deadlines,
    /// Whose fitness is whose.
    aliases: Aliases,
    /// Lengths at which the two are rid of what former incarnations left in them.
    tidy_leases_at: usize,
    tidy_checks_at: usize,
    /// Questions that are out.
    asking: usize,
    /// The stamp of the next incarnation.
    stamp: u64,
    /// Revisions below it may be used without another write.
    ceiling: Revision,
    /// When the next tick was due, as [`State::next_wake`] told.
    planned: Option<Instant>,
    /// Nothing is expired before this instant.
    mercy: Instant,
    effects: Effects,
    /// With whom the store is shared, if it is.
    shared: Option<Shared>,
}

/// An entry in the queue of deadlines. A renewal does not move it: when its time
/// has come, the record tells whether the lease goes on.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lease {
    at: Instant,
    stamp: u64,
    service: ServiceName,
    id: InstanceId,
}

impl State {
    /// An empty registry whose first revision comes after `floor`.
    pub(crate) fn new(settings: Settings, floor: Revision, random: Random, now: Instant) -> Self {
        let mut state = Self {
            services: BTreeMap::new(),
            count: 0,
            catalog: Arc::new(Catalog {
                revision: floor,
                services: BTreeMap::new(),
            }),
            history: History::new(floor),
            recent: Recent::new(floor, now),
            preserver: Preserver::new(settings.self_preservation),
            now,
            wall: Wall {
                at: now,
                unix_ms: 0,
            },
            changed: BTreeSet::new(),
            leases: BinaryHeap::new(),
            schedule: Schedule::new(random, now),
            deadlines: Deadlines::default(),
            aliases: Aliases::default(),
            tidy_leases_at: TIDY_LEAST,
            tidy_checks_at: TIDY_LEAST,
            asking: 0,
            stamp: 0,
            ceiling: floor,
            planned: None,
            mercy: now,
            effects: Effects::default(),
            shared: None,
            settings,
        };
        state.reserve_revisions();
        state
    }

    /// Says what time it was when the state began, for what is kept on disk.
    pub(crate) fn began_at(&mut self, unix_ms: u64) {
        self.wall.unix_ms = unix_ms;
    }

    /// Takes in an instance that was registered before a restart: with its last
    /// health, to be asked again soon, and with at least the grace period to renew.
    pub(crate) fn restore(&mut self, restored: Restored, now: Instant) {
        let stamp = self.next_stamp();
        let grace = self.settings.grace;
        let mut record = Record::restored(restored, stamp, grace, self.wall, now);
        self.arm(&mut record, now);
        self.insert(record);
    }

    /// Sees to it that a restored record's checks are asked.
    fn arm(&mut self, record: &mut Record, now: Instant) {
        for index in 0..record.checks.len() {
            let target = target_of(record, index);
            let checked = &mut record.checks[index];
            self.deadlines.arm(target.clone(), checked);
            if checked.is_asked() {
                self.schedule.restored(target, &checked.check, now);
            }
        }
    }

    /// Takes one event in.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Result<(), RegistryError> {
        self.now = now;
        self.prepare(&event, now)?;
        match event {
            Event::Register(registration) => self.register(*registration, now),
            Event::Renew { service, id } => self.renew(service, id, now),
            Event::Deregister { service, id, by } => {
                let record = find(&mut self.services, &service, &id)?;
                allow(record, by)?;
                self.remove(&service, &id);
                Ok(())
            }
            Event::Drain {
                service,
                id,
                draining,
            } => self.amend(&service, &id, |record| record.draining = draining),
            Event::Report { service, id, word } => self.amend(&service, &id, |record| match word {
                Word::Own { health, note } => record.own = Some(Own::new(health, &note)),
                Word::Forced(forced) => {
                    record.forced = forced;
                    record.protest = false;
                }
                Word::Maintenance(reason) => record.maintenance = reason,
            }),
            Event::Said(said) => self.said(*said, now),
            Event::Answer(answer) => {
                self.answer(answer, now);
                Ok(())
            }
            Event::Tick => {
                self.expire(now);
                self.lapse(now);
                self.ask(now);
                self.adopt_in_time(now);
                Ok(())
            }
        }
    }

    /// The revision at which all that was taken in so far is, or will be, published.
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.catalog.revision.0 + u64::from(!self.changed.is_empty()))
    }

    /// A catalogue with all changes since the last; `None` when there are none.
    pub(crate) fn publish(&mut self) -> Option<Arc<Catalog>> {
        self.spread();
        let (revision, changed) = self.showable()?;
        let mut services = self.catalog.services.clone();
        let touched: BTreeSet<&ServiceName> = changed.iter().map(|(service, _)| service).collect();
        for service in touched.into_iter().filter(|name| !name.is_of_nodes()) {
            match self.services.get(service) {
                Some(records) => {
                    let list = records.values().map(|r| Arc::clone(&r.instance)).collect();
                    services.insert(service.clone(), list);
                }
                None => drop(services.remove(service)),
            }
        }
        for (service, id) in changed {
            if service.is_of_nodes() {
                continue;
            }
            let record = self.services.get(&service).and_then(|all| all.get(&id));
            let before = found(&self.catalog, &service, &id);
            let after = record.map(|record| &record.instance);
            self.recent.note(before, after, self.now);
            let change = match after {
                Some(instance) => Change::Put(Arc::clone(instance)),
                None => Change::Gone { service, id },
            };
            self.history.push(revision, change);
        }
        self.catalog = Arc::new(Catalog { revision, services });
        if self.shared.is_none() && revision.0 + REVISIONS_RESERVED / 2 > self.ceiling.0 {
            self.reserve_revisions();
        }
        Some(Arc::clone(&self.catalog))
    }

    /// What is to be done since the last call.
    pub(crate) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// When the next tick is due; it may come to nothing.
    pub(crate) fn next_wake(&mut self) -> Option<Instant> {
        let lease = self
            .leases
            .peek()
            .map(|Reverse(lease)| lease.at.max(self.mercy));
        // With every slot taken, the next answer makes room and causes a tick.
        let check = (self.asking < self.settings.probes_max)
            .then(|| self.schedule.next_due())
            .flatten();
        let held = self.preserver.next_due().map(|due| due.max(self.mercy));
        let deadline = self.deadlines.next_due().map(|due| due.max(self.mercy));
        let timed = lease.into_iter().chain(check).chain(held).chain(deadline);
        let timed = timed.chain(self.adopt_due());
        self.planned = timed.min();
        self.planned
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// What changed after `since`; `None` when only the whole catalogue tells.
    pub(crate) fn changes(&self, since: Revision) -> Option<Vec<Change>> {
        self.history.since(since, self.catalog.revision)
    }

    pub(crate) fn record(&self, service: &ServiceName, id: &InstanceId) -> Option<&Record> {
        self.services.get(service)?.get(id)
    }

    /// All instances, but no nodes.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        let services = self.services.iter();
        let services = services.filter(|(name, _)| !name.is_of_nodes());
        services.flat_map(|(_, records)| records.values())
    }

    pub(crate) fn records_of(&self, service: &ServiceName) -> Vec<&Record> {
        let siblings = self.services.get(service);
        siblings
            .map(|all| all.values().collect())
            .unwrap_or_default()
    }

    /// What changed within the last `window`, with all that is known of each.
    pub(crate) fn recently(&self, window: Duration, now: Instant) -> (bool, Vec<Touched>) {
        let (complete, entries) = self.recent.within(window, now);
        let touched = entries.into_iter().filter_map(|entry| match entry.gone {
            Some(instance) => Some(Touched::Gone(instance)),
            None => Some(Touched::Put {
                detail: Detail::of(self.record(&entry.service, &entry.id)?, now),
                anew: entry.anew,
            }),
        });
        (complete, touched.collect())
    }

    pub(crate) fn preservation(&self) -> Preservation {
        self.preserver.report()
    }

    fn renew(
        &mut self,
        service: ServiceName,
        id: InstanceId,
        now: Instant,
    ) -> Result<(), RegistryError> {
        if !find(&mut self.services, &service, &id)?.is_ours() {
            self.take_over(&service, &id, Duration::ZERO, now);
        }
        let record = find(&mut self.services, &service, &id)?;
        record.renew(now);
        // It had lapsed and was kept all the same: back into the queue.
        if let (Some(at), None) = (record.deadline, record.queued) {
            record.queued = Some(at);
            let stamp = record.stamp;
            self.preserver.recovered(&service, &id);
            self.leases.push(Reverse(Lease {
                at,
                stamp,
                service,
                id,
            }));
        }
        Ok(())
    }

    fn register(&mut self, registration: Registration, now: Instant) -> Result<(), RegistryError> {
        registration.validate()?;
        self.allow_scripts(&registration)?;
        let known = find(&mut self.services, &registration.service, &registration.id).ok();
        let Some(known) = known else {
            if self.count >= self.settings.instances_max {
                return Err(RegistryError::Full {
                    limit: self.settings.instances_max,
                });
            }
            let record = Record::new(registration, self.next_stamp(), now);
            self.begin(record, now);
            return Ok(());
        };
        allow(known, registration.source)?;
        if repeats(known, &registration) {
            known.checks.iter_mut().for_each(|c| c.believe(now));
            let (service, id) = (registration.service, registration.id);
            self.renew(service.clone(), id.clone(), now)?;
            return self.confirm(&service, &id);
        }
        if registration.source != Source::Client {
            self.effects.forget(&mut self.shared, known);
        }
        let carried = carried_checks(known, &registration, now);
        self.stamp += 1;
        let mut record = Record::new(registration, self.stamp, now);
        record.succeed(known);
        record.tie = known.tie.take();
        if let Some(checks) = carried {
            record.checks = checks;
            record.checks.iter_mut().for_each(|c| c.believe(now));
        }
        record.refresh(now);
        self.begin(record, now);
        Ok(())
    }

    /// Programs are run only where the settings say so. What was kept from a time when
    /// they did is not run either (`probe.rs`).
    fn allow_scripts(&self, registration: &Registration) -> Result<(), RegistryError> {
        let mut probes = registration.checks.iter().map(|check| &check.probe);
        let scripts = probes.any(|probe| matches!(probe, Probe::Script { .. }));
        if scripts && !self.settings.script_checks {
            return Err(RegistryError::Invalid {
                field: "checks.script",
                reason: FORBIDDEN.to_owned(),
            });
        }
        Ok(())
    }

    /// Puts a new incarnation in its place and schedules its checks.
    fn begin(&mut self, mut record: Record, now: Instant) {
        for index in 0..record.checks.len() {
            let target = target_of(&record, index);
            let checked = &mut record.checks[index];
            checked.queued = None;
            self.deadlines.arm(target.clone(), checked);
            if !checked.is_asked() {
                continue;
            }
            if checked.verdict.health == Health::Starting {
                self.schedule.first(target, now);
            } else {
                let health = checked.verdict.health;
                self.schedule
                    .again(target, &checked.check, health, now, false);
            }
        }
        if record.source != Source::Client {
            record.tie = None;
        }
        self.effects.keep(&mut self.shared, self.wall, &mut record);
        self.insert(record);
        self.tidy();
    }

    /// Stale entries go when their time comes, which may be in a year; whoever
    /// registers again and again meanwhile must not fill the memory with them.
    fn tidy(&mut self) {
        let services = &self.services;
        let find = |service: &ServiceName, id: &InstanceId| services.get(service)?.get(id);
        if self.leases.len() > self.tidy_leases_at {
            self.leases.retain(|Reverse(lease)| {
                find(&lease.service, &lease.id).is_some_and(|record| {
                    record.stamp == lease.stamp && record.queued == Some(lease.at)
                })
            });
            self.tidy_leases_at = TIDY_LEAST.max(2 * self.leases.len());
        }
        if self.schedule.len() > self.tidy_checks_at {
            self.schedule.retain(|target| {
                find(&target.service, &target.id).is_some_and(|r| r.stamp == target.stamp)
            });
            self.tidy_checks_at = TIDY_LEAST.max(2 * self.schedule.len());
        }
        self.deadlines.tidy(|target| {
            find(&target.service, &target.id).is_some_and(|r| r.stamp == target.stamp)
        });
    }

    fn insert(&mut self, mut record: Record) {
        let service = record.instance.service.clone();
        let id = record.instance.id.clone();
        if let Some(at) = record.deadline {
            record.queued = Some(at);
            self.leases.push(Reverse(Lease {
                at,
                stamp: record.stamp,
                service: service.clone(),
                id: id.clone(),
            }));
        }
        let patient = record.is_patient();
        let siblings = self.services.entry(service.clone()).or_default();
        match siblings.insert(id.clone(), record) {
            None => self.count += 1,
            Some(before) => self.preserver.leave(before.is_patient(), &service, &id),
        }
        self.preserver.join(patient);
        self.changed.insert((service, id));
    }

    /// Removes an instance, and from what is kept.
    fn remove(&mut self, service: &ServiceName, id: &InstanceId) {
        if let Some(record) = self.take_out(service, id) {
            self.effects.forget(&mut self.shared, &record);
        }
    }

    /// Removes an instance from what is known.
    fn take_out(&mut self, service: &ServiceName, id: &InstanceId) -> Option<Record> {
        let siblings = self.services.get_mut(service)?;
        let record = siblings.remove(id)?;
        if siblings.is_empty() {
            self.services.remove(service);
        }
        self.count -= 1;
        self.preserver.leave(record.is_patient(), service, id);
        self.changed.insert((service.clone(), id.clone()));
        Some(record)
    }

    /// Changes what is said of an instance and brings its health up to date.
    fn amend(
        &mut self,
        service: &ServiceName,
        id: &InstanceId,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), RegistryError> {
        let record = find(&mut self.services, service, id)?;
        change(record);
        if record.refresh(self.now) {
            self.changed.insert((service.clone(), id.clone()));
        }
        self.effects.keep(&mut self.shared, self.wall, record);
        Ok(())
    }

    fn answer(&mut self, answer: Answer, now: Instant) {
        self.asking = self.asking.saturating_sub(1);
        let target = answer.target;
        let (service, id) = (target.service.clone(), target.id.clone());
        let Ok(record) = find(&mut self.services, &target.service, &target.id) else {
            return;
        };
        if record.stamp != target.stamp {
            return;
        }
        let Some(checked) = record.checks.get_mut(target.index) else {
            return;
        };
        checked.answered = Some(Answered {
            at: now,
            took: answer.took,
            outcome: answer.outcome,
        });
        checked.say(&answer.output);
        let changed = checked.verdict.observe(answer.outcome, &checked.check, now);
        let health = checked.verdict.health;
        self.deadlines.arm(target.clone(), checked);
        self.schedule
            .again(target, &checked.check, health, now, changed);
        self.show(&service, &id, changed, now);
    }

    /// After one check of an instance stands otherwise: shows and keeps what that
    /// makes of the instance.
    fn show(&mut self, service: &ServiceName, id: &InstanceId, check_changed: bool, now: Instant) {
        let Ok(record) = find(&mut self.services, service, id) else {
            return;
        };
        if record.refresh(now) {
            let instance = &record.instance;
            info!(service = %instance.service, instance = %instance.id, health = %instance.health, note = instance.note, "health changed");
        } else if !check_changed || record.checks.len() == 1 {
            return;
        }
        // One of several checks may change without making the whole better or worse;
        // who watches the checks is told all the same.
        self.changed.insert((service.clone(), id.clone()));
        self.effects.keep(&mut self.shared, self.wall, record);
    }

    fn expire(&mut self, now: Instant) {
        if self
            .planned
            .is_some_and(|planned| now.saturating_duration_since(planned) > STALL)
        {
            self.mercy = now + self.settings.grace;
        }
        // Time that was lost once is forgiven once.
        self.planned = None;
        if now < self.mercy || self.is_away() {
            return;
        }
        while self
            .leases
            .peek()
            .is_some_and(|Reverse(lease)| lease.at <= now)
        {
            let Some(Reverse(mut lease)) = self.leases.pop() else {
                return;
            };
            let Ok(record) = find(&mut self.services, &lease.service, &lease.id) else {
                continue;
            };
            if record.stamp != lease.stamp || record.queued != Some(lease.at) {
                continue;
            }
            match record.deadline {
                Some(deadline) if deadline > now => {
                    lease.at = deadline;
                    record.queued = Some(deadline);
                    self.leases.push(Reverse(lease));
                }
                Some(_) if record.is_patient() => {
                    record.queued = None;
                    self.preserver.lapsed(lease.service, lease.id);
                }
                Some(_) => {
                    info!(service = %lease.service, instance = %lease.id, "lease expired");
                    self.remove(&lease.service, &lease.id);
                }
                None => record.queued = None,
            }
        }
        for (service, id) in self.preserver.release(now) {
            info!(%service, instance = %id, "lease expired");
            self.remove(&service, &id);
        }
    }

    fn ask(&mut self, now: Instant) {
        while self.asking < self.settings.probes_max {
            let services = &self.services;
            let current = |target: &Target| {
                let record = services.get(&target.service)?.get(&target.id)?;
                let checked = record.checks.get(target.index)?;
                (record.stamp == target.stamp).then_some(checked.verdict.health == Health::Starting)
            };
            let Some(target) = self.schedule.take_due(now, current) else {
                return;
            };
            let Some(record) = self.record(&target.service, &target.id) else {
                continue;
            };
            let check = &record.checks[target.index].check;
            let question = Question {
                address: (check.at.as_ref().unwrap_or(&record.instance.address)).clone(),
                probe: check.probe.clone(),
                timeout: check.timeout,
                target,
            };
            self.asking += 1;
            self.effects.questions.push(question);
        }
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    fn reserve_revisions(&mut self) {
        self.ceiling = Revision(self.catalog.revision.0 + REVISIONS_RESERVED);
        self.effects.entries.push(Owed {
            entry: stored::ceiling(self.ceiling),
            base: Revision(0),
            guarded: false,
            write: 0,
        });
    }
}

fn find<'s>(
    services: &'s mut BTreeMap<ServiceName, BTreeMap<InstanceId, Record>>,
    service: &ServiceName,
    id: &InstanceId,
) -> Result<&'s mut Record, RegistryError> {
    services
        .get_mut(service)
        .and_then(|siblings| siblings.get_mut(id))
        .ok_or_else(|| RegistryError::Unknown {
            service: service.clone(),
            id: id.clone(),
        })
}

/// An instance as a catalogue has it.
fn found<'c>(
    catalog: &'c Catalog,
    service: &ServiceName,
    id: &InstanceId,
) -> Option<&'c Arc<Instance>> {
    let list = catalog.instances(service.as_str());
    let at = list.binary_search_by(|known| known.id.cmp(id)).ok()?;
    Some(&list[at])
}

fn target_of(record: &Record, index: usize) -> Target {
    Target {
        stamp: record.stamp,
        index,
        service: record.instance.service.clone(),
        id: record.instance.id.clone(),
    }
}

/// A client may not touch what Atoll itself put there.
fn allow(known: &Record, by: Source) -> Result<(), RegistryError> {
    if by == Source::Client && known.source != Source::Client {
        return Err(RegistryError::Owned {
            service: known.instance.service.clone(),
            id: known.instance.id.clone(),
            owner: known.source,
        });
    }
    Ok(())
}

/// Whether a registration says nothing new, as clients that register again every
/// few seconds do: a renewal. From the fleet it is never one, since a new process
/// stands behind it and must be seen healthy first.
fn repeats(known: &Record, registration: &Registration) -> bool {
    let instance = &known.instance;
    let own = known.own.as_ref().map(|own| own.health);
    registration.source != Source::Fleet
        && known.source == registration.source
        && known.node == registration.node
        && known.lease == registration.lease
        && known.patient == registration.patient
        && instance.address == registration.address
        && known.weight == registration.weight
        && known.warning_weight == registration.warning_weight
        && instance.tags == registration.tags
        && instance.metadata == registration.metadata
        && same_checks(known, registration)
        && (!registration.checks.is_empty() || own == Some(registration.health))
}

fn same_checks(known: &Record, registration: &Registration) -> bool {
    let known = known.checks.iter().map(|checked| &checked.check);
    known.eq(registration.checks.iter())
}

/// The checks of a new incarnation, those with the verdict so far that ask the same
/// process in the same way, or that nobody asks: what was told of them still stands.
fn carried_checks(
    known: &mut Record,
    registration: &Registration,
    now: Instant,
) -> Option<Box<[Checked]>> {
    if registration.source == Source::Fleet {
        return None;
    }
    let same_process = known.instance.address == registration.address;
    let mut before = Vec::from(std::mem::take(&mut known.checks));
    before.retain(|checked| same_process || !checked.is_asked());
    let checks = registration.checks.iter().map(|check| {
        let at = before.iter().position(|checked| checked.check == *check);
        match at {
            Some(at) => before.remove(at),
            None => Checked::new(check.clone(), Verdict::new(now)),
        }
    });
    Some(checks.collect())
}

pub(crate) mod shared;
mod spread;
mod told;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod together;
