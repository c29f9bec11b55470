//! What the gateway is told to do, in types that are already right: the config
//! file's shorthand is expanded and its policies are merged before they get here.
//!
//! Words follow the Kubernetes Gateway API (hostnames, matches, backends, weight,
//! timeouts, retry). Look next at `router.rs`, which compiles these.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use atoll_model::ServiceName;
use http::{HeaderName, HeaderValue, Method};

/// All that can change while the gateway runs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// In the order of the file, which breaks ties between equal matches.
    pub routes: Vec<Route>,
    /// Whose `Forwarded` and `X-Forwarded-*` are believed; nobody's by default.
    pub trusted_proxies: Vec<Cidr>,
    /// What is written for each request.
    pub access_log: AccessLog,
    /// Limits and timeouts of client connections.
    pub limits: Limits,
}

/// An address block, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The network's address; bits past `prefix` are ignored.
    pub address: IpAddr,
    /// Leading bits that count: 0..=32 or 0..=128.
    pub prefix: u8,
}

/// What is written for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// How a line looks.
    pub format: LogFormat,
    /// Where it goes; `None` is the log of Atoll itself, `.atoll/access.log`.
    pub path: Option<PathBuf>,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Nothing is written; the default, as with Envoy, Traefik and Caddy.
    Off,
    /// Words for a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// Limits and timeouts of client connections (not of routes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and headers together; more is 431. Default 64 KiB.
    pub head_bytes_max: usize,
    /// Header lines; more is 431. Default 100.
    pub header_count_max: usize,
    /// Open client connections, all workers together; further ones wait in the
    /// kernel's backlog. Default 20,000.
    pub connections_max: usize,
    /// Open connections of one client address; further ones are closed. `0` is no
    /// limit, the default on loopback.
    pub connections_per_client_max: usize,
    /// First to last byte of a head; then 408. Default 10 s.
    pub head_timeout: Duration,
    /// Keep-alive connection without a request; then closed. Default 75 s.
    pub idle_timeout: Duration,
    /// A client that neither sends the body it owes nor reads what it was sent
    /// for this long is cut off. Default 30 s.
    pub body_progress_timeout: Duration,
    /// Streams at once in one h2 connection. Default 100.
    pub h2_streams_max: u32,
}

/// One route: which requests, what is done to them, where they go.
#[derive(Clone, Debug)]
pub struct Route {
    /// Unique; the label in logs and metrics. By default the text of its key.
    pub name: String,
    /// Any of these hosts; empty is every host.
    pub hostnames: Vec<Hostname>,
    /// Any of these; never empty.
    pub matches: Vec<Match>,
    /// Where requests go, by weight. Never empty.
    pub backends: Vec<Backend>,
    /// How an instance is chosen within a backend.
    pub balance: Balance,
    /// What the upstream sees as path.
    pub rewrite: Rewrite,
    /// Changes to the request's headers.
    pub request_headers: HeaderEdit,
    /// Changes to the response's headers.
    pub response_headers: HeaderEdit,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// When a failed attempt is repeated.
    pub retry: Retry,
    /// Larger request bodies are 413; `None` is no limit.
    pub body_bytes_max: Option<u64>,
    /// Where in the config file this route stands, for `explain`: `atoll.yaml:12`.
    pub origin: String,
}

/// A host to match, lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hostname {
    /// Just this host.
    Exact(String),
    /// `*.example.com` as `example.com`: any labels below it, not it itself.
    Wildcard(String),
}

/// Conditions that must all hold.
#[derive(Clone, Debug)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// `None` is every method.
    pub method: Option<Method>,
    /// Headers that must have these values.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters that must have these values.
    pub query: Vec<(String, ValueMatch)>,
}

/// A path pattern, segment by segment.
///
/// `/users/{id}/orders/{rest*}` is `[Literal, Param, Literal, Rest]`. A `Rest`
/// also matches nothing, so that `/users/{path*}` takes `/users` and `/users/`
/// (Gateway API's PathPrefix).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathMatch {
    /// As written, for people.
    pub pattern: String,
    /// In order; `Rest` only at the end.
    pub segments: Vec<Segment>,
}

/// One segment of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// This text, percent-decoded, compared with case.
    Literal(String),
    /// Any one segment that is not empty, by this name.
    Param(String),
    /// Everything that is left, by this name.
    Rest(String),
}

/// What a header or query value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Exactly this.
    Exact(String),
    /// Anything, as long as it is there.
    Present,
}

/// A service that takes a share of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service, as the registry knows it.
    pub service: ServiceName,
    /// Share relative to the other backends; 0 takes none.
    pub weight: u32,
}

/// How an instance is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The less busy of two drawn by weight (power of two choices). The default.
    LeastRequest,
    /// Each in turn, by weight.
    RoundRobin,
    /// The same instance for the same key, on a ring.
    Hash(HashKey),
}

/// What the ring is asked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this request header.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(String),
    /// The client's address (behind trusted proxies, the one they report).
    ClientIp,
}

/// What the upstream sees as path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// What the client sent, byte for byte. The default.
    Keep,
    /// Without the literal segments before the first parameter; `/users/7` of
    /// `/users/{path*}` becomes `/7`.
    StripPrefix,
    /// `/v2/{path}`: parameters of the match in braces.
    Template(String),
}

/// Changes to headers, done in the order remove, set, add (Gateway API's filter).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Replaced or made.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    pub remove: Vec<HeaderName>,
}

/// How long anything may take. Zero is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To open a connection to an instance. Default 1 s; then another is tried.
    pub connect: Duration,
    /// Last byte of the request to the first of the response. Default 30 s; then 504.
    pub response_head: Duration,
    /// Between two pieces of the response body. Default 30 s.
    pub idle: Duration,
    /// The whole request, retries included (Gateway API's `timeouts.request`).
    /// Default none.
    pub request: Duration,
}

/// When a failed attempt is repeated, always against another instance if there is
/// one, and only where it cannot hurt: nothing was sent, or the method is
/// idempotent (RFC 9110 §9.2.2) and no byte of a response came, or it is safe
/// (§9.2.1) and a short response was cut off before any of it was passed on.
///
/// Beside that, a request that was never sent waits for the next instance of a service
/// that has lost its last one a moment ago: until 5 s after the loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included; 1 is no retry. Default 3.
    pub attempts: u32,
    /// Retries allowed for each hundred requests of the last seconds. Those of
    /// requests that were never sent (connection refused) are not counted: they cost
    /// the service nothing. Default 20.
    pub budget_percent: u32,
    /// Retries each second that are allowed whatever the budget. Default 10.
    pub budget_min_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            header_count_max: 100,
            connections_max: 20_000,
            connections_per_client_max: 0,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_progress_timeout: Duration::from_secs(30),
            h2_streams_max: 100,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            response_head: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            request: Duration::ZERO,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            budget_percent: 20,
            budget_min_per_second: 10,
        }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            format: LogFormat::Off,
            path: None,
        }
    }
}
