//! Which services are at an address: what a reverse question asks.
//!
//! It follows from the catalogue and is brought up to date when somebody asks, by what
//! changed since the last time; so a question costs the same however many services
//! there are, and nothing where nobody asks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_model::{Catalog, Instance, ServiceName};

/// The services of each address.
#[derive(Debug, Default)]
pub(crate) struct Addresses(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    catalog: Arc<Catalog>,
    /// Each with how many of its instances are there, in the order of their names.
    by_address: HashMap<IpAddr, Vec<(ServiceName, u32)>>,
}

impl Addresses {
    /// The first `most` services that have an instance at `ip`, fit or not, by name.
    pub(crate) fn services(
        &self,
        catalog: &Arc<Catalog>,
        ip: IpAddr,
        most: usize,
    ) -> Vec<ServiceName> {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have seen a later one already, which is as good.
        let is_later = index.catalog.revision <= catalog.revision;
        if is_later && !Arc::ptr_eq(&index.catalog, catalog) {
            index.follow(catalog);
        }
        let found = index.by_address.get(&ip).into_iter().flatten();
        found.take(most).map(|(name, _)| name.clone()).collect()
    }
}

impl Index {
    fn follow(&mut self, catalog: &Arc<Catalog>) {
        let before = std::mem::replace(&mut self.catalog, Arc::clone(catalog));
        // A list that did not change is shared.
        let same = |name: &ServiceName, list: &Arc<[Arc<Instance>]>, other: &Catalog| {
            let other = other.services.get(name);
            other.is_some_and(|other| Arc::ptr_eq(list, other))
        };
        for (name, list) in &before.services {
            if !same(name, list, catalog) {
                list.iter().for_each(|instance| self.remove(name, instance));
            }
        }
        for (name, list) in &catalog.services {
            if !same(name, list, &before) {
                list.iter().for_each(|instance| self.add(name, instance));
            }
        }
    }

    fn add(&mut self, service: &ServiceName, instance: &Instance) {
        // Names of hosts are not looked up.
        let Some(at) = instance.address.socket() else {
            return;
        };
        let there = self.by_address.entry(at.ip());
        let there = there.or_insert_with(|| Vec::with_capacity(1));
        match there.binary_search_by(|(name, _)| name.cmp(service)) {
            Ok(place) => there[place].1 += 1,
            Err(place) => there.insert(place, (service.clone(), 1)),
        }
    }

    fn remove(&mut self, service: &ServiceName, instance: &Instance) {
        let Some(at) = instance.address.socket() else {
            return;
        };
        let Some(there) = self.by_address.get_mut(&at.ip()) else {
            return;
        };
        if let Ok(place) = there.binary_search_by(|(name, _)| name.cmp(service)) {
            there[place].1 -= 1;
            if there[place].1 == 0 {
                there.remove(place);
            }
        }
        if there.is_empty() {
            self.by_address.remove(&at.ip());
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_model::{Health, Revision};

    use super::*;

    /// A catalogue that shares with `before` the lists of services that are not named.
    fn next(before: &Arc<Catalog>, changes: &[(&str, &[&str])]) -> Arc<Catalog> {
        let mut next = Catalog::clone(before);
        next.revision = Revision(before.revision.0 + 1);
        for (name, addresses) in changes {
            let instances = addresses.iter().enumerate().map(|(number, address)| {
                Arc::new(Instance {
                    id: number.to_string().parse().unwrap(),
                    service: name.parse().unwrap(),
                    address: address.parse().unwrap(),
                    weight: 1,
                    health: Health::Critical,
                    note: String::new(),
                    tags: Vec::new(),
                    metadata: Default::default(),
                })
            });
            match addresses.is_empty() {
                true => drop(next.services.remove(*name)),
                false => drop(
                    next.services
                        .insert(name.parse().unwrap(), instances.collect()),
                ),
            }
        }
        Arc::new(next)
    }

    fn told(addresses: &Addresses, catalog: &Arc<Catalog>, ip: &str) -> Vec<String> {
        let services = addresses.services(catalog, ip.parse().unwrap(), 9);
        services.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_services_of_an_address_follow_the_catalogue() {
        let addresses = Addresses::default();
        let first = next(
            &Arc::default(),
            &[
                ("b", &["10.0.0.1:1", "10.0.0.1:2", "[::1]:80"]),
                ("a", &["10.0.0.1:9", "host:1"]),
            ],
        );
        assert_eq!(told(&addresses, &first, "10.0.0.1"), ["a", "b"]);
        assert_eq!(told(&addresses, &first, "0:0::1"), ["b"]);
        let second = next(&first, &[("b", &["10.0.0.1:2"])]);
        assert_eq!(told(&addresses, &second, "10.0.0.1"), ["a", "b"]);
        assert!(told(&addresses, &second, "::1").is_empty());
        let third = next(&second, &[("b", &[]), ("c", &["10.0.0.2:1"])]);
        assert_eq!(told(&addresses, &third, "10.0.0.1"), ["a"]);
        assert_eq!(told(&addresses, &third, "10.0.0.2"), ["c"]);
        // Who still has an earlier catalogue is told by the latest.
        assert_eq!(told(&addresses, &first, "10.0.0.1"), ["a"]);
        let last = next(&third, &[("a", &[]), ("c", &[])]);
        assert!(told(&addresses, &last, "10.0.0.1").is_empty());
        assert!(addresses.0.lock().unwrap().by_address.is_empty());
    }
}
