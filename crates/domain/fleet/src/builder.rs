//! Runs a service's build: once, before its replicas, in a process group of its own.
//!
//! Builds run one after another, in the order of dependencies: the usual one is cargo,
//! which locks its target folder anyway and uses every core, and one build's output is
//! readable where three interleaved are not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atoll_model::{InstanceId, ServiceName};
use rustix::process::Signal;
use tokio::sync::watch;

use crate::context::Context;
use crate::output::Output;
use crate::process::{Process, Start};
use crate::status::{BuildFailure, Exit};
use crate::workload::{CommandLine, Workload};

/// Lines of a failed build that are shown: an error of rustc with its notes.
const LAST_LINES: usize = 40;
/// Kept of a build's output.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// From SIGTERM to SIGKILL for a build that is not wanted any more.
const GRACE: Duration = Duration::from_secs(2);
/// How often a running build shows its last line.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How a build ended.
#[derive(Debug)]
pub(crate) enum Built {
    Done { took: Duration },
    Failed(BuildFailure),
    Cancelled,
}

/// A build that runs.
pub(crate) struct Building {
    pub(crate) service: ServiceName,
    pub(crate) since: SystemTime,
    cancel: watch::Sender<bool>,
    output: Arc<Output>,
}

impl Building {
    /// Starts the build of `workload` by `command`; `done` is called with the result.
    pub(crate) fn start(
        context: &Arc<Context>,
        workload: Workload,
        command: CommandLine,
        done: impl FnOnce(Built) + Send + 'static,
    ) -> Self {
        let (cancel, cancelled) = watch::channel(false);
        let service = workload.service.clone();
        let output = context.output(&service, &source(&service));
        let building = Self {
            service: service.clone(),
            since: context.clock().wall(),
            cancel,
            output: Arc::clone(&output),
        };
        let run = Run {
            context: Arc::clone(context),
            workload,
            command,
            output,
            cancelled,
        };
        drop(context.tasks.once(&format!("build.{service}"), async move {
            let context = Arc::clone(&run.context);
            done(run.run().await);
            context.changed.notify_one();
        }));
        building
    }

    /// Ends it; its result will be [`Built::Cancelled`].
    pub(crate) fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// The last line that it printed.
    pub(crate) fn last_line(&self) -> String {
        let last = self.output.last(1);
        last.first()
            .map(|line| line.text.to_string())
            .unwrap_or_default()
    }
}

/// The name under which a build's output is kept: `users.build`.
fn source(service: &ServiceName) -> InstanceId {
    let name = format!("{service}.build");
    #[expect(
        clippy::expect_used,
        reason = "a service name is an instance id, and shorter"
    )]
    name.parse()
        .expect("a service name with a suffix is an instance id")
}

struct Run {
    context: Arc<Context>,
    workload: Workload,
    command: CommandLine,
    output: Arc<Output>,
    cancelled: watch::Receiver<bool>,
}

impl Run {
    async fn run(mut self) -> Built {
        let began = self.context.clock().now();
        let mut environment = self.context.environment(&self.workload);
        for (name, value) in &self.context.build_environment {
            let unset = || value.clone();
            environment.entry(name.clone()).or_insert_with(unset);
        }
        let start = Start {
            command: &self.command,
            working_dir: &self.workload.working_dir,
            environment: &environment,
        };
        let (process, stdout, stderr) = match Process::start(&start, &self.context.ledger) {
            Ok(started) => started,
            Err(error) => return self.failed(Exit::NotStarted(error.to_string())),
        };
        let (close, closing) = watch::channel(false);
        let output = Arc::clone(&self.output);
        let read = output.read(stdout, stderr, LOG_BYTES_MAX, closing);
        let context = Arc::clone(&self.context);
        let end = async {
            let end = self.end(process).await;
            close.send_replace(true);
            end
        };
        let progress = async {
            loop {
                tokio::time::sleep(PROGRESS_EVERY).await;
                context.changed.notify_one();
            }
        };
        let both = futures_util::future::join(Box::pin(read), Box::pin(end));
        let exit = tokio::select! {
            ((), exit) = both => exit,
            () = progress => return Built::Cancelled, // it has no end
        };
        match exit {
            None => Built::Cancelled,
            Some(exit) if exit.is_success() => Built::Done {
                took: self.context.clock().now().saturating_duration_since(began),
            },
            Some(exit) => self.failed(exit),
        }
    }

    /// Waits for the end; `None` when it was cancelled.
    async fn end(&mut self, mut process: Process) -> Option<Exit> {
        let exit = tokio::select! {
            exit = process.ended() => Some(exit),
            () = cancelled(&mut self.cancelled) => None,
        };
        if exit.is_none() {
            process.signal(Signal::TERM);
            if tokio::time::timeout(GRACE, process.ended()).await.is_err() {
                process.signal(Signal::KILL);
                process.ended().await;
            }
        }
        // A build leaves nobody behind either.
        process.clear();
        exit
    }

    fn failed(&self, exit: Exit) -> Built {
        Built::Failed(BuildFailure {
            command: self.command.to_string(),
            working_dir: self.workload.working_dir.clone(),
            exit,
            log: PathBuf::from(self.output.path()),
            last_lines: self.output.last(LAST_LINES),
        })
    }
}

/// Resolves once the build is not wanted, or nobody is left to want it.
async fn cancelled(cancelled: &mut watch::Receiver<bool>) {
    drop(cancelled.wait_for(|cancelled| *cancelled).await);
}
