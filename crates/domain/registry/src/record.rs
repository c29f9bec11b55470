//! What the registry knows of one instance beside what everybody sees.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{Check, Health, Instance};

use crate::verdict::Verdict;
use crate::{Outcome, Registration, Source};

/// Bytes of a check's output that are kept.
pub(crate) const OUTPUT_BYTES_MAX: usize = 4096;
/// Bytes of a note: a line of a table.
const NOTE_BYTES_MAX: usize = 200;

#[derive(Debug)]
pub(crate) struct Record {
    /// As it stands in the catalogue.
    pub(crate) instance: Arc<Instance>,
    pub(crate) source: Source,
    pub(crate) lease: Option<Duration>,
    /// When the lease ends; `None` without one.
    pub(crate) deadline: Option<Instant>,
    /// Where this lease stands in the queue of deadlines; other entries are stale.
    pub(crate) queued: Option<Instant>,
    pub(crate) checks: Box<[Checked]>,
    /// New for each incarnation: answers for an older one are ignored.
    pub(crate) stamp: u64,
    /// What it says of itself, beside its checks.
    pub(crate) own: Option<Own>,
    /// Set by somebody with authority; wins over everything.
    pub(crate) forced: Option<Health>,
    pub(crate) draining: bool,
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
            lease: registration.lease,
            deadline: registration.lease.map(|lease| now + lease),
            queued: None,
            instance: Arc::new(instance_of(registration, Health::Starting)),
            checks,
            stamp,
            own,
            forced: None,
            draining: false,
        };
        record.refresh();
        record
    }

    /// Brings the instance's health up to date; true when it changed. The note
    /// changes only with the health: a new text each second must not wake every
    /// watcher (hashicorp/consul#1244).
    pub(crate) fn refresh(&mut self) -> bool {
        let (health, note) = self.fitness();
        if self.instance.health == health {
            return false;
        }
        let note = shortened(note);
        let instance = Arc::make_mut(&mut self.instance);
        instance.health = health;
        instance.note = note;
        true
    }

    /// The health that all that is known amounts to, and what is said of it.
    fn fitness(&self) -> (Health, &str) {
        if let Some(forced) = self.forced {
            return (forced, "set by an administrator");
        }
        if self.draining {
            return (Health::Draining, "");
        }
        let own = self.own.iter().map(|own| (own.health, &own.note[..]));
        let checks = self
            .checks
            .iter()
            .map(|checked| (checked.verdict.health, &checked.output[..]));
        own.chain(checks)
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
            check,
            verdict,
            output: Box::default(),
            answered: None,
        }
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
