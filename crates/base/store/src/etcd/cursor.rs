//! One watch of ours: a place in the [`Feed`], or, while its place is older than
//! that, a watch of its own at etcd.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Backoff, Random};
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::Client;
use super::feed::{Feed, Look};
use super::stream::{Begin, Stream, Told};
use crate::{Changes, Span, StoreError, WatchSource};

/// Pauses before old history is asked for again.
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_MOST: Duration = Duration::from_secs(1);

pub(crate) struct Cursor {
    client: Arc<Client>,
    feed: Arc<Feed>,
    moved: watch::Receiver<()>,
    epoch: u64,
    span: Span,
    /// The last revision that was given or that nothing in the span changed in.
    at: Revision,
    /// What was asked for, until something was found.
    asked: Option<Revision>,
    place: Place,
    ended: Option<StoreError>,
}

enum Place {
    InFeed,
    /// Before it. All of the state is here, so that a wait may be dropped.
    Before {
        stream: Option<Box<Stream>>,
        told: VecDeque<Changes>,
        pauses: Backoff,
        again_at: Instant,
    },
}

impl Cursor {
    pub(crate) fn new(client: Arc<Client>, feed: Arc<Feed>, span: Span, after: Revision) -> Self {
        let place = if feed.holds(after) {
            Place::InFeed
        } else {
            Place::Before {
                stream: None,
                told: VecDeque::new(),
                pauses: Backoff::new(REOPEN_FIRST, REOPEN_MOST, 0.2),
                again_at: Instant::now(),
            }
        };
        Self {
            client,
            moved: feed.subscribe(),
            epoch: feed.epoch(),
            feed,
            span,
            at: after,
            asked: Some(after),
            place,
            ended: None,
        }
    }

    async fn advance(&mut self) -> Result<Changes, StoreError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        loop {
            let step = match &self.place {
                Place::InFeed => self.in_feed().await,
                Place::Before { .. } => {
                    let stop = self.client.stop.clone();
                    let step = stop.unless(self.before_feed()).await;
                    step.unwrap_or(Err(StoreError::Closed))
                }
            };
            match step {
                Ok(Some(changes)) => {
                    self.at = changes.revision;
                    self.asked = None;
                    return Ok(changes);
                }
                Ok(None) => {}
                Err(error) => return Err(self.ended.insert(error).clone()),
            }
        }
    }

    async fn in_feed(&mut self) -> Result<Option<Changes>, StoreError> {
        loop {
            // Before looking, so that what comes while we look wakes us.
            self.moved.mark_unchanged();
            match self.feed.look(self.at, self.epoch, &self.span) {
                Look::Changes(changes) => return Ok(Some(changes)),
                Look::Gone(compacted) => return Err(self.gone(compacted)),
                Look::Closed => return Err(StoreError::Closed),
                Look::Nothing(at) => {
                    self.at = at;
                    if self.moved.changed().await.is_err() {
                        return Err(StoreError::Closed);
                    }
                }
            }
        }
    }

    /// One step with a watch of our own; in the feed once it holds our place.
    async fn before_feed(&mut self) -> Result<Option<Changes>, StoreError> {
        let Place::Before {
            stream,
            told,
            pauses,
            again_at,
        } = &mut self.place
        else {
            return Ok(None);
        };
        if let Some(changes) = told.pop_front() {
            return Ok(Some(changes));
        }
        // What was asked for is for etcd to grant first.
        if self.asked.is_none() && self.feed.holds(self.at) {
            self.place = Place::InFeed;
            return Ok(None);
        }
        let Some(open) = stream else {
            tokio::time::sleep_until(*again_at).await;
            *again_at = Instant::now() + pauses.next(&mut Random::from_entropy());
            let channel = self.client.current().history.clone();
            let (client, begin) = (&self.client, Begin::AtPlace);
            let opened = Stream::open(client, &self.span, self.at, begin, Some(&channel)).await;
            // Tried again after a pause; the standing says what is wrong.
            *stream = opened.ok().map(Box::new);
            return Ok(None);
        };
        match open.next(&self.client).await {
            Ok(Told::Changes(whole)) => {
                pauses.reset();
                *told = whole;
            }
            Ok(Told::Progress(at)) => {
                self.at = self.at.max(at);
                self.asked = None;
            }
            Ok(Told::Compacted(compacted)) => return Err(self.gone(compacted)),
            Err(_) => *stream = None,
        }
        Ok(None)
    }

    fn gone(&self, compacted: Revision) -> StoreError {
        match self.asked {
            Some(asked) => StoreError::Compacted { asked, compacted },
            None => StoreError::Lagged {
                at: self.at,
                compacted,
            },
        }
    }
}

impl WatchSource for Cursor {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Changes, StoreError>> + Send + '_>> {
        Box::pin(self.advance())
    }
}
