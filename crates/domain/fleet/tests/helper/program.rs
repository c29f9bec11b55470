//! A service for the fleet's tests, with the standard library only: listens on `$PORT`
//! and misbehaves as told. Also the guardian, and a host that runs a fleet in a process
//! of its own, to be killed.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is what is tested"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio, exit};
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["guardian"] => drop(atoll_fleet::guardian_main(std::io::stdin().lock())),
        ["serve", options @ ..] => serve(options),
        ["host", data_dir, working_dir] => host::run(data_dir, working_dir),
        ["subreaper", data_dir, working_dir] => {
            let own = rustix::process::getpid();
            rustix::process::set_child_subreaper(Some(own)).expect("Linux 3.4");
            host::run(data_dir, working_dir);
        }
        _ => {
            eprintln!("unknown: {words:?}");
            exit(64);
        }
    }
}

/// Options: `grandchild` leaves a shell that ignores SIGTERM in the same group, `stray`
/// a `sleep` in another.
fn serve(options: &[&str]) {
    for option in options {
        match *option {
            "grandchild" => drop(
                Command::new("/bin/sh")
                    .args(["-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"])
                    .stdin(Stdio::null())
                    .spawn()
                    .expect("sh runs"),
            ),
            "stray" => {
                use std::os::unix::process::CommandExt;
                drop(
                    Command::new("sleep")
                        .arg("1000")
                        .process_group(0)
                        .spawn()
                        .expect("sleep runs"),
                );
            }
            other => panic!("unknown option {other}"),
        }
    }
    #[expect(clippy::disallowed_methods, reason = "this is the service's own main")]
    let port: u16 = std::env::var("PORT")
        .expect("PORT is set")
        .parse()
        .expect("a port");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        let mut line = String::new();
        let mut reader = BufReader::new(&stream);
        if reader.read_line(&mut line).is_err() {
            continue;
        }
        if line.contains("/crash") {
            exit(3);
        }
        let body = std::process::id().to_string();
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        // A client that left is none of our business.
        drop((&stream).write_all(answer.as_bytes()));
    }
}

mod host {
    //! Runs a fleet of one service until it is killed.

    use std::collections::BTreeMap;
    use std::sync::Arc;

    use atoll_fleet::ports::{Directory, Enlisted, Pending, Traffic};
    use atoll_fleet::workload::{CommandLine, RestartPolicy, Workload};
    use atoll_fleet::{Fleet, FleetSettings, GuardianCommand};
    use atoll_model::{Catalog, Check, Fault, InstanceId, Probe, ServiceName};
    use atoll_runtime::{Clock, Tasks};
    use tokio::sync::watch;

    use super::Duration;

    /// Nobody checks, nobody asks.
    struct Nobody(watch::Sender<Arc<Catalog>>);

    impl Directory for Nobody {
        fn enlist(&self, _: Enlisted) -> Pending<'_, Result<(), Fault>> {
            Box::pin(async { Ok(()) })
        }
        fn drain(&self, _: ServiceName, _: InstanceId) -> Pending<'_, Result<(), Fault>> {
            Box::pin(async { Ok(()) })
        }
        fn delist(&self, _: ServiceName, _: InstanceId) -> Pending<'_, Result<(), Fault>> {
            Box::pin(async { Ok(()) })
        }
        fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
            self.0.subscribe()
        }
    }

    impl Traffic for Nobody {
        fn idle(&self, _: ServiceName, _: InstanceId) -> Pending<'_, ()> {
            Box::pin(async {})
        }
    }

    pub(super) fn run(data_dir: &str, working_dir: &str) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(Box::pin(fleet(data_dir, working_dir)));
    }

    async fn fleet(data_dir: &str, working_dir: &str) {
        let own = std::env::current_exe().expect("an executable");
        let settings = FleetSettings {
            data_dir: data_dir.into(),
            guardian: GuardianCommand {
                program: own.clone(),
                arguments: vec!["guardian".into()],
            },
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            build_environment: BTreeMap::new(),
            seed: 1,
        };
        let nobody = Arc::new(Nobody(watch::Sender::default()));
        let tasks = Tasks::root(Clock::system());
        let fleet = Fleet::start(&tasks, nobody.clone(), nobody, settings).await;
        let fleet = fleet.expect("the fleet starts");
        let command = vec![
            own.display().to_string(),
            "serve".to_owned(),
            "grandchild".to_owned(),
        ];
        let workload = Workload {
            service: "users".parse().expect("a name"),
            build: None,
            command: CommandLine::Exec(command),
            working_dir: working_dir.into(),
            environment: BTreeMap::new(),
            replicas: 1,
            port: None,
            depends_on: BTreeMap::new(),
            restart: RestartPolicy::Always,
            check: Check::new(Probe::Tcp),
            drain: Duration::from_secs(1),
            stop_grace: Duration::from_secs(1),
            log_bytes_max: 1024,
        };
        fleet.apply(vec![workload]).await.expect("it is taken");
        loop {
            let lines = fleet.logs(&"users".parse().expect("a name"), None, 10);
            if lines.iter().any(|line| line.text.contains("listening")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("up");
        std::future::pending::<()>().await;
    }
}
