//! Spring's programs from `conformance/java`: Spring Cloud's clients, and the Eureka
//! server as it ships it. Each is a JVM of its own that ends when it is dropped.
//!
//! Needs what `cargo xtask test` builds: the folder stands in `ATOLL_E2E_JAVA`.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::outside::Running;
use crate::{alive, eventually, http, send};

/// For a start as fast as can be: it runs for seconds, on a small machine.
const JVM_OPTIONS: [&str; 4] = [
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xmx256m",
    "-Dspring.jmx.enabled=false",
];

/// A program that answers.
pub struct Spring {
    /// `host:port` of what it serves.
    pub address: String,
    process: Running,
    /// With what it printed.
    folder: tempfile::TempDir,
}

/// One that is starting: so that several may start at the same time.
pub struct Starting {
    process: Running,
    folder: tempfile::TempDir,
}

impl Starting {
    /// Starts the program in one of its profiles, `eureka`, `consul` or `server`, with
    /// properties (`name=value`) that its files do not have.
    ///
    /// # Panics
    /// When it cannot be started.
    #[expect(
        clippy::disallowed_methods,
        reason = "the test command says in the environment where the program is"
    )]
    pub fn new(profile: &str, properties: &[String]) -> Self {
        let program = std::env::var("ATOLL_E2E_JAVA").expect(
            "ATOLL_E2E_JAVA is the folder of conformance/java as `cargo xtask test` builds it",
        );
        let folder = tempfile::Builder::new().prefix("atoll-e2e-").tempdir();
        let folder = folder.expect("a temporary folder");
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new("java");
        command
            .args(JVM_OPTIONS)
            .args(["-cp", &format!("{program}/classes:{program}/lib/*")])
            .arg("conformance.Main")
            .arg(format!("--spring.profiles.active={profile}"))
            .args(properties.iter().map(|property| format!("--{property}")))
            .current_dir(folder.path())
            .stdout(log.try_clone().expect("the log twice"))
            .stderr(log);
        Self {
            process: Running::start(&mut command),
            folder,
        }
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn ready(self) -> Spring {
        let pid = self.process.pid();
        let address = eventually("Spring's program listens", || {
            let printed = printed(self.folder.path());
            assert!(alive(pid), "it ended:\n{printed}");
            let (_, after) = printed.rsplit_once("listening on ")?;
            let (port, _) = after.split_once('\n')?;
            Some(format!("127.0.0.1:{port}"))
        });
        Spring {
            address,
            process: self.process,
            folder: self.folder,
        }
    }
}

impl Spring {
    /// Netflix's Eureka server as Spring Cloud ships it, with these peers
    /// (`http://host:port/eureka/`, with commas; empty for none); its API is below `/eureka`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn eureka_server(peers: &str) -> Self {
        Starting::new(
            "server",
            &[format!("eureka.client.service-url.defaultZone={peers}")],
        )
        .ready()
    }

    /// What it answers as JSON; null when it does not, or not with 200.
    pub fn ask(&self, path: &str) -> Value {
        match http::get(&self.address, path) {
            Ok(answer) if answer.status == 200 => answer.json(),
            _ => Value::Null,
        }
    }

    /// Asks it to do something.
    ///
    /// # Panics
    /// When it refuses.
    pub fn tell(&self, method: &str, path: &str, body: &Value) {
        let text = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let headers = [("Content-Type", "application/json")];
        let answer = http::request(&self.address, method, path, &headers, text.as_bytes())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.text()
        );
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        printed(self.folder.path())
    }

    /// Lets it end as on a deployment: it takes its leave of the registry.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self) {
        send(self.process.pid(), Signal::TERM);
        self.process.ended();
    }
}

fn printed(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

impl Drop for Spring {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::eprintln_once("a program of Spring", &self.printed());
        }
    }
}
