//! A file as it lies on the disk, read within limits, and places in it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::Diagnostic;

/// Longest file. Five thousand routes of the longest common form need half of it.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A text and what to call it in messages.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// As the user named it.
    pub(crate) name: Arc<str>,
    pub(crate) text: Arc<str>,
    /// Where each line begins.
    lines: Arc<[usize]>,
}

/// A stretch of a source: lines from 1, columns from 1, in characters; the end is
/// exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) end_line: usize,
    pub(crate) end_column: usize,
}

impl Span {
    /// One character.
    pub(crate) fn at(line: usize, column: usize) -> Self {
        Self {
            line,
            column,
            end_line: line,
            end_column: column + 1,
        }
    }
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // YAML 1.2 §5.4: a carriage return alone ends a line too.
        let bytes = text.as_bytes();
        let ends = (1..=bytes.len()).filter(|&at| match bytes[at - 1] {
            b'\n' => true,
            b'\r' => bytes.get(at) != Some(&b'\n'),
            _ => false,
        });
        Self {
            name: name.into(),
            text: text.into(),
            lines: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// Reads `path`, never more than [`FILE_BYTES_MAX`] of it.
    pub(crate) fn read(path: &Path) -> Result<Self, Diagnostic> {
        let name = path.display().to_string();
        let refuse = |why: String| Diagnostic::of_file(&name, why);
        let unreadable = |error: std::io::Error| refuse(format!("cannot be read: {error}"));
        // Opening a pipe would wait for someone to write to it.
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(refuse("is not a file".to_owned()));
        }
        let file = File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        let length = metadata.len().max(bytes.len() as u64);
        if length > FILE_BYTES_MAX {
            return Err(refuse(format!(
                "has {length} bytes; at most {FILE_BYTES_MAX} are read"
            )));
        }
        Self::from_bytes(&name, bytes)
    }

    pub(crate) fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, Diagnostic> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(name, &text)),
            Err(error) => Err(not_utf8(name, &error)),
        }
    }

    /// Line `number`, from 1, without its end.
    pub(crate) fn line(&self, number: usize) -> &str {
        let start = self.lines.get(number.saturating_sub(1)).copied();
        let line = start.map_or("", |start| &self.text[start..]);
        line.split(['\r', '\n']).next().unwrap_or_default()
    }
}

fn not_utf8(name: &str, error: &std::string::FromUtf8Error) -> Diagnostic {
    let valid = error.utf8_error().valid_up_to();
    let bytes = error.as_bytes();
    let before = Source::new(name, &String::from_utf8_lossy(&bytes[..valid]));
    let line = before.lines.len();
    let column = before.line(line).chars().count() + 1;
    let shown = Source::new(name, &String::from_utf8_lossy(bytes));
    let message = format!("byte 0x{:02x} is not UTF-8 text", bytes[valid]);
    Diagnostic::at(&shown, Span::at(line, column), message).hint("save the file as UTF-8")
}
