//! A world for end-to-end tests: a folder with an `atoll.yaml`, the `atoll` binary
//! as its users have it, and plain sockets to talk to it.
//!
//! It waits on conditions ([`eventually`]) and never sleeps for luck; whatever it
//! started is gone when it is dropped. Look next at `tests/`.

#![expect(
    clippy::disallowed_methods,
    reason = "these tests stand outside Atoll: real clocks, threads and processes are the point"
)]

pub mod etcd;
pub mod http;
pub mod load;
pub mod outside;
pub mod shop;
pub mod spring;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a condition may take before a test gives up on it. Generous: it bounds
/// a hang, it does not measure.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with an `atoll.yaml`, and perhaps an Atoll running in it.
pub struct World {
    folder: tempfile::TempDir,
    atoll: Option<Child>,
}

/// Waits until `condition` gives something.
///
/// # Panics
/// When it has not by the time that any healthy machine would have.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A binary of this workspace, from the folder that this test was built into.
///
/// # Panics
/// When it was not built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("tests stand in PROFILE/deps");
    let path = profile.join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build -p atoll -p atoll-bench -p shop-users -p shop-products -p atoll-e2e",
        path.display()
    );
    path
}

/// The test service (`src/bin/e2e-service.rs`) as a shell command.
pub fn service_command() -> String {
    binary("e2e-service").display().to_string()
}

impl World {
    /// A folder of its own with this `atoll.yaml`. Listeners are put on free ports
    /// unless the text has a `listen:` key of its own.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn new(yaml: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("atoll-e2e-")
            .tempdir()
            .expect("a temporary folder");
        let world = Self {
            folder,
            atoll: None,
        };
        world.write(yaml);
        world
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces `atoll.yaml` as an editor does: a new file, moved over the old one.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn write(&self, yaml: &str) {
        let new = self.path().join(".atoll.yaml.new");
        fs::write(&new, listening(yaml)).expect("write atoll.yaml");
        fs::rename(&new, self.path().join("atoll.yaml")).expect("move atoll.yaml");
    }

    /// Replaces what stands in `atoll.yaml`, as `>` does in a shell.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn overwrite(&self, yaml: &str) {
        fs::write(self.path().join("atoll.yaml"), listening(yaml)).expect("write atoll.yaml");
    }

    /// Runs `atoll` here to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_in(self.path(), arguments)
    }

    /// Runs `atoll` to its end in another folder than this world's.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run_in(&self, folder: &Path, arguments: &[&str]) -> Output {
        Command::new(binary("atoll"))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .expect("start atoll")
    }

    /// Starts `atoll` here, its standard output into a file beside `atoll.yaml`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, arguments: &[&str], output: &str) -> outside::Running {
        let output = fs::File::create(self.path().join(output)).expect("a file for the output");
        let mut command = Command::new(binary("atoll"));
        command.args(arguments).current_dir(self.path());
        outside::Running::start(command.stdout(output))
    }

    /// Runs `atoll` here to its end and reads its standard output as JSON.
    ///
    /// # Panics
    /// When it fails or prints anything else.
    pub fn run_json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            describe(&output)
        );
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// Starts `atoll up` and waits until its gateway and admin API listen.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn up(&mut self) -> &mut Self {
        assert!(self.atoll.is_none(), "it runs already");
        let log = fs::File::create(self.path().join("up.log")).expect("up.log");
        let child = Command::new(binary("atoll"))
            .args(["up", "."])
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("up.log twice"))
            .stderr(log)
            .spawn()
            .expect("start atoll up");
        let pid = child.id();
        self.atoll = Some(child);
        eventually("atoll answers on its console", || {
            self.assert_running();
            let run = self.run_file()?;
            (run["pid"].as_u64() == Some(u64::from(pid))).then_some(())?;
            http::get(run["console"].as_str()?, "/healthz").ok()
        });
        self
    }

    /// What the admin API says at this path.
    ///
    /// # Panics
    /// When it does not answer with 200 and JSON.
    pub fn api(&self, path: &str) -> Value {
        let answer = http::get(&self.console(), &format!("/api/v1/{path}"))
            .unwrap_or_else(|error| panic!("GET /api/v1/{path}: {error}"));
        assert_eq!(answer.status, 200, "/api/v1/{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    /// Sends JSON to the admin API.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn tell(&self, method: &str, path: &str, body: &Value) -> http::Answer {
        let text = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let path = format!("/api/v1/{path}");
        let headers = [("Content-Type", "application/json")];
        http::request(&self.console(), method, &path, &headers, text.as_bytes())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Waits until every instance of `service` passes and there are `count`.
    ///
    /// # Panics
    /// When Atoll ends meanwhile, or it never comes to that.
    pub fn wait_passing(&self, service: &str, count: usize) {
        eventually(&format!("{count} instances of {service} pass"), || {
            self.assert_running();
            let instances = self.instances(service);
            let passing = instances
                .iter()
                .filter(|i| i["health"] == "passing")
                .count();
            (passing == count && instances.len() == count).then_some(())
        });
    }

    /// The instances of `service` as the admin API shows them; empty if unknown.
    pub fn instances(&self, service: &str) -> Vec<Value> {
        let answer = http::get(&self.console(), &format!("/api/v1/services/{service}"));
        let Ok(answer) = answer else {
            return Vec::new();
        };
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        body["instances"].as_array().cloned().unwrap_or_default()
    }

    /// Process ids of the replicas of `service`.
    pub fn pids(&self, service: &str) -> Vec<i32> {
        let instances = self.instances(service);
        let pids = instances.iter().filter_map(|i| i["pid"].as_i64());
        pids.filter_map(|pid| i32::try_from(pid).ok()).collect()
    }

    /// `host:port` of the gateway.
    ///
    /// # Panics
    /// When Atoll does not run.
    pub fn gateway(&self) -> String {
        self.listener("gateway")
    }

    /// Where Consul's API listens.
    ///
    /// # Panics
    /// When it does not run.
    pub fn consul(&self) -> String {
        self.listener("consul")
    }

    /// `host:port` of the admin API.
    ///
    /// # Panics
    /// When Atoll does not run.
    pub fn console(&self) -> String {
        self.listener("console")
    }

    /// GET through the gateway.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn get(&self, path: &str) -> http::Answer {
        http::get(&self.gateway(), path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// What `atoll up` printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.path().join("up.log")).unwrap_or_default()
    }

    /// The process id of `atoll up`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> i32 {
        let child = self.atoll.as_ref().expect("atoll runs");
        i32::try_from(child.id()).expect("a process id fits")
    }

    /// Sends a signal to `atoll up` itself.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits for `atoll up` to end.
    ///
    /// # Panics
    /// When it does not.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.atoll.take().expect("atoll runs");
        eventually("atoll up ends", || child.try_wait().expect("wait"))
    }

    /// Ctrl-C, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.ended()
    }

    fn run_file(&self) -> Option<Value> {
        let text = fs::read(self.path().join(".atoll/run.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// `host:port` of a listener by its key in the file.
    ///
    /// # Panics
    /// When Atoll does not run, or that listener is off.
    pub fn listener(&self, key: &str) -> String {
        let run = self.run_file().expect("atoll runs: .atoll/run.json");
        run[key].as_str().expect("the listener is on").to_owned()
    }

    fn assert_running(&self) {
        let pid = Pid::from_raw(self.pid()).expect("not 0");
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        let zombie = state.is_ok_and(|s| s.rsplit(')').next().is_some_and(|s| s.starts_with(" Z")));
        assert!(!zombie, "atoll up ended:\n{}", self.printed());
    }
}

/// The text with listeners on free ports, unless it has a `listen:` of its own.
fn listening(yaml: &str) -> String {
    let listen = if yaml.lines().any(|line| line.starts_with("listen:")) {
        ""
    } else {
        "listen: { gateway: \"127.0.0.1:0\", console: \"127.0.0.1:0\", dns: \"127.0.0.1:0\", eureka: \"127.0.0.1:0\", consul: \"127.0.0.1:0\" }\n"
    };
    format!("{yaml}\n{listen}")
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln_once("atoll up", &self.printed());
        }
        if let Some(mut child) = self.atoll.take() {
            if let Ok(pid) = i32::try_from(child.id()) {
                send(pid, Signal::INT);
            }
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(20) {
                if let Ok(Some(_)) = child.try_wait() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            // Its guardian ends what it leaves behind.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "shown by the test runner when a test failed"
)]
fn eprintln_once(program: &str, printed: &str) {
    eprintln!("--- {program} printed:\n{printed}");
}

/// Sends a signal; a process that is gone already is fine.
pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        kill_process(pid, signal).ok();
    }
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.starts_with('Z'))
}

/// Resident memory of a process in bytes.
///
/// # Panics
/// When there is no such process.
pub fn resident_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("kB");
    kib * 1024
}

/// Status, standard output and standard error in one text, for a failed assertion.
pub fn describe(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Reads all of a stream.
///
/// # Panics
/// When it fails.
pub fn read_all(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).expect("text");
    text
}
