//! What the source has and how far Atoll knows: pure, given `now`.
//!
//! ```text
//!           listed            told: 200
//!   (none) --------> untold ------------> copied <-----------+
//!                      |  told: 4xx         |  |             | listed again,
//!                      v                    |  | gone while  | or with something new
//!                   refused     told: 409   |  v in doubt    |
//!                      (with something      | leaving -------+
//!                       new: told again)    v       lapses by itself
//!                                        switched
//! ```
//! What is gone for certain is told as removed. What has switched is left alone, whatever
//! the source says of it, until Atoll has lost it and the source says something new.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An instance, as both protocols name it; Eureka has no nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) service: String,
    pub(super) id: String,
    pub(super) node: String,
}

/// An instance as the source has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) status: String,
    pub(super) address: String,
    /// What Atoll is told of it: JSON as text, which is a tenth of its tree.
    pub(super) body: String,
}

/// What Atoll is to be told of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Register,
    Renew,
    Cancel,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Order {
    pub(super) key: Key,
    pub(super) act: Act,
}

/// What came of it, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Copied,
    /// With the status before.
    Changed(String),
    Removed,
    /// The source lost it in a time of doubt: it stays for its lease.
    Leaving,
    Switched,
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Untold,
    /// With the status that was told.
    Copied(String),
    Leaving(Instant),
    Switched,
    Refused(String),
}

#[derive(Clone, Debug)]
struct Held {
    item: Item,
    state: State,
    /// Whether the source has it.
    listed: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) services: usize,
    pub(super) instances: usize,
    pub(super) switched: usize,
    pub(super) refused: usize,
}

/// All that was seen at the source and told to Atoll.
#[derive(Debug)]
pub(super) struct Mirror {
    held: BTreeMap<Key, Held>,
    /// To be told next.
    due: BTreeSet<Key>,
    /// To be told when more time has passed: Atoll could not take it.
    later: BTreeSet<Key>,
    lease: Duration,
    /// Until then the source may have forgotten what is there all the same.
    doubt_until: Option<Instant>,
}

impl Mirror {
    /// Of a source whose copies live for `lease`.
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            held: BTreeMap::new(),
            due: BTreeSet::new(),
            later: BTreeSet::new(),
            lease,
            doubt_until: None,
        }
    }

    /// The source was away or began anew: instances need up to a lease to come back to
    /// it, so what it does not have until then is not gone.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubt_until = Some(now + self.lease);
    }

    /// Everything that the source has, of one service or of all.
    pub(super) fn whole(
        &mut self,
        service: Option<&str>,
        items: Vec<Item>,
        now: Instant,
    ) -> Vec<(Item, Event)> {
        let listed: BTreeSet<&Key> = items.iter().map(|item| &item.key).collect();
        let of_it = |key: &Key| service.is_none_or(|name| key.service == name);
        let gone = self
            .held
            .iter()
            .filter(|(key, held)| held.listed && of_it(key) && !listed.contains(key));
        let gone: Vec<Key> = gone.map(|(key, _)| key.clone()).collect();
        let events = gone.iter().filter_map(|key| self.gone(key, now)).collect();
        for item in items {
            self.put(item);
        }
        events
    }

    /// The source has this.
    pub(super) fn put(&mut self, item: Item) {
        let Some(held) = self.held.get_mut(&item.key) else {
            self.due.insert(item.key.clone());
            let key = item.key.clone();
            let (state, listed) = (State::Untold, true);
            self.held.insert(
                key,
                Held {
                    item,
                    state,
                    listed,
                },
            );
            return;
        };
        let news = held.item.body != item.body;
        if let State::Leaving(_) = held.state {
            held.state = State::Copied(held.item.status.clone());
            self.due.insert(item.key.clone());
        }
        if news {
            self.due.insert(item.key.clone());
        } else if !held.listed && held.state != State::Switched {
            // It was to be taken away and came back before that.
            self.due.insert(item.key.clone());
        }
        held.item = item;
        held.listed = true;
    }

    /// The source has this no longer.
    pub(super) fn gone(&mut self, key: &Key, now: Instant) -> Option<(Item, Event)> {
        let doubtful = self.doubt_until.is_some_and(|until| now < until);
        let held = self.held.get_mut(key).filter(|held| held.listed)?;
        held.listed = false;
        match held.state {
            State::Copied(_) if doubtful => {
                self.due.remove(key);
                held.state = State::Leaving(now + self.lease);
                return Some((held.item.clone(), Event::Leaving));
            }
            State::Copied(_) => drop(self.due.insert(key.clone())),
            State::Untold | State::Refused(_) => self.forget(key),
            State::Leaving(_) | State::Switched => {}
        }
        None
    }

    fn forget(&mut self, key: &Key) {
        self.held.remove(key);
        self.due.remove(key);
        self.later.remove(key);
    }

    /// What is to be told next, at most `most`.
    pub(super) fn due(&self, most: usize) -> Vec<Order> {
        let due = self.due.iter().take(most);
        let orders = due.filter_map(|key| {
            let held = self.held.get(key)?;
            let act = if held.listed {
                Act::Register
            } else {
                Act::Cancel
            };
            Some(Order {
                key: key.clone(),
                act,
            })
        });
        orders.collect()
    }

    /// What is to live on. Of what has switched it is asked whether it still is there.
    pub(super) fn renewals(&mut self, now: Instant) -> Vec<Order> {
        self.due.append(&mut self.later);
        let lapsed = self
            .held
            .iter()
            .filter(|(_, held)| matches!(held.state, State::Leaving(until) if until <= now));
        let lapsed: Vec<Key> = lapsed.map(|(key, _)| key.clone()).collect();
        lapsed.iter().for_each(|key| self.forget(key));
        let lives = self.held.values().filter(|held| {
            matches!(held.state, State::Copied(_) | State::Switched)
                && !self.due.contains(&held.item.key)
        });
        let renew = lives.map(|held| Order {
            key: held.item.key.clone(),
            act: Act::Renew,
        });
        renew.collect()
    }

    /// What `order` tells, in full.
    pub(super) fn item(&self, key: &Key) -> Option<&Item> {
        self.held.get(key).map(|held| &held.item)
    }

    /// Takes in what Atoll answered.
    pub(super) fn settle(
        &mut self,
        order: &Order,
        status: u16,
        said: String,
    ) -> Option<(Item, Event)> {
        let key = &order.key;
        let held = self.held.get_mut(key)?;
        let item = held.item.clone();
        if order.act != Act::Renew {
            self.due.remove(key);
        }
        let event = match (order.act, status) {
            (Act::Register, 200) => {
                let before = std::mem::replace(&mut held.state, State::Copied(item.status.clone()));
                match before {
                    State::Copied(before) => Event::Changed(before),
                    State::Untold | State::Leaving(_) | State::Switched | State::Refused(_) => {
                        Event::Copied
                    }
                }
            }
            (Act::Renew, 200) => return None,
            (Act::Renew, 404) => {
                match (&held.state, held.listed) {
                    // It went from both.
                    (State::Switched, false) => self.forget(key),
                    // A client that ended is listed by the source for a while longer.
                    (State::Switched, true) => {}
                    _ => drop(self.due.insert(key.clone())),
                }
                return None;
            }
            (_, 409) => {
                if std::mem::replace(&mut held.state, State::Switched) == State::Switched {
                    return None;
                }
                Event::Switched
            }
            (_, 500..) => {
                self.later.insert(key.clone());
                match held.state {
                    State::Untold => held.state = State::Refused(said.clone()),
                    _ => return None,
                }
                Event::Refused(said)
            }
            (Act::Register, _) => {
                let refused = State::Refused(said.clone());
                if std::mem::replace(&mut held.state, refused.clone()) == refused {
                    return None;
                }
                Event::Refused(said)
            }
            // 404: it is gone already. Anything else: it lapses.
            (Act::Cancel, _) => {
                self.forget(key);
                Event::Removed
            }
            (Act::Renew, _) => return None,
        };
        Some((item, event))
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let mut services = BTreeSet::new();
        for held in self.held.values() {
            counts.instances += usize::from(held.listed || held.state == State::Switched);
            counts.switched += usize::from(held.state == State::Switched);
            counts.refused += usize::from(matches!(held.state, State::Refused(_)));
            services.insert(&held.item.key.service);
        }
        counts.services = services.len();
        counts
    }
}
