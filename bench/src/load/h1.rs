//! HTTP/1.1 as the client speaks it: one request at a time on a connection.

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{Client, Shared, Wish};
use crate::upstream::{content_length, head_end};
use crate::workload::{CLIENT_FIELDS, Workload, body};

/// The host that is asked for; all proxies take any.
pub(crate) const HOST: &str = "bench.example";

/// Larger heads of answers are refused.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One connection with one request under way.
pub(crate) struct Connection {
    socket: TcpStream,
    /// Head and body; shared by all connections unless the path changes.
    request: Rc<[u8]>,
    /// Where the path begins in `request`, if it changes from turn to turn.
    path_at: Option<usize>,
    sent: usize,
    began: Instant,
    phase: Phase,
    /// A head that is not whole yet.
    head: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Phase {
    Head,
    /// So many bytes of the body were there.
    Body(usize),
    /// The answer is whole; the end of the connection is not there yet.
    End,
    /// Nothing is asked any more.
    Idle,
}

impl Client for Connection {
    fn open(shared: &mut Shared) -> Result<Self> {
        let socket = TcpStream::connect(shared.job.target).context("connect")?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let many = shared.job.workload.routes() > 1;
        let mut connection = Self {
            socket,
            request: Rc::clone(&shared.request),
            path_at: many.then_some("GET ".len()),
            sent: 0,
            began: shared.now,
            phase: Phase::Head,
            head: Vec::new(),
        };
        connection.begin(shared)?;
        Ok(connection)
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn work(&mut self, shared: &mut Shared, buffer: &mut [u8], closed: bool) -> Result<Wish> {
        if !self.is_busy() {
            // What comes after the last answer is nobody's concern.
            return Ok(Wish::Wait);
        }
        self.flush()?;
        loop {
            let count = match self.socket.read(buffer) {
                Ok(0) => {
                    ensure!(
                        matches!(self.phase, Phase::End),
                        "the proxy closed the connection"
                    );
                    shared.complete(self.began);
                    self.phase = Phase::Idle;
                    return Ok(Wish::Replace);
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Wish::Wait),
                Err(error) => return Err(error).context("read"),
            };
            self.take(&buffer[..count], shared)?;
            if count < buffer.len() && !closed {
                return Ok(Wish::Wait);
            }
        }
    }

    fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }
}

impl Connection {
    fn begin(&mut self, shared: &mut Shared) -> Result<()> {
        if let Some(at) = self.path_at {
            let path = shared.job.workload.path(shared.next_turn());
            let request = Rc::make_mut(&mut self.request);
            request[at..at + path.len()].copy_from_slice(path.as_bytes());
        }
        self.sent = 0;
        self.began = shared.now;
        self.phase = Phase::Head;
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        while self.sent < self.request.len() {
            match self.socket.write(&self.request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("write"),
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], shared: &mut Shared) -> Result<()> {
        let mut bytes = Cow::Borrowed(bytes);
        if matches!(self.phase, Phase::Head) {
            if !self.head.is_empty() {
                self.head.extend_from_slice(&bytes);
                bytes = Cow::Owned(std::mem::take(&mut self.head));
            }
            let Some(end) = head_end(&bytes) else {
                ensure!(bytes.len() < HEAD_BYTES_MAX, "the head does not end");
                self.head = bytes.into_owned();
                return Ok(());
            };
            check_head(&bytes[..end], shared.answer_body.len())?;
            self.phase = Phase::Body(0);
            return self.take_body(&bytes[end..], shared);
        }
        self.take_body(&bytes, shared)
    }

    fn take_body(&mut self, bytes: &[u8], shared: &mut Shared) -> Result<()> {
        let Phase::Body(before) = self.phase else {
            ensure!(bytes.is_empty(), "bytes behind the answer");
            return Ok(());
        };
        let all = before + bytes.len();
        ensure!(
            shared.answer_body.get(before..all) == Some(bytes),
            "the body is not the one expected"
        );
        self.phase = Phase::Body(all);
        if all < shared.answer_body.len() {
            return Ok(());
        }
        ensure!(
            self.sent == self.request.len(),
            "answered before the request was whole"
        );
        if shared.job.workload == Workload::Connect {
            self.phase = Phase::End;
            return Ok(());
        }
        shared.complete(self.began);
        if shared.ending {
            self.phase = Phase::Idle;
            return Ok(());
        }
        self.begin(shared)
    }
}

/// Status 200 and a body as long as that.
pub(crate) fn check_head(head: &[u8], body_bytes: usize) -> Result<()> {
    let told = || String::from_utf8_lossy(head).into_owned();
    ensure!(
        head.starts_with(b"HTTP/1.1 200 "),
        "the proxy answered: {}",
        told()
    );
    ensure!(
        content_length(head)? == body_bytes,
        "not {body_bytes} bytes: {}",
        told()
    );
    Ok(())
}

/// The first request of a workload, as bytes.
pub(crate) fn request(workload: Workload) -> Rc<[u8]> {
    let body = body(workload.request_bytes());
    let method = if body.is_empty() { "GET" } else { "POST" };
    let path = workload.path(0);
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n");
    for (name, value) in CLIENT_FIELDS {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    if workload == Workload::Connect {
        head.push_str("connection: close\r\n");
    }
    head.push_str("\r\n");
    [head.as_bytes(), &body].concat().into()
}
