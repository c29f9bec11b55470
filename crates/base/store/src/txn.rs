//! Transactions: comparisons, then one of two lists of operations, all or nothing.
//!
//! The rules are etcd's (`etcdserver/api/v3rpc/key.go`: checkTxnRequest), so that
//! what passes here passes there: at most [`LIST_OPS_MAX`] entries in each list,
//! at most [`REQUEST_BYTES_MAX`] in all, no empty key, and no key written twice.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use atoll_model::Revision;

use crate::{Key, KeyValue, LeaseId, Span, StoreError, Value};

/// Entries in each list of a transaction: etcd's `--max-txn-ops`.
pub const LIST_OPS_MAX: usize = 128;

/// Bytes of a transaction's keys and values: etcd's `--max-request-bytes`, 1.5 MiB.
pub const REQUEST_BYTES_MAX: usize = 1_536 * 1_024;

/// A transaction. If every comparison holds, `then` runs, else `otherwise`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold; nothing holds always.
    pub compares: Vec<Compare>,
    /// Runs when all comparisons hold.
    pub then: Vec<Op>,
    /// Runs when one does not.
    pub otherwise: Vec<Op>,
}

/// A comparison with the present version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Whose version.
    pub key: Key,
    /// What must be true of it.
    pub test: Test,
}

/// What a comparison asks. A key that does not exist has revisions and version 0,
/// and no value: every test of its value fails, as in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The value stands in this order to the given one.
    Value(Order, Value),
    /// The revision of the last change.
    ModRevision(Order, Revision),
    /// The revision of the creation.
    CreateRevision(Order, Revision),
    /// The number of puts since the creation.
    Version(Order, u64),
    /// The key exists.
    Exists,
    /// It does not.
    Missing,
}

/// How two things must stand to each other: stored first, given second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// They are the same.
    Equal,
    /// They differ.
    NotEqual,
    /// The stored one is greater.
    Greater,
    /// The stored one is less.
    Less,
}

/// One operation. Each sees what those before it in the list have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key; without a lease, it is taken from the one it hung on.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
        /// The lease whose end deletes it.
        lease: Option<LeaseId>,
    },
    /// Deletes all keys of the span.
    Delete(Span),
    /// Reads all keys of the span.
    Get(Span),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// Whether the comparisons held.
    pub held: bool,
    /// The store's revision after it: that of its changes if it made any.
    pub revision: Revision,
    /// One for each operation of the list that ran.
    pub replies: Vec<OpReply>,
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpReply {
    /// The version that the put replaced.
    Put(Option<Arc<KeyValue>>),
    /// The versions that were deleted, by key.
    Deleted(Vec<Arc<KeyValue>>),
    /// The versions that were read, by key.
    Got(Vec<Arc<KeyValue>>),
}

impl Txn {
    /// A transaction without a condition.
    pub fn of(ops: impl Into<Vec<Op>>) -> Self {
        Self {
            then: ops.into(),
            ..Self::default()
        }
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, key: impl Into<Key>, test: Test) -> Self {
        self.compares.push(Compare {
            key: key.into(),
            test,
        });
        self
    }

    /// Sets what runs when a condition does not hold.
    #[must_use]
    pub fn or_else(mut self, ops: impl Into<Vec<Op>>) -> Self {
        self.otherwise = ops.into();
        self
    }

    /// Whether neither list can change anything.
    pub fn only_reads(&self) -> bool {
        let reads = |op: &Op| matches!(op, Op::Get(_));
        self.then.iter().all(reads) && self.otherwise.iter().all(reads)
    }

    /// Whether every backend would take it. Backends call this first.
    ///
    /// # Errors
    /// An empty key, too many operations, too many bytes, or a key written twice.
    pub fn check(&self) -> Result<(), StoreError> {
        let lists = [self.compares.len(), self.then.len(), self.otherwise.len()];
        if let Some(count) = lists.into_iter().find(|count| *count > LIST_OPS_MAX) {
            return Err(StoreError::TooManyOps { count });
        }
        let compared = self.compares.iter().map(Compare::bytes).sum::<usize>();
        let done = self.then.iter().chain(&self.otherwise);
        let bytes = compared + done.map(Op::bytes).sum::<usize>();
        if bytes > REQUEST_BYTES_MAX {
            return Err(StoreError::TooLarge { bytes });
        }
        if self.compares.iter().any(|compare| compare.key.is_empty()) {
            return Err(StoreError::EmptyKey);
        }
        check_list(&self.then)?;
        check_list(&self.otherwise)
    }
}

/// Refuses empty keys, and keys that one list would write twice: their order
/// within one revision would be nobody's business (etcd: ErrDuplicateKey).
fn check_list(ops: &[Op]) -> Result<(), StoreError> {
    let mut puts = BTreeSet::new();
    for op in ops {
        match op {
            Op::Put { key, .. } | Op::Delete(Span::Key(key)) | Op::Get(Span::Key(key))
                if key.is_empty() =>
            {
                return Err(StoreError::EmptyKey);
            }
            Op::Put { key, .. } if !puts.insert(key) => {
                return Err(StoreError::WrittenTwice { key: key.clone() });
            }
            Op::Put { .. } | Op::Delete(_) | Op::Get(_) => {}
        }
    }
    for op in ops {
        if let Op::Delete(span) = op
            && let Some(key) = puts.iter().find(|key| span.holds(key))
        {
            return Err(StoreError::WrittenTwice {
                key: (*key).clone(),
            });
        }
    }
    Ok(())
}

impl Compare {
    /// Whether it holds for the present version of its key.
    pub(crate) fn holds(&self, present: Option<&KeyValue>) -> bool {
        let number = |order: Order, of: fn(&KeyValue) -> u64, given: u64| {
            order.holds(present.map_or(0, of).cmp(&given))
        };
        match &self.test {
            Test::Value(order, given) => {
                present.is_some_and(|present| order.holds(present.value.cmp(given)))
            }
            Test::ModRevision(order, given) => number(*order, |kv| kv.mod_revision.0, given.0),
            Test::CreateRevision(order, given) => {
                number(*order, |kv| kv.create_revision.0, given.0)
            }
            Test::Version(order, given) => number(*order, |kv| kv.version, *given),
            Test::Exists => present.is_some(),
            Test::Missing => present.is_none(),
        }
    }

    fn bytes(&self) -> usize {
        let value = match &self.test {
            Test::Value(_, value) => value.len(),
            Test::ModRevision(..)
            | Test::CreateRevision(..)
            | Test::Version(..)
            | Test::Exists
            | Test::Missing => 0,
        };
        self.key.len() + value
    }
}

impl Order {
    fn holds(self, found: Ordering) -> bool {
        match self {
            Self::Equal => found.is_eq(),
            Self::NotEqual => found.is_ne(),
            Self::Greater => found.is_gt(),
            Self::Less => found.is_lt(),
        }
    }
}

impl Op {
    /// Sets `key`, on no lease.
    pub fn put(key: impl Into<Key>, value: impl Into<Value>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        }
    }

    /// Sets `key`, hung on `lease`.
    pub fn put_leased(key: impl Into<Key>, value: impl Into<Value>, lease: LeaseId) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete(span) | Self::Get(span) => match span {
                Span::Key(key) => key.len(),
                Span::Prefix(prefix) => prefix.len(),
                Span::Between(from, to) => from.len() + to.len(),
            },
        }
    }
}
