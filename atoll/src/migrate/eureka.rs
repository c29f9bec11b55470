//! Reads a Eureka server: all of it once, then what changed, as Eureka's own clients do,
//! only more often.
//!
//! A server of Netflix answers from a cache that it refreshes every 30 s
//! (`responseCacheUpdateIntervalMs`), so a change there is seen up to so much later,
//! however often it is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use atoll_eureka::copying::{self, Listed, Listing};
use atoll_runtime::{Backoff, Clock, Random};
use tokio::sync::mpsc::Sender;

use super::mirror::{Item, Key};
use super::seen::{Seen, of_eureka};
use super::source::Source;

/// Between two questions.
const POLL: Duration = Duration::from_secs(1);
/// A list that takes long is asked for so many times less often: a fifth of the time at
/// most is spent with it.
const REST_FACTOR: u32 = 4;
/// A list and its delta come from caches of different age, so that they may disagree
/// without end; the list is the dearer one.
const WHOLE_EVERY: Duration = Duration::from_secs(10);
/// After a failure, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Everything that the server lists.
pub(super) async fn all(source: &Source) -> anyhow::Result<Listing> {
    read(source, "/apps").await
}

async fn read(source: &Source, path: &str) -> anyhow::Result<Listing> {
    let body = source.list(path).await?;
    let listing = copying::read(&body).map_err(|why| anyhow!(why));
    listing.with_context(|| {
        format!(
            "{}{path} answered with something else than a list of applications",
            source.shown
        )
    })
}

/// Says what changes, for ever.
pub(super) async fn follow(source: &Source, clock: &Clock, mut known: Known, seen: Sender<Seen>) {
    let mut random = Random::from_entropy();
    let mut again = Backoff::new(AGAIN.0, AGAIN.1, 0.2);
    let (mut sure, mut whole_at) = (true, clock.now());
    let mut pause = POLL;
    loop {
        tokio::time::sleep(pause).await;
        let began = clock.now();
        let due = began.saturating_duration_since(whole_at) >= WHOLE_EVERY;
        let news = look(source, &mut known, &mut sure, due).await;
        let took = clock.now().saturating_duration_since(began);
        pause = POLL.max(took * REST_FACTOR);
        let told = match news {
            Ok(news) => {
                again.reset();
                if matches!(news, Seen::Whole { .. }) {
                    whole_at = clock.now();
                }
                news
            }
            Err(error) => {
                // What was missed meanwhile may be in no delta any more.
                sure = false;
                whole_at = began.checked_sub(WHOLE_EVERY).unwrap_or(began);
                pause = again.next(&mut random);
                Seen::Failed(error)
            }
        };
        if seen.send(told).await.is_err() {
            return;
        }
    }
}

/// One look: the delta, or everything when the delta does not add up.
async fn look(
    source: &Source,
    known: &mut Known,
    sure: &mut bool,
    whole_is_due: bool,
) -> anyhow::Result<Seen> {
    if *sure {
        let delta = read(source, "/apps/delta").await?;
        let (put, gone) = known.changes(delta.instances);
        *sure = known.hash() == delta.hash;
        return Ok(Seen::Changes { put, gone });
    }
    if !whole_is_due {
        return Ok(Seen::Changes {
            put: Vec::new(),
            gone: Vec::new(),
        });
    }
    let listing = all(source).await?;
    known.whole(&listing.instances);
    *sure = true;
    Ok(Seen::Whole {
        service: None,
        items: listing.instances.into_iter().map(of_eureka).collect(),
    })
}

/// The statuses of what there is, for the hash code.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<Key, &'static str>);

impl Known {
    /// Everything that there is.
    pub(super) fn whole(&mut self, instances: &[Listed]) {
        let known = instances.iter().map(|listed| (key(listed), listed.status));
        self.0 = known.collect();
    }

    /// Applies a delta, in which the last word on an instance counts.
    fn changes(&mut self, delta: Vec<Listed>) -> (Vec<Item>, Vec<Key>) {
        let mut last: BTreeMap<Key, Listed> = BTreeMap::new();
        for listed in delta {
            last.insert(key(&listed), listed);
        }
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for (key, listed) in last {
            if listed.gone {
                self.0.remove(&key);
                gone.push(key);
            } else {
                self.0.insert(key, listed.status);
                put.push(of_eureka(listed));
            }
        }
        (put, gone)
    }

    fn hash(&self) -> String {
        copying::hash_code(self.0.values().copied())
    }
}

fn key(listed: &Listed) -> Key {
    Key {
        service: listed.app.clone(),
        id: listed.id.clone(),
        node: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn listed(id: &str, status: &'static str, gone: bool) -> Listed {
        Listed {
            app: "A".to_owned(),
            id: id.to_owned(),
            status,
            address: "10.0.0.1:80".to_owned(),
            gone,
            body: Value::Null,
        }
    }

    #[test]
    fn the_last_word_of_a_delta_counts_and_the_hash_follows() {
        let mut known = Known::default();
        known.whole(&[listed("1", "UP", false), listed("2", "UP", false)]);
        assert_eq!(known.hash(), "UP_2_");
        let (put, gone) = known.changes(vec![
            listed("1", "UP", true),
            listed("1", "DOWN", false),
            listed("2", "UP", true),
            listed("3", "UP", false),
        ]);
        let put: Vec<_> = put.iter().map(|item| &item.key.id[..]).collect();
        assert_eq!((put, gone.len()), (vec!["1", "3"], 1));
        assert_eq!(known.hash(), "DOWN_1_UP_1_");
        // Said again, nothing is new.
        known.changes(vec![listed("2", "UP", true), listed("3", "UP", false)]);
        assert_eq!(known.hash(), "DOWN_1_UP_1_");
    }
}
