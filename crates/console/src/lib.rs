//! The admin API: JSON under `/api/v1`, described by an OpenAPI 3.1 document that is
//! made from the same code, with `/healthz`, `/readyz` and `/metrics` beside it.
//!
//! It owns no state and knows no domain. Everything it shows or does goes through
//! [`Control`], which the binary implements over the registry, the gateway and the
//! fleet. Look next at `api.rs` (the endpoints) and `guard.rs` (who may ask).

mod api;
mod control;
mod events;
mod guard;
mod problem;
mod refusal;
pub mod wire;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use atoll_net::serve::{Limits, serve};
use atoll_runtime::Tasks;
use axum::Router;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

pub use control::{Control, Followed, Pending};

/// Longest request body. A registration is a few hundred bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Who may ask, and where it listens.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Needed for everything but `/healthz` and `/readyz`, when set.
    pub admin_token: Option<String>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Atoll admin API",
        description = "Registers, finds, explains and changes what one Atoll runs. Errors are RFC 9457 problems.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    components(schemas(wire::Problem)),
    // Either: with a token set it is needed, without one there is none.
    security((), ("admin_token" = [])),
    modifiers(&Token),
    tags(
        (name = "fleet", description = "What runs"),
        (name = "registry", description = "Instances: register, renew, find, watch"),
        (name = "gateway", description = "Routes and why a request goes where it goes"),
        (name = "probes", description = "For load balancers, Prometheus and those who read this")
    )
)]
struct Document;

/// Says how the token is sent.
struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("admin_token", bearer);
    }
}

/// Serves the admin API on `listener` until `tasks` stop; gives its address.
///
/// # Errors
/// When the listener cannot be handed to the runtime.
pub fn start(
    tasks: &Tasks,
    listener: TcpListener,
    settings: Settings,
    control: Arc<dyn Control>,
) -> std::io::Result<SocketAddr> {
    let service = router(settings, control);
    serve(tasks, "console", listener, Limits::default(), service)
}

/// The OpenAPI document, as served at `/api/v1/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) = endpoints().split_for_parts();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document
}

fn endpoints() -> OpenApiRouter<Arc<dyn Control>> {
    OpenApiRouter::with_openapi(Document::openapi()).merge(api::endpoints())
}

fn router(settings: Settings, control: Arc<dyn Control>) -> Router {
    let (router, _) = endpoints().split_for_parts();
    router
        .fallback(api::nothing_here)
        .method_not_allowed_fallback(api::wrong_method)
        .with_state(control)
        .layer(axum::Extension(Arc::new(events::Events::default())))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(
            Arc::new(settings),
            guard::check,
        ))
}

#[cfg(test)]
mod tests;
