//! The command line without a running fleet: help, errors, exit statuses.

use std::net::TcpListener;

use atoll_e2e::{World, describe};

/// Runs a command in a folder with this file and returns status and all output.
fn run(yaml: &str, arguments: &[&str]) -> (i32, String) {
    let world = World::new(yaml);
    let output = world.run(arguments);
    (output.status.code().unwrap_or(-1), describe(&output))
}

#[test]
fn usage_errors_exit_with_2_and_name_the_nearest() {
    let (status, text) = run("", &["statsu"]);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("status"), "{text}");
    let (status, text) = run("", &["explain", "GET"]);
    assert_eq!(status, 2, "{text}");
}

#[test]
fn help_names_every_command() {
    let (status, text) = run("", &["--help"]);
    assert_eq!(status, 0);
    let commands = [
        "up",
        "check",
        "config",
        "status",
        "services",
        "routes",
        "logs",
        "explain",
        "doctor",
        "completions",
    ];
    for command in commands {
        assert!(
            text.contains(&format!("\n  {command} ")),
            "{command}: {text}"
        );
        let (status, help) = run("", &[command, "--help"]);
        assert_eq!(status, 0, "{help}");
    }
}

#[test]
fn check_shows_every_error_at_once_with_its_place() {
    let yaml = "services:\n  users:\n    command: run\n    replica: 2\n    health: healthz\nroutes:\n  /users/{path*}: usres\n";
    let (status, text) = run(yaml, &["check"]);
    assert_eq!(status, 1, "{text}");
    for expected in [
        "atoll.yaml:4:5",
        "unknown key `replica`",
        "did you mean `replicas`?",
        "atoll.yaml:5:13",
        "atoll.yaml:7:19",
        "did you mean `users`?",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn check_of_a_good_file_says_so() {
    let (status, text) = run("services: { a: { command: \"true\" } }", &["check"]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("1 service"), "{text}");
}

#[test]
fn config_prints_what_it_reads_back_alike() {
    let world = World::new(
        "services: { a: { command: \"true\", health: /up } }\nroutes: { \"/a/{p*}\": a }",
    );
    let first = world.run(&["config"]);
    assert!(first.status.success(), "{}", describe(&first));
    let text = String::from_utf8(first.stdout).unwrap();
    world.write(&text);
    let again = String::from_utf8(world.run(&["config"]).stdout).unwrap();
    assert_eq!(text, again);
    assert!(world.run_json(&["config", "--schema"])["properties"]["services"].is_object());
    assert!(world.run_json(&["config", "--format", "json"])["services"]["a"].is_object());
}

#[test]
fn a_missing_file_says_where_it_looked() {
    let world = World::new("");
    let output = world.run(&["up", "nowhere"]);
    let text = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nowhere"), "{text}");
}

#[test]
fn a_busy_port_says_which_and_how_to_mend_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (status, text) = run(
        &format!("listen: {{ gateway: \"{address}\", console: \"127.0.0.1:0\" }}"),
        &["up", "."],
    );
    assert_eq!(status, 1, "{text}");
    assert!(
        text.contains(&address.to_string()) && text.contains("listen"),
        "{text}"
    );
}

#[test]
fn commands_that_need_a_running_fleet_say_how_to_start_one() {
    for arguments in [
        &["status"][..],
        &["services"],
        &["routes"],
        &["logs", "users"],
    ] {
        let (status, text) = run("", arguments);
        assert_eq!(status, 1, "{text}");
        assert!(text.contains("atoll up"), "{text}");
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, text) = run("", &["completions", shell]);
        assert_eq!(status, 0);
        assert!(text.contains("atoll"), "{text}");
    }
}

#[test]
fn doctor_looks_at_ports_file_and_limits() {
    let (status, text) = run("", &["doctor"]);
    assert_eq!(status, 0, "{text}");
    for word in ["atoll.yaml", "gateway", "open files"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
