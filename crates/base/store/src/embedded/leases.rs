//! When each lease ends. Pure but for the lock: given `now`, never on disk.
//!
//! A lease lives, then is *ending* (its time is up and its keys are being deleted;
//! a keep-alive comes too late), then is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::{Lease, LeaseId};

#[derive(Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<LeaseId, Entry>,
    /// When to look at which lease. A keep-alive moves only `Entry::ends`, so that
    /// it costs one look-up; what is found too early here is put back.
    due: BTreeSet<(Instant, LeaseId)>,
}

struct Entry {
    ttl: Duration,
    ends: Instant,
    /// Where it stands in `due`, unless it is ending.
    due: Instant,
    ending: bool,
}

impl Leases {
    /// A lease that ends after its time to live and `grace`.
    pub(crate) fn insert(&mut self, lease: Lease, grace: Duration, now: Instant) {
        let ends = after(now, lease.ttl.saturating_add(grace));
        let entry = Entry {
            ttl: lease.ttl,
            ends,
            due: ends,
            ending: false,
        };
        self.remove(lease.id);
        self.by_id.insert(lease.id, entry);
        self.due.insert((ends, lease.id));
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        // Out of `due`, too: it may have had a century.
        if let Some(entry) = self.by_id.remove(&id) {
            self.due.remove(&(entry.due, id));
        }
    }

    pub(crate) fn lives(&self, id: LeaseId) -> bool {
        self.by_id.get(&id).is_some_and(|entry| !entry.ending)
    }

    /// The leases that live.
    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        let living = self.by_id.iter().filter(|(_, entry)| !entry.ending);
        living.map(|(id, _)| *id).collect()
    }

    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Option<Lease> {
        let entry = self.by_id.get_mut(&id).filter(|entry| !entry.ending)?;
        // The grace after a restart is not taken away by the first keep-alive.
        entry.ends = entry.ends.max(after(now, entry.ttl));
        Some(Lease { id, ttl: entry.ttl })
    }

    /// The lease and what is left of it.
    pub(crate) fn remaining(&self, id: LeaseId, now: Instant) -> Option<(Lease, Duration)> {
        let entry = self.by_id.get(&id).filter(|entry| !entry.ending)?;
        let left = entry.ends.saturating_duration_since(now);
        Some((Lease { id, ttl: entry.ttl }, left))
    }

    /// Begins to end those whose time is up, and tells which.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<LeaseId> {
        let mut expired = Vec::new();
        while let Some((due, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, id));
            let Some(entry) = self.by_id.get_mut(&id).filter(|entry| !entry.ending) else {
                continue;
            };
            if entry.ends > now {
                entry.due = entry.ends;
                self.due.insert((entry.due, id));
            } else {
                entry.ending = true;
                expired.push(id);
            }
        }
        expired
    }

    /// Those that are ending but whose keys are still there: deleting them failed.
    pub(crate) fn ending(&self) -> Vec<LeaseId> {
        let ending = self.by_id.iter().filter(|(_, entry)| entry.ending);
        ending.map(|(id, _)| *id).collect()
    }

    /// When to call [`Leases::expire`] next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }
}

/// `now + wait`, or a century from now if the clock cannot count so far.
fn after(now: Instant, wait: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    now.checked_add(wait).unwrap_or_else(|| now + CENTURY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn lease(id: u64) -> Lease {
        Lease {
            id: LeaseId(id),
            ttl: TTL,
        }
    }

    fn start() -> Instant {
        atoll_runtime::Clock::system().now()
    }

    #[test]
    fn a_lease_ends_after_its_time_and_a_keep_alive_is_then_too_late() {
        let (mut leases, now) = (Leases::default(), start());
        leases.insert(lease(1), Duration::ZERO, now);
        assert_eq!(leases.expire(now + TTL - Duration::from_millis(1)), []);
        assert_eq!(leases.expire(now + TTL), [LeaseId(1)]);
        assert_eq!(leases.keep_alive(LeaseId(1), now + TTL), None);
        assert_eq!(leases.ending(), [LeaseId(1)]);
    }

    #[test]
    fn a_kept_lease_is_looked_at_again_when_it_may_end() {
        let (mut leases, now) = (Leases::default(), start());
        leases.insert(lease(1), Duration::ZERO, now);
        leases.keep_alive(LeaseId(1), now + TTL / 2);
        assert_eq!(leases.expire(now + TTL), []);
        assert_eq!(leases.next_due(), Some(now + TTL + TTL / 2));
        assert_eq!(leases.expire(now + TTL * 2), [LeaseId(1)]);
    }

    #[test]
    fn leases_that_are_given_back_leave_nothing_behind() {
        let (mut leases, now) = (Leases::default(), start());
        for id in 1..=1000 {
            leases.insert(lease(id), TTL * 1000, now);
            leases.keep_alive(LeaseId(id), now + TTL);
            leases.remove(LeaseId(id));
        }
        assert_eq!((leases.by_id.len(), leases.due.len()), (0, 0));
        // Also one that was put back in the queue meanwhile.
        leases.insert(lease(1), Duration::ZERO, now);
        leases.keep_alive(LeaseId(1), now + TTL / 2);
        assert_eq!(leases.expire(now + TTL), []);
        leases.remove(LeaseId(1));
        assert_eq!(leases.next_due(), None);
    }

    #[test]
    fn the_first_keep_alive_does_not_shorten_the_grace() {
        let (mut leases, now) = (Leases::default(), start());
        leases.insert(lease(1), TTL * 5, now);
        leases.keep_alive(LeaseId(1), now);
        assert_eq!(leases.expire(now + TTL * 5), []);
        assert_eq!(leases.expire(now + TTL * 6), [LeaseId(1)]);
    }
}
