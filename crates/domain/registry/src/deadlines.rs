//! When checks change by themselves: what is told falls silent, what is critical for
//! long takes its instance along.
//!
//! As with leases, an entry is not moved when its time changes: when that has come,
//! the check tells whether it meant it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::record::Checked;
use crate::schedule::Target;

/// Entries before stale ones are looked for.
const TIDY_LEAST: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    queue: BinaryHeap<Reverse<(Instant, Target)>>,
    tidy_at: usize,
}

impl Deadlines {
    /// Sees to it that something happens when the check is due.
    pub(crate) fn arm(&mut self, target: Target, checked: &mut Checked) {
        let Some(at) = checked.due() else { return };
        if checked.queued.is_none_or(|queued| at < queued) {
            checked.queued = Some(at);
            self.queue.push(Reverse((at, target)));
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out one whose time has come; it may be stale.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(Instant, Target)> {
        if self.next_due()? > now {
            return None;
        }
        self.queue.pop().map(|Reverse(entry)| entry)
    }

    /// Drops, now and then, the entries of whom `is_current` does not know.
    pub(crate) fn tidy(&mut self, is_current: impl Fn(&Target) -> bool) {
        if self.queue.len() > self.tidy_at.max(TIDY_LEAST) {
            self.queue.retain(|Reverse((_, target))| is_current(target));
            self.tidy_at = 2 * self.queue.len();
        }
    }
}
