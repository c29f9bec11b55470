//! The task that reads what is mirrored: once at the start, and again whenever changes
//! were missed or etcd's revisions began anew.

use std::sync::Arc;
use std::time::Duration;

use atoll_runtime::{Backoff, Random, Stop};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::client::Client;
use super::feed::{Feed, Wanted};
use crate::{Range, Span, Standing, StoreError};

/// Pauses after a read that failed.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Reads what is mirrored until it is told to stop.
pub(crate) struct Filler {
    pub(crate) client: Arc<Client>,
    pub(crate) feed: Arc<Feed>,
    /// Whether all was read once.
    pub(crate) filled: watch::Sender<bool>,
}

impl Filler {
    pub(crate) async fn run(self, stop: Stop) {
        stop.unless(self.fill_all()).await;
    }

    async fn fill_all(&self) {
        let mut restarted = self.feed.restarted();
        let mut pauses = Backoff::new(RETRY_FIRST, RETRY_MOST, 0.2);
        let mut random = Random::from_entropy();
        loop {
            // Before looking, so that what comes while we look wakes us.
            restarted.mark_unchanged();
            let Some(wanted) = self.feed.wanted() else {
                self.filled.send_replace(true);
                if restarted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            // Read at once when it is back, before it can be away again.
            let mut standing = self.client.standing.subscribe();
            let ready = standing.wait_for(|standing| *standing == Standing::Ready);
            if ready.await.is_err() {
                return;
            }
            match self.fill(wanted).await {
                Ok(true) => pauses.reset(),
                // It began anew meanwhile, or more was told than is remembered.
                Ok(false) => tokio::time::sleep(pauses.next(&mut random)).await,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    // Once for each time; that etcd is away is the prober's to say.
                    if pauses.failures() == 0 {
                        warn!(%error, "the keys to show while etcd is away cannot be read yet");
                    } else {
                        debug!(%error, "the keys to show while etcd is away cannot be read yet");
                    }
                    tokio::time::sleep(pauses.next(&mut random)).await;
                }
            }
        }
    }

    /// Whether it could be used. No more is read than shows that it is too much.
    async fn fill(&self, wanted: Wanted) -> Result<bool, StoreError> {
        let all = Range::of(Span::prefix(&wanted.prefix));
        let read = self.client.read_some(&all, wanted.bytes_max).await?;
        Ok(self.feed.fill(&wanted, read.revision, read.items))
    }
}
