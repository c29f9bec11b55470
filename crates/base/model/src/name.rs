//! Names that have been checked once, at the edge, and are right from then on.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest service name: a DNS label (RFC 1035 §2.3.4), so that every service
/// can be found by DNS.
const SERVICE_NAME_BYTES_MAX: usize = 63;

/// Longest instance id. Eureka's default id (`host:app:port`) and Consul's ids
/// stay far below it.
const INSTANCE_ID_BYTES_MAX: usize = 256;

/// The name of a service: lower case letters, digits, `-`, `_` and `.`,
/// beginning and ending with a letter or digit, at most 63 bytes.
///
/// Upper case is folded, since Eureka clients shout and Consul's names are
/// compared without case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

/// The identity of one instance within its service: printable ASCII without
/// spaces or `/`, at most 256 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a {what} may not be empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// More bytes than the name may have.
    #[error("a {what} may have at most {max} characters, this one has {len}")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A character that the name may not hold at this place.
    #[error("`{character}` may not stand in a {what} at position {position}; {allowed}")]
    Character {
        /// Which kind of name.
        what: &'static str,
        /// The offender.
        character: char,
        /// Its place, counted in characters from 1.
        position: usize,
        /// What may.
        allowed: &'static str,
    },
}

/// No service can be called so.
const NODES: &str = "@nodes";

impl ServiceName {
    /// The name under which the registry keeps what it knows of nodes; no service can
    /// have it, since no text is read as it.
    pub fn of_nodes() -> Self {
        Self(NODES.into())
    }

    /// Whether it is [`ServiceName::of_nodes`].
    pub fn is_of_nodes(&self) -> bool {
        *self.0 == *NODES
    }

    /// The name as text, always lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl InstanceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(raw: &str) -> Result<Self, NameError> {
        const WHAT: &str = "service name";
        const ALLOWED: &str =
            "use letters, digits, `-`, `_` and `.`, with a letter or digit at both ends";
        within(raw, WHAT, SERVICE_NAME_BYTES_MAX)?;
        let last = raw.chars().count();
        for (index, character) in raw.chars().enumerate() {
            let at_end = index == 0 || index + 1 == last;
            let inner = !at_end && matches!(character, '-' | '_' | '.');
            if !(character.is_ascii_alphanumeric() || inner) {
                return Err(NameError::Character {
                    what: WHAT,
                    character,
                    position: index + 1,
                    allowed: ALLOWED,
                });
            }
        }
        Ok(Self(raw.to_ascii_lowercase().into()))
    }
}

impl FromStr for InstanceId {
    type Err = NameError;

    fn from_str(raw: &str) -> Result<Self, NameError> {
        const WHAT: &str = "instance id";
        within(raw, WHAT, INSTANCE_ID_BYTES_MAX)?;
        for (index, character) in raw.chars().enumerate() {
            if !character.is_ascii_graphic() || character == '/' {
                return Err(NameError::Character {
                    what: WHAT,
                    character,
                    position: index + 1,
                    allowed: "use printable ASCII without spaces or `/`",
                });
            }
        }
        Ok(Self(raw.into()))
    }
}

fn within(raw: &str, what: &'static str, max: usize) -> Result<(), NameError> {
    if raw.is_empty() {
        return Err(NameError::Empty { what });
    }
    if raw.len() > max {
        return Err(NameError::TooLong {
            what,
            len: raw.len(),
            max,
        });
    }
    Ok(())
}

macro_rules! text_like {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        // Lets a map keyed by the name be asked with a plain `&str`.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}
text_like!(ServiceName);
text_like!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(raw: &str) -> String {
        raw.parse::<ServiceName>().unwrap_err().to_string()
    }

    #[test]
    fn service_names_are_folded_to_lower_case() {
        assert_eq!(
            "USER-Service".parse::<ServiceName>().unwrap().as_str(),
            "user-service"
        );
    }

    #[test]
    fn a_refused_name_says_which_character_and_where() {
        assert!(refused("us ers").contains("` ` may not stand in a service name at position 3"));
        assert!(refused("-users").contains("position 1"));
        assert!(refused("users.").contains("position 6"));
        assert!(refused("").contains("may not be empty"));
        assert!(refused(&"a".repeat(64)).contains("at most 63"));
    }

    #[test]
    fn the_name_of_nodes_is_none_that_can_be_given() {
        let nodes = ServiceName::of_nodes();
        assert!(nodes.is_of_nodes());
        assert!(nodes.as_str().parse::<ServiceName>().is_err());
    }

    #[test]
    fn instance_ids_keep_case_and_colons_but_no_slash() {
        assert_eq!(
            "Host:users:8080".parse::<InstanceId>().unwrap().as_str(),
            "Host:users:8080"
        );
        assert!("a/b".parse::<InstanceId>().is_err());
        assert!("a b".parse::<InstanceId>().is_err());
    }
}
