//! HTTP/1.1 without I/O: heads, framing and chunks, as strict as RFC 9112 allows.
//!
//! Strict because a proxy that reads a message differently from its upstream lets
//! one client speak in another's name (request smuggling): whatever is ambiguous
//! is refused, never repaired. `httparse` finds the tokens; `scan` finds the end
//! of a head and refuses bare line ends; `request` and `response` decide what the
//! message means; `body` and `chunked` take bodies apart.

pub(crate) mod body;
pub(crate) mod chunked;
pub(crate) mod field;
mod fuzz;
pub(crate) mod host;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod scan;
#[cfg(test)]
mod tests;

pub use fuzz::fuzz_request_head;

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Until the connection ends; responses only.
    Close,
}

/// The version that a peer speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.0: no chunks, no interim responses.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2, translated to this crate's head.
    Http2,
}

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It breaks the grammar or is ambiguous: 400, or 502 for a response.
    Malformed(&'static str),
    /// The head is too large: 431. Names the largest field.
    HeadTooLarge(String),
    /// The request target is too long: 414.
    TargetTooLong,
    /// CONNECT: 501, since a gateway is no tunnel.
    Connect,
    /// A version that this listener does not speak: 505.
    Version,
}

/// Limits of one head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes from the first line to the empty one.
    pub(crate) bytes_max: usize,
    /// Field lines.
    pub(crate) fields_max: usize,
}
