//! What the registry knows of one instance beside what everybody sees.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{Check, Health, Instance, InstanceId, Probe};

use crate::state::shared::Tie;
use crate::stored::{Restored, Wall};
use crate::verdict::Verdict;
use crate::{Outcome, Registration, Source};

/// Bytes of a check's output that are kept.
pub(crate) const OUTPUT_BYTES_MAX: usize = 4096;
/// Bytes of a note: a line of a table.
pub(crate) const NOTE_BYTES_MAX: usize = 200;

#[derive(Debug)]
pub(crate) struct Record {
    /// As it stands in the catalogue.
    pub(crate) instance: Arc<Instance>,
    pub(crate) source: Source,
    /// The node that it is on; `None` is ours.
    pub(crate) node: Option<InstanceId>,
    /// Its share of the requests, and that in warning; the catalogue has what counts now.
    pub(crate) weight: u16,
    pub(crate) warning_weight: Option<u16>,
    /// How that stands, where something is known of it. Nodes change seldom and are asked
    /// for often, so each instance has its own copy.
    pub(crate) around: Option<Box<Own>>,
    pub(crate) lease: Option<Duration>,
    /// Not expired while many others lapse, too.
    pub(crate) patient: bool,
    /// When the lease ends; `None` without one.
    pub(crate) deadline: Option<Instant>,
    /// Where this lease stands in the queue of deadlines; other entries are stale.
    pub(crate) queued: Option<Instant>,
    pub(crate) checks: Box<[Checked]>,
    /// New for each incarnation: answers for an older one are ignored.
    pub(crate) stamp: u64,
    /// What it says of itself, beside its checks.
    pub(crate) own: Option<Own>,
    /// Set by somebody with authority; wins over everything but `protest`.
    pub(crate) forced: Option<Health>,
    /// Registered itself as unfit after `forced` was set: nobody may force requests
    /// on it (Eureka's DownOrStartingRule).
    pub(crate) protest: bool,
    pub(crate) draining: bool,
    /// Why it is out for maintenance; it is critical then.
    pub(crate) maintenance: Option<String>,
    pub(crate) times: Times,
    /// Whose it is in a store that is shared, and how it stands there.
    pub(crate) tie: Option<Box<Tie>>,
}

/// When what happened to an instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// It was registered, and has been known ever since.
    pub(crate) registered: Instant,
    /// It was last registered or renewed.
    pub(crate) renewed: Instant,
    /// It last became something else than it was.
    pub(crate) changed: Instant,
    /// It began to take requests, if it ever did.
    pub(crate) up: Option<Instant>,
}

/// An instance's own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) health: Health,
    pub(crate) note: String,
}

#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) check: Check,
    pub(crate) verdict: Verdict,
    /// What the last answer said, at most [`OUTPUT_BYTES_MAX`].
    pub(crate) output: Box<str>,
    pub(crate) answered: Option<Answered>,
    /// Until when the last word is believed, when it is told and not asked.
    pub(crate) believed: Option<Instant>,
    /// Where this check stands in the queue of deadlines; other entries are stale.
    pub(crate) queued: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) at: Instant,
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
}

impl Record {
    pub(crate) fn new(registration: Registration, stamp: u64, now: Instant) -> Self {
        let own = registration.checks.is_empty();
        let own = own.then(|| Own::new(registration.health, ""));
        let checks = registration
            .checks
            .iter()
            .map(|check| Checked::new(check.clone(), Verdict::new(now)))
            .collect();
        let mut record = Self {
            source: registration.source,
            node: registration.node.clone(),
            weight: registration.weight,
            warning_weight: registration.warning_weight,
            around: None,
            lease: registration.lease,
            patient: registration.patient,
            deadline: registration.lease.map(|lease| now + lease),
            queued: None,
            instance: Arc::new(instance_of(registration, Health::Starting)),
            checks,
            stamp,
            own,
            forced: None,
            protest: false,
            draining: false,
            times: Times {
                registered: now,
                renewed: now,
                changed: now,
                up: None,
            },
            maintenance: None,
            tie: None,
        };
        record.refresh(now);
        record
    }

    /// A record as it was kept: with its last health, and with at least the grace
    /// period to renew and to speak.
    pub(crate) fn restored(
        restored: Restored,
        stamp: u64,
        grace: Duration,
        wall: Wall,
        now: Instant,
    ) -> Self {
        let Restored {
            registration,
            health,
            checks,
            words,
            mark: _,
        } = restored;
        let mut record = Self::new(registration, stamp, now);
        // Draining is never what a check said; it is told by the words.
        let standing = match health {
            Health::Draining => Health::Starting,
            standing => standing,
        };
        for (checked, stood) in record.checks.iter_mut().zip(checks) {
            let mut verdict = Verdict::restored(stood.health.unwrap_or(standing), now);
            let since = stood.critical_since_unix_ms;
            if let (Some(since), Some(after)) = (since, checked.check.deregister_after) {
                // It goes on being critical, but gets the grace to say otherwise.
                let passed = wall
                    .passed_since(since, now)
                    .min(after.saturating_sub(grace));
                verdict.since = now.checked_sub(passed).unwrap_or(now);
            }
            *checked = Checked::new(checked.check.clone(), verdict);
            checked.say(&stood.output);
            // As with leases: whoever speaks could not while we were down.
            checked.believed = checked.believed.map(|until| until.max(now + grace));
        }
        record.own = words.own;
        record.forced = words.forced;
        record.protest = words.protest;
        record.draining = words.draining;
        record.maintenance = words.maintenance;
        record.deadline = record.lease.map(|lease| now + lease.max(grace));
        // So that what is said of its health is taken in with it.
        Arc::make_mut(&mut record.instance).health = Health::Starting;
        record.refresh(now);
        record
    }

    /// Brings the instance's health up to date; true when it changed. The note
    /// changes only with the health: a new text each second must not wake every
    /// watcher (hashicorp/consul#1244).
    pub(crate) fn refresh(&mut self, now: Instant) -> bool {
        let (health, note) = self.fitness();
        if self.instance.health == health {
            return false;
        }
        let note = shortened(note);
        let warning = self.warning_weight.filter(|_| health == Health::Warning);
        let instance = Arc::make_mut(&mut self.instance);
        instance.health = health;
        instance.weight = warning.unwrap_or(self.weight);
        instance.note = note;
        self.times.changed = now;
        if health.takes_requests() && self.times.up.is_none() {
            self.times.up = Some(now);
        }
        true
    }

    /// Takes over what is known of the incarnation before: when it came, when it was
    /// first fit, and what an administrator said of it.
    pub(crate) fn succeed(&mut self, known: &Self) {
        self.times.registered = known.times.registered;
        self.times.up = known.times.up.or(self.times.up);
        self.forced = known.forced;
        self.maintenance = known.maintenance.clone();
        let unfit = |own: &Own| matches!(own.health, Health::Starting | Health::Critical);
        self.protest = self.own.as_ref().is_some_and(unfit);
    }

    /// Whether its lease is one that self-preservation may stretch.
    pub(crate) fn is_patient(&self) -> bool {
        self.patient && self.lease.is_some() && self.is_ours()
    }

    /// The lease begins anew.
    pub(crate) fn renew(&mut self, now: Instant) {
        self.times.renewed = now;
        self.deadline = self.lease.map(|lease| now + lease);
    }

    /// The health that all that is known amounts to, and what is said of it.
    fn fitness(&self) -> (Health, &str) {
        if let Some(forced) = self.forced
            && !self.protest
        {
            return (forced, "set by an administrator");
        }
        if self.draining {
            return (Health::Draining, "");
        }
        if let Some(reason) = &self.maintenance {
            return (Health::Critical, reason);
        }
        let own = self.own.iter().map(|own| (own.health, &own.note[..]));
        let checks = self
            .checks
            .iter()
            .map(|checked| (checked.verdict.health, &checked.output[..]));
        let around = self.around.iter().map(|own| (own.health, &own.note[..]));
        own.chain(checks)
            .chain(around)
            .max_by_key(|(health, _)| badness(*health))
            .unwrap_or((Health::Starting, ""))
    }
}

impl Own {
    /// Of the note, as much is kept as is shown.
    pub(crate) fn new(health: Health, note: &str) -> Self {
        let note = shortened(note);
        Self { health, note }
    }
}

impl Checked {
    pub(crate) fn new(check: Check, verdict: Verdict) -> Self {
        Self {
            believed: check.probe.ttl().map(|ttl| verdict.since + ttl),
            queued: None,
            check,
            verdict,
            output: Box::default(),
            answered: None,
        }
    }

    /// Whether somebody has to ask.
    pub(crate) fn is_asked(&self) -> bool {
        self.check.probe.is_asked()
    }

    /// Whoever registers again is there: what was told of it goes on being believed, as
    /// Consul's agent starts the TTL anew (`agent.addCheck`).
    pub(crate) fn believe(&mut self, now: Instant) {
        if let Probe::Told { ttl: Some(ttl) } = self.check.probe {
            self.believed = Some(now + ttl);
        }
    }

    /// What it says now, as much as is kept.
    pub(crate) fn say(&mut self, output: &str) {
        let output = cut(output, OUTPUT_BYTES_MAX);
        if *self.output != *output {
            self.output = output.into();
        }
    }

    /// When something happens to it by itself: silence makes it critical, and what is
    /// critical for long is removed.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.verdict.health == Health::Critical {
            let after = self.check.deregister_after?;
            return Some(self.verdict.since + after);
        }
        self.believed
    }
}

pub(crate) fn instance_of(registration: Registration, health: Health) -> Instance {
    Instance {
        id: registration.id,
        service: registration.service,
        address: registration.address,
        weight: registration.weight,
        health,
        note: String::new(),
        tags: registration.tags,
        metadata: registration.metadata,
    }
}

/// Of several opinions the worst counts; one that is not formed yet is worse than
/// one that lets requests through.
fn badness(health: Health) -> u8 {
    match health {
        Health::Passing => 0,
        Health::Warning => 1,
        Health::Starting => 2,
        Health::Critical => 3,
        Health::Draining => 4,
    }
}

fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    cut(line, NOTE_BYTES_MAX).to_owned()
}

/// At most `bytes_max` of `text`, ending at a whole character.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
