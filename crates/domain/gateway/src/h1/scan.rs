//! Finds the end of a head as its bytes arrive, each byte looked at once, and
//! refuses at once what no further byte could mend.

use memchr::memchr_iter;

use super::{HeadLimits, Refusal};

/// Empty lines before a request that are skipped (RFC 9112 §2.2 asks for one).
const EMPTY_LINES_MAX: usize = 2;

/// Progress through the bytes of one head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    /// Bytes looked at.
    seen: usize,
    /// Where the head begins, after empty lines.
    start: usize,
    /// Where the line begins that `seen` is in.
    line: usize,
    /// The first line is whole, and ends before this.
    first_line_end: usize,
}

/// Where the head lies: from `start` to `end`, its last empty line included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Which kind of head is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
}

impl Scan {
    /// Goes on over `bytes`, which begin as at the last call. `None`: more is needed.
    pub(crate) fn advance(
        &mut self,
        kind: Kind,
        bytes: &[u8],
        limits: HeadLimits,
    ) -> Result<Option<Found>, Refusal> {
        let base = self.seen;
        let fresh = bytes.get(base..).unwrap_or_default();
        for at in memchr_iter(b'\n', fresh) {
            let at = base + at;
            if at == 0 || bytes[at - 1] != b'\r' || at == self.line {
                return Err(Refusal::Malformed("a line does not end in CR LF"));
            }
            let empty = at - 1 == self.line;
            let begun = self.first_line_end != 0;
            self.line = at + 1;
            match (empty, begun) {
                (true, false) => {
                    self.start = at + 1;
                    if kind == Kind::Response || self.start > EMPTY_LINES_MAX * 2 {
                        return Err(Refusal::Malformed("an empty line before the message"));
                    }
                }
                (false, false) => {
                    self.first_line_end = at + 1;
                    check_first_line(kind, &bytes[self.start..=at], limits)?;
                }
                (false, true) => {}
                (true, true) => {
                    let found = Found {
                        start: self.start,
                        end: at + 1,
                    };
                    if found.end - found.start > limits.bytes_max {
                        return Err(self.too_large(kind, bytes));
                    }
                    return Ok(Some(found));
                }
            }
        }
        self.seen = bytes.len();
        if bytes.len() - self.start > limits.bytes_max {
            return Err(self.too_large(kind, bytes));
        }
        Ok(None)
    }

    fn too_large(&self, kind: Kind, bytes: &[u8]) -> Refusal {
        if self.first_line_end == 0 && kind == Kind::Request {
            return Refusal::TargetTooLong;
        }
        Refusal::HeadTooLarge(largest_field(&bytes[self.first_line_end..]))
    }
}

/// The longest request target of a listener with these limits: half a head, so
/// that there is room for the fields.
pub(crate) fn target_bytes_max(limits: HeadLimits) -> usize {
    limits.bytes_max / 2
}

/// A first line that can never become a request is refused before the rest
/// comes: an HTTP/0.9 client sends nothing else, and would wait for ever.
fn check_first_line(kind: Kind, line: &[u8], limits: HeadLimits) -> Result<(), Refusal> {
    if kind == Kind::Response {
        return Ok(());
    }
    let line = &line[..line.len() - 2];
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(_), Some(target), Some(version), None) => {
            if target.len() > target_bytes_max(limits) {
                Err(Refusal::TargetTooLong)
            } else if matches!(version, b"HTTP/1.1" | b"HTTP/1.0") {
                Ok(())
            } else if version.len() == 8 && version.starts_with(b"HTTP/") {
                Err(Refusal::Version)
            } else {
                Err(Refusal::Malformed("the request line has no HTTP version"))
            }
        }
        _ => Err(Refusal::Malformed(
            "the request line is not method, target and version",
        )),
    }
}

/// Name and size of the largest field among whole or cut-off lines.
pub(crate) fn largest_field(lines: &[u8]) -> String {
    let largest = lines
        .split(|byte| *byte == b'\n')
        .max_by_key(|line| line.len())
        .unwrap_or_default();
    let name_end = largest
        .iter()
        .position(|byte| !super::field::is_token_byte(*byte))
        .unwrap_or(largest.len())
        .min(64);
    let name = String::from_utf8_lossy(&largest[..name_end]);
    format!("`{name}` with {} bytes", largest.len())
}
