//! Whose fitness is whose: which instances have checks that are aliases, and of what.

use std::collections::{BTreeMap, BTreeSet};

use atoll_model::{Alias, InstanceId, ServiceName};

/// An instance, or a node under [`ServiceName::of_nodes`].
pub(crate) type Key = (ServiceName, InstanceId);

#[derive(Debug, Default)]
pub(crate) struct Aliases {
    of: BTreeMap<Alias, Followers>,
    by: BTreeMap<Key, Vec<Alias>>,
}

#[derive(Debug, Default)]
struct Followers {
    all: BTreeSet<Key>,
    /// The service whose instance it was when it was last looked for: an alias names none.
    service: Option<ServiceName>,
}

impl Aliases {
    pub(crate) fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// Takes in what `key` is an alias of now.
    pub(crate) fn update(&mut self, key: &Key, now: Vec<Alias>) {
        let before = match self.by.get(key) {
            Some(before) if *before == now => return,
            None if now.is_empty() => return,
            _ => self.by.remove(key).unwrap_or_default(),
        };
        for alias in before {
            if let Some(followers) = self.of.get_mut(&alias) {
                followers.all.remove(key);
                if followers.all.is_empty() {
                    self.of.remove(&alias);
                }
            }
        }
        for alias in &now {
            let followers = self.of.entry(alias.clone()).or_default();
            followers.all.insert(key.clone());
        }
        if !now.is_empty() {
            self.by.insert(key.clone(), now);
        }
    }

    /// Who follows it.
    pub(crate) fn followers(&self, alias: &Alias) -> Vec<Key> {
        let followers = self.of.get(alias).into_iter();
        followers
            .flat_map(|known| known.all.iter().cloned())
            .collect()
    }

    /// The service of the instance that an alias names, as far as it is remembered.
    pub(crate) fn service(&self, alias: &Alias) -> Option<&ServiceName> {
        self.of.get(alias)?.service.as_ref()
    }

    /// Remembers it.
    pub(crate) fn found(&mut self, alias: &Alias, service: &ServiceName) {
        if let Some(followers) = self.of.get_mut(alias) {
            followers.service = Some(service.clone());
        }
    }
}
