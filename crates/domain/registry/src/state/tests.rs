use std::collections::BTreeMap;

use atoll_model::Check;
use proptest::prelude::*;

use super::*;

/// A state and the clock that it is given.
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Instant,
}

pub(super) fn world() -> World {
    world_with(Settings::default())
}

fn world_with(settings: Settings) -> World {
    let now = tokio::time::Instant::now().into_std();
    let mut state = State::new(settings, Revision(0), Random::from_seed(7), now);
    // The reservation of revisions is no registration's.
    state.take_effects();
    World { state, now }
}

pub(super) fn instance(service: &str, id: &str) -> Registration {
    Registration::new(
        service.parse().unwrap(),
        id.parse().unwrap(),
        "10.0.0.1:80".parse().unwrap(),
        Source::Client,
    )
}

fn leased(service: &str, id: &str, lease: Duration) -> Registration {
    let mut registration = instance(service, id);
    registration.lease = Some(lease);
    registration
}

fn checked(id: &str) -> Registration {
    let mut registration = instance("users", id);
    registration.checks = vec![Check::new(Probe::Tcp)];
    registration
}

const SECOND: Duration = Duration::from_secs(1);

impl World {
    fn register(&mut self, registration: Registration) -> Result<(), RegistryError> {
        let event = Event::Register(Box::new(registration));
        self.state.step(event, self.now)
    }

    fn renew(&mut self, id: &str) -> Result<(), RegistryError> {
        let (service, id) = ("users".parse().unwrap(), id.parse().unwrap());
        self.state.step(Event::Renew { service, id }, self.now)
    }

    pub(super) fn deregister(&mut self, id: &str, by: Source) -> Result<(), RegistryError> {
        let (service, id) = ("users".parse().unwrap(), id.parse().unwrap());
        let event = Event::Deregister { service, id, by };
        self.state.step(event, self.now)
    }

    fn word(&mut self, id: &str, word: Word) {
        let (service, id) = ("users".parse().unwrap(), id.parse().unwrap());
        let event = Event::Report { service, id, word };
        self.state.step(event, self.now).unwrap();
    }

    fn drain(&mut self, id: &str, draining: bool) {
        let (service, id) = ("users".parse().unwrap(), id.parse().unwrap());
        let event = Event::Drain {
            service,
            id,
            draining,
        };
        self.state.step(event, self.now).unwrap();
    }

    /// Lets time pass, waking as the owner would; gives the questions with their time.
    fn pass(&mut self, time: Duration) -> Vec<(Instant, Question)> {
        let end = self.now + time;
        let mut questions = Vec::new();
        while let Some(wake) = self.state.next_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            questions.extend(self.tick().into_iter().map(|q| (self.now, q)));
        }
        self.now = end;
        questions
    }

    fn tick(&mut self) -> Vec<Question> {
        self.state.step(Event::Tick, self.now).unwrap();
        self.state.take_effects().questions
    }

    fn answer(&mut self, question: Question, outcome: Outcome) {
        let answer = Answer {
            target: question.target,
            outcome,
            output: format!("{outcome:?}"),
            took: Duration::from_millis(1),
        };
        self.state.step(Event::Answer(answer), self.now).unwrap();
    }

    fn ids(&mut self) -> Vec<String> {
        self.state.publish();
        let list = self.state.catalog().instances("users");
        list.iter().map(|i| i.id.to_string()).collect()
    }

    fn health(&mut self, id: &str) -> Health {
        self.state.publish();
        let list = self.state.catalog().instances("users");
        list.iter().find(|i| i.id.as_str() == id).unwrap().health
    }
}

#[test]
fn a_burst_of_registrations_makes_one_catalogue() {
    let mut world = world();
    for number in 0..1000 {
        world
            .register(instance("users", &format!("u{number}")))
            .unwrap();
        assert_eq!(world.state.revision(), Revision(1));
    }
    let catalog = world.state.publish().unwrap();
    assert_eq!(catalog.revision, Revision(1));
    assert_eq!(catalog.instances("users").len(), 1000);
    assert!(world.state.publish().is_none());
}

#[test]
fn a_change_of_one_service_shares_the_lists_of_the_others() {
    let mut world = world();
    world.register(instance("users", "u1")).unwrap();
    world.register(instance("products", "p1")).unwrap();
    let before = world.state.publish().unwrap();
    world.register(instance("users", "u2")).unwrap();
    let after = world.state.publish().unwrap();
    assert!(Arc::ptr_eq(
        &before.services["products"],
        &after.services["products"]
    ));
    assert!(Arc::ptr_eq(
        &before.services["users"][0],
        &after.services["users"][0]
    ));
}

#[test]
fn a_lease_renewed_just_before_its_deadline_survives_and_ends_one_lease_later() {
    let mut world = world();
    world.register(leased("users", "u1", 30 * SECOND)).unwrap();
    world.pass(Duration::from_millis(29_999));
    world.renew("u1").unwrap();
    world.pass(Duration::from_millis(29_999));
    assert_eq!(world.ids(), ["u1"]);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.ids(), Vec::<String>::new());
    assert!(matches!(
        world.renew("u1"),
        Err(RegistryError::Unknown { .. })
    ));
}

#[test]
fn a_renewal_and_a_repeated_registration_touch_neither_disk_nor_catalogue() {
    let mut world = world();
    world.register(leased("users", "u1", 30 * SECOND)).unwrap();
    world.state.publish();
    assert_eq!(world.state.take_effects().entries.len(), 1);
    world.pass(20 * SECOND);
    world.renew("u1").unwrap();
    world.register(leased("users", "u1", 30 * SECOND)).unwrap();
    assert!(world.state.take_effects().entries.is_empty());
    assert!(world.state.publish().is_none());
    world.pass(25 * SECOND);
    assert_eq!(world.ids(), ["u1"]);
}

#[test]
fn a_shorter_lease_counts_from_its_registration() {
    let mut world = world();
    world.register(leased("users", "u1", 300 * SECOND)).unwrap();
    world.register(leased("users", "u1", 5 * SECOND)).unwrap();
    world.pass(5 * SECOND);
    assert_eq!(world.ids(), Vec::<String>::new());
}

#[test]
fn after_the_whole_process_stood_still_instances_get_time_to_renew() {
    let mut world = world();
    world.register(leased("users", "u1", 10 * SECOND)).unwrap();
    world.state.next_wake();
    // Nobody woke for five minutes.
    world.now += 300 * SECOND;
    world.tick();
    assert_eq!(world.ids(), ["u1"]);
    world.pass(29 * SECOND);
    assert_eq!(world.ids(), ["u1"]);
    world.pass(SECOND);
    assert_eq!(world.ids(), Vec::<String>::new());
}

#[test]
fn a_client_may_not_touch_what_the_fleet_put_there() {
    let mut world = world();
    let mut fleet = instance("users", "users-1");
    fleet.source = Source::Fleet;
    world.register(fleet).unwrap();
    assert!(world.state.take_effects().entries.is_empty(), "not kept");
    let owned = Err(RegistryError::Owned {
        service: "users".parse().unwrap(),
        id: "users-1".parse().unwrap(),
        owner: Source::Fleet,
    });
    assert_eq!(world.register(instance("users", "users-1")), owned);
    assert_eq!(world.deregister("users-1", Source::Client), owned);
    assert_eq!(world.deregister("users-1", Source::Fleet), Ok(()));
}

#[test]
fn a_new_process_of_the_fleet_must_be_seen_healthy_again() {
    let mut world = world();
    let mut replica = checked("users-1");
    replica.source = Source::Fleet;
    world.register(replica.clone()).unwrap();
    let first = world.tick().remove(0);
    world.answer(first, Outcome::Pass);
    assert_eq!(world.health("users-1"), Health::Passing);
    world.drain("users-1", true);
    world.register(replica).unwrap();
    assert_eq!(world.health("users-1"), Health::Starting);
}

#[test]
fn a_client_that_changes_only_its_tags_keeps_its_health() {
    let mut world = world();
    world.register(checked("u1")).unwrap();
    let first = world.tick().remove(0);
    world.answer(first, Outcome::Pass);
    let mut again = checked("u1");
    again.tags = vec!["blue".to_owned()];
    world.register(again).unwrap();
    assert_eq!(world.health("u1"), Health::Passing);
    assert_eq!(
        world.pass(12 * SECOND).len(),
        1,
        "one question, not one for each registration"
    );
}

#[test]
fn late_answers_of_a_former_incarnation_are_ignored() {
    let mut world = world();
    world.register(checked("u1")).unwrap();
    let old = world.tick().remove(0);
    let mut moved = checked("u1");
    moved.address = "10.0.0.2:80".parse().unwrap();
    world.register(moved).unwrap();
    world.answer(old, Outcome::Pass);
    assert_eq!(world.health("u1"), Health::Starting);
    let new = world.tick().remove(0);
    assert_eq!(new.address, "10.0.0.2:80".parse().unwrap());
    world.answer(new, Outcome::Pass);
    assert_eq!(world.health("u1"), Health::Passing);
}

#[test]
fn a_check_that_runs_a_program_is_refused_unless_the_settings_allow_it() {
    let mut script = instance("users", "u1");
    let args = vec!["/bin/true".to_owned()];
    script.checks = vec![Check::new(Probe::Script { args })];
    let refused = world().register(script.clone()).unwrap_err().to_string();
    assert!(refused.contains("script_checks: true"), "{refused}");
    let mut allowed = world_with(Settings {
        script_checks: true,
        ..Settings::default()
    });
    allowed.register(script.clone()).unwrap();
    script.id = "u2".parse().unwrap();
    script.checks = vec![Check::new(Probe::Script { args: Vec::new() })];
    assert!(allowed.register(script).is_err());
}

#[test]
fn in_warning_an_instance_has_the_share_that_it_was_given_for_that() {
    let mut world = world();
    let mut registration = instance("users", "u1");
    registration.weight = 10;
    registration.warning_weight = Some(2);
    world.register(registration.clone()).unwrap();
    let weight = |world: &mut World| {
        world.state.publish();
        world.state.catalog().instances("users")[0].weight
    };
    let own = |health| Word::Own {
        health,
        note: String::new(),
    };
    assert_eq!(weight(&mut world), 10);
    world.word("u1", own(Health::Warning));
    assert_eq!(weight(&mut world), 2);
    // What is kept is what was registered.
    let kept = world.state.take_effects().entries.pop().unwrap();
    let mut after = self::world();
    let loaded = stored::load(vec![(kept.entry.key, kept.entry.value.unwrap())]);
    for instance in loaded.instances {
        after.state.restore(instance, after.now);
    }
    assert_eq!(weight(&mut after), 2);
    for world in [&mut world, &mut after] {
        world.word("u1", own(Health::Passing));
        assert_eq!(weight(world), 10);
    }
    // The same registration again is a renewal still.
    let before = world.state.catalog().revision;
    world.register(registration).unwrap();
    assert_eq!(weight(&mut world), 10);
    assert_eq!(world.state.catalog().revision, before);
}

#[test]
fn removing_an_instance_ends_its_checks() {
    let mut world = world();
    world.register(checked("u1")).unwrap();
    let out = world.tick().remove(0);
    world.deregister("u1", Source::Client).unwrap();
    world.answer(out, Outcome::Pass);
    assert!(world.pass(60 * SECOND).is_empty());
    assert_eq!(world.state.asking, 0);
}

#[test]
fn the_worst_of_checks_and_own_word_counts_and_authority_wins() {
    let mut world = world();
    world.register(checked("u1")).unwrap();
    let out = world.tick().remove(0);
    world.answer(out, Outcome::Pass);
    let own = |health| Word::Own {
        health,
        note: "busy".to_owned(),
    };
    world.word("u1", own(Health::Critical));
    assert_eq!(world.health("u1"), Health::Critical);
    world.word("u1", Word::Forced(Some(Health::Draining)));
    assert_eq!(world.health("u1"), Health::Draining);
    world.word("u1", Word::Forced(None));
    world.word("u1", own(Health::Passing));
    assert_eq!(world.health("u1"), Health::Passing);
    world.drain("u1", true);
    assert_eq!(world.health("u1"), Health::Draining);
    world.drain("u1", false);
    assert_eq!(world.health("u1"), Health::Passing);
}

#[test]
fn an_answer_that_says_the_same_in_other_words_makes_no_catalogue() {
    let mut world = world();
    world.register(checked("u1")).unwrap();
    let out = world.tick().remove(0);
    world.answer(out, Outcome::Pass);
    world.state.publish().unwrap();
    world.state.take_effects();
    let (_, again) = world.pass(10 * SECOND).remove(0);
    let answer = Answer {
        target: again.target,
        outcome: Outcome::Pass,
        output: "12:00:01 fine".to_owned(),
        took: SECOND,
    };
    world.state.step(Event::Answer(answer), world.now).unwrap();
    assert!(world.state.publish().is_none());
    assert!(world.state.take_effects().entries.is_empty());
    let record = world.state.records().next().unwrap();
    assert_eq!(&*record.checks[0].output, "12:00:01 fine");
}

#[test]
fn ten_thousand_checks_do_not_fire_in_one_instant() {
    let mut world = world();
    for number in 0..10_000 {
        world.register(checked(&format!("u{number}"))).unwrap();
    }
    let begin = world.now;
    let end = begin + 30 * SECOND;
    let mut windows = BTreeMap::<u128, usize>::new();
    let mut asked = BTreeMap::<InstanceId, usize>::new();
    while let Some(wake) = world.state.next_wake().filter(|wake| *wake <= end) {
        world.now = world.now.max(wake);
        for question in world.tick() {
            let window = (world.now - begin).as_millis() / 100;
            *windows.entry(window).or_default() += 1;
            *asked.entry(question.target.id.clone()).or_default() += 1;
            world.answer(question, Outcome::Pass);
        }
    }
    let busiest = windows.values().max().unwrap();
    assert!(
        *busiest <= 500,
        "a 100 ms window has {busiest} of 10,000 checks"
    );
    // The first after at most 5 s, the second after 7.5 s more, then each 5 s or so.
    assert_eq!(asked.len(), 10_000);
    assert!(
        asked.values().all(|count| (3..=12).contains(count)),
        "{asked:?}"
    );
}

#[test]
fn whoever_registers_again_and_again_does_not_fill_the_memory() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let mut world = world();
    for number in 0..20_000 {
        let mut registration = checked("u1");
        registration.lease = Some(YEAR);
        registration.checks[0].interval = YEAR;
        registration.tags = vec![number.to_string()];
        world.register(registration).unwrap();
        for question in world.tick() {
            world.answer(question, Outcome::Pass);
        }
        let other = leased("users", &format!("o{number}"), YEAR);
        world.register(other).unwrap();
        world
            .deregister(&format!("o{number}"), Source::Client)
            .unwrap();
    }
    let (leases, checks) = (world.state.leases.len(), world.state.schedule.len());
    assert!(leases <= 2 * TIDY_LEAST, "{leases}");
    assert!(checks <= 2 * TIDY_LEAST, "{checks}");
    // And the two that count are among them.
    assert_eq!(world.health("u1"), Health::Passing);
    assert_eq!(world.pass(YEAR / 2).len(), 0);
    assert_eq!(world.ids(), ["u1"]);
    world.pass(YEAR / 2);
    assert_eq!(world.ids(), Vec::<String>::new());
}

#[test]
fn no_more_questions_are_out_than_allowed() {
    let mut world = world_with(Settings {
        probes_max: 10,
        ..Settings::default()
    });
    for number in 0..50 {
        world.register(checked(&format!("u{number}"))).unwrap();
    }
    let mut out = world.pass(SECOND);
    assert_eq!(out.len(), 10);
    let (_, first) = out.remove(0);
    world.answer(first, Outcome::Fail);
    assert_eq!(world.tick().len(), 1);
}

#[test]
fn restored_instances_keep_their_health_and_get_the_grace_period() {
    let mut before = world();
    before.register(leased("users", "short", SECOND)).unwrap();
    before.register(checked("healthy")).unwrap();
    let out = before.tick().remove(0);
    before.state.take_effects();
    before.answer(out, Outcome::Pass);
    let kept: Vec<_> = before
        .state
        .records()
        .map(|record| stored::keep(record, before.state.wall))
        .map(|entry| (entry.key, entry.value.unwrap()))
        .collect();

    let mut after = world();
    for instance in stored::load(kept).instances {
        after.state.restore(instance, after.now);
    }
    assert_eq!(after.health("healthy"), Health::Passing);
    let asked = after.pass(Duration::from_millis(29_999));
    assert!(!asked.is_empty());
    assert!(
        asked[0].0 <= after.now - 24 * SECOND,
        "asked again within 5 s"
    );
    assert_eq!(after.ids(), ["healthy", "short"]);
    after.pass(Duration::from_millis(1));
    assert_eq!(after.ids(), ["healthy"]);
}

#[test]
fn a_check_stays_critical_over_restarts_and_its_instance_goes_in_time() {
    let mut world = world();
    let registration = told("u1", Some(10 * SECOND), Some(60 * SECOND));
    world.register(registration).unwrap();
    // It falls silent at once; Atoll is started anew each 50 s.
    let mut took_secs = 0;
    while world.state.count > 0 && took_secs < 600 {
        world.pass(50 * SECOND);
        took_secs += 50;
        let wall = world.state.wall;
        let kept = world.state.records().map(|record| {
            let entry = stored::keep(record, wall);
            (entry.key, entry.value.unwrap())
        });
        let loaded = stored::load(kept.collect());
        let now = world.now;
        world.state = State::new(Settings::default(), Revision(0), Random::from_seed(7), now);
        world.state.began_at(took_secs * 1000);
        for instance in loaded.instances {
            world.state.restore(instance, now);
        }
    }
    // Critical at 10 s it would go at 70 s; after the restart at 50 s it has the grace.
    assert_eq!(took_secs, 100);
}

#[test]
fn restored_checks_are_spread() {
    let mut before = world();
    for number in 0..1000 {
        before.register(checked(&format!("u{number}"))).unwrap();
    }
    before.state.publish();
    let kept: Vec<_> = before
        .state
        .records()
        .map(|record| stored::keep(record, before.state.wall))
        .map(|entry| (entry.key, entry.value.unwrap()))
        .collect();
    let mut after = world_with(Settings {
        probes_max: 1000,
        ..Settings::default()
    });
    for instance in stored::load(kept).instances {
        after.state.restore(instance, after.now);
    }
    let begin = after.now;
    let mut windows = [0; 60];
    for (at, _) in after.pass(6 * SECOND) {
        windows[(at - begin).as_millis() as usize / 100] += 1;
    }
    assert_eq!(windows.iter().sum::<usize>(), 1000);
    assert!(windows.iter().all(|count| *count <= 50), "{windows:?}");
}

#[test]
fn revisions_are_reserved_before_they_run_out() {
    let mut world = world();
    assert!(world.state.ceiling.0 >= REVISIONS_RESERVED);
    world.state.ceiling = Revision(1);
    world.register(instance("users", "u1")).unwrap();
    world.state.publish();
    let entries = world.state.take_effects().entries;
    let ceiling = stored::ceiling(Revision(1 + REVISIONS_RESERVED));
    assert!(entries.iter().any(|owed| owed.entry == ceiling));
}

#[test]
fn what_can_never_work_is_refused_with_its_field() {
    let mut world = world();
    let mut check = |edit: fn(&mut Registration), field: &str| {
        let mut registration = checked("u1");
        edit(&mut registration);
        let refused = world.register(registration).unwrap_err();
        assert!(refused.to_string().starts_with(field), "{refused}");
    };
    check(|r| r.lease = Some(Duration::ZERO), "lease: ");
    check(|r| r.tags = vec![String::new(); 65], "tags: ");
    check(|r| r.tags = vec!["x".repeat(40_000)], "metadata: ");
    check(
        |r| r.checks[0].interval = Duration::ZERO,
        "checks.interval: ",
    );
    check(
        |r| {
            r.checks[0].probe = Probe::Http {
                path: "x".to_owned(),
            }
        },
        "checks.http.path: ",
    );
    check(
        |r| r.checks[0].timeout = Duration::from_secs(61),
        "checks.timeout: ",
    );
    check(
        |r| {
            r.checks[0].probe = Probe::Http {
                path: format!("/{}", "x".repeat(2048)),
            }
        },
        "checks.http.path: ",
    );
    let mut full = world_with(Settings {
        instances_max: 1,
        ..Settings::default()
    });
    full.register(instance("users", "u1")).unwrap();
    full.register(instance("users", "u1")).unwrap();
    assert_eq!(
        full.register(instance("users", "u2")),
        Err(RegistryError::Full { limit: 1 })
    );
}

#[derive(Clone, Debug)]
enum Deed {
    Register(u8, u64),
    Renew(u8),
    Deregister(u8),
    Pass(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => (0..6_u8, 1..20_000_u64).prop_map(|(id, lease)| Deed::Register(id, lease)),
        3 => (0..6_u8).prop_map(Deed::Renew),
        1 => (0..6_u8).prop_map(Deed::Deregister),
        4 => (0..15_000_u64).prop_map(Deed::Pass),
    ]
}

proptest! {
    /// The queue of deadlines, with its lazy renewals and stale entries, against
    /// the plainest model there is: a deadline for each id.
    #[test]
    fn an_instance_is_there_exactly_as_long_as_its_lease(deeds in prop::collection::vec(deed(), 1..80)) {
        let mut world = world();
        let mut model = BTreeMap::<String, (Duration, Instant)>::new();
        for deed in deeds {
            match deed {
                Deed::Register(id, lease) => {
                    let (id, lease) = (format!("u{id}"), Duration::from_millis(lease));
                    world.register(leased("users", &id, lease)).unwrap();
                    model.insert(id, (lease, world.now + lease));
                }
                Deed::Renew(id) => {
                    let id = format!("u{id}");
                    let known = model.get_mut(&id);
                    prop_assert_eq!(world.renew(&id).is_ok(), known.is_some());
                    if let Some((lease, deadline)) = known {
                        *deadline = world.now + *lease;
                    }
                }
                Deed::Deregister(id) => {
                    let id = format!("u{id}");
                    let known = model.remove(&id).is_some();
                    prop_assert_eq!(world.deregister(&id, Source::Client).is_ok(), known);
                }
                Deed::Pass(ms) => {
                    world.pass(Duration::from_millis(ms));
                    model.retain(|_, (_, deadline)| *deadline > world.now);
                }
            }
            prop_assert_eq!(world.ids(), model.keys().cloned().collect::<Vec<_>>());
            prop_assert_eq!(world.state.count, model.len());
        }
    }

    /// Whatever happens, a watcher that applies changes knows what the catalogue knows.
    #[test]
    fn changes_applied_in_order_give_the_catalogue(
        deeds in prop::collection::vec(deed(), 1..60),
        publish_every in 1..5_usize,
    ) {
        let mut world = world();
        let mut known = BTreeMap::new();
        let mut seen = Revision(0);
        for (number, deed) in deeds.into_iter().enumerate() {
            match deed {
                Deed::Register(id, lease) => {
                    let lease = Duration::from_millis(lease);
                    world.register(leased("users", &format!("u{id}"), lease)).unwrap();
                }
                Deed::Renew(id) => drop(world.renew(&format!("u{id}"))),
                Deed::Deregister(id) => drop(world.deregister(&format!("u{id}"), Source::Client)),
                Deed::Pass(ms) => drop(world.pass(Duration::from_millis(ms))),
            }
            if number % publish_every != 0 {
                continue;
            }
            world.state.publish();
            for change in world.state.changes(seen).unwrap() {
                match change {
                    Change::Put(instance) => drop(known.insert(instance.id.clone(), instance)),
                    Change::Gone { id, .. } => drop(known.remove(&id)),
                }
            }
            seen = world.state.catalog().revision;
            let expected = world.state.catalog().instances("users").to_vec();
            prop_assert_eq!(known.values().cloned().collect::<Vec<_>>(), expected);
        }
    }
}

impl World {
    /// Registers `count` instances with patient leases of 90 s.
    fn patient(&mut self, count: usize) {
        for number in 0..count {
            let mut registration = leased("users", &format!("u{number:03}"), 90 * SECOND);
            registration.patient = true;
            self.register(registration).unwrap();
        }
        self.state.publish();
    }

    /// Renews all whose number is at least `from`, each 30 s, for `rounds`.
    fn beat(&mut self, from: usize, count: usize, rounds: usize) {
        for _ in 0..rounds {
            self.now += 30 * SECOND;
            for number in from..count {
                self.renew(&format!("u{number:03}")).unwrap();
            }
            self.state.step(Event::Tick, self.now).unwrap();
        }
    }
}

#[test]
fn a_few_patient_leases_expire_like_others() {
    let mut world = world();
    world.patient(40);
    world.beat(6, 40, 4);
    assert_eq!(world.state.count, 34);
    assert!(!world.state.preservation().holding);
}

#[test]
fn many_patient_leases_that_lapse_at_once_are_kept_until_most_are_renewed() {
    let mut world = world();
    world.patient(40);
    world.beat(20, 40, 4);
    let report = world.state.preservation();
    assert_eq!((report.leases, report.lapsed), (40, 20));
    assert!(report.holding);
    // Those of the split come back but for six of forty: 15 %.
    world.beat(6, 40, 1);
    assert_eq!(world.state.count, 34);
    let report = world.state.preservation();
    assert_eq!((report.leases, report.lapsed, report.expired), (34, 0, 6));
    assert!(!report.holding);
    world.beat(6, 40, 10);
    assert_eq!(world.state.count, 34);
}

#[test]
fn leases_that_lapse_one_after_the_other_are_kept_too() {
    let mut world = world();
    // One more each second, none renewed.
    for number in 0..40 {
        let mut registration = leased("users", &format!("u{number:03}"), 90 * SECOND);
        registration.patient = true;
        world.register(registration).unwrap();
        world.now += SECOND;
    }
    for _ in 0..400 {
        world.now += SECOND;
        world.state.step(Event::Tick, world.now).unwrap();
    }
    assert_eq!(world.state.count, 34, "15 % of forty went, then no more");
    assert!(world.state.preservation().holding);
    // One that is deregistered goes, kept or not.
    world.deregister("u039", Source::Client).unwrap();
    assert_eq!(world.state.preservation().lapsed, 33);
}

#[test]
fn small_fleets_and_impatient_leases_are_never_preserved() {
    let mut world = world();
    world.patient(19);
    for number in 100..150 {
        let registration = leased("users", &format!("u{number}"), 90 * SECOND);
        world.register(registration).unwrap();
    }
    world.beat(0, 0, 4);
    assert_eq!(world.state.count, 0);

    let mut settings = Settings::default();
    settings.self_preservation.enabled = false;
    let mut world = world_with(settings);
    world.patient(40);
    world.beat(0, 0, 4);
    assert_eq!(world.state.count, 0);
}

#[test]
fn a_forced_word_outlives_registrations_but_is_not_forced_on_the_unfit() {
    let mut world = world();
    let health = |world: &World| {
        let record = world.state.records().next().unwrap();
        (record.instance.health, record.forced)
    };
    world.register(instance("users", "u1")).unwrap();
    world.word("u1", Word::Forced(Some(Health::Draining)));
    let mut again = instance("users", "u1");
    again.weight = 2;
    world.register(again.clone()).unwrap();
    world.renew("u1").unwrap();
    let drained = (Health::Draining, Some(Health::Draining));
    assert_eq!(health(&world), drained);
    again.health = Health::Critical;
    world.register(again.clone()).unwrap();
    assert_eq!(health(&world).0, Health::Critical);
    again.health = Health::Passing;
    world.register(again.clone()).unwrap();
    assert_eq!(health(&world), drained);
    // Said after the instance spoke, it holds until it speaks again.
    again.health = Health::Starting;
    world.register(again).unwrap();
    world.word("u1", Word::Forced(Some(Health::Passing)));
    assert_eq!(health(&world).0, Health::Passing);
    world.word("u1", Word::Forced(None));
    assert_eq!(health(&world), (Health::Starting, None));
}

fn told(id: &str, ttl: Option<Duration>, deregister_after: Option<Duration>) -> Registration {
    let mut registration = instance("users", id);
    let mut check = Check::new(Probe::Told { ttl });
    check.name = format!("service:{id}");
    check.deregister_after = deregister_after;
    registration.checks = vec![check];
    registration
}

impl World {
    fn say(&mut self, id: &str, health: Health) -> Result<(), RegistryError> {
        let said = Said {
            service: "users".parse().unwrap(),
            id: id.parse().unwrap(),
            check: format!("service:{id}"),
            health,
            output: "said".to_owned(),
        };
        self.state.step(Event::Said(Box::new(said)), self.now)
    }

    fn standing(&mut self, id: &str) -> Option<Health> {
        self.state.publish();
        let catalog = self.state.catalog();
        let found = catalog
            .instances("users")
            .iter()
            .find(|i| i.id.as_str() == id);
        found.map(|instance| instance.health)
    }
}

#[test]
fn who_registers_again_is_believed_for_another_ttl() {
    let mut world = world();
    for (tag, seconds) in [("a", 0), ("a", 9), ("b", 9), ("b", 9)] {
        world.pass(seconds * SECOND);
        let mut again = told("u1", Some(10 * SECOND), None);
        again.tags.push(tag.to_owned());
        world.register(again).unwrap();
        if seconds == 0 {
            world.say("u1", Health::Passing).unwrap();
        }
        assert_eq!(world.standing("u1"), Some(Health::Passing));
    }
    world.pass(9 * SECOND);
    assert_eq!(world.standing("u1"), Some(Health::Passing));
    world.pass(SECOND);
    assert_eq!(world.standing("u1"), Some(Health::Critical));
}

#[test]
fn a_told_check_is_believed_for_its_ttl_and_no_longer() {
    let mut world = world();
    world.register(told("u1", Some(10 * SECOND), None)).unwrap();
    assert_eq!(world.standing("u1"), Some(Health::Starting));
    world.say("u1", Health::Passing).unwrap();
    for _ in 0..5 {
        assert!(world.pass(9 * SECOND).is_empty(), "nobody is asked");
        assert_eq!(world.standing("u1"), Some(Health::Passing));
        world.say("u1", Health::Passing).unwrap();
    }
    world.pass(10 * SECOND);
    world.tick();
    assert_eq!(world.standing("u1"), Some(Health::Critical));
    let note = world.state.catalog().instances("users")[0].note.clone();
    assert_eq!(note, "TTL expired");
    world.say("u1", Health::Warning).unwrap();
    assert_eq!(world.standing("u1"), Some(Health::Warning));
    world.pass(1000 * SECOND);
    assert_eq!(world.standing("u1"), Some(Health::Critical));
}

#[test]
fn what_is_critical_for_long_is_deregistered_and_recovery_in_time_saves_it() {
    let mut world = world();
    let hour = 3600 * SECOND;
    world
        .register(told("u1", Some(hour), Some(60 * SECOND)))
        .unwrap();
    world.say("u1", Health::Critical).unwrap();
    world.pass(59 * SECOND);
    world.say("u1", Health::Passing).unwrap();
    world.pass(59 * SECOND);
    assert_eq!(world.standing("u1"), Some(Health::Passing));
    world.say("u1", Health::Critical).unwrap();
    world.pass(59 * SECOND);
    assert_eq!(world.standing("u1"), Some(Health::Critical));
    world.pass(SECOND);
    world.tick();
    assert_eq!(world.standing("u1"), None);
}

#[test]
fn a_check_that_is_asked_or_missing_cannot_be_told() {
    let mut world = world();
    let mut asked = checked("u1");
    asked.checks[0].name = "service:u1".to_owned();
    world.register(asked).unwrap();
    assert!(world.say("u1", Health::Passing).is_err());
    world.register(checked("u2")).unwrap();
    assert!(world.say("u2", Health::Passing).is_err());
    assert!(world.say("u3", Health::Passing).is_err());
}

#[test]
fn a_check_that_is_added_leaves_the_others_as_they_stand() {
    let mut world = world();
    let mut registration = told("u1", Some(10 * SECOND), None);
    world.register(registration.clone()).unwrap();
    world.say("u1", Health::Passing).unwrap();
    let mut second = Check::new(Probe::Told { ttl: None });
    second.name = "second".to_owned();
    registration.checks.insert(0, second);
    world.register(registration.clone()).unwrap();
    assert_eq!(world.standing("u1"), Some(Health::Starting));
    registration.checks.remove(0);
    world.register(registration).unwrap();
    assert_eq!(world.standing("u1"), Some(Health::Passing));
    // Elsewhere it is another process, of which its owner says the same all the same.
    let mut moved = told("u1", Some(10 * SECOND), None);
    moved.address = "10.0.0.7:80".parse().unwrap();
    world.register(moved).unwrap();
    assert_eq!(world.standing("u1"), Some(Health::Passing));
    // The deadline of the incarnation before still counts.
    world.pass(10 * SECOND);
    world.tick();
    assert_eq!(world.standing("u1"), Some(Health::Critical));
}

#[test]
fn maintenance_is_critical_and_outlives_a_registration_and_a_restart() {
    let mut world = world();
    world.register(told("u1", None, None)).unwrap();
    world.say("u1", Health::Passing).unwrap();
    world.word("u1", Word::Maintenance(Some("new disk".to_owned())));
    let mut again = told("u1", None, None);
    again.tags.push("blue".to_owned());
    world.register(again).unwrap();
    assert_eq!(world.standing("u1"), Some(Health::Critical));
    assert_eq!(world.state.catalog().instances("users")[0].note, "new disk");

    let kept = world.state.take_effects().entries;
    let kept = kept
        .into_iter()
        .filter_map(|e| Some((e.entry.key, e.entry.value?)));
    let mut restored = stored::load(kept.collect()).instances;
    world
        .state
        .remove(&"users".parse().unwrap(), &"u1".parse().unwrap());
    world.state.restore(restored.pop().unwrap(), world.now);
    assert_eq!(world.standing("u1"), Some(Health::Critical));
    world.word("u1", Word::Maintenance(None));
    assert_eq!(world.standing("u1"), Some(Health::Passing));
}

#[test]
fn a_check_may_ask_another_address_than_its_instance_has() {
    let mut world = world();
    let mut registration = checked("u1");
    registration.checks[0].at = Some("10.0.0.9:81".parse().unwrap());
    world.register(registration).unwrap();
    let question = world.tick().remove(0);
    assert_eq!(question.address.to_string(), "10.0.0.9:81");
}
