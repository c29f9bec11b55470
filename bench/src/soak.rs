//! Atoll under churn for a long time: instances come and go over Eureka, Consul and the
//! admin API, clients disconnect in the middle of things, and Atoll is killed again and
//! again (`kill -9`) and started anew.
//!
//! What must hold is in `soak/model.rs`: an acknowledged registration is there until it
//! is taken back or its lease ends, and nothing is there that has no right to be. What
//! clients do is in `soak/worker.rs`, what disturbs in `soak/nuisance.rs`, who looks in
//! `soak/witness.rs`. The memory is read just before each kill, at the same age of each
//! process.

mod model;
mod nuisance;
mod told;
mod witness;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use self::model::Model;
use self::worker::Worker;
use crate::contender::tools::find_atoll;
use crate::machine;
use crate::page::{self, print};
use crate::process::target_folder;
use crate::procfs::Memory;
use crate::speak::{Atoll, Protocol};

/// Threads that speak for instances, for each protocol.
const WORKERS_PER_PROTOCOL: u32 = 8;

/// Grace that Atoll gives to all leases after a restart.
const GRACE: Duration = Duration::from_secs(30);

/// How long all may go on at the end, until everything that is told is the same.
const SETTLING: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How long, in minutes
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// How long, in seconds, instead
    #[arg(long)]
    seconds: Option<u64>,
    /// Instances that come, and as many that go, each second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Seconds between two kills; 0 for none
    #[arg(long, default_value_t = 60)]
    kill_every: u64,
    /// Seconds of each lease
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    lease: u32,
    /// What the dice begin with; another each time when not given
    #[arg(long)]
    seed: Option<u64>,
    /// This binary instead of building one
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// The page whose section is written
    #[arg(long, default_value = page::RESULTS)]
    report: PathBuf,
    /// Writes no page
    #[arg(long)]
    no_report: bool,
}

impl Options {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(self.minutes * 60))
    }
}

/// One look at the process, and what the disk holds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the beginning.
    at: Duration,
    memory: Memory,
    kept_bytes: u64,
    /// Instances in the model then.
    instances: usize,
}

/// All that was seen.
struct Findings {
    version: String,
    load_average: String,
    seed: u64,
    took: Duration,
    samples: Vec<Sample>,
    /// From each kill until it was ready again.
    returns: Vec<Duration>,
    tally: model::Tally,
    registered_ms: Vec<f64>,
    events: u64,
    resyncs: u64,
    nuisances: u64,
}

/// Everybody stops at this.
#[derive(Clone, Debug, Default)]
struct Halt(Arc<AtomicBool>);

impl Halt {
    fn is_called(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn call(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs it; an error when something did not hold.
pub(crate) fn run(options: &Options) -> Result<()> {
    let target = target_folder()?;
    let (binary, version) = find_atoll(options.atoll.as_deref(), &target)?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    print(&format!("soak: --seed {seed}"));
    let folder = target.join(format!("bench/soak-{}", std::process::id()));
    // Leases are told exactly; stretching them would make ghosts of the right kind.
    let settings = "registry: { self_preservation: false }\n";
    let load_average = machine::load_average();
    let mut atoll = Atoll::up(&binary, &folder, settings)?;
    let findings = churn(options, &mut atoll, seed);
    drop(atoll);
    let mut findings = findings?;
    findings.version = version;
    findings.load_average = load_average;
    let text = told::report(options, &findings)?;
    if options.no_report {
        print(&text);
    } else {
        page::publish(&options.report, "soak", &text)?;
    }
    let wrong = findings.tally.wrong.len();
    ensure!(
        wrong == 0,
        "{wrong} things did not hold; the folder is {}",
        folder.display()
    );
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn churn(options: &Options, atoll: &mut Atoll, seed: u64) -> Result<Findings> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let lease = Duration::from_secs(u64::from(options.lease));
    let model = Arc::new(Model::new(GRACE));
    let (quiet, halt) = (Halt::default(), Halt::default());
    let workers = Protocol::ALL.len() as u32 * WORKERS_PER_PROTOCOL;
    let every = Duration::from_secs(1) * workers / options.rate;
    let mut threads = Vec::new();
    for number in 0..workers {
        let protocol = Protocol::ALL[number as usize % Protocol::ALL.len()];
        let at = atoll.speaks(protocol)?;
        let (model, quiet, halt) = (Arc::clone(&model), quiet.clone(), halt.clone());
        let worker = Worker::new(number, protocol, at, lease, every, dice.fork(), model);
        threads.push(std::thread::spawn(move || worker.run(&quiet, &halt)));
    }
    let nuisance = nuisance::Nuisance::new(atoll, dice.fork())?;
    let nuisances = {
        let quiet = quiet.clone();
        std::thread::spawn(move || nuisance.run(&quiet))
    };
    let watcher = {
        let (at, halt) = (atoll.at("console")?, halt.clone());
        std::thread::spawn(move || witness::watch(at, &halt))
    };
    let mut witness = witness::Witness::new(atoll, Arc::clone(&model))?;
    let looking = {
        let quiet = quiet.clone();
        std::thread::spawn(move || {
            while !quiet.is_called() {
                witness.look();
            }
            witness
        })
    };

    let began = Instant::now();
    let samples = supervise(options, atoll, &model, began);
    quiet.call();
    let nuisances = join(nuisances)?;
    let mut witness = join(looking)?;
    let (samples, returns) = samples?;
    // Nobody comes or goes any more: in the end all who ask are told the same.
    let agreed = witness.settle(SETTLING);
    halt.call();
    let mut registered_ms = Vec::new();
    for thread in threads {
        registered_ms.extend(join(thread)?);
    }
    let watched = join(watcher)?;
    match agreed {
        Some(agreed) if watched.ids == agreed => {}
        Some(agreed) => model.wrong(format!(
            "the watcher's view is not the registry's: {:?}",
            watched
                .ids
                .symmetric_difference(&agreed)
                .take(5)
                .collect::<Vec<_>>()
        )),
        None => model.wrong("the protocols did not come to tell the same list".to_owned()),
    }
    registered_ms.sort_by(f64::total_cmp);
    Ok(Findings {
        version: String::new(),
        load_average: String::new(),
        seed,
        took: began.elapsed(),
        samples,
        returns,
        tally: model.tally(),
        registered_ms,
        events: watched.events,
        resyncs: watched.resyncs,
        nuisances,
    })
}

fn join<T>(thread: std::thread::JoinHandle<T>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("a thread of the soak panicked"))
}

/// Looks at the memory, kills and starts again, until the time is over.
fn supervise(
    options: &Options,
    atoll: &mut Atoll,
    model: &Model,
    began: Instant,
) -> Result<(Vec<Sample>, Vec<Duration>)> {
    let (mut samples, mut returns) = (Vec::new(), Vec::new());
    let sampling = match options.kill_every {
        0 => Duration::from_secs(60),
        seconds => Duration::from_secs(seconds),
    };
    while began.elapsed() < options.duration() {
        let left = options.duration().saturating_sub(began.elapsed());
        std::thread::sleep(sampling.min(left));
        let sample = Sample {
            at: began.elapsed(),
            memory: Memory::of(atoll.pid()?)?,
            kept_bytes: atoll.kept_bytes(),
            instances: model.len(),
        };
        print(&format!(
            "{:>5} s  {:>6.1} MB resident  {:>6.1} MB on disk  {} instances  {} wrong",
            sample.at.as_secs(),
            sample.memory.rss as f64 / 1e6,
            sample.kept_bytes as f64 / 1e6,
            sample.instances,
            model.wrong_so_far(),
        ));
        // The last part is without one, so that all can come to rest.
        if options.kill_every > 0 && left > sampling {
            let killed = Instant::now();
            atoll.kill();
            atoll.start()?;
            model.restarted(Instant::now());
            returns.push(killed.elapsed());
        }
        if left > sampling || options.kill_every == 0 {
            samples.push(sample);
        }
    }
    Ok((samples, returns))
}
