//! What every backend must do, as cases that any store can be held to. Each takes an
//! empty store of its own and panics where the store deviates.
//!
//! A backend's test file is one line, `atoll_store::suite_tests!(make)`, where
//! `make` is an async function that gives an empty [`crate::Store`] and whatever must
//! live as long. Nothing here depends on absolute revisions, on a clock that can
//! be set, or on how long a backend rounds a lease.

mod history;
mod keys;
mod lease;
mod txn;
mod watch;

pub use history::*;
pub use keys::*;
pub use lease::*;
pub use txn::*;
pub use watch::*;

use crate::{Key, KeyValue, Op, Store, Txn};

/// Makes one test of each case. `$make` is the path of an `async fn() -> (Store, T)`.
#[macro_export]
macro_rules! suite_tests {
    ($make:path) => {
        $crate::suite_tests! { @each $make:
            a_put_creates_then_changes_then_a_delete_forgets
            keys_are_listed_in_byte_order_within_their_prefix
            a_limit_cuts_and_says_so
            a_span_between_two_keys_excludes_the_second
            any_bytes_are_keys_and_values_but_an_empty_key_is_refused
            a_transaction_gets_one_revision_for_all_its_changes
            a_transaction_that_changes_nothing_has_no_revision
            comparisons_choose_the_list_that_runs
            a_missing_key_has_version_zero_and_no_value
            operations_see_those_before_them
            a_key_written_twice_in_a_transaction_is_refused
            limits_of_a_transaction_are_kept
            of_many_racing_writers_one_creates
            no_increment_of_many_writers_is_lost
            a_snapshot_reads_the_past
            a_revision_to_come_cannot_be_read
            compaction_forgets_the_past_and_keeps_the_present
            compaction_of_what_is_gone_or_to_come_is_refused
            a_compacted_deletion_stays_deleted
            a_watch_gives_past_then_live_changes_once_and_in_order
            a_watch_sees_only_its_span
            a_watch_gives_a_transaction_as_one
            a_watch_tells_what_was_before
            a_watch_from_compacted_history_says_so
            a_watch_of_a_revision_to_come_waits_for_it
            a_dropped_wait_loses_no_change
            reading_then_watching_misses_nothing
            keys_go_with_their_lease_in_one_revision
            a_lease_that_is_not_kept_alive_ends_and_watches_see_it
            a_lease_that_is_kept_alive_does_not_end
            an_unknown_or_ended_lease_is_refused
            a_put_moves_a_key_to_another_lease_or_none
            a_lease_without_keys_ends_without_a_revision
            a_lease_tells_its_keys_and_what_is_left
            leases_are_never_named_alike
        }
    };
    (@each $make:path: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _kept) = $make().await;
                $crate::suite::$case(store).await;
            }
        )*
    };
}

/// Puts one key and gives its version.
async fn put(store: &Store, key: &str, value: &str) -> KeyValue {
    store.put(key, value).await.unwrap();
    get(store, key).await.unwrap()
}

async fn get(store: &Store, key: &str) -> Option<KeyValue> {
    let found = store.get(key).await.unwrap();
    found.map(|kv| (*kv).clone())
}

async fn commit(store: &Store, ops: impl Into<Vec<Op>>) -> crate::TxnReply {
    store.commit(Txn::of(ops)).await.unwrap()
}

async fn keys(store: &Store, prefix: &str) -> Vec<Key> {
    let snapshot = store.list(prefix).await.unwrap();
    snapshot.items.iter().map(|kv| kv.key.clone()).collect()
}

fn names(names: &[&str]) -> Vec<Key> {
    names.iter().map(|name| Key::from(*name)).collect()
}
