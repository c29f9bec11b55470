//! The endpoints: path and method to what is done.
//!
//! `/eureka/apps` and `/eureka/v2/apps` are the same, whatever stands for `v2`; a slash
//! at the end is no difference. Paths are taken apart here rather than by a router,
//! since a version may stand before each of them and ids hold all but `/`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use atoll_net::guard::same_secret;
use atoll_registry::Registry;
use atoll_runtime::Clock;
use bytes::Bytes;
use http::header::{AUTHORIZATION, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tower::Service;

use crate::answer::{Answer, Ask, Written, holds};
use crate::changes::{Book, Named};
use crate::reads::{self, HashMemo};
use crate::rounds::Rounds;
use crate::wire::{Format, InstanceInfo};
use crate::{Settings, peers};

/// First parts of paths, before which a version may stand.
const ROOTS: [&str; 8] = [
    "apps",
    "instances",
    "vips",
    "svips",
    "asg",
    "peerreplication",
    "status",
    "serverinfo",
];
/// Marks what a peer tells.
const REPLICATION: &str = "x-netflix-discovery-replication";

/// All that the endpoints share.
#[derive(Debug)]
pub(crate) struct Front {
    book: Book,
    memo: HashMemo,
    /// Lists of everything, and of what changed, by [`round`].
    lists: [Rounds<Written>; ROUNDS],
    settings: Settings,
    started: Instant,
}

/// Kinds of lists: of all or of what changed, and in which shape.
const ROUNDS: usize = 16;

/// Which of the rounds has what this client asks for.
fn round(ask: &Ask, delta: bool) -> usize {
    let shape = ask.shape();
    let kinds = [
        delta,
        ask.takes_gzip(),
        shape.compact,
        shape.format == Format::Json,
    ];
    kinds
        .into_iter()
        .fold(0, |number, is| 2 * number + usize::from(is))
}

impl Front {
    pub(crate) fn new(registry: Registry, clock: Clock, settings: Settings) -> Self {
        Self {
            started: clock.now(),
            book: Book::new(registry, clock),
            memo: HashMemo::default(),
            lists: Default::default(),
            settings,
        }
    }

    /// As a service for [`atoll_net::serve()`].
    pub(crate) fn service<B>(
        self,
    ) -> impl Service<
        Request<B>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future = impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send,
    > + Clone
    + Send
    + Sync
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let front = Arc::new(self);
        tower::service_fn(move |request| {
            let front = Arc::clone(&front);
            async move { Ok(front.handle(request).await) }
        })
    }

    async fn handle<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let refusal = self.refusal(request.method(), request.headers());
        if let Some(status) = refusal {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            if status == StatusCode::UNAUTHORIZED {
                let how = HeaderValue::from_static("Basic realm=\"atoll\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, how);
            }
            return response;
        }
        let (head, body) = request.into_parts();
        let mut ask = Ask::new(head);
        let answer = match ask.read(body).await {
            Ok(()) => self.answer(&ask).await.unwrap_or_else(|refused| refused),
            Err(refused) => refused,
        };
        ask.respond(answer)
    }

    /// Why a request is not even read.
    fn refusal(&self, method: &Method, headers: &HeaderMap) -> Option<StatusCode> {
        if method == Method::GET || method == Method::HEAD {
            return None;
        }
        // No client of Eureka sends it and every browser does: a page that somebody
        // visits must not change the registry.
        if headers.contains_key(ORIGIN) {
            return Some(StatusCode::FORBIDDEN);
        }
        let wanted = self.settings.write_token.as_deref()?;
        let given = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
        let given = given.and_then(secret).unwrap_or_default();
        (!same_secret(&given, wanted.as_bytes())).then_some(StatusCode::UNAUTHORIZED)
    }

    async fn answer(&self, ask: &Ask) -> Result<Answer, Answer> {
        let parts: Vec<&str> = ask.path.iter().map(String::as_str).collect();
        let path = match parts.split_first() {
            Some((&"eureka", rest)) => rest,
            // A server of Spring's or a peer may be asked without the context.
            _ => &parts[..],
        };
        let path = match path.split_first() {
            Some((first, rest)) if !ROOTS.contains(first) => rest,
            _ => path,
        };
        let (book, shape) = (&self.book, ask.shape());
        match (ask.method.as_str(), path) {
            ("GET", ["apps"]) => {
                let list = async { Ok(ask.written(reads::all(book, shape).await?)) };
                let written = self.lists[round(ask, false)].join(list).await;
                written.map(Answer::Written)
            }
            ("GET", ["apps", "delta"]) => {
                let list = reads::delta(book, &self.memo, shape);
                let list = async { Ok(ask.written(list.await?)) };
                let written = self.lists[round(ask, true)].join(list).await;
                written.map(Answer::Written)
            }
            ("GET", ["apps", app]) => reads::app(book, shape, app).await,
            ("POST", ["apps", app]) => self.register(ask, app).await,
            ("GET" | "PUT" | "DELETE", ["apps", app, id, rest @ ..]) => {
                let named = Named::new(app, id);
                self.instance(ask, named.as_ref(), rest).await
            }
            ("GET", ["instances", id]) => reads::instance_anywhere(book, shape, id).await,
            ("GET", ["vips", vip]) => reads::by_vip(book, shape, "vipAddress", vip).await,
            ("GET", ["svips", vip]) => reads::by_vip(book, shape, "secureVipAddress", vip).await,
            ("PUT", ["asg", _, "status"]) => {
                let said = "ASG status is for servers on AWS".to_owned();
                Err(Answer::Said(StatusCode::BAD_REQUEST, said))
            }
            ("POST", ["peerreplication", "batch"]) => {
                Ok(peers::batch(book, &ask.document()?.1).await)
            }
            ("GET", ["status"]) => {
                let now = book.clock.now();
                let uptime = now.saturating_duration_since(self.started);
                reads::status(book, shape, uptime, self.address(ask)).await
            }
            ("GET", ["serverinfo", "statusoverrides"]) => reads::overrides(book).await,
            (_, known) => Err(Answer::Bare(nothing(known))),
        }
    }

    /// What is below one instance.
    async fn instance(
        &self,
        ask: &Ask,
        named: Option<&Named>,
        rest: &[&str],
    ) -> Result<Answer, Answer> {
        let book = &self.book;
        let done = match (ask.method.as_str(), rest) {
            ("GET", []) => return reads::instance(book, ask.shape(), named).await,
            ("PUT", []) => return self.heartbeat(ask, named).await,
            ("DELETE", []) => book.cancel(named).await,
            ("PUT", ["status"]) => book.override_status(named, ask.query("value")).await,
            ("DELETE", ["status"]) => book.remove_override(named, ask.query("value")).await,
            ("PUT", ["metadata"]) => book.add_metadata(named, ask.queries()).await,
            ("GET" | "DELETE", ["status" | "metadata"]) => {
                Err(Answer::Bare(StatusCode::METHOD_NOT_ALLOWED))
            }
            _ => Err(Answer::Bare(StatusCode::NOT_FOUND)),
        };
        done.map(|()| Answer::Bare(StatusCode::OK))
    }

    async fn register(&self, ask: &Ask, app: &str) -> Result<Answer, Answer> {
        let (format, document) = ask.document()?;
        let info = InstanceInfo::from_document(format, &document)?;
        if let Some(missing) = missing(&info, &app.to_uppercase()) {
            return Err(Answer::Said(StatusCode::BAD_REQUEST, missing));
        }
        self.book.register(&info).await?;
        // The only success that clients know.
        Ok(Answer::Bare(StatusCode::NO_CONTENT))
    }

    async fn heartbeat(&self, ask: &Ask, named: Option<&Named>) -> Result<Answer, Answer> {
        let dirty = ask.query("lastDirtyTimestamp");
        let dirty = dirty.and_then(|text| text.parse().ok());
        let by_peer = holds(
            &ask.headers,
            http::HeaderName::from_static(REPLICATION),
            "true",
        );
        Ok(match self.book.heartbeat(named, dirty, by_peer).await? {
            None => Answer::Bare(StatusCode::OK),
            Some(newer) => {
                let value = newer.to_value(ask.shape());
                Answer::Document(StatusCode::CONFLICT, "instance", value)
            }
        })
    }

    /// Where the client reached us, as it says.
    fn address(&self, ask: &Ask) -> Option<SocketAddr> {
        let host = ask.headers.get(http::header::HOST)?;
        host.to_str().ok()?.parse().ok()
    }
}

/// What a registration lacks, in the order and the words of `ApplicationResource`.
fn missing(info: &InstanceInfo, expected: &str) -> Option<String> {
    let lacks = |what: &str| Some(format!("Missing {what}"));
    if info.id.is_none() {
        return lacks("instanceId");
    }
    if info.host_name.is_none() {
        return lacks("hostname");
    }
    if info.ip_addr.is_none() {
        return lacks("ip address");
    }
    let Some(app) = &info.app else {
        return lacks("appName");
    };
    if app != expected {
        return Some(format!(
            "Mismatched appName, expecting {expected} but was {app}"
        ));
    }
    match &info.data_center {
        None => lacks("dataCenterInfo"),
        Some(center) if center.name.is_none() => lacks("dataCenterInfo Name"),
        Some(_) => None,
    }
}

/// What a path without an endpoint is: of another method, or nothing.
fn nothing(path: &[&str]) -> StatusCode {
    match path {
        ["apps"]
        | ["apps", _]
        | ["apps", _, _]
        | ["instances" | "vips" | "svips", _]
        | ["asg", _, "status"]
        | ["peerreplication", "batch"]
        | ["status"]
        | ["serverinfo", "statusoverrides"] => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    }
}

/// The secret of an `Authorization`: a bearer's token, or the password of basic.
fn secret(header: &str) -> Option<Vec<u8>> {
    let (kind, credentials) = header.split_once(' ')?;
    if kind.eq_ignore_ascii_case("bearer") {
        return Some(credentials.trim().as_bytes().to_vec());
    }
    if !kind.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = base64(credentials.trim())?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// RFC 4648 §4, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}
