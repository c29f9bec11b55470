//! What a look-up, a pick and a compilation cost, by the number of routes:
//! `cargo run --release -p atoll-gateway --example router_cost`.
//!
//! Of interleaved rounds the fastest is printed, which is the one that was disturbed
//! least. Paths are asked in a scattered order, so that caches are as cold as a
//! mixed load leaves them.
#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::unwrap_used, reason = "nobody handles its errors")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use atoll_gateway::config::{
    Backend, Balance, Config, HeaderEdit, Hostname, Match, PathMatch, Retry, Rewrite, Route,
    Segment, Timeouts,
};
use atoll_gateway::snapshot::{Routing, Snapshot};
use atoll_gateway::view::{PlainRequest, RequestView};
use atoll_model::{Address, Catalog, Health, Instance, Revision};
use atoll_runtime::{Clock, Random};
use http::{HeaderName, Method};

const LOOKUPS: usize = 5_000;
const ROUNDS: usize = 300;

/// A request with its parts at hand, as a codec has them.
struct Parsed {
    plain: PlainRequest,
    path_end: usize,
}

impl RequestView for Parsed {
    fn method(&self) -> &Method {
        &self.plain.method
    }
    fn host(&self) -> &str {
        &self.plain.host
    }
    fn path(&self) -> &str {
        &self.plain.target[..self.path_end]
    }
    fn query(&self) -> Option<&str> {
        None
    }
    fn path_and_query(&self) -> &str {
        &self.plain.target
    }
    fn header(&self, name: &HeaderName) -> Option<&[u8]> {
        self.plain.header(name)
    }
    fn client_ip(&self) -> std::net::IpAddr {
        self.plain.client_ip
    }
}

fn route(number: usize, hosts: bool) -> Route {
    let literal = |text: String| Segment::Literal(text);
    let segments = vec![
        literal("api".to_owned()),
        literal(format!("service-{number}")),
        Segment::Param("id".to_owned()),
        Segment::Rest("path".to_owned()),
    ];
    Route {
        name: format!("service-{number}"),
        hostnames: match hosts {
            true => vec![Hostname::Exact(format!("shop-{number}.example.com"))],
            false => Vec::new(),
        },
        matches: vec![Match {
            path: PathMatch {
                pattern: format!("/api/service-{number}/{{id}}/{{path*}}"),
                segments,
            },
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        backends: vec![Backend {
            service: format!("service-{number}").parse().unwrap(),
            weight: 1,
        }],
        balance: Balance::LeastRequest,
        rewrite: Rewrite::Keep,
        request_headers: HeaderEdit::default(),
        response_headers: HeaderEdit::default(),
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        body_bytes_max: None,
        origin: format!("atoll.yaml:{number}"),
    }
}

fn config(routes: usize, hosts: bool) -> Arc<Config> {
    Arc::new(Config {
        routes: (0..routes).map(|number| route(number, hosts)).collect(),
        ..Config::default()
    })
}

fn catalog(services: usize, each: usize) -> Catalog {
    let mut catalog = Catalog {
        revision: Revision(1),
        ..Catalog::default()
    };
    for service in 0..services {
        let name: atoll_model::ServiceName = format!("service-{service}").parse().unwrap();
        let instances = (0..each).map(|number| {
            Arc::new(Instance {
                id: format!("service-{service}-{number}").parse().unwrap(),
                service: name.clone(),
                address: Address::new("127.0.0.1", 1_000 + number as u16).unwrap(),
                weight: 1,
                health: Health::Passing,
                note: String::new(),
                tags: Vec::new(),
                metadata: Default::default(),
            })
        });
        catalog.services.insert(name.clone(), instances.collect());
    }
    catalog
}

fn requests(routes: usize, random: &mut Random) -> Vec<Parsed> {
    let requests = (0..1_000).map(|_| {
        let number = random.below(routes);
        let target = format!("/api/service-{number}/{}/orders", random.below(100_000));
        Parsed {
            path_end: target.len(),
            plain: PlainRequest::new(Method::GET, &format!("shop-{number}.example.com"), &target),
        }
    });
    requests.collect()
}

fn timed<T>(clock: &Clock, work: impl FnOnce() -> T) -> (Duration, T) {
    let start = clock.now();
    let made = work();
    (clock.now() - start, made)
}

fn main() {
    let clock = Clock::system();
    let mut random = Random::from_seed(1);
    for hosts in [false, true] {
        let sizes = [10, 100, 5_000];
        let setups = sizes.map(|routes| {
            let catalog = catalog(routes, 2);
            let snapshot = Snapshot::compile(config(routes, hosts), 1, &catalog, None).unwrap();
            (snapshot, requests(routes, &mut random))
        });
        let mut lookup = [Duration::MAX; 3];
        let mut pick = [Duration::MAX; 3];
        for _ in 0..ROUNDS {
            for (size, (snapshot, requests)) in setups.iter().enumerate() {
                let (taken, ()) = timed(&clock, || {
                    for request in requests.iter().cycle().take(LOOKUPS) {
                        black_box(snapshot.route(black_box(request)));
                    }
                });
                lookup[size] = lookup[size].min(taken);
                let (taken, ()) = timed(&clock, || {
                    for request in requests.iter().cycle().take(LOOKUPS) {
                        let Routing::Found(route) = snapshot.route(black_box(request)) else {
                            unreachable!("each request has a route");
                        };
                        black_box(route.pick(request, &[], &mut random)).unwrap();
                    }
                });
                pick[size] = pick[size].min(taken);
            }
        }
        for (size, routes) in sizes.iter().enumerate() {
            let ns = |taken: Duration| taken.as_nanos() as f64 / LOOKUPS as f64;
            println!(
                "{routes:>5} routes, {}: look-up {:.1} ns, look-up and pick {:.1} ns",
                if hosts { "a host each" } else { "no hosts" },
                ns(lookup[size]),
                ns(pick[size]),
            );
        }
    }
    let (config, catalog) = (config(5_000, false), catalog(5_000, 2));
    let (first, snapshot) = timed(&clock, || {
        Snapshot::compile(Arc::clone(&config), 1, &catalog, None).unwrap()
    });
    let mut changed = catalog.clone();
    let (name, instances) = changed.services.pop_first().unwrap();
    changed.services.insert(name, instances[..1].into());
    let (again, next) = timed(&clock, || {
        Snapshot::compile(Arc::clone(&config), 1, &changed, Some(&snapshot)).unwrap()
    });
    let reloaded = Arc::new(Config::clone(&config));
    let (reload, last) = timed(&clock, || {
        Snapshot::compile(reloaded, 2, &changed, Some(&next)).unwrap()
    });
    println!(
        "5,000 routes and {} instances: compiled in {first:.1?}, after one instance changed in {again:.1?}, after a reload in {reload:.1?}",
        last.endpoints().count() + 1,
    );
}
