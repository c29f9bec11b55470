//! Tools of other languages, for end-to-end tests with clients of Atoll in them:
//! `conformance/` holds programs for Node, Go and Java, built here into the target
//! folder. Python's are in `python.rs`.
//!
//! A machine without a tool is not a failure: its tests are shown as ignored, and why.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::{process, python};

/// What a test needs beside the binaries. A file of tests needs the one that its name
/// ends with (`clients_go.rs`), and Python where it ends with none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tool {
    Python,
    Node,
    Go,
    Java,
}

impl Tool {
    pub(crate) const ALL: [Self; 4] = [Self::Python, Self::Node, Self::Go, Self::Java];

    /// The tool that the tests in the file of this name need.
    pub(crate) fn of(test: &str) -> Self {
        let suffix = test.rsplit('_').next().unwrap_or_default();
        let found = Self::ALL.into_iter().find(|tool| tool.name() == suffix);
        found.unwrap_or(Self::Python)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Go => "go",
            Self::Java => "java",
        }
    }

    /// In the tests' environment: the folder that [`Tool::prepare`] gave.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Python => "ATOLL_E2E_PYTHON",
            Self::Node => "ATOLL_E2E_NODE",
            Self::Go => "ATOLL_E2E_GO",
            Self::Java => "ATOLL_E2E_JAVA",
        }
    }

    /// The folder with what the tests need, made in `target`; none where the machine
    /// has no such tool or the tree no programs for it.
    ///
    /// # Errors
    /// When the tool is there, and fails.
    pub(crate) fn prepare(self, root: &Path, target: &Path) -> anyhow::Result<Option<PathBuf>> {
        let source = root.join("conformance").join(self.name());
        let build = target.join("conformance").join(self.name());
        let needs: &[&[&str]] = match self {
            Self::Python => return python::prepare(root, target),
            Self::Node => &[&["node", "--version"], &["npm", "--version"]],
            // Fails, too, where Go is older than `go.mod` wants, and may fetch no other.
            Self::Go => &[&["go", "list", "-m"]],
            Self::Java => &[&["javac", "--version"], &["mvn", "--version"]],
        };
        if !source.exists() {
            return Ok(None);
        }
        if let Some(missing) = needs.iter().find(|words| !answers(&source, words)) {
            let missing = missing.join(" ");
            println!(
                "note: `{missing}` does not work here: tests with {}'s clients are skipped",
                self.name()
            );
            return Ok(None);
        }
        fs::create_dir_all(&build).with_context(|| format!("make {}", build.display()))?;
        match self {
            Self::Python => {}
            Self::Node => node(&source, &build)?,
            Self::Go => go(&source, &build)?,
            Self::Java => java(&source, &build)?,
        }
        Ok(Some(build))
    }
}

/// Packages as the lock file has them, and beside them the programs: Node looks for
/// packages where a program lies.
fn node(source: &Path, build: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        fs::copy(entry.path(), build.join(entry.file_name()))?;
    }
    once(
        source,
        build,
        &["package.json", "package-lock.json"],
        || {
            let mut install = process::command("npm", build);
            install.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
            anyhow::ensure!(process::succeeds(&mut install)?, "npm ci failed");
            Ok(())
        },
    )
}

/// One program; Go itself knows when to build it again.
fn go(source: &Path, build: &Path) -> anyhow::Result<()> {
    let mut compile = process::command("go", source);
    compile.args(["build", "-buildvcs=false", "-o"]).arg(build);
    compile.arg("./...");
    anyhow::ensure!(process::succeeds(&mut compile)?, "go build failed");
    Ok(())
}

/// Classes, and the libraries beside them: a JVM starts with both, without Maven.
fn java(source: &Path, build: &Path) -> anyhow::Result<()> {
    let mut sources = vec![source.join("pom.xml")];
    files_below(&source.join("src"), &mut sources)?;
    let sources: Vec<&str> = sources
        .iter()
        .filter_map(|path| path.strip_prefix(source).ok()?.to_str())
        .collect();
    once(source, build, &sources, || {
        // What is no longer a library, or a class, would still be found.
        for folder in ["classes", "lib"].map(|name| build.join(name)) {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
        }
        let mut compile = process::command("mvn", source);
        compile
            .args(["--quiet", "--batch-mode"])
            .arg(format!("-Datoll.build={}", build.display()))
            .arg("process-classes");
        anyhow::ensure!(
            process::succeeds(&mut compile)?,
            "mvn failed; it needs a JDK of at least 17"
        );
        Ok(())
    })
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files_below(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Makes something in `build` unless it was made of the same `sources`.
fn once(
    source: &Path,
    build: &Path,
    sources: &[&str],
    make: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let texts = sources.iter().map(|path| {
        let text = fs::read_to_string(source.join(path));
        text.with_context(|| format!("read {path}"))
    });
    let wanted = texts.collect::<anyhow::Result<Vec<_>>>()?.concat();
    let stamp = build.join("made-of.txt");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    make()?;
    fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))
}

/// Whether this command succeeds.
fn answers(folder: &Path, words: &[&str]) -> bool {
    let Some((program, arguments)) = words.split_first() else {
        return true;
    };
    process::command(program, folder)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tests_is_named_after_its_tool() {
        assert_eq!(Tool::of("clients_java"), Tool::Java);
        assert_eq!(Tool::of("clients_go"), Tool::Go);
        assert_eq!(Tool::of("shop_python"), Tool::Python);
        assert_eq!(Tool::of("eureka"), Tool::Python);
        assert_eq!(Tool::of("gateway"), Tool::Python);
    }

    #[test]
    fn a_tree_without_programs_wants_no_tools() {
        let nowhere = std::env::temp_dir().join("xtask-no-such-tree");
        for tool in Tool::ALL {
            assert!(tool.prepare(&nowhere, &nowhere).unwrap().is_none());
        }
        assert!(!nowhere.exists());
    }

    #[test]
    fn a_thing_is_made_again_only_when_its_sources_change() {
        let folder = tempfile_folder();
        let made = std::cell::Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            Ok(())
        };
        for (text, count) in [("a", 1), ("a", 1), ("b", 2)] {
            fs::write(folder.join("source"), text).unwrap();
            once(&folder, &folder, &["source"], make).unwrap();
            assert_eq!(made.get(), count, "{text}");
        }
        fs::write(folder.join("source"), "c").unwrap();
        let broken = once(&folder, &folder, &["source"], || anyhow::bail!("no"));
        assert!(broken.is_err());
        once(&folder, &folder, &["source"], make).unwrap();
        assert_eq!(made.get(), 3, "what failed is tried again");
        fs::remove_dir_all(&folder).unwrap();
    }

    fn tempfile_folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-once-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }
}
