//! Makes changes durable, in order, beside the owner task, so that a slow disk
//! delays acknowledgements but neither renewals nor checks.
//!
//! What could not be written is kept and tried again with the next batch, or after
//! a pause: memory and disk agree again as soon as the disk does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Backoff, Random};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use crate::{Entry, Journal, RegistryError};

/// First and longest pause before what failed is tried again by itself.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// Where a revision, or the reason for none, is awaited.
pub(crate) type Reply = oneshot::Sender<Result<Revision, RegistryError>>;

/// Entries to write and who waits for that.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) entries: BTreeMap<String, Option<Vec<u8>>>,
    pub(crate) waiting: Vec<(Reply, Revision)>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.waiting.is_empty()
    }

    /// Later entries win over earlier ones of the same key.
    pub(crate) fn add(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.entries.insert(entry.key, entry.value);
        }
    }
}

/// Writes batches until the owner is gone.
pub(crate) async fn run(journal: Arc<dyn Journal>, mut batches: mpsc::Receiver<Batch>) {
    let mut unwritten = Batch::default();
    let mut random = Random::from_entropy();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST, 0.2);
    loop {
        let next = if unwritten.entries.is_empty() {
            batches.recv().await
        } else {
            let pause = backoff.next(&mut random);
            match tokio::time::timeout(pause, batches.recv()).await {
                Ok(next) => next,
                Err(_) => Some(Batch::default()),
            }
        };
        let last = next.is_none();
        let Batch { entries, waiting } = next.unwrap_or_default();
        unwritten.entries.extend(entries);
        let result = write(&*journal, &mut unwritten).await;
        if result.is_ok() {
            backoff.reset();
        }
        for (reply, revision) in waiting {
            let result = result.clone().map(|()| revision);
            // Who asked may have gone away.
            drop(reply.send(result));
        }
        if last {
            if !unwritten.entries.is_empty() {
                let entries = unwritten.entries.len();
                error!(entries, "registrations lost: not written before the end");
            }
            return;
        }
    }
}

async fn write(journal: &dyn Journal, unwritten: &mut Batch) -> Result<(), RegistryError> {
    if unwritten.entries.is_empty() {
        return Ok(());
    }
    let entries = unwritten
        .entries
        .iter()
        .map(|(key, value)| Entry {
            key: key.clone(),
            value: value.clone(),
        })
        .collect();
    match journal.write(entries).await {
        Ok(()) => {
            unwritten.entries.clear();
            Ok(())
        }
        Err(error) => {
            warn!(%error, entries = unwritten.entries.len(), "registrations not written, trying again");
            Err(RegistryError::NotDurable(error))
        }
    }
}
