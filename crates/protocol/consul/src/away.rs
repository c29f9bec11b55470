//! What is told while the store that we share with others is away.
//!
//! Consul without a leader refuses all reads but `?stale` ones (its documentation,
//! "Consistency Modes"). We answer those of the default mode as well, as old as they
//! may be, and say so in the headers that tell clients of Consul how stale an answer
//! is. Only `?consistent` is refused, in Consul's words.

use std::time::{Duration, Instant};

use atoll_registry::RegistryError;
use atoll_store::{Standing, StoreError};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::server::Front;
use crate::wire::{Query, Refusal};

/// `structs.ErrNoLeader`.
const NO_LEADER: &str = "No cluster leader";

impl Front {
    /// Since when the store is away, if it is.
    pub(crate) fn away(&self) -> Option<Instant> {
        match *self.store.standing().borrow() {
            Standing::Ready => None,
            Standing::Away { since, .. } => Some(since),
        }
    }

    /// Tells how old an answer may be that was begun or ended while the store was away
    /// since then.
    pub(crate) fn tell_age(&self, away: Option<Instant>, consistency: &str, to: &mut HeaderMap) {
        let age = away.map(|since| self.clock.now().saturating_duration_since(since));
        let leader = if away.is_none() { "true" } else { "false" };
        let contact = age.map_or(0, |age: Duration| age.as_millis() as u64);
        let consistency = match away {
            Some(_) => "stale",
            None => consistency,
        };
        to.insert("x-consul-knownleader", HeaderValue::from_static(leader));
        to.insert("x-consul-lastcontact", HeaderValue::from(contact));
        if let Ok(consistency) = HeaderValue::from_str(consistency) {
            to.insert("x-consul-effective-consistency", consistency);
        }
    }

    /// # Errors
    /// When the client wants what can only be told by a store that is there.
    pub(crate) fn check_consistent(&self, query: &Query) -> Result<(), Refusal> {
        match self.away() {
            Some(_) if query.has("consistent") => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Err(Refusal::new(status, NO_LEADER))
            }
            _ => Ok(()),
        }
    }
}

/// The status of what cannot be done until the store is back; of all else that may work
/// later, Consul's own word is 500.
pub(crate) fn status_of_registry(error: &RegistryError) -> Option<StatusCode> {
    matches!(error, RegistryError::Away).then_some(StatusCode::SERVICE_UNAVAILABLE)
}

/// The same of the store's errors.
pub(crate) fn status_of_store(error: &StoreError) -> StatusCode {
    match error {
        StoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
