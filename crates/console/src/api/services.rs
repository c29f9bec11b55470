//! Services and their instances.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;

use crate::extract::Body;
use crate::problem::Problem;
use crate::wire::{Changed, DrainDraft, InstanceDraft, InstanceList, ProblemBody, ServiceList};
use crate::{Console, params};

/// Every service in a few figures.
#[utoipa::path(get, path = "/api/v1/services", tag = "services",
    responses((status = 200, body = ServiceList)))]
pub(crate) async fn list(State(console): State<Console>) -> Json<ServiceList> {
    Json(console.directory.services().await.into())
}

/// The instances of a service, with their checks and processes.
#[utoipa::path(get, path = "/api/v1/services/{service}", tag = "services",
    params(("service" = String, Path, description = "Its name", example = "users")),
    responses(
        (status = 200, body = InstanceList),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn instances(
    State(console): State<Console>,
    Path(service): Path<String>,
) -> Result<Json<InstanceList>, Problem> {
    let service = params::service(&service)?;
    let views = console.directory.instances(service.clone()).await?;
    Ok(Json(InstanceList::new(&service, views)))
}

/// Registers an instance, or registers it again. Answered once it is durable;
/// saying the same again is a renewal.
#[utoipa::path(put, path = "/api/v1/services/{service}/instances/{id}", tag = "services",
    security((), ("token" = [])),
    params(
        ("service" = String, Path, description = "Its service", example = "users"),
        ("id" = String, Path, description = "Its id within the service", example = "users-a"),
    ),
    request_body = InstanceDraft,
    responses(
        (status = 200, body = Changed),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The id is the fleet's or the config file's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Known, but not durable", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn register(
    State(console): State<Console>,
    Path((service, id)): Path<(String, String)>,
    Body(draft): Body<InstanceDraft>,
) -> Result<Json<Changed>, Problem> {
    let id = params::instance("id", &id)?;
    let instance = draft.parse(params::service(&service)?, id)?;
    Ok(Json(console.directory.register(instance).await?.into()))
}

/// Renews a lease. Not found means: register again.
#[utoipa::path(post, path = "/api/v1/services/{service}/instances/{id}/renew", tag = "services",
    security((), ("token" = [])),
    params(
        ("service" = String, Path, description = "Its service", example = "users"),
        ("id" = String, Path, description = "Its id within the service", example = "users-a"),
    ),
    responses(
        (status = 204, description = "Renewed"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn renew(
    State(console): State<Console>,
    Path((service, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (service, id) = (params::service(&service)?, params::instance("id", &id)?);
    console.directory.renew(service, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets an instance.
#[utoipa::path(delete, path = "/api/v1/services/{service}/instances/{id}", tag = "services",
    security((), ("token" = [])),
    params(
        ("service" = String, Path, description = "Its service", example = "users"),
        ("id" = String, Path, description = "Its id within the service", example = "users-a"),
    ),
    responses(
        (status = 200, body = Changed),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The id is the fleet's or the config file's", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn deregister(
    State(console): State<Console>,
    Path((service, id)): Path<(String, String)>,
) -> Result<Json<Changed>, Problem> {
    let (service, id) = (params::service(&service)?, params::instance("id", &id)?);
    Ok(Json(
        console.directory.deregister(service, id).await?.into(),
    ))
}

/// Lets an instance finish what it has and gives it nothing new, or takes that back.
#[utoipa::path(post, path = "/api/v1/services/{service}/instances/{id}/drain", tag = "services",
    security((), ("token" = [])),
    params(
        ("service" = String, Path, description = "Its service", example = "users"),
        ("id" = String, Path, description = "Its id within the service", example = "users-a"),
    ),
    request_body = DrainDraft,
    responses(
        (status = 200, body = Changed),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn drain(
    State(console): State<Console>,
    Path((service, id)): Path<(String, String)>,
    Body(draft): Body<DrainDraft>,
) -> Result<Json<Changed>, Problem> {
    let (service, id) = (params::service(&service)?, params::instance("id", &id)?);
    let revision = console.directory.drain(service, id, draft.draining).await?;
    Ok(Json(revision.into()))
}
