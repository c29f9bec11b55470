//! Holds each answer to what the document says of it: its status is named, its
//! content type too, and its body has the fields and types of the schema, no others.

use atoll_net::client::Response;
use http::Method;
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// Panics where `answer` and the document disagree.
pub(super) fn check(method: &Method, target: &str, answer: &Response) {
    let document = serde_json::to_value(crate::openapi()).unwrap();
    let path = target.split('?').next().unwrap_or_default();
    let place = format!("{method} {target}: {}", answer.status);
    let Some(operation) = operation(&document, method, path) else {
        assert!(
            matches!(answer.status.as_u16(), 401 | 403 | 404 | 405),
            "{place}"
        );
        conform(
            &document,
            &document["components"]["schemas"]["Problem"],
            &json(answer),
            &place,
        );
        return;
    };
    let response = &operation["responses"][answer.status.as_str()];
    assert!(response.is_object(), "{place} is not in the document");
    let Some(contents) = response["content"].as_object() else {
        assert!(
            answer.body.is_empty(),
            "{place}: a body that is not in the document"
        );
        return;
    };
    let kind = answer.headers[CONTENT_TYPE].to_str().unwrap();
    let kind = kind.split(';').next().unwrap_or_default();
    let content = contents
        .get(kind)
        .unwrap_or_else(|| panic!("{place}: {kind} is not in the document"));
    let schema = &content["schema"];
    let text = String::from_utf8_lossy(&answer.body);
    match kind {
        "application/json" | "application/problem+json" => {
            conform(&document, schema, &json(answer), &place);
        }
        "application/x-ndjson" => {
            for line in text.lines() {
                conform(
                    &document,
                    schema,
                    &serde_json::from_str(line).unwrap(),
                    &place,
                );
            }
        }
        _ => conform(&document, schema, &Value::String(text.into_owned()), &place),
    }
}

/// Checks one event of a watch.
pub(super) fn check_event(event: &str) {
    let document = serde_json::to_value(crate::openapi()).unwrap();
    let schema = &document["components"]["schemas"]["WatchEvent"];
    conform(
        &document,
        schema,
        &serde_json::from_str(event).unwrap(),
        event,
    );
}

fn json(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn operation<'d>(document: &'d Value, method: &Method, path: &str) -> Option<&'d Value> {
    let segments: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let template: Vec<&str> = template.split('/').collect();
        template.len() == segments.len()
            && template
                .iter()
                .zip(&segments)
                .all(|(t, s)| t.starts_with('{') || t == s)
    };
    let paths = document["paths"].as_object().unwrap();
    let (_, item) = paths.iter().find(|(template, _)| fits(template))?;
    item.get(method.as_str().to_lowercase())
}

fn conform(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap_or_default();
        return conform(
            document,
            &document["components"]["schemas"][name],
            value,
            place,
        );
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let choice = choices
            .iter()
            .find(|one| (one["type"] == "null") == value.is_null());
        return conform(document, choice.unwrap(), value, place);
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        // Anything.
        _ => return,
    };
    let fits = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{place}: a type `{other}`"),
    };
    assert!(
        kinds.iter().any(fits),
        "{place}: {value} is none of {kinds:?}"
    );
    for item in value.as_array().into_iter().flatten() {
        conform(document, &schema["items"], item, place);
    }
    let Some(fields) = value.as_object() else {
        return;
    };
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().unwrap();
        assert!(
            fields.contains_key(name),
            "{place}: `{name}` is missing in {value}"
        );
    }
    for (name, field) in fields {
        let of_field = &schema["properties"][name];
        let of_others = &schema["additionalProperties"];
        let schema = if of_field.is_null() {
            of_others
        } else {
            of_field
        };
        assert!(
            !schema.is_null(),
            "{place}: `{name}` is not in the document"
        );
        conform(document, schema, field, &format!("{place}, `{name}`"));
    }
}
