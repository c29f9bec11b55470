//! Real processes: start, restart, output, stop.

use std::time::Duration;

use crate::world::{World, eventually, kill_9, processes_of, runs};
use atoll_fleet::workload::CommandLine;
use atoll_fleet::{Exit, Followed, LogStream, ReplicaState};

#[tokio::test]
async fn a_killed_replica_comes_back_on_another_port_and_is_taken_out_meanwhile() {
    let world = World::new().await;
    world
        .fleet
        .apply(vec![world.service("users", 2, &[])])
        .await
        .unwrap();
    let before = world.until_settled("users", 2).await;
    assert_eq!(before[0].id.as_str(), "users-1");
    world.neighbours.forget_asked();
    kill_9(before[0].pid.unwrap());
    let after = world
        .until("a restart", |status| {
            let replica = &status.services["users"].replicas[0];
            replica.restarts == 1 && replica.state == ReplicaState::Running
        })
        .await;
    let after = &after.services["users"].replicas;
    assert_ne!(after[0].pid, before[0].pid);
    assert_ne!(after[0].port, before[0].port);
    assert_eq!(after[1].pid, before[1].pid, "its sibling goes on");
    assert_eq!(
        after[0].last_exit.as_ref().unwrap().exit,
        Exit::Signal(9),
        "{after:?}"
    );
    assert_eq!(
        world.neighbours.asked(),
        ["delist users-1", "enlist users-1"]
    );

    let report = world.fleet.stop().await;
    assert_eq!(report.replicas.len(), 2);
    assert!(report.replicas.iter().all(|replica| !replica.killed));
    assert_eq!(processes_of(world.folder.path()), []);
}

#[tokio::test]
async fn a_stop_leaves_the_catalogue_waits_for_requests_and_then_terminates() {
    let world = World::new().await;
    world
        .fleet
        .apply(vec![world.service("users", 1, &[])])
        .await
        .unwrap();
    let pid = world.until_settled("users", 1).await[0].pid.unwrap();
    world.neighbours.forget_asked();
    let held = world.neighbours.hold(&"users-1".parse().unwrap());
    let stop = tokio::join!(world.fleet.stop(), async {
        world
            .until("draining", |status| {
                let service = status.services.get("users");
                service.is_some_and(|users| users.replicas[0].state == ReplicaState::Draining)
            })
            .await;
        eventually("it is asked for idleness", || {
            world.neighbours.asked().len() == 2
        })
        .await;
        assert!(runs(pid), "it has a request in flight");
        assert_eq!(
            world.neighbours.asked(),
            ["drain users-1", "wait-idle users-1"]
        );
        drop(held);
    });
    assert_eq!(
        world.neighbours.asked()[2..],
        ["idle users-1", "delist users-1"]
    );
    let stopped = &stop.0.replicas[0];
    assert_eq!(stopped.exit, Some(Exit::Signal(15)));
    assert!(!stopped.drain_expired && !stopped.killed);
    assert!(!runs(pid));
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_after_its_grace_with_its_grandchild() {
    let world = World::new().await;
    let helper = crate::world::helper().display().to_string();
    let script = format!("trap '' TERM; {helper} serve grandchild; true");
    let mut deaf = world.shell("deaf", &script);
    deaf.stop_grace = Duration::from_millis(300);
    world.fleet.apply(vec![deaf]).await.unwrap();
    world.until_settled("deaf", 1).await;
    // The shell, the helper, its shell, and its sleep.
    let folder = world.folder.path();
    eventually("all four run", || processes_of(folder).len() == 4).await;
    let report = world.fleet.stop().await;
    assert!(report.replicas[0].killed);
    assert_eq!(report.replicas[0].exit, Some(Exit::Signal(9)));
    assert_eq!(processes_of(folder), []);
}

#[tokio::test]
async fn a_grandchild_that_outlives_its_parent_is_ended_too() {
    let world = World::new().await;
    let mut users = world.service("users", 1, &["grandchild"]);
    users.stop_grace = Duration::from_millis(300);
    world.fleet.apply(vec![users]).await.unwrap();
    let folder = world.folder.path();
    let first = world.until_settled("users", 1).await[0].clone();
    eventually("all three run", || processes_of(folder).len() == 3).await;
    // When it crashes: its grandchild does not live on beside the next one.
    let old = processes_of(folder);
    kill_9(first.pid.unwrap());
    eventually("the old ones are gone", || {
        !old.iter().any(|pid| runs(*pid))
    })
    .await;
    world
        .until("a restart", |status| {
            let replica = &status.services["users"].replicas[0];
            replica.restarts == 1 && replica.state == ReplicaState::Running
        })
        .await;
    // When it is stopped: it ends at SIGTERM, its grandchild only by SIGKILL.
    let report = world.fleet.stop().await;
    assert_eq!(report.replicas[0].exit, Some(Exit::Signal(15)));
    assert_eq!(processes_of(folder), []);
}

#[tokio::test]
async fn who_left_its_group_and_holds_the_pipes_hangs_nobody_and_is_ended_at_last() {
    let world = World::new().await;
    world
        .fleet
        .apply(vec![world.service("users", 1, &["stray"])])
        .await
        .unwrap();
    world.until_settled("users", 1).await;
    eventually("both run", || processes_of(world.folder.path()).len() == 2).await;
    let report = world.fleet.stop().await;
    assert_eq!(report.strays, 1);
    assert_eq!(processes_of(world.folder.path()), []);
}

#[tokio::test]
async fn a_replica_gets_the_environment_that_it_is_given_and_nothing_else() {
    let world = World::new().await;
    let mut show = world.shell(
        "show",
        "env; echo broken: \"$(printf '\\377')\" >&2; exit 3",
    );
    show.environment
        .insert("COLOUR".to_owned(), "blue".to_owned());
    show.restart = atoll_fleet::workload::RestartPolicy::No;
    world.fleet.apply(vec![show]).await.unwrap();
    let status = world
        .until("its end", |status| {
            status.services.get("show").is_some_and(|service| {
                let replica = &service.replicas[0];
                replica.state == ReplicaState::Exited && replica.last_lines.len() > 5
            })
        })
        .await;
    let replica = &status.services["show"].replicas[0];
    assert_eq!(replica.last_exit.as_ref().unwrap().exit, Exit::Code(3));
    assert_eq!((replica.pid, replica.restarts), (None, 0));
    let lines = world.fleet.logs(&"show".parse().unwrap(), None, 100);
    let printed = |stream| {
        let lines = lines.iter().filter(move |line| line.stream == stream);
        lines.map(|line| line.text.to_string()).collect::<Vec<_>>()
    };
    let mut names: Vec<_> = printed(LogStream::Stdout)
        .iter()
        .map(|line| line.split('=').next().unwrap().to_owned())
        .collect();
    names.sort();
    // PWD is the shell's own.
    let given = [
        "ATOLL_INSTANCE",
        "ATOLL_RUN",
        "ATOLL_SERVICE",
        "COLOUR",
        "PATH",
        "PORT",
        "PWD",
    ];
    assert_eq!(names, given);
    assert_eq!(printed(LogStream::Stderr), ["broken: \u{fffd}"]);
    assert_eq!(printed(LogStream::Atoll), ["exited with status 3"]);
    let file = world.folder.path().join(".atoll/logs/show-1.log");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("Z stdout COLOUR=blue\n"), "{text}");
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_crash_loop_is_visible_and_keeps_its_last_words() {
    let world = World::new().await;
    world
        .fleet
        .apply(vec![world.shell("sick", "echo no database >&2; exit 1")])
        .await
        .unwrap();
    let status = world
        .until("a crash loop", |status| {
            let service = status.services.get("sick");
            service.is_some_and(|service| {
                let replica = &service.replicas[0];
                replica.crash_looping && matches!(replica.state, ReplicaState::BackingOff { .. })
            })
        })
        .await;
    let replica = &status.services["sick"].replicas[0];
    assert!(replica.restarts >= 4, "{replica:?}");
    let said = |text: &str| replica.last_lines.iter().any(|line| &*line.text == text);
    assert!(said("no database"), "{replica:?}");
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_says_so_and_is_tried_again() {
    let world = World::new().await;
    let mut absent = world.service("absent", 1, &[]);
    absent.command = CommandLine::Exec(vec!["no-such-program".to_owned()]);
    world.fleet.apply(vec![absent]).await.unwrap();
    let status = world
        .until("a second try", |status| {
            let service = status.services.get("absent");
            service.is_some_and(|service| service.replicas[0].restarts >= 1)
        })
        .await;
    let exit = &status.services["absent"].replicas[0].last_exit;
    let exit = exit.as_ref().unwrap().exit.to_string();
    assert!(exit.contains("cannot run `no-such-program`"), "{exit}");
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_flood_of_output_holds_up_nobody_and_its_follower_is_told_of_losses() {
    let world = World::new().await;
    let flood = world.shell("flood", "yes 'a line of forty characters, more or less'");
    let users = world.service("users", 1, &[]);
    world.fleet.apply(vec![flood, users]).await.unwrap();
    world.until_settled("users", 1).await;
    let name = "flood".parse().unwrap();
    let mut follower = world.fleet.follow(&name).unwrap();
    let lost = loop {
        match follower.next().await {
            Some(Followed::Line(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Some(Followed::Dropped(lines)) => break lines,
            None => panic!("the service is gone"),
        }
    };
    assert!(lost > 0);
    drop(follower);
    let logs = world.folder.path().join(".atoll/logs");
    eventually("the file was rotated", || {
        logs.join("flood-1.log.1").exists()
    })
    .await;
    let pid = world.fleet.status().borrow().services["users"].replicas[0].pid;
    kill_9(pid.unwrap());
    world
        .until("the other restarts meanwhile", |status| {
            let replica = &status.services["users"].replicas[0];
            replica.restarts == 1 && replica.state == ReplicaState::Running
        })
        .await;
    world.fleet.stop().await;
    let bytes: u64 = ["flood-1.log", "flood-1.log.1"]
        .iter()
        .map(|name| std::fs::metadata(logs.join(name)).unwrap().len())
        .sum();
    assert!(bytes <= 1024 * 1024, "{bytes}");
}

#[tokio::test]
async fn the_end_of_the_task_tree_stops_the_fleet_in_order() {
    let world = World::new().await;
    world
        .fleet
        .apply(vec![world.service("users", 2, &[])])
        .await
        .unwrap();
    world.until_settled("users", 2).await;
    world.tasks.stop(Duration::from_secs(60)).await.unwrap();
    let asked = world.neighbours.asked();
    assert!(asked.contains(&"idle users-2".to_owned()), "{asked:?}");
    assert_eq!(processes_of(world.folder.path()), []);
}

#[tokio::test]
async fn a_kill_during_a_stop_waits_for_nothing() {
    let world = World::new().await;
    world
        .fleet
        .apply(vec![world.service("users", 1, &["grandchild"])])
        .await
        .unwrap();
    world.until_settled("users", 1).await;
    let _held = world.neighbours.hold(&"users-1".parse().unwrap());
    let (report, ()) = tokio::join!(world.fleet.stop(), async {
        world
            .until("draining", |status| {
                let service = status.services.get("users");
                service.is_some_and(|users| users.replicas[0].state == ReplicaState::Draining)
            })
            .await;
        world.fleet.kill().await;
    });
    assert!(report.replicas[0].killed);
    assert_eq!(processes_of(world.folder.path()), []);
}

#[test]
fn a_runtime_that_is_dropped_without_a_stop_leaves_no_process() {
    // So does a test that fails.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let world = runtime.block_on(async {
        let world = World::new().await;
        let mut users = world.service("users", 1, &["grandchild"]);
        users.build = Some(CommandLine::Shell("sleep 0".to_owned()));
        let mut products = world.service("products", 1, &[]);
        products.build = Some(CommandLine::Shell("sleep 1000; true".to_owned()));
        world.fleet.apply(vec![users]).await.unwrap();
        world.until_settled("users", 1).await;
        let mut users = world.service("users", 1, &["grandchild"]);
        users.build = Some(CommandLine::Shell("sleep 0".to_owned()));
        world.fleet.apply(vec![users, products]).await.unwrap();
        // The service, its shell, its sleep; the build's shell, its sleep.
        eventually("all run", || processes_of(world.folder.path()).len() == 5).await;
        world
    });
    drop(runtime);
    let mut patience = 6_000;
    while !processes_of(world.folder.path()).is_empty() {
        patience -= 1;
        assert!(patience > 0, "something is left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_port_that_was_taken_meanwhile_is_given_up_at_the_restart() {
    let world = World::new().await;
    // The first start finds its port taken: by the test, which learns it from a file.
    let helper = crate::world::helper().display().to_string();
    let script = format!(
        "if [ ! -e port ]; then echo $PORT > port.new; mv port.new port; \
         until [ -e taken ]; do sleep 0.02; done; fi; exec {helper} serve"
    );
    world
        .fleet
        .apply(vec![world.shell("users", &script)])
        .await
        .unwrap();
    let folder = world.folder.path();
    eventually("the port is known", || folder.join("port").exists()).await;
    let port = std::fs::read_to_string(folder.join("port")).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    // Bound, not listening: else the check would take us for the replica.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind(([127, 0, 0, 1], port).into()).unwrap();
    std::fs::write(folder.join("taken"), "").unwrap();
    let replica = world.until_settled("users", 1).await[0].clone();
    assert_ne!(replica.port, Some(port));
    assert_eq!(replica.restarts, 1);
    world.fleet.stop().await;
}

#[tokio::test]
async fn programs_are_found_from_the_working_folder_and_by_the_given_path() {
    use std::os::unix::fs::PermissionsExt;

    let world = World::new().await;
    let folder = world.folder.path();
    std::fs::create_dir(folder.join("bin")).unwrap();
    let script = folder.join("bin/tool");
    std::fs::write(&script, "#!/bin/sh\necho here \"$1\"\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();

    let exec = |words: &[&str]| CommandLine::Exec(words.iter().map(|w| (*w).to_owned()).collect());
    let mut relative = world.service("relative", 1, &[]);
    relative.command = exec(&["bin/tool", "on:$PORT"]);
    let mut by_path = world.service("by-path", 1, &[]);
    by_path.command = exec(&["tool", "${PORT}"]);
    let path = format!("{}:/usr/bin:/bin", folder.join("bin").display());
    by_path.environment.insert("PATH".to_owned(), path);
    world.fleet.apply(vec![relative, by_path]).await.unwrap();

    for (name, prefix) in [("relative", "here on:"), ("by-path", "here ")] {
        let name = name.parse().unwrap();
        eventually("it printed", || {
            !world.fleet.logs(&name, None, 1).is_empty()
        })
        .await;
        let status = world
            .until("its port", |status| {
                status.services[&name].replicas[0].port.is_some()
            })
            .await;
        let port = status.services[&name].replicas[0].port.unwrap();
        let line = &world.fleet.logs(&name, None, 1)[0];
        assert_eq!(*line.text, format!("{prefix}{port}"));
    }
    world.fleet.stop().await;
}
