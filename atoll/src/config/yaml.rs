//! JSON values as YAML that every reader takes for the same.

use serde_json::Value;

/// YAML 1.2 §7.4 takes at most 1024 characters of a key without a `?`.
const PLAIN_KEY_CHARS_MAX: usize = 1000;

/// `value` as YAML, with a line end.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut out),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            scalar(value, &mut out);
            out.push('\n');
        }
    }
    out
}

/// A map or list that is not empty, each line at `indent`.
fn block(value: &Value, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                out.push_str(&margin);
                let key = quoted(key);
                if key.chars().count() > PLAIN_KEY_CHARS_MAX {
                    out.push_str("? ");
                    out.push_str(&key);
                    out.push('\n');
                    out.push_str(&margin);
                } else {
                    out.push_str(&key);
                }
                out.push(':');
                below(value, indent + 2, out);
            }
        }
        Value::Array(list) => {
            for value in list {
                out.push_str(&margin);
                out.push('-');
                below(value, indent + 2, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What follows a `:` or `-`.
fn below(value: &Value, indent: usize, out: &mut String) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if nested {
        if out.ends_with('-') {
            // `- key: value`, the first key on the line of the dash.
            let mut inner = String::new();
            block(value, indent, &mut inner);
            out.push(' ');
            out.push_str(inner.trim_start_matches(' '));
            return;
        }
        out.push('\n');
        block(value, indent, out);
    } else {
        out.push(' ');
        scalar(value, out);
        out.push('\n');
    }
}

fn scalar(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Bare where nobody could take it for anything else, otherwise in quotes.
fn quoted(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // Line ends of YAML 1.1, marks that editors drop, and what is not printable.
            c if c.is_control()
                || matches!(
                    c,
                    '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
                ) =>
            {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    // All that stands here is outside of `[…]` and `{…}`, where braces and commas
    // are letters like others.
    let plain = |c: char| c.is_ascii_alphanumeric() || " /_.-=+$()*%;<>~{},".contains(c);
    let begins = match text.trim_start_matches(|c: char| c.is_ascii_digit()) {
        // `10s` is no number, unlike `1e3`, `0x1`, `1_000` and `1.5`.
        rest if rest.len() < text.len() => rest
            .starts_with(|c: char| c == '%' || c.is_ascii_alphabetic() && !"eExXoObB".contains(c)),
        _ => text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_'),
    };
    // Words that some version of YAML takes for no text.
    let taken = matches!(
        &text.to_ascii_lowercase()[..],
        "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    begins && !taken && text.chars().all(plain) && !text.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_readably() {
        let value = json!({
            "name": "shop", "none": null, "empty": {}, "list": [], "number": 2, "flag": true,
            "no": "no", "text": "a: b", "2": "3", "/users/{id}": { "to": [{ "service": "a", "weight": 1 }, "b"] },
        });
        let expected = "name: shop\nnone: null\nempty: {}\nlist: []\nnumber: 2\nflag: true\n\"no\": \"no\"\ntext: \"a: b\"\n\"2\": \"3\"\n/users/{id}:\n  to:\n    - service: a\n      weight: 1\n    - b\n";
        assert_eq!(to_yaml(&value), expected);
        assert_eq!(to_yaml(&json!({})), "{}\n");
    }

    #[test]
    fn only_what_is_surely_text_goes_without_quotes() {
        for text in [
            "10s",
            "20%",
            "8MiB",
            "/a/{b*}",
            "run --port $PORT",
            "a,b",
            "_x",
            "1m15s",
        ] {
            assert_eq!(quoted(text), text);
        }
        for text in [
            "",
            " a",
            "a ",
            "1",
            "1.5",
            "1e3",
            "0x1f",
            "0o7",
            "1_000",
            "12:30:45",
            "2001-01-01",
            "-",
            "- a",
            "~",
            ".5",
            "a: b",
            "a #b",
            "null",
            "No",
            "TRUE",
            "off",
            "y",
            "*a",
            "&a",
            "!a",
            "{a}",
            "[a]",
            "%a",
            "a\n",
            "é",
            "?",
            "<<",
            "=",
            "'a'",
            "\"",
            "`a",
            "@a",
            "|",
            ">",
        ] {
            assert!(quoted(text).starts_with('"'), "{text}");
        }
    }
}
