//! Names by DNS, asked by `dig`, which is what people ask with.

use std::collections::BTreeSet;
use std::process::Command;

use atoll_e2e::outside::Service;
use atoll_e2e::{World, eventually, http};
use serde_json::{Value, json};

/// What `dig` prints for these words.
fn dig(world: &World, words: &[&str]) -> String {
    let address = world.listener("dns");
    let (host, port) = address.rsplit_once(':').expect("host:port");
    let server = format!("@{host}");
    let output = Command::new("dig")
        // Once and in a while is enough on loopback; a lost answer must be seen.
        .args([&server, "-p", port, "+tries=1", "+time=10"])
        .args(words)
        .output()
        .expect("start dig: apt-get install bind9-dnsutils, or its like on this system");
    assert!(
        output.status.success(),
        "{words:?}: {}",
        atoll_e2e::describe(&output)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// The lines that `dig +short` prints, sorted.
fn short(world: &World, words: &[&str]) -> Vec<String> {
    let all = [&["+short"], words].concat();
    let mut lines: Vec<String> = dig(world, &all).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The status in `dig`'s header: `NOERROR`.
fn status(printed: &str) -> &str {
    let rest = printed.split_once("status: ").expect("a header").1;
    rest.split_once(',').expect("a header").0
}

/// The flags in `dig`'s header.
fn flags(printed: &str) -> BTreeSet<&str> {
    let rest = printed.split_once(";; flags: ").expect("a header").1;
    rest.split_once(';').expect("flags").0.split(' ').collect()
}

/// The records of a section, their white space made one blank.
fn section(printed: &str, name: &str) -> Vec<String> {
    let begin = format!(";; {name} SECTION:\n");
    let Some((_, rest)) = printed.split_once(&begin) else {
        return Vec::new();
    };
    let records = rest.lines().take_while(|line| !line.is_empty());
    records
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Registers an instance and waits for nothing: the answer says that it is known.
fn register(world: &World, service: &str, id: &str, instance: &Value) {
    let path = format!("services/{service}/instances/{id}");
    let answer = world.tell("PUT", &path, instance);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn up(yaml: &str) -> World {
    let mut world = World::new(yaml);
    world.up();
    world
}

#[test]
fn services_are_found_by_name_tag_and_port() {
    let world = up("dns: { node: host-1, ttl: 7s }\n");
    let blue = json!({"address": "10.0.0.1:8080", "tags": ["blue"], "weight": 3});
    register(&world, "web", "one", &blue);
    register(&world, "web", "two", &json!({"address": "10.0.0.2:8081"}));
    register(
        &world,
        "six",
        "one",
        &json!({"address": "[2001:db8::1]:443"}),
    );
    let named = json!({"address": "db.example.com:5432"});
    register(&world, "named", "one", &named);

    let both = ["10.0.0.1", "10.0.0.2"];
    assert_eq!(short(&world, &["web.service.consul"]), both);
    assert_eq!(short(&world, &["WEB.Service.dc1.Consul", "+tcp"]), both);
    assert_eq!(short(&world, &["web.service.atoll"]), both);
    assert_eq!(short(&world, &["web.service.consul", "+noedns"]), both);
    assert_eq!(short(&world, &["blue.web.service.consul"]), ["10.0.0.1"]);
    assert_eq!(
        short(&world, &["six.service.consul", "AAAA"]),
        ["2001:db8::1"]
    );
    assert_eq!(
        short(&world, &["named.service.consul"]),
        ["db.example.com."]
    );
    assert_eq!(short(&world, &["host-1.node.consul"]), ["127.0.0.1"]);
    let text = short(&world, &["host-1.node.consul", "TXT"]);
    assert!(text[0].starts_with("\"atoll-version="), "{text:?}");

    let srv = dig(&world, &["_web._tcp.service.consul", "SRV"]);
    assert_eq!(status(&srv), "NOERROR");
    assert!(
        flags(&srv).contains("aa") && !flags(&srv).contains("ra"),
        "{srv}"
    );
    let mut answers = section(&srv, "ANSWER");
    answers.sort();
    assert_eq!(
        answers,
        [
            "_web._tcp.service.consul. 7 IN SRV 1 1 8081 0a000002.addr.dc1.consul.",
            "_web._tcp.service.consul. 7 IN SRV 1 3 8080 0a000001.addr.dc1.consul.",
        ]
    );
    let mut additional = section(&srv, "ADDITIONAL");
    additional.sort();
    assert_eq!(
        additional,
        [
            "0a000001.addr.dc1.consul. 7 IN A 10.0.0.1",
            "0a000002.addr.dc1.consul. 7 IN A 10.0.0.2",
        ]
    );
    // What an SRV record leads to is found by itself, too.
    assert_eq!(short(&world, &["0a000002.addr.dc1.consul"]), ["10.0.0.2"]);

    assert_eq!(short(&world, &["-x", "10.0.0.1"]), ["web.service.consul."]);
    assert_eq!(
        short(&world, &["-x", "2001:db8::1"]),
        ["six.service.consul."]
    );
    assert_eq!(
        short(&world, &["-x", "127.0.0.1"]),
        ["host-1.node.dc1.consul."]
    );
}

#[test]
fn what_is_not_there_is_told_apart() {
    let world = up("");
    register(&world, "web", "one", &json!({"address": "10.0.0.1:80"}));
    let soa = |printed: &str| {
        let authority = section(printed, "AUTHORITY");
        assert_eq!(authority.len(), 1, "{printed}");
        assert!(
            authority[0].starts_with("consul. 0 IN SOA ns.consul. hostmaster.consul. "),
            "{printed}"
        );
    };
    for name in [
        "nobody.service.consul",
        "web.service.dc2.consul",
        "red.web.service.consul",
        "web.query.consul",
        "nobody.node.consul",
    ] {
        let printed = dig(&world, &[name]);
        assert_eq!(status(&printed), "NXDOMAIN", "{printed}");
        soa(&printed);
    }
    for words in [&["web.service.consul", "AAAA"][..], &["service.consul"]] {
        let printed = dig(&world, words);
        assert_eq!(status(&printed), "NOERROR", "{printed}");
        assert!(section(&printed, "ANSWER").is_empty(), "{printed}");
        soa(&printed);
    }
    let apex = short(&world, &["consul", "SOA"]);
    assert!(apex[0].ends_with(" 3600 600 86400 0"), "{apex:?}");
    let servers = short(&world, &["consul", "NS"]);
    assert!(servers[0].ends_with(".node.dc1.consul."), "{servers:?}");
    assert_eq!(short(&world, &[&servers[0]]), ["127.0.0.1"]);
    assert_eq!(status(&dig(&world, &["example.com"])), "REFUSED");
    assert_eq!(
        status(&dig(
            &world,
            &["web.service.consul", "AXFR", "+noall", "+comments"]
        )),
        "REFUSED"
    );
    assert_eq!(
        status(&dig(&world, &["web.service.consul", "+opcode=update"])),
        "NOTIMP"
    );
    let newer = dig(&world, &["web.service.consul", "+edns=1", "+noednsneg"]);
    assert_eq!(status(&newer), "BADVERS", "{newer}");
}

#[test]
fn what_does_not_fit_into_a_datagram_comes_by_tcp() {
    let world = up("");
    for number in 0..100 {
        let address = format!("10.1.0.{number}:80");
        let instance = json!({"address": address});
        register(&world, "many", &format!("i{number}"), &instance);
    }
    let all: BTreeSet<String> = (0..100).map(|number| format!("10.1.0.{number}")).collect();
    let name = "many.service.consul";
    // `+ignore`: dig would ask again by TCP of itself.
    let cut = dig(&world, &[name, "+noedns", "+ignore"]);
    assert!(flags(&cut).contains("tc"), "{cut}");
    let some = section(&cut, "ANSWER").len();
    // 12 bytes of header, 25 of question, 16 for each.
    assert_eq!(some, (512 - 12 - 25) / 16, "{cut}");
    let size = cut.split_once("MSG SIZE  rcvd: ").expect("a size").1;
    let size: usize = size.trim().parse().expect("a number");
    assert!(size <= 512, "{size}");

    for words in [
        &[name, "+noedns"][..],
        &[name, "+tcp"],
        &[name, "+bufsize=4096"],
    ] {
        let addresses = short(&world, words);
        assert_eq!(addresses.len(), 100, "{words:?}");
        assert_eq!(addresses.into_iter().collect::<BTreeSet<_>>(), all);
    }
    let by_tcp = dig(&world, &[name, "+noedns"]);
    assert!(
        by_tcp.contains("(TCP)") || by_tcp.contains("Truncated, retrying in TCP"),
        "{by_tcp}"
    );
    let srv = dig(&world, &[name, "SRV", "+tcp"]);
    assert_eq!(section(&srv, "ANSWER").len(), 100);
    assert_eq!(section(&srv, "ADDITIONAL").len(), 100);

    // Over some questions everybody comes first.
    let firsts: BTreeSet<String> = (0..20)
        .map(|_| section(&dig(&world, &[name, "+tcp"]), "ANSWER")[0].clone())
        .collect();
    assert!(firsts.len() > 5, "{firsts:?}");
}

#[test]
fn whoever_is_not_fit_is_not_named_from_then_on() {
    let world = up("");
    register(&world, "web", "one", &json!({"address": "10.0.0.1:80"}));
    register(&world, "web", "two", &json!({"address": "10.0.0.2:80"}));
    let name = "web.service.consul";
    assert_eq!(short(&world, &[name]).len(), 2);
    let drained = world.tell("POST", "services/web/instances/two/drain", &Value::Null);
    assert_eq!(drained.status, 200, "{}", drained.text());
    assert_eq!(short(&world, &[name]), ["10.0.0.1"]);
    let third = Service::start("third");
    let check = json!({"http": "/healthz", "interval_ms": 50, "failures_before_critical": 1});
    let at = json!({"address": third.address, "checks": [check]});
    register(&world, "web", "three", &at);
    let named = |count| (short(&world, &[name]).len() == count).then_some(());
    eventually("the third is named", || named(2));
    http::get(&third.address, "/sick").unwrap();
    eventually("the third is not named", || named(1));
    assert_eq!(short(&world, &[name]), ["10.0.0.1"]);
    let gone = world.tell("DELETE", "services/web/instances/one", &Value::Null);
    assert_eq!(gone.status, 200, "{}", gone.text());
    assert_eq!(status(&dig(&world, &[name])), "NXDOMAIN");
}

#[test]
fn other_names_are_asked_of_recursors() {
    let far = up("dns: { domains: example }\n");
    register(&far, "web", "one", &json!({"address": "10.0.0.1:80"}));
    let near = up(&format!(
        "dns: {{ recursors: [\"{}\"] }}\n",
        far.listener("dns")
    ));
    let name = "web.service.example";
    assert_eq!(short(&near, &[name]), ["10.0.0.1"]);
    assert_eq!(short(&near, &[name, "+tcp"]), ["10.0.0.1"]);
    // An instance whose host is a name there is found together with its address.
    let instance = json!({"address": format!("{name}:80")});
    register(&near, "far", "one", &instance);
    assert_eq!(
        short(&near, &["far.service.consul"]),
        ["10.0.0.1", "web.service.example."]
    );
    let ours = dig(&near, &["nobody.service.consul"]);
    assert_eq!(status(&ours), "NXDOMAIN");
    assert!(flags(&ours).contains("ra"), "{ours}");
}

#[test]
fn replicas_are_found_as_soon_as_they_are_ready() {
    let world = up(&format!(
        "services:\n  x:\n    command: {}\n    replicas: 2\n    health: /healthz\n",
        atoll_e2e::service_command()
    ));
    world.wait_passing("x", 2);
    let srv = short(&world, &["_x._tcp.service.atoll", "SRV"]);
    assert_eq!(srv.len(), 2, "{srv:?}");
    let ports: BTreeSet<&str> = srv
        .iter()
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    for instance in world.instances("x") {
        let address = instance["address"].as_str().expect("an address");
        let port = address.rsplit_once(':').expect("a port").1;
        assert!(ports.contains(port), "{srv:?}");
    }
    assert!(
        srv.iter()
            .all(|line| line.ends_with(" 7f000001.addr.dc1.atoll."))
    );
}

#[test]
fn prepared_queries_are_run_by_name_and_outlive_a_kill() {
    let mut world = up("dns: { node: host-1 }\n");
    let consul = |world: &World, method: &str, path: &str, body: &Value| {
        let body = body.to_string();
        let answer = http::request(&world.consul(), method, path, &[], body.as_bytes());
        let answer = answer.expect("Consul's API answers");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer
    };
    register(
        &world,
        "web",
        "one",
        &json!({"address": "10.0.0.1:8080", "tags": ["blue"]}),
    );
    register(
        &world,
        "web",
        "two",
        &json!({"address": "10.0.0.2:8080", "tags": ["green"]}),
    );
    let query = json!({
        "Name": "Sky", "DNS": { "TTL": "42s" },
        "Service": { "Service": "web", "Tags": ["!green"] },
    });
    consul(&world, "POST", "/v1/query", &query);
    let template = json!({
        "Name": "all-", "Template": { "Type": "name_prefix_match" },
        "Service": { "Service": "${name.suffix}" },
    });
    consul(&world, "POST", "/v1/query", &template);
    let asked = |world: &World| {
        let printed = dig(world, &["sky.query.consul", "A"]);
        assert_eq!(
            section(&printed, "ANSWER"),
            ["sky.query.consul. 42 IN A 10.0.0.1"]
        );
        assert_eq!(
            short(world, &["all-web.query.consul"]),
            ["10.0.0.1", "10.0.0.2"]
        );
        let ported = short(world, &["_sky._tcp.query.dc1.consul", "SRV"]);
        assert_eq!(ported, ["1 1 8080 0a000001.addr.dc1.consul."]);
        assert_eq!(status(&dig(world, &["sea.query.consul"])), "NXDOMAIN");
        assert_eq!(
            status(&dig(world, &["+tcp", "all-nobody.query.consul"])),
            "NXDOMAIN"
        );
    };
    asked(&world);
    world.signal(rustix::process::Signal::KILL);
    world.ended();
    world.up();
    asked(&world);
}
