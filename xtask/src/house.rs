//! What `tidy` looks at: the files of the tree, the crates of the workspace, and the
//! packages that they stand on. Rules take it as a value, so that each can be tried
//! on a small one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cargo_metadata::semver::Version;

use crate::process;

/// Longest file that is read as text; a longer one is data.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// Everything that the rules read.
#[derive(Default)]
pub(crate) struct House {
    pub(crate) files: Vec<SourceFile>,
    pub(crate) crates: Vec<Member>,
    pub(crate) packages: Vec<Package>,
}

/// A text file of the tree.
pub(crate) struct SourceFile {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// What it says, when it is Rust.
    pub(crate) rust: Option<syn::Result<syn::File>>,
}

/// A crate of this workspace.
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its folder from the root.
    pub(crate) folder: String,
    /// Names of the workspace's crates that it depends on, in any way.
    pub(crate) uses: Vec<String>,
}

/// A package from outside.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) license: Option<String>,
}

/// The root of the workspace that this program was started in.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .no_deps()
        .exec()
        .context("find the workspace")?;
    Ok(metadata.workspace_root.into_std_path_buf())
}

impl House {
    /// Reads the tree at `root`, uncommitted files included.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let metadata = cargo_metadata::MetadataCommand::new()
            .current_dir(root)
            .exec()
            .context("read the dependencies")?;
        let (crates, packages) = sort_packages(&metadata);
        Ok(Self {
            files: read_files(root)?,
            crates,
            packages,
        })
    }

    pub(crate) fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

impl SourceFile {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let rust = path.ends_with(".rs").then(|| syn::parse_file(text));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            rust,
        }
    }

    pub(crate) fn parsed(&self) -> Option<&syn::File> {
        self.rust.as_ref()?.as_ref().ok()
    }

    /// The number of the first line that holds `what`; the first line if none does.
    pub(crate) fn line_of(&self, what: &str) -> usize {
        let found = self.text.lines().position(|line| line.contains(what));
        found.map_or(1, |index| index + 1)
    }
}

impl Member {
    /// The path of its manifest from the root.
    pub(crate) fn manifest(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }
}

fn sort_packages(metadata: &cargo_metadata::Metadata) -> (Vec<Member>, Vec<Package>) {
    let ours: Vec<String> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    let mut crates = Vec::new();
    let mut packages = Vec::new();
    for package in &metadata.packages {
        let name = package.name.to_string();
        if !metadata.workspace_members.contains(&package.id) {
            packages.push(Package {
                name,
                version: package.version.clone(),
                license: package.license.clone(),
            });
            continue;
        }
        let folder = package
            .manifest_path
            .parent()
            .and_then(|folder| folder.strip_prefix(&metadata.workspace_root).ok());
        let uses = package.dependencies.iter();
        let uses = uses.map(|dependency| dependency.name.clone());
        crates.push(Member {
            name,
            folder: folder.map(ToString::to_string).unwrap_or_default(),
            uses: uses.filter(|name| ours.contains(name)).collect(),
        });
    }
    (crates, packages)
}

fn read_files(root: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let output = process::command("git", root)
        // CI may run as another user than the one that cloned; nothing is run from it.
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .args(["--cached", "--others", "--exclude-standard"])
        .output()
        .context("start git")?;
    anyhow::ensure!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let listed = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut files = Vec::new();
    for path in listed.split_terminator('\0') {
        let full = root.join(path);
        // What is deleted and not yet committed is listed too.
        let is_text = fs::symlink_metadata(&full)
            .is_ok_and(|entry| entry.is_file() && entry.len() <= TEXT_BYTES_MAX);
        if !is_text {
            continue;
        }
        let bytes = fs::read(&full).with_context(|| format!("read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile::new(path, &text));
        }
    }
    Ok(files)
}
