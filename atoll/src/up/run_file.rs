//! `.atoll/run.json`: where a running Atoll listens, for the command line and for
//! scripts. Written whole when everything listens, removed at the end.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Value, json};

use crate::config::Secret;

/// The file's name in the data folder.
pub(crate) const NAME: &str = "run.json";

/// A written `run.json`; dropped, it is gone.
pub(crate) struct RunFile(PathBuf);

impl RunFile {
    /// Writes it. The admin token stands in it, so that the command line needs no
    /// set-up; only the owner may read it, as with a kubeconfig.
    pub(crate) fn write(
        data_dir: &Path,
        config: &Path,
        listeners: &BTreeMap<String, String>,
        admin_token: Option<&Secret>,
    ) -> io::Result<Self> {
        let mut run = json!({ "pid": std::process::id(), "file": config.display().to_string() });
        for (name, address) in listeners {
            run[name] = Value::from(&address[..]);
        }
        if let Some(token) = admin_token {
            run["admin_token"] = Value::from(token.expose());
        }
        let path = data_dir.join(NAME);
        let new = data_dir.join(".run.json.new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        writeln!(file, "{run:#}")?;
        fs::rename(&new, &path)?;
        Ok(Self(path))
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // The next start overwrites what cannot be removed.
        drop(fs::remove_file(&self.0));
    }
}

/// That another Atoll runs with `data_dir`, with its process if it has told.
pub(crate) fn in_use(data_dir: &Path) -> anyhow::Error {
    let run = fs::read(data_dir.join(NAME)).unwrap_or_default();
    let run: Value = serde_json::from_slice(&run).unwrap_or_default();
    let who = run["pid"].as_u64().map(|pid| format!(" (pid {pid})"));
    let who = who.unwrap_or_default();
    anyhow::anyhow!(
        "an Atoll is running with {} already{who}; stop it first, or choose another folder with --data-dir",
        data_dir.display()
    )
}

/// Makes the data folder, closed to others, and keeps it out of version control.
pub(crate) fn make_data_dir(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
    }
    let ignore = path.join(".gitignore");
    if !ignore.exists() {
        fs::write(ignore, "*\n")?;
    }
    Ok(())
}
