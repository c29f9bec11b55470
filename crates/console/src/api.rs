//! The endpoints. Each reads its input, asks [`Control`], and says the answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use atoll_model::{Catalog, InstanceId, ServiceName};
use atoll_runtime::Stop;
use axum::body::Body as HttpBody;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{self, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::{Control, Followed};
use crate::problem::{Body, Problem, respond};
use crate::wire;

type Shared = State<Arc<dyn Control>>;

/// Lines of log that are given when nobody says how many.
const TAIL_LINES: usize = 100;
/// Most lines that are given at once; as many as the fleet keeps.
const TAIL_LINES_MAX: usize = 100_000;

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
}

/// What stands outside `/api/v1`, and the document itself.
pub(crate) fn plain() -> Router<Arc<dyn Control>> {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/openapi.json", get(async || Json(crate::openapi())))
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

async fn readyz(State(control): Shared) -> Response {
    match control.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn metrics(State(control): Shared) -> Response {
    // Prometheus' text format, version 0.0.4.
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], control.metrics()).into_response()
}

/// How the whole is.
#[utoipa::path(get, path = "/api/v1/status", tag = "fleet",
    responses((status = 200, body = wire::Status)))]
async fn status(State(control): Shared) -> Json<wire::Status> {
    Json(control.status())
}

/// Reads the config file again.
#[utoipa::path(post, path = "/api/v1/reload", tag = "fleet",
    responses((status = 200, body = wire::Reloaded), (status = 400, body = wire::Problem)))]
async fn reload(State(control): Shared) -> Result<Json<wire::Reloaded>, Problem> {
    Ok(Json(control.reload().await?))
}

/// The configuration in force, with every default, secrets redacted.
#[utoipa::path(get, path = "/api/v1/config", tag = "fleet",
    responses((status = 200, body = serde_json::Value)))]
async fn config(State(control): Shared) -> Json<serde_json::Value> {
    Json(control.config())
}

/// All services and their instances.
#[utoipa::path(get, path = "/api/v1/services", tag = "registry",
    responses((status = 200, body = wire::Services)))]
async fn services(State(control): Shared) -> Json<wire::Services> {
    Json(control.services())
}

/// One service and its instances.
#[utoipa::path(get, path = "/api/v1/services/{service}", tag = "registry",
    params(("service" = String, Path, description = "Its name")),
    responses((status = 200, body = wire::Service), (status = 404, body = wire::Problem)))]
async fn service(
    State(control): Shared,
    Path(name): Path<String>,
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
    responses((status = 200, body = wire::Changed), (status = 400, body = wire::Problem)))]
async fn register(
    State(control): Shared,
    Path((service, id)): Path<(String, String)>,
    Body(instance): Body<wire::Register>,
) -> Result<Json<wire::Changed>, Problem> {
    let (service, id) = names(&service, &id)?;
    let revision = control.register(service, id, instance).await?;
    Ok(Json(wire::Changed { revision }))
}

/// Forgets an instance.
#[utoipa::path(delete, path = "/api/v1/services/{service}/instances/{id}", tag = "registry",
    params(("service" = String, Path, description = "The service"), ("id" = String, Path, description = "The instance")),
    responses((status = 200, body = wire::Changed), (status = 404, body = wire::Problem)))]
async fn deregister(
    State(control): Shared,
    Path((service, id)): Path<(String, String)>,
) -> Result<Json<wire::Changed>, Problem> {
    let (service, id) = names(&service, &id)?;
    let revision = control.deregister(service, id).await?;
    Ok(Json(wire::Changed { revision }))
}

/// Renews an instance's lease. 404 means: register again.
#[utoipa::path(post, path = "/api/v1/services/{service}/instances/{id}/renew", tag = "registry",
    params(("service" = String, Path, description = "The service"), ("id" = String, Path, description = "The instance")),
    responses((status = 204), (status = 404, body = wire::Problem)))]
async fn renew(
    State(control): Shared,
    Path((service, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (service, id) = names(&service, &id)?;
    control.renew(service, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends an instance no new requests.
#[utoipa::path(post, path = "/api/v1/services/{service}/instances/{id}/drain", tag = "registry",
    params(("service" = String, Path, description = "The service"), ("id" = String, Path, description = "The instance")),
    responses((status = 200, body = wire::Changed), (status = 404, body = wire::Problem)))]
async fn drain(
    State(control): Shared,
    Path((service, id)): Path<(String, String)>,
) -> Result<Json<wire::Changed>, Problem> {
    let (service, id) = names(&service, &id)?;
    let revision = control.drain(service, id).await?;
    Ok(Json(wire::Changed { revision }))
}

#[derive(Default)]
struct WatchQuery {
    since: u64,
}

/// Changes of the catalogue as server-sent events. The first holds everything that
/// changed after `since`, or simply everything when that is not known any more.
#[utoipa::path(get, path = "/api/v1/watch", tag = "registry",
    params(("since" = Option<u64>, Query, description = "Revision that the caller has; 0 for none")),
    responses((status = 200, body = wire::WatchEvent, content_type = "text/event-stream")))]
async fn watch_catalog(
    State(control): Shared,
    Extension(stop): Extension<Stop>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query = WatchQuery {
        since: parameter(&uri, "since")?.unwrap_or_default(),
    };
    let events = changes(control.catalog(), query.since, control).map(|event| {
        let json = serde_json::to_string(&event).unwrap_or_default();
        Ok::<_, Infallible>(Bytes::from(format!(
            "id: {}\ndata: {json}\n\n",
            event.revision
        )))
    });
    let kind = HeaderValue::from_static("text/event-stream");
    Ok(([(CONTENT_TYPE, kind)], until(stop, events)).into_response())
}

/// The differences between one catalogue and the next. Bursts merge: a slow reader
/// sees fewer, larger events, never old ones.
fn changes(
    catalogs: watch::Receiver<Arc<Catalog>>,
    since: u64,
    control: Arc<dyn Control>,
) -> impl Stream<Item = wire::WatchEvent> {
    let start = (catalogs, None::<Arc<Catalog>>, control);
    stream::unfold(start, move |(mut catalogs, before, control)| async move {
        loop {
            let now = Arc::clone(&catalogs.borrow_and_update());
            let first = before.is_none();
            let stale = first && now.revision.0 > since;
            let moved = before
                .as_ref()
                .is_some_and(|before| before.revision != now.revision);
            if stale || moved {
                let event = wire::WatchEvent {
                    revision: now.revision.0,
                    services: changed(before.as_deref(), &now, &*control),
                };
                return Some((event, (catalogs, Some(now), control)));
            }
            if first {
                // The caller has this very revision: what comes next is compared to it.
                return wait(catalogs, now, control).await;
            }
            catalogs.changed().await.ok()?;
        }
    })
}

type Watched = (
    watch::Receiver<Arc<Catalog>>,
    Option<Arc<Catalog>>,
    Arc<dyn Control>,
);

async fn wait(
    mut catalogs: watch::Receiver<Arc<Catalog>>,
    before: Arc<Catalog>,
    control: Arc<dyn Control>,
) -> Option<(wire::WatchEvent, Watched)> {
    loop {
        catalogs.changed().await.ok()?;
        let now = Arc::clone(&catalogs.borrow_and_update());
        if now.revision != before.revision {
            let event = wire::WatchEvent {
                revision: now.revision.0,
                services: changed(Some(&before), &now, &*control),
            };
            return Some((event, (catalogs, Some(now), control)));
        }
    }
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
    responses((status = 200, body = wire::Routes)))]
async fn list_routes(State(control): Shared) -> Json<wire::Routes> {
    Json(control.routes())
}

/// Which route takes a request, why, and where it would go. Nothing is sent.
#[utoipa::path(post, path = "/api/v1/explain", tag = "gateway",
    request_body = wire::ExplainRequest,
    responses((status = 200, body = wire::Explanation), (status = 400, body = wire::Problem)))]
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
    responses((status = 200, body = wire::LogLine, content_type = "application/x-ndjson"),
        (status = 404, body = wire::Problem)))]
async fn logs(
    State(control): Shared,
    Extension(stop): Extension<Stop>,
    Path(service): Path<String>,
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
