//! Ordered keys with etcd's semantics: one revision for the whole store, transactions,
//! leases, watches from a revision, compaction.
//!
//! [`Store`] is the handle that everybody holds; behind it stands a [`Backend`]:
//! [`embedded`] (one process, one file, durable across `kill -9`) or [`etcd`] (any
//! number of processes), both held to the same cases in [`suite`]. The crate refuses to be a database: no queries
//! beyond ranges of keys, no values that it understands. Look next at `registry`,
//! which keeps its instances here.

mod backend;
pub mod embedded;
mod error;
pub mod etcd;
mod key;
mod lease;
#[cfg(feature = "suite")]
#[expect(clippy::unwrap_used, reason = "these are tests, made to panic")]
pub mod suite;
mod txn;
mod watch;

pub use backend::{Answer, Backend, Range, Snapshot, Standing, Store};
pub use error::StoreError;
pub use key::{Key, KeyValue, Span, Value};
pub use lease::{Lease, LeaseId, LeaseState};
pub use txn::{Compare, LIST_OPS_MAX, Op, OpReply, Order, REQUEST_BYTES_MAX, Test, Txn, TxnReply};
pub use watch::{Changes, Event, Watch, WatchSource};
