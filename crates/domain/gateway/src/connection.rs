//! One client connection: requests in, responses out, in order, until either side
//! has enough.
//!
//! ```text
//!        ┌────────────── keep-alive ───────────────┐
//!        ▼                                         │
//! idle (no buffer) ─▶ head ─▶ proxy::serve ─▶ response sent ─▶ (linger) ─▶ closed
//!        │              └─ malformed: answer, linger ┘
//!        └─ HTTP/2 preface: h2.rs        └─ 101: tunnel.rs
//! ```
//! While it waits for a request, a connection holds a socket and this future, no
//! buffers.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::answer::{Answer, Failure, Reason};
use crate::buffer::Buffer;
use crate::h1::body::Body;
use crate::h1::request::RequestHead;
use crate::h1::response::ResponseHead;
use crate::h1::scan::{Found, Kind, Scan};
use crate::h1::{Framing, HeadLimits, Version};
use crate::hygiene::{Peer, interim_fields, push, response_fields};
use crate::output::Output;
use crate::proxy::{self, Client, Next, Responding};
use crate::timer::{Timer, Wait};
use crate::upstream::{poll_body, poll_read};
use crate::worker::{Open, Worker};
use crate::{h2, tunnel};

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client may still send after a last response before it is cut off, so
/// that it reads the response rather than a reset.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// And for how long.
const LINGER: Duration = Duration::from_secs(2);

/// How long the first request of a connection is waited for at the end: who has just
/// connected is about to send it, and would take a closed connection for a failure.
const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// An HTTP/1 client.
pub(crate) struct Http1 {
    stream: TcpStream,
    worker: Rc<Worker>,
    peer: Peer,
    head: RequestHead,
    body: Body,
    output: Output,
    /// The response's body goes out in chunks.
    chunked: bool,
    /// The connection ends after this response.
    close: bool,
    /// Read beyond the last request.
    ahead: Option<(Buffer, usize, usize)>,
    /// A request has been served.
    used: bool,
}

/// What came of waiting for a request.
enum Incoming {
    Request,
    Refused(Failure),
    Closed,
    /// An HTTP/2 preface, and what came with it.
    Http2(Vec<u8>),
}

/// Serves one connection to its end.
pub(crate) async fn run(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr, open: Open) {
    let peer = Peer::new(address, worker.shared().port);
    let mut timer = Timer::new(worker.clock.clone());
    let mut http1 = Http1 {
        stream,
        worker: Rc::clone(&worker),
        peer,
        head: RequestHead::default(),
        body: Body::default(),
        output: Output::default(),
        chunked: false,
        close: false,
        ahead: None,
        used: false,
    };
    let next = http1.serve_all(&worker, &mut timer).await;
    match next {
        Last::Closed => {}
        Last::Lingering => http1.linger(&mut timer).await,
        Last::Http2(read) => {
            drop(timer);
            let Http1 { stream, peer, .. } = http1;
            Box::pin(h2::run(worker, stream, peer, read)).await;
        }
        Last::Tunnel(upstream, in_flight) => {
            let idle = worker.idle_timeout();
            let rest = http1.body.take_rest();
            let stream = http1.stream;
            Box::pin(tunnel::run(&worker, stream, rest, upstream, idle)).await;
            drop(in_flight);
        }
    }
    drop(open);
}

/// How the HTTP/1 part of a connection ended.
enum Last {
    Closed,
    Lingering,
    Http2(Vec<u8>),
    Tunnel(Box<crate::upstream::Upstream>, crate::endpoint::InFlight),
}

impl Http1 {
    async fn serve_all(&mut self, worker: &Rc<Worker>, timer: &mut Timer) -> Last {
        let drain = worker.drain.notified();
        let mut drain = std::pin::pin!(drain);
        drain.as_mut().enable();
        loop {
            let incoming = self.next_request(timer, drain.as_mut()).await;
            timer.clear_all();
            self.close = worker.draining.get();
            let next = match incoming {
                Incoming::Request => proxy::serve(worker, self, timer).await,
                Incoming::Refused(failure) => {
                    self.close = true;
                    proxy::refuse(worker, self, timer, &failure).await
                }
                Incoming::Closed => return Last::Closed,
                Incoming::Http2(read) => return Last::Http2(read),
            };
            match next {
                Next::Done if self.is_through() => return Last::Closed,
                Next::Done if self.close || !self.body.is_read() => return Last::Lingering,
                Next::Done => {
                    self.ahead = self.body.take_rest();
                    self.used = true;
                }
                Next::Cut => return Last::Closed,
                Next::Upgraded(upstream, in_flight) => return Last::Tunnel(upstream, in_flight),
            }
        }
    }

    /// Waits for a head and reads it.
    async fn next_request(
        &mut self,
        timer: &mut Timer,
        mut drain: std::pin::Pin<&mut tokio::sync::futures::Notified<'_>>,
    ) -> Incoming {
        let mut scan = Scan::default();
        // A head that does not come in one piece gathers here.
        let mut gathered: Vec<u8> = Vec::new();
        let mut parked = false;
        let mut hurried = false;
        poll_fn(|cx| {
            loop {
                let (buffer, from, to) = match self.ahead.take() {
                    Some(ahead) => ahead,
                    None => match self.poll_arrival(cx) {
                        Poll::Ready(Ok((_, 0))) | Poll::Ready(Err(_)) => {
                            return Poll::Ready(Incoming::Closed);
                        }
                        Poll::Ready(Ok((buffer, count))) => (buffer, 0, count),
                        Poll::Pending => break,
                    },
                };
                if parked {
                    parked = false;
                    timer.clear_all();
                }
                // As they are now: the wait may have outlived a reload.
                let limits = self.worker.limits();
                let head_limits = HeadLimits {
                    bytes_max: limits.head_bytes_max,
                    fields_max: limits.header_count_max,
                };
                match self.take_head(&mut scan, &mut gathered, buffer, (from, to), head_limits) {
                    Some(incoming) => return Poll::Ready(incoming),
                    None => timer.limit(Wait::Client, limits.head_timeout),
                }
            }
            if gathered.is_empty() {
                let leaving = self.worker.draining.get() || drain.as_mut().poll(cx).is_ready();
                if leaving && self.used {
                    return Poll::Ready(Incoming::Closed);
                }
                if !parked {
                    parked = true;
                    self.park();
                    timer.limit(Wait::Client, self.worker.idle_timeout());
                }
                if leaving && !std::mem::replace(&mut hurried, true) {
                    timer.clear(Wait::Client);
                    timer.limit(Wait::Client, FIRST_REQUEST_WAIT);
                }
            }
            timer.poll(cx).map(|_| match gathered.is_empty() {
                true => Incoming::Closed,
                false => self.refused(Failure::new(
                    Reason::HeadTimeout,
                    "the head of the request did not come in time",
                )),
            })
        })
        .await
    }

    /// Nothing is known of the request: what is left of the one before is not said
    /// of this one.
    fn refused(&mut self, failure: impl Into<Failure>) -> Incoming {
        self.head.clear();
        self.body = Body::default();
        Incoming::Refused(failure.into())
    }

    /// Reads what has come, holding no buffer while nothing has.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Buffer, usize)>> {
        std::task::ready!(self.stream.poll_read_ready(cx))?;
        let mut buffer = self.worker.buffers.lend();
        let count = std::task::ready!(poll_read(&mut self.stream, cx, buffer.bytes_mut()))?;
        Poll::Ready(Ok((buffer, count)))
    }

    /// Looks for a whole head in what has come.
    fn take_head(
        &mut self,
        scan: &mut Scan,
        gathered: &mut Vec<u8>,
        mut buffer: Buffer,
        (mut from, mut to): (usize, usize),
        limits: HeadLimits,
    ) -> Option<Incoming> {
        if !gathered.is_empty() {
            gathered.extend_from_slice(&buffer.bytes()[from..to]);
            if gathered.len() > buffer.bytes().len() {
                buffer = self.worker.buffers.lend_sized(gathered.len());
            }
            buffer.bytes_mut()[..gathered.len()].copy_from_slice(gathered);
            (from, to) = (0, gathered.len());
        }
        let bytes = &buffer.bytes()[from..to];
        if !self.used && bytes.starts_with(&H2_PREFACE[..bytes.len().min(H2_PREFACE.len())]) {
            if bytes.len() >= H2_PREFACE.len() {
                return Some(Incoming::Http2(bytes.to_vec()));
            }
        } else {
            match scan.advance(Kind::Request, bytes, limits) {
                Ok(Some(found)) => return Some(self.take_request(buffer, found, from, to, limits)),
                Ok(None) => {}
                Err(refusal) => return Some(self.refused(refusal)),
            }
        }
        if gathered.is_empty() {
            gathered.extend_from_slice(bytes);
        }
        None
    }

    fn take_request(
        &mut self,
        buffer: Buffer,
        found: Found,
        from: usize,
        to: usize,
        limits: HeadLimits,
    ) -> Incoming {
        if self.head.bytes.capacity() == 0 {
            self.head = self.worker.spare_head();
        }
        let bytes = &buffer.bytes()[from + found.start..from + found.end];
        if let Err(refusal) = self.head.parse(bytes, limits) {
            return self.refused(refusal);
        }
        let rest = from + found.end;
        // A buffer with nothing behind the head is worth more elsewhere.
        let (buffer, rest, to) = if rest == to {
            (None, 0, 0)
        } else {
            (Some(buffer), rest, to)
        };
        match self.body.begin(self.head.framing, buffer, rest, to) {
            Ok(()) => Incoming::Request,
            Err(what) => Incoming::Refused(Failure::new(Reason::MalformedBody, what)),
        }
    }

    /// Gives everything back that an idle connection does not need.
    fn park(&mut self) {
        self.body = Body::default();
        let head = std::mem::take(&mut self.head);
        let prefix = std::mem::take(&mut self.output.prefix);
        self.worker.keep_spares(head, prefix);
    }

    /// The client said that this request is its last (RFC 9112 §9.6), and nothing of
    /// or after it is unread as far as the event loop knows, so that no reset can
    /// overtake the response: closing needs no [`Http1::linger`]. A client that sends
    /// on although it said that it would not can get that reset; nginx, too, lingers
    /// only for what it has seen. When it is the gateway that ends the connection, the
    /// next request may be on its way, and lingering it is.
    fn is_through(&self) -> bool {
        !self.head.keeps_alive()
            && self.body.is_read()
            && !self.body.has_rest()
            && self
                .stream
                .poll_read_ready(&mut Context::from_waker(Waker::noop()))
                .is_pending()
    }

    /// Lets the client read the last response: closes our half, and swallows a
    /// little of what it still sends (RFC 9112 §9.6).
    async fn linger(&mut self, timer: &mut Timer) {
        timer.clear_all();
        timer.limit(Wait::Client, LINGER);
        let buffers = self.worker.buffers.clone();
        let stream = &mut self.stream;
        let swallowed = timer
            .guard(async {
                stream.shutdown().await?;
                let mut left = LINGER_BYTES_MAX;
                loop {
                    let count = poll_fn(|cx| {
                        std::task::ready!(stream.poll_read_ready(cx))?;
                        let mut buffer = buffers.lend();
                        poll_read(stream, cx, buffer.bytes_mut())
                    })
                    .await?;
                    left = left.saturating_sub(count);
                    if count == 0 || left == 0 {
                        return io::Result::Ok(());
                    }
                }
            })
            .await;
        // Whether it ended well, badly or not in time, the connection is closed.
        drop(swallowed);
    }

    /// `Connection` and framing, which are this hop's own.
    fn write_framing(&mut self, status: StatusCode, framing: Framing, length: Option<u64>) {
        let out = &mut self.output.prefix;
        let http11 = self.head.version == Version::Http11;
        self.chunked = false;
        match (framing, length) {
            (Framing::None | Framing::Length(_), Some(length)) if may_have_length(status) => {
                push(
                    out,
                    b"content-length",
                    itoa::Buffer::new().format(length).as_bytes(),
                );
            }
            (Framing::Chunked | Framing::Close, _) if http11 => {
                self.chunked = true;
                push(out, b"transfer-encoding", b"chunked");
            }
            (Framing::Chunked | Framing::Close, _) => self.close = true,
            (Framing::None | Framing::Length(_), _) => {}
        }
        self.close |= !self.head.keeps_alive();
        // A client that reads this sends its next request elsewhere, instead of into
        // a connection that is about to be closed.
        self.close |= self.worker.draining.get();
        // A client that waits for 100 (Continue) and did not get it may or may not
        // send its body: nothing after it could be told from it.
        self.close |= self.head.expects_continue && !self.body.is_read();
        if self.close {
            push(out, b"connection", b"close");
        } else if !http11 {
            push(out, b"connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 9110 §8.6.
fn may_have_length(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT
}

fn write_status(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

impl Client for Http1 {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn body(&self) -> &Body {
        &self.body
    }

    fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_body(&mut self.body, &mut self.stream, cx, &self.worker.buffers)
    }

    fn interim(&mut self, head: &ResponseHead, bytes: &[u8]) {
        // RFC 9110 §15.2: HTTP/1.0 has no interim responses.
        if self.head.version != Version::Http11 {
            return;
        }
        if head.status == StatusCode::CONTINUE {
            self.head.expects_continue = false;
        }
        let out = &mut self.output.prefix;
        write_status(out, head.status);
        interim_fields(head, bytes, |name, value| push(out, name, value));
        out.extend_from_slice(b"\r\n");
    }

    fn respond(&mut self, response: &Responding<'_>) {
        let head = response.head;
        if self.output.prefix.capacity() == 0 {
            self.output.prefix = self.worker.spare_prefix();
        }
        let out = &mut self.output.prefix;
        write_status(out, head.status);
        response_fields(
            head,
            response.bytes,
            response.edit,
            response.via,
            response.request_id,
            |name, value| push(out, name, value),
        );
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            push(out, b"connection", b"upgrade");
            for field in &head.fields {
                if field.kind == crate::h1::field::Known::Upgrade {
                    push(out, b"upgrade", field.value.of(response.bytes));
                }
            }
            out.extend_from_slice(b"\r\n");
            return;
        }
        self.write_framing(head.status, head.framing, head.length);
    }

    fn retract(&mut self) {
        self.output.reset();
    }

    fn answer(&mut self, answer: &Answer, via: &str, request_id: &str) {
        self.output.reset();
        let out = &mut self.output.prefix;
        write_status(out, answer.status);
        for (name, value) in &answer.fields {
            push(out, name.as_bytes(), value.as_bytes());
        }
        push(out, b"via", via.as_bytes());
        push(out, b"x-request-id", request_id.as_bytes());
        // What is left of the body is not worth reading.
        self.close |= !self.body.is_read();
        let length = answer.body.len() as u64;
        self.write_framing(answer.status, Framing::Length(length), Some(length));
        if self.head.method != http::Method::HEAD {
            self.output.prefix.extend_from_slice(answer.body.as_bytes());
        }
    }

    fn piece(&mut self, piece: &[u8], end: bool, trailers: &[u8]) {
        self.output.piece(piece, self.chunked, end, trailers);
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<()>> {
        self.output.poll(cx, &mut self.stream, piece)
    }

    fn take_moved(&mut self) -> bool {
        self.output.take_moved()
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // An end of stream may be a half-close, by a client that reads on.
        Poll::Pending
    }
}
