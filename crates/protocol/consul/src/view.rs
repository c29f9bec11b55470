//! What the catalogue alone does not tell: since which revision each service is as it
//! is, and whose id an id is. All of it follows from the catalogues that came by; it
//! is lost with the process and begins anew at the first catalogue.
//!
//! It is also where blocking queries wait, each for what it asked for: a change of one
//! service wakes nobody who waits for another.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_model::{Catalog, Instance, InstanceId, Revision, ServiceName};
use tokio::sync::watch;

use crate::translate::{definition, shown_id};

/// Services that are gone and whose last change is remembered. Beyond it all of them
/// count as changed now, which wakes those who wait for one.
const GONE_MAX: usize = 10_000;

/// Topics that are kept although nobody waits for them: those who wait come again.
const WAITED_LEAST: usize = 64;

/// What a blocking query waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Anything of one service.
    Service(ServiceName),
    /// Which services and tags there are.
    Names,
    /// Anything at all.
    Any,
}

/// One instance and when it became what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) service: ServiceName,
    pub(crate) id: InstanceId,
    pub(crate) created: u64,
    pub(crate) modified: u64,
}

#[derive(Debug)]
pub(crate) struct View {
    inner: Mutex<Inner>,
    seen: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Inner {
    catalog: Arc<Catalog>,
    /// The last change of each service, of those that are gone, too.
    services: HashMap<ServiceName, u64>,
    /// The index of a service that nobody remembers.
    floor: u64,
    names: u64,
    any: u64,
    ids: HashMap<String, Vec<Known>>,
    /// Whose the checks are that Consul's clients named.
    checks: HashMap<String, Vec<(ServiceName, InstanceId)>>,
    waited: HashMap<Topic, watch::Sender<u64>>,
    /// Topics at which those are forgotten that nobody waits for.
    tidy_at: usize,
}

impl View {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        let index = index_of(&catalog);
        let mut inner = Inner {
            catalog: Arc::default(),
            services: HashMap::new(),
            floor: index,
            names: index,
            any: index,
            ids: HashMap::new(),
            checks: HashMap::new(),
            waited: HashMap::new(),
            tidy_at: WAITED_LEAST,
        };
        let (seen, _) = watch::channel(catalog.revision);
        inner.apply(catalog);
        Self {
            inner: Mutex::new(inner),
            seen,
        }
    }

    /// Takes the next catalogue in.
    pub(crate) fn apply(&self, catalog: Arc<Catalog>) {
        let revision = catalog.revision;
        self.lock().apply(catalog);
        self.seen.send_replace(revision);
    }

    /// Waits until it has seen the catalogue of `revision`.
    pub(crate) async fn caught_up(&self, revision: Revision) {
        let mut seen = self.seen.subscribe();
        // The sender lives as long as we do.
        drop(seen.wait_for(|seen| *seen >= revision).await);
    }

    pub(crate) fn index(&self, topic: &Topic) -> u64 {
        self.lock().index(topic)
    }

    /// Where an instance with this id may be; several nodes may have one of a name.
    pub(crate) fn find(&self, id: &str) -> Vec<Known> {
        self.lock().ids.get(id).cloned().unwrap_or_default()
    }

    /// Whose a check with this id may be.
    pub(crate) fn find_check(&self, id: &str) -> Vec<(ServiceName, InstanceId)> {
        self.lock().checks.get(id).cloned().unwrap_or_default()
    }

    /// When an instance was registered and last changed.
    pub(crate) fn times(&self, instance: &Instance) -> (u64, u64) {
        let inner = self.lock();
        let known = inner.ids.get(&shown_id(instance)).into_iter().flatten();
        let known = known.filter(|k| k.service == instance.service && k.id == instance.id);
        known
            .map(|k| (k.created, k.modified))
            .next()
            .unwrap_or((1, 1))
    }

    /// Waits until the index of `topic` is another than `seen`: greater after a
    /// change, less when `seen` is of another life.
    pub(crate) async fn changed(&self, topic: Topic, seen: u64) {
        let mut index = {
            let mut inner = self.lock();
            let now = inner.index(&topic);
            if now != seen {
                return;
            }
            if inner.waited.len() >= inner.tidy_at {
                inner.waited.retain(|_, index| index.receiver_count() > 0);
                inner.tidy_at = WAITED_LEAST.max(2 * inner.waited.len());
            }
            let waited = inner.waited.entry(topic);
            waited.or_insert_with(|| watch::channel(now).0).subscribe()
        };
        // The sender is dropped only when nobody waits.
        drop(index.wait_for(|index| *index != seen).await);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The index of what changed in a catalogue. Consul's is never 0, which clients take for
/// "no index"; and the first change must have another than what was before it.
fn index_of(catalog: &Catalog) -> u64 {
    catalog.revision.0 + 1
}

/// A list that nearly always has one entry: room for four, as usual, is tens of megabytes
/// in all.
fn one<T>() -> Vec<T> {
    Vec::with_capacity(1)
}

impl Inner {
    fn index(&self, topic: &Topic) -> u64 {
        match topic {
            Topic::Service(service) => self.services.get(service).copied().unwrap_or(self.floor),
            Topic::Names => self.names,
            Topic::Any => self.any,
        }
    }

    fn apply(&mut self, catalog: Arc<Catalog>) {
        let before = std::mem::replace(&mut self.catalog, Arc::clone(&catalog));
        if catalog.revision == before.revision && !before.services.is_empty() {
            return;
        }
        let index = index_of(&catalog);
        // A revision may be of what no catalogue shows: the checks of a node.
        self.any = index;
        let none: Arc<[Arc<Instance>]> = Arc::from([]);
        let names = before.services.keys().chain(catalog.services.keys());
        for service in names {
            let old = before.services.get(service).unwrap_or(&none);
            let new = catalog.services.get(service).unwrap_or(&none);
            // A list that did not change is shared; one that both have is met twice.
            if Arc::ptr_eq(old, new) || self.services.get(service) == Some(&index) {
                continue;
            }
            self.services.insert(service.clone(), index);
            self.compare(old, new, index);
        }
        if self.services.len() > catalog.services.len() + GONE_MAX {
            self.services
                .retain(|name, _| catalog.services.contains_key(name));
            self.floor = index;
        }
        for (topic, waited) in &self.waited {
            let index = self.index(topic);
            waited.send_if_modified(|was| std::mem::replace(was, index) != index);
        }
    }

    /// Both lists are ordered by id.
    fn compare(&mut self, old: &[Arc<Instance>], new: &[Arc<Instance>], index: u64) {
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.id.cmp(&new.id),
            };
            let gone = if order.is_le() { old.next() } else { None };
            let here = if order.is_ge() { new.next() } else { None };
            let tags = |instance: Option<&Arc<Instance>>| instance.map(|i| i.tags.clone());
            match (gone, here) {
                (Some(gone), Some(here)) if Arc::ptr_eq(gone, here) => continue,
                _ if tags(gone) != tags(here) => self.names = index,
                _ => {}
            }
            let created = gone.and_then(|gone| self.forget(gone)).unwrap_or(index);
            if let Some(here) = here {
                for check in definition(here).checks {
                    let owner = (here.service.clone(), here.id.clone());
                    let owners = self.checks.entry(check.id);
                    owners.or_insert_with(one).push(owner);
                }
                let known = self.ids.entry(shown_id(here));
                known.or_insert_with(one).push(Known {
                    service: here.service.clone(),
                    id: here.id.clone(),
                    created,
                    modified: index,
                });
            }
        }
    }

    /// Gives the revision at which it had come.
    fn forget(&mut self, gone: &Instance) -> Option<u64> {
        for check in definition(gone).checks {
            if let Some(owners) = self.checks.get_mut(&check.id) {
                owners.retain(|(service, id)| *service != gone.service || *id != gone.id);
                if owners.is_empty() {
                    self.checks.remove(&check.id);
                }
            }
        }
        let shown = shown_id(gone);
        let known = self.ids.get_mut(&shown)?;
        let at = known
            .iter()
            .position(|known| known.service == gone.service && known.id == gone.id)?;
        let created = known.swap_remove(at).created;
        if known.is_empty() {
            self.ids.remove(&shown);
        }
        Some(created)
    }
}

#[cfg(test)]
mod tests {
    use atoll_model::Health;

    use super::*;

    type Lists<'a> = &'a [(&'a str, &'a [(&'a str, Health, &'a str)])];

    /// A catalogue that shares with `before` what is equal, as the registry's does.
    fn catalog(before: &Catalog, revision: u64, lists: Lists<'_>) -> Arc<Catalog> {
        let services = lists.iter().map(|(name, list)| {
            let old = before.instances(name);
            let list: Vec<_> = list
                .iter()
                .map(|(id, health, tag)| {
                    let instance = Arc::new(Instance {
                        id: id.parse().unwrap(),
                        service: name.parse().unwrap(),
                        address: "10.0.0.1:80".parse().unwrap(),
                        weight: 1,
                        health: *health,
                        note: String::new(),
                        tags: vec![(*tag).to_owned()],
                        metadata: Default::default(),
                    });
                    let same = old.iter().find(|old| **old == instance);
                    same.map_or(instance, Arc::clone)
                })
                .collect();
            let shared = before.services.get(*name).filter(|old| ***old == *list);
            (
                name.parse().unwrap(),
                shared.cloned().unwrap_or(list.into()),
            )
        });
        Arc::new(Catalog {
            revision: Revision(revision),
            services: services.collect(),
        })
    }

    fn of(service: &str) -> Topic {
        Topic::Service(service.parse().unwrap())
    }

    #[test]
    fn each_service_has_the_index_of_its_own_last_change_even_when_gone() {
        let up = ("1", Health::Passing, "t");
        let first = catalog(&Catalog::default(), 7, &[("a", &[up]), ("b", &[up])]);
        let view = View::new(Arc::clone(&first));
        let second = catalog(
            &first,
            9,
            &[("a", &[("1", Health::Critical, "t")]), ("b", &[up])],
        );
        view.apply(Arc::clone(&second));
        assert_eq!((view.index(&of("a")), view.index(&of("b"))), (10, 8));
        // Health is no name, and a service of which nothing is known has the first.
        assert_eq!(view.index(&Topic::Names), 8);
        assert_eq!(view.index(&of("never")), 8);
        let third = catalog(&second, 12, &[("b", &[up])]);
        view.apply(third);
        assert_eq!((view.index(&of("a")), view.index(&of("b"))), (13, 8));
        assert_eq!(view.index(&Topic::Names), 13);
        assert_eq!(view.index(&Topic::Any), 13);
    }

    #[test]
    fn an_instance_is_found_by_its_id_with_its_times() {
        let first = catalog(
            &Catalog::default(),
            0,
            &[("a", &[("1", Health::Passing, "t")])],
        );
        let view = View::new(Arc::clone(&first));
        assert_eq!(view.index(&of("a")), 1, "never 0");
        let second = catalog(
            &first,
            5,
            &[(
                "a",
                &[("1", Health::Critical, "t"), ("2", Health::Passing, "t")],
            )],
        );
        view.apply(Arc::clone(&second));
        assert_eq!(view.times(&second.instances("a")[0]), (1, 6));
        assert_eq!(view.times(&second.instances("a")[1]), (6, 6));
        assert_eq!(view.find("2").len(), 1);
        view.apply(catalog(&second, 6, &[]));
        assert!(view.find("1").is_empty() && view.find("2").is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_its_own_service_alone() {
        let up = ("1", Health::Passing, "t");
        let first = catalog(&Catalog::default(), 7, &[("a", &[up]), ("b", &[up])]);
        let view = View::new(Arc::clone(&first));
        // An index of another life is answered at once.
        view.changed(of("a"), 700).await;
        let waiting = view.changed(of("a"), 8);
        tokio::pin!(waiting);
        let mut poll = async || {
            tokio::select! {
                biased;
                () = &mut waiting => true,
                () = tokio::task::yield_now() => false,
            }
        };
        assert!(!poll().await);
        let second = catalog(&first, 8, &[("a", &[up]), ("b", &[])]);
        view.apply(Arc::clone(&second));
        assert!(!poll().await);
        view.apply(catalog(&second, 9, &[("a", &[]), ("b", &[])]));
        assert!(poll().await);
    }
}
