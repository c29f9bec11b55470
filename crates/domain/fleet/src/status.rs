//! What the fleet shows of itself: services, builds, replicas.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use atoll_model::{InstanceId, ServiceName};

use crate::output::LogLine;
use crate::workload::Condition;

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetStatus {
    /// Each service, those being removed included until they are gone.
    pub services: BTreeMap<ServiceName, ServiceStatus>,
    /// The fleet was told to stop.
    pub stopping: bool,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Replicas wanted.
    pub replicas_wanted: u32,
    /// Its build.
    pub build: BuildState,
    /// The newest description is being built, or replicas of an earlier one are there.
    pub updating: bool,
    /// It was taken from the description and is being stopped.
    pub removed: bool,
    /// Its replicas, by number.
    pub replicas: Vec<ReplicaStatus>,
}

impl ServiceStatus {
    /// Replicas that take requests now.
    pub fn ready(&self) -> usize {
        self.replicas
            .iter()
            .filter(|replica| matches!(replica.state, ReplicaState::Running))
            .count()
    }
}

/// How far a service's build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildState {
    /// Nothing to build.
    None,
    /// Another build goes first.
    Queued,
    /// It runs.
    Running {
        /// Since when.
        since: SystemTime,
        /// Its last line of output; empty before the first.
        last_line: String,
    },
    /// It succeeded.
    Done {
        /// In this time.
        took: Duration,
    },
    /// It failed; replicas of an earlier build go on.
    Failed(BuildFailure),
}

/// What a person needs to mend a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildFailure {
    /// The command, as written.
    pub command: String,
    /// Where it ran.
    pub working_dir: PathBuf,
    /// How it ended.
    pub exit: Exit,
    /// All of its output.
    pub log: PathBuf,
    /// The last lines of it.
    pub last_lines: Vec<LogLine>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// `users-1`.
    pub id: InstanceId,
    /// Counts the descriptions of the service that led to new processes, from 1.
    pub generation: u64,
    /// What it does.
    pub state: ReplicaState,
    /// Its process; `None` while there is none.
    pub pid: Option<u32>,
    /// Where it listens; `None` while there is no process.
    pub port: Option<u16>,
    /// Starts after an end.
    pub restarts: u32,
    /// It ended 5 times or more and was never healthy for a minute in between.
    pub crash_looping: bool,
    /// When its process was started.
    pub started_at: Option<SystemTime>,
    /// How it ended last, unless it never did.
    pub last_exit: Option<LastExit>,
    /// The last lines that it printed, as of the last change of state.
    pub last_lines: Vec<LogLine>,
}

/// An end and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastExit {
    /// How.
    pub exit: Exit,
    /// When.
    pub at: SystemTime,
}

/// What a replica does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Others must have reached their condition first.
    Waiting {
        /// Those that have not.
        on: Vec<(ServiceName, Condition)>,
    },
    /// Its process runs and has not taken requests yet.
    Starting,
    /// Its process runs and takes requests.
    Running,
    /// Its process runs and takes requests no longer: its check fails.
    Unhealthy,
    /// It ended and will be started again.
    BackingOff {
        /// When.
        until: Instant,
    },
    /// It gets no new requests and finishes those that it has.
    Draining,
    /// It was told to end.
    Stopping,
    /// It ended and will not be started again.
    Exited,
    /// It was stopped.
    Stopped,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be started; why.
    NotStarted(String),
    /// It is gone; how is not known.
    Unknown,
}

impl Exit {
    /// With status 0.
    pub fn is_success(&self) -> bool {
        *self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "ended by signal {signal} ({name})"),
                None => write!(f, "ended by signal {signal}"),
            },
            Self::NotStarted(why) => write!(f, "could not be started: {why}"),
            Self::Unknown => f.write_str("ended in an unknown way"),
        }
    }
}

/// The signals that end processes in practice; numbers are those that all systems
/// share (POSIX, `kill`).
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// What became of the replicas when the fleet stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each replica that was there, in the order of their end.
    pub replicas: Vec<Stopped>,
    /// Processes that had left their group and were ended at last.
    pub strays: usize,
    /// How long it all took.
    pub took: Duration,
}

/// How one replica was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Its service.
    pub service: ServiceName,
    /// Which.
    pub id: InstanceId,
    /// How its process ended; `None` when there was none.
    pub exit: Option<Exit>,
    /// It did not end within its grace and was killed.
    pub killed: bool,
    /// Requests may have been cut: they took longer than the drain.
    pub drain_expired: bool,
}
