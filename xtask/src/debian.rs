//! Debian packages that tests need. There are few; an empty list is the aim.

use std::path::Path;

use anyhow::Context;

use crate::process;

/// Installs what is missing of `packages` when this is Debian (or made from it) and we
/// are root; otherwise says what to do.
pub(crate) fn ensure(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    anyhow::ensure!(
        Path::new("/etc/debian_version").exists(),
        "needed: {list} (names as on Debian); install them with this system's package manager"
    );
    anyhow::ensure!(is_root()?, "needed: sudo apt-get install {list}");
    // A fresh image has no package lists; one that is not fresh should not wait for them.
    if !install(&missing)? {
        process::succeeds(apt_get().arg("update"))?;
        anyhow::ensure!(install(&missing)?, "apt-get could not install {list}");
    }
    Ok(())
}

fn install(packages: &[&str]) -> anyhow::Result<bool> {
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]);
    process::succeeds(install.args(packages))
}

fn apt_get() -> std::process::Command {
    let mut command = process::command("apt-get", Path::new("/"));
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn installed(package: &str) -> bool {
    let status = process::command("dpkg-query", Path::new("/"))
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output();
    status.is_ok_and(|output| output.stdout == b"installed")
}

fn is_root() -> anyhow::Result<bool> {
    let output = process::command("id", Path::new("/"))
        .arg("-u")
        .output()
        .context("start `id -u`")?;
    Ok(output.stdout.trim_ascii() == b"0")
}
