//! From the tree to values, collecting everything that is wrong on the way.
//!
//! What is wrong is reported and given as `None`, so that the rest of the file is
//! still looked at; nothing that was decoded is used once an error was reported.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Problems, Severity, meant, suggestion};
use super::keys::{Effect, Key, Kind, Object, is_extension};
use super::service::Dependency;
use super::source::{Source, Span};
use super::tree::{Entry, Node, Value};
use super::value;
use super::variables::{GIVEN, Keep, Variables, interpolate};

/// Bytes that all texts together may have once variables are in them.
const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What every decoder needs.
pub(crate) struct Context<'a> {
    pub(crate) source: &'a Source,
    pub(crate) variables: &'a Variables,
    /// Of the file; relative paths begin there.
    pub(crate) folder: &'a Path,
    /// Whether files that it names may be read.
    pub(crate) reads_files: bool,
    pub(crate) problems: RefCell<Problems>,
    /// Bytes of all texts so far.
    pub(crate) spent: RefCell<usize>,
    /// Dependencies of services that could not be decoded: their names are looked up
    /// all the same, so that everything that is wrong is told at once.
    pub(crate) stranded: RefCell<Vec<Dependency>>,
}

/// A text with its place.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) span: Span,
    /// Variables in it that were not set.
    pub(crate) unset: Vec<String>,
}

impl Context<'_> {
    pub(crate) fn report(&self, diagnostic: Diagnostic) {
        self.problems.borrow_mut().push(diagnostic);
    }

    /// Reports an error, which costs nothing once there are more than are shown.
    fn error_as(&self, span: Span, write: impl FnOnce(&Source) -> Diagnostic) {
        let room = self.problems.borrow_mut().room(Severity::Error);
        if room {
            debug_assert!(span.line > 0, "an error needs a place");
            self.report(write(self.source));
        }
    }

    pub(crate) fn error(&self, span: Span, message: impl Into<String>) {
        self.error_as(span, |source| Diagnostic::at(source, span, message));
    }

    pub(crate) fn error_with(
        &self,
        span: Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.error_as(span, |source| {
            Diagnostic::at(source, span, message).hint(hint)
        });
    }

    /// Reports that `given`, a `what`, is none of `known`, and which it may have been.
    pub(crate) fn unknown(&self, span: Span, what: &str, given: &str, known: &[&str]) {
        self.error_as(span, |source| {
            let message = format!("unknown {what} `{given}`");
            Diagnostic::at(source, span, message).hint(suggestion(given, known))
        });
    }

    pub(crate) fn warn(&self, span: Span, message: impl Into<String>) {
        if self.problems.borrow_mut().room(Severity::Warning) {
            self.report(Diagnostic::at(self.source, span, message).warning());
        }
    }

    /// Counts bytes that were not in the file; whether there may be that many.
    pub(crate) fn spend(&self, span: Span, bytes: usize) -> bool {
        let mut spent = self.spent.borrow_mut();
        *spent += bytes;
        if *spent > TEXT_BYTES_MAX {
            self.error(
                span,
                format!("with its variables the file has more than {TEXT_BYTES_MAX} bytes"),
            );
        }
        *spent <= TEXT_BYTES_MAX
    }

    /// Reports what `result` says; `what` names the value.
    pub(crate) fn ok<T>(&self, span: Span, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error(span, message)).ok()
    }

    /// A text with its variables replaced.
    pub(crate) fn text(&self, node: &Node) -> Option<Word> {
        self.text_keeping(node, Keep::Nothing)
    }

    pub(crate) fn text_keeping(&self, node: &Node, keep: Keep) -> Option<Word> {
        let Value::Text(raw) = &node.value else {
            self.error(
                node.span,
                format!("a text was expected, this is {}", node.kind()),
            );
            return None;
        };
        let done = self.ok(node.span, interpolate(raw, self.variables, keep))?;
        for name in &done.unset {
            let given = GIVEN.contains(&name.as_str());
            self.warn(
                node.span,
                match given {
                    true => format!("`{name}` is known only in `command`; it is left empty here"),
                    false => format!("the variable `{name}` is not set; it is left empty"),
                },
            );
        }
        if !self.spend(node.span, done.text.len()) {
            return None;
        }
        if done.text.contains('\0') {
            self.error(node.span, "a NUL character may not stand in a value");
            return None;
        }
        Some(Word {
            text: done.text,
            span: node.span,
            unset: done.unset,
        })
    }

    /// A text that is not empty.
    pub(crate) fn words(&self, node: &Node) -> Option<Word> {
        let word = self.text(node)?;
        if word.text.trim().is_empty() {
            self.error_of(&word, "this is empty");
            return None;
        }
        Some(word)
    }

    fn parsed<T>(&self, node: &Node, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let word = self.text(node)?;
        let why = match parse(&word.text) {
            Ok(parsed) => return Some(parsed),
            Err(why) => why,
        };
        let shown: String = word.text.chars().take(60).collect();
        let message = match shown.is_empty() {
            true => format!("this is empty: {why}"),
            false => format!("`{shown}`: {why}"),
        };
        self.error_of(&word, message);
        None
    }

    /// Says beside what is wrong which variable might be to blame.
    fn error_of(&self, word: &Word, message: impl Into<String>) {
        match word.unset.first() {
            Some(name) => {
                self.error_with(
                    word.span,
                    message,
                    format!("the variable `{name}` is not set"),
                );
            }
            None => self.error(word.span, message),
        }
    }

    pub(crate) fn duration(&self, node: &Node) -> Option<Duration> {
        self.parsed(node, value::duration)
    }

    /// A duration that is not zero.
    pub(crate) fn pause(&self, node: &Node) -> Option<Duration> {
        self.parsed(node, |raw| match value::duration(raw)? {
            Duration::ZERO => Err("it must be longer than nothing".to_owned()),
            duration => Ok(duration),
        })
    }

    pub(crate) fn size(&self, node: &Node) -> Option<u64> {
        self.parsed(node, value::size)
    }

    pub(crate) fn percent(&self, node: &Node) -> Option<u32> {
        self.parsed(node, value::percent)
    }

    pub(crate) fn flag(&self, node: &Node) -> Option<bool> {
        self.parsed(node, |raw| match raw {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            _ => Err("write `true` or `false`".to_owned()),
        })
    }

    /// One of `words`.
    pub(crate) fn choice(&self, node: &Node, words: &[&'static str]) -> Option<&'static str> {
        let word = self.text(node)?;
        let known = words.iter().find(|known| **known == word.text);
        if known.is_none() {
            self.unknown(node.span, "value", &word.text, words);
        }
        known.copied()
    }

    pub(crate) fn list<'n>(&self, node: &'n Node) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Null | Value::Text(_) | Value::Map(_) => {
                self.error(
                    node.span,
                    format!("a list was expected, this is {}", node.kind()),
                );
                None
            }
        }
    }

    pub(crate) fn map<'n>(&self, node: &'n Node) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            Value::Null | Value::Text(_) | Value::List(_) => {
                self.error(
                    node.span,
                    format!("a map was expected, this is {}", node.kind()),
                );
                None
            }
        }
    }

    /// A text, or a list of texts.
    pub(crate) fn texts(&self, node: &Node) -> Vec<Word> {
        match &node.value {
            Value::List(items) => items.iter().filter_map(|item| self.words(item)).collect(),
            Value::Null | Value::Text(_) | Value::Map(_) => self.words(node).into_iter().collect(),
        }
    }

    /// `raw` from the folder of the file, without `.` and `..` (as Compose does,
    /// without asking the disk about links).
    pub(crate) fn path(&self, raw: &str) -> PathBuf {
        let mut path = PathBuf::new();
        for part in self.folder.join(raw).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => {
                    path.pop();
                }
                part => path.push(part),
            }
        }
        path
    }
}

/// The keys of one map, looked up by the names of its table.
pub(crate) struct Fields<'n> {
    object: &'static Object,
    entries: &'n [Entry],
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'n> Fields<'n> {
    /// Reports keys that the table does not know, or knows to be of no use.
    pub(crate) fn of(cx: &Context<'_>, node: &'n Node, object: &'static Object) -> Option<Self> {
        let entries = match &node.value {
            // `gateway:` with everything below it commented out.
            Value::Null => &[][..],
            Value::Text(_) | Value::List(_) | Value::Map(_) => cx.map(node)?,
        };
        for entry in entries {
            if is_extension(&entry.key) {
                continue;
            }
            match object.find(&entry.key).map(|key| &key.effect) {
                Some(Effect::Works) => {}
                Some(Effect::Nothing(why)) => cx.warn(
                    entry.key_span,
                    format!("`{}` has no effect: {why}", entry.key),
                ),
                Some(Effect::Refused(instead)) => {
                    cx.error_with(
                        entry.key_span,
                        format!("`{}` is not supported", entry.key),
                        *instead,
                    );
                }
                None => cx.unknown(entry.key_span, "key", &entry.key, &object.names()),
            }
        }
        Some(Self {
            object,
            entries,
            asked: RefCell::default(),
        })
    }

    /// The entry of a key that has a value.
    pub(crate) fn entry(&self, name: &'static str) -> Option<&'n Entry> {
        debug_assert!(self.key(name).is_some(), "the table lacks {name}");
        self.asked.borrow_mut().insert(name);
        let found = self.entries.iter().find(|entry| *entry.key == *name);
        found.filter(|entry| !entry.node.is_null())
    }

    pub(crate) fn get(&self, name: &'static str) -> Option<&'n Node> {
        self.entry(name).map(|entry| &entry.node)
    }

    fn key(&self, name: &str) -> Option<&'static Key> {
        self.object.find(name)
    }

    /// Whether the map has the key, with a value or not.
    pub(crate) fn has(&self, name: &'static str) -> bool {
        self.asked.borrow_mut().insert(name);
        self.entries.iter().any(|entry| *entry.key == *name)
    }

    /// Whether one of these keys was meant by one that is not known.
    pub(crate) fn misspelt(&self, names: &[&'static str]) -> bool {
        let known = self.object.names();
        let unknown = self
            .entries()
            .filter(|entry| self.key(&entry.key).is_none());
        unknown
            .filter_map(|entry| meant(&entry.key, &known))
            .any(|meant| names.contains(&meant))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &'n Entry> {
        self.entries
            .iter()
            .filter(|entry| !is_extension(&entry.key))
    }

    /// A number within the limits that the table names.
    pub(crate) fn count<N: TryFrom<u64>>(&self, cx: &Context<'_>, name: &'static str) -> Option<N> {
        let node = self.get(name)?;
        let kind = &self.key(name)?.kind;
        let (least, most) = limits(kind).unwrap_or((0, u64::MAX));
        number(cx, node, least, most)
    }

    /// One of two names for one thing; both are an error.
    pub(crate) fn either(
        &self,
        cx: &Context<'_>,
        one: &'static str,
        other: &'static str,
    ) -> Option<&'n Entry> {
        let (first, second) = (self.entry(one), self.entry(other));
        if let (Some(_), Some(second)) = (first, second) {
            cx.error(
                second.key_span,
                format!("`{one}` and `{other}` say the same; remove one"),
            );
        }
        first.or(second)
    }

    /// To be called at the end: every key that the table says works was asked for.
    pub(crate) fn finish(self) {
        debug_assert!(
            {
                let asked = self.asked.borrow();
                let mut working = self.object.names().into_iter();
                working.all(|name| asked.contains(name))
            },
            "keys of {} that nothing decodes: {:?} asked",
            self.object.name,
            self.asked.borrow()
        );
    }
}

fn limits(kind: &Kind) -> Option<(u64, u64)> {
    match kind {
        Kind::Count(least, most) => Some((*least, *most)),
        Kind::Either(kinds) => kinds.iter().find_map(limits),
        _ => None,
    }
}

/// A whole number from `least` to `most`.
pub(crate) fn number<N: TryFrom<u64>>(
    cx: &Context<'_>,
    node: &Node,
    least: u64,
    most: u64,
) -> Option<N> {
    cx.parsed(node, |raw| {
        let number = raw
            .parse::<u64>()
            .ok()
            .filter(|n| (least..=most).contains(n));
        let number = number.and_then(|n| N::try_from(n).ok());
        number.ok_or_else(|| format!("write a whole number from {least} to {most}"))
    })
}
