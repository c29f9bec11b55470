//! What is being written to one peer: a head or a chunk's framing, a piece of a
//! body that stays where it was read, and what follows it. One system call where
//! the kernel takes it all.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// Pieces up to this size are copied behind the head: cheaper than a gathering write.
const INLINE_BYTES_MAX: usize = 4096;

/// What the kernel may hold unsent of a body that is not written at once. Without it,
/// that is some MiB, of which a third has to leave before the next write: a peer that
/// reads slowly would seem to have stopped, and pin that memory meanwhile.
const UNSENT_BYTES_MAX: u32 = 256 * 1024;

/// One write in progress.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Goes before the piece. Heads are written here.
    pub(crate) prefix: Vec<u8>,
    suffix: Vec<u8>,
    /// Of the piece, what is sent from its own place.
    piece_len: usize,
    sent: usize,
    /// The kernel took at least one byte since [`Output::reset`].
    any_sent: bool,
    /// It took one since [`Output::take_moved`] was asked.
    moved: bool,
    /// A body that is longer than one piece has been written to this peer.
    long: bool,
    /// [`UNSENT_BYTES_MAX`] is set.
    paced: bool,
}

impl Output {
    pub(crate) fn reset(&mut self) {
        self.prefix.clear();
        self.suffix.clear();
        self.piece_len = 0;
        self.sent = 0;
        self.any_sent = false;
    }

    /// Whether the peer can have got anything of this message.
    pub(crate) fn any_sent(&self) -> bool {
        self.any_sent
    }

    /// Whether the peer took anything since this was last asked: one that reads
    /// slowly is not one that has stopped.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Adds a piece of a body to what is to be written. The same `piece` is then
    /// given to [`Output::poll`] until that is ready.
    pub(crate) fn piece(&mut self, piece: &[u8], chunked: bool, end: bool, trailers: &[u8]) {
        self.long |= !end && !piece.is_empty();
        if chunked && !piece.is_empty() {
            push_hex(&mut self.prefix, piece.len());
            self.prefix.extend_from_slice(b"\r\n");
        }
        let after = if piece.len() <= INLINE_BYTES_MAX {
            self.prefix.extend_from_slice(piece);
            &mut self.prefix
        } else {
            self.piece_len = piece.len();
            &mut self.suffix
        };
        if chunked {
            if !piece.is_empty() {
                after.extend_from_slice(b"\r\n");
            }
            if end {
                after.extend_from_slice(b"0\r\n");
                after.extend_from_slice(trailers);
                after.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Writes until all is with the kernel.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        piece: &[u8],
    ) -> Poll<io::Result<()>> {
        if self.long && !self.paced {
            self.paced = true;
            // Where it cannot be set, slow peers are only told from dead ones less well.
            drop(SockRef::from(&*stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX));
        }
        let piece = &piece[..self.piece_len];
        let total = self.prefix.len() + piece.len() + self.suffix.len();
        while self.sent < total {
            let mut stream = Pin::new(&mut *stream);
            let count = if piece.is_empty() {
                // Then the suffix is empty as well.
                ready!(stream.as_mut().poll_write(cx, &self.prefix[self.sent..]))?
            } else {
                let mut skip = self.sent;
                let parts = [&self.prefix[..], piece, &self.suffix[..]].map(|part| {
                    let skipped = skip.min(part.len());
                    skip -= skipped;
                    IoSlice::new(&part[skipped..])
                });
                ready!(stream.as_mut().poll_write_vectored(cx, &parts))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.any_sent = true;
            self.moved = true;
        }
        self.prefix.clear();
        self.suffix.clear();
        self.piece_len = 0;
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

fn push_hex(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(number >> (place * 4)) & 15]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_chunk_is_framed_in_one_piece() {
        let mut output = Output::default();
        output.piece(b"hello", true, false, b"");
        output.piece(&[b'x'; 16], true, true, b"A: b\r\n");
        assert_eq!(
            output.prefix,
            b"5\r\nhello\r\n10\r\nxxxxxxxxxxxxxxxx\r\n0\r\nA: b\r\n\r\n"
        );
    }
}
