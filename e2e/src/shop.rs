//! The conversation that every version of the example shop must be able to hold,
//! whatever language it is written in.

use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::{World, eventually};

/// Creates, reads, lists, changes and removes through the gateway, and is refused
/// where it must be.
///
/// # Panics
/// When the shop answers otherwise.
pub fn converse(world: &World) {
    assert_eq!(
        world.get("/users/1").json(),
        json!({"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"})
    );
    assert_eq!(
        world.get("/products/1").json(),
        json!({"id": 1, "name": "Kettle", "price_cents": 2900, "stock": 12})
    );
    changes(world);
    lists(world);
    refusals(world);
    descriptions(world);
    eventually("a request shows in the service's log", || {
        world.get("/users/1");
        let logs = world.run(&["logs", "users", "--tail", "50"]);
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        text.contains("/users/1").then_some(())
    });
}

fn send(world: &World, method: &str, path: &str, body: &Value) -> Answer {
    let text = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let headers = [("Content-Type", "application/json")];
    http::request(&world.gateway(), method, path, &headers, text.as_bytes())
        .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

fn changes(world: &World) {
    let lamp = |price| json!({"name": "Lamp", "price_cents": price, "stock": 3});
    let made = send(world, "POST", "/products", &lamp(4200));
    assert_eq!(made.status, 201, "{}", made.text());
    let path = format!("/products/{}", made.json()["id"]);
    assert_eq!(made.header("location"), Some(&path[..]));
    // Both replicas share the service's database, whichever takes the request.
    for _ in 0..8 {
        assert_eq!(world.get(&path).json()["price_cents"], 4200);
    }
    for _ in 0..2 {
        let changed = send(world, "PUT", &path, &lamp(3900));
        assert_eq!(changed.status, 200, "{}", changed.text());
    }
    for _ in 0..8 {
        assert_eq!(world.get(&path).json()["price_cents"], 3900);
    }
    assert_eq!(send(world, "DELETE", &path, &Value::Null).status, 204);
    assert_eq!(world.get(&path).status, 404);
    assert_eq!(send(world, "DELETE", &path, &Value::Null).status, 404);
    assert_eq!(send(world, "PUT", &path, &lamp(1)).status, 404);
}

fn lists(world: &World) {
    let names = |path: &str| -> Vec<String> {
        let answer = world.get(path).json();
        let all = answer.as_array().expect("a list");
        all.iter().map(|one| one["name"].to_string()).collect()
    };
    assert_eq!(names("/products").len(), 3);
    assert_eq!(names("/products?q=KETTLE"), ["\"Kettle\""]);
    assert_eq!(names("/products?limit=1&offset=1"), ["\"Teapot\""]);
    assert_eq!(names("/users?q=hopper%40nowhere"), [""; 0]);
    assert_eq!(names("/users?q=grace%40"), ["\"Grace Hopper\""]);
}

fn refusals(world: &World) {
    let of_users = [
        (json!({"name": "", "email": "a@b"}), 422, "name"),
        (json!({"name": "A", "email": "nobody"}), 422, "email"),
        (json!({"name": "A"}), 422, "email"),
        (json!({"name": "A", "email": "a@b", "x": 1}), 422, "x"),
        (
            json!({"name": "A", "email": "ada@example.com"}),
            409,
            "ada@example.com",
        ),
    ];
    let price = |cents: i64| json!({"name": "A", "price_cents": cents, "stock": 1});
    let of_products = [
        (price(-1), 422, "price_cents"),
        (price(100_000_001), 422, "price_cents"),
        (
            json!({"name": "A", "price_cents": "1", "stock": 1}),
            422,
            "price_cents",
        ),
    ];
    let all = of_users.iter().map(|refused| ("/users", refused));
    let all = all.chain(of_products.iter().map(|refused| ("/products", refused)));
    for (path, (body, status, word)) in all {
        refused(&send(world, "POST", path, body), *status, word);
    }
    for path in ["/users", "/products"] {
        let json = [("Content-Type", "application/json")];
        let half = http::request(&world.gateway(), "POST", path, &json, b"{");
        refused(&half.expect("an answer"), 400, "");
        let plain = [("Content-Type", "text/plain")];
        let plain = http::request(&world.gateway(), "POST", path, &plain, b"{}");
        refused(&plain.expect("an answer"), 415, "");
        refused(&world.get(&format!("{path}/ada")), 400, "");
        refused(&world.get(&format!("{path}?limit=many")), 400, "limit");
        refused(&world.get(&format!("{path}/99")), 404, "99");
    }
}

/// An RFC 9457 problem of the service's own.
fn refused(answer: &Answer, status: u16, word: &str) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("application/problem+json"), "{text}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{text}");
    assert!(
        problem["title"].is_string() && text.contains(word),
        "{text}"
    );
}

/// Each replica's own OpenAPI document, which the gateway has no route to.
fn descriptions(world: &World) {
    for service in ["users", "products"] {
        for instance in world.instances(service) {
            let address = instance["address"].as_str().expect("an address");
            let answer = http::get(address, "/openapi.json").expect("an answer");
            let document = answer.json();
            let version = document["openapi"].as_str().unwrap_or_default();
            assert!(version.starts_with("3.1"), "{service}: {version:?}");
            for (path, methods) in [
                (format!("/{service}"), &["get", "post"][..]),
                (format!("/{service}/{{id}}"), &["get", "put", "delete"]),
            ] {
                for method in methods {
                    let described = &document["paths"][&path][method];
                    assert!(described["responses"].is_object(), "{method} {path}");
                }
            }
        }
    }
}
