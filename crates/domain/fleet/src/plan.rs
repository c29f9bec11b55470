//! Which replicas of one service to start and to stop next: pure.
//!
//! Asked again after each change, so it need not know what it said before. A new
//! description replaces replicas start-first, at most one above the number wanted, and
//! an old one goes only when as many as wanted are available without it. Replicas that
//! are leaving count for nothing, as in Kubernetes: a slow drain does not hold up the rest.

use std::collections::BTreeMap;

/// A replica as the plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Of the newest description.
    pub(crate) current: bool,
    pub(crate) state: SlotState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Waits, starts, backs off, or is unhealthy.
    Pending,
    /// Takes requests.
    Ready,
    /// Ended and is not started again.
    Done,
    /// Was told to stop.
    Leaving,
}

/// What to do to the replica of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Start(u32),
    Stop(u32),
}

/// The next steps towards `wanted` replicas of the newest description. With
/// `exclusive` (a fixed port) no two may exist at once, so the old one goes first.
pub(crate) fn plan(wanted: usize, exclusive: bool, slots: &BTreeMap<u32, Slot>) -> Vec<Step> {
    let live = |slot: &Slot| slot.state != SlotState::Leaving;
    let mut current: Vec<(u32, Slot)> = Vec::new();
    let mut old: Vec<(u32, Slot)> = Vec::new();
    for (number, slot) in slots.iter().filter(|(_, slot)| live(slot)) {
        let list = if slot.current { &mut current } else { &mut old };
        list.push((*number, *slot));
    }
    let mut steps = Vec::new();

    // Too many of the newest: those that serve nobody first, then the highest number.
    current.sort_by_key(|(number, slot)| (slot.state == SlotState::Pending, *number));
    while current.len() > wanted {
        if let Some((number, _)) = current.pop() {
            steps.push(Step::Stop(number));
        }
    }

    let done_or_ready = |slot: &Slot| slot.state != SlotState::Pending;
    let mut available = current.iter().filter(|(_, s)| done_or_ready(s)).count()
        + old
            .iter()
            .filter(|(_, s)| s.state == SlotState::Ready)
            .count();
    old.retain(|(number, slot)| {
        let ready = slot.state == SlotState::Ready;
        let goes = exclusive || !ready || available > wanted;
        if goes {
            steps.push(Step::Stop(*number));
            available -= usize::from(ready);
        }
        !goes
    });

    let surge = usize::from(!old.is_empty());
    let room = (wanted + surge).saturating_sub(current.len() + old.len());
    let mut missing = wanted.saturating_sub(current.len()).min(room);
    if exclusive && !slots.is_empty() {
        missing = 0; // its port is not free before it is gone
    }
    let free = (1..).filter(|number| !slots.contains_key(number));
    steps.extend(free.take(missing).map(Step::Start));
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(list: &[(u32, bool, SlotState)]) -> BTreeMap<u32, Slot> {
        let slot = |&(number, current, state)| (number, Slot { current, state });
        list.iter().map(slot).collect()
    }

    const NEW: bool = true;
    const OLD: bool = false;
    use SlotState::{Done, Leaving, Pending, Ready};
    use Step::{Start, Stop};

    #[test]
    fn the_first_replicas_start_all_at_once() {
        assert_eq!(plan(3, false, &slots(&[])), [Start(1), Start(2), Start(3)]);
    }

    #[test]
    fn one_new_replica_starts_before_an_old_one_stops() {
        let two_old = [(1, OLD, Ready), (2, OLD, Ready)];
        assert_eq!(plan(2, false, &slots(&two_old)), [Start(3)]);
        let starting = [(1, OLD, Ready), (2, OLD, Ready), (3, NEW, Pending)];
        assert_eq!(plan(2, false, &slots(&starting)), []);
        let ready = [(1, OLD, Ready), (2, OLD, Ready), (3, NEW, Ready)];
        assert_eq!(plan(2, false, &slots(&ready)), [Stop(1), Start(4)]);
        let half = [(1, OLD, Leaving), (2, OLD, Ready), (3, NEW, Ready)];
        assert_eq!(plan(2, false, &slots(&half)), [Start(4)]);
    }

    #[test]
    fn a_broken_new_description_leaves_the_old_replicas_serving() {
        let broken = [(1, OLD, Ready), (2, OLD, Ready), (3, NEW, Pending)];
        assert_eq!(plan(2, false, &slots(&broken)), []);
        // The mended one replaces the broken one at once.
        let mended = [(1, OLD, Ready), (2, OLD, Ready), (3, OLD, Pending)];
        assert_eq!(plan(2, false, &slots(&mended)), [Stop(3), Start(4)]);
    }

    #[test]
    fn a_fixed_port_is_given_up_before_it_is_taken() {
        assert_eq!(plan(1, true, &slots(&[(1, OLD, Ready)])), [Stop(1)]);
        assert_eq!(plan(1, true, &slots(&[(1, OLD, Leaving)])), []);
        assert_eq!(plan(1, true, &slots(&[])), [Start(1)]);
    }

    #[test]
    fn fewer_replicas_are_reached_by_stopping_what_serves_least() {
        let four = [
            (1, NEW, Pending),
            (2, NEW, Ready),
            (3, NEW, Ready),
            (4, NEW, Ready),
        ];
        assert_eq!(plan(2, false, &slots(&four)), [Stop(1), Stop(4)]);
        assert_eq!(plan(4, false, &slots(&four)), []);
        assert_eq!(plan(0, false, &slots(&four[..2])), [Stop(1), Stop(2)]);
    }

    #[test]
    fn a_finished_job_is_not_started_again_until_its_description_changes() {
        assert_eq!(plan(1, false, &slots(&[(1, NEW, Done)])), []);
        assert_eq!(
            plan(1, false, &slots(&[(1, OLD, Done)])),
            [Stop(1), Start(2)]
        );
    }

    fn any_slots() -> impl Strategy<Value = BTreeMap<u32, Slot>> {
        let state = prop_oneof![Just(Pending), Just(Ready), Just(Done), Just(Leaving)];
        let slot = (any::<bool>(), state).prop_map(|(current, state)| Slot { current, state });
        proptest::collection::btree_map(1..9_u32, slot, 0..8)
    }

    proptest! {
        // However events interleave, the roll ends, and never takes away what it
        // has not replaced.
        #[test]
        fn every_state_converges_and_availability_never_falls_below_what_is_wanted(
            wanted in 0..6_usize,
            mut slots in any_slots(),
            order in proptest::collection::vec(any::<u8>(), 200),
        ) {
            let available = |slots: &BTreeMap<u32, Slot>| {
                slots.values().filter(|slot| slot.state == Ready).count()
            };
            for choice in order {
                let live = |slots: &BTreeMap<u32, Slot>| {
                    slots.values().filter(|slot| slot.state != Leaving).count()
                };
                let (before, live_before) = (available(&slots), live(&slots));
                for step in plan(wanted, false, &slots) {
                    match step {
                        Start(number) => {
                            let slot = Slot { current: true, state: Pending };
                            prop_assert!(slots.insert(number, slot).is_none());
                        }
                        Stop(number) => slots.get_mut(&number).unwrap().state = Leaving,
                    }
                }
                let done = slots.values().filter(|s| s.current && s.state == Done).count();
                prop_assert!(available(&slots) + done >= before.min(wanted));
                // More are there only if fewer are wanted since they were started.
                let live = live(&slots);
                prop_assert!(live <= live_before.max(wanted + 1), "{live} for {wanted}");
                // One thing happens: a replica becomes ready or is gone.
                let moving: Vec<u32> = slots.iter()
                    .filter(|(_, s)| matches!(s.state, Pending | Leaving))
                    .map(|(number, _)| *number)
                    .collect();
                let Some(number) = moving.get(choice as usize % moving.len().max(1)) else {
                    break;
                };
                if slots[number].state == Leaving {
                    slots.remove(number);
                } else {
                    slots.get_mut(number).unwrap().state = Ready;
                }
            }
            prop_assert_eq!(plan(wanted, false, &slots), []);
            prop_assert!(slots.values().all(|slot| slot.current));
            prop_assert_eq!(slots.len(), wanted);
        }
    }
}
