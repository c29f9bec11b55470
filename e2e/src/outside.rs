//! Processes that Atoll did not start: services that register themselves, and
//! commands that run until they are stopped. Dropped, they are gone.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use crate::{binary, eventually};

/// A process that a test started.
pub struct Running(Child);

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Its process id.
    ///
    /// # Panics
    /// Never: a process id fits.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id fits")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("the command ends", || self.0.try_wait().expect("wait"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The test service (`src/bin/e2e-service.rs`), run by the test itself.
pub struct Service {
    /// `host:port`.
    pub address: String,
    /// Held, so that the service can go on printing.
    _output: BufReader<ChildStdout>,
    _process: Running,
}

impl Service {
    /// Starts one on a free port; it answers `/whoami` with `name`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str) -> Self {
        let mut command = Command::new(binary("e2e-service"));
        command.env("PORT", "0").env("ATOLL_INSTANCE", name);
        let mut process = Running::start(command.stdout(Stdio::piped()));
        let mut output = BufReader::new(process.0.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its first line");
        let port = line.trim().strip_prefix("listening on ");
        Self {
            address: format!("127.0.0.1:{}", port.expect("listening on PORT")),
            _output: output,
            _process: process,
        }
    }
}
