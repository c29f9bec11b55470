//! The service that the end-to-end tests run: small, and it can misbehave.
//!
//! `/healthz` passes; `/whoami` names the replica; `/env` shows its environment;
//! `/slow/MS` answers after MS milliseconds; `/say/WORD` prints it; `/sick` makes
//! `/healthz` fail until `/well`; `/exit/CODE` ends it; the rest echoes the request.
//! With `--child` it starts a grandchild that sleeps and prints its pid. `PORT=0`
//! takes any port.

#![expect(
    clippy::disallowed_methods,
    clippy::zombie_processes,
    clippy::print_stdout,
    reason = "a stand-alone test service with threads, environment, output and an abandoned child of its own"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether `/healthz` fails.
static SICK: AtomicBool = AtomicBool::new(false);

fn main() {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let port: u16 = variable("PORT").parse().expect("PORT is given");
    if std::env::args().any(|argument| argument == "--child") {
        let child = std::process::Command::new("sleep")
            .arg("100000")
            .spawn()
            .expect("sleep");
        println!("grandchild {}", child.id());
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let address = listener.local_addr().expect("a bound listener has one");
    println!("listening on {}", address.port());
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || while serve(&stream).unwrap_or(false) {});
    }
}

/// Answers one request; whether another may follow.
fn serve(stream: &TcpStream) -> std::io::Result<bool> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(false);
    }
    let request_line = line.trim_end().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end().to_owned();
        if header.is_empty() {
            break;
        }
        headers.push(header);
    }
    let length = headers
        .iter()
        .find_map(|h| {
            h.to_ascii_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0_usize);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let target = request_line.split(' ').nth(1).unwrap_or("/").to_owned();
    let answer = answer(&target, &request_line, &headers, &body);
    let status = match answer.is_empty() {
        true => "503 Service Unavailable",
        false => "200 OK",
    };
    let mut stream = stream;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    stream.write_all(&[head.as_bytes(), answer.as_bytes()].concat())?;
    Ok(true)
}

/// The body of the answer; an empty one is a failure.
fn answer(target: &str, request_line: &str, headers: &[String], body: &[u8]) -> String {
    if target.contains("/healthz") {
        let well = !SICK.load(Ordering::SeqCst);
        return if well { "ok" } else { "" }.to_owned();
    }
    if target.contains("/sick") || target.contains("/well") {
        SICK.store(target.contains("/sick"), Ordering::SeqCst);
        return "as you wish".to_owned();
    }
    if let Some((_, word)) = target.split_once("/say/") {
        println!("{word}");
        return "said".to_owned();
    }
    if target.contains("/whoami") {
        return std::env::var("ATOLL_INSTANCE").unwrap_or_default();
    }
    if target.contains("/env") {
        return std::env::vars()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
    }
    if let Some((_, ms)) = target.split_once("/slow/") {
        std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
        return "slow".to_owned();
    }
    if let Some((_, code)) = target.split_once("/exit/") {
        std::process::exit(code.parse().unwrap_or(1));
    }
    format!(
        "{request_line}\n{}\n\n{}",
        headers.join("\n"),
        String::from_utf8_lossy(body)
    )
}
