//! Connections to endpoints: opened, used for one request after the other, kept
//! idle in a pool of the worker's own, and proven alive before each use.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use http::Method;
use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::buffer::{Buffer, Buffers};
use crate::endpoint::{Endpoint, EndpointKey};
use crate::h1::body::Body;
use crate::h1::response::ResponseHead;
use crate::h1::scan::{Found, Kind, Scan};
use crate::h1::{Framing, HeadLimits, Refusal};
use crate::output::Output;

/// Limits of a response's head; fixed, since upstreams are the user's own.
const RESPONSE_LIMITS: HeadLimits = HeadLimits {
    bytes_max: 128 * 1024,
    fields_max: 256,
};
/// Idle connections kept for one endpoint by one worker.
const IDLE_PER_ENDPOINT_MAX: usize = 256;
/// Idle connections are closed after this time: before usual servers do it (Node
/// after 5 s is the exception, found by asking the kernel before each reuse).
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A connection idle for longer is asked for an end of stream with a system call;
/// within it, the event loop has told us.
const TRUSTED_IDLE: Duration = Duration::from_millis(1);
/// A response body up to this length is waited for before its head is passed on, so
/// that an instance that is killed between the two costs no request: many servers
/// write head and body apart. Fits the smallest buffer, behind a usual head.
const SHORT_BODY_BYTES_MAX: u64 = 16 * 1024;
/// How long a reset is waited for after an end of stream, to learn whether the
/// upstream can have read the request.
const RESET_WAIT: Duration = Duration::from_millis(200);

/// One connection to an endpoint, and the message that is read from it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    pub(crate) key: EndpointKey,
    /// It has carried a request before.
    pub(crate) reused: bool,
    pub(crate) output: Output,
    pub(crate) head: ResponseHead,
    pub(crate) body: Body,
    scan: Scan,
    buffer: Option<Buffer>,
    start: usize,
    filled: usize,
    found: Found,
    /// A byte of the response has come.
    answered: bool,
    /// A write was answered with a reset, which the kernel tells only once.
    reset: bool,
}

/// Why no response came.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The connection ended, or failed, before a byte of the response.
    Closed(io::Error),
    /// It ended within the head.
    Cut(io::Error),
    /// The head is malformed.
    Malformed(Refusal),
}

impl Upstream {
    fn new(stream: TcpStream, key: EndpointKey) -> Box<Self> {
        Box::new(Self {
            stream,
            key,
            reused: false,
            output: Output::default(),
            head: ResponseHead::default(),
            body: Body::default(),
            scan: Scan::default(),
            buffer: None,
            start: 0,
            filled: 0,
            found: Found { start: 0, end: 0 },
            answered: false,
            reset: false,
        })
    }

    /// Opens a connection to `endpoint`.
    pub(crate) async fn open(endpoint: &Endpoint) -> io::Result<Box<Self>> {
        let stream = match endpoint.socket {
            Some(socket) => TcpStream::connect(socket).await?,
            None => {
                let address = &endpoint.address;
                TcpStream::connect((address.host(), address.port())).await?
            }
        };
        stream.set_nodelay(true)?;
        Ok(Self::new(stream, endpoint.key))
    }

    /// Makes ready for another request.
    pub(crate) fn begin(&mut self) {
        self.output.reset();
        self.body = Body::default();
        self.scan = Scan::default();
        self.buffer = None;
        self.start = 0;
        self.filled = 0;
        self.answered = false;
        self.reset = false;
    }

    /// Reads until a head is whole, final or interim; it is then in `head`.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        method: &Method,
    ) -> Poll<Result<(), Trouble>> {
        loop {
            if let Some(buffer) = &self.buffer
                && self.filled > self.start
            {
                let bytes = &buffer.bytes()[self.start..self.filled];
                let found = self
                    .scan
                    .advance(Kind::Response, bytes, RESPONSE_LIMITS)
                    .map_err(Trouble::Malformed)?;
                if let Some(found) = found {
                    self.found = found;
                    let head = &bytes[found.start..found.end];
                    self.head.parse(head, method).map_err(Trouble::Malformed)?;
                    return Poll::Ready(Ok(()));
                }
            }
            let count = match ready!(self.poll_fill(cx, buffers)) {
                Ok(count) => count,
                Err(error) if self.answered => return Poll::Ready(Err(Trouble::Cut(error))),
                Err(error) => return Poll::Ready(Err(Trouble::Closed(error))),
            };
            self.filled += count;
            self.answered = true;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<io::Result<usize>> {
        // No buffer is held while there is nothing to read.
        ready!(self.stream.poll_read_ready(cx))?;
        let buffer = self.buffer.get_or_insert_with(|| buffers.lend());
        if self.filled == buffer.bytes().len() {
            let kept = self.filled - self.start;
            let mut larger = buffers.lend_sized(RESPONSE_LIMITS.bytes_max * 2);
            larger.bytes_mut()[..kept].copy_from_slice(&buffer.bytes()[self.start..self.filled]);
            *buffer = larger;
            self.start = 0;
            self.filled = kept;
        }
        let room = &mut buffer.bytes_mut()[self.filled..];
        match ready!(poll_read(&mut self.stream, cx, room))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            count => Poll::Ready(Ok(count)),
        }
    }

    /// Bytes of a short body that have not come yet; 0 for any other.
    fn owed(&self) -> usize {
        let Framing::Length(length) = self.head.framing else {
            return 0;
        };
        let come = self.filled - (self.start + self.found.end);
        match usize::try_from(length) {
            Ok(wanted) if length <= SHORT_BODY_BYTES_MAX => wanted.saturating_sub(come),
            _ => 0,
        }
    }

    /// Whether the response is short and some of its body is still to come.
    pub(crate) fn owes_short_body(&self) -> bool {
        self.owed() > 0
    }

    /// Reads, behind the head, until a short body is whole.
    pub(crate) fn poll_short_body(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
    ) -> Poll<io::Result<()>> {
        while self.owes_short_body() {
            let count = ready!(self.poll_fill(cx, buffers))?;
            self.filled += count;
        }
        Poll::Ready(Ok(()))
    }

    /// The bytes that `head` points into.
    pub(crate) fn head_bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| {
            &buffer.bytes()[self.start + self.found.start..self.start + self.found.end]
        })
    }

    /// Goes on to the head after an interim one.
    pub(crate) fn skip_head(&mut self) {
        self.start += self.found.end;
        self.scan = Scan::default();
        if self.start == self.filled {
            self.start = 0;
            self.filled = 0;
        }
    }

    /// The head is done with: what was read behind it belongs to the body.
    pub(crate) fn begin_body(&mut self) -> Result<(), &'static str> {
        let from = self.start + self.found.end;
        self.body
            .begin(self.head.framing, self.buffer.take(), from, self.filled)?;
        self.body.forget();
        Ok(())
    }

    /// What was read beyond the head of a response that changes the protocol.
    pub(crate) fn take_rest(&mut self) -> Option<(Buffer, usize, usize)> {
        let from = self.start + self.found.end;
        let buffer = self.buffer.take()?;
        (from < self.filled).then_some((buffer, from, self.filled))
    }

    /// Reads more of the body.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
    ) -> Poll<io::Result<()>> {
        poll_body(&mut self.body, &mut self.stream, cx, buffers)
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<()>> {
        let written = ready!(self.output.poll(cx, &mut self.stream, piece));
        self.reset |= written.as_ref().is_err_and(is_reset);
        Poll::Ready(written)
    }

    /// Whether the connection can carry another request after this response.
    pub(crate) fn is_reusable(&self) -> bool {
        self.head.keeps_alive && self.body.is_read() && !self.body.has_rest()
    }

    /// After an end without a byte of response: whether the upstream cannot have
    /// read the whole request.
    ///
    /// A kernel resets a connection when data comes for a socket that was closed,
    /// or that is closed with data unread. A server that read the request and then
    /// died ends the stream without a reset. What remains uncertain: a server
    /// that reads all, acts, and then aborts on purpose (`SO_LINGER` of 0).
    pub(crate) async fn was_reset(&mut self, error: &io::Error) -> bool {
        if self.reset || is_reset(error) {
            return true;
        }
        // The end of the stream can overtake the reset by one round trip.
        let wait = self.stream.ready(Interest::ERROR);
        let waited = tokio::time::timeout(RESET_WAIT, wait).await;
        waited.is_ok() && matches!(self.stream.take_error(), Ok(Some(_)))
    }

    /// Nothing has come since the last response, not even an end.
    fn is_alive(&self, idle: Duration) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.stream.poll_read_ready(&mut cx).is_pending() && idle < TRUSTED_IDLE {
            return true;
        }
        let socket = SockRef::from(&self.stream);
        let mut byte = [MaybeUninit::uninit(); 1];
        matches!(socket.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The other end threw the connection away, with what was sent into it.
fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), ConnectionReset | BrokenPipe)
}

/// Reads into `room` once.
pub(crate) fn poll_read(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    room: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(room);
    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
    Poll::Ready(Ok(room.filled().len()))
}

/// Reads more of `body`, holding no buffer while there is nothing to read.
pub(crate) fn poll_body(
    body: &mut Body,
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    buffers: &Buffers,
) -> Poll<io::Result<()>> {
    let malformed = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if stream.poll_read_ready(cx)?.is_pending() {
        body.release_if_drained();
        return Poll::Pending;
    }
    match ready!(poll_read(stream, cx, body.room(|| buffers.lend())))? {
        0 => Poll::Ready(
            body.end_of_stream()
                .map_err(|what| io::Error::new(io::ErrorKind::UnexpectedEof, what)),
        ),
        count => Poll::Ready(body.filled(count).map_err(malformed)),
    }
}

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>, BuildHasherDefault<KeyHasher>>>,
}

#[derive(Debug)]
struct Idle {
    upstream: Box<Upstream>,
    since: Instant,
}

impl Pool {
    /// The most recently used connection to the endpoint that is still alive.
    pub(crate) fn take(&self, key: EndpointKey, now: Instant) -> Option<Box<Upstream>> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&key.0)?;
        while let Some(one) = list.pop() {
            if one
                .upstream
                .is_alive(now.saturating_duration_since(one.since))
            {
                let mut upstream = one.upstream;
                upstream.reused = true;
                upstream.begin();
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn put(&self, mut upstream: Box<Upstream>, now: Instant) {
        upstream.begin();
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(upstream.key.0).or_default();
        if list.len() < IDLE_PER_ENDPOINT_MAX {
            list.push(Idle {
                upstream,
                since: now,
            });
        }
    }

    /// Closes all connections to an endpoint that proved unreachable.
    pub(crate) fn forget(&self, key: EndpointKey) {
        self.idle.borrow_mut().remove(&key.0);
    }

    /// Closes what was idle for long, has ended, or leads to an endpoint that left.
    pub(crate) fn sweep(&self, now: Instant, is_known: impl Fn(EndpointKey) -> bool) {
        self.idle.borrow_mut().retain(|key, list| {
            if !is_known(EndpointKey(*key)) {
                return false;
            }
            list.retain(|one| {
                let idle = now.saturating_duration_since(one.since);
                idle < IDLE_MAX && one.upstream.is_alive(idle)
            });
            !list.is_empty()
        });
    }
}

/// Keys are small consecutive numbers: they are their own hash.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing: the table looks at the upper bits as well.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
