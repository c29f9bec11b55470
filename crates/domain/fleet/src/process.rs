//! One process in a group of its own: started, waited for, signalled, reaped.
//!
//! Safe against reused process ids: the leader is waited for without being reaped
//! (`WNOWAIT`), so that its number, which is also that of the group, stays ours until
//! [`Process::clear`] has killed the rest of the group. After [`Process::reap_leader`]
//! the group is signalled only while it is known to have members, which keeps the number
//! taken. Dropped early, by a panic or the end of the runtime, it kills its group.
//!
//! No limits on memory or processor time yet: that takes cgroups, v1 and v2.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use crate::ledger::Ledger;
use crate::procfs;
use crate::record::group_exists;
use crate::status::Exit;
use crate::workload::CommandLine;

/// What to start.
pub(crate) struct Start<'a> {
    pub(crate) command: &'a CommandLine,
    pub(crate) working_dir: &'a Path,
    /// All of it; nothing is inherited.
    pub(crate) environment: &'a BTreeMap<String, String>,
}

/// A process that was started and its group.
pub(crate) struct Process {
    child: Child,
    group: Pid,
    ledger: Arc<Ledger>,
    /// SIGCHLD, taken before the start so that no end is missed.
    ends: SignalStream,
    leader: Leader,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    /// Runs, or ended and holds its number.
    Held,
    Reaped,
    /// Nobody of the group is left.
    Cleared,
}

impl Process {
    /// Starts it and tells the ledger.
    pub(crate) fn start(
        start: &Start<'_>,
        ledger: &Arc<Ledger>,
    ) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let ends = signal(SignalKind::child())?;
        let mut command = command(start.command, start.environment);
        let mut child = command
            .env_clear()
            .envs(start.environment)
            .current_dir(start.working_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| explain(error, start))?;
        let id = child.id().cast_signed();
        ledger.add(id);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let process = Self {
            child,
            group: Pid::from_raw(id).ok_or(io::ErrorKind::Other)?,
            ledger: Arc::clone(ledger),
            ends,
            leader: Leader::Held,
        };
        let missing = || io::Error::other("the process has no output pipe");
        let stdout = ChildStdout::from_std(stdout.ok_or_else(missing)?)?;
        let stderr = ChildStderr::from_std(stderr.ok_or_else(missing)?)?;
        Ok((process, stdout, stderr))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the leader and leaves it unreaped. Pends for ever once it
    /// is reaped. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Exit {
        loop {
            if self.leader == Leader::Held
                && let Some(exit) = self.exit()
            {
                return exit;
            }
            self.ends.recv().await;
        }
    }

    fn exit(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.group), options) {
            Ok(None) => None,
            Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => return None, // stopped or continued: not asked for
            }),
            // Somebody else reaped it; only its being gone is known.
            Err(_) => Some(Exit::Unknown),
        }
    }

    /// Signals everybody in the group.
    pub(crate) fn signal(&self, signal: Signal) {
        let ours = match self.leader {
            Leader::Held => true,
            Leader::Reaped => self.others_remain(),
            Leader::Cleared => false,
        };
        if ours {
            // ESRCH: they ended meanwhile. EPERM: they changed their user, which
            // nobody without privileges can help.
            kill_process_group(self.group, signal).ok();
        }
    }

    /// Reaps the leader, which has ended, and leaves the rest of the group alone.
    pub(crate) fn reap_leader(&mut self) {
        if self.leader == Leader::Held {
            self.wait();
            self.leader = Leader::Reaped;
        }
        if !self.others_remain() {
            self.cleared();
        }
    }

    /// After [`Self::reap_leader`]: whether others of the group still run.
    pub(crate) fn others_remain(&self) -> bool {
        self.leader == Leader::Reaped
            && group_exists(self.group)
            // Zombies that their parent, perhaps a careless init, does not reap count
            // as members; look closer where that is possible.
            && (!procfs::IS_THERE || procfs::group_runs(self.group.as_raw_nonzero().get()))
    }

    /// Kills what is left of the group and reaps the leader, which has ended.
    pub(crate) fn clear(&mut self) {
        if self.leader == Leader::Cleared {
            return;
        }
        self.signal(Signal::KILL);
        if self.leader == Leader::Held {
            self.wait();
        }
        self.cleared();
    }

    fn wait(&mut self) {
        // It has ended: this does not block. It can only fail if somebody else
        // reaped it, and then it is done.
        drop(self.child.wait());
    }

    fn cleared(&mut self) {
        self.leader = Leader::Cleared;
        self.ledger.remove(self.group.as_raw_nonzero().get());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.leader != Leader::Cleared {
            self.signal(Signal::KILL);
            // Not waited for: a process in uninterruptible sleep would hang us. The
            // ledger keeps its line, so that the guardian looks after it.
            drop(self.child.try_wait());
        }
    }
}

fn command(line: &CommandLine, environment: &BTreeMap<String, String>) -> Command {
    match line {
        CommandLine::Shell(script) => {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(script);
            command
        }
        CommandLine::Exec(words) => {
            let port = environment.get("PORT").map_or("", String::as_str);
            let mut words = words.iter().map(|word| with_port(word, port));
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words);
            command
        }
    }
}

/// Replaces `$PORT` and `${PORT}`, but not the beginning of `$PORTS`.
fn with_port(word: &str, port: &str) -> String {
    let word = word.replace("${PORT}", port);
    let mut replaced = String::with_capacity(word.len());
    let mut rest = word.as_str();
    while let Some(at) = rest.find("$PORT") {
        let (before, after) = (&rest[..at], &rest[at + "$PORT".len()..]);
        replaced.push_str(before);
        let goes_on = after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        replaced.push_str(if goes_on { "$PORT" } else { port });
        rest = after;
    }
    replaced.push_str(rest);
    replaced
}

/// The system's `not found` does not say which of the two is missing.
fn explain(error: io::Error, start: &Start<'_>) -> io::Error {
    let folder = start.working_dir;
    let message = if !folder.is_dir() {
        format!(
            "the working directory `{}` does not exist",
            folder.display()
        )
    } else {
        match start.command {
            CommandLine::Shell(_) => format!("cannot run /bin/sh: {error}"),
            CommandLine::Exec(words) => {
                let program = words.first().map_or("", String::as_str);
                format!("cannot run `{program}`: {error}")
            }
        }
    };
    io::Error::new(error.kind(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_put_into_arguments_and_only_the_port() {
        let table = [
            ("--port=$PORT", "--port=80"),
            ("127.0.0.1:${PORT}/x", "127.0.0.1:80/x"),
            ("$PORT$PORT", "8080"),
            ("$PORTS ${PORT_A} $PORT_B", "$PORTS ${PORT_A} $PORT_B"),
            ("$HOME", "$HOME"),
        ];
        for (word, expected) in table {
            assert_eq!(with_port(word, "80"), expected);
        }
    }
}
