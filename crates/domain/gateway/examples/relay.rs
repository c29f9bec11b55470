//! The gateway alone, for measuring: `relay LISTEN UPSTREAM [WORKERS]`, one static
//! endpoint, everything else as by default. Runs until it is killed.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use atoll_gateway::config::{
    AccessLog, Backend, Balance, Config, HeaderEdit, Limits, Match, PathMatch, Retry, Rewrite,
    Route, Segment, Timeouts,
};
use atoll_gateway::{Gateway, Settings};
use atoll_model::{Address, Catalog, Health, Instance, Revision, ServiceName};
use atoll_runtime::{Clock, Tasks};
use tokio::sync::watch;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().ok_or(what);
    let listen: SocketAddr = next("LISTEN is missing")?.parse()?;
    let upstream: SocketAddr = next("UPSTREAM is missing")?.parse()?;
    let workers: usize = next("").map_or(Ok(1), |count| count.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(listen, upstream, workers))
}

async fn run(
    listen: SocketAddr,
    upstream: SocketAddr,
    workers: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let service: ServiceName = "upstream".parse()?;
    let instance = Instance {
        id: "one".parse()?,
        service: service.clone(),
        address: Address::from(upstream),
        weight: 1,
        health: Health::Passing,
        note: String::new(),
        tags: Vec::new(),
        metadata: Default::default(),
    };
    let catalog = Catalog {
        revision: Revision(1),
        services: [(service.clone(), vec![Arc::new(instance)].into())].into(),
    };
    let (_keep, catalogs) = watch::channel(Arc::new(catalog));
    let settings = Settings {
        name: "atoll".to_owned(),
        listener: "relay".to_owned(),
        access_log: std::env::temp_dir().join("relay-access.log"),
        drain: Duration::from_secs(5),
        seed: None,
    };
    let listeners = (0..workers)
        .map(|_| bind(listen))
        .collect::<Result<_, _>>()?;
    let tasks = Tasks::root(Clock::system());
    let _gateway = Gateway::start(&tasks, listeners, config(service), catalogs, settings)?;
    std::future::pending().await
}

fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(listen);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&listen.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn config(service: ServiceName) -> Config {
    let everything = Match {
        path: PathMatch {
            pattern: "/{rest*}".to_owned(),
            segments: vec![Segment::Rest("rest".to_owned())],
        },
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    };
    let route = Route {
        name: "all".to_owned(),
        hostnames: Vec::new(),
        matches: vec![everything],
        backends: vec![Backend { service, weight: 1 }],
        balance: Balance::LeastRequest,
        rewrite: Rewrite::Keep,
        request_headers: HeaderEdit::default(),
        response_headers: HeaderEdit::default(),
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        body_bytes_max: None,
        origin: "relay".to_owned(),
    };
    Config {
        routes: vec![route],
        trusted_proxies: Vec::new(),
        access_log: AccessLog::default(),
        limits: Limits::default(),
    }
}
