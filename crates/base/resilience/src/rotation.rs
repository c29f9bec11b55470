//! Weighted round robin, smooth: a heavy member's turns are spread over the round,
//! as in nginx, not given in a row.
//!
//! The order of one round is made once; a turn is then one atomic add, so that
//! workers share a rotation without a lock.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Turns in a round, at most, unless there are more members: weights are scaled to
/// fit, so that a share is exact to 1/4096 of the round, in 16 KiB.
const TURNS_MAX: u64 = 4096;

/// Members of a fixed list, in turn.
#[derive(Debug)]
pub struct Rotation {
    round: Vec<u32>,
    next: AtomicU64,
}

impl Rotation {
    /// A rotation through members 0, 1, 2, ... by weight; weight 0 has no turn.
    pub fn new(weights: &[u32]) -> Self {
        Self {
            round: round(&scaled(weights)),
            next: AtomicU64::new(0),
        }
    }

    /// Begins where `previous` is, so that a rebuilt list does not favour its head.
    #[must_use]
    pub fn starting_as(self, previous: &Self) -> Self {
        let next = previous.next.load(Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
        self
    }

    /// The member whose turn it is; `None` when nobody has one.
    pub fn turn(&self) -> Option<usize> {
        if self.round.is_empty() {
            return None;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.round.len() as u64;
        Some(self.round[turn as usize] as usize)
    }
}

/// Weights in lowest terms, scaled down when a round would be too long.
fn scaled(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    let lowest = weights.iter().map(|&weight| u64::from(weight / divisor));
    let total: u64 = lowest.clone().sum();
    let limit = TURNS_MAX.max(2 * weights.len() as u64);
    if total <= limit {
        return lowest.collect();
    }
    lowest
        .map(|weight| match weight {
            0 => 0,
            _ => (weight * limit / total).max(1),
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One member's next turn: due at (2 x turns had + 1) / weight, the midpoints of a
/// Sainte-Laguë apportionment, which keep every prefix of the round near its quota.
#[derive(PartialEq, Eq)]
struct Due {
    turns: u64,
    weight: u64,
    member: u32,
}

impl Ord for Due {
    /// Greater is due earlier, as the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Order {
        let mine = u128::from(2 * self.turns + 1) * u128::from(other.weight);
        let theirs = u128::from(2 * other.turns + 1) * u128::from(self.weight);
        theirs
            .cmp(&mine)
            .then_with(|| other.member.cmp(&self.member))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

fn round(weights: &[u64]) -> Vec<u32> {
    let total: u64 = weights.iter().sum();
    let mut queue: BinaryHeap<_> = (0..)
        .zip(weights)
        .filter(|&(_, &weight)| weight > 0)
        .map(|(member, &weight)| Due {
            turns: 0,
            weight,
            member,
        })
        .collect();
    let mut round = Vec::with_capacity(total as usize);
    while (round.len() as u64) < total
        && let Some(mut due) = queue.pop()
    {
        round.push(due.member);
        due.turns += 1;
        if due.turns < due.weight {
            queue.push(due);
        }
    }
    round
}
