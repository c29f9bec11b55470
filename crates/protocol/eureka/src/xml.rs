//! XML as another dress of the tree in `wire.rs`.
//!
//! Reading takes elements, attributes and text, and nothing that could make a small
//! body large or reach out of it: document types, entities of one's own and processing
//! instructions are refused, depth and number of elements are bounded. The size of the
//! body is bounded by who reads it from the socket.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Map, Value};

/// An instance is four deep, a list of applications six.
const DEPTH_MAX: usize = 16;
/// Elements of a body: an instance has some thirty and its metadata.
const ELEMENTS_MAX: usize = 20_000;
/// Attributes of an element; Eureka's have one.
const ATTRIBUTES_MAX: usize = 16;

/// An element that is being read.
struct Open {
    name: String,
    map: Map<String, Value>,
    text: String,
}

impl Open {
    fn close(mut self) -> (String, Value) {
        let text = self.text.trim();
        if self.map.is_empty() {
            return (self.name, Value::String(text.to_owned()));
        }
        if !text.is_empty() {
            self.map
                .insert("$".to_owned(), Value::String(text.to_owned()));
        }
        (self.name, Value::Object(self.map))
    }

    fn child(&mut self, name: String, value: Value) {
        match self.map.get_mut(&name) {
            None => drop(self.map.insert(name, value)),
            Some(Value::Array(all)) => all.push(value),
            Some(one) => {
                let first = one.take();
                *one = Value::Array(vec![first, value]);
            }
        }
    }
}

/// Reads a document into `{root: ...}`.
pub(crate) fn parse(body: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the text is not UTF-8".to_owned())?;
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut elements = 0;
    let mut root = None;
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        match event {
            Event::Start(start) => {
                begin(&start, root.is_some(), open.len(), &mut elements)?;
                open.push(element(&start)?);
            }
            Event::Empty(start) => {
                begin(&start, root.is_some(), open.len(), &mut elements)?;
                let (name, value) = element(&start)?.close();
                place(&mut open, &mut root, name, value);
            }
            Event::End(_) => {
                let (name, value) = open.pop().ok_or("an end without a beginning")?.close();
                place(&mut open, &mut root, name, value);
            }
            Event::Text(piece) => {
                add(&mut open, &piece.xml10_content())?;
            }
            Event::CData(piece) => {
                add(&mut open, &piece.xml10_content())?;
            }
            Event::GeneralRef(entity) => {
                if let Some(character) = entity
                    .resolve_char_ref()
                    .map_err(|error| error.to_string())?
                {
                    add(&mut open, character.encode_utf8(&mut [0; 4]))?;
                } else {
                    let meant = resolve_predefined_entity(&entity);
                    add(&mut open, meant.ok_or("entities are not read")?)?;
                }
            }
            Event::Decl(_) | Event::Comment(_) => {}
            Event::PI(_) => return Err("processing instructions are not read".to_owned()),
            Event::DocType(_) => return Err("document types are not read".to_owned()),
            Event::Eof => break,
        }
    }
    if let Some(unclosed) = open.last() {
        return Err(format!("<{}> has no end", unclosed.name));
    }
    let (name, value) = root.ok_or("there is no element")?;
    let mut document = Map::new();
    document.insert(name, value);
    Ok(Value::Object(document))
}

fn begin(
    start: &BytesStart<'_>,
    over: bool,
    depth: usize,
    elements: &mut usize,
) -> Result<(), String> {
    *elements += 1;
    if over && depth == 0 {
        return Err("more than one root".to_owned());
    }
    if depth >= DEPTH_MAX {
        return Err(format!("more than {DEPTH_MAX} elements in each other"));
    }
    if *elements > ELEMENTS_MAX || start.attributes().count() > ATTRIBUTES_MAX {
        return Err(format!("more than {ELEMENTS_MAX} elements"));
    }
    Ok(())
}

fn element(start: &BytesStart<'_>) -> Result<Open, String> {
    let name = start.name().as_ref().to_owned();
    let mut map = Map::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let key = attribute.key.as_ref();
        let value =
            quick_xml::escape::unescape(&attribute.value).map_err(|error| error.to_string())?;
        map.insert(format!("@{key}"), Value::String(value.into_owned()));
    }
    Ok(Open {
        name,
        map,
        text: String::new(),
    })
}

fn add(open: &mut [Open], piece: &str) -> Result<(), String> {
    match open.last_mut() {
        Some(element) => element.text.push_str(piece),
        None if piece.trim().is_empty() => {}
        None => return Err("text outside of the root".to_owned()),
    }
    Ok(())
}

fn place(open: &mut [Open], root: &mut Option<(String, Value)>, name: String, value: Value) {
    match open.last_mut() {
        Some(parent) => parent.child(name, value),
        None => *root = Some((name, value)),
    }
}

/// Writes a tree; its root is called `root`.
pub(crate) fn write(root: &str, value: &Value) -> String {
    let mut out = String::new();
    write_element(root, value, &mut out);
    out
}

fn write_element(name: &str, value: &Value, out: &mut String) {
    match value {
        Value::Null => {}
        Value::Array(all) => all.iter().for_each(|one| write_element(name, one, out)),
        Value::Object(map) => write_object(name, map, out),
        Value::String(text) => write_text(name, text, out),
        Value::Bool(_) | Value::Number(_) => write_text(name, &value.to_string(), out),
    }
}

fn write_object(name: &str, map: &Map<String, Value>, out: &mut String) {
    out.push('<');
    out.push_str(name);
    let mut inner = String::new();
    for (key, value) in map {
        if let Some(attribute) = key.strip_prefix('@') {
            out.push(' ');
            out.push_str(attribute);
            out.push_str("=\"");
            escape(value.as_str().unwrap_or_default(), out);
            out.push('"');
        } else if key == "$" {
            match value {
                Value::String(text) => escape(text, &mut inner),
                other => inner.push_str(&other.to_string()),
            }
        } else {
            write_element(key, value, &mut inner);
        }
    }
    if inner.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    out.push_str(&inner);
    close(name, out);
}

fn write_text(name: &str, text: &str, out: &mut String) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    escape(text, out);
    close(name, out);
}

fn close(name: &str, out: &mut String) {
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // A reader would make it a line feed (XML 1.0 §2.11).
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(character),
            // XML 1.0 §2.2 has no way to say these.
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
}

/// What an element for a metadata key is called; `None` when none can be.
///
/// XStream writes `_` as `__` and `$` as `_-`, and reads a lone `_` as itself. Readers
/// that are not XStream take names as they are, so only names that XStream would read
/// as something else are written in its way.
pub(crate) fn name_of(key: &str) -> Option<String> {
    let name = if key.contains("__") || key.contains("_-") || key.contains('$') {
        key.replace('_', "__").replace('$', "_-")
    } else {
        key.to_owned()
    };
    let mut characters = name.chars();
    let good = characters.next().is_some_and(begins_name) && characters.all(continues_name);
    good.then_some(name)
}

/// `NameStartChar` of XML 1.0 §2.3, without the colon, which would be a namespace.
fn begins_name(character: char) -> bool {
    matches!(character,
        'A'..='Z' | '_' | 'a'..='z'
        | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}'
        | '\u{2070}'..='\u{218f}' | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}'
        | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
}

/// `NameChar` of the same.
fn continues_name(character: char) -> bool {
    begins_name(character)
        || matches!(character,
            '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

/// The metadata key that an element's name means.
pub(crate) fn key_of(name: &str) -> String {
    let mut key = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('_') {
        key.push_str(&rest[..at]);
        let tail = &rest[at..];
        let (meant, length) = match tail.as_bytes().get(1) {
            Some(b'_') => ('_', 2),
            Some(b'-') => ('$', 2),
            _ => ('_', 1),
        };
        key.push(meant);
        rest = &tail[length..];
    }
    key.push_str(rest);
    key
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(body: &str) -> String {
        parse(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn elements_attributes_and_text_become_one_tree() {
        let body = "<a x=\"1 &amp; 2\"><b>t</b><b/><c>&#65;&lt;<![CDATA[<&]]></c></a>";
        let tree = json!({"a": {"@x": "1 & 2", "b": ["t", ""], "c": "A<<&"}});
        assert_eq!(parse(body.as_bytes()), Ok(tree.clone()));
        let written = write("a", &tree["a"]);
        assert_eq!(parse(written.as_bytes()), Ok(tree), "{written}");
    }

    #[test]
    fn what_could_grow_or_reach_out_is_refused() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;\">]><a>&c;</a>";
        assert!(refused(bomb).contains("document types"));
        assert!(refused("<a>&b;</a>").contains("entities"));
        assert!(refused("<?php x?><a/>").contains("processing instructions"));
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        assert!(refused(&deep).contains("in each other"));
        let wide = format!("<a>{}</a>", "<b/>".repeat(ELEMENTS_MAX));
        assert!(refused(&wide).contains("elements"));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for body in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "<a b=>",
            "<a b='1' b='2'/>",
        ] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        assert!(parse(b"<a>\xff</a>").is_err());
    }

    #[test]
    fn keys_are_read_back_from_their_names() {
        for key in [
            "zone", "my_key", "my__key", "a_-b", "price$", "a.b-c", "_", "ключ",
        ] {
            let name = name_of(key).unwrap();
            assert_eq!(key_of(&name), key, "{name}");
        }
        for key in ["", "1a", "a b", "a/b", "<", "x:y", "→"] {
            assert_eq!(name_of(key), None, "{key}");
        }
    }
}
