//! Tells the guardian and the state file what runs, and ends at the start what an
//! earlier run left.
//!
//! `.atoll/fleet/lock` is held while we run, so that a second Atoll in the same
//! folder cannot take our replicas for leftovers. `.atoll/fleet/replicas` holds the
//! lines of [`Record`]. Lines are written under one lock, in the order of what happened.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::error::FleetError;
use crate::procfs;
use crate::record::Record;

/// Grace for what an earlier run left: nobody waits for it any more.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// The state file is written anew after so many lines, to stay small.
const LINES_MAX: usize = 4096;

pub(crate) struct Ledger {
    path: PathBuf,
    /// Held, not read; the kernel lets go of it however we end.
    _lock: File,
    inner: Mutex<Inner>,
}

struct Inner {
    record: Record,
    file: File,
    lines: usize,
    guardian: Option<ChildStdin>,
    /// No guardian is wanted any more.
    detached: bool,
    warned: bool,
}

impl Ledger {
    /// Locks the folder, ends what is left of an earlier run (blocking for up to
    /// its grace), and begins a record for this one.
    pub(crate) fn open(data_dir: &Path, run: String) -> Result<Self, FleetError> {
        let folder = data_dir.join("fleet");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FleetError::State { path, source }
        };
        // Output and its secrets are the owner's alone (design: `.atoll/` is 0700).
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&folder).map_err(failed(&folder))?;
        let lock_path = folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FleetError::InUse {
                    data_dir: data_dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
        }
        let path = folder.join("replicas");
        if procfs::IS_THERE
            && let Ok(text) = fs::read(&path)
        {
            let ended = Record::of(&String::from_utf8_lossy(&text)).end(LEFTOVER_GRACE);
            if ended > 0 {
                warn!(processes = ended, "ended what an earlier run left running");
            }
        }
        let record = Record {
            run: Some(run),
            ..Record::default()
        };
        let file = begin(&path, &record).map_err(failed(&path))?;
        Ok(Self {
            path,
            _lock: lock,
            inner: Mutex::new(Inner {
                record,
                file,
                lines: 0,
                guardian: None,
                detached: false,
                warned: false,
            }),
        })
    }

    /// The mark of this run.
    pub(crate) fn run(&self) -> String {
        self.lock().record.run.clone().unwrap_or_default()
    }

    /// A process group exists from now on.
    pub(crate) fn add(&self, pid: i32) {
        // It is not reaped, so it is there even if it ended already.
        let started = procfs::started(pid).unwrap_or(0);
        let mut inner = self.lock();
        inner.record.groups.insert(pid, started);
        self.write(&mut inner, &format!("+{pid} {started}\n"));
    }

    /// Nobody is left of a process group.
    pub(crate) fn remove(&self, pid: i32) {
        let mut inner = self.lock();
        if inner.record.groups.remove(&pid).is_some() {
            self.write(&mut inner, &format!("-{pid}\n"));
        }
    }

    /// Whether the process is the leader of a group that is not yet removed.
    pub(crate) fn holds(&self, pid: i32) -> bool {
        self.lock().record.groups.contains_key(&pid)
    }

    /// Gives a new guardian the whole record, and each line from now on.
    pub(crate) fn attach(&self, guardian: ChildStdin) {
        let mut inner = self.lock();
        inner.guardian = Some(guardian);
        let text = inner.record.to_text();
        inner.tell_guardian(&text);
    }

    /// Lets the guardian go; it ends what is left, which should be nobody.
    pub(crate) fn detach(&self) {
        let mut inner = self.lock();
        inner.guardian = None;
        inner.detached = true;
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.lock().detached
    }

    /// Ends every process of this run, those that left their group included.
    /// Blocks for up to `grace`; returns how many there were.
    pub(crate) fn end_strays(&self, grace: Duration) -> usize {
        let record = self.lock().record.clone();
        record.end(grace)
    }

    fn write(&self, inner: &mut Inner, line: &str) {
        inner.tell_guardian(line);
        inner.lines += 1;
        let written = if inner.lines >= LINES_MAX {
            inner.lines = 0;
            begin(&self.path, &inner.record).map(|file| inner.file = file)
        } else {
            inner.file.write_all(line.as_bytes())
        };
        if let Err(error) = written
            && !std::mem::replace(&mut inner.warned, true)
        {
            let path = self.path.display();
            warn!(%path, %error, "the list of replicas cannot be written; if Atoll is killed and its guardian too, they stay");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A guardian that ended is replaced by whoever watches it.
    fn tell_guardian(&mut self, text: &str) {
        if let Some(pipe) = &mut self.guardian
            && pipe.write_all(text.as_bytes()).is_err()
        {
            self.guardian = None;
        }
    }
}

/// Writes the record beside the file and renames it, so that a crash leaves either.
fn begin(path: &Path, record: &Record) -> std::io::Result<File> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(record.to_text().as_bytes())?;
    fs::rename(&fresh, path)?;
    Ok(file)
}
