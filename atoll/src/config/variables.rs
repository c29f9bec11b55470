//! `${VAR}` and its kin, exactly as Compose's interpolation has them.
//!
//! Values are put into texts that YAML has already been read from, so they can
//! never change the structure of the file. A `$` by itself is written `$$`.

use std::collections::BTreeMap;

/// Defaults within defaults.
const DEPTH_MAX: usize = 16;

/// Bytes that one text may grow to.
const RESULT_BYTES_MAX: usize = 256 * 1024;

/// Where variables are looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    /// Of the process; these win.
    pub(crate) process: BTreeMap<String, String>,
    /// Of the `.env` beside the file.
    pub(crate) file: BTreeMap<String, String>,
}

impl Variables {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.process.get(name).or_else(|| self.file.get(name));
        value.map(String::as_str)
    }
}

/// Which variables a text keeps for whoever reads it next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// None.
    Nothing,
    /// A shell command: [`GIVEN`], whatever form they are written in.
    ForShell,
    /// A word of a command without a shell: `$PORT` and `${PORT}`, which the fleet
    /// replaces.
    ForFleet,
}

/// What every replica is given; only it knows their values.
pub(crate) const GIVEN: [&str; 3] = ["PORT", "ATOLL_SERVICE", "ATOLL_INSTANCE"];

/// What came of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interpolated {
    pub(crate) text: String,
    /// Variables that are not set and have no default.
    pub(crate) unset: Vec<String>,
}

/// Replaces the variables in `text`.
pub(crate) fn interpolate(
    text: &str,
    variables: &Variables,
    keep: Keep,
) -> Result<Interpolated, String> {
    let mut done = Interpolated::default();
    fill(text, variables, keep, 0, &mut done)?;
    Ok(done)
}

/// `text` so that [`interpolate`] gives it back.
pub(crate) fn escape(text: &str, keep: Keep) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        escaped.push_str(&rest[..at]);
        rest = &rest[at..];
        // `$PORT` stays readable where it would be left alone.
        let kept = match keep {
            Keep::Nothing => &[][..],
            Keep::ForShell => &GIVEN[..],
            Keep::ForFleet => &GIVEN[..1],
        };
        let kept = kept.iter().find_map(|name| {
            let braced = format!("${{{name}}}");
            let bare = name_at(&rest[1..]) == *name;
            match rest.starts_with(&braced) {
                true => Some(braced.len()),
                false => bare.then_some(1 + name.len()),
            }
        });
        if let Some(whole) = kept {
            escaped.push_str(&rest[..whole]);
            rest = &rest[whole..];
        } else {
            escaped.push_str("$$");
            rest = &rest[1..];
        }
    }
    escaped.push_str(rest);
    escaped
}

fn fill(
    text: &str,
    variables: &Variables,
    keep: Keep,
    depth: usize,
    done: &mut Interpolated,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("variables are nested more than {DEPTH_MAX} deep"));
    }
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        done.text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            done.text.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end =
                closing(after).ok_or("a `${` is not closed; a `$` by itself is written `$$`")?;
            braced(&after[..end], variables, keep, depth, done)?;
            rest = &after[end + 1..];
        } else {
            let name = name_at(rest);
            if name.is_empty() {
                return Err(
                    "a `$` that begins no variable; a `$` by itself is written `$$`".to_owned(),
                );
            }
            // Within a default, what follows could be read as part of the name.
            let bare = depth == 0;
            plain(name, bare, variables, keep, done)?;
            rest = &rest[name.len()..];
        }
        if done.text.len() > RESULT_BYTES_MAX {
            return Err(format!(
                "with its variables it has more than {RESULT_BYTES_MAX} bytes"
            ));
        }
    }
    done.text.push_str(rest);
    Ok(())
}

/// `$NAME` or `${NAME}`.
fn plain(
    name: &str,
    bare: bool,
    variables: &Variables,
    keep: Keep,
    done: &mut Interpolated,
) -> Result<(), String> {
    if keep != Keep::Nothing && GIVEN.contains(&name) {
        if keep == Keep::ForFleet && name != "PORT" {
            return Err(format!(
                "`${name}` needs a shell: write the command as one text, not as a list"
            ));
        }
        done.text.push_str(&match bare {
            true => format!("${name}"),
            false => format!("${{{name}}}"),
        });
        return Ok(());
    }
    match variables.get(name) {
        Some(value) => done.text.push_str(value),
        None => done.unset.push(name.to_owned()),
    }
    Ok(())
}

/// What stands between `${` and its `}`.
fn braced(
    inner: &str,
    variables: &Variables,
    keep: Keep,
    depth: usize,
    done: &mut Interpolated,
) -> Result<(), String> {
    let name = name_at(inner);
    if name.is_empty() {
        return Err(format!(
            "`${{{inner}}}` has no variable's name at its beginning"
        ));
    }
    let operator = &inner[name.len()..];
    if operator.is_empty() {
        return plain(name, false, variables, keep, done);
    }
    if keep != Keep::Nothing && GIVEN.contains(&name) {
        if keep == Keep::ForFleet {
            return Err(format!(
                "`${{{inner}}}` needs a shell: write the command as one text, not as a list"
            ));
        }
        done.text.push_str(&format!("${{{inner}}}"));
        return Ok(());
    }
    let (or_empty, operator) = match operator.strip_prefix(':') {
        Some(operator) => (true, operator),
        None => (false, operator),
    };
    let value = variables
        .get(name)
        .filter(|value| !(or_empty && value.is_empty()));
    let mut signs = operator.chars();
    let sign = signs.next();
    let word = signs.as_str();
    match (sign, value) {
        (Some('-'), Some(value)) => done.text.push_str(value),
        (Some('-'), None) | (Some('+'), Some(_)) => {
            fill(word, variables, keep, depth + 1, done)?;
        }
        (Some('+'), None) => {}
        (Some('?'), Some(value)) => done.text.push_str(value),
        (Some('?'), None) => {
            let mut message = Interpolated::default();
            fill(word, variables, Keep::Nothing, depth + 1, &mut message)?;
            let message = match message.text.is_empty() {
                true => "it is required".to_owned(),
                false => message.text,
            };
            return Err(format!("the variable `{name}` is not set: {message}"));
        }
        _ => {
            return Err(format!(
                "`${{{inner}}}` is no form that is known; use ${{{name}}}, ${{{name}:-default}}, ${{{name}:?message}} or ${{{name}:+other}}"
            ));
        }
    }
    Ok(())
}

/// Place of the `}` that closes what was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut open = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'$') => at += 1,
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                open += 1;
                at += 1;
            }
            b'}' if open == 0 => return Some(at),
            b'}' => open -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// The longest name that `text` begins with; may be empty.
fn name_at(text: &str) -> &str {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !part(c)).unwrap_or(text.len());
    match text.starts_with(|c: char| c.is_ascii_digit()) {
        true => "",
        false => &text[..end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let pairs = [
            ("SET", "value"),
            ("EMPTY", ""),
            ("DOLLAR", "$SET ${SET}"),
            ("PORT", "1"),
        ];
        let process = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Variables {
            process: process.into(),
            file: BTreeMap::from([("SET".to_owned(), "of the file".to_owned())]),
        }
    }

    fn filled(text: &str, keep: Keep) -> String {
        match interpolate(text, &variables(), keep) {
            Ok(done) if done.unset.is_empty() => done.text,
            Ok(done) => format!("{} (unset: {})", done.text, done.unset.join(", ")),
            Err(why) => format!("error: {why}"),
        }
    }

    /// As `docker compose config` answers.
    #[test]
    fn variables_are_replaced_as_compose_does() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$SET and ${SET}", "value and value"),
            ("$SET-x", "value-x"),
            ("$SETx", " (unset: SETx)"),
            ("$$SET $$ $${SET}", "$SET $ ${SET}"),
            ("${UNSET}", " (unset: UNSET)"),
            ("${SET:-d}${SET-d}", "valuevalue"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${UNSET:-d} ${UNSET-d}", "d d"),
            ("${UNSET:-}", ""),
            (
                "${SET:+other} ${EMPTY:+other} ${EMPTY+other}",
                "other  other",
            ),
            ("${UNSET+other}${UNSET:+other}", ""),
            ("${SET:?no} ${EMPTY?no}", "value "),
            ("${UNSET:-${SET}}", "value"),
            ("${UNSET:-a${EMPTY:-b${SET}c}d}e", "abvaluecde"),
            ("${UNSET:-$SET}", "value"),
            ("${UNSET:-$$}", "$"),
            ("${UNSET:-a:-b}", "a:-b"),
            ("${UNSET:-{}}", "{}"),
            // A value is not looked into again.
            ("$DOLLAR", "$SET ${SET}"),
            ("ünï${SET}cödé", "ünïvaluecödé"),
            (
                "${EMPTY:?it is ${SET}}",
                "error: the variable `EMPTY` is not set: it is value",
            ),
            (
                "${UNSET?}",
                "error: the variable `UNSET` is not set: it is required",
            ),
        ] {
            assert_eq!(filled(text, Keep::Nothing), expected, "{text}");
        }
        for text in [
            "$", "a $ b", "$1", "${", "${}", "${1}", "${A", "${A:}", "${A:=b}", "${A!}", "${ A}",
        ] {
            assert!(filled(text, Keep::Nothing).starts_with("error"), "{text}");
        }
    }

    #[test]
    fn what_a_replica_is_given_is_left_to_it_in_commands() {
        for (text, expected) in [
            (
                "run $PORT ${PORT} ${PORT:-80} $PORTS",
                "run $PORT ${PORT} ${PORT:-80}  (unset: PORTS)",
            ),
            (
                "$ATOLL_SERVICE $ATOLL_INSTANCE $SET",
                "$ATOLL_SERVICE $ATOLL_INSTANCE value",
            ),
            ("${UNSET:-$PORT}0", "${PORT}0"),
        ] {
            assert_eq!(filled(text, Keep::ForShell), expected, "{text}");
        }
        assert_eq!(
            filled("--port=$PORT ${PORT}", Keep::ForFleet),
            "--port=$PORT ${PORT}"
        );
        assert!(filled("$ATOLL_SERVICE", Keep::ForFleet).contains("needs a shell"));
        assert!(filled("${PORT:-80}", Keep::ForFleet).contains("needs a shell"));
        assert_eq!(filled("$PORT", Keep::Nothing), "1");
    }

    #[test]
    fn what_is_escaped_is_read_back_alike() {
        for keep in [Keep::Nothing, Keep::ForShell, Keep::ForFleet] {
            for text in [
                "",
                "$",
                "$$",
                "$PORT",
                "${PORT}",
                "$$PORT",
                "${PORT:-1}",
                "$PORTS",
                "a$ATOLL_SERVICE",
                "${UNSET",
                "$SET $1 $? \\$ ü$",
            ] {
                let escaped = escape(text, keep);
                assert_eq!(filled(&escaped, keep), text, "{escaped}");
            }
        }
        assert_eq!(
            escape("run --port $PORT", Keep::ForShell),
            "run --port $PORT"
        );
    }

    #[test]
    fn nesting_and_growth_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "${UNSET:-".repeat(depth), "}".repeat(depth));
        assert_eq!(filled(&nested(16), Keep::Nothing), "");
        assert!(filled(&nested(100_000), Keep::Nothing).contains("nested"));
        let long = Variables {
            process: BTreeMap::from([("LONG".to_owned(), "x".repeat(10_000))]),
            file: BTreeMap::new(),
        };
        let text = "$LONG".repeat(1000);
        assert!(
            interpolate(&text, &long, Keep::Nothing)
                .unwrap_err()
                .contains("bytes")
        );
    }
}
