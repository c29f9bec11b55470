//! The little of HCL 1 and of JSON that policies are written in: blocks with at most one
//! label, attributes that are texts, and nothing that is computed.
//!
//! A parser of our own, since the crates there are (`hcl-rs`, `hcl-edit`) read HCL 2, an
//! expression language with templates and functions, whose tree says no longer where a
//! rule stood and whose blocks Consul's JSON form does not have. A rule that stands twice
//! is met twice here, as in HCL 1: of two in JSON none is lost, which may be a `deny`.

use std::fmt;

/// How deep bodies may stand in each other: a rule needs three in JSON.
const DEPTH_MAX: usize = 4;

/// Where something stands; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) at: Position,
    pub(crate) what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.at;
        write!(f, "line {line}, column {column}: {}", self.what)
    }
}

/// `name = "text"`, `name { .. }`, `name "label" { .. }`, and the same in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) at: Position,
    pub(crate) name: String,
    pub(crate) label: Option<String>,
    pub(crate) value: Value,
}

/// What an item has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Body(Vec<Item>),
}

/// Reads a whole text: JSON if it begins with `{`, else HCL.
pub(crate) fn parse(text: &str) -> Result<Vec<Item>, Wrong> {
    let mut reader = Reader {
        rest: text,
        at: Position { line: 1, column: 1 },
        json: text.trim_start().starts_with('{'),
    };
    reader.blank()?;
    if !reader.json {
        return reader.body(0);
    }
    reader.expect('{')?;
    let items = reader.object(0)?;
    reader.blank()?;
    match reader.peek() {
        None => Ok(items),
        Some(_) => Err(reader.wrong("nothing may follow the closing brace")),
    }
}

struct Reader<'t> {
    rest: &'t str,
    at: Position,
    json: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let character = chars.next()?;
        self.rest = chars.as_str();
        if character == '\n' {
            self.at.line += 1;
            self.at.column = 1;
        } else {
            self.at.column += 1;
        }
        Some(character)
    }

    fn wrong(&self, what: impl Into<String>) -> Wrong {
        let (at, what) = (self.at, what.into());
        Wrong { at, what }
    }

    /// What was wanted and what stands here instead.
    fn instead(&self, wanted: &str) -> Wrong {
        self.wrong(match self.peek() {
            None => format!("expected {wanted}, not the end"),
            Some(found) if found.is_control() => {
                format!("expected {wanted}, not `{}`", found.escape_debug())
            }
            Some(found) => format!("expected {wanted}, not `{found}`"),
        })
    }

    fn expect(&mut self, wanted: char) -> Result<(), Wrong> {
        if self.peek() != Some(wanted) {
            return Err(self.instead(&format!("`{wanted}`")));
        }
        self.next();
        Ok(())
    }

    fn skip(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.next();
        }
        there
    }

    /// Passes over white space, and in HCL over comments.
    fn blank(&mut self) -> Result<(), Wrong> {
        loop {
            let begun = self.at;
            match self.peek() {
                Some(c) if c.is_ascii_whitespace() => drop(self.next()),
                Some('#') if !self.json => self.line(),
                Some('/') if !self.json && self.rest.starts_with("//") => self.line(),
                Some('/') if !self.json && self.rest.starts_with("/*") => {
                    let Some(length) = self.rest.find("*/") else {
                        let what = "a comment that is not closed by `*/`".to_owned();
                        return Err(Wrong { at: begun, what });
                    };
                    let after = self.rest.len() - length - 2;
                    while self.rest.len() > after {
                        self.next();
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn line(&mut self) {
        while self.next().is_some_and(|character| character != '\n') {}
    }

    /// Items of HCL, up to the end at depth 0 and to the closing brace elsewhere.
    fn body(&mut self, depth: usize) -> Result<Vec<Item>, Wrong> {
        let mut items = Vec::new();
        loop {
            self.blank()?;
            match self.peek() {
                None if depth == 0 => return Ok(items),
                Some('}') if depth > 0 => {
                    self.next();
                    return Ok(items);
                }
                // HCL 1 lets commas stand between the items of an object.
                Some(',') if depth > 0 && !items.is_empty() => drop(self.next()),
                _ => items.push(self.item(depth)?),
            }
        }
    }

    fn item(&mut self, depth: usize) -> Result<Item, Wrong> {
        let at = self.at;
        let name = self.word("a name")?;
        self.blank()?;
        let assigned = self.skip('=');
        self.blank()?;
        let mut label = None;
        if !assigned && self.peek().is_some_and(|c| c == '"' || is_word(c)) {
            label = Some(self.word("a label")?);
            self.blank()?;
        }
        let value = match self.peek() {
            Some('{') => {
                self.deeper(depth)?;
                Value::Body(self.body(depth + 1)?)
            }
            Some('"') if assigned => Value::Text(self.text()?),
            _ if assigned => return Err(self.instead("a text in quotes, or `{`")),
            _ if label.is_some() => return Err(self.instead("`{` after the label")),
            _ => return Err(self.instead("`=`, `{` or a label in quotes")),
        };
        Ok(Item {
            at,
            name,
            label,
            value,
        })
    }

    /// Passes over the brace that opens a body.
    fn deeper(&mut self, depth: usize) -> Result<(), Wrong> {
        if depth + 1 >= DEPTH_MAX {
            return Err(self.wrong("braces stand too deep in each other"));
        }
        self.expect('{')
    }

    /// Members of a JSON object whose opening brace is read.
    fn object(&mut self, depth: usize) -> Result<Vec<Item>, Wrong> {
        let mut items = Vec::new();
        self.blank()?;
        if self.skip('}') {
            return Ok(items);
        }
        loop {
            self.blank()?;
            let at = self.at;
            let name = self.text()?;
            self.blank()?;
            self.expect(':')?;
            self.blank()?;
            self.member(at, name, depth, &mut items)?;
            self.blank()?;
            if self.skip('}') {
                return Ok(items);
            }
            if !self.skip(',') {
                return Err(self.instead("`,` or `}`"));
            }
        }
    }

    /// The value of a member; a list of objects, as HCL 1 has it, is as many members.
    fn member(
        &mut self,
        at: Position,
        name: String,
        depth: usize,
        items: &mut Vec<Item>,
    ) -> Result<(), Wrong> {
        let item = |value| Item {
            at,
            name: name.clone(),
            label: None,
            value,
        };
        match self.peek() {
            Some('"') => items.push(item(Value::Text(self.text()?))),
            Some('{') => {
                self.deeper(depth)?;
                items.push(item(Value::Body(self.object(depth + 1)?)));
            }
            Some('[') => {
                self.next();
                self.blank()?;
                while !self.skip(']') {
                    if self.peek() != Some('{') {
                        return Err(self.instead("`{`"));
                    }
                    self.deeper(depth)?;
                    items.push(item(Value::Body(self.object(depth + 1)?)));
                    self.blank()?;
                    if self.skip(',') {
                        self.blank()?;
                    } else if self.peek() != Some(']') {
                        return Err(self.instead("`,` or `]`"));
                    }
                }
            }
            _ => return Err(self.instead("a text in quotes, or `{`")),
        }
        Ok(())
    }

    /// A bare word or a text in quotes.
    fn word(&mut self, wanted: &str) -> Result<String, Wrong> {
        match self.peek() {
            Some('"') => self.text(),
            Some(c) if is_word(c) => {
                let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
                let word = self.rest[..end].to_owned();
                self.at.column += word.chars().count();
                self.rest = &self.rest[end..];
                Ok(word)
            }
            _ => Err(self.instead(wanted)),
        }
    }

    fn text(&mut self) -> Result<String, Wrong> {
        let begun = self.at;
        if !self.skip('"') {
            return Err(self.instead("`\"`"));
        }
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escaped()?),
                None | Some('\n') => {
                    let what = "a text that is not closed by `\"` on its line".to_owned();
                    return Err(Wrong { at: begun, what });
                }
                Some(character) => text.push(character),
            }
        }
    }

    /// What stands for the characters after a backslash.
    fn escaped(&mut self) -> Result<char, Wrong> {
        let unknown = self.wrong("no character is written with this backslash");
        Ok(match self.next() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('u') => {
                let high = self.hex().ok_or_else(|| unknown.clone())?;
                // JSON writes what is beyond 16 bits as two halves (RFC 8259 §7).
                let code = if (0xd800..0xdc00).contains(&high) {
                    let halves = self.next() == Some('\\') && self.next() == Some('u');
                    let low = self
                        .hex()
                        .filter(|low| halves && (0xdc00..0xe000).contains(low));
                    let low = low.ok_or_else(|| unknown.clone())?;
                    0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    high
                };
                char::from_u32(code).ok_or(unknown)?
            }
            _ => return Err(unknown),
        })
    }

    fn hex(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |all, _| Some(all * 16 + self.next()?.to_digit(16)?))
    }
}

/// What a bare word is made of.
fn is_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn blocks_attributes_and_comments_are_read() {
        let text = "# one\nkey \"a/\\\"b\" { policy = \"read\" } // two\n/* three\n */ acl = \"deny\"\nnode web { policy = \"x\", }";
        let items = parse(text).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(items[0].label.as_deref(), Some("a/\"b"));
        assert_eq!(items[0].at, Position { line: 2, column: 1 });
        assert_eq!(items[1].value, Value::Text("deny".to_owned()));
        assert_eq!(items[1].at, Position { line: 4, column: 5 });
        assert_eq!(items[2].label.as_deref(), Some("web"));
        assert_eq!(parse(" \n").unwrap(), []);
    }

    #[test]
    fn json_is_read_and_nothing_that_stands_twice_is_lost() {
        let items =
            parse(r#"{"key":{"a":{"policy":"read"}},"key":[{"\u0062\ud83d\ude00":{}},{}]}"#);
        let items = items.unwrap();
        assert_eq!(items.len(), 3);
        let Value::Body(second) = &items[1].value else {
            panic!("{items:?}");
        };
        assert_eq!(second[0].name, "b😀");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, told) in [
            (
                "key \"a\" {\n  policy = read\n}",
                "line 2, column 12: expected a text in quotes, or `{`, not `r`",
            ),
            (
                "key \"a\" \"b\" {}",
                "line 1, column 9: expected `{` after the label, not `\"`",
            ),
            (
                "key \"a",
                "line 1, column 5: a text that is not closed by `\"` on its line",
            ),
            (
                "key \"a\" {",
                "line 1, column 10: expected a name, not the end",
            ),
            ("\n}", "line 2, column 1: expected a name, not `}`"),
            (
                "acl \"x\"",
                "line 1, column 8: expected `{` after the label, not the end",
            ),
            (
                "acl",
                "line 1, column 4: expected `=`, `{` or a label in quotes, not the end",
            ),
            (
                "/* a",
                "line 1, column 1: a comment that is not closed by `*/`",
            ),
            (
                "a = \"\\q\"",
                "line 1, column 7: no character is written with this backslash",
            ),
            (
                "{\"a\":\"b\" \"c\":\"d\"}",
                "line 1, column 10: expected `,` or `}`, not `\"`",
            ),
            (
                "{\"a\":\"b\"} x",
                "line 1, column 11: nothing may follow the closing brace",
            ),
            (
                "{\"a\":1}",
                "line 1, column 6: expected a text in quotes, or `{`, not `1`",
            ),
            (
                "a{b{c{d{}}}}",
                "line 1, column 8: braces stand too deep in each other",
            ),
            (
                "{\"a\":\"\\ud800x\"}",
                "line 1, column 8: no character is written with this backslash",
            ),
        ] {
            assert_eq!(wrong(text), told, "{text}");
        }
    }
}
