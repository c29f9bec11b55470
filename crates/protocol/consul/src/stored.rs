//! What of Consul's stands in the store and in an instance's metadata, beyond what
//! every protocol shares. Fields may be added with a default; none changes its meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The metadata key of [`Definition`]. Consul allows no `.` in a key of a service's
/// Meta, so that no user's key is ever this one.
pub(crate) const DEFINITION: &str = "consul.definition";

/// What a service's definition says beyond an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Definition {
    /// The name as it was written, when that is not the folded one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// The id, when the instance's is another: on another node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) id: String,
    /// The node, when it is not ours.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
    /// No address was given: the node's counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_address: bool,
    /// No port was given. The instance has one that nobody uses and takes no requests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_port: bool,
    /// TaggedAddresses as given.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(crate) tagged: Value,
    /// The weight in warning; that in passing is the instance's.
    pub(crate) warning_weight: u16,
    /// The weight in passing.
    pub(crate) passing_weight: u16,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tag_override: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) checks: Vec<CheckDefinition>,
    /// Where a migration copied it from; empty for what its client registered.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) copied_from: String,
}

/// What a check's definition says beyond what is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CheckDefinition {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) notes: String,
    /// `ttl`, `http`, `tcp`; empty for one that only the catalogue was told of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) interval: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) timeout: String,
    /// What is shown as Definition.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(crate) definition: Value,
}

/// A node that was registered through the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) tagged: BTreeMap<String, String>,
    pub(crate) meta: BTreeMap<String, String>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) lock_delay_ms: u64,
    pub(crate) delete: bool,
    /// As it was given; empty without one.
    pub(crate) ttl: String,
    pub(crate) node_checks: Vec<String>,
    /// Checks of services on its node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) service_checks: Vec<String>,
    /// The lease that the session ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<u64>,
}

impl Session {
    pub(crate) fn lock_delay(&self) -> Duration {
        Duration::from_millis(self.lock_delay_ms)
    }
}

/// Reads one of the above.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// Writes one of the above.
pub(crate) fn write<T: Serialize>(value: &T) -> String {
    // Structs of texts and numbers always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

/// One key's value and what Consul keeps beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) flags: u64,
    pub(crate) lock_index: u64,
    /// The session that holds it; empty when none does.
    pub(crate) session: String,
    pub(crate) value: Vec<u8>,
}

/// The first byte of a kept [`Entry`].
const FORMAT: u8 = 1;

impl Entry {
    /// As kept: format, flags, lock index, length and text of the session, value. Not
    /// JSON, which would make half a megabyte of bytes two thirds.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let session = self.session.as_bytes();
        let mut bytes = Vec::with_capacity(18 + session.len() + self.value.len());
        bytes.push(FORMAT);
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.lock_index.to_be_bytes());
        // A session's id has 36 bytes.
        bytes.push(u8::try_from(session.len()).unwrap_or(0));
        bytes.extend(session);
        bytes.extend(&self.value);
        bytes
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (format, bytes) = bytes.split_first()?;
        let (flags, bytes) = bytes.split_first_chunk()?;
        let (lock_index, bytes) = bytes.split_first_chunk()?;
        let (session_bytes, bytes) = bytes.split_first()?;
        let (session, value) = bytes.split_at_checked(usize::from(*session_bytes))?;
        (*format == FORMAT).then(|| Self {
            flags: u64::from_be_bytes(*flags),
            lock_index: u64::from_be_bytes(*lock_index),
            session: String::from_utf8_lossy(session).into_owned(),
            value: value.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_is_read_back_and_a_cut_one_is_refused_or_shorter(
            flags: u64, lock_index: u64, session in "[0-9a-f-]{0,36}",
            value in proptest::collection::vec(any::<u8>(), 0..50), cut in 0_usize..18,
        ) {
            let entry = Entry { flags, lock_index, session, value };
            let bytes = entry.to_bytes();
            prop_assert_eq!(Entry::of_bytes(&bytes), Some(entry));
            prop_assert_eq!(Entry::of_bytes(&bytes[..cut]), None);
        }
    }
}
