//! `/v1/agent/metrics`: the front's own figures, under Consul's names, as JSON and for
//! Prometheus (`?format=prometheus`).
//!
//! Consul's are of the last ten seconds; these count from the start, as Prometheus wants
//! it. An endpoint is known by the first two parts of its path, so that nothing that a
//! client writes becomes a label.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::keys::{KV, SESSIONS};
use crate::moment::go_time;
use crate::server::{Answer, Asked, Front};
use crate::wire::{Refusal, Reply};

/// What is told apart, sorted; all others are `other`.
const PATHS: &[&str] = &[
    "acl/bootstrap",
    "acl/policies",
    "acl/policy",
    "acl/token",
    "acl/tokens",
    "agent/check",
    "agent/checks",
    "agent/health",
    "agent/maintenance",
    "agent/members",
    "agent/metrics",
    "agent/self",
    "agent/service",
    "agent/services",
    "catalog/datacenters",
    "catalog/deregister",
    "catalog/node",
    "catalog/node-services",
    "catalog/nodes",
    "catalog/register",
    "catalog/service",
    "catalog/services",
    "config",
    "coordinate",
    "event/fire",
    "event/list",
    "health/checks",
    "health/node",
    "health/service",
    "health/state",
    "internal/ui",
    "kv",
    "operator/autopilot",
    "operator/raft",
    "operator/usage",
    "other",
    "query",
    "session/create",
    "session/destroy",
    "session/info",
    "session/list",
    "session/node",
    "session/renew",
    "status/leader",
    "status/peers",
    "txn",
];
const METHODS: [Method; 4] = [Method::GET, Method::PUT, Method::POST, Method::DELETE];

/// What requests of one kind took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    count: u64,
    sum: f64,
    squares: f64,
    least: f64,
    most: f64,
}

impl Sample {
    fn add(&mut self, millis: f64) {
        self.least = if self.count == 0 {
            millis
        } else {
            self.least.min(millis)
        };
        self.most = self.most.max(millis);
        self.count += 1;
        self.sum += millis;
        self.squares += millis * millis;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    /// Of the whole sample; rounding may leave a little below nothing.
    fn deviation(&self) -> f64 {
        let mean = self.mean();
        let variance = self.squares / self.count.max(1) as f64 - mean * mean;
        variance.max(0.0).sqrt()
    }
}

/// What is counted while requests are answered.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By path, then by method.
    requests: Vec<[Mutex<Sample>; METHODS.len()]>,
    blocking: AtomicI64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: PATHS.iter().map(|_| Default::default()).collect(),
            blocking: AtomicI64::new(0),
        }
    }
}

/// One query that may block, as long as it lives.
pub(crate) struct Blocking<'m>(&'m AtomicI64);

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a request for `path`, below `/v1/`.
    pub(crate) fn took(&self, method: &Method, path: &str, time: Duration) {
        let Some(method) = METHODS.iter().position(|known| known == method) else {
            return;
        };
        let cell = self.requests.get(kind(path)).map(|by| &by[method]);
        if let Some(cell) = cell {
            let mut sample = cell.lock().unwrap_or_else(PoisonError::into_inner);
            sample.add(time.as_secs_f64() * 1000.0);
        }
    }

    pub(crate) fn blocking(&self) -> Blocking<'_> {
        self.blocking.fetch_add(1, Ordering::Relaxed);
        Blocking(&self.blocking)
    }

    /// Those that there were: path, method and what they took.
    fn samples(&self) -> impl Iterator<Item = (&'static str, &'static str, Sample)> {
        let by_path = PATHS.iter().zip(&self.requests);
        by_path.flat_map(|(path, by_method)| {
            let all = METHODS.iter().zip(by_method);
            all.filter_map(|(method, cell)| {
                let sample = *cell.lock().unwrap_or_else(PoisonError::into_inner);
                (sample.count > 0).then(|| (*path, method_name(method), sample))
            })
        })
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}

/// The place of a path in [`PATHS`].
fn kind(path: &str) -> usize {
    let slashes = || path.match_indices('/').map(|(at, _)| at);
    let two = &path[..slashes().nth(1).unwrap_or(path.len())];
    let one = &path[..slashes().next().unwrap_or(path.len())];
    let found = PATHS
        .binary_search(&two)
        .or_else(|_| PATHS.binary_search(&one));
    found
        .or_else(|_| PATHS.binary_search(&"other"))
        .unwrap_or(0)
}

impl Front {
    pub(crate) async fn metrics(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let gauges = self.gauges().await?;
        match asked.query.get("format") {
            None | Some("") => Ok(Reply::json(self.metrics_json(&gauges)).into()),
            Some("prometheus") => {
                let text = self.metrics_text(&gauges);
                Ok(Reply::Text(StatusCode::OK, text).into())
            }
            Some("openmetrics") => Err(Refusal::unsupported("?format=openmetrics")),
            Some(other) => Err(Refusal::bad(format!(
                "Invalid format {other:?}: there is `prometheus`"
            ))),
        }
    }

    async fn gauges(&self) -> Result<Vec<(&'static str, u64)>, Refusal> {
        let catalog = self.registry.current();
        let instances: usize = catalog.services.values().map(|list| list.len()).sum();
        let blocking = self.metrics.blocking.load(Ordering::Relaxed);
        let count = |number: usize| number as u64;
        Ok(vec![
            ("autopilot.healthy", 1),
            ("rpc.queries_blocking", u64::try_from(blocking).unwrap_or(0)),
            ("server.isLeader", 1),
            (
                "session_ttl.active",
                count(self.store.list(SESSIONS).await?.items.len()),
            ),
            (
                "state.kv_entries",
                count(self.store.list(KV).await?.items.len()),
            ),
            ("state.nodes", count(self.nodes().await?.len())),
            ("state.service_instances", count(instances)),
            ("state.services", count(catalog.services.len())),
        ])
    }

    fn metrics_json(&self, gauges: &[(&'static str, u64)]) -> Value {
        let gauges = gauges.iter().map(|(name, value)| {
            json!({ "Name": format!("consul.{name}"), "Value": value, "Labels": {} })
        });
        let samples = self.metrics.samples().map(|(path, method, sample)| {
            json!({
                "Name": "consul.api.http",
                "Count": sample.count,
                "Sum": sample.sum,
                "Min": sample.least,
                "Max": sample.most,
                "Mean": sample.mean(),
                "Stddev": sample.deviation(),
                "Labels": { "method": method, "path": label(path) },
            })
        });
        json!({
            "Timestamp": go_time(self.clock.wall_unix_ms()),
            "Gauges": gauges.collect::<Vec<_>>(),
            "Points": [],
            "Counters": [],
            "Samples": samples.collect::<Vec<_>>(),
        })
    }

    fn metrics_text(&self, gauges: &[(&'static str, u64)]) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.extend([
                &line, "
",
            ])
        };
        for (name, value) in gauges {
            let name = name.replace('.', "_");
            line(format!("# TYPE consul_{name} gauge"));
            line(format!("consul_{name} {value}"));
        }
        line(
            "# HELP consul_api_http Milliseconds that requests took, blocking included.".to_owned(),
        );
        line("# TYPE consul_api_http summary".to_owned());
        for (path, method, sample) in self.metrics.samples() {
            let labels = format!("{{method=\"{method}\",path=\"{}\"}}", label(path));
            line(format!("consul_api_http_sum{labels} {}", sample.sum));
            line(format!("consul_api_http_count{labels} {}", sample.count));
        }
        text
    }
}

/// As Consul writes a path in a label.
fn label(path: &str) -> String {
    format!("v1_{}", path.replace(['/', '-'], "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_by_their_first_parts() {
        assert!(PATHS.is_sorted());
        for (path, wanted) in [
            ("kv/a/b", "kv"),
            ("kv", "kv"),
            ("health/service/web", "health/service"),
            ("query/x/execute", "query"),
            ("agent/self", "agent/self"),
            ("agent/check/pass/x", "agent/check"),
            ("", "other"),
            ("agent/odd", "other"),
            ("äöü/é", "other"),
        ] {
            assert_eq!(PATHS[kind(path)], wanted, "{path}");
        }
    }

    #[test]
    fn a_sample_knows_its_spread() {
        let metrics = Metrics::default();
        for millis in [2, 4, 4, 4, 5, 5, 7, 9] {
            metrics.took(&Method::GET, "kv/a", Duration::from_millis(millis));
        }
        metrics.took(&Method::PATCH, "kv/a", Duration::ZERO);
        let samples: Vec<_> = metrics.samples().collect();
        let [(path, method, sample)] = samples[..] else {
            panic!("{samples:?}");
        };
        assert_eq!((path, method, sample.count), ("kv", "GET", 8));
        assert_eq!((sample.least, sample.most, sample.mean()), (2.0, 9.0, 5.0));
        assert!((sample.deviation() - 2.0).abs() < 1e-6);
        let held = metrics.blocking();
        assert_eq!(metrics.blocking.load(Ordering::Relaxed), 1);
        drop(held);
        assert_eq!(metrics.blocking.load(Ordering::Relaxed), 0);
    }
}
