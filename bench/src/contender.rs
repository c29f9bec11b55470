//! Those who are measured: how each is found, configured and started.
//!
//! All get the same task: one upstream, kept connections, `Host` as it came,
//! `X-Forwarded-For` and `X-Forwarded-Proto` added, no access log. Beyond that each
//! runs with its defaults, made cheaper where its manual says how (`nginx.rs` and its
//! siblings say what and why), and Atoll with nothing switched off.

pub(crate) mod atoll;
mod envoy;
mod haproxy;
mod nginx;
pub(crate) mod tools;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use self::tools::Tools;
use crate::process::Process;
use crate::workload::Workload;

/// One of those who are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    Nginx,
    /// The control: nginx once more, with the same file
    #[value(skip)]
    NginxTwin,
    Haproxy,
    Envoy,
    #[value(skip)]
    Atoll,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::NginxTwin => "nginx-twin",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Atoll => "atoll",
        }
    }

    /// Starts it, with its files in a folder of its own, and waits until it listens.
    pub(crate) fn start(self, task: &Task<'_>) -> Result<Running> {
        let folder = task.folder.join(self.name());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        match self {
            Self::Nginx | Self::NginxTwin => nginx::start(self.name(), &folder, task),
            Self::Haproxy => haproxy::start(&folder, task),
            Self::Envoy => envoy::start(&folder, task),
            Self::Atoll => atoll::start(&folder, task),
        }
    }
}

/// What a contender has to do.
pub(crate) struct Task<'a> {
    pub(crate) tools: &'a Tools,
    /// For files of the run.
    pub(crate) folder: &'a Path,
    pub(crate) core: usize,
    pub(crate) upstream: SocketAddr,
    pub(crate) workload: Workload,
    /// How many clients will come at once.
    pub(crate) connections: usize,
}

/// A contender that listens.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    /// How it was told, for the report.
    pub(crate) settings: String,
}
