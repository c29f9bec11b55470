//! `atoll up`: opens the store and the listeners, plugs the registry, the gateway and
//! the fleet together, and takes everything down again in order.
//!
//! Start with [`run`]. The ports between the parts are in `up/ports.rs`, the admin
//! API's answers in `up/control.rs`, reloads in `up/reload.rs`, what a person sees in
//! `up/screen.rs`.

mod control;
mod dns;
mod live;
mod metrics;
mod picture;
mod ports;
mod queries;
mod reload;
mod routes;
mod run_file;
mod screen;
mod services;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use atoll_fleet::{Fleet, FleetSettings, GuardianCommand, Report};
use atoll_gateway::Gateway;
use atoll_registry::{InStore, Registry};
use atoll_runtime::{Clock, Random, Tasks};
use atoll_store::{Store, StoreError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{self, Loaded, Secret};
use crate::paint::Paint;
use live::{Live, Parts};
pub(crate) use picture::listener_url;
use reload::Reloader;
use run_file::RunFile;
use screen::Screen;

/// The first argument of the process that ends the replicas if Atoll is killed.
pub const GUARDIAN: &str = "__guardian";
/// The data folder beside the config file, unless `--data-dir` says otherwise.
pub const DATA_DIR: &str = ".atoll";
/// The file in it that tells where a running Atoll listens.
pub const RUN_FILE: &str = run_file::NAME;

/// Control-plane threads; the data plane has its own.
const CONTROL_THREADS: usize = 2;
/// Reloads that wait for their turn; each waits for its fate.
const RELOADS_WAITING_MAX: usize = 8;
/// File descriptors that are asked for: 20,000 clients, as many upstreams, and the
/// rest. Services inherit it.
const OPEN_FILES_WANTED: u64 = 65_536;
/// Beyond the gateway's drain, for its threads to end.
const DRAIN_SLACK: Duration = Duration::from_secs(2);
/// What the rest may take to end once the fleet has.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// What everything may take to end after a second signal.
const END_DEADLINE: Duration = Duration::from_secs(3);
/// What of Atoll's own environment every service and build gets.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// What builds get beside that: without it cargo fails in the usual images.
const PASSED_ON_TO_BUILDS: [&str; 3] = ["CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR"];

/// What `atoll up` is told.
#[derive(Debug)]
pub struct Options {
    /// The config file.
    pub file: PathBuf,
    /// Where state lives.
    pub data_dir: PathBuf,
    /// The process's environment.
    pub environment: BTreeMap<String, String>,
    /// Whether pictures can be drawn.
    pub terminal: bool,
    /// Colours.
    pub paint: Paint,
}

/// Runs until it is told to stop, twice if need be.
///
/// # Errors
/// What kept it from starting.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    let loaded = match config::load(&options.file, &options.environment) {
        Ok(loaded) => loaded,
        Err(wrong) => return Err(anyhow!(wrong.render(options.paint.on))),
    };
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("atoll")
        .enable_all()
        .build()
        .context("the system refuses threads")?;
    let code = runtime.block_on(async {
        let tasks = Tasks::root(Clock::system());
        // Made first, so that it ends last and shows how the others did.
        let screen = Screen::start(&tasks.group("screen"), options.terminal, options.paint)?;
        log_to(&screen, &options);
        let outcome = up(&tasks, &screen, Arc::new(loaded), options).await;
        if let Err(stuck) = tasks.stop(STOP_DEADLINE).await {
            tracing::warn!(%stuck, "not everything ended in time");
        }
        outcome
    });
    // What is stuck was named above; it ends with the process.
    runtime.shutdown_background();
    code
}

async fn up(
    tasks: &Tasks,
    screen: &Screen,
    loaded: Arc<Loaded>,
    options: Options,
) -> anyhow::Result<ExitCode> {
    // Before anything starts, so that no signal ends us with children running.
    let mut signals = Signals::new()?;
    for warning in &loaded.warnings {
        screen.say(warning.render(options.paint.on));
    }
    let started = start(tasks, screen, loaded, options).await?;
    screen.show(Arc::clone(&started.live));

    let (hangup, hangups) = mpsc::channel(1);
    let reloader = Reloader {
        live: Arc::clone(&started.live),
        tasks: tasks.clone(),
        screen: screen.clone(),
        environment: started.environment.clone(),
        requests: started.reloads,
        hangups,
    };
    let stop = tasks.stop_signal();
    drop(tasks.once("reload", reloader.run(stop)));

    signals.wait_for_stop(&hangup).await;
    screen.say("stopping: requests in flight are finished first; a second Ctrl-C ends at once");
    started.live.set_stopping();
    let drain = started.live.loaded().gateway_drain;
    let fleet = started.live.fleet.clone();
    let graceful = async {
        // No new requests, and those in flight still have their replicas.
        let drained = started.data_plane.stop(drain + DRAIN_SLACK).await;
        (drained, fleet.stop().await)
    };
    let code = tokio::select! {
        (drained, report) = graceful => {
            if let Err(stuck) = drained {
                screen.say(format!("cut off after the drain: {stuck}"));
            }
            tell(screen, &report);
            ExitCode::SUCCESS
        }
        () = signals.wait_for_end() => {
            screen.say("ending at once: requests in flight are cut off");
            fleet.kill().await;
            // Bounded by `tasks.stop`, too, should the fleet not answer.
            drop(tokio::time::timeout(END_DEADLINE, fleet.stop()).await);
            drop(started.data_plane.stop(Duration::ZERO).await);
            ExitCode::FAILURE
        }
    };
    drop(started.run_file);
    drop(started.own_store);
    Ok(code)
}

/// What is running once everything listens.
struct Started {
    live: Arc<Live>,
    /// Stops before the fleet, so it has a group of its own.
    data_plane: Tasks,
    /// Keeps the data folder ours while the store is elsewhere.
    own_store: Option<Store>,
    run_file: RunFile,
    reloads: mpsc::Receiver<live::ReloadRequest>,
    environment: Arc<BTreeMap<String, String>>,
}

async fn start(
    tasks: &Tasks,
    screen: &Screen,
    loaded: Arc<Loaded>,
    options: Options,
) -> anyhow::Result<Started> {
    let data_dir = &options.data_dir;
    run_file::make_data_dir(data_dir)
        .with_context(|| format!("cannot make the data folder {}", data_dir.display()))?;
    // Groups stop last made first: the store outlives all who write to it. Opened
    // before the listeners, since it tells best that an Atoll runs here already.
    let Stores { shared, own } = open_stores(&loaded.store, data_dir, tasks).await?;
    let store = shared.as_ref().unwrap_or(&own).clone();
    let mut listeners = Listeners::open(&loaded)?;
    let names = listeners.names()?;
    let settings = loaded.registry.clone();
    let registry = match &shared {
        Some(store) => Registry::open_shared(store.clone(), tasks, settings).await?,
        None => {
            let journal = Arc::new(InStore::new(own.clone()));
            Registry::open(journal, tasks, settings).await?
        }
    };
    let own_store = shared.is_some().then_some(own);
    reload::enlist(&registry, &[], &loaded.external).await?;

    let control_plane = tasks.group("admin");
    let data_plane = tasks.group("data-plane");
    let gateway = match listeners.gateway.take() {
        Some(sockets) => Some(Gateway::start(
            &data_plane,
            sockets,
            loaded.gateway.clone(),
            registry.catalog(),
            atoll_gateway::Settings {
                name: "atoll".to_owned(),
                listener: "gateway".to_owned(),
                access_log: data_dir.join("access.log"),
                drain: loaded.gateway_drain,
                seed: None,
            },
        )?),
        None => None,
    };
    let traffic = ports::InGateway {
        registry: registry.clone(),
        gateway: gateway.clone(),
        stop: data_plane.stop_signal(),
    };
    let directory = Arc::new(ports::InRegistry(registry.clone()));
    let settings = fleet_settings(&options)?;
    let fleet = Fleet::start(tasks, directory, Arc::new(traffic), settings).await?;

    let (reload, reloads) = mpsc::channel(RELOADS_WAITING_MAX);
    let live = Arc::new(Live::new(Parts {
        clock: tasks.clock().clone(),
        registry,
        store: store.clone(),
        gateway,
        fleet: fleet.clone(),
        listeners: names.clone(),
        reload,
        loaded: Arc::clone(&loaded),
    }));
    let mut names_of = loaded.dns.clone();
    if let (Some(store), None) = (&shared, &names_of.node) {
        names_of.node = Some(dns::node_of_all(store).await?);
    }
    let token = admin_token(&loaded, screen)?;
    let fronts = Fronts {
        loaded: &loaded,
        names: &names_of,
        token: token.as_ref(),
    };
    serve_fronts(&control_plane, listeners, &live, fronts, store).await?;
    fleet.apply(loaded.workloads.clone()).await?;
    let run_file = RunFile::write(data_dir, &loaded.file, &names, token.as_ref())
        .with_context(|| format!("cannot write to {}", data_dir.display()))?;
    if loaded.listen.console.is_none() {
        screen
            .say("the console is switched off: `atoll status` and its like cannot ask this Atoll");
    }
    Ok(Started {
        live,
        data_plane,
        own_store,
        run_file,
        reloads,
        environment: Arc::new(options.environment),
    })
}

struct Stores {
    /// That which other processes share.
    shared: Option<Store>,
    /// Our own, in the data folder. It is opened in any case, since whoever has it has
    /// the folder.
    own: Store,
}

async fn open_stores(
    config: &config::Store,
    data_dir: &Path,
    tasks: &Tasks,
) -> anyhow::Result<Stores> {
    let failed = |error| match error {
        StoreError::InUse { .. } => run_file::in_use(data_dir),
        other => anyhow!(other).context("the store (`store:`) cannot be opened"),
    };
    let dir = data_dir.join("store");
    let own = atoll_store::embedded::open(&dir, Default::default(), tasks).await;
    let own = own.map_err(failed)?;
    let shared = match config {
        config::Store::Embedded => None,
        config::Store::Etcd(options) => {
            let opened = atoll_store::etcd::open(options.clone(), tasks).await;
            Some(opened.map_err(failed)?)
        }
    };
    Ok(Stores { shared, own })
}

/// The file's token. Where Consul's ACLs say who may do what there must be one: who may
/// register a check has us send requests to what listens on this machine only.
fn admin_token(loaded: &Loaded, screen: &Screen) -> anyhow::Result<Option<Secret>> {
    if loaded.admin_token.is_some() || !loaded.consul.acl.enabled {
        return Ok(loaded.admin_token.clone());
    }
    screen.say(
        "ACLs are on without an `admin_token`: one was made for this run, which `atoll status` and its like have",
    );
    let bits = u128::from_be_bytes(atoll_runtime::unguessable()?);
    Ok(Some(Secret::new(format!("{bits:032x}"))))
}

/// What the fronts must know.
struct Fronts<'a> {
    loaded: &'a Loaded,
    names: &'a config::Dns,
    token: Option<&'a Secret>,
}

/// Serves everybody who is not a request for a service: the admin API, names, and
/// the protocols of other registries.
async fn serve_fronts(
    tasks: &Tasks,
    listeners: Listeners,
    live: &Arc<Live>,
    fronts: Fronts<'_>,
    store: Store,
) -> anyhow::Result<()> {
    let Fronts {
        loaded,
        names,
        token,
    } = fronts;
    if let Some(console) = listeners.console {
        let control = control::OverLive {
            live: Arc::clone(live),
            tasks: tasks.clone(),
        };
        let settings = atoll_console::Settings {
            admin_token: token.map(|token| token.expose().to_owned()),
        };
        atoll_console::start(tasks, console, settings, Arc::new(control))?;
    }
    if let Some(eureka) = listeners.eureka {
        // Clients on this machine send no token, and nobody else reaches it there, unless
        // by a check that Consul's front was given.
        let open = !eureka.local_addr()?.ip().is_loopback() || loaded.consul.acl.enabled;
        let settings = atoll_eureka::Settings {
            write_token: token
                .filter(|_| open)
                .map(|token| token.expose().to_owned()),
        };
        atoll_eureka::start(tasks, eureka, settings, live.registry.clone())?;
    }
    let mut prepared: Option<Arc<dyn atoll_dns::Queries>> = None;
    if let Some(consul) = listeners.consul {
        let settings = consul_settings(loaded, names, consul.local_addr()?.ip());
        let registry = live.registry.clone();
        let started = atoll_consul::start(tasks, consul, settings, registry, store).await?;
        prepared = Some(Arc::new(queries::OfConsul(started.queries)));
    }
    if let Some((tcp, udp)) = listeners.dns {
        let settings = dns::settings(names, tcp.local_addr()?.ip());
        atoll_dns::start(tasks, tcp, udp, settings, live.registry.catalog(), prepared)?;
    }
    Ok(())
}

/// Opened before anything else starts, so that a busy port starts nothing.
struct Listeners {
    gateway: Option<Vec<TcpListener>>,
    console: Option<TcpListener>,
    dns: Option<(TcpListener, UdpSocket)>,
    eureka: Option<TcpListener>,
    consul: Option<TcpListener>,
}

impl Listeners {
    fn open(loaded: &Loaded) -> anyhow::Result<Self> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let gateway = match loaded.listen.gateway {
            Some(address) => {
                Some(atoll_net::bind_shared(address, workers).map_err(|e| e.for_key("gateway"))?)
            }
            None => None,
        };
        let one = |key: &str, address: Option<SocketAddr>| {
            let opened = address.map(atoll_net::bind).transpose();
            opened.map_err(|error| error.for_key(key))
        };
        let dns = match loaded.listen.dns {
            Some(address) => Some(atoll_net::bind_both(address).map_err(|e| e.for_key("dns"))?),
            None => None,
        };
        Ok(Self {
            gateway,
            console: one("console", loaded.listen.console)?,
            dns,
            eureka: one("eureka", loaded.listen.eureka)?,
            consul: one("consul", loaded.listen.consul)?,
        })
    }

    /// Where they listen, by their key in the file.
    fn names(&self) -> std::io::Result<BTreeMap<String, String>> {
        let first = self.gateway.as_ref().and_then(|sockets| sockets.first());
        let all = [
            ("gateway", first),
            ("console", self.console.as_ref()),
            ("dns", self.dns.as_ref().map(|(tcp, _)| tcp)),
            ("eureka", self.eureka.as_ref()),
            ("consul", self.consul.as_ref()),
        ];
        let open = all
            .into_iter()
            .filter_map(|(name, socket)| Some((name, socket?)));
        open.map(|(name, socket)| Ok((name.to_owned(), socket.local_addr()?.to_string())))
            .collect()
    }
}

/// The node is the one that DNS names.
fn consul_settings(
    loaded: &Loaded,
    names: &config::Dns,
    listener: std::net::IpAddr,
) -> atoll_consul::Settings {
    let node = dns::settings(names, listener);
    // Unmodified clients send no token; beyond loopback they must be told one.
    let (token, acl) = (loaded.admin_token.as_ref(), loaded.consul.acl);
    atoll_consul::Settings {
        node: node.node.to_string(),
        address: node.node_address.to_string(),
        datacenter: node.datacenter.to_string(),
        token: token
            .filter(|_| !listener.is_loopback())
            .map(|token| token.expose().to_owned()),
        acl: acl.enabled.then(|| atoll_consul::AclSettings {
            default_allow: acl.default_allow,
            management: token.map(|token| token.expose().to_owned()),
        }),
    }
}

fn fleet_settings(options: &Options) -> anyhow::Result<FleetSettings> {
    let program = std::env::current_exe().context("Atoll does not find its own executable")?;
    let pick = |names: &[&str]| -> BTreeMap<String, String> {
        let set = names.iter().filter_map(|name| {
            let value = options.environment.get(*name)?;
            Some(((*name).to_owned(), value.clone()))
        });
        set.collect()
    };
    Ok(FleetSettings {
        data_dir: options.data_dir.clone(),
        guardian: GuardianCommand {
            program,
            arguments: vec![GUARDIAN.into()],
        },
        environment: pick(&PASSED_ON),
        build_environment: pick(&PASSED_ON_TO_BUILDS),
        seed: Random::from_entropy().bits(),
    })
}

/// Says what did not end as it should have; nothing otherwise.
fn tell(screen: &Screen, report: &Report) {
    for stopped in &report.replicas {
        if stopped.killed {
            screen.say(format!(
                "{} did not end within its stop_grace_period and was killed",
                stopped.id
            ));
        }
        if stopped.drain_expired {
            screen.say(format!(
                "{} still had requests when its drain ended; they were cut off",
                stopped.id
            ));
        }
    }
    if report.strays > 0 {
        screen.say(format!(
            "{} processes had left their service's process group and were ended",
            report.strays
        ));
    }
    screen.say(format!("stopped in {:.1} s", report.took.as_secs_f64()));
}

/// The signals that mean something to us.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Until Ctrl-C or SIGTERM; tells `hangup` of each SIGHUP, unless it came since
    /// the terminal is gone, which is an end, too.
    async fn wait_for_stop(&mut self, hangup: &mpsc::Sender<()>) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => {
                    if terminal_is_gone() {
                        return;
                    }
                    // One that is waiting does for all.
                    hangup.try_send(()).ok();
                }
            }
        }
    }

    async fn wait_for_end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Whether standard output was a terminal that was closed (termios(3): EIO).
fn terminal_is_gone() -> bool {
    matches!(
        rustix::termios::tcgetwinsize(std::io::stdout()),
        Err(rustix::io::Errno::IO)
    )
}

/// As many open files as we want, or as many as we may.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .map_or(OPEN_FILES_WANTED, |most| most.min(OPEN_FILES_WANTED));
    if limit.current.is_some_and(|now| now < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        // `atoll doctor` says how many there are.
        setrlimit(Resource::Nofile, raised).ok();
    }
}

/// Log events go to the screen: warnings, or what `ATOLL_LOG` asks for
/// (`info`, `atoll_gateway=debug`).
fn log_to(screen: &Screen, options: &Options) {
    let wanted = options.environment.get("ATOLL_LOG");
    let filter = wanted.map_or("warn", |text| &text[..]);
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(screen.clone())
        .with_ansi(options.paint.on)
        .with_target(false)
        .without_time()
        .finish();
    // Set once in a process; a second `run` in one (a test's) keeps the first.
    tracing::subscriber::set_global_default(subscriber).ok();
}

/// The data folder of a config file.
pub fn data_dir(file: &Path, given: Option<&Path>) -> PathBuf {
    match given {
        Some(given) => given.to_owned(),
        None => file.parent().unwrap_or(Path::new(".")).join(DATA_DIR),
    }
}
