//! The text that Prometheus reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::*;
use crate::snapshot::Snapshot;
use crate::testing::{catalog, config_of, route_of};

fn snapshot(routes: &[&str], previous: Option<&Snapshot>) -> Snapshot {
    let routes = routes
        .iter()
        .map(|name| route_of(name, &format!("/{}", name.len()), "users"));
    let catalog = catalog(7, &["users/a passing"]);
    Snapshot::compile(config_of(routes.collect()), 3, &catalog, previous).unwrap()
}

/// Checks the format (names, labels, HELP and TYPE once and before the samples) and
/// gives the samples by name and labels.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family = String::new();
    let mut kind = "";
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').unwrap().0.to_owned();
            assert!(families.insert(family.clone()), "{family} twice");
            continue;
        }
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, word) = typed.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&word));
            assert_eq!(word == "counter", name.ends_with("_total"), "{name}");
            kind = word;
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split_once('{').map_or(series, |(name, _)| name);
        let plain = match kind {
            "histogram" => ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap(),
            _ => name,
        };
        assert_eq!(plain, family, "{line}");
        assert!(
            samples
                .insert(series.to_owned(), value.parse().unwrap())
                .is_none(),
            "{series} twice"
        );
    }
    samples
}

#[test]
fn statuses_have_a_label_of_their_own_only_when_they_are_known() {
    let snapshot = snapshot(&["users"], None);
    let metrics = &snapshot.routes()[0].metrics;
    for status in [200, 200, 503, 299, 999] {
        metrics.finished(StatusCode::from_u16(status).unwrap(), Duration::ZERO);
    }
    let samples = parse(&render(&GatewayMetrics::default(), &snapshot));
    let count = |class, status| {
        samples[&format!(
            "atoll_gateway_requests_total{{route=\"users\",class=\"{class}\",status=\"{status}\"}}"
        )]
    };
    assert_eq!(count("2xx", "200"), 2.0);
    assert_eq!(count("5xx", "503"), 1.0);
    assert_eq!(count("other", "other"), 2.0);
    assert_eq!(samples["atoll_gateway_config_generation"], 3.0);
    assert_eq!(samples["atoll_gateway_catalog_revision"], 7.0);
    assert!(STATUSES.is_sorted(), "it is searched by halves");
}

#[test]
fn a_histogram_is_cumulative_and_ends_with_infinity() {
    let snapshot = snapshot(&["users"], None);
    let metrics = &snapshot.routes()[0].metrics;
    for us in [100, 500, 501, 40_000, 60_000_000] {
        metrics.finished(StatusCode::OK, Duration::from_micros(us));
    }
    let samples = parse(&render(&GatewayMetrics::default(), &snapshot));
    let name = "atoll_gateway_request_duration_seconds";
    let bucket = |le: &str| samples[&format!("{name}_bucket{{route=\"users\",le=\"{le}\"}}")];
    let counts = ["0.0005", "0.001", "0.025", "0.05", "30", "+Inf"].map(bucket);
    assert_eq!(counts, [2.0, 3.0, 3.0, 4.0, 4.0, 5.0]);
    assert_eq!(samples[&format!("{name}_count{{route=\"users\"}}")], 5.0);
    let sum = samples[&format!("{name}_sum{{route=\"users\"}}")];
    assert!((sum - 60.041_101).abs() < 1e-9, "{sum}");
}

#[test]
fn everything_else_is_there_by_route_service_listener_and_reason() {
    let snapshot = snapshot(&["users"], None);
    let gateway = GatewayMetrics::default();
    let route = &snapshot.routes()[0];
    route.metrics.in_flight.up();
    route.metrics.retries.add(2);
    route.metrics.bytes_in.add(30);
    route.metrics.bytes_out.add(400);
    let service = route.backends()[0].metrics();
    service.connect_failures.add(5);
    service.answered(StatusCode::BAD_GATEWAY, Duration::from_millis(2));
    let endpoint = snapshot.endpoints().next().unwrap();
    let _held = endpoint.enter().unwrap();
    gateway.rejected(Rejection::NoRoute);
    gateway.unrouted(StatusCode::NOT_FOUND);
    gateway.records_dropped.add(6);
    let listener = gateway.listener("main");
    listener.accepted.add(8);
    listener.open.up();
    assert!(Arc::ptr_eq(&listener, &gateway.listener("main")));

    let samples = parse(&render(&gateway, &snapshot));
    for (series, value) in [
        ("requests_in_flight{route=\"users\"}", 1.0),
        ("retries_total{route=\"users\"}", 2.0),
        ("request_bytes_total{route=\"users\"}", 30.0),
        ("response_bytes_total{route=\"users\"}", 400.0),
        ("upstream_connect_failures_total{service=\"users\"}", 5.0),
        (
            "upstream_requests_total{service=\"users\",class=\"5xx\",status=\"502\"}",
            1.0,
        ),
        (
            "upstream_response_head_seconds_count{service=\"users\"}",
            1.0,
        ),
        ("upstream_requests_in_flight{service=\"users\"}", 1.0),
        ("rejected_total{reason=\"no_route\"}", 1.0),
        ("rejected_total{reason=\"bad_path\"}", 0.0),
        ("unrouted_requests_total{class=\"4xx\",status=\"404\"}", 1.0),
        ("access_log_dropped_total", 6.0),
        ("connections_accepted_total{listener=\"main\"}", 8.0),
        ("connections_open{listener=\"main\"}", 1.0),
    ] {
        assert_eq!(
            samples[&format!("atoll_gateway_{series}")],
            value,
            "{series}"
        );
    }
}

#[test]
fn label_values_are_escaped() {
    let snapshot = snapshot(&["a\"b\\c\nd"], None);
    snapshot.routes()[0]
        .metrics
        .finished(StatusCode::OK, Duration::ZERO);
    let text = render(&GatewayMetrics::default(), &snapshot);
    assert!(text.contains(r#"requests_total{route="a\"b\\c\nd",class="2xx",status="200"} 1"#));
    assert!(
        text.lines()
            .all(|line| line.starts_with('#') || line.starts_with("atoll_gateway_"))
    );
}

#[test]
fn a_removed_route_goes_when_nothing_is_in_flight_and_comes_back_with_its_counts() {
    let shown = |snapshot: &Snapshot| {
        let text = render(&GatewayMetrics::default(), snapshot);
        text.contains("requests_total{route=\"old\"")
    };
    let first = snapshot(&["old", "kept"], None);
    let old = Arc::clone(&first.routes()[0].metrics);
    old.finished(StatusCode::OK, Duration::ZERO);
    old.in_flight.up();
    let second = snapshot(&["kept"], Some(&first));
    assert!(shown(&second));
    let third = snapshot(&["kept", "another"], Some(&second));
    assert!(shown(&third));
    let again = snapshot(&["kept", "old"], Some(&third));
    assert!(Arc::ptr_eq(&again.routes()[1].metrics, &old));
    old.in_flight.down();
    assert!(!shown(&third));
    assert!(shown(&again));
}

#[test]
fn routes_that_were_never_asked_have_no_series() {
    let snapshot = snapshot(&["users"], None);
    let text = render(&GatewayMetrics::default(), &snapshot);
    assert!(!text.contains("route=\"users\""));
}
