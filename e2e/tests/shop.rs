//! The example fleet, as `examples/shop/atoll.yaml` describes it, through the gateway.

use atoll_e2e::{World, binary, eventually, http};
use serde_json::json;

/// The example's services, without the build (the test command built them).
fn shop() -> World {
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
    let world = shop();
    assert_eq!(world.get("/users/1").json()["id"], 1);
    assert_eq!(world.get("/products/1").json()["id"], 1);
    let gateway = world.gateway();
    let send = |method: &str, path: &str, body: &serde_json::Value| {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        http::request(
            &gateway,
            method,
            path,
            &[("Content-Type", "application/json")],
            &body,
        )
        .unwrap()
    };
    let made = send(
        "POST",
        "/products",
        &json!({"name": "Lamp", "price_cents": 4200, "stock": 3}),
    );
    assert_eq!(made.status, 201, "{}", made.text());
    let path = format!("/products/{}", made.json()["id"]);
    // Both replicas share the service's database, whichever takes the request.
    for _ in 0..8 {
        assert_eq!(world.get(&path).json()["price_cents"], 4200);
    }
    let changed = send(
        "PUT",
        &path,
        &json!({"name": "Lamp", "price_cents": 3900, "stock": 3}),
    );
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(world.get(&path).json()["price_cents"], 3900);
    assert_eq!(send("DELETE", &path, &json!(null)).status, 204);
    assert_eq!(world.get(&path).status, 404);
    let refused = send("POST", "/users", &json!({"name": "", "email": "nobody"}));
    assert_eq!(refused.status, 422, "{}", refused.text());
}

#[test]
fn every_command_shows_the_running_shop() {
    let world = shop();
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
    eventually("a request shows in the log", || {
        world.get("/users/1");
        let logs = world.run(&["logs", "users", "-n", "20"]);
        String::from_utf8_lossy(&logs.stdout)
            .contains("/users/1")
            .then_some(())
    });
}
