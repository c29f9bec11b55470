//! Consistent hashing on a ring (ketama): the same key goes to the same member, and
//! when a member leaves only its own keys move.
//!
//! A member's points depend on its own name and weight alone. A pick is a binary
//! search: O(log n).

/// Points on the ring for each unit of weight. 128 keeps the load of equal members
/// within about ±10 % (standard deviation 1/sqrt(128)).
const POINTS_PER_WEIGHT: u64 = 128;

/// Points on the ring at most (2 MiB), unless there are more members: beyond it the
/// points of all members are halved until they fit. Halving keeps each member's
/// first points where they are.
const POINTS_MAX: u64 = 128 * 1024;

/// A ring of the members of a fixed list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// By place on the ring.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// A ring of members 0, 1, 2, ... by name and weight. Weight 0 is not on it.
    /// Names must differ, or the first of two alike gets all.
    pub fn new<'a>(members: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let members: Vec<_> = members.into_iter().collect();
        let weight: u64 = members.iter().map(|&(_, weight)| u64::from(weight)).sum();
        let mut halvings = 0;
        while (weight * POINTS_PER_WEIGHT) >> halvings > POINTS_MAX {
            halvings += 1;
        }
        let mut points = Vec::new();
        for (member, &(name, weight)) in (0_u32..).zip(&members) {
            if weight == 0 {
                continue;
            }
            let name = hash_key(name.as_bytes());
            let count = ((u64::from(weight) * POINTS_PER_WEIGHT) >> halvings).max(1);
            points.extend((0..count).map(|point| (mix(name ^ mix(point)), member)));
        }
        points.sort_unstable();
        points.shrink_to_fit();
        Self { points }
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether nobody is on the ring.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The members from the key's place onward, nearest first; each comes once for
    /// each of its points. Endless unless the ring is empty.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.points.partition_point(|&(place, _)| place < key);
        let (before, after) = self.points.split_at(start);
        after
            .iter()
            .chain(before)
            .cycle()
            .map(|&(_, member)| member as usize)
    }

    /// The member of the key; `None` when the ring is empty.
    pub fn member(&self, key: u64) -> Option<usize> {
        self.walk(key).next()
    }
}

/// A place on the ring for `key`: the same on every machine and in every release,
/// since the gateways of a fleet must agree (so not std's keyed hash). Whoever can
/// choose keys can choose a member, and no more than that.
pub fn hash_key(key: &[u8]) -> u64 {
    // FNV-1a, then a finaliser since its high bits are weak.
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    mix(fnv)
}

/// The finaliser of splitmix64 (Steele 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
