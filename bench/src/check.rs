//! Before anything is measured: does the proxy pass requests and answers as it should?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::contender::Contender;
use crate::load::h1::HOST;
use crate::load::h2;
use crate::upstream::{content_length, head_end};
use crate::workload::{ROUTES, Workload, body, route_prefix};

/// Bodies of this size are sent to be echoed.
const ECHOED_BYTES: usize = 3_000;

/// A field that nobody but the client and the upstream knows.
const OWN_FIELD: (&str, &str) = ("x-bench", "passed through");

/// Answers of the right length and content come back, and what the upstream sees is
/// what the client sent plus the fields that every contender has to add.
pub(crate) fn passes(contender: Contender, target: SocketAddr, workload: Workload) -> Result<()> {
    passes_as_told(contender, target, workload)
        .with_context(|| format!("{} is not fit for {}", contender.name(), workload.name()))
}

fn passes_as_told(contender: Contender, target: SocketAddr, workload: Workload) -> Result<()> {
    let exchange = |path: &str, body: &[u8]| {
        if workload.is_h2() {
            h2::exchange(target, path, &[OWN_FIELD], body)
        } else {
            h1_exchange(target, path, body)
        }
    };
    let request = body(workload.request_bytes());
    let answer = exchange(&workload.path(0), &request)?;
    ensure!(
        answer == body(workload.answer_bytes()),
        "not the answer expected: {}",
        String::from_utf8_lossy(&answer)
    );
    let routes = [0, workload.routes() / 2, workload.routes() - 1];
    for route in routes {
        let prefix = match workload.routes() {
            ROUTES => route_prefix(route),
            _ => String::new(),
        };
        let path = format!("{prefix}/echo");
        let seen = exchange(&path, &[])?;
        check_seen(contender, &seen, &format!("GET {path} HTTP/1.1"), &[])?;
        let sent = body(ECHOED_BYTES);
        let seen = exchange(&path, &sent)?;
        check_seen(contender, &seen, &format!("POST {path} HTTP/1.1"), &sent)?;
    }
    Ok(())
}

/// What the upstream saw.
fn check_seen(contender: Contender, seen: &[u8], line: &str, body: &[u8]) -> Result<()> {
    let end = head_end(seen).context("the upstream saw no head")?;
    let head = std::str::from_utf8(&seen[..end])?.to_ascii_lowercase();
    let mut lines = head.split("\r\n");
    ensure!(
        lines.next() == Some(&line.to_ascii_lowercase()),
        "another request line: {head}"
    );
    ensure!(&seen[end..] == body, "the upstream saw another body");
    let fields: Vec<&str> = lines.collect();
    let own = format!("{}: {}", OWN_FIELD.0, OWN_FIELD.1);
    let host = format!("host: {HOST}");
    let forwarded_for = match contender {
        // Envoy names itself instead of a client on loopback.
        Contender::Envoy => fields
            .iter()
            .find(|field| field.starts_with("x-forwarded-for: "))
            .context("x-forwarded-for is missing")?,
        Contender::Nginx | Contender::NginxTwin | Contender::Haproxy | Contender::Atoll => {
            "x-forwarded-for: 127.0.0.1"
        }
    };
    let expected = [
        own.as_str(),
        host.as_str(),
        forwarded_for,
        "x-forwarded-proto: http",
    ];
    for field in expected {
        ensure!(fields.contains(&field), "`{field}` is missing in: {head}");
    }
    // With its defaults Atoll does more; it must not win by leaving that out.
    let more: &[&str] = match contender {
        Contender::Atoll => &["traceparent: ", "x-request-id: ", "via: ", "forwarded: "],
        Contender::Nginx | Contender::NginxTwin | Contender::Haproxy | Contender::Envoy => &[],
    };
    for name in more {
        let has = fields.iter().any(|field| field.starts_with(name));
        ensure!(has, "`{name}` is missing in: {head}");
    }
    Ok(())
}

fn h1_exchange(target: SocketAddr, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    let mut socket = TcpStream::connect(target)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let method = if body.is_empty() { "GET" } else { "POST" };
    let length = match body.len() {
        0 => String::new(),
        bytes => format!("content-length: {bytes}\r\n"),
    };
    let (name, value) = OWN_FIELD;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n{name}: {value}\r\n{length}\
         connection: close\r\n\r\n"
    );
    socket.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    socket.take(1 << 20).read_to_end(&mut answer)?;
    let told = || String::from_utf8_lossy(&answer).into_owned();
    let Some(end) = head_end(&answer) else {
        bail!("no answer: {}", told());
    };
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", told());
    ensure!(
        content_length(&answer[..end])? == answer.len() - end,
        "short or long: {}",
        told()
    );
    answer.drain(..end);
    Ok(answer)
}
