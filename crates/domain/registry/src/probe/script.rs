//! Checks that run a program (Consul's `Args`), where that is allowed.
//!
//! A program gets no more of Atoll's environment than a search path, a process group of
//! its own, a time limit after which the group is killed, and room for the end of what it
//! says.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::Outcome;
use crate::record::OUTPUT_BYTES_MAX;

/// Programs that run at once: enough for what must be looked at from outside, few enough
/// for the machine that the services run on.
pub(super) const RUNNING_MAX: usize = 16;

/// Bytes that are kept of what a program says; the rest is for how many they were.
const HEARD_BYTES_MAX: usize = OUTPUT_BYTES_MAX - 96;

/// Reads of what a program that has ended left in the pipe: a pipe holds 64 KiB.
const LAST_READS_MAX: usize = 16;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kills a program with all that it started, unless it has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It is not waited for yet, so its number is still its own.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

/// Runs it to its end or to that of its time.
pub(super) async fn run(
    places: &Semaphore,
    args: &[String],
    timeout: Duration,
) -> (Outcome, String) {
    // Never closed. Whoever waits for a place has its time still before it.
    let _place = places.acquire().await;
    let (child, pipe) = match start(args) {
        Ok(started) => started,
        Err(error) => {
            let program = args.first().map_or("", |program| program);
            return (Outcome::Fail, format!("`{program}` cannot be run: {error}"));
        }
    };
    let mut heard = Heard::default();
    match tokio::time::timeout(timeout, wait(child, pipe, &mut heard)).await {
        Ok(Ok(status)) => (outcome(status), heard.told(status)),
        Ok(Err(error)) => (Outcome::Fail, format!("the program was lost: {error}")),
        // Consul's words.
        Err(_) => {
            let text = format!("Timed out ({}s) running check", timeout.as_secs_f64());
            (Outcome::Fail, text)
        }
    }
}

fn start(args: &[String]) -> io::Result<(Child, pipe::Receiver)> {
    let (program, rest) = (args.split_first()).ok_or(io::ErrorKind::InvalidInput)?;
    let (reader, writer) = io::pipe()?;
    let child = Command::new(program)
        .args(rest)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, pipe::Receiver::from_owned_fd(reader.into())?))
}

/// Listens until the program ends. What it left behind may hold the pipe open, so the end
/// of the pipe is not what counts.
async fn wait(
    mut child: Child,
    mut pipe: pipe::Receiver,
    heard: &mut Heard,
) -> io::Result<ExitStatus> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(id.and_then(Pid::from_raw));
    let mut room = [0; 4096];
    let status = loop {
        tokio::select! {
            biased;
            read = pipe.read(&mut room) => match read? {
                0 => break child.wait().await?,
                length => heard.hear(&room[..length]),
            },
            status = child.wait() => break status?,
        }
    };
    group.0 = None;
    for _ in 0..LAST_READS_MAX {
        match pipe.try_read(&mut room) {
            Ok(length @ 1..) => heard.hear(&room[..length]),
            Ok(0) | Err(_) => break,
        }
    }
    Ok(status)
}

fn outcome(status: ExitStatus) -> Outcome {
    match status.code() {
        Some(0) => Outcome::Pass,
        Some(1) => Outcome::Warn,
        _ => Outcome::Fail,
    }
}

/// The end of what a program said, which is where it says what went wrong.
#[derive(Default)]
struct Heard {
    end: Vec<u8>,
    bytes: u64,
}

impl Heard {
    fn hear(&mut self, said: &[u8]) {
        self.bytes += said.len() as u64;
        self.end.extend_from_slice(said);
        let over = self.end.len().saturating_sub(HEARD_BYTES_MAX);
        self.end.drain(..over);
    }

    fn told(&self, status: ExitStatus) -> String {
        let text = String::from_utf8_lossy(&self.end);
        let text = text.trim_end();
        let (kept, all) = (self.end.len(), self.bytes);
        if text.is_empty() {
            status.to_string()
        } else if all > kept as u64 {
            // Consul's words.
            format!("Captured {kept} of {all} bytes\n...\n{text}")
        } else {
            text.to_owned()
        }
    }
}
