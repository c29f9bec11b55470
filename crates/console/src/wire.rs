//! What the admin API says, field by field. The command line reads the same types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the whole is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The fleet's name.
    pub name: String,
    /// Version of Atoll.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since it was started.
    pub uptime_ms: u64,
    /// The config file.
    pub file: String,
    /// Whether requests should be sent here.
    pub ready: bool,
    /// Why not, when not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Grows with each reload that took effect.
    pub generation: u64,
    /// The last attempt to reload, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<LastReload>,
    /// Listeners by name: `127.0.0.1:8080`.
    pub listeners: BTreeMap<String, String>,
    /// Revision of the catalogue.
    pub catalog_revision: u64,
    /// Revision of the catalogue that the gateway routes by.
    pub routed_revision: u64,
    /// Where registrations and keys are kept.
    #[serde(default)]
    pub store: Store,
    /// Each service in one line.
    pub services: Vec<ServiceSummary>,
}

/// Where registrations and keys are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Store {
    /// `embedded` or `etcd`.
    pub kind: String,
    /// Where it listens, unless it is in the data folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// How long it has been away, if it is: what is shown is the last that was known,
    /// and nothing can be registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_ms: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An attempt to reload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastReload {
    /// Whether it took effect.
    pub ok: bool,
    /// Milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What was wrong, or what needs a restart.
    pub detail: String,
}

/// One service in one line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceSummary {
    /// Its name.
    pub name: String,
    /// Instances that take requests.
    pub passing: usize,
    /// Instances in all, those that a supervisor is about to start included.
    pub instances: usize,
    /// Who runs it: `fleet`, `config` or `client`.
    pub source: String,
    /// What is done with it as a whole: `building`, `build failed`, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// All services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// Revision of the catalogue.
    pub revision: u64,
    /// By name.
    pub services: Vec<Service>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Who runs it: `fleet`, `config` or `client`.
    pub source: String,
    /// What is done with it as a whole: `building`, `build failed`, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// By id.
    pub instances: Vec<Instance>,
}

/// One instance, or a replica that has none at the moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Identity within the service.
    pub id: String,
    /// `starting`, `passing`, `warning`, `critical` or `draining`; of a replica
    /// without a process what its supervisor does: `waiting`, `backing off`,
    /// `crash-looping`, `stopped`, `exited`.
    pub health: String,
    /// `host:port`; empty when it has none at the moment.
    #[serde(default)]
    pub address: String,
    /// What its last check or its supervisor says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Share of requests.
    pub weight: u16,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Requests in flight from this gateway.
    pub in_flight: u64,
    /// Its process, when Atoll runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again, when Atoll runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
    /// Since it was started, when Atoll runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
}

/// An instance to register.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"address": "10.0.0.5:8080", "lease_ms": 30000, "checks": [{"http": "/healthz"}]}))]
pub struct Register {
    /// `host:port`.
    pub address: String,
    /// Share of requests; 1 when not given.
    #[serde(default = "one")]
    pub weight: u16,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// How long it is believed without a renewal; for ever when not given.
    #[serde(default)]
    pub lease_ms: Option<u64>,
    /// How it is checked; its own word counts when there is none.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What it says of itself; `passing` when not given.
    #[serde(default)]
    pub health: Option<String>,
}

fn one() -> u16 {
    1
}

/// One active check: exactly one of `http` and `tcp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Path of a GET that passes with any 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Passes when a connection is accepted.
    #[serde(default)]
    pub tcp: bool,
    /// Between two questions; 5,000 when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// For an answer; 2,000 when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Failures in a row before it is critical; 3 when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_before_critical: Option<u32>,
}

/// A change was taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// Revision of the catalogue that holds it.
    pub revision: u64,
}

/// All routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Routes {
    /// In the order of the file.
    pub routes: Vec<Route>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// Its name: the label in logs and metrics.
    pub name: String,
    /// Where it stands in the config file.
    pub origin: String,
    /// Hosts; empty is every host.
    pub hostnames: Vec<String>,
    /// Methods, paths, headers and query parameters, each in one line.
    pub matches: Vec<String>,
    /// Services with their weights.
    pub backends: Vec<RouteBackend>,
    /// Policies, each in one line: `timeout request 2s`.
    pub policies: Vec<String>,
}

/// A service that takes a share of a route's requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouteBackend {
    /// The service.
    pub service: String,
    /// Share relative to the others.
    pub weight: u32,
}

/// A request to explain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"method": "GET", "url": "/users/7", "headers": [["X-Beta", "1"]]}))]
pub struct ExplainRequest {
    /// Method.
    pub method: String,
    /// URL or path.
    pub url: String,
    /// Header lines, names and values.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// Why a request goes where it goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// One sentence.
    pub verdict: String,
    /// Status that the gateway itself would answer with, when it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The route that takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// What the upstream is asked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_path: Option<String>,
    /// Routes that were close, and why each lost.
    pub near: Vec<NearMiss>,
    /// Instances of the route's services, and why each is eligible or not.
    pub instances: Vec<Candidate>,
}

/// A route that was close.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NearMiss {
    /// Its name.
    pub route: String,
    /// Where it stands in the config file.
    pub origin: String,
    /// Why it lost.
    pub why: String,
}

/// An instance that could take the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// Its service.
    pub service: String,
    /// Its id.
    pub id: String,
    /// `host:port`.
    pub address: String,
    /// Whether it may be chosen.
    pub eligible: bool,
    /// Why, or why not.
    pub why: String,
}

/// One line that a service wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// The replica: `users-1`.
    pub replica: String,
    /// `stdout`, `stderr` or `atoll` (what the supervisor has to say).
    pub stream: String,
    /// Milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Without its newline.
    pub text: String,
}

/// The config file was read again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Of the configuration now in force.
    pub generation: u64,
    /// What changed in the file but needs a restart.
    pub restart_needed: Vec<String>,
}

/// One message of `/watch`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WatchEvent {
    /// Revision of the catalogue after the change.
    pub revision: u64,
    /// `services` is everything there is: forget what is not among it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resync: bool,
    /// Services that changed, as they are now; one without instances is gone.
    pub services: Vec<Service>,
}

/// An RFC 9457 problem.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says it all.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What was wrong and how to mend it.
    pub detail: String,
}
