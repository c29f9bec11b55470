//! Carry-over from snapshot to snapshot, balancing, draining, rewriting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use atoll_model::{Catalog, Health};
use atoll_runtime::Random;
use http::{HeaderValue, Method, StatusCode};

use super::*;
use crate::config::{Backend, HashKey, Rewrite};
use crate::endpoint::{EndpointKey, NoEndpointReason};
use crate::testing::{backend, catalog, config_of, path_match, route_of};
use crate::view::PlainRequest;

fn compile(config: &Arc<Config>, catalog: &Catalog, previous: Option<&Snapshot>) -> Snapshot {
    let generation = previous.map_or(1, |previous| previous.generation);
    Snapshot::compile(Arc::clone(config), generation, catalog, previous).unwrap()
}

fn get(target: &str) -> PlainRequest {
    PlainRequest::new(Method::GET, "shop.example", target)
}

fn found<'s>(snapshot: &'s Snapshot, request: &PlainRequest) -> &'s Arc<CompiledRoute> {
    match snapshot.route(request) {
        Routing::Found(route) => route,
        other => panic!("{other:?}"),
    }
}

/// The ids that `count` requests go to, each done at once.
fn picks(snapshot: &Snapshot, count: usize) -> BTreeMap<String, usize> {
    let mut random = Random::from_seed(7);
    let mut picks = BTreeMap::new();
    for _ in 0..count {
        let request = get("/users/7");
        let route = found(snapshot, &request);
        let picked = route.pick(&request, &[], &mut random).unwrap();
        *picks.entry(picked.endpoint.id.to_string()).or_default() += 1;
    }
    picks
}

fn users(balance: Balance) -> Arc<Config> {
    config_of(vec![Route {
        balance,
        ..route_of("users", "/users/{path*}", "users")
    }])
}

#[test]
fn only_fit_instances_with_a_weight_get_requests() {
    let catalog = catalog(
        1,
        &[
            "users/a passing",
            "users/b warning",
            "users/c critical",
            "users/d starting",
            "users/e draining",
            "users/f passing*0",
        ],
    );
    let balances = [
        Balance::LeastRequest,
        Balance::RoundRobin,
        Balance::Hash(HashKey::Header(http::header::HOST)),
    ];
    for balance in balances {
        let snapshot = compile(&users(balance), &catalog, None);
        let picks = picks(&snapshot, 1_000);
        assert_eq!(picks.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(picks.values().all(|&count| count > 400), "{picks:?}");
    }
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let catalog = catalog(
        1,
        &["users/a passing*3", "users/b passing", "users/c passing"],
    );
    let snapshot = compile(&users(Balance::RoundRobin), &catalog, None);
    let picks = picks(&snapshot, 500);
    assert_eq!(picks.into_values().collect::<Vec<_>>(), [300, 100, 100]);
}

#[test]
fn least_request_avoids_the_busy_and_holds_to_the_weights() {
    let catalog = catalog(
        1,
        &["users/a passing*2", "users/b passing", "users/c passing"],
    );
    let snapshot = compile(&users(Balance::LeastRequest), &catalog, None);
    let mut random = Random::from_seed(3);
    let request = get("/users/7");
    let route = found(&snapshot, &request);
    let held: Vec<_> = (0..400)
        .map(|_| route.pick(&request, &[], &mut random).unwrap())
        .collect();
    let loads: Vec<_> = snapshot.groups["users"]
        .all
        .iter()
        .map(|at| at.in_flight())
        .collect();
    assert_eq!(loads.iter().sum::<u32>(), 400);
    assert!((185..=215).contains(&loads[0]), "{loads:?}");
    assert!(
        (90..=110).contains(&loads[1]) && (90..=110).contains(&loads[2]),
        "{loads:?}"
    );
    drop(held);
    assert!(
        snapshot
            .endpoints()
            .all(|endpoint| endpoint.in_flight() == 0)
    );
}

#[test]
fn the_same_key_goes_to_the_same_instance_and_only_its_keys_move_when_it_drains() {
    let header = http::HeaderName::from_static("x-user");
    for key in [
        HashKey::Header(header.clone()),
        HashKey::Cookie("session".to_owned()),
        HashKey::ClientIp,
    ] {
        let config = users(Balance::Hash(key));
        let before = catalog(
            1,
            &["users/a passing", "users/b passing", "users/c passing"],
        );
        let snapshot = compile(&config, &before, None);
        let mut random = Random::from_seed(3);
        let mut choose = |snapshot: &Snapshot, user: u8| {
            let mut request = get("/users/7");
            let cookie = format!("a=b; session=s{user}; c=d");
            request
                .headers
                .insert(&header, HeaderValue::from(u16::from(user)));
            let cookie = HeaderValue::from_str(&cookie).unwrap();
            request.headers.insert(http::header::COOKIE, cookie);
            request.client_ip = [10, 0, 0, user].into();
            let route = found(snapshot, &request);
            let picked = route.pick(&request, &[], &mut random).unwrap();
            picked.endpoint.id.to_string()
        };
        let homes: Vec<_> = (0..100).map(|user| choose(&snapshot, user)).collect();
        assert_eq!(
            homes,
            (0..100)
                .map(|user| choose(&snapshot, user))
                .collect::<Vec<_>>()
        );
        for id in ["a", "b", "c"] {
            assert!(homes.iter().filter(|home| *home == id).count() > 10);
        }
        let after = catalog(
            2,
            &["users/a passing", "users/b draining", "users/c passing"],
        );
        let next = compile(&config, &after, Some(&snapshot));
        for user in 0..100 {
            let (old, new) = (&homes[usize::from(user)], choose(&next, user));
            assert!(if old == "b" { new != "b" } else { new == *old });
        }
    }
}

#[test]
fn a_retry_goes_to_another_instance_as_long_as_there_is_one() {
    let two = catalog(1, &["users/a passing", "users/b passing"]);
    for balance in [
        Balance::LeastRequest,
        Balance::RoundRobin,
        Balance::Hash(HashKey::ClientIp),
    ] {
        let snapshot = compile(&users(balance), &two, None);
        let mut random = Random::from_seed(3);
        let request = get("/users/7");
        let route = found(&snapshot, &request);
        for _ in 0..100 {
            let first = route.pick(&request, &[], &mut random).unwrap().endpoint.key;
            let second = route
                .pick(&request, &[first], &mut random)
                .unwrap()
                .endpoint
                .key;
            assert_ne!(first, second);
            let third = route.pick(&request, &[first, second], &mut random);
            assert!([first, second].contains(&third.unwrap().endpoint.key));
        }
    }
}

fn split(weights: [u32; 2]) -> Arc<Config> {
    config_of(vec![Route {
        backends: vec![backend("users", weights[0]), backend("canary", weights[1])],
        ..route_of("users", "/users/{path*}", "users")
    }])
}

#[test]
fn backends_share_by_weight_and_a_backend_without_instances_costs_no_request() {
    let both = catalog(1, &["users/a passing", "canary/c passing"]);
    let snapshot = compile(&split([9, 1]), &both, None);
    let shares = picks(&snapshot, 10_000);
    assert!((800..=1_200).contains(&shares["c"]), "{shares:?}");
    let one = catalog(2, &["users/a passing", "canary/c critical"]);
    assert_eq!(picks(&compile(&split([9, 1]), &one, None), 100)["a"], 100);
    assert_eq!(picks(&compile(&split([0, 1]), &both, None), 100)["c"], 100);
}

#[test]
fn a_retry_leaves_the_backend_when_all_of_it_was_tried() {
    let both = catalog(1, &["users/a passing", "canary/c passing"]);
    let snapshot = compile(&split([1, 1]), &both, None);
    let mut random = Random::from_seed(3);
    let request = get("/users/7");
    let route = found(&snapshot, &request);
    for _ in 0..100 {
        let first = route.pick(&request, &[], &mut random).unwrap().endpoint.key;
        let second = route
            .pick(&request, &[first], &mut random)
            .unwrap()
            .endpoint
            .key;
        assert_ne!(first, second);
    }
}

#[test]
fn no_endpoint_says_why() {
    let cases: [(&[&str], NoEndpointReason, &str); 5] = [
        (
            &[],
            NoEndpointReason::NoInstances,
            "service `users` has no instances",
        ),
        (
            &["users/a starting"],
            NoEndpointReason::AllStarting,
            "still starting",
        ),
        (
            &["users/a critical", "users/b critical"],
            NoEndpointReason::AllCritical,
            "fail their checks",
        ),
        (
            &["users/a draining"],
            NoEndpointReason::AllDraining,
            "draining",
        ),
        (
            &["users/a passing*0"],
            NoEndpointReason::NoWeight,
            "weight 0",
        ),
    ];
    let mut random = Random::from_seed(3);
    let request = get("/users/7");
    for (instances, why, words) in cases {
        let snapshot = compile(&users(Balance::LeastRequest), &catalog(1, instances), None);
        let error = found(&snapshot, &request)
            .pick(&request, &[], &mut random)
            .unwrap_err();
        assert_eq!(error.why, why);
        assert!(error.to_string().contains(words), "{error}");
    }
    let mixed = catalog(1, &["users/a draining", "users/b critical"]);
    let snapshot = compile(&users(Balance::LeastRequest), &mixed, None);
    let error = found(&snapshot, &request)
        .pick(&request, &[], &mut random)
        .unwrap_err();
    assert!(
        error.to_string().contains("1 critical, 1 draining"),
        "{error}"
    );
    let snapshot = compile(&split([0, 0]), &catalog(1, &["users/a passing"]), None);
    let error = found(&snapshot, &request)
        .pick(&request, &[], &mut random)
        .unwrap_err();
    assert_eq!(error.why, NoEndpointReason::NoWeight);
}

fn keys(snapshot: &Snapshot) -> BTreeMap<String, EndpointKey> {
    let endpoints = snapshot.endpoints();
    endpoints.map(|at| (at.id.to_string(), at.key)).collect()
}

#[test]
fn endpoints_counters_and_budget_are_carried_over_by_identity() {
    let config = users(Balance::LeastRequest);
    let first = compile(
        &config,
        &catalog(1, &["users/a passing", "users/b passing"]),
        None,
    );
    let request = get("/users/7");
    let mut random = Random::from_seed(3);
    let route = found(&first, &request);
    let _held = route.pick(&request, &[], &mut random).unwrap();
    route
        .metrics
        .finished(StatusCode::OK, Duration::from_millis(1));

    let changed = catalog(
        2,
        &["users/a passing*2", "users/b critical", "users/c passing"],
    );
    let second = compile(&config, &changed, Some(&first));
    assert_eq!(keys(&second)["a"], keys(&first)["a"]);
    assert_eq!(keys(&second)["b"], keys(&first)["b"]);
    assert_eq!(second.endpoints().map(|at| at.in_flight()).sum::<u32>(), 1);

    // A reload: the same name is the same route, whatever else changed.
    let mut reloaded = Config::clone(&config);
    reloaded.routes[0].matches[0].path = path_match("/users/{id}");
    let third = Snapshot::compile(Arc::new(reloaded), 2, &changed, Some(&second)).unwrap();
    let (old, new) = (&first.routes()[0], &third.routes()[0]);
    assert!(Arc::ptr_eq(&old.metrics, &new.metrics));
    assert!(Arc::ptr_eq(&old.retry_budget, &new.retry_budget));
    assert!(Arc::ptr_eq(&second.groups["users"], &third.groups["users"]));

    let mut rebudgeted = Config::clone(&third.config);
    rebudgeted.routes[0].retry.budget_percent = 50;
    let fourth = Snapshot::compile(Arc::new(rebudgeted), 3, &changed, Some(&third)).unwrap();
    assert!(!Arc::ptr_eq(
        &new.retry_budget,
        &fourth.routes()[0].retry_budget
    ));
    assert!(Arc::ptr_eq(&new.metrics, &fourth.routes()[0].metrics));
}

#[test]
fn what_a_catalogue_does_not_change_is_shared() {
    let config = config_of(vec![
        route_of("users", "/users/{path*}", "users"),
        route_of("products", "/products/{path*}", "products"),
    ]);
    let first = catalog(1, &["users/a passing", "products/p passing"]);
    let before = compile(&config, &first, None);
    let mut second = catalog(2, &["users/a passing", "users/b passing"]);
    second.services.extend(
        first
            .services
            .get_key_value("products")
            .map(|(k, v)| (k.clone(), v.clone())),
    );
    let after = compile(&config, &second, Some(&before));
    assert!(Arc::ptr_eq(&before.router, &after.router));
    assert!(!Arc::ptr_eq(&before.routes[0], &after.routes[0]));
    assert!(Arc::ptr_eq(&before.routes[1], &after.routes[1]));
    assert_eq!(after.catalog_revision.0, 2);
}

#[test]
fn an_instance_that_moved_is_another_endpoint() {
    let config = users(Balance::LeastRequest);
    let first_catalog = catalog(1, &["users/a passing"]);
    let first = compile(&config, &first_catalog, None);
    let mut moved = first_catalog.clone();
    let mut instance = moved.instances("users")[0].as_ref().clone();
    instance.address = "127.0.0.1:9".parse().unwrap();
    moved
        .services
        .insert(instance.service.clone(), [Arc::new(instance)].into());
    let second = compile(&config, &moved, Some(&first));
    assert_ne!(keys(&first)["a"], keys(&second)["a"]);
    // The old snapshot, still held by some worker, has nowhere to send to.
    let request = get("/users/7");
    let error = found(&first, &request).pick(&request, &[], &mut Random::from_seed(3));
    assert_eq!(error.unwrap_err().why, NoEndpointReason::AllDraining);
}

#[test]
fn a_snapshot_in_use_sees_new_health_at_once() {
    let config = users(Balance::LeastRequest);
    let first = compile(
        &config,
        &catalog(1, &["users/a passing", "users/b passing"]),
        None,
    );
    let second = compile(
        &config,
        &catalog(2, &["users/a draining", "users/b passing"]),
        Some(&first),
    );
    assert_eq!(picks(&first, 100)["b"], 100);
    assert_eq!(picks(&second, 100)["b"], 100);
    compile(
        &config,
        &catalog(3, &["users/a passing", "users/b passing"]),
        Some(&second),
    );
    assert!(picks(&first, 100)["a"] > 10);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_lingers_until_it_is_idle_and_can_come_back() {
    let config = users(Balance::LeastRequest);
    let first = compile(&config, &catalog(1, &["users/a passing"]), None);
    let request = get("/users/7");
    let held = found(&first, &request)
        .pick(&request, &[], &mut Random::from_seed(3))
        .unwrap();
    let key = held.endpoint.key;
    let second = compile(&config, &catalog(2, &[]), Some(&first));
    assert_eq!(
        second
            .endpoints_of("users", "a")
            .map(|at| at.key)
            .collect::<Vec<_>>(),
        [key]
    );

    let third = compile(&config, &catalog(3, &["users/a passing"]), Some(&second));
    assert_eq!(
        third.endpoints().map(|at| at.key).collect::<Vec<_>>(),
        [key]
    );
    assert_eq!(held.endpoint.health(), Health::Passing);

    let fourth = compile(&config, &catalog(4, &[]), Some(&third));
    let gone = Arc::clone(fourth.endpoints().next().unwrap());
    let mut idle = Box::pin(gone.idle());
    assert!(futures_util::poll!(&mut idle).is_pending());
    drop(held);
    idle.await;
    assert_eq!(
        compile(&config, &catalog(5, &[]), Some(&fourth))
            .endpoints()
            .count(),
        0
    );
}

/// Workers, more than there are processors, enter and leave without pause while the
/// endpoint drains and comes back. While it is idle each worker is let run on, so
/// that one that was interrupted in the midst of a pick shows where it goes.
#[test]
fn nothing_is_sent_to_an_endpoint_once_it_is_idle() {
    const ROUNDS: usize = 40;
    const WORKERS: u64 = 5;
    let config = users(Balance::LeastRequest);
    let fit = catalog(1, &["users/a passing", "users/b passing"]);
    let draining = catalog(2, &["users/a draining", "users/b passing"]);
    let first = compile(&config, &fit, None);
    let watched = Arc::clone(first.endpoints_of("users", "a").next().unwrap());
    let (is_idle, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let broken = AtomicU64::new(0);
    let picked: Vec<_> = (0..WORKERS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for picked in &picked {
            let (watched, is_idle, done, broken) = (&watched, &is_idle, &done, &broken);
            workers.push(scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    // All that `pick` does once it has chosen, so that a worker is
                    // mostly interrupted within it.
                    let entered = watched.enter();
                    if entered.is_some() && is_idle.load(Ordering::SeqCst) {
                        broken.fetch_add(1, Ordering::SeqCst);
                    }
                    drop(entered);
                    picked.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        let all_go_on = || {
            let count = |of: &AtomicU64| of.load(Ordering::SeqCst);
            let before: Vec<_> = picked.iter().map(count).collect();
            // A worker that panicked is reported when the scope ends.
            while picked
                .iter()
                .zip(&before)
                .any(|(now, before)| count(now) == *before)
                && !workers.iter().any(|worker| worker.is_finished())
            {
                std::thread::yield_now();
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut snapshot = compile(&config, &fit, Some(&first));
        for _ in 0..ROUNDS {
            all_go_on();
            snapshot = compile(&config, &draining, Some(&snapshot));
            runtime.block_on(watched.idle());
            is_idle.store(true, Ordering::SeqCst);
            all_go_on();
            is_idle.store(false, Ordering::SeqCst);
            snapshot = compile(&config, &fit, Some(&snapshot));
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(broken.load(Ordering::SeqCst), 0);
    assert_eq!(watched.in_flight(), 0);
}

fn rewritten(pattern: &str, rewrite: Rewrite, target: &str) -> String {
    let route = Route {
        rewrite,
        ..route_of("r", pattern, "users")
    };
    let snapshot = compile(&config_of(vec![route]), &Catalog::default(), None);
    let request = get(target);
    found(&snapshot, &request)
        .upstream_path(&request)
        .into_owned()
}

#[test]
fn a_kept_path_is_what_the_client_sent() {
    let target = "/users/a%2Fb//c?x=%zz&y";
    assert_eq!(rewritten("/users/{path*}", Rewrite::Keep, target), target);
}

#[test]
fn a_stripped_prefix_leaves_the_rest_as_it_was_sent() {
    let strip = |pattern, target| rewritten(pattern, Rewrite::StripPrefix, target);
    assert_eq!(strip("/users/{path*}", "/users/7"), "/7");
    assert_eq!(
        strip("/users/{path*}", "/users/a%2Fb/c?x=1"),
        "/a%2Fb/c?x=1"
    );
    assert_eq!(strip("/users/{path*}", "/users"), "/");
    assert_eq!(strip("/users/{path*}", "/users?x=1"), "/?x=1");
    assert_eq!(strip("/users/{path*}", "/users/"), "/");
    assert_eq!(
        strip("/v1/users/{id}/orders", "/v1/users/7/orders"),
        "/7/orders"
    );
    assert_eq!(strip("/users", "/users?next=/a"), "/?next=/a");
    assert_eq!(strip("/{path*}", "/a/b"), "/a/b");
}

#[test]
fn a_template_takes_parameters_as_they_were_sent() {
    let fill = |pattern, template: &str, target| {
        rewritten(pattern, Rewrite::Template(template.to_owned()), target)
    };
    assert_eq!(
        fill("/users/{path*}", "/v2/{path}", "/users/a%2Fb/c?x=1"),
        "/v2/a%2Fb/c?x=1"
    );
    assert_eq!(fill("/users/{path*}", "/v2/{path}", "/users"), "/v2/");
    assert_eq!(fill("/{a}/x/{b}", "/{b}-{a}", "/1/x/2"), "/2-1");
    assert_eq!(
        fill("/u/{id}", "/user?id={id}", "/u/7?x=1"),
        "/user?id=7&x=1"
    );
}

#[test]
fn of_several_matches_the_one_that_took_the_request_gives_the_parameters() {
    let mut route = Route {
        rewrite: Rewrite::Template("/{id}".to_owned()),
        ..route_of("r", "/a/{id}", "users")
    };
    let mut second = route.matches[0].clone();
    second.path = path_match("/{id}/{rest*}");
    route.matches.insert(0, second);
    let snapshot = compile(&config_of(vec![route]), &Catalog::default(), None);
    for (target, upstream) in [("/a/7", "/7"), ("/b/7", "/b"), ("/a/7/8", "/a")] {
        let request = get(target);
        assert_eq!(
            found(&snapshot, &request).upstream_path(&request),
            upstream,
            "{target}"
        );
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let nowhere: Vec<Backend> = Vec::new();
    let config = config_of(vec![
        route_of("same", "/a", "users"),
        route_of("same", "/b", "users"),
        Route {
            backends: nowhere,
            ..route_of("nowhere", "/c", "users")
        },
        Route {
            matches: Vec::new(),
            ..route_of("nothing", "/d", "users")
        },
        route_of("rest", "/{a*}/b", "users"),
        route_of("twice", "/{a}/{a}", "users"),
        route_of("long", &"/a".repeat(65), "users"),
        Route {
            rewrite: Rewrite::Template("/{idd}".to_owned()),
            ..route_of("unknown", "/e/{id}", "users")
        },
        Route {
            rewrite: Rewrite::Template("/{id".to_owned()),
            ..route_of("open", "/f/{id}", "users")
        },
        Route {
            rewrite: Rewrite::Template("v2".to_owned()),
            ..route_of("relative", "/g", "users")
        },
    ]);
    let errors = Snapshot::compile(config, 1, &Catalog::default(), None).unwrap_err();
    let text = errors.to_string();
    for line in [
        "atoll.yaml:same: route `same`: the name is taken by the route at atoll.yaml:same",
        "route `nowhere`: it has no backend",
        "route `nothing`: it matches nothing",
        "route `rest`: `/{a*}/b`: what takes the rest of the path must stand at its end",
        "route `twice`: `/{a}/{a}` has `{a}` twice",
        "route `long`: `/a/a",
        "route `unknown`: the rewrite `/{idd}` of `/e/{id}`: the path has no parameter `{idd}`",
        "route `open`: the rewrite `/{id` of `/f/{id}`: a `{` is not closed",
        "route `relative`: the rewrite `v2` must begin with `/`",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert_eq!(errors.0.len(), 9);
}

#[test]
fn a_route_that_is_never_reached_is_warned_of() {
    let config = config_of(vec![
        route_of("first", "/users/{id}", "users"),
        route_of("second", "/users/{name}", "users"),
        Route {
            backends: vec![backend("users", 0)],
            ..route_of("nobody", "/n", "users")
        },
    ]);
    let snapshot = compile(&config, &Catalog::default(), None);
    let warnings: Vec<_> = snapshot
        .warnings
        .iter()
        .map(|warning| (&warning.route[..], &warning.message[..]))
        .collect();
    assert_eq!(warnings.len(), 2);
    assert_eq!(warnings[0].0, "second");
    assert!(
        warnings[0].1.contains("route `first` at atoll.yaml:first"),
        "{}",
        warnings[0].1
    );
    assert_eq!(warnings[1].0, "nobody");
}
