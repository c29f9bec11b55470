//! What is kept of one finished request, and its way to the access log.
//!
//! Each worker pushes into a bounded queue of its own and never waits: a full queue
//! drops the record and counts it. One task ([`write()`]) takes them out in batches
//! and appends them to the file. How a line looks is in `record/line.rs`.

mod line;
mod writer;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Version};
use tokio::sync::{Mutex, mpsc};

use crate::config::Route;
use crate::endpoint::Endpoint;
use crate::metrics::GatewayMetrics;

pub use line::{json, text};
pub use writer::write;

/// Records that one worker may have waiting. At 20,000 requests a second, four times
/// what gathers between two batches.
pub const QUEUE_RECORDS_MAX: usize = 8_192;

/// One finished request.
#[derive(Clone, Debug)]
pub struct Record {
    /// When its first byte came.
    pub at: SystemTime,
    /// The client, after trusted proxies.
    pub client_ip: IpAddr,
    /// The protocol that the client spoke.
    pub version: Version,
    /// The method.
    pub method: Method,
    /// The authority, as sent.
    pub host: Box<str>,
    /// The path, as sent. Without the query, which often holds secrets.
    pub path: Box<str>,
    /// What the client got; 499 when it left before the head of an answer.
    pub status: u16,
    /// The route, if one took it.
    pub route: Option<Arc<Route>>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Arc<Endpoint>>,
    /// First byte of the head to last byte of the answer.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Requests sent to endpoints; 0 when none was.
    pub attempts: u32,
    /// `X-Request-Id`.
    pub request_id: Box<str>,
    /// The trace's id (W3C Trace Context §3.2.2.3).
    pub trace_id: Option<u128>,
    /// Who is to blame for a failure.
    pub blame: Option<Blame>,
    /// What failed, as a constant word: `connect_refused`.
    pub reason: Option<&'static str>,
}

/// Who is to blame for a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client: it sent what cannot be served, or left.
    Client,
    /// The instance: it did not answer, or not in HTTP.
    Upstream,
    /// The gateway or its configuration.
    Gateway,
}

impl Blame {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

/// One worker's end of its queue.
#[derive(Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
    metrics: Arc<GatewayMetrics>,
}

/// The writer's ends of all queues; clones are the same.
#[derive(Clone, Debug)]
pub struct Recorded {
    queues: Arc<Mutex<Vec<mpsc::Receiver<Record>>>>,
    metrics: Arc<GatewayMetrics>,
}

/// A queue of `records_max` for each of `workers`.
pub fn recorders(
    workers: usize,
    records_max: usize,
    metrics: &Arc<GatewayMetrics>,
) -> (Vec<Recorder>, Recorded) {
    let (recorders, queues) = (0..workers)
        .map(|_| {
            let (queue, receiver) = mpsc::channel(records_max);
            let metrics = Arc::clone(metrics);
            (Recorder { queue, metrics }, receiver)
        })
        .unzip();
    let recorded = Recorded {
        queues: Arc::new(Mutex::new(queues)),
        metrics: Arc::clone(metrics),
    };
    (recorders, recorded)
}

impl Recorder {
    /// Hands over a record, or drops and counts it. Never waits.
    pub fn push(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.metrics.records_dropped.add(1);
        }
    }
}
