//! What is asked of the proxies, and what must come back.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Routes of [`Workload::R5000`].
pub(crate) const ROUTES: usize = 5_000;

/// Header fields that the client sends beside `Host`: what curl sends.
pub(crate) const CLIENT_FIELDS: [(&str, &str); 2] =
    [("user-agent", "atoll-bench/1"), ("accept", "*/*")];

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// GET with a 200-byte answer, keep-alive
    Get200,
    /// GET with a 16 KiB answer, keep-alive
    Get16k,
    /// POST of 1 KiB, 200-byte answer, keep-alive
    Post1k,
    /// POST of 64 KiB, 200-byte answer, keep-alive
    Post64k,
    /// GET with a 200-byte answer, a new connection for each
    Connect,
    /// GET with a 200-byte answer over HTTP/2 without TLS
    H2c,
    /// GET with a 200-byte answer over 5,000 routes in turn, keep-alive
    R5000,
}

impl Workload {
    pub(crate) const ALL: [Self; 7] = [
        Self::Get200,
        Self::Get16k,
        Self::Post1k,
        Self::Post64k,
        Self::Connect,
        Self::H2c,
        Self::R5000,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get200 => "get200",
            Self::Get16k => "get16k",
            Self::Post1k => "post1k",
            Self::Post64k => "post64k",
            Self::Connect => "connect",
            Self::H2c => "h2c",
            Self::R5000 => "r5000",
        }
    }

    /// The client speaks HTTP/2.
    pub(crate) fn is_h2(self) -> bool {
        self == Self::H2c
    }

    /// How many routes the proxies are given.
    pub(crate) fn routes(self) -> usize {
        if self == Self::R5000 { ROUTES } else { 1 }
    }

    /// Bytes of the request's body; 0 is a GET.
    pub(crate) fn request_bytes(self) -> usize {
        match self {
            Self::Post1k => 1024,
            Self::Post64k => 64 * 1024,
            Self::Get200 | Self::Get16k | Self::Connect | Self::H2c | Self::R5000 => 0,
        }
    }

    /// Bytes of the answer's body.
    pub(crate) fn answer_bytes(self) -> usize {
        match self {
            Self::Get16k => 16 * 1024,
            Self::Get200
            | Self::Post1k
            | Self::Post64k
            | Self::Connect
            | Self::H2c
            | Self::R5000 => 200,
        }
    }

    /// The `turn`th path that is asked for. All paths of one workload are equally
    /// long, so that a client may write one over the other.
    pub(crate) fn path(self, turn: usize) -> String {
        let prefix = match self {
            Self::R5000 => route_prefix(turn % ROUTES),
            _ => String::new(),
        };
        match self.request_bytes() {
            0 => format!("{prefix}/bytes/{}", self.answer_bytes()),
            _ => format!("{prefix}/sink"),
        }
    }
}

/// What the paths of one of the many routes begin with.
pub(crate) fn route_prefix(route: usize) -> String {
    format!("/route-{route:04}")
}

/// A body of this length whose bytes tell their place, so that a lost, doubled or
/// swapped piece is seen.
pub(crate) fn body(bytes: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|line| format!("{line:07}\n").into_bytes())
        .take(bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_length_and_no_two_equal_lines() {
        for bytes in [0, 1, 200, 1024, 16 * 1024, 64 * 1024] {
            let body = body(bytes);
            assert_eq!(body.len(), bytes);
            let mut lines: Vec<_> = body.split(|byte| *byte == b'\n').collect();
            let count = lines.len();
            lines.sort_unstable();
            lines.dedup();
            assert_eq!(lines.len(), count);
        }
    }

    #[test]
    fn the_paths_of_a_workload_are_equally_long() {
        for workload in Workload::ALL {
            let first = workload.path(0).len();
            assert!((1..ROUTES).all(|turn| workload.path(turn).len() == first));
        }
    }
}
