//! What changed in the last minutes, with the last that was known of what is gone:
//! for clients that ask now and then for what they missed (Eureka's delta).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{Instance, InstanceId, Revision, ServiceName};

/// Changes that are kept: with more in [`KEPT_FOR`], some ninety a second, whoever
/// asks is told that something is missing.
const CHANGES_MAX: usize = 16 * 1024;
/// How long a change is kept.
const KEPT_FOR: Duration = Duration::from_secs(240);

#[derive(Debug)]
pub(crate) struct Recent {
    entries: VecDeque<Touch>,
    /// Every change after it is kept; `None`: every change there ever was, or that is
    /// old enough to be of no interest.
    complete_since: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(crate) struct Touch {
    at: Instant,
    pub(crate) service: ServiceName,
    pub(crate) id: InstanceId,
    pub(crate) anew: bool,
    /// The last that was known of it, when it is gone.
    pub(crate) gone: Option<Arc<Instance>>,
}

impl Recent {
    /// Nothing changed yet. What did before a restart (with a `floor` above 0) is not
    /// known.
    pub(crate) fn new(floor: Revision, now: Instant) -> Self {
        Self {
            entries: VecDeque::new(),
            complete_since: (floor != Revision(0)).then_some(now),
        }
    }

    /// An instance was one thing in the last catalogue and is another in the next.
    pub(crate) fn note(
        &mut self,
        before: Option<&Arc<Instance>>,
        after: Option<&Arc<Instance>>,
        now: Instant,
    ) {
        // What came and went between two catalogues was never seen.
        let Some(seen) = after.or(before) else {
            return;
        };
        while let Some(oldest) = self.entries.front() {
            let old = now.saturating_duration_since(oldest.at) > KEPT_FOR;
            if !old && self.entries.len() < CHANGES_MAX {
                break;
            }
            if !old {
                self.complete_since = Some(oldest.at);
            }
            self.entries.pop_front();
        }
        let anew = match (before, after) {
            (Some(before), Some(after)) => !same_but_for_health(before, after),
            _ => true,
        };
        self.entries.push_back(Touch {
            at: now,
            service: seen.service.clone(),
            id: seen.id.clone(),
            anew,
            gone: after.is_none().then(|| Arc::clone(seen)),
        });
    }

    /// The last change of each instance within `window`, and whether that is all.
    pub(crate) fn within(&self, window: Duration, now: Instant) -> (bool, Vec<Touch>) {
        let recent = |at: Instant| now.saturating_duration_since(at) <= window.min(KEPT_FOR);
        let complete = !self.complete_since.is_some_and(recent);
        let mut seen = BTreeSet::new();
        let mut latest: Vec<Touch> = Vec::new();
        for touch in self
            .entries
            .iter()
            .rev()
            .take_while(|touch| recent(touch.at))
        {
            if seen.insert((&touch.service, &touch.id)) {
                latest.push(touch.clone());
            }
        }
        latest.reverse();
        (complete, latest)
    }
}

fn same_but_for_health(before: &Instance, after: &Instance) -> bool {
    before.address == after.address
        && before.weight == after.weight
        && before.tags == after.tags
        && before.metadata == after.metadata
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atoll_model::Health;

    use super::*;

    fn instance(id: &str, health: Health) -> Arc<Instance> {
        Arc::new(Instance {
            id: id.parse().unwrap(),
            service: "users".parse().unwrap(),
            address: "10.0.0.1:80".parse().unwrap(),
            weight: 1,
            health,
            note: String::new(),
            tags: Vec::new(),
            metadata: BTreeMap::new(),
        })
    }

    fn told(recent: &Recent, window_secs: u64, now: Instant) -> (bool, Vec<String>) {
        let (complete, touched) = recent.within(Duration::from_secs(window_secs), now);
        let told = touched.iter().map(|touch| {
            let kind = match (&touch.gone, touch.anew) {
                (Some(_), _) => '-',
                (None, true) => '+',
                (None, false) => '~',
            };
            format!("{kind}{}", touch.id)
        });
        (complete, told.collect())
    }

    #[test]
    fn the_last_change_of_each_instance_is_told_until_it_is_old() {
        let start = tokio::time::Instant::now().into_std();
        let at = |secs| start + Duration::from_secs(secs);
        let mut recent = Recent::new(Revision(0), start);
        let (a, b) = (
            instance("a", Health::Passing),
            instance("b", Health::Passing),
        );
        let ill = instance("a", Health::Critical);
        recent.note(None, Some(&a), at(0));
        recent.note(None, Some(&b), at(10));
        recent.note(Some(&a), Some(&ill), at(20));
        recent.note(None, None, at(21));
        let both = vec!["+b".to_owned(), "~a".to_owned()];
        assert_eq!(told(&recent, 180, at(30)), (true, both));
        recent.note(Some(&b), None, at(40));
        let gone = vec!["~a".to_owned(), "-b".to_owned()];
        assert_eq!(told(&recent, 180, at(200)), (true, gone));
        assert_eq!(told(&recent, 180, at(201)), (true, vec!["-b".to_owned()]));
        assert_eq!(told(&recent, 180, at(500)), (true, vec![]));
    }

    #[test]
    fn what_changed_before_a_restart_is_said_to_be_missing_for_as_long_as_it_matters() {
        let start = tokio::time::Instant::now().into_std();
        let recent = Recent::new(Revision(7), start);
        assert!(!told(&recent, 180, start + Duration::from_secs(180)).0);
        assert!(told(&recent, 180, start + Duration::from_secs(181)).0);
    }

    #[test]
    fn more_changes_than_are_kept_are_said_to_be_missing() {
        let start = tokio::time::Instant::now().into_std();
        let mut recent = Recent::new(Revision(0), start);
        for number in 0..=CHANGES_MAX {
            let one = instance(&format!("i{number}"), Health::Passing);
            recent.note(None, Some(&one), start);
        }
        let (complete, touched) = told(&recent, 180, start);
        assert_eq!((complete, touched.len()), (false, CHANGES_MAX));
    }
}
