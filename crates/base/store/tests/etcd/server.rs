//! An etcd of a test's own, on free loopback ports, that ends with the test.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atoll_runtime::{Clock, Tasks};
use atoll_store::Store;
use atoll_store::etcd::{self, Options, Tls};

/// Generous, for a machine that builds something beside us.
const START_WAIT: Duration = Duration::from_secs(30);
/// Another process may take a port that we found free.
const STARTS_MAX: u32 = 5;

pub(crate) struct Etcd {
    pub(crate) dir: tempfile::TempDir,
    port: u16,
    /// Where other members find it; any when there are none.
    peer_port: Option<u16>,
    scheme: &'static str,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    /// One without TLS.
    pub(crate) fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), "http", Vec::new())
    }

    /// One with more arguments, whose files are in `dir`.
    pub(crate) fn start_with(
        dir: tempfile::TempDir,
        scheme: &'static str,
        arguments: Vec<String>,
    ) -> Self {
        let mut etcd = Self {
            dir,
            port: 0,
            peer_port: None,
            scheme,
            arguments,
            child: None,
        };
        for _ in 0..STARTS_MAX {
            etcd.port = free_port();
            if etcd.try_run() {
                return etcd;
            }
        }
        panic!("etcd does not start: {}", etcd.log());
    }

    /// The members of one cluster. They lead and wait as etcd usually does: on a busy
    /// machine a shorter election would be lost again and again.
    pub(crate) fn cluster(count: usize) -> Vec<Self> {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let peers = ports.iter().enumerate();
        let peers = peers.map(|(at, port)| format!("m{at}=http://127.0.0.1:{port}"));
        let peers = peers.collect::<Vec<_>>().join(",");
        let member = |(at, port): (usize, &u16)| {
            let arguments = [
                format!("--name=m{at}"),
                format!("--initial-cluster={peers}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{port}"),
                "--heartbeat-interval=100".to_owned(),
                "--election-timeout=1000".to_owned(),
            ];
            let mut etcd = Self {
                dir: tempfile::tempdir().unwrap(),
                port: free_port(),
                peer_port: Some(*port),
                scheme: "http",
                arguments: arguments.into(),
                child: None,
            };
            etcd.run_again();
            etcd
        };
        ports.iter().enumerate().map(member).collect()
    }

    /// Starts it again where it was.
    pub(crate) fn run_again(&mut self) {
        assert!(self.try_run(), "etcd does not start: {}", self.log());
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends its process a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        let host = if self.scheme == "https" {
            "localhost"
        } else {
            "127.0.0.1"
        };
        format!("{}://{host}:{}", self.scheme, self.port)
    }

    pub(crate) fn options(&self, prefix: &str) -> Options {
        Options {
            endpoints: vec![self.url().parse().unwrap()],
            prefix: prefix.to_owned(),
            tls: Tls::default(),
            login: None,
            mirrored: vec!["mirrored/".to_owned()],
        }
    }

    pub(crate) async fn store(&self, prefix: &str) -> (Store, Tasks) {
        let tasks = Tasks::root(Clock::system());
        let store = etcd::open(self.options(prefix), &tasks).await.unwrap();
        (store, tasks)
    }

    /// Runs etcdctl, which must succeed; gives what it printed.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.url()))
            .args(arguments)
            .output()
            .expect("start etcdctl: apt-get install etcd-client, or its like on this system");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}{error}");
        text
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Whether it runs and takes connections; false when a port was taken.
    fn try_run(&mut self) -> bool {
        let log = std::fs::File::create(self.log_file()).unwrap();
        let client = format!("{}://127.0.0.1:{}", self.scheme, self.port);
        let peer_port = self.peer_port.unwrap_or_else(free_port);
        let peer = format!("http://127.0.0.1:{peer_port}");
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--logger", "zap", "--log-level", "warn"])
            // Quick to lead, and leases from one second.
            .args(["--heartbeat-interval", "50", "--election-timeout", "250"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("start etcd: apt-get install etcd-server, or its like on this system");
        let child = self.child.insert(child);
        let until = Instant::now() + START_WAIT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if child.try_wait().unwrap().is_some() {
                self.child = None;
                return false;
            }
            assert!(
                Instant::now() < until,
                "etcd does not listen: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
