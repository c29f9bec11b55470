//! Prometheus' text format, version 0.0.4.
//!
//! Series of routes that were never asked are left out: 5,000 idle routes would be
//! 100,000 lines.

use std::fmt::{Display, Write};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BOUNDS_US, GatewayMetrics, Histogram, Rejection, RouteMetrics, STATUSES, Statuses};
use crate::snapshot::Snapshot;

/// All counters of the data plane as Prometheus reads them.
pub fn render(gateway: &GatewayMetrics, snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    of_gateway(&mut text, gateway, snapshot);
    of_routes(&mut text, &snapshot.route_metrics().collect::<Vec<_>>());
    of_services(&mut text, snapshot);
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let text = &mut self.0;
        for piece in [
            "# HELP ",
            name,
            " ",
            help,
            "\n# TYPE ",
            name,
            " ",
            kind,
            "\n",
        ] {
            text.push_str(piece);
        }
    }

    /// One line; `labels` in order, values still to be escaped.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    _ => self.0.push(character),
                }
            }
            self.0.push('"');
        }
        let end = if labels.is_empty() { " " } else { "} " };
        writeln!(self.0, "{end}{value}").expect("a String takes all text");
    }

    /// One line for each status that was counted.
    fn statuses(&mut self, name: &str, label: (&str, &str), statuses: &Statuses) {
        for (place, count) in statuses.0.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let (status, class) = match STATUSES.get(place) {
                Some(status) => (status.to_string(), format!("{}xx", status / 100)),
                None => ("other".to_owned(), "other".to_owned()),
            };
            self.sample(
                name,
                &[label, ("class", &class), ("status", &status)],
                count,
            );
        }
    }

    /// Buckets, sum and count, unless nothing was observed.
    fn histogram(&mut self, name: &str, label: (&str, &str), histogram: &Histogram) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = histogram.buckets.each_ref().map(load);
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let bucket = format!("{name}_bucket");
        let mut cumulative = 0;
        for (bound, count) in BOUNDS_US.iter().zip(counts) {
            cumulative += count;
            let bound = seconds(*bound).to_string();
            self.sample(&bucket, &[label, ("le", &bound)], cumulative);
        }
        self.sample(&bucket, &[label, ("le", "+Inf")], total);
        let sum = seconds(load(&histogram.sum_us));
        self.sample(&format!("{name}_sum"), &[label], sum);
        self.sample(&format!("{name}_count"), &[label], total);
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

fn of_gateway(text: &mut Text, gateway: &GatewayMetrics, snapshot: &Snapshot) {
    const GENERATION: &str = "atoll_gateway_config_generation";
    text.family(
        GENERATION,
        "gauge",
        "Generation of the configuration in use.",
    );
    text.sample(GENERATION, &[], snapshot.generation);
    const REVISION: &str = "atoll_gateway_catalog_revision";
    text.family(REVISION, "gauge", "Revision of the catalogue in use.");
    text.sample(REVISION, &[], snapshot.catalog_revision);
    const REJECTED: &str = "atoll_gateway_rejected_total";
    text.family(
        REJECTED,
        "counter",
        "Requests and connections refused by the gateway, by reason.",
    );
    for why in Rejection::ALL {
        let count = gateway.rejections[why as usize].get();
        text.sample(REJECTED, &[("reason", why.as_str())], count);
    }
    const DROPPED: &str = "atoll_gateway_access_log_dropped_total";
    text.family(
        DROPPED,
        "counter",
        "Access log lines lost because the writer was behind.",
    );
    text.sample(DROPPED, &[], gateway.records_dropped.get());

    let listeners = gateway
        .listeners
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    const OPEN: &str = "atoll_gateway_connections_open";
    text.family(OPEN, "gauge", "Client connections open, by listener.");
    for listener in listeners.iter() {
        text.sample(
            OPEN,
            &[("listener", &listener.listener)],
            listener.open.get(),
        );
    }
    const ACCEPTED: &str = "atoll_gateway_connections_accepted_total";
    text.family(
        ACCEPTED,
        "counter",
        "Client connections accepted, by listener.",
    );
    for listener in listeners.iter() {
        text.sample(
            ACCEPTED,
            &[("listener", &listener.listener)],
            listener.accepted.get(),
        );
    }
    const UNROUTED: &str = "atoll_gateway_unrouted_requests_total";
    text.family(
        UNROUTED,
        "counter",
        "Requests that no route took, by status.",
    );
    text.statuses(UNROUTED, ("route", ""), &gateway.unrouted);
}

fn of_routes(text: &mut Text, routes: &[&RouteMetrics]) {
    const REQUESTS: &str = "atoll_gateway_requests_total";
    text.family(
        REQUESTS,
        "counter",
        "Requests finished, by route and status.",
    );
    for route in routes {
        text.statuses(REQUESTS, ("route", &route.route), &route.statuses);
    }
    const DURATION: &str = "atoll_gateway_request_duration_seconds";
    text.family(
        DURATION,
        "histogram",
        "First byte of the head to last byte of the answer, by route.",
    );
    for route in routes {
        text.histogram(DURATION, ("route", &route.route), &route.duration);
    }
    const IN_FLIGHT: &str = "atoll_gateway_requests_in_flight";
    text.family(
        IN_FLIGHT,
        "gauge",
        "Requests begun and not finished, by route.",
    );
    for route in routes.iter().filter(|route| route.was_asked()) {
        text.sample(IN_FLIGHT, &[("route", &route.route)], route.in_flight.get());
    }
    type Count = fn(&RouteMetrics) -> u64;
    let counters: [(&str, &str, Count); 3] = [
        (
            "atoll_gateway_retries_total",
            "Attempts after the first, by route.",
            |r| r.retries.get(),
        ),
        (
            "atoll_gateway_request_bytes_total",
            "Bytes of request bodies, by route.",
            |r| r.bytes_in.get(),
        ),
        (
            "atoll_gateway_response_bytes_total",
            "Bytes of response bodies, by route.",
            |r| r.bytes_out.get(),
        ),
    ];
    for (name, help, count) in counters {
        text.family(name, "counter", help);
        for route in routes.iter().filter(|route| route.was_asked()) {
            text.sample(name, &[("route", &route.route)], count(route));
        }
    }
}

fn of_services(text: &mut Text, snapshot: &Snapshot) {
    let services: Vec<_> = snapshot.service_traffic().collect();
    const ATTEMPTS: &str = "atoll_gateway_upstream_requests_total";
    text.family(
        ATTEMPTS,
        "counter",
        "Attempts answered by an instance, by service and status.",
    );
    for (service, _) in &services {
        text.statuses(
            ATTEMPTS,
            ("service", service.service.as_str()),
            &service.statuses,
        );
    }
    const HEAD: &str = "atoll_gateway_upstream_response_head_seconds";
    text.family(
        HEAD,
        "histogram",
        "Start of an attempt to the head of its response, by service.",
    );
    for (service, _) in &services {
        text.histogram(
            HEAD,
            ("service", service.service.as_str()),
            &service.response_head,
        );
    }
    const FAILURES: &str = "atoll_gateway_upstream_connect_failures_total";
    text.family(
        FAILURES,
        "counter",
        "Connections to an instance that could not be opened, by service.",
    );
    for (service, _) in &services {
        let label = ("service", service.service.as_str());
        text.sample(FAILURES, &[label], service.connect_failures.get());
    }
    const IN_FLIGHT: &str = "atoll_gateway_upstream_requests_in_flight";
    text.family(IN_FLIGHT, "gauge", "Attempts in flight, by service.");
    for (service, in_flight) in &services {
        text.sample(
            IN_FLIGHT,
            &[("service", service.service.as_str())],
            in_flight,
        );
    }
}
