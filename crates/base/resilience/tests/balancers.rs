//! What the balancers promise: shares by weight, evenness, and little change when a
//! member leaves.

use atoll_resilience::{Ring, Rotation, Weights, hash_key, less_loaded};
use proptest::prelude::*;

/// splitmix64, so that runs repeat.
fn bits(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![1 => Just(0), 8 => 1_u32..20], 1..12)
}

fn turns(weights: &[u32], count: usize) -> Vec<usize> {
    let rotation = Rotation::new(weights);
    (0..count).filter_map(|_| rotation.turn()).collect()
}

#[test]
fn a_heavy_member_has_its_turns_spread_over_the_round() {
    assert_eq!(turns(&[5, 1, 1], 7), [0, 0, 0, 1, 2, 0, 0]);
    assert_eq!(turns(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    assert_eq!(turns(&[200, 100], 6), [0, 1, 0, 0, 1, 0]);
    assert_eq!(turns(&[0, 3], 2), [1, 1]);
    assert!(turns(&[0, 0], 2).is_empty());
    assert!(turns(&[], 2).is_empty());
}

#[test]
fn a_rebuilt_rotation_goes_on_where_the_old_one_was() {
    let old = Rotation::new(&[1, 1, 1]);
    assert_eq!(old.turn(), Some(0));
    let new = Rotation::new(&[1, 1, 1, 1]).starting_as(&old);
    assert_eq!(new.turn(), Some(1));
}

#[test]
fn weights_too_large_for_a_round_keep_their_proportion_and_nobody_is_left_out() {
    let weights = [65_535, 65_534, 32_768, 1];
    let turns = turns(&weights, 40_000);
    let count = |member| turns.iter().filter(|&&turn| turn == member).count() as f64;
    let total: u32 = weights.iter().sum();
    for (member, weight) in weights.iter().enumerate() {
        let share = f64::from(*weight) / f64::from(total) * turns.len() as f64;
        assert!((count(member) - share).abs() < 0.001 * turns.len() as f64 + 12.0);
        assert!(count(member) > 0.0);
    }
}

#[test]
fn the_less_loaded_is_chosen_in_proportion_to_its_weight() {
    assert!(less_loaded((0, 1), (0, 1)));
    assert!(less_loaded((1, 2), (0, 1)));
    assert!(!less_loaded((2, 2), (0, 1)));
    assert!(less_loaded((0, 1), (1, 1)));
    assert!(less_loaded((u32::MAX, u64::MAX), (0, 1)));
}

/// Requests that are never done: the fullest bin of P2C against that of one choice.
#[test]
fn two_choices_keep_the_busiest_close_to_the_average() {
    const MEMBERS: usize = 100;
    let mut state = 1;
    let weights = Weights::new([1; MEMBERS]);
    let mut loads = [0_u32; MEMBERS];
    for _ in 0..100 * MEMBERS {
        let first = weights.draw(bits(&mut state)).unwrap();
        let second = weights.draw_other(bits(&mut state), first).unwrap();
        assert_ne!(first, second);
        let chosen = if less_loaded((loads[first], 1), (loads[second], 1)) {
            first
        } else {
            second
        };
        loads[chosen] += 1;
    }
    // Log log n above the average, where one choice would be about 30 above it.
    assert!(
        loads.iter().all(|load| (95..=105).contains(load)),
        "{loads:?}"
    );
}

proptest! {
    #[test]
    fn draws_follow_the_weights(weights in weights(), seed in any::<u64>()) {
        let drawn = Weights::new(weights.iter().copied());
        let total: u32 = weights.iter().sum();
        let mut state = seed;
        let mut counts = vec![0_u32; weights.len()];
        const DRAWS: u32 = 20_000;
        for _ in 0..DRAWS {
            match drawn.draw(bits(&mut state)) {
                Some(member) => counts[member] += 1,
                None => prop_assert_eq!(total, 0),
            }
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let share = f64::from(*weight) / f64::from(total.max(1));
            // Six standard deviations of the binomial distribution.
            let spread = 6.0 * (f64::from(DRAWS) * share * (1.0 - share)).sqrt();
            let off = (f64::from(*count) - f64::from(DRAWS) * share).abs();
            prop_assert!(off <= spread + 1e-6, "{counts:?} of {weights:?}");
        }
    }

    #[test]
    fn another_draw_is_another_member(weights in weights(), seed in any::<u64>()) {
        let drawn = Weights::new(weights.iter().copied());
        let mut state = seed;
        for except in 0..weights.len() {
            let others = weights.iter().enumerate().any(|(at, &weight)| at != except && weight > 0);
            let other = drawn.draw_other(bits(&mut state), except);
            prop_assert_eq!(other.is_some(), others);
            if let Some(other) = other {
                prop_assert_ne!(other, except);
                prop_assert!(weights[other] > 0);
            }
        }
    }

    #[test]
    fn a_round_gives_each_its_weight_and_every_prefix_its_quota(weights in weights()) {
        let total: u32 = weights.iter().sum();
        let turns = turns(&weights, total as usize);
        prop_assert_eq!(turns.len(), total as usize);
        let mut counts = vec![0_u32; weights.len()];
        for (index, &turn) in turns.iter().enumerate() {
            counts[turn] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let quota = f64::from(*weight) * (index + 1) as f64 / f64::from(total);
                // Midpoint deadlines keep within half the number of members, and
                // within one turn and a half for as many as there are here.
                prop_assert!((f64::from(*count) - quota).abs() < 2.5, "{turns:?}");
            }
        }
        let per_round = weights.iter().fold(0, |a, &b| gcd(a, b)).max(1);
        prop_assert!(counts.iter().zip(&weights).all(|(count, weight)| count % (weight / per_round).max(1) == 0));
        prop_assert_eq!(counts, weights);
    }

    #[test]
    fn when_a_member_leaves_only_its_keys_move(
        names in prop::collection::btree_map("[a-z]{1,8}", 1_u32..4, 2..20),
        gone in any::<prop::sample::Index>(),
        keys in prop::collection::vec(any::<u64>(), 200),
    ) {
        let members: Vec<_> = names.iter().map(|(name, &weight)| (name.as_str(), weight)).collect();
        let gone = gone.index(members.len());
        let left: Vec<_> = members.iter().copied().enumerate()
            .filter(|(at, _)| *at != gone).map(|(_, member)| member).collect();
        let before = Ring::new(members.clone());
        let after = Ring::new(left.clone());
        for key in keys {
            let old = members[before.member(key).unwrap()].0;
            let new = left[after.member(key).unwrap()].0;
            if old != members[gone].0 {
                prop_assert_eq!(old, new);
            } else {
                // And they go to whoever was next on the ring.
                let next = before.walk(key).find(|&at| at != gone).unwrap();
                prop_assert_eq!(new, members[next].0);
            }
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[test]
fn a_ring_gives_shares_by_weight() {
    let names: Vec<_> = (0..10).map(|at| format!("users-{at}")).collect();
    let members = names
        .iter()
        .map(|name| (name.as_str(), if name == "users-0" { 3 } else { 1 }));
    let ring = Ring::new(members);
    let mut counts = [0_u32; 10];
    for key in 0..120_000_u32 {
        counts[ring.member(hash_key(&key.to_be_bytes())).unwrap()] += 1;
    }
    assert!((24_000..=36_000).contains(&counts[0]), "{counts:?}");
    assert!(
        counts[1..]
            .iter()
            .all(|count| (7_000..=13_000).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn a_ring_of_ten_thousand_stays_bounded_and_reaches_all() {
    let names: Vec<_> = (0..10_000).map(|at| format!("users-{at}")).collect();
    let ring = Ring::new(names.iter().map(|name| (name.as_str(), 65_535)));
    assert!(ring.len() <= 128 * 1024);
    let reached: std::collections::HashSet<_> = ring.walk(0).take(ring.len()).collect();
    assert_eq!(reached.len(), 10_000);
}

#[test]
fn places_on_the_ring_are_the_same_in_every_release() {
    // A changed hash would move every key of a fleet that is upgraded gateway by gateway.
    assert_eq!(
        format!("{:016x}", hash_key(b"client-7")),
        "8c34fd6f741ebd34"
    );
    let ring = Ring::new([("users-1", 1), ("users-2", 1), ("users-3", 2)]);
    let members: Vec<_> = (0..8_u8)
        .map(|key| ring.member(hash_key(&[key])).unwrap())
        .collect();
    assert_eq!(members, [2, 1, 2, 2, 1, 2, 0, 0]);
}

#[test]
fn an_empty_ring_has_no_member() {
    assert_eq!(Ring::new([]).member(7), None);
    assert_eq!(Ring::new([("a", 0)]).member(7), None);
    assert!(Ring::default().is_empty());
    assert!(Weights::new([]).is_empty());
    assert_eq!(Weights::new([]).draw(7), None);
}
