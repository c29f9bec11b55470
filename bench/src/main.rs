//! Measures Atoll on this machine, and writes down what it found: each command its own
//! section of `results.md`.
//!
//! `gateway` measures Atoll's gateway beside nginx, HAProxy and Envoy. The figure is the CPU time of the proxy for one request, paired with nginx's in
//! the same round, and never claimed below what two equal nginx differ by. Start
//! with `gateway.rs`, which tells the whole run; `load.rs` and `upstream.rs` are the
//! two ends of the wire, run as processes of their own from this same binary.
//! `footprint` measures the start, the memory and the size of the binary: `footprint.rs`.
//! `registry` measures what the registry can do: `registry.rs`.
//! `soak` lets instances come and go for long and kills Atoll meanwhile: `soak.rs`.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement stands outside Atoll: real clocks and processes are the point"
)]

mod check;
mod contender;
mod footprint;
mod gateway;
mod hold;
mod http;
mod load;
mod machine;
mod page;
mod poll;
mod process;
mod procfs;
mod registry;
mod report;
mod soak;
mod speak;
mod statistics;
mod upstream;
mod workload;

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures Atoll beside its peers", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// CPU and memory of the gateway beside nginx, HAProxy and Envoy
    Gateway(gateway::Options),
    /// Start, memory and size of `atoll`
    Footprint(footprint::Options),
    /// Rates, reach and weight of the registry
    Registry(registry::Options),
    /// Churn, disconnects and kills for a long time, checked against a model
    Soak(soak::Options),
    /// The load client; started by `gateway`
    #[command(hide = true)]
    Load(load::Job),
    /// The upstream; started by the others
    #[command(hide = true)]
    Upstream {
        /// Where to listen
        listen: SocketAddr,
    },
    /// Opens connections and keeps them; started by `footprint`
    #[command(hide = true)]
    Hold(hold::Job),
    /// Becomes a command that ends with its parent, on one core if one is given
    #[command(hide = true)]
    Pinned {
        #[arg(long)]
        core: Option<usize>,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Gateway(options) => gateway::run(&options),
        Command::Footprint(options) => footprint::run(&options),
        Command::Registry(options) => registry::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Hold(job) => hold::run(&job),
        Command::Load(job) => load::run(&job),
        Command::Upstream { listen } => upstream::run(listen),
        Command::Pinned { core, command } => process::become_pinned(core, &command),
    }
}
