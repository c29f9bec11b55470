//! How long a registration takes to whoever wants to know of it: a watcher that is
//! pushed, and the first request that the gateway sends there.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use memchr::memmem;

use super::LEASE;
use crate::http::{self, Chunks, Http};
use crate::speak::{Atoll, PATIENCE, Protocol, Who};
use crate::upstream::head_end;
use crate::workload::Workload;

fn who(service: &str, id: String, at: SocketAddr) -> Who {
    Who {
        service: service.to_owned(),
        id,
        at,
        lease: LEASE,
    }
}

/// Milliseconds from the moment a registration is sent by Eureka until the event that
/// has it is there at a watcher of `/api/v1/watch`, sorted.
pub(super) fn watched(atoll: &Atoll, count: usize) -> Result<Vec<f64>> {
    let mut client = Http::new(atoll.at("console")?, PATIENCE);
    let revision = routed_revision(&mut client)?;
    let mut watcher = http::connect(atoll.at("console")?, PATIENCE)?;
    let path = format!("/api/v1/watch?since={revision}");
    watcher.write_all(&http::request("GET", &path, &[], ""))?;
    let (sender, events) = mpsc::sync_channel(1024);
    let listening = std::thread::spawn(move || listen(watcher, &sender));
    let mut eureka = Http::new(atoll.at("eureka")?, PATIENCE);
    let mut took = Vec::new();
    for number in 0..count {
        let who = who("watched", format!("w-{number}"), "10.9.0.1:80".parse()?);
        let began = Instant::now();
        let answer = eureka.ask(&Protocol::Eureka.register(&who))?;
        ensure!(answer.status == 204, "{}", answer.text());
        let id = format!("\"{}\"", who.id);
        let came = loop {
            let (came, event): (Instant, Vec<u8>) = events.recv_timeout(PATIENCE)?;
            if memmem::find(&event, id.as_bytes()).is_some() {
                break came;
            }
        };
        took.push(came.saturating_duration_since(began).as_secs_f64() * 1e3);
        let answer = eureka.ask(&Protocol::Eureka.leave(&who))?;
        ensure!(answer.status == 200, "{}", answer.text());
    }
    drop(events);
    // It notices with the next event, which this is.
    let last = who("watched", "last".to_owned(), "10.9.0.1:80".parse()?);
    eureka.ask(&Protocol::Eureka.register(&last))?;
    eureka.ask(&Protocol::Eureka.leave(&last))?;
    listening
        .join()
        .map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
    took.sort_by(f64::total_cmp);
    Ok(took)
}

/// Sends each event with the moment at which it was whole, until nobody wants them.
fn listen(
    mut watcher: std::net::TcpStream,
    events: &mpsc::SyncSender<(Instant, Vec<u8>)>,
) -> Result<()> {
    let (mut raw, mut text, mut buffer) = (Vec::new(), Vec::new(), vec![0; 256 * 1024]);
    let (mut chunks, mut headed) = (Chunks::default(), false);
    loop {
        let count = watcher.read(&mut buffer)?;
        ensure!(count > 0, "the watch ended");
        raw.extend_from_slice(&buffer[..count]);
        if !headed {
            let Some(end) = head_end(&raw) else {
                continue;
            };
            raw.drain(..end);
            headed = true;
        }
        chunks.take(&raw, &mut text)?;
        raw.clear();
        let came = Instant::now();
        while let Some(end) = memmem::find(&text, b"\n\n") {
            let event = text.drain(..end + 2).collect();
            if events.send((came, event)).is_err() {
                return Ok(());
            }
        }
    }
}

/// The revision of the catalogue that the gateway routes by.
fn routed_revision(console: &mut Http) -> Result<u64> {
    let status = console.ask(&http::request("GET", "/api/v1/status", &[], ""))?;
    let status: serde_json::Value = serde_json::from_slice(&status.body)?;
    status["routed_revision"].as_u64().context("a revision")
}

/// Milliseconds from the moment a registration is sent by Eureka until the first request
/// through the gateway is answered by that instance, sorted. Before, there was none.
pub(super) fn routed(atoll: &Atoll, behind: SocketAddr, count: usize) -> Result<Vec<f64>> {
    let mut eureka = Http::new(atoll.at("eureka")?, PATIENCE);
    let mut gateway = Http::new(atoll.at("gateway")?, PATIENCE);
    let mut console = Http::new(atoll.at("console")?, PATIENCE);
    let ask = http::request("GET", &Workload::Get200.path(0), &[], "");
    let mut took = Vec::new();
    for number in 0..count {
        let who = who("routed", format!("r-{number}"), behind);
        let began = Instant::now();
        let answer = eureka.ask(&Protocol::Eureka.register(&who))?;
        ensure!(answer.status == 204, "{}", answer.text());
        while gateway.ask(&ask)?.status != 200 {
            ensure!(began.elapsed() < PATIENCE, "the gateway does not follow");
        }
        took.push(began.elapsed().as_secs_f64() * 1e3);
        let before = routed_revision(&mut console)?;
        let answer = eureka.ask(&Protocol::Eureka.leave(&who))?;
        ensure!(answer.status == 200, "{}", answer.text());
        // A request for a service of nobody is held for a while, so it is not asked for.
        while routed_revision(&mut console)? <= before {
            ensure!(began.elapsed() < PATIENCE, "the gateway does not forget");
        }
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}
