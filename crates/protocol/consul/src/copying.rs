//! The reading end of a migration from a running Consul: what its catalogue lists, and
//! how Atoll is told of it. Only translation; who fetches and sends is the binary
//! (`atoll migrate`), and `copies.rs` is what takes it in.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::translate::aggregate;
use crate::wire::from_base64;

pub use crate::wire::base64;

/// How long a copy lives after it was told or renewed. As long as Eureka's, so that one
/// rule holds for both.
pub const LEASE: Duration = Duration::from_secs(90);

/// Where copies are told, by PUT.
pub const BATCH_PATH: &str = "/v1/atoll/copies";

/// One instance of a service as a catalogue lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The service's name as it was registered.
    pub service: String,
    /// Its id on its node.
    pub id: String,
    /// The node.
    pub node: String,
    /// `passing`, `warning`, `critical` or `maintenance`: the worst of its checks.
    pub status: &'static str,
    /// Where it listens, for people.
    pub address: String,
    /// What is registered of it: two that are equal say the same.
    pub body: Value,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// The number that its writer gave it.
    pub flags: u64,
    /// The value.
    pub value: Vec<u8>,
    /// When it last changed, as its server counts.
    pub modified: u64,
}

/// Reads the names in the answer of `catalog/services`.
///
/// # Errors
/// Why it is none, in words for a person.
pub fn read_services(body: &[u8]) -> Result<Vec<String>, String> {
    let all: Map<String, Value> = serde_json::from_slice(body).map_err(not_json)?;
    // Each server has its own `consul`, which is about itself.
    Ok(all
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name != "consul")
        .collect())
}

/// Reads the answer of `health/service/:name`.
///
/// # Errors
/// Why it is none, in words for a person.
pub fn read_instances(body: &[u8]) -> Result<Vec<Listed>, String> {
    let rows: Vec<Value> = serde_json::from_slice(body).map_err(not_json)?;
    let listed = rows.iter().map(listed).collect::<Option<_>>();
    listed.ok_or_else(|| "a row without Node or Service".to_owned())
}

fn not_json(error: serde_json::Error) -> String {
    format!("not JSON as Consul writes it: {error}")
}

fn listed(row: &Value) -> Option<Listed> {
    let (node, service) = (row.get("Node")?, row.get("Service")?);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (name, id) = (text(service, "Service"), text(service, "ID"));
    let checks = row["Checks"].as_array().map_or(&[][..], Vec::as_slice);
    let host = match &text(service, "Address")[..] {
        "" => text(node, "Address"),
        host => host.to_owned(),
    };
    let kept = |value: &Value, keys: &[&str]| -> Value {
        let kept = keys.iter().filter_map(|key| {
            let value = value.get(*key).filter(|value| !value.is_null())?;
            Some(((*key).to_owned(), value.clone()))
        });
        Value::Object(kept.collect())
    };
    let service_keys = [
        "ID",
        "Service",
        "Tags",
        "Address",
        "TaggedAddresses",
        "Meta",
        "Port",
        "SocketPath",
        "Weights",
        "EnableTagOverride",
        "Kind",
        "Connect",
    ];
    let told = checks.iter().filter_map(|check| {
        let mut told = kept(
            check,
            &[
                "CheckID",
                "Name",
                "Status",
                "Notes",
                "Output",
                "Type",
                "Definition",
            ],
        );
        if text(check, "ServiceID").is_empty() {
            // Only what a node's check takes away from its services can be shown here,
            // where nodes have none.
            if check["Status"] == "passing" {
                return None;
            }
            told["CheckID"] = json!(format!("node:{}", text(check, "CheckID")));
        }
        told["ServiceID"] = json!(id);
        Some(told)
    });
    let body = json!({
        "Node": node["Node"],
        "ID": text(node, "ID"),
        "Address": text(node, "Address"),
        "TaggedAddresses": node["TaggedAddresses"],
        "NodeMeta": node["Meta"],
        "Service": kept(service, &service_keys),
        "Checks": told.collect::<Vec<_>>(),
    });
    Some(Listed {
        address: format!("{host}:{}", service["Port"].as_u64().unwrap_or(0)),
        status: aggregate(checks),
        node: node["Node"].as_str()?.to_owned(),
        service: name,
        id,
        body,
    })
}

/// Reads the answer of `kv/?recurse`; keys that are locked come without their lock.
///
/// # Errors
/// Why it is none, in words for a person.
pub fn read_keys(body: &[u8]) -> Result<Vec<Pair>, String> {
    let rows: Vec<Value> = serde_json::from_slice(body).map_err(not_json)?;
    let pairs = rows.iter().map(|row| {
        let value = match &row["Value"] {
            Value::String(text) => from_base64(text)?,
            // An empty value is null.
            _ => Vec::new(),
        };
        Some(Pair {
            key: row["Key"].as_str()?.to_owned(),
            flags: row["Flags"].as_u64().unwrap_or(0),
            value,
            modified: row["ModifyIndex"].as_u64().unwrap_or(0),
        })
    });
    let pairs = pairs.collect::<Option<_>>();
    pairs.ok_or_else(|| "a key without Key, or a Value that is not base64".to_owned())
}

/// Tells of an instance as `body` has it.
pub fn register(body: &Value) -> Value {
    json!({ "Action": "Register", "Body": body })
}

/// Lets a copy live on.
pub fn renew(service: &str, id: &str, node: &str) -> Value {
    json!({ "Action": "Renew", "Service": service, "ID": id, "Node": node })
}

/// Takes a copy away.
pub fn deregister(service: &str, id: &str, node: &str) -> Value {
    json!({ "Action": "Deregister", "Service": service, "ID": id, "Node": node })
}

/// The body of a batch. With `dry_run` nothing changes, but the answers are the same.
pub fn batch(from: &str, dry_run: bool, items: Vec<Value>) -> Vec<u8> {
    let batch = json!({ "CopiedFrom": from, "DryRun": dry_run, "Entries": items });
    batch.to_string().into_bytes()
}

/// The answer to each item of a batch: a status (200; 404 no such copy; 409 it has
/// switched; others with the reason) and what was said to it.
///
/// # Errors
/// Why it is no such answer.
pub fn answers(body: &[u8]) -> Result<Vec<(u16, String)>, String> {
    let document: Value = serde_json::from_slice(body).map_err(not_json)?;
    let results = document["Results"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let results = results.iter().map(|result| {
        let status = u16::try_from(result["Status"].as_u64()?).ok()?;
        Some((
            status,
            result["Said"].as_str().unwrap_or_default().to_owned(),
        ))
    });
    let results = results.collect::<Option<_>>();
    results.ok_or_else(|| "a result without Status".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(serf: &str, status: &str) -> Listed {
        let rows = json!([{
            "Node": { "ID": "x", "Node": "n1", "Address": "10.0.0.1", "Meta": { "rack": "7" },
                "TaggedAddresses": null, "CreateIndex": 5, "ModifyIndex": 6 },
            "Service": { "ID": "web-1", "Service": "Web", "Tags": ["a"], "Address": "", "Port": 80,
                "Meta": { "version": "2" }, "Weights": { "Passing": 3, "Warning": 1 },
                "Proxy": {}, "Connect": {}, "ModifyIndex": 9 },
            "Checks": [
                { "CheckID": "serfHealth", "Name": "Serf", "Status": serf, "ServiceID": "" },
                { "CheckID": "service:web-1", "Name": "ttl", "Status": status, "Output": "ok",
                  "ServiceID": "web-1", "Type": "ttl", "ModifyIndex": 12 },
            ],
        }]);
        let mut read = read_instances(rows.to_string().as_bytes()).unwrap();
        read.remove(0)
    }

    #[test]
    fn a_row_becomes_what_registers_the_same() {
        let listed = row("passing", "warning");
        assert_eq!((&listed.service[..], &listed.id[..]), ("Web", "web-1"));
        assert_eq!(
            (listed.status, &listed.address[..]),
            ("warning", "10.0.0.1:80")
        );
        let body = &listed.body;
        assert_eq!(body["NodeMeta"]["rack"], "7");
        assert_eq!(body["Service"]["Weights"]["Passing"], 3);
        assert!(
            body["Service"].get("ModifyIndex").is_none(),
            "no change by itself"
        );
        let checks = body["Checks"].as_array().unwrap();
        assert_eq!(checks.len(), 1, "a node that is fine adds nothing");
        assert_eq!(checks[0]["CheckID"], "service:web-1");
    }

    #[test]
    fn a_node_that_is_away_takes_its_services_along() {
        let listed = row("critical", "passing");
        assert_eq!(listed.status, "critical");
        let check = &listed.body["Checks"][0];
        assert_eq!(
            (&check["CheckID"], &check["ServiceID"]),
            (&json!("node:serfHealth"), &json!("web-1"))
        );
        assert_eq!(check["Status"], "critical");
    }

    #[test]
    fn keys_are_read_with_flags_and_any_bytes() {
        let rows =
            br#"[{"Key":"a/b","Flags":7,"Value":"/wA=","ModifyIndex":3},{"Key":"e","Value":null}]"#;
        let pairs = read_keys(rows).unwrap();
        assert_eq!(
            (&pairs[0].key[..], pairs[0].flags, &pairs[0].value[..]),
            ("a/b", 7, &[255, 0][..])
        );
        assert_eq!((&pairs[1].value[..], pairs[1].modified), (&[][..], 0));
        assert!(read_keys(br#"[{"Key":"a","Value":"?"}]"#).is_err());
    }

    #[test]
    fn what_is_shaped_otherwise_is_an_error_or_nothing_and_never_a_panic() {
        for rows in [
            r#"[1]"#,
            r#"[{"Node":[],"Service":{}}]"#,
            r#"[{"Node":{"Node":7},"Service":{"Service":[]},"Checks":{}}]"#,
        ] {
            assert!(read_instances(rows.as_bytes()).is_err(), "{rows}");
        }
        let odd = br#"[{"Node":{"Node":"n"},"Service":7,"Checks":[null,7,[],{"Status":{}}]}]"#;
        let listed = read_instances(odd).unwrap();
        assert_eq!((&listed[0].id[..], &listed[0].address[..]), ("", ":0"));
        assert!(answers(br#"{"Results":[{"Status":70000}]}"#).is_err());
    }

    #[test]
    fn consul_itself_is_not_copied() {
        let names = read_services(br#"{"consul":[],"web":["a"]}"#).unwrap();
        assert_eq!(names, ["web"]);
        assert!(read_services(b"[]").unwrap_err().contains("not JSON"));
    }
}
