//! What is wrong or odd, where, and how to mend it.
//!
//! Each diagnostic carries its own line of the source, so that it outlives it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use unicode_width::UnicodeWidthChar;

use super::source::{Source, Span};

/// Shown at once; more would scroll the first ones away.
const SHOWN_MAX: usize = 50;

/// Characters of a source line that are shown around the offending text.
const LINE_CHARS_MAX: usize = 140;

/// One thing that is wrong or odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it keeps the file from being used.
    pub severity: Severity,
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// From 1; 0 when it is about the file as a whole.
    pub line: u32,
    /// From 1, in characters; 0 when it is about the file as a whole.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
    /// The line, cut to a readable length.
    text: Box<str>,
    /// Columns of `text` that are underlined: the first, and how many.
    underline: (u32, u32),
}

/// Whether a diagnostic keeps the file from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
}

/// Everything that is wrong with a file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// Found beyond those that are kept.
    further: usize,
}

/// Why there is no file to load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nothing there.
    #[error("no atoll.yaml: looked for {}", listed(.looked))]
    Missing {
        /// Where it looked.
        looked: Vec<PathBuf>,
    },
    /// Two names for one thing.
    #[error("both {} and {} exist; remove one", .first.display(), .second.display())]
    Ambiguous {
        /// One.
        first: PathBuf,
        /// And the other.
        second: PathBuf,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    let shown: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    shown.join(", ")
}

impl Diagnostic {
    /// About `span` of a source whose line number `span.line` is `line_text`.
    pub(crate) fn new(
        file: &str,
        line_text: &str,
        line: usize,
        span: Span,
        message: impl Into<String>,
    ) -> Self {
        let (text, (start, width)) = cut(line_text, span);
        Self {
            severity: Severity::Error,
            file: file.into(),
            line: small(line),
            column: small(span.column),
            message: message.into(),
            hint: None,
            text: text.into(),
            underline: (small(start), small(width)),
        }
    }

    pub(crate) fn at(source: &Source, span: Span, message: impl Into<String>) -> Self {
        Self::new(
            &source.name,
            source.line(span.line),
            span.line,
            span,
            message,
        )
    }

    /// About the file as a whole.
    pub(crate) fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self::new(file, "", 0, Span::default(), message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// As a person reads it, several lines, without a line end.
    pub fn render(&self, colour: bool) -> String {
        let paint = |style: &str, text: &str| match colour {
            true => format!("\x1b[{style}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let (word, style) = match self.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "1;33"),
        };
        let head = format!("{}: {}", paint(style, word), paint("1", &self.message));
        let hint = |margin: &str| match &self.hint {
            Some(hint) => format!("\n{margin} {} {hint}", paint("1;34", "=")),
            None => String::new(),
        };
        if self.line == 0 {
            return format!(
                "{head}\n {} {}{}",
                paint("1;34", "-->"),
                self.file,
                hint(" ")
            );
        }
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let bar = paint("1;34", "|");
        let (start, width) = self.underline;
        let arrow = paint("1;34", "-->");
        format!(
            "{head}\n{margin}{arrow} {file}:{line}:{column}\n{margin} {bar}\n{number} {bar} {text}\n{margin} {bar} {indent}{marks}{hint}",
            file = self.file,
            line = self.line,
            column = self.column,
            number = paint("1;34", &number),
            text = self.text,
            indent = " ".repeat(start as usize),
            marks = paint(style, &"^".repeat(width as usize)),
            hint = hint(&margin),
        )
    }
}

/// Files are too short for this to lose anything.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A readable piece of `line` around `span`, and where to underline it.
fn cut(line: &str, span: Span) -> (String, (usize, usize)) {
    let chars: Vec<char> = line.chars().collect();
    let from = span.column.saturating_sub(1).min(chars.len());
    let to = match span.end_line == span.line {
        true => span.end_column.saturating_sub(1),
        false => chars
            .iter()
            .rposition(|c| !c.is_whitespace())
            .map_or(0, |at| at + 1),
    };
    let to = to.clamp(from, chars.len().max(from));
    let first = match chars.len() > LINE_CHARS_MAX {
        true => from.saturating_sub(LINE_CHARS_MAX / 2),
        false => 0,
    };
    let last = chars.len().min(first + LINE_CHARS_MAX);
    let to = to.min(last);
    let mut text = String::new();
    let (mut start, mut width, mut columns) = (0, 0, 0);
    if first > 0 {
        text.push('…');
        columns = 1;
    }
    for (at, &c) in chars.iter().enumerate().take(last).skip(first) {
        if at == from {
            start = columns;
        }
        // Tabs and control characters would misplace the marks, or worse.
        let shown = if c.is_control() { ' ' } else { c };
        let cell = shown.width().unwrap_or(0);
        text.push(shown);
        columns += cell;
        if at >= from && at < to {
            width += cell;
        }
    }
    if from >= last {
        start = columns;
    }
    if last < chars.len() {
        text.push('…');
    }
    (text, (start, width.max(1)))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostic {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self {
            list: vec![diagnostic],
            further: 0,
        }
    }
}

impl Diagnostics {
    /// What is wrong, in the order of the file; at most some dozens.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many there are, those beyond [`Diagnostics::iter`] included.
    pub fn count(&self) -> usize {
        self.list.len() + self.further
    }

    /// As a person reads them, without a line end.
    pub fn render(&self, colour: bool) -> String {
        let shown: Vec<_> = self.list.iter().map(|one| one.render(colour)).collect();
        let mut text = shown.join("\n\n");
        if self.further > 0 {
            text.push_str(&format!("\n\nand {} more errors", self.further));
        }
        text
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Collects what is found while a file is read.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    further: usize,
}

impl Problems {
    /// Whether another of this kind will be kept; if not, it is counted here.
    pub(crate) fn room(&mut self, severity: Severity) -> bool {
        let kept = match severity {
            Severity::Error => self.errors.len(),
            Severity::Warning => self.warnings.len(),
        };
        let room = kept < SHOWN_MAX;
        if !room && severity == Severity::Error {
            self.further += 1;
        }
        room
    }

    pub(crate) fn push(&mut self, found: Diagnostic) {
        let list = match found.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        // What an alias repeats is wrong once.
        if list.contains(&found) {
            return;
        }
        if list.len() < SHOWN_MAX {
            list.push(found);
        } else if found.severity == Severity::Error {
            self.further += 1;
        }
    }

    /// The warnings, or everything that is wrong.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Diagnostics> {
        let place = |d: &Diagnostic| (d.line, d.column);
        self.errors.sort_by_key(place);
        self.warnings.sort_by_key(place);
        match self.errors.is_empty() {
            true => Ok(self.warnings),
            false => Err(Diagnostics {
                list: self.errors,
                further: self.further,
            }),
        }
    }
}

/// Of `known`, the one that `given` was probably meant to be.
pub(crate) fn nearest<'k>(
    given: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    let given = given.to_lowercase();
    let allowed = (given.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&given, &name.to_lowercase()),
                name,
            )
        })
        // Nothing in common is no typo, however short.
        .filter(|&(distance, _)| distance <= allowed && distance < given.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// "did you mean X?", or all that is known.
/// The known name that `given` is a typo of, if it looks like one.
pub(crate) fn meant<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    // Distances cost length times length: what is that long is no typo.
    let near = (given.len() <= 100).then(|| nearest(given, known.iter().copied()));
    near.flatten()
}

pub(crate) fn suggestion(given: &str, known: &[&str]) -> String {
    match meant(given, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => "there are none".to_owned(),
        None => {
            let shown: Vec<_> = known
                .iter()
                .take(40)
                .map(|name| format!("`{name}`"))
                .collect();
            let more = if known.len() > 40 { ", …" } else { "" };
            format!("known: {}{more}", shown.join(", "))
        }
    }
}
