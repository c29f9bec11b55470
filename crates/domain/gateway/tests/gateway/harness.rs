//! A gateway on a free port, upstreams that do as they are told, and clients that
//! send exactly the bytes of a test.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atoll_gateway::config::{
    AccessLog, Backend, Balance, Config, HeaderEdit, Limits, Match, PathMatch, Retry, Rewrite,
    Route, Segment, Timeouts,
};
use atoll_gateway::{Gateway, Settings};
use atoll_model::{Address, Catalog, Health, Instance, Revision};
use atoll_runtime::{Clock, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The only service of most tests.
pub(crate) const SERVICE: &str = "users";

/// A gateway with one route, `/{rest*}` to `users`.
pub(crate) struct World {
    pub(crate) tasks: Tasks,
    /// Of the gateway; stopped before what it talks to.
    gateway_tasks: Tasks,
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
    /// Holds the access log.
    folder: tempfile::TempDir,
    catalog: watch::Sender<Arc<Catalog>>,
    instances: std::sync::Mutex<Vec<Arc<Instance>>>,
}

/// A configuration as most tests want it.
pub(crate) fn config() -> Config {
    Config {
        routes: vec![route()],
        trusted_proxies: Vec::new(),
        access_log: AccessLog::default(),
        limits: Limits::default(),
    }
}

/// `/{rest*}` to `users`.
pub(crate) fn route() -> Route {
    Route {
        name: "all".to_owned(),
        hostnames: Vec::new(),
        matches: vec![Match {
            path: PathMatch {
                pattern: "/{rest*}".to_owned(),
                segments: vec![Segment::Rest("rest".to_owned())],
            },
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        backends: vec![Backend {
            service: SERVICE.parse().unwrap(),
            weight: 1,
        }],
        balance: Balance::RoundRobin,
        rewrite: Rewrite::Keep,
        request_headers: HeaderEdit::default(),
        response_headers: HeaderEdit::default(),
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        body_bytes_max: None,
        origin: "test:1".to_owned(),
    }
}

impl World {
    /// A gateway with one worker and no upstream yet.
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_draining(config, Duration::from_secs(10)).await
    }

    /// As [`World::start`], waiting no longer than `drain` for requests at the end.
    pub(crate) async fn start_draining(config: Config, drain: Duration) -> Self {
        let tasks = Tasks::root(Clock::system());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (catalog, catalogs) = watch::channel(Arc::new(Catalog::default()));
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            name: "atoll".to_owned(),
            listener: "test".to_owned(),
            access_log: folder.path().join("access.log"),
            drain,
            seed: Some(1),
        };
        let gateway_tasks = tasks.group("under-test");
        let listeners = vec![listener];
        let gateway =
            Gateway::start(&gateway_tasks, listeners, config, catalogs, settings).unwrap();
        Self {
            tasks,
            gateway_tasks,
            gateway,
            address,
            folder,
            catalog,
            instances: std::sync::Mutex::default(),
        }
    }

    /// Stops the gateway as its owner would.
    pub(crate) async fn stop(&self) -> Result<(), atoll_runtime::Stuck> {
        self.gateway_tasks.stop(Duration::from_secs(30)).await
    }

    /// All counters.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        self.gateway.metrics(&mut text);
        text
    }

    /// The value of one counter, given as the line begins.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.metrics();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// What the access log holds.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }

    /// A gateway with one upstream that serves each connection with `serve`.
    pub(crate) async fn with<F, Fut>(config: Config, serve: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let world = Self::start(config).await;
        world.upstream("one", serve).await;
        world
    }

    /// Adds an upstream instance; `serve` gets each connection with its number.
    pub(crate) async fn upstream<F, Fut>(&self, id: &str, serve: F) -> SocketAddr
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        let accepted = Arc::new(AtomicUsize::new(0));
        let tasks = self.tasks.clone();
        drop(self.tasks.once("upstream", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                drop(tasks.once("upstream-connection", serve(Conn::new(stream, number))));
            }
        }));
        self.register(id, address).await;
        address
    }

    /// Puts an instance at `address` into the catalogue: `id` of `users`, or
    /// `service/id`.
    pub(crate) async fn register(&self, id: &str, address: SocketAddr) {
        self.register_weighing(id, address, 1).await;
    }

    /// As [`World::register`], with a weight.
    pub(crate) async fn register_weighing(&self, id: &str, address: SocketAddr, weight: u16) {
        let (service, id) = id.split_once('/').unwrap_or((SERVICE, id));
        self.instances.lock().unwrap().push(Arc::new(Instance {
            id: id.parse().unwrap(),
            service: service.parse().unwrap(),
            address: Address::from(address),
            weight,
            health: Health::Passing,
            note: String::new(),
            tags: Vec::new(),
            metadata: Default::default(),
        }));
        self.publish_catalog().await;
    }

    /// Changes the health of an instance.
    pub(crate) async fn set_health(&self, id: &str, health: Health) {
        for instance in self.instances.lock().unwrap().iter_mut() {
            if instance.id.as_str() == id {
                let mut changed = Instance::clone(instance);
                changed.health = health;
                *instance = Arc::new(changed);
            }
        }
        self.publish_catalog().await;
    }

    /// Takes an instance out of the catalogue.
    pub(crate) async fn deregister(&self, id: &str) {
        self.instances
            .lock()
            .unwrap()
            .retain(|instance| instance.id.as_str() != id);
        self.publish_catalog().await;
    }

    /// Publishes the catalogue as it is, under a new revision.
    pub(crate) async fn publish_catalog(&self) {
        let instances = self.instances.lock().unwrap().clone();
        let revision = Revision(self.catalog.borrow().revision.0 + 1);
        let mut services = std::collections::BTreeMap::<_, Vec<_>>::new();
        for instance in instances {
            let list = services.entry(instance.service.clone()).or_default();
            list.push(instance);
        }
        self.catalog.send_replace(Arc::new(Catalog {
            revision,
            services: services
                .into_iter()
                .map(|(service, list)| (service, list.into()))
                .collect(),
        }));
        self.gateway.wait_catalog(revision).await;
    }

    pub(crate) async fn connect(&self) -> Conn {
        let stream = TcpStream::connect(self.address).await.unwrap();
        // What is sent arrives, whatever was sent before.
        stream.set_nodelay(true).unwrap();
        Conn::new(stream, 0)
    }

    /// Sends `raw` over a connection of its own and reads one response.
    pub(crate) async fn ask(&self, raw: &str) -> Response {
        let mut client = self.connect().await;
        client.send(raw).await;
        client.response().await
    }
}

/// One end of a TCP connection, with what was read and not yet used.
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    pub(crate) number: usize,
    read: Vec<u8>,
}

/// A response as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and fields.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// After a chunked body.
    pub(crate) trailers: String,
}

impl Response {
    /// The value of a field, or of none.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// The value of the first field of this name in a head.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl Conn {
    pub(crate) fn new(stream: TcpStream, number: usize) -> Self {
        Self {
            stream,
            number,
            read: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// As [`Conn::send`], where the other end may have gone.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> bool {
        let limit = Duration::from_secs(30);
        self.read.reserve(16 * 1024);
        let count = tokio::time::timeout(limit, self.stream.read_buf(&mut self.read))
            .await
            .expect("nothing came for half a minute")
            .unwrap_or(0);
        count > 0
    }

    /// Reads up to and with the empty line; `None` if the connection ends before.
    pub(crate) async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads exactly so many bytes, or what there is until the end.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count && self.more().await {}
        let count = count.min(self.read.len());
        self.read.drain(..count).collect()
    }

    /// Reads one line, with its end.
    pub(crate) async fn line(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.read, b"\n") {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return String::from_utf8(line).unwrap();
            }
            if !self.more().await {
                return String::from_utf8(std::mem::take(&mut self.read)).unwrap();
            }
        }
    }

    /// Reads to the end of the stream.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.read)
    }

    /// Reads a chunked body; content and trailer lines.
    pub(crate) async fn chunks(&mut self) -> (Vec<u8>, String) {
        let mut content = Vec::new();
        loop {
            let line = self.line().await;
            let Ok(size) = usize::from_str_radix(line.trim_end(), 16) else {
                return (content, "cut off".to_owned());
            };
            if size == 0 {
                break;
            }
            content.extend(self.take(size).await);
            assert_eq!(self.take(2).await, b"\r\n");
        }
        let mut trailers = String::new();
        loop {
            let line = self.line().await;
            if line == "\r\n" || line.is_empty() {
                return (content, trailers);
            }
            trailers.push_str(&line);
        }
    }

    /// Reads a request's body as its head frames it.
    pub(crate) async fn body(&mut self, head: &str) -> Vec<u8> {
        if field(head, "transfer-encoding").is_some() {
            return self.chunks().await.0;
        }
        let length = field(head, "content-length").map_or(0, |value| value.parse().unwrap());
        self.take(length).await
    }

    /// Reads a response to a request other than HEAD.
    pub(crate) async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    pub(crate) async fn response_to(&mut self, method: &str) -> Response {
        let head = self.head().await.expect("a response");
        let status: u16 = head[9..12].parse().unwrap();
        let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
        let (mut body, mut trailers) = (Vec::new(), String::new());
        if bodiless {
        } else if field(&head, "transfer-encoding").is_some() {
            (body, trailers) = self.chunks().await;
        } else if let Some(length) = field(&head, "content-length") {
            body = self.take(length.parse().unwrap()).await;
        } else {
            body = self.rest().await;
        }
        Response {
            status,
            head,
            body,
            trailers,
        }
    }

    /// Whether the other end closes without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.more().await
    }
}

/// Resolves when `condition` holds; panics with `what` after half a minute.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let looks = async {
        let mut every = tokio::time::interval(Duration::from_millis(2));
        while !condition() {
            every.tick().await;
        }
    };
    let limit = Duration::from_secs(30);
    assert!(tokio::time::timeout(limit, looks).await.is_ok(), "{what}");
}

/// A GET of `path` with these further field lines.
pub(crate) fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

/// A POST of `body` to `/`.
pub(crate) fn post(body: &str) -> String {
    let length = body.len();
    format!("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// An upstream that names itself.
pub(crate) fn named(
    name: &'static str,
) -> impl Fn(Conn) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    move |mut conn| {
        Box::pin(async move {
            let length = name.len();
            let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
            while let Some(head) = conn.head().await {
                conn.body(&head).await;
                if conn.try_send(&response).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// An address of this machine where nobody listens.
pub(crate) fn closed_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// An upstream that answers each request with what it got: head and body.
pub(crate) async fn echo(mut conn: Conn) {
    while let Some(head) = conn.head().await {
        let body = conn.body(&head).await;
        let mut answer = head.into_bytes();
        answer.extend(body);
        let length = answer.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let mut bytes = response.into_bytes();
        bytes.extend(answer);
        if conn.try_send(bytes).await.is_err() {
            return;
        }
    }
}

/// An upstream that answers each request with `response`, whatever it is.
pub(crate) fn always(
    response: &'static str,
) -> impl Fn(Conn) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    move |mut conn| {
        Box::pin(async move {
            while let Some(head) = conn.head().await {
                conn.body(&head).await;
                if conn.try_send(response).await.is_err() {
                    return;
                }
            }
        })
    }
}
