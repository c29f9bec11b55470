//! Between our words and etcd's: every key gets the prefix on its way out and loses
//! it on its way in. Pure.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::Revision;
use bytes::Bytes;

use super::wire;
use crate::key::successor;
use crate::{
    Compare, Event, Key, KeyValue, LeaseId, Op, OpReply, Order, Span, StoreError, Test, Txn,
    TxnReply,
};

/// What stands before each of our keys; never empty, ends with `/`, so that `/atoll`
/// and `/atoll2` do not see each other.
#[derive(Clone, Debug)]
pub(crate) struct Prefix(Vec<u8>);

impl Prefix {
    pub(crate) fn new(raw: &str) -> Self {
        Self(format!("{}/", raw.trim_end_matches('/')).into_bytes())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn with(&self, key: &[u8]) -> Vec<u8> {
        [&self.0, key].concat()
    }

    /// etcd's `key` and `range_end`. An empty span gets one that etcd finds empty,
    /// too: its end is not after its beginning.
    pub(crate) fn range(&self, span: &Span) -> (Vec<u8>, Vec<u8>) {
        match span {
            Span::Key(key) => (self.with(key), Vec::new()),
            Span::Prefix(prefix) => {
                let from = self.with(prefix);
                // There is one: our prefix ends with `/`.
                let end = successor(&from).unwrap_or_else(|| vec![0]);
                (from, end)
            }
            Span::Between(from, to) if from < to => (self.with(from), self.with(to)),
            Span::Between(from, _) => (self.with(from), self.with(from)),
        }
    }

    /// A key of etcd's as ours; none when it is somebody else's.
    pub(crate) fn without(&self, key: &[u8]) -> Option<Key> {
        key.strip_prefix(&self.0[..]).map(Key::from)
    }

    pub(crate) fn key_value(&self, kv: &wire::KeyValue) -> Option<Arc<KeyValue>> {
        Some(Arc::new(KeyValue {
            key: self.without(&kv.key)?,
            value: kv.value[..].into(),
            create_revision: revision(kv.create_revision),
            mod_revision: revision(kv.mod_revision),
            version: kv.version.unsigned_abs(),
            lease: (kv.lease != 0).then(|| lease_id(kv.lease)),
        }))
    }

    pub(crate) fn key_values(&self, kvs: &[wire::KeyValue]) -> Vec<Arc<KeyValue>> {
        kvs.iter().filter_map(|kv| self.key_value(kv)).collect()
    }

    /// The revision and the event; none when it is of somebody else's key.
    pub(crate) fn event(&self, event: &wire::Event) -> Option<(Revision, Event)> {
        let kv = event.kv.as_ref()?;
        let deleted = event.kind == wire::EventType::Delete as i32;
        let after = (!deleted).then(|| self.key_value(kv)).flatten();
        let before = event.prev_kv.as_ref();
        let before = before.and_then(|before| self.key_value(before));
        let event = Event {
            key: self.without(&kv.key)?,
            after,
            before,
        };
        Some((revision(kv.mod_revision), event))
    }

    pub(crate) fn txn(&self, txn: &Txn) -> wire::TxnRequest {
        let ops = |ops: &[Op]| ops.iter().map(|op| self.op(op)).collect();
        wire::TxnRequest {
            compare: txn.compares.iter().map(|one| self.compare(one)).collect(),
            success: ops(&txn.then),
            failure: ops(&txn.otherwise),
        }
    }

    fn op(&self, op: &Op) -> wire::RequestOp {
        let request = match op {
            Op::Put { key, value, lease } => wire::Request::Put(wire::PutRequest {
                key: self.with(key),
                value: value.to_vec(),
                lease: lease.map_or(0, lease_number),
                prev_kv: true,
            }),
            Op::Delete(span) => {
                let (key, range_end) = self.range(span);
                wire::Request::DeleteRange(wire::DeleteRangeRequest {
                    key,
                    range_end,
                    prev_kv: true,
                })
            }
            Op::Get(span) => {
                let (key, range_end) = self.range(span);
                wire::Request::Range(wire::RangeRequest {
                    key,
                    range_end,
                    ..Default::default()
                })
            }
        };
        wire::RequestOp {
            request: Some(request),
        }
    }

    fn compare(&self, compare: &Compare) -> wire::Compare {
        use wire::{CompareTarget as Target, TargetUnion as Given};
        let (order, target, given) = match &compare.test {
            Test::Value(order, value) => (*order, Target::Value, Given::Value(value.to_vec())),
            Test::ModRevision(order, at) => (*order, Target::Mod, Given::ModRevision(signed(at.0))),
            Test::CreateRevision(order, at) => {
                (*order, Target::Create, Given::CreateRevision(signed(at.0)))
            }
            Test::Version(order, version) => {
                (*order, Target::Version, Given::Version(signed(*version)))
            }
            Test::Exists => (Order::Greater, Target::Create, Given::CreateRevision(0)),
            Test::Missing => (Order::Equal, Target::Create, Given::CreateRevision(0)),
        };
        let result = match order {
            Order::Equal => wire::CompareResult::Equal,
            Order::NotEqual => wire::CompareResult::NotEqual,
            Order::Greater => wire::CompareResult::Greater,
            Order::Less => wire::CompareResult::Less,
        };
        wire::Compare {
            result: result as i32,
            target: target as i32,
            key: self.with(&compare.key),
            target_union: Some(given),
        }
    }

    /// # Errors
    /// [`StoreError::Uncertain`] when the answer is not one to what was asked.
    pub(crate) fn txn_reply(&self, answer: &wire::TxnResponse) -> Result<TxnReply, StoreError> {
        let replies = answer.responses.iter().map(|op| match &op.response {
            Some(wire::Response::Put(put)) => {
                let before = put.prev_kv.as_ref();
                Ok(OpReply::Put(before.and_then(|kv| self.key_value(kv))))
            }
            Some(wire::Response::DeleteRange(deleted)) => {
                Ok(OpReply::Deleted(self.key_values(&deleted.prev_kvs)))
            }
            Some(wire::Response::Range(range)) => Ok(OpReply::Got(self.key_values(&range.kvs))),
            None => Err(StoreError::Uncertain {
                what: "etcd".to_owned(),
                detail: "its answer has an operation that is not known here".to_owned(),
            }),
        });
        Ok(TxnReply {
            held: answer.succeeded,
            revision: header_revision(answer.header.as_ref()),
            replies: replies.collect::<Result<_, _>>()?,
        })
    }
}

/// The store's revision when the answer was made.
pub(crate) fn header_revision(header: Option<&wire::ResponseHeader>) -> Revision {
    header.map_or(Revision::default(), |header| revision(header.revision))
}

pub(crate) fn revision(raw: i64) -> Revision {
    Revision(u64::try_from(raw).unwrap_or(0))
}

/// Numbers of etcd's are signed; what is beyond them has not happened, as it should be.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Every bit counts in the name of a lease.
pub(crate) fn lease_id(raw: i64) -> LeaseId {
    LeaseId(raw.cast_unsigned())
}

pub(crate) fn lease_number(lease: LeaseId) -> i64 {
    lease.0.cast_signed()
}

pub(crate) fn seconds(raw: i64) -> Duration {
    Duration::from_secs(u64::try_from(raw).unwrap_or(0))
}

/// The first key after `key`.
pub(crate) fn just_after(key: &Bytes) -> Vec<u8> {
    [key, &b"\0"[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_with_one_slash_and_holds_only_what_is_below() {
        for raw in ["/atoll", "/atoll/", "/atoll//"] {
            assert_eq!(Prefix::new(raw).as_bytes(), b"/atoll/");
        }
        let prefix = Prefix::new("/atoll");
        assert_eq!(prefix.without(b"/atoll/a"), Some("a".into()));
        assert_eq!(prefix.without(b"/atoll2/a"), None);
        let all = (b"/atoll/".to_vec(), b"/atoll0".to_vec());
        assert_eq!(prefix.range(&Span::all()), all);
    }

    #[test]
    fn spans_keep_their_bounds_behind_the_prefix() {
        let prefix = Prefix::new("p");
        let cases = [
            (Span::from("a"), "p/a", ""),
            (Span::prefix("a/"), "p/a/", "p/a0"),
            (Span::Between("a".into(), "b".into()), "p/a", "p/b"),
            (Span::Between("".into(), "b".into()), "p/", "p/b"),
            // Empty, and etcd must find them so.
            (Span::Between("b".into(), "a".into()), "p/b", "p/b"),
            (Span::Between("a".into(), "a".into()), "p/a", "p/a"),
        ];
        for (span, key, end) in cases {
            let expected = (key.as_bytes().to_vec(), end.as_bytes().to_vec());
            assert_eq!(prefix.range(&span), expected, "{span:?}");
        }
    }

    #[test]
    fn names_of_leases_survive_the_way_there_and_back() {
        for id in [1, u64::MAX >> 1, u64::MAX] {
            assert_eq!(lease_id(lease_number(LeaseId(id))), LeaseId(id));
        }
    }
}
