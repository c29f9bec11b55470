//! Live changes: replacement, scaling, dependencies, builds.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_fleet::workload::{CommandLine, Condition, RestartPolicy, Workload};
use atoll_fleet::{BuildState, Exit, FleetError, ReplicaState, ReplicaStatus};

use crate::world::{World, eventually, helper, processes_of, runs};

fn pids(replicas: &[ReplicaStatus]) -> Vec<u32> {
    replicas
        .iter()
        .map(|replica| replica.pid.unwrap())
        .collect()
}

fn coloured(mut workload: Workload, colour: &str) -> Workload {
    let environment = &mut workload.environment;
    environment.insert("COLOUR".to_owned(), colour.to_owned());
    workload
}

/// A service that begins to listen once `gate` exists.
fn gated(world: &World, name: &str, gate: &str) -> Workload {
    let helper = helper().display().to_string();
    let script = format!("until [ -e {gate} ]; do sleep 0.05; done; exec {helper} serve");
    world.shell(name, &script)
}

fn open_gate(world: &World, gate: &str) {
    std::fs::write(world.folder.path().join(gate), "").unwrap();
}

#[tokio::test]
async fn a_replacement_keeps_all_replicas_serving_and_loses_no_request() {
    let world = World::new().await;
    let users = world.service("users", 2, &[]);
    world.fleet.apply(vec![users.clone()]).await.unwrap();
    let mut before = pids(&world.until_settled("users", 2).await);
    world.neighbours.least_serving();

    let done = Arc::new(AtomicBool::new(false));
    let (neighbours, stop) = (world.neighbours.clone(), done.clone());
    let client = world.tasks.once("client", async move {
        let (mut requests, mut failures) = (0, Vec::new());
        while !stop.load(Ordering::SeqCst) {
            if let Err(error) = neighbours.request("users", requests).await {
                failures.push(error.to_string());
            }
            requests += 1;
        }
        (requests, failures)
    });
    for colour in ["red", "green", "blue"] {
        let next = coloured(users.clone(), colour);
        world.fleet.apply(vec![next]).await.unwrap();
        let after = pids(&world.until_settled("users", 2).await);
        assert!(after.iter().all(|pid| !before.contains(pid)));
        before = after;
    }
    done.store(true, Ordering::SeqCst);
    let (requests, failures) = client.await.unwrap();
    assert_eq!(failures, Vec::<String>::new(), "of {requests}");
    assert!(requests > 10, "{requests}");
    assert_eq!(world.neighbours.least_serving(), 2);
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_description_that_crashes_leaves_its_predecessor_serving_until_it_is_mended() {
    let world = World::new().await;
    let users = world.service("users", 2, &[]);
    world.fleet.apply(vec![users.clone()]).await.unwrap();
    let before = pids(&world.until_settled("users", 2).await);
    world.neighbours.least_serving();
    let mut broken = users.clone();
    broken.command = CommandLine::Shell("exit 1".to_owned());
    world.fleet.apply(vec![broken]).await.unwrap();
    let status = world
        .until("a crash loop", |status| {
            let replicas = &status.services["users"].replicas;
            replicas.iter().any(|replica| replica.crash_looping)
        })
        .await;
    let users_now = &status.services["users"];
    assert!(users_now.updating);
    assert_eq!((users_now.ready(), users_now.replicas.len()), (2, 3));
    assert!(before.iter().all(|pid| runs(*pid)));
    world
        .fleet
        .apply(vec![coloured(users, "mended")])
        .await
        .unwrap();
    let after = pids(&world.until_settled("users", 2).await);
    assert!(after.iter().all(|pid| !before.contains(pid)));
    assert_eq!(world.neighbours.least_serving(), 2);
    world.fleet.stop().await;
}

#[tokio::test]
async fn what_did_not_change_goes_on() {
    let world = World::new().await;
    let (users, products) = (
        world.service("users", 2, &[]),
        world.service("products", 1, &[]),
    );
    world
        .fleet
        .apply(vec![users.clone(), products])
        .await
        .unwrap();
    let before = pids(&world.until_settled("users", 2).await);
    let product = pids(&world.until_settled("products", 1).await)[0];

    // More replicas, and the other service removed.
    let mut three = users.clone();
    three.replicas = 3;
    world.fleet.apply(vec![three.clone()]).await.unwrap();
    let grown = pids(&world.until_settled("users", 3).await);
    assert_eq!(grown[..2], before);
    world
        .until("products is gone", |status| {
            !status.services.contains_key("products")
        })
        .await;
    assert!(!runs(product));
    let asked = world.neighbours.asked();
    assert!(asked.contains(&"idle products-1".to_owned()), "{asked:?}");

    // Scaled by hand: holds until the file asks for another number than before.
    let name = three.service.clone();
    world.fleet.scale(name, 1).await.unwrap();
    assert_eq!(pids(&world.until_settled("users", 1).await), before[..1]);
    world.fleet.apply(vec![three]).await.unwrap();
    world.fleet.apply(vec![users]).await.unwrap();
    assert_eq!(pids(&world.until_settled("users", 2).await)[0], before[0]);
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_replica_that_drains_slowly_holds_up_nobody_else() {
    let world = World::new().await;
    let users = world.service("users", 2, &[]);
    world.fleet.apply(vec![users.clone()]).await.unwrap();
    world.until_settled("users", 2).await;
    let held = world.neighbours.hold(&"users-1".parse().unwrap());
    world
        .fleet
        .apply(vec![coloured(users, "red")])
        .await
        .unwrap();
    world
        .until("all but one are replaced", |status| {
            let users = &status.services["users"];
            let draining = |replica: &ReplicaStatus| replica.state == ReplicaState::Draining;
            users.ready() == 2 && users.replicas.len() == 3 && users.replicas.iter().any(draining)
        })
        .await;
    drop(held);
    world.until_settled("users", 2).await;
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_fixed_port_is_handed_over() {
    let world = World::new().await;
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut users = world.service("users", 1, &[]);
    users.port = Some(port);
    world.fleet.apply(vec![users.clone()]).await.unwrap();
    let before = world.until_settled("users", 1).await[0].clone();
    let next = coloured(users.clone(), "red");
    world.fleet.apply(vec![next]).await.unwrap();
    world
        .until("another process", |status| {
            let replicas = &status.services["users"].replicas;
            replicas
                .iter()
                .any(|replica| replica.pid.is_some_and(|pid| Some(pid) != before.pid))
        })
        .await;
    let after = world.until_settled("users", 1).await[0].clone();
    assert_eq!((before.port, after.port), (Some(port), Some(port)));

    users.replicas = 2;
    let refused = world.fleet.apply(vec![users]).await.unwrap_err();
    assert!(matches!(refused, FleetError::FixedPort { .. }), "{refused}");
    world.fleet.stop().await;
}

#[tokio::test]
async fn replicas_wait_for_the_conditions_of_their_dependencies_and_stop_before_them() {
    let world = World::new().await;
    let db = gated(&world, "db", "db-is-up");
    let mut migrate = world.shell("migrate", "until [ -e migrated ]; do sleep 0.05; done");
    migrate.restart = RestartPolicy::OnFailure { restarts_max: None };
    let names = (db.service.clone(), migrate.service.clone());
    migrate
        .depends_on
        .insert(names.0.clone(), Condition::Started);
    let mut web = world.service("web", 1, &[]);
    web.depends_on.insert(names.0.clone(), Condition::Healthy);
    web.depends_on
        .insert(names.1.clone(), Condition::CompletedSuccessfully);
    world.fleet.apply(vec![web, migrate, db]).await.unwrap();

    let waits_on = |status: &atoll_fleet::FleetStatus| match &status.services["web"].replicas[..] {
        [replica] => match &replica.state {
            ReplicaState::Waiting { on } => on.clone(),
            _ => vec![],
        },
        _ => vec![],
    };
    let both = vec![
        (names.0.clone(), Condition::Healthy),
        (names.1.clone(), Condition::CompletedSuccessfully),
    ];
    world
        .until("it waits for both", |status| {
            status.services.contains_key("web")
                && waits_on(status) == both
                && status.services["migrate"].replicas[0].pid.is_some()
        })
        .await;
    open_gate(&world, "db-is-up");
    world
        .until("it waits for one", |status| waits_on(status) == both[1..])
        .await;
    open_gate(&world, "migrated");
    world.until_settled("web", 1).await;
    world
        .until("the job is done", |status| {
            status.services["migrate"].replicas[0].state == ReplicaState::Exited
        })
        .await;

    world.neighbours.forget_asked();
    world.fleet.stop().await;
    assert_eq!(
        world.neighbours.asked(),
        [
            "drain web-1",
            "wait-idle web-1",
            "idle web-1",
            "delist web-1",
            "drain db-1",
            "wait-idle db-1",
            "idle db-1",
            "delist db-1"
        ]
    );
}

#[tokio::test]
async fn a_circle_of_dependencies_waits_and_can_be_stopped() {
    let world = World::new().await;
    let (mut a, mut b) = (world.service("a", 1, &[]), world.service("b", 1, &[]));
    a.depends_on.insert(b.service.clone(), Condition::Started);
    b.depends_on.insert(a.service.clone(), Condition::Started);
    b.build = Some(CommandLine::Shell("true".to_owned()));
    a.build = b.build.clone();
    world.fleet.apply(vec![a, b]).await.unwrap();
    world
        .until("both wait", |status| {
            ["a", "b"].iter().all(|name| {
                status.services.get(*name).is_some_and(|service| {
                    let waits = |replica: &ReplicaStatus| {
                        matches!(replica.state, ReplicaState::Waiting { .. })
                    };
                    service.replicas.len() == 1 && service.replicas.iter().all(waits)
                })
            })
        })
        .await;
    assert_eq!(world.fleet.stop().await.replicas.len(), 2);
}

#[tokio::test]
async fn a_build_runs_once_before_all_replicas_and_again_when_it_changed() {
    let world = World::new().await;
    let mut users = world.service("users", 2, &[]);
    users.build = Some(CommandLine::Shell("echo $CARGO_HOME >> built".to_owned()));
    world.fleet.apply(vec![users.clone()]).await.unwrap();
    let before = pids(&world.until_settled("users", 2).await);
    let built = || std::fs::read_to_string(world.folder.path().join("built")).unwrap();
    assert_eq!(built(), "/nowhere\n");
    let status = world.fleet.status().borrow().clone();
    assert!(matches!(
        status.services["users"].build,
        BuildState::Done { .. }
    ));

    users.build = Some(CommandLine::Shell("echo second >> built".to_owned()));
    world.fleet.apply(vec![users.clone()]).await.unwrap();
    let after = pids(&world.until_settled("users", 2).await);
    assert_eq!(built(), "/nowhere\nsecond\n");
    assert!(after.iter().all(|pid| !before.contains(pid)));

    users.command = CommandLine::Exec(vec![helper().display().to_string(), "serve".to_owned()]);
    users.replicas = 1;
    world.fleet.apply(vec![users]).await.unwrap();
    world.until_settled("users", 1).await;
    assert_eq!(built(), "/nowhere\nsecond\n", "nothing to build anew");
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_failed_build_says_why_keeps_the_old_replicas_and_is_tried_again() {
    let world = World::new().await;
    let users = world.service("users", 1, &[]);
    world.fleet.apply(vec![users.clone()]).await.unwrap();
    let before = pids(&world.until_settled("users", 1).await);
    let script = "echo compiling; [ -e mended ] || { echo 'error[E0425]: no x' >&2; exit 101; }";
    let mut broken = users.clone();
    broken.build = Some(CommandLine::Shell(script.to_owned()));
    world.fleet.apply(vec![broken.clone()]).await.unwrap();
    let status = world
        .until("the build fails", |status| {
            matches!(status.services["users"].build, BuildState::Failed(_))
        })
        .await;
    let BuildState::Failed(failure) = &status.services["users"].build else {
        panic!("it failed");
    };
    assert_eq!(failure.exit, Exit::Code(101));
    assert_eq!(failure.command, script);
    assert_eq!(failure.working_dir, world.folder.path());
    let said = |text: &str| failure.last_lines.iter().any(|line| &*line.text == text);
    assert!(
        said("compiling") && said("error[E0425]: no x"),
        "{failure:?}"
    );
    let log = std::fs::read_to_string(&failure.log).unwrap();
    assert!(log.contains("stderr error[E0425]: no x"), "{log}");
    assert_eq!(pids(&status.services["users"].replicas), before);

    open_gate(&world, "mended");
    world.fleet.apply(vec![broken]).await.unwrap();
    world
        .until("the build succeeds", |status| {
            matches!(status.services["users"].build, BuildState::Done { .. })
        })
        .await;
    eventually("the old one is replaced", || !runs(before[0])).await;
    world.fleet.stop().await;
}

#[tokio::test]
async fn builds_run_one_at_a_time_dependencies_first() {
    let world = World::new().await;
    let build = |name: &str| {
        let script = format!("echo begin {name} >> order; sleep 0.2; echo end {name} >> order");
        Some(CommandLine::Shell(script))
    };
    let mut a = world.service("a", 1, &[]);
    let (mut b, mut c) = (world.service("b", 1, &[]), world.service("c", 1, &[]));
    a.depends_on.insert(c.service.clone(), Condition::Started);
    (a.build, b.build, c.build) = (build("a"), build("b"), build("c"));
    world.fleet.apply(vec![a, b, c]).await.unwrap();
    world.until_settled("a", 1).await;
    let order = std::fs::read_to_string(world.folder.path().join("order")).unwrap();
    let order: Vec<_> = order.lines().collect();
    assert_eq!(
        order,
        ["begin b", "end b", "begin c", "end c", "begin a", "end a"]
    );
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_build_that_is_not_wanted_any_more_is_ended() {
    let world = World::new().await;
    let mut users = world.service("users", 1, &[]);
    users.build = Some(CommandLine::Shell(
        "echo waiting; sleep 1000; true".to_owned(),
    ));
    world.fleet.apply(vec![users.clone()]).await.unwrap();
    let status = world
        .until("progress", |status| {
            let service = status.services.get("users");
            service.is_some_and(|service| {
                matches!(&service.build, BuildState::Running { last_line, .. }
                    if last_line == "waiting")
            })
        })
        .await;
    assert!(status.services["users"].replicas.is_empty());
    // Changed: the new one runs instead.
    let mut changed = users.clone();
    changed.build = Some(CommandLine::Shell("true".to_owned()));
    world.fleet.apply(vec![changed]).await.unwrap();
    world.until_settled("users", 1).await;
    // Stopped: it does not hold up the end.
    world.fleet.apply(vec![users]).await.unwrap();
    let folder = world.folder.path();
    eventually("shell and sleep run again", || {
        processes_of(folder).len() == 3
    })
    .await;
    world.fleet.stop().await;
    assert_eq!(processes_of(folder), []);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused() {
    let world = World::new().await;
    let users = world.service("users", 1, &[]);
    let twice = world.fleet.apply(vec![users.clone(), users.clone()]).await;
    assert!(matches!(twice, Err(FleetError::Duplicate { .. })));
    let unknown = world.fleet.scale(users.service.clone(), 2).await;
    assert!(matches!(unknown, Err(FleetError::UnknownService { .. })));
    world.fleet.stop().await;
    let late = world.fleet.apply(vec![users]).await;
    assert!(matches!(late, Err(FleetError::Stopping)));
    assert_eq!(world.fleet.stop().await, atoll_fleet::Report::default());
}

#[tokio::test]
async fn when_the_last_handle_goes_during_a_build_everything_ends() {
    // Several times, since the end of the build races with what the controller awaits.
    for _ in 0..8 {
        let world = World::new().await;
        let mut users = world.service("users", 1, &[]);
        users.build = Some(CommandLine::Shell("sleep 1000; true".to_owned()));
        world.fleet.apply(vec![users]).await.unwrap();
        let folder = world.folder.path();
        eventually("the build runs", || processes_of(folder).len() == 2).await;
        drop(world.fleet);
        let tasks = &world.tasks;
        let ended = || {
            !tasks
                .running()
                .iter()
                .any(|name| name.ends_with("controller"))
        };
        eventually("the controller ends", ended).await;
        assert_eq!(processes_of(folder), []);
    }
}
