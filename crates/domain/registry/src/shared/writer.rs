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
use crate::writer::Batch;
use crate::{Entry, JournalError, RegistryError};

/// Keys of one transaction: below the store's limit of each of its lists, our own key
/// among the comparisons.
const TXN_KEYS_MAX: usize = 100;
/// Bytes of one: a record has some 40 KiB at most.
const TXN_BYTES_MAX: usize = atoll_store::REQUEST_BYTES_MAX / 2;
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
        let parts = parts(entries);
        let last = &self.last;
        let member = &self.member;
        let all = join_all(parts.into_iter().map(|part| write_part(member, last, part))).await;
        let mut unwritten = Entries::new();
        for (part, done, error) in all {
            for (key, (owed, outcome)) in done {
                if let Outcome::Wrote(at) = outcome {
                    let made = if owed.entry.value.is_some() {
                        at
                    } else {
                        Revision(0)
                    };
                    self.last.insert(key.clone(), (owed.base, made));
                }
                outcomes.insert(key, (owed.write, outcome));
            }
            let Some(error) = error else { continue };
            for (key, mut owed) in part {
                outcomes.insert(key.clone(), (owed.write, Outcome::Failed(error.clone())));
                owed.guarded = true;
                unwritten.insert(key, owed);
            }
        }
        unwritten
    }
}

type Done = Vec<(String, (Owed, Outcome))>;

/// Writes one transaction's worth; gives what is left of it, what is done, and why the
/// rest is left.
async fn write_part(
    member: &Membership,
    last: &BTreeMap<String, (Revision, Revision)>,
    mut part: Entries,
) -> (Entries, Done, Option<RegistryError>) {
    let mut done = Done::new();
    while !part.is_empty() {
        let txn = transaction(member, last, &part);
        let reply = match member.store.commit(txn).await {
            Ok(reply) => reply,
            // Our key was to be written, on a lease that has ended.
            Err(StoreError::LeaseNotFound(_)) => match member.join_again().await {
                Ok(()) => continue,
                Err(error) => return (part, done, Some(in_words(error))),
            },
            Err(error) => return (part, done, Some(in_words(error))),
        };
        if reply.held {
            let replies = reply.replies.into_iter();
            for ((key, owed), reply_of_key) in std::mem::take(&mut part).into_iter().zip(replies) {
                let nothing = matches!(&reply_of_key, OpReply::Deleted(gone) if gone.is_empty());
                let outcome = match nothing {
                    true => Outcome::Nothing,
                    false => Outcome::Wrote(reply.revision),
                };
                done.push((key, (owed, outcome)));
            }
            break;
        }
        let mut there = reply.replies.into_iter().map(|reply| match reply {
            OpReply::Got(items) => items.into_iter().next(),
            OpReply::Put(_) | OpReply::Deleted(_) => None,
        });
        if there.next().flatten().is_none()
            && let Err(error) = member.join_again().await
        {
            return (part, done, Some(in_words(error)));
        }
        // Guarded entries, in the order of the transaction's questions.
        let guarded = part.iter().filter(|(_, owed)| owed.guarded);
        let guarded: Vec<String> = guarded.map(|(key, _)| key.clone()).collect();
        for (key, present) in guarded.into_iter().zip(there) {
            let Some(owed) = part.get(&key) else { continue };
            let outcome = match &present {
                // Written before, when its answer was lost.
                Some(present) if is(present, owed) => Outcome::Wrote(present.mod_revision),
                None if owed.entry.value.is_none() => Outcome::Nothing,
                present if revision_of(present.as_deref()) == base_of(last, &key, owed) => continue,
                present => Outcome::Raced(present.as_ref().map(|present| present.mod_revision)),
            };
            if let Some(owed) = part.remove(&key) {
                done.push((key, (owed, outcome)));
            }
        }
    }
    (part, done, None)
}

fn is(present: &KeyValue, owed: &Owed) -> bool {
    owed.entry.value.as_deref() == Some(present.value.as_bytes())
}

fn revision_of(present: Option<&KeyValue>) -> Revision {
    present.map_or(Revision(0), |present| present.mod_revision)
}

/// The revision that a guarded entry must follow.
fn base_of(last: &BTreeMap<String, (Revision, Revision)>, key: &str, owed: &Owed) -> Revision {
    match last.get(key) {
        Some((followed, made)) if *followed == owed.base => *made,
        _ => owed.base,
    }
}

fn transaction(
    member: &Membership,
    last: &BTreeMap<String, (Revision, Revision)>,
    part: &Entries,
) -> Txn {
    let ops = part.iter().map(|(key, owed)| match &owed.entry.value {
        Some(_) if *key == member.key => member.sign_of_life(),
        Some(value) => Op::put(&key[..], &value[..]),
        None => Op::Delete(Span::from(&key[..])),
    });
    let get = |key: &str| Op::Get(Span::Key(Key::from(key)));
    let mut questions = vec![get(&member.key)];
    // Asking for a revision must work after our key is gone, too.
    let mut txn = Txn::of(ops.collect::<Vec<_>>());
    if !part.contains_key(&member.key) {
        txn = txn.when(&member.key[..], Test::Exists);
    }
    for (key, owed) in part.iter().filter(|(_, owed)| owed.guarded) {
        let base = base_of(last, key, owed);
        let test = match base {
            Revision(0) => Test::Missing,
            base => Test::ModRevision(Order::Equal, base),
        };
        txn = txn.when(&key[..], test);
        questions.push(get(key));
    }
    txn.or_else(questions)
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
