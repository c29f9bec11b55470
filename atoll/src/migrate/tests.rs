//! What is told to Atoll and when, without a source or an Atoll.

use std::time::{Duration, Instant};

use atoll_runtime::Clock;
use serde_json::json;

use super::mirror::{Act, Counts, Event, Item, Key, Mirror, Order};
use super::source::{Kind, Source};

const LEASE: Duration = Duration::from_secs(90);

fn item(id: &str, status: &str) -> Item {
    let key = Key {
        service: "orders".to_owned(),
        id: id.to_owned(),
        node: String::new(),
    };
    Item {
        key,
        status: status.to_owned(),
        address: "10.0.0.1:80".to_owned(),
        body: json!({ "status": status }).to_string(),
    }
}

/// A mirror, and an Atoll that answers what it is told to.
struct World {
    mirror: Mirror,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            mirror: Mirror::new(LEASE),
            now: Clock::system().now(),
        }
    }

    /// What the source has from now on.
    fn has(&mut self, items: &[Item]) -> Vec<Event> {
        let told = self.mirror.whole(None, items.to_vec(), self.now);
        told.into_iter().map(|(_, event)| event).collect()
    }

    /// Tells all that is due, each answered with `status`.
    fn tell(&mut self, status: u16) -> Vec<(Act, Option<Event>)> {
        let due = self.mirror.due(100);
        let told = due.iter().map(|order| {
            let event = self.mirror.settle(order, status, "why".to_owned());
            (order.act, event.map(|(_, event)| event))
        });
        told.collect()
    }

    /// What is renewed, each answered with `status`.
    fn renew(&mut self, status: u16) -> Vec<Option<Event>> {
        let orders: Vec<Order> = self.mirror.renewals(self.now);
        let told = orders.iter().map(|order| {
            let event = self.mirror.settle(order, status, String::new());
            event.map(|(_, event)| event)
        });
        told.collect()
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn counts(&self) -> (usize, usize) {
        let Counts {
            instances,
            switched,
            ..
        } = self.mirror.counts();
        (switched, instances)
    }
}

const NOTHING: [(Act, Option<Event>); 0] = [];

#[test]
fn what_the_source_has_is_told_once_and_again_when_it_changes() {
    let mut world = World::new();
    world.has(&[item("1", "UP")]);
    assert_eq!(world.tell(200), [(Act::Register, Some(Event::Copied))]);
    world.has(&[item("1", "UP")]);
    assert_eq!(world.tell(200), NOTHING);
    assert_eq!(world.renew(200), [None]);
    world.has(&[item("1", "DOWN")]);
    let changed = Event::Changed("UP".to_owned());
    assert_eq!(world.tell(200), [(Act::Register, Some(changed))]);
    assert_eq!(world.has(&[]), []);
    assert_eq!(world.tell(200), [(Act::Cancel, Some(Event::Removed))]);
    assert_eq!((world.counts(), world.renew(200).len()), ((0, 0), 0));
}

#[test]
fn what_atoll_has_lost_is_registered_again() {
    let mut world = World::new();
    world.has(&[item("1", "UP")]);
    world.tell(200);
    assert_eq!(world.renew(404), [None]);
    let same = Event::Changed("UP".to_owned());
    assert_eq!(world.tell(200), [(Act::Register, Some(same))]);
}

#[test]
fn what_has_switched_is_left_alone_until_it_goes_back() {
    let mut world = World::new();
    world.has(&[item("1", "UP"), item("2", "UP")]);
    world.tell(200);
    assert_eq!(
        world.renew(409),
        [Some(Event::Switched), Some(Event::Switched)]
    );
    assert_eq!(world.counts(), (2, 2));
    // It is only asked whether it still is there.
    assert_eq!(
        (world.renew(409), world.tell(409)),
        (vec![None, None], NOTHING.into())
    );
    // The source says that it is down, as its client no longer renews it there.
    world.has(&[item("1", "DOWN"), item("2", "UP")]);
    assert_eq!(world.tell(409), [(Act::Register, None)]);
    // The source has forgotten one of them: it counts on, and nothing is told of it.
    world.has(&[item("1", "DOWN")]);
    assert_eq!((world.tell(200), world.counts()), (NOTHING.into(), (2, 2)));
    // Both end. The source lists one for a while longer, but it must not come back.
    assert_eq!(world.renew(404), [None, None]);
    assert_eq!((world.tell(200), world.counts()), (NOTHING.into(), (1, 1)));
    // Its client registers with the source again.
    world.has(&[item("1", "UP")]);
    assert_eq!(world.tell(200), [(Act::Register, Some(Event::Copied))]);
    assert_eq!(world.counts(), (0, 1));
}

#[test]
fn what_switched_before_the_migration_saw_it_is_not_removed_either() {
    let mut world = World::new();
    world.has(&[item("1", "UP"), item("2", "UP")]);
    assert_eq!(
        world.tell(409),
        vec![(Act::Register, Some(Event::Switched)); 2]
    );
    world.has(&[]);
    assert_eq!((world.tell(200), world.counts()), (NOTHING.into(), (2, 2)));
    let mut world = World::new();
    world.has(&[item("1", "UP")]);
    world.tell(200);
    world.has(&[]);
    assert_eq!(world.tell(409), [(Act::Cancel, Some(Event::Switched))]);
    assert_eq!(world.counts(), (1, 1));
}

#[test]
fn a_source_that_forgets_after_it_was_away_takes_nothing_away_at_once() {
    let mut world = World::new();
    world.has(&[item("1", "UP"), item("2", "UP")]);
    world.tell(200);
    world.mirror.doubt(world.now);
    assert_eq!(world.has(&[]), [Event::Leaving, Event::Leaving]);
    assert_eq!(world.tell(200), NOTHING);
    assert_eq!(
        world.renew(200),
        [],
        "they live by the lease that they have"
    );
    // One registers with it again.
    world.pass(30);
    world.has(&[item("1", "UP")]);
    world.tell(200);
    assert_eq!(world.renew(200), [None]);
    world.pass(61);
    assert_eq!(world.renew(200), [None], "the other one has lapsed");
    assert_eq!(world.counts(), (0, 1));
    // After a lease without a failure it is believed again.
    world.has(&[]);
    assert_eq!(world.tell(200), [(Act::Cancel, Some(Event::Removed))]);
}

#[test]
fn what_is_refused_is_said_once_and_told_again_when_it_changes() {
    let mut world = World::new();
    let why = || Event::Refused("why".to_owned());
    world.has(&[item("1", "UP")]);
    assert_eq!(world.tell(400), [(Act::Register, Some(why()))]);
    world.has(&[item("1", "UP")]);
    assert_eq!(
        (world.tell(400), world.renew(200)),
        (NOTHING.into(), vec![])
    );
    world.has(&[item("1", "DOWN")]);
    assert_eq!(world.tell(400), [(Act::Register, None)]);
    world.has(&[item("1", "STARTING")]);
    assert_eq!(world.tell(200), [(Act::Register, Some(Event::Copied))]);
}

#[test]
fn what_atoll_cannot_take_now_is_told_again_later() {
    let mut world = World::new();
    world.has(&[item("1", "UP")]);
    assert_eq!(world.tell(503).len(), 1);
    assert_eq!(world.tell(200), NOTHING, "not at once");
    world.renew(200);
    assert_eq!(world.tell(200), [(Act::Register, Some(Event::Copied))]);
}

#[test]
fn one_service_of_many_is_compared_with_itself() {
    let mut world = World::new();
    let mut users = item("1", "UP");
    users.key.service = "users".to_owned();
    users.body = "{}".to_owned();
    world.has(&[item("1", "UP"), users]);
    world.tell(200);
    world.mirror.whole(Some("users"), Vec::new(), world.now);
    assert_eq!(world.tell(200), [(Act::Cancel, Some(Event::Removed))]);
    assert_eq!(world.counts(), (0, 1));
}

#[test]
fn urls_are_read_and_wrong_ones_say_how_to_write_them() {
    let shown = |kind, url| match Source::parse(kind, url) {
        Ok(source) => source.shown,
        Err(error) => format!("{error:#}"),
    };
    for (url, expected) in [
        ("http://eureka", "http://eureka:8761/eureka"),
        ("http://10.0.0.1:8080/", "http://10.0.0.1:8080/eureka"),
        ("http://e:1/eureka/v2/", "http://e:1/eureka/v2"),
        ("http://e:1/eureka/apps/", "http://e:1/eureka"),
        ("http://u:p@ss@[::1]/eureka", "http://[::1]:8761/eureka"),
    ] {
        assert_eq!(shown(Kind::Eureka, url), expected, "{url}");
    }
    assert_eq!(shown(Kind::Consul, "http://c/v1/"), "http://c:8500");
    for (url, part) in [
        ("https://e", "TLS"),
        ("u:secret@e:8761", "`e:8761` is no URL"),
        (
            "http://e:port",
            "`e:port` in the URL: write it as http://HOST:8761",
        ),
    ] {
        let told = shown(Kind::Eureka, url);
        assert!(
            told.contains(part) && !told.contains("secret"),
            "{url}: {told}"
        );
    }
}
