//! Events of `/api/v1/watch` that many watchers are sent: each is made and written once.
//!
//! Watchers that are up to date go from the same catalogue to the same next one, so what
//! they are told is the same bytes. Only the last few are kept, within limits: a watcher
//! that is slow merges what it missed, and gets an event of its own.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Events that are kept: one for each step that watchers on their way may take.
const EVENTS_MAX: usize = 8;
/// Bytes of all of them; a longer one is not kept.
const BYTES_MAX: usize = 4 << 20;

/// From which revision to which; from none is everything.
type Step = (Option<u64>, u64);

#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<VecDeque<(Step, Bytes)>>);

impl Events {
    /// The event of a step, made by the first who takes it; others wait meanwhile, which
    /// is no longer than making it themselves.
    pub(crate) fn of(&self, step: Step, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, event)) = events.iter().find(|(known, _)| *known == step) {
            return event.clone();
        }
        let event = make();
        events.push_back((step, event.clone()));
        let mut bytes: usize = events.iter().map(|(_, event)| event.len()).sum();
        while events.len() > EVENTS_MAX || bytes > BYTES_MAX {
            bytes -= events.pop_front().map_or(bytes, |(_, event)| event.len());
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_made_once_for_all_who_take_its_step() {
        let (events, mut made) = (Events::default(), 0);
        for _ in 0..10_000 {
            let event = events.of((Some(6), 7), || {
                made += 1;
                Bytes::from(vec![b'x'; 1000])
            });
            assert_eq!(event.len(), 1000);
        }
        assert_eq!(made, 1);
        for step in [(None, 7), (Some(5), 7), (Some(6), 8)] {
            let other = events.of(step, || Bytes::from_static(b"other"));
            assert_eq!(other, "other");
        }
    }

    #[test]
    fn neither_many_events_nor_long_ones_gather() {
        let events = Events::default();
        for revision in 0..100 {
            events.of((None, revision), || Bytes::from_static(b"x"));
        }
        assert_eq!(events.0.lock().unwrap().len(), EVENTS_MAX);
        let long = events.of((None, 100), || Bytes::from(vec![0; BYTES_MAX + 1]));
        assert_eq!(long.len(), BYTES_MAX + 1);
        assert!(events.0.lock().unwrap().is_empty());
    }
}
