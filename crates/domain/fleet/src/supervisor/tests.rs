//! Table tests of the transitions, and random histories against the invariants.

use proptest::prelude::*;

use super::*;

fn start() -> Instant {
    atoll_runtime::Clock::system().now()
}

fn supervisor(policy: RestartPolicy) -> Supervisor {
    let (drain, grace) = (Duration::from_secs(30), Duration::from_secs(10));
    Supervisor::new(policy, drain, grace, Random::from_seed(7))
}

/// Feeds `history` of (seconds since the start, event) and gives all actions and the
/// last phase.
fn replay(policy: RestartPolicy, history: &[(f64, Event)]) -> (Vec<Action>, Supervisor, Instant) {
    let began = start();
    let mut machine = supervisor(policy);
    let mut actions = Vec::new();
    for (seconds, event) in history {
        let now = began + Duration::from_secs_f64(*seconds);
        actions.extend(machine.step(*event, now));
    }
    (actions, machine, began)
}

fn actions(history: &[(f64, Event)]) -> Vec<Action> {
    replay(RestartPolicy::Always, history).0
}

const FAILED: Event = Event::Ended { success: false };

#[test]
fn nothing_is_started_before_the_dependencies_are_met() {
    let early = [
        (0.0, Event::Tick),
        (100.0, Event::Tick),
        (101.0, Event::Ready),
    ];
    assert_eq!(actions(&early), []);
    assert_eq!(actions(&[(0.0, Event::Go)]), [Action::Spawn]);
}

#[test]
fn a_stop_while_waiting_or_backing_off_ends_without_another_start() {
    let waiting = [(0.0, Event::Stop), (0.1, Event::Go), (9.0, Event::Tick)];
    assert_eq!(actions(&waiting), []);
    let backing_off = [
        (0.0, Event::Go),
        (0.0, Event::Spawned),
        (1.0, FAILED),
        (1.1, Event::Stop),
        (9.0, Event::Tick),
    ];
    assert_eq!(
        actions(&backing_off),
        [Action::Spawn, Action::Enlist, Action::Clear, Action::Delist]
    );
}

#[test]
fn a_stop_while_spawning_ends_the_process_that_appears() {
    let history = [(0.0, Event::Go), (0.0, Event::Stop), (0.1, Event::Spawned)];
    assert_eq!(actions(&history), [Action::Spawn, Action::Terminate]);
}

#[test]
fn a_ready_replica_leaves_then_drains_then_is_terminated_then_killed() {
    let history = [
        (0.0, Event::Go),
        (0.0, Event::Spawned),
        (1.0, Event::Ready),
        (2.0, Event::Stop),
        (31.9, Event::Tick),
        (32.0, Event::Tick),
        (41.9, Event::Tick),
        (42.0, Event::Tick),
        (42.1, FAILED),
    ];
    let (actions, machine, _) = replay(RestartPolicy::Always, &history);
    assert_eq!(
        actions[2..],
        [
            Action::Drain { wait: true },
            Action::Terminate,
            Action::Kill,
            Action::Clear,
            Action::Delist
        ]
    );
    assert_eq!(machine.phase(), Phase::Stopped);
    assert!(machine.drain_expired() && machine.killed());
}

#[test]
fn a_replica_that_never_took_requests_is_not_waited_for() {
    let history = [(0.0, Event::Go), (0.0, Event::Spawned), (1.0, Event::Stop)];
    assert_eq!(
        actions(&history)[2..],
        [Action::Drain { wait: false }, Action::Terminate]
    );
}

#[test]
fn grandchildren_that_outlive_the_leader_get_the_rest_of_the_grace() {
    let history = [
        (0.0, Event::Go),
        (0.0, Event::Spawned),
        (1.0, Event::Stop),
        (2.0, Event::Ended { success: true }),
    ];
    let (actions, mut machine, began) = replay(RestartPolicy::Always, &history);
    assert_eq!(actions.last(), Some(&Action::ReapLeader));
    let deadline = machine.deadline().unwrap();
    assert_eq!(deadline, began + Duration::from_secs(11));
    assert_eq!(
        machine.clone().step(Event::GroupGone, deadline),
        [Action::Delist]
    );
    assert_eq!(
        machine.step(Event::Tick, deadline),
        [Action::Kill, Action::Delist]
    );
    assert_eq!(machine.phase(), Phase::Stopped);
}

/// Ends the process at once after each start, `times`; gives the pauses.
fn pauses(machine: &mut Supervisor, now: &mut Instant, times: usize) -> Vec<Duration> {
    let mut pauses = Vec::new();
    for _ in 0..times {
        machine.step(Event::Spawned, *now);
        machine.step(FAILED, *now);
        let until = machine.deadline().unwrap();
        pauses.push(until - *now);
        *now = until;
        assert_eq!(machine.step(Event::Tick, *now), [Action::Spawn]);
    }
    pauses
}

#[test]
fn restarts_double_to_thirty_seconds_and_begin_again_once_settled() {
    let mut machine = supervisor(RestartPolicy::Always);
    let mut now = start();
    machine.step(Event::Go, now);
    let plain = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0];
    for (pause, plain) in pauses(&mut machine, &mut now, 10).iter().zip(plain) {
        let ratio = pause.as_secs_f64() / plain;
        assert!((0.8..=1.2).contains(&ratio), "{pause:?} for {plain}");
    }
    machine.step(Event::Spawned, now);
    machine.step(Event::Ready, now);
    assert_eq!(machine.deadline(), Some(now + SETTLED_AFTER));
    now += SETTLED_AFTER;
    machine.step(Event::Tick, now);
    assert_eq!(machine.deadline(), None, "settled, nothing is due");
    machine.step(FAILED, now);
    let pause = machine.deadline().unwrap() - now;
    assert!(pause <= Duration::from_millis(240), "{pause:?}");
}

#[test]
fn a_crash_loop_shows_from_the_fifth_end_until_it_has_been_healthy_for_a_minute() {
    let mut machine = supervisor(RestartPolicy::Always);
    let mut now = start();
    machine.step(Event::Go, now);
    pauses(&mut machine, &mut now, 4);
    assert!(!machine.crash_looping());
    pauses(&mut machine, &mut now, 1);
    assert!(machine.crash_looping());
    // At the longest pause, and when each process lives for a while, it is one still.
    for _ in 0..100 {
        now += Duration::from_secs(20);
        pauses(&mut machine, &mut now, 1);
        assert!(machine.crash_looping());
    }
    assert_eq!(machine.restarts(), 105);
    machine.step(Event::Spawned, now);
    machine.step(Event::Ready, now);
    now += SETTLED_AFTER - Duration::from_millis(1);
    machine.step(Event::Tick, now);
    assert!(machine.crash_looping());
    machine.step(Event::Tick, now + Duration::from_millis(1));
    assert!(!machine.crash_looping());
}

#[test]
fn policies_decide_who_is_started_again() {
    let on_failure = |restarts_max| RestartPolicy::OnFailure { restarts_max };
    let table = [
        (RestartPolicy::Always, true, true),
        (RestartPolicy::Always, false, true),
        (on_failure(None), true, false),
        (on_failure(None), false, true),
        (on_failure(Some(0)), false, false),
        (RestartPolicy::No, false, false),
    ];
    for (policy, success, again) in table {
        let ended = [
            (0.0, Event::Go),
            (0.0, Event::Spawned),
            (1.0, Event::Ended { success }),
        ];
        let (_, machine, _) = replay(policy, &ended);
        let backs_off = matches!(machine.phase(), Phase::BackingOff { .. });
        assert_eq!(backs_off, again, "{policy:?} after success={success}");
    }
    let mut machine = supervisor(on_failure(Some(2)));
    let mut now = start();
    machine.step(Event::Go, now);
    pauses(&mut machine, &mut now, 2);
    machine.step(Event::Spawned, now);
    machine.step(FAILED, now);
    assert_eq!(machine.phase(), Phase::Done, "the third end is the last");
}

#[test]
fn an_immediate_end_skips_drain_and_grace() {
    let history = [
        (0.0, Event::Go),
        (0.0, Event::Spawned),
        (1.0, Event::Ready),
        (2.0, Event::Stop),
        (2.0, Event::Kill),
        (2.0, FAILED),
    ];
    assert_eq!(
        actions(&history)[3..],
        [Action::Kill, Action::Clear, Action::Delist]
    );
}

/// The world around a supervisor: what exists because of its actions.
#[derive(Default)]
struct World {
    leader: bool,
    rest: bool,
    asked: bool,
    enlisted: bool,
    told_to_go: bool,
    told_to_stop: bool,
    signalled: bool,
}

impl World {
    fn check(&mut self, actions: &[Action], phase: Phase) {
        for action in actions {
            match action {
                Action::Spawn => {
                    assert!(
                        !self.leader && !self.rest && !self.asked,
                        "a second process"
                    );
                    assert!(self.told_to_go, "started before its dependencies");
                    assert!(!self.told_to_stop, "started although stopping");
                    assert!(!self.enlisted, "still known under the old address");
                    self.asked = true;
                }
                Action::Enlist => {
                    assert!(self.leader && !self.told_to_stop);
                    self.enlisted = true;
                }
                Action::Delist => {
                    assert!(!self.leader, "forgotten while it runs");
                    self.enlisted = false;
                }
                Action::Drain { .. } => assert!(self.enlisted && !self.signalled),
                Action::Terminate => {
                    assert!(self.leader && self.told_to_stop);
                    self.signalled = true;
                }
                Action::Kill => {
                    assert!(self.leader || self.rest, "a stranger may have the number");
                    self.signalled = true;
                    self.rest = false;
                }
                Action::Clear => (self.leader, self.rest) = (false, false),
                Action::ReapLeader => self.leader = false,
            }
        }
        if phase == Phase::Stopped {
            assert!(
                !self.leader && !self.rest,
                "stopped, and something still runs"
            );
            assert!(!self.enlisted, "stopped, and still in the catalogue");
        }
    }

    /// Whether the world can bring about `event` now.
    fn allows(&self, event: Event) -> bool {
        match event {
            Event::Spawned | Event::SpawnFailed => self.asked,
            Event::Ended { .. } => self.leader,
            // It says so only when it is true.
            Event::GroupGone => !self.leader,
            Event::Go
            | Event::Ready
            | Event::Unready
            | Event::Idle
            | Event::Tick
            | Event::Stop
            | Event::Kill => true,
        }
    }

    fn take_notice(&mut self, event: Event) {
        match event {
            Event::Go => self.told_to_go = true,
            Event::Stop | Event::Kill => self.told_to_stop = true,
            Event::Spawned => (self.asked, self.leader, self.rest) = (false, true, true),
            Event::SpawnFailed => self.asked = false,
            Event::GroupGone => self.rest = false,
            Event::Ready | Event::Unready | Event::Ended { .. } | Event::Idle | Event::Tick => {}
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Go),
        6 => Just(Event::Spawned),
        2 => Just(Event::SpawnFailed),
        3 => Just(Event::Ready),
        1 => Just(Event::Unready),
        3 => any::<bool>().prop_map(|success| Event::Ended { success }),
        2 => Just(Event::Idle),
        2 => Just(Event::GroupGone),
        6 => Just(Event::Tick),
        1 => Just(Event::Stop),
        1 => Just(Event::Kill),
    ]
}

fn any_policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Always),
        proptest::option::of(0..3_u32)
            .prop_map(|restarts_max| RestartPolicy::OnFailure { restarts_max }),
        Just(RestartPolicy::No),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    // process-compose #530: a restart while it waited left an untracked twin.
    #[test]
    fn no_history_leads_to_two_processes_or_a_start_after_the_stop(
        policy in any_policy(),
        history in proptest::collection::vec((any_event(), 0..40_000_u64), 0..60),
    ) {
        let mut machine = supervisor(policy);
        let mut world = World::default();
        let mut now = start();
        for (event, pause_ms) in history {
            now += Duration::from_millis(pause_ms);
            if world.allows(event) {
                world.take_notice(event);
                let actions = machine.step(event, now);
                world.check(&actions, machine.phase());
            }
        }
        // Whatever came before, a stop ends in `Stopped` in a few steps.
        world.take_notice(Event::Stop);
        let actions = machine.step(Event::Stop, now);
        world.check(&actions, machine.phase());
        for _ in 0..8 {
            let event = if world.asked {
                Event::Spawned
            } else if machine.phase() == Phase::Killing {
                Event::Ended { success: false }
            } else {
                now = machine.deadline().unwrap_or(now);
                Event::Tick
            };
            world.take_notice(event);
            let actions = machine.step(event, now);
            world.check(&actions, machine.phase());
        }
        prop_assert_eq!(machine.phase(), Phase::Stopped);
        prop_assert_eq!(machine.deadline(), None);
    }
}
