//! What is to run: the desired state of one service, already checked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use atoll_model::{Check, ServiceName};

/// A service that Atoll runs as processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name in the catalogue.
    pub service: ServiceName,
    /// Run to its end before the first replica starts; once for all replicas.
    pub build: Option<CommandLine>,
    /// What each replica runs; gets `PORT` and `ATOLL_SERVICE`, `ATOLL_INSTANCE`.
    pub command: CommandLine,
    /// Where both run.
    pub working_dir: PathBuf,
    /// All that they are given beside `PATH`, `HOME`, `LANG`, `TZ` and `PORT`.
    pub environment: BTreeMap<String, String>,
    /// How many copies.
    pub replicas: u32,
    /// A fixed port for a single replica; `None` picks a free one for each start.
    pub port: Option<u16>,
    /// Services that must have reached a condition first.
    pub depends_on: BTreeMap<ServiceName, Condition>,
    /// When a replica that ended is started again.
    pub restart: RestartPolicy,
    /// How the registry learns that a replica is fit.
    pub check: Check,
    /// Longest wait for requests in flight before a replica is told to stop.
    /// Default 30 s.
    pub drain: Duration,
    /// From SIGTERM to SIGKILL (Compose's `stop_grace_period`). Default 10 s.
    pub stop_grace: Duration,
    /// Bytes of output kept for each replica, oldest lost first. Default 8 MiB.
    pub log_bytes_max: u64,
}

/// A command as Compose writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// Given to `/bin/sh -c`.
    Shell(String),
    /// Program and arguments, run as they are; `$PORT` in them is replaced.
    Exec(Vec<String>),
}

impl fmt::Display for CommandLine {
    /// As a person would type it; for messages, not for a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(script) => f.write_str(script),
            Self::Exec(words) => f.write_str(&words.join(" ")),
        }
    }
}

impl Workload {
    /// Whether a replica of `self` may go on as one of `other`: only how many there
    /// are and whom they wait for at their start differs.
    pub(crate) fn runs_as(&self, other: &Self) -> bool {
        let like = Self {
            build: other.build.clone(),
            replicas: other.replicas,
            depends_on: other.depends_on.clone(),
            ..self.clone()
        };
        like == *other
    }

    /// Whether what was built for `self` will do for `other`.
    pub(crate) fn builds_as(&self, other: &Self) -> bool {
        self.build == other.build
            && self.working_dir == other.working_dir
            && self.environment == other.environment
    }
}

/// What a dependency must have reached (Compose's `depends_on.condition`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its processes were started.
    Started,
    /// Every replica of it passes its check.
    Healthy,
    /// It ended with status 0.
    CompletedSuccessfully,
}

/// When a replica that ended is started again (Compose's `restart`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Always; the default, unlike Compose's `no`.
    Always,
    /// Only after a status other than 0, at most this often (`None`: no limit).
    OnFailure {
        /// Restarts allowed.
        restarts_max: Option<u32>,
    },
    /// Never.
    No,
}
