//! `atoll up` brings a fleet up, routes to it, keeps it up, and takes it down.

#![expect(
    clippy::disallowed_methods,
    reason = "a client that waits has a thread of its own"
)]

use atoll_e2e::{World, alive, describe, eventually, http, send, service_command};
use rustix::process::Signal;

fn echo_fleet(replicas: u32) -> String {
    format!(
        "name: echo\nservices:\n  echo:\n    command: {}\n    replicas: {replicas}\n    health: /healthz\nroutes:\n  /echo/{{path*}}: echo\n",
        service_command()
    )
}

fn up(yaml: &str) -> World {
    let mut world = World::new(yaml);
    world.up();
    world
}

#[test]
fn methods_bodies_and_query_strings_pass_through_unchanged() {
    let world = up(&echo_fleet(1));
    world.wait_passing("echo", 1);
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "PURGE"] {
        let path = "/echo/a%2Fb/c?x=1&y=%20&x=2";
        let body = if method == "GET" {
            ""
        } else {
            "{\"a\": 1}\r\n"
        };
        let headers = [("X-Mine", "kept"), ("Cookie", "a=b")];
        let answer =
            http::request(&world.gateway(), method, path, &headers, body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200);
        let text = answer.text();
        assert!(
            text.starts_with(&format!("{method} {path} HTTP/1.1\n")),
            "{text}"
        );
        assert!(text.to_lowercase().contains("\nx-mine: kept\n"), "{text}");
        assert!(text.to_lowercase().contains("\ncookie: a=b\n"), "{text}");
        assert!(text.ends_with(body), "{text}");
    }
}

#[test]
fn a_killed_replica_comes_back_by_itself() {
    let world = up(&echo_fleet(2));
    world.wait_passing("echo", 2);
    let before = world.pids("echo");
    send(before[0], Signal::KILL);
    eventually("another process takes its place", || {
        let now = world.pids("echo");
        (now.len() == 2 && !now.contains(&before[0])).then_some(())
    });
    world.wait_passing("echo", 2);
}

#[test]
fn killing_a_replica_every_three_seconds_for_half_a_minute_fails_no_request() {
    let world = up(&echo_fleet(2));
    world.wait_passing("echo", 2);
    let load = atoll_e2e::load::Load::start(&world.gateway(), "/echo/x", 200);
    for _ in 0..10 {
        // Three seconds of load, counted in requests.
        let until = load.sent() + 600;
        eventually("600 more requests were sent", || {
            (load.sent() >= until).then_some(())
        });
        send(world.pids("echo")[0], Signal::KILL);
        world.wait_passing("echo", 2);
    }
    let outcome = load.end();
    assert!(outcome.sent >= 6000);
    assert_eq!(outcome.failures, Vec::<String>::new());
}

#[test]
fn rewriting_the_file_every_second_for_half_a_minute_fails_no_request() {
    let world = up(&echo_fleet(2));
    world.wait_passing("echo", 2);
    let load = atoll_e2e::load::Load::start(&world.gateway(), "/echo/x", 200);
    for round in 0..30 {
        let until = load.sent() + 200;
        world.write(&format!(
            "{}  /round/{round}/{{path*}}: echo\n",
            echo_fleet(2)
        ));
        eventually("the new route answers", || {
            (world.get(&format!("/round/{round}/x")).status == 200).then_some(())
        });
        eventually("a second of load went by", || {
            (load.sent() >= until).then_some(())
        });
    }
    let outcome = load.end();
    assert!(outcome.sent >= 6000);
    assert_eq!(outcome.failures, Vec::<String>::new());
}

#[test]
fn a_changed_command_is_rolled_out_without_a_failed_request() {
    let world = up(&echo_fleet(2));
    world.wait_passing("echo", 2);
    let before = world.pids("echo");
    let load = atoll_e2e::load::Load::start(&world.gateway(), "/echo/x", 200);
    world.write(&echo_fleet(2).replace(
        "    replicas",
        "    environment: { COLOUR: red }\n    replicas",
    ));
    eventually("both replicas were replaced", || {
        let now = world.pids("echo");
        (now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(())
    });
    world.wait_passing("echo", 2);
    let outcome = load.end();
    assert_eq!(outcome.failures, Vec::<String>::new());
    assert!(world.get("/echo/env").text().contains("COLOUR=red\n"));
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let world = up(&echo_fleet(1));
    world.wait_passing("echo", 1);
    world.write("services:\n  echo:\n    comand: x\n");
    eventually("the error is printed", || {
        let printed = world.printed();
        (printed.contains("unknown key `comand`") && printed.contains("did you mean `command`"))
            .then_some(())
    });
    assert_eq!(world.get("/echo/x").status, 200);
}

#[test]
fn services_are_given_only_the_environment_that_the_file_names() {
    let world = up(&echo_fleet(1).replace(
        "    replicas",
        "    environment: { COLOUR: red, GREETING: \"${NOBODY_SET_THIS:-hello}\" }\n    replicas",
    ));
    world.wait_passing("echo", 1);
    let text = world.get("/echo/env").text();
    let mut names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    names.sort_unstable();
    assert!(text.contains("GREETING=hello\n"), "{text}");
    let allowed = [
        "ATOLL_INSTANCE",
        "ATOLL_RUN",
        "ATOLL_SERVICE",
        "COLOUR",
        "GREETING",
        "HOME",
        "LANG",
        "PATH",
        "PORT",
        "TZ",
        // Made by the shell that runs the command.
        "OLDPWD",
        "PWD",
        "SHLVL",
        "_",
    ];
    assert!(names.iter().all(|name| allowed.contains(name)), "{names:?}");
}

#[test]
fn ctrl_c_lets_requests_finish_and_leaves_no_process() {
    let mut world = up(&echo_fleet(2).replace("e2e-service\n", "e2e-service --child\n"));
    world.wait_passing("echo", 2);
    let mut pids = world.pids("echo");
    pids.extend(grandchildren(&world));
    assert_eq!(pids.len(), 4);
    let gateway = world.gateway();
    let slow = std::thread::spawn(move || http::get(&gateway, "/echo/slow/1500"));
    eventually("the slow request is in flight", || {
        let busy = world
            .instances("echo")
            .iter()
            .any(|i| i["in_flight"].as_u64() > Some(0));
        busy.then_some(())
    });
    let status = world.stop();
    assert!(status.success(), "{status}: {}", world.printed());
    assert_eq!(slow.join().unwrap().unwrap().text(), "slow");
    for pid in pids {
        assert!(!alive(pid), "process {pid} was left behind");
    }
}

#[test]
fn killing_atoll_itself_leaves_no_process() {
    let mut world = up(&echo_fleet(2).replace("e2e-service\n", "e2e-service --child\n"));
    world.wait_passing("echo", 2);
    let mut pids = world.pids("echo");
    pids.extend(grandchildren(&world));
    assert_eq!(pids.len(), 4);
    world.signal(Signal::KILL);
    world.ended();
    for pid in pids {
        eventually("what it started is gone", || (!alive(pid)).then_some(()));
    }
    // And the next start is not hindered by what the last one left.
    world.up();
    world.wait_passing("echo", 2);
}

#[test]
fn dependencies_start_in_order() {
    let yaml = format!(
        "services:\n  front:\n    command: {0}\n    health: /healthz\n    depends_on: {{ back: {{ condition: service_healthy }}, setup: {{ condition: service_completed_successfully }} }}\n  back:\n    command: sleep 1; exec {0}\n    health: /healthz\n  setup:\n    command: touch done\n    restart: \"no\"\n",
        service_command()
    );
    let world = up(&yaml);
    world.wait_passing("back", 1);
    world.wait_passing("front", 1);
    assert!(world.path().join("done").exists());
}

#[test]
fn a_service_that_cannot_start_is_said_with_what_it_printed() {
    let world =
        up("services:\n  broken:\n    command: echo cannot open the database >&2; exit 3\n");
    eventually("the reason is printed", || {
        let printed = world.printed();
        (printed.contains("cannot open the database") && printed.contains("status 3")).then_some(())
    });
    eventually("it is shown as crash-looping", || {
        let shown = world.run(&["status"]);
        describe(&shown).contains("crash-looping").then_some(())
    });
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut world = up(&echo_fleet(1));
    world.wait_passing("echo", 1);
    let pids = world.pids("echo");
    let gateway = world.gateway();
    let slow = std::thread::spawn(move || http::get(&gateway, "/echo/slow/60000"));
    eventually("the slow request is in flight", || {
        let busy = world
            .instances("echo")
            .iter()
            .any(|i| i["in_flight"].as_u64() > Some(0));
        busy.then_some(())
    });
    world.signal(Signal::INT);
    eventually("the first signal is taken", || {
        world.printed().contains("stopping").then_some(())
    });
    world.signal(Signal::INT);
    let status = world.ended();
    assert!(
        !status.success(),
        "an end that cut requests off is no success"
    );
    drop(slow.join().unwrap());
    for pid in pids {
        eventually("the replica is gone", || (!alive(pid)).then_some(()));
    }
}

#[test]
fn a_build_runs_first_and_a_failed_one_is_said_while_the_rest_serves() {
    let world = up(&format!(
        "services:\n  good:\n    build: echo made > made.txt\n    command: cat made.txt; exec {0}\n    health: /healthz\n  bad:\n    build: echo cannot find the compiler >&2; exit 7\n    command: {0}\nroutes:\n  /good/{{path*}}: good\n",
        service_command()
    ));
    world.wait_passing("good", 1);
    assert_eq!(world.get("/good/x").status, 200);
    eventually("the reason is printed", || {
        let printed = world.printed();
        (printed.contains("cannot find the compiler") && printed.contains('7')).then_some(())
    });
    let bad = world.run(&["services", "bad"]);
    assert!(
        describe(&bad).contains("build failed"),
        "{}",
        describe(&bad)
    );
    let good = world.run(&["logs", "good"]);
    assert!(describe(&good).contains("made"), "{}", describe(&good));
}

#[test]
fn an_empty_file_starts_and_serves_what_it_has() {
    let mut world = World::new("");
    world.up();
    let none = world.get("/");
    assert_eq!(none.status, 404, "{}", none.text());
    let status = world.api("status");
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(status["services"].as_array().map(Vec::len), Some(0));
    assert!(world.stop().success(), "{}", world.printed());
}

#[test]
fn a_terminated_atoll_stops_like_an_interrupted_one() {
    let mut world = up(&echo_fleet(1));
    world.wait_passing("echo", 1);
    let pids = world.pids("echo");
    world.signal(Signal::TERM);
    assert!(world.ended().success(), "{}", world.printed());
    for pid in pids {
        assert!(!alive(pid), "process {pid} was left behind");
    }
}

#[test]
fn an_idle_atoll_is_small() {
    let world = up("");
    // A debug build with all its symbols; the promise (30 MB) is measured in bench/results.md.
    assert!(atoll_e2e::resident_bytes(world.pid()) < 100 << 20);
}

/// Process ids that the replicas' `--child` printed.
fn grandchildren(world: &World) -> Vec<i32> {
    eventually("each replica printed its grandchild", || {
        let logs = world.run(&["logs", "echo"]);
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        let words = text
            .lines()
            .filter_map(|line| line.rsplit_once("grandchild "));
        let pids: Vec<i32> = words
            .filter_map(|(_, pid)| pid.trim().parse().ok())
            .collect();
        (pids.len() == 2).then_some(pids)
    })
}
