//! A file that changes while Atoll runs: taken whole, or not at all.

use std::fs;

use atoll_e2e::{World, alive, eventually, service_command};
use rustix::process::Signal;
use serde_json::Value;

fn echo(more: &str) -> String {
    format!(
        "services:\n  echo:\n    command: {}\n    health: /healthz\nroutes:\n  /echo/{{path*}}: echo\n{more}",
        service_command()
    )
}

fn up(yaml: &str) -> World {
    let mut world = World::new(yaml);
    world.up();
    world.wait_passing("echo", 1);
    world
}

fn answers(world: &World, path: &str, status: u16) {
    eventually(&format!("{path} answers {status}"), || {
        (world.get(path).status == status).then_some(())
    });
}

#[test]
fn a_file_that_is_written_in_place_is_taken() {
    let world = up(&echo(""));
    let before = world.api("status")["generation"].as_u64();
    world.overwrite(&echo("  /more/{path*}: echo\n"));
    answers(&world, "/more/x", 200);
    let status = world.api("status");
    assert!(status["generation"].as_u64() > before, "{status}");
    assert_eq!(status["last_reload"]["ok"], true, "{status}");
    world.write(&echo(""));
    answers(&world, "/more/x", 404);
    assert_eq!(world.get("/echo/x").status, 200);
}

#[test]
fn a_hangup_reads_the_file_again() {
    let world = up(&echo(""));
    let pids = world.pids("echo");
    let at = |status: &Value| status["last_reload"]["at_unix_ms"].as_u64();
    let before = at(&world.api("status"));
    // Nothing changed, so that it is the signal and not the watcher.
    world.signal(Signal::HUP);
    eventually("it tried", || {
        let status = world.api("status");
        (at(&status) > before && status["last_reload"]["ok"] == true).then_some(())
    });
    assert_eq!(world.pids("echo"), pids, "what did not change goes on");
    let told = world.tell("POST", "reload", &Value::Null);
    assert_eq!(told.status, 200, "{}", told.text());
}

#[test]
fn a_bad_file_is_refused_with_its_place_wherever_one_asks() {
    let world = up(&echo(""));
    let before = world.api("status")["generation"].clone();
    world.write(&echo("  /more/{path*}: ehco\n"));
    let status = eventually("it is refused", || {
        let status = world.api("status");
        (status["last_reload"]["ok"] == false).then_some(status)
    });
    let detail = status["last_reload"]["detail"].to_string();
    assert!(detail.contains("atoll.yaml:7:"), "{detail}");
    assert!(detail.contains("did you mean `echo`"), "{detail}");
    assert_eq!(status["generation"], before);
    let told = world.tell("POST", "reload", &Value::Null);
    assert_eq!(told.status, 400, "{}", told.text());
    assert!(told.text().contains("atoll.yaml:7:"), "{}", told.text());
    assert_eq!(world.get("/echo/x").status, 200);
    world.write(&echo("  /more/{path*}: echo\n"));
    answers(&world, "/more/x", 200);
}

#[test]
fn a_file_that_is_gone_changes_nothing_until_it_is_back() {
    let world = up(&echo(""));
    let file = world.path().join("atoll.yaml");
    fs::remove_file(&file).unwrap();
    eventually("its absence is noticed", || {
        (world.api("status")["last_reload"]["ok"] == false).then_some(())
    });
    assert_eq!(world.get("/echo/x").status, 200);
    world.write(&echo("  /more/{path*}: echo\n"));
    answers(&world, "/more/x", 200);
    assert_eq!(world.api("status")["last_reload"]["ok"], true);
}

#[test]
fn services_come_and_go_with_the_file() {
    let world = up(&echo(""));
    let stays = world.pids("echo");
    let more = format!(
        "{}  /more/{{path*}}: more\n",
        echo("").replace(
            "routes:",
            &format!(
                "  more:\n    command: {}\n    replicas: 2\n    health: /healthz\nroutes:",
                service_command()
            )
        )
    );
    world.write(&more);
    world.wait_passing("more", 2);
    answers(&world, "/more/x", 200);
    world.write(&more.replace("replicas: 2", "replicas: 3"));
    world.wait_passing("more", 3);
    let pids = world.pids("more");
    world.write(&echo(""));
    for pid in pids {
        eventually("what is no longer wanted is stopped", || {
            (!alive(pid)).then_some(())
        });
    }
    answers(&world, "/more/x", 404);
    assert_eq!(world.pids("echo"), stays, "what did not change goes on");
}

#[test]
fn what_needs_a_restart_is_said() {
    let world = up(&echo(""));
    let listen =
        "listen: { gateway: \"127.0.0.1:0\", console: off, dns: off, eureka: off, consul: off }\n";
    world.write(&format!("{listen}{}", echo("  /more/{path*}: echo\n")));
    answers(&world, "/more/x", 200);
    let status = eventually("it is said", || {
        let status = world.api("status");
        let said = status["last_reload"]["detail"].to_string();
        said.contains("listen").then_some(status)
    });
    assert_eq!(status["last_reload"]["ok"], true, "{status}");
    let printed = world.printed();
    assert!(
        printed.contains("listen") && printed.contains("restart"),
        "{printed}"
    );
}

#[test]
fn variables_of_the_env_file_are_read_again_too() {
    let coloured = |yaml: String| {
        yaml.replace(
            "    health",
            "    environment: { COLOUR: \"${COLOUR:-none}\" }\n    health",
        )
    };
    let world = up(&coloured(echo("")));
    assert!(world.get("/echo/env").text().contains("COLOUR=none\n"));
    fs::write(world.path().join(".env"), "COLOUR=blue\n").unwrap();
    world.write(&coloured(echo("  /more/{path*}: echo\n")));
    eventually("the service runs with it", || {
        let answer = world.get("/echo/env");
        assert_eq!(answer.status, 200);
        answer.text().contains("COLOUR=blue\n").then_some(())
    });
}
