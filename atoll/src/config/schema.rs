//! The JSON Schema of the file, for editors, made of the tables in `keys.rs`.

use serde_json::{Map, Value, json};

use super::keys::{Effect, Kind, Object, ROOT};

/// JSON Schema 2020-12 of the file.
pub fn schema() -> Value {
    let mut definitions = Map::new();
    let root = object(&ROOT, &mut definitions);
    let mut all = Map::new();
    let dialect = "https://json-schema.org/draft/2020-12/schema";
    all.insert("$schema".to_owned(), json!(dialect));
    all.insert("title".to_owned(), json!("atoll.yaml"));
    if let Value::Object(root) = root {
        all.extend(root);
    }
    all.insert("$defs".to_owned(), Value::Object(definitions));
    Value::Object(all)
}

fn object(object: &'static Object, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for key in object.all() {
        let mut schema = match key.effect {
            // Whatever it is, it is refused.
            Effect::Refused(_) => continue,
            Effect::Works | Effect::Nothing(_) => kind(&key.kind, definitions),
        };
        if let Value::Object(schema) = &mut schema {
            let about = match key.effect {
                Effect::Nothing(why) => format!("{} {why}.", key.about),
                Effect::Works | Effect::Refused(_) => key.about.to_owned(),
            };
            schema.insert("description".to_owned(), json!(about));
            if key.effect != Effect::Works {
                schema.insert("deprecated".to_owned(), json!(true));
            }
        }
        // A key without a value is as if it were not there.
        properties.insert(key.name.to_owned(), nullable(schema));
    }
    json!({
        "type": ["object", "null"],
        "properties": properties,
        "patternProperties": { "^x-": {} },
        "additionalProperties": false,
    })
}

fn nullable(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return schema;
    };
    let description = schema.remove("description");
    let deprecated = schema.remove("deprecated");
    let mut either = Map::new();
    if schema.is_empty() {
        either = schema;
    } else {
        either.insert("anyOf".to_owned(), json!([schema, { "type": "null" }]));
    }
    let notes = [("description", description), ("deprecated", deprecated)];
    for (name, note) in notes {
        if let Some(note) = note {
            either.insert(name.to_owned(), note);
        }
    }
    Value::Object(either)
}

/// Variables may stand for any scalar.
const VARIABLE: &str = r"\$";

fn kind(kind: &Kind, definitions: &mut Map<String, Value>) -> Value {
    let number_or = |pattern: &str| {
        json!({ "anyOf": [
            { "type": "number", "minimum": 0 },
            { "type": "string", "pattern": format!("{pattern}|{VARIABLE}") },
        ]})
    };
    match kind {
        Kind::Text => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Flag => json!({ "anyOf": [
            { "type": "boolean" },
            { "type": "string", "pattern": format!("^(true|false)$|{VARIABLE}") },
        ]}),
        Kind::Count(least, most) => json!({ "anyOf": [
            { "type": "integer", "minimum": least, "maximum": most },
            { "type": "string", "pattern": format!("^[0-9]+$|{VARIABLE}") },
        ]}),
        Kind::Duration => number_or(r"^([0-9.]+(ns|us|µs|ms|s|m|h|d))+$|^0$"),
        Kind::Size => number_or(r"^[0-9.]+ *([kKmMgGtT]?[iI]?[bB]?)$"),
        Kind::Percent => number_or(r"^[0-9]+ *%?$"),
        Kind::Word(words) => {
            let words = words.iter().map(|word| json!(word));
            // `off` is a boolean to YAML 1.1, as many editors read it.
            let off = words.clone().any(|word| word == "off");
            let words = words.chain(off.then(|| json!(false)));
            json!({ "anyOf": [
                { "enum": words.collect::<Vec<_>>() },
                { "type": "string", "pattern": VARIABLE },
            ]})
        }
        Kind::Object(inner) => {
            if !definitions.contains_key(inner.name) {
                // Before its own keys are looked at, since objects hold each other.
                definitions.insert(inner.name.to_owned(), Value::Null);
                let schema = object(inner, definitions);
                definitions.insert(inner.name.to_owned(), schema);
            }
            json!({ "$ref": format!("#/$defs/{}", inner.name) })
        }
        Kind::List(item) => json!({ "type": "array", "items": self::kind(item, definitions) }),
        Kind::Map(value) => {
            json!({ "type": "object", "additionalProperties": self::kind(value, definitions) })
        }
        Kind::Empty => json!({ "type": "null" }),
        Kind::Either(kinds) => {
            let kinds = kinds.iter().map(|one| self::kind(one, definitions));
            json!({ "anyOf": kinds.collect::<Vec<_>>() })
        }
        Kind::Anything => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::source::Source;
    use super::super::tree::{self, Node};
    use super::*;

    /// Enough of JSON Schema for the one above, patterns apart. Texts are taken as
    /// YAML's core schema resolves them.
    fn fits(node: &Node, schema: &Value, root: &Value) -> bool {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.strip_prefix("#/$defs/").unwrap();
            return fits(node, &root["$defs"][name], root);
        }
        if let Some(schemas) = schema["anyOf"].as_array() {
            return schemas.iter().any(|schema| fits(node, schema, root));
        }
        let scalar = match &node.value {
            tree::Value::Text(text) => Some(resolved(text)),
            tree::Value::Null => Some(Value::Null),
            tree::Value::List(_) | tree::Value::Map(_) => None,
        };
        if let Some(allowed) = schema["enum"].as_array() {
            return scalar.is_some_and(|scalar| allowed.contains(&scalar));
        }
        let kind = match (&node.value, &scalar) {
            (tree::Value::List(_), _) => "array",
            (tree::Value::Map(_), _) => "object",
            (_, Some(Value::Bool(_))) => "boolean",
            (_, Some(Value::Number(number))) if number.is_u64() => "integer",
            (_, Some(Value::Number(_))) => "number",
            (_, Some(Value::Null)) => "null",
            _ => "string",
        };
        let types: Vec<_> = match &schema["type"] {
            Value::Null => return true,
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let right = types.contains(&kind) || kind == "integer" && types.contains(&"number");
        let within = |number: u64| {
            let least = schema["minimum"].as_u64().unwrap_or(0);
            (least..=schema["maximum"].as_u64().unwrap_or(u64::MAX)).contains(&number)
        };
        right
            && match &node.value {
                tree::Value::List(items) => {
                    items.iter().all(|item| fits(item, &schema["items"], root))
                }
                tree::Value::Map(entries) => entries.iter().all(|entry| {
                    let known = &schema["properties"][&*entry.key];
                    match (known, &schema["additionalProperties"]) {
                        (Value::Null, _) if entry.key.starts_with("x-") => true,
                        (Value::Null, Value::Bool(false)) => false,
                        (Value::Null, other) => fits(&entry.node, other, root),
                        (known, _) => fits(&entry.node, known, root),
                    }
                }),
                tree::Value::Text(_) | tree::Value::Null => {
                    scalar.and_then(|scalar| scalar.as_u64()).is_none_or(within)
                }
            }
    }

    fn resolved(text: &str) -> Value {
        match text {
            "true" => json!(true),
            "false" => json!(false),
            text => match text.parse::<u64>() {
                Ok(number) => json!(number),
                Err(_) => text
                    .parse::<f64>()
                    .map_or_else(|_| json!(text), |number| json!(number)),
            },
        }
    }

    fn fits_schema(yaml: &str) -> bool {
        let schema = schema();
        let root = tree::parse(&Source::new("atoll.yaml", yaml)).unwrap();
        fits(&root.unwrap_or(Node::null()), &schema, &schema)
    }

    #[test]
    fn the_schema_takes_what_the_decoder_takes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/config");
        for name in ["shop", "everything", "block_styles"] {
            let yaml = fs::read_to_string(folder.join(name)).unwrap();
            assert!(fits_schema(&yaml), "{name}");
            let expanded = super::super::tests::expanded(&yaml);
            assert!(fits_schema(&expanded), "{expanded}");
        }
    }

    #[test]
    fn the_schema_refuses_what_the_decoder_refuses() {
        for yaml in [
            "nmae: a",
            "services: [a]",
            "services: { a: { command: run, replica: 2 } }",
            "services: { a: { command: run, image: nginx } }",
            "services: { a: { command: run, replicas: 5000 } }",
            "services: { a: { command: run, healthcheck: { test: a } } }",
            "services: { a: { command: { shell: run } } }",
            "routes: { /a: { to: a, tiemout: 1s } }",
            "routes: { /a: { routes: { /b: { to: a, retry: { attempt: 1 } } } } }",
            "gateway: { limits: { header_count: 0 } }",
        ] {
            assert!(!fits_schema(yaml), "{yaml}");
        }
    }

    /// That the decoder asks for every key of a table and for no other, it asserts
    /// itself (`Fields::finish`).
    #[test]
    fn tables_are_in_the_schema_by_name() {
        let schema = schema();
        let tables = schema["$defs"].as_object().unwrap();
        for name in [
            "service",
            "route",
            "gateway",
            "listen",
            "dns",
            "consul",
            "healthcheck",
            "match",
            "backend",
        ] {
            let table = &tables[name];
            assert!(
                !table["properties"].as_object().unwrap().is_empty(),
                "{name}"
            );
        }
        let route = &tables["route"]["properties"]["timeouts"];
        assert_eq!(route["anyOf"][0]["$ref"], "#/$defs/timeouts");
        assert_eq!(
            schema["properties"]["services"]["anyOf"][0]["type"],
            "object"
        );
    }
}
