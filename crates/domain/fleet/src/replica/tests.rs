use std::sync::atomic::{AtomicBool, Ordering};

use atoll_model::{Check, Fault, Probe, ServiceName};
use atoll_runtime::{Clock, Random, Tasks};
use tokio::sync::Notify;

use super::*;
use crate::ledger::Ledger;
use crate::port::Ports;
use crate::ports::{Directory, Traffic};
use crate::workload::{CommandLine, RestartPolicy};

#[tokio::test]
async fn a_controller_that_is_gone_means_stop_and_is_said_once() {
    let (sender, receiver) = watch::channel(Order::Wait);
    let mut orders = Some(receiver);
    sender.send_replace(Order::Go);
    assert_eq!(order(&mut orders).await, Order::Go);
    drop(sender);
    assert_eq!(order(&mut orders).await, Order::Stop);
    // Else the replica would hear of nothing else any more.
    assert_eq!(order(&mut orders).now_or_never(), None);
}

/// A directory that takes its time.
#[derive(Default)]
struct Slow {
    catalog: watch::Sender<Arc<Catalog>>,
    asked: Notify,
    answers: Notify,
    panics: AtomicBool,
}

impl Slow {
    fn answer(&self) -> Pending<'_, Result<(), Fault>> {
        assert!(!self.panics.load(Ordering::SeqCst), "on purpose");
        Box::pin(async {
            self.asked.notify_one();
            self.answers.notified().await;
            Ok(())
        })
    }
}

impl Directory for Slow {
    fn enlist(&self, _: Enlisted) -> Pending<'_, Result<(), Fault>> {
        self.answer()
    }
    fn drain(&self, _: ServiceName, _: InstanceId) -> Pending<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
    fn delist(&self, _: ServiceName, _: InstanceId) -> Pending<'_, Result<(), Fault>> {
        self.answer()
    }
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }
}

impl Traffic for Slow {
    fn idle(&self, _: ServiceName, _: InstanceId) -> Pending<'_, ()> {
        Box::pin(async {})
    }
}

fn context(folder: &std::path::Path, slow: &Arc<Slow>) -> Arc<Context> {
    let ledger = Ledger::open(folder, "0123456789abcdef".to_owned()).unwrap();
    Arc::new(Context {
        tasks: Tasks::root(Clock::system()),
        directory: slow.clone(),
        traffic: slow.clone(),
        ledger: Arc::new(ledger),
        ports: Ports::default(),
        logs: Arc::default(),
        log_dir: folder.to_owned(),
        environment: Default::default(),
        build_environment: Default::default(),
        changed: Notify::new(),
        random: Mutex::new(Random::from_seed(1)),
    })
}

fn workload(folder: &std::path::Path, script: &str) -> Arc<Workload> {
    Arc::new(Workload {
        service: "users".parse().unwrap(),
        build: None,
        command: CommandLine::Shell(script.to_owned()),
        working_dir: folder.to_owned(),
        environment: Default::default(),
        replicas: 1,
        port: None,
        depends_on: Default::default(),
        restart: RestartPolicy::No,
        check: Check::new(Probe::Tcp),
        drain: Duration::ZERO,
        stop_grace: Duration::from_secs(10),
        log_bytes_max: 1024,
    })
}

#[tokio::test]
async fn what_the_directory_is_told_is_shown_before_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Arc::new(Slow::default());
    let context = context(folder.path(), &slow);
    let workload = workload(folder.path(), "exec sleep 1000");
    let seat = Seat::open(&context, &workload, "users-1".parse().unwrap(), 1);
    seat.order(Order::Go);
    slow.asked.notified().await; // to enlist
    let status = seat.see(|view| view.status.clone());
    assert_eq!(status.state, ReplicaState::Starting);
    assert!(status.pid.is_some() && status.port.is_some(), "{status:?}");
    slow.answers.notify_one();
    seat.order(Order::Kill);
    slow.asked.notified().await; // to delist
    let status = seat.see(|view| view.status.clone());
    assert_eq!((status.pid, status.port), (None, None), "{status:?}");
    slow.answers.notify_one();
    let patience = Duration::from_secs(10);
    context.tasks.stop(patience).await.unwrap();
}

#[tokio::test]
async fn a_replica_whose_task_panics_is_over_and_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Arc::new(Slow::default());
    slow.panics.store(true, Ordering::SeqCst);
    let context = context(folder.path(), &slow);
    let workload = workload(folder.path(), "exec sleep 1000");
    let seat = Seat::open(&context, &workload, "users-1".parse().unwrap(), 1);
    seat.order(Order::Go);
    let over = async {
        while seat.see(|view| view.stopped.is_none()) {
            context.changed.notified().await;
        }
    };
    let over = tokio::time::timeout(Duration::from_secs(30), over).await;
    assert!(over.is_ok(), "the controller waits for it for ever");
    let status = seat.see(|view| view.status.clone());
    assert_eq!((status.state, status.pid), (ReplicaState::Stopped, None));
    assert_eq!(context.ports.held(), 0);
    let patience = Duration::from_secs(10);
    context.tasks.stop(patience).await.unwrap();
}

#[tokio::test]
async fn a_port_is_nobody_elses_while_the_directory_still_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Arc::new(Slow::default());
    let context = context(folder.path(), &slow);
    let workload = workload(folder.path(), "exit 1");
    let seat = Seat::open(&context, &workload, "users-1".parse().unwrap(), 1);
    seat.order(Order::Go);
    slow.asked.notified().await; // to enlist
    slow.answers.notify_one();
    slow.asked.notified().await; // to delist: its process is cleared away
    assert_eq!(context.ports.held(), 1);
    slow.answers.notify_one();
    seat.order(Order::Stop);
    while seat.see(|view| view.stopped.is_none()) {
        context.changed.notified().await;
    }
    assert_eq!(context.ports.held(), 0);
    let patience = Duration::from_secs(10);
    context.tasks.stop(patience).await.unwrap();
}
