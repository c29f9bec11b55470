//! What went wrong, in the few kinds that every protocol can answer for.

use std::fmt;

/// The kind of a fault. Each protocol owns one table from kind to status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The caller sent something that can never succeed.
    Invalid,
    /// The caller named something that does not exist.
    NotFound,
    /// The caller's view is out of date, or the thing exists already.
    Conflict,
    /// A named limit was reached.
    Exhausted,
    /// It may succeed later: something that is needed is away.
    Unavailable,
    /// A defect of ours.
    Internal,
}

/// A fault as it crosses from a domain to a protocol or to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// One sentence for a person: what, where, and how to mend it.
    pub message: String,
}

impl Fault {
    /// A fault of `kind` that says `message`.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
