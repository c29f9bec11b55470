//! The retry budget's bounds, on one thread and on many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atoll_resilience::RetryBudget;
use proptest::prelude::*;

#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as an origin"
)]
fn start() -> Instant {
    Instant::now()
}

fn granted(budget: &RetryBudget, now: Instant, asked: usize) -> usize {
    (0..asked).filter(|_| budget.retry(now)).count()
}

#[test]
fn without_requests_only_the_minimum_is_allowed_each_second() {
    let start = start();
    let budget = RetryBudget::new(20, 10, start);
    assert_eq!(granted(&budget, start, 50), 10);
    assert_eq!(granted(&budget, start + Duration::from_millis(999), 50), 0);
    assert_eq!(granted(&budget, start + Duration::from_secs(1), 50), 10);
}

#[test]
fn requests_pay_for_their_share_for_ten_seconds() {
    let start = start();
    let budget = RetryBudget::new(20, 0, start);
    (0..100).for_each(|_| budget.request(start));
    assert_eq!(
        granted(&budget, start + Duration::from_millis(9_999), 50),
        20
    );
    assert_eq!(granted(&budget, start + Duration::from_secs(9), 50), 0);
    let budget = RetryBudget::new(20, 0, start);
    (0..100).for_each(|_| budget.request(start));
    assert_eq!(granted(&budget, start + Duration::from_secs(10), 50), 0);
}

#[test]
fn a_budget_of_nothing_refuses_all() {
    let start = start();
    let budget = RetryBudget::new(0, 0, start);
    (0..100).for_each(|_| budget.request(start));
    assert_eq!(granted(&budget, start, 50), 0);
}

#[test]
fn a_clock_reading_from_before_the_start_counts_as_the_start() {
    let start = start();
    let later = start + Duration::from_secs(5);
    let budget = RetryBudget::new(20, 3, later);
    assert_eq!(granted(&budget, start, 50), 3);
    assert_eq!(granted(&budget, later, 50), 0);
}

proptest! {
    #[test]
    fn retries_never_exceed_the_share_of_the_requests_and_the_minimum(
        percent in 0_u32..150,
        minimum in 0_u32..5,
        steps in prop::collection::vec((0_u64..3_000, 0_usize..30, 0_usize..30), 1..60),
    ) {
        let start = start();
        let budget = RetryBudget::new(percent, minimum, start);
        let mut now_ms = 0;
        let mut events: Vec<(u64, u64, u64)> = Vec::new();
        for (pause_ms, requests, asked) in steps {
            now_ms += pause_ms;
            let now = start + Duration::from_millis(now_ms);
            (0..requests).for_each(|_| budget.request(now));
            let retries = granted(&budget, now, asked);
            events.push((now_ms / 1_000, requests as u64, retries as u64));
            let free = u64::from(minimum);
            // Every interval that ends now, in whole seconds.
            for from in 0..=now_ms / 1_000 {
                let within = |since: u64| events.iter().filter(move |event| event.0 >= since);
                let retries: u64 = within(from).map(|event| event.2).sum();
                let requests: u64 = within(from.saturating_sub(9)).map(|event| event.1).sum();
                let seconds = now_ms / 1_000 - from + 1;
                prop_assert!(
                    retries * 100 <= requests * u64::from(percent) + free * seconds * 100,
                    "{retries} retries of {requests} requests in {seconds} s"
                );
            }
            // All is granted that the share of the last ten seconds pays for.
            if asked > retries {
                let first = (now_ms / 1_000).saturating_sub(9);
                let recent = || events.iter().filter(|event| event.0 >= first);
                let retries: u64 = recent().map(|event| event.2).sum();
                let requests: u64 = recent().map(|event| event.1).sum();
                prop_assert!((retries + 1) * 100 > requests * u64::from(percent));
            }
        }
    }
}

#[test]
fn many_threads_together_get_no_more_than_one_would() {
    let start = start();
    let budget = Arc::new(RetryBudget::new(20, 7, start));
    let granted_all = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for at in 0..50_000_u64 {
                    let now = start + Duration::from_millis(at / 50);
                    budget.request(now);
                    for _ in 0..2 {
                        if budget.retry(now) {
                            granted_all.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let granted = granted_all.load(Ordering::Relaxed);
    let requests = 4 * 50_000;
    // All of it happens in one second of the clock.
    assert!(granted <= requests / 5 + 7, "{granted} granted");
    assert!(granted >= requests / 5 * 9 / 10, "{granted} granted");
}
