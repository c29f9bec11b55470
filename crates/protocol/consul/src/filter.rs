//! `?filter=`: Consul's expressions (go-bexpr), on what is about to be answered.
//!
//! ```text
//! or    := and ("or" and)*          and := not ("and" not)*
//! not   := "not" not | "(" or ")" | match
//! match := sel ("==" | "!=") val    | sel "is" "not"? "empty"
//!        | val "not"? "in" sel      | sel "not"? ("contains" | "matches") val
//! ```
//! Selectors name the fields of the answer, `.` and `["…"]` their parts; a part of a list
//! is one of any of its elements. `matches` takes time in proportion to the text, whatever
//! the expression (RE2's promise, and Consul's).

use regex_automata::meta::Regex;
use serde_json::Value;

use crate::wire::Refusal;

/// Characters of an expression: go-bexpr has no limit, and a stranger writes it.
const CHARS_MAX: usize = 4096;
/// Nested `not` and parentheses.
const DEPTH_MAX: usize = 64;

/// Bytes that one compiled regular expression may take: `(a{1000}){1000}` is short.
const REGEX_BYTES_MAX: usize = 256 * 1024;

/// The same for one of the hundreds that a list of events tries, whoever asks for it.
const SMALL_REGEX_BYTES_MAX: usize = 16 * 1024;

/// Regular expressions of one filter: each is compiled for each request.
const MATCHES_MAX: usize = 8;

/// A parsed expression.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Node);

#[derive(Clone, Debug)]
enum Node {
    Or(Box<Node>, Box<Node>),
    And(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Match(Vec<String>, Test),
}

#[derive(Clone, Debug)]
enum Test {
    Is(String),
    Empty,
    Contains(String),
    /// Somewhere in the text, unless it is anchored.
    Matches(Regex),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A word, which may be a value, a selector or an operator.
    Word(String),
    /// A value between quotes.
    Quoted(String),
    Sign(&'static str),
}

impl Filter {
    /// Reads an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let parsed = tokens(text).and_then(|tokens| {
            let mut parser = Parser {
                tokens,
                at: 0,
                matches: 0,
            };
            let node = parser.or(0)?;
            match parser.peek() {
                None => Ok(node),
                Some(token) => Err(format!("{token:?} is one too many")),
            }
        });
        parsed.map(Self).map_err(failed)
    }

    /// Whether it holds for `item`.
    pub(crate) fn holds(&self, item: &Value) -> Result<bool, Refusal> {
        holds(&self.0, item)
    }

    /// Keeps what fits of a list, or of the values of a map.
    pub(crate) fn apply(&self, value: &mut Value) -> Result<(), Refusal> {
        match value {
            Value::Array(list) => {
                let mut kept = Vec::with_capacity(list.len());
                for item in std::mem::take(list) {
                    if holds(&self.0, &item)? {
                        kept.push(item);
                    }
                }
                *list = kept;
            }
            Value::Object(map) => {
                for (key, item) in std::mem::take(map) {
                    if holds(&self.0, &item)? {
                        map.insert(key, item);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn failed(what: String) -> Refusal {
    Refusal::bad(format!(
        "Failed to create boolean expression evaluator: {what}"
    ))
}

fn holds(node: &Node, item: &Value) -> Result<bool, Refusal> {
    Ok(match node {
        Node::Or(left, right) => holds(left, item)? || holds(right, item)?,
        Node::And(left, right) => holds(left, item)? && holds(right, item)?,
        Node::Not(inner) => !holds(inner, item)?,
        Node::Match(selector, test) => {
            let found = select(item, selector, selector)?;
            match test {
                // Nothing, as an absent key of a map, is empty and equals nothing.
                Test::Empty => found.iter().all(|value| is_empty(value)),
                Test::Is(wanted) => found.iter().any(|value| is(value, wanted)),
                Test::Contains(wanted) => found.iter().any(|value| contains(value, wanted)),
                Test::Matches(regex) => {
                    let mut texts = found.iter().filter_map(|value| value.as_str());
                    texts.any(|text| regex.is_match(text))
                }
            }
        }
    })
}

/// What a selector means: several values below a list, none below a map that has no
/// such key.
fn select<'v>(
    value: &'v Value,
    parts: &[String],
    whole: &[String],
) -> Result<Vec<&'v Value>, Refusal> {
    let Some((part, rest)) = parts.split_first() else {
        return Ok(vec![value]);
    };
    match value {
        Value::Array(list) => {
            let mut all = Vec::new();
            for item in list {
                all.extend(select(item, parts, whole)?);
            }
            Ok(all)
        }
        Value::Object(map) => match map.get(part) {
            Some(value) => select(value, rest, whole),
            // The keys of a map are the user's own; those of anything else are known.
            None if parts.len() < whole.len() && is_map(&whole[whole.len() - parts.len() - 1]) => {
                Ok(Vec::new())
            }
            None => Err(unknown(whole)),
        },
        _ => Err(unknown(whole)),
    }
}

/// Fields whose keys users choose.
fn is_map(field: &str) -> bool {
    field.ends_with("Meta") || field.ends_with("TaggedAddresses")
}

fn unknown(selector: &[String]) -> Refusal {
    failed(format!("Selector {:?} is not valid", selector.join(".")))
}

fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Bool(flag) => crate::agent::go_bool(wanted) == Some(*flag),
        Value::Number(number) => wanted
            .parse::<f64>()
            .is_ok_and(|n| number.as_f64() == Some(n)),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn contains(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.contains(wanted),
        Value::Array(list) => list.iter().any(|item| is(item, wanted)),
        Value::Object(map) => map.contains_key(wanted),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    if text.chars().count() > CHARS_MAX {
        return Err(format!("longer than {CHARS_MAX} characters"));
    }
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let sign = ["==", "!=", "(", ")", "[", "]", "."];
        let sign = sign.into_iter().find(|sign| rest.starts_with(sign));
        let length = if let Some(sign) = sign {
            tokens.push(Token::Sign(sign));
            sign.len()
        } else if matches!(first, '"' | '`') {
            let (quoted, length) = quoted(rest, first)?;
            tokens.push(Token::Quoted(quoted));
            length
        } else {
            let ends = |c: char| c.is_whitespace() || "()[]=!\"`".contains(c);
            let number = first.is_ascii_digit() || first == '-';
            // A dot parts selectors, but not the digits of a number.
            let end = rest.find(|c: char| ends(c) || (c == '.' && !number));
            let end = end.unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("{first:?} may not stand here"));
            }
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A text between quotes, and how long it is with them.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), String> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => return Ok((text, at + 1)),
            '\\' if quote == '"' => match characters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, escaped @ ('"' | '\\' | '/'))) => text.push(escaped),
                _ => return Err("unknown escape".to_owned()),
            },
            _ => text.push(character),
        }
    }
    Err("a quote is not closed".to_owned())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Regular expressions so far.
    matches: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn word(&self, ahead: usize) -> Option<&str> {
        match self.tokens.get(self.at + ahead) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn takes(&mut self, keyword: &str) -> bool {
        let is = self.word(0) == Some(keyword);
        self.at += usize::from(is);
        is
    }

    fn takes_sign(&mut self, wanted: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Sign(sign)) if *sign == wanted);
        self.at += usize::from(is);
        is
    }

    fn or(&mut self, depth: usize) -> Result<Node, String> {
        let mut left = self.and(depth)?;
        while self.takes("or") {
            left = Node::Or(Box::new(left), Box::new(self.and(depth)?));
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Result<Node, String> {
        let mut left = self.not(depth)?;
        while self.takes("and") {
            left = Node::And(Box::new(left), Box::new(self.not(depth)?));
        }
        Ok(left)
    }

    fn not(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEPTH_MAX {
            return Err(format!("deeper than {DEPTH_MAX}"));
        }
        if self.takes("not") {
            return Ok(Node::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.takes_sign("(") {
            let inner = self.or(depth + 1)?;
            return match self.takes_sign(")") {
                true => Ok(inner),
                false => Err("a parenthesis is not closed".to_owned()),
            };
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Node, String> {
        // `VALUE in SELECTOR` begins with a value, and all others with a selector.
        let reversed = match (self.word(1), self.word(2)) {
            (Some("in"), _) => Some(false),
            (Some("not"), Some("in")) => Some(true),
            _ => None,
        };
        if let Some(negated) = reversed {
            let value = self.value()?;
            self.at += 1 + usize::from(negated);
            let test = Test::Contains(value);
            return Ok(negate(Node::Match(self.selector()?, test), negated));
        }
        let selector = self.selector()?;
        if self.takes_sign("==") {
            return Ok(Node::Match(selector, Test::Is(self.value()?)));
        }
        if self.takes_sign("!=") {
            return Ok(negate(Node::Match(selector, Test::Is(self.value()?)), true));
        }
        if self.takes("is") {
            let negated = self.takes("not");
            return match self.takes("empty") {
                true => Ok(negate(Node::Match(selector, Test::Empty), negated)),
                false => Err("`is` needs `empty`".to_owned()),
            };
        }
        let negated = self.takes("not");
        if self.takes("contains") {
            let test = Test::Contains(self.value()?);
            return Ok(negate(Node::Match(selector, test), negated));
        }
        if self.takes("matches") {
            self.matches += 1;
            if self.matches > MATCHES_MAX {
                return Err(format!("a filter may have {MATCHES_MAX} `matches`"));
            }
            let test = Test::Matches(regex(&self.value()?)?);
            return Ok(negate(Node::Match(selector, test), negated));
        }
        Err(format!("no operator after {:?}", selector.join(".")))
    }

    fn value(&mut self) -> Result<String, String> {
        let value = match self.peek() {
            Some(Token::Word(text) | Token::Quoted(text)) => text.clone(),
            _ => return Err("a value is missing".to_owned()),
        };
        self.at += 1;
        Ok(value)
    }

    fn selector(&mut self) -> Result<Vec<String>, String> {
        let mut parts = vec![self.part()?];
        loop {
            if self.takes_sign(".") {
                parts.push(self.part()?);
            } else if self.takes_sign("[") {
                let Some(Token::Quoted(part)) = self.peek().cloned() else {
                    return Err("`[` needs a text in quotes".to_owned());
                };
                self.at += 1;
                parts.push(part);
                if !self.takes_sign("]") {
                    return Err("`[` is not closed".to_owned());
                }
            } else {
                return Ok(parts);
            }
        }
    }

    fn part(&mut self) -> Result<String, String> {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '/';
        match self.word(0) {
            Some(word) if word.chars().all(fine) => {
                let word = word.to_owned();
                self.at += 1;
                Ok(word)
            }
            _ => Err("a selector is missing".to_owned()),
        }
    }
}

/// A regular expression of a stranger's, within bounds.
pub(crate) fn regex(text: &str) -> Result<Regex, String> {
    regex_within(text, REGEX_BYTES_MAX)
}

/// One that is cheap to compile: names and a few wildcards.
pub(crate) fn small_regex(text: &str) -> Result<Regex, String> {
    regex_within(text, SMALL_REGEX_BYTES_MAX)
}

fn regex_within(text: &str, bytes_max: usize) -> Result<Regex, String> {
    let limits = Regex::config()
        .nfa_size_limit(Some(bytes_max))
        .hybrid(false)
        .dfa(false);
    let built = Regex::builder().configure(limits).build(text);
    built.map_err(|error| format!("{text:?} is no regular expression: {error}"))
}

fn negate(node: Node, negated: bool) -> Node {
    if negated {
        Node::Not(Box::new(node))
    } else {
        node
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn regular_expressions_are_few_and_those_of_events_small() {
        let many = |count: usize| vec![r#"A matches "b""#; count].join(" or ");
        assert!(Filter::parse(&many(MATCHES_MAX)).is_ok());
        let refused = Filter::parse(&many(MATCHES_MAX + 1)).err().unwrap();
        assert!(refused.text.contains("8 `matches`"), "{}", refused.text);
        assert!(small_regex("web-.*|api[0-9]+").is_ok());
        assert!(small_regex(r"\w{7}").is_err());
    }

    fn entry() -> Value {
        json!({
            "Node": { "Node": "n1", "Meta": { "rack": "7" } },
            "Service": {
                "ID": "web1", "Service": "web", "Tags": ["blue", "v1"], "Port": 80,
                "Meta": { "zone": "a", "a b": "c" }, "Address": "",
                "EnableTagOverride": false, "Weights": { "Passing": 1 },
            },
            "Checks": [{ "Status": "passing" }, { "Status": "critical" }],
        })
    }

    fn check(expression: &str, expected: bool) {
        let mut list = json!([entry()]);
        Filter::parse(expression).unwrap().apply(&mut list).unwrap();
        assert_eq!(
            list.as_array().unwrap().len() == 1,
            expected,
            "{expression}"
        );
    }

    fn refused(expression: &str) -> String {
        let mut list = json!([entry()]);
        let filter = Filter::parse(expression);
        let refusal = filter
            .and_then(|filter| filter.apply(&mut list))
            .unwrap_err();
        assert_eq!(refusal.status, 400);
        refusal.text
    }

    #[test]
    fn every_operator_means_what_the_grammar_says() {
        for (expression, expected) in [
            ("Service.Service == web", true),
            ("Service.Service == \"web\"", true),
            ("Service.Service != web", false),
            ("Service.Port == 80", true),
            ("Service.EnableTagOverride == false", true),
            ("blue in Service.Tags", true),
            ("\"red\" in Service.Tags", false),
            ("red not in Service.Tags", true),
            ("Service.Tags contains v1", true),
            ("Service.Tags not contains v1", false),
            ("zone in Service.Meta", true),
            ("Service.ID contains eb", true),
            ("Service.Meta.zone == a", true),
            ("Service.Meta[\"a b\"] == `c`", true),
            ("Service.Meta.nothing == a", false),
            ("Service.Meta.nothing != a", true),
            ("Service.Meta.nothing is empty", true),
            ("Service.Address is empty", true),
            ("Service.Tags is not empty", true),
            ("Service.Service matches \"^w.b$\"", true),
            ("Service.Service matches `e`", true),
            ("Service.Service not matches \"^e\"", true),
            ("Service.Meta.zone matches b", false),
            ("Checks.Status == critical", true),
            ("Checks.Status == warning", false),
            ("Node.Meta.rack == 7 and Service.Service == web", true),
        ] {
            check(expression, expected);
        }
    }

    #[test]
    fn not_binds_before_and_and_that_before_or() {
        check(
            "Service.ID == x or Service.ID == web1 and Service.Port == 80",
            true,
        );
        check(
            "(Service.ID == web1 or Service.ID == x) and Service.Port == 81",
            false,
        );
        check("not Service.ID == x and Service.Port == 80", true);
        check("not (Service.ID == web1 and Service.Port == 80)", false);
        check("not not Service.ID == web1", true);
    }

    #[test]
    fn what_is_wrong_is_refused_with_a_reason() {
        assert!(refused("Service.Nothing == a").contains("Service.Nothing"));
        assert!(refused("Service.ID =").contains("may not stand here"));
        assert!(refused("Service.ID").contains("no operator"));
        assert!(refused("Service.ID ==").contains("value"));
        assert!(refused("(Service.ID == a").contains("not closed"));
        assert!(refused("Service.ID == \"a").contains("not closed"));
        assert!(refused("Service.ID == a b").contains("too many"));
        assert!(refused("Service.ID matches \"(\"").contains("no regular expression"));
        assert!(refused("Service.ID matches `(a{1000}){1000}`").contains("no regular expression"));
        assert!(refused("").contains("selector"));
        assert!(refused(&format!("{}Service.ID == a", "not ".repeat(100))).contains("deeper"));
        assert!(refused(&"a".repeat(5000)).contains("longer"));
    }

    #[test]
    fn the_values_of_a_map_are_kept_by_their_own_fields() {
        let mut map = json!({ "a": { "Port": 1 }, "b": { "Port": 2 } });
        Filter::parse("Port == 2").unwrap().apply(&mut map).unwrap();
        assert_eq!(map, json!({ "b": { "Port": 2 } }));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            if let Ok(filter) = Filter::parse(&text) {
                drop(filter.apply(&mut json!([entry()])));
            }
        }

        #[test]
        fn what_looks_like_an_expression_makes_it_no_panic(
            text in "(not |\\(|Service|\\.|Tags| == | in | is empty|\"a\"|\\)| and | or |\\[|\\]|7){0,20}",
        ) {
            if let Ok(filter) = Filter::parse(&text) {
                drop(filter.apply(&mut json!([entry()])));
            }
        }

        #[test]
        fn a_filter_and_its_negation_share_a_list_out(ports in proptest::collection::vec(0_u8..4, 0..8)) {
            let list: Value = ports.iter().map(|port| json!({ "Port": port, "Tags": ["x"] })).collect();
            let kept = |expression: &str| {
                let mut list = list.clone();
                Filter::parse(expression).unwrap().apply(&mut list).unwrap();
                list.as_array().unwrap().len()
            };
            prop_assert_eq!(kept("Port == 2") + kept("not Port == 2"), ports.len());
            prop_assert_eq!(kept("Port == 2"), ports.iter().filter(|port| **port == 2).count());
        }
    }
}
