//! The keys of a Consul: what was copied of them, and what Atoll's own clients have
//! changed since, which is theirs.
//!
//! A key is put only if Atoll does not have it, or still has what was copied (by
//! `?cas=`), so that a client that has switched is never overwritten. Values are not
//! kept, only what identifies them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use atoll_consul::copying::Pair;

use super::target::Target;

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyEvent {
    Copied,
    Changed,
    Removed,
    /// Atoll has another value, which stays.
    Theirs,
    Refused(String),
}

/// What is known of the keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// What the source had when it was last looked at.
    seen: BTreeMap<String, u64>,
    /// What was put into Atoll.
    copied: BTreeMap<String, u64>,
    theirs: BTreeSet<String>,
    /// Whether it is known what Atoll had before.
    begun: bool,
}

/// What identifies flags and value.
fn print_of(pair: &Pair) -> u64 {
    let mut hasher = DefaultHasher::new();
    (pair.flags, &pair.value).hash(&mut hasher);
    hasher.finish()
}

impl Keys {
    /// Keys that are in Atoll because of the source.
    pub(super) fn count(&self) -> usize {
        self.copied.len()
    }

    /// Takes what Atoll has and the source too for copied already.
    ///
    /// # Errors
    /// When Atoll does not answer.
    async fn begin(&mut self, target: &Target) -> anyhow::Result<BTreeMap<String, u64>> {
        let there = target.keys().await?;
        self.begun = true;
        Ok(there
            .iter()
            .map(|pair| (pair.key.clone(), print_of(pair)))
            .collect())
    }

    /// What a first copy would do; nothing is done.
    ///
    /// # Errors
    /// When Atoll does not answer.
    pub(super) async fn rehearse(
        &mut self,
        pairs: &[Pair],
        target: &Target,
    ) -> anyhow::Result<Vec<(String, KeyEvent)>> {
        let there = self.begin(target).await?;
        let events = pairs.iter().filter_map(|pair| {
            let event = match there.get(&pair.key) {
                None => KeyEvent::Copied,
                Some(print) if *print == print_of(pair) => return None,
                Some(_) => KeyEvent::Theirs,
            };
            Some((pair.key.clone(), event))
        });
        Ok(events.collect())
    }

    /// Brings Atoll to what the source has. What was done before an error is known, so
    /// that it can be called again with the same.
    ///
    /// # Errors
    /// When Atoll does not answer.
    pub(super) async fn follow(
        &mut self,
        pairs: &[Pair],
        target: &Target,
        events: &mut Vec<(String, KeyEvent)>,
    ) -> anyhow::Result<()> {
        if !self.begun {
            let there = self.begin(target).await?;
            for pair in pairs {
                if there.get(&pair.key) == Some(&print_of(pair)) {
                    self.copied.insert(pair.key.clone(), print_of(pair));
                    self.seen.insert(pair.key.clone(), print_of(pair));
                }
            }
        }
        for pair in pairs {
            let print = print_of(pair);
            if self.seen.get(&pair.key) == Some(&print) {
                continue;
            }
            if !self.theirs.contains(&pair.key) {
                let event = self.put(pair, print, target).await?;
                events.extend(event.map(|event| (pair.key.clone(), event)));
            }
            self.seen.insert(pair.key.clone(), print);
        }
        let listed: BTreeSet<&str> = pairs.iter().map(|pair| &pair.key[..]).collect();
        let gone = self.seen.keys().filter(|key| !listed.contains(&key[..]));
        let gone: Vec<String> = gone.cloned().collect();
        for key in gone {
            if let Some(event) = self.remove(&key, target).await? {
                events.push((key.clone(), event));
            }
            self.seen.remove(&key);
        }
        Ok(())
    }

    async fn put(
        &mut self,
        pair: &Pair,
        print: u64,
        target: &Target,
    ) -> anyhow::Result<Option<KeyEvent>> {
        let there = target.key(&pair.key).await?;
        let copied = self.copied.get(&pair.key).copied();
        let found = there.as_ref().map(print_of);
        let event = match (found, copied) {
            (Some(found), _) if found == print => {
                self.copied.insert(pair.key.clone(), print);
                return Ok(None);
            }
            (None, None) => KeyEvent::Copied,
            (Some(found), Some(copied)) if found == copied => KeyEvent::Changed,
            // Changed or deleted there since, or there before.
            (Some(_), _) | (None, Some(_)) => return Ok(Some(self.is_theirs(&pair.key))),
        };
        let index = there.map_or(0, |there| there.modified);
        match target.put_key(pair, index).await? {
            Ok(true) => {
                self.copied.insert(pair.key.clone(), print);
                Ok(Some(event))
            }
            Ok(false) => Ok(Some(self.is_theirs(&pair.key))),
            Err(why) => Ok(Some(KeyEvent::Refused(why))),
        }
    }

    async fn remove(&mut self, key: &str, target: &Target) -> anyhow::Result<Option<KeyEvent>> {
        let Some(copied) = self.copied.get(key).copied() else {
            self.theirs.remove(key);
            return Ok(None);
        };
        let event = match target.key(key).await? {
            None => KeyEvent::Removed,
            Some(there) if print_of(&there) == copied => {
                match target.delete_key(key, there.modified).await? {
                    true => KeyEvent::Removed,
                    false => KeyEvent::Theirs,
                }
            }
            Some(_) => KeyEvent::Theirs,
        };
        self.copied.remove(key);
        Ok(Some(event))
    }

    fn is_theirs(&mut self, key: &str) -> KeyEvent {
        self.copied.remove(key);
        self.theirs.insert(key.to_owned());
        KeyEvent::Theirs
    }
}
