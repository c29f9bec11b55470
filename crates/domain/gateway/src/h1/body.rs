//! A body as it arrives: the buffer that holds what was read, and the framing
//! that says which of it is content. No I/O; `stream.rs` fills it.
//!
//! ```text
//! buffer: | dropped | content, sent | content, to send | raw, not yet decoded | room |
//!          ^start    ^kept           ^cursor            ^content_end  ^raw    ^filled
//! ```
//! Content that was sent stays in place as long as it is short, so that a request
//! can be sent again to another instance without a copy.

use super::Framing;
use super::chunked::Chunked;
use crate::buffer::Buffer;

/// Content kept for a repetition; more, and the request is sent only once.
pub(crate) const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// One body, being read.
#[derive(Debug, Default)]
pub(crate) struct Body {
    decoder: Decoder,
    buffer: Option<Buffer>,
    kept: usize,
    cursor: usize,
    content_end: usize,
    raw: usize,
    filled: usize,
    /// All content since the beginning is still in the buffer.
    whole: bool,
    /// Content seen in all.
    content_bytes: u64,
    /// Trailer lines of a body that is not chunked (HTTP/2).
    trailers: Vec<u8>,
}

#[derive(Debug, Default)]
enum Decoder {
    #[default]
    None,
    Length(u64),
    Chunked(Box<Chunked>),
    Close,
}

impl Body {
    /// A body framed by `framing`, of which `buffer[from..to]` has been read.
    pub(crate) fn begin(
        &mut self,
        framing: Framing,
        buffer: Option<Buffer>,
        from: usize,
        to: usize,
    ) -> Result<(), &'static str> {
        *self = Self {
            decoder: match framing {
                Framing::None => Decoder::None,
                Framing::Length(length) => Decoder::Length(length),
                Framing::Chunked => Decoder::Chunked(Box::default()),
                Framing::Close => Decoder::Close,
            },
            buffer,
            kept: from,
            cursor: from,
            content_end: from,
            raw: from,
            filled: to,
            whole: true,
            content_bytes: 0,
            trailers: Vec::new(),
        };
        self.decode()
    }

    /// No content is left to read from the peer.
    pub(crate) fn is_read(&self) -> bool {
        match &self.decoder {
            Decoder::None | Decoder::Length(0) => true,
            Decoder::Length(_) | Decoder::Close => false,
            Decoder::Chunked(chunked) => chunked.is_done(),
        }
    }

    /// The peer ended its stream.
    ///
    /// # Errors
    /// When content was still owed.
    pub(crate) fn end_of_stream(&mut self) -> Result<(), &'static str> {
        if matches!(self.decoder, Decoder::Close) {
            self.decoder = Decoder::None;
        }
        if self.is_read() {
            Ok(())
        } else {
            Err("the connection ended within the body")
        }
    }

    /// Content that was read and not yet taken by [`Body::advance`].
    pub(crate) fn content(&self) -> &[u8] {
        self.buffer
            .as_ref()
            .map_or(&[], |buffer| &buffer.bytes()[self.cursor..self.content_end])
    }

    /// All content has been sent.
    pub(crate) fn advance(&mut self) {
        self.cursor = self.content_end;
    }

    /// Trailer lines, once everything was read.
    pub(crate) fn trailers(&self) -> &[u8] {
        match &self.decoder {
            Decoder::Chunked(chunked) => chunked.trailers(),
            _ => &self.trailers,
        }
    }

    /// Trailers that came beside the content.
    pub(crate) fn set_trailers(&mut self, lines: Vec<u8>) {
        self.trailers = lines;
    }

    /// Content seen so far, in bytes.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Goes back to the first byte of content, if it is all still here.
    pub(crate) fn rewind(&mut self) -> bool {
        if self.whole {
            self.cursor = self.kept;
        }
        self.whole
    }

    /// Forbids a repetition, so that the buffer can be used again at once.
    pub(crate) fn forget(&mut self) {
        self.whole = false;
    }

    /// Whether the buffer holds nothing that is still needed.
    pub(crate) fn is_drained(&self) -> bool {
        self.cursor == self.content_end
            && self.raw == self.filled
            && (!self.whole || self.content_end == self.kept)
    }

    /// Takes the buffer away, with the range that was read beyond the body.
    pub(crate) fn take_rest(&mut self) -> Option<(Buffer, usize, usize)> {
        let (raw, filled) = (self.raw, self.filled);
        let buffer = self.buffer.take()?;
        self.kept = 0;
        self.cursor = 0;
        self.content_end = 0;
        self.raw = 0;
        self.filled = 0;
        (raw < filled).then_some((buffer, raw, filled))
    }

    /// Whether bytes beyond the body were read.
    pub(crate) fn has_rest(&self) -> bool {
        self.raw < self.filled
    }

    /// Gives up the buffer while it holds nothing, so that a waiting connection
    /// has none.
    pub(crate) fn release_if_drained(&mut self) {
        if self.is_drained() {
            self.buffer = None;
            self.reset_marks();
        }
    }

    /// Room to read into: makes some by dropping content that was sent, if there
    /// is none behind what was read. `fresh` gives a buffer if there is none.
    pub(crate) fn room(&mut self, fresh: impl FnOnce() -> Buffer) -> &mut [u8] {
        let too_long = self.content_end - self.kept > REPLAY_BYTES_MAX;
        if self.whole && (too_long || (self.buffer.is_some() && self.is_full())) {
            self.whole = false;
        }
        if !self.whole && self.cursor == self.content_end && self.raw == self.filled {
            self.reset_marks();
        }
        let filled = self.filled;
        let buffer = self.buffer.get_or_insert_with(fresh);
        &mut buffer.bytes_mut()[filled..]
    }

    /// `count` bytes were read into [`Body::room`].
    pub(crate) fn filled(&mut self, count: usize) -> Result<(), &'static str> {
        self.filled += count;
        self.decode()
    }

    fn is_full(&self) -> bool {
        self.buffer
            .as_ref()
            .is_some_and(|buffer| self.filled == buffer.bytes().len())
    }

    fn reset_marks(&mut self) {
        self.kept = 0;
        self.cursor = 0;
        self.content_end = 0;
        self.raw = 0;
        self.filled = 0;
    }

    fn decode(&mut self) -> Result<(), &'static str> {
        let available = self.filled - self.raw;
        let Some(buffer) = &mut self.buffer else {
            return Ok(());
        };
        let (consumed, produced) = match &mut self.decoder {
            Decoder::None => (0, 0),
            Decoder::Close => (available, available),
            Decoder::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
                *left -= take as u64;
                (take, take)
            }
            Decoder::Chunked(chunked) => {
                let step =
                    chunked.decode(buffer.bytes_mut(), self.content_end, self.raw, self.filled)?;
                (step.consumed, step.produced)
            }
        };
        self.raw += consumed;
        self.content_end += produced;
        self.content_bytes += produced as u64;
        Ok(())
    }
}
