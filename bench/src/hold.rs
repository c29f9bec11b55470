//! Connections that are opened, asked once and then kept: a process of its own, started
//! by `footprint.rs`, since one process may not be allowed as many files.
//!
//! It prints [`Opened`], waits until its standard input ends, and prints [`Kept`]. An
//! answer that is not the one expected ends it; a connection that this machine does not
//! give it does not, but is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use serde::{Deserialize, Serialize};

use crate::load::h1;
use crate::upstream::head_end;
use crate::workload::{Workload, body};

/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args, Clone, Debug)]
pub(crate) struct Job {
    /// Where the gateway listens
    target: SocketAddr,
    /// How many connections
    connections: usize,
    /// The address they come from: each has ports of its own
    source: IpAddr,
}

/// All connections that could be had are open, and each got its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) connections: usize,
    /// Why there are not more.
    pub(crate) refused: Option<String>,
}

/// How many were open at the end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) connections: usize,
}

pub(crate) fn run(job: &Job) -> Result<()> {
    let mut held = Vec::with_capacity(job.connections);
    let mut refused = None;
    while held.len() < job.connections {
        match open(job) {
            Ok(mut socket) => {
                let number = held.len();
                ask(&mut socket).with_context(|| format!("connection {number}"))?;
                held.push(socket);
            }
            Err(error) => {
                refused = Some(error.to_string());
                break;
            }
        }
    }
    let opened = Opened {
        connections: held.len(),
        refused,
    };
    tell(&opened)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let mut kept = Kept { connections: 0 };
    for socket in &held {
        kept.connections += usize::from(is_open(socket)?);
    }
    tell(&kept)
}

fn tell(what: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(what)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn open(job: &Job) -> rustix::io::Result<TcpStream> {
    let family = match job.source {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(job.source, 0))?;
    connect(&socket, &job.target)?;
    Ok(socket.into())
}

/// One small request, and its whole answer.
fn ask(socket: &mut TcpStream) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(&h1::request(Workload::Get200))?;
    let expected = body(Workload::Get200.answer_bytes());
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let body_at = loop {
        if let Some(end) = head_end(&answer)
            && answer.len() >= end + expected.len()
        {
            break end;
        }
        ensure!(answer.len() < buffer.len(), "the head does not end");
        let count = socket.read(&mut buffer).context("read")?;
        ensure!(count > 0, "the gateway closed the connection");
        answer.extend_from_slice(&buffer[..count]);
    };
    let (head, rest) = answer.split_at(body_at);
    h1::check_head(head, expected.len())?;
    ensure!(rest == expected, "the body is not the one expected");
    Ok(())
}

/// Neither closed by the other end, nor told anything.
fn is_open(socket: &TcpStream) -> Result<bool> {
    socket.set_nonblocking(true)?;
    match socket.peek(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Ok(_) | Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Asks a server that answers this to one connection and then closes it or not.
    fn asked(answer: &[u8]) -> Result<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let job = Job {
            target: listener.local_addr()?,
            connections: 1,
            source: "127.0.0.2".parse()?,
        };
        let mut ours = open(&job)?;
        assert_eq!(ours.local_addr()?.ip(), job.source);
        // All of it is in flight before it is asked for: no second thread is needed.
        let (mut theirs, _) = listener.accept()?;
        theirs.write_all(answer)?;
        assert!(is_open(&TcpStream::connect(job.target)?)?);
        theirs.shutdown(std::net::Shutdown::Write)?;
        ask(&mut ours)?;
        Ok(ours)
    }

    #[test]
    fn the_right_answer_is_taken_and_a_closed_connection_is_seen() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n";
        let socket = asked(&[head.as_bytes(), &body(200)].concat()).unwrap();
        assert!(!is_open(&socket).unwrap());
    }

    #[test]
    fn any_other_answer_is_an_error() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n";
        let short = [head.as_bytes(), &body(200)[..199]].concat();
        let long = [head.as_bytes(), &body(201)].concat();
        let wrong = [head.as_bytes(), &[b'x'; 200]].concat();
        let busy = [
            &head.replace("200 OK", "503 Busy").into_bytes()[..],
            &body(200),
        ]
        .concat();
        for answer in [short, long, wrong, busy] {
            asked(&answer).unwrap_err();
        }
    }
}
