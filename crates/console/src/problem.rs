//! Errors as RFC 9457 problems, by one table from fault to status.

use atoll_model::{Fault, FaultKind};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::de::DeserializeOwned;

use crate::wire;

/// A fault on its way to the client.
pub(crate) struct Problem(pub(crate) Fault);

impl Problem {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self(Fault::new(FaultKind::Invalid, message))
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self(Fault::new(FaultKind::NotFound, message))
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

/// The one table.
fn status(kind: FaultKind) -> StatusCode {
    match kind {
        FaultKind::Invalid => StatusCode::BAD_REQUEST,
        FaultKind::NotFound => StatusCode::NOT_FOUND,
        FaultKind::Conflict => StatusCode::CONFLICT,
        FaultKind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        FaultKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        FaultKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        respond(status(self.0.kind), self.0.message)
    }
}

/// A problem with a status that no fault has (401, 403, 405, 413).
pub(crate) fn respond(status: StatusCode, detail: String) -> Response {
    let body = wire::Problem {
        r#type: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail,
    };
    let mut response = (status, Json(body)).into_response();
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// `Json`, but what is wrong with it is a problem that names the place.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            // serde_json's own text ends in "at line 1 column 7".
            Err(
                rejection @ (JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_)),
            ) => Err(respond(StatusCode::BAD_REQUEST, rejection.body_text())),
            Err(rejection) => Err(respond(rejection.status(), rejection.body_text())),
        }
    }
}
