//! `atoll migrate`: a second Atoll is the Eureka or the Consul that is left behind, since
//! its fronts speak both.

use std::fs;

use atoll_e2e::http::{self, Answer};
use atoll_e2e::outside::{Running, Service};
use atoll_e2e::{World, describe, eventually, send};
use rustix::process::Signal;
use serde_json::{Value, json};

const LOG: &str = "migrate.log";

/// The registry that is left, and the Atoll that is moved to.
struct Move {
    source: World,
    target: World,
}

impl Move {
    fn new() -> Self {
        let mut source = World::new("name: old\n");
        source.up();
        let mut target =
            World::new("services:\n  web: { endpoints: [] }\nroutes:\n  /web/{path*}: web\n");
        target.up();
        Self { source, target }
    }

    fn url(&self, kind: &str) -> String {
        format!("http://{}", self.source.listener(kind))
    }

    /// Starts it and waits for its summary.
    fn migrate(&self, kind: &str) -> (Running, Value) {
        let url = self.url(kind);
        let running = self.target.start(&["migrate", kind, &url, "--json"], LOG);
        let summary = self.event("summary", |_| true);
        (running, summary)
    }

    /// Waits until the migration has said this.
    fn event(&self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the migration says `{event}`"), || {
            let text = fs::read_to_string(self.target.path().join(LOG)).ok()?;
            let mut lines = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            lines.find(|line: &Value| line["event"] == event && wanted(line))
        })
    }
}

fn ask(world: &World, front: &str, method: &str, path: &str, body: &Value) -> Answer {
    let headers = [
        ("Accept", "application/json"),
        ("Content-Type", "application/json"),
    ];
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let answer = http::request(
        &world.listener(front),
        method,
        path,
        &headers,
        body.as_bytes(),
    );
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

fn eureka(world: &World, method: &str, path: &str, body: &Value) -> u16 {
    ask(
        world,
        "eureka",
        method,
        &format!("/eureka/apps/{path}"),
        body,
    )
    .status
}

/// An instance as Eureka shows it, without times.
fn instance(world: &World, id: &str) -> Option<Value> {
    let answer = ask(
        world,
        "eureka",
        "GET",
        &format!("/eureka/apps/WEB/{id}"),
        &Value::Null,
    );
    let mut instance = answer.json()["instance"].take();
    instance["lastUpdatedTimestamp"].take();
    for key in [
        "registrationTimestamp",
        "lastRenewalTimestamp",
        "serviceUpTimestamp",
    ] {
        instance["leaseInfo"][key].take();
    }
    (answer.status == 200).then_some(instance)
}

/// What a client says of `web` at `address`.
fn web(id: &str, address: &str, zone: &str) -> Value {
    let (ip, port) = address.rsplit_once(':').expect("host:port");
    let port: u16 = port.parse().expect("a port");
    json!({ "instance": {
        "instanceId": id, "hostName": "localhost", "ipAddr": ip, "app": "WEB",
        "vipAddress": "web,web-vip", "port": { "$": port, "@enabled": "true" },
        "dataCenterInfo": { "name": "MyOwn" }, "metadata": { "zone": zone },
        "leaseInfo": { "durationInSecs": 60, "renewalIntervalInSecs": 20 },
        "lastDirtyTimestamp": "1700000000000",
    }})
}

#[test]
fn a_eureka_is_copied_followed_and_left_one_client_after_the_other() {
    let service = Service::start("first");
    let mut world = Move::new();
    for id in ["w:1", "w:2"] {
        let said = web(id, &service.address, "a");
        assert_eq!(eureka(&world.source, "POST", "WEB", &said), 204);
    }
    let out = "WEB/w:2/status?value=OUT_OF_SERVICE";
    assert_eq!(eureka(&world.source, "PUT", out, &Value::Null), 200);

    let (mut migrate, summary) = world.migrate("eureka");
    assert_eq!(
        (&summary["instances"], &summary["services"]),
        (&json!(2), &json!(1))
    );
    for id in ["w:1", "w:2"] {
        let original = instance(&world.source, id);
        assert!(original.is_some());
        assert_eq!(instance(&world.target, id), original);
    }
    eventually("a copy takes requests", || {
        let answer = world.target.get("/web/whoami");
        (answer.status == 200 && answer.text() == "first").then_some(())
    });

    // What changes there changes here.
    assert_eq!(
        eureka(
            &world.source,
            "DELETE",
            "WEB/w:2/status?value=UP",
            &Value::Null
        ),
        200
    );
    let up = |it: &Value| it["status"] == "UP" && it["overriddenStatus"] == "UNKNOWN";
    eventually("the override is gone", || {
        instance(&world.target, "w:2").filter(up)
    });
    let said = web("w:3", &service.address, "b");
    assert_eq!(eureka(&world.source, "POST", "WEB", &said), 204);
    eventually("a new one is copied", || instance(&world.target, "w:3"));
    assert_eq!(
        eureka(&world.source, "DELETE", "WEB/w:3", &Value::Null),
        200
    );
    eventually("it is gone", || {
        instance(&world.target, "w:3").is_none().then_some(())
    });

    // One switches: its heartbeat is not known here, so it registers.
    assert_eq!(eureka(&world.target, "PUT", "WEB/w:1", &Value::Null), 404);
    let said = web("w:1", &service.address, "its own");
    assert_eq!(eureka(&world.target, "POST", "WEB", &said), 204);
    assert_eq!(eureka(&world.target, "PUT", "WEB/w:1", &Value::Null), 200);
    world.event("switched", |line| line["id"] == "w:1");
    world.event("status", |line| {
        line["switched"] == 1 && line["instances"] == 2
    });
    assert_eq!(
        eureka(&world.source, "DELETE", "WEB/w:1", &Value::Null),
        200
    );

    // Atoll is killed and comes back: what has been copied is kept and followed on.
    world.target.signal(Signal::KILL);
    world.target.ended();
    world.event("atoll_away", |_| true);
    world.target.up();
    world.event("atoll_answers", |_| true);
    assert_eq!(
        eureka(&world.source, "DELETE", "WEB/w:2", &Value::Null),
        200
    );
    eventually("it is gone", || {
        instance(&world.target, "w:2").is_none().then_some(())
    });
    let kept = instance(&world.target, "w:1").expect("what has switched stays");
    assert_eq!(kept["metadata"]["zone"], "its own");

    let said = web("w:4", &service.address, "c");
    assert_eq!(eureka(&world.source, "POST", "WEB", &said), 204);
    eventually("another is copied", || instance(&world.target, "w:4"));
    send(migrate.pid(), Signal::INT);
    assert!(migrate.ended().success());
    let end = world.event("ended", |_| true);
    assert!(
        end["text"]
            .as_str()
            .is_some_and(|text| text.contains("1 instance")),
        "{end}"
    );
    assert!(
        instance(&world.target, "w:4").is_some(),
        "a copy lives on for its lease"
    );
}

#[test]
fn a_source_that_comes_back_empty_takes_nothing_away_at_once() {
    let service = Service::start("first");
    let mut world = Move::new();
    let said = web("w:1", &service.address, "a");
    assert_eq!(eureka(&world.source, "POST", "WEB", &said), 204);
    let listen = |front: &str| format!("\"{}\"", world.source.listener(front));
    let same_port = format!(
        "listen: {{ eureka: {}, console: \"127.0.0.1:0\", gateway: off, dns: off, consul: off }}\n",
        listen("eureka")
    );
    let (migrate, _) = world.migrate("eureka");
    world.source.signal(Signal::KILL);
    world.source.ended();
    world.event("source_away", |_| true);
    fs::remove_dir_all(world.source.path().join(".atoll")).expect("its memory");
    world.source.write(&same_port);
    world.source.up();
    world.event("source_answers", |_| true);
    world.event("leaving", |line| line["id"] == "w:1");
    assert!(
        instance(&world.target, "w:1").is_some(),
        "{}",
        migrate.pid()
    );
    let again = web("w:1", &service.address, "again");
    assert_eq!(eureka(&world.source, "POST", "WEB", &again), 204);
    eventually("it is followed as before", || {
        instance(&world.target, "w:1").filter(|it| it["metadata"]["zone"] == "again")
    });
}

fn consul(world: &World, method: &str, path: &str, body: &Value) -> Answer {
    let answer = ask(world, "consul", method, &format!("/v1/{path}"), body);
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    answer
}

/// `web` as Consul shows it, by id, without indices.
fn rows(world: &World) -> Value {
    let mut rows = consul(world, "GET", "health/service/web", &Value::Null).json();
    for row in rows.as_array_mut().expect("rows") {
        for part in ["Node", "Service"] {
            row[part]["CreateIndex"].take();
            row[part]["ModifyIndex"].take();
        }
        row["Node"]["ID"].take();
        for check in row["Checks"].as_array_mut().expect("checks") {
            check["CreateIndex"].take();
            check["ModifyIndex"].take();
        }
    }
    rows
}

fn key(world: &World, key: &str) -> Option<Value> {
    let answer = ask(
        world,
        "consul",
        "GET",
        &format!("/v1/kv/{key}"),
        &Value::Null,
    );
    let row = answer.json().get(0)?.clone();
    Some(json!([row["Value"], row["Flags"]]))
}

/// `web-1` on `node` at `address`.
fn registered(node: &str, address: &str, status: &str) -> Value {
    let (ip, port) = address.rsplit_once(':').expect("host:port");
    let port: u16 = port.parse().expect("a port");
    json!({
        "Node": node, "Address": "10.9.9.9", "NodeMeta": { "rack": "7" },
        "Service": { "Service": "web", "ID": "web-1", "Address": ip, "Port": port,
            "Tags": ["blue"], "Meta": { "team": "shop" } },
        "Checks": [{ "CheckID": "alive", "Name": "Alive", "Status": status,
            "Output": "so it says", "ServiceID": "web-1" }],
    })
}

#[test]
fn a_consul_is_copied_with_its_keys_followed_and_left() {
    let service = Service::start("first");
    let world = Move::new();
    let (source, target) = (&world.source, &world.target);
    for node in ["n1", "n2"] {
        consul(
            source,
            "PUT",
            "catalog/register",
            &registered(node, &service.address, "passing"),
        );
    }
    consul(source, "PUT", "kv/app/limit?flags=7", &json!(10));
    consul(source, "PUT", "kv/app/name", &json!("shop"));
    consul(target, "PUT", "kv/app/name", &json!("Atoll's own"));

    let (mut migrate, summary) = world.migrate("consul");
    assert_eq!(
        (&summary["instances"], &summary["keys"]),
        (&json!(2), &json!(1))
    );
    world.event("key_switched", |line| line["key"] == "app/name");
    assert_eq!(rows(target), rows(source));
    assert_eq!(key(target, "app/limit"), key(source, "app/limit"));
    assert_eq!(target.get("/web/whoami").text(), "first");

    // What changes there changes here.
    consul(
        source,
        "PUT",
        "catalog/register",
        &registered("n2", &service.address, "critical"),
    );
    eventually("a check fails", || {
        (rows(target) == rows(source)).then_some(())
    });
    consul(source, "PUT", "kv/app/limit?flags=7", &json!(20));
    consul(source, "PUT", "kv/app/new", &json!(1));
    for name in ["app/limit", "app/new"] {
        let original = key(source, name);
        eventually("a key is copied", || {
            (key(target, name) == original).then_some(())
        });
    }
    consul(source, "DELETE", "kv/app/new", &Value::Null);
    eventually("it is deleted", || {
        key(target, "app/new").is_none().then_some(())
    });
    consul(
        source,
        "PUT",
        "catalog/register",
        &registered("n3", &service.address, "passing"),
    );
    eventually("one more is copied", || {
        (rows(target) == rows(source)).then_some(())
    });
    let gone = json!({ "Node": "n3", "ServiceID": "web-1" });
    consul(source, "PUT", "catalog/deregister", &gone);
    eventually("it is gone", || {
        (rows(target).as_array()?.len() == 2).then_some(())
    });

    // One switches: its agent is Atoll now, and it writes its keys there.
    let own = registered("n1", &service.address, "passing")["Service"].take();
    let mut own = own.clone();
    own["Name"] = own["Service"].take();
    consul(target, "PUT", "agent/service/register", &own);
    consul(target, "PUT", "kv/app/limit", &json!("its own"));
    world.event("switched", |line| line["id"] == "web-1");
    consul(source, "PUT", "kv/app/limit", &json!(30));
    world.event("key_switched", |line| line["key"] == "app/limit");
    let nodes: Vec<Value> = rows(target).as_array().expect("rows").to_vec();
    let of = |name: &str| {
        nodes
            .iter()
            .filter(|row| row["Node"]["Node"] == name)
            .count()
    };
    assert!(
        of("n1") + of("n2") <= 1 && nodes.len() <= 2,
        "its copy is gone: {nodes:?}"
    );

    send(migrate.pid(), Signal::INT);
    assert!(migrate.ended().success());
    assert_eq!(rows(target).as_array().map(Vec::len), Some(nodes.len()));
}

#[test]
fn a_dry_run_changes_nothing_and_a_copy_can_be_made_once() {
    let service = Service::start("first");
    let world = Move::new();
    let said = web("w:1", &service.address, "a");
    assert_eq!(eureka(&world.source, "POST", "WEB", &said), 204);
    let url = world.url("eureka");
    let dry = world.target.run(&["migrate", "eureka", &url, "--dry-run"]);
    let text = describe(&dry);
    assert!(dry.status.success(), "{text}");
    assert!(
        text.contains("+ WEB w:1") && text.contains("would copy 1 instance of 1 service"),
        "{text}"
    );
    assert_eq!(instance(&world.target, "w:1"), None);
    let once = world.target.run(&["migrate", "eureka", &url, "--once"]);
    let text = describe(&once);
    assert!(once.status.success(), "{text}");
    assert!(
        text.contains("copied 1 instance of 1 service") && text.contains("90 s"),
        "{text}"
    );
    assert!(instance(&world.target, "w:1").is_some());

    consul(&world.source, "PUT", "kv/a", &json!(1));
    let url = world.url("consul");
    let dry = describe(&world.target.run(&["migrate", "consul", &url, "--dry-run"]));
    assert!(dry.contains("+ key a") && dry.contains("1 key"), "{dry}");
    assert_eq!(key(&world.target, "a"), None);
}

#[test]
fn what_keeps_it_from_migrating_says_what_to_do() {
    let world = Move::new();
    let fails = |from: &World, arguments: &[&str]| {
        let output = from.run(arguments);
        let text = describe(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        text
    };
    let (eureka, consul) = (world.url("eureka"), world.url("consul"));
    for (kind, url, there) in [("eureka", &consul, "consul"), ("consul", &eureka, "eureka")] {
        let text = fails(&world.target, &["migrate", kind, url]);
        assert!(
            text.contains(&format!("atoll migrate {there} {url}")),
            "{text}"
        );
    }
    // Nobody listens on port 1.
    let text = fails(&world.target, &["migrate", "eureka", "http://127.0.0.1:1"]);
    assert!(text.contains("no connection to 127.0.0.1:1"), "{text}");
    let text = fails(&world.target, &["migrate", "consul", "https://consul"]);
    assert!(text.contains("TLS"), "{text}");
    let idle = World::new("");
    let text = fails(&idle, &["migrate", "eureka", &eureka]);
    assert!(text.contains("atoll up"), "{text}");
    let mut deaf = World::new(
        "listen: { console: \"127.0.0.1:0\", gateway: off, dns: off, eureka: off, consul: off }\n",
    );
    deaf.up();
    let text = fails(&deaf, &["migrate", "eureka", &eureka]);
    assert!(text.contains("listen.eureka"), "{text}");
    let output = idle.run(&["migrate", "zookeeper", &eureka]);
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
}

#[test]
fn a_source_that_wants_a_token_is_read_with_it() {
    let mut source = World::new("admin_token: s3cret\nlisten: { consul: \"0.0.0.0:0\" }\n");
    source.write(
        "admin_token: s3cret\nlisten: { consul: \"0.0.0.0:0\", console: \"127.0.0.1:0\", gateway: off, dns: off, eureka: off }\n",
    );
    source.up();
    let mut target = World::new("name: new\n");
    target.up();
    let listener = source.listener("consul");
    let (_, port) = listener.rsplit_once(':').expect("HOST:PORT");
    let url = format!("http://127.0.0.1:{port}");
    let refused = describe(&target.run(&["migrate", "consul", &url, "--once"]));
    assert!(refused.contains("--token"), "{refused}");
    let output = target.run(&["migrate", "consul", &url, "--token", "s3cret", "--once"]);
    assert!(output.status.success(), "{}", describe(&output));
}
