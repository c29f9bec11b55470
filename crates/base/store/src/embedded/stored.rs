//! What is on disk: tables, and the bytes of one version.
//!
//! Hand-written rather than serde: one small record whose layout must be legible in
//! ten years, and whose value must not be copied through a text form. Numbers are
//! little-endian. Format 1:
//!
//! ```text
//! versions  (mod revision, key) -> 0                                    deleted
//!                                  1 create:8 version:8 lease:8 value   put; lease 0 is none
//! leases    id -> time to live in ms
//! meta      "format" "revision" "compacted" "next-lease" "sequence" -> number
//! ```
//!
//! As in etcd, the key of a row begins with its revision, so that one commit of many
//! writers appends to one end of the tree instead of touching a page for each.

use atoll_model::Revision;
use redb::TableDefinition;

use crate::{Key, KeyValue, LeaseId};

/// The format that this version writes and reads.
pub(super) const FORMAT: u64 = 1;

pub(super) const VERSIONS: TableDefinition<'_, (u64, &[u8]), &[u8]> =
    TableDefinition::new("versions");
pub(super) const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

pub(super) const META_FORMAT: &str = "format";
pub(super) const META_REVISION: &str = "revision";
pub(super) const META_COMPACTED: &str = "compacted";
pub(super) const META_NEXT_LEASE: &str = "next-lease";
/// Rises by one with each commit, so that one whose outcome is unknown can be
/// looked for when the file is opened again.
pub(super) const META_SEQUENCE: &str = "sequence";

const DELETED: u8 = 0;
const PUT: u8 = 1;

/// The bytes of a version; none is a deletion.
pub(super) fn encode(kv: Option<&KeyValue>) -> Vec<u8> {
    let Some(kv) = kv else {
        return vec![DELETED];
    };
    let lease = kv.lease.map_or(0, |lease| lease.0);
    let mut bytes = Vec::with_capacity(25 + kv.value.len());
    bytes.push(PUT);
    bytes.extend_from_slice(&kv.create_revision.0.to_le_bytes());
    bytes.extend_from_slice(&kv.version.to_le_bytes());
    bytes.extend_from_slice(&lease.to_le_bytes());
    bytes.extend_from_slice(&kv.value);
    bytes
}

/// The version of `key` that `bytes` say; the inner none is a deletion, the outer
/// one that the bytes are not a version.
pub(super) fn decode(revision: Revision, key: Key, bytes: &[u8]) -> Option<Option<KeyValue>> {
    let (tag, rest) = bytes.split_first()?;
    match *tag {
        DELETED if rest.is_empty() => Some(None),
        PUT => {
            let (create, rest) = number(rest)?;
            let (version, rest) = number(rest)?;
            let (lease, value) = number(rest)?;
            Some(Some(KeyValue {
                key,
                value: value.into(),
                create_revision: Revision(create),
                mod_revision: revision,
                version,
                lease: (lease != 0).then_some(LeaseId(lease)),
            }))
        }
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_back_as_it_was_written() {
        for lease in [None, Some(LeaseId(7))] {
            for value in ["", "value"] {
                let kv = KeyValue {
                    key: "k".into(),
                    value: value.into(),
                    create_revision: Revision(3),
                    mod_revision: Revision(9),
                    version: 4,
                    lease,
                };
                let bytes = encode(Some(&kv));
                assert_eq!(decode(Revision(9), "k".into(), &bytes), Some(Some(kv)));
            }
        }
        let deleted = encode(None);
        assert_eq!(decode(Revision(9), "k".into(), &deleted), Some(None));
    }

    #[test]
    fn bytes_that_are_no_version_are_refused() {
        for bytes in [&[][..], &[2], &[0, 0], &[1; 24]] {
            assert_eq!(decode(Revision(9), "k".into(), bytes), None);
        }
    }
}
