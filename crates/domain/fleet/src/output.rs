//! What replicas and builds print: read line by line, kept in a bounded ring and a
//! bounded file, passed to followers.
//!
//! Nothing here grows with what is printed: a line, a ring, a file, a follower's queue
//! and the speed of reading each have a limit. Who prints faster than that is slowed by
//! its own full pipe; nobody else is.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use atoll_model::{InstanceId, ServiceName};
use atoll_runtime::Clock;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::logfile::LogFile;

/// Longest line; a longer one is cut into several, nothing of it is lost.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// Lines kept in memory for each replica.
const RING_LINES_MAX: usize = 500;
/// Bytes kept in memory for each replica: 1,000 replicas stay below 64 MiB.
const RING_BYTES_MAX: usize = 64 * 1024;
/// Lines that a follower may lag behind before it loses some.
const FOLLOWER_LINES_MAX: usize = 1024;
/// Read at once, for each of two streams of each replica.
const CHUNK_BYTES: usize = 16 * 1024;
/// Reading speed for each replica: far above honest logging, and a service that
/// prints without end costs a fraction of one core.
const READ_BYTES_PER_SECOND_MAX: u32 = 8 * 1024 * 1024;
/// What a line costs beside its bytes, counted as bytes: at most some 120,000 empty
/// lines, or 50,000 of 100 bytes, are read in a second.
const LINE_COST_BYTES: usize = 64;
/// After the process ended: time to read what is still in its pipes. Somebody who
/// left its process group may hold them open for ever.
const CLOSING: Duration = Duration::from_millis(100);

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Atoll, about the replica.
    Atoll,
}

impl LogStream {
    /// `stdout`, `stderr` or `atoll`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Atoll => "atoll",
        }
    }
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read.
    pub at: SystemTime,
    /// Whose: `users-1`, or `users.build` for the build.
    pub source: InstanceId,
    /// From which of its streams.
    pub stream: LogStream,
    /// Without line end; what is not UTF-8 is replaced.
    pub text: Arc<str>,
}

/// What a follower gets next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The next line.
    Line(LogLine),
    /// The follower was too slow: so many lines are lost to it.
    Dropped(u64),
}

/// The lines of a service from now on.
pub struct Follower(broadcast::Receiver<LogLine>);

impl Follower {
    /// The next line; `None` once the service is gone.
    pub async fn next(&mut self) -> Option<Followed> {
        match self.0.recv().await {
            Ok(line) => Some(Followed::Line(line)),
            Err(broadcast::error::RecvError::Lagged(lines)) => Some(Followed::Dropped(lines)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The output of all services.
#[derive(Default)]
pub(crate) struct Logs(Mutex<BTreeMap<ServiceName, ServiceLogs>>);

struct ServiceLogs {
    lines: broadcast::Sender<LogLine>,
    sources: BTreeMap<InstanceId, Arc<Output>>,
}

impl Logs {
    /// Where `source` of `service` prints to; the same again for the same names.
    pub(crate) fn output(
        &self,
        service: &ServiceName,
        source: &InstanceId,
        folder: &Path,
        clock: &Clock,
    ) -> Arc<Output> {
        let mut services = lock(&self.0);
        let logs = services
            .entry(service.clone())
            .or_insert_with(|| ServiceLogs {
                lines: broadcast::Sender::new(FOLLOWER_LINES_MAX),
                sources: BTreeMap::new(),
            });
        let output = logs.sources.entry(source.clone()).or_insert_with(|| {
            Arc::new(Output {
                source: source.clone(),
                path: folder.join(format!("{source}.log")),
                clock: clock.clone(),
                ring: Mutex::default(),
                lines: logs.lines.clone(),
            })
        });
        Arc::clone(output)
    }

    /// Forgets a service; its files stay.
    pub(crate) fn forget(&self, service: &ServiceName) {
        lock(&self.0).remove(service);
    }

    /// The last `tail` lines in memory, of one source or of all, in order of time.
    pub(crate) fn tail(
        &self,
        service: &ServiceName,
        source: Option<&InstanceId>,
        tail: usize,
    ) -> Vec<LogLine> {
        let mut lines = Vec::new();
        if let Some(logs) = lock(&self.0).get(service) {
            for (name, output) in &logs.sources {
                if source.is_none_or(|source| source == name) {
                    lines.extend(output.last(tail));
                }
            }
        }
        lines.sort_by_key(|line| line.at); // stable: ties stay in their source's order
        lines.split_off(lines.len().saturating_sub(tail))
    }

    pub(crate) fn follow(&self, service: &ServiceName) -> Option<Follower> {
        let services = lock(&self.0);
        Some(Follower(services.get(service)?.lines.subscribe()))
    }
}

/// What one replica or build prints, across its restarts.
pub(crate) struct Output {
    source: InstanceId,
    path: PathBuf,
    clock: Clock,
    ring: Mutex<Ring>,
    lines: broadcast::Sender<LogLine>,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Output {
    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The last `count` lines, oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<LogLine> {
        let ring = lock(&self.ring);
        let skip = ring.lines.len().saturating_sub(count);
        ring.lines.iter().skip(skip).cloned().collect()
    }

    /// Says something about the replica among its lines; not written to the file.
    pub(crate) fn note(&self, text: String) {
        self.keep(LogStream::Atoll, self.clock.wall(), text.into());
    }

    fn keep(&self, stream: LogStream, at: SystemTime, text: Arc<str>) {
        let line = LogLine {
            at,
            source: self.source.clone(),
            stream,
            text,
        };
        if self.lines.receiver_count() > 0 {
            // Fails only if the last follower left just now.
            drop(self.lines.send(line.clone()));
        }
        let mut ring = lock(&self.ring);
        ring.bytes += line.text.len();
        ring.lines.push_back(line);
        while ring.lines.len() > RING_LINES_MAX || ring.bytes > RING_BYTES_MAX {
            let Some(oldest) = ring.lines.pop_front() else {
                break;
            };
            ring.bytes -= oldest.text.len();
        }
    }

    /// Reads both streams to their end; once `closing` is true, for
    /// [`CLOSING`] at most.
    pub(crate) async fn read(
        &self,
        stdout: ChildStdout,
        stderr: ChildStderr,
        file_bytes_max: u64,
        mut closing: watch::Receiver<bool>,
    ) {
        let mut file = LogFile::open(&self.path, file_bytes_max).await;
        let mut out = Stream::new(LogStream::Stdout, stdout);
        let mut err = Stream::new(LogStream::Stderr, stderr);
        let mut pace = Pace::new();
        let mut until: Option<Instant> = None;
        while out.open || err.open {
            let cost_bytes = tokio::select! {
                bytes = err.read(), if err.open => self.take(&mut err, bytes, &mut file).await,
                bytes = out.read(), if out.open => self.take(&mut out, bytes, &mut file).await,
                () = closed(&mut closing), if until.is_none() => {
                    until = Some(Instant::now() + CLOSING);
                    continue;
                }
                () = sleep_until(until), if until.is_some() => break,
            };
            // What is left in a closed pipe is little; do not hold up the restart.
            if until.is_none() {
                pace.spent(cost_bytes).await;
            } else if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        let at = self.clock.wall();
        for stream in [&mut out.splitter, &mut err.splitter] {
            if let Some(text) = stream.finish() {
                self.emit(stream.stream, at, &text, &mut file);
            }
        }
        file.flush().await;
    }

    /// Keeps what was read; returns its cost in bytes.
    async fn take<R>(
        &self,
        stream: &mut Stream<R>,
        bytes: Option<usize>,
        file: &mut LogFile,
    ) -> usize {
        let Some(bytes) = bytes else {
            stream.open = false;
            return 0;
        };
        let kind = stream.splitter.stream;
        let chunk = stream.buffer.get(..bytes).unwrap_or(&[]);
        let (at, mut lines) = (self.clock.wall(), 0);
        stream.splitter.split(chunk, |line| {
            self.emit(kind, at, line, file);
            lines += 1;
        });
        file.flush().await;
        bytes + lines * LINE_COST_BYTES
    }

    fn emit(&self, stream: LogStream, at: SystemTime, line: &[u8], file: &mut LogFile) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text: Arc<str> = String::from_utf8_lossy(line).into();
        file.add(at, stream, &text);
        self.keep(stream, at, text);
    }
}

/// Resolves once it is true, or nobody is left to say so.
async fn closed(closing: &mut watch::Receiver<bool>) {
    drop(closing.wait_for(|closing| *closing).await);
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

struct Stream<R> {
    reader: R,
    buffer: Box<[u8]>,
    splitter: Splitter,
    open: bool,
}

impl<R> Stream<R> {
    fn new(stream: LogStream, reader: R) -> Self {
        Self {
            reader,
            buffer: vec![0; CHUNK_BYTES].into_boxed_slice(),
            splitter: Splitter::new(stream),
            open: true,
        }
    }
}

impl<R: AsyncRead + Unpin> Stream<R> {
    /// `None` at the end, and on an error, after which nothing can be read either.
    async fn read(&mut self) -> Option<usize> {
        match self.reader.read(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(bytes) => Some(bytes),
        }
    }
}

/// Cuts bytes into lines of at most [`LINE_BYTES_MAX`].
struct Splitter {
    stream: LogStream,
    rest: Vec<u8>,
}

impl Splitter {
    fn new(stream: LogStream) -> Self {
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    fn split(&mut self, mut chunk: &[u8], mut emit: impl FnMut(&[u8])) {
        while !chunk.is_empty() {
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let (part, after) = match end {
                Some(end) => (&chunk[..end], &chunk[end + 1..]),
                None => (chunk, &[][..]),
            };
            self.extend(part, &mut emit);
            if end.is_some() {
                emit(&self.rest);
                self.rest.clear();
            }
            chunk = after;
        }
    }

    fn extend(&mut self, mut part: &[u8], emit: &mut impl FnMut(&[u8])) {
        while self.rest.len() + part.len() > LINE_BYTES_MAX {
            let mut fits = LINE_BYTES_MAX - self.rest.len();
            // Not in the middle of a character, unless it is none.
            let is_inner = |byte: &u8| *byte & 0xC0 == 0x80;
            for back in 0..3 {
                if fits > back && !part.get(fits - back).is_some_and(is_inner) {
                    fits -= back;
                    break;
                }
            }
            let (now, later) = part.split_at(fits);
            self.rest.extend_from_slice(now);
            emit(&self.rest);
            self.rest.clear();
            part = later;
        }
        self.rest.extend_from_slice(part);
    }

    /// A last line without an end.
    fn finish(&mut self) -> Option<Vec<u8>> {
        (!self.rest.is_empty()).then(|| std::mem::take(&mut self.rest))
    }
}

/// Holds reading to [`READ_BYTES_PER_SECOND_MAX`], one second's worth at once.
struct Pace {
    /// Bytes; below zero, so many were read too soon.
    credit: f64,
    at: Instant,
}

impl Pace {
    const PER_SECOND: f64 = READ_BYTES_PER_SECOND_MAX as f64;
    /// Slept off at once: shorter sleeps would be mostly the timer's.
    const DEBT: f64 = Self::PER_SECOND / 50.0;

    fn new() -> Self {
        Self {
            credit: Self::PER_SECOND,
            at: Instant::now(),
        }
    }

    async fn spent(&mut self, bytes: usize) {
        self.credit -= bytes as f64;
        if self.credit < -Self::DEBT {
            self.earn();
            if self.credit < 0.0 {
                let pause = Duration::from_secs_f64(-self.credit / Self::PER_SECOND);
                tokio::time::sleep(pause).await;
                self.earn();
            }
        }
    }

    fn earn(&mut self) {
        let now = Instant::now();
        let earned = now.duration_since(self.at).as_secs_f64() * Self::PER_SECOND;
        self.credit = (self.credit + earned).min(Self::PER_SECOND);
        self.at = now;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
