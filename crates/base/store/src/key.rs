//! Keys, values and spans of keys. Both are bytes that the store never looks into;
//! both are cheap to clone, so that a snapshot, a watch and the history share them.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Bound, Deref};
use std::sync::Arc;

use atoll_model::Revision;

use crate::LeaseId;

/// A key: any bytes but none at all; ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

/// A value: any bytes, also none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Arc<[u8]>);

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// What was put.
    pub value: Value,
    /// The revision that created the key (since it was last deleted).
    pub create_revision: Revision,
    /// The revision of this version.
    pub mod_revision: Revision,
    /// Puts since the key was created; 1 for the first.
    pub version: u64,
    /// The lease whose end deletes the key.
    pub lease: Option<LeaseId>,
}

/// Which keys are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// This one.
    Key(Key),
    /// All that begin with these bytes; with none, every key.
    Prefix(Vec<u8>),
    /// From the first (included) to the second (excluded).
    Between(Vec<u8>, Vec<u8>),
}

impl Span {
    /// Every key.
    pub fn all() -> Self {
        Self::Prefix(Vec::new())
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self::Prefix(prefix.as_ref().to_vec())
    }

    /// Whether `key` is meant.
    pub fn holds(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(one) => one.as_bytes() == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Between(from, to) => from.as_slice() <= key && key < to.as_slice(),
        }
    }

    /// The same as bounds of an ordered map; `None` when no key can be meant.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        match self {
            Self::Key(one) => {
                let key = one.as_bytes().to_vec();
                Some((Bound::Included(key.clone()), Bound::Included(key)))
            }
            Self::Prefix(prefix) => {
                let end = successor(prefix).map_or(Bound::Unbounded, Bound::Excluded);
                Some((Bound::Included(prefix.clone()), end))
            }
            Self::Between(from, to) => {
                (from < to).then(|| (Bound::Included(from.clone()), Bound::Excluded(to.clone())))
            }
        }
    }
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The first byte string after all those that begin with `prefix`; none when the
/// prefix is empty or all 0xff.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    Some(end)
}

impl From<&str> for Span {
    /// The one key of that name.
    fn from(key: &str) -> Self {
        Self::Key(key.into())
    }
}

impl From<Key> for Span {
    fn from(key: Key) -> Self {
        Self::Key(key)
    }
}

macro_rules! bytes_like {
    ($name:ident) => {
        impl $name {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }
        impl Deref for $name {
            type Target = [u8];
            fn deref(&self) -> &[u8] {
                &self.0
            }
        }
        impl Borrow<[u8]> for $name {
            fn borrow(&self) -> &[u8] {
                &self.0
            }
        }
        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> Self {
                Self(bytes.into())
            }
        }
        impl From<Vec<u8>> for $name {
            fn from(bytes: Vec<u8>) -> Self {
                Self(bytes.into())
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.as_bytes().into())
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into_bytes().into())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{}\"", self.0.escape_ascii())
            }
        }
    };
}
bytes_like!(Key);
bytes_like!(Value);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_prefix_end_after_its_last_key() {
        assert_eq!(successor(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(successor(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(successor(&[0xff]), None);
        assert_eq!(successor(b""), None);
    }

    #[test]
    fn an_empty_or_reversed_span_holds_nothing() {
        for (from, to) in [("b", "a"), ("a", "a")] {
            let span = Span::Between(from.into(), to.into());
            assert!(span.bounds().is_none());
            assert!(!span.holds(b"a"));
        }
    }
}
