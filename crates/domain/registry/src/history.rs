//! The last changes of the catalogue, so that a watcher that was away for a moment
//! need not read everything again.

use std::collections::VecDeque;
use std::sync::Arc;

use atoll_model::{Instance, InstanceId, Revision, ServiceName};

/// Changes kept. A watcher that is further behind is given everything again.
const CHANGES_MAX: usize = 8192;

/// One change of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The instance is new or different.
    Put(Arc<Instance>),
    /// The instance is gone.
    Gone {
        /// Its service.
        service: ServiceName,
        /// Its id.
        id: InstanceId,
    },
}

/// A bounded list of changes, each with the revision that made it.
#[derive(Debug)]
pub(crate) struct History {
    changes: VecDeque<(Revision, Change)>,
    /// Every change after this revision is in `changes`.
    floor: Revision,
}

impl History {
    pub(crate) fn new(floor: Revision) -> Self {
        Self {
            changes: VecDeque::new(),
            floor,
        }
    }

    pub(crate) fn push(&mut self, revision: Revision, change: Change) {
        self.changes.push_back((revision, change));
        // A revision is kept whole or not at all.
        while self.changes.len() > CHANGES_MAX {
            let Some((oldest, _)) = self.changes.pop_front() else {
                return;
            };
            self.floor = oldest;
        }
    }

    /// What changed after `since`; `None` when that is not known any more.
    pub(crate) fn since(&self, since: Revision, current: Revision) -> Option<Vec<Change>> {
        if since < self.floor || since > current {
            return None;
        }
        let from = self.changes.partition_point(|(at, _)| *at <= since);
        Some(self.changes.range(from..).map(|(_, c)| c.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(number: usize) -> Change {
        Change::Gone {
            service: "users".parse().unwrap(),
            id: format!("u{number}").parse().unwrap(),
        }
    }

    #[test]
    fn changes_after_a_revision_are_given_until_they_fall_out() {
        let mut history = History::new(Revision(10));
        for number in 0..CHANGES_MAX {
            history.push(Revision(11 + number as u64 / 2), gone(number));
        }
        let current = Revision(11 + (CHANGES_MAX as u64 - 1) / 2);
        assert_eq!(history.since(current, current), Some(vec![]));
        assert_eq!(
            history.since(Revision(10), current).unwrap().len(),
            CHANGES_MAX
        );
        assert_eq!(history.since(Revision(9), current), None);
        assert_eq!(history.since(Revision(current.0 + 1), current), None);

        // Half of revision 11 falls out, so a watcher at 10 must begin again.
        history.push(current, gone(CHANGES_MAX));
        assert_eq!(history.since(Revision(10), current), None);
        assert_eq!(
            history.since(Revision(11), current).unwrap().len(),
            CHANGES_MAX - 1
        );
    }
}
