//! The one clock.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Tells the time. Cheap to clone; handed to whoever needs it.
///
/// The monotonic half follows tokio's clock, so that a test under
/// `#[tokio::test(start_paused = true)]` moves timers and state machines together.
/// State machines do not hold a clock at all: they are given `now`.
#[derive(Clone, Default)]
pub struct Clock {
    /// Set in tests: the wall clock at `epoch`, moving with the monotonic clock.
    wall: Option<Arc<Mutex<SetWall>>>,
}

struct SetWall {
    epoch: Instant,
    wall: SystemTime,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock whose wall time begins at `wall` and moves with the monotonic
    /// clock; for tests.
    pub fn starting_at(wall: SystemTime) -> Self {
        let epoch = tokio::time::Instant::now().into_std();
        Self {
            wall: Some(Arc::new(Mutex::new(SetWall { epoch, wall }))),
        }
    }

    /// The monotonic instant, for durations and deadlines.
    pub fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// The wall-clock time, for people and for what is written to disk.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn wall(&self) -> SystemTime {
        match &self.wall {
            None => SystemTime::now(),
            Some(set) => {
                let set = set.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                set.wall + self.now().saturating_duration_since(set.epoch)
            }
        }
    }

    /// Sets the wall clock of a clock made by [`Clock::starting_at`], as an
    /// administrator or NTP would; does nothing to the system's clock.
    pub fn jump_wall_to(&self, wall: SystemTime) {
        if let Some(set) = &self.wall {
            let mut set = set.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *set = SetWall {
                epoch: self.now(),
                wall,
            };
        }
    }

    /// Milliseconds since the Unix epoch by the wall clock; 0 before it.
    pub fn wall_unix_ms(&self) -> u64 {
        self.wall()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.wall.is_some() {
            "Clock(set)"
        } else {
            "Clock(system)"
        })
    }
}
