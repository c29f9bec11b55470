//! Registrations kept in the store, whichever backend it has.

use atoll_store::{Op, REQUEST_BYTES_MAX, Span, Store, StoreError, Txn};
use futures_util::future::join_all;

use crate::stored::PREFIX;
use crate::{Entry, Journal, JournalError, Kept, Pending};

/// A journal over a store. The registry's keys begin with `registry/`.
pub struct InStore(Store);

impl InStore {
    /// Keeps registrations in `store`, which must outlive the registry: open it in
    /// a group of tasks that was made before.
    pub fn new(store: Store) -> Self {
        Self(store)
    }
}

impl Journal for InStore {
    fn load(&self) -> Pending<'_, Result<Kept, JournalError>> {
        Box::pin(async move {
            let snapshot = self.0.list(PREFIX).await.map_err(in_words)?;
            let pairs = snapshot.items.iter().map(|item| {
                let key = String::from_utf8_lossy(item.key.as_bytes()).into_owned();
                (key, item.value.as_bytes().to_vec())
            });
            Ok(pairs.collect())
        })
    }

    fn write(&self, entries: Vec<Entry>) -> Pending<'_, Result<(), JournalError>> {
        Box::pin(async move {
            // At once, since the store lets writers that wait share one sync.
            let commits = transactions(entries)
                .into_iter()
                .map(|ops| self.0.commit(Txn::of(ops)));
            for result in join_all(commits).await {
                result.map_err(in_words)?;
            }
            Ok(())
        })
    }
}

/// Entries in as few transactions as the store's limits allow.
fn transactions(entries: Vec<Entry>) -> Vec<Vec<Op>> {
    let mut all = Vec::new();
    let (mut ops, mut bytes) = (Vec::new(), 0);
    for Entry { key, value } in entries {
        let size = key.len() + value.as_ref().map_or(0, Vec::len);
        if ops.len() == atoll_store::LIST_OPS_MAX || bytes + size > REQUEST_BYTES_MAX {
            all.push(std::mem::take(&mut ops));
            bytes = 0;
        }
        bytes += size;
        ops.push(match value {
            Some(value) => Op::put(&key[..], &value[..]),
            None => Op::Delete(Span::from(&key[..])),
        });
    }
    if !ops.is_empty() {
        all.push(ops);
    }
    all
}

fn in_words(error: StoreError) -> JournalError {
    JournalError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_stay_within_both_limits_of_the_store() {
        let entries = |count: usize, bytes: usize| -> Vec<Entry> {
            (0..count)
                .map(|number| Entry {
                    key: format!("registry/instances/users/{number}"),
                    value: (number % 3 != 0).then(|| vec![0; bytes]),
                })
                .collect()
        };
        for (count, bytes, least) in [(0, 1, 0), (128, 1, 1), (129, 1, 2), (100, 200_000, 9)] {
            let all = transactions(entries(count, bytes));
            assert_eq!(all.iter().map(Vec::len).sum::<usize>(), count);
            assert!(all.len() >= least);
            for ops in all {
                assert_eq!(Txn::of(ops).check(), Ok(()));
            }
        }
    }
}
