//! Hears what is written to the shared store, by whomever, in the order of revisions.

use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Backoff, Random, Stop};
use atoll_store::{Changes, KeyValue, Snapshot, Span, Standing, Store, StoreError, Watch};
use tokio::sync::mpsc;
use tracing::warn;

use super::News;
use crate::state::shared::Fed;
use crate::stored::PREFIX;

/// Pauses before all is read again after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// All that the store has of the registry's.
pub(crate) async fn read(store: &Store) -> Result<(Revision, Vec<Fed>), StoreError> {
    let Snapshot {
        revision, items, ..
    } = store.list(PREFIX).await?;
    let all = items.iter().map(|item| there(item)).collect();
    Ok((revision, all))
}

/// Tells all that happens after `after`, and how the keys stand that somebody doubts,
/// until told to stop.
pub(crate) async fn run(
    store: Store,
    after: Revision,
    doubts: mpsc::Receiver<String>,
    news: mpsc::Sender<News>,
    stop: Stop,
) {
    let standing = store.standing();
    let feed = Feed {
        store,
        after,
        doubts,
        news,
        standing,
    };
    stop.unless(feed.follow()).await;
}

struct Feed {
    store: Store,
    /// All up to this revision is told.
    after: Revision,
    doubts: mpsc::Receiver<String>,
    news: mpsc::Sender<News>,
    standing: tokio::sync::watch::Receiver<Standing>,
}

impl Feed {
    /// Ends when nobody listens or the store is closed.
    async fn follow(mut self) {
        let mut random = Random::from_entropy();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST, 0.2);
        loop {
            let error = match self.store.watch(Span::prefix(PREFIX), self.after).await {
                Ok(watch) => match self.hear(watch).await {
                    Some(error) => error,
                    None => return,
                },
                Err(error) => error,
            };
            if matches!(error, StoreError::Closed) {
                return;
            }
            warn!(%error, "changes of the registry may have been missed: reading all of it");
            loop {
                if self.tell_standing().await.is_none() {
                    return;
                }
                match read(&self.store).await {
                    Ok((revision, all)) => {
                        backoff.reset();
                        self.after = revision;
                        if self.news.send(News::All(revision, all)).await.is_err() {
                            return;
                        }
                        break;
                    }
                    Err(StoreError::Closed) => return,
                    Err(_) => tokio::time::sleep(backoff.next(&mut random)).await,
                }
            }
        }
    }

    /// Passes on what a watch tells; gives what ended it, or none when nobody listens.
    async fn hear(&mut self, mut watch: Watch) -> Option<StoreError> {
        self.tell_standing().await?;
        loop {
            tokio::select! {
                changes = watch.next() => match changes {
                    Ok(Changes { revision, events }) => {
                        let changes = events.iter().map(|event| match &event.after {
                            Some(item) => there(item),
                            None => Fed { key: text(event.key.as_bytes()), value: None },
                        });
                        self.after = revision;
                        let told = News::Changes(revision, changes.collect());
                        self.news.send(told).await.ok()?;
                    }
                    Err(error) => return Some(error),
                },
                // The store and the owner keep the other ends for as long as they live.
                Ok(()) = self.standing.changed() => self.tell_standing().await?,
                Some(key) = self.doubts.recv() => match self.store.get(&key[..]).await {
                    // At least as new as all that was told; what changed it since is told
                    // next.
                    Ok(item) => {
                        let value = item.as_deref().map(there).and_then(|fed| fed.value);
                        let told = News::Changes(self.after, vec![Fed { key, value }]);
                        self.news.send(told).await.ok()?;
                    }
                    // Then all of it is read, once that can be done.
                    Err(error) => return Some(error),
                },
            }
        }
    }

    async fn tell_standing(&mut self) -> Option<()> {
        let away = matches!(&*self.standing.borrow_and_update(), Standing::Away { .. });
        self.news.send(News::Away(away)).await.ok()
    }
}

fn there(item: &KeyValue) -> Fed {
    Fed {
        key: text(item.key.as_bytes()),
        value: Some((item.value.as_bytes().to_vec(), item.mod_revision)),
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
