//! The response, passed on as it comes, and what is left of the request meanwhile.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use http::StatusCode;

use super::{Client, Next, Responding, Sending, client_gone, malformed, pass_trailers, timeout};
use crate::answer::{Failure, Reason};
use crate::endpoint::InFlight;
use crate::exchange::Exchange;
use crate::snapshot::CompiledRoute;
use crate::timer::{Timer, Wait};
use crate::upstream::Upstream;

impl Exchange<'_> {
    /// Passes the response on, and the rest of the request meanwhile.
    pub(super) async fn relay<C: Client>(
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
            if !sending.flushed {
                // Nothing of it was sent yet, so that the failure can be told.
                client.retract();
                return Err(failure);
            }
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
