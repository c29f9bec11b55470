//! The two tasks of a store on etcd: one follows all changes of our prefix into the
//! [`Feed`], one looks each second whether etcd can be had and says so.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Backoff, Clock, Random, Stop};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::client::{Client, Failure};
use super::feed::Feed;
use super::stream::{Begin, Stream, Told};
use super::{Standing, refusal};
use crate::Span;

/// Between two looks. With the deadline of a look, being away is noticed within 3 s.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// What the watch may take to be opened again before the store counts as away.
const REOPEN_GRACE: Duration = Duration::from_millis(500);
/// Pauses before the watch is opened again.
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_MOST: Duration = Duration::from_secs(1);

/// Follows etcd until it is told to stop.
pub(crate) struct Follower {
    pub(crate) client: Arc<Client>,
    pub(crate) feed: Arc<Feed>,
    /// Whether the watch stands; the feed is as new as etcd's answers then.
    pub(crate) stands: watch::Sender<bool>,
}

impl Follower {
    pub(crate) async fn run(self, stop: Stop) {
        let mut pauses = Backoff::new(REOPEN_FIRST, REOPEN_MOST, 0.2);
        let mut random = Random::from_entropy();
        while let Some(why) = stop.unless(self.session(&mut pauses)).await {
            self.stands.send_replace(false);
            // Once for each break; that it lasts is the prober's to say.
            if pauses.failures() == 0 {
                warn!(why, "the watch of etcd broke off, opening it again");
            } else {
                debug!(why, "the watch of etcd cannot be opened yet");
            }
            let pause = pauses.next(&mut random);
            if stop.unless(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        self.feed.close();
    }

    /// Watches from where the last session ended; gives why this one did.
    async fn session(&self, pauses: &mut Backoff) -> String {
        let mut current = self.client.current.subscribe();
        // Of the whole cluster: a member may be behind, the cluster cannot.
        let now = match self.client.probe().await {
            Ok(now) => now,
            Err(failure) => return refusal(&failure),
        };
        if now < self.feed.at() {
            warn!(at = %self.feed.at(), now = %now, "etcd's revisions began anew");
            self.feed.begin_anew(now);
        }
        let mut stream = match self.open(now).await {
            Ok(stream) => stream,
            Err(why) => return why,
        };
        self.stands.send_replace(true);
        pauses.reset();
        loop {
            let told = tokio::select! {
                told = stream.next(&self.client) => told,
                // The endpoint of this watch does not answer calls any more.
                _ = current.changed() => return "another endpoint is asked now".to_owned(),
            };
            match told {
                Ok(Told::Changes(whole)) => whole.into_iter().for_each(|one| self.feed.push(one)),
                Ok(Told::Progress(at)) => self.feed.advance(at),
                Ok(Told::Compacted(compacted)) => {
                    warn!(%compacted, "etcd dropped history that was not read yet");
                    self.feed.skip_to(compacted);
                    stream = match self.open(compacted).await {
                        Ok(stream) => stream,
                        Err(why) => return why,
                    };
                }
                Err(why) => return why,
            }
        }
    }

    /// A watch from the feed's place, when the store is or was at `now`.
    async fn open(&self, now: Revision) -> Result<Stream, String> {
        let (client, at) = (&self.client, self.feed.at());
        if now == at {
            let stream = Stream::open(client, &Span::all(), at, Begin::AfterPlace, None).await?;
            if stream.begun() <= at {
                return Ok(stream);
            }
        }
        Stream::open(client, &Span::all(), at, Begin::AtPlace, None).await
    }
}

/// Says whether etcd can be had, until it is told to stop.
pub(crate) struct Prober {
    pub(crate) client: Arc<Client>,
    pub(crate) stands: watch::Receiver<bool>,
    pub(crate) clock: Clock,
}

impl Prober {
    pub(crate) async fn run(mut self, stop: Stop) {
        loop {
            let away = *self.client.standing.borrow() != Standing::Ready;
            let waits_for_watch = away && !*self.stands.borrow();
            let stands = self.stands.wait_for(|stands| *stands);
            let wait = async {
                tokio::select! {
                    () = tokio::time::sleep(PROBE_EVERY) => {}
                    Ok(_) = stands, if waits_for_watch => {}
                }
            };
            if stop.unless(wait).await.is_none() {
                return;
            }
            let look = async {
                let answer = self.client.probe().await;
                let stands = self.stands.wait_for(|stands| *stands);
                let stands = tokio::time::timeout(REOPEN_GRACE, stands).await;
                answer.map(|_| stands.is_ok())
            };
            let Some(found) = stop.unless(look).await else {
                return;
            };
            self.tell(found);
        }
    }

    /// Whether the watch stands, if etcd answers.
    fn tell(&self, found: Result<bool, Failure>) {
        let why = match found {
            Ok(true) => None,
            Ok(false) => Some("etcd answers, but its watch is not open yet".to_owned()),
            Err(failure) => Some(refusal(&failure)),
        };
        let now = self.clock.now();
        self.client.standing.send_if_modified(|standing| {
            let next = match (&*standing, why) {
                (Standing::Ready, None) => return false,
                (Standing::Away { since, .. }, None) => {
                    let away_ms = now.saturating_duration_since(*since).as_millis();
                    info!(away_ms, "etcd is back");
                    Standing::Ready
                }
                (Standing::Ready, Some(why)) => {
                    warn!(why, "etcd is away");
                    Standing::Away { since: now, why }
                }
                (Standing::Away { since, .. }, Some(why)) => Standing::Away { since: *since, why },
            };
            let changed = *standing != next;
            *standing = next;
            changed
        });
    }
}
