//! Errors as RFC 9457 problems, by one table from fault to status.

use std::time::Duration;

use atoll_model::{Fault, FaultKind};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::de::DeserializeOwned;

use crate::wire;

/// RFC 9457 §3.
pub(crate) const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";

/// From the end of a request's head to the end of its body. A body is a few hundred
/// bytes; whoever takes longer holds a connection, of which there are few.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

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
    let kind = HeaderValue::from_static(CONTENT_TYPE_PROBLEM);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// `Json`, but what is wrong with it is a problem that names the place.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let read = Json::<T>::from_request(request, state);
        let Ok(read) = tokio::time::timeout(BODY_PATIENCE, read).await else {
            let detail = format!("the body did not come within {} s", BODY_PATIENCE.as_secs());
            return Err(respond(StatusCode::REQUEST_TIMEOUT, detail));
        };
        match read {
            Ok(Json(value)) => Ok(Self(value)),
            // serde_json's own text ends in "at line 1 column 7".
            Err(
                rejection @ (JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_)),
            ) => Err(respond(StatusCode::BAD_REQUEST, rejection.body_text())),
            Err(rejection) => Err(respond(rejection.status(), rejection.body_text())),
        }
    }
}

/// `Path`, but what is wrong with it is a problem.
pub(crate) struct Place<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Place<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(respond(rejection.status(), rejection.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as HttpBody;
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = stream::pending::<Result<Vec<u8>, std::convert::Infallible>>();
        let request = http::Request::post("/")
            .header(CONTENT_TYPE, "application/json")
            .body(HttpBody::from_stream(never))
            .unwrap();
        let read = Body::<wire::ExplainRequest>::from_request(request, &()).await;
        let refused = read.err().unwrap();
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(refused.headers()[CONTENT_TYPE], CONTENT_TYPE_PROBLEM);
    }
}
