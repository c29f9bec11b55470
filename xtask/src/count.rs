//! Counts tests in what libtest prints, while it streams by.

/// How many tests passed, failed, and were left out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Longest line that can matter; the rest of a longer one is dropped. A result line of
/// libtest has about 100 bytes.
const LINE_BYTES_MAX: usize = 512;

/// Reads the output of any number of test binaries, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    line: Vec<u8>,
    counts: Counts,
    /// A binary said `running N tests` and has not said how that ended.
    running: bool,
}

impl Counter {
    /// Takes the next piece of output, cut anywhere.
    pub(crate) fn take(&mut self, piece: &[u8]) {
        for &byte in piece {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            }
        }
    }

    /// All counts, once the output has ended. A binary that began and never reported
    /// (it aborted, or was killed) is one failure.
    pub(crate) fn finish(mut self) -> Counts {
        self.end_line();
        self.lose_running();
        self.counts
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if let Some(counts) = parse_result(&line) {
            self.counts += counts;
            self.running = false;
        } else if is_start(&line) {
            self.lose_running();
            self.running = true;
        }
    }

    fn lose_running(&mut self) {
        self.counts.failed += u64::from(std::mem::take(&mut self.running));
    }
}

/// `running 12 tests`.
fn is_start(line: &str) -> bool {
    let count = line
        .strip_prefix("running ")
        .and_then(|rest| rest.strip_suffix(" tests").or(rest.strip_suffix(" test")));
    count.is_some_and(|count| count.parse::<u64>().is_ok())
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; ...`.
fn parse_result(line: &str) -> Option<Counts> {
    let (_, fields) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for field in fields.split("; ") {
        let (count, what) = field.split_once(' ')?;
        match what {
            "passed" => counts.passed = count.parse().ok()?,
            "failed" => counts.failed = count.parse().ok()?,
            "ignored" => counts.skipped = count.parse().ok()?,
            // Measured, filtered out, and the time.
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(output: &str) -> (u64, u64, u64) {
        let mut counter = Counter::default();
        // Cut where a pipe might: everywhere.
        for piece in output.as_bytes().chunks(3) {
            counter.take(piece);
        }
        let counts = counter.finish();
        (counts.passed, counts.failed, counts.skipped)
    }

    const OK: &str = "\nrunning 3 tests\ntest a ... ok\n\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.10s\n";
    const BAD: &str = "\nrunning 1 test\ntest b ... FAILED\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    #[test]
    fn binaries_add_up() {
        assert_eq!(count(""), (0, 0, 0));
        assert_eq!(count(OK), (2, 0, 1));
        assert_eq!(count(&format!("{OK}noise\n{BAD}{OK}")), (4, 1, 2));
    }

    #[test]
    fn the_last_line_needs_no_end() {
        assert_eq!(count(OK.trim_end()), (2, 0, 1));
    }

    #[test]
    fn a_binary_that_dies_before_its_result_has_failed() {
        assert_eq!(
            count("running 5 tests\ntest a ... ok\nfatal: killed\n"),
            (0, 1, 0)
        );
        assert_eq!(
            count(&format!("running 5 tests\ntest a ... ok\n{OK}")),
            (2, 1, 1)
        );
    }

    #[test]
    fn talk_about_results_is_not_one() {
        assert_eq!(
            count("running tests\nthe test result: ok. 3 passed\n"),
            (0, 0, 0)
        );
        assert_eq!(count(&"x".repeat(LINE_BYTES_MAX * 3)), (0, 0, 0));
    }
}
