//! What a state makes of a store that others write to as well.

use super::shared::Fed;
use super::tests::{World, instance, world};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn shared(member: &str) -> World {
    let mut world = world();
    world.state.share(member.into(), Revision(0));
    world
}

fn fed(key: String, value: Option<Vec<u8>>, at: u64) -> Fed {
    let value = value.map(|value| (value, Revision(at)));
    Fed { key, value }
}

fn member(name: &str, at: u64) -> Fed {
    fed(stored::member(name), Some(Vec::new()), at)
}

impl World {
    fn keeps(&mut self, registration: Registration, at: u64) -> Fed {
        let event = Event::Register(Box::new(registration));
        self.state.step(event, self.now).unwrap();
        let entry = self.state.take_effects().entries.remove(0).entry;
        fed(entry.key, entry.value, at)
    }

    fn hears(&mut self, at: u64, told: Fed) {
        self.state.take_in(Revision(at), vec![told], self.now);
        self.state.publish();
    }

    fn tag(&self, id: &str) -> Option<&str> {
        let record = self
            .state
            .record(&"users".parse().unwrap(), &id.parse().unwrap())?;
        record.instance.tags.first().map(String::as_str)
    }
}

#[test]
fn what_is_critical_for_long_is_removed_by_whom_it_belongs_to_alone() {
    let mut other = shared("other");
    let mut follower = instance("users", "u1");
    let alias = atoll_model::Alias::Instance("nobody".parse().unwrap());
    let mut check = atoll_model::Check::new(Probe::Alias(alias));
    check.deregister_after = Some(60 * SECOND);
    follower.checks = vec![check];
    let told = other.keeps(follower, 5);
    let mut world = shared("me");
    world.hears(4, member("other", 4));
    world.hears(5, told);
    world.now += 120 * SECOND;
    world.state.step(Event::Tick, world.now).unwrap();
    assert_eq!(world.state.records().count(), 1);
    assert!(world.state.take_effects().entries.is_empty());
}

#[test]
fn a_store_that_is_restored_from_a_backup_counts_even_for_what_is_ours() {
    let mut world = shared("me");
    let tagged = |tag: &str| {
        let mut one = instance("users", "u1");
        one.tags = vec![tag.to_owned()];
        one
    };
    let old = world.keeps(tagged("old"), 5);
    world.hears(5, old.clone());
    let new = world.keeps(tagged("new"), 9);
    world.hears(9, new.clone());
    assert_eq!(world.tag("u1"), Some("new"));
    let all = vec![old, member("me", 4)];
    world.state.take_in_all(Revision(7), all, world.now);
    world.state.publish();
    assert_eq!(world.tag("u1"), Some("old"));
    assert_eq!(world.state.fed(), Revision(7));
    assert!(world.state.catalog().revision > Revision(9));
    // What is about to be written is not undone.
    world.keeps(tagged("newest"), 0);
    let all = vec![new, member("me", 4)];
    world.state.take_in_all(Revision(11), all, world.now);
    assert_eq!(world.tag("u1"), Some("newest"));
}

#[test]
fn what_others_have_adopted_meanwhile_is_left_to_them() {
    let mut gone = shared("gone");
    let mut world = shared("me");
    world.hears(4, member("gone", 4));
    for number in 0..20 {
        let told = gone.keeps(instance("users", &format!("u{number}")), 5 + number);
        world.hears(5 + number, told);
    }
    // `new` came, and adopted all that belonged to `gone`, while we heard nothing.
    let mut new = shared("new");
    let mut all: Vec<Fed> = (0..20)
        .map(|number| new.keeps(instance("users", &format!("u{number}")), 50))
        .collect();
    all.extend([member("me", 3), member("new", 40)]);
    world.state.take_in_all(Revision(60), all, world.now);
    assert!(world.state.take_effects().entries.is_empty());
}
