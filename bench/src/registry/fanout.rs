//! Ten thousand clients that wait for one service by Consul's blocking queries: what a
//! change of it costs, and one of another service.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::drive::is_whole;
use super::{ASKED, cpu_ns, who};
use crate::http::{self, Http};
use crate::page::print;
use crate::poll::Poll;
use crate::procfs::{self, Memory};
use crate::speak::{Atoll, PATIENCE, Protocol};

/// Changes of the service that all wait for.
const ROUNDS: usize = 5;
/// Changes of another one.
const OTHERS: usize = 200;

/// For all to be waiting, before a change.
const CALM: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    pub(super) clients: usize,
    /// From the change until the last client had its answer, of each round.
    pub(super) last_ms: Vec<f64>,
    /// Time of the server on a core for all of it.
    pub(super) cpu_ms: Vec<f64>,
    /// For one such answer when it is asked for alone.
    pub(super) alone_us: f64,
    /// For one change of another service: with all waiting, and with nobody.
    pub(super) other_waiting_us: f64,
    pub(super) other_alone_us: f64,
    /// What a client that waits weighs.
    pub(super) bytes_per_client: u64,
}

struct Waiting {
    socket: TcpStream,
    answer: Vec<u8>,
    answered: bool,
}

pub(super) fn measure(atoll: &Atoll, wanted: usize) -> Result<Fanout> {
    let at = atoll.at("consul")?;
    let mut consul = Http::new(at, PATIENCE);
    let mut found = Fanout {
        other_alone_us: change_others(atoll, &mut consul)?,
        alone_us: alone(atoll, &mut consul)?,
        ..Fanout::default()
    };
    let before = Memory::of(atoll.pid()?)?.rss;
    let mut poll = Poll::new()?;
    let mut all = Vec::new();
    while all.len() < wanted {
        let socket = TcpStream::connect(at).context("connect a client that waits")?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        poll.add(&socket, all.len())?;
        all.push(Waiting {
            socket,
            answer: Vec::new(),
            answered: false,
        });
    }
    found.clients = all.len();
    for round in 0..ROUNDS {
        let index = wait_all(atoll, &mut consul, &mut all)?;
        if round == 0 {
            let now = Memory::of(atoll.pid()?)?.rss;
            found.bytes_per_client = now.saturating_sub(before) / all.len() as u64;
            found.other_waiting_us = change_others(atoll, &mut consul)?;
            ensure!(
                !answer_all(&mut poll, &mut all, 0)?,
                "a client was woken by another service"
            );
        }
        let cpu = cpu_ns(atoll)?;
        let began = Instant::now();
        touch(&mut consul, round)?;
        ensure!(
            answer_all(&mut poll, &mut all, wanted)?,
            "not all were told"
        );
        let last_ms = began.elapsed().as_secs_f64() * 1e3;
        let cpu_ms = procfs::used_ns(&cpu, &cpu_ns(atoll)?) as f64 / 1e6;
        print(&format!(
            "{wanted} clients were told of index {index}+ in {last_ms:.0} ms, {cpu_ms:.0} ms of CPU"
        ));
        found.last_ms.push(last_ms);
        found.cpu_ms.push(cpu_ms);
    }
    Ok(found)
}

/// Changes one instance of the service that is waited for.
fn touch(consul: &mut Http, round: usize) -> Result<()> {
    let body = format!(
        "{{\"Name\":\"{ASKED}\",\"ID\":\"touched\",\"Port\":80,\"Address\":\"10.201.0.1\",\"Meta\":{{\"round\":\"{round}\"}}}}"
    );
    let answer = consul.ask(&http::request(
        "PUT",
        "/v1/agent/service/register",
        &[],
        &body,
    ))?;
    ensure!(answer.status == 200, "{}", answer.text());
    Ok(())
}

fn health(index: Option<&str>) -> Vec<u8> {
    let index = index.map_or(String::new(), |index| format!("&index={index}&wait=600s"));
    let path = format!("/v1/health/service/{ASKED}?passing{index}");
    http::request("GET", &path, &[], "")
}

/// What one answer costs that nobody shares.
fn alone(atoll: &Atoll, consul: &mut Http) -> Result<f64> {
    const TIMES: u32 = 2_000;
    let before = cpu_ns(atoll)?;
    for _ in 0..TIMES {
        ensure!(consul.ask(&health(None))?.status == 200, "no health");
    }
    let used = procfs::used_ns(&before, &cpu_ns(atoll)?);
    Ok(used as f64 / 1e3 / f64::from(TIMES))
}

/// Lets all wait; they do when the server has nothing to do any more.
fn wait_all(atoll: &Atoll, consul: &mut Http, all: &mut [Waiting]) -> Result<String> {
    let now = consul.ask(&health(None))?;
    let index = now.field("x-consul-index").context("an index")?.to_owned();
    let request = health(Some(&index));
    for waiting in all {
        waiting.answered = false;
        waiting.socket.write_all(&request)?;
    }
    let began = Instant::now();
    let mut before = cpu_ns(atoll)?;
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = cpu_ns(atoll)?;
        // A hundredth of a core is what it takes when nothing happens.
        if procfs::used_ns(&before, &now) < 2_000_000 || began.elapsed() > CALM {
            return Ok(index);
        }
        before = now;
    }
}

/// Reads until so many have their answer, or none can be expected: whether they have.
fn answer_all(poll: &mut Poll, all: &mut [Waiting], wanted: usize) -> Result<bool> {
    let patience = match wanted {
        0 => Duration::from_millis(300),
        _ => PATIENCE,
    };
    let (mut ready, mut buffer, mut answered) = (Vec::new(), vec![0; 64 * 1024], 0);
    let began = Instant::now();
    while began.elapsed() < patience {
        poll.wait(&mut ready, Some(patience))?;
        for it in ready.drain(..) {
            let waiting = &mut all[it.number];
            loop {
                match waiting.socket.read(&mut buffer) {
                    Ok(0) => anyhow::bail!("a client's connection was closed"),
                    Ok(count) => waiting.answer.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
                if is_whole(&waiting.answer)? {
                    waiting.answer.clear();
                    ensure!(!waiting.answered, "a client was answered twice");
                    waiting.answered = true;
                    answered += 1;
                }
            }
        }
        if wanted > 0 && answered >= wanted {
            return Ok(true);
        }
    }
    Ok(answered > 0)
}

/// What a change of a service costs that nobody waits for.
fn change_others(atoll: &Atoll, consul: &mut Http) -> Result<f64> {
    let before = cpu_ns(atoll)?;
    for number in 0..OTHERS {
        let mut other = who(number);
        other.service = "other".to_owned();
        other.id = format!("other-{}", number % 10);
        other.at.set_port(1000 + number as u16);
        let answer = consul.ask(&Protocol::Consul.register(&other))?;
        ensure!(answer.status == 200, "{}", answer.text());
    }
    let used = procfs::used_ns(&before, &cpu_ns(atoll)?);
    Ok(used as f64 / 1e3 / OTHERS as f64)
}
