//! All keys of one prefix as they are, in memory: what reads are answered from while
//! etcd is away. The [`super::feed`] keeps it current, [`super::fill`] reads it when
//! it is new or history was missed. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_model::Revision;
use tracing::warn;

use crate::key::successor;
use crate::{Changes, Key, KeyValue, Range, Snapshot, Span};

/// Bytes that one mirror may take: many times what clients keep in Consul, and little
/// enough beside the registry. etcd itself keeps 2 GiB by default.
pub(crate) const MIRROR_BYTES_MAX: usize = 256 * 1_024 * 1_024;
/// What a key takes beside its own bytes and its value's, about: its place in the map,
/// its numbers, and the counts of those who share it.
const ENTRY_BYTES: usize = 160;

pub(crate) struct Mirror {
    prefix: Vec<u8>,
    bytes_max: usize,
    state: State,
}

enum State {
    /// To be read.
    Unread,
    Read(Kept),
    /// There is more than may be kept: reads fail while etcd is away.
    TooLarge,
}

struct Kept {
    items: BTreeMap<Key, Arc<KeyValue>>,
    bytes: usize,
    /// Everything up to it is in the items.
    at: Revision,
    /// Whether all later changes are taken up. Not after some were missed: it is the
    /// last that is known then, and to be read again.
    current: bool,
}

impl Mirror {
    pub(crate) fn new(prefix: impl Into<Vec<u8>>, bytes_max: usize) -> Self {
        Self {
            prefix: prefix.into(),
            bytes_max,
            state: State::Unread,
        }
    }

    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Whether it has to be read.
    pub(crate) fn wants(&self) -> bool {
        match &self.state {
            State::Unread => true,
            State::Read(kept) => !kept.current,
            State::TooLarge => false,
        }
    }

    /// Whether all of the span would be here.
    pub(crate) fn covers(&self, span: &Span) -> bool {
        let prefix = &self.prefix[..];
        match span {
            Span::Key(key) => key.starts_with(prefix),
            Span::Prefix(below) => below.starts_with(prefix),
            Span::Between(from, to) => {
                from.starts_with(prefix)
                    && successor(prefix).is_none_or(|end| to.as_slice() <= &end[..])
            }
        }
    }

    /// All keys as of `at`, of which some bytes too many are enough to see that there
    /// are too many.
    pub(crate) fn fill(&mut self, at: Revision, items: Vec<Arc<KeyValue>>) {
        let bytes = items.iter().map(|item| weight(item)).sum();
        let items = items.into_iter().map(|item| (item.key.clone(), item));
        self.state = State::Read(Kept {
            items: items.collect(),
            bytes,
            at,
            current: true,
        });
        self.check_size();
    }

    /// Takes up what changed next; what is in it already is left out.
    pub(crate) fn apply(&mut self, changes: &Changes) {
        let State::Read(kept) = &mut self.state else {
            return;
        };
        if !kept.current || changes.revision <= kept.at {
            return;
        }
        let ours = changes.events.iter();
        for event in ours.filter(|event| event.key.starts_with(&self.prefix)) {
            let before = match &event.after {
                Some(after) => {
                    kept.bytes += weight(after);
                    kept.items.insert(event.key.clone(), Arc::clone(after))
                }
                None => kept.items.remove(&event.key),
            };
            kept.bytes -= before.map_or(0, |before| weight(&before));
        }
        kept.at = changes.revision;
        self.check_size();
    }

    /// What came after `at` was missed.
    pub(crate) fn fall_behind(&mut self, at: Revision) {
        if let State::Read(kept) = &mut self.state {
            kept.at = kept.at.max(at);
            kept.current = false;
        }
    }

    /// The keys were of another life of etcd's.
    pub(crate) fn forget(&mut self) {
        self.state = State::Unread;
    }

    /// The range as it was last, when nothing of ours changed after that up to `told`.
    pub(crate) fn read(&self, range: &Range, told: Revision) -> Option<Snapshot> {
        let State::Read(kept) = &self.state else {
            return None;
        };
        let revision = match kept.current {
            true => kept.at.max(told),
            false => kept.at,
        };
        let limit = range.limit.unwrap_or(usize::MAX);
        let mut found = range.span.bounds().into_iter().flat_map(|(from, to)| {
            let from = from.as_ref().map(Vec::as_slice);
            let to = to.as_ref().map(Vec::as_slice);
            kept.items.range::<[u8], _>((from, to))
        });
        let items = found.by_ref().take(limit);
        Some(Snapshot {
            revision,
            items: items.map(|(_, item)| Arc::clone(item)).collect(),
            more: found.next().is_some(),
        })
    }

    fn check_size(&mut self) {
        let State::Read(kept) = &self.state else {
            return;
        };
        if kept.bytes > self.bytes_max {
            let prefix = String::from_utf8_lossy(&self.prefix).into_owned();
            let bytes_max = self.bytes_max;
            warn!(
                prefix,
                bytes_max,
                "more is kept in etcd than is mirrored: until the next start, it cannot be read \
                 while etcd is away"
            );
            self.state = State::TooLarge;
        }
    }
}

/// The bytes that an item counts for.
pub(crate) fn weight(item: &KeyValue) -> usize {
    item.key.len() + item.value.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    fn item(key: &str, revision: u64, bytes: usize) -> Arc<KeyValue> {
        Arc::new(KeyValue {
            key: key.into(),
            value: vec![0; bytes].into(),
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            version: 1,
            lease: None,
        })
    }

    fn changes(revision: u64, events: &[(&str, Option<usize>)]) -> Changes {
        let event = |(key, bytes): &(&str, Option<usize>)| Event {
            key: (*key).into(),
            after: bytes.map(|bytes| item(key, revision, bytes)),
            before: None,
        };
        Changes {
            revision: Revision(revision),
            events: events.iter().map(event).collect(),
        }
    }

    /// What is found as `revision:key@changed,...`, with `+` when the limit cut some off.
    fn check(mirror: &Mirror, range: &Range, told: u64, expected: &str) {
        let found = mirror.read(range, Revision(told));
        let found = found.map(|found| {
            let items = found.items.iter();
            let items = items.map(|item| {
                let key = String::from_utf8_lossy(&item.key).into_owned();
                format!("{key}@{}", item.mod_revision.0)
            });
            let more = if found.more { "+" } else { "" };
            let items = items.collect::<Vec<_>>().join(",");
            format!("{}:{items}{more}", found.revision.0)
        });
        assert_eq!(found.unwrap_or_default(), expected, "{range:?}");
    }

    fn filled(bytes_max: usize) -> Mirror {
        let mut mirror = Mirror::new("c/", bytes_max);
        mirror.fill(Revision(5), vec![item("c/a", 2, 1), item("c/b", 5, 1)]);
        mirror
    }

    #[test]
    fn it_shows_what_was_read_and_all_that_changed_since() {
        let all = Range::of(Span::prefix("c/"));
        let mut mirror = Mirror::new("c/", MIRROR_BYTES_MAX);
        assert!(mirror.wants());
        check(&mirror, &all, 9, "");
        mirror = filled(MIRROR_BYTES_MAX);
        assert!(!mirror.wants());
        check(&mirror, &all, 4, "5:c/a@2,c/b@5");
        // Read before it was told.
        mirror.apply(&changes(4, &[("c/a", None)]));
        mirror.apply(&changes(5, &[("c/b", None)]));
        check(&mirror, &all, 5, "5:c/a@2,c/b@5");
        mirror.apply(&changes(
            6,
            &[("b", Some(1)), ("c/a", None), ("c/c", Some(1))],
        ));
        mirror.apply(&changes(8, &[("c/b", Some(1)), ("d", Some(1))]));
        check(&mirror, &all, 9, "9:c/b@8,c/c@6");
    }

    #[test]
    fn spans_and_limits_are_as_the_stores() {
        let mirror = filled(MIRROR_BYTES_MAX);
        let between = |from: &str, to: &str| Range::of(Span::Between(from.into(), to.into()));
        check(&mirror, &Range::of("c/a"), 5, "5:c/a@2");
        check(&mirror, &Range::of("c/x"), 5, "5:");
        check(&mirror, &between("c/a", "c/b"), 5, "5:c/a@2");
        check(&mirror, &between("c/b", "c/a"), 5, "5:");
        let all = || Range::of(Span::prefix("c/"));
        check(&mirror, &all().limit(0), 5, "5:+");
        check(&mirror, &all().limit(1), 5, "5:c/a@2+");
        check(&mirror, &all().limit(2), 5, "5:c/a@2,c/b@5");
    }

    #[test]
    fn it_covers_what_is_below_its_prefix_alone() {
        let mirror = Mirror::new("c/", MIRROR_BYTES_MAX);
        let between = |from: &str, to: &str| Span::Between(from.into(), to.into());
        for span in [
            Span::from("c/"),
            Span::prefix("c/"),
            Span::prefix("c/a"),
            between("c/", "c0"),
        ] {
            assert!(mirror.covers(&span), "{span:?}");
        }
        for span in [
            Span::from("c"),
            Span::all(),
            Span::prefix("c"),
            between("c", "c/a"),
            between("c/a", "c0a"),
        ] {
            assert!(!mirror.covers(&span), "{span:?}");
        }
    }

    #[test]
    fn the_last_that_is_known_is_shown_until_it_is_read_again() {
        let all = Range::of(Span::prefix("c/"));
        let mut mirror = filled(MIRROR_BYTES_MAX);
        mirror.fall_behind(Revision(7));
        assert!(mirror.wants());
        mirror.apply(&changes(30, &[("c/a", None)]));
        check(&mirror, &all, 40, "7:c/a@2,c/b@5");
        mirror.fill(Revision(41), vec![item("c/z", 20, 1)]);
        check(&mirror, &all, 40, "41:c/z@20");
        mirror.forget();
        assert!(mirror.wants());
        check(&mirror, &all, 41, "");
    }

    #[test]
    fn what_is_too_large_is_dropped_whether_it_was_read_or_grew() {
        let two = 2 * (4 + ENTRY_BYTES);
        let mut mirror = filled(two);
        // Another in its place takes no more.
        mirror.apply(&changes(6, &[("c/a", Some(1))]));
        mirror.apply(&changes(7, &[("c/b", None)]));
        mirror.apply(&changes(8, &[("c/c", Some(1))]));
        check(&mirror, &Range::of(Span::prefix("c/")), 8, "8:c/a@6,c/c@8");
        mirror.apply(&changes(9, &[("c/a", Some(2))]));
        check(&mirror, &Range::of("c/a"), 9, "");
        assert!(!mirror.wants());
        check(&filled(two - 1), &Range::of("c/a"), 5, "");
    }
}
