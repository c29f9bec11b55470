//! Routes, and what becomes of a request.

use axum::Json;
use axum::extract::{RawQuery, State};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::Console;
use crate::params::Params;
use crate::ports::ExplainRequest;
use crate::problem::Problem;
use crate::wire::{Explanation, ProblemBody, RouteList};

/// Every route in the order of the file.
#[utoipa::path(get, path = "/api/v1/routes", tag = "routing",
    responses((status = 200, body = RouteList)))]
pub(crate) async fn routes(State(console): State<Console>) -> Json<RouteList> {
    Json(console.routing.routes().into())
}

/// What would become of a request: which route takes it and why, what is done to it,
/// which instances it may go to. Nothing is sent.
#[utoipa::path(get, path = "/api/v1/explain", tag = "routing",
    params(
        ("method" = Option<String>, Query, description = "GET by default"),
        ("url" = String, Query, description = "Absolute, or path and query", example = "/users/7"),
        ("header" = Option<Vec<String>>, Query, description = "`Name: value`; may be repeated"),
    ),
    responses(
        (status = 200, body = Explanation),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(crate) async fn explain(
    State(console): State<Console>,
    RawQuery(query): RawQuery,
) -> Result<Json<Explanation>, Problem> {
    let params = Params::read(query.as_deref(), &["method", "url", "header"])?;
    let request = parse(&params)?;
    Ok(Json(console.routing.explain(request)?.into()))
}

fn parse(params: &Params) -> Result<ExplainRequest, Problem> {
    let method = params.get("method").unwrap_or("GET");
    let method = method
        .parse::<Method>()
        .map_err(|_| Problem::invalid("method", format!("`{method}` is not a method")))?;
    let url = params
        .get("url")
        .ok_or_else(|| Problem::invalid("url", "say which: `?url=/users/7`"))?;
    let url = url
        .parse::<Uri>()
        .map_err(|error| Problem::invalid("url", format!("`{url}` is not a URL: {error}")))?;
    let mut headers = HeaderMap::new();
    for line in params.all("header") {
        let refuse = |why: &str| Problem::invalid("header", format!("`{line}`: {why}"));
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| refuse("write it as `Name: value`"))?;
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| refuse("the name may not be used"))?;
        let value =
            HeaderValue::from_str(value.trim()).map_err(|_| refuse("the value may not be used"))?;
        headers.append(name, value);
    }
    Ok(ExplainRequest {
        method,
        url,
        headers,
    })
}
