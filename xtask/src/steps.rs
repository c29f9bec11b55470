//! The steps of `cargo xtask test`.
//!
//! All of them build with one profile and one choice of features (the whole
//! workspace's, with what its tests need), so that nothing is compiled twice.

use std::path::Path;
use std::process::Command;

use cargo_metadata::Metadata;

use crate::house::House;
use crate::summary::Outcome;
use crate::tools::Tool;
use crate::{debian, process, tidy, unknown_word};

/// The crate of end-to-end tests: it wants the other binaries built first.
const E2E: &str = "atoll-e2e";

/// Debian packages that end-to-end tests call.
const E2E_PACKAGES: &[&str] = &["bind9-dnsutils", "etcd-server"];

/// Debian packages that tests of single crates start: the store is held to its suite
/// on a real etcd.
const INTEGRATION_PACKAGES: &[&str] = &["etcd-server", "etcd-client"];

/// End-to-end tests at a time. They are load tests: on a small machine a third one
/// would measure the other two.
const E2E_TEST_THREADS: &str = "--test-threads=2";

/// One step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Format,
    Lint,
    Tidy,
    Unit,
    Integration,
    E2e,
}

impl Step {
    /// Cheap and telling ones first.
    pub(crate) const ALL: [Self; 6] = [
        Self::Format,
        Self::Lint,
        Self::Tidy,
        Self::Unit,
        Self::Integration,
        Self::E2e,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Lint => "lint",
            Self::Tidy => "tidy",
            Self::Unit => "unit",
            Self::Integration => "integration",
            Self::E2e => "e2e",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Format => "cargo fmt --check, fuzz targets included",
            Self::Lint => "clippy on everything, warnings denied",
            Self::Tidy => "edges between crates, lengths, licences, papers: what no compiler knows",
            Self::Unit => "tests beside the code, and those in the documentation",
            Self::Integration => "tests of a crate from outside (`tests/`), the store on etcd, too",
            Self::E2e => {
                "the binaries, over sockets and signals; clients in Python, Node, Go and Java where those are"
            }
        }
    }

    /// Steps by name, all when none is named.
    pub(crate) fn parse_all(words: &[String]) -> Result<Vec<Self>, String> {
        if words.is_empty() {
            return Ok(Self::ALL.to_vec());
        }
        words.iter().map(|word| Self::parse(word)).collect()
    }

    fn parse(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|step| step.name() == word);
        found.ok_or_else(|| unknown_word("step", word, &Self::ALL.map(Self::name)))
    }

    pub(crate) fn run(self, root: &Path) -> anyhow::Result<Outcome> {
        match self {
            Self::Format => format(root),
            Self::Lint => lint(root),
            Self::Tidy => Ok(Outcome::whole(tidy::print_findings(&House::read(root)?))),
            Self::Unit => unit(root),
            Self::Integration => integration(root),
            Self::E2e => e2e(root),
        }
    }
}

fn format(root: &Path) -> anyhow::Result<Outcome> {
    let mut check = process::cargo(root);
    let mut passed = process::succeeds(check.args(["fmt", "--all", "--check"]))?;
    // Outside of the workspace: libFuzzer wants flags and a lock file of its own.
    if root.join("fuzz/Cargo.toml").exists() {
        let mut check = process::cargo(root);
        check.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]);
        passed &= process::succeeds(&mut check)?;
    }
    Ok(Outcome::whole(passed))
}

fn lint(root: &Path) -> anyhow::Result<Outcome> {
    let mut clippy = process::cargo(root);
    clippy.args(["clippy", "--workspace", "--all-targets", "--keep-going"]);
    clippy.args(["--", "--deny", "warnings"]);
    Ok(Outcome::whole(process::succeeds(&mut clippy)?))
}

fn unit(root: &Path) -> anyhow::Result<Outcome> {
    let mut outcome = tests(root, &["--lib", "--bins"])?;
    outcome.counts += tests(root, &["--doc"])?.counts;
    Ok(outcome)
}

fn integration(root: &Path) -> anyhow::Result<Outcome> {
    debian::ensure(INTEGRATION_PACKAGES)?;
    tests(root, &["--exclude", E2E, "--test", "*"])
}

fn tests(root: &Path, which: &[&str]) -> anyhow::Result<Outcome> {
    process::count_tests(cargo_test(root).args(which))
}

fn cargo_test(root: &Path) -> Command {
    let mut command = process::cargo(root);
    command.args(["test", "--workspace", "--no-fail-fast"]);
    command
}

fn e2e(root: &Path) -> anyhow::Result<Outcome> {
    // With `--tests`, so that the binaries have the features that the other steps
    // built with; otherwise cargo would compile tokio, and all above it, once more.
    let mut build = process::cargo(root);
    build.args(["build", "--workspace", "--bins", "--tests"]);
    anyhow::ensure!(process::succeeds(&mut build)?, "the binaries do not build");
    debian::ensure(E2E_PACKAGES)?;

    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(root)
        .no_deps()
        .exec()?;
    let mut outcome = Outcome::default();
    let mut ready = Vec::new();
    for tool in Tool::ALL {
        match tool.prepare(root, metadata.target_directory.as_std_path()) {
            Ok(Some(folder)) => ready.push((tool, folder)),
            Ok(None) => {}
            Err(error) => {
                // The other tests are still worth running.
                println!("error: {tool:?}: {error:#}");
                outcome.counts.failed += 1;
            }
        }
    }
    let names = test_names(&metadata, E2E);
    // Without a name cargo would run the tests of everything.
    anyhow::ensure!(!names.is_empty(), "{E2E} has no tests");
    let (whole, lacking): (Vec<_>, Vec<_>) = names
        .into_iter()
        .partition(|name| ready.iter().any(|(tool, _)| *tool == Tool::of(name)));
    // A test is ignored only for the lack of its tool.
    for (names, ignored) in [(whole, "--include-ignored"), (lacking, "")] {
        if names.is_empty() {
            continue;
        }
        let mut command = cargo_test(root);
        // By name in the whole workspace: `--package` would choose other features of
        // what they stand on, and compile that again.
        command.args(names.iter().flat_map(|name| ["--test", name]));
        command.args(["--", E2E_TEST_THREADS]);
        command.args(Some(ignored).filter(|word| !word.is_empty()));
        command.envs(ready.iter().map(|(tool, folder)| (tool.variable(), folder)));
        outcome.counts += process::count_tests(&mut command)?.counts;
    }
    Ok(outcome)
}

/// The files below `tests/` of a crate.
fn test_names<'a>(metadata: &'a Metadata, name: &str) -> Vec<&'a str> {
    let packages = metadata.packages.iter();
    let targets = packages
        .filter(|package| package.name == name)
        .flat_map(|package| &package.targets);
    let tests = targets.filter(|target| target.is_test());
    tests.map(|target| target.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_to_end_tests_are_found_by_name() {
        let metadata = cargo_metadata::MetadataCommand::new()
            .no_deps()
            .exec()
            .unwrap();
        let names = test_names(&metadata, E2E);
        assert!(names.contains(&"shop"), "{names:?}");
        assert!(!names.contains(&"crash"), "{names:?}");
        assert!(test_names(&metadata, "no-such-crate").is_empty());
    }

    #[test]
    fn every_step_is_found_by_its_name() {
        for step in Step::ALL {
            let words = [step.name().to_owned()];
            assert_eq!(Step::parse_all(&words), Ok(vec![step]));
        }
        assert!(Step::parse_all(&["unit".to_owned(), "end2end".to_owned()]).is_err());
    }
}
