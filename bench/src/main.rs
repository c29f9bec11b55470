//! `atoll-bench gateway` measures Atoll's gateway beside nginx, HAProxy and Envoy
//! on this machine, and writes down what it found.
//!
//! The figure is the CPU time of the proxy for one request, paired with nginx's in
//! the same round, and never claimed below what two equal nginx differ by. Start
//! with `gateway.rs`, which tells the whole run; `load.rs` and `upstream.rs` are the
//! two ends of the wire, run as processes of their own from this same binary.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement stands outside Atoll: real clocks and processes are the point"
)]

mod check;
mod contender;
mod gateway;
mod load;
mod machine;
mod poll;
mod process;
mod procfs;
mod report;
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
    /// The load client; started by `gateway`
    #[command(hide = true)]
    Load(load::Job),
    /// The upstream; started by `gateway`
    #[command(hide = true)]
    Upstream {
        /// Where to listen
        listen: SocketAddr,
    },
    /// Becomes a command that is bound to one core and ends with its parent
    #[command(hide = true)]
    Pinned {
        core: usize,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Gateway(options) => gateway::run(&options),
        Command::Load(job) => load::run(&job),
        Command::Upstream { listen } => upstream::run(listen),
        Command::Pinned { core, command } => process::become_pinned(core, &command),
    }
}
