//! A request's path as segments, percent-decoded for comparison.
//!
//! The upstream is sent the path as it came, so whatever it might read otherwise
//! than the router did could reach a route that the router did not choose. Refused,
//! therefore: segments that an upstream may resolve (`.` and `..`, encoded, before
//! a `;` as Tomcat drops it, or parted by an encoded `/` or by `\`), NUL, and `%`
//! without two hexadecimal digits. `%2F` stays within its segment. `//` is an empty
//! segment, which only `{rest*}` takes.

use std::borrow::Cow;

use crate::config::Segment;

/// Segments of a pattern at most; paths may have more.
pub(crate) const SEGMENTS_MAX: usize = 64;

/// Segments that are kept without allocating.
const INLINE: usize = 16;

/// Why a path was refused; the answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// Not in origin form (RFC 9112 §3.2.1).
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// An upstream might take it for another path.
    #[error("the path has a `.` or `..` segment; send it resolved")]
    DotSegment,
    /// `%` without two hexadecimal digits (RFC 3986 §2.1).
    #[error("the path has a `%` that is not followed by two hexadecimal digits")]
    Encoding,
    /// Many upstreams end a text there.
    #[error("the path has a NUL character")]
    Nul,
}

/// The segments of one path.
#[derive(Debug)]
pub(crate) struct PathSegments<'a> {
    bytes: Cow<'a, [u8]>,
    inline: [(u32, u32); INLINE],
    more: Vec<(u32, u32)>,
    count: usize,
}

impl<'a> PathSegments<'a> {
    /// `/` is no segment, `/users/` is two: `users` and an empty one.
    pub(crate) fn parse(path: &'a str) -> Result<Self, BadPath> {
        let Some(relative) = path.strip_prefix('/') else {
            return Err(BadPath::NotAbsolute);
        };
        let mut segments = Self {
            bytes: Cow::Borrowed(relative.as_bytes()),
            inline: [(0, 0); INLINE],
            more: Vec::new(),
            count: 0,
        };
        if relative.is_empty() {
            return Ok(segments);
        }
        if memchr::memchr3(b'%', b'\\', 0, relative.as_bytes()).is_some() {
            segments.decode(relative.as_bytes())?;
            return Ok(segments);
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'/', relative.as_bytes()).chain([relative.len()]) {
            refuse_dots(&relative.as_bytes()[start..end])?;
            segments.push(start, end);
            start = end + 1;
        }
        Ok(segments)
    }

    /// Number of segments.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Segment `index`, decoded.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        if index >= self.count {
            return None;
        }
        let (start, end) = match self.inline.get(index) {
            Some(&span) => span,
            None => self.more[index - INLINE],
        };
        Some(&self.bytes[start as usize..end as usize])
    }

    fn push(&mut self, start: usize, end: usize) {
        let span = (start as u32, end as u32);
        match self.inline.get_mut(self.count) {
            Some(place) => *place = span,
            None => self.more.push(span),
        }
        self.count += 1;
    }

    fn decode(&mut self, raw: &[u8]) -> Result<(), BadPath> {
        let mut decoded = Vec::with_capacity(raw.len());
        for segment in raw.split(|&byte| byte == b'/') {
            let start = decoded.len();
            decode_into(segment, &mut decoded)?;
            let segment = &decoded[start..];
            if segment.contains(&0) {
                return Err(BadPath::Nul);
            }
            for piece in segment.split(|byte| matches!(byte, b'/' | b'\\')) {
                refuse_dots(piece)?;
            }
            self.push(start, decoded.len());
        }
        self.bytes = Cow::Owned(decoded);
        Ok(())
    }
}

fn refuse_dots(segment: &[u8]) -> Result<(), BadPath> {
    if segment.first() != Some(&b'.') {
        return Ok(());
    }
    match segment {
        [b'.'] | [b'.', b'.'] | [b'.', b';', ..] | [b'.', b'.', b';', ..] => {
            Err(BadPath::DotSegment)
        }
        _ => Ok(()),
    }
}

fn decode_into(raw: &[u8], decoded: &mut Vec<u8>) -> Result<(), BadPath> {
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (digits, after) = after.split_first_chunk().ok_or(BadPath::Encoding)?;
            decoded.push(hex_byte(*digits).ok_or(BadPath::Encoding)?);
            rest = after;
        } else {
            decoded.push(byte);
            rest = after;
        }
    }
    Ok(())
}

/// The byte that two hexadecimal digits name.
pub(crate) fn hex_byte([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Whether a pattern takes a path.
pub(crate) fn fits(pattern: &[Segment], path: &PathSegments<'_>) -> bool {
    let rest = matches!(pattern.last(), Some(Segment::Rest(_)));
    let fixed = pattern.len() - usize::from(rest);
    (path.len() == fixed || rest && path.len() > fixed)
        && pattern[..fixed].iter().enumerate().all(|(at, segment)| {
            path.get(at).is_some_and(|given| match segment {
                Segment::Literal(text) => text.as_bytes() == given,
                Segment::Param(_) => !given.is_empty(),
                Segment::Rest(_) => true,
            })
        })
}
