//! The changes of the last while, as etcd's one watch of our whole prefix told them:
//! what all our watches read, so that ten thousand of them cost etcd one.
//!
//! Bounded: the oldest go first, and a watch that was still there is told that it
//! lags. What is mirrored is brought up to date here, too, before any watch is told: who
//! was told a change finds it there when etcd is away.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_model::Revision;
use tokio::sync::watch;

use super::mirror::Mirror;
use crate::{Changes, Event, KeyValue, Range, Snapshot, Span};

/// Revisions that are kept, as the embedded store does: a watch that is 10 s late at
/// 1,000 writes/s goes on without a resync.
const REVISIONS_MAX: usize = 10_000;
/// Bytes of their keys and values.
const BYTES_MAX: usize = 32 * 1_024 * 1_024;

pub(crate) struct Feed {
    history: Mutex<History>,
    /// Moves with every change of the history; closed when it ends.
    moved: watch::Sender<()>,
    /// Moves when what is mirrored has to be read again.
    restarted: watch::Sender<()>,
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
    mirrors: Vec<Mirror>,
    closed: bool,
}

/// A mirror that has to be read.
pub(crate) struct Wanted {
    number: usize,
    epoch: u64,
    pub(crate) prefix: Vec<u8>,
    pub(crate) bytes_max: usize,
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
    pub(crate) fn new(at: Revision, mirrors: Vec<Mirror>) -> Self {
        Self {
            history: Mutex::new(History {
                kept: VecDeque::new(),
                bytes: 0,
                floor: at,
                at,
                compacted: Revision::default(),
                epoch: 0,
                mirrors,
                closed: false,
            }),
            moved: watch::Sender::new(()),
            restarted: watch::Sender::new(()),
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
        for mirror in &mut history.mirrors {
            mirror.apply(&changes);
        }
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
        let known = history.at;
        for mirror in &mut history.mirrors {
            match anew {
                true => mirror.forget(),
                false => mirror.fall_behind(known),
            }
        }
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
        self.restarted.send_replace(());
    }

    /// Moves when what is mirrored has to be read again.
    pub(crate) fn restarted(&self) -> watch::Receiver<()> {
        self.restarted.subscribe()
    }

    /// What of the mirrors has to be read.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        let history = self.history();
        let number = history.mirrors.iter().position(Mirror::wants)?;
        let mirror = history.mirrors.get(number)?;
        Some(Wanted {
            number,
            epoch: history.epoch,
            prefix: mirror.prefix().to_vec(),
            bytes_max: mirror.bytes_max(),
        })
    }

    /// Fills a mirror with what was read at `at`; false when what happened since is not
    /// known any more.
    pub(crate) fn fill(&self, wanted: &Wanted, at: Revision, items: Vec<Arc<KeyValue>>) -> bool {
        let mut history = self.history();
        if history.epoch != wanted.epoch || at < history.floor {
            return false;
        }
        let History { kept, mirrors, .. } = &mut *history;
        let Some(mirror) = mirrors.get_mut(wanted.number) else {
            return false;
        };
        mirror.fill(at, items);
        for changes in kept.iter() {
            mirror.apply(changes);
        }
        true
    }

    /// Whether the span is mirrored.
    pub(crate) fn mirrors(&self, span: &Span) -> bool {
        let history = self.history();
        history.mirrors.iter().any(|mirror| mirror.covers(span))
    }

    /// The range as it was last known, if it is mirrored and was read.
    pub(crate) fn recall(&self, range: &Range) -> Option<Snapshot> {
        let history = self.history();
        let mut mirrors = history.mirrors.iter();
        let mirror = mirrors.find(|mirror| mirror.covers(&range.span))?;
        mirror.read(range, history.at)
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
            after: Some(Arc::new(kv)),
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
        let feed = Feed::new(Revision(10), Vec::new());
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
        let feed = Feed::new(Revision(0), Vec::new());
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
        let feed = Feed::new(Revision(100), Vec::new());
        feed.begin_anew(Revision(7));
        assert_eq!(look(&feed, 100), Err(Revision(7)));
        assert_eq!(feed.at(), Revision(7));
        assert_eq!(feed.epoch(), 1);
    }

    fn mirrored(feed: &Feed) -> Vec<u64> {
        let found = feed.recall(&Range::of("k")).unwrap();
        let items = found.items.iter().map(|item| item.mod_revision.0);
        items.chain([found.revision.0]).collect()
    }

    #[test]
    fn what_was_told_while_a_mirror_was_read_is_in_it() {
        let feed = Feed::new(Revision(0), vec![Mirror::new("k", 1_000)]);
        let wanted = feed.wanted().unwrap();
        feed.push(changes(1, 1));
        feed.push(changes(2, 1));
        let items = vec![changes(1, 1).events[0].after.clone().unwrap()];
        assert!(feed.fill(&wanted, Revision(1), items));
        assert!(feed.wanted().is_none());
        assert_eq!(mirrored(&feed), [2, 2]);
        feed.advance(Revision(9));
        assert_eq!(mirrored(&feed), [2, 9]);
    }

    #[test]
    fn a_mirror_that_was_read_too_long_ago_or_in_another_life_is_read_again() {
        let feed = Feed::new(Revision(0), vec![Mirror::new("k", 1_000)]);
        let wanted = feed.wanted().unwrap();
        feed.skip_to(Revision(5));
        assert!(!feed.fill(&wanted, Revision(4), Vec::new()));
        assert!(feed.fill(&wanted, Revision(5), Vec::new()));
        feed.push(changes(6, 1));
        feed.skip_to(Revision(10));
        assert_eq!(mirrored(&feed), [6, 6], "the last that is known");
        let wanted = feed.wanted().unwrap();
        feed.begin_anew(Revision(3));
        assert!(feed.recall(&Range::of("k")).is_none());
        assert!(!feed.fill(&wanted, Revision(11), Vec::new()));
        assert!(feed.fill(&feed.wanted().unwrap(), Revision(3), Vec::new()));
        assert_eq!(mirrored(&feed), [3]);
    }
}
