//! Services that register themselves: routed to, checked, drained, believed for as
//! long as their lease, and remembered when Atoll is killed.

#![expect(clippy::disallowed_methods, reason = "a lease runs by the real clock")]

use std::collections::BTreeSet;

use atoll_e2e::http::{self, Connection};
use atoll_e2e::outside::Service;
use atoll_e2e::{World, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A world that routes `/x` to a service of one instance that Atoll does not run.
fn world(first: &Service) -> World {
    let mut world = World::new(&format!(
        "services:\n  x:\n    endpoints: [\"{}\"]\nroutes:\n  /x/{{path*}}: x\n",
        first.address
    ));
    world.up();
    eventually("the first instance answers", || answers(&world, "first"));
    world
}

/// Registers an instance of `x` and says the revision that holds it.
fn register(world: &World, id: &str, instance: &Value) -> u64 {
    let answer = world.tell("PUT", &format!("services/x/instances/{id}"), instance);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["revision"].as_u64().expect("a revision")
}

/// Waits until the gateway routes by this revision of the catalogue.
fn routed(world: &World, revision: u64) {
    eventually("the gateway routes by the revision", || {
        (world.api("status")["routed_revision"].as_u64() >= Some(revision)).then_some(())
    });
}

/// Whether `name` answers some request through the gateway, and nobody fails one.
fn answers(world: &World, name: &str) -> Option<()> {
    let answer = world.get("/x/whoami");
    (answer.status == 200 && answer.text() == name).then_some(())
}

/// Who answers fifty requests.
fn who(world: &World) -> BTreeSet<String> {
    let asked = (0..50).map(|_| world.get("/x/whoami"));
    asked.map(|answer| answer.text()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// What `explain` says of an instance of `x`.
fn candidate(world: &World, id: &str) -> Value {
    let explained = world.run_json(&["explain", "GET", "/x/1", "--json"]);
    let all = explained["instances"].as_array().expect("instances");
    let found = all.iter().find(|one| one["id"] == id);
    found.unwrap_or_else(|| panic!("{explained}")).clone()
}

#[test]
fn a_registered_instance_gets_requests_until_it_is_deregistered() {
    let (first, second) = (Service::start("first"), Service::start("second"));
    let world = world(&first);
    let at = json!({"address": second.address, "tags": ["blue"], "metadata": {"zone": "a"}});
    routed(&world, register(&world, "second", &at));
    assert_eq!(who(&world), set(&["first", "second"]));
    let shown = world.instances("x");
    let shown = shown.iter().find(|one| one["id"] == "second");
    let shown = shown.expect("the instance is listed");
    assert_eq!(shown["address"], second.address);
    assert_eq!(shown["tags"], json!(["blue"]));
    assert_eq!(shown["metadata"]["zone"], "a");

    let gone = world.tell("DELETE", "services/x/instances/second", &Value::Null);
    assert_eq!(gone.status, 200, "{}", gone.text());
    routed(&world, gone.json()["revision"].as_u64().unwrap());
    assert_eq!(who(&world), set(&["first"]));
    let again = world.tell("DELETE", "services/x/instances/second", &Value::Null);
    assert_eq!(again.status, 404, "{}", again.text());
}

#[test]
fn an_instance_that_registers_again_moves() {
    let (first, second) = (Service::start("first"), Service::start("second"));
    let third = Service::start("third");
    let world = world(&first);
    register(&world, "mine", &json!({"address": second.address}));
    routed(
        &world,
        register(&world, "mine", &json!({"address": third.address})),
    );
    assert_eq!(who(&world), set(&["first", "third"]));
}

#[test]
fn a_lease_that_is_not_renewed_expires_and_one_that_is_does_not() {
    let first = Service::start("first");
    let world = world(&first);
    let leased = json!({"address": first.address, "lease_ms": 1500});
    register(&world, "silent", &leased);
    register(&world, "renewed", &leased);
    let renew = |id: &str| {
        let path = format!("services/x/instances/{id}/renew");
        world.tell("POST", &path, &Value::Null).status
    };
    let ids = || -> BTreeSet<String> {
        let all = world.instances("x");
        let ids = all.iter().filter_map(|one| one["id"].as_str());
        ids.map(str::to_owned).collect()
    };
    assert!(ids().contains("silent"));
    eventually("the silent one is forgotten", || {
        assert_eq!(renew("renewed"), 204);
        (!ids().contains("silent")).then_some(())
    });
    assert!(ids().contains("renewed"));
    assert_eq!(renew("silent"), 404, "which means: register again");
}

#[test]
fn an_unhealthy_instance_gets_no_requests_until_it_is_well() {
    let (first, second) = (Service::start("first"), Service::start("second"));
    let world = world(&first);
    let check = json!({"http": "/healthz", "interval_ms": 50, "failures_before_critical": 2});
    let at = json!({"address": second.address, "checks": [check]});
    register(&world, "second", &at);
    eventually("the second answers", || answers(&world, "second"));

    http::get(&second.address, "/sick").unwrap();
    eventually("the gateway leaves it out", || {
        (candidate(&world, "second")["eligible"] == false).then_some(())
    });
    assert_eq!(who(&world), set(&["first"]));
    let why = candidate(&world, "second")["why"].to_string();
    assert!(why.contains("critical") || why.contains("503"), "{why}");

    http::get(&second.address, "/well").unwrap();
    eventually("the second answers again", || answers(&world, "second"));
}

#[test]
fn a_draining_instance_gets_no_new_requests() {
    let (first, second) = (Service::start("first"), Service::start("second"));
    let world = world(&first);
    let at = json!({"address": second.address});
    routed(&world, register(&world, "second", &at));
    assert_eq!(who(&world), set(&["first", "second"]));
    let drained = world.tell("POST", "services/x/instances/second/drain", &Value::Null);
    assert_eq!(drained.status, 200, "{}", drained.text());
    routed(&world, drained.json()["revision"].as_u64().unwrap());
    assert_eq!(who(&world), set(&["first"]));
    let explained = candidate(&world, "second");
    assert_eq!(explained["eligible"], false);
    assert!(
        explained["why"].to_string().contains("drain"),
        "{explained}"
    );
}

#[test]
fn registrations_survive_kill_9_and_silence_is_forgiven_for_a_while() {
    let (first, second) = (Service::start("first"), Service::start("second"));
    let mut world = world(&first);
    let at = json!({"address": second.address, "metadata": {"zone": "a"}});
    register(&world, "forever", &at);
    let leased = json!({"address": second.address, "lease_ms": 1000});
    let acknowledged = register(&world, "leased", &leased);
    world.signal(Signal::KILL);
    world.ended();
    let down = std::time::Instant::now();
    eventually("the lease would be over", || {
        (down.elapsed().as_millis() > 1100).then_some(())
    });
    world.up();
    let kept = world.instances("x");
    let kept = |id: &str| kept.iter().find(|one| one["id"] == id).cloned();
    let forever = kept("forever").expect("what was acknowledged is kept");
    assert_eq!(forever["address"], second.address);
    assert_eq!(forever["metadata"]["zone"], "a");
    assert!(
        kept("leased").is_some(),
        "nobody could renew while Atoll was down"
    );
    let renewed = world.tell("POST", "services/x/instances/leased/renew", &Value::Null);
    assert_eq!(renewed.status, 204, "{}", renewed.text());
    eventually("the second answers", || answers(&world, "second"));
    let now = world.api("services")["revision"].as_u64();
    assert!(now >= Some(acknowledged), "a revision never goes back");
}

#[test]
fn changes_can_be_watched() {
    let first = Service::start("first");
    let world = world(&first);
    let connection = Connection::open(&world.console()).unwrap();
    let mut lines = connection.follow("/api/v1/watch").unwrap();
    let mut event = || -> Value {
        let line = lines.find_map(|line| {
            let line = line.expect("the stream goes on");
            line.strip_prefix("data: ").map(str::to_owned)
        });
        serde_json::from_str(&line.expect("another event")).expect("JSON")
    };
    let whole = event();
    assert_eq!(whole["services"][0]["name"], "x", "{whole}");
    let revision = register(&world, "second", &json!({"address": first.address}));
    let mut next = event();
    // What was on its way before the registration may come first.
    while next["revision"].as_u64() < Some(revision) {
        next = event();
    }
    assert!(next.to_string().contains("\"second\""), "{next}");
}

#[test]
fn what_is_wrong_with_a_registration_is_said() {
    let first = Service::start("first");
    let world = world(&first);
    for (body, word) in [
        (json!({"address": "nowhere"}), "nowhere"),
        (json!({"address": first.address, "leese_ms": 1}), "leese_ms"),
        (json!({"address": first.address, "health": "fine"}), "fine"),
        (json!({"address": first.address, "checks": [{}]}), "http"),
        (json!({}), "address"),
    ] {
        let answer = world.tell("PUT", "services/x/instances/bad", &body);
        let text = answer.text();
        assert_eq!(answer.status, 400, "{text}");
        assert!(text.contains(word), "{word}: {text}");
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/problem+json"));
    }
    assert_eq!(world.instances("x").len(), 1);
    assert_eq!(world.tell("POST", "nothing", &Value::Null).status, 404);
    assert_eq!(world.tell("DELETE", "status", &Value::Null).status, 405);
}
