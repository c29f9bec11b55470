//! Three processes over one etcd: they are one registry, whichever of them is asked, is
//! killed or cannot reach etcd, and when etcd itself is away.

#![expect(
    clippy::disallowed_methods,
    reason = "clients of their own threads and the real clock are the point"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use atoll_e2e::etcd::{Etcd, Way};
use atoll_e2e::http;
use atoll_e2e::outside::Service;
use atoll_e2e::{World, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

struct Together {
    worlds: Vec<World>,
    ways: Vec<Way>,
    etcd: Etcd,
}

impl Together {
    fn of(count: usize) -> Self {
        let etcd = Etcd::start();
        let ways: Vec<Way> = (0..count).map(|_| Way::to(&etcd.address())).collect();
        let worlds = ways.iter().map(|way| {
            let mut world = World::new(&format!(
                "store: {{ etcd: [\"http://{}\"], prefix: /shop }}\nroutes:\n  /x/{{path*}}: x\nservices: {{ x: {{ endpoints: [] }} }}\n",
                way.address()
            ));
            world.up();
            world
        });
        Self {
            worlds: worlds.collect(),
            ways,
            etcd,
        }
    }

    fn at(&self, number: usize) -> &World {
        &self.worlds[number]
    }

    /// The tag of each instance of `x`, as one of them shows it.
    fn seen(&self, number: usize) -> BTreeMap<String, String> {
        seen(self.at(number))
    }

    fn away(&self, number: usize, away: bool) {
        eventually("the store's standing is noticed", || {
            let status = self.at(number).api("status");
            (status["store"]["away_ms"].is_u64() == away).then_some(())
        });
    }
}

fn seen(world: &World) -> BTreeMap<String, String> {
    let all = world.instances("x").into_iter();
    let all = all.map(|one| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&one["id"]), text(&one["tags"][0]))
    });
    all.collect()
}

fn register(world: &World, id: &str, tag: &str) -> http::Answer {
    let body = json!({"address": "127.0.0.1:9", "tags": [tag]});
    world.tell("PUT", &format!("services/x/instances/{id}"), &body)
}

#[test]
fn what_is_registered_with_one_is_found_and_routed_by_all() {
    let together = Together::of(3);
    let service = Service::start("outside");
    let (host, port) = service.address.rsplit_once(':').expect("host:port");
    // Eureka with the first ...
    let body = json!({"instance": {
        "instanceId": "e1", "app": "X", "hostName": host, "ipAddr": host, "vipAddress": "x",
        "status": "UP", "port": {"$": port.parse::<u16>().expect("a port"), "@enabled": "true"},
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
    }});
    let json_type = [("Content-Type", "application/json")];
    let eureka = together.at(0).listener("eureka");
    let body = body.to_string();
    let registered = http::request(
        &eureka,
        "POST",
        "/eureka/apps/X",
        &json_type,
        body.as_bytes(),
    );
    assert_eq!(registered.expect("an answer").status, 204);
    // ... is found in Consul's words with the second, and routed by the third.
    eventually("Consul's front of the second has it", || {
        let found = http::get(&together.at(1).consul(), "/v1/health/service/x?passing").ok()?;
        (found.json()[0]["Service"]["Port"] == json!(port.parse::<u16>().ok()?)).then_some(())
    });
    eventually("the gateway of the third routes to it", || {
        let answer = together.at(2).get("/x/whoami");
        (answer.status == 200 && answer.text() == "outside").then_some(())
    });
    // It renews with the second, and is removed with the third.
    let renewed = http::request(
        &together.at(1).listener("eureka"),
        "PUT",
        "/eureka/apps/X/e1",
        &[],
        b"",
    );
    assert_eq!(renewed.expect("an answer").status, 200);
    let removed = http::request(
        &together.at(2).listener("eureka"),
        "DELETE",
        "/eureka/apps/X/e1",
        &[],
        b"",
    );
    assert_eq!(removed.expect("an answer").status, 200);
    for number in 0..3 {
        eventually("it is gone everywhere", || {
            together.seen(number).is_empty().then_some(())
        });
    }
}

#[test]
fn indexes_keys_and_locks_mean_the_same_to_all() {
    let together = Together::of(3);
    let consul: Vec<String> = together.worlds.iter().map(World::consul).collect();
    let put = |at: usize, path: &str, body: &str| {
        let answer = http::request(&consul[at], "PUT", path, &[], body.as_bytes());
        answer.expect("an answer").text().trim().to_owned()
    };
    assert_eq!(put(0, "/v1/kv/greeting", "hello"), "true");
    let read = http::get(&consul[1], "/v1/kv/greeting?raw").expect("an answer");
    assert_eq!(
        read.text(),
        "hello",
        "a write is seen by whoever reads after it"
    );
    let index = read.header("x-consul-index").expect("an index").to_owned();
    // A blocked query with one is woken by a write through another.
    let (address, path) = (
        consul[2].clone(),
        format!("/v1/kv/greeting?index={index}&wait=60s"),
    );
    let waiting = thread::spawn(move || http::get(&address, &path));
    assert_eq!(put(1, "/v1/kv/greeting", "goodbye"), "true");
    let woken = waiting.join().expect("a thread").expect("an answer");
    let woken_index: u64 = woken
        .header("x-consul-index")
        .expect("an index")
        .parse()
        .expect("a number");
    assert!(woken_index > index.parse().expect("a number"));
    // One lock, two who want it, with different processes.
    let session = |at: usize| {
        let made = put(at, "/v1/session/create", "{\"LockDelay\": \"0s\"}");
        let made: Value = serde_json::from_str(&made).expect("JSON");
        made["ID"].as_str().expect("an id").to_owned()
    };
    let (first, second) = (session(0), session(1));
    assert_eq!(put(2, &format!("/v1/kv/lock?acquire={first}"), "1"), "true");
    assert_eq!(
        put(0, &format!("/v1/kv/lock?acquire={second}"), "2"),
        "false"
    );
    assert_eq!(put(1, &format!("/v1/session/destroy/{first}"), ""), "true");
    eventually("the lock is free", || {
        (put(2, &format!("/v1/kv/lock?acquire={second}"), "2") == "true").then_some(())
    });
    // An index of the catalogue from one is understood by another.
    assert_eq!(register(together.at(0), "i1", "a").status, 200);
    let path = "/v1/catalog/service/x";
    let index = eventually("the first has it", || {
        let answer = http::get(&consul[0], path).ok()?;
        let found = answer.json().as_array().map(Vec::len) == Some(1);
        found.then(|| answer.header("x-consul-index").map(str::to_owned))?
    });
    // One that has not heard of it yet answers at once, as to an index of another life.
    eventually("the second has it at the same index", || {
        let answer = http::get(&consul[1], path).ok()?;
        (answer.header("x-consul-index") == Some(&index[..])).then_some(())
    });
    let (address, path) = (consul[1].clone(), format!("{path}?index={index}&wait=60s"));
    let waiting = thread::spawn(move || http::get(&address, &path));
    assert_eq!(register(together.at(2), "i2", "b").status, 200);
    let woken = waiting.join().expect("a thread").expect("an answer");
    assert_eq!(woken.json().as_array().map(Vec::len), Some(2));
}

#[test]
fn one_that_cannot_reach_etcd_goes_on_with_what_it_knows() {
    let together = Together::of(2);
    let service = Service::start("outside");
    let body = json!({"address": service.address, "tags": ["a"]});
    assert_eq!(
        together
            .at(0)
            .tell("PUT", "services/x/instances/i1", &body)
            .status,
        200
    );
    eventually("it is routed", || {
        (together.at(0).get("/x/whoami").status == 200).then_some(())
    });
    together.ways[0].cut();
    together.away(0, true);
    let refused = register(together.at(0), "i2", "b");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("away"), "{}", refused.text());
    let refused = http::request(&together.at(0).consul(), "PUT", "/v1/kv/a", &[], b"1");
    assert!(refused.expect("an answer").status >= 500);
    assert_eq!(
        together.at(0).get("/x/whoami").text(),
        "outside",
        "the gateway goes on"
    );
    assert_eq!(together.seen(0).len(), 1);
    let status = together.at(0).run(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("away for"));
    // The other takes in what it is told, and both agree when the way is mended.
    assert_eq!(register(together.at(1), "i3", "c").status, 200);
    together.ways[0].mend();
    together.away(0, false);
    eventually("the first has what it missed", || {
        together.seen(0).contains_key("i3").then_some(())
    });
    assert_eq!(register(together.at(0), "i2", "b").status, 200);
    eventually("the second has what came after", || {
        (together.seen(1).len() == 3).then_some(())
    });
}

#[test]
fn etcd_may_restart_under_them() {
    let mut together = Together::of(2);
    assert_eq!(register(together.at(0), "i1", "a").status, 200);
    eventually("the second has it", || {
        (together.seen(1).len() == 1).then_some(())
    });
    together.etcd.kill();
    for number in 0..2 {
        together.away(number, true);
        assert_eq!(together.seen(number).len(), 1);
        assert_eq!(register(together.at(number), "i2", "b").status, 503);
    }
    together.etcd.run();
    for number in 0..2 {
        together.away(number, false);
    }
    assert_eq!(register(together.at(1), "i2", "b").status, 200);
    eventually("the first has it", || {
        (together.seen(0).len() == 2).then_some(())
    });
}

/// One client that alone speaks for its instance, with whichever process answers.
struct Client {
    id: String,
    /// The tag of the last registration that was acknowledged; none after a removal.
    acknowledged: Option<String>,
    /// What was tried since without an answer.
    maybe: Vec<Option<String>>,
}

impl Client {
    fn try_one(&mut self, consoles: &[String], number: usize) {
        let tag = (number % 5 != 4).then(|| format!("t{number}"));
        let path = format!("/api/v1/services/x/instances/{}", self.id);
        let (method, body) = match &tag {
            Some(tag) => (
                "PUT",
                json!({"address": "127.0.0.1:9", "tags": [tag]}).to_string(),
            ),
            None => ("DELETE", String::new()),
        };
        let headers = [("Content-Type", "application/json")];
        let first = number % consoles.len();
        for console in consoles[first..].iter().chain(&consoles[..first]) {
            let answer = http::request(console, method, &path, &headers, body.as_bytes());
            match answer.map(|answer| answer.status) {
                Ok(200) => {
                    self.acknowledged = tag;
                    self.maybe.clear();
                    return;
                }
                // Not there for this one: nothing happened.
                Ok(404) => {}
                Ok(_) | Err(_) => self.maybe.push(tag.clone()),
            }
        }
    }
}

#[test]
fn clients_find_what_was_acknowledged_whatever_fails_meanwhile() {
    let mut together = Together::of(3);
    let consoles: Vec<String> = together.worlds.iter().map(World::console).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<Arc<Mutex<Client>>> = (0..6)
        .map(|number| {
            Arc::new(Mutex::new(Client {
                id: format!("c{number}"),
                acknowledged: None,
                maybe: Vec::new(),
            }))
        })
        .collect();
    let threads: Vec<_> = clients
        .iter()
        .map(|client| {
            let (client, stop, consoles) =
                (Arc::clone(client), Arc::clone(&stop), consoles.clone());
            thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    client
                        .lock()
                        .expect("one client")
                        .try_one(&consoles, number);
                    number += 1;
                }
            })
        })
        .collect();

    // One is killed, one cut off for longer than it may be silent, and etcd is restarted.
    let pause = |time: u64| {
        let until = Instant::now() + Duration::from_secs(time);
        eventually("some time of trouble has passed", || {
            (Instant::now() >= until).then_some(())
        });
    };
    pause(2);
    together.worlds[2].signal(Signal::KILL);
    together.worlds[2].ended();
    pause(1);
    together.ways[0].cut();
    together.away(0, true);
    pause(12);
    together.ways[0].mend();
    together.away(0, false);
    together.etcd.kill();
    together.away(1, true);
    together.etcd.run();
    together.away(0, false);
    together.away(1, false);
    pause(2);
    stop.store(true, Ordering::SeqCst);
    for one in threads {
        one.join().expect("a client");
    }

    // A last word of each, which all must hear, comes after all that went before.
    for number in 0..2 {
        eventually("it takes a registration", || {
            (register(together.at(number), &format!("end{number}"), "end").status == 200)
                .then_some(())
        });
    }
    eventually("both have heard all", || {
        let (one, two) = (together.seen(0), together.seen(1));
        (one == two && one.contains_key("end0") && one.contains_key("end1")).then_some(())
    });
    let found = together.seen(0);
    for client in &clients {
        let client = client.lock().expect("one client");
        let tag = found.get(&client.id).cloned();
        assert!(
            tag == client.acknowledged || client.maybe.contains(&tag),
            "{}: found {tag:?}, acknowledged {:?}, maybe {:?}",
            client.id,
            client.acknowledged,
            client.maybe
        );
    }
}
