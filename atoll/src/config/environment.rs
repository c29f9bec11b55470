//! `environment:`, `env_file:` and other free pairs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::decode::{Context, Fields};
use super::dotenv;
use super::keys;
use super::source::{Source, Span};
use super::tree::{Node, Value};
use super::variables::GIVEN;

/// What pairs are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// Variables of a process: a name alone takes its value from Atoll's own.
    Environment,
    Free,
}

/// `{ NAME: value }` or `[NAME=value]`.
pub(crate) fn pairs(cx: &Context<'_>, node: &Node, purpose: Pairs) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut put = |name: &str, span: Span, value: Option<String>| {
        if !is_name(cx, name, span, purpose) {
            return;
        }
        let value = match (value, purpose) {
            (Some(value), _) => value,
            (None, Pairs::Free) => String::new(),
            (None, Pairs::Environment) => match cx.variables.get(name) {
                Some(value) if cx.spend(span, value.len()) => value.to_owned(),
                Some(_) => return,
                None => {
                    let message =
                        format!("the variable `{name}` is not set; the service gets none");
                    return cx.warn(span, message);
                }
            },
        };
        if found.insert(name.to_owned(), value).is_some() {
            cx.error(span, format!("`{name}` stands here twice"));
        }
    };
    match &node.value {
        Value::Map(entries) => {
            for entry in entries.iter() {
                match entry.node.is_null() {
                    true => put(&entry.key, entry.key_span, None),
                    false => {
                        if let Some(word) = cx.text(&entry.node) {
                            put(&entry.key, entry.key_span, Some(word.text));
                        }
                    }
                }
            }
        }
        Value::Null | Value::Text(_) | Value::List(_) => {
            for item in cx.list(node).unwrap_or_default() {
                let Some(word) = cx.text(item) else {
                    continue;
                };
                match word.text.split_once('=') {
                    Some((name, value)) => put(name, item.span, Some(value.to_owned())),
                    None => put(&word.text, item.span, None),
                }
            }
        }
    }
    found
}

fn is_name(cx: &Context<'_>, name: &str, span: Span, purpose: Pairs) -> bool {
    if name.is_empty() || name.contains(['=', '\0']) || name.chars().any(char::is_whitespace) {
        cx.error(span, format!("`{name}` is not a variable's name"));
        return false;
    }
    if purpose == Pairs::Environment && GIVEN.contains(&name) {
        let hint = match name {
            "PORT" => "for a fixed one give `port: 8080`",
            _ => "remove it",
        };
        cx.error_with(
            span,
            format!("`{name}` is given to each replica by Atoll"),
            hint,
        );
        return false;
    }
    true
}

/// All variables of a service: of its files, and its own, which win.
pub(crate) fn variables(
    cx: &Context<'_>,
    fields: &Fields<'_>,
    files: &mut Vec<PathBuf>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Some(node) = fields.get("env_file") {
        match &node.value {
            Value::List(items) => {
                for item in items.iter() {
                    all.extend(env_file(cx, item, files).unwrap_or_default());
                }
            }
            Value::Null | Value::Text(_) | Value::Map(_) => {
                all.extend(env_file(cx, node, files).unwrap_or_default());
            }
        }
    }
    if let Some(node) = fields.get("environment") {
        all.extend(pairs(cx, node, Pairs::Environment));
    }
    all
}

fn env_file(
    cx: &Context<'_>,
    node: &Node,
    files: &mut Vec<PathBuf>,
) -> Option<BTreeMap<String, String>> {
    let (word, required, raw) = match &node.value {
        Value::Map(_) => {
            let fields = Fields::of(cx, node, &keys::ENV_FILE)?;
            let path = fields.get("path");
            let required = fields.get("required").map(|node| cx.flag(node));
            let format = fields.get("format").map(|node| cx.choice(node, &["raw"]));
            fields.finish();
            let Some(path) = path else {
                cx.error(node.span, "an `env_file` needs a `path`");
                return None;
            };
            let raw = match format {
                Some(format) => format? == "raw",
                None => false,
            };
            (cx.words(path)?, required.unwrap_or(Some(true))?, raw)
        }
        Value::Null | Value::Text(_) | Value::List(_) => (cx.words(node)?, true, false),
    };
    let path = cx.path(&word.text);
    if !cx.reads_files {
        cx.error(word.span, "no file is read here");
        return None;
    }
    if !files.contains(&path) {
        files.push(path.clone());
    }
    if !path.exists() {
        if required {
            let message = format!("there is no file {}", path.display());
            cx.error_with(
                word.span,
                message,
                "with `required: false` it may be missing",
            );
        }
        return None;
    }
    let source = match Source::read(&path) {
        Ok(source) => source,
        Err(wrong) => {
            cx.error(word.span, format!("{}: {}", wrong.file, wrong.message));
            return None;
        }
    };
    let (found, said) = match raw {
        true => dotenv::parse_raw(&source),
        false => dotenv::parse(&source, cx.variables),
    };
    said.into_iter()
        .for_each(|diagnostic| cx.report(diagnostic));
    let bytes = found.iter().map(|(name, value)| name.len() + value.len());
    if !cx.spend(word.span, bytes.sum()) {
        return None;
    }
    if let Some(given) = GIVEN.iter().find(|name| found.contains_key(**name)) {
        cx.error(
            word.span,
            format!(
                "`{given}` is given to each replica by Atoll; remove it from {}",
                word.text
            ),
        );
    }
    Some(found)
}
