//! The command line beside a running fleet.

use std::fs;

use atoll_e2e::outside::Service;
use atoll_e2e::{World, describe, eventually, http, send, service_command};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Two services, one of them twice, and routes that nearly take the same requests.
fn fleet() -> World {
    let mut world = World::new(&format!(
        "name: two\nservices:\n  echo:\n    command: {0}\n    replicas: 2\n    health: /healthz\n  other:\n    command: {0}\n    health: /healthz\nroutes:\n  /echo/{{path*}}:\n    to: echo\n    timeout: 7s\n  /beta/{{path*}}:\n    to: other\n    hostnames: [beta.example]\n",
        service_command()
    ));
    world.up();
    world.wait_passing("echo", 2);
    world.wait_passing("other", 1);
    world
}

/// What a command prints when it succeeds.
fn says(world: &World, arguments: &[&str]) -> String {
    let output = world.run(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        describe(&output)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Without what changes from one look to the next.
fn still(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for changing in ["uptime_ms", "in_flight"] {
                fields.remove(changing);
            }
            for (_, field) in fields.iter_mut() {
                *field = still(field.take());
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| *one = still(one.take())),
        _ => {}
    }
    value
}

#[test]
fn json_is_what_the_admin_api_says() {
    let world = fleet();
    for (arguments, path) in [
        (&["status", "--json"][..], "status"),
        (&["services", "--json"], "services"),
        (&["services", "echo", "--json"], "services/echo"),
        (&["routes", "--json"], "routes"),
    ] {
        let shown = still(world.run_json(arguments));
        assert_eq!(shown, still(world.api(path)), "{arguments:?}");
    }
    let explained = world.run_json(&["explain", "GET", "/echo/7", "--json"]);
    let asked = json!({"method": "GET", "url": "/echo/7"});
    let answer = world.tell("POST", "explain", &asked);
    assert_eq!(still(explained), still(answer.json()));
    assert_eq!(world.run_json(&["--json", "status"])["name"], "two");
}

#[test]
fn people_see_what_runs_where() {
    let world = fleet();
    let status = says(&world, &["status"]);
    for word in ["two", "echo", "other", "passing", &world.gateway()] {
        assert!(status.contains(word), "{word}: {status}");
    }
    let services = says(&world, &["services"]);
    for word in ["echo", "other"] {
        assert!(services.contains(word), "{word}: {services}");
    }
    let one = says(&world, &["services", "echo"]);
    assert!(one.contains("echo-2") && !one.contains("other-1"), "{one}");
    for pid in world.pids("echo") {
        assert!(one.contains(&pid.to_string()), "{pid}: {one}");
    }
    let routes = says(&world, &["routes"]);
    for word in ["/echo/{path*}", "/beta/{path*}", "beta.example", "other"] {
        assert!(routes.contains(word), "{word}: {routes}");
    }
    let unknown = world.run(&["services", "ehco"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", describe(&unknown));
    assert!(describe(&unknown).contains("ehco"));
}

#[test]
fn colour_is_for_terminals_or_on_demand() {
    let world = fleet();
    assert!(!says(&world, &["status"]).contains('\u{1b}'));
    assert!(!world.printed().contains('\u{1b}'), "{}", world.printed());
    assert!(says(&world, &["--color", "always", "status"]).contains("\u{1b}["));
    assert!(!says(&world, &["--color", "never", "status"]).contains('\u{1b}'));
}

#[test]
fn another_folder_is_named_by_folder_or_file() {
    let world = fleet();
    let elsewhere = World::new("");
    let folder = world.path().display().to_string();
    let file = world.path().join("atoll.yaml").display().to_string();
    for named in [&folder, &file] {
        for option in ["-C", "--directory"] {
            let output = elsewhere.run_in(elsewhere.path(), &[option, named, "status", "--json"]);
            assert!(output.status.success(), "{}", describe(&output));
            let status: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(status["pid"], world.pid(), "{status}");
        }
    }
    let checked = elsewhere.run(&["check", &folder]);
    assert!(checked.status.success(), "{}", describe(&checked));
}

#[test]
fn the_data_folder_can_be_elsewhere() {
    let world = World::new("name: moved\n");
    let data = world.path().join("elsewhere/data");
    let data = data.display().to_string();
    let mut up = world.start(&["--data-dir", &data, "up", "."], "moved.log");
    eventually("it runs", || {
        let shown = world.run(&["--data-dir", &data, "status", "--json"]);
        let status: Value = serde_json::from_slice(&shown.stdout).ok()?;
        (status["name"] == "moved").then_some(())
    });
    assert!(!world.path().join(".atoll").exists());
    send(up.pid(), Signal::INT);
    assert!(up.ended().success());
}

#[test]
fn explain_names_the_route_its_policies_and_who_is_eligible() {
    let world = fleet();
    let text = says(&world, &["explain", "GET", "/echo/7?x=1"]);
    for word in ["/echo/{path*}", "atoll.yaml:", "7s", "echo-1", "echo-2"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let explained = world.run_json(&["explain", "GET", "/echo/7?x=1", "--json"]);
    assert_eq!(explained["route"]["name"], "/echo/{path*}", "{explained}");
    assert_eq!(explained["upstream_path"], "/echo/7?x=1", "{explained}");
    let all = explained["instances"].as_array().unwrap();
    let eligible = all.iter().filter(|one| one["eligible"] == true);
    assert_eq!(eligible.count(), 2, "{explained}");
}

#[test]
fn explain_says_what_was_close_and_what_a_header_would_change() {
    let world = fleet();
    let missed = world.run_json(&["explain", "GET", "/beta/7", "--json"]);
    assert_eq!(missed["status"], 404, "{missed}");
    let near = missed["near"].as_array().unwrap();
    let beta = near.iter().find(|one| one["route"] == "/beta/{path*}");
    let beta = beta.unwrap_or_else(|| panic!("{missed}"));
    assert!(beta["why"].to_string().contains("beta.example"), "{beta}");
    let text = says(&world, &["explain", "GET", "/beta/7"]);
    assert!(
        text.contains("no route") && text.contains("beta.example"),
        "{text}"
    );

    let by_header = [
        "explain",
        "GET",
        "/beta/7",
        "-H",
        "Host: beta.example",
        "--json",
    ];
    let by_url = ["explain", "GET", "http://beta.example/beta/7", "--json"];
    for arguments in [&by_header[..], &by_url] {
        let taken = world.run_json(arguments);
        assert_eq!(taken["route"]["name"], "/beta/{path*}", "{taken}");
        assert_eq!(taken["instances"][0]["service"], "other", "{taken}");
    }
    // And the gateway does as explained.
    assert_eq!(world.get("/beta/7").status, 404);
    let connection = http::Connection::named(&world.gateway(), "beta.example");
    let mut connection = connection.unwrap();
    let answer = connection.send("GET", "/beta/7", &[], b"").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());

    let unreadable = world.run(&["explain", "GET", "/", "-H", "no colon"]);
    assert_eq!(
        unreadable.status.code(),
        Some(2),
        "{}",
        describe(&unreadable)
    );
}

#[test]
fn explain_says_why_an_instance_is_left_out() {
    let outside = Service::start("outside");
    let world = fleet();
    let sick = json!({"address": outside.address, "health": "critical"});
    let path = "services/echo/instances/outside";
    assert_eq!(world.tell("PUT", path, &sick).status, 200);
    let left_out = eventually("the gateway knows of it", || {
        let explained = world.run_json(&["explain", "GET", "/echo/7", "--json"]);
        let all = explained["instances"].as_array()?.clone();
        all.into_iter().find(|one| one["id"] == "outside")
    });
    assert_eq!(left_out["eligible"], false, "{left_out}");
    assert!(
        left_out["why"].to_string().contains("critical"),
        "{left_out}"
    );
    let text = says(&world, &["explain", "GET", "/echo/7"]);
    assert!(
        text.contains("outside") && text.contains("critical"),
        "{text}"
    );
}

/// Has each instance of a service print a word.
fn print(world: &World, service: &str, word: &str) {
    for instance in world.instances(service) {
        let address = instance["address"].as_str().expect("an address");
        http::get(address, &format!("/say/{word}")).expect("an answer");
    }
}

#[test]
fn logs_show_what_a_service_printed() {
    let world = fleet();
    print(&world, "echo", "marzipan");
    print(&world, "other", "nougat");
    let text = eventually("both replicas' lines are kept", || {
        let text = says(&world, &["logs", "echo"]);
        (text.matches("marzipan").count() == 2).then_some(text)
    });
    assert!(text.contains("echo-1") && text.contains("echo-2"), "{text}");
    assert!(!text.contains("nougat"), "{text}");

    let of_one = says(&world, &["logs", "echo", "--replica", "echo-2"]);
    assert_eq!(of_one.matches("marzipan").count(), 1, "{of_one}");
    assert_eq!(
        says(&world, &["logs", "echo", "--tail", "1"])
            .lines()
            .count(),
        1
    );

    let lines = says(&world, &["logs", "echo", "--json"]);
    let lines = lines.lines().map(|line| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    });
    let said: Vec<Value> = lines.filter(|line| line["text"] == "marzipan").collect();
    assert_eq!(said.len(), 2);
    assert_eq!(said[0]["stream"], "stdout");

    let unknown = world.run(&["logs", "ehco"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", describe(&unknown));
    assert!(describe(&unknown).contains("ehco"));
}

#[test]
fn logs_are_followed_until_somebody_stops() {
    let mut world = fleet();
    let follow = |name: &str| world.start(&["logs", "echo", "-f"], name);
    let (mut stopped, mut left) = (follow("stopped.log"), follow("left.log"));
    let read = |name: &str| fs::read_to_string(world.path().join(name)).unwrap_or_default();
    for name in ["stopped.log", "left.log"] {
        eventually("what was printed before is shown", || {
            read(name).contains("listening on").then_some(())
        });
    }
    print(&world, "echo", "marzipan");
    for name in ["stopped.log", "left.log"] {
        eventually("what is printed meanwhile is shown", || {
            (read(name).matches("marzipan").count() == 2).then_some(())
        });
    }
    send(stopped.pid(), Signal::INT);
    stopped.ended();
    // Followers do not hold up the end of what they follow.
    assert!(world.stop().success(), "{}", world.printed());
    left.ended();
}

#[test]
fn a_second_up_in_the_same_folder_is_refused() {
    let world = fleet();
    let second = world.run(&["up", "."]);
    let text = describe(&second);
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(
        text.contains("running") && text.contains(&world.pid().to_string()),
        "{text}"
    );
    // And the first does not mind.
    assert_eq!(world.get("/echo/x").status, 200);
    assert!(says(&world, &["status"]).contains("passing"));
}

#[test]
fn doctor_sees_the_running_fleet() {
    let world = fleet();
    // Its ports are taken, but by the one who should.
    let text = says(&world, &["doctor"]);
    assert!(text.contains(&world.gateway()), "{text}");
    let checks = world.run_json(&["doctor", "--json"]).to_string();
    assert!(checks.contains("atoll.yaml"), "{checks}");
}
