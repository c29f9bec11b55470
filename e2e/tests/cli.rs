//! The command line without a running fleet: help, errors, exit statuses.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

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
        "migrate",
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
fn five_typos_are_shown_at_once_each_with_the_right_word() {
    let yaml = "nmae: shop\nservices:\n  users:\n    comand: run\n    replcas: 2\n    heatlh: /healthz\nruotes:\n  /users/{path*}: users\n";
    for arguments in [&["check"][..], &["config"], &["up", "."]] {
        let (status, text) = run(yaml, arguments);
        assert_eq!(status, 1, "{arguments:?}: {text}");
        for (place, written, meant) in [
            ("atoll.yaml:1:1", "nmae", "name"),
            ("atoll.yaml:4:5", "comand", "command"),
            ("atoll.yaml:5:5", "replcas", "replicas"),
            ("atoll.yaml:6:5", "heatlh", "health"),
            ("atoll.yaml:7:1", "ruotes", "routes"),
        ] {
            assert!(text.contains(place), "{place}: {text}");
            assert!(text.contains(&format!("`{written}`")), "{written}: {text}");
            let question = format!("did you mean `{meant}`?");
            assert!(text.contains(&question), "{question}: {text}");
        }
        // The line itself, with a mark under what is meant.
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines
            .iter()
            .position(|line| line.contains("comand: run"))
            .unwrap_or_else(|| panic!("{text}"));
        let column = lines[shown].find("comand").unwrap();
        let under = lines[shown + 1].get(column..column + "comand".len());
        assert_eq!(under, Some("^^^^^^"), "{text}");
    }
}

#[test]
fn files_that_would_hurt_are_refused_in_words() {
    let bomb: String = (0..30)
        .map(|level| {
            let name = |n: i32| format!("x-{n}");
            match level {
                0 => format!("{}: &a0 [lol]\n", name(0)),
                n => format!("{}: &a{n} [*a{1}, *a{1}, *a{1}]\n", name(n), n - 1),
            }
        })
        .collect();
    let deep = format!("x-deep: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("x-large: \"{}\"\n", "a".repeat(10 << 20));
    for (what, bytes) in [
        ("not UTF-8", b"name: \xff\xfe\n".to_vec()),
        ("an alias bomb", bomb.into_bytes()),
        ("deep nesting", deep.into_bytes()),
        ("10 MB", large.into_bytes()),
    ] {
        let world = World::new("");
        fs::write(world.path().join("atoll.yaml"), bytes).unwrap();
        let output = world.run(&["check"]);
        let text = describe(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {text}");
        assert!(text.contains("atoll.yaml"), "{what}: {text}");
        assert!(!text.contains("panicked"), "{what}: {text}");
        assert!(text.len() < 10_000, "{what}: {} bytes", text.len());
    }
}

#[test]
fn variables_come_from_the_environment_then_the_env_file_then_the_default() {
    let world = World::new(
        "services:\n  a:\n    command: run $PORT\n    environment:\n      ONE: \"${FROM_FILE}\"\n      TWO: \"${NOBODY_SET_THIS:-two}\"\n      THREE: \"${FROM_FILE:+three}\"\n      FOUR: \"$$FROM_FILE\"\n      FIVE: \"${PATH}\"\n",
    );
    let env = "# a comment\nFROM_FILE='one word'\nexport PATH=/nowhere\n";
    fs::write(world.path().join(".env"), env).unwrap();
    let config = world.run_json(&["config", "--format", "json"]);
    let service = &config["services"]["a"];
    let environment = &service["environment"];
    assert_eq!(environment["ONE"], "one word", "{config}");
    assert_eq!(environment["TWO"], "two", "{config}");
    assert_eq!(environment["THREE"], "three", "{config}");
    // Doubled again, so that what is printed can be read back.
    assert_eq!(environment["FOUR"], "$$FROM_FILE", "{config}");
    assert_ne!(environment["FIVE"], "/nowhere", "{config}");
    assert!(service["command"].to_string().contains("$PORT"), "{config}");

    world.write("services:\n  a:\n    command: \"run ${NOBODY_SET_THIS:?say which}\"\n");
    let output = world.run(&["check"]);
    let text = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in ["atoll.yaml:3:", "NOBODY_SET_THIS", "say which"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn config_shows_every_default_in_both_formats() {
    let world = World::new(
        "services: { a: { command: run, replicas: 2 } }\nroutes: { \"/a/{p*}\": a }\nx-mine: { free: yes }\n",
    );
    let yaml = world.run(&["config", "--format", "yaml"]);
    let yaml = String::from_utf8(yaml.stdout).unwrap();
    assert_eq!(
        yaml,
        String::from_utf8(world.run(&["config"]).stdout).unwrap()
    );
    let json = world.run_json(&["config", "--format", "json"]);
    // What the shorthand left out is there.
    let route = &json["routes"]["/a/{p*}"];
    assert!(route.is_object(), "{json}");
    for key in ["backends", "timeouts", "retry"] {
        assert!(route.get(key).is_some(), "{key}: {json}");
        assert!(yaml.contains(key), "{key}: {yaml}");
    }
    // And read back, from either, it means the same.
    for text in [yaml, json.to_string()] {
        fs::write(world.path().join("atoll.yaml"), &text).unwrap();
        assert_eq!(world.run_json(&["config", "--format", "json"]), json);
    }
}

#[test]
fn a_folder_without_a_file_says_what_is_looked_for() {
    let world = World::new("");
    fs::remove_file(world.path().join("atoll.yaml")).unwrap();
    for command in ["up", "check", "config"] {
        let output = world.run(&[command]);
        let text = describe(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("atoll.yaml"), "{text}");
    }
}

#[test]
fn duplicate_keys_are_errors_and_free_keys_are_not() {
    let (status, text) = run(
        "x-anything: { at: all }\nservices:\n  a: { command: run }\n  a: { command: walk }\n",
        &["check"],
    );
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("atoll.yaml:4:3"), "{text}");
    assert!(!text.contains("x-anything"), "{text}");
}

#[test]
fn check_in_json_is_for_programs() {
    let world = World::new("servces: {}\n");
    let output = world.run(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said.to_string().contains("servces"), "{said}");
    world.write("services: {}\n");
    world.run_json(&["check", "--json"]);
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
        &format!(
            "listen: {{ gateway: \"{address}\", console: \"127.0.0.1:0\", dns: off, eureka: off, consul: off }}"
        ),
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
    let world = World::new("");
    let script = world.path().join("completions.bash");
    fs::write(&script, world.run(&["completions", "bash"]).stdout).unwrap();
    // Bash itself offers what begins so.
    let ask = "source ./completions.bash; COMP_WORDS=(atoll ser) COMP_CWORD=1; $(complete -p atoll | sed 's/.*-F \\([^ ]*\\).*/\\1/') atoll ser atoll; echo \"${COMPREPLY[@]}\"";
    let offered = Command::new("bash")
        .args(["-c", ask])
        .current_dir(world.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&offered.stdout).into_owned();
    assert!(text.contains("services"), "{}", describe(&offered));
    let (status, text) = run("", &["completions", "tcsh"]);
    assert_eq!(status, 2, "{text}");
}

#[test]
fn doctor_finds_what_is_wrong() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (_, text) = run(
        &format!(
            "listen: {{ gateway: \"{address}\", console: \"127.0.0.1:0\", dns: off, eureka: off, consul: off }}"
        ),
        &["doctor"],
    );
    assert!(text.contains(&address), "{text}");
    let (_, text) = run("nmae: shop\n", &["doctor"]);
    assert!(text.contains("did you mean `name`?"), "{text}");
}

#[test]
fn doctor_looks_at_ports_file_and_limits() {
    let (status, text) = run("", &["doctor"]);
    assert_eq!(status, 0, "{text}");
    for word in ["atoll.yaml", "gateway", "open files"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
