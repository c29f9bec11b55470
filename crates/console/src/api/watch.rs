//! Changes of the catalogue as server-sent events (WHATWG HTML §9.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Catalog, Instance, Revision};
use atoll_runtime::Stop;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::HeaderMap;

use crate::Console;
use crate::params::Params;
use crate::ports::{CatalogChange, CatalogEvent};
use crate::problem::Problem;
use crate::wire::{CatalogInstance, Changed, ProblemBody, WatchGone, WatchResync};

/// A comment this often shows that the connection lives and keeps proxies from
/// closing it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Follows the catalogue. `resync` (forget what you know) and every `put` and `gone`
/// are followed by `done`, whose id is the revision that is now complete; a client
/// that comes back with it (`since` or `Last-Event-ID`) misses nothing.
#[utoipa::path(get, path = "/api/v1/watch", tag = "services",
    params(
        ("since" = Option<u64>, Query, description = "A revision that is known already; everything is sent first without"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The same, as browsers send it when they come back"),
    ),
    responses(
        (status = 200, body = CatalogInstance, description = "Events `resync`, `put`, `gone`, `done`", content_type = "text/event-stream"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn watch(
    State(console): State<Console>,
    Extension(stop): Extension<Stop>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::read(query.as_deref(), &["since"])?;
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let since = last.or(params.number("since")?).unwrap_or_default();
    let events = console
        .directory
        .watch(Revision(since))
        .take_until(async move { stop.requested().await })
        .flat_map(written)
        .boxed();
    let kept_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(kept_alive).into_response())
}

fn written(event: CatalogEvent) -> BoxStream<'static, Result<Event, Infallible>> {
    match event {
        CatalogEvent::Resync(catalog) => everything(&catalog),
        CatalogEvent::Changes { revision, changes } => stream::iter(changes)
            .map(|change| match change {
                CatalogChange::Put(instance) => put(&instance),
                CatalogChange::Gone(service, id) => event_of("gone").json_data(WatchGone {
                    service: service.to_string(),
                    id: id.to_string(),
                }),
            })
            .chain(done(revision))
            .map(whole)
            .boxed(),
    }
}

fn everything(catalog: &Catalog) -> BoxStream<'static, Result<Event, Infallible>> {
    let instances: Vec<Arc<Instance>> = catalog
        .services
        .values()
        .flat_map(|l| l.iter().cloned())
        .collect();
    let begin = event_of("resync").json_data(WatchResync {
        revision: catalog.revision.0,
        instances: instances.len(),
    });
    stream::iter([begin])
        // Written one by one as the client reads, not all at once.
        .chain(stream::iter(instances).map(|instance| put(&instance)))
        .chain(done(catalog.revision))
        .map(whole)
        .boxed()
}

fn put(instance: &Instance) -> Result<Event, axum::Error> {
    event_of("put").json_data(CatalogInstance::from(instance))
}

fn done(revision: Revision) -> stream::Iter<std::array::IntoIter<Result<Event, axum::Error>, 1>> {
    let id = revision.to_string();
    stream::iter([event_of("done").id(id).json_data(Changed::from(revision))])
}

fn event_of(name: &str) -> Event {
    Event::default().event(name)
}

/// Texts and numbers always serialise; a comment stands in for the impossible.
fn whole(event: Result<Event, axum::Error>) -> Result<Event, Infallible> {
    Ok(event.unwrap_or_else(|_| Event::default().comment("event left out")))
}
