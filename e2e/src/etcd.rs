//! A real etcd (Debian's `etcd-server`) for tests, and a way to it that can be cut.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::eventually;

/// One member on free ports, with its data in a folder of its own. Gone when dropped.
pub struct Etcd {
    folder: tempfile::TempDir,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Etcd {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When there is no `etcd`: `apt-get install etcd-server` (`cargo xtask test` does).
    pub fn start() -> Self {
        let mut etcd = Self {
            folder: tempfile::Builder::new()
                .prefix("atoll-e2e-etcd-")
                .tempdir()
                .expect("a temporary folder"),
            client: free_port(),
            peer: free_port(),
            process: None,
        };
        etcd.run();
        etcd
    }

    /// `127.0.0.1:PORT`, for its clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// Runs it again with what it had.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&mut self) {
        let client = format!("http://{}", self.address());
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--name", "one"])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd: install Debian's etcd-server");
        self.process = Some(process);
        eventually("etcd answers", || {
            let health = crate::http::get(&self.address(), "/health").ok()?;
            health.text().contains("true").then_some(())
        });
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Passes TCP connections on, until the way is cut: a partition as the one behind it
/// sees it.
pub struct Way {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    cut: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Way {
    /// A way to `address`.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let shared = Arc::new(Shared {
            to: address.to_owned(),
            cut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let way = Self {
            address: listener.local_addr().expect("its address").to_string(),
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            for from in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                // One that cannot be passed on is closed.
                if let Ok(from) = from {
                    drop(shared.pass(from));
                }
            }
        });
        way
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends all connections and refuses new ones.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.shared.close();
    }

    /// Passes on again.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the listener.
        drop(TcpStream::connect(&self.address));
    }
}

impl Shared {
    fn pass(&self, from: TcpStream) -> io::Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Ok(());
        }
        let to = TcpStream::connect(&self.to)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(from.try_clone()?);
        open.push(to.try_clone()?);
        drop(open);
        let (back_from, back_to) = (to.try_clone()?, from.try_clone()?);
        thread::spawn(move || pump(from, to));
        thread::spawn(move || pump(back_from, back_to));
        // Cut meanwhile?
        if self.cut.load(Ordering::SeqCst) {
            self.close();
        }
        Ok(())
    }

    fn close(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
