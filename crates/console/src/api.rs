//! The router and its OpenAPI document, which come from the same declarations.

mod operations;
mod routing;
mod services;
mod watch;

use std::sync::OnceLock;

use axum::Router;
use axum::extract::Request;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Console;
use crate::guard::guard;
use crate::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Atoll admin API",
        description = "Services, instances, routes, logs and the state of Atoll itself.",
        license(name = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "services", description = "Services and their instances"),
        (name = "routing", description = "Routes and what becomes of a request"),
        (name = "operations", description = "Atoll itself"),
    ),
    modifiers(&Token)
)]
struct Document;

struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Needed for changes when an admin token is set."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The router of the whole console. It wants to be served by [`atoll_net::serve`],
/// which puts its stop signal into each request: streams end with it.
pub fn router(console: Console) -> Router {
    let (guarded, _) = guarded().split_for_parts();
    let (open, _) = open().split_for_parts();
    let guarded = guarded
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(console.clone(), guard));
    open.merge(guarded)
        .layer(middleware::map_response(hardened))
        .with_state(console)
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let all = OpenApiRouter::with_openapi(Document::openapi())
        .merge(guarded())
        .merge(open());
    all.split_for_parts().1
}

/// What only may be asked under our own names.
fn guarded() -> OpenApiRouter<Console> {
    OpenApiRouter::new()
        .routes(routes!(operations::status))
        .routes(routes!(services::list))
        .routes(routes!(services::instances))
        .routes(routes!(services::register, services::deregister))
        .routes(routes!(services::renew))
        .routes(routes!(services::drain))
        .routes(routes!(watch::watch))
        .routes(routes!(routing::routes))
        .routes(routes!(routing::explain))
        .routes(routes!(operations::logs))
        .routes(routes!(operations::reload))
        .routes(routes!(operations::config))
        .routes(routes!(document))
        .routes(routes!(operations::metrics))
}

/// What anybody may ask: load balancers and orchestrators use names of their own.
fn open() -> OpenApiRouter<Console> {
    OpenApiRouter::new()
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
async fn document() -> Response {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    // Made of nothing but texts, so it always serialises.
    let text = DOCUMENT.get_or_init(|| openapi().to_pretty_json().unwrap_or_default());
    json(text.as_str())
}

fn json(text: impl IntoResponse) -> Response {
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn not_found(request: Request) -> Problem {
    let path = request.uri().path();
    let detail = format!("there is no `{path}`; see /api/v1/openapi.json");
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let detail = format!("`{path}` does not take {method}; see /api/v1/openapi.json");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// Nothing here may be kept by a cache or taken for another kind of content.
async fn hardened(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    response
}
