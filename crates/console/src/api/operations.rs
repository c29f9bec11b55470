//! Atoll itself: status, readiness, metrics, logs, config.

use std::convert::Infallible;

use atoll_runtime::Stop;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use crate::Console;
use crate::params::{self, Params};
use crate::ports::{LogEvent, LogQuery};
use crate::problem::Problem;
use crate::wire::{LogLine, ProblemBody, Reload, Status};

/// Lines when nobody says how many.
const TAIL_DEFAULT: u64 = 100;
/// Lines that may be asked for at once: what a replica's log file can hold of
/// short ones.
const TAIL_MAX: u64 = 1_000_000;

/// How Atoll goes: version, config, listeners, services.
#[utoipa::path(get, path = "/api/v1/status", tag = "operations",
    responses((status = 200, body = Status)))]
pub(crate) async fn status(
    State(console): State<Console>,
    Extension(stop): Extension<Stop>,
) -> Json<Status> {
    let status = console.operations.status().await;
    let services = console.directory.services().await;
    Json(Status::new(status, ready(&console, &stop), services))
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "It does")))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether it should get traffic.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "Ready"),
        (status = 503, description = "Starting or draining; the body says which"),
    ))]
pub(crate) async fn readyz(
    State(console): State<Console>,
    Extension(stop): Extension<Stop>,
) -> Response {
    match ready(&console, &stop) {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

fn ready(console: &Console, stop: &Stop) -> Result<(), String> {
    if stop.is_requested() {
        return Err("stopping".to_owned());
    }
    console.operations.ready()
}

/// All metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "Text format 0.0.4", content_type = "text/plain")))]
pub(crate) async fn metrics(State(console): State<Console>) -> Response {
    let mut text = String::new();
    console.operations.metrics(&mut text);
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, text).into_response()
}

/// What the replicas of a service wrote, as NDJSON, or as text when that is asked
/// for (`Accept: text/plain`).
#[utoipa::path(get, path = "/api/v1/logs/{service}", tag = "operations",
    params(
        ("service" = String, Path, description = "Its name", example = "users"),
        ("follow" = Option<bool>, Query, description = "Go on with the lines to come"),
        ("tail" = Option<u64>, Query, description = "So many of the last lines; 100 by default"),
        ("replica" = Option<String>, Query, description = "Of this replica only"),
    ),
    responses(
        (status = 200, body = LogLine, description = "One object a line", content_type = "application/x-ndjson"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn logs(
    State(console): State<Console>,
    Extension(stop): Extension<Stop>,
    Path(service): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::read(query.as_deref(), &["follow", "tail", "replica"])?;
    let tail = params.number("tail")?.unwrap_or(TAIL_DEFAULT);
    let replica = params.get("replica");
    let query = LogQuery {
        service: params::service(&service)?,
        replica: replica
            .map(|id| params::instance("replica", id))
            .transpose()?,
        tail: usize::try_from(tail.min(TAIL_MAX)).unwrap_or(usize::MAX),
        follow: params.flag("follow")?,
    };
    let events = console.operations.logs(query).await?;
    let wants_text = headers
        .get(ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"text/plain"));
    let (kind, write): (_, fn(LogEvent) -> Vec<u8>) = if wants_text {
        ("text/plain; charset=utf-8", plain)
    } else {
        ("application/x-ndjson", |event| LogLine::from(event).json())
    };
    let lines = events
        .take_until(async move { stop.requested().await })
        .map(move |event| Ok::<_, Infallible>(Bytes::from(write(event))));
    Ok(([(CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response())
}

fn plain(event: LogEvent) -> Vec<u8> {
    match event {
        LogEvent::Line { replica, text, .. } => format!("{replica} | {text}\n").into_bytes(),
        LogEvent::Missed(lines) => format!("... {lines} lines left out\n").into_bytes(),
    }
}

/// Reads the config file again. A file that is refused changes nothing; the answer
/// says whether it was taken over and why not.
#[utoipa::path(post, path = "/api/v1/reload", tag = "operations",
    security((), ("token" = [])),
    responses(
        (status = 200, body = Reload),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn reload(State(console): State<Console>) -> Result<Json<Reload>, Problem> {
    Ok(Json(console.operations.reload().await?.into()))
}

/// The config in force, expanded, with secrets left out.
#[utoipa::path(get, path = "/api/v1/config", tag = "operations",
    responses((status = 200, description = "The config", content_type = "application/json")))]
pub(crate) async fn config(State(console): State<Console>) -> Result<Response, Problem> {
    Ok(super::json(console.operations.config().await?))
}
