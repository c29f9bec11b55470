//! YAML as a small tree with places: text, lists and maps, nothing else.
//!
//! It refuses what costs more than it is worth: more than one document, tags of
//! one's own, keys that are no text or stand twice, deep nesting, and aliases
//! that would make the whole larger than its limits ("alias bombs").

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as Marks};

use super::diagnostic::Diagnostic;
use super::source::{Source, Span};

/// Maps and lists within each other.
const DEPTH_MAX: usize = 48;

/// Nodes, each alias counted as all that it stands for.
const NODES_MAX: usize = 200_000;

/// Bytes of text, each alias counted likewise.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest key.
const KEY_BYTES_MAX: usize = 1000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
    size: Size,
}

/// Cheap to copy, so that aliases are.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    /// As written; what it means, the key that it stands under decides.
    Text(Arc<str>),
    List(Arc<[Node]>),
    Map(Arc<[Entry]>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Arc<str>,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

impl Node {
    /// What an empty file holds.
    pub(crate) fn null() -> Self {
        Self {
            span: Span::at(1, 1),
            value: Value::Null,
            size: Size::default(),
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// The tree of `source`; `None` when it is empty.
pub(crate) fn parse(source: &Source) -> Result<Option<Node>, Diagnostic> {
    let mut builder = Builder {
        source,
        total: Size::default(),
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        documents: 0,
    };
    for event in Parser::new_from_str(&source.text) {
        let (event, marks) = event.map_err(|error| {
            let at = Span::at(error.marker().line(), error.marker().col() + 1);
            let message = match error.info() {
                // The parser looks ahead, to a limit of its own.
                "recursion limit exceeded" => too_deep(),
                info => format!("not YAML: {info}"),
            };
            Diagnostic::at(source, at, message)
        })?;
        builder.take(event, span_of(&marks))?;
    }
    Ok(builder.root)
}

fn too_deep() -> String {
    format!("nested more than {DEPTH_MAX} deep")
}

fn span_of(marks: &Marks) -> Span {
    Span {
        line: marks.start.line(),
        column: marks.start.col() + 1,
        end_line: marks.end.line(),
        end_column: marks.end.col() + 1,
    }
}

struct Builder<'s> {
    source: &'s Source,
    total: Size,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    documents: usize,
}

/// A list or map whose end has not come.
struct Open {
    anchor: usize,
    span: Span,
    size: Size,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        keys: HashSet<Arc<str>>,
        /// What `<<` brings in, with the place of the `<<`.
        merged: Vec<Node>,
        key: Option<(Arc<str>, Span, bool)>,
    },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Diagnostic> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.refuse(span, "a second document begins here; one file holds one");
                }
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), span)?;
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let size = Size {
                    nodes: 1,
                    bytes: text.len(),
                };
                self.spend(size, span)?;
                if self.wants_key() {
                    if anchor != 0 {
                        let value = Value::Text(text.as_ref().into());
                        self.anchors.insert(anchor, Node { span, value, size });
                    }
                    let key = if null { "" } else { &*text };
                    return self.key(key, plain, span);
                }
                let value = match null {
                    true => Value::Null,
                    false => Value::Text(text.into()),
                };
                self.done(Node { span, value, size }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), span)?;
                self.begin(anchor, span, OpenKind::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), span)?;
                let kind = OpenKind::Map {
                    entries: Vec::new(),
                    keys: HashSet::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(anchor, span, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
        }
    }

    fn refuse<T>(&self, span: Span, message: impl Into<String>) -> Result<T, Diagnostic> {
        Err(Diagnostic::at(self.source, span, message))
    }

    fn check_tag(&self, tag: Option<&saphyr_parser::Tag>, span: Span) -> Result<(), Diagnostic> {
        match tag {
            Some(tag) if !tag.is_yaml_core_schema() => self.refuse(
                span,
                format!("the tag `{tag}` means nothing here; remove it"),
            ),
            Some(_) | None => Ok(()),
        }
    }

    fn spend(&mut self, size: Size, span: Span) -> Result<(), Diagnostic> {
        self.total.nodes += size.nodes;
        self.total.bytes += size.bytes;
        if self.total.nodes > NODES_MAX {
            return self.refuse(
                span,
                format!("more than {NODES_MAX} values, with all that aliases repeat"),
            );
        }
        if self.total.bytes > TEXT_BYTES_MAX {
            return self.refuse(
                span,
                format!("more than {TEXT_BYTES_MAX} bytes of text, with all that aliases repeat"),
            );
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        let kind = self.open.last().map(|open| &open.kind);
        matches!(kind, Some(OpenKind::Map { key: None, .. }))
    }

    fn key(&mut self, text: &str, plain: bool, span: Span) -> Result<(), Diagnostic> {
        if text.len() > KEY_BYTES_MAX {
            return self.refuse(
                span,
                format!("a key may have at most {KEY_BYTES_MAX} bytes"),
            );
        }
        let merge = plain && text == "<<";
        let Some(Open {
            kind: OpenKind::Map { keys, key, .. },
            ..
        }) = self.open.last_mut()
        else {
            return Ok(());
        };
        let text: Arc<str> = text.into();
        if !keys.insert(Arc::clone(&text)) {
            return self.refuse(span, format!("the key `{text}` stands here twice"));
        }
        *key = Some((text, span, merge));
        Ok(())
    }

    fn begin(&mut self, anchor: usize, span: Span, kind: OpenKind) -> Result<(), Diagnostic> {
        if self.wants_key() {
            return self.refuse(span, "a key must be text");
        }
        if self.open.len() >= DEPTH_MAX {
            return self.refuse(span, too_deep());
        }
        let size = Size { nodes: 1, bytes: 0 };
        self.spend(size, span)?;
        self.open.push(Open {
            anchor,
            span,
            size,
            kind,
        });
        Ok(())
    }

    fn end(&mut self, end: Span) -> Result<(), Diagnostic> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.kind {
            OpenKind::List(items) => Value::List(items.into()),
            OpenKind::Map {
                mut entries,
                mut keys,
                merged,
                ..
            } => {
                for node in &merged {
                    self.merge(node, &mut entries, &mut keys)?;
                }
                Value::Map(entries.into())
            }
        };
        let span = Span {
            end_line: end.end_line,
            end_column: end.end_column,
            ..open.span
        };
        let node = Node {
            span,
            value,
            size: open.size,
        };
        self.done(node, open.anchor)
    }

    /// Keys of the map itself win, then those of the first merged (as Compose does).
    fn merge(
        &self,
        node: &Node,
        entries: &mut Vec<Entry>,
        keys: &mut HashSet<Arc<str>>,
    ) -> Result<(), Diagnostic> {
        match &node.value {
            Value::Map(more) => {
                let new = more
                    .iter()
                    .filter(|entry| keys.insert(Arc::clone(&entry.key)));
                entries.extend(new.cloned());
                Ok(())
            }
            Value::List(list) => {
                for node in list.iter() {
                    if !matches!(node.value, Value::Map(_)) {
                        return self.refuse(node.span, "`<<` takes a map or a list of maps");
                    }
                    self.merge(node, entries, keys)?;
                }
                Ok(())
            }
            Value::Null | Value::Text(_) => {
                self.refuse(node.span, "`<<` takes a map or a list of maps")
            }
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Diagnostic> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return self.refuse(span, "this alias stands within what it repeats");
        };
        self.spend(node.size, span)?;
        if self.wants_key() {
            return match &node.value {
                Value::Text(text) => self.key(text, false, span),
                Value::Null | Value::List(_) | Value::Map(_) => {
                    self.refuse(span, "a key must be text")
                }
            };
        }
        self.done(node, 0)
    }

    fn done(&mut self, node: Node, anchor: usize) -> Result<(), Diagnostic> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node).filter(|node| !node.is_null());
            return Ok(());
        };
        open.size.nodes += node.size.nodes;
        open.size.bytes += node.size.bytes;
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map {
                entries,
                merged,
                key,
                ..
            } => match key.take() {
                Some((_, _, true)) => merged.push(node),
                Some((key, key_span, false)) => entries.push(Entry {
                    key,
                    key_span,
                    node,
                }),
                None => return self.refuse(node.span, "a value without a key"),
            },
        }
        Ok(())
    }
}
