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

/// Tells all that happens after `after` until told to stop.
pub(crate) async fn run(store: Store, after: Revision, news: mpsc::Sender<News>, stop: Stop) {
    let follow = follow(store, after, news);
    stop.unless(follow).await;
}

/// Ends when nobody listens or the store is closed.
async fn follow(store: Store, mut after: Revision, news: mpsc::Sender<News>) {
    let mut random = Random::from_entropy();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST, 0.2);
    let mut standing = store.standing();
    loop {
        let error = match store.watch(Span::prefix(PREFIX), after).await {
            Ok(watch) => match hear(watch, &mut standing, &news, &mut after).await {
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
            if tell_standing(&mut standing, &news).await.is_none() {
                return;
            }
            match read(&store).await {
                Ok((revision, all)) => {
                    backoff.reset();
                    after = revision;
                    if news.send(News::All(revision, all)).await.is_err() {
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
async fn hear(
    mut watch: Watch,
    standing: &mut tokio::sync::watch::Receiver<Standing>,
    news: &mpsc::Sender<News>,
    after: &mut Revision,
) -> Option<StoreError> {
    tell_standing(standing, news).await?;
    loop {
        tokio::select! {
            changes = watch.next() => match changes {
                Ok(Changes { revision, events }) => {
                    let changes = events.iter().map(|event| match &event.after {
                        Some(item) => there(item),
                        None => Fed { key: text(event.key.as_bytes()), value: None },
                    });
                    *after = revision;
                    let told = News::Changes(revision, changes.collect());
                    news.send(told).await.ok()?;
                }
                Err(error) => return Some(error),
            },
            // The store keeps the other end for as long as it lives.
            Ok(()) = standing.changed() => tell_standing(standing, news).await?,
        }
    }
}

async fn tell_standing(
    standing: &mut tokio::sync::watch::Receiver<Standing>,
    news: &mpsc::Sender<News>,
) -> Option<()> {
    let away = matches!(&*standing.borrow_and_update(), Standing::Away { .. });
    news.send(News::Away(away)).await.ok()
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
