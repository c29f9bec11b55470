//! `.env` and `env_file:` files, as Compose reads them.
//!
//! `NAME=value` or `NAME: value`, `export` in front, `#` comments; `'…'` is taken
//! as it stands, `"…"` has escapes and variables, bare values have variables and
//! end before ` #`. Quoted values may go over several lines.

use std::collections::BTreeMap;

use super::diagnostic::Diagnostic;
use super::source::{Source, Span};
use super::variables::{Interpolated, Keep, Variables, interpolate};

/// The variables of `source`; those before it in the file and those of `around`
/// may stand in values. And all that is wrong or odd.
pub(crate) fn parse(
    source: &Source,
    around: &Variables,
) -> (BTreeMap<String, String>, Vec<Diagnostic>) {
    let mut known = around.clone();
    let mut found = BTreeMap::new();
    let mut said = Vec::new();
    let mut reader = Reader {
        text: &source.text,
        line: 1,
        line_start: 0,
        at: 0,
    };
    while reader.next_entry() {
        let span = Span::at(reader.line, reader.column());
        match reader.entry(&known) {
            Ok((name, Some(Interpolated { text: value, unset }))) => {
                let odd = unset.iter().map(|unset| {
                    let message = format!("the variable `{unset}` is not set; it is left empty");
                    Diagnostic::at(source, span, message).warning()
                });
                said.extend(odd);
                known.file.insert(name.clone(), value.clone());
                found.insert(name, value);
            }
            // A name alone takes its value from outside, as in Compose.
            Ok((name, None)) => {
                if let Some(value) = around.process.get(&name) {
                    found.insert(name, value.clone());
                }
            }
            Err(message) => {
                said.push(Diagnostic::at(source, span, message));
                reader.skip_line();
            }
        }
    }
    (found, said)
}

struct Reader<'t> {
    text: &'t str,
    line: usize,
    line_start: usize,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn column(&self) -> usize {
        self.text[self.line_start..self.at].chars().count() + 1
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.text[self.at..self.at + bytes];
        if let Some(last) = passed.rfind('\n') {
            self.line += passed.matches('\n').count();
            self.line_start = self.at + last + 1;
        }
        self.at += bytes;
    }

    fn skip_line(&mut self) {
        let length = self
            .rest()
            .find('\n')
            .map_or(self.rest().len(), |at| at + 1);
        self.advance(length);
    }

    fn skip_blanks(&mut self) {
        let blank = |c: char| c == ' ' || c == '\t';
        let length = self.rest().len() - self.rest().trim_start_matches(blank).len();
        self.advance(length);
    }

    /// Goes to where the next entry begins; whether there is one.
    fn next_entry(&mut self) -> bool {
        loop {
            let length = self.rest().len() - self.rest().trim_start().len();
            self.advance(length);
            if !self.rest().starts_with('#') {
                return !self.rest().is_empty();
            }
            self.skip_line();
        }
    }

    fn entry(&mut self, known: &Variables) -> Result<(String, Option<Interpolated>), String> {
        if let Some(after) = self.rest().strip_prefix("export")
            && after.starts_with([' ', '\t'])
        {
            self.advance("export".len());
            self.skip_blanks();
        }
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']');
        let length = self.rest().find(|c| !part(c)).unwrap_or(self.rest().len());
        let name = self.rest()[..length].to_owned();
        if name.is_empty() {
            return Err("a variable's name was expected".to_owned());
        }
        self.advance(length);
        self.skip_blanks();
        match self.rest().chars().next() {
            Some('=' | ':') => self.advance(1),
            None | Some('\r' | '\n' | '#') => {
                self.skip_line();
                return Ok((name, None));
            }
            Some(c) => return Err(format!("`=` was expected after `{name}`, not `{c}`")),
        }
        self.skip_blanks();
        let value = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(&name, quote)?,
            _ => self.bare(),
        };
        let value = match value {
            (text, true) => {
                let filled = interpolate(&text, known, Keep::Nothing);
                filled.map_err(|why| format!("`{name}`: {why}"))?
            }
            (text, false) => Interpolated {
                text,
                unset: Vec::new(),
            },
        };
        Ok((name, Some(value)))
    }

    /// A value without quotes, and that it has variables.
    fn bare(&mut self) -> (String, bool) {
        let line = self.rest().split('\n').next().unwrap_or_default();
        let mut end = line.len();
        for (at, _) in line.match_indices('#') {
            if at == 0 || line[..at].ends_with([' ', '\t']) {
                end = at;
                break;
            }
        }
        let value = line[..end].trim().to_owned();
        self.skip_line();
        (value, true)
    }

    /// A value in quotes, and whether it has variables.
    fn quoted(&mut self, name: &str, quote: char) -> Result<(String, bool), String> {
        let inner = &self.rest()[1..];
        let mut value = String::new();
        let mut chars = inner.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.advance(1 + at + 1);
                self.skip_blanks();
                let after = self.rest().chars().next();
                return match after {
                    None | Some('\r' | '\n' | '#') => {
                        self.skip_line();
                        Ok((value, quote == '"'))
                    }
                    Some(c) => Err(format!("`{c}` stands after the value of `{name}`")),
                };
            }
            if c != '\\' || quote == '\'' {
                value.push(c);
                continue;
            }
            match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                // As `$$`, so that it is no variable.
                Some('$') => value.push_str("$$"),
                Some(c @ ('"' | '\\' | '\'')) => value.push(c),
                Some(c) => value.extend(['\\', c]),
                None => break,
            }
        }
        Err(format!("the quotes of `{name}` are not closed"))
    }
}

/// The variables of `source` as they stand: `NAME=value`, one a line.
pub(crate) fn parse_raw(source: &Source) -> (BTreeMap<String, String>, Vec<Diagnostic>) {
    let mut found = BTreeMap::new();
    let mut said = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        if line.trim_start().starts_with('#') || line.trim().is_empty() {
            continue;
        }
        match line.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                found.insert(name.trim().to_owned(), value.to_owned());
            }
            _ => {
                let message = "`NAME=value` was expected";
                said.push(Diagnostic::at(source, Span::at(index + 1, 1), message));
            }
        }
    }
    (found, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<BTreeMap<String, String>, String> {
        let pairs = [("OUTER", "outer"), ("B", "of the process")];
        let around = Variables {
            process: pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            file: BTreeMap::new(),
        };
        let (found, said) = parse(&Source::new(".env", text), &around);
        let shown: Vec<_> = said.iter().map(ToString::to_string).collect();
        match said.is_empty() {
            true => Ok(found),
            false => Err(shown.join("\n")),
        }
    }

    #[test]
    fn values_are_read_as_compose_does() {
        for (text, expected) in [
            ("A=1", "1"),
            ("export A=1", "1"),
            ("A = 1 ", "1"),
            ("A: 1", "1"),
            ("A=", ""),
            ("A=a b # comment", "a b"),
            ("A=a#b", "a#b"),
            ("A=#b", ""),
            ("A='it # $OUTER \\n'", "it # $OUTER \\n"),
            (
                "A=\"x # $OUTER \\n\\t\\\"\\\\\" # comment",
                "x # outer \n\t\"\\",
            ),
            ("A=\"\\$OUTER\"", "$OUTER"),
            ("A=${OUTER}/x", "outer/x"),
            ("A=${NO:-default}", "default"),
            ("A=\"two\nlines\"", "two\nlines"),
            ("# comment\n\n  A=1\r\nB=2", "1"),
            ("X=1\nA=$X$X", "11"),
            // The process wins over the file, also within the file.
            ("B=2\nA=$B", "of the process"),
            ("A=a=b", "a=b"),
            ("A=1\nA=2", "2"),
        ] {
            let found = parsed(text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
            assert_eq!(found.get("A").map(String::as_str), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_name_alone_takes_its_value_from_outside() {
        let found = parsed("OUTER\nUNSET\n").unwrap();
        assert_eq!(found.get("OUTER").map(String::as_str), Some("outer"));
        assert_eq!(found.get("UNSET"), None);
    }

    #[test]
    fn every_wrong_line_is_said_with_its_place() {
        let said = parsed("A=1\n  =2\nB C\nD='x\n").unwrap_err();
        for expected in [
            ".env:2:3",
            ".env:3:1",
            "`=` was expected after `B`",
            ".env:4:1",
            "not closed",
        ] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        assert!(
            parsed("A=$C")
                .unwrap_err()
                .contains("warning: the variable `C`")
        );
        assert!(parsed("A=${B").unwrap_err().contains("not closed"));
        assert!(parsed("A='x' y").unwrap_err().contains("`y` stands after"));
    }
}
