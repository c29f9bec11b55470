//! Spring Cloud's clients against the binary, and Netflix's own Eureka server with
//! Atoll as its peer: `conformance/java`, of which `cargo xtask test` makes the folder
//! in `ATOLL_E2E_JAVA`.

use atoll_e2e::outside::Service;
use atoll_e2e::spring::{Spring, Starting};
use atoll_e2e::{World, eventually, http};
use serde_json::{Value, json};

/// A world with routes to what registers itself, and a service from the file.
fn world(legacy: &Service) -> World {
    let mut world = World::new(&format!(
        "services:\n  legacy: {{ endpoints: [\"{}\"] }}\n  spring-orders: {{ endpoints: [] }}\n  \
         spring-stock: {{ endpoints: [] }}\n  orders: {{ endpoints: [] }}\n\
         routes:\n  /orders/{{path*}}: spring-orders\n  /stock/{{path*}}: spring-stock\n  \
         /plain/{{path*}}: orders\n",
        legacy.address
    ));
    world.up();
    world
}

/// Sends JSON; what is answered, when it is a success.
fn send(address: &str, method: &str, path: &str, body: &Value) -> Option<Value> {
    let text = match body {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        body => body.to_string(),
    };
    let headers = [
        ("Accept", "application/json"),
        ("Content-Type", "application/json"),
    ];
    let answer = http::request(address, method, path, &headers, text.as_bytes()).ok()?;
    (200..300).contains(&answer.status).then(|| answer.json())
}

fn read(address: &str, path: &str) -> Value {
    send(address, "GET", path, &Value::Null).unwrap_or_default()
}

/// What an instance says of itself by Eureka.
fn instance(id: &str, address: &str, lease_secs: u32) -> Value {
    let (ip, port) = address.rsplit_once(':').expect("host:port");
    let port: u16 = port.parse().expect("a port");
    json!({ "instance": {
        "instanceId": id, "hostName": "localhost", "ipAddr": ip, "app": "ORDERS",
        "vipAddress": "orders", "secureVipAddress": "orders", "status": "UP",
        "port": { "$": port, "@enabled": "true" }, "securePort": { "$": 443, "@enabled": "false" },
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn",
        },
        "leaseInfo": { "renewalIntervalInSecs": 1, "durationInSecs": lease_secs },
    }})
}

fn routed(world: &World, path: &str, name: &str) {
    eventually(&format!("{path} is answered by {name}"), || {
        let answer = world.get(path);
        (answer.status == 200 && answer.text() == name).then_some(())
    });
}

/// Waits until the only instance of a service is as told. The gateway is not asked: for a
/// service that has just lost its last one it holds a request for seconds.
fn becomes(world: &World, service: &str, health: &str) {
    eventually(&format!("{service} is {health}"), || {
        (world.instances(service).first()?["health"] == health).then_some(())
    });
}

/// Waits until the client sees this at a path of its probe.
fn sees(spring: &Spring, path: &str, what: &str, seen: impl Fn(&Value) -> bool) {
    eventually(&format!("the client sees {what}"), || {
        seen(&spring.ask(path)).then_some(())
    });
}

fn lists(services: &Value, name: &str) -> bool {
    let mut services = services.as_array().into_iter().flatten();
    services.any(|service| service == name)
}

#[test]
#[ignore = "needs ATOLL_E2E_JAVA; `cargo xtask test` sets it"]
fn spring_clouds_eureka_client_works_unchanged() {
    let first = Service::start("first");
    let world = world(&first);
    let eureka = world.listener("eureka");
    let zone = format!("eureka.client.service-url.defaultZone=http://{eureka}/eureka/");
    let spring = Starting::new("eureka", &[zone]).ready();

    let registered = eventually("it is registered", || {
        world.instances("spring-orders").pop()
    });
    assert_eq!(registered["id"], "spring-orders:1", "{registered}");
    assert_eq!(registered["address"], spring.address, "{registered}");
    routed(&world, "/orders/whoami", "spring");

    // What the file names and what others register is found, and called by its name.
    sees(
        &spring,
        "/probe/services",
        "the file's service",
        |services| lists(services, "legacy") && lists(services, "spring-orders"),
    );
    let (_, port) = first.address.rsplit_once(':').expect("host:port");
    let port: u16 = port.parse().expect("a port");
    let web = json!({ "Name": "web", "ID": "web-1", "Address": "127.0.0.1", "Port": port });
    send(&world.consul(), "PUT", "/v1/agent/service/register", &web).expect("Consul registers");
    sees(
        &spring,
        "/probe/instances/web",
        "Consul's service",
        |found| found[0]["uri"] == format!("http://{}", first.address),
    );
    assert_eq!(
        http::get(&spring.address, "/probe/call/web")
            .expect("an answer")
            .text(),
        "first"
    );

    // Longer than its lease of five seconds: the heartbeats keep it.
    let path = "/eureka/apps/SPRING-ORDERS/spring-orders:1";
    let kept = || read(&eureka, path)["instance"].clone();
    let began = kept()["leaseInfo"]["registrationTimestamp"].as_u64();
    eventually("its lease was renewed", || {
        let lease = kept()["leaseInfo"].clone();
        let renewed = lease["lastRenewalTimestamp"].as_u64()?;
        (renewed > lease["serviceUpTimestamp"].as_u64()? + 6_000).then_some(())
    });
    assert!(began.is_some());
    assert_eq!(kept()["metadata"]["zone"], "a");

    // Unfit by its own word.
    spring.tell("PUT", "/probe/fit/false", &Value::Null);
    eventually("it is down", || (kept()["status"] == "DOWN").then_some(()));
    becomes(&world, "spring-orders", "critical");
    assert_eq!(
        read(&world.consul(), "/v1/health/service/spring-orders?passing"),
        json!([])
    );
    spring.tell("PUT", "/probe/fit/true", &Value::Null);
    routed(&world, "/orders/whoami", "spring");

    // Out of service by an operator, over its heartbeats, and back.
    let status = |value: &str| {
        let body = json!({ "status": value });
        spring.tell("POST", "/actuator/serviceregistry", &body);
    };
    status("OUT_OF_SERVICE");
    eventually("it is out of service", || {
        (kept()["overriddenstatus"] == "OUT_OF_SERVICE").then_some(())
    });
    becomes(&world, "spring-orders", "draining");
    status("CANCEL_OVERRIDE");
    routed(&world, "/orders/whoami", "spring");

    // What goes is missed by the client's next fetch, which is a delta throughout.
    send(
        &world.consul(),
        "PUT",
        "/v1/agent/service/deregister/web-1",
        &Value::Null,
    )
    .expect("Consul deregisters");
    sees(&spring, "/probe/services", "it gone", |services| {
        !lists(services, "web")
    });
    let printed = spring.printed();
    assert!(!printed.contains("hashcodes do not match"), "{printed}");
    assert!(!printed.contains(" ERROR "), "{printed}");
    spring.stop();
    assert_eq!(
        world.instances("spring-orders"),
        Vec::<Value>::new(),
        "it took its leave"
    );
}

#[test]
#[ignore = "needs ATOLL_E2E_JAVA; `cargo xtask test` sets it"]
fn spring_clouds_consul_client_works_unchanged() {
    let first = Service::start("first");
    let world = world(&first);
    let consul = world.consul();
    let write = |path: &str, body: Value| {
        send(&consul, "PUT", path, &body).unwrap_or_else(|| panic!("PUT {path}"));
    };
    let greeting = "/v1/kv/config/spring-stock/shop.greeting";
    write(greeting, json!("hello"));
    let (host, port) = consul.rsplit_once(':').expect("host:port");
    let spring = Starting::new(
        "consul",
        &[
            format!("spring.cloud.consul.host={host}"),
            format!("spring.cloud.consul.port={port}"),
        ],
    )
    .ready();

    let registered = eventually("it is registered", || world.instances("spring-stock").pop());
    assert_eq!(registered["id"], "spring-stock-1", "{registered}");
    assert_eq!(registered["address"], spring.address, "{registered}");
    world.wait_passing("spring-stock", 1);
    routed(&world, "/stock/whoami", "spring");
    let entry = read(&consul, "/v1/health/service/spring-stock?passing&tag=blue");
    assert_eq!(entry[0]["Service"]["Meta"]["zone"], "a", "{entry}");

    // Its configuration stands in Consul's keys, and changes with them.
    let property = || http::get(&spring.address, "/probe/property/shop.greeting");
    assert_eq!(property().expect("an answer").text(), "hello");
    write(greeting, json!("good day"));
    eventually("the new greeting is known", || {
        (property().ok()?.text() == "good day").then_some(())
    });

    sees(
        &spring,
        "/probe/services",
        "the file's service",
        |services| {
            ["legacy", "spring-stock", "consul"]
                .iter()
                .all(|name| lists(services, name))
        },
    );
    sees(&spring, "/probe/instances/legacy", "its address", |found| {
        found[0]["uri"] == format!("http://{}", first.address)
    });
    assert_eq!(
        http::get(&spring.address, "/probe/call/legacy")
            .expect("an answer")
            .text(),
        "first"
    );

    // Its watch of the catalogue notices what Eureka registers.
    let before = spring.ask("/probe/heartbeats").as_u64().expect("a count");
    let said = instance("o:1", &first.address, 60);
    send(
        &world.listener("eureka"),
        "POST",
        "/eureka/apps/ORDERS",
        &said,
    )
    .expect("Eureka registers");
    sees(&spring, "/probe/heartbeats", "a change", |count| {
        count.as_u64().is_some_and(|count| count > before)
    });
    sees(
        &spring,
        "/probe/instances/orders",
        "Eureka's instance",
        |found| found[0]["id"] == "o:1",
    );

    moves_out_of_service_and_back(&world, &spring);
    let printed = spring.printed();
    assert!(!printed.contains(" ERROR "), "{printed}");
    spring.stop();
    assert_eq!(
        world.instances("spring-stock"),
        Vec::<Value>::new(),
        "it took its leave"
    );
}

/// Consul's client: unfit by its own word, then in maintenance.
fn moves_out_of_service_and_back(world: &World, spring: &Spring) {
    // Unfit: its health page answers 503 to Atoll's check.
    spring.tell("PUT", "/probe/fit/false", &Value::Null);
    becomes(world, "spring-stock", "critical");
    sees(
        spring,
        "/probe/instances/spring-stock",
        "itself unfit",
        |found| *found == json!([]),
    );
    spring.tell("PUT", "/probe/fit/true", &Value::Null);
    routed(world, "/stock/whoami", "spring");

    // Out of service is Consul's maintenance.
    let status = |value: &str| {
        let body = json!({ "status": value });
        spring.tell("POST", "/actuator/serviceregistry", &body);
    };
    status("OUT_OF_SERVICE");
    eventually("the gateway does not route to it", || {
        (world.get("/stock/whoami").status == 503).then_some(())
    });
    status("UP");
    routed(world, "/stock/whoami", "spring");
}

/// Migration without downtime: clients still talk to the old server, and Atoll knows
/// all that they say.
#[test]
#[ignore = "needs ATOLL_E2E_JAVA; `cargo xtask test` sets it"]
fn a_real_eureka_server_replicates_to_atoll() {
    let first = Service::start("first");
    let world = world(&first);
    let atoll = world.listener("eureka");
    // It is a client, too: registers itself, and takes over what Atoll knows.
    let own =
        ["register-with-eureka", "fetch-registry"].map(|name| format!("eureka.client.{name}=true"));
    let zone = format!("eureka.client.service-url.defaultZone=http://{atoll}/eureka/");
    let real = Starting::new("server", &[&own[..], &[zone]].concat()).ready();
    let tell = |method: &str, path: &str, body: &Value| {
        send(
            &real.address,
            method,
            &format!("/eureka/apps/ORDERS{path}"),
            body,
        )
    };
    let known = || read(&atoll, "/eureka/apps/ORDERS/o:1")["instance"].clone();

    eventually("the server has what the file names", || {
        let found =
            read(&real.address, "/eureka/apps/LEGACY")["application"]["instance"][0].clone();
        (found["status"] == "UP" && found["ipAddr"] == "127.0.0.1").then_some(())
    });
    eventually("Atoll has the server", || {
        world.instances("eureka-server").pop()
    });

    let said = instance("o:1", &first.address, 5);
    tell("POST", "", &said).expect("the server registers");
    routed(&world, "/plain/whoami", "first");
    assert_eq!(known()["leaseInfo"]["durationInSecs"], 5);

    // More than a lease, kept by heartbeats that the server passes on. One at a time: of
    // several that wait in its queue it passes on the last.
    let renewed = || known()["leaseInfo"]["lastRenewalTimestamp"].as_u64();
    let began = renewed().expect("a time");
    let mut last = began;
    while last < began + 6_000 {
        tell("PUT", "/o:1?status=UP", &Value::Null).expect("the server renews");
        last = eventually("the heartbeat is passed on", || {
            renewed().filter(|renewed| *renewed > last)
        });
    }

    // From here on nobody renews in time.
    tell("POST", "", &instance("o:1", &first.address, 600)).expect("registered again");
    eventually("the longer lease is passed on", || {
        (known()["leaseInfo"]["durationInSecs"] == 600).then_some(())
    });
    tell("PUT", "/o:1/status?value=OUT_OF_SERVICE", &Value::Null).expect("an override");
    becomes(&world, "orders", "draining");
    assert_eq!(known()["status"], "OUT_OF_SERVICE");
    tell("DELETE", "/o:1/status?value=UP", &Value::Null).expect("no override");
    routed(&world, "/plain/whoami", "first");

    // An Atoll that lost it, or came later, is told of it with the next heartbeat.
    send(&atoll, "DELETE", "/eureka/apps/ORDERS/o:1", &Value::Null).expect("Atoll forgets it");
    tell("PUT", "/o:1?status=UP", &Value::Null).expect("the server renews");
    eventually("it is registered again", || {
        (known()["status"] == "UP").then_some(())
    });

    tell("DELETE", "/o:1", &Value::Null).expect("the server cancels");
    eventually("Atoll cancels it, too", || {
        world.instances("orders").is_empty().then_some(())
    });
}
