//! What is counted of the data plane, and how Prometheus reads it.
//!
//! Labels are bounded: routes and services come from the configuration, statuses
//! from a fixed list. All counters are relaxed atomics; a request costs one counter,
//! one bucket and one sum. Counters of a route live as long as its name.

mod gateway;
mod text;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use atoll_model::ServiceName;
use http::StatusCode;

pub use gateway::{GatewayMetrics, ListenerMetrics, Rejection};
pub use text::render;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    /// The route's name.
    pub route: String,
    /// Requests begun and not yet finished.
    pub in_flight: Gauge,
    /// Attempts after the first.
    pub retries: Counter,
    /// Bodies of requests, bytes.
    pub bytes_in: Counter,
    /// Bodies of responses, bytes.
    pub bytes_out: Counter,
    statuses: Statuses,
    duration: Histogram,
}

/// Counters of one service, over all routes to it; attempts, not requests.
#[derive(Debug)]
pub struct ServiceMetrics {
    /// The service.
    pub service: ServiceName,
    /// Connections to an instance that could not be opened.
    pub connect_failures: Counter,
    statuses: Statuses,
    response_head: Histogram,
}

impl RouteMetrics {
    /// Counters at zero.
    pub fn new(route: &str) -> Self {
        Self {
            route: route.to_owned(),
            in_flight: Gauge::default(),
            retries: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            statuses: Statuses::default(),
            duration: Histogram::default(),
        }
    }

    /// Counts a finished request: what the client got and how long it took from the
    /// first byte of its head to the last byte of the answer.
    pub fn finished(&self, status: StatusCode, duration: Duration) {
        self.statuses.count(status);
        self.duration.observe(duration);
    }

    /// Whether any request came yet.
    pub(crate) fn was_asked(&self) -> bool {
        let counts = self.statuses.0.iter();
        self.in_flight.get() != 0
            || counts
                .into_iter()
                .any(|count| count.load(Ordering::Relaxed) > 0)
    }
}

impl ServiceMetrics {
    /// Counters at zero.
    pub fn new(service: &ServiceName) -> Self {
        Self {
            service: service.clone(),
            connect_failures: Counter::default(),
            statuses: Statuses::default(),
            response_head: Histogram::default(),
        }
    }

    /// Counts an attempt that was answered: with what, and how long the head took.
    pub fn answered(&self, status: StatusCode, response_head: Duration) {
        self.statuses.count(status);
        self.response_head.observe(response_head);
    }
}

/// Statuses that have a counter of their own; the rest share one, so that a strange
/// upstream cannot make labels.
const STATUSES: [u16; 43] = [
    101, 200, 201, 202, 203, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405,
    406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431, 499,
    500, 501, 502, 503, 504,
];

#[derive(Debug)]
struct Statuses([AtomicU64; STATUSES.len() + 1]);

impl Default for Statuses {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Statuses {
    fn count(&self, status: StatusCode) {
        let place = STATUSES
            .binary_search(&status.as_u16())
            .unwrap_or(STATUSES.len());
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }
}

/// Upper bounds of the buckets, microseconds: 0.5 ms to 30 s.
const BOUNDS_US: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

#[derive(Debug)]
struct Histogram {
    /// One for each bound, then the rest; not cumulative.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound| bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}
