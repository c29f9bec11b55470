//! What is known of one request while it is served, and its record at the end,
//! however it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Method, StatusCode};

use crate::answer::Reason;
use crate::config::LogFormat;
use crate::endpoint::Endpoint;
use crate::h1::Version;
use crate::hygiene::{client_ip, is_trusted};
use crate::proxy::Client;
use crate::record::Record;
use crate::snapshot::{CompiledRoute, Snapshot};
use crate::trace::Identity;
use crate::worker::Worker;

/// One request being served. Dropping it unrecorded (the client reset its stream)
/// records it as abandoned.
pub(crate) struct Exchange<'s> {
    pub(crate) worker: &'s Worker,
    pub(crate) identity: Identity,
    pub(crate) client_ip: IpAddr,
    /// The peer is a trusted proxy.
    pub(crate) trusted: bool,
    pub(crate) body_progress_timeout: Duration,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// Requests sent, the first included.
    pub(crate) attempts: u32,
    pub(crate) status: Option<StatusCode>,
    pub(crate) reason: Option<Reason>,
    pub(crate) bytes_out: u64,
    bytes_in: u64,
    started: Instant,
    route: Option<&'s Arc<CompiledRoute>>,
    /// Only where records are wanted.
    log: Option<Box<Logged>>,
    recorded: bool,
}

/// What a record repeats of the request.
struct Logged {
    at: SystemTime,
    version: http::Version,
    method: Method,
    host: Box<str>,
    path: Box<str>,
}

impl<'s> Exchange<'s> {
    pub(crate) fn begin<C: Client>(
        worker: &'s Worker,
        snapshot: &Snapshot,
        client: &C,
        now: Instant,
    ) -> Self {
        let config = &snapshot.config;
        let (head, peer) = (client.head(), client.peer());
        let log = (config.access_log.format != LogFormat::Off).then(|| {
            Box::new(Logged {
                at: worker.clock.wall(),
                version: match head.version {
                    Version::Http10 => http::Version::HTTP_10,
                    Version::Http11 => http::Version::HTTP_11,
                    Version::Http2 => http::Version::HTTP_2,
                },
                method: head.method.clone(),
                host: head.authority().into(),
                path: head.path().into(),
            })
        });
        Self {
            worker,
            identity: Identity::of(head, &mut worker.random()),
            client_ip: client_ip(head, peer.ip, &config.trusted_proxies),
            trusted: is_trusted(&config.trusted_proxies, peer.ip),
            body_progress_timeout: config.limits.body_progress_timeout,
            endpoint: None,
            attempts: 0,
            status: None,
            reason: None,
            bytes_out: 0,
            bytes_in: 0,
            started: now,
            route: None,
            log,
            recorded: false,
        }
    }

    /// The request belongs to `route` from here on.
    pub(crate) fn enter_route(&mut self, route: &'s Arc<CompiledRoute>) {
        route.metrics.in_flight.up();
        self.route = Some(route);
    }

    /// Bytes of the request's body that came.
    pub(crate) fn received(&mut self, bytes: u64) {
        self.bytes_in = bytes;
    }

    /// Counts the request and hands its record over. To be called once.
    pub(crate) fn record(&mut self, now: Instant) {
        self.recorded = true;
        let status = self.status.unwrap_or_else(|| Reason::ClientGone.status());
        let duration = now.saturating_duration_since(self.started);
        match self.route {
            Some(route) => {
                let metrics = &route.metrics;
                metrics.in_flight.down();
                metrics.finished(status, duration);
                if self.bytes_in > 0 {
                    metrics.bytes_in.add(self.bytes_in);
                }
                metrics.bytes_out.add(self.bytes_out);
            }
            None => self.worker.shared().metrics.unrouted(status),
        }
        let Some(log) = self.log.take() else { return };
        let trace_id = std::str::from_utf8(&self.identity.trace_id)
            .ok()
            .and_then(|text| u128::from_str_radix(text, 16).ok());
        self.worker.recorder.push(Record {
            at: log.at,
            client_ip: self.client_ip,
            version: log.version,
            method: log.method,
            host: log.host,
            path: log.path,
            status: status.as_u16(),
            route: self.route.map(|route| Arc::clone(&route.spec)),
            endpoint: self.endpoint.take(),
            duration,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            attempts: self.attempts,
            request_id: self.identity.request_id().into(),
            trace_id,
            blame: self.reason.map(Reason::blame),
            reason: self.reason.map(Reason::as_str),
        });
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.recorded {
            self.reason = Some(Reason::ClientGone);
            self.record(self.worker.clock.now());
        }
    }
}
