//! The admin API's bodies as JSON, and nothing but that: durations are whole
//! milliseconds (`_ms`), times are milliseconds since 1970, states are the words of
//! [`atoll_model::Health`]. A field that is not known here is refused when it comes
//! in; fields may be added to what goes out.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use atoll_model::{Address, Check, Health, InstanceId, Probe, Revision, ServiceName};
use axum::Json;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ports;
use crate::problem::Problem;

mod routing;

pub(crate) use routing::{Explanation, RouteList};

/// What may come in as a body.
pub(crate) trait Readable: DeserializeOwned {}
impl Readable for InstanceDraft {}
impl Readable for DrainDraft {}

/// Reads a body; the refusal says line, column and field.
pub(crate) fn read<T: Readable>(body: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let mut refused = match serde_path_to_error::deserialize(&mut reader) {
        Ok(value) => match reader.end() {
            Ok(()) => return Ok(value),
            Err(error) => refusal(&error),
        },
        Err(error) => {
            let field = error.path().to_string();
            // `?` is where the text ends before the path does.
            let field = field.trim_end_matches('?').trim_end_matches('.');
            let mut refused = refusal(error.inner());
            refused.field = (!field.is_empty()).then(|| field.to_owned());
            refused
        }
    };
    refused.detail = format!("the body cannot be used: {}", refused.detail);
    Err(refused)
}

fn refusal(error: &serde_json::Error) -> Problem {
    let mut refused = Problem::new(http::StatusCode::BAD_REQUEST, error.to_string());
    refused.position = Some((error.line(), error.column()));
    refused
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// The kind; `about:blank` says no more than the status (§4.2.1).
    #[schema(example = "about:blank")]
    r#type: &'static str,
    /// The status in words.
    #[schema(example = "Not Found")]
    title: &'static str,
    /// The status.
    #[schema(example = 404)]
    status: u16,
    /// What is wrong and how to mend it.
    detail: String,
    /// The offending field or parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Line of the body, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Column of the body, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

pub(crate) fn problem(problem: &Problem) -> Json<ProblemBody> {
    Json(ProblemBody {
        r#type: "about:blank",
        title: problem.status.canonical_reason().unwrap_or("Error"),
        status: problem.status.as_u16(),
        detail: problem.detail.clone(),
        field: problem.field.clone(),
        line: problem.position.map(|(line, _)| line),
        column: problem.position.map(|(_, column)| column),
    })
}

/// An instance to register. Unnamed fields have their defaults.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "address": "10.0.0.5:8080",
    "tags": ["blue"],
    "metadata": { "version": "1.2.3" },
    "lease_ms": 30000,
    "checks": [{ "http": "/healthz", "interval_ms": 5000 }]
}))]
pub(crate) struct InstanceDraft {
    /// `HOST:PORT`; an IPv6 address in brackets.
    address: String,
    /// Share of the requests relative to its siblings; 1 by default, 0 takes none.
    weight: Option<u16>,
    /// Free words to select by.
    #[serde(default)]
    tags: Vec<String>,
    /// Free key-value pairs; `version` is the deployed version by convention.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    /// How long it is believed without a renewal; for ever by default.
    lease_ms: Option<u64>,
    /// How it is checked; without any its own word (`health`) counts.
    #[serde(default)]
    checks: Vec<CheckDraft>,
    /// Its own word: starting, passing (the default), warning, critical, draining.
    health: Option<String>,
}

/// A check: `http` or `tcp`. Unnamed fields have their defaults.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckDraft {
    /// `GET` this path: 2xx passes, 429 warns, the rest fails.
    http: Option<String>,
    /// A connection that is accepted passes.
    tcp: Option<bool>,
    /// Between two questions; 5000 by default.
    interval_ms: Option<u64>,
    /// Between two questions while it is starting; 200 by default.
    start_interval_ms: Option<u64>,
    /// Failures in this time do not count; 60000 by default.
    start_period_ms: Option<u64>,
    /// A later answer is a failure; 2000 by default.
    timeout_ms: Option<u64>,
    /// Successes in a row before it passes; 1 by default.
    success_before_passing: Option<u32>,
    /// Failures in a row before it warns; 1 by default.
    failures_before_warning: Option<u32>,
    /// Failures in a row before it is critical; 3 by default.
    failures_before_critical: Option<u32>,
}

/// Whether an instance drains.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "draining": true }))]
pub(crate) struct DrainDraft {
    /// False takes it back.
    pub(crate) draining: bool,
}

impl InstanceDraft {
    pub(crate) fn parse(
        self,
        service: ServiceName,
        id: InstanceId,
    ) -> Result<ports::NewInstance, Problem> {
        let address = self
            .address
            .parse::<Address>()
            .map_err(|error| Problem::invalid("address", error.to_string()))?;
        let health = match self.health.as_deref() {
            None => Health::Passing,
            Some(word) => Health::from_word(word).ok_or_else(|| {
                let known = Health::ALL.map(Health::as_str).join(", ");
                Problem::invalid("health", format!("`{word}` is not one of {known}"))
            })?,
        };
        let checks = self.checks.into_iter().enumerate();
        let checks = checks.map(|(index, check)| check.parse(index));
        Ok(ports::NewInstance {
            service,
            id,
            address,
            weight: self.weight.unwrap_or(1),
            tags: self.tags,
            metadata: self.metadata,
            lease: self.lease_ms.map(Duration::from_millis),
            checks: checks.collect::<Result<_, _>>()?,
            health,
        })
    }
}

impl CheckDraft {
    fn parse(self, index: usize) -> Result<Check, Problem> {
        let probe = match (self.http, self.tcp) {
            (Some(path), None | Some(false)) => Probe::Http { path },
            (None, Some(true)) => Probe::Tcp,
            (None, None | Some(false)) | (Some(_), Some(true)) => {
                return Err(Problem::invalid(
                    &format!("checks[{index}]"),
                    "a check is either `\"http\": \"/path\"` or `\"tcp\": true`",
                ));
            }
        };
        let or = |given: Option<u64>, default| given.map_or(default, Duration::from_millis);
        let default = Check::new(probe);
        Ok(Check {
            interval: or(self.interval_ms, default.interval),
            start_interval: or(self.start_interval_ms, default.start_interval),
            start_period: or(self.start_period_ms, default.start_period),
            timeout: or(self.timeout_ms, default.timeout),
            success_before_passing: self
                .success_before_passing
                .unwrap_or(default.success_before_passing),
            failures_before_warning: self
                .failures_before_warning
                .unwrap_or(default.failures_before_warning),
            failures_before_critical: self
                .failures_before_critical
                .unwrap_or(default.failures_before_critical),
            probe: default.probe,
        })
    }
}

/// When a change is seen: by whoever has a catalogue of this revision or later.
#[derive(Serialize, ToSchema)]
pub(crate) struct Changed {
    /// The revision.
    revision: u64,
}

impl From<Revision> for Changed {
    fn from(revision: Revision) -> Self {
        Self {
            revision: revision.0,
        }
    }
}

/// An instance as it stands in the catalogue.
#[derive(Serialize, ToSchema)]
pub(crate) struct CatalogInstance {
    service: String,
    id: String,
    /// `HOST:PORT`.
    address: String,
    weight: u16,
    /// starting, passing, warning, critical or draining.
    health: &'static str,
    /// Why it is in that state; may be empty.
    note: String,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
}

impl From<&atoll_model::Instance> for CatalogInstance {
    fn from(instance: &atoll_model::Instance) -> Self {
        Self {
            service: instance.service.to_string(),
            id: instance.id.to_string(),
            address: instance.address.to_string(),
            weight: instance.weight,
            health: instance.health.as_str(),
            note: instance.note.clone(),
            tags: instance.tags.clone(),
            metadata: instance.metadata.clone(),
        }
    }
}

/// An instance with all that is known of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Instance {
    #[serde(flatten)]
    catalog: CatalogInstance,
    /// Who put it there: client, fleet or config.
    source: &'static str,
    /// Requests in flight to it.
    in_flight: u64,
    /// The process, when the fleet runs it.
    process: Option<Process>,
    /// How long it is believed without a renewal.
    lease_ms: Option<u64>,
    /// What is left of that.
    expires_in_ms: Option<u64>,
    checks: Vec<CheckState>,
}

/// The process behind an instance.
#[derive(Serialize, ToSchema)]
struct Process {
    pid: Option<u32>,
    /// Times that it was started again.
    restarts: u32,
    uptime_ms: Option<u64>,
    state: String,
}

/// How a check stands.
#[derive(Serialize, ToSchema)]
struct CheckState {
    /// `GET /path` or `TCP`.
    probe: String,
    health: &'static str,
    /// How long `health` has been so.
    since_ms: u64,
    /// Good answers in a row.
    successes: u32,
    /// Bad answers in a row.
    failures: u32,
    /// What the last answer said.
    output: String,
    /// How long ago the last answer came.
    last_ago_ms: Option<u64>,
    /// How long it took.
    last_took_ms: Option<u64>,
}

/// The instances of a service.
#[derive(Serialize, ToSchema)]
pub(crate) struct InstanceList {
    service: String,
    instances: Vec<Instance>,
}

impl InstanceList {
    pub(crate) fn new(service: &ServiceName, views: Vec<ports::InstanceView>) -> Self {
        Self {
            service: service.to_string(),
            instances: views.into_iter().map(Instance::from).collect(),
        }
    }
}

impl From<ports::InstanceView> for Instance {
    fn from(view: ports::InstanceView) -> Self {
        Self {
            catalog: (&*view.instance).into(),
            source: view.source,
            in_flight: view.in_flight,
            process: view.process.map(|process| Process {
                pid: process.pid,
                restarts: process.restarts,
                uptime_ms: process.uptime.map(millis),
                state: process.state,
            }),
            lease_ms: view.lease.map(millis),
            expires_in_ms: view.expires_in.map(millis),
            checks: view
                .checks
                .into_iter()
                .map(|check| CheckState {
                    probe: check.probe,
                    health: check.health.as_str(),
                    since_ms: millis(check.since),
                    successes: check.successes,
                    failures: check.failures,
                    output: check.output,
                    last_ago_ms: check.last.map(|(ago, _)| millis(ago)),
                    last_took_ms: check.last.map(|(_, took)| millis(took)),
                })
                .collect(),
        }
    }
}

/// Every service in a few figures.
#[derive(Serialize, ToSchema)]
pub(crate) struct ServiceList {
    services: Vec<Service>,
}

/// One service in a few figures.
#[derive(Serialize, ToSchema)]
struct Service {
    name: String,
    /// Replicas that the fleet is to run; null when it is not ours to run.
    replicas_wanted: Option<u32>,
    /// Instances in each state.
    health: BTreeMap<&'static str, usize>,
    /// Instances that get requests.
    healthy: usize,
    /// All instances.
    instances: usize,
    /// Requests in flight.
    in_flight: u64,
    note: String,
}

impl From<Vec<ports::ServiceSummary>> for ServiceList {
    fn from(summaries: Vec<ports::ServiceSummary>) -> Self {
        Self {
            services: summaries.into_iter().map(Service::from).collect(),
        }
    }
}

impl From<ports::ServiceSummary> for Service {
    fn from(summary: ports::ServiceSummary) -> Self {
        let count = |fit: bool| {
            let states = summary.health.iter();
            let states = states.filter(|(health, _)| !fit || health.takes_requests());
            states.map(|(_, count)| count).sum()
        };
        Self {
            healthy: count(true),
            instances: count(false),
            health: Health::ALL
                .map(|health| {
                    let count = summary.health.get(&health).copied().unwrap_or_default();
                    (health.as_str(), count)
                })
                .into(),
            name: summary.name.to_string(),
            replicas_wanted: summary.replicas_wanted,
            in_flight: summary.in_flight,
            note: summary.note,
        }
    }
}

/// How Atoll goes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    version: String,
    /// The fleet's name.
    name: String,
    ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<String>,
    uptime_ms: u64,
    pid: u32,
    config: Config,
    listeners: Vec<Listener>,
    catalog_revision: u64,
    services: Vec<Service>,
}

/// The config file in force.
#[derive(Serialize, ToSchema)]
struct Config {
    path: String,
    /// Counts the files that were taken over, from 1.
    generation: u64,
    last_reload: Option<Reload>,
}

/// An open listener.
#[derive(Serialize, ToSchema)]
struct Listener {
    /// The key under `listen:`.
    key: String,
    address: String,
}

/// What came of reading the config file.
#[derive(Serialize, ToSchema)]
pub(crate) struct Reload {
    at_ms: u64,
    /// Whether it is in force.
    applied: bool,
    /// The generation in force.
    generation: u64,
    /// Why it was refused, or what needs a restart.
    messages: Vec<String>,
}

impl Status {
    pub(crate) fn new(
        status: ports::Status,
        ready: Result<(), String>,
        services: Vec<ports::ServiceSummary>,
    ) -> Self {
        Self {
            version: status.version,
            name: status.name,
            ready: ready.is_ok(),
            not_ready: ready.err(),
            uptime_ms: millis(status.uptime),
            pid: status.pid,
            config: Config {
                path: status.config_path,
                generation: status.config_generation,
                last_reload: status.last_reload.map(Reload::from),
            },
            listeners: status
                .listeners
                .into_iter()
                .map(|listener| Listener {
                    key: listener.key,
                    address: listener.address.to_string(),
                })
                .collect(),
            catalog_revision: status.catalog_revision.0,
            services: services.into_iter().map(Service::from).collect(),
        }
    }
}

impl From<ports::Reload> for Reload {
    fn from(reload: ports::Reload) -> Self {
        Self {
            at_ms: unix_ms(reload.at),
            applied: reload.applied,
            generation: reload.generation,
            messages: reload.messages,
        }
    }
}

/// Data of the event `resync`: forget what you know, so many instances follow.
#[derive(Serialize, ToSchema)]
pub(crate) struct WatchResync {
    pub(crate) revision: u64,
    pub(crate) instances: usize,
}

/// Data of the event `gone`.
#[derive(Serialize, ToSchema)]
pub(crate) struct WatchGone {
    pub(crate) service: String,
    pub(crate) id: String,
}

/// One line of output.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum LogLine {
    /// What a replica wrote.
    Line {
        at_ms: u64,
        replica: String,
        stream: &'static str,
        text: String,
    },
    /// The reader was too slow: so many lines are left out here.
    Missed { missed: u64 },
}

impl From<ports::LogEvent> for LogLine {
    fn from(event: ports::LogEvent) -> Self {
        match event {
            ports::LogEvent::Line {
                at,
                replica,
                stream,
                text,
            } => Self::Line {
                at_ms: unix_ms(at),
                replica: replica.to_string(),
                stream,
                text: text.to_string(),
            },
            ports::LogEvent::Missed(missed) => Self::Missed { missed },
        }
    }
}

impl LogLine {
    /// As one line of NDJSON, with its end.
    pub(crate) fn json(&self) -> Vec<u8> {
        // Texts and numbers always serialise.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map(millis)
        .unwrap_or_default()
}
