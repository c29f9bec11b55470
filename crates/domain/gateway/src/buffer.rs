//! Buffers that a worker lends to its connections and gets back.
//!
//! A connection holds one only while it has bytes in hand: ten thousand idle ones
//! hold none. Large buffers are what makes large bodies cheap (measured: a 64 KiB
//! POST costs 49 µs with 16 KiB buffers, 23 µs with 256 KiB), and since the last
//! one returned is lent first, a busy worker uses few and finds them in its cache.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

/// Large: a body in a few reads.
const LARGE_BYTES: usize = 256 * 1024;
/// Small: what a connection gets when many hold large ones.
const SMALL_BYTES: usize = 32 * 1024;
/// Large buffers lent at once before small ones are; bounds what slow readers pin
/// to 16 MiB a worker and 32 KiB each beyond.
const LARGE_LENT_MAX: usize = 64;
/// Buffers of each size kept for the next.
const KEPT_MAX: usize = 64;

/// The buffers of one worker; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Rc<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    large: RefCell<Vec<Box<[u8]>>>,
    small: RefCell<Vec<Box<[u8]>>>,
    large_lent: Cell<usize>,
}

/// A lent buffer; dropping it gives it back.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    /// Where it goes back to; nowhere if it was made for one use.
    size: Size,
    shelf: Rc<Shelf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Large,
    Small,
    Own,
}

impl Buffers {
    /// A buffer of at least 32 KiB, with leftovers of others in it.
    pub(crate) fn lend(&self) -> Buffer {
        let shelf = Rc::clone(&self.0);
        let large = shelf.large_lent.get() < LARGE_LENT_MAX;
        let (kept, size, len) = if large {
            shelf.large_lent.set(shelf.large_lent.get() + 1);
            (&shelf.large, Size::Large, LARGE_BYTES)
        } else {
            (&shelf.small, Size::Small, SMALL_BYTES)
        };
        let bytes = kept
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| vec![0; len].into_boxed_slice());
        Buffer { bytes, size, shelf }
    }

    /// A buffer of `size` bytes of its own, for heads beyond the usual.
    pub(crate) fn lend_sized(&self, size: usize) -> Buffer {
        Buffer {
            bytes: vec![0; size].into_boxed_slice(),
            size: Size::Own,
            shelf: Rc::clone(&self.0),
        }
    }
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let kept = match self.size {
            Size::Large => {
                let lent = self.shelf.large_lent.get();
                debug_assert!(lent > 0, "given back more often than lent");
                self.shelf.large_lent.set(lent - 1);
                &self.shelf.large
            }
            Size::Small => &self.shelf.small,
            Size::Own => return,
        };
        let mut kept = kept.borrow_mut();
        if kept.len() < KEPT_MAX {
            kept.push(bytes);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({})", self.bytes.len())
    }
}
