//! What one replica does next: a pure state machine, given events and `now`.
//!
//! It owns the decision to start, restart, drain and end; it never touches a process,
//! a clock or the directory. `replica.rs` feeds it and does what it answers.
//!
//! ```text
//! Waiting ─Go─▶ Spawning ─Spawned─▶ Running ─Ended─▶ BackingOff ─Tick─▶ Spawning
//!                   │ SpawnFailed ──────────────────▶ BackingOff   └(policy)▶ Done
//! Stop, from:  Waiting, BackingOff, Done ─▶ Stopped
//!              Running ─▶ Draining ─Idle|Tick─▶ Terminating ─Tick─▶ Killing ─▶ Stopped
//! ```

use std::time::{Duration, Instant};

use atoll_runtime::{Backoff, Random};

use crate::workload::RestartPolicy;

/// First pause before a restart: short, since most deaths are single.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// Longest pause: a fleet that waits for its database must notice it soon.
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// Spreads replicas that died together.
const BACKOFF_JITTER: f64 = 0.2;
/// Healthy for this long, it is taken for well: past failures are forgotten.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// So many ends without its having been well in between are a crash loop. Not
/// counted within a span of time: at the longest pause they are far apart.
const CRASHES_OF_A_LOOP: u32 = 5;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The dependencies have reached their conditions.
    Go,
    /// The process asked for exists.
    Spawned,
    /// It could not be started.
    SpawnFailed,
    /// The catalogue says that it takes requests.
    Ready,
    /// The catalogue says that it does not.
    Unready,
    /// The leader of the group ended; it is not reaped yet.
    Ended {
        /// With status 0.
        success: bool,
    },
    /// No request is in flight any more.
    Idle,
    /// After the leader ended while stopping: nobody is left in its group.
    GroupGone,
    /// The deadline given by [`Supervisor::deadline`] has passed.
    Tick,
    /// End in order.
    Stop,
    /// End at once.
    Kill,
}

/// What is to be done, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process; answered by `Spawned` or `SpawnFailed`.
    Spawn,
    /// Make it known as starting.
    Enlist,
    /// Take it from the catalogue.
    Delist,
    /// Mark it as draining; with `wait`, tell `Idle` when nothing is in flight.
    Drain {
        /// It has taken requests, so some may be in flight.
        wait: bool,
    },
    /// SIGTERM to the group.
    Terminate,
    /// SIGKILL to the group.
    Kill,
    /// SIGKILL to what is left of the group, then reap the leader.
    Clear,
    /// Reap the leader, leave the rest its grace; answered by `GroupGone`.
    ReapLeader,
}

/// Where a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// For its dependencies.
    Waiting,
    /// A process was asked for.
    Spawning,
    /// There is a process.
    Running {
        /// Since when it takes requests; `None` while it does not.
        ready_since: Option<Instant>,
    },
    /// It ended and will be started again.
    BackingOff {
        /// When.
        until: Instant,
    },
    /// It ended and will not be started again.
    Done,
    /// It finishes what it has.
    Draining {
        /// Then it is terminated whatever is in flight.
        until: Instant,
    },
    /// It was sent SIGTERM.
    Terminating {
        /// Then it is killed.
        until: Instant,
        /// The leader ended; others of its group have not.
        leader_gone: bool,
    },
    /// It was sent SIGKILL.
    Killing,
    /// The end; nothing follows.
    Stopped,
}

/// The supervisor of one replica.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    policy: RestartPolicy,
    drain: Duration,
    grace: Duration,
    phase: Phase,
    /// `Stop` or `Kill` came while spawning.
    ending: Option<Ending>,
    backoff: Backoff,
    random: Random,
    /// Ends since it was last settled.
    ends_unsettled: u32,
    /// Starts after an end, ever.
    restarts: u32,
    /// Those since it was last settled; what `restarts_max` counts.
    restarts_unsettled: u32,
    was_ready: bool,
    /// Requests may have been cut: the drain ran out of time.
    drain_expired: bool,
    killed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Orderly,
    AtOnce,
}

impl Supervisor {
    pub(crate) fn new(
        policy: RestartPolicy,
        drain: Duration,
        grace: Duration,
        random: Random,
    ) -> Self {
        Self {
            policy,
            drain,
            grace,
            phase: Phase::Waiting,
            ending: None,
            backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MOST, BACKOFF_JITTER),
            random,
            ends_unsettled: 0,
            restarts: 0,
            restarts_unsettled: 0,
            was_ready: false,
            drain_expired: false,
            killed: false,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The process that runs, or ran last, has taken requests.
    pub(crate) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// The stop did not wait for all requests in flight.
    pub(crate) fn drain_expired(&self) -> bool {
        self.drain_expired
    }

    /// It had to be ended with SIGKILL.
    pub(crate) fn killed(&self) -> bool {
        self.killed
    }

    /// Whether it ends again and again.
    pub(crate) fn crash_looping(&self) -> bool {
        self.ends_unsettled >= CRASHES_OF_A_LOOP
    }

    /// When `Tick` is due; `None` while only other events matter.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::BackingOff { until }
            | Phase::Draining { until }
            | Phase::Terminating { until, .. } => Some(until),
            Phase::Running {
                ready_since: Some(since),
            } if self.is_unsettled() => Some(since + SETTLED_AFTER),
            Phase::Running { .. }
            | Phase::Waiting
            | Phase::Spawning
            | Phase::Done
            | Phase::Killing
            | Phase::Stopped => None,
        }
    }

    /// Takes notice of `event`. One that does not fit the phase (late, or sent
    /// twice) changes nothing.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match (self.phase, event) {
            (Phase::Waiting, Event::Go) => self.spawn(),
            (Phase::Spawning, Event::Spawned) => self.spawned(now),
            (Phase::Spawning, Event::SpawnFailed) => self.after_end(false, now),
            (Phase::Running { ready_since: None }, Event::Ready) => {
                self.was_ready = true;
                self.phase = Phase::Running {
                    ready_since: Some(now),
                };
                vec![]
            }
            (Phase::Running { .. }, Event::Unready) => {
                self.phase = Phase::Running { ready_since: None };
                vec![]
            }
            (Phase::Running { ready_since }, Event::Tick) => {
                if ready_since.is_some_and(|since| now >= since + SETTLED_AFTER) {
                    self.settle();
                }
                vec![]
            }
            (Phase::Running { ready_since }, Event::Ended { success }) => {
                // The tick that settles may be late.
                if ready_since.is_some_and(|since| now >= since + SETTLED_AFTER) {
                    self.settle();
                }
                let mut actions = vec![Action::Clear, Action::Delist];
                actions.extend(self.after_end(success, now));
                actions
            }
            (Phase::BackingOff { until }, Event::Tick) if now >= until => {
                self.restarts += 1;
                self.restarts_unsettled += 1;
                self.spawn()
            }
            (_, Event::Stop) => self.stop(Ending::Orderly, now),
            (_, Event::Kill) => self.stop(Ending::AtOnce, now),
            (Phase::Draining { .. }, Event::Idle) => self.terminate(now),
            (Phase::Draining { until }, Event::Tick) if now >= until => {
                self.drain_expired = true;
                self.terminate(now)
            }
            (Phase::Draining { .. } | Phase::Killing, Event::Ended { .. }) => self.cleared(),
            (Phase::Terminating { until, .. }, Event::Ended { .. }) => {
                self.phase = Phase::Terminating {
                    until,
                    leader_gone: true,
                };
                vec![Action::ReapLeader]
            }
            (
                Phase::Terminating {
                    leader_gone: true, ..
                },
                Event::GroupGone,
            ) => {
                self.phase = Phase::Stopped;
                vec![Action::Delist]
            }
            (Phase::Terminating { until, leader_gone }, Event::Tick) if now >= until => {
                self.kill(leader_gone)
            }
            _ => vec![],
        }
    }

    fn spawn(&mut self) -> Vec<Action> {
        self.was_ready = false;
        self.phase = Phase::Spawning;
        vec![Action::Spawn]
    }

    fn spawned(&mut self, now: Instant) -> Vec<Action> {
        self.phase = Phase::Running { ready_since: None };
        match self.ending {
            // Never enlisted, so nothing to drain.
            Some(Ending::Orderly) => self.terminate(now),
            Some(Ending::AtOnce) => self.kill(false),
            None => vec![Action::Enlist],
        }
    }

    fn after_end(&mut self, success: bool, now: Instant) -> Vec<Action> {
        if self.ending.is_some() {
            self.phase = Phase::Stopped;
            return vec![];
        }
        self.ends_unsettled = self.ends_unsettled.saturating_add(1);
        let again = match self.policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure { restarts_max } => {
                !success && restarts_max.is_none_or(|max| self.restarts_unsettled < max)
            }
            RestartPolicy::No => false,
        };
        self.phase = if again {
            let until = now + self.backoff.next(&mut self.random);
            Phase::BackingOff { until }
        } else {
            Phase::Done
        };
        vec![]
    }

    fn stop(&mut self, how: Ending, now: Instant) -> Vec<Action> {
        match (self.phase, how) {
            (Phase::Stopped, _) => vec![],
            (Phase::Waiting | Phase::BackingOff { .. } | Phase::Done, _) => {
                self.phase = Phase::Stopped;
                vec![]
            }
            (Phase::Spawning, _) => {
                self.ending = Some(how);
                vec![]
            }
            (Phase::Running { .. }, Ending::Orderly) if self.was_ready => {
                self.phase = Phase::Draining {
                    until: now + self.drain,
                };
                vec![Action::Drain { wait: true }]
            }
            (Phase::Running { .. }, Ending::Orderly) => {
                let mut actions = vec![Action::Drain { wait: false }];
                actions.extend(self.terminate(now));
                actions
            }
            (Phase::Draining { .. } | Phase::Terminating { .. }, Ending::Orderly)
            | (Phase::Killing, _) => vec![],
            (Phase::Terminating { leader_gone, .. }, Ending::AtOnce) => self.kill(leader_gone),
            (Phase::Running { .. } | Phase::Draining { .. }, Ending::AtOnce) => self.kill(false),
        }
    }

    fn terminate(&mut self, now: Instant) -> Vec<Action> {
        self.phase = Phase::Terminating {
            until: now + self.grace,
            leader_gone: false,
        };
        vec![Action::Terminate]
    }

    fn kill(&mut self, leader_gone: bool) -> Vec<Action> {
        self.killed = true;
        if leader_gone {
            // Nothing is told of the end of grandchildren; SIGKILL cannot fail.
            self.phase = Phase::Stopped;
            vec![Action::Kill, Action::Delist]
        } else {
            self.phase = Phase::Killing;
            vec![Action::Kill]
        }
    }

    fn cleared(&mut self) -> Vec<Action> {
        self.phase = Phase::Stopped;
        vec![Action::Clear, Action::Delist]
    }

    fn is_unsettled(&self) -> bool {
        self.ends_unsettled > 0
    }

    fn settle(&mut self) {
        self.backoff.reset();
        self.ends_unsettled = 0;
        self.restarts_unsettled = 0;
    }
}

#[cfg(test)]
mod tests;
