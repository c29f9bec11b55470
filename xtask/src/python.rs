//! Python packages for the tests: of the example services in Python, and clients that
//! talk to Atoll. A virtual environment in the target folder, made once and again when the list changes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::{debian, process};

/// What the example's services and the clients need, in the tree.
const REQUIREMENTS: [&str; 2] = [
    "examples/shop-python/requirements.txt",
    "conformance/requirements.txt",
];

/// The `bin` folder of an environment in `target` with the packages; none where the
/// tree has no such lists or the machine no Python.
///
/// # Errors
/// When there is a Python, and the packages cannot be had.
pub(crate) fn prepare(root: &Path, target: &Path) -> anyhow::Result<Option<PathBuf>> {
    let lists = REQUIREMENTS.map(|list| fs::read_to_string(root.join(list)));
    let Ok(lists) = lists.into_iter().collect::<Result<Vec<_>, _>>() else {
        return Ok(None);
    };
    let wanted = lists.concat();
    if !answers(root, "") {
        println!("note: no python3 here: tests with Python's services and clients are skipped");
        return Ok(None);
    }
    let folder = target.join("python");
    let stamp = folder.join("installed.txt");
    let bin = folder.join("bin");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) && bin.join("python").exists() {
        return Ok(Some(bin));
    }
    // Debian splits it off.
    if !answers(root, "import ensurepip, venv") {
        debian::ensure(&["python3-venv"])?;
    }
    let mut make = process::command("python3", root);
    make.args(["-m", "venv", "--clear"]).arg(&folder);
    anyhow::ensure!(process::succeeds(&mut make)?, "no virtual environment");
    let mut install = process::command(bin.join("python"), root);
    install
        .args(["-m", "pip", "install", "--quiet", "--no-input"])
        .arg("--disable-pip-version-check")
        .args(REQUIREMENTS.iter().flat_map(|list| ["--requirement", list]));
    anyhow::ensure!(
        process::succeeds(&mut install)?,
        "pip could not install what {} list",
        REQUIREMENTS.join(" and ")
    );
    fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    Ok(Some(bin))
}

/// Whether Python is there and runs this program.
fn answers(root: &Path, program: &str) -> bool {
    process::command("python3", root)
        .args(["-c", program])
        .output()
        .is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_without_python_services_wants_no_python() {
        let nowhere = std::env::temp_dir().join("xtask-no-such-tree");
        assert!(prepare(&nowhere, &nowhere).unwrap().is_none());
        assert!(!nowhere.exists());
    }
}
