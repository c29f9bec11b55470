//! Who may ask.
//!
//! With a token, everything but the probes needs it. Without one the admin API only
//! listens on loopback, and the danger is a web page: by DNS rebinding it could read
//! from it, by a cross-site form it could write to it. So the `Host` must be a name of
//! this machine's loopback and a browser's `Origin`, when there is one, the same.

use std::sync::Arc;

use atoll_net::guard::{is_loopback, same_secret};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::{Settings, problem};

/// Paths that anybody may ask: they say a word each, to load balancers and probes.
pub(crate) const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

pub(crate) async fn check(
    State(settings): State<Arc<Settings>>,
    request: Request,
    next: Next,
) -> Response {
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let refusal = match &settings.admin_token {
        Some(token) => token_refused(token, request.headers()),
        None => stranger_refused(request.headers()),
    };
    let Some((status, detail)) = refusal else {
        return next.run(request).await;
    };
    let mut response = problem::respond(status, detail.to_owned());
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110 §15.5.2: it must say how.
        let how = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, how);
    }
    response
}

fn token_refused(token: &str, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    (!same_secret(given.as_bytes(), token.as_bytes())).then_some((
        StatusCode::UNAUTHORIZED,
        "send the admin token as `Authorization: Bearer TOKEN`",
    ))
}

fn stranger_refused(headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let host = headers
        .get(HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if !is_loopback(host) {
        return Some((
            StatusCode::FORBIDDEN,
            "without an admin token only requests to localhost are answered; set `admin_token`",
        ));
    }
    let origin = headers.get(ORIGIN)?.to_str().unwrap_or_default();
    let same_origin = origin
        .split_once("://")
        .is_some_and(|(_, authority)| authority == host);
    (!same_origin).then_some((
        StatusCode::FORBIDDEN,
        "requests from other web pages are refused",
    ))
}
