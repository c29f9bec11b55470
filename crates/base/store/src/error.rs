//! What can go wrong, and what each says to a person.

use std::path::PathBuf;

use atoll_model::{Fault, FaultKind, Revision};

use crate::{Key, LIST_OPS_MAX, LeaseId, REQUEST_BYTES_MAX};

/// Why the store could not do it. Cloned to every writer that shared one commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A key without bytes.
    #[error("a key may not be empty")]
    EmptyKey,
    /// A list of a transaction is too long.
    #[error("a transaction may have {LIST_OPS_MAX} operations in a list, this one has {count}")]
    TooManyOps {
        /// Its length.
        count: usize,
    },
    /// A transaction is too large.
    #[error("a transaction may have {REQUEST_BYTES_MAX} bytes, this one has {bytes}")]
    TooLarge {
        /// Its keys and values.
        bytes: usize,
    },
    /// One list would write a key twice.
    #[error("a transaction may write a key once; {key:?} is written twice")]
    WrittenTwice {
        /// Which.
        key: Key,
    },
    /// A time to live of nothing, or of more than etcd's 9,000,000,000 seconds.
    #[error("a lease must live from 1 ms to 9,000,000,000 s")]
    BadTtl,
    /// No such lease, or it has ended.
    #[error("lease {0} does not exist or has ended")]
    LeaseNotFound(LeaseId),
    /// History that is no longer kept. Read the present state.
    #[error("revision {asked} is no longer kept; the history begins after {compacted}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// Up to where history is gone.
        compacted: Revision,
    },
    /// A watch fell further behind than history is kept. Read the present state.
    #[error("this watch was at {at} when the history up to {compacted} was dropped; read again")]
    Lagged {
        /// The last revision that the watch had seen.
        at: Revision,
        /// Up to where history is gone.
        compacted: Revision,
    },
    /// A revision that has not happened.
    #[error("revision {asked} has not happened yet; the store is at {current}")]
    FutureRevision {
        /// What was asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The store's own limit on what it keeps.
    #[error(
        "the store may keep {limit_bytes} bytes of keys and values; delete some or raise the limit"
    )]
    OverLimit {
        /// The limit.
        limit_bytes: u64,
    },
    /// No room on the disk. Nothing was changed.
    #[error("no room left on the disk of {path}: nothing was written; free some and try again")]
    DiskFull {
        /// The store's file.
        path: PathBuf,
    },
    /// The disk failed. Nothing was changed.
    #[error("the disk refused to write {path}: {detail}; nothing was changed")]
    Disk {
        /// The store's file.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
    /// It is not known whether the change was made. Read, then decide. (The embedded
    /// store finds out before the next change; until then reads show none of it.)
    #[error("{what} failed while it was written: {detail}; the change may yet appear")]
    Uncertain {
        /// "the disk of ...", "etcd at ...".
        what: String,
        /// What it said.
        detail: String,
    },
    /// Another process has the store.
    #[error("the store in {dir} is in use by {holder}; stop it, or choose another directory")]
    InUse {
        /// The store's directory.
        dir: PathBuf,
        /// "process 123", or what is known.
        holder: String,
    },
    /// The directory or file could not be used.
    #[error("cannot {doing} {path}: {detail}")]
    Open {
        /// What was tried, as "create".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The file is damaged beyond the repair that an unclean end needs.
    #[error(
        "the store file {path} is damaged: {detail}. It was left in place. Restore it from a \
         backup, or move it away to begin with an empty store: mv {path} {path}.damaged"
    )]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file was written by another version.
    #[error("the store file {path} has format {found}; this version reads format {known}")]
    Format {
        /// The store's file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The other machine did not do it (the etcd backend).
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The other machine has no room left. Nothing was changed.
    #[error(
        "etcd has no room left ({0}): compact and defragment it, then `etcdctl alarm disarm`, or \
         raise its --quota-backend-bytes"
    )]
    Full(String),
    /// The other machine does not let us.
    #[error("etcd refuses: {0}; look at `username`, `password` and the permissions of the role")]
    Denied(String),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl StoreError {
    /// The kind of fault that it is to a caller.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::EmptyKey
            | Self::TooManyOps { .. }
            | Self::TooLarge { .. }
            | Self::WrittenTwice { .. }
            | Self::BadTtl
            | Self::FutureRevision { .. } => FaultKind::Invalid,
            Self::LeaseNotFound(_) => FaultKind::NotFound,
            Self::Compacted { .. } | Self::Lagged { .. } => FaultKind::Conflict,
            Self::OverLimit { .. } | Self::DiskFull { .. } | Self::Full(_) => FaultKind::Exhausted,
            Self::Disk { .. }
            | Self::Uncertain { .. }
            | Self::InUse { .. }
            | Self::Open { .. }
            | Self::Closed
            | Self::Denied(_)
            | Self::Unavailable(_) => FaultKind::Unavailable,
            Self::Damaged { .. } | Self::Format { .. } => FaultKind::Internal,
        }
    }

    /// Whether reading the present state and watching on from it mends it.
    pub fn wants_resync(&self) -> bool {
        matches!(self, Self::Compacted { .. } | Self::Lagged { .. })
    }
}
