//! One request from its head to its record, whichever codec read it:
//! `router -> policies -> balancer -> upstream -> record`.
//!
//! [`serve`] reads like that sentence; the attempts are in `proxy/attempts.rs`, the
//! way of the response in `proxy/relay.rs`, the request's body here. Both bodies move at once and push back: no
//! piece is read before the last one is written. What goes wrong is a
//! [`Failure`]; before the response has begun it becomes an answer, afterwards the
//! response is cut off.

mod attempts;
mod relay;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderName, Method, StatusCode};

use crate::answer::{Answer, Failure, Reason, prefers_html};
use crate::config::HeaderEdit;
use crate::endpoint::InFlight;
use crate::exchange::Exchange;
use crate::h1::body::Body;
use crate::h1::chunked::{may_be_trailer, trailer_lines};
use crate::h1::field::Known;
use crate::h1::request::RequestHead;
use crate::h1::response::ResponseHead;
use crate::h1::{Framing, Version};
use crate::hygiene::{Peer, max_forwards, push};
use crate::policies::body_limit;
use crate::snapshot::{CompiledRoute, Routing, Snapshot};
use crate::timer::{Timer, Wait};
use crate::upstream::Upstream;
use crate::view::RequestView;
use crate::worker::Worker;

/// The client's side of an exchange: HTTP/1 (`connection.rs`) or HTTP/2 (`h2.rs`).
pub(crate) trait Client {
    fn head(&self) -> &RequestHead;
    fn peer(&self) -> &Peer;
    fn body(&self) -> &Body;
    fn body_mut(&mut self) -> &mut Body;
    /// Reads more of the request's body.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Passes an interim response on, if the client's protocol has them.
    fn interim(&mut self, head: &ResponseHead, bytes: &[u8]);
    /// Begins the response; its body follows piece by piece.
    fn respond(&mut self, response: &Responding<'_>);
    /// Takes back a response of which nothing has been sent.
    fn retract(&mut self);
    /// Responds with something made here, body included.
    fn answer(&mut self, answer: &Answer, via: &str, request_id: &str);
    /// Adds a piece of the response's body, the last one if `end`.
    fn piece(&mut self, piece: &[u8], end: bool, trailers: &[u8]);
    /// Writes everything begun; given the same `piece` again until it is ready.
    fn poll_piece(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<()>>;
    /// Whether it took any of it since this was last asked.
    fn take_moved(&mut self) -> bool;
    /// Resolves when it has left for certain.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A response of an upstream, to be passed on.
pub(crate) struct Responding<'a> {
    pub(crate) head: &'a ResponseHead,
    /// What `head` points into.
    pub(crate) bytes: &'a [u8],
    pub(crate) edit: &'a HeaderEdit,
    pub(crate) via: &'a str,
    pub(crate) request_id: &'a str,
}

/// What the codec does after an exchange.
pub(crate) enum Next {
    /// A whole response was sent.
    Done,
    /// The response cannot be completed: the connection or stream must end so that
    /// the client notices.
    Cut,
    /// Both sides speak another protocol from here on.
    Upgraded(Box<Upstream>, InFlight),
}

/// Serves the request whose head `client` has read.
pub(crate) async fn serve<C: Client>(worker: &Worker, client: &mut C, timer: &mut Timer) -> Next {
    let snapshot = worker.snapshot();
    let mut exchange = Exchange::begin(worker, &snapshot, client, timer.now());
    let mut outcome = exchange.forward(&snapshot, client, timer).await;
    if let Err(failure) = outcome {
        outcome = exchange.answer(client, timer, &failure).await;
    }
    timer.clear_all();
    exchange.received(client.body().content_bytes());
    exchange.record(timer.now());
    outcome.unwrap_or(Next::Cut)
}

/// Answers a request that could not even be read.
pub(crate) async fn refuse<C: Client>(
    worker: &Worker,
    client: &mut C,
    timer: &mut Timer,
    failure: &Failure,
) -> Next {
    let snapshot = worker.snapshot();
    let mut exchange = Exchange::begin(worker, &snapshot, client, timer.now());
    let outcome = exchange.answer(client, timer, failure).await;
    timer.clear_all();
    exchange.record(timer.now());
    outcome.unwrap_or(Next::Cut)
}

/// A request as the router and the balancer see it.
pub(crate) struct View<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) client_ip: IpAddr,
}

impl RequestView for View<'_> {
    fn method(&self) -> &Method {
        &self.head.method
    }
    fn host(&self) -> &str {
        self.head.host()
    }
    fn path(&self) -> &str {
        self.head.path()
    }
    fn query(&self) -> Option<&str> {
        self.head.query()
    }
    fn path_and_query(&self) -> &str {
        self.head.target.text(&self.head.bytes)
    }
    fn header(&self, name: &HeaderName) -> Option<&[u8]> {
        self.head.field(name.as_str())
    }
    fn client_ip(&self) -> IpAddr {
        self.client_ip
    }
}

/// How far the request has been sent.
#[derive(Debug, Default)]
struct Sending {
    /// A piece is being written.
    open: bool,
    /// It is the last.
    last: bool,
    done: bool,
    /// The upstream takes no more; it may still answer.
    broken: bool,
    /// The client owes the next piece.
    waits_for_client: bool,
    /// An interim response is being written to the client.
    interim: bool,
    /// The response's head was sent without waiting for its body.
    flushed: bool,
}

impl Sending {
    fn is_over(&self) -> bool {
        self.done || self.broken
    }
}

impl<'s> Exchange<'s> {
    async fn forward<C: Client>(
        &mut self,
        snapshot: &'s Snapshot,
        client: &mut C,
        timer: &mut Timer,
    ) -> Result<Next, Failure> {
        if self.is_for_us(client.head())? {
            client.answer(
                &Answer::options(),
                self.worker.via(),
                self.identity.request_id(),
            );
            self.status = Some(StatusCode::OK);
            return self.flush(client, timer).await;
        }
        let route = self.find_route(snapshot, client)?;
        body_limit::admit(&route.spec, client.head())?;
        // What came with the head.
        body_limit::check(&route.spec, client.body())?;
        timer.limit(Wait::Request, route.spec.timeouts.request);
        route.retry_budget.request(timer.now());
        let (upstream, sending, in_flight) = self.reach(route, client, timer).await?;
        self.relay(route, client, timer, upstream, sending, in_flight)
            .await
    }

    /// `OPTIONS *`, and what may not travel further (RFC 9110 §7.6.2).
    fn is_for_us(&self, head: &RequestHead) -> Result<bool, Failure> {
        let last_hop = max_forwards(head) == Some(0);
        if last_hop && head.method == Method::TRACE {
            // To echo a request is to show its cookies to whoever can send one.
            let failure = Failure::new(Reason::MethodNotAllowed, "the gateway answers no TRACE");
            return Err(failure);
        }
        Ok(head.method == Method::OPTIONS && (last_hop || head.path() == "*"))
    }

    fn find_route<C: Client>(
        &mut self,
        snapshot: &'s Snapshot,
        client: &C,
    ) -> Result<&'s Arc<CompiledRoute>, Failure> {
        let head = client.head();
        let view = View {
            head,
            client_ip: self.client_ip,
        };
        match snapshot.route(&view) {
            Routing::Found(route) => {
                self.enter_route(route);
                Ok(route)
            }
            Routing::NoRoute => Err(Failure::new(
                Reason::NoRoute,
                format!(
                    "no route for {} `{}` of host `{}`",
                    head.method,
                    head.path(),
                    head.host()
                ),
            )),
            Routing::MethodNotAllowed(allow) => {
                let detail = format!("`{}` is not taken with {}", head.path(), head.method);
                let mut failure = Failure::new(Reason::MethodNotAllowed, detail);
                failure.allow = allow;
                Err(failure)
            }
            Routing::BadPath(bad) => Err(Failure::new(Reason::BadPath, bad.to_string())),
        }
    }

    /// Limits how long the next step of the request may take.
    fn limit_sending(&self, route: &CompiledRoute, timer: &mut Timer, sending: &Sending) {
        if sending.is_over() {
            return;
        }
        if sending.waits_for_client {
            timer.limit(Wait::Client, self.body_progress_timeout);
        } else {
            timer.limit(Wait::Upstream, route.spec.timeouts.idle);
        }
    }

    /// Sends what there is of the request. Only the client's failures are errors:
    /// an upstream that stops reading may still answer.
    fn poll_request<C: Client>(
        &self,
        cx: &mut Context<'_>,
        route: &CompiledRoute,
        client: &mut C,
        timer: &mut Timer,
        upstream: &mut Upstream,
        sending: &mut Sending,
    ) -> Result<(), Failure> {
        while !sending.is_over() {
            match self.poll_step(cx, route, client, timer, upstream, sending) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(failure)) => return Err(failure),
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// Writes one piece, or reads the next.
    fn poll_step<C: Client>(
        &self,
        cx: &mut Context<'_>,
        route: &CompiledRoute,
        client: &mut C,
        timer: &mut Timer,
        upstream: &mut Upstream,
        sending: &mut Sending,
    ) -> Poll<Result<(), Failure>> {
        if sending.open {
            let written = upstream.poll_write(cx, client.body().content());
            if upstream.output.take_moved() {
                timer.clear(Wait::Upstream);
            }
            let written = ready!(written);
            sending.open = false;
            sending.broken = written.is_err();
            if written.is_ok() {
                client.body_mut().advance();
                sending.done = sending.last;
            }
            return Poll::Ready(Ok(()));
        }
        let mut waits = false;
        if client.body().content().is_empty() && !client.body().is_read() {
            match client.poll_fill(cx) {
                Poll::Ready(Ok(())) => {
                    timer.clear(Wait::Client);
                    body_limit::check(&route.spec, client.body())?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(body_failure(&error))),
                Poll::Pending => waits = true,
            }
        }
        sending.waits_for_client = waits;
        let head_waits = !upstream.output.prefix.is_empty();
        if waits && !head_waits {
            return Poll::Pending;
        }
        let body = client.body();
        if body.content().is_empty() && !body.is_read() && !head_waits {
            // Only framing has come.
            return Poll::Ready(Ok(()));
        }
        let chunked = client.head().framing == Framing::Chunked;
        sending.last = body.is_read();
        let trailers = pass_trailers(body.trailers());
        upstream
            .output
            .piece(body.content(), chunked, sending.last, &trailers);
        sending.open = true;
        Poll::Ready(Ok(()))
    }

    async fn answer<C: Client>(
        &mut self,
        client: &mut C,
        timer: &mut Timer,
        failure: &Failure,
    ) -> Result<Next, Failure> {
        self.reason = Some(failure.reason);
        if let Some(rejection) = failure.reason.rejection() {
            self.worker.shared().metrics.rejected(rejection);
        }
        self.status = Some(failure.reason.status());
        if failure.reason == Reason::ClientGone {
            return Ok(Next::Cut);
        }
        let head = client.head();
        let answer = Answer::to(
            failure,
            &self.worker.shared().settings.name,
            head.path(),
            self.identity.request_id(),
            prefers_html(head.field("accept")),
        );
        client.answer(&answer, self.worker.via(), self.identity.request_id());
        self.bytes_out = answer.body.len() as u64;
        timer.clear_all();
        self.flush(client, timer).await
    }

    /// Writes what was begun.
    async fn flush<C: Client>(&self, client: &mut C, timer: &mut Timer) -> Result<Next, Failure> {
        poll_fn(|cx| match client.poll_piece(cx, &[]) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Next::Done)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(client_gone())),
            Poll::Pending => {
                if client.take_moved() {
                    timer.clear(Wait::Client);
                }
                timer.limit(Wait::Client, self.body_progress_timeout);
                timer.poll(cx).map(|_| Err(client_gone()))
            }
        })
        .await
    }
}

/// The trailers that may cross, as lines; usually there are none.
fn pass_trailers(lines: &[u8]) -> Vec<u8> {
    let mut passed = Vec::new();
    for (name, value) in trailer_lines(lines).flatten() {
        if may_be_trailer(name) {
            push(&mut passed, name, value);
        }
    }
    passed
}

/// Whether the client asks to leave HTTP, in a way that may be passed on.
fn wants_upgrade(head: &RequestHead) -> bool {
    head.options.upgrade
        && head.version == Version::Http11
        && head.framing == Framing::None
        && head.values(Known::Upgrade).next().is_some()
        // HTTP/2 begins with prior knowledge here (RFC 9113 §3.1 dropped `h2c`).
        && !head
            .values(Known::Upgrade)
            .flat_map(crate::h1::field::list)
            .any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
}

fn malformed(what: &str) -> Failure {
    Failure::new(
        Reason::UpstreamMalformed,
        format!("the response is malformed: {what}"),
    )
}

fn client_gone() -> Failure {
    Failure::new(Reason::ClientGone, "the client closed the connection")
}

fn request_timeout() -> Failure {
    Failure::new(
        Reason::RequestTimeout,
        "the request took longer than its route allows",
    )
}

fn timeout(wait: Wait) -> Failure {
    match wait {
        Wait::Request => request_timeout(),
        Wait::Client => Failure::new(Reason::BodyTimeout, "no byte of the body came in time"),
        Wait::Upstream => Failure::new(
            Reason::UpstreamTimeout,
            "the service took too long to take the request or to answer it",
        ),
    }
}

fn body_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidData => Failure::new(Reason::MalformedBody, error.to_string()),
        _ => client_gone(),
    }
}
