//! Exponential back-off with jitter, as a pure sequence.

use std::time::Duration;

use crate::Random;

/// Delays that double from `first` up to `most`, each moved by ±`jitter`.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    jitter: f64,
    failures: u32,
}

impl Backoff {
    /// A back-off that begins at `first`, never exceeds `most` before jitter,
    /// and spreads each delay by ±`jitter` (a fraction, 0.2 is 20 %).
    pub fn new(first: Duration, most: Duration, jitter: f64) -> Self {
        Self {
            first,
            most,
            jitter,
            failures: 0,
        }
    }

    /// The delay before the next attempt.
    pub fn next(&mut self, random: &mut Random) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let plain = self.first.saturating_mul(factor).min(self.most);
        random.jitter(plain, self.jitter)
    }

    /// Begins again at the first delay.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Delays given since the start or the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_most_and_begin_again_after_a_reset() {
        let mut random = Random::from_seed(1);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1), 0.0);
        let delays: Vec<_> = (0..5)
            .map(|_| backoff.next(&mut random).as_millis())
            .collect();
        assert_eq!(delays, [200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next(&mut random).as_millis(), 200);
    }

    #[test]
    fn a_hundred_failures_do_not_overflow() {
        let mut random = Random::from_seed(1);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30), 0.2);
        for _ in 0..100 {
            assert!(backoff.next(&mut random) <= Duration::from_secs(36));
        }
    }
}
