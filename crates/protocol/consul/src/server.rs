//! What every endpoint has in common: who may ask how, consistency, blocking, headers.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_model::{Fault, FaultKind};
use atoll_net::body::{BodyError, read_or_refuse};
use atoll_net::serve::Peer;
use atoll_registry::{Registry, RegistryError};
use atoll_runtime::{Clock, Random, Stop};
use atoll_store::{Store, StoreError};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use serde_json::Value;

use crate::Settings;
use crate::acl::{self, Acl, Caller};
use crate::agent::Hashed;
use crate::away;
use crate::endpoint::{self, Endpoint};
use crate::filter::Filter;
use crate::guard;
use crate::gzip;
use crate::keys::Found;
use crate::metrics::Metrics;
use crate::refused;
use crate::shared::Shared;
use crate::translate::Node;
use crate::view::{Topic, View};
use crate::wire::{Query, Refusal, Reply, duration, json, percent_decoded};

/// Consul's `default_query_time`.
const WAIT_USUAL: Duration = Duration::from_secs(300);
/// Consul's `max_query_time`: longer waits are cut to it.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Body of anything but a key: Consul's limit of a transaction, and far above a
/// registration.
pub(crate) const BODY_BYTES_MAX: usize = 512 * 1024;
/// How long a body may take: a megabit for a second, many times over. Without a limit
/// whoever sends none keeps his connection, and there is a limit of those.
const BODY_WITHIN: Duration = Duration::from_secs(60);
/// How long what nobody wants is waited for before the refusal is told.
const PASSED_OVER_WITHIN: Duration = Duration::from_secs(5);
/// Locks that let two changes of one instance wait for each other.
const LOCKS: usize = 64;

/// All that an endpoint needs.
pub(crate) struct Front {
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    pub(crate) view: View,
    /// Ours.
    pub(crate) node: Node,
    token: Option<String>,
    pub(crate) random: Mutex<Random>,
    /// What those are answered who wait for something of the catalogue.
    pub(crate) shared: Shared<Told>,
    /// The same of those who wait for another hash.
    pub(crate) hashed: Shared<Hashed>,
    /// What becomes of spans of keys that somebody waits for.
    pub(crate) awaited: Shared<Arc<Found>>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) started_unix_ms: u64,
    /// Held by a transaction that changes the catalogue.
    pub(crate) catalog_txns: tokio::sync::Mutex<()>,
    /// Who may do what; `None` where ACLs are off.
    pub(crate) acl: Option<Arc<Acl>>,
    /// Whether only this machine can ask.
    loopback: bool,
    locks: [tokio::sync::Mutex<()>; LOCKS],
}

/// A request whose common parts are read.
pub(crate) struct Asked {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: Method,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) caller: Caller,
    pub(crate) body: Bytes,
    pub(crate) wait: Wait,
    /// All that the answer depends on beside the endpoint and what the caller may see:
    /// those who ask the same wait for one answer.
    pub(crate) question: String,
    /// What is left out of the answer, and where in it.
    pub(crate) filter: Option<(Filter, Option<&'static str>)>,
    pub(crate) stop: Stop,
    /// Who asks.
    pub(crate) peer: Option<Peer>,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// The index that the client has; 0 waits for nothing.
    pub(crate) index: u64,
    pub(crate) hold: Duration,
}

/// An answer that many get at once.
#[derive(Clone)]
pub(crate) struct Told {
    written: Bytes,
    /// Whether something was left out that they may not see.
    filtered: bool,
}

/// An answer with the index that it is of, where there is one.
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) index: Option<u64>,
    /// Of what it tells, where clients wait for another.
    pub(crate) hash: Option<HeaderValue>,
    /// Whether the caller may know that something was left out.
    pub(crate) filtered: bool,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self {
            reply,
            index: None,
            hash: None,
            filtered: false,
        }
    }
}

impl Answer {
    pub(crate) fn at(index: u64, reply: Reply) -> Self {
        Self {
            index: Some(index.max(1)),
            ..Self::from(reply)
        }
    }
}

impl Front {
    pub(crate) fn new(
        settings: Settings,
        id: String,
        registry: Registry,
        store: Store,
        acl: Option<Arc<Acl>>,
        loopback: bool,
    ) -> Arc<Self> {
        let tagged = ["lan", "lan_ipv4", "wan", "wan_ipv4"];
        let tagged = tagged.map(|key| (key.to_owned(), settings.address.clone()));
        let node = Node {
            name: settings.node,
            id,
            address: settings.address,
            datacenter: settings.datacenter,
            tagged: tagged.into(),
            meta: [("consul-network-segment".to_owned(), String::new())].into(),
            created: 1,
            modified: 1,
        };
        let clock = Clock::system();
        Arc::new(Self {
            view: View::new(registry.current()),
            registry,
            store,
            node,
            token: settings.token,
            random: Mutex::new(Random::from_entropy()),
            shared: Shared::kept(|told| told.written.len()),
            hashed: Shared::kept(Hashed::len),
            awaited: Shared::passing(),
            metrics: Metrics::default(),
            started_unix_ms: clock.wall_unix_ms(),
            catalog_txns: tokio::sync::Mutex::default(),
            clock,
            acl,
            loopback,
            locks: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        })
    }

    /// Lets nobody else change what has this id meanwhile.
    pub(crate) async fn lock(&self, id: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        self.locks[hasher.finish() as usize % LOCKS].lock().await
    }

    pub(crate) fn uuid(&self) -> String {
        uuid(&mut self.random())
    }

    pub(crate) fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as asked until the index of `topic` is another; gives the index now.
    pub(crate) async fn settled(&self, topic: Topic, asked: &Asked) -> u64 {
        self.view.caught_up(self.registry.current().revision).await;
        if asked.wait.index > 0 {
            asked
                .hold(self.view.changed(topic.clone(), asked.wait.index))
                .await;
        }
        self.view.index(&topic)
    }

    /// The answer at `index`, which `make` makes of what there is now. Those who waited
    /// for it, and asked the same of `endpoint`, share one.
    pub(crate) async fn told(
        &self,
        endpoint: String,
        index: u64,
        asked: &Asked,
        make: impl Future<Output = Result<Value, Refusal>>,
    ) -> Result<Answer, Refusal> {
        if asked.wait.index == 0 {
            return Ok(Answer::at(index, Reply::json(make.await?)));
        }
        // Looked up once: what is made must be for those whom the question names.
        let authority = asked.caller.who()?.authority;
        let sight = acl::sight(&asked.endpoint, &authority);
        // Quoted: what a client writes in a path must not read as another's query.
        let question = format!("{sight} {endpoint:?}{}", asked.question);
        let make = async {
            let mut value = make.await?;
            // Before `?filter=`, which would tell of what is left out.
            if acl::left_out(&asked.endpoint, &authority, &mut value) {
                asked.caller.note_filtered();
            }
            asked.filtered(&mut value)?;
            Ok(Told {
                written: json(&value, asked.query.has("pretty")).into(),
                filtered: asked.caller.lacks_some(),
            })
        };
        let told = self.shared.answer(question, index, make).await?;
        if told.filtered {
            asked.caller.note_filtered();
        }
        Ok(Answer::at(index, Reply::Written(told.written)))
    }

    /// Reads how long a client wants to wait for what.
    fn wait(&self, query: &Query) -> Result<Wait, Refusal> {
        let index = match query.get("index") {
            None | Some("") => 0,
            // Spring's watch sends -1 for "none yet".
            Some(text)
                if text
                    .strip_prefix('-')
                    .is_some_and(|n| n.parse::<u64>().is_ok()) =>
            {
                0
            }
            Some(text) => text.parse().map_err(|_| Refusal::bad("Invalid index"))?,
        };
        let wait = match query.get("wait") {
            None | Some("") => WAIT_USUAL,
            Some(text) => match duration(text) {
                Some(Duration::ZERO) => WAIT_USUAL,
                Some(wait) => wait.min(WAIT_MAX),
                None => return Err(Refusal::bad("Invalid wait time")),
            },
        };
        // Spread, so that those who wait together do not come again together.
        let unit = self.random().unit();
        let hold = wait + wait.mul_f64(unit / 16.0);
        Ok(Wait { index, hold })
    }
}

impl Asked {
    /// Leaves out what the client does not want.
    fn filtered(&self, value: &mut Value) -> Result<(), Refusal> {
        match &self.filter {
            None => Ok(()),
            Some((filter, None)) => filter.apply(value),
            // Of a node that is not there, nothing is filtered.
            Some((filter, Some(key))) => value
                .get_mut(key)
                .map_or(Ok(()), |value| filter.apply(value)),
        }
    }

    /// Waits for `future`, but no longer than asked, nor than we live.
    pub(crate) async fn hold<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let held = tokio::time::timeout(self.wait.hold, self.stop.unless(future));
        held.await.ok().flatten()
    }
}

/// Answers one request, and counts it.
pub(crate) async fn answer(front: Arc<Front>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let began = front.clock.now();
    let response = answered(&front, request).await;
    if let Some(path) = uri.path().strip_prefix("/v1/") {
        let time = front.clock.now().saturating_duration_since(began);
        front.metrics.took(&method, path, time);
    }
    response
}

async fn answered(front: &Front, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let pretty = query.has("pretty");
    let waits = query.has("index");
    let stale = query.has("stale") || query.has("max_stale");
    let consistency = match () {
        () if stale => "stale",
        () if query.has("consistent") => "consistent",
        () => "leader",
    };
    let reading = request.method() == Method::GET;
    let cached = reading && query.has("cached");
    let gzip = gzip::accepted(request.headers());
    let method = request.method().clone();
    let (head, mut body) = request.into_parts();
    // Who waits is answered with what there is at the end.
    let away = front.away().filter(|_| !waits);
    let handled = handle(front, head, &mut body, query).await;
    pass_over(body).await;
    let Answer {
        reply,
        index,
        hash,
        filtered,
    } = match handled {
        Ok(Outcome::Answer(answer)) => answer,
        Ok(Outcome::Methods(status, methods)) => return only(status, &method, methods),
        Err(refusal) => Reply::Text(refusal.status, refusal.text).into(),
    };
    // One that many get at once is not compressed for each of them.
    let shared = matches!(reply, Reply::Written(_));
    let mut response = reply.into_response(pretty);
    let headers = response.headers_mut();
    if cached {
        // What there is, is in memory and as fresh as can be.
        headers.insert("x-cache", HeaderValue::from_static("HIT"));
        headers.insert(header::AGE, HeaderValue::from_static("0"));
    }
    // HashiCorp's own client takes the next `?hash=` from here, not from the body.
    if let Some(hash) = hash {
        headers.insert("x-consul-contenthash", hash);
    }
    if reading {
        front.tell_age(front.away().or(away), consistency, headers);
        let acl = front.acl.as_ref();
        let default_policy = acl.map_or("allow", |acl| acl.default_policy());
        let default_policy = HeaderValue::from_static(default_policy);
        headers.insert("x-consul-default-acl-policy", default_policy);
        if filtered {
            let filtered = HeaderValue::from_static("true");
            headers.insert("x-consul-results-filtered-by-acls", filtered);
        }
        // Clients of some libraries fail on a 404 without it.
        let index = index.or((response.status() == StatusCode::NOT_FOUND).then_some(1));
        if let Some(index) = index {
            let headers = response.headers_mut();
            headers.insert("x-consul-index", HeaderValue::from(index));
        }
    }
    match gzip && !shared {
        true => gzip::packed(response).await,
        false => response,
    }
}

/// Reads what a refused request sends and nobody wanted, up to what anybody may send: a
/// connection with something unread is closed, and a client that keeps it for its next
/// request would find that one aborted.
async fn pass_over<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    let rest = async {
        let mut left = BODY_BYTES_MAX;
        while left > 0 && !body.is_end_stream() {
            let Some(Ok(frame)) = body.frame().await else {
                return;
            };
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    // What has not come by then closes the connection after all.
    tokio::time::timeout(PASSED_OVER_WITHIN, rest).await.ok();
}

enum Outcome {
    Answer(Answer),
    /// Which methods there are.
    Methods(StatusCode, &'static [Method]),
}

async fn handle(
    front: &Front,
    head: request::Parts,
    body: &mut Incoming,
    query: Query,
) -> Result<Outcome, Refusal> {
    let path = head
        .uri
        .path()
        .strip_prefix("/v1/")
        .map(|path| percent_decoded(path, false));
    let path = path.map(|path| String::from_utf8_lossy(&path).into_owned());
    let Some(endpoint) = path.as_deref().and_then(endpoint::find) else {
        let text = "Invalid URL path: not a recognized HTTP API endpoint";
        return Err(Refusal::new(StatusCode::NOT_FOUND, text));
    };
    let methods = endpoint.methods();
    if head.method == Method::OPTIONS {
        return Ok(Outcome::Methods(StatusCode::OK, methods));
    }
    if !methods.contains(&head.method) {
        return Ok(Outcome::Methods(StatusCode::METHOD_NOT_ALLOWED, methods));
    }
    if matches!(endpoint, Endpoint::Acl(_)) && front.acl.is_none() {
        return Err(acl::disabled());
    }
    if let Endpoint::Unsupported(path) = endpoint {
        return Err(refused(path));
    }
    let caller = front.caller(&query, &head.headers)?;
    common(front, &query)?;
    let reading = head.method == Method::GET;
    if reading {
        front.check_consistent(&query)?;
    }
    let wait = front.wait(&query)?;
    let length = head.headers.get(header::CONTENT_LENGTH);
    let length = length
        .and_then(|length| length.to_str().ok())
        .unwrap_or("more");
    let body = whole(body, length).await?;
    let Some(stop) = head.extensions.get::<Stop>().cloned() else {
        return Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "no stop signal",
        ));
    };
    let filter = query.get("filter").filter(|filter| !filter.is_empty());
    let filter = match (filter, endpoint.filtered()) {
        (None, _) => None,
        (Some(filter), Some(below)) => Some((Filter::parse(filter)?, below)),
        // Its rows are gone when it answers, so it filters by itself.
        (Some(_), None) if endpoint == Endpoint::CatalogServices => None,
        (Some(_), None) => return Err(Refusal::unsupported("?filter= here")),
    };
    let asked = Asked {
        endpoint,
        method: head.method,
        question: query.question(),
        query,
        headers: head.headers,
        caller,
        body,
        wait,
        filter,
        stop,
        peer: head.extensions.get().copied(),
    };
    if let Some(refused) = front.permit(&asked).await? {
        return Ok(Outcome::Answer(refused));
    }
    let blocking = (asked.wait.index > 0).then(|| front.metrics.blocking());
    let mut answer = front.dispatch(asked.endpoint.clone(), &asked).await?;
    drop(blocking);
    if reading {
        front.check_consistent(&asked.query)?;
        // Much may have changed while it waited.
        front.permit(&asked).await?;
    }
    front.show(&asked, &mut answer)?;
    answer.filtered = asked.caller.filtered();
    // What many wait for is filtered where it is made.
    if let Reply::Json(StatusCode::OK, value) = &mut answer.reply {
        asked.filtered(value)?;
    }
    Ok(Outcome::Answer(answer))
}

/// All of a body; `length` is how long it said that it would be.
async fn whole<B>(body: B, length: &str) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = read_or_refuse(body, BODY_BYTES_MAX);
    let Ok(read) = tokio::time::timeout(BODY_WITHIN, read).await else {
        let text = "Request body did not come in time";
        return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text));
    };
    read.map_err(|error| match error {
        BodyError::TooLarge { max_bytes } => {
            let text =
                format!("Request body({length} bytes) too large, max size: {max_bytes} bytes.");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
        }
        BodyError::Broken(error) => Refusal::bad(format!("Request body broken: {error}")),
    })
}

/// What any request may say.
fn common(front: &Front, query: &Query) -> Result<(), Refusal> {
    if query.has("stale") && query.has("consistent") {
        let text = "Cannot specify ?stale with ?consistent, conflicting semantics.";
        return Err(Refusal::bad(text));
    }
    if query.has("cached") && query.has("consistent") {
        let text = "Cannot specify ?cached with ?consistent, conflicting semantics.";
        return Err(Refusal::bad(text));
    }
    let foreign = query.get("dc").filter(|dc| !dc.is_empty());
    if foreign.is_some_and(|dc| *dc != front.node.datacenter) {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return Err(Refusal::new(status, "No path to datacenter"));
    }
    for key in ["ns", "partition"] {
        let other = query
            .get(key)
            .filter(|name| !matches!(*name, "" | "default"));
        if other.is_some() {
            let text = format!("Invalid query parameter: {key:?} - needs Consul Enterprise");
            return Err(Refusal::bad(text));
        }
    }
    if query.get("peer").is_some_and(|peer| !peer.is_empty()) {
        return Err(Refusal::unsupported("?peer="));
    }
    Ok(())
}

impl Front {
    /// Who asks, if they may ask at all.
    fn caller(&self, query: &Query, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let given = guard::given(query, headers);
        let caller = Caller::new(self.acl.clone(), given);
        if self.acl.is_none() {
            guard::check(self.token.as_deref(), query, headers)?;
            return Ok(caller);
        }
        // Who is unknown is refused before anything is read of them.
        let anonymous = caller.who()?.is_anonymous();
        // A web page has no token of its own; it could make the first one.
        if anonymous && self.loopback {
            guard::check(None, query, headers)?;
        }
        Ok(caller)
    }

    async fn dispatch(&self, endpoint: Endpoint, asked: &Asked) -> Result<Answer, Refusal> {
        use Endpoint as E;
        match endpoint {
            E::AgentSelf => Ok(self.agent_self().into()),
            E::AgentMembers => Ok(self.agent_members().into()),
            E::AgentServices => Ok(self.agent_services().into()),
            E::AgentService(id) => self.agent_service(&id, asked).await,
            E::AgentHealthById(id) => self.agent_health_by_id(&id, asked).await,
            E::AgentHealthByName(name) => self.agent_health_by_name(&name, asked).await,
            E::AgentServiceRegister => self.agent_register(asked).await,
            E::AgentServiceDeregister(id) => self.agent_deregister(&id).await,
            E::AgentServiceMaintenance(id) => self.agent_maintenance(&id, asked).await,
            E::AgentMaintenance => self.agent_node_maintenance(asked).await,
            E::AgentChecks => self.agent_checks().await,
            E::AgentCheckRegister => self.agent_check_register(asked).await,
            E::AgentCheckDeregister(id) => self.agent_check_deregister(&id).await,
            E::AgentCheckPass(id) => self.agent_check_said(&id, "passing", asked).await,
            E::AgentCheckWarn(id) => self.agent_check_said(&id, "warning", asked).await,
            E::AgentCheckFail(id) => self.agent_check_said(&id, "critical", asked).await,
            E::AgentCheckUpdate(id) => self.agent_check_update(&id, asked).await,
            E::CatalogDatacenters => Ok(self.catalog_datacenters().into()),
            E::CatalogNodes => self.catalog_nodes(asked).await,
            E::CatalogServices => self.catalog_services(asked).await,
            E::CatalogService(name) => self.catalog_service(&name, asked).await,
            E::CatalogNode(node) => self.catalog_node(&node, asked).await,
            E::CatalogNodeServices(node) => self.catalog_node_services(&node, asked).await,
            E::CatalogRegister => self.catalog_register(asked).await,
            E::CatalogDeregister => self.catalog_deregister(asked).await,
            E::HealthService(name) => self.health_service(&name, asked).await,
            E::HealthChecks(name) => self.health_checks(&name, asked).await,
            E::HealthNode(node) => self.health_node(&node, asked).await,
            E::HealthState(state) => self.health_state(&state, asked).await,
            // One server, which leads itself. 8300 is where Consul's would be asked.
            E::StatusLeader => Ok(Reply::json(format!("{}:8300", self.node.address)).into()),
            E::StatusPeers => Ok(Reply::json(vec![format!("{}:8300", self.node.address)]).into()),
            E::Kv(key) => match asked.method {
                Method::PUT => self.kv_put(&key, asked).await,
                Method::DELETE => self.kv_delete(&key, asked).await,
                _ => self.kv_get(&key, asked).await,
            },
            E::Txn => self.txn(asked).await,
            E::SessionCreate => self.session_create(asked).await,
            E::SessionDestroy(id) => self.session_destroy(&id).await,
            E::SessionRenew(id) => self.session_renew(&id).await,
            E::SessionInfo(id) => self.session_info(&id, asked).await,
            E::SessionNode(node) => self.session_list(Some(&node), asked).await,
            E::SessionList => self.session_list(None, asked).await,
            E::Acl(path) => self.acl_endpoint(&path, asked).await,
            E::Query(below) => self.query(below, asked).await,
            E::Event(below) => self.event(below, asked).await,
            E::Coordinate(below) => self.coordinate(below, asked).await,
            E::Operator(below) => self.operator(below, asked).await,
            E::Machine(below) => self.machine(below, asked).await,
            E::Ui(below) => self.ui(below, asked).await,
            E::Config(below) => self.config(below, asked).await,
            E::Mesh(list) => self.nothing(list, asked).await,
            E::Copies => self.copies(asked).await,
            E::Unsupported(path) => Err(refused(path)),
        }
    }
}

/// What is not there, with the reason.
fn refused(path: &str) -> Refusal {
    let what = format!("/v1/{path}");
    match refused::reason(path) {
        Some(reason) => Refusal::because(what, reason),
        None => Refusal::unsupported(what),
    }
}

fn only(status: StatusCode, method: &Method, methods: &[Method]) -> Response<Full<Bytes>> {
    let text = match status {
        StatusCode::OK => String::new(),
        _ => format!("method {method} not allowed"),
    };
    let mut response = Reply::Text(status, text).into_response(false);
    let mut allow = vec!["OPTIONS"];
    allow.extend(methods.iter().map(Method::as_str));
    if let Ok(allow) = HeaderValue::from_str(&allow.join(",")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// A random UUID that others may guess.
pub(crate) fn uuid(random: &mut Random) -> String {
    uuid_of(random.bits(), random.bits())
}

/// The UUID of these random bits (RFC 9562 §5.4).
pub(crate) fn uuid_of(high: u64, low: u64) -> String {
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        let away = away::status_of_registry(&error);
        let fault = Fault::from(error);
        let status = away.unwrap_or(match fault.kind {
            FaultKind::Invalid => StatusCode::BAD_REQUEST,
            FaultKind::NotFound => StatusCode::NOT_FOUND,
            FaultKind::Conflict => StatusCode::CONFLICT,
            // Consul's word for all that may work later is 500.
            FaultKind::Exhausted | FaultKind::Unavailable | FaultKind::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        });
        Self::new(status, fault.message)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::new(away::status_of_store(&error), error.to_string())
    }
}

impl From<Infallible> for Refusal {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that somebody promised and does not send.
    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_not_waited_for_without_end() {
        let day = Duration::from_secs(86_400);
        let passed_over = tokio::time::timeout(day, pass_over(Never)).await;
        assert!(passed_over.is_ok());
        let read = tokio::time::timeout(day, whole(Never, "5")).await;
        assert_eq!(read.unwrap().unwrap_err().status, 408);
    }

    #[test]
    fn a_uuid_is_of_version_4() {
        let made = uuid(&mut Random::from_seed(1));
        assert_eq!(made.len(), 36);
        assert_eq!(&made[14..15], "4");
        assert!(matches!(&made[19..20], "8" | "9" | "a" | "b"));
        assert_ne!(made, uuid(&mut Random::from_seed(2)));
    }
}
