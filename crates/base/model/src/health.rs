//! How fit an instance is to take requests.

use std::fmt;

/// The health of one instance, from its checks and from what is being done to it.
///
/// ```text
///            check passes            check fails often enough
/// Starting ───────────────▶ Passing ◀──────────▶ Warning ◀──▶ Critical
///     │                        │                    │             │
///     └────────────────────────┴───── withdrawn ────┴─────────────┴──▶ Draining
/// ```
///
/// `Warning` and `Critical` are Consul's words; Eureka's `STARTING`, `UP`,
/// `DOWN` and `OUT_OF_SERVICE` map onto these five.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Registered, not yet seen healthy: gets no requests.
    Starting,
    /// Fit: gets requests.
    Passing,
    /// Troubled but serving: gets requests.
    Warning,
    /// Unfit: gets no requests.
    Critical,
    /// Finishing what it has: gets no new requests.
    Draining,
}

impl Health {
    /// Every state, in the order of the type.
    pub const ALL: [Self; 5] = [
        Self::Starting,
        Self::Passing,
        Self::Warning,
        Self::Critical,
        Self::Draining,
    ];

    /// Whether new requests may be sent to an instance in this state.
    pub fn takes_requests(self) -> bool {
        matches!(self, Self::Passing | Self::Warning)
    }

    /// The lower-case word that every interface of Atoll shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Draining => "draining",
        }
    }

    /// The state that `word` names, as [`Health::as_str`] writes it.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.as_str() == word)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
