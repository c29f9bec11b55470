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
