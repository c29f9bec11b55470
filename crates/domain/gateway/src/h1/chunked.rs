//! The chunked coding (RFC 9112 §7.1), taken apart in place and strictly.

/// Longest chunk-size line; extensions beyond it are an attack, not a use
/// (CVE-2023-39326 and its kin).
const SIZE_LINE_BYTES_MAX: usize = 256;
/// Bytes of extensions in one body before it is refused.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Bytes of trailers.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Digits of a chunk size: 60 bits, so that sums cannot overflow.
const SIZE_DIGITS_MAX: usize = 15;

/// Decoder of one body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    /// Of the chunk being read.
    left: u64,
    digits: usize,
    line_bytes: usize,
    extension_bytes: usize,
    extension: Extension,
    /// Trailer lines as they came, each with its CR LF, without the empty one.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// Where in `*( BWS ";" BWS name [ BWS "=" BWS value ] )` the decoder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Extension {
    #[default]
    Start,
    Name,
    Value,
    Token,
    Quoted,
    Escaped,
    After,
}

/// What one call to [`Chunked::decode`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes taken from the input.
    pub(crate) consumed: usize,
    /// Bytes of content written to the front.
    pub(crate) produced: usize,
}

impl Chunked {
    /// The last chunk and the trailers were read.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Trailer lines, each ending in CR LF.
    pub(crate) fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Takes `bytes[from..to]` apart, moving its content to `bytes[into..]`.
    ///
    /// # Errors
    /// Says what is malformed; the connection is then of no more use.
    pub(crate) fn decode(
        &mut self,
        bytes: &mut [u8],
        into: usize,
        from: usize,
        to: usize,
    ) -> Result<Step, &'static str> {
        debug_assert!(into <= from && from <= to && to <= bytes.len());
        let (mut at, mut out) = (from, into);
        while at < to && self.state != State::Done {
            if self.state == State::Data {
                let take = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(to - at);
                bytes.copy_within(at..at + take, out);
                self.left -= take as u64;
                at += take;
                out += take;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.byte(bytes[at])?;
                at += 1;
            }
        }
        Ok(Step {
            consumed: at - from,
            produced: out - into,
        })
    }

    fn byte(&mut self, byte: u8) -> Result<(), &'static str> {
        match self.state {
            State::Size => self.size(byte),
            State::Extension => self.extension(byte),
            State::SizeLf => {
                if byte != b'\n' {
                    return Err("a chunk size is followed by a bare CR");
                }
                self.line_bytes = 0;
                self.digits = 0;
                self.state = if self.left == 0 {
                    State::Trailers
                } else {
                    State::Data
                };
                Ok(())
            }
            State::DataCr if byte == b'\r' => {
                self.state = State::DataLf;
                Ok(())
            }
            State::DataLf if byte == b'\n' => {
                self.state = State::Size;
                Ok(())
            }
            State::DataCr | State::DataLf => Err("a chunk is not followed by CR LF"),
            State::Trailers => self.trailer(byte),
            State::Data | State::Done => Ok(()),
        }
    }

    fn size(&mut self, byte: u8) -> Result<(), &'static str> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.digits > 0 => {
                self.state = State::SizeLf;
                return Ok(());
            }
            // BWS before an extension is allowed by the grammar but has only
            // ever been used to smuggle, so that it is refused.
            b';' if self.digits > 0 => {
                self.state = State::Extension;
                self.extension = Extension::Start;
                return Ok(());
            }
            _ => return Err("a chunk size is not hexadecimal"),
        };
        self.digits += 1;
        if self.digits > SIZE_DIGITS_MAX {
            return Err("a chunk size is too large");
        }
        self.left = self.left * 16 + u64::from(digit);
        Ok(())
    }

    fn extension(&mut self, byte: u8) -> Result<(), &'static str> {
        use Extension::*;
        self.line_bytes += 1;
        self.extension_bytes += 1;
        if self.line_bytes > SIZE_LINE_BYTES_MAX || self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err("chunk extensions are too long");
        }
        let token = super::field::is_token_byte(byte);
        self.extension = match (self.extension, byte) {
            (Name | Token | After, b'\r') => {
                self.state = State::SizeLf;
                return Ok(());
            }
            (Start | Name, _) if token => Name,
            (Name | Token | After, b';') => Start,
            (Name, b'=') => Value,
            (Value, b'"') => Quoted,
            (Value | Token, _) if token => Token,
            (Quoted, b'"') => After,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, b'\t' | 0x20..=0x7e | 0x80..) => Quoted,
            _ => return Err("a chunk extension is malformed"),
        };
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), &'static str> {
        self.trailers.push(byte);
        if self.trailers.len() > TRAILER_BYTES_MAX {
            return Err("the trailers are too large");
        }
        if byte != b'\n' {
            return Ok(());
        }
        if self.trailers == b"\r\n" {
            self.trailers.clear();
            self.state = State::Done;
        } else if self.trailers.ends_with(b"\r\n\r\n") {
            self.trailers.truncate(self.trailers.len() - 2);
            self.state = State::Done;
        } else if !self.trailers.ends_with(b"\r\n") {
            return Err("a trailer line does not end in CR LF");
        }
        if self.state == State::Done {
            check_trailers(&self.trailers)?;
        }
        Ok(())
    }
}

/// Refuses trailers that are no field lines.
fn check_trailers(lines: &[u8]) -> Result<(), &'static str> {
    trailer_lines(lines).try_for_each(|line| match line {
        Some(_) => Ok(()),
        None => Err("a trailer is not a field line"),
    })
}

/// The fields among trailer lines; `None` for a malformed line.
pub(crate) fn trailer_lines(lines: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    lines.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\r\n")?;
        let colon = memchr::memchr(b':', line)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let fine = !name.is_empty()
            && name.iter().copied().all(super::field::is_token_byte)
            && super::field::is_field_value(value);
        fine.then_some((name, value))
    })
}

/// Whether a trailer may be passed on: not what frames, routes or authenticates
/// (RFC 9110 §6.5.1).
pub(crate) fn may_be_trailer(name: &[u8]) -> bool {
    use super::field::{Known, classify};
    match classify(name) {
        Known::Other => ![&b"trailer"[..], b"content-range", b"www-authenticate"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known)),
        _ => false,
    }
}
