//! Templates: queries that are made for a name when it is asked for.
//!
//! Consul interpolates every text of `Service` with HIL; its documentation names the
//! five variables, and these are what there is here. `$${` stands for `${`, as in HIL.

use regex_automata::util::captures::Captures;
use serde_json::Value;

use super::definition::Definition;
use crate::filter::regex;

/// The one type of template.
pub(super) const PREFIX: &str = "name_prefix_match";
/// Bytes of one text after interpolation: `${name.full}` may be written many times.
const TEXT_BYTES_MAX: usize = 4096;

/// What stands for the variables.
struct Name<'a> {
    full: &'a str,
    prefix: &'a str,
    matches: Vec<&'a str>,
}

/// The query that `template` comes to for `name`; an error says what is wrong with the
/// template.
pub(super) fn rendered(template: &Definition, name: &str) -> Result<Definition, String> {
    if template.kind() != PREFIX {
        return Err(format!("Bad Template.Type '{}'", template.kind()));
    }
    let prefix = &template.name[..];
    let name = Name {
        full: name,
        prefix,
        matches: matches(&template.regexp, name)?,
    };
    let mut query = template.clone();
    interpolate(&mut query.service, &name)?;
    if query.remove_empty_tags
        && let Some(Value::Array(tags)) = query.service.get_mut("Tags")
    {
        tags.retain(|tag| tag != "");
    }
    Ok(query)
}

/// What the groups of `regexp` match in `name`; nothing when it does not match.
fn matches<'n>(regexp: &str, name: &'n str) -> Result<Vec<&'n str>, String> {
    if regexp.is_empty() {
        return Ok(Vec::new());
    }
    let regex = regex(regexp).map_err(|error| format!("Bad Regexp: {error}"))?;
    let mut captures: Captures = regex.create_captures();
    regex.captures(name, &mut captures);
    if !captures.is_match() {
        return Ok(Vec::new());
    }
    let groups = captures.iter();
    let text = |group: Option<regex_automata::Span>| group.map_or("", |at| &name[at.range()]);
    Ok(groups.map(text).collect())
}

/// Fills in all texts; keys stay as they are.
fn interpolate(value: &mut Value, name: &Name<'_>) -> Result<(), String> {
    match value {
        Value::String(text) => *text = filled(text, name)?,
        Value::Array(list) => {
            for item in list {
                interpolate(item, name)?;
            }
        }
        Value::Object(map) => {
            for item in map.values_mut() {
                interpolate(item, name)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

fn filled(text: &str, name: &Name<'_>) -> Result<String, String> {
    let mut full = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(literal) = before.strip_suffix('$') {
            full.push_str(literal);
            full.push_str("${");
            rest = &from[2..];
            continue;
        }
        full.push_str(before);
        let end = from
            .find('}')
            .ok_or_else(|| format!("Bad format '{text}' in Service: `${{` is not closed"))?;
        full.push_str(variable(from[2..end].trim(), name).ok_or_else(|| {
            format!(
                "Bad format '{text}' in Service: '{}' is none of name.full, name.prefix, name.suffix, match(N) and agent.segment",
                &from[2..end]
            )
        })?);
        rest = &from[end + 1..];
        if full.len() > TEXT_BYTES_MAX {
            return Err(format!(
                "a text of Service becomes longer than {TEXT_BYTES_MAX} bytes"
            ));
        }
    }
    full.push_str(rest);
    Ok(full)
}

fn variable<'n>(variable: &str, name: &Name<'n>) -> Option<&'n str> {
    match variable {
        "name.full" => Some(name.full),
        "name.prefix" => Some(name.prefix),
        "name.suffix" => {
            let (head, tail) = name.full.split_at_checked(name.prefix.len())?;
            // DNS writes names in small letters, whatever the prefix is written in.
            let ours = head.eq_ignore_ascii_case(name.prefix);
            Some(if ours { tail } else { name.full })
        }
        // There are no segments in Consul's free edition: its one is called nothing.
        "agent.segment" => Some(""),
        call => {
            let number = call.strip_prefix("match(")?.strip_suffix(')')?;
            let number: usize = number.trim().parse().ok()?;
            Some(name.matches.get(number).copied().unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::Fields;

    fn template(name: &str, regexp: &str, service: Value) -> Result<Definition, String> {
        let body = json!({
            "Name": name, "Service": service,
            "Template": { "Type": PREFIX, "Regexp": regexp, "RemoveEmptyTags": true },
        });
        let fields = Fields::of_body(body.to_string().as_bytes()).unwrap();
        Definition::parse(&fields).map_err(|refusal| refusal.text)
    }

    #[test]
    fn the_example_of_consuls_documentation_is_made_as_it_says() {
        let service = json!({
            "Service": "mysql-${match(1)}", "Tags": ["${match(2)}", "${match(9)}"],
            "Near": "${name.prefix}${name.suffix}", "NodeMeta": { "${name.full}": "$${name.full}" },
        });
        let regexp = r"^geo-db-(.*?)-([^\-]+?)$";
        let query = template("geo-db", regexp, service).unwrap();
        let query = rendered(&query, "geo-db-customer-primary").unwrap();
        let wanted = query.wanted().unwrap();
        assert_eq!(wanted.service, "mysql-customer");
        assert_eq!(wanted.tags, ["primary"]);
        assert_eq!(wanted.near, "geo-db-customer-primary");
        let meta = ("${name.full}".to_owned(), "${name.full}".to_owned());
        assert_eq!(wanted.node_meta, [meta]);
    }

    #[test]
    fn a_suffix_is_cut_in_any_case_and_what_does_not_match_is_empty() {
        let service = json!({ "Service": "x${name.suffix}", "Tags": ["${match(0)}"] });
        let query = template("Geo-", "^never$", service).unwrap();
        let wanted = rendered(&query, "geo-db").unwrap().wanted().unwrap();
        assert_eq!(wanted.service, "xdb");
        assert_eq!(wanted.tags, [""; 0]);
    }

    #[test]
    fn what_cannot_be_made_is_refused_at_once() {
        for (regexp, text) in [
            ("", "${a}"),
            ("", "${name.full"),
            ("", "${match(x)}"),
            ("(", "a"),
        ] {
            assert!(
                template("", regexp, json!({ "Service": text })).is_err(),
                "{text}"
            );
        }
        assert!(template("", "(a{1000}){1000}", json!({ "Service": "a" })).is_err());
        let long = "${name.full}".repeat(30_000);
        let long = template("", "", json!({ "Service": long })).unwrap();
        assert!(
            rendered(&long, &"a".repeat(200))
                .unwrap_err()
                .contains("longer")
        );
    }
}
