//! HTTP/1.1 as a plain client speaks it: one request after the other on a connection
//! that is kept, for what is measured or checked request by request.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::upstream::head_end;

/// Larger heads are refused.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Larger bodies are refused: a list of 100,000 instances has some 150 MB.
const BODY_BYTES_MAX: usize = 1 << 30;

/// A client with at most one connection, opened when it is needed.
pub(crate) struct Http {
    at: SocketAddr,
    patience: Duration,
    socket: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a field; `name` in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The body as text, for a message.
    pub(crate) fn text(&self) -> String {
        const SHOWN: usize = 300;
        String::from_utf8_lossy(&self.body[..self.body.len().min(SHOWN)]).into_owned()
    }
}

impl Http {
    pub(crate) fn new(at: SocketAddr, patience: Duration) -> Self {
        Self {
            at,
            patience,
            socket: None,
            buffer: vec![0; 64 * 1024],
        }
    }

    /// Sends a request and reads its answer. After an error the connection is given up,
    /// and nobody knows whether the request was taken.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        let answer = self.try_ask(request);
        if answer.is_err() {
            self.socket = None;
        }
        answer
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self) {
        self.socket = None;
    }

    fn try_ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(connect(self.at, self.patience)?),
        };
        socket.write_all(request)?;
        let answer = read_answer(socket, &mut self.buffer)?;
        if answer.field("connection") == Some("close") {
            self.socket = None;
        }
        Ok(answer)
    }
}

pub(crate) fn connect(at: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&at, patience)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    Ok(socket)
}

/// A request with a body, which is JSON if there is one.
pub(crate) fn request(method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str("Content-Type: application/json\r\n");
    }
    if !body.is_empty() || method != "GET" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

fn read_answer(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = head_end(&bytes) {
            break end;
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(invalid("the head of the answer does not end"));
        }
        more(socket, buffer, &mut bytes)?;
    };
    let mut body = bytes.split_off(end);
    let head = bytes;
    let status = head
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let status = status.and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| invalid("no status"))?;
    if field(&head, "transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
        body = read_chunks(socket, buffer, body)?;
    } else {
        let length: usize = match field(&head, "content-length") {
            Some(text) => text.parse().map_err(|_| invalid("Content-Length"))?,
            None => 0,
        };
        if length > BODY_BYTES_MAX {
            return Err(invalid("the answer is too long"));
        }
        while body.len() < length {
            more(socket, buffer, &mut body)?;
        }
        if body.len() > length {
            return Err(invalid("more than was announced"));
        }
    }
    Ok(Answer { status, head, body })
}

fn more(socket: &mut TcpStream, buffer: &mut [u8], into: &mut Vec<u8>) -> io::Result<()> {
    match socket.read(buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        count => {
            into.extend_from_slice(&buffer[..count]);
            Ok(())
        }
    }
}

/// RFC 9112 §7.1, of which nobody here sends extensions or trailers.
fn read_chunks(socket: &mut TcpStream, buffer: &mut [u8], raw: Vec<u8>) -> io::Result<Vec<u8>> {
    let (mut raw, mut body) = (raw, Vec::new());
    let mut chunks = Chunks::default();
    loop {
        if chunks.take(&raw, &mut body)? {
            return Ok(body);
        }
        raw.clear();
        more(socket, buffer, &mut raw)?;
        if body.len() > BODY_BYTES_MAX {
            return Err(invalid("the answer is too long"));
        }
    }
}

/// Takes the chunks off, in pieces as they come.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    line: Vec<u8>,
    /// Bytes of the chunk, with its line's end, that are still to come.
    left: usize,
    last: bool,
}

impl Chunks {
    /// Puts what is said into `body`; true when it has ended.
    pub(crate) fn take(&mut self, mut raw: &[u8], body: &mut Vec<u8>) -> io::Result<bool> {
        while !raw.is_empty() {
            if self.left > 0 {
                let count = self.left.min(raw.len());
                // The last two of a chunk are its line's end.
                let content = count.min(self.left.saturating_sub(2));
                body.extend_from_slice(&raw[..content]);
                self.left -= count;
                raw = &raw[count..];
                continue;
            }
            let (byte, rest) = (raw[0], &raw[1..]);
            raw = rest;
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if self.last {
                return Ok(true);
            }
            let size = usize::from_str_radix(line, 16).map_err(|_| invalid("a chunk's size"))?;
            self.last = size == 0;
            self.left = if size == 0 { 0 } else { size + 2 };
        }
        Ok(false)
    }
}

/// A field of a head, its name in lower case.
pub(crate) fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h str> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(pieces: &[&str]) -> io::Result<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut ours = TcpStream::connect(listener.local_addr()?)?;
        let (mut theirs, _) = listener.accept()?;
        for piece in pieces {
            theirs.write_all(piece.as_bytes())?;
        }
        drop(theirs);
        // One byte at a time: every place is one where a piece may end.
        read_answer(&mut ours, &mut [0])
    }

    #[test]
    fn bodies_of_a_length_and_in_chunks_are_read_whole() {
        let answer =
            answered(&["HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\ncontent-length: 3\r\n\r\nabc"]);
        let answer = answer.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"abc"[..]));
        assert_eq!(answer.field("x-consul-index"), Some("7"));
        let head = "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = answered(&[head, "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"]).unwrap();
        assert_eq!(
            (answer.status, &answer.body[..]),
            (404, &b"abc0123456789"[..])
        );
    }

    #[test]
    fn what_ends_early_is_an_error() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
        answered(&[head, "ab"]).unwrap_err();
        answered(&["HTTP/1.1 200 OK\r\n"]).unwrap_err();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        answered(&[head, "3\r\nabc\r\n"]).unwrap_err();
        answered(&[head, "x\r\nabc\r\n"]).unwrap_err();
    }
}
