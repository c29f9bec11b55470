//! Counters that belong to no route: connections, and requests that were refused.

use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;

use super::{Counter, Gauge, Statuses};

/// Counters of the gateway as a whole, one for the life of the process.
#[derive(Debug, Default)]
pub struct GatewayMetrics {
    /// Access log lines that were lost because the writer was behind or could not
    /// write.
    pub records_dropped: Counter,
    pub(super) rejections: [Counter; Rejection::ALL.len()],
    pub(super) unrouted: Statuses,
    pub(super) listeners: Mutex<Vec<Arc<ListenerMetrics>>>,
}

/// Counters of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// Its name, from the configuration.
    pub listener: String,
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections open.
    pub open: Gauge,
}

/// Why a request was answered without asking an upstream, or a connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The head is not HTTP or its framing is ambiguous; 400.
    BadRequest,
    /// The path might mean another one to the upstream; 400.
    BadPath,
    /// No route takes it; 404.
    NoRoute,
    /// Only with another method; 405.
    MethodNotAllowed,
    /// The head did not come in time; 408.
    HeadTimeout,
    /// The body did not come in time; 408.
    BodyTimeout,
    /// The body is larger than the route allows; 413.
    BodyTooLarge,
    /// The head is larger than the listener allows; 431.
    HeadTooLarge,
    /// No endpoint takes requests; 503.
    NoEndpoint,
    /// A retry was due and the budget was used up.
    RetryBudget,
    /// A client has too many connections.
    TooManyConnections,
    /// The gateway is about to stop.
    Stopping,
}

impl Rejection {
    /// Every reason, in the order of the type.
    pub const ALL: [Self; 12] = [
        Self::BadRequest,
        Self::BadPath,
        Self::NoRoute,
        Self::MethodNotAllowed,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::HeadTooLarge,
        Self::NoEndpoint,
        Self::RetryBudget,
        Self::TooManyConnections,
        Self::Stopping,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadPath => "bad_path",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadTooLarge => "head_too_large",
            Self::NoEndpoint => "no_endpoint",
            Self::RetryBudget => "retry_budget",
            Self::TooManyConnections => "too_many_connections",
            Self::Stopping => "stopping",
        }
    }
}

impl GatewayMetrics {
    /// Counts a refusal; beside the status, which the route counts if there is one.
    pub fn rejected(&self, why: Rejection) {
        self.rejections[why as usize].add(1);
    }

    /// Counts an answer to a request that no route took.
    pub fn unrouted(&self, status: StatusCode) {
        self.unrouted.count(status);
    }

    /// The counters of a listener; the same again for the same name.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = listeners.iter().find(|known| known.listener == name) {
            return Arc::clone(known);
        }
        let made = Arc::new(ListenerMetrics {
            listener: name.to_owned(),
            accepted: Counter::default(),
            open: Gauge::default(),
        });
        listeners.push(Arc::clone(&made));
        made
    }
}
