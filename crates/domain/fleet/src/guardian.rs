//! The guardian: a process of its own that ends the replicas when Atoll is killed.
//!
//! It holds the read end of a pipe that only Atoll writes to. Atoll tells it which
//! process groups there are; when the pipe ends, however that came about, it ends those
//! that are left and then itself. It has a process group of its own, so that the
//! terminal's Ctrl-C and hang-up do not reach it. No `PR_SET_PDEATHSIG`: that would need
//! unsafe code between fork and exec, is tied to the thread that forked, and does not
//! reach grandchildren.

use std::ffi::OsString;
use std::io::{self, BufRead};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::error::FleetError;
use crate::record::Record;

/// From SIGTERM to SIGKILL once Atoll is gone: enough to close a database, short
/// enough that the next `atoll up` is not kept waiting.
const GRACE: Duration = Duration::from_secs(3);

/// How the guardian is started: Atoll's own executable with the hidden subcommand
/// that calls [`guardian_main`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardianCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl GuardianCommand {
    pub(crate) fn spawn(&self) -> Result<Child, FleetError> {
        Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|source| FleetError::Guardian {
                program: self.program.clone(),
                source,
            })
    }
}

/// What the guardian does: reads Atoll's lines until the pipe ends, then ends what
/// is left. Call it with standard input, first thing in the hidden subcommand.
///
/// # Errors
/// When the pipe cannot be read; what was known until then is ended all the same.
pub fn guardian_main(mut lines: impl BufRead) -> io::Result<()> {
    let mut record = Record::default();
    let mut line = String::new();
    let ended = loop {
        line.clear();
        match lines.read_line(&mut line) {
            Ok(0) => break Ok(()),
            Ok(_) => record.read_line(line.trim_end()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    record.end(GRACE);
    ended
}
