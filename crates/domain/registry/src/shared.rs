//! The registry's tasks over a store that other processes of Atoll share: being one of
//! them ([`member`]), hearing what is written ([`feed`]), writing ([`writer`]). What it
//! all means is in `state/shared.rs`.

pub(crate) mod feed;
pub(crate) mod member;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};

use atoll_model::Revision;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::RegistryError;
use crate::state::Event;
use crate::state::shared::Fed;
use crate::writer::{Awaited, Reply};

/// News that wait for the owner; then the feed and the writer wait. One is a revision of
/// the store or a batch of writes.
pub(crate) const NEWS_MAX: usize = 1024;

/// Keys that the feed is to look at; more wait with the owner.
pub(crate) const LOOKS_MAX: usize = 256;

/// What the owner is told.
#[derive(Debug)]
pub(crate) enum News {
    /// What one revision changed.
    Changes(Revision, Vec<Fed>),
    /// All there is: something may have been missed before.
    All(Revision, Vec<Fed>),
    /// Whether the store is away.
    Away(bool),
    /// What came of a batch.
    Written(Written),
}

/// What came of a batch.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Of each key, by which of our writes.
    pub(crate) outcomes: BTreeMap<String, (u64, Outcome)>,
    /// Who waits for which key.
    pub(crate) waiting: Vec<(Reply, Awaited)>,
}

/// Something to be done anew, since another process wrote at the same time.
#[derive(Debug)]
pub(crate) struct Again {
    /// Once this revision is taken in.
    pub(crate) after: Revision,
    pub(crate) event: Event,
    pub(crate) reply: Reply,
}

/// What came of the write of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is there, at this revision, which the store will tell of.
    Wrote(Revision),
    /// There was nothing to delete; the store will tell of nothing.
    Nothing,
    /// Another process wrote first: the revision of what it wrote, which the store will
    /// tell of; none when it deleted.
    Raced(Option<Revision>),
    /// It could not be written; it will be tried again.
    Failed(RegistryError),
}

/// The owner's side of it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) news: mpsc::Receiver<News>,
    /// The key by which a revision is asked for.
    pub(crate) bump: String,
    /// Who waits for a revision of the store to be shown.
    pub(crate) waiting: BTreeMap<Revision, Vec<Reply>>,
    /// Who waits for changes that are not kept to be shown.
    pub(crate) bumped: Vec<Reply>,
    /// What is to be done anew.
    pub(crate) again: Vec<Again>,
    /// Keys that others wrote when we wanted to, and what the store tells of them may have
    /// been taken for our own doing: the feed looks once more.
    pub(crate) doubts: BTreeSet<String>,
    look: mpsc::Sender<String>,
}

impl Link {
    pub(crate) fn new(
        news: mpsc::Receiver<News>,
        look: mpsc::Sender<String>,
        bump: String,
    ) -> Self {
        Self {
            news,
            bump,
            waiting: BTreeMap::new(),
            bumped: Vec::new(),
            again: Vec::new(),
            doubts: BTreeSet::new(),
            look,
        }
    }

    /// Has the feed look at what is in doubt, as much as it takes at once.
    pub(crate) fn resolve(&mut self) {
        while let Some(key) = self.doubts.pop_first() {
            if let Err(TrySendError::Full(key)) = self.look.try_send(key) {
                self.doubts.insert(key);
                return;
            }
        }
    }

    /// Notes who waits for which revision, and answers those who need not wait.
    pub(crate) fn written(
        &mut self,
        outcomes: &BTreeMap<String, (u64, Outcome)>,
        waiting: Vec<(Reply, Awaited)>,
    ) {
        for (reply, awaited) in waiting {
            let Awaited::Key(key, event) = awaited else {
                continue;
            };
            let result = match outcomes.get(&key).map(|(_, outcome)| outcome) {
                Some(Outcome::Wrote(at)) => {
                    self.waiting.entry(*at).or_default().push(reply);
                    continue;
                }
                // No revision tells of it, so there is none to wait for.
                Some(Outcome::Nothing) => Ok(Revision(0)),
                Some(Outcome::Failed(error)) => Err(error.clone()),
                Some(Outcome::Raced(Some(after))) if let Some(event) = event => {
                    let (after, event) = (*after, *event);
                    self.again.push(Again {
                        after,
                        event,
                        reply,
                    });
                    continue;
                }
                Some(Outcome::Raced(_)) | None => Err(RegistryError::Raced { key }),
            };
            // Who asked may have gone away.
            drop(reply.send(result));
        }
    }

    /// Answers those who wait for a revision up to `fed`; all of them with none.
    pub(crate) fn answer(&mut self, fed: Option<Revision>) {
        while let Some(entry) = self.waiting.first_entry() {
            if fed.is_some_and(|fed| *entry.key() > fed) {
                return;
            }
            let (revision, replies) = entry.remove_entry();
            for reply in replies {
                // Who asked may have gone away.
                drop(reply.send(Ok(revision)));
            }
        }
    }
}
