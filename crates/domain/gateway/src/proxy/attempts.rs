//! The attempts of one request: which endpoint is asked, over which connection, and
//! whether another is asked when it fails. Ends with the head of a response.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;

use super::{
    Client, Sending, View, client_gone, malformed, request_timeout, timeout, wants_upgrade,
};
use crate::answer::{Failure, Reason, RetrySafety};
use crate::endpoint::{Endpoint, EndpointKey, InFlight};
use crate::exchange::Exchange;
use crate::h1::request::RequestHead;
use crate::hygiene::{Outgoing, Peer};
use crate::policies::retry;
use crate::snapshot::{CompiledRoute, Routing, Snapshot};
use crate::timer::{Timer, Wait};
use crate::upstream::{Trouble, Upstream};

/// How long a short body is waited for behind its head. Servers that write the two
/// apart take microseconds; one that computes in between gains nothing by the wait.
const SHORT_BODY_WAIT: Duration = Duration::from_millis(100);

/// Why an attempt failed, and whether only the age of its connection is to blame.
struct Attempt {
    failure: Failure,
    stale: bool,
}

/// Why no head came: with a verdict, or an end that is yet to be judged.
enum HeadTrouble {
    Failure(Failure),
    Closed(io::Error),
}

impl Exchange<'_> {
    /// Sends the request to one endpoint after the other until one answers.
    pub(super) async fn reach<C: Client>(
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
                if upstream.owes_short_body() {
                    self.await_short_body(timer, &mut upstream).await?;
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
                        if upstream.head.status == StatusCode::CONTINUE
                            && client.head().expects_continue
                        {
                            // From here on the client is waited for.
                            timer.clear(Wait::Upstream);
                        }
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
}

impl Exchange<'_> {
    /// Waits for a short body before anything of its response is passed on; one that
    /// takes longer than [`SHORT_BODY_WAIT`] is passed on as it comes.
    async fn await_short_body(
        &self,
        timer: &mut Timer,
        upstream: &mut Upstream,
    ) -> Result<(), Failure> {
        let buffers = &self.worker.buffers;
        timer.limit(Wait::Upstream, SHORT_BODY_WAIT);
        let read = poll_fn(|cx| upstream.poll_short_body(cx, buffers));
        let read = timer.guard(read).await;
        timer.clear(Wait::Upstream);
        match read {
            Ok(Ok(())) | Err(Wait::Upstream | Wait::Client) => Ok(()),
            Ok(Err(error)) => {
                let detail = format!("the response was cut off: {error}");
                let failure = Failure::new(Reason::UpstreamClosed, detail);
                Err(failure.retry(RetrySafety::IfSafe))
            }
            Err(Wait::Request) => Err(request_timeout()),
        }
    }
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
