//! What can go wrong before a replica is anybody's business.

use std::io;
use std::path::PathBuf;

use atoll_model::ServiceName;

/// Why the fleet refused, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Another Atoll runs the replicas of this folder.
    #[error(
        "another Atoll is running with `{}`; stop it first, or choose another folder with --data-dir",
        data_dir.display()
    )]
    InUse {
        /// The folder.
        data_dir: PathBuf,
    },
    /// The list of replicas cannot be kept.
    #[error("cannot write `{}`", path.display())]
    State {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process that ends the replicas if Atoll is killed cannot be started.
    #[error("cannot start the guardian `{}`", program.display())]
    Guardian {
        /// What was to be run.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system's signals cannot be listened to.
    #[error("cannot learn of the end of processes")]
    Signals(#[source] io::Error),
    /// Two workloads have one name.
    #[error("service `{service}` is given twice")]
    Duplicate {
        /// The name.
        service: ServiceName,
    },
    /// Several replicas cannot listen on one port.
    #[error(
        "service `{service}`: {replicas} replicas cannot share the fixed port {port}; remove `port` or run one replica"
    )]
    FixedPort {
        /// The service.
        service: ServiceName,
        /// Replicas asked for.
        replicas: u32,
        /// The port.
        port: u16,
    },
    /// No such service is run here.
    #[error("no service named `{service}` is run by this fleet")]
    UnknownService {
        /// The name given.
        service: ServiceName,
    },
    /// The fleet was told to stop.
    #[error("the fleet is stopping")]
    Stopping,
}
