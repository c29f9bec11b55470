//! Checks that are told instead of asked, and instances that were critical too long.

use std::time::{Duration, Instant};

use atoll_model::{Health, Probe};
use tracing::info;

use super::{Said, State, find, target_of};
use crate::record::Answered;
use crate::{Outcome, RegistryError};

/// What a check says whose owner fell silent (Consul's words).
const SILENT: &str = "TTL expired";

impl State {
    pub(super) fn said(&mut self, said: Said, now: Instant) -> Result<(), RegistryError> {
        let Said {
            service,
            id,
            check: name,
            health,
            output,
        } = said;
        let refuse = |reason| RegistryError::Invalid {
            field: "check",
            reason,
        };
        let record = find(&mut self.services, &service, &id)?;
        let index = record.checks.iter().position(|c| c.check.name == name);
        let Some(index) = index else {
            return Err(refuse(format!("`{id}` has no check `{name}`")));
        };
        let target = target_of(record, index);
        let checked = &mut record.checks[index];
        let Probe::Told { ttl } = checked.check.probe else {
            return Err(refuse(format!("`{name}` is asked, not told")));
        };
        checked.answered = Some(Answered {
            at: now,
            took: Duration::ZERO,
            outcome: outcome_of(health),
        });
        checked.say(&output);
        checked.believed = ttl.map(|ttl| now + ttl);
        let changed = checked.verdict.set(health, now);
        self.deadlines.arm(target, checked);
        self.show(&service, &id, changed, now);
        Ok(())
    }

    /// Lets silence count, and removes what has been critical for too long.
    pub(super) fn lapse(&mut self, now: Instant) {
        if now < self.mercy || self.is_away() {
            return;
        }
        while let Some((at, target)) = self.deadlines.take_due(now) {
            let Ok(record) = find(&mut self.services, &target.service, &target.id) else {
                continue;
            };
            // What another process cares for is removed by that.
            if record.stamp != target.stamp || !record.is_ours() {
                continue;
            }
            let Some(checked) = record.checks.get_mut(target.index) else {
                continue;
            };
            if checked.queued != Some(at) {
                continue;
            }
            checked.queued = None;
            if checked.due().is_none_or(|due| due > now) {
                self.deadlines.arm(target, checked);
                continue;
            }
            let (service, id) = (target.service.clone(), target.id.clone());
            if checked.verdict.health == Health::Critical {
                info!(%service, instance = %id, check = checked.check.name, "deregistered: critical for too long");
                self.remove(&service, &id);
                continue;
            }
            checked.say(SILENT);
            checked.verdict.set(Health::Critical, now);
            self.deadlines.arm(target, checked);
            self.show(&service, &id, true, now);
        }
    }
}

pub(super) fn outcome_of(health: Health) -> Outcome {
    match health {
        Health::Passing => Outcome::Pass,
        Health::Warning => Outcome::Warn,
        Health::Starting | Health::Critical | Health::Draining => Outcome::Fail,
    }
}
