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

use crate::state::Event;
use crate::state::shared::Owed;
use crate::{Journal, RegistryError};

/// First and longest pause before what failed is tried again by itself.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// Where a revision, or the reason for none, is awaited.
pub(crate) type Reply = oneshot::Sender<Result<Revision, RegistryError>>;

/// Entries to write and who waits for that.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) entries: BTreeMap<String, Owed>,
    pub(crate) waiting: Vec<(Reply, Awaited)>,
    /// The revision of the shared store that the state had taken in.
    pub(crate) seen: Revision,
}

/// What somebody waits for.
#[derive(Debug)]
pub(crate) enum Awaited {
    /// That all of the batch is durable; the answer is this revision.
    Durable(Revision),
    /// That this key is written; the answer is the store's revision of that. If another
    /// process wrote it first, the event is to happen anew.
    Key(String, Option<Box<Event>>),
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn add(&mut self, entries: Vec<Owed>) {
        for owed in entries {
            add(&mut self.entries, owed.entry.key.clone(), owed);
        }
    }
}

/// Later entries win over earlier ones of the same key. What was decided without
/// regard to others stays so.
pub(crate) fn add(entries: &mut BTreeMap<String, Owed>, key: String, mut owed: Owed) {
    if let Some(before) = entries.remove(&key) {
        owed.guarded &= before.guarded;
    }
    entries.insert(key, owed);
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
        let batch = next.unwrap_or_default();
        unwritten.entries.extend(batch.entries);
        let result = write(&*journal, &mut unwritten).await;
        if result.is_ok() {
            backoff.reset();
        }
        for (reply, awaited) in batch.waiting {
            let Awaited::Durable(revision) = awaited else {
                continue;
            };
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
    let entries = unwritten.entries.values().map(|owed| owed.entry.clone());
    match journal.write(entries.collect()).await {
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
