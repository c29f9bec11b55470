//! Why the registry refused, and what each refusal is to a protocol.

use atoll_model::{Fault, FaultKind, InstanceId, ServiceName};

use crate::{JournalError, Source};

/// Why the registry did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No such instance; a client that renews should register again.
    #[error("service `{service}` has no instance `{id}`; register it first")]
    Unknown {
        /// The service that was named.
        service: ServiceName,
        /// The instance that was named.
        id: InstanceId,
    },
    /// A client tried to replace or remove what Atoll itself put there.
    #[error(
        "instance `{id}` of service `{service}` belongs to {}; choose another id",
        owner_in_words(*owner)
    )]
    Owned {
        /// The service that was named.
        service: ServiceName,
        /// The instance that was named.
        id: InstanceId,
        /// Whose it is.
        owner: Source,
    },
    /// Something in a registration can never work.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which part of the registration.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// No room for another instance.
    #[error("the registry holds its {limit} instances; raise the limit or remove some")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// It is known, but would not survive a restart of Atoll.
    #[error("not written to disk: {0}")]
    NotDurable(JournalError),
    /// The store that other processes share is away; reading goes on.
    #[error("the store is away: nothing can be registered or changed until it is back; try again")]
    Away,
    /// Another process of Atoll changed the same instance at the same time.
    #[error("another Atoll changed `{key}` at the same time; try again")]
    Raced {
        /// The registry's key of it.
        key: String,
    },
    /// Atoll is stopping.
    #[error("the registry is stopping")]
    Closed,
}

fn owner_in_words(owner: Source) -> &'static str {
    match owner {
        Source::Client => "a client",
        Source::Fleet => "Atoll's fleet",
        Source::Config => "the config file",
    }
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        let kind = match &error {
            RegistryError::Unknown { .. } => FaultKind::NotFound,
            RegistryError::Owned { .. } => FaultKind::Conflict,
            RegistryError::Invalid { .. } => FaultKind::Invalid,
            RegistryError::Full { .. } => FaultKind::Exhausted,
            RegistryError::NotDurable(_)
            | RegistryError::Away
            | RegistryError::Raced { .. }
            | RegistryError::Closed => FaultKind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}
