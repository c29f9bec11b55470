//! How the steps went: a table, and the one last line that CI judges by.

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::count::Counts;

/// How one step went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
}

impl Outcome {
    /// A step without tests of its own counts as one.
    pub(crate) fn whole(passed: bool) -> Self {
        Self {
            counts: Counts {
                passed: u64::from(passed),
                failed: u64::from(!passed),
                skipped: 0,
            },
        }
    }

    fn word(self) -> &'static str {
        match self.counts {
            Counts { failed: 1.., .. } => "FAILED",
            Counts { passed: 1.., .. } => "passed",
            Counts { skipped: 1.., .. } => "skipped",
            Counts { .. } => "nothing to do",
        }
    }
}

/// All steps so far.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    rows: Vec<(&'static str, Outcome, Duration)>,
}

impl Summary {
    /// Runs a step and notes how it went. An error of the step's own (a program that
    /// cannot be started) is printed and is a failure.
    pub(crate) fn time(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> anyhow::Result<Outcome>,
    ) {
        println!("==> {name}");
        let started = Instant::now();
        let outcome = step().unwrap_or_else(|error| {
            println!("error: {error:#}");
            Outcome::whole(false)
        });
        self.rows.push((name, outcome, started.elapsed()));
        println!();
    }

    /// Success when nothing failed.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.total().failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for (_, outcome, _) in &self.rows {
            total += outcome.counts;
        }
        total
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:<14} {:>8} {:>7} {:>7} {:>8}",
            "step", "outcome", "seconds", "passed", "failed", "skipped"
        )?;
        for (name, outcome, took) in &self.rows {
            let Counts {
                passed,
                failed,
                skipped,
            } = outcome.counts;
            writeln!(
                f,
                "{name:<12} {:<14} {:>8.1} {passed:>7} {failed:>7} {skipped:>8}",
                outcome.word(),
                took.as_secs_f64(),
            )?;
        }
        let Counts {
            passed,
            failed,
            skipped,
        } = self.total();
        writeln!(f)?;
        writeln!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(passed: u64, failed: u64, skipped: u64) -> Outcome {
        Outcome {
            counts: Counts {
                passed,
                failed,
                skipped,
            },
        }
    }

    #[test]
    fn the_last_line_stands_alone_and_adds_up() {
        let mut summary = Summary::default();
        summary.time("format", || Ok(Outcome::whole(true)));
        summary.time("unit", || Ok(outcome(40, 0, 2)));
        let text = summary.to_string();
        assert_eq!(text.lines().last(), Some("41 passed, 0 failed, 2 skipped"));
        assert!(text.ends_with('\n'));
        assert_eq!(summary.exit_code(), ExitCode::SUCCESS);
    }

    #[test]
    fn an_error_of_a_step_is_a_failure_and_the_next_one_still_runs() {
        let mut summary = Summary::default();
        summary.time("lint", || anyhow::bail!("no such program"));
        summary.time("unit", || Ok(outcome(1, 0, 0)));
        let text = summary.to_string();
        assert_eq!(text.lines().last(), Some("1 passed, 1 failed, 0 skipped"));
        assert_eq!(summary.exit_code(), ExitCode::FAILURE);
        assert!(text.contains("lint         FAILED"), "{text}");
    }
}
