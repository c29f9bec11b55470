//! What may be said of each instance at each moment, as its client knows it.
//!
//! A client knows when it sent something and when it was answered, and what was not
//! answered may have been done or not. So there are two bounds for each lease: until
//! when it surely goes on, and until when it may. Between them anything is right.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::page::print;
use crate::speak::{CONSUL_DEREGISTERS_AFTER, Protocol, Who};

/// How late the end of a lease may be seen: Atoll's timers, and a machine that others
/// use, too.
const LATE: Duration = Duration::from_secs(3);

/// A list that takes longer tells of a machine on which nothing went on. Atoll forgives
/// silence in such a time as after a restart, when it is 5 s.
const STALL: Duration = Duration::from_secs(4);

/// Wrong things that are told one by one.
const TOLD_MAX: usize = 20;

/// What a client knows of one instance.
#[derive(Clone)]
struct Known {
    protocol: Protocol,
    lease: Duration,
    /// Its first registration was begun then.
    began: Instant,
    /// Its registration was acknowledged then.
    acknowledged: Option<Instant>,
    /// When the last acknowledged registration or renewal was sent.
    surely: Option<Instant>,
    /// The latest moment at which Atoll may have heard of it; `None` while a request is
    /// under way.
    perhaps: Option<Instant>,
    /// It began to leave.
    leaving: bool,
    /// Its leave was acknowledged then.
    left: Option<Instant>,
    /// It was never told completely, and must never be there.
    never: bool,
}

/// Counts of what was done and checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) registered: u64,
    pub(crate) renewed: u64,
    pub(crate) left: u64,
    pub(crate) vanished: u64,
    /// Requests without an answer.
    pub(crate) unanswered: u64,
    /// Connections that were dropped in the middle of a registration.
    pub(crate) cut: u64,
    pub(crate) lists: u64,
    /// Lists that took so long that Atoll may have thought that it had been stopped.
    pub(crate) stalls: u64,
    /// Instances that had to be in a list, and those that must not be.
    pub(crate) had_to_be: u64,
    pub(crate) must_not_be: u64,
    pub(crate) most: usize,
    pub(crate) wrong: Vec<String>,
    pub(crate) wrong_untold: u64,
}

#[derive(Debug)]
pub(crate) struct Model {
    grace: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<String, Known>,
    /// Of which something wrong was told.
    told: HashSet<String>,
    /// When Atoll was ready again, each time, be it after a stall.
    restarts: Vec<Instant>,
    tally: Tally,
}

impl Model {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            grace,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Instances that are there, or may be.
    pub(crate) fn len(&self) -> usize {
        let inner = self.lock();
        inner.known.values().filter(|known| !known.never).count()
    }

    pub(crate) fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    pub(crate) fn count(&self, add: impl FnOnce(&mut Tally)) {
        add(&mut self.lock().tally);
    }

    pub(crate) fn wrong_so_far(&self) -> usize {
        self.lock().tally.wrong.len()
    }

    /// Something did not hold.
    pub(crate) fn wrong(&self, what: String) {
        self.lock().wrong(what);
    }

    pub(crate) fn restarted(&self, at: Instant) {
        self.lock().restarts.push(at);
    }

    /// A registration is about to be sent, whole or in part.
    pub(crate) fn registers(&self, protocol: Protocol, who: &Who, whole: bool) {
        let mut inner = self.lock();
        let known = inner.known.entry(who.id.clone()).or_insert(Known {
            protocol,
            lease: who.lease,
            began: Instant::now(),
            acknowledged: None,
            surely: None,
            perhaps: None,
            leaving: false,
            left: None,
            never: !whole,
        });
        known.perhaps = None;
    }

    /// A renewal is about to be sent.
    pub(crate) fn renews(&self, id: &str) {
        if let Some(known) = self.lock().known.get_mut(id) {
            known.perhaps = None;
        }
    }

    /// A leave is about to be sent.
    pub(crate) fn leaves(&self, id: &str) {
        if let Some(known) = self.lock().known.get_mut(id) {
            known.leaving = true;
        }
    }

    /// A registration or renewal was acknowledged that was sent at `sent`.
    pub(crate) fn acknowledged(&self, id: &str, sent: Instant) {
        if let Some(known) = self.lock().known.get_mut(id) {
            let now = Instant::now();
            known.acknowledged.get_or_insert(now);
            known.surely = Some(sent);
            known.perhaps = Some(now);
        }
    }

    /// Nobody knows whether what was sent last was done.
    pub(crate) fn unanswered(&self, id: &str) {
        let mut inner = self.lock();
        inner.tally.unanswered += 1;
        if let Some(known) = inner.known.get_mut(id) {
            known.perhaps = Some(Instant::now());
        }
    }

    pub(crate) fn left(&self, id: &str) {
        let mut inner = self.lock();
        inner.tally.left += 1;
        if let Some(known) = inner.known.get_mut(id) {
            known.left = Some(Instant::now());
        }
    }

    /// Atoll says that it does not know an instance: whether it may. What it does not
    /// know need not be there until it is registered again.
    pub(crate) fn is_unknown(&self, protocol: Protocol, id: &str) {
        let mut inner = self.lock();
        let now = Instant::now();
        let Some(known) = inner.known.get(id) else {
            return;
        };
        if !known.leaving && known.surely_until().is_some_and(|until| now < until) {
            let since = known.surely.map(|surely| surely.elapsed());
            let name = protocol.name();
            inner.wrong(format!(
                "{name} lost {id}, which it acknowledged {since:?} ago"
            ));
        }
        if let Some(known) = inner.known.get_mut(id) {
            known.acknowledged = None;
        }
    }

    /// Compares a list that was asked for at `asked` and came at `came`.
    pub(crate) fn compare(
        &self,
        by: Protocol,
        list: &BTreeMap<String, Option<bool>>,
        asked: Instant,
        came: Instant,
    ) {
        let mut inner = self.lock();
        let grace = self.grace;
        inner.tally.lists += 1;
        if came - asked > STALL {
            inner.tally.stalls += 1;
            inner.restarts.push(came);
        }
        let restarts = &inner.restarts[..];
        let mut wrong = Vec::new();
        let (mut had_to_be, mut must_not_be) = (0, 0);
        let mut over = Vec::new();
        for (id, known) in &inner.known {
            let here = list.get(id);
            if known.must_be(asked, came) {
                had_to_be += 1;
                if here.is_none() {
                    wrong.push((id.clone(), "lost", format!("is missing: {known:?}")));
                }
            } else if known.must_not_be(asked, grace, restarts) {
                must_not_be += 1;
                match here {
                    Some(_) => wrong.push((id.clone(), "ghost", format!("is there: {known:?}"))),
                    // Each list tells of all protocols: one look is enough.
                    None if !known.never => over.push(id.clone()),
                    None => {}
                }
            } else if *here.unwrap_or(&None) == Some(true)
                && known.must_not_pass(asked, grace, restarts)
            {
                wrong.push((id.clone(), "silent", format!("passes: {known:?}")));
            }
        }
        for id in list.keys().filter(|id| !inner.known.contains_key(*id)) {
            wrong.push((id.clone(), "stranger", "is over, or never was".to_owned()));
        }
        let here = inner.known.values().filter(|known| !known.never).count();
        inner.tally.most = inner.tally.most.max(here);
        inner.tally.had_to_be += had_to_be;
        inner.tally.must_not_be += must_not_be;
        for id in over {
            inner.known.remove(&id);
        }
        for (id, kind, what) in wrong {
            // It will be so in the next lists, too.
            if inner.told.insert(format!("{kind} {id}")) {
                inner.wrong(format!("{kind}: {id} in the list of {}: {what}", by.name()));
            }
        }
    }
}

impl Inner {
    fn wrong(&mut self, what: String) {
        if self.tally.wrong.len() < TOLD_MAX {
            print(&format!("WRONG: {what}"));
            self.tally.wrong.push(what);
        } else {
            self.tally.wrong_untold += 1;
        }
    }
}

impl fmt::Debug for Known {
    /// Times as how long ago they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |at: Option<Instant>| at.map(|at| at.elapsed());
        f.debug_struct(self.protocol.name())
            .field("lease", &self.lease)
            .field("acknowledged", &ago(self.acknowledged))
            .field("surely", &ago(self.surely))
            .field("perhaps", &ago(self.perhaps))
            .field("leaving", &self.leaving)
            .field("left", &ago(self.left))
            .field("never", &self.never)
            .finish()
    }
}

impl Known {
    /// Until when it is surely there. A service of Consul stays, critical, for a while.
    fn surely_until(&self) -> Option<Instant> {
        Some(self.surely? + self.lease + self.stays())
    }

    fn stays(&self) -> Duration {
        match self.protocol {
            Protocol::Consul => CONSUL_DEREGISTERS_AFTER,
            Protocol::Eureka | Protocol::Admin => Duration::ZERO,
        }
    }

    fn must_be(&self, asked: Instant, came: Instant) -> bool {
        !self.leaving
            && self.acknowledged.is_some_and(|at| at < asked)
            && self.surely_until().is_some_and(|until| came < until)
    }

    /// Until when its lease may go on: nothing that a restart found is expired until the
    /// grace is over. Atoll was ready after its leases had begun anew.
    fn perhaps_until(&self, grace: Duration, restarts: &[Instant]) -> Option<Instant> {
        let mut until = self.perhaps? + self.lease;
        for ready in restarts.iter().filter(|ready| **ready > self.began) {
            if *ready <= until + LATE {
                until = until.max(*ready + self.lease.max(grace));
            }
        }
        Some(until)
    }

    fn must_not_be(&self, asked: Instant, grace: Duration, restarts: &[Instant]) -> bool {
        if self.never || self.left.is_some_and(|left| left < asked) {
            return true;
        }
        let Some(lapsed) = self.perhaps_until(grace, restarts) else {
            return false;
        };
        let mut until = lapsed + self.stays();
        if !self.stays().is_zero() {
            // What was silent gets the grace to speak, too.
            for ready in restarts.iter().filter(|ready| **ready > self.began) {
                if *ready <= until + LATE {
                    until = until.max(*ready + grace);
                }
            }
        }
        asked > until + LATE
    }

    fn must_not_pass(&self, asked: Instant, grace: Duration, restarts: &[Instant]) -> bool {
        let until = self.perhaps_until(grace, restarts);
        until.is_some_and(|until| asked > until + LATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn who(id: &str) -> Who {
        Who {
            service: "s".to_owned(),
            id: id.to_owned(),
            at: "127.0.0.1:1".parse().unwrap(),
            lease: Duration::from_secs(10),
        }
    }

    fn list(ids: &[&str]) -> BTreeMap<String, Option<bool>> {
        ids.iter().map(|id| ((*id).to_owned(), None)).collect()
    }

    /// What is wrong with a list that is asked for so many seconds from now.
    fn seen(model: &Model, ids: &[&str], after: u64) -> Vec<String> {
        let asked = Instant::now() + Duration::from_secs(after);
        let before = model.tally().wrong.len();
        model.compare(Protocol::Admin, &list(ids), asked, asked);
        model.tally().wrong.split_off(before)
    }

    fn registered(protocol: Protocol) -> Model {
        let model = Model::new(GRACE);
        model.registers(protocol, &who("a"), true);
        model.acknowledged("a", Instant::now());
        model
    }

    #[test]
    fn what_was_acknowledged_must_be_there_until_its_lease_ends_and_not_after() {
        let model = registered(Protocol::Admin);
        assert!(seen(&model, &[], 9)[0].starts_with("lost"));
        assert!(seen(&model, &["a"], 9).is_empty());
        assert!(seen(&model, &["a"], 12).is_empty(), "it may be late");
        assert!(seen(&model, &["a"], 14)[0].starts_with("ghost"));
        assert!(seen(&model, &[], 14).is_empty());
        assert!(seen(&model, &["a"], 15)[0].starts_with("stranger"));
    }

    #[test]
    fn what_was_not_answered_may_be_there_or_not_until_its_lease_would_end() {
        let model = Model::new(GRACE);
        model.registers(Protocol::Eureka, &who("a"), true);
        assert!(seen(&model, &["a"], 100).is_empty(), "under way");
        model.unanswered("a");
        assert!(seen(&model, &[], 1).is_empty() && seen(&model, &["a"], 1).is_empty());
        assert!(seen(&model, &["a"], 14)[0].starts_with("ghost"));
    }

    #[test]
    fn what_left_or_was_never_told_whole_must_not_be_there() {
        let model = registered(Protocol::Admin);
        model.leaves("a");
        assert!(seen(&model, &["a"], 1).is_empty() && seen(&model, &[], 1).is_empty());
        model.left("a");
        assert!(seen(&model, &["a"], 1)[0].starts_with("ghost"));
        model.registers(Protocol::Admin, &who("b"), false);
        assert!(seen(&model, &["b"], 1)[0].starts_with("ghost"));
    }

    #[test]
    fn a_restart_gives_grace_to_leases_that_it_found() {
        let model = registered(Protocol::Admin);
        model.restarted(Instant::now() + Duration::from_secs(5));
        assert!(seen(&model, &["a"], 34).is_empty());
        model.restarted(Instant::now() + Duration::from_secs(34));
        assert!(seen(&model, &["a"], 60).is_empty());
        assert!(seen(&model, &["a"], 68)[0].starts_with("ghost"));
        // It was over before the next.
        model.registers(Protocol::Admin, &who("b"), true);
        model.acknowledged("b", Instant::now());
        model.restarted(Instant::now() + Duration::from_secs(80));
        assert!(seen(&model, &["b"], 81)[0].starts_with("ghost"));
    }

    #[test]
    fn a_silent_service_of_consul_stays_but_does_not_pass() {
        let model = registered(Protocol::Consul);
        assert!(seen(&model, &[], 60)[0].starts_with("lost"));
        let passing = BTreeMap::from([("a".to_owned(), Some(true))]);
        let asked = Instant::now() + Duration::from_secs(71);
        model.compare(Protocol::Admin, &passing, asked, asked);
        assert!(model.tally().wrong[1].starts_with("silent"));
        assert!(seen(&model, &["a"], 74)[0].starts_with("ghost"));
    }
}
