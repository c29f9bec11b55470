//! Asks as fast as it is answered: one thread, many connections, on each the next request
//! when the answer is in. An answer that is no success ends the run.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::http::field;
use crate::poll::Poll;
use crate::speak::PATIENCE;
use crate::statistics::quantile;
use crate::upstream::head_end;

/// Questions of DNS that are under way together.
const NAMES_UNDER_WAY: usize = 16;

/// When it ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// Each request was answered once.
    AllOnce,
    /// So much time has passed; requests are repeated.
    Passed(Duration),
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub(super) struct Driven {
    pub(super) completed: u64,
    pub(super) took: Duration,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

impl Driven {
    pub(super) fn per_second(&self) -> f64 {
        self.completed as f64 / self.took.as_secs_f64()
    }

    fn of(mut latencies_ms: Vec<f64>, took: Duration) -> Self {
        latencies_ms.sort_by(f64::total_cmp);
        Self {
            completed: latencies_ms.len() as u64,
            took,
            p50_ms: quantile(&latencies_ms, 0.5),
            p99_ms: quantile(&latencies_ms, 0.99),
        }
    }
}

struct Connection {
    socket: TcpStream,
    began: Instant,
    answer: Vec<u8>,
    busy: bool,
}

pub(super) fn drive(
    at: SocketAddr,
    connections: usize,
    requests: &[Vec<u8>],
    until: Until,
) -> Result<Driven> {
    let mut poll = Poll::new()?;
    let mut all = Vec::new();
    for number in 0..connections {
        let socket = TcpStream::connect(at)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        poll.add(&socket, number)?;
        all.push(Connection {
            socket,
            began: Instant::now(),
            answer: Vec::new(),
            busy: false,
        });
    }
    let began = Instant::now();
    let mut turn = 0;
    let mut next = || {
        let more = match until {
            Until::AllOnce => turn < requests.len(),
            Until::Passed(time) => began.elapsed() < time,
        };
        let request = more.then(|| &requests[turn % requests.len()][..]);
        turn += 1;
        request
    };
    let mut busy = 0;
    for connection in &mut all {
        busy += usize::from(connection.send(next())?);
    }
    let (mut ready, mut latencies_ms) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 256 * 1024];
    while busy > 0 {
        poll.wait(&mut ready, Some(PATIENCE))?;
        ensure!(!ready.is_empty(), "no answer for {PATIENCE:?}");
        for it in ready.drain(..) {
            let connection = &mut all[it.number];
            while connection.busy && connection.receive(&mut buffer)? {
                latencies_ms.push(connection.began.elapsed().as_secs_f64() * 1e3);
                busy -= 1;
                busy += usize::from(connection.send(next())?);
            }
        }
    }
    Ok(Driven::of(latencies_ms, began.elapsed()))
}

impl Connection {
    /// Whether there was something to send.
    fn send(&mut self, request: Option<&[u8]>) -> Result<bool> {
        self.busy = request.is_some();
        if let Some(request) = request {
            self.began = Instant::now();
            // A kilobyte fits into the empty buffer of a socket.
            self.socket.write_all(request)?;
        }
        Ok(self.busy)
    }

    /// Whether the answer is whole; then nothing of it is left.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<bool> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => anyhow::bail!("the server closed the connection"),
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if is_whole(&self.answer)? {
                self.answer.clear();
                return Ok(true);
            }
        }
    }
}

/// Whether that is a whole answer, and a success; all that is asked here has a length.
pub(super) fn is_whole(answer: &[u8]) -> Result<bool> {
    let Some(end) = head_end(answer) else {
        return Ok(false);
    };
    let (head, body) = answer.split_at(end);
    ensure!(
        answer.get(9) == Some(&b'2'),
        "an answer is no success: {}",
        String::from_utf8_lossy(&answer[..answer.len().min(500)])
    );
    let length = field(head, "content-length").map_or(Ok(0), str::parse::<usize>);
    let length = length.context("Content-Length")?;
    ensure!(body.len() <= length, "more than was announced");
    Ok(body.len() == length)
}

/// Asks for a name again and again; each must have an answer.
pub(super) fn names(at: SocketAddr, name: &str, kind: u16, time: Duration) -> Result<Driven> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(at)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut question = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend_from_slice(label.as_bytes());
    }
    question.push(0);
    question.extend_from_slice(&kind.to_be_bytes());
    question.extend_from_slice(&[0, 1]);
    let began = Instant::now();
    let (mut latencies_ms, mut buffer) = (Vec::new(), [0; 4096]);
    while began.elapsed() < time {
        let asked = Instant::now();
        for _ in 0..NAMES_UNDER_WAY {
            socket.send(&question)?;
        }
        for _ in 0..NAMES_UNDER_WAY {
            let count = socket.recv(&mut buffer).context("no answer of DNS")?;
            let answers = u16::from_be_bytes([buffer[6], buffer[7]]);
            ensure!(count > 12 && answers > 0, "{name} has no answer");
            latencies_ms.push(asked.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(Driven::of(latencies_ms, began.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_is_there_and_must_be_a_success() {
        let whole = |text: &str| is_whole(text.as_bytes());
        assert!(!whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na").unwrap());
        assert!(whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab").unwrap());
        assert!(whole("HTTP/1.1 204 No Content\r\n\r\n").unwrap());
        whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc").unwrap_err();
        whole("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap_err();
    }
}
