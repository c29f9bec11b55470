//! One request from its head to its record, whichever codec read it:
//! `router -> policies -> balancer -> upstream -> record`.
//!
//! [`serve`] reads like that sentence. Both bodies move at once and push back: no
//! piece is read before the last one is written. What goes wrong is a
//! [`Failure`]; before the response has begun it becomes an answer, afterwards the
//! response is cut off.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use crate::answer::{Answer, Failure, Reason, RetrySafety, prefers_html};
use crate::config::HeaderEdit;
use crate::endpoint::{Endpoint, EndpointKey, InFlight};
use crate::exchange::Exchange;
use crate::h1::body::Body;
use crate::h1::chunked::{may_be_trailer, trailer_lines};
use crate::h1::field::Known;
use crate::h1::request::RequestHead;
use crate::h1::response::ResponseHead;
use crate::h1::{Framing, Version};
use crate::hygiene::{Outgoing, Peer, max_forwards, push};
use crate::policies::{body_limit, retry};
use crate::snapshot::{CompiledRoute, Routing, Snapshot};
use crate::timer::{Timer, Wait};
use crate::upstream::{Trouble, Upstream};
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

/// Why an attempt failed, and whether only the age of its connection is to blame.
struct Attempt {
    failure: Failure,
    stale: bool,
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

    /// Sends the request to one endpoint after the other until one answers.
    async fn reach<C: Client>(
        &mut self,
        route: &CompiledRoute,
        client: &mut C,
        timer: &mut Timer,
    ) -> Result<(Box<Upstream>, Sending, InFlight), Failure> {
        let mut tried: Vec<EndpointKey> = Vec::new();
        let mut in_flight = match self.pick(route, client, &tried) {
            Ok(in_flight) => in_flight,
            Err(failure) => {
                // Boxed, so that connections need no room for what is rare.
                Box::pin(self.await_endpoint(route, client, timer, &mut tried, failure)).await?
            }
        };
        let mut reuse = true;
        let mut untouched = true;
        self.attempts = 1;
        loop {
            self.endpoint = Some(Arc::clone(&in_flight.endpoint));
            let endpoint = &in_flight.endpoint;
            let attempt = self.attempt(route, client, timer, endpoint, reuse).await;
            let Attempt { failure, stale } = match attempt {
                Ok((upstream, sending)) => return Ok((upstream, sending, in_flight)),
                Err(attempt) => attempt,
            };
            timer.clear(Wait::Upstream);
            timer.clear(Wait::Client);
            if !retry::is_safe(&failure, &client.head().method) || !client.body_mut().rewind() {
                return Err(failure);
            }
            if stale {
                // Not the endpoint's fault: ask the same one over a new connection.
                reuse = false;
                continue;
            }
            let metrics = &self.worker.shared().metrics;
            if !retry::allow(route, self.attempts, &failure, timer.now(), metrics) {
                return Err(failure);
            }
            tried.push(in_flight.endpoint.key);
            // Whoever waits for the endpoint to be idle need not wait for what follows.
            drop(in_flight);
            untouched &= failure.retry == RetrySafety::NeverSent;
            in_flight = if untouched && failure.reason == Reason::ConnectFailed {
                Box::pin(self.await_endpoint(route, client, timer, &mut tried, failure)).await?
            } else {
                let newest = self.worker.snapshot();
                let route = self.newest_of(&newest, route, client);
                // Nobody fit is left: what went wrong says more than that.
                self.pick(route, client, &tried).map_err(|_| failure)?
            };
            reuse = true;
            self.attempts += 1;
        }
    }

    /// An endpoint that was not tried, waited for if the service had one a moment ago
    /// (`Group::patience`); at the end of the wait, one that was. Only for requests
    /// that were never sent. Woken by what is published, since what it waits for is
    /// the catalogue.
    async fn await_endpoint<C: Client>(
        &self,
        route: &CompiledRoute,
        client: &C,
        timer: &mut Timer,
        tried: &mut Vec<EndpointKey>,
        failure: Failure,
    ) -> Result<InFlight, Failure> {
        let place = self.worker.wait();
        let mut published = self.worker.shared().published();
        let mut seen: Option<Arc<Snapshot>> = None;
        loop {
            // Before the snapshot is read, so that none is missed.
            published.mark_unchanged();
            let newest = self.worker.snapshot();
            let route_now = self.newest_of(&newest, route, client);
            if let Some(seen) = &seen
                && !std::ptr::eq(self.newest_of(seen, route, client), route_now)
            {
                // What was tried may be there again.
                tried.clear();
            }
            let picked = self.pick(route_now, client, tried);
            if let Ok(picked) = picked
                && !tried.contains(&picked.endpoint.key)
            {
                return Ok(picked);
            }
            let left = match &place {
                Some(_) => route_now.patience(timer.now()),
                None => Duration::ZERO,
            };
            if left.is_zero() {
                return self.pick(route_now, client, tried).map_err(|_| failure);
            }
            seen = Some(newest);
            timer.limit(Wait::Upstream, left);
            let woken = timer.guard(published.changed()).await;
            timer.clear(Wait::Upstream);
            match woken {
                Ok(Ok(())) | Err(Wait::Upstream | Wait::Client) => {}
                // Nothing will be published any more: the gateway is stopping.
                Ok(Err(_)) => return Err(failure),
                Err(Wait::Request) => return Err(request_timeout()),
            }
        }
    }

    /// The same route in the newest snapshot, so that an instance that has come since
    /// the request began is known; `route` when it is gone from there.
    fn newest_of<'n, C: Client>(
        &self,
        newest: &'n Snapshot,
        route: &'n CompiledRoute,
        client: &C,
    ) -> &'n CompiledRoute {
        let view = View {
            head: client.head(),
            client_ip: self.client_ip,
        };
        match newest.route(&view) {
            Routing::Found(found) if found.spec.name == route.spec.name => found,
            _ => route,
        }
    }

    fn pick<C: Client>(
        &self,
        route: &CompiledRoute,
        client: &C,
        tried: &[EndpointKey],
    ) -> Result<InFlight, Failure> {
        let view = View {
            head: client.head(),
            client_ip: self.client_ip,
        };
        route
            .pick(&view, tried, &mut self.worker.random())
            .map_err(|none| Failure::new(Reason::NoEndpoint, none.to_string()))
    }

    async fn attempt<C: Client>(
        &self,
        route: &CompiledRoute,
        client: &mut C,
        timer: &mut Timer,
        endpoint: &Endpoint,
        reuse: bool,
    ) -> Result<(Box<Upstream>, Sending), Attempt> {
        let pooled = if reuse {
            self.worker.pool.take(endpoint.key, timer.now())
        } else {
            None
        };
        let mut upstream = match pooled {
            Some(upstream) => upstream,
            None => self.connect(route, endpoint, timer).await?,
        };
        self.write_head(route, client.head(), client.peer(), &mut upstream);
        let mut sending = Sending::default();
        let asked = timer.now();
        let outcome = self
            .await_head(route, client, timer, &mut upstream, &mut sending)
            .await;
        match outcome {
            Ok(()) => {
                timer.clear(Wait::Upstream);
                if let Some(metrics) = route.service_metrics(&endpoint.service) {
                    let took = timer.now().saturating_duration_since(asked);
                    metrics.answered(upstream.head.status, took);
                }
                Ok((upstream, sending))
            }
            Err(HeadTrouble::Failure(failure)) => Err(failure.into()),
            Err(HeadTrouble::Closed(error)) => {
                if upstream.reused {
                    self.worker.pool.forget(endpoint.key);
                }
                Err(judge_closed(&mut upstream, client.head(), error).await)
            }
        }
    }

    async fn connect(
        &self,
        route: &CompiledRoute,
        endpoint: &Endpoint,
        timer: &mut Timer,
    ) -> Result<Box<Upstream>, Failure> {
        timer.limit(Wait::Upstream, route.spec.timeouts.connect);
        let opened = timer.guard(Upstream::open(endpoint)).await;
        timer.clear(Wait::Upstream);
        let address = &endpoint.address;
        let failure = match opened {
            Ok(Ok(upstream)) => {
                route.reached(&endpoint.service);
                return Ok(upstream);
            }
            Ok(Err(error)) => Failure::new(
                Reason::ConnectFailed,
                format!(
                    "could not connect to `{}` at {address}: {error}",
                    endpoint.service
                ),
            ),
            Err(Wait::Request) => return Err(request_timeout()),
            Err(Wait::Upstream | Wait::Client) => Failure::new(
                Reason::ConnectTimeout,
                format!(
                    "no connection to `{}` at {address} in time",
                    endpoint.service
                ),
            ),
        };
        if let Some(metrics) = route.service_metrics(&endpoint.service) {
            metrics.connect_failures.add(1);
        }
        self.worker.pool.forget(endpoint.key);
        Err(failure.retry(RetrySafety::NeverSent))
    }

    fn write_head(
        &self,
        route: &CompiledRoute,
        head: &RequestHead,
        peer: &Peer,
        upstream: &mut Upstream,
    ) {
        let view = View {
            head,
            client_ip: self.client_ip,
        };
        let outgoing = Outgoing {
            head,
            peer,
            trusted: self.trusted,
            target: route.upstream_path(&view),
            identity: &self.identity,
            via: &self.worker.shared().settings.name,
            edit: &route.spec.request_headers,
            framing: head.framing,
            upgrade: wants_upgrade(head),
        };
        outgoing.write(&mut upstream.output.prefix);
    }

    /// Sends the request and reads until the final response's head is there.
    async fn await_head<C: Client>(
        &self,
        route: &CompiledRoute,
        client: &mut C,
        timer: &mut Timer,
        upstream: &mut Upstream,
        sending: &mut Sending,
    ) -> Result<(), HeadTrouble> {
        let buffers = &self.worker.buffers;
        poll_fn(|cx| {
            loop {
                self.poll_request(cx, route, client, timer, upstream, sending)?;
                if sending.interim {
                    match client.poll_piece(cx, &[]) {
                        Poll::Ready(Ok(())) => sending.interim = false,
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(client_gone().into())),
                        Poll::Pending => break,
                    }
                }
                match upstream.poll_head(cx, buffers, &client.head().method) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) if !upstream.head.status.is_informational() => {
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Ok(())) if upstream.head.status == 101 => {
                        return Poll::Ready(match wants_upgrade(client.head()) {
                            true => Ok(()),
                            false => Err(malformed("it changes the protocol unasked").into()),
                        });
                    }
                    Poll::Ready(Ok(())) => {
                        client.interim(&upstream.head, upstream.head_bytes());
                        sending.interim = true;
                        upstream.skip_head();
                    }
                    Poll::Ready(Err(Trouble::Closed(error))) => {
                        return Poll::Ready(Err(HeadTrouble::Closed(error)));
                    }
                    Poll::Ready(Err(Trouble::Cut(error))) => {
                        let detail = format!("the response head was cut off: {error}");
                        let failure = Failure::new(Reason::UpstreamClosed, detail);
                        return Poll::Ready(Err(failure.into()));
                    }
                    Poll::Ready(Err(Trouble::Malformed(refusal))) => {
                        let detail = Failure::from(refusal).detail;
                        return Poll::Ready(Err(malformed(&detail).into()));
                    }
                }
            }
            // A client that was told to wait for 100 (Continue) waits for the upstream.
            let asked = sending.waits_for_client && client.head().expects_continue;
            if sending.is_over() || asked {
                timer.limit(Wait::Upstream, route.spec.timeouts.response_head);
            } else {
                self.limit_sending(route, timer, sending);
            }
            timer.poll(cx).map(|wait| Err(timeout(wait).into()))
        })
        .await
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

    /// Passes the response on, and the rest of the request meanwhile.
    async fn relay<C: Client>(
        &mut self,
        route: &CompiledRoute,
        client: &mut C,
        timer: &mut Timer,
        mut upstream: Box<Upstream>,
        mut sending: Sending,
        in_flight: InFlight,
    ) -> Result<Next, Failure> {
        let status = upstream.head.status;
        client.respond(&Responding {
            head: &upstream.head,
            bytes: upstream.head_bytes(),
            edit: &route.spec.response_headers,
            via: self.worker.via(),
            request_id: self.identity.request_id(),
        });
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.status = Some(status);
            self.flush(client, timer).await?;
            return Ok(Next::Upgraded(upstream, in_flight));
        }
        if let Err(what) = upstream.begin_body() {
            client.retract();
            return Err(malformed(what));
        }
        self.status = Some(status);
        let outcome = self
            .relay_body(route, client, timer, &mut upstream, &mut sending)
            .await;
        self.bytes_out = upstream.body.content_bytes();
        if let Err(failure) = outcome {
            self.reason = Some(failure.reason);
            return Ok(Next::Cut);
        }
        if sending.done && upstream.is_reusable() {
            self.worker.pool.put(upstream, timer.now());
        }
        Ok(Next::Done)
    }

    async fn relay_body<C: Client>(
        &self,
        route: &CompiledRoute,
        client: &mut C,
        timer: &mut Timer,
        upstream: &mut Upstream,
        sending: &mut Sending,
    ) -> Result<(), Failure> {
        let buffers = &self.worker.buffers;
        let (mut open, mut last) = (false, false);
        poll_fn(|cx| {
            loop {
                if !sending.is_over()
                    && self
                        .poll_request(cx, route, client, timer, upstream, sending)
                        .is_err()
                {
                    // The response is on its way; it says more than this would.
                    sending.broken = true;
                }
                if open {
                    match client.poll_piece(cx, upstream.body.content()) {
                        Poll::Pending => {
                            if client.take_moved() {
                                timer.clear(Wait::Client);
                            }
                            timer.limit(Wait::Client, self.body_progress_timeout);
                            break;
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(client_gone())),
                        Poll::Ready(Ok(())) => {
                            timer.clear(Wait::Client);
                            upstream.body.advance();
                            open = false;
                            if last {
                                return Poll::Ready(Ok(()));
                            }
                        }
                    }
                } else if !upstream.body.content().is_empty() || upstream.body.is_read() {
                    last = upstream.body.is_read();
                    let body = &upstream.body;
                    sending.flushed = true;
                    client.piece(body.content(), last, &pass_trailers(body.trailers()));
                    open = true;
                } else {
                    match upstream.poll_body(cx, buffers) {
                        Poll::Pending if !std::mem::replace(&mut sending.flushed, true) => {
                            // The head does not wait for the body.
                            client.piece(&[], false, &[]);
                            open = true;
                        }
                        Poll::Pending => {
                            if client.poll_gone(cx).is_ready() {
                                return Poll::Ready(Err(client_gone()));
                            }
                            timer.limit(Wait::Upstream, route.spec.timeouts.idle);
                            break;
                        }
                        Poll::Ready(Ok(())) => timer.clear(Wait::Upstream),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(cut_off(&error))),
                    }
                }
            }
            // With the final response it need not send what it held back.
            if !client.head().expects_continue {
                self.limit_sending(route, timer, sending);
            }
            timer.poll(cx).map(|wait| Err(timeout(wait)))
        })
        .await
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

/// Why no head came: with a verdict, or an end that is yet to be judged.
enum HeadTrouble {
    Failure(Failure),
    Closed(io::Error),
}

impl From<Failure> for HeadTrouble {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            stale: false,
        }
    }
}

/// Judges a connection that ended without a byte of response.
async fn judge_closed(upstream: &mut Upstream, head: &RequestHead, error: io::Error) -> Attempt {
    let retry = if !upstream.output.any_sent() {
        RetrySafety::NeverSent
    } else if upstream.reused
        && !retry::is_idempotent(&head.method)
        && upstream.was_reset(&error).await
    {
        // It was closed as idle while the request was on its way.
        RetrySafety::NeverSent
    } else {
        RetrySafety::IfIdempotent
    };
    let detail = format!("the connection ended before a response: {error}");
    Attempt {
        failure: Failure::new(Reason::UpstreamClosed, detail).retry(retry),
        stale: upstream.reused,
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

fn cut_off(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidData => malformed(&error.to_string()),
        _ => Failure::new(
            Reason::UpstreamClosed,
            format!("the response was cut off: {error}"),
        ),
    }
}
