//! How many retries are allowed: a share of the requests of the last ten seconds,
//! and a few each second whatever the requests.
//!
//! Counts are kept in slots of one second, each a single atomic that holds the
//! second and the count, so that many workers share a budget without a lock. Why a
//! budget and not only a number of attempts: with three attempts a service that
//! fails gets three times its load (Finagle's `RetryBudget`, Envoy's
//! `retry_budget`; defaults 20 % and 10 a second as Finagle's).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seconds in which a request counts.
const WINDOW_SECONDS: u64 = 10;
const SLOTS: usize = WINDOW_SECONDS as usize;

/// Bits of a slot that hold the count; the rest hold the second.
const COUNT_BITS: u32 = 32;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Allows retries in proportion to requests.
///
/// Bounds, whatever the order and number of threads:
/// - since the start, retries beyond the minimum are at most `percent` of the
///   requests, since one request pays for its share once;
/// - in any interval they are at most `percent` of the requests of that interval
///   and of the ten seconds before it;
/// - beside them, at most `min_per_second` retries in each second of the clock.
///
/// With the defaults: attempts <= 1.2 x requests + 10 a second.
#[derive(Debug)]
pub struct RetryBudget {
    epoch: Instant,
    percent: u64,
    min_per_second: u64,
    requests: [AtomicU64; SLOTS],
    /// Retries paid by requests.
    paid: [AtomicU64; SLOTS],
    /// Retries of one second that came out of the minimum.
    free: AtomicU64,
}

impl RetryBudget {
    /// A budget that begins at `now` with no requests seen.
    pub fn new(percent: u32, min_per_second: u32, now: Instant) -> Self {
        Self {
            epoch: now,
            percent: percent.into(),
            min_per_second: min_per_second.into(),
            requests: Default::default(),
            paid: Default::default(),
            free: AtomicU64::new(0),
        }
    }

    /// Whether this budget was made with these limits.
    pub fn has_limits(&self, percent: u32, min_per_second: u32) -> bool {
        self.percent == u64::from(percent) && self.min_per_second == u64::from(min_per_second)
    }

    /// Counts a first attempt. To be called once for each request.
    pub fn request(&self, now: Instant) {
        let second = self.second(now);
        add(slot(&self.requests, second), second);
    }

    /// Asks for one retry; `true` has counted it.
    ///
    /// May refuse one that would just fit while another thread asks, never the
    /// other way round.
    pub fn retry(&self, now: Instant) -> bool {
        let second = self.second(now);
        // Counted first and judged second: of two threads at the limit at least
        // one sees the other's count.
        let paid = slot(&self.paid, second);
        add(paid, second);
        let retries = sum(&self.paid, second);
        let requests = sum(&self.requests, second);
        if retries.saturating_mul(100) <= requests.saturating_mul(self.percent) {
            return true;
        }
        take_back(paid, second);
        self.free_retry(second)
    }

    fn free_retry(&self, second: u64) -> bool {
        self.free
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |packed| {
                match packed >> COUNT_BITS {
                    stored if stored < second && self.min_per_second > 0 => Some(pack(second, 1)),
                    // A thread whose clock reading is old counts in the newer second.
                    stored if stored >= second && packed & COUNT_MASK < self.min_per_second => {
                        Some(packed + 1)
                    }
                    _ => None,
                }
            })
            .is_ok()
    }

    /// Whole seconds since the start, 1 in the first: 0 marks a slot never used.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() + 1
    }
}

fn pack(second: u64, count: u64) -> u64 {
    second << COUNT_BITS | count
}

fn slot(slots: &[AtomicU64; SLOTS], second: u64) -> &AtomicU64 {
    &slots[(second % WINDOW_SECONDS) as usize]
}

/// Adds one to `slot` for `second`, beginning it anew when it holds an older one.
fn add(slot: &AtomicU64, second: u64) {
    let mut packed = slot.load(Ordering::SeqCst);
    while packed >> COUNT_BITS < second {
        match slot.compare_exchange_weak(
            packed,
            pack(second, 1),
            Ordering::SeqCst,
            Ordering::SeqCst,
        ) {
            Ok(_) => return,
            Err(now) => packed = now,
        }
    }
    // If the slot was begun anew between the load and here (this thread slept for
    // ten seconds), the count lands in the newer second: late, but counted.
    slot.fetch_add(1, Ordering::SeqCst);
}

/// Undoes one [`add`], unless the slot has been begun anew since.
fn take_back(slot: &AtomicU64, second: u64) {
    let undone = slot.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |packed| {
        (packed >> COUNT_BITS == second && packed & COUNT_MASK > 0).then(|| packed - 1)
    });
    // An error is that case: the count is gone already, there is nothing to undo.
    debug_assert!(undone.is_ok() || slot.load(Ordering::SeqCst) >> COUNT_BITS > second);
}

/// The counts of the ten seconds that end with `second`.
fn sum(slots: &[AtomicU64; SLOTS], second: u64) -> u64 {
    slots
        .iter()
        .map(|slot| slot.load(Ordering::SeqCst))
        .filter(|packed| packed >> COUNT_BITS > second.saturating_sub(WINDOW_SECONDS))
        .map(|packed| packed & COUNT_MASK)
        .sum()
}
