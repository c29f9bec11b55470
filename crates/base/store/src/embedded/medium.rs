//! Where the bytes of the file are: a real file, or in tests one that fails.
//! It owns the directory, its lock and the file's birth.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError};
use tracing::warn;

use crate::StoreError;

const FILE_NAME: &str = "store.redb";
const LOCK_NAME: &str = "store.lock";

/// Gives redb its bytes, as often as the file must be opened again.
pub(crate) trait Medium: Send + Sync {
    /// Opens the database that is there.
    fn connect(&self, builder: &mut Builder) -> Result<Database, DatabaseError>;
    /// The file's length.
    fn len_bytes(&self) -> io::Result<u64>;
    /// The file's name, for people.
    fn path(&self) -> &Path;
}

/// A file in a directory that nobody else uses while this lives.
pub(crate) struct FileMedium {
    path: PathBuf,
    /// Its lock goes when the process does, however that ends.
    _lock: File,
}

impl FileMedium {
    /// Takes `dir`, which is created with mode 0700 if it is not there.
    pub(crate) fn take(dir: &Path) -> Result<Self, StoreError> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(dir);
        made.map_err(|error| failed("create the directory", dir, &error))?;
        let lock = lock(dir)?;
        Ok(Self {
            path: dir.join(FILE_NAME),
            _lock: lock,
        })
    }

    /// Whether the file is there already.
    pub(crate) fn exists(&self) -> Result<bool, StoreError> {
        let exists = self.path.try_exists();
        exists.map_err(|error| failed("look for", &self.path, &error))
    }

    /// Puts an empty database there, whole or not at all: under another name first,
    /// so that a crash never leaves a file that is half a database.
    pub(crate) fn create(
        &self,
        builder: &mut Builder,
        fill: impl FnOnce(Database) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let new = self.path.with_extension("redb.new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &new, &error));
            }
            _ => {}
        }
        let file = open(&new, true).map_err(|error| failed("create", &new, &error))?;
        let backend = FileBackend::new(file);
        let database = backend.and_then(|backend| builder.create_with_backend(backend));
        fill(database.map_err(|error| failed("create", &new, &error))?)?;
        let renamed = std::fs::rename(&new, &self.path);
        renamed.map_err(|error| failed("rename", &new, &error))?;
        // The name is durable only when the directory is.
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| failed("sync", dir, &error))
    }
}

impl Medium for FileMedium {
    fn connect(&self, builder: &mut Builder) -> Result<Database, DatabaseError> {
        let file = open(&self.path, false)?;
        if file.metadata()?.len() == 0 {
            // redb would make it a new database; for us it is one that lost its bytes.
            let kind = io::ErrorKind::UnexpectedEof;
            return Err(io::Error::new(kind, "it has no bytes").into());
        }
        builder.create_with_backend(FileBackend::new(file)?)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(std::fs::metadata(&self.path)?.len())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(create);
    options.mode(0o600).open(path)
}

/// Takes the directory's lock, or tells which process has it.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let opened = options.mode(0o600).open(&path);
    let mut file = opened.map_err(|error| failed("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::InUse {
                dir: dir.to_owned(),
                holder: holder(&mut file),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path, &error)),
    }
    if let Err(error) = sign(&mut file) {
        // Only the message to a second process suffers.
        warn!(%error, "could not write the process id into the store's lock");
    }
    Ok(file)
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    let pid = read.ok().and_then(|_| text.trim().parse::<u32>().ok());
    match pid {
        Some(pid) if pid == std::process::id() => format!("this very process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

pub(super) fn failed(
    doing: &'static str,
    path: &Path,
    error: &dyn std::fmt::Display,
) -> StoreError {
    StoreError::Open {
        doing,
        path: path.to_owned(),
        detail: error.to_string(),
    }
}
