//! A steady load: so many requests a second, whatever happens to the services.

#![expect(
    clippy::disallowed_methods,
    reason = "the load runs on real threads by the real clock"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::Connection;

/// Connections that share the load.
const CONNECTIONS: u32 = 8;

/// A load that runs until it is ended.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

/// What a load saw.
#[derive(Debug)]
pub struct Outcome {
    /// Requests sent.
    pub sent: u64,
    /// One line for each request that did not end in 200, with what came instead.
    pub failures: Vec<String>,
}

impl Load {
    /// Begins to GET `path` at `per_second`.
    pub fn start(address: &str, path: &str, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let pause = Duration::from_secs(1) * CONNECTIONS / per_second;
        let threads = (0..CONNECTIONS)
            .map(|_| {
                let (address, path) = (address.to_owned(), path.to_owned());
                let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
                std::thread::spawn(move || steady(&address, &path, pause, &stop, &sent))
            })
            .collect();
        Self {
            stop,
            sent,
            threads,
        }
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the load and says what it saw.
    ///
    /// # Panics
    /// When a thread of the load itself failed.
    pub fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self
            .threads
            .into_iter()
            .flat_map(|t| t.join().expect("the load ran"));
        let failures = failures.collect();
        Outcome {
            sent: self.sent.load(Ordering::Relaxed),
            failures,
        }
    }
}

fn steady(
    address: &str,
    path: &str,
    pause: Duration,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection = None;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pause;
        sent.fetch_add(1, Ordering::Relaxed);
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::open(address),
        };
        match open.and_then(|mut c| c.send("GET", path, &[], b"").map(|answer| (c, answer))) {
            Ok((c, answer)) if answer.status == 200 => {
                let closes = answer.header("connection") == Some("close");
                connection = (!closes).then_some(c);
            }
            Ok((_, answer)) => failures.push(format!("{}: {}", answer.status, answer.text())),
            Err(error) => failures.push(format!("no answer: {error}")),
        }
    }
    failures
}
