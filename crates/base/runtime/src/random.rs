//! The one source of randomness: seedable, so that a test can repeat a run.

use std::io;
use std::time::Duration;

/// A fast generator for jitter, sampling and balancing. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(fastrand::Rng);

impl Random {
    /// A generator seeded by the system.
    pub fn from_entropy() -> Self {
        Self(fastrand::Rng::new())
    }

    /// A generator that always gives the same numbers.
    pub fn from_seed(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A generator of its own for a part; the same each time for the same seed
    /// and order of calls.
    pub fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number in `0..limit`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { self.0.usize(..limit) }
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// `duration` moved by up to `fraction` of itself, earlier or later.
    pub fn jitter(&mut self, duration: Duration, fraction: f64) -> Duration {
        let factor = 1.0 + fraction * (2.0 * self.unit() - 1.0);
        duration.mul_f64(factor.max(0.0))
    }
}

/// Bits that nobody can guess, from the system: for secrets, which [`Random`] is not for.
///
/// # Errors
/// When the system gives none.
pub fn unguessable() -> io::Result<[u8; 16]> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_guess_is_another_each_time() {
        assert_ne!(unguessable().unwrap(), unguessable().unwrap());
    }
}
