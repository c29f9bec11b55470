//! Measures what the checks of many instances cost: 10,000 of them, asked over HTTP every
//! 10 s, by default; `checks INSTANCES INTERVAL_S` asks others. Who is asked is another
//! process, so that only the registry's own time is counted. Run with `--release`;
//! prints, and judges nothing.

#![expect(clippy::print_stdout, reason = "its purpose")]
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that fails is worth nothing"
)]

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Address, Check, Health, HttpRequest, Probe};
use atoll_registry::{Memory, Registration, Registry, Settings, Source};
use atoll_runtime::{Clock, Tasks};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Addresses that are asked: one would have too few ports for all that were just closed.
const HOSTS: u8 = 16;
/// For how long it is measured.
const MEASURED: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual: u32| {
        let given = arguments.get(at);
        given.map_or(usual, |given| given.parse().unwrap())
    };
    if arguments.first().is_some_and(|word| word == "serve") {
        return serve().await;
    }
    let (instances, interval) = (number(0, 10_000), number(1, 10));
    for (kind, probe) in kinds() {
        measure(kind, &probe, instances, interval).await;
    }
}

/// A plain `GET`, and what Consul's definitions come to: a request that follows redirects.
fn kinds() -> [(&'static str, Probe); 2] {
    let path = || "/healthz".to_owned();
    let request = HttpRequest {
        method: "GET".to_owned(),
        path: path(),
        headers: Vec::new(),
        body: String::new(),
        tls: None,
        redirects: true,
    };
    [
        ("plain", Probe::Http { path: path() }),
        ("Consul's", Probe::Request(Box::new(request))),
    ]
}

async fn measure(kind: &str, probe: &Probe, instances: u32, interval: u32) {
    let (mut server, asked) = start_server();
    let clock = Clock::system();
    let tasks = Tasks::root(clock.clone());
    let registry = Registry::open(Arc::new(Memory::default()), &tasks, Settings::default())
        .await
        .unwrap();
    for number in 0..instances {
        let service = format!("service-{}", number % 100).parse().unwrap();
        let id = format!("host-{number}").parse().unwrap();
        let address = asked[number as usize % asked.len()].clone();
        let mut registration = Registration::new(service, id, address, Source::Client);
        let mut check = Check::new(probe.clone());
        check.interval = Duration::from_secs(interval.into());
        check.timeout = Duration::from_secs(5);
        registration.checks = vec![check];
        registry.register(registration).await.unwrap();
    }
    let begun = clock.now();
    let mut catalog = registry.catalog();
    let fit = catalog.wait_for(|catalog| {
        let all = catalog.services.values().flat_map(|list| list.iter());
        all.filter(|instance| instance.health == Health::Passing)
            .count()
            == instances as usize
    });
    drop(fit.await.unwrap());
    println!(
        "{kind}: {instances} instances were fit after {:?}",
        clock.now() - begun
    );
    // The first pauses are spread over half an interval more than one.
    tokio::time::sleep(Duration::from_secs((interval * 3 / 2).into())).await;
    let begun = (clock.now(), cpu());
    tokio::time::sleep(MEASURED).await;
    let (took, used) = (clock.now() - begun.0, cpu() - begun.1);
    let all = registry.checks(None).await.unwrap();
    let last = all.iter().filter_map(|detail| detail.checks[0].last);
    let stale = last.filter(|last| last.ago > Duration::from_secs((interval * 3 / 2).into()));
    let (stale, fit) = (
        stale.count(),
        all.iter()
            .filter(|detail| detail.instance.health == Health::Passing)
            .count(),
    );
    println!(
        "{kind}: {:.3} cores with a check each {interval} s ({:.0} µs each); {fit} fit, {stale} late",
        used.as_secs_f64() / took.as_secs_f64(),
        used.as_secs_f64() * 1e6
            / (f64::from(instances) * took.as_secs_f64() / f64::from(interval)),
    );
    drop(registry);
    tasks.stop(Duration::from_secs(10)).await.unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
}

/// CPU time of this process's one thread.
fn cpu() -> Duration {
    let all = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(all.split(' ').next().unwrap().parse().unwrap())
}

fn start_server() -> (Child, Vec<Address>) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .arg("serve")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let lines = lines.take(HOSTS.into());
    let addresses = lines.map(|line| line.unwrap().parse().unwrap()).collect();
    (server, addresses)
}

/// Answers every request with 200 until it is killed; prints its addresses.
async fn serve() {
    let mut listening = FuturesUnordered::new();
    for last in 1..=HOSTS {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).await;
        let listener = listener.unwrap();
        println!("{}", listener.local_addr().unwrap());
        listening.push(async move {
            let mut answering = FuturesUnordered::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => answering.push(answer(accepted.unwrap().0)),
                    Some(()) = answering.next() => {}
                }
            }
        });
    }
    let _: Option<()> = listening.next().await;
}

async fn answer(mut stream: TcpStream) {
    const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nOK";
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    if stream.write_all(FINE).await.is_ok() {
        stream.shutdown().await.ok();
    }
}
