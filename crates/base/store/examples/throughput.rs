//! How fast the embedded store is on this machine's disk: durable writes a second
//! with 1 and 64 writers, keep-alives a second, and what 100,000 keys cost to open
//! and to hold. `cargo run --release -p atoll-store --example throughput [DIR]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_runtime::{Clock, Tasks};
use atoll_store::embedded::{self, Options};
use atoll_store::{Op, Store, Txn};

const KEYS: usize = 100_000;
/// About what one instance takes.
const VALUE_BYTES: usize = 300;
const MEASURE: Duration = Duration::from_secs(3);

#[expect(clippy::print_stdout, reason = "its output is its purpose")]
fn say(line: &str) {
    println!("{line}");
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = std::env::args().nth(1).map(PathBuf::from);
    let temporary = tempfile::tempdir()?;
    let dir = given
        .unwrap_or_else(|| temporary.path().to_owned())
        .join("throughput");
    let tasks = Tasks::root(Clock::system());
    let store = embedded::open(&dir, Options::default(), &tasks).await?;
    for writers in [1, 8, 64] {
        let rate = writes_per_second(&store, &tasks, writers).await?;
        say(&format!("durable writes/s, {writers:2} writers: {rate:.0}"));
    }
    keep_alives(&store, &tasks).await?;
    store.delete(atoll_store::Span::all()).await?;
    say(&format!("resident before the keys: {} MiB", resident_mib()));
    let began = tasks.clock().now();
    fill(&store).await?;
    let took = tasks.clock().now() - began;
    say(&format!(
        "{KEYS} keys of {VALUE_BYTES} bytes put in {took:.2?}, 100 a transaction"
    ));
    say(&format!("resident with the keys: {} MiB", resident_mib()));
    let began = tasks.clock().now();
    let listed = store.list("").await?.items.len();
    say(&format!(
        "all {listed} keys read in {:.2?}",
        tasks.clock().now() - began
    ));
    tasks.stop(Duration::from_secs(60)).await?;
    drop(store);
    reopen(&dir).await
}

async fn writes_per_second(
    store: &Store,
    tasks: &Tasks,
    writers: usize,
) -> Result<f64, Box<dyn std::error::Error>> {
    let began = tasks.clock().now();
    let running: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, clock) = (store.clone(), tasks.clock().clone());
            tasks.once("writer", async move {
                let mut count = 0_u64;
                while clock.now() - began < MEASURE {
                    let key = format!("w{writer}/{}", count % 1_000);
                    store.put(key, vec![7; VALUE_BYTES]).await?;
                    count += 1;
                }
                Ok::<_, atoll_store::StoreError>(count)
            })
        })
        .collect();
    let mut total = 0;
    for writer in running {
        total += writer.await??;
    }
    let took = tasks.clock().now() - began;
    Ok(total as f64 / took.as_secs_f64())
}

async fn keep_alives(store: &Store, tasks: &Tasks) -> Result<(), Box<dyn std::error::Error>> {
    const ROUNDS: usize = 1_000_000;
    let lease = store.grant(Duration::from_secs(60)).await?.id;
    let began = tasks.clock().now();
    for _ in 0..ROUNDS {
        store.keep_alive(lease).await?;
    }
    let took = tasks.clock().now() - began;
    say(&format!(
        "keep-alives/s, one core: {:.0}",
        ROUNDS as f64 / took.as_secs_f64()
    ));
    Ok(())
}

async fn fill(store: &Store) -> Result<(), Box<dyn std::error::Error>> {
    for first in (0..KEYS).step_by(100) {
        let ops: Vec<Op> = (first..first + 100)
            .map(|key| Op::put(format!("instances/{key:08}"), vec![7; VALUE_BYTES]))
            .collect();
        store.commit(Txn::of(ops)).await?;
    }
    Ok(())
}

async fn reopen(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let tasks = Tasks::root(Clock::system());
    let file_mib = std::fs::metadata(dir.join("store.redb"))?.len() / 1_024 / 1_024;
    let began = tasks.clock().now();
    let store = embedded::open(dir, Options::default(), &tasks).await?;
    let took = tasks.clock().now() - began;
    let keys = store.list("").await?.items.len();
    say(&format!(
        "{keys} keys ({file_mib} MiB file) opened again in {took:.2?}"
    ));
    tasks.stop(Duration::from_secs(60)).await?;
    Ok(())
}

/// Resident memory of this process (proc(5): statm, in pages of 4 KiB).
fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4 / 1_024
}
