//! When which check is due, so that many do not fire in one instant.
//!
//! Three things spread them: a phase from the hash of the identity (kept over
//! restarts), jitter, and a pace for first questions, which otherwise come in the
//! burst of their registrations.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use atoll_model::{Check, Health, InstanceId, ServiceName};
use atoll_runtime::Random;

/// One question to a starting instance each 500 µs at most: 10,000 instances that
/// register at once are asked within 5 s, and a 100 ms window has 2 % of them.
const PACE: Duration = Duration::from_micros(500);
/// Questions to starting instances that need not wait for the pace, so that a
/// fleet of usual size is asked at once.
const BURST: u32 = 64;
/// After a restart everything is asked again within this time.
const RESTORED_SPREAD_MAX: Duration = Duration::from_secs(5);
/// Fraction by which each pause is moved, so that those who fell into step part again.
const JITTER: f64 = 0.1;

/// Which check of which incarnation of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    /// Of the registration: an answer to an older one is ignored.
    pub(crate) stamp: u64,
    pub(crate) index: usize,
    pub(crate) service: ServiceName,
    pub(crate) id: InstanceId,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    /// It has waited for the pace already.
    paced: bool,
    target: Target,
}

#[derive(Debug)]
pub(crate) struct Schedule {
    due: BinaryHeap<Reverse<Due>>,
    random: Random,
    /// When the next question to a starting instance has its turn.
    turn: Instant,
}

impl Schedule {
    pub(crate) fn new(random: Random, now: Instant) -> Self {
        Self {
            due: BinaryHeap::new(),
            random,
            turn: now.checked_sub(PACE * BURST).unwrap_or(now),
        }
    }

    /// The first question to a newly registered instance: at once, if the pace allows.
    pub(crate) fn first(&mut self, target: Target, now: Instant) {
        self.push(now, target);
    }

    /// The first question after a restart of Atoll.
    pub(crate) fn restored(&mut self, target: Target, check: &Check, now: Instant) {
        let spread = check.interval.min(RESTORED_SPREAD_MAX);
        self.push(now + spread.mul_f64(phase(&target)), target);
    }

    /// The next question after one that was answered.
    pub(crate) fn again(
        &mut self,
        target: Target,
        check: &Check,
        health: Health,
        now: Instant,
        changed: bool,
    ) {
        let pause = match health {
            Health::Starting => check.start_interval,
            // Instances that start together pass together; their phase parts them.
            Health::Passing if changed => check.interval.mul_f64(0.5 + phase(&target)),
            Health::Passing | Health::Warning | Health::Critical | Health::Draining => {
                check.interval
            }
        };
        let pause = self.random.jitter(pause, JITTER);
        self.push(now + pause, target);
    }

    /// Takes out what is due and has its turn; `starting` says whether a target is
    /// still to be asked, and if so whether its instance is starting.
    pub(crate) fn take_due(
        &mut self,
        now: Instant,
        starting: impl Fn(&Target) -> Option<bool>,
    ) -> Option<Target> {
        while self.due.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Reverse(mut due) = self.due.pop()?;
            let Some(starting) = starting(&due.target) else {
                continue;
            };
            if !starting || due.paced {
                return Some(due.target);
            }
            // As a token bucket that holds BURST and refills one each PACE.
            let earliest = now.checked_sub(PACE * BURST).unwrap_or(now);
            self.turn = self.turn.max(earliest) + PACE;
            if self.turn <= now {
                return Some(due.target);
            }
            due.at = self.turn;
            due.paced = true;
            self.due.push(Reverse(due));
        }
        None
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse(due)| due.at)
    }

    /// Questions that wait, those to former incarnations included.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Drops the questions to whom `is_current` does not know.
    pub(crate) fn retain(&mut self, is_current: impl Fn(&Target) -> bool) {
        self.due.retain(|Reverse(due)| is_current(&due.target));
    }

    fn push(&mut self, at: Instant, target: Target) {
        self.due.push(Reverse(Due {
            at,
            paced: false,
            target,
        }));
    }
}

/// A number in `0.0..1.0` that is always the same for the same check.
fn phase(target: &Target) -> f64 {
    let mut hasher = DefaultHasher::new();
    (&target.service, &target.id, target.index).hash(&mut hasher);
    // 53 bits are what an f64 holds exactly.
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}
