//! What the console needs of the others, in plain types of its own; the binary
//! plugs in the registry, the gateway and the fleet.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atoll_model::{
    Address, Catalog, Check, Fault, Health, Instance, InstanceId, Revision, ServiceName,
};
use futures_util::Stream;

/// A boxed future, so that the ports can be trait objects.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// A boxed stream, which lives on its own.
pub type Flow<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// Services and their instances.
pub trait Directory: Send + Sync + 'static {
    /// Every service, by name: known to the registry or to the fleet.
    fn services(&self) -> Pending<'_, Vec<ServiceSummary>>;
    /// The instances of a service, by id; not found when nobody knows the service.
    fn instances(&self, service: ServiceName) -> Pending<'_, Result<Vec<InstanceView>, Fault>>;
    /// Registers an instance or registers it again; durable when it resolves.
    fn register(&self, instance: NewInstance) -> Pending<'_, Result<Revision, Fault>>;
    /// Renews a lease.
    fn renew(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>>;
    /// Forgets an instance.
    fn deregister(
        &self,
        service: ServiceName,
        id: InstanceId,
    ) -> Pending<'_, Result<Revision, Fault>>;
    /// Begins or ends the draining of an instance.
    fn drain(
        &self,
        service: ServiceName,
        id: InstanceId,
        draining: bool,
    ) -> Pending<'_, Result<Revision, Fault>>;
    /// What changes after a revision; ends when Atoll stops.
    fn watch(&self, since: Revision) -> Flow<CatalogEvent>;
}

/// Atoll itself.
pub trait Operations: Send + Sync + 'static {
    /// How it goes.
    fn status(&self) -> Pending<'_, Status>;
    /// `Err` with the reason while it should get no traffic: starting or draining.
    fn ready(&self) -> Result<(), String>;
    /// Appends all metrics in Prometheus' text format.
    fn metrics(&self, text: &mut String);
    /// Reads the config file again. A bad file is a result, not a fault.
    fn reload(&self) -> Pending<'_, Result<Reload, Fault>>;
    /// The config file, expanded, secrets redacted, as a JSON document.
    fn config(&self) -> Pending<'_, Result<String, Fault>>;
    /// What replicas wrote; ends after the last line unless it follows.
    fn logs(&self, query: LogQuery) -> Pending<'_, Result<Flow<LogEvent>, Fault>>;
}

/// Routes.
pub trait Routing: Send + Sync + 'static {
    /// Every route in the order of the file.
    fn routes(&self) -> Vec<RouteView>;
    /// What would become of a request.
    fn explain(&self, request: ExplainRequest) -> Result<Explanation, Fault>;
}

/// One service in a few figures.
#[derive(Clone, Debug)]
pub struct ServiceSummary {
    /// Its name.
    pub name: ServiceName,
    /// Replicas that the fleet is to run; `None` when it is not ours to run.
    pub replicas_wanted: Option<u32>,
    /// Instances in each state; states without any may be left out.
    pub health: BTreeMap<Health, usize>,
    /// Requests in flight to it.
    pub in_flight: u64,
    /// What the fleet does with it or why it does not run; may be empty.
    pub note: String,
}

/// One instance with what everybody knows of it.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// As it stands in the catalogue.
    pub instance: Arc<Instance>,
    /// `client`, `fleet` or `config`.
    pub source: &'static str,
    /// Requests in flight to it.
    pub in_flight: u64,
    /// Of a replica that the fleet runs.
    pub process: Option<ProcessView>,
    /// How long it is believed without a renewal.
    pub lease: Option<Duration>,
    /// What is left of that.
    pub expires_in: Option<Duration>,
    /// Its checks.
    pub checks: Vec<CheckView>,
}

/// The process behind an instance.
#[derive(Clone, Debug)]
pub struct ProcessView {
    /// Its id; `None` while it does not run.
    pub pid: Option<u32>,
    /// Times that it was started again.
    pub restarts: u32,
    /// Since its last start; `None` while it does not run.
    pub uptime: Option<Duration>,
    /// In which state it is, in the fleet's words.
    pub state: String,
}

/// One check and how it stands.
#[derive(Clone, Debug)]
pub struct CheckView {
    /// How it is asked: `GET /healthz` or `TCP`.
    pub probe: String,
    /// What its answers amount to.
    pub health: Health,
    /// How long that has been so.
    pub since: Duration,
    /// Good answers in a row.
    pub successes: u32,
    /// Bad answers in a row.
    pub failures: u32,
    /// What the last answer said.
    pub output: String,
    /// How long ago the last answer came and how long it took.
    pub last: Option<(Duration, Duration)>,
}

/// An instance to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInstance {
    /// The service.
    pub service: ServiceName,
    /// Identity within it.
    pub id: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// Share of requests.
    pub weight: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub metadata: BTreeMap<String, String>,
    /// How long it is believed without a renewal.
    pub lease: Option<Duration>,
    /// How it is checked.
    pub checks: Vec<Check>,
    /// What it says of itself.
    pub health: Health,
}

/// What a watcher is told.
#[derive(Clone, Debug)]
pub enum CatalogEvent {
    /// Forget what you know: this is everything.
    Resync(Arc<Catalog>),
    /// What changed, in order.
    Changes {
        /// The catalogue's revision after them.
        revision: Revision,
        /// One by one.
        changes: Vec<CatalogChange>,
    },
}

/// One change of the catalogue.
#[derive(Clone, Debug)]
pub enum CatalogChange {
    /// New or different.
    Put(Arc<Instance>),
    /// Gone.
    Gone(ServiceName, InstanceId),
}

/// How Atoll goes.
#[derive(Clone, Debug)]
pub struct Status {
    /// Atoll's version.
    pub version: String,
    /// The fleet's name.
    pub name: String,
    /// Since the start.
    pub uptime: Duration,
    /// Of this process.
    pub pid: u32,
    /// The config file.
    pub config_path: String,
    /// Counts the files that were taken over, from 1.
    pub config_generation: u64,
    /// The last attempt to take one over, the first included.
    pub last_reload: Option<Reload>,
    /// Where it listens.
    pub listeners: Vec<ListenerView>,
    /// Of the catalogue.
    pub catalog_revision: Revision,
}

/// One open listener.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// The key under `listen:`.
    pub key: String,
    /// Where.
    pub address: SocketAddr,
}

/// What came of reading the config file again.
#[derive(Clone, Debug)]
pub struct Reload {
    /// When.
    pub at: SystemTime,
    /// Whether it is in force now.
    pub applied: bool,
    /// The generation in force.
    pub generation: u64,
    /// Why it was refused, or what needs a restart to take effect.
    pub messages: Vec<String>,
}

/// Which lines are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Of which service.
    pub service: ServiceName,
    /// Of this replica only.
    pub replica: Option<InstanceId>,
    /// So many of the last lines.
    pub tail: usize,
    /// And those to come.
    pub follow: bool,
}

/// What a reader of logs is told.
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// A line.
    Line {
        /// When it was written.
        at: SystemTime,
        /// By which replica.
        replica: InstanceId,
        /// `stdout`, `stderr` or another of the fleet's words.
        stream: &'static str,
        /// Without its end.
        text: Arc<str>,
    },
    /// The reader was too slow and so many lines were left out.
    Missed(u64),
}

/// One route.
#[derive(Clone, Debug)]
pub struct RouteView {
    /// Its name.
    pub name: String,
    /// Where it stands in the file: `atoll.yaml:12`.
    pub origin: String,
    /// Hosts; none is every host.
    pub hostnames: Vec<String>,
    /// What it takes, in words: `GET /users/{path*}`.
    pub matches: Vec<String>,
    /// Services and their shares.
    pub backends: Vec<(ServiceName, u32)>,
    /// What is done to its requests, as name and value in words.
    pub policies: Vec<(String, String)>,
}

/// A request whose fate is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainRequest {
    /// The method.
    pub method: http::Method,
    /// Absolute, or path and query only.
    pub url: http::Uri,
    /// Headers.
    pub headers: http::HeaderMap,
}

/// What would become of a request.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `routed`, or why not: `no_route`, `method_not_allowed`, `bad_path`.
    pub verdict: &'static str,
    /// The same for a person.
    pub summary: String,
    /// The status that the gateway itself would answer with; `None` when routed.
    pub status: Option<u16>,
    /// The route that takes it.
    pub route: Option<ExplainedRoute>,
    /// Routes that nearly did, nearest first: name, origin, why not.
    pub near_misses: Vec<(String, String, String)>,
}

/// The route that takes a request, and what it does to it.
#[derive(Clone, Debug)]
pub struct ExplainedRoute {
    /// Its name.
    pub name: String,
    /// Where it stands in the file.
    pub origin: String,
    /// What matched, in words.
    pub matched: Vec<String>,
    /// Parameters of the path.
    pub parameters: Vec<(String, String)>,
    /// What the upstream is asked for.
    pub upstream_path: String,
    /// What is done to the request, as name and value in words.
    pub policies: Vec<(String, String)>,
    /// Where it may go.
    pub backends: Vec<ExplainedBackend>,
}

/// A service that a request may go to.
#[derive(Clone, Debug)]
pub struct ExplainedBackend {
    /// The service.
    pub service: String,
    /// Share as configured.
    pub weight: u32,
    /// Share now.
    pub share_percent: f64,
    /// Its instances.
    pub instances: Vec<ExplainedInstance>,
}

/// An instance that a request may go to, or why not.
#[derive(Clone, Debug)]
pub struct ExplainedInstance {
    /// The instance.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// How fit it is.
    pub health: Health,
    /// Why it gets no requests; `None` when it does.
    pub excluded: Option<String>,
}
