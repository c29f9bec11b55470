//! What the registry can do, measured against the release binary over sockets, as its
//! clients see it: how fast instances come and renew, what a question costs among few
//! and among many, how long a change takes to whoever waits for it, and what a hundred
//! thousand instances weigh.
//!
//! `registry/drive.rs` asks as fast as it is answered, `registry/reach.rs` measures how
//! changes travel, `registry/fanout.rs` how they reach ten thousand who wait for one;
//! `registry/told.rs` makes the report. The figure for a rate is the time on a core of
//! the server for one operation: what a core could do, whatever the client took.

mod drive;
mod fanout;
mod reach;
mod told;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::drive::{Driven, Until};
use crate::contender::tools::find_atoll;
use crate::http::{self, Http};
use crate::page::{self, print};
use crate::process::{raise_open_files, target_folder};
use crate::procfs::{self, Memory};
use crate::speak::{Atoll, PATIENCE, Protocol, Who};
use crate::{machine, upstream};

/// Of each service but the one that is asked for.
const INSTANCES_PER_SERVICE: usize = 100;
/// The service that is asked for, and its instances, whatever the number of others.
const ASKED: &str = "asked";
const ASKED_INSTANCES: usize = 10;
/// Instances in all when there are few.
const FEW: usize = 100;
/// Connections that ask at the same time.
const CONNECTIONS: usize = 32;
/// Leases do not end while this runs.
const LEASE: Duration = Duration::from_secs(7200);

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Instances when there are many
    #[arg(long, default_value_t = 100_000)]
    instances: usize,
    /// Clients that wait for one service
    #[arg(long, default_value_t = 10_000)]
    waiting: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Registrations of which it is measured how long they take to others
    #[arg(long, default_value_t = 300)]
    reaches: usize,
    /// This binary instead of building one
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// The page whose section is written
    #[arg(long, default_value = page::RESULTS)]
    report: PathBuf,
}

/// One rate.
struct Rate {
    what: &'static str,
    /// Instances that there were, when it began.
    among: usize,
    driven: Driven,
    /// Time of the server on a core for one.
    cpu_us: f64,
}

/// One fetch of everything.
struct Fetch {
    what: &'static str,
    took: Duration,
    bytes: usize,
    /// The most that was resident meanwhile, above what was before.
    peak_bytes: u64,
}

struct Findings {
    version: String,
    load_average: String,
    rates: Vec<Rate>,
    /// Before the first instance, and with all.
    empty: Memory,
    full: Memory,
    kept_bytes: u64,
    fetches: Vec<Fetch>,
    fanout: fanout::Fanout,
    routed_ms: Vec<f64>,
    watched_ms: Vec<f64>,
    restart: Duration,
    after_restart: Memory,
    after_all: Memory,
}

/// Measures, prints and writes the section.
pub(crate) fn run(options: &Options) -> Result<()> {
    let target = target_folder()?;
    let (binary, version) = find_atoll(options.atoll.as_deref(), &target)?;
    raise_open_files()?;
    let load_average = machine::load_average();
    let folder = target.join("bench/registry");
    let (_upstream, behind) = {
        fs::create_dir_all(&folder)?;
        upstream::start(None, &folder)?
    };
    let settings = "services:\n  routed: { endpoints: [] }\nroutes:\n  /{path*}: routed\n";
    let mut atoll = Atoll::up(&binary, &folder.join("fleet"), settings)?;
    let mut bench = Bench {
        atoll: &mut atoll,
        options,
        rates: Vec::new(),
        instances: 0,
    };
    let empty = bench.settled()?;

    bench.fill_asked()?;
    bench.fill(FEW, "few")?;
    bench.ask_one()?;
    bench.fill(options.instances, "many")?;
    let full = bench.settled()?;
    print(&format!("{:.1} MB resident", full.rss as f64 / 1e6));
    bench.ask_one()?;
    bench.renew()?;
    let fetches = bench.fetch_all()?;
    let watched_ms = reach::watched(bench.atoll, options.reaches)?;
    let routed_ms = reach::routed(bench.atoll, behind, options.reaches)?;
    let fanout = fanout::measure(bench.atoll, options.waiting)?;
    let after_all = bench.settled()?;
    let rates = std::mem::take(&mut bench.rates);
    let kept_bytes = atoll.kept_bytes();
    atoll.kill();
    let restart = atoll.start()?;
    count_all(&atoll, options.instances)?;
    let after_restart = settled(&atoll)?;
    let findings = Findings {
        version,
        load_average,
        rates,
        empty,
        full,
        kept_bytes,
        fetches,
        fanout,
        routed_ms,
        watched_ms,
        restart,
        after_restart,
        after_all,
    };
    let text = told::report(options, &findings)?;
    page::publish(&options.report, "registry", &text)
}

struct Bench<'a> {
    atoll: &'a mut Atoll,
    options: &'a Options,
    rates: Vec<Rate>,
    instances: usize,
}

/// Memory when it has stopped changing.
fn settled(atoll: &Atoll) -> Result<Memory> {
    let mut memory = Memory::of(atoll.pid()?)?;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(200));
        let before = std::mem::replace(&mut memory, Memory::of(atoll.pid()?)?);
        if memory.rss.abs_diff(before.rss) < 64 * 1024 {
            break;
        }
    }
    Ok(memory)
}

/// The CPU time of the server until now.
fn cpu_ns(atoll: &Atoll) -> Result<std::collections::BTreeMap<u32, u64>> {
    procfs::threads_cpu_ns(&[atoll.pid()?])
}

/// An instance like those of a fleet: an address of its own, a service of a hundred.
fn who(number: usize) -> Who {
    let host = Ipv4Addr::from(0x0a00_0001 + number as u32);
    Who {
        service: format!("service-{}", number / INSTANCES_PER_SERVICE),
        id: format!("service-{}:{host}:8080", number / INSTANCES_PER_SERVICE),
        at: SocketAddr::new(IpAddr::V4(host), 8080),
        lease: LEASE,
    }
}

fn asked(number: usize) -> Who {
    Who {
        service: ASKED.to_owned(),
        id: format!("{ASKED}:{number}"),
        at: SocketAddr::from(([10, 200, 0, number as u8 + 1], 8080)),
        lease: LEASE,
    }
}

/// Half of all come by each protocol, a service by one.
fn protocol_of(number: usize) -> Protocol {
    match number / INSTANCES_PER_SERVICE % 2 {
        0 => Protocol::Eureka,
        _ => Protocol::Consul,
    }
}

impl Bench<'_> {
    fn settled(&self) -> Result<Memory> {
        settled(self.atoll)
    }

    fn rate(
        &mut self,
        what: &'static str,
        drive: impl FnOnce(&Atoll) -> Result<Driven>,
    ) -> Result<()> {
        let before = cpu_ns(self.atoll)?;
        let driven = drive(self.atoll)?;
        let used = procfs::used_ns(&before, &cpu_ns(self.atoll)?);
        let cpu_us = used as f64 / 1e3 / driven.completed.max(1) as f64;
        print(&format!(
            "{what} among {}: {:.0}/s, {cpu_us:.1} us of CPU each",
            self.instances,
            driven.per_second()
        ));
        let among = self.instances;
        self.rates.push(Rate {
            what,
            among,
            driven,
            cpu_us,
        });
        Ok(())
    }

    fn fill_asked(&mut self) -> Result<()> {
        for number in 0..ASKED_INSTANCES {
            let protocol = Protocol::ALL[number % 2];
            let mut client = Http::new(self.atoll.speaks(protocol)?, PATIENCE);
            let answer = client.ask(&protocol.register(&asked(number)))?;
            ensure!(answer.status < 300, "{}: {}", answer.status, answer.text());
        }
        self.instances += ASKED_INSTANCES;
        Ok(())
    }

    /// Registers until there are so many.
    fn fill(&mut self, wanted: usize, stage: &str) -> Result<()> {
        let begin = self.instances - ASKED_INSTANCES;
        let end = wanted - ASKED_INSTANCES;
        for (protocol, what) in [
            (Protocol::Eureka, "registrations by Eureka, durable"),
            (Protocol::Consul, "registrations by Consul, durable"),
        ] {
            let numbers = (begin..end).filter(|number| protocol_of(*number) == protocol);
            let requests: Vec<_> = numbers.map(|n| protocol.register(&who(n))).collect();
            let count = requests.len();
            if stage == "few" {
                let at = self.atoll.speaks(protocol)?;
                drive::drive(at, CONNECTIONS, &requests, Until::AllOnce)?;
            } else {
                self.rate(what, |atoll| {
                    let at = atoll.speaks(protocol)?;
                    drive::drive(at, CONNECTIONS, &requests, Until::AllOnce)
                })?;
            }
            self.instances += count;
        }
        Ok(())
    }

    fn until(&self) -> Until {
        Until::Passed(Duration::from_secs(self.options.seconds))
    }

    /// One service is asked for again and again.
    fn ask_one(&mut self) -> Result<()> {
        let until = self.until();
        let json = [("Accept", "application/json")];
        let app = format!("/eureka/apps/{}", ASKED.to_uppercase());
        let app = vec![http::request("GET", &app, &json, "")];
        self.rate("one app by Eureka", |atoll| {
            drive::drive(atoll.at("eureka")?, CONNECTIONS, &app, until)
        })?;
        let health = format!("/v1/health/service/{ASKED}?passing");
        let health = vec![http::request("GET", &health, &[], "")];
        self.rate("health of one service by Consul", |atoll| {
            drive::drive(atoll.at("consul")?, CONNECTIONS, &health, until)
        })?;
        let name = format!("{ASKED}.service.consul");
        let duration = Duration::from_secs(self.options.seconds);
        self.rate("one name by DNS (A, UDP)", |atoll| {
            drive::names(atoll.at("dns")?, &name, 1, duration)
        })?;
        let reverse = "1.0.200.10.in-addr.arpa";
        self.rate("one address by DNS (PTR, UDP)", |atoll| {
            drive::names(atoll.at("dns")?, reverse, 12, duration)
        })
    }

    /// All renew, each in its turn.
    fn renew(&mut self) -> Result<()> {
        let until = self.until();
        for (protocol, what) in [
            (Protocol::Eureka, "renewals by Eureka (PUT)"),
            (Protocol::Consul, "renewals by Consul (TTL pass)"),
        ] {
            let all = 0..self.instances - ASKED_INSTANCES;
            let mine = all.filter(|number| protocol_of(*number) == protocol);
            let requests: Vec<_> = mine.map(|n| protocol.renew(&who(n))).collect();
            self.rate(what, |atoll| {
                drive::drive(atoll.speaks(protocol)?, CONNECTIONS, &requests, until)
            })?;
        }
        Ok(())
    }

    /// Everything by Eureka, as it is and zipped.
    fn fetch_all(&mut self) -> Result<Vec<Fetch>> {
        let kinds: [(&'static str, &[(&str, &str)]); 2] = [
            (
                "all apps by Eureka, JSON, gzip",
                &[("Accept", "application/json"), ("Accept-Encoding", "gzip")],
            ),
            (
                "all apps by Eureka, JSON",
                &[("Accept", "application/json")],
            ),
        ];
        let mut fetches = Vec::new();
        for (what, fields) in kinds {
            let pid = self.atoll.pid()?;
            let before = self.settled()?.rss;
            procfs::forget_peak(pid)?;
            let mut client = Http::new(self.atoll.at("eureka")?, PATIENCE);
            let began = Instant::now();
            let answer = client.ask(&http::request("GET", "/eureka/apps", fields, ""))?;
            let took = began.elapsed();
            ensure!(answer.status == 200, "{what}: {}", answer.status);
            let peak_bytes = procfs::peak_bytes(pid)?.saturating_sub(before);
            print(&format!("{what}: {took:.2?}, {} bytes", answer.body.len()));
            fetches.push(Fetch {
                what,
                took,
                bytes: answer.body.len(),
                peak_bytes,
            });
        }
        Ok(fetches)
    }
}

/// Whether all are there.
fn count_all(atoll: &Atoll, wanted: usize) -> Result<()> {
    let mut client = Http::new(atoll.at("console")?, PATIENCE);
    let answer = client.ask(&Protocol::Admin.list())?;
    ensure!(answer.status == 200, "the list: {}", answer.status);
    let listed = Protocol::Admin.listed(&answer.body).context("the list")?;
    ensure!(
        listed.len() >= wanted,
        "of {wanted} instances {} are there after a restart",
        listed.len()
    );
    Ok(())
}
