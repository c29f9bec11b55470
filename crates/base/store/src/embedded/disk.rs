//! The file: loads it, commits batches to it, finds out after a failure whether a
//! batch is in it, and rewrites it when most of it is waste. Everything here blocks;
//! the owner calls it where that is allowed.
//!
//! redb copies on write and keeps a checksum of every page, so that a torn tail is
//! an unfinished commit, and the one before it is whole. After any failure redb
//! refuses to go on until it is opened again, and a failed commit may have landed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use atoll_model::Revision;
use redb::{Builder, Database, ReadableDatabase, ReadableTable};
use tracing::{info, warn};

use super::medium::{FileMedium, Medium, failed};
use super::plan::Batch;
use super::state::State;
use super::stored::{
    FORMAT, LEASES, META, META_COMPACTED, META_FORMAT, META_NEXT_LEASE, META_REVISION,
    META_SEQUENCE, VERSIONS, decode, encode,
};
use crate::{Changes, Event, Key, Lease, LeaseId, StoreError};

/// redb's page cache. Small: reads are answered from memory of our own.
const CACHE_BYTES: usize = 8 * 1_024 * 1_024;

/// A file below this is never rewritten to save room.
const REWRITE_FLOOR_BYTES: u64 = 4 * 1_024 * 1_024;

/// How much larger than what it keeps the file may be. B-trees are half to fully
/// filled and copy-on-write needs the old page beside the new, so 2 is normal.
const WASTE_FACTOR: u64 = 4;

pub(crate) struct Disk {
    medium: Arc<dyn Medium>,
    /// None after a failure, until [`Disk::recover`].
    database: Option<Database>,
    /// Of the last commit.
    sequence: u64,
    /// A file below this was not worth rewriting, or has just been.
    rewrite_above_bytes: u64,
}

/// What the file holds.
pub(crate) struct Loaded {
    pub(crate) state: State,
    pub(crate) leases: Vec<Lease>,
    pub(crate) next_lease: u64,
}

/// How a commit failed.
pub(crate) enum Failure {
    /// It is not in the file.
    NotWritten(StoreError),
    /// It is in the file, but the disk would not swear to it.
    Landed(StoreError),
    /// Ask [`Disk::recover`] later.
    Unknown(StoreError),
}

impl Disk {
    /// Takes the directory and loads the file in it, or begins one.
    pub(crate) fn open_dir(dir: &Path) -> Result<(Self, Loaded), StoreError> {
        let medium = FileMedium::take(dir)?;
        if !medium.exists()? {
            medium.create(&mut builder(), |database| {
                initialise(database).map_err(|error| failed("create", medium.path(), &error))
            })?;
        }
        Self::open(Arc::new(medium))
    }

    /// Loads what is on `medium`.
    pub(crate) fn open(medium: Arc<dyn Medium>) -> Result<(Self, Loaded), StoreError> {
        let mut disk = Self {
            medium,
            database: None,
            sequence: 0,
            rewrite_above_bytes: REWRITE_FLOOR_BYTES,
        };
        disk.connect()?;
        let database = disk.database.as_ref().ok_or(StoreError::Closed)?;
        let loaded = caught(|| load(database));
        match loaded {
            Ok((loaded, sequence)) => {
                disk.sequence = sequence;
                Ok((disk, loaded))
            }
            Err(LoadError::Format(found)) => Err(StoreError::Format {
                path: disk.medium.path().to_owned(),
                found,
                known: FORMAT,
            }),
            Err(LoadError::Database(error)) => Err(disk.open_error(&error)),
            Err(LoadError::Nonsense(detail)) => Err(disk.damaged(detail)),
        }
    }

    /// Writes a batch so that it survives anything from now on; gives the length of
    /// the file.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<u64, Failure> {
        let Some(database) = &self.database else {
            return Err(Failure::NotWritten(self.disk_error("it is not open")));
        };
        let sequence = self.sequence + 1;
        match caught(|| write(database, batch, sequence)) {
            Ok(()) => {
                self.sequence = sequence;
                // Only decides about rewriting.
                Ok(self.medium.len_bytes().unwrap_or(0))
            }
            Err(error) => Err(self.after_failure(error)),
        }
    }

    fn after_failure(&mut self, error: LoadError) -> Failure {
        let cause = match &error {
            LoadError::Database(redb::Error::Io(io)) if is_full(io) => StoreError::DiskFull {
                path: self.medium.path().to_owned(),
            },
            LoadError::Database(error) => self.disk_error(&error.to_string()),
            LoadError::Nonsense(detail) => self.disk_error(detail),
            LoadError::Format(_) => self.disk_error("its format changed"),
        };
        let uncertain = StoreError::Uncertain {
            what: format!("the disk of {}", self.medium.path().display()),
            detail: cause.to_string(),
        };
        self.database = None;
        match self.recover() {
            Ok(false) => Failure::NotWritten(cause),
            Ok(true) => Failure::Landed(uncertain),
            Err(_) => Failure::Unknown(uncertain),
        }
    }

    /// Whether [`Disk::recover`] must come before the next commit.
    pub(crate) fn is_broken(&self) -> bool {
        self.database.is_none()
    }

    /// Opens the file again after a failure; tells whether the commit that failed
    /// is in it.
    pub(crate) fn recover(&mut self) -> Result<bool, StoreError> {
        self.connect()?;
        let database = self.database.as_ref().ok_or(StoreError::Closed)?;
        match caught(|| sequence(database)) {
            Ok(found) => {
                let landed = found != self.sequence;
                debug_assert!(found <= self.sequence + 1, "nobody else writes");
                self.sequence = found;
                Ok(landed)
            }
            Err(_) => {
                self.database = None;
                Err(self.disk_error("it cannot be read back"))
            }
        }
    }

    /// Rewrites the file if it is `len_bytes` long but keeps only `kept_bytes`.
    pub(crate) fn wants_rewrite(&self, len_bytes: u64, kept_bytes: u64) -> bool {
        len_bytes > self.rewrite_above_bytes && len_bytes > kept_bytes.saturating_mul(WASTE_FACTOR)
    }

    /// Gives the file's waste back to the disk.
    pub(crate) fn rewrite(&mut self, len_bytes: u64) {
        let Some(database) = &mut self.database else {
            return;
        };
        let done = caught(|| {
            database
                .compact()
                .map_err(|error| redb::Error::from(error).into())
        });
        let after_bytes = self.medium.len_bytes().unwrap_or(len_bytes);
        // Not again before it has doubled, whatever came of it.
        self.rewrite_above_bytes = after_bytes.saturating_mul(2).max(REWRITE_FLOOR_BYTES);
        match done {
            Ok(_) => info!(
                before_bytes = len_bytes,
                after_bytes, "store file rewritten"
            ),
            Err(error) => {
                warn!(error = error.text(), "store file could not be rewritten");
                // What is committed stays; the next write opens the file again.
                self.database = None;
            }
        }
    }

    /// Ends cleanly, so that the next start need not check the file.
    pub(crate) fn close(mut self) {
        if let Some(database) = self.database.take()
            && let Err(error) = database.close()
        {
            // Nothing is lost: the next start repairs.
            warn!(%error, "store file was not closed cleanly");
        }
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        let medium = Arc::clone(&self.medium);
        let connected = caught(|| {
            let database = medium.connect(&mut builder());
            database.map_err(|error| redb::Error::from(error).into())
        });
        match connected {
            Ok(database) => {
                self.database = Some(database);
                Ok(())
            }
            Err(LoadError::Database(error)) => Err(self.open_error(&error)),
            Err(error) => Err(self.damaged(error.text())),
        }
    }

    fn open_error(&self, error: &redb::Error) -> StoreError {
        let path = self.medium.path();
        match error {
            redb::Error::UpgradeRequired(found) => StoreError::Format {
                path: path.to_owned(),
                found: u64::from(*found),
                known: FORMAT,
            },
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                StoreError::InUse {
                    dir: path.parent().unwrap_or(path).to_owned(),
                    holder: "another program that has the file open".to_owned(),
                }
            }
            redb::Error::Io(io) if !is_damage(io) => failed("open", path, io),
            other => self.damaged(other.to_string()),
        }
    }

    fn damaged(&self, detail: String) -> StoreError {
        StoreError::Damaged {
            path: self.medium.path().to_owned(),
            detail,
        }
    }

    fn disk_error(&self, detail: &str) -> StoreError {
        StoreError::Disk {
            path: self.medium.path().to_owned(),
            detail: detail.to_owned(),
        }
    }
}

/// Why the file could not be read or written.
enum LoadError {
    Database(redb::Error),
    Format(u64),
    /// It is a sound database that does not say what ours says.
    Nonsense(String),
}

impl LoadError {
    fn text(&self) -> String {
        match self {
            Self::Database(error) => error.to_string(),
            Self::Format(found) => format!("format {found}"),
            Self::Nonsense(detail) => detail.clone(),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

/// redb may panic on a file that was altered behind its back.
fn caught<T>(work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no reason given");
        Err(LoadError::Nonsense(format!("redb gave up on it: {text}")))
    })
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // The whole file is read anyway; a page that was altered is then told as such
    // and not met later.
    builder.set_check_integrity_on_open(true);
    builder
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// redb says so when the file is cut short or does not begin as its files do.
fn is_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Makes a new database one of ours.
pub(super) fn initialise(database: Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_REVISION, super::state::FIRST_REVISION.0)?;
        meta.insert(META_COMPACTED, 0)?;
        meta.insert(META_NEXT_LEASE, 1)?;
        meta.insert(META_SEQUENCE, 0)?;
        write.open_table(VERSIONS)?;
        write.open_table(LEASES)?;
    }
    write.commit()?;
    database.close()?;
    Ok(())
}

fn sequence(database: &Database) -> Result<u64, LoadError> {
    let meta = database.begin_read()?.open_table(META)?;
    number(&meta, META_SEQUENCE)
}

fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, LoadError> {
    let found = meta.get(name)?;
    let missing = || LoadError::Nonsense(format!("its `{name}` is missing"));
    Ok(found.ok_or_else(missing)?.value())
}

/// One transaction: all of a batch or nothing.
fn write(database: &Database, batch: &Batch, sequence: u64) -> Result<(), LoadError> {
    let write = database.begin_write()?;
    {
        let mut versions = write.open_table(VERSIONS)?;
        for changes in &batch.changes {
            for event in changes.events.iter() {
                let row = (changes.revision.0, event.key.as_bytes());
                let bytes = encode(event.after.as_deref());
                versions.insert(row, bytes.as_slice())?;
            }
        }
        let compaction = batch.compaction.as_ref();
        for (revision, key) in compaction.iter().flat_map(|compaction| &compaction.rows) {
            versions.remove((revision.0, key.as_bytes()))?;
        }
        if !(batch.granted.is_empty() && batch.ended.is_empty()) {
            let mut leases = write.open_table(LEASES)?;
            for lease in &batch.granted {
                let ttl_ms = u64::try_from(lease.ttl.as_millis()).unwrap_or(u64::MAX);
                leases.insert(lease.id.0, ttl_ms)?;
            }
            for id in &batch.ended {
                leases.remove(id.0)?;
            }
        }
        let mut meta = write.open_table(META)?;
        meta.insert(META_REVISION, batch.revision.0)?;
        meta.insert(META_COMPACTED, batch.compacted.0)?;
        meta.insert(META_NEXT_LEASE, batch.next_lease)?;
        meta.insert(META_SEQUENCE, sequence)?;
    }
    write.commit()?;
    Ok(())
}

fn load(database: &Database) -> Result<(Loaded, u64), LoadError> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let format = number(&meta, META_FORMAT)?;
    if format != FORMAT {
        return Err(LoadError::Format(format));
    }
    let revision = Revision(number(&meta, META_REVISION)?);
    let compacted = Revision(number(&meta, META_COMPACTED)?);
    let mut state = State::compacted_to(compacted);
    let mut events = Vec::new();
    let mut at = compacted;
    for row in read.open_table(VERSIONS)?.iter()? {
        let (row_key, bytes) = row?;
        let (row_revision, key) = row_key.value();
        let (row_revision, key) = (Revision(row_revision), Key::from(key));
        let Some(after) = decode(row_revision, key.clone(), bytes.value()) else {
            let text = format!("{key:?} at revision {row_revision} is not a version");
            return Err(LoadError::Nonsense(text));
        };
        if row_revision <= compacted {
            after.into_iter().for_each(|kv| state.restore(Arc::new(kv)));
            continue;
        }
        if row_revision != at {
            take_up(&mut state, at, &mut events)?;
            at = row_revision;
        }
        let before = state.get(&key).cloned();
        let after = after.map(Arc::new);
        events.push(Event { key, after, before });
    }
    take_up(&mut state, at, &mut events)?;
    if state.revision != revision {
        let text = format!("it says revision {revision} but ends at {}", state.revision);
        return Err(LoadError::Nonsense(text));
    }
    let mut leases = Vec::new();
    for row in read.open_table(LEASES)?.iter()? {
        let (id, ttl_ms) = row?;
        leases.push(Lease {
            id: LeaseId(id.value()),
            ttl: std::time::Duration::from_millis(ttl_ms.value()),
        });
    }
    let loaded = Loaded {
        state,
        leases,
        next_lease: number(&meta, META_NEXT_LEASE)?,
    };
    Ok((loaded, number(&meta, META_SEQUENCE)?))
}

/// Adds one revision's rows to the state, which must be at the revision before it.
fn take_up(state: &mut State, at: Revision, events: &mut Vec<Event>) -> Result<(), LoadError> {
    if events.is_empty() {
        return Ok(());
    }
    let expected = Revision(state.revision.0 + 1);
    if at != expected {
        let text = format!("revision {expected} is missing before {at}");
        return Err(LoadError::Nonsense(text));
    }
    state.apply(Changes {
        revision: at,
        events: std::mem::take(events).into(),
    });
    Ok(())
}
