//! The configuration through its doors: a text goes in, finished types or rendered
//! errors come out. What is refused, and how it is said, is in `tests/config/*.txt`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::diagnostic::Problems;
use super::source::Source;
use super::variables::Variables;
use super::*;

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    pairs.iter().map(owned).collect()
}

/// As `/fleet/atoll.yaml`, without a disk.
fn understand(yaml: &str, environment: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    let source = Source::from_bytes("atoll.yaml", yaml.as_bytes().to_vec())?;
    let variables = Variables {
        process: variables(environment),
        file: BTreeMap::new(),
    };
    let place = Place {
        folder: Path::new("/fleet"),
        file_name: "atoll.yaml",
        reads_files: false,
    };
    read(&source, &place, &variables, Problems::default())
}

fn good(yaml: &str) -> Loaded {
    understand(yaml, &[]).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"))
}

fn refused(yaml: &str) -> String {
    match understand(yaml, &[]) {
        Ok(_) => panic!("accepted: {yaml}"),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn the_example_fleet_is_read() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop/atoll.yaml");
    let shop = load(&file, &BTreeMap::new()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(shop.name, "shop");
    assert_eq!(shop.workloads.len(), 2);
    let users = &shop.workloads[0];
    assert_eq!(users.replicas, 2);
    assert_eq!(users.command.to_string(), "exec target/example/shop-users");
    assert_eq!(
        users.environment["DATABASE_PATH"],
        "examples/shop/data/users.db"
    );
    let root = fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    assert_eq!(users.working_dir, root);
    assert_eq!(shop.gateway.routes[0].origin, "atoll.yaml:24");
    assert_eq!(shop.warnings, []);
}

#[test]
fn every_error_is_shown_at_once_with_its_place() {
    let text = refused(
        "services:\n  users:\n    command: run\n    replica: 2\n    health: healthz\nroutes:\n  /users/{path*}: usres\n",
    );
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
fn an_empty_file_is_a_fleet_without_services() {
    for yaml in [
        "",
        "\n",
        "# nothing\n",
        "---\n",
        "services:\nroutes:\n",
        "{}",
    ] {
        let empty = good(yaml);
        assert_eq!(empty.name, "fleet");
        assert_eq!(empty.listen.gateway.unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(empty.listen.console.unwrap().to_string(), "127.0.0.1:7070");
        assert_eq!(empty.gateway_drain, Duration::from_secs(30));
        assert!(empty.workloads.is_empty() && empty.gateway.routes.is_empty());
    }
}
