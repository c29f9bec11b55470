//! The service behind the proxies: HTTP/1.1 on one thread, as cheap as it can be, and
//! strict, so that a proxy's mistake is not served but refused.
//!
//! `GET /bytes/N` answers N bytes, `POST /sink` swallows a body and answers 200 bytes,
//! `POST /echo` answers the request as it arrived, head and body.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;

use crate::poll::{Poll, Ready};
use crate::process::{Process, free_address, own_path};
use crate::workload::body;

/// Larger heads and echoed bodies are refused.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// The listener's number in the poll; connections count from 0.
const LISTENER: usize = usize::MAX;

/// Starts one as a process of its own, on this core or any, and waits for it.
pub(crate) fn start(core: Option<usize>, folder: &Path) -> Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let command = [own_path()?, "upstream".to_owned(), address.to_string()];
    let mut process = Process::start("upstream", core, folder, &command)?;
    process.wait_for_listener(address)?;
    Ok((process, address))
}

/// Serves until it is killed.
pub(crate) fn run(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    let answers = Answers::new();
    let mut poll = Poll::new()?;
    poll.add(&listener, LISTENER)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut ready = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        poll.wait(&mut ready, None)?;
        for Ready { number, closed } in ready.drain(..) {
            if number == LISTENER {
                accept(&listener, &poll, &mut connections)?;
            } else if let Some(slot) = connections.get_mut(number)
                && let Some(connection) = slot
            {
                // A proxy's broken connection is its own loss: the load client
                // sees the missing answer.
                if !connection
                    .work(&answers, &mut buffer, closed)
                    .unwrap_or(false)
                {
                    *slot = None;
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &Poll,
    connections: &mut Vec<Option<Connection>>,
) -> Result<()> {
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let free = connections.iter().position(Option::is_none);
        let number = free.unwrap_or(connections.len());
        poll.add(&socket, number)?;
        let connection = Some(Connection::new(socket));
        match connections.get_mut(number) {
            Some(slot) => *slot = connection,
            None => connections.push(connection),
        }
    }
}

/// The answers that do not depend on the request, made once.
struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    refused: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        Self {
            small: answer("200 OK", &body(200)),
            large: answer("200 OK", &body(16 * 1024)),
            refused: answer(
                "400 Bad Request",
                b"the upstream does not know this request\n",
            ),
        }
    }
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    // The date is as long as a true one, which nobody here reads.
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nServer: bench-upstream\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

struct Connection {
    socket: TcpStream,
    /// A head that is not whole yet, or a head and body to echo.
    kept: Vec<u8>,
    phase: Phase,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Phase {
    Head,
    /// So many bytes of a body are swallowed before the answer.
    Sink(usize),
    /// So many bytes of a body are kept before the answer.
    Echo(usize),
}

impl Connection {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            kept: Vec::new(),
            phase: Phase::Head,
            unsent: Vec::new(),
        }
    }

    /// Does what can be done now; false when the other end closed.
    fn work(&mut self, answers: &Answers, buffer: &mut [u8], closed: bool) -> Result<bool> {
        self.flush()?;
        loop {
            let count = match self.socket.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            self.take(&buffer[..count], answers)?;
            if count < buffer.len() && !closed {
                return Ok(true);
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8], answers: &Answers) -> Result<()> {
        while !bytes.is_empty() {
            bytes = match self.phase {
                Phase::Head => self.take_head(bytes, answers)?,
                Phase::Sink(missing) => {
                    let taken = missing.min(bytes.len());
                    self.phase = Phase::Sink(missing - taken);
                    if taken == missing {
                        self.phase = Phase::Head;
                        self.send(&answers.small)?;
                    }
                    &bytes[taken..]
                }
                Phase::Echo(missing) => {
                    let taken = missing.min(bytes.len());
                    self.kept.extend_from_slice(&bytes[..taken]);
                    self.phase = Phase::Echo(missing - taken);
                    if taken == missing {
                        self.echo()?;
                    }
                    &bytes[taken..]
                }
            };
        }
        Ok(())
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8], answers: &Answers) -> Result<&'a [u8]> {
        if self.kept.is_empty() {
            let Some(end) = head_end(bytes) else {
                self.kept.extend_from_slice(bytes);
                return Ok(&[]);
            };
            self.begin(&bytes[..end], answers)?;
            return Ok(&bytes[end..]);
        }
        let before = self.kept.len();
        ensure!(before < KEPT_BYTES_MAX, "the head does not end");
        self.kept.extend_from_slice(bytes);
        let Some(end) = head_end(&self.kept) else {
            return Ok(&[]);
        };
        let mut head = std::mem::take(&mut self.kept);
        head.truncate(end);
        self.begin(&head, answers)?;
        Ok(&bytes[end - before..])
    }

    /// Answers, or waits for the body.
    fn begin(&mut self, head: &[u8], answers: &Answers) -> Result<()> {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let bytes = content_length(head)?;
        if line.starts_with(b"GET ") && bytes == 0 {
            return if line.ends_with(b"/bytes/200 HTTP/1.1") {
                self.send(&answers.small)
            } else if line.ends_with(b"/bytes/16384 HTTP/1.1") {
                self.send(&answers.large)
            } else if line.ends_with(b"/echo HTTP/1.1") {
                self.kept = head.to_vec();
                self.echo()
            } else {
                self.send(&answers.refused)
            };
        }
        ensure!(bytes > 0, "a body of unknown length");
        if line.ends_with(b"/sink HTTP/1.1") {
            self.phase = Phase::Sink(bytes);
        } else if line.ends_with(b"/echo HTTP/1.1") && bytes < KEPT_BYTES_MAX {
            self.kept = head.to_vec();
            self.phase = Phase::Echo(bytes);
        } else {
            bail!("refused");
        }
        Ok(())
    }

    fn echo(&mut self) -> Result<()> {
        self.phase = Phase::Head;
        let request = std::mem::take(&mut self.kept);
        self.send(&answer("200 OK", &request))
    }

    fn send(&mut self, answer: &[u8]) -> Result<()> {
        let mut sent = 0;
        while self.unsent.is_empty() && sent < answer.len() {
            match self.socket.write(&answer[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent.extend_from_slice(&answer[sent..]);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let unsent = std::mem::take(&mut self.unsent);
        self.send(&unsent)
    }
}

/// Where the head ends, its empty line included.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// The value of `Content-Length`; 0 without one.
pub(crate) fn content_length(head: &[u8]) -> Result<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if let Some(name) = line.get(..NAME.len())
            && name.eq_ignore_ascii_case(NAME)
        {
            let value = std::str::from_utf8(&line[NAME.len()..])?;
            return value.trim().parse().context("Content-Length");
        }
    }
    Ok(0)
}
