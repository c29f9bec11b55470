//! The reading end of a migration from a running Eureka: what it lists, and how a batch
//! tells Atoll of it. Only translation; who fetches and sends is the binary
//! (`atoll migrate`), and `copies.rs` is what takes the batch in.
//!
//! A batch is one of `peerreplication/batch` with `copiedFrom`, which says whose copies
//! these are, and perhaps `dryRun`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::wire::{self, Action, Format, InstanceInfo, Shape, Status, list, text};

/// How long a copy lives after it was told or renewed, at least. Eureka's own default:
/// a client that is pointed at Atoll sends its next heartbeat within a third of it.
pub const LEASE: Duration = Duration::from_secs(wire::DURATION_SECS);

/// Where a batch is sent, by POST.
pub const BATCH_PATH: &str = "/eureka/peerreplication/batch";

/// Instances as a server lists them.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The server's hash code of everything, by which [`hash_code`] of what one has
    /// shows whether that is all.
    pub hash: String,
    /// In the order of the list.
    pub instances: Vec<Listed>,
}

/// One instance as a server lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The application, in upper case.
    pub app: String,
    /// The instance's id.
    pub id: String,
    /// `UP`, `DOWN`, `STARTING`, `OUT_OF_SERVICE` or `UNKNOWN`.
    pub status: &'static str,
    /// Where it listens, for people.
    pub address: String,
    /// The delta says that it is gone.
    pub gone: bool,
    /// All of it, but for the times of its lease: two that are equal say the same.
    pub body: Value,
}

/// Reads the answer of `apps` or `apps/delta` in JSON.
///
/// # Errors
/// Why it is none, in words for a person.
pub fn read(body: &[u8]) -> Result<Listing, String> {
    let document = wire::parse(Format::Json, body).map_err(|unreadable| unreadable.0)?;
    let all = document.get("applications").filter(|all| all.is_object());
    let all = all.ok_or("no `applications` in it")?;
    let apps = list(all.get("application")).iter();
    let instances = apps.flat_map(|app| list(app.get("instance")));
    Ok(Listing {
        hash: text(all, "apps__hashcode").unwrap_or_default(),
        instances: instances.filter_map(listed).collect(),
    })
}

fn listed(value: &Value) -> Option<Listed> {
    let mut info = InstanceInfo::from_value(Format::Json, value);
    let gone = info.action == Action::Deleted;
    info.action = Action::Added;
    // What changes with each heartbeat, or says when and not what.
    info.updated_ms = 0;
    let lease = &mut info.lease;
    (lease.registered_ms, lease.renewed_ms) = (0, 0);
    (lease.evicted_ms, lease.up_ms) = (0, 0);
    let port = match info.port.enabled {
        true => info.port,
        false if info.secure_port.enabled => info.secure_port,
        false => info.port,
    };
    let host = info.ip_addr.as_ref().or(info.host_name.as_ref());
    Some(Listed {
        app: info.app.clone()?,
        id: info.id.clone()?,
        status: info.status.as_str(),
        address: format!("{}:{}", host.map_or("", String::as_str), port.number),
        gone,
        body: info.to_value(Shape {
            format: Format::Json,
            compact: false,
        }),
    })
}

/// The hash code of a list with these statuses (`Applications.getReconcileHashCode`).
pub fn hash_code<'s>(statuses: impl Iterator<Item = &'s str>) -> String {
    wire::hash_code(statuses.map(|word| Status::from_word(word).unwrap_or(Status::Unknown)))
}

/// Tells of an instance as `body` has it.
pub fn register(app: &str, id: &str, body: &Value) -> Value {
    json!({ "appName": app, "id": id, "action": "Register", "instanceInfo": body })
}

/// Lets a copy live on.
pub fn renew(app: &str, id: &str) -> Value {
    json!({ "appName": app, "id": id, "action": "Heartbeat" })
}

/// Takes a copy away.
pub fn cancel(app: &str, id: &str) -> Value {
    json!({ "appName": app, "id": id, "action": "Cancel" })
}

/// The body of a batch. With `dry_run` nothing changes, but the answers are the same.
pub fn batch(from: &str, dry_run: bool, items: Vec<Value>) -> Vec<u8> {
    let batch = json!({ "copiedFrom": from, "dryRun": dry_run, "replicationList": items });
    batch.to_string().into_bytes()
}

/// The answer to each item of a batch: a status (200; 400 with the reason; 404 no such
/// copy; 409 it has switched) and what was said to it.
///
/// # Errors
/// Why it is no such answer.
pub fn answers(body: &[u8]) -> Result<Vec<(u16, String)>, String> {
    let document = wire::parse(Format::Json, body).map_err(|unreadable| unreadable.0)?;
    let items = list(document.get("responseList")).iter().map(|item| {
        let status = wire::unsigned(item.get("statusCode"))?;
        let said = text(item, "said").unwrap_or_default();
        Some((u16::try_from(status).ok()?, said))
    });
    let items = items.collect::<Option<_>>();
    items.ok_or_else(|| "an answer without `statusCode`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Netflix' older codec writes a list of one, with a heartbeat at `renewed`.
    fn apps(status: &str, renewed: u64) -> Listing {
        let document = json!({ "applications": {
            "versions__delta": "1", "apps__hashcode": "UP_1_",
            "application": { "name": "ORDERS", "instance": {
                "instanceId": "o:1", "hostName": "h", "app": "ORDERS", "ipAddr": "10.0.0.1",
                "status": status, "overriddenStatus": "UNKNOWN",
                "port": { "$": 8080, "@enabled": "true" },
                "dataCenterInfo": { "name": "MyOwn" },
                "leaseInfo": { "durationInSecs": 30, "lastRenewalTimestamp": renewed },
                "metadata": { "@class": "java.util.Collections$EmptyMap" },
                "vipAddress": "orders", "actionType": "MODIFIED",
            }},
        }});
        read(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_heartbeat_is_no_change_and_a_status_is() {
        let (first, second, down) = (apps("UP", 5), apps("UP", 35_000), apps("DOWN", 35_000));
        assert_eq!(first, second);
        assert_ne!(first.instances[0].body, down.instances[0].body);
        let listed = &first.instances[0];
        assert_eq!((&listed.app[..], &listed.id[..]), ("ORDERS", "o:1"));
        assert_eq!(
            (listed.status, &listed.address[..]),
            ("UP", "10.0.0.1:8080")
        );
        assert_eq!(listed.body["leaseInfo"]["durationInSecs"], 30);
        assert_eq!(listed.body["vipAddress"], "orders");
    }

    #[test]
    fn the_hash_code_of_what_was_read_is_that_of_the_server() {
        let listing = apps("UP", 1);
        let own = hash_code(listing.instances.iter().map(|listed| listed.status));
        assert_eq!(own, listing.hash);
        assert_eq!(hash_code(["UP", "DOWN", "UP"].into_iter()), "DOWN_1_UP_2_");
    }

    #[test]
    fn what_is_no_list_says_so() {
        assert!(read(b"<applications/>").unwrap_err().contains("JSON"));
        assert!(read(b"{}").unwrap_err().contains("applications"));
        assert!(answers(br#"{"responseList":[{}]}"#).is_err());
        let told = answers(br#"{"responseList":[{"statusCode":409,"said":"x"}]}"#).unwrap();
        assert_eq!(told, [(409, "x".to_owned())]);
    }
}
