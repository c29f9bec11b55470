//! HTTP/2 clients: hyper's connection, this gateway's exchange.
//!
//! A request is written into the same head that HTTP/1 has, so that all behind it
//! is one. Its exchange first runs inside hyper's own task; a response that is
//! whole by then (most are) needs no other. Else the exchange goes on in a task of
//! its own, and a slot of one piece lies between the two: a client that does not
//! read is waited for, and timed out, like any other.
//!
//! What HTTP/1 clients get and these do not: interim responses (103 and the like),
//! which hyper's server cannot send and a proxy may leave out (RFC 9110 §15.2). So
//! `Expect: 100-continue` is not passed on either; the client's own patience ends
//! that wait. Extended CONNECT (WebSocket, RFC 8441) is refused.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use atoll_runtime::local;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::answer::{Answer, Failure, Reason};
use crate::h1::body::Body;
use crate::h1::chunked::trailer_lines;
use crate::h1::field::{ConnectionOptions, Field, Known, Span, classify, content_length, list};
use crate::h1::request::RequestHead;
use crate::h1::response::ResponseHead;
use crate::h1::{Framing, Refusal, Version};
use crate::hygiene::{Peer, push, response_fields};
use crate::proxy::{self, Client, Next, Responding};
use crate::timer::{Timer, Wait};
use crate::worker::Worker;

/// A connection is asked for a sign of life after this time, and cut off without.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What hyper may buffer of one stream that the client does not read.
const SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// A piece of a body that is handed to hyper at once: what a slow client must take
/// within the time for progress.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Kept out of the compression table (RFC 7541 §6.2.3): no value comes twice, so each
/// would only drive out what does come again, and h2 compares each with all those
/// before it that the table still holds.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves a connection of which `read` came already.
pub(crate) async fn run(worker: Rc<Worker>, stream: TcpStream, peer: Peer, read: Vec<u8>) {
    let limits = worker.limits();
    let io = TokioIo::new(Prefixed {
        prefix: read.into(),
        stream,
    });
    let (peer, streams) = (Rc::new(peer), Rc::new(Cell::new(0_usize)));
    let service = hyper::service::service_fn(|request: http::Request<Incoming>| {
        let active = Active::count(&streams);
        let (worker, peer) = (Rc::clone(&worker), Rc::clone(&peer));
        respond(worker, peer, request, active)
    });
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(limits.h2_streams_max)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .auto_date_header(false)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut drain = pin!(worker.drain.notified());
    drain.as_mut().enable();
    let mut timer = Timer::new(worker.clock.clone());
    let mut leaving = false;
    let ended = poll_fn(|cx| {
        if !leaving && (worker.draining.get() || drain.as_mut().poll(cx).is_ready()) {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        if streams.get() > 0 {
            timer.clear(Wait::Client);
        } else {
            timer.limit(Wait::Client, limits.idle_timeout);
        }
        match timer.poll(cx) {
            Poll::Ready(_) if leaving => Poll::Ready(Ok(())),
            Poll::Ready(_) => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
                connection.as_mut().poll(cx)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    // The client broke the protocol or went away; h2 has told it.
    drop(ended);
}

/// Runs hyper's streams beside the connection, on the worker's thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        local::spawn(future);
    }
}

/// Counts a stream until it is dropped.
struct Active(Rc<Cell<usize>>);

impl Active {
    fn count(streams: &Rc<Cell<usize>>) -> Self {
        streams.set(streams.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Runs the exchange until the response's head is there.
async fn respond(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    request: http::Request<Incoming>,
    active: Active,
) -> Result<http::Response<ResponseBody>, io::Error> {
    let slot: Rc<RefCell<Slot>> = Rc::default();
    let mut exchange = Box::pin(exchange(worker, peer, request, Rc::clone(&slot)));
    let (head, done) = poll_fn(|cx| {
        let done = exchange.as_mut().poll(cx).is_ready();
        match slot.borrow_mut().head.take() {
            Some(head) => Poll::Ready(Ok((head, done))),
            None if done => Poll::Ready(Err(cut())),
            None => Poll::Pending,
        }
    })
    .await?;
    let body = ResponseBody {
        slot,
        _active: active,
    };
    if !done {
        local::spawn(exchange);
    }
    Ok(http::Response::from_parts(head, body))
}

async fn exchange(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    request: http::Request<Incoming>,
    slot: Rc<RefCell<Slot>>,
) {
    let (parts, incoming) = request.into_parts();
    let mut timer = Timer::new(worker.clock.clone());
    let mut client = Http2 {
        peer,
        head: worker.spare_head(),
        body: Body::default(),
        incoming,
        unread: Bytes::new(),
        worker: Rc::clone(&worker),
        slot,
        response: None,
        piece: None,
        moved: false,
    };
    let next = match client.take_head(&parts) {
        Ok(()) => proxy::serve(&worker, &mut client, &mut timer).await,
        Err(failure) => proxy::refuse(&worker, &mut client, &mut timer, &failure).await,
    };
    match next {
        Next::Done => {}
        // An upgrade is never asked for over HTTP/2.
        Next::Cut | Next::Upgraded(..) => client.slot.borrow_mut().cut(),
    }
    worker.keep_spares(std::mem::take(&mut client.head), Vec::new());
}

/// The client's side of one stream.
struct Http2 {
    peer: Rc<Peer>,
    head: RequestHead,
    body: Body,
    incoming: Incoming,
    /// Of the last frame, what did not fit.
    unread: Bytes,
    worker: Rc<Worker>,
    slot: Rc<RefCell<Slot>>,
    response: Option<http::response::Parts>,
    piece: Option<Piece>,
    /// Something was handed over since `take_moved`.
    moved: bool,
}

/// What goes with the next piece.
struct Piece {
    /// Of a response made here; else the piece lies in the upstream's buffer.
    own: Option<Bytes>,
    /// Of the upstream's piece, how much was handed over.
    sent: usize,
    end: bool,
    trailers: Option<HeaderMap>,
}

impl Http2 {
    /// Writes the request's head as HTTP/1 would have it.
    fn take_head(&mut self, parts: &http::request::Parts) -> Result<(), Failure> {
        let limits = self.worker.limits();
        let head = &mut self.head;
        head.clear();
        head.version = Version::Http2;
        head.method = parts.method.clone();
        if head.method == http::Method::CONNECT {
            return Err(Refusal::Connect.into());
        }
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            // As in HTTP/1, whose upstreams would have to guess what it means.
            return Err(Refusal::Malformed("the target holds a byte beyond ASCII").into());
        }
        let target = append(head, target.as_bytes());
        head.set_path(target);
        take_authority(head, parts)?;
        if parts.headers.len() > limits.header_count_max {
            let failure = Refusal::HeadTooLarge(format!("{} fields", parts.headers.len()));
            return Err(failure.into());
        }
        for (name, value) in &parts.headers {
            if !matches!(*name, http::header::HOST | http::header::COOKIE) {
                append_field(head, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        // RFC 9113 §8.2.3: what was split for compression is joined again.
        let mut cookies = parts
            .headers
            .get_all(http::header::COOKIE)
            .iter()
            .peekable();
        if cookies.peek().is_some() {
            let joined: Vec<_> = cookies.map(HeaderValue::as_bytes).collect();
            append_field(head, b"cookie", &joined.join(&b"; "[..]));
        }
        let length = parts
            .headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|value| content_length(value.as_bytes()));
        head.framing = match length {
            _ if self.incoming.is_end_stream() => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let mut codings = head.values(Known::Te).flat_map(list);
        let takes_trailers = codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        drop(codings);
        head.takes_trailers = takes_trailers;
        head.options = ConnectionOptions::default();
        let arriving = match head.framing {
            Framing::Chunked => Framing::Close,
            other => other,
        };
        self.body
            .begin(arriving, None, 0, 0)
            .map_err(|what| Failure::new(Reason::MalformedBody, what))
    }

    fn put(&mut self, status: StatusCode, length: Option<u64>) -> &mut HeaderMap {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = status;
        if let Some(length) = length.filter(|_| status != StatusCode::NO_CONTENT) {
            parts
                .headers
                .insert(http::header::CONTENT_LENGTH, length.into());
        }
        &mut self.response.insert(parts).headers
    }
}

fn take_authority(head: &mut RequestHead, parts: &http::request::Parts) -> Result<(), Failure> {
    let hosts = &mut parts.headers.get_all(http::header::HOST).iter();
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let authority = match (authority, hosts.next(), hosts.next()) {
        (Some(authority), None, _) => authority.as_bytes(),
        // RFC 9113 §8.3.1: a Host that differs is malformed.
        (Some(authority), Some(host), None)
            if host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) =>
        {
            authority.as_bytes()
        }
        (None, Some(host), None) => host.as_bytes(),
        _ => return Err(Refusal::Malformed("there is no one authority").into()),
    };
    let span = append(head, authority);
    Ok(head.set_authority(span)?)
}

fn append(head: &mut RequestHead, bytes: &[u8]) -> Span {
    let start = head.bytes.len();
    head.bytes.extend_from_slice(bytes);
    Span::new(start, head.bytes.len())
}

fn append_field(head: &mut RequestHead, name: &[u8], value: &[u8]) {
    let kind = classify(name);
    let (name, value) = (append(head, name), append(head, value));
    head.fields.push(Field { name, value, kind });
}

impl Client for Http2 {
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
        let malformed = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        if self.unread.is_empty() {
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    self.body.release_if_drained();
                    return Poll::Pending;
                }
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                None => return Poll::Ready(self.body.end_of_stream().map_err(malformed)),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                Some(Ok(Ok(data))) => self.unread = data,
                Some(Ok(Err(frame))) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let mut lines = Vec::new();
                        for (name, value) in &trailers {
                            push(&mut lines, name.as_str().as_bytes(), value.as_bytes());
                        }
                        self.body.set_trailers(lines);
                    }
                    return Poll::Ready(self.body.end_of_stream().map_err(malformed));
                }
            }
        }
        let buffers = &self.worker.buffers;
        let room = self.body.room(|| buffers.lend());
        let count = room.len().min(self.unread.len());
        room[..count].copy_from_slice(&self.unread[..count]);
        self.unread.advance(count);
        self.body.filled(count).map_err(malformed)?;
        if self.unread.is_empty() && self.incoming.is_end_stream() {
            self.body.end_of_stream().map_err(malformed)?;
        }
        Poll::Ready(Ok(()))
    }

    fn interim(&mut self, _: &ResponseHead, _: &[u8]) {
        // hyper's server has no way to send them (RFC 9110 §15.2 lets a proxy
        // discard them).
    }

    fn respond(&mut self, response: &Responding<'_>) {
        let head = response.head;
        let length = match head.framing {
            Framing::None | Framing::Length(_) => head.length,
            Framing::Chunked | Framing::Close => None,
        };
        let fields = self.put(head.status, length);
        response_fields(
            head,
            response.bytes,
            response.edit,
            response.via,
            response.request_id,
            |name, value| {
                // Both were checked when they were read.
                let name = HeaderName::from_bytes(name);
                if let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_bytes(value)) {
                    value.set_sensitive(name == REQUEST_ID);
                    fields.append(name, value);
                }
            },
        );
    }

    fn retract(&mut self) {
        self.response = None;
    }

    fn answer(&mut self, answer: &Answer, via: &str, request_id: &str) {
        let is_head = self.head.method == http::Method::HEAD;
        let fields = self.put(answer.status, Some(answer.body.len() as u64));
        let own = [
            ("via", via.to_owned()),
            ("x-request-id", request_id.to_owned()),
        ];
        for (name, value) in answer.fields.iter().chain(&own) {
            if let Ok(mut value) = HeaderValue::from_bytes(value.as_bytes()) {
                value.set_sensitive(*name == REQUEST_ID);
                fields.append(*name, value);
            }
        }
        self.piece = Some(Piece {
            own: Some(if is_head {
                Bytes::new()
            } else {
                answer.body.clone().into()
            }),
            sent: 0,
            end: true,
            trailers: None,
        });
    }

    fn piece(&mut self, _: &[u8], end: bool, trailers: &[u8]) {
        self.piece = Some(Piece {
            own: None,
            sent: 0,
            end,
            trailers: (!trailers.is_empty()).then(|| to_map(trailers)),
        });
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<()>> {
        let mut slot = self.slot.borrow_mut();
        if slot.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if slot.data.is_some() {
            slot.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(mut next) = self.piece.take() else {
            return Poll::Ready(Ok(()));
        };
        let data = next.own.take().unwrap_or_else(|| {
            let rest = &piece[next.sent..];
            let count = rest.len().min(PIECE_BYTES_MAX);
            next.sent += count;
            Bytes::copy_from_slice(&rest[..count])
        });
        self.moved = true;
        slot.head = slot.head.take().or(self.response.take());
        slot.data = Some(data).filter(|data| !data.is_empty());
        slot.wake_reader();
        if next.sent < piece.len() {
            self.piece = Some(next);
            slot.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        slot.end = next.end;
        slot.trailers = next.trailers;
        Poll::Ready(Ok(()))
    }

    fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.slot.borrow_mut();
        if slot.closed {
            return Poll::Ready(());
        }
        slot.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn to_map(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in trailer_lines(lines).flatten() {
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

/// What lies between the exchange and hyper's stream: at most one piece.
#[derive(Default)]
struct Slot {
    head: Option<http::response::Parts>,
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    /// Nothing follows `data` and `trailers`.
    end: bool,
    /// The response will not be completed.
    cut: bool,
    /// The client has gone.
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Slot {
    fn cut(&mut self) {
        self.cut = true;
        self.wake_reader();
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

fn cut() -> io::Error {
    io::Error::other("the response cannot be completed")
}

/// The response's body as hyper asks for it.
struct ResponseBody {
    slot: Rc<RefCell<Slot>>,
    _active: Active,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut slot = self.slot.borrow_mut();
        if let Some(data) = slot.data.take() {
            slot.wake_writer();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if slot.end {
            let trailers = slot.trailers.take();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if slot.cut {
            return Poll::Ready(Some(Err(cut())));
        }
        slot.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let slot = self.slot.borrow();
        slot.end && slot.data.is_none() && slot.trailers.is_none()
    }

    // No size hint: `Content-Length` is set with the head where it is known, and hyper
    // would look for it again in the map of fields, which it enlarges to do so.
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let mut slot = self.slot.borrow_mut();
        slot.closed = true;
        slot.wake_writer();
    }
}

/// A stream of which the beginning has been read already.
struct Prefixed {
    prefix: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, room);
        }
        let count = self.prefix.len().min(room.remaining());
        room.put_slice(&self.prefix.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
