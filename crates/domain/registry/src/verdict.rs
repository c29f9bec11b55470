//! What a row of answers to one check means: the thresholds as a pure machine.
//!
//! ```text
//! Starting ── successes ──▶ Passing ◀──▶ Warning ──▶ Critical
//!     └──── failures after the start period ────────────▲
//! ```
//! A failure never makes things look better, and an instance that has never
//! passed does not go to `Warning`, since that takes requests.

use std::time::Instant;

use atoll_model::{Check, Health};

/// How one question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Fit.
    Pass,
    /// Fit, but asks for mercy (HTTP 429, as in Consul).
    Warn,
    /// Unfit or not reached.
    Fail,
}

/// The standing of one check of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) health: Health,
    /// Good answers in a row.
    pub(crate) successes: u32,
    /// Bad answers in a row; those of the start period are not counted.
    pub(crate) failures: u32,
    /// Since when `health` holds.
    pub(crate) since: Instant,
    begun: Instant,
}

impl Verdict {
    pub(crate) fn new(now: Instant) -> Self {
        Self::restored(Health::Starting, now)
    }

    /// A verdict that stood before a restart of Atoll.
    pub(crate) fn restored(health: Health, now: Instant) -> Self {
        Self {
            health,
            successes: 0,
            failures: 0,
            since: now,
            begun: now,
        }
    }

    /// Somebody knows; true when `health` changed.
    pub(crate) fn set(&mut self, health: Health, now: Instant) -> bool {
        let changed = health != self.health;
        if changed {
            self.health = health;
            self.since = now;
        }
        changed
    }

    /// Takes one answer in; true when `health` changed.
    pub(crate) fn observe(&mut self, outcome: Outcome, check: &Check, now: Instant) -> bool {
        let next = match outcome {
            Outcome::Pass => self.succeed(Health::Passing, check),
            Outcome::Warn => self.succeed(Health::Warning, check),
            Outcome::Fail => self.fail(check, now),
        };
        let changed = next != self.health;
        if changed {
            self.health = next;
            self.since = now;
        }
        changed
    }

    /// Whether nothing was counted yet and the check lets the first answer decide.
    fn first_decides(&self, check: &Check) -> bool {
        let none = self.successes == 0 && self.failures == 0;
        check.first_decides && none && self.health == Health::Starting
    }

    fn succeed(&mut self, reached: Health, check: &Check) -> Health {
        let first = self.first_decides(check);
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        if first || self.successes >= check.success_before_passing.max(1) {
            reached
        } else {
            self.health
        }
    }

    fn fail(&mut self, check: &Check, now: Instant) -> Health {
        self.successes = 0;
        let starting = self.health == Health::Starting;
        if starting && now.saturating_duration_since(self.begun) < check.start_period {
            return Health::Starting;
        }
        let first = self.first_decides(check);
        self.failures = self.failures.saturating_add(1);
        if first || self.failures >= check.failures_before_critical.max(1) {
            Health::Critical
        } else if self.health == Health::Passing
            && self.failures >= check.failures_before_warning.max(1)
        {
            Health::Warning
        } else {
            self.health
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use atoll_model::Probe;

    use super::*;

    /// Feeds one answer a second (`+` pass, `~` warn, `-` fail) and writes the
    /// first letter of the health after each; `S` is starting.
    fn check(edit: impl FnOnce(&mut Check), answers: &str, expected: &str) {
        let mut check = Check::new(Probe::Tcp);
        check.start_period = Duration::ZERO;
        edit(&mut check);
        let start = tokio::time::Instant::now().into_std();
        let mut verdict = Verdict::new(start);
        let mut seen = String::new();
        for (second, answer) in (0..).zip(answers.chars()) {
            let outcome = match answer {
                '+' => Outcome::Pass,
                '~' => Outcome::Warn,
                _ => Outcome::Fail,
            };
            let before = verdict.health;
            let now = start + Duration::from_secs(second);
            let changed = verdict.observe(outcome, &check, now);
            assert_eq!(changed, verdict.health != before);
            seen.push(match verdict.health {
                Health::Starting => 'S',
                Health::Passing => 'p',
                Health::Warning => 'w',
                Health::Critical => 'c',
                Health::Draining => 'd',
            });
        }
        assert_eq!(seen, expected, "answers {answers}");
    }

    #[test]
    fn one_lost_probe_only_warns_and_the_next_success_mends_it() {
        check(|_| {}, "+-+-+--+---+", "pwpwpwwpwwcp");
    }

    #[test]
    fn a_success_in_between_begins_the_count_again() {
        check(|c| c.failures_before_critical = 2, "+-+-+--", "pwpwpwc");
    }

    #[test]
    fn a_critical_instance_stays_so_until_enough_successes_in_a_row() {
        check(
            |c| {
                c.success_before_passing = 3;
                c.failures_before_critical = 2;
            },
            "+++--++-+++",
            "SSpwccccccp",
        );
    }

    #[test]
    fn what_never_passed_does_not_warn_but_goes_critical() {
        check(|_| {}, "---", "SSc");
    }

    #[test]
    fn failures_in_the_start_period_do_not_count_and_the_first_success_ends_it() {
        check(
            |c| c.start_period = Duration::from_secs(5),
            "--------",
            "SSSSSSSc",
        );
        check(
            |c| c.start_period = Duration::from_secs(60),
            "-+---",
            "Spwwc",
        );
    }

    #[test]
    fn too_many_requests_warns_and_counts_as_an_answer() {
        check(|_| {}, "~+~-~", "wpwww");
        check(|c| c.failures_before_critical = 2, "+-~-", "pwww");
    }

    #[test]
    fn a_threshold_of_zero_is_one() {
        check(
            |c| {
                c.success_before_passing = 0;
                c.failures_before_warning = 0;
                c.failures_before_critical = 0;
            },
            "+-",
            "pc",
        );
    }

    #[test]
    fn where_the_first_answer_decides_the_thresholds_count_from_the_second_on() {
        let consul = |check: &mut Check| {
            check.first_decides = true;
            check.success_before_passing = 2;
            check.failures_before_warning = 3;
            check.failures_before_critical = 3;
        };
        check(
            consul,
            "+--+---++",
            "pppppppcp".replace("pcp", "ccp").as_str(),
        );
        check(consul, "-+-++", "ccccp");
        check(consul, "~++", "wpp");
    }

    #[test]
    fn a_late_warning_threshold_lets_a_failure_pass_unseen() {
        check(|c| c.failures_before_warning = 2, "+-+--", "ppppw");
    }
}
