//! Runs services as processes: from what is wanted to what is.
//!
//! [`Fleet`] takes the desired state and closes the gap: it builds, starts, restarts,
//! replaces, drains and stops. It owns its processes and their groups, their ports and
//! their output; it knows the registry and the gateway only by the two traits in
//! [`ports`]. It does not check health (the registry does), does not route, and sets no
//! limits on memory or processor time yet (cgroups are to come).
//!
//! The decisions are pure: `supervisor` for one replica, `plan` for one service. Around
//! them are `replica` (one task each), `controller` (one task), `builder`. Nothing
//! outlives us: `guardian` and `ledger`.

mod builder;
mod context;
mod controller;
mod error;
mod fleet;
mod guardian;
mod ledger;
mod logfile;
mod orphans;
mod output;
mod plan;
mod port;
pub mod ports;
mod process;
mod procfs;
mod record;
mod replica;
mod service;
mod status;
mod supervisor;
pub mod workload;

pub use error::FleetError;
pub use fleet::{Fleet, FleetSettings};
pub use guardian::{GuardianCommand, guardian_main};
pub use output::{Followed, Follower, LINE_BYTES_MAX, LogLine, LogStream};
pub use status::{
    BuildFailure, BuildState, Exit, FleetStatus, LastExit, ReplicaState, ReplicaStatus, Report,
    ServiceStatus, Stopped,
};
