//! The changes of the last while, as etcd's one watch of our whole prefix told them:
//! what all our watches read, so that ten thousand of them cost etcd one.
//!
//! Bounded: the oldest go first, and a watch that was still there is told that it
//! lags.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use atoll_model::Revision;
use tokio::sync::watch;

use crate::{Changes, Event, KeyValue, Span};

/// Revisions that are kept, as the embedded store does: a watch that is 10 s late at
/// 1,000 writes/s goes on without a resync.
const REVISIONS_MAX: usize = 10_000;
/// Bytes of their keys and values.
const BYTES_MAX: usize = 32 * 1_024 * 1_024;

pub(crate) struct Feed {
    history: Mutex<History>,
    /// Moves with every change of the history; closed when it ends.
    moved: watch::Sender<()>,
}

struct History {
    kept: VecDeque<Changes>,
    bytes: usize,
    /// Everything after it is kept.
    floor: Revision,
    /// Everything up to it has been told by etcd.
    at: Revision,
    /// Up to where history was dropped in etcd, as far as we know.
    compacted: Revision,
    /// Counts how often etcd's revisions began anew.
    epoch: u64,
    closed: bool,
}

/// What a watch finds at its place.
pub(crate) enum Look {
    /// The next changes of its span.
    Changes(Changes),
    /// None up to here.
    Nothing(Revision),
    /// What came after its place is gone, up to here.
    Gone(Revision),
    /// There will be no more.
    Closed,
}

impl Feed {
    /// Empty; everything after `at` is to come.
    pub(crate) fn new(at: Revision) -> Self {
        Self {
            history: Mutex::new(History {
                kept: VecDeque::new(),
                bytes: 0,
                floor: at,
                at,
                compacted: Revision::default(),
                epoch: 0,
                closed: false,
            }),
            moved: watch::Sender::new(()),
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Nothing that is done under the lock can leave it half-changed.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    pub(crate) fn at(&self) -> Revision {
        self.history().at
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.history().epoch
    }

    /// Whether a watch may begin after `at`, or go on there.
    pub(crate) fn holds(&self, at: Revision) -> bool {
        let history = self.history();
        at >= history.floor && at >= history.compacted
    }

    /// The first changes of `span` after `at`.
    pub(crate) fn look(&self, at: Revision, epoch: u64, span: &Span) -> Look {
        let history = self.history();
        if history.closed {
            return Look::Closed;
        }
        if history.epoch != epoch || at < history.floor {
            return Look::Gone(history.floor);
        }
        let first = history.kept.partition_point(|one| one.revision <= at);
        let mut later = history.kept.range(first..);
        match later.find_map(|changes| cut(changes, span)) {
            Some(changes) => Look::Changes(changes),
            None => Look::Nothing(history.at.max(at)),
        }
    }

    /// Takes up what comes next.
    pub(crate) fn push(&self, changes: Changes) {
        let mut history = self.history();
        debug_assert!(changes.revision > history.at, "told once, in order");
        history.at = changes.revision;
        history.bytes += bytes(&changes.events);
        history.kept.push_back(changes);
        // The last stays, however large: nobody could have seen it yet.
        while history.kept.len() > 1
            && (history.kept.len() > REVISIONS_MAX || history.bytes > BYTES_MAX)
            && let Some(oldest) = history.kept.pop_front()
        {
            history.bytes -= bytes(&oldest.events);
            history.floor = oldest.revision;
        }
        drop(history);
        self.moved.send_replace(());
    }

    /// Nothing more changed up to `at`.
    pub(crate) fn advance(&self, at: Revision) {
        let mut history = self.history();
        history.at = history.at.max(at);
    }

    /// etcd has dropped what we had not seen yet; all after `at` is to come.
    pub(crate) fn skip_to(&self, at: Revision) {
        self.restart(at, false);
    }

    /// etcd's revisions began anew, as after a restored backup: no place of any
    /// watch means anything any more.
    pub(crate) fn begin_anew(&self, at: Revision) {
        self.restart(at, true);
    }

    fn restart(&self, at: Revision, anew: bool) {
        let mut history = self.history();
        history.kept.clear();
        history.bytes = 0;
        history.floor = at;
        history.at = at;
        if anew {
            history.epoch += 1;
            history.compacted = Revision::default();
        }
        drop(history);
        self.moved.send_replace(());
    }

    /// Watches that begin before `at` are for etcd to refuse from now on.
    pub(crate) fn note_compacted(&self, at: Revision) {
        let mut history = self.history();
        history.compacted = history.compacted.max(at);
    }

    pub(crate) fn close(&self) {
        self.history().closed = true;
        self.moved.send_replace(());
    }
}

/// What of the changes is in the span.
fn cut(changes: &Changes, span: &Span) -> Option<Changes> {
    let within = |event: &&Event| span.holds(&event.key);
    let count = changes.events.iter().filter(within).count();
    if count == 0 {
        return None;
    }
    if count == changes.events.len() {
        return Some(changes.clone());
    }
    Some(Changes {
        revision: changes.revision,
        events: changes.events.iter().filter(within).cloned().collect(),
    })
}

fn bytes(events: &[Event]) -> usize {
    let size = |kv: &KeyValue| kv.key.len() + kv.value.len();
    let both = |event: &Event| {
        let after = event.after.as_deref().map_or(0, size);
        event.key.len() + after + event.before.as_deref().map_or(0, size)
    };
    events.iter().map(both).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(revision: u64, value_bytes: usize) -> Changes {
        let kv = KeyValue {
            key: "k".into(),
            value: vec![0; value_bytes].into(),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            version: 1,
            lease: None,
        };
        let event = Event {
            key: "k".into(),
            after: Some(std::sync::Arc::new(kv)),
            before: None,
        };
        Changes {
            revision: Revision(revision),
            events: [event].into(),
        }
    }

    fn look(feed: &Feed, at: u64) -> Result<u64, Revision> {
        match feed.look(Revision(at), 0, &Span::all()) {
            Look::Changes(changes) => Ok(changes.revision.0),
            Look::Nothing(_) => Ok(0),
            Look::Gone(floor) => Err(floor),
            Look::Closed => panic!("closed"),
        }
    }

    #[test]
    fn the_oldest_go_first_and_a_watch_that_was_there_is_told() {
        let feed = Feed::new(Revision(10));
        for revision in 11..=10 + REVISIONS_MAX as u64 {
            feed.push(changes(revision, 1));
        }
        assert_eq!(look(&feed, 10), Ok(11));
        feed.push(changes(20_000, 1));
        assert_eq!(look(&feed, 10), Err(Revision(11)));
        assert!(!feed.holds(Revision(10)) && feed.holds(Revision(11)));
        assert_eq!(look(&feed, 11), Ok(12));
    }

    #[test]
    fn large_changes_are_kept_for_fewer_revisions_but_the_last_always() {
        let feed = Feed::new(Revision(0));
        for revision in 1..=3 {
            feed.push(changes(revision, BYTES_MAX / 2));
        }
        assert_eq!(look(&feed, 1), Err(Revision(2)));
        assert_eq!(look(&feed, 2), Ok(3));
        feed.push(changes(4, BYTES_MAX + 1));
        assert_eq!(look(&feed, 3), Ok(4));
    }

    #[test]
    fn revisions_that_begin_anew_end_every_watch() {
        let feed = Feed::new(Revision(100));
        feed.begin_anew(Revision(7));
        assert_eq!(look(&feed, 100), Err(Revision(7)));
        assert_eq!(feed.at(), Revision(7));
        assert_eq!(feed.epoch(), 1);
    }
}
