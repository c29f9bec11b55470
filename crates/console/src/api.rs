//! The endpoints. Each reads its input, asks [`Control`], and says the answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Catalog, InstanceId, ServiceName};
use atoll_runtime::Stop;
use axum::body::Body as HttpBody;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{self, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::{Control, Followed};
use crate::events::Events;
use crate::problem::{Body, Place, Problem, respond};
use crate::refusal::{BadBody, Broken, Full, Guarded, Missing, Owned, Unchanged, Unreadable};
use crate::wire;

type Shared = State<Arc<dyn Control>>;

/// Lines of log that are given when nobody says how many.
const TAIL_LINES: usize = 100;
/// Most lines that are given at once: more than the fleet keeps of a usual service.
const TAIL_LINES_MAX: usize = 100_000;
/// Longest silence of a watch.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What a browser has seen before it connects again.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(crate) fn endpoints() -> OpenApiRouter<Arc<dyn Control>> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(reload))
        .routes(routes!(config))
        .routes(routes!(services))
        .routes(routes!(service))
        .routes(routes!(register, deregister))
        .routes(routes!(renew))
        .routes(routes!(drain))
        .routes(routes!(watch_catalog))
        .routes(routes!(list_routes))
        .routes(routes!(explain))
        .routes(routes!(logs))
        .routes(routes!(document))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "probes",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), Guarded))]
async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(crate::openapi())
}

/// Whether Atoll is alive.
#[utoipa::path(get, path = "/healthz", tag = "probes", security(()),
    responses((status = 200, description = "It is", body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok\n"
}

pub(crate) async fn nothing_here(uri: Uri) -> Problem {
    Problem::not_found(format!(
        "nothing is at {}; /api/v1/openapi.json names what is",
        uri.path()
    ))
}

pub(crate) async fn wrong_method(method: Method, uri: Uri) -> Response {
    let detail = format!(
        "{method} is not for {}; see /api/v1/openapi.json",
        uri.path()
    );
    respond(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// Whether requests should be sent here.
#[utoipa::path(get, path = "/readyz", tag = "probes", security(()),
    responses((status = 200, description = "They should", body = String, content_type = "text/plain"),
        (status = 503, description = "Not now, and why", body = String, content_type = "text/plain")))]
async fn readyz(State(control): Shared) -> Response {
    match control.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "probes",
    responses((status = 200, description = "Version 0.0.4 of it", body = String, content_type = "text/plain"),
        Guarded))]
async fn metrics(State(control): Shared) -> Response {
    // Prometheus' text format, version 0.0.4.
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], control.metrics()).into_response()
}

/// How the whole is.
#[utoipa::path(get, path = "/api/v1/status", tag = "fleet",
    responses((status = 200, description = "How it is", body = wire::Status), Guarded))]
async fn status(State(control): Shared) -> Json<wire::Status> {
    Json(control.status())
}

/// Reads the config file again.
#[utoipa::path(post, path = "/api/v1/reload", tag = "fleet",
    responses((status = 200, description = "It took effect", body = wire::Reloaded),
        (status = 400, description = "The file cannot be used; what runs goes on", body = wire::Problem,
            content_type = "application/problem+json"),
        Guarded, Unchanged, Broken))]
async fn reload(State(control): Shared) -> Result<Json<wire::Reloaded>, Problem> {
    Ok(Json(control.reload().await?))
}

/// The configuration in force, with every default, secrets redacted.
#[utoipa::path(get, path = "/api/v1/config", tag = "fleet",
    responses((status = 200, description = "As `atoll config` prints it", body = serde_json::Value), Guarded))]
async fn config(State(control): Shared) -> Json<serde_json::Value> {
    Json(control.config())
}

/// All services and their instances.
#[utoipa::path(get, path = "/api/v1/services", tag = "registry",
    responses((status = 200, description = "By name", body = wire::Services), Guarded))]
async fn services(State(control): Shared) -> Json<wire::Services> {
    Json(control.services())
}

/// One service and its instances.
#[utoipa::path(get, path = "/api/v1/services/{service}", tag = "registry",
    params(("service" = String, Path, description = "Its name")),
    responses((status = 200, description = "As it is now", body = wire::Service), Unreadable, Missing, Guarded))]
async fn service(
    State(control): Shared,
    Place(name): Place<String>,
) -> Result<Json<wire::Service>, Problem> {
    let found = control.service(&service_name(&name)?);
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("no service is named `{name}`")))
}

/// Registers an instance, or registers it again.
#[utoipa::path(put, path = "/api/v1/services/{service}/instances/{id}", tag = "registry",
    params(("service" = String, Path, description = "The service"), ("id" = String, Path, description = "The instance")),
    request_body = wire::Register,
    responses((status = 200, description = "Done; in the catalogue from this revision on", body = wire::Changed), BadBody, Owned, Full, Unchanged, Broken, Guarded))]
async fn register(
    State(control): Shared,
    Place((service, id)): Place<(String, String)>,
    Body(instance): Body<wire::Register>,
) -> Result<Json<wire::Changed>, Problem> {
    let (service, id) = names(&service, &id)?;
    let revision = control.register(service, id, instance).await?;
    Ok(Json(wire::Changed { revision }))
}

/// Forgets an instance.
#[utoipa::path(delete, path = "/api/v1/services/{service}/instances/{id}", tag = "registry",
    params(("service" = String, Path, description = "The service"), ("id" = String, Path, description = "The instance")),
    responses((status = 200, description = "Done; in the catalogue from this revision on", body = wire::Changed), Unreadable, Missing, Owned, Unchanged, Broken, Guarded))]
async fn deregister(
    State(control): Shared,
    Place((service, id)): Place<(String, String)>,
) -> Result<Json<wire::Changed>, Problem> {
    let (service, id) = names(&service, &id)?;
    let revision = control.deregister(service, id).await?;
    Ok(Json(wire::Changed { revision }))
}

/// Renews an instance's lease. 404 means: register again.
#[utoipa::path(post, path = "/api/v1/services/{service}/instances/{id}/renew", tag = "registry",
    params(("service" = String, Path, description = "The service"), ("id" = String, Path, description = "The instance")),
    responses((status = 204, description = "It is renewed"), Unreadable, Missing, Unchanged, Broken, Guarded))]
async fn renew(
    State(control): Shared,
    Place((service, id)): Place<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (service, id) = names(&service, &id)?;
    control.renew(service, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends an instance no new requests.
#[utoipa::path(post, path = "/api/v1/services/{service}/instances/{id}/drain", tag = "registry",
    params(("service" = String, Path, description = "The service"), ("id" = String, Path, description = "The instance")),
    responses((status = 200, description = "Done; in the catalogue from this revision on", body = wire::Changed), Unreadable, Missing, Unchanged, Broken, Guarded))]
async fn drain(
    State(control): Shared,
    Place((service, id)): Place<(String, String)>,
) -> Result<Json<wire::Changed>, Problem> {
    let (service, id) = names(&service, &id)?;
    let revision = control.drain(service, id).await?;
    Ok(Json(wire::Changed { revision }))
}

/// Changes of the catalogue as server-sent events. Who says the revision that it has
/// gets what comes after it; else, or when that is not the present one, the first
/// event holds everything (`resync`). A browser's `Last-Event-ID` counts as `since`.
#[utoipa::path(get, path = "/api/v1/watch", tag = "registry",
    params(
        ("since" = Option<u64>, Query, description = "Revision that the caller has; 0 for none"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The same, as a browser says it when it connects again")),
    responses((status = 200, description = "Events, each with one object as its data", body = wire::WatchEvent, content_type = "text/event-stream"),
        Unreadable, Guarded))]
async fn watch_catalog(
    State(control): Shared,
    Extension(stop): Extension<Stop>,
    Extension(shared): Extension<Arc<Events>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let since = match last.and_then(|id| id.parse().ok()) {
        Some(last) => last,
        None => parameter(&uri, "since")?.unwrap_or_default(),
    };
    let events = changes(control.catalog(), since, control, shared);
    let events = with_heartbeat(events).map(Ok::<_, Infallible>);
    let kind = HeaderValue::from_static("text/event-stream");
    let fresh = HeaderValue::from_static("no-cache");
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, fresh)];
    Ok((headers, until(stop, events)).into_response())
}

/// The differences between one catalogue and the next. Bursts merge: a slow reader
/// sees fewer, larger events, never old ones.
fn changes(
    mut catalogs: watch::Receiver<Arc<Catalog>>,
    since: u64,
    control: Arc<dyn Control>,
    shared: Arc<Events>,
) -> impl Stream<Item = Bytes> {
    let now = Arc::clone(&catalogs.borrow_and_update());
    // What the caller had at another revision is not known, be it past or of another
    // life of Atoll.
    let told = (since != 0 && since == now.revision.0).then_some(now);
    let start = (catalogs, told, control, shared);
    stream::unfold(
        start,
        move |(mut catalogs, told, control, shared)| async move {
            let now = loop {
                let now = Arc::clone(&catalogs.borrow_and_update());
                let is_news = |told: &Arc<Catalog>| told.revision != now.revision;
                if told.as_ref().is_none_or(is_news) {
                    break now;
                }
                catalogs.changed().await.ok()?;
            };
            let step = (told.as_ref().map(|told| told.revision.0), now.revision.0);
            let event = shared.of(step, || written(told.as_deref(), &now, &*control));
            Some((event, (catalogs, Some(now), control, shared)))
        },
    )
}

/// One event, as it goes over the wire.
fn written(told: Option<&Catalog>, now: &Catalog, control: &dyn Control) -> Bytes {
    let event = wire::WatchEvent {
        revision: now.revision.0,
        resync: told.is_none(),
        services: changed(told, now, control),
    };
    let json = serde_json::to_string(&event).unwrap_or_default();
    Bytes::from(format!("id: {}\ndata: {json}\n\n", event.revision))
}

/// Says something now and then, so that a peer that is gone is noticed and nobody
/// between takes the silence for an end. A line with a colon is a comment (HTML
/// Living Standard §9.2.6).
fn with_heartbeat(events: impl Stream<Item = Bytes>) -> impl Stream<Item = Bytes> {
    stream::unfold(Box::pin(events), |mut events| async move {
        let next = match tokio::time::timeout(HEARTBEAT, events.next()).await {
            Ok(next) => next?,
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((next, events))
    })
}

fn changed(before: Option<&Catalog>, now: &Catalog, control: &dyn Control) -> Vec<wire::Service> {
    let empty = Catalog::default();
    let before = before.unwrap_or(&empty);
    let names: BTreeSet<&ServiceName> = before.services.keys().chain(now.services.keys()).collect();
    let same = |name: &ServiceName| match (before.services.get(name), now.services.get(name)) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let gone = |name: &ServiceName| wire::Service {
        name: name.to_string(),
        ..wire::Service::default()
    };
    names
        .into_iter()
        .filter(|name| !same(name))
        .map(|name| control.service(name).unwrap_or_else(|| gone(name)))
        .collect()
}

/// All routes, in the order of the file.
#[utoipa::path(get, path = "/api/v1/routes", tag = "gateway",
    responses((status = 200, description = "In the order of the file", body = wire::Routes), Guarded))]
async fn list_routes(State(control): Shared) -> Json<wire::Routes> {
    Json(control.routes())
}

/// Which route takes a request, why, and where it would go. Nothing is sent.
#[utoipa::path(post, path = "/api/v1/explain", tag = "gateway",
    request_body = wire::ExplainRequest,
    responses((status = 200, description = "The verdict and what led to it", body = wire::Explanation), BadBody, Broken, Guarded))]
async fn explain(
    State(control): Shared,
    Body(request): Body<wire::ExplainRequest>,
) -> Result<Json<wire::Explanation>, Problem> {
    Ok(Json(control.explain(&request)?))
}

/// What a service wrote to its output, one JSON object a line.
#[utoipa::path(get, path = "/api/v1/logs/{service}", tag = "fleet",
    params(
        ("service" = String, Path, description = "The service"),
        ("replica" = Option<String>, Query, description = "Only this replica: `users-1`"),
        ("tail" = Option<usize>, Query, description = "Lines from the end of what is kept; 100 when not given"),
        ("follow" = Option<bool>, Query, description = "Whether to go on as more is written")),
    responses((status = 200, description = "One object a line", body = wire::LogLine, content_type = "application/x-ndjson"),
        Unreadable, Missing, Broken, Guarded))]
async fn logs(
    State(control): Shared,
    Extension(stop): Extension<Stop>,
    Place(service): Place<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let replica: Option<String> = parameter(&uri, "replica")?;
    let tail = parameter(&uri, "tail")?
        .unwrap_or(TAIL_LINES)
        .min(TAIL_LINES_MAX);
    let follow = parameter(&uri, "follow")?.unwrap_or(false);
    let service = service_name(&service)?;
    let Followed { kept, next } = control.logs(&service, replica.as_deref(), tail, follow)?;
    let next = stream::unfold(next, |next| async {
        let mut next = next?;
        let line = next.recv().await?;
        Some((line, Some(next)))
    });
    let lines = stream::iter(kept).chain(next).map(|line| {
        let json = serde_json::to_string(&line).unwrap_or_default();
        Ok::<_, Infallible>(Bytes::from(json + "\n"))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(CONTENT_TYPE, kind)], until(stop, lines)).into_response())
}

/// A body that also ends when Atoll does: a follower must not hold up its end.
fn until(
    stop: Stop,
    stream: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> HttpBody {
    let ended = Box::pin(async move { stop.requested().await });
    HttpBody::from_stream(stream.take_until(ended))
}

fn names(service: &str, id: &str) -> Result<(ServiceName, InstanceId), Problem> {
    let id = id
        .parse()
        .map_err(|error| Problem::invalid(format!("`{id}`: {error}")))?;
    Ok((service_name(service)?, id))
}

fn service_name(raw: &str) -> Result<ServiceName, Problem> {
    raw.parse()
        .map_err(|error| Problem::invalid(format!("`{raw}`: {error}")))
}

/// One query parameter. An unreadable one is an error that names it; axum's own
/// message would not.
fn parameter<T: DeserializeOwned>(uri: &Uri, name: &str) -> Result<Option<T>, Problem> {
    let Query(mut all) = Query::<std::collections::BTreeMap<String, String>>::try_from_uri(uri)
        .map_err(|error| Problem::invalid(error.body_text()))?;
    let Some(raw) = all.remove(name) else {
        return Ok(None);
    };
    let as_json = serde_json::from_str(&raw);
    let value = as_json.or_else(|_| serde_json::from_value(serde_json::Value::String(raw.clone())));
    value
        .map(Some)
        .map_err(|error| Problem::invalid(format!("`{name}={raw}`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_watch_says_something_now_and_then() {
        let (send, events) = tokio::sync::mpsc::channel(1);
        let events = stream::unfold(events, |mut events| async move {
            Some((events.recv().await?, events))
        });
        let mut heard = Box::pin(with_heartbeat(events));
        assert_eq!(heard.next().await.unwrap(), ":\n\n");
        assert_eq!(heard.next().await.unwrap(), ":\n\n");
        send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
        assert_eq!(heard.next().await.unwrap(), "data: 1\n\n");
        drop(send);
        assert_eq!(heard.next().await, None);
    }
}
