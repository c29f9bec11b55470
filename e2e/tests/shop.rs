//! The example fleet, as `examples/shop/atoll.yaml` describes it, through the gateway.

use atoll_e2e::{World, binary, shop};

/// The example's services, without the build (the test command built them).
fn example() -> World {
    let service = |name: &str, replicas| {
        format!(
            "  {name}:\n    command: {}\n    replicas: {replicas}\n    health: /healthz\n    environment: {{ DATABASE_PATH: {name}.db }}\n",
            binary(&format!("shop-{name}")).display()
        )
    };
    let yaml = format!(
        "name: shop\nservices:\n{}{}routes:\n  /users/{{path*}}: users\n  /products/{{path*}}: products\n",
        service("users", 2),
        service("products", 2)
    );
    let mut world = World::new(&yaml);
    world.up();
    world.wait_passing("users", 2);
    world.wait_passing("products", 2);
    world
}

#[test]
fn the_shop_answers_and_keeps_what_it_is_told() {
    shop::converse(&example());
}

#[test]
fn every_command_shows_the_running_shop() {
    let world = example();
    let status = world.run(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.status.success() && text.contains("users-1") && text.contains("passing"),
        "{text}"
    );
    let services = world.run_json(&["services", "--json"]);
    assert_eq!(
        services["services"].as_array().map(Vec::len),
        Some(2),
        "{services}"
    );
    let routes = world.run_json(&["routes", "--json"]);
    assert_eq!(
        routes["routes"].as_array().map(Vec::len),
        Some(2),
        "{routes}"
    );
    let explained = world.run(&["explain", "GET", "/users/7"]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(
        text.contains("/users/{path*}") && text.contains("users-1") && text.contains("users-2"),
        "{text}"
    );
    let missed = world.run(&["explain", "GET", "/user/7"]);
    let text = String::from_utf8_lossy(&missed.stdout).into_owned();
    assert!(
        text.contains("no route") && text.contains("/users/{path*}"),
        "{text}"
    );
}
