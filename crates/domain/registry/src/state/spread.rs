//! What a change means to others: to the instances on a node, and to the aliases of an
//! instance.

use std::time::Duration;

use atoll_model::{Alias, Health, InstanceId, Probe, ServiceName};
use tracing::info;

use super::{State, find, target_of};
use crate::aliases::Key;
use crate::nodes;
use crate::record::{Answered, Own, Record};

/// Aliases of aliases that are followed at once. Nobody needs more than two; what goes in
/// circles ends here, and is taken up again at the next change.
const DEPTH_MAX: usize = 8;

impl State {
    /// Lets all that has changed since the last catalogue count where it counts, too.
    pub(super) fn spread(&mut self) {
        let of_nodes = ServiceName::of_nodes();
        let nodes = self.services.contains_key(&of_nodes)
            || self.changed.iter().any(|(service, _)| *service == of_nodes);
        let aliasing = |record: &Record| record.checks.iter().any(|c| alias(c).is_some());
        let changed = self.changed.iter();
        let mut records = changed.filter_map(|(service, id)| self.record(service, id));
        if !nodes && self.aliases.is_empty() && !records.any(aliasing) {
            return;
        }
        let mut fresh: Vec<Key> = self.changed.iter().cloned().collect();
        for _ in 0..DEPTH_MAX {
            let mut next = Vec::new();
            for key in fresh {
                self.spread_from(key, &mut next);
            }
            if next.is_empty() {
                return;
            }
            self.changed.extend(next.iter().cloned());
            fresh = next;
        }
    }

    /// Lets one change count, and adds to `next` what changed with it.
    fn spread_from(&mut self, key: Key, next: &mut Vec<Key>) {
        let record = self.record(&key.0, &key.1);
        let now = record.map(|r| r.checks.iter().flat_map(alias).cloned().collect());
        self.aliases.update(&key, now.unwrap_or_default());
        let followed = if key.0.is_of_nodes() {
            let node = nodes::node_of(&key.1);
            self.surround(node.as_ref(), next);
            Alias::Node(node)
        } else {
            self.settle(&key);
            let followed = Alias::Instance(key.1.clone());
            self.aliases.found(&followed, &key.0);
            followed
        };
        for follower in self.aliases.followers(&followed) {
            if follower != key && self.follow(&follower) {
                next.push(follower);
            }
        }
    }

    /// An instance that changed itself: it may be new to its node, or an alias.
    fn settle(&mut self, key: &Key) {
        let Some(record) = self.record(&key.0, &key.1) else {
            return;
        };
        let around = self.around(record.node.as_ref());
        let now = self.now;
        if let Ok(record) = find(&mut self.services, &key.0, &key.1) {
            record.around = around;
            record.refresh(now);
        }
        self.follow(key);
    }

    /// How a node stands, if something is known of it.
    fn around(&self, node: Option<&InstanceId>) -> Option<Box<Own>> {
        let id = nodes::id_of(node).ok()?;
        let node = self.record(&ServiceName::of_nodes(), &id)?;
        let node = &node.instance;
        Some(Box::new(Own::new(node.health, &node.note)))
    }

    /// A node changed: so did all that is on it, for those who watch its checks.
    fn surround(&mut self, node: Option<&InstanceId>, next: &mut Vec<Key>) {
        let around = self.around(node);
        let now = self.now;
        let services = self.services.iter_mut();
        for (service, records) in services.filter(|(service, _)| !service.is_of_nodes()) {
            for (id, record) in records.iter_mut() {
                if record.node.as_ref() == node {
                    record.around.clone_from(&around);
                    record.refresh(now);
                    next.push((service.clone(), id.clone()));
                }
            }
        }
    }

    /// Brings the checks of an instance that are aliases up to date; true when one of them
    /// stands otherwise.
    fn follow(&mut self, key: &Key) -> bool {
        let Some(record) = self.record(&key.0, &key.1) else {
            return false;
        };
        let aliases = record.checks.iter().enumerate();
        let aliases = aliases.filter_map(|(index, checked)| match &checked.check.probe {
            Probe::Alias(alias) => Some((index, alias.clone())),
            _ => None,
        });
        let aliases: Vec<(usize, Alias)> = aliases.collect();
        let now = self.now;
        let mut changed = false;
        for (index, alias) in aliases {
            let (health, output) = self.standing(&alias);
            let Ok(record) = find(&mut self.services, &key.0, &key.1) else {
                return changed;
            };
            let target = target_of(record, index);
            let checked = &mut record.checks[index];
            checked.answered = Some(Answered {
                at: now,
                took: Duration::ZERO,
                outcome: super::told::outcome_of(health),
            });
            checked.say(&output);
            let other = checked.verdict.set(health, now);
            self.deadlines.arm(target, checked);
            if record.refresh(now) {
                let health = record.instance.health;
                info!(service = %key.0, instance = %key.1, %health, "health changed with another's");
            }
            changed |= other;
        }
        changed
    }

    /// How that stands of which something is an alias, in Consul's words.
    fn standing(&mut self, alias: &Alias) -> (Health, String) {
        let key = match alias {
            Alias::Node(node) => match nodes::id_of(node.as_ref()) {
                Ok(id) => (ServiceName::of_nodes(), id),
                Err(_) => return (Health::Passing, NO_CHECKS.to_owned()),
            },
            Alias::Instance(id) => match self.service_of(alias, id) {
                Some(service) => (service, id.clone()),
                None => {
                    let output = format!("Service {id} could not be found");
                    return (Health::Critical, output);
                }
            },
        };
        let Some(record) = self.record(&key.0, &key.1) else {
            return (Health::Passing, NO_CHECKS.to_owned());
        };
        let health = record.instance.health;
        let failing = record.checks.iter();
        let mut failing = failing.filter(|checked| checked.verdict.health == health);
        let output = match (health, failing.next()) {
            (Health::Passing, None) => NO_CHECKS.to_owned(),
            (Health::Passing, Some(_)) => "All checks passing.".to_owned(),
            (_, Some(checked)) => format!(
                "Aliased check {:?} failing: {}",
                checked.check.name, checked.output
            ),
            (_, None) => format!("Aliased instance is {health}: {}", record.instance.note),
        };
        (health, output)
    }

    /// The service of the instance that is meant by an id alone. Once found it is
    /// remembered: the search takes as long as there are services.
    fn service_of(&mut self, alias: &Alias, id: &InstanceId) -> Option<ServiceName> {
        let known = self.aliases.service(alias);
        if let Some(service) = known.filter(|service| self.record(service, id).is_some()) {
            return Some(service.clone());
        }
        let mut services = self.services.iter();
        let (service, _) =
            services.find(|(name, all)| !name.is_of_nodes() && all.contains_key(id))?;
        let service = service.clone();
        self.aliases.found(alias, &service);
        Some(service)
    }
}

const NO_CHECKS: &str = "No checks found.";

fn alias(checked: &crate::record::Checked) -> Option<&Alias> {
    match &checked.check.probe {
        Probe::Alias(alias) => Some(alias),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, instance, world};
    use super::super::{Event, Said, Word};
    use super::*;
    use crate::{Registration, Source, stored};
    use atoll_model::{Check, Revision};
    use atoll_runtime::Random;

    fn told(name: &str) -> Check {
        let mut check = Check::new(Probe::Told { ttl: None });
        check.name = name.to_owned();
        check
    }

    fn alias_of(alias: Alias) -> Check {
        let mut check = Check::new(Probe::Alias(alias));
        check.name = "alias".to_owned();
        check
    }

    fn alias_of_instance(id: &str) -> Check {
        alias_of(Alias::Instance(id.parse().unwrap()))
    }

    fn node(id: Option<&str>, checks: Vec<Check>) -> Registration {
        let id = id.map(|id| id.parse().unwrap());
        let id = nodes::id_of(id.as_ref()).unwrap();
        let address = "10.0.0.1:1".parse().unwrap();
        let mut node = Registration::new(ServiceName::of_nodes(), id, address, Source::Client);
        node.checks = checks;
        node
    }

    impl World {
        fn put(&mut self, registration: Registration) {
            let event = Event::Register(Box::new(registration));
            self.state.step(event, self.now).unwrap();
        }

        fn tell(&mut self, service: &str, id: &str, check: &str, health: Health) {
            let service = match service {
                "" => ServiceName::of_nodes(),
                service => service.parse().unwrap(),
            };
            let said = Said {
                service,
                id: id.parse().unwrap(),
                check: check.to_owned(),
                health,
                output: "because".to_owned(),
            };
            let event = Event::Said(Box::new(said));
            self.state.step(event, self.now).unwrap();
        }

        fn stands(&mut self, service: &str, id: &str) -> Health {
            self.state.publish();
            let list = self.state.catalog().instances(service);
            list.iter().find(|i| i.id.as_str() == id).unwrap().health
        }

        fn output(&self, service: &str, id: &str) -> String {
            let key: Key = (service.parse().unwrap(), id.parse().unwrap());
            let record = self.state.record(&key.0, &key.1).unwrap();
            record.checks[0].output.to_string()
        }
    }

    #[test]
    fn what_makes_a_node_unfit_makes_all_unfit_that_is_on_it() {
        let mut world = world();
        world.put(instance("users", "u1"));
        let mut elsewhere = instance("users", "u2");
        elsewhere.node = Some("db-1".parse().unwrap());
        world.put(elsewhere.clone());
        world.put(node(None, vec![told("disk")]));
        // As with an instance's own checks: nobody knows yet.
        assert_eq!(world.stands("users", "u1"), Health::Starting);
        world.tell("", "@", "disk", Health::Passing);
        assert_eq!(world.stands("users", "u1"), Health::Passing);
        world.tell("", "@", "disk", Health::Critical);
        assert_eq!(world.stands("users", "u1"), Health::Critical);
        assert_eq!(world.stands("users", "u2"), Health::Passing);
        // What comes later is on it, too.
        world.put(instance("orders", "o1"));
        assert_eq!(world.stands("orders", "o1"), Health::Critical);
        // An instance that moves is on another node.
        elsewhere.node = None;
        world.put(elsewhere);
        assert_eq!(world.stands("users", "u2"), Health::Critical);
        let forget = Event::Deregister {
            service: ServiceName::of_nodes(),
            id: "@".parse().unwrap(),
            by: Source::Client,
        };
        world.state.step(forget, world.now).unwrap();
        for (service, id) in [("users", "u1"), ("users", "u2"), ("orders", "o1")] {
            assert_eq!(world.stands(service, id), Health::Passing);
        }
    }

    #[test]
    fn a_node_is_seen_by_nobody_who_looks_at_services() {
        let mut world = world();
        world.put(node(None, Vec::new()));
        world.put(node(Some("db-1"), vec![told("disk")]));
        let before = world.state.catalog().revision;
        let catalog = world.state.publish().unwrap();
        assert!(catalog.revision > before, "its checks can be watched");
        assert!(catalog.services.is_empty());
        assert_eq!(world.state.records().count(), 0);
        assert_eq!(world.state.changes(before), Some(Vec::new()));
        let own = ServiceName::of_nodes();
        assert_eq!(world.state.records_of(&own).len(), 2);
    }

    #[test]
    fn maintenance_of_a_node_is_that_of_all_on_it_and_survives_a_restart() {
        let mut world = world();
        world.put(instance("users", "u1"));
        world.put(node(None, Vec::new()));
        let reason = Word::Maintenance(Some("new disk".to_owned()));
        let report = Event::Report {
            service: ServiceName::of_nodes(),
            id: "@".parse().unwrap(),
            word: reason,
        };
        world.state.step(report, world.now).unwrap();
        assert_eq!(world.stands("users", "u1"), Health::Critical);
        let note = &world.state.catalog().instances("users")[0].note;
        assert_eq!(note, "new disk");

        let kept = world.state.take_effects().entries.into_iter();
        // Of several entries of one key the last counts.
        let kept: std::collections::BTreeMap<_, _> = kept
            .map(|owed| (owed.entry.key, owed.entry.value))
            .collect();
        let kept = kept.into_iter().filter_map(|(k, v)| Some((k, v?)));
        let loaded = stored::load(kept.collect());
        assert_eq!(loaded.unreadable, Vec::<String>::new());
        let mut again = super::super::tests::world();
        let random = Random::from_seed(8);
        again.state = State::new(Default::default(), Revision(9), random, again.now);
        for instance in loaded.instances {
            again.state.restore(instance, again.now);
        }
        assert_eq!(again.stands("users", "u1"), Health::Critical);
        let node = again
            .state
            .record(&ServiceName::of_nodes(), &"@".parse().unwrap());
        assert_eq!(node.unwrap().maintenance.as_deref(), Some("new disk"));
    }

    #[test]
    fn an_alias_is_as_fit_as_what_it_is_an_alias_of() {
        let mut world = world();
        let mut side = instance("side", "s1");
        side.checks = vec![alias_of_instance("u1")];
        world.put(side);
        // It may be registered before the other.
        assert_eq!(world.stands("side", "s1"), Health::Critical);
        assert_eq!(world.output("side", "s1"), "Service u1 could not be found");
        let mut users = instance("users", "u1");
        world.put(users.clone());
        assert_eq!(world.stands("side", "s1"), Health::Passing);
        assert_eq!(world.output("side", "s1"), "No checks found.");
        users.checks = vec![told("a"), told("b")];
        world.put(users);
        for (a, b, health, output) in [
            (
                Health::Passing,
                Health::Passing,
                Health::Passing,
                "All checks passing.",
            ),
            (
                Health::Passing,
                Health::Warning,
                Health::Warning,
                "Aliased check \"b\" failing: because",
            ),
            (
                Health::Critical,
                Health::Warning,
                Health::Critical,
                "Aliased check \"a\" failing: because",
            ),
            (
                Health::Passing,
                Health::Passing,
                Health::Passing,
                "All checks passing.",
            ),
        ] {
            world.tell("users", "u1", "a", a);
            world.tell("users", "u1", "b", b);
            assert_eq!(world.stands("side", "s1"), health);
            assert_eq!(world.output("side", "s1"), output);
        }
        world.deregister("u1", Source::Client).unwrap();
        assert_eq!(world.stands("side", "s1"), Health::Critical);
    }

    #[test]
    fn aliases_of_aliases_and_of_nodes_follow_and_circles_end() {
        let mut world = world();
        let mut users = instance("users", "u1");
        users.node = Some("db-1".parse().unwrap());
        world.put(users);
        for (id, of) in [("a", "u1"), ("b", "a"), ("c", "b")] {
            let mut alias = instance("side", id);
            alias.checks = vec![alias_of_instance(of)];
            world.put(alias);
        }
        let mut whole = instance("whole", "w");
        whole.checks = vec![alias_of(Alias::Node(Some("db-1".parse().unwrap())))];
        world.put(whole);
        assert_eq!(world.stands("side", "c"), Health::Passing);
        assert_eq!(world.stands("whole", "w"), Health::Passing);
        world.put(node(Some("db-1"), vec![told("disk")]));
        world.tell("", "db-1", "disk", Health::Critical);
        assert_eq!(world.stands("side", "c"), Health::Critical);
        assert_eq!(world.stands("whole", "w"), Health::Critical);
        world.tell("", "db-1", "disk", Health::Passing);
        assert_eq!(world.stands("side", "c"), Health::Passing);
        assert_eq!(world.stands("whole", "w"), Health::Passing);

        // Each waits for the other: neither is fit, and nothing hangs.
        for (id, of) in [("x", "y"), ("y", "x")] {
            let mut alias = instance("circle", id);
            alias.checks = vec![alias_of_instance(of)];
            world.put(alias);
        }
        assert_ne!(world.stands("circle", "x"), Health::Passing);
        let mut itself = instance("circle", "z");
        itself.checks = vec![alias_of_instance("z")];
        let event = Event::Register(Box::new(itself));
        let refused = world.state.step(event, world.now).unwrap_err();
        assert!(refused.to_string().contains("itself"), "{refused}");
    }

    #[test]
    fn who_is_no_alias_any_more_is_forgotten_as_one() {
        let mut world = world();
        world.put(instance("users", "u1"));
        for number in 0..100 {
            let id = format!("s{number}");
            let mut side = instance("side", &id);
            side.checks = vec![alias_of_instance("u1")];
            world.put(side.clone());
            world.state.publish();
            if number % 2 == 0 {
                side.checks = Vec::new();
                world.put(side);
            } else {
                let event = Event::Deregister {
                    service: "side".parse().unwrap(),
                    id: id.parse().unwrap(),
                    by: Source::Client,
                };
                world.state.step(event, world.now).unwrap();
            }
            world.state.publish();
            assert!(world.state.aliases.is_empty());
        }
    }
}
