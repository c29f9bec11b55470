//! All time limits of one connection, on one timer that is moved as rarely as can be.
//!
//! Each phase of a request has a limit, and each would register and cancel a timer:
//! some hundred nanoseconds apiece. Instead a deadline is a field, and the one real
//! timer is only moved when a deadline comes before it; when it fires early it is
//! moved to the next one. A busy connection moves it about once in thirty seconds.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use atoll_runtime::Clock;
use tokio::time::Sleep;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The whole request.
    Request,
    /// The client: its next request, head, body, or its reading of ours.
    Client,
    /// The upstream: its connection, head, body, or its reading of ours.
    Upstream,
}

const WAITS: [Wait; 3] = [Wait::Request, Wait::Client, Wait::Upstream];

/// The deadlines of one connection or stream.
pub(crate) struct Timer {
    clock: Clock,
    now: Instant,
    /// `now` was read since the task woke.
    fresh: bool,
    deadlines: [Option<Instant>; WAITS.len()],
    sleep: Option<Pin<Box<Sleep>>>,
    /// When `sleep` fires; it has been polled since it was set.
    armed: Instant,
    /// The task that `sleep` wakes.
    waker: Option<Waker>,
}

impl Timer {
    pub(crate) fn new(clock: Clock) -> Self {
        let now = clock.now();
        Self {
            clock,
            now,
            fresh: true,
            deadlines: [None; WAITS.len()],
            sleep: None,
            armed: now,
            waker: None,
        }
    }

    /// The time, read once for each wake-up of the task.
    pub(crate) fn now(&mut self) -> Instant {
        if !self.fresh {
            self.now = self.clock.now();
            self.fresh = true;
        }
        self.now
    }

    /// Sets a deadline unless there is one; zero is no limit.
    pub(crate) fn limit(&mut self, wait: Wait, limit: Duration) {
        if limit.is_zero() || self.deadlines[wait as usize].is_some() {
            return;
        }
        // An absurdly long limit is none.
        self.deadlines[wait as usize] = self.now().checked_add(limit);
    }

    /// Takes a deadline away: there was progress.
    pub(crate) fn clear(&mut self, wait: Wait) {
        self.deadlines[wait as usize] = None;
    }

    pub(crate) fn clear_all(&mut self) {
        self.deadlines = [None; WAITS.len()];
    }

    /// The first deadline that has passed. To be polled before a task sleeps.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        loop {
            let earliest = WAITS
                .into_iter()
                .filter_map(|wait| Some((self.deadlines[wait as usize]?, wait)))
                .min_by_key(|(at, _)| *at);
            let Some((at, wait)) = earliest else {
                self.fresh = false;
                return Poll::Pending;
            };
            if let Some(sleep) = &self.sleep
                && self.armed <= at
                && !sleep.is_elapsed()
                && self
                    .waker
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                self.fresh = false;
                return Poll::Pending;
            }
            self.fresh = false;
            if self.now() >= at {
                return Poll::Ready(wait);
            }
            self.armed = at;
            let sleep = match &mut self.sleep {
                Some(sleep) => {
                    sleep.as_mut().reset(at.into());
                    sleep
                }
                None => self
                    .sleep
                    .insert(Box::pin(tokio::time::sleep_until(at.into()))),
            };
            self.waker = Some(cx.waker().clone());
            if sleep.as_mut().poll(cx).is_pending() {
                self.fresh = false;
                return Poll::Pending;
            }
        }
    }

    /// Runs `future` until it is done or a deadline passes.
    pub(crate) async fn guard<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Wait> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }
}
