//! The whole measurement of the gateway, told in order: find the programs, and for
//! each workload start all contenders beside each other, check them, measure them in
//! turn, round by round, and stop them; then memory; then the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::contender::tools::Tools;
use crate::contender::{Contender, Running, Task};
use crate::load::Outcome;
use crate::page::print;
use crate::process::{own_path, pinned, raise_open_files, target_folder};
use crate::workload::Workload;
use crate::{check, page, report, upstream};

/// Connections at which memory is told, beside `--connections`.
const MANY_CONNECTIONS: usize = 2_000;

/// Before each measurement: connections are opened, caches filled.
const WARMUP_MS: u64 = 500;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only these workloads, as in `get200,h2c`
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Workload>,
    /// Beside these; nginx is always there, everything is told in relation to it
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "nginx,haproxy,envoy"
    )]
    peers: Vec<Contender>,
    /// How often each contender is measured in each workload
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rounds: u16,
    /// How long each measurement takes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Requests under way at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4000))]
    pub(crate) connections: u16,
    /// The core of the proxy, and that of the client and the upstream
    #[arg(long, value_delimiter = ',', num_args = 2, default_value = "0,1")]
    cores: Vec<usize>,
    /// This binary instead of building one
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// Leave out memory at 2,000 connections
    #[arg(long)]
    no_memory: bool,
    /// The page whose section is written
    #[arg(long, default_value = page::RESULTS)]
    report: PathBuf,
}

impl Options {
    fn workloads(&self) -> &[Workload] {
        if self.only.is_empty() {
            &Workload::ALL
        } else {
            &self.only
        }
    }

    /// In the order of the report; nginx, its twin and Atoll are always among them.
    fn contenders(&self) -> Vec<Contender> {
        let peers = [Contender::Haproxy, Contender::Envoy];
        let mut contenders = vec![Contender::Atoll, Contender::Nginx, Contender::NginxTwin];
        contenders.extend(peers.iter().filter(|peer| self.peers.contains(peer)));
        contenders
    }

    /// The arguments that make this run what it is; where files are does not.
    pub(crate) fn told(&self) -> Vec<String> {
        let names = |names: Vec<&str>| names.join(",");
        let mut told = vec![
            format!("--rounds {}", self.rounds),
            format!("--seconds {}", self.seconds),
            format!("--connections {}", self.connections),
            format!(
                "--peers {}",
                names(self.peers.iter().map(|peer| peer.name()).collect())
            ),
        ];
        if !self.only.is_empty() {
            let only = self.only.iter().map(|workload| workload.name());
            told.push(format!("--only {}", names(only.collect())));
        }
        if self.no_memory {
            told.push("--no-memory".to_owned());
        }
        told
    }

    fn proxy_core(&self) -> usize {
        self.cores[0]
    }

    fn client_core(&self) -> usize {
        self.cores[1]
    }
}

/// One measurement of one contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) workload: Workload,
    pub(crate) contender: Contender,
    pub(crate) round: u16,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

impl Run {
    /// The figure that all this is about.
    pub(crate) fn cpu_us_per_request(&self) -> f64 {
        self.outcome.proxy_cpu_ns as f64 / 1e3 / self.outcome.completed as f64
    }
}

/// All that was measured.
pub(crate) struct Findings {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) runs: Vec<Run>,
    /// Memory at so many connections.
    pub(crate) resident_bytes: BTreeMap<(Contender, usize), u64>,
    pub(crate) versions: Vec<(Contender, String)>,
    /// How each was told what to do, in the first workload with few routes.
    pub(crate) settings: BTreeMap<Contender, String>,
    /// What the reader has to know beside.
    pub(crate) notes: Vec<String>,
}

/// Measures, prints and writes the report.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        options.proxy_core() != options.client_core(),
        "--cores: the proxy needs a core of its own"
    );
    let target = target_folder()?;
    let mut peers = options.peers.clone();
    peers.push(Contender::Nginx);
    let tools = Tools::find(&peers, options.atoll.as_deref(), &target)?;
    // Two thousand connections take four thousand files of a proxy.
    raise_open_files()?;
    let mut notes = Vec::new();
    if !rustix::process::geteuid().is_root() {
        notes.push("run with normal priority: only root may raise it".to_owned());
    }
    let folder = target.join("bench/gateway");
    fs::create_dir_all(&folder)?;
    let mut bench = Bench {
        options,
        tools: &tools,
        folder: &folder,
        findings: Findings {
            workloads: options.workloads().to_vec(),
            contenders: options.contenders(),
            runs: Vec::new(),
            resident_bytes: BTreeMap::new(),
            versions: tools.versions.clone(),
            settings: BTreeMap::new(),
            notes,
        },
    };
    for workload in options.workloads() {
        bench.measure(*workload)?;
    }
    if !options.no_memory {
        bench.measure_memory()?;
    }
    let findings = bench.findings;
    let raw = serde_json::to_string(&findings.runs)?;
    fs::write(folder.join("runs.json"), raw)?;
    let text = report::report(options, &findings)?;
    page::publish(&options.report, "gateway", &text)
}

struct Bench<'a> {
    options: &'a Options,
    tools: &'a Tools,
    folder: &'a Path,
    findings: Findings,
}

impl Bench<'_> {
    /// All rounds of one workload.
    fn measure(&mut self, workload: Workload) -> Result<()> {
        let (upstream_process, upstream) =
            upstream::start(Some(self.options.client_core()), self.folder)?;
        let connections = usize::from(self.options.connections);
        let task = Task {
            tools: self.tools,
            folder: self.folder,
            core: self.options.proxy_core(),
            upstream,
            workload,
            connections,
        };
        let mut running = Vec::new();
        for contender in self.findings.contenders.clone() {
            let started = contender.start(&task)?;
            check::passes(contender, started.address, workload)?;
            if workload.routes() == 1 {
                let settings = &mut self.findings.settings;
                settings
                    .entry(contender)
                    .or_insert_with(|| started.settings.clone());
            }
            running.push((contender, started));
        }
        for round in 0..self.options.rounds {
            // Nobody has the same predecessor's warmth, or place, twice in a row.
            running.rotate_left(1);
            if round % 2 == 1 {
                running.reverse();
            }
            for (contender, started) in &running {
                let outcome = self
                    .load(workload, started, connections, upstream_process.pid())
                    .with_context(|| format!("{} in {}", contender.name(), workload.name()))?;
                let run = Run {
                    workload,
                    contender: *contender,
                    round,
                    outcome,
                };
                let memory = &mut self.findings.resident_bytes;
                if workload == Workload::Get200 {
                    memory.insert((*contender, connections), run.outcome.resident_bytes);
                }
                print(&report::progress(&run));
                self.findings.runs.push(run);
            }
        }
        Ok(())
    }

    /// Memory with many connections at work; the CPU is not compared there.
    fn measure_memory(&mut self) -> Result<()> {
        for contender in self.findings.contenders.clone() {
            for connections in [usize::from(self.options.connections), MANY_CONNECTIONS] {
                let (upstream_process, upstream) =
                    upstream::start(Some(self.options.client_core()), self.folder)?;
                let task = Task {
                    tools: self.tools,
                    folder: self.folder,
                    core: self.options.proxy_core(),
                    upstream,
                    workload: Workload::Get200,
                    connections,
                };
                let started = contender.start(&task)?;
                let outcome = self
                    .load(
                        Workload::Get200,
                        &started,
                        connections,
                        upstream_process.pid(),
                    )
                    .with_context(|| format!("{} at {connections}", contender.name()))?;
                let memory = &mut self.findings.resident_bytes;
                memory.insert((contender, connections), outcome.resident_bytes);
            }
        }
        Ok(())
    }

    /// One measurement, in a client process of its own.
    fn load(
        &self,
        workload: Workload,
        started: &Running,
        connections: usize,
        upstream: u32,
    ) -> Result<Outcome> {
        let (proxy_core, client_core) = (self.options.proxy_core(), self.options.client_core());
        let command = [
            own_path()?,
            "load".to_owned(),
            started.address.to_string(),
            workload.name().to_owned(),
            connections.to_string(),
            WARMUP_MS.to_string(),
            (self.options.seconds * 1000).to_string(),
            started.process.pid().to_string(),
            upstream.to_string(),
            proxy_core.to_string(),
            client_core.to_string(),
        ];
        let output = pinned(Some(client_core), &command)?.output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).context("the client's words")
    }
}
