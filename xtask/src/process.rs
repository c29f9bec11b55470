//! Starts other programs: never with a terminal to ask questions of.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::count::{Counter, Counts};
use crate::summary::Outcome;

/// `program` in `folder`, without standard input.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// The cargo that runs us.
pub(crate) fn cargo(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    command(cargo, root)
}

/// Runs a check to its end; whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> anyhow::Result<bool> {
    println!("$ {}", shown(command));
    let status = command
        .status()
        .with_context(|| format!("start `{}`", shown(command)))?;
    Ok(status.success())
}

/// Runs tests, passing their output through, and counts them. A failure that no test
/// reported (it did not compile, say) is one.
pub(crate) fn count_tests(command: &mut Command) -> anyhow::Result<Outcome> {
    println!("$ {}", shown(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", shown(command)))?;
    let mut output = child.stdout.take().context("its output")?;
    let mut counts = pass_through(&mut output, &mut std::io::stdout().lock())
        .context("pass the tests' output on")?;
    let status = child.wait().context("wait for the tests")?;
    if !status.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(Outcome { counts })
}

fn pass_through(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<Counts> {
    let mut counter = Counter::default();
    let mut piece = [0; 8192];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(counter.finish()),
            length => {
                counter.take(&piece[..length]);
                to.write_all(&piece[..length])?;
                to.flush()?;
            }
        }
    }
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(program).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = command("sh", Path::new("."));
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn output_passes_through_unchanged_and_is_counted() {
        let output = b"running 1 test\ntest a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let mut seen = Vec::new();
        let counts = pass_through(&mut output.as_slice(), &mut seen).unwrap();
        assert_eq!(seen, output);
        assert_eq!(counts.passed, 1);
    }

    #[test]
    fn a_failure_without_a_failed_test_counts() {
        let counts = count_tests(&mut shell("exit 101")).unwrap().counts;
        assert_eq!((counts.passed, counts.failed), (0, 1));
        let counts = count_tests(&mut shell("true")).unwrap().counts;
        assert_eq!((counts.passed, counts.failed), (0, 0));
    }

    #[test]
    fn a_check_is_judged_by_its_status() {
        assert!(succeeds(&mut shell("true")).unwrap());
        assert!(!succeeds(&mut shell("false")).unwrap());
        assert!(succeeds(&mut command("no-such-program-here", Path::new("."))).is_err());
    }
}
