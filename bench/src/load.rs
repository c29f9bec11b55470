//! The client: one thread, a closed loop on each connection (the next request goes out
//! when the answer is in), as cheap as it can be, and unforgiving: one answer that is
//! not exactly the one expected ends the run.
//!
//! It also reads what the proxy used, so that time and requests are counted between
//! the same two instants. `h1.rs` and `h2.rs` speak the protocols.

pub(crate) mod h1;
pub(crate) mod h2;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::poll::{Poll, Ready};
use crate::procfs;
use crate::workload::{Workload, body};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do, as it is handed from process to process.
#[derive(Args, Clone, Debug)]
pub(crate) struct Job {
    /// Where the proxy listens
    pub(crate) target: SocketAddr,
    pub(crate) workload: Workload,
    /// Connections, each with one request under way (with h2c: streams under way,
    /// over fewer connections)
    pub(crate) connections: usize,
    /// Before anything is counted
    pub(crate) warmup_ms: u64,
    /// While everything is counted
    pub(crate) measure_ms: u64,
    /// The proxy's first process
    pub(crate) proxy: u32,
    /// The upstream's process
    pub(crate) upstream: u32,
    /// The proxy's core
    pub(crate) proxy_core: usize,
    /// The core of the client and the upstream
    pub(crate) client_core: usize,
}

/// What one run gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests answered as expected; any other ends the run.
    pub(crate) completed: u64,
    pub(crate) elapsed_ns: u64,
    /// Time on a core of all threads of all the proxy's processes.
    pub(crate) proxy_cpu_ns: u64,
    /// Time that the proxy's core worked for somebody else.
    pub(crate) foreign_proxy_core_ns: u64,
    /// Time that the client's core worked for somebody else.
    pub(crate) foreign_client_core_ns: u64,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
    /// The proxy's memory while the connections are open.
    pub(crate) resident_bytes: u64,
}

/// What the connections of a run share.
pub(crate) struct Shared {
    job: Job,
    /// The first HTTP/1.1 request.
    request: Rc<[u8]>,
    answer_body: Vec<u8>,
    /// When the batch of events under work was fetched.
    now: Instant,
    /// Requests begun so far.
    turn: usize,
    completed: u64,
    latencies_us: Vec<u32>,
    /// No request is begun any more.
    ending: bool,
}

impl Shared {
    fn new(job: &Job) -> Self {
        Self {
            request: h1::request(job.workload),
            answer_body: body(job.workload.answer_bytes()),
            job: job.clone(),
            now: Instant::now(),
            turn: 0,
            completed: 0,
            latencies_us: Vec::new(),
            ending: false,
        }
    }

    /// A number for the next request, far from its predecessor's.
    fn next_turn(&mut self) -> usize {
        // Prime to the number of routes, so that all have their turn.
        self.turn = self.turn.wrapping_add(1627);
        self.turn
    }

    fn complete(&mut self, began: Instant) {
        self.completed += 1;
        let latency = self.now.saturating_duration_since(began);
        let latency_us = latency.as_micros().try_into().unwrap_or(u32::MAX);
        self.latencies_us.push(latency_us);
    }
}

/// What a connection wants after it did its work.
#[derive(PartialEq, Eq)]
pub(crate) enum Wish {
    /// To be called when its socket is ready.
    Wait,
    /// To be replaced by a new one.
    Replace,
}

/// A protocol's half of a connection.
pub(crate) trait Client: Sized {
    /// Opens it, and sends what may be sent at once.
    fn open(shared: &mut Shared) -> Result<Self>;
    fn socket(&self) -> &TcpStream;
    /// Does what the socket allows now; it is called again at the next edge.
    /// `closed`: the other end sends nothing beyond what can be read now.
    fn work(&mut self, shared: &mut Shared, buffer: &mut [u8], closed: bool) -> Result<Wish>;
    /// Requests are under way.
    fn is_busy(&self) -> bool;
}

/// Runs the job and prints its [`Outcome`] as JSON.
pub(crate) fn run(job: &Job) -> Result<()> {
    let outcome = if job.workload.is_h2() {
        let connections = job.connections.div_ceil(h2::STREAMS);
        drive::<h2::Connection>(job, connections)?
    } else {
        drive::<h1::Connection>(job, job.connections)?
    };
    let text = serde_json::to_string(&outcome)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn drive<C: Client>(job: &Job, connections: usize) -> Result<Outcome> {
    let mut fleet = Fleet::<C>::open(job, connections)?;
    fleet.work_for(Duration::from_millis(job.warmup_ms))?;
    let family = procfs::family(job.proxy)?;
    fleet.shared.completed = 0;
    fleet.shared.latencies_us.clear();
    let before = Reading::take(job, &family)?;
    fleet.work_for(Duration::from_millis(job.measure_ms))?;
    let after = Reading::take(job, &family)?;
    ensure!(
        family == procfs::family(job.proxy)?,
        "the proxy's processes changed during the run"
    );
    let resident_bytes = procfs::resident_bytes(&family)?;
    let completed = fleet.shared.completed;
    let mut latencies_us = std::mem::take(&mut fleet.shared.latencies_us);
    fleet.finish()?;
    latencies_us.sort_unstable();
    let quantile = |permille: usize| {
        let at = latencies_us.len() * permille / 1000;
        latencies_us.get(at).copied().unwrap_or_default()
    };
    let proxy_cpu_ns = procfs::used_ns(&before.proxy, &after.proxy);
    let client_cpu_ns = procfs::used_ns(&before.client, &after.client);
    // Ticks are coarse: a little less than nothing is nothing.
    let foreign =
        |core: usize, ours: u64| (after.busy_ns[core] - before.busy_ns[core]).saturating_sub(ours);
    ensure!(completed > 0, "no request was answered");
    Ok(Outcome {
        completed,
        elapsed_ns: (after.at - before.at).as_nanos().try_into()?,
        proxy_cpu_ns,
        foreign_proxy_core_ns: foreign(0, proxy_cpu_ns),
        foreign_client_core_ns: foreign(1, client_cpu_ns),
        p50_us: quantile(500),
        p99_us: quantile(990),
        resident_bytes,
    })
}

/// Counters at one instant.
struct Reading {
    at: Instant,
    proxy: BTreeMap<u32, u64>,
    client: BTreeMap<u32, u64>,
    /// Of the proxy's core and of the client's.
    busy_ns: [u64; 2],
}

impl Reading {
    fn take(job: &Job, family: &[u32]) -> Result<Self> {
        Ok(Self {
            proxy: procfs::threads_cpu_ns(family)?,
            at: Instant::now(),
            client: procfs::threads_cpu_ns(&[std::process::id(), job.upstream])?,
            busy_ns: [
                procfs::core_busy_ns(job.proxy_core)?,
                procfs::core_busy_ns(job.client_core)?,
            ],
        })
    }
}

/// All connections of a run.
struct Fleet<C> {
    poll: Poll,
    connections: Vec<C>,
    shared: Shared,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
}

impl<C: Client> Fleet<C> {
    fn open(job: &Job, connections: usize) -> Result<Self> {
        let poll = Poll::new()?;
        let mut shared = Shared::new(job);
        let mut opened = Vec::with_capacity(connections);
        for number in 0..connections {
            let connection = C::open(&mut shared)?;
            poll.add(connection.socket(), number)?;
            opened.push(connection);
        }
        Ok(Self {
            poll,
            connections: opened,
            shared,
            buffer: vec![0; 256 * 1024],
            ready: Vec::new(),
        })
    }

    fn work_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.poll
                .wait(&mut self.ready, Some(Duration::from_millis(10)))?;
            self.shared.now = Instant::now();
            // Edges that were fetched are not told again: they are worked off first.
            self.work_off()?;
            if self.shared.now >= end {
                return Ok(());
            }
        }
    }

    /// Waits until all that was asked is answered: a request that hangs must not hide
    /// behind the end of the measurement.
    fn finish(&mut self) -> Result<()> {
        self.shared.ending = true;
        let asked = Instant::now();
        while self.connections.iter().any(C::is_busy) {
            ensure!(
                asked.elapsed() < PATIENCE,
                "a request was not answered within {PATIENCE:?}"
            );
            self.work_for(Duration::ZERO)?;
        }
        Ok(())
    }

    fn work_off(&mut self) -> Result<()> {
        for Ready { number, closed } in self.ready.drain(..) {
            self.shared.now = Instant::now();
            let connection = &mut self.connections[number];
            let wish = connection
                .work(&mut self.shared, &mut self.buffer, closed)
                .with_context(|| format!("connection {number}"))?;
            if wish == Wish::Replace && !self.shared.ending {
                *connection = C::open(&mut self.shared)?;
                self.poll.add(connection.socket(), number)?;
            }
        }
        Ok(())
    }
}
