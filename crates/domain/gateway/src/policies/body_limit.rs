//! Request bodies larger than the route allows are refused: by their announced
//! length before anything is sent, else as soon as too much has come.

use crate::answer::{Failure, Reason};
use crate::config::Route;
use crate::h1::Framing;
use crate::h1::body::Body;
use crate::h1::request::RequestHead;

/// Judges what the head announces.
pub(crate) fn admit(route: &Route, head: &RequestHead) -> Result<(), Failure> {
    match (head.framing, route.body_bytes_max) {
        (Framing::Length(length), Some(max)) if length > max => Err(too_large(max)),
        _ => Ok(()),
    }
}

/// Judges what has come so far.
pub(crate) fn check(route: &Route, body: &Body) -> Result<(), Failure> {
    match route.body_bytes_max {
        Some(max) if body.content_bytes() > max => Err(too_large(max)),
        _ => Ok(()),
    }
}

fn too_large(max: u64) -> Failure {
    Failure::new(
        Reason::BodyTooLarge,
        format!("this route takes bodies of at most {max} bytes"),
    )
}
