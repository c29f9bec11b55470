//! Medians, ranges, and how far a median may be trusted.

/// How often the interval of [`Summary::interval`] has to hold the true median.
const CONFIDENCE: f64 = 0.90;

/// What is told of one figure over all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// Holds the true median with at least 90 % confidence, whatever the
    /// distribution (sign test); the whole range when the rounds are too few.
    pub(crate) interval: (f64, f64),
}

impl Summary {
    /// `None` without values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let count = sorted.len();
        let median = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
        let cut = cut(count);
        Some(Self {
            median,
            least,
            most,
            interval: (sorted[cut], sorted[count - 1 - cut]),
        })
    }

    /// How far from 1 a ratio may lie by chance: the end of the interval that is
    /// further from it.
    pub(crate) fn deviation(&self) -> f64 {
        let (low, high) = self.interval;
        (1.0 - low).abs().max((high - 1.0).abs())
    }
}

/// The value below which this share of the sorted values lies; 0 without values.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let at = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

/// How many of the sorted values may be cut off at each end.
fn cut(count: usize) -> usize {
    // The median lies outside of the cut values with the chance that fewer than
    // `cut + 1` of `count` fair coins show heads, on either side.
    let mut chance = 0.5f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut outside = 2.0 * chance;
    let mut cut = 0;
    loop {
        chance *= (count - cut) as f64 / (cut + 1) as f64;
        outside += 2.0 * chance;
        if 1.0 - outside < CONFIDENCE {
            return cut;
        }
        cut += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(summary.median, 2.5);
        assert_eq!((summary.least, summary.most), (1.0, 4.0));
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn the_interval_follows_the_sign_test() {
        // Tables of the sign test, two-sided 90 %: 8 -> second and seventh,
        // 16 -> fifth and twelfth; 4 values do not reach it.
        let interval = |count: u32| Summary::of((1..=count).map(f64::from)).unwrap().interval;
        assert_eq!(interval(1), (1.0, 1.0));
        assert_eq!(interval(4), (1.0, 4.0));
        assert_eq!(interval(8), (2.0, 7.0));
        assert_eq!(interval(16), (5.0, 12.0));
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.5), 100.0);
        assert_eq!(quantile(&sorted, 0.99), 198.0);
        assert_eq!(quantile(&sorted, 1.0), 200.0);
        assert_eq!((quantile(&[7.0], 0.01), quantile(&[], 0.5)), (7.0, 0.0));
    }

    #[test]
    fn the_deviation_is_the_farther_end() {
        let summary = Summary::of([0.90, 0.98, 1.0, 1.0, 1.01, 1.02, 1.04, 1.3]).unwrap();
        assert!((summary.deviation() - 0.04).abs() < 1e-9);
    }
}
