//! What the endpoints may answer instead, for the OpenAPI document: every refusal
//! that an endpoint lists here is one that its tests may meet, and no other.
//!
//! The types have no values; the answers themselves are made in `problem.rs` and
//! `guard.rs`.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};

use crate::problem::CONTENT_TYPE_PROBLEM;

/// By the guard, before any endpoint is reached.
pub(crate) enum Guarded {}

/// A name in the path or a parameter that cannot be read.
pub(crate) enum Unreadable {}

/// What was named is not there.
pub(crate) enum Missing {}

/// A body that cannot be read.
pub(crate) enum BadBody {}

/// A change of the registry that it does not take, or not now.
pub(crate) enum Unchanged {}

/// An instance that belongs to Atoll itself.
pub(crate) enum Owned {}

/// A registration beyond what the registry holds.
pub(crate) enum Full {}

/// A defect of Atoll's own.
pub(crate) enum Broken {}

macro_rules! refusals {
    ($($name:ident: $($status:literal $description:literal),+;)+) => {
        $(impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$(problem($status, $description)),+].into()
            }
        })+
    };
}

refusals! {
    Guarded:
        "401" "An admin token is set and was not sent",
        "403" "None is set, and the request is not from this machine's loopback";
    Unreadable: "400" "A name or a parameter cannot be read; `detail` says which";
    Missing: "404" "What was named is not there";
    BadBody:
        "400" "A name, a parameter or the body cannot be used; `detail` says where",
        "408" "The body did not come in time",
        "413" "The body is too large",
        "415" "The body is not said to be `application/json`";
    Unchanged: "503" "It is not durable, or Atoll is stopping: ask again later";
    Owned: "409" "The instance belongs to Atoll's fleet or to the config file";
    Full: "429" "The registry is full";
    Broken: "500" "A defect of Atoll";
}

fn problem(status: &str, description: &str) -> (String, RefOr<Response>) {
    let schema = Ref::from_schema_name("Problem");
    let response = ResponseBuilder::new()
        .description(description)
        .content(CONTENT_TYPE_PROBLEM, Content::new(Some(schema)));
    (status.to_owned(), response.build().into())
}
