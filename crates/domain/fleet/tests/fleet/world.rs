//! A fleet under test with a directory and a traffic that record what they are asked.
//!
//! The directory checks replicas itself, by a connection, so that readiness is real.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use atoll_fleet::ports::{Directory, Enlisted, Pending, Traffic};
use atoll_fleet::workload::{CommandLine, RestartPolicy, Workload};
use atoll_fleet::{Fleet, FleetSettings, FleetStatus, GuardianCommand, ReplicaStatus};
use atoll_model::{
    Catalog, Check, Fault, Health, Instance, InstanceId, Probe, Revision, ServiceName,
};
use atoll_runtime::{Clock, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Longest wait for anything: a limit on hanging, not an assertion of speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The helper's executable.
pub(crate) fn helper() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_atoll-fleet-helper"))
}

/// A fleet and everything around it.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) tasks: Tasks,
}

/// Registry and gateway in one, as the fleet sees them.
pub(crate) struct Neighbours {
    catalog: watch::Sender<Arc<Catalog>>,
    /// What was asked, in order: `enlist users-1`, `drain users-1`, ...
    asked: Mutex<Vec<String>>,
    /// Requests in flight to each instance.
    in_flight: watch::Sender<BTreeMap<InstanceId, usize>>,
    /// The fewest instances of `users` that took requests since it was reset.
    least_serving: Mutex<usize>,
    tasks: Tasks,
    own: Weak<Self>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn in_folder(folder: tempfile::TempDir) -> Self {
        let tasks = Tasks::root(Clock::system());
        let neighbours = Arc::new_cyclic(|own| Neighbours {
            catalog: watch::Sender::default(),
            asked: Mutex::default(),
            in_flight: watch::Sender::default(),
            least_serving: Mutex::new(usize::MAX),
            tasks: tasks.clone(),
            own: own.clone(),
        });
        let fleet = Fleet::start(
            &tasks,
            neighbours.clone(),
            neighbours.clone(),
            settings(folder.path()),
        );
        let fleet = fleet.await.unwrap();
        Self {
            fleet,
            neighbours,
            folder,
            tasks,
        }
    }

    /// A service of `replicas` helpers with these options.
    pub(crate) fn service(&self, name: &str, replicas: u32, options: &[&str]) -> Workload {
        let mut words = vec![helper().display().to_string(), "serve".to_owned()];
        words.extend(options.iter().map(|option| (*option).to_owned()));
        self.workload(name, replicas, CommandLine::Exec(words))
    }

    pub(crate) fn shell(&self, name: &str, script: &str) -> Workload {
        self.workload(name, 1, CommandLine::Shell(script.to_owned()))
    }

    fn workload(&self, name: &str, replicas: u32, command: CommandLine) -> Workload {
        Workload {
            service: name.parse().unwrap(),
            build: None,
            command,
            working_dir: self.folder.path().to_owned(),
            environment: BTreeMap::new(),
            replicas,
            port: None,
            depends_on: BTreeMap::new(),
            restart: RestartPolicy::Always,
            check: Check::new(Probe::Tcp),
            drain: PATIENCE,
            stop_grace: Duration::from_secs(10),
            log_bytes_max: 1024 * 1024,
        }
    }

    /// Waits until the status is as `is_so` says, and gives it.
    pub(crate) async fn until(
        &self,
        what: &str,
        is_so: impl Fn(&FleetStatus) -> bool,
    ) -> FleetStatus {
        let mut status = self.fleet.status();
        let found = tokio::time::timeout(PATIENCE, status.wait_for(|status| is_so(status))).await;
        let found = found.map(|status| (**status.unwrap()).clone());
        found.unwrap_or_else(|_| panic!("{what}: still {:#?}", self.fleet.status().borrow()))
    }

    /// Waits until `count` replicas of `name` take requests and none is old or leaving.
    pub(crate) async fn until_settled(&self, name: &str, count: usize) -> Vec<ReplicaStatus> {
        let status = self
            .until(&format!("{count} of {name}"), |status| {
                status.services.get(name).is_some_and(|service| {
                    service.ready() == count && service.replicas.len() == count && !service.updating
                })
            })
            .await;
        status.services[name].replicas.clone()
    }
}

pub(crate) fn settings(folder: &Path) -> FleetSettings {
    FleetSettings {
        data_dir: folder.join(".atoll"),
        guardian: GuardianCommand {
            program: helper(),
            arguments: vec!["guardian".into()],
        },
        environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        build_environment: BTreeMap::from([("CARGO_HOME".to_owned(), "/nowhere".to_owned())]),
        seed: 1,
    }
}

/// Waits until `is_so`, which has no notification to wait for.
pub(crate) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    assert!(found.is_ok(), "{what}");
}

/// Whether the process runs; one that waits to be reaped does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

/// Processes whose command line or working folder names `folder`, which is a test's own.
pub(crate) fn processes_of(folder: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    for item in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = item.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let works_there =
            std::fs::read_link(item.path().join("cwd")).is_ok_and(|cwd| cwd == folder);
        if works_there && runs(pid) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids
}

/// Ends a process that the test's own fleet started; it may be over already.
pub(crate) fn kill_9(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
}

impl Neighbours {
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn forget_asked(&self) {
        self.asked.lock().unwrap().clear();
    }

    fn note(&self, what: &str, id: &InstanceId) {
        self.asked.lock().unwrap().push(format!("{what} {id}"));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<ServiceName, Vec<Arc<Instance>>>)) {
        self.catalog.send_modify(|catalog| {
            let lists = catalog.services.iter();
            let mut services = lists
                .map(|(name, list)| (name.clone(), list.to_vec()))
                .collect();
            change(&mut services);
            let services = services.into_iter();
            *catalog = Arc::new(Catalog {
                revision: Revision(catalog.revision.0 + 1),
                services: services.map(|(name, list)| (name, list.into())).collect(),
            });
            let serving = catalog.instances("users").iter();
            let count = serving.filter(|one| one.health.takes_requests()).count();
            let mut least = self.least_serving.lock().unwrap();
            *least = count.min(*least);
        });
    }

    /// The fewest instances of `users` that took requests since the last call.
    pub(crate) fn least_serving(&self) -> usize {
        std::mem::replace(&mut *self.least_serving.lock().unwrap(), usize::MAX)
    }

    /// A request in flight to `id` until it is dropped.
    pub(crate) fn hold(&self, id: &InstanceId) -> Held {
        self.in_flight
            .send_modify(|counts| *counts.entry(id.clone()).or_default() += 1);
        Held(self.in_flight.clone(), id.clone())
    }

    /// One request as the gateway sends it: to an instance that takes requests, in
    /// flight from before the choice is final to the end of the answer.
    pub(crate) async fn request(&self, service: &str, number: usize) -> std::io::Result<u32> {
        let (instance, _held) = loop {
            let serving = self.serving(service);
            let chosen = serving.get(number % serving.len().max(1)).cloned();
            let chosen = chosen.ok_or(std::io::ErrorKind::NotFound)?;
            let held = self.hold(&chosen.id);
            if self.serving(service).contains(&chosen) {
                break (chosen, held);
            }
        };
        let mut stream = TcpStream::connect(instance.address.socket().unwrap()).await?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let body = answer.rsplit("\r\n").next().unwrap();
        body.parse().map_err(std::io::Error::other)
    }

    fn set(&self, service: &ServiceName, id: &InstanceId, health: Option<Health>) {
        self.change(|services| {
            let list = services.entry(service.clone()).or_default();
            if let Some(health) = health {
                for instance in list.iter_mut().filter(|instance| instance.id == *id) {
                    Arc::make_mut(instance).health = health;
                }
            } else {
                list.retain(|instance| instance.id != *id);
            }
        });
    }

    fn set_if(&self, service: &ServiceName, id: &InstanceId, from: Health, to: Health) {
        self.change(|services| {
            let list = services.entry(service.clone()).or_default();
            for instance in list.iter_mut() {
                if instance.id == *id && instance.health == from {
                    Arc::make_mut(instance).health = to;
                }
            }
        });
    }

    /// Instances that would get requests.
    pub(crate) fn serving(&self, service: &str) -> Vec<Arc<Instance>> {
        let catalog = self.catalog.borrow();
        let list = catalog.instances(service).iter();
        list.filter(|instance| instance.health.takes_requests())
            .cloned()
            .collect()
    }
}

impl Directory for Neighbours {
    fn enlist(&self, replica: Enlisted) -> Pending<'_, Result<(), Fault>> {
        self.note("enlist", &replica.id);
        let socket = replica.address.socket().unwrap();
        let (service, id) = (replica.service.clone(), replica.id.clone());
        self.change(|services| {
            let list = services.entry(replica.service.clone()).or_default();
            list.retain(|instance| instance.id != replica.id);
            list.push(Arc::new(Instance {
                id: replica.id,
                service: replica.service,
                address: replica.address,
                weight: 1,
                health: Health::Starting,
                note: String::new(),
                tags: vec![],
                metadata: BTreeMap::new(),
            }));
        });
        // The registry's check: a connection, until it succeeds or the instance is gone.
        let own = self.own.upgrade().unwrap();
        drop(self.tasks.once("check", async move {
            loop {
                let still =
                    own.catalog
                        .borrow()
                        .instances(service.as_str())
                        .iter()
                        .any(|instance| {
                            instance.id == id
                                && instance.address.socket() == Some(socket)
                                && instance.health == Health::Starting
                        });
                if !still {
                    return;
                }
                if TcpStream::connect(socket).await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await; // the check's interval
            }
            own.set_if(&service, &id, Health::Starting, Health::Passing);
        }));
        Box::pin(async { Ok(()) })
    }

    fn drain(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>> {
        self.note("drain", &id);
        self.set(&service, &id, Some(Health::Draining));
        Box::pin(async { Ok(()) })
    }

    fn delist(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>> {
        self.note("delist", &id);
        self.set(&service, &id, None);
        Box::pin(async { Ok(()) })
    }

    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }
}

impl Traffic for Neighbours {
    fn idle(&self, _: ServiceName, id: InstanceId) -> Pending<'_, ()> {
        self.note("wait-idle", &id);
        let mut in_flight = self.in_flight.subscribe();
        Box::pin(async move {
            let is_idle = |counts: &BTreeMap<InstanceId, usize>| !counts.contains_key(&id);
            drop(in_flight.wait_for(is_idle).await);
            self.note("idle", &id);
        })
    }
}

/// A request in flight.
pub(crate) struct Held(watch::Sender<BTreeMap<InstanceId, usize>>, InstanceId);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_modify(|counts| {
            let count = counts.get_mut(&self.1).unwrap();
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        });
    }
}
