//! What is said of requests that are taken, nearly taken, and refused.

use atoll_model::Catalog;
use http::{HeaderName, HeaderValue, Method};

use super::*;
use crate::config::{Config, Rewrite, Route, ValueMatch};
use crate::testing::{backend, catalog, config_of, route_of};
use crate::view::PlainRequest;

fn shop() -> std::sync::Arc<Config> {
    let mut user = route_of("user", "/users/{id}", "users");
    user.matches[0].method = Some(Method::GET);
    user.rewrite = Rewrite::StripPrefix;
    let mut beta = route_of("beta", "/users/{id}", "users-beta");
    let header = HeaderName::from_static("x-beta");
    beta.matches[0].headers = vec![(header, ValueMatch::Exact("yes".to_owned()))];
    beta.matches[0].query = vec![("debug".to_owned(), ValueMatch::Present)];
    let mut admin = route_of("admin", "/users/{id}", "users");
    admin.hostnames = vec![Hostname::Wildcard("admin.example".to_owned())];
    config_of(vec![
        user,
        beta,
        admin,
        route_of("orders", "/users/{id}/orders", "orders"),
        route_of("products", "/products/{path*}", "products"),
        Route {
            backends: vec![
                backend("users", 3),
                backend("canary", 1),
                backend("away", 1),
            ],
            ..route_of("rest", "/users/{path*}", "users")
        },
    ])
}

fn explained(method: Method, host: &str, target: &str) -> Explanation {
    let catalog = catalog(
        1,
        &[
            "users/a passing",
            "users/b critical",
            "users/c draining",
            "users/d starting",
            "users/e warning*0",
            "canary/z passing",
        ],
    );
    let snapshot = Snapshot::compile(shop(), 1, &catalog, None).unwrap();
    let mut request = PlainRequest::new(method, host, target);
    request
        .headers
        .insert("x-beta", HeaderValue::from_static("no"));
    explain(&snapshot, &request)
}

fn lines(explanation: &Explanation) -> Vec<String> {
    let misses = explanation.near_misses.iter();
    let lines = misses.map(|miss| {
        let reasons: Vec<_> = miss.reasons.iter().map(Miss::to_string).collect();
        format!("{}: {}", miss.route, reasons.join("; "))
    });
    lines.collect()
}

#[test]
fn the_route_is_shown_with_what_matched_and_what_it_does() {
    let explanation = explained(Method::HEAD, "shop.example", "/users/a%20b?x=1");
    let Verdict::Routed(route) = &explanation.verdict else {
        panic!("{explanation:?}");
    };
    assert_eq!(route.name, "user");
    assert_eq!(route.origin, "atoll.yaml:user");
    assert_eq!(
        route.matched,
        [
            "every host",
            "path /users/{id}",
            "method GET, which answers HEAD too"
        ]
    );
    assert_eq!(route.parameters, [("id".to_owned(), "a b".to_owned())]);
    assert_eq!(route.upstream_path, "/a%20b?x=1");
    let excluded: Vec<_> = route.backends[0]
        .endpoints
        .iter()
        .map(|endpoint| (&endpoint.id[..], endpoint.excluded.as_deref()))
        .collect();
    assert_eq!(
        excluded,
        [
            ("a", None),
            ("b", Some("it is critical")),
            ("c", Some("it is draining")),
            ("d", Some("it has not been seen healthy yet")),
            ("e", Some("its weight is 0")),
        ]
    );
}

#[test]
fn near_misses_say_why_they_lost_the_nearest_first() {
    let explanation = explained(Method::GET, "shop.example", "/users/7");
    assert_eq!(
        lines(&explanation),
        [
            "admin: host is `shop.example`, not `*.admin.example`",
            "rest: route `user` has the more specific path",
            "beta: header `x-beta: yes` is wanted, `no` was sent; query `debug` is wanted, nothing was sent",
            "orders: path ends before segment 3, `orders`",
        ]
    );
}

#[test]
fn a_first_segment_with_a_slip_of_the_pen_is_near_and_another_word_is_not() {
    let near = |path: &str| lines(&explained(Method::GET, "shop.example", path));
    let missed = near("/user/7");
    assert!(
        missed.contains(&"user: path differs at segment 1: `user`, not `users`".to_owned()),
        "{missed:?}"
    );
    assert!(
        !near("/orders/7")
            .iter()
            .any(|line| line.starts_with("user:"))
    );
}

#[test]
fn a_more_specific_host_wins_by_it() {
    let explanation = explained(Method::GET, "x.admin.example", "/users/7");
    let Verdict::Routed(route) = &explanation.verdict else {
        panic!("{explanation:?}");
    };
    assert_eq!(route.matched[0], "host *.admin.example");
    assert!(
        lines(&explanation).contains(&"user: route `admin` has the more specific host".to_owned())
    );
}

#[test]
fn shares_are_those_of_backends_that_have_a_fit_instance() {
    let explanation = explained(Method::GET, "shop.example", "/users/7/else");
    let Verdict::Routed(route) = &explanation.verdict else {
        panic!("{explanation:?}");
    };
    let shares: Vec<_> = route
        .backends
        .iter()
        .map(|backend| backend.share_percent)
        .collect();
    assert_eq!(shares, [75.0, 25.0, 0.0]);
    assert!(
        lines(&explanation)
            .contains(&"orders: path differs at segment 3: `else`, not `orders`".to_owned())
    );
    assert!(
        lines(&explanation).contains(&"user: path goes on at segment 3 with `else`".to_owned())
    );
}

#[test]
fn refusals_are_told_apart() {
    assert_eq!(
        explained(Method::GET, "h", "/nothing").verdict,
        Verdict::NoRoute
    );
    assert_eq!(
        explained(Method::GET, "h", "/a/../b").verdict,
        Verdict::BadPath(BadPath::DotSegment)
    );
    let mut only_get = route_of("only", "/a", "users");
    only_get.matches[0].method = Some(Method::GET);
    let snapshot =
        Snapshot::compile(config_of(vec![only_get]), 1, &Catalog::default(), None).unwrap();
    let explanation = explain(&snapshot, &PlainRequest::new(Method::PUT, "h", "/a"));
    assert_eq!(
        explanation.verdict,
        Verdict::MethodNotAllowed(vec![Method::GET, Method::HEAD])
    );
    assert_eq!(lines(&explanation), ["only: method is PUT, not GET"]);
}
