//! Where registrations survive a restart: the little that the registry asks of a
//! store. The keys and values are opaque to it; `stored.rs` makes them.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

/// A boxed future, so that the port can be a trait object.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Keys and values as they are kept.
pub type Kept = Vec<(String, Vec<u8>)>;

/// A key with its new value, or none when it is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Printable text; `/` parts it, as in a path.
    pub key: String,
    /// The value; `None` forgets the key.
    pub value: Option<Vec<u8>>,
}

/// Keeps entries over a restart.
pub trait Journal: Send + Sync + 'static {
    /// Every entry that is kept, as key and value, in any order.
    fn load(&self) -> Pending<'_, Result<Kept, JournalError>>;
    /// Keeps each of `entries`, whose keys differ; resolves once all of them survive
    /// `kill -9`. After an error any of them may be kept; the caller writes all again.
    fn write(&self, entries: Vec<Entry>) -> Pending<'_, Result<(), JournalError>>;
}

/// Why nothing was kept; the store's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JournalError(pub String);

/// Keeps entries as long as the process lives: for tests, and for who wants no disk.
#[derive(Debug, Default)]
pub struct Memory {
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Journal for Memory {
    fn load(&self) -> Pending<'_, Result<Kept, JournalError>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let all = kept.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Box::pin(std::future::ready(Ok(all)))
    }

    fn write(&self, entries: Vec<Entry>) -> Pending<'_, Result<(), JournalError>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for Entry { key, value } in entries {
            match value {
                Some(value) => drop(kept.insert(key, value)),
                None => drop(kept.remove(&key)),
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
