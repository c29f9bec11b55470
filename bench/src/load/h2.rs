//! HTTP/2 without TLS as the client speaks it (RFC 9113, with prior knowledge).
//!
//! Written out by hand: a client that costs more than the proxy would measure itself.
//! The first request of a connection puts its fields into the compression table, the
//! later ones name them by number (RFC 7541 §6.1), as libraries do. Of an answer's
//! fields only the status is read, which every server writes as the static entry 8.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::h1::HOST;
use super::{Client, Shared, Wish};
use crate::workload::CLIENT_FIELDS;

/// Requests under way on one connection.
pub(crate) const STREAMS: usize = 16;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the connection may receive before it grants more.
const WINDOW_BYTES: u32 = 1 << 30;

/// What a frame may hold (RFC 9113 §4.2: what nobody changed).
const FRAME_BYTES_MAX: usize = 16 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// `:status: 200` (RFC 7541 Appendix A).
const STATUS_200: u8 = 0x80 | 8;

/// One connection with [`STREAMS`] requests under way.
pub(crate) struct Connection {
    socket: TcpStream,
    outgoing: Vec<u8>,
    /// Of a frame that is not whole yet.
    incoming: Vec<u8>,
    /// The fields of a request, after the first.
    fields: Vec<u8>,
    next_stream: u32,
    streams: Vec<Stream>,
    /// Received and not granted anew.
    consumed: u32,
}

struct Stream {
    id: u32,
    began: Instant,
    has_head: bool,
    body_bytes: usize,
}

/// A frame's head (RFC 9113 §4.1) and payload.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl Client for Connection {
    fn open(shared: &mut Shared) -> Result<Self> {
        let mut connection = Self {
            socket: connect(shared.job.target)?,
            outgoing: preface(),
            incoming: Vec::new(),
            fields: Vec::new(),
            next_stream: 1,
            streams: Vec::new(),
            consumed: 0,
        };
        connection.socket.set_nonblocking(true)?;
        connection.flush()?;
        Ok(connection)
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn work(&mut self, shared: &mut Shared, buffer: &mut [u8], closed: bool) -> Result<Wish> {
        loop {
            let count = match self.socket.read(buffer) {
                Ok(0) => bail!("the proxy closed the connection"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("read"),
            };
            self.take(&buffer[..count], shared)?;
            if count < buffer.len() && !closed {
                break;
            }
        }
        self.flush()?;
        Ok(Wish::Wait)
    }

    fn is_busy(&self) -> bool {
        !self.streams.is_empty()
    }
}

impl Connection {
    fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match self.socket.write(&self.outgoing[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("write"),
            }
        }
        self.outgoing.drain(..sent);
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], shared: &mut Shared) -> Result<()> {
        if self.incoming.is_empty() {
            let rest = self.take_frames(bytes, shared)?;
            self.incoming.extend_from_slice(rest);
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.incoming);
        all.extend_from_slice(bytes);
        let rest = self.take_frames(&all, shared)?;
        self.incoming.extend_from_slice(rest);
        Ok(())
    }

    fn take_frames<'a>(&mut self, mut bytes: &'a [u8], shared: &mut Shared) -> Result<&'a [u8]> {
        while let Some((frame, rest)) = split_frame(bytes)? {
            self.take_frame(&frame, shared)?;
            bytes = rest;
        }
        Ok(bytes)
    }

    fn take_frame(&mut self, frame: &Frame<'_>, shared: &mut Shared) -> Result<()> {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self.take_settings(frame.payload, shared),
            PING if frame.flags & ACK == 0 => {
                push_frame(&mut self.outgoing, PING, ACK, 0, frame.payload);
                Ok(())
            }
            SETTINGS | PING | WINDOW_UPDATE => Ok(()),
            HEADERS => {
                check_answer_head(frame)?;
                self.stream(frame.stream)?.has_head = true;
                self.end_if_last(frame, shared)
            }
            DATA => {
                ensure!(frame.flags & PADDED == 0, "padding");
                self.grant(frame.payload.len())?;
                let stream = self.stream(frame.stream)?;
                let all = stream.body_bytes + frame.payload.len();
                ensure!(
                    shared.answer_body.get(stream.body_bytes..all) == Some(frame.payload),
                    "the body is not the one expected"
                );
                stream.body_bytes = all;
                self.end_if_last(frame, shared)
            }
            kind => bail!("a frame of type {kind} ended the run: {:?}", frame.payload),
        }
    }

    fn take_settings(&mut self, payload: &[u8], shared: &mut Shared) -> Result<()> {
        for setting in payload.chunks_exact(6) {
            let key = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match key {
                1 => ensure!(value >= 4096, "a compression table of {value} bytes"),
                3 => ensure!(value as usize >= STREAMS, "only {value} streams at once"),
                _ => {}
            }
        }
        push_frame(&mut self.outgoing, SETTINGS, ACK, 0, &[]);
        if self.fields.is_empty() {
            let path = shared.job.workload.path(0);
            self.fields = first_fields(&path);
            self.begin(shared);
            self.fields = later_fields();
            for _ in 1..STREAMS {
                self.begin(shared);
            }
        }
        Ok(())
    }

    fn begin(&mut self, shared: &Shared) {
        let flags = END_STREAM | END_HEADERS;
        let id = self.next_stream;
        push_frame(&mut self.outgoing, HEADERS, flags, id, &self.fields);
        self.streams.push(Stream {
            id,
            began: shared.now,
            has_head: false,
            body_bytes: 0,
        });
        self.next_stream += 2;
    }

    fn end_if_last(&mut self, frame: &Frame<'_>, shared: &mut Shared) -> Result<()> {
        if frame.flags & END_STREAM == 0 {
            return Ok(());
        }
        let at = self.streams.iter().position(|s| s.id == frame.stream);
        let stream = self.streams.swap_remove(at.context("no such stream")?);
        ensure!(
            stream.has_head && stream.body_bytes == shared.answer_body.len(),
            "the body is short: {} bytes",
            stream.body_bytes
        );
        shared.complete(stream.began);
        if !shared.ending {
            self.begin(shared);
        }
        Ok(())
    }

    fn stream(&mut self, id: u32) -> Result<&mut Stream> {
        let stream = self.streams.iter_mut().find(|stream| stream.id == id);
        stream.with_context(|| format!("stream {id} is not open"))
    }

    fn grant(&mut self, bytes: usize) -> Result<()> {
        self.consumed += u32::try_from(bytes)?;
        if self.consumed > WINDOW_BYTES / 2 {
            let more = self.consumed.to_be_bytes();
            push_frame(&mut self.outgoing, WINDOW_UPDATE, 0, 0, &more);
            self.consumed = 0;
        }
        Ok(())
    }
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(target).context("connect")?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// The preface, no server push, windows that are never in the way.
fn preface() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    let mut settings = Vec::new();
    for (key, value) in [(2u16, 0u32), (4, 1 << 20)] {
        settings.extend_from_slice(&key.to_be_bytes());
        settings.extend_from_slice(&value.to_be_bytes());
    }
    push_frame(&mut out, SETTINGS, 0, 0, &settings);
    let window = WINDOW_BYTES.to_be_bytes();
    push_frame(&mut out, WINDOW_UPDATE, 0, 0, &window);
    out
}

fn split_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>> {
    let Some((head, rest)) = bytes.split_first_chunk::<9>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    ensure!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
    let Some((payload, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let frame = Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1),
        payload,
    };
    Ok(Some((frame, rest)))
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    // Payloads here are far below the 16 KiB that three bytes hold many times over.
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
pub(super) fn test_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    push_frame(&mut frame, kind, flags, stream, payload);
    frame
}

fn check_answer_head(frame: &Frame<'_>) -> Result<()> {
    ensure!(
        frame.flags & PADDED == 0 && frame.flags & END_HEADERS != 0,
        "a head in pieces"
    );
    // Changes of the table's size may come first (RFC 7541 §6.3).
    let first = frame.payload.iter().find(|byte| *byte & 0xe0 != 0x20);
    ensure!(
        first == Some(&STATUS_200),
        "the status is not 200: {:02x?}",
        frame.payload
    );
    Ok(())
}

/// Entries of the static table: names of the fields that go into ours.
const PATH: u8 = 4;
const AUTHORITY: u8 = 1;
const USER_AGENT: u8 = 58;
const ACCEPT: u8 = 19;

/// `:method: GET` or `POST` and `:scheme: http`.
const GET: u8 = 0x80 | 2;
const POST: u8 = 0x80 | 3;
const HTTP: u8 = 0x80 | 6;

/// A GET whose fields the proxy keeps in its table.
fn first_fields(path: &str) -> Vec<u8> {
    let mut fields = vec![GET, HTTP];
    let [(_, user_agent), (_, accept)] = CLIENT_FIELDS;
    for (name, value) in [
        (PATH, path),
        (AUTHORITY, HOST),
        (USER_AGENT, user_agent),
        (ACCEPT, accept),
    ] {
        fields.push(0x40 | name);
        push_text(&mut fields, value);
    }
    fields
}

/// The same by number; the newest entry is 62.
fn later_fields() -> Vec<u8> {
    vec![GET, HTTP, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() < 127, "longer texts need a longer length");
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// One exchange on a connection of its own, for the checks before a run: the body of
/// the answer, whose status was 200. The names of `fields` are lower case.
pub(crate) fn exchange(
    target: SocketAddr,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<u8>> {
    let mut socket = connect(target)?;
    socket.set_read_timeout(Some(super::PATIENCE))?;
    let mut out = preface();
    let method = if body.is_empty() { GET } else { POST };
    let mut head = vec![method, HTTP];
    let length = body.len().to_string();
    for (name, value) in [(PATH, path), (AUTHORITY, HOST)] {
        head.push(name);
        push_text(&mut head, value);
    }
    let own_length = [("content-length", length.as_str())];
    let own_length = if body.is_empty() {
        &[][..]
    } else {
        &own_length
    };
    for (name, value) in fields.iter().chain(own_length) {
        head.push(0);
        push_text(&mut head, name);
        push_text(&mut head, value);
    }
    let last = if body.is_empty() { END_STREAM } else { 0 };
    push_frame(&mut out, HEADERS, END_HEADERS | last, 1, &head);
    if !body.is_empty() {
        push_frame(&mut out, DATA, END_STREAM, 1, body);
    }
    socket.write_all(&out)?;
    let mut incoming = Vec::new();
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut rest = incoming.as_slice();
        while let Some((frame, behind)) = split_frame(rest)? {
            rest = behind;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => {
                    let mut ack = Vec::new();
                    push_frame(&mut ack, SETTINGS, ACK, 0, &[]);
                    socket.write_all(&ack)?;
                }
                HEADERS => check_answer_head(&frame)?,
                DATA => answer.extend_from_slice(frame.payload),
                SETTINGS | PING | WINDOW_UPDATE => {}
                kind => bail!("a frame of type {kind}: {:?}", frame.payload),
            }
            if frame.stream == 1 && frame.flags & END_STREAM != 0 && frame.kind <= HEADERS {
                return Ok(answer);
            }
        }
        incoming = rest.to_vec();
        let count = socket.read(&mut buffer)?;
        ensure!(count > 0, "the proxy closed the connection");
        incoming.extend_from_slice(&buffer[..count]);
    }
}
