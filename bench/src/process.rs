//! Processes that this one starts: bound to a core if wanted, logged to a file, gone
//! with us.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{
    Pid, Resource, Signal, getrlimit, kill_process, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{CpuSet, sched_setaffinity};

/// For a process to come up, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a process that comes up: how long one took is told to the
/// millisecond.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A process that is stopped when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command, on this core if one is given; what it prints goes to `NAME.log` in `folder`.
    pub(crate) fn start(
        name: &str,
        core: Option<usize>,
        folder: &Path,
        command: &[String],
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = pinned(core, command)?
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` gives something; fails when the process ends before.
    pub(crate) fn wait_for<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || started.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{} did not come up; it printed:\n{log}", self.name);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        // Gone already is as good; then dropping it has nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Waits until somebody listens at `address`.
    pub(crate) fn wait_for_listener(&mut self, address: SocketAddr) -> Result<()> {
        self.wait_for(|| TcpStream::connect(address).ok()).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its number may be somebody else's by now.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // Gone already is as good.
            kill_process(pid, Signal::TERM).ok();
        }
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A command that will run on this core, or on any.
pub(crate) fn pinned(core: Option<usize>, command: &[String]) -> Result<Command> {
    let mut pinned = Command::new(std::env::current_exe()?);
    pinned.arg("pinned");
    if let Some(core) = core {
        pinned.arg("--core").arg(core.to_string());
    }
    pinned.arg("--").args(command);
    Ok(pinned)
}

/// The other half of [`pinned`]: binds this process to the core and replaces it by the
/// command, which inherits that, the wish to end with its parent, and the priority.
pub(crate) fn become_pinned(core: Option<usize>, command: &[String]) -> Result<()> {
    if let Some(core) = core {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores).with_context(|| format!("bind to core {core}"))?;
    }
    set_parent_process_death_signal(Some(Signal::TERM))?;
    raise_priority();
    let (program, arguments) = command.split_first().context("a command")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("run {program}"))
}

/// How much is asked for; see nice(2).
const NICE: i32 = -10;

/// So that others on this machine disturb less. Only root may, and it is no loss
/// without: all contenders are treated alike, and the report tells how much others
/// worked.
fn raise_priority() {
    rustix::process::nice(NICE).ok();
    // With autogroups the kernel shares out between sessions first (sched(7)).
    rustix::process::setsid().ok();
    std::fs::write("/proc/self/autogroup", NICE.to_string()).ok();
}

/// A loopback address that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// This program, to be started as one of its own helpers.
pub(crate) fn own_path() -> Result<String> {
    Ok(std::env::current_exe()?.display().to_string())
}

/// Cargo's folder for what is built: this binary is in `TARGET/PROFILE`.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("the target folder")?;
    Ok(target.to_owned())
}

/// Lets this process, and those it starts, open as many files as the machine allows;
/// says how many that is, `None` being without limit.
pub(crate) fn raise_open_files() -> Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let allowed = limit.current;
    setrlimit(Resource::Nofile, limit).context("raise the number of open files")?;
    Ok(allowed)
}
