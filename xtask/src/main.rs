//! The project's own commands: `cargo xtask test`, `tidy`, `bench`, `soak`.
//!
//! `test` is what CI runs: `steps.rs` names the steps, `summary.rs` says how they
//! went. `tidy` (also a step) holds the rules that no compiler knows. Nothing here is
//! part of Atoll.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command line tool for developers: it prints, reads the clock and its environment"
)]

mod count;
mod debian;
mod house;
mod process;
mod python;
mod steps;
mod summary;
mod tidy;
mod tools;

use std::process::ExitCode;

use anyhow::Context;

use crate::house::House;
use crate::steps::Step;
use crate::summary::Summary;

const HELP: &str = "\
The project's own commands.

cargo xtask test [STEP...]   all checks, or these steps
cargo xtask tidy             the rules of the house (also a step)
cargo xtask bench ARGS...    measure beside other gateways; `bench --help` says more
cargo xtask soak ARGS...     churn, disconnects and kills for long; `soak --help` says more

Steps, in the order in which they run:
";

/// The wrong words on the command line: exit status 2.
#[derive(Debug)]
struct Usage(String);

#[derive(Debug)]
enum Command {
    Help,
    Test(Vec<Step>),
    Tidy,
    Bench(Vec<String>),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match parse(&words) {
        Ok(Command::Help) => {
            print!("{}", help());
            Ok(ExitCode::SUCCESS)
        }
        Ok(Command::Test(steps)) => test(&steps),
        Ok(Command::Tidy) => tidy(),
        Ok(Command::Bench(arguments)) => bench(&arguments),
        Err(Usage(message)) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn parse(words: &[String]) -> Result<Command, Usage> {
    let Some((command, rest)) = words.split_first() else {
        return Ok(Command::Help);
    };
    let wants_help = rest.iter().any(|word| word == "--help" || word == "-h");
    match command.as_str() {
        "help" | "--help" | "-h" => Ok(Command::Help),
        // Its own help is the better one.
        "bench" => Ok(Command::Bench(rest.to_vec())),
        // It is one of bench's own: both drive the release binary.
        "soak" => Ok(Command::Bench(words.to_vec())),
        "test" | "tidy" if wants_help => Ok(Command::Help),
        "test" => Step::parse_all(rest).map(Command::Test).map_err(Usage),
        "tidy" if rest.is_empty() => Ok(Command::Tidy),
        "tidy" => Err(Usage("`tidy` takes no arguments".to_owned())),
        unknown => Err(Usage(unknown_word(
            "command",
            unknown,
            &["test", "tidy", "bench", "soak", "help"],
        ))),
    }
}

/// `unknown command `tst`, did you mean `test`? (known: ...)`.
fn unknown_word(kind: &str, word: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, word), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().max(word.len()) / 2);
    let known = known.join(", ");
    match nearest {
        Some((_, name)) => {
            format!("unknown {kind} `{word}`, did you mean `{name}`? (known: {known})")
        }
        None => format!("unknown {kind} `{word}` (known: {known})"),
    }
}

fn help() -> String {
    let mut text = HELP.to_owned();
    for step in Step::ALL {
        text.push_str(&format!("  {:<12} {}\n", step.name(), step.about()));
    }
    text.push_str("\nWithout a step all run; one that fails does not hide the others.\n");
    text.push_str("The last line is `N passed, N failed, N skipped`.\n");
    text
}

fn test(wanted: &[Step]) -> anyhow::Result<ExitCode> {
    let root = house::root()?;
    let mut summary = Summary::default();
    for step in Step::ALL.into_iter().filter(|step| wanted.contains(step)) {
        summary.time(step.name(), || step.run(&root));
    }
    print!("{summary}");
    Ok(summary.exit_code())
}

fn tidy() -> anyhow::Result<ExitCode> {
    let house = House::read(&house::root()?)?;
    Ok(if tidy::print_findings(&house) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn bench(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let status = process::cargo(&house::root()?)
        .args(["run", "--release", "--package", "atoll-bench", "--"])
        .args(arguments)
        .status()
        .context("start cargo")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn test_without_a_step_runs_all_in_order() {
        let Ok(Command::Test(steps)) = parse(&words("test")) else {
            panic!("not a test command");
        };
        assert_eq!(steps, Step::ALL);
    }

    #[test]
    fn an_unknown_word_names_the_nearest() {
        let Err(Usage(message)) = parse(&words("test formt")) else {
            panic!("accepted");
        };
        assert!(message.contains("did you mean `format`?"), "{message}");
        let Err(Usage(message)) = parse(&words("tdy")) else {
            panic!("accepted");
        };
        assert!(message.contains("did you mean `tidy`?"), "{message}");
        let Err(Usage(message)) = parse(&words("test xylophone")) else {
            panic!("accepted");
        };
        assert!(!message.contains("did you mean"), "{message}");
        assert!(message.contains("integration"), "{message}");
    }

    #[test]
    fn help_names_every_step_and_bench_keeps_its_own() {
        assert!(matches!(
            parse(&words("test unit --help")),
            Ok(Command::Help)
        ));
        assert!(matches!(
            parse(&words("bench --help")),
            Ok(Command::Bench(arguments)) if arguments == ["--help"]
        ));
        assert!(matches!(
            parse(&words("soak --minutes 3")),
            Ok(Command::Bench(arguments)) if arguments == ["soak", "--minutes", "3"]
        ));
        for step in Step::ALL {
            assert!(help().contains(step.name()));
        }
    }
}
