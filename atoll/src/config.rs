//! The configuration file: `atoll.yaml`, its `.env`, and what they mean.
//!
//! [`load`] reads the file, replaces variables, and gives finished types to the
//! fleet, the registry and the gateway, or everything that is wrong at once, each
//! with its place. It touches nothing but files. `keys.rs` has every key there is,
//! `tree.rs` reads YAML within limits, `decode.rs` makes values of it; `service.rs`
//! and `route.rs` know what the two large parts mean.
//!
//! Variables that Atoll gives to each replica (`PORT`, `ATOLL_SERVICE`,
//! `ATOLL_INSTANCE`) are left alone in `command` and `build`, since
//! only the replica's shell knows them; everywhere else `$PORT` is a variable like
//! any other. In [`Loaded::expanded`] values that look secret are `***`; a file
//! with secrets is therefore not read back alike.

mod consul;
mod decode;
mod diagnostic;
mod dns;
mod dotenv;
mod environment;
mod expanded;
mod fuzz;
mod gateway;
mod health;
mod keys;
mod matching;
mod pattern;
mod policy;
mod registry;
mod resolve;
mod route;
mod schema;
mod service;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod value;
mod variables;
mod yaml;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_fleet::workload::Workload;
use atoll_model::{Address, Check, ServiceName};

pub use consul::{Acl, Consul};
pub use diagnostic::{ConfigError, Diagnostic, Diagnostics, Severity};
pub use dns::Dns;
pub(crate) use dns::machine;
pub use fuzz::fuzz;
pub use schema::schema;
pub use store::Store;
pub use yaml::to_yaml;

use decode::{Context, Fields};
use source::Source;
use tree::Node;
use variables::Variables;

/// What [`find`] looks for in a folder.
const FILE_NAMES: [&str; 2] = ["atoll.yaml", "atoll.yml"];

/// `drain` of a service, and of the gateway.
const DRAIN_DEFAULT: Duration = Duration::from_secs(30);

/// Compose's default of `stop_grace_period`.
const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);

const LOG_BYTES_DEFAULT: u64 = 8 * 1024 * 1024;

/// One long line must fit.
const LOG_BYTES_MIN: u64 = 64 * 1024;

/// Longest name of a fleet.
const NAME_CHARS_MAX: usize = 63;

/// A file that is right, as the parts of Atoll take it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file, absolute.
    pub file: PathBuf,
    /// Its folder, absolute; relative paths in it begin there.
    pub folder: PathBuf,
    /// Name of the fleet: `name:`, or the folder's.
    pub name: String,
    /// Where Atoll listens.
    pub listen: Listen,
    /// Settings of the registry.
    pub registry: atoll_registry::Settings,
    /// Asked of whoever calls the admin API.
    pub admin_token: Option<Secret>,
    /// What the gateway does.
    pub gateway: atoll_gateway::config::Config,
    /// How long requests in flight are waited for at the end.
    pub gateway_drain: Duration,
    /// Which names are answered.
    pub dns: Dns,
    /// Where what must last is kept.
    pub store: Store,
    /// How Consul's API behaves.
    pub consul: Consul,
    /// Services that Atoll runs, in the order of the file.
    pub workloads: Vec<Workload>,
    /// Services that run elsewhere, in the order of the file.
    pub external: Vec<External>,
    /// What is odd without being wrong.
    pub warnings: Vec<Diagnostic>,
    /// Files whose change may change any of this; some may not exist (yet).
    pub watched: Vec<PathBuf>,
    /// All services, in the order of the file.
    order: Vec<ServiceName>,
}

/// Where Atoll listens; `None` is switched off, port 0 is any free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Requests to the fleet. Default 127.0.0.1:8080.
    pub gateway: Option<SocketAddr>,
    /// The admin API. Default 127.0.0.1:7070.
    pub console: Option<SocketAddr>,
    /// Names, by UDP and TCP. Default 127.0.0.1:8600.
    pub dns: Option<SocketAddr>,
    /// Eureka's API. Default 127.0.0.1:8761.
    pub eureka: Option<SocketAddr>,
    /// Consul's HTTP API. Default 127.0.0.1:8500.
    pub consul: Option<SocketAddr>,
}

impl Listen {
    /// Each by its key below `listen:`.
    pub fn by_key(&self) -> [(&'static str, Option<SocketAddr>); 5] {
        [
            ("gateway", self.gateway),
            ("console", self.console),
            ("dns", self.dns),
            ("eureka", self.eureka),
            ("consul", self.consul),
        ]
    }
}

/// A service that Atoll does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Its name in the catalogue.
    pub service: ServiceName,
    /// Where it listens; when empty, its instances register themselves.
    pub endpoints: Vec<Endpoint>,
    /// How the registry learns that an endpoint is fit; `None`: it is believed to be.
    pub check: Option<Check>,
    /// Words to select by.
    pub tags: Vec<String>,
    /// Free pairs.
    pub metadata: BTreeMap<String, String>,
}

/// One place where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port.
    pub address: Address,
    /// Share relative to the others.
    pub weight: u16,
}

/// A text that is never shown by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for whoever compares or sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The file at `path`, a file or a folder; by default in the current folder.
///
/// # Errors
/// When there is none, with where it looked, or more than one.
pub fn find(path: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let folder = match path {
        None => Path::new(""),
        Some(path) if path.is_dir() => path,
        Some(path) if path.exists() => return Ok(path.to_owned()),
        Some(path) => {
            let looked = vec![path.to_owned()];
            return Err(ConfigError::Missing { looked });
        }
    };
    let looked: Vec<_> = FILE_NAMES.iter().map(|name| folder.join(name)).collect();
    let mut found = looked.iter().filter(|file| file.exists()).cloned();
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(ConfigError::Ambiguous { first, second }),
        (Some(file), None) => Ok(file),
        (None, _) => Err(ConfigError::Missing { looked }),
    }
}

/// Reads `file` and what it refers to. `environment` is Atoll's own; it wins over
/// the `.env` beside the file.
///
/// # Errors
/// Everything that is wrong.
pub fn load(file: &Path, environment: &BTreeMap<String, String>) -> Result<Loaded, Diagnostics> {
    let source = Source::read(file)?;
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let folder = std::fs::canonicalize(parent).map_err(|error| {
        Diagnostic::of_file(&source.name, format!("its folder cannot be read: {error}"))
    })?;
    let dotenv_file = folder.join(".env");
    let mut problems = diagnostic::Problems::default();
    let mut variables = Variables {
        process: environment.clone(),
        file: BTreeMap::new(),
    };
    if dotenv_file.exists() {
        let shown = file.with_file_name(".env");
        match Source::read(&shown) {
            Ok(source) => {
                let (found, said) = dotenv::parse(&source, &variables);
                variables.file = found;
                said.into_iter()
                    .for_each(|diagnostic| problems.push(diagnostic));
            }
            Err(error) => problems.push(error),
        }
    }
    let place = Place {
        folder: &folder,
        file_name: &file.file_name().unwrap_or_default().to_string_lossy(),
        reads_files: true,
    };
    let mut loaded = read(&source, &place, &variables, problems)?;
    loaded.watched.insert(0, dotenv_file);
    loaded.watched.insert(0, loaded.file.clone());
    Ok(loaded)
}

/// Where a source is taken to lie.
struct Place<'a> {
    folder: &'a Path,
    file_name: &'a str,
    /// Whether files that it names may be read.
    reads_files: bool,
}

fn read(
    source: &Source,
    place: &Place<'_>,
    variables: &Variables,
    problems: diagnostic::Problems,
) -> Result<Loaded, Diagnostics> {
    let root = tree::parse(source)?.unwrap_or(Node::null());
    let cx = Context {
        source,
        variables,
        folder: place.folder,
        reads_files: place.reads_files,
        problems: RefCell::new(problems),
        spent: RefCell::new(0),
        stranded: RefCell::default(),
    };
    let loaded = decode_root(&cx, &root, place);
    let warnings = cx.problems.into_inner().finish()?;
    // Whatever keeps it from being decoded was reported.
    let mut loaded = loaded.ok_or_else(|| Diagnostic::of_file(&source.name, "cannot be used"))?;
    loaded.warnings = warnings;
    Ok(loaded)
}

fn decode_root(cx: &Context<'_>, root: &Node, place: &Place<'_>) -> Option<Loaded> {
    let fields = Fields::of(cx, root, &keys::ROOT)?;
    let name = fields.get("name").map(|node| name(cx, node));
    let (listen, open) = gateway::listen(cx, fields.get("listen"));
    let admin_token = fields.get("admin_token").map(|node| admin_token(cx, node));
    let consul_open = listen.consul.filter(|at| !at.ip().is_loopback());
    let changes_things = listen.console.or(listen.eureka).or(consul_open);
    if let (Some(span), None, Some(_)) = (open.first(), &admin_token, changes_things) {
        cx.error_with(
            *span,
            "a listener that others reach needs an `admin_token`, or anyone could change the fleet",
            "set `admin_token: ${ATOLL_ADMIN_TOKEN:?}`, listen on 127.0.0.1, or switch `console` and `eureka` off",
        );
    }
    let registry = fields
        .get("registry")
        .map(|node| registry::registry(cx, node));
    let mut settings = fields
        .get("gateway")
        .and_then(|node| gateway::gateway(cx, node))
        .unwrap_or_default();
    let dns = fields.get("dns").and_then(|node| {
        let dns = dns::dns(cx, node)?;
        let open = listen.dns.is_some_and(|at| !at.ip().is_loopback());
        if open && !dns.recursors.is_empty() {
            cx.warn(
                node.span,
                "everybody who reaches `listen.dns` can ask the recursors through it; let a firewall say who may",
            );
        }
        Some(dns)
    });
    let store = fields.get("store").map(|node| store::store(cx, node));
    let consul = fields
        .get("consul")
        .and_then(|node| consul::consul(cx, node, consul_open.is_some()));
    let leaves_loopback = listen.gateway.is_some_and(|at| !at.ip().is_loopback());
    let direct = settings.trusted_proxies.is_empty();
    if leaves_loopback && direct && !settings.per_client_given {
        // One client must not be able to take every connection there is; behind a
        // proxy, all of them are its.
        let limits = &mut settings.limits;
        limits.connections_per_client_max = (limits.connections_max / 10).max(1);
    }
    let mut watched = Vec::new();
    let mut services = Vec::new();
    let mut names = resolve::Names::default();
    if let Some(entries) = fields.get("services").and_then(|node| cx.map(node)) {
        for entry in entries {
            names.push(&entry.key);
            services.extend(service::decode(cx, entry, &mut watched));
        }
    }
    resolve::services(cx, &mut services, &names, listen);
    let routes = fields.get("routes").map(|node| {
        let policies = std::mem::take(&mut settings.policies);
        route::decode(cx, node, policies, &names, place.file_name)
    });
    fields.finish();
    let routes = routes.unwrap_or_default();
    let config = resolve::gateway(cx, routes, &settings);
    let mut order = Vec::new();
    let (mut workloads, mut external) = (Vec::new(), Vec::new());
    for placed in services {
        order.push(placed.name().clone());
        match placed.service {
            service::Service::Ours(workload) => workloads.push(workload),
            service::Service::Elsewhere(elsewhere) => external.push(elsewhere),
        }
    }
    Some(Loaded {
        file: place.folder.join(place.file_name),
        folder: place.folder.to_owned(),
        name: name.unwrap_or_else(|| Some(folder_name(place.folder)))?,
        listen,
        registry: registry.unwrap_or_default(),
        admin_token: match admin_token {
            Some(token) => Some(token?),
            None => None,
        },
        gateway: config,
        gateway_drain: settings.drain.unwrap_or(DRAIN_DEFAULT),
        dns: dns.unwrap_or_default(),
        store: match store {
            Some(store) => store?,
            None => Store::default(),
        },
        consul: consul.unwrap_or_default(),
        workloads,
        external,
        warnings: Vec::new(),
        watched,
        order,
    })
}

fn name(cx: &Context<'_>, node: &Node) -> Option<String> {
    let word = cx.words(node)?;
    let text = word.text.trim();
    if text.chars().count() > NAME_CHARS_MAX || text.chars().any(char::is_control) {
        let message = format!(
            "a name has at most {NAME_CHARS_MAX} characters, none of them control characters"
        );
        cx.error(word.span, message);
        return None;
    }
    Some(text.to_owned())
}

fn folder_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(NAME_CHARS_MAX)
        .collect();
    match name.trim() {
        "" => "atoll".to_owned(),
        name => name.to_owned(),
    }
}

fn admin_token(cx: &Context<'_>, node: &Node) -> Option<Secret> {
    let word = cx.words(node)?;
    // It is sent in a header (RFC 6750 §2.1).
    if !word.text.bytes().all(|byte| byte.is_ascii_graphic()) {
        cx.error(word.span, "a token is visible ASCII without spaces");
        return None;
    }
    Some(Secret(word.text))
}

impl Loaded {
    /// What stands in `atoll check`'s summary: `2 services, 3 routes`.
    pub fn summary(&self) -> String {
        let count = |count: usize, one: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {one}s"),
        };
        let services = self.workloads.len() + self.external.len();
        format!(
            "{}, {}",
            count(services, "service"),
            count(self.gateway.routes.len(), "route")
        )
    }

    /// What changed since `old` that only a restart brings into effect, by key.
    pub fn restart_needed(&self, old: &Self) -> Vec<String> {
        let changed = [
            ("name", self.name != old.name),
            ("listen.gateway", self.listen.gateway != old.listen.gateway),
            ("listen.console", self.listen.console != old.listen.console),
            ("listen.dns", self.listen.dns != old.listen.dns),
            ("dns", self.dns != old.dns),
            ("listen.eureka", self.listen.eureka != old.listen.eureka),
            ("registry", self.registry != old.registry),
            ("listen.consul", self.listen.consul != old.listen.consul),
            ("consul", self.consul != old.consul),
            ("admin_token", self.admin_token != old.admin_token),
            ("store", self.store != old.store),
            ("gateway.drain", self.gateway_drain != old.gateway_drain),
        ];
        let changed = changed.iter().filter(|(_, changed)| *changed);
        changed.map(|(key, _)| (*key).to_owned()).collect()
    }
}
