//! Choice by weight from a fixed list, and the less loaded of two such choices.
//!
//! "Power of two choices" (Mitzenmacher 2001; Envoy's and Finagle's default) needs
//! no view of all members and does not herd onto the one that was idle last.

/// A fixed list of weights to draw from; members are known by their place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Sum of the weights up to and including each member.
    ends: Vec<u64>,
    /// All members weigh the same and more than nothing, so that no search is needed.
    equal: bool,
}

impl Weights {
    /// The weights of members 0, 1, 2, ...; one of weight 0 is never drawn.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let mut total = 0_u64;
        let mut first = None;
        let mut equal = true;
        let ends = weights
            .into_iter()
            .map(|weight| {
                equal &= weight > 0 && *first.get_or_insert(weight) == weight;
                total += u64::from(weight);
                total
            })
            .collect();
        Self { ends, equal }
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The weight of `member`.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn weight(&self, member: usize) -> u64 {
        self.ends[member] - self.start(member)
    }

    /// One member by weight, from 64 random bits; `None` when all weigh nothing.
    pub fn draw(&self, bits: u64) -> Option<usize> {
        if self.equal {
            return (!self.ends.is_empty()).then(|| below(bits, self.ends.len() as u64) as usize);
        }
        let total = self.total();
        (total > 0).then(|| self.at(below(bits, total)))
    }

    /// One member by weight, not `except`; `None` when no other weighs anything.
    pub fn draw_other(&self, bits: u64, except: usize) -> Option<usize> {
        if self.equal {
            let others = self.ends.len() as u64 - 1;
            let drawn = below(bits, others.max(1)) as usize;
            return (others > 0).then_some(drawn + usize::from(drawn >= except));
        }
        let others = self.total() - self.weight(except);
        if others == 0 {
            return None;
        }
        let drawn = below(bits, others);
        Some(self.at(if drawn < self.start(except) {
            drawn
        } else {
            drawn + self.weight(except)
        }))
    }

    fn at(&self, point: u64) -> usize {
        self.ends.partition_point(|&end| end <= point)
    }

    fn start(&self, member: usize) -> u64 {
        member.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
}

/// Whether a member with `load` requests in flight and `weight` is to be preferred
/// to another: by (load + 1) / weight, the first on a tie.
pub fn less_loaded(first: (u32, u64), second: (u32, u64)) -> bool {
    let (load, weight) = first;
    let (other_load, other_weight) = second;
    let cost = |load: u32, other_weight: u64| {
        (u128::from(load) + 1).saturating_mul(u128::from(other_weight))
    };
    cost(load, other_weight) <= cost(other_load, weight)
}

/// `bits` scaled to `0..limit` without a division (Lemire 2019); 0 when `limit` is 0.
fn below(bits: u64, limit: u64) -> u64 {
    ((u128::from(bits) * u128::from(limit)) >> 64) as u64
}
