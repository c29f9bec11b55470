//! Measures what the design promises of the registry: memory at 100,000 instances,
//! renewals a second on one thread, and how long a registration takes to be in
//! the catalogue. Run with `--release`; prints, and judges nothing.

#![expect(clippy::print_stdout, reason = "its purpose")]
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that fails is worth nothing"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Check, InstanceId, Probe, ServiceName};
use atoll_registry::{Memory, Registration, Registry, Settings, Source};
use atoll_runtime::{Clock, Tasks};
use futures_util::StreamExt;

const INSTANCES: usize = 100_000;
const SERVICES: usize = 1_000;
const RENEWALS: usize = 400_000;
/// Clients that wait for an answer at the same time.
const CLIENTS: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let clock = Clock::system();
    let tasks = Tasks::root(clock.clone());
    let empty = resident_mb();
    // The entries of `Memory` stand for a disk, so they are measured apart.
    let journal = Arc::new(Memory::default());
    // One probe at a time, and a silent instance that holds it for a minute: what
    // is measured is the registry, not fifty thousand refused connections.
    let settings = Settings {
        probes_max: 1,
        ..Settings::default()
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = Registry::open(journal.clone(), &tasks, settings)
        .await
        .unwrap();
    let mut anchor = registration(2 * INSTANCES);
    anchor.address = silent.local_addr().unwrap().into();
    registry.register(anchor).await.unwrap();

    let begun = clock.now();
    futures_util::stream::iter(0..INSTANCES)
        .for_each_concurrent(4096, |number| {
            let registry = registry.clone();
            async move {
                registry.register(registration(number)).await.unwrap();
            }
        })
        .await;
    let took = clock.now() - begun;
    println!(
        "registered {INSTANCES} instances of {SERVICES} services in {took:?}, catalogue revision {}",
        registry.current().revision
    );
    println!("resident before {empty} MB, after {} MB", resident_mb());

    let begun = (clock.now(), cpu());
    futures_util::stream::iter(0..RENEWALS)
        .for_each_concurrent(CLIENTS, |number| {
            let (service, id) = names(number * 7919 % INSTANCES);
            let registry = registry.clone();
            async move { registry.renew(service, id).await.unwrap() }
        })
        .await;
    let took = clock.now() - begun.0;
    let cpu_ns = (cpu() - begun.1) / RENEWALS as u64;
    println!(
        "{RENEWALS} renewals by {CLIENTS} clients in {took:?}: {:.0}/s, {cpu_ns} ns CPU each (callers included)",
        RENEWALS as f64 / took.as_secs_f64()
    );

    let mut waits = Vec::new();
    for number in INSTANCES..INSTANCES + 200 {
        let begun = clock.now();
        let revision = registry.register(registration(number)).await.unwrap();
        registry.wait_for(revision).await.unwrap();
        waits.push(clock.now() - begun);
    }
    waits.sort();
    println!(
        "one more registration beside {INSTANCES}: median {:?}, p99 {:?}",
        waits[100], waits[197]
    );
    tasks.stop(Duration::from_secs(10)).await.unwrap();
}

fn names(number: usize) -> (ServiceName, InstanceId) {
    let service = format!("service-{}", number % SERVICES);
    (
        service.parse().unwrap(),
        format!("host-{number}:{service}:8080").parse().unwrap(),
    )
}

/// An instance of usual size: a version, a zone, two tags, every other with a check.
fn registration(number: usize) -> Registration {
    let (service, id) = names(number);
    let host = format!(
        "127.{}.{}.{}",
        number >> 16,
        number >> 8 & 255,
        number & 255
    );
    let address = atoll_model::Address::new(&host, 8080).unwrap();
    let mut registration = Registration::new(service, id, address, Source::Client);
    registration.lease = Some(Duration::from_secs(90));
    registration.tags = vec!["http".to_owned(), "blue".to_owned()];
    registration.metadata = BTreeMap::from([
        ("version".to_owned(), "1.2.3".to_owned()),
        ("zone".to_owned(), "eu-central-1a".to_owned()),
    ]);
    let mut check = Check::new(Probe::Http {
        path: "/healthz".to_owned(),
    });
    check.timeout = Duration::from_secs(60);
    // Every other one: Eureka's clients renew and have no check.
    if number.is_multiple_of(2) {
        registration.checks = vec![check];
    }
    registration
}

fn resident_mb() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096 / 1_000_000
}

/// CPU time of this process in nanoseconds.
fn cpu() -> u64 {
    let all = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    all.split(' ').next().unwrap().parse().unwrap()
}
