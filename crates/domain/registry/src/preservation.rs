//! Self-preservation: when many leases lapse within a short time, it is likelier that
//! the network (or we) are at fault than that all those instances are gone, so they
//! stay in the catalogue until most have renewed.
//!
//! Eureka compares renewals a minute with what it expects if everybody renews each
//! 30 s; here the leases themselves are counted, so that it holds whatever the
//! clients' intervals, and never for a fleet so small that one loss is a large share
//! (Netflix/eureka#1459, spring-cloud-netflix#1322).

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use atoll_model::{InstanceId, ServiceName};
use tracing::warn;

/// When lapsed leases are kept. It holds for registrations that are
/// [`crate::Registration::patient`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfPreservation {
    /// Off: a lease that lapsed is over. Default on.
    pub enabled: bool,
    /// Share of the leases that may expire within [`SelfPreservation::window`], in
    /// percent. Default 15, as in Eureka (its threshold of 0.85).
    pub lapsed_percent_max: u8,
    /// With fewer leases than this it never holds. Default 20: three of them may go.
    pub leases_min: usize,
    /// Default 60 s.
    pub window: Duration,
}

impl Default for SelfPreservation {
    fn default() -> Self {
        Self {
            enabled: true,
            lapsed_percent_max: 15,
            leases_min: 20,
            window: Duration::from_secs(60),
        }
    }
}

/// How self-preservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preservation {
    /// What was set.
    pub settings: SelfPreservation,
    /// Patient leases in the registry, those that lapsed included.
    pub leases: usize,
    /// Those that lapsed and are kept.
    pub lapsed: usize,
    /// How many expired within the window.
    pub expired: usize,
    /// Whether it holds now.
    pub holding: bool,
}

#[derive(Debug)]
pub(crate) struct Preserver {
    settings: SelfPreservation,
    leases: usize,
    lapsed: BTreeSet<(ServiceName, InstanceId)>,
    /// When the last ones expired, oldest first; at most a window's share of leases.
    expired: VecDeque<Instant>,
    holding: bool,
}

impl Preserver {
    pub(crate) fn new(settings: SelfPreservation) -> Self {
        Self {
            settings,
            leases: 0,
            lapsed: BTreeSet::new(),
            expired: VecDeque::new(),
            holding: false,
        }
    }

    /// An instance came; `patient` if its lease counts here.
    pub(crate) fn join(&mut self, patient: bool) {
        self.leases += usize::from(patient);
    }

    /// An instance went, or is replaced.
    pub(crate) fn leave(&mut self, patient: bool, service: &ServiceName, id: &InstanceId) {
        if patient {
            self.leases -= 1;
            self.recovered(service, id);
        }
    }

    /// A patient lease was not renewed in time.
    pub(crate) fn lapsed(&mut self, service: ServiceName, id: InstanceId) {
        self.lapsed.insert((service, id));
    }

    /// It was renewed after all, or does not matter any more.
    pub(crate) fn recovered(&mut self, service: &ServiceName, id: &InstanceId) {
        if !self.lapsed.is_empty() {
            self.lapsed.remove(&(service.clone(), id.clone()));
        }
    }

    /// Those whose time is over: all that lapsed, or none while they are too many.
    pub(crate) fn release(&mut self, now: Instant) -> Vec<(ServiceName, InstanceId)> {
        let window = self.settings.window;
        while let Some(&first) = self.expired.front()
            && now.saturating_duration_since(first) >= window
        {
            self.expired.pop_front();
        }
        if self.lapsed.len() > self.room() {
            if !self.holding {
                let (leases, lapsed) = (self.leases, self.lapsed.len());
                warn!(
                    leases,
                    lapsed, "many leases lapse at once: kept (self-preservation)"
                );
            }
            self.holding = true;
            return Vec::new();
        }
        if self.holding {
            warn!(
                leases = self.leases,
                "leases expire again (self-preservation is over)"
            );
        }
        self.holding = false;
        let over = std::mem::take(&mut self.lapsed);
        if self.settings.enabled {
            self.expired.extend(over.iter().map(|_| now));
        }
        over.into_iter().collect()
    }

    /// How many may expire now.
    fn room(&self) -> usize {
        let whole = self.leases + self.expired.len();
        if !self.settings.enabled || whole < self.settings.leases_min {
            return usize::MAX;
        }
        let share = whole * usize::from(self.settings.lapsed_percent_max) / 100;
        share.saturating_sub(self.expired.len())
    }

    /// When [`Preserver::release`] may give more than now.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let first = self.expired.front()?;
        (!self.lapsed.is_empty()).then(|| *first + self.settings.window)
    }

    pub(crate) fn report(&self) -> Preservation {
        Preservation {
            settings: self.settings,
            leases: self.leases,
            lapsed: self.lapsed.len(),
            expired: self.expired.len(),
            holding: self.holding,
        }
    }
}
