//! What Atoll takes before it does anything: the time of a start, the memory of an empty
//! fleet and of idle connections, and the size of the binary.
//!
//! The binary is started as a user starts it, `atoll up` in a folder with an
//! `atoll.yaml`. `hold.rs` is the client of the idle connections; `footprint/told.rs`
//! makes the report.

mod told;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::de::DeserializeOwned;

use crate::contender::atoll::listening;
use crate::contender::tools::find_atoll;
use crate::hold::{Kept, Opened};
use crate::page::print;
use crate::process::{Process, own_path, raise_open_files, target_folder};
use crate::procfs::{self, Memory};
use crate::{machine, page, upstream};

/// Connections of one client process. Fewer than any usual limit of open files, and far
/// fewer than an address has ports.
const CONNECTIONS_PER_CLIENT: usize = 5_000;

/// Files that each process may need beside those of the connections: Atoll's to the
/// upstream, for one.
const OTHER_FILES: usize = 64;

/// Memory is read again until it stays where it is, or so often.
const SETTLING_READINGS_MAX: u32 = 50;

/// Between two readings of memory.
const SETTLING: Duration = Duration::from_millis(100);

/// What changes less between two readings stays where it is.
const SETTLED_BYTES: u64 = 64 * 1024;

/// For all connections to be gone once the clients are.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// How often it is started
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    starts: u16,
    /// Idle connections; the gateway takes no more than 20,000 by default
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// This binary instead of building one
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// The page whose section is written
    #[arg(long, default_value = page::RESULTS)]
    report: PathBuf,
}

/// One start.
#[derive(Clone, Copy)]
struct Start {
    to_ready: Duration,
    /// Of both processes, until then.
    cpu: Duration,
    memory: Reading,
}

/// The memory of Atoll and its guardian at one moment.
#[derive(Clone, Copy, Default)]
struct Reading {
    atoll: Memory,
    guardian: Memory,
}

impl Reading {
    fn rss(&self) -> u64 {
        self.atoll.rss + self.guardian.rss
    }

    fn pss(&self) -> u64 {
        self.atoll.pss + self.guardian.pss
    }

    /// What both are once they have settled: each reads its pages in when it needs them,
    /// and gives some back.
    fn settled(atoll: u32, guardian: u32) -> Result<Self> {
        let read = || -> Result<Self> {
            Ok(Self {
                atoll: Memory::of(atoll)?,
                guardian: Memory::of(guardian)?,
            })
        };
        let mut reading = read()?;
        for _ in 0..SETTLING_READINGS_MAX {
            std::thread::sleep(SETTLING);
            let before = std::mem::replace(&mut reading, read()?);
            if reading.rss().abs_diff(before.rss()) < SETTLED_BYTES {
                break;
            }
        }
        Ok(reading)
    }
}

/// Memory around the idle connections.
struct Idle {
    opened: usize,
    /// Why there were not more.
    refused: Option<String>,
    clients: usize,
    before: Reading,
    held: Reading,
    closed: Reading,
}

/// All that was measured.
struct Findings {
    version: String,
    load_average: String,
    open_files: Option<u64>,
    starts: Vec<Start>,
    idle: Idle,
    binary_bytes: u64,
}

/// Measures, prints and writes the section.
pub(crate) fn run(options: &Options) -> Result<()> {
    let target = target_folder()?;
    let (atoll, version) = find_atoll(options.atoll.as_deref(), &target)?;
    let open_files = raise_open_files()?;
    let folder = target.join("bench/footprint");
    fs::create_dir_all(&folder)?;
    let load_average = machine::load_average();
    let mut starts = Vec::new();
    for number in 1..=options.starts {
        let start = start(&atoll, &folder)?;
        let ms = start.to_ready.as_secs_f64() * 1e3;
        print(&format!("start {number:>2}  ready after {ms:.1} ms"));
        starts.push(start);
    }
    let idle = idle(&atoll, &folder, options.connections as usize, open_files)?;
    let findings = Findings {
        version,
        load_average,
        open_files,
        starts,
        idle,
        binary_bytes: fs::metadata(&atoll)?.len(),
    };
    page::publish(
        &options.report,
        "footprint",
        &told::report(options, &findings)?,
    )
}

/// A fleet of nobody that is ready.
struct Atoll {
    process: Process,
    /// Its own, and its guardian's.
    pids: [u32; 2],
    to_ready: Duration,
    cpu: Duration,
}

impl Atoll {
    /// In a folder without anything left from before.
    fn up(atoll: &Path, folder: &Path, settings: &str) -> Result<Self> {
        let fleet = folder.join("fleet");
        if fleet.exists() {
            fs::remove_dir_all(&fleet)?;
        }
        fs::create_dir_all(&fleet)?;
        let listen = r#"listen: { gateway: "127.0.0.1:0", console: "127.0.0.1:0" }"#;
        fs::write(fleet.join("atoll.yaml"), format!("{listen}\n{settings}"))?;
        let command = [atoll.display().to_string(), "up".to_owned()];
        let began = Instant::now();
        let mut process = Process::start("atoll", None, &fleet, &command)?;
        let pid = process.pid();
        process.wait_for(|| {
            let console = listening(&fleet, pid, "console")?;
            is_ready(console).ok()?.then_some(())
        })?;
        let to_ready = began.elapsed();
        let family = procfs::family(pid)?;
        let cpu_ns = procfs::threads_cpu_ns(&family)?.values().sum();
        let pids: [u32; 2] = family.try_into().map_err(|family: Vec<u32>| {
            anyhow::anyhow!("not Atoll and its guardian: {} processes", family.len())
        })?;
        Ok(Self {
            process,
            pids,
            to_ready,
            cpu: Duration::from_nanos(cpu_ns),
        })
    }

    fn memory(&self) -> Result<Reading> {
        Reading::settled(self.pids[0], self.pids[1])
    }
}

fn is_ready(console: SocketAddr) -> Result<bool> {
    let mut socket = TcpStream::connect(console)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(
        socket,
        "GET /readyz HTTP/1.1\r\nHost: {console}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    socket.take(4096).read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

fn start(atoll: &Path, folder: &Path) -> Result<Start> {
    let atoll = Atoll::up(atoll, folder, "")?;
    Ok(Start {
        to_ready: atoll.to_ready,
        cpu: atoll.cpu,
        memory: atoll.memory()?,
    })
}

/// Opens so many connections, of which each asks once, and closes them again.
fn idle(atoll: &Path, folder: &Path, connections: usize, open_files: Option<u64>) -> Result<Idle> {
    let (_upstream, upstream) = upstream::start(None, folder)?;
    let settings = format!(
        "services:\n  upstream:\n    endpoints: [\"{upstream}\"]\nroutes:\n  /{{path*}}: upstream\n"
    );
    let atoll = Atoll::up(atoll, folder, &settings)?;
    let pid = atoll.process.pid();
    let gateway = listening(&folder.join("fleet"), pid, "gateway").context("the gateway")?;
    let before = atoll.memory()?;
    let files_before = procfs::open_files(pid)?;
    let mut clients = Vec::new();
    // Beyond that Atoll would leave them waiting, and no client could tell why.
    let limit = open_files.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(usize::MAX);
    let room = limit.saturating_sub(files_before + OTHER_FILES);
    let mut refused = (room < connections).then(|| format!("a process may open {limit} files"));
    let connections = connections.min(room);
    let per_client = CONNECTIONS_PER_CLIENT.min(limit.saturating_sub(OTHER_FILES));
    let mut opened = 0;
    while opened < connections {
        let wanted = (connections - opened).min(per_client);
        let mut client = Holder::start(gateway, wanted, clients.len())?;
        let told: Opened = client.hears()?;
        print(&format!("{} idle connections", opened + told.connections));
        opened += told.connections;
        clients.push(client);
        if told.refused.is_some() {
            refused = told.refused;
            break;
        }
    }
    let held = atoll.memory()?;
    let files_held = procfs::open_files(pid)?;
    ensure!(
        files_held >= files_before + opened,
        "Atoll has {files_held} files open, not one for each of {opened} connections"
    );
    let count = clients.len();
    let kept = clients
        .into_iter()
        .map(Holder::end)
        .sum::<Result<usize>>()?;
    ensure!(
        kept == opened,
        "of {opened} connections only {kept} were kept"
    );
    let asked = Instant::now();
    while procfs::open_files(pid)? + opened > files_held {
        ensure!(asked.elapsed() < PATIENCE, "Atoll keeps what is closed");
        std::thread::sleep(SETTLING);
    }
    Ok(Idle {
        opened,
        refused,
        clients: count,
        before,
        held,
        closed: atoll.memory()?,
    })
}

/// A client process that holds connections until it is told to end.
struct Holder {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Holder {
    fn start(gateway: SocketAddr, connections: usize, number: usize) -> Result<Self> {
        // 127.0.0.1 is left to the upstream and everybody else.
        let source = format!("127.0.0.{}", number + 2);
        let mut child = Command::new(own_path()?)
            .args(["hold", &gateway.to_string()])
            .args([connections.to_string(), source])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            stdin: child.stdin.take().context("its input")?,
            stdout: BufReader::new(child.stdout.take().context("its output")?),
            child,
        })
    }

    /// The next thing it says; what went wrong stands above, it said that itself.
    fn hears<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        serde_json::from_str(&line).context("a client failed")
    }

    /// How many connections were open to the end.
    fn end(mut self) -> Result<usize> {
        // The end of its input is the word.
        let (stdin, mut stdout) = (self.stdin, self.stdout);
        drop(stdin);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(self.child.wait()?.success(), "a client failed");
        let kept: Kept = serde_json::from_str(&line)?;
        Ok(kept.connections)
    }
}
