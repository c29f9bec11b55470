//! JSON bodies: bounded, with an error that says line, column and field.

use atoll_net::body::{BodyError, read_limited};
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::problem::Problem;
use crate::wire;

/// Bytes of a request body. A registration with all its labels has some 32 KiB.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: wire::Readable, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        // A page of another site can post text without being asked first (CORS
        // preflight), but not JSON.
        let kind = request.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the body as `Content-Type: application/json`",
            ));
        }
        let body = match read_limited(request.into_body(), BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(error @ BodyError::TooLarge { .. }) => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return Err(Problem::new(status, error.to_string()));
            }
            Err(error @ BodyError::Broken(_)) => {
                return Err(Problem::new(StatusCode::BAD_REQUEST, error.to_string()));
            }
        };
        wire::read(&body).map(Self)
    }
}
