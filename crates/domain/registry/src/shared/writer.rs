//! Writes to the shared store: each transaction only while we are one of those who
//! share it, and what is guarded only if nobody else wrote since the state decided.
//!
//! What could not be written is kept and tried again, then always guarded: meanwhile
//! its client was told so and may have gone to another process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Backoff, Random};
use atoll_store::{Key, KeyValue, Op, OpReply, Order, Span, StoreError, Test, Txn};
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::member::Membership;
use super::{News, Outcome, Written};
use crate::state::shared::Owed;
use crate::stored;
use crate::writer::Batch;
use crate::{Entry, JournalError, RegistryError};

/// Keys of one transaction: below the store's limit of each of its lists, our own key
/// among the comparisons.
const TXN_KEYS_MAX: usize = 100;
/// Bytes of one: a record has some 40 KiB at most.
const TXN_BYTES_MAX: usize = atoll_store::REQUEST_BYTES_MAX / 2;
/// Transactions under way: more would keep our own sign of life waiting.
const PARTS_AT_ONCE: usize = 16;
/// Pauses before what failed is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// What is to be written, by key.
type Entries = BTreeMap<String, Owed>;

struct Writer {
    member: Arc<Membership>,
    /// Our last write of a key: the revision that it followed and the one that it made.
    /// The state, which decided on the first, may not have heard of the second.
    last: BTreeMap<String, (Revision, Revision)>,
}

/// Writes batches until the owner is gone; then signs us off.
pub(crate) async fn run(
    member: Arc<Membership>,
    mut batches: mpsc::Receiver<Batch>,
    news: mpsc::Sender<News>,
) {
    let mut writer = Writer {
        member,
        last: BTreeMap::new(),
    };
    let mut unwritten = Entries::new();
    let mut random = Random::from_entropy();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST, 0.2);
    loop {
        let next = if unwritten.is_empty() {
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
        let seen = batch.seen;
        writer.last.retain(|_, (_, made)| *made > seen);
        let mut entries = std::mem::take(&mut unwritten);
        for (key, owed) in batch.entries {
            crate::writer::add(&mut entries, key, owed);
        }
        let mut written = Written::default();
        unwritten = writer.write(entries, &mut written.outcomes).await;
        if unwritten.is_empty() {
            backoff.reset();
        } else {
            warn!(
                entries = unwritten.len(),
                "registrations not written, trying again"
            );
        }
        written.waiting = batch.waiting;
        // The owner ends before us only at the end.
        drop(news.send(News::Written(written)).await);
        if last {
            if !unwritten.is_empty() {
                error!(
                    entries = unwritten.len(),
                    "registrations lost: not written before the end"
                );
            }
            writer.member.leave().await;
            return;
        }
    }
}

impl Writer {
    /// Writes all of it; gives what could not be written.
    async fn write(
        &mut self,
        entries: Entries,
        outcomes: &mut BTreeMap<String, (u64, Outcome)>,
    ) -> Entries {
        let mut parts: Vec<Part<'_>> = parts(entries)
            .into_iter()
            .map(|left| Part {
                member: &self.member,
                last: &self.last,
                left,
                ours: BTreeMap::new(),
                done: Vec::new(),
            })
            .collect();
        // Several at once, since the store lets writers that wait share one sync.
        let mut results = Vec::with_capacity(parts.len());
        for some in parts.chunks_mut(PARTS_AT_ONCE) {
            results.extend(join_all(some.iter_mut().map(Part::write)).await);
        }
        let ended = parts.into_iter().map(|part| (part.left, part.done));
        let ended: Vec<_> = ended.zip(results).collect();
        let mut unwritten = Entries::new();
        for ((left, done), result) in ended {
            for (key, (owed, outcome)) in done {
                if let Outcome::Wrote(at) = outcome {
                    let there = owed.entry.value.is_some();
                    let made = if there { at } else { Revision(0) };
                    self.last.insert(key.clone(), (owed.base, made));
                }
                outcomes.insert(key, (owed.write, outcome));
            }
            let Err(error) = result else { continue };
            let error = in_words(error);
            for (key, mut owed) in left {
                outcomes.insert(key.clone(), (owed.write, Outcome::Failed(error.clone())));
                // Our own sign of life follows nothing.
                owed.guarded = key != self.member.key;
                unwritten.insert(key, owed);
            }
        }
        unwritten
    }
}

/// One transaction's worth.
struct Part<'w> {
    member: &'w Membership,
    last: &'w BTreeMap<String, (Revision, Revision)>,
    left: Entries,
    /// Versions that we wrote ourselves, when we were not told so.
    ours: BTreeMap<String, Revision>,
    done: Vec<(String, (Owed, Outcome))>,
}

impl Part<'_> {
    /// Writes it; what could not be written is left.
    async fn write(&mut self) -> Result<(), StoreError> {
        self.look().await?;
        while !self.left.is_empty() {
            let lease = self.member.lease();
            let reply = match self.member.store.commit(self.transaction()).await {
                // Our key was to be written, on a lease that has ended.
                Err(StoreError::LeaseNotFound(_)) => {
                    self.member.join_again(lease).await?;
                    continue;
                }
                reply => reply?,
            };
            if reply.held {
                self.wrote(reply.revision, reply.replies);
                break;
            }
            let mut there = reply.replies.into_iter().map(|reply| match reply {
                OpReply::Got(items) => items.into_iter().next(),
                OpReply::Put(_) | OpReply::Deleted(_) => None,
            });
            if there.next().flatten().is_none() {
                self.member.join_again(lease).await?;
            }
            // In the order of the transaction's questions.
            for (key, present) in self.guarded().into_iter().zip(there) {
                self.compare(key, present);
            }
        }
        Ok(())
    }

    /// What follows a creation of ours that may not have happened is never created by
    /// itself: its client was told that it failed, and somebody may have removed it.
    async fn look(&mut self) -> Result<(), StoreError> {
        for key in self.guarded() {
            let Some(owed) = self.left.get(&key) else {
                continue;
            };
            if self.base(&key, owed) != Revision(0) || owed.entry.value.is_none() {
                continue;
            }
            match self.member.store.get(&key[..]).await? {
                None => self.finish(&key, Outcome::Raced(None)),
                present => self.compare(key, present),
            }
        }
        Ok(())
    }

    fn guarded(&self) -> Vec<String> {
        let guarded = self.left.iter().filter(|(_, owed)| owed.guarded);
        guarded.map(|(key, _)| key.clone()).collect()
    }

    /// The revision that a guarded entry must follow.
    fn base(&self, key: &str, owed: &Owed) -> Revision {
        match (self.ours.get(key), self.last.get(key)) {
            (Some(ours), _) => *ours,
            (None, Some((followed, made))) if *followed == owed.base => *made,
            (None, _) => owed.base,
        }
    }

    /// Compares what is there with what an entry was to follow.
    fn compare(&mut self, key: String, present: Option<Arc<KeyValue>>) {
        let Some(owed) = self.left.get(&key) else {
            return;
        };
        let at = present.as_ref().map(|present| present.mod_revision);
        let outcome = match &present {
            // Written before, when its answer was lost.
            Some(present) if owed.entry.value.as_deref() == Some(present.value.as_bytes()) => {
                Outcome::Wrote(present.mod_revision)
            }
            None if owed.entry.value.is_none() => Outcome::Nothing,
            _ if at.unwrap_or_default() == self.base(&key, owed) => return,
            Some(present) if stored::is_of(&present.value, &self.member.name) => {
                self.ours.insert(key, present.mod_revision);
                return;
            }
            _ => Outcome::Raced(at),
        };
        self.finish(&key, outcome);
    }

    fn finish(&mut self, key: &str, outcome: Outcome) {
        if let Some((key, owed)) = self.left.remove_entry(key) {
            self.done.push((key, (owed, outcome)));
        }
    }

    fn wrote(&mut self, at: Revision, replies: Vec<OpReply>) {
        for ((key, owed), reply) in std::mem::take(&mut self.left).into_iter().zip(replies) {
            let nothing = matches!(&reply, OpReply::Deleted(gone) if gone.is_empty());
            let outcome = match nothing {
                true => Outcome::Nothing,
                false => Outcome::Wrote(at),
            };
            self.done.push((key, (owed, outcome)));
        }
    }

    fn transaction(&self) -> Txn {
        let member = self.member;
        let ops = self.left.iter().map(|(key, owed)| match &owed.entry.value {
            Some(_) if *key == member.key => member.sign_of_life(),
            Some(value) => Op::put(&key[..], &value[..]),
            None => Op::Delete(Span::from(&key[..])),
        });
        let get = |key: &str| Op::Get(Span::Key(Key::from(key)));
        let mut questions = vec![get(&member.key)];
        let mut txn = Txn::of(ops.collect::<Vec<_>>());
        // Asking for a revision must work after our key is gone, too.
        if !self.left.contains_key(&member.key) {
            txn = txn.when(&member.key[..], Test::Exists);
        }
        for (key, owed) in self.left.iter().filter(|(_, owed)| owed.guarded) {
            let test = match self.base(key, owed) {
                Revision(0) => Test::Missing,
                base => Test::ModRevision(Order::Equal, base),
            };
            txn = txn.when(&key[..], test);
            questions.push(get(key));
        }
        txn.or_else(questions)
    }
}

/// Entries in as few transactions as the limits allow.
fn parts(entries: Entries) -> Vec<Entries> {
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (Entries::new(), 0);
    for (key, owed) in entries {
        let Entry { key: name, value } = &owed.entry;
        let size = name.len() + value.as_ref().map_or(0, Vec::len);
        if part.len() == TXN_KEYS_MAX || bytes + size > TXN_BYTES_MAX {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.insert(key, owed);
    }
    parts.push(part);
    parts
}

fn in_words(error: StoreError) -> RegistryError {
    match error {
        StoreError::Unavailable { .. } => RegistryError::Away,
        error => RegistryError::NotDurable(JournalError(error.to_string())),
    }
}
