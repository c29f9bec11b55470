//! What there is below `/v1/acl/`, and what is refused there.

use http::Method;

/// An endpoint with what stands in its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AclPath {
    Bootstrap,
    Replication,
    Tokens,
    TokenCreate,
    TokenSelf,
    Token(String),
    TokenClone(String),
    Policies,
    PolicyCreate,
    PolicyNamed(String),
    Policy(String),
    Roles,
    RoleCreate,
    RoleNamed(String),
    Role(String),
    /// Consul has it and we do not; and why.
    Refused(&'static str),
}

const LOGIN: &str = "there are no auth methods: nothing here trusts another's tokens";
const LEGACY: &str =
    "Consul itself removed its first ACL system in 1.11; use acl/token and acl/policy";
const TEMPLATED: &str = "templated policies are written as policies";

impl AclPath {
    /// The endpoint at these parts of a path, those after `acl`.
    pub(crate) fn find(parts: &[&str]) -> Option<Self> {
        Some(match *parts {
            ["bootstrap"] => Self::Bootstrap,
            ["replication"] => Self::Replication,
            ["tokens"] => Self::Tokens,
            ["token"] => Self::TokenCreate,
            ["token", "self"] => Self::TokenSelf,
            ["token", id] => Self::Token(id.to_owned()),
            ["token", id, "clone"] => Self::TokenClone(id.to_owned()),
            ["policies"] => Self::Policies,
            ["policy"] => Self::PolicyCreate,
            // One name may have a `/` in it.
            ["policy", "name", ..] => Self::PolicyNamed(parts[2..].join("/")),
            ["policy", id] => Self::Policy(id.to_owned()),
            ["roles"] => Self::Roles,
            ["role"] => Self::RoleCreate,
            ["role", "name", name] => Self::RoleNamed(name.to_owned()),
            ["role", id] => Self::Role(id.to_owned()),
            [
                "login" | "logout" | "auth-methods" | "auth-method" | "binding-rules"
                | "binding-rule",
                ..,
            ] => Self::Refused(LOGIN),
            ["templated-policies" | "templated-policy", ..] => Self::Refused(TEMPLATED),
            [
                "create" | "update" | "destroy" | "info" | "clone" | "list" | "rules",
                ..,
            ] => Self::Refused(LEGACY),
            _ => return None,
        })
    }

    /// The methods that it takes.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Bootstrap
            | Self::TokenCreate
            | Self::TokenClone(_)
            | Self::PolicyCreate
            | Self::RoleCreate => &[Method::PUT],
            Self::Replication
            | Self::Tokens
            | Self::TokenSelf
            | Self::Policies
            | Self::PolicyNamed(_)
            | Self::Roles
            | Self::RoleNamed(_) => &[Method::GET],
            Self::Token(_) | Self::Policy(_) | Self::Role(_) => {
                &[Method::GET, Method::PUT, Method::DELETE]
            }
            Self::Refused(_) => &[Method::GET, Method::PUT, Method::POST, Method::DELETE],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_with_what_stands_in_them() {
        let find = |path: &str| AclPath::find(&path.split('/').collect::<Vec<_>>());
        assert_eq!(find("token/self"), Some(AclPath::TokenSelf));
        assert_eq!(
            find("token/a/clone"),
            Some(AclPath::TokenClone("a".to_owned()))
        );
        assert_eq!(
            find("policy/name/a/b"),
            Some(AclPath::PolicyNamed("a/b".to_owned()))
        );
        assert_eq!(find("auth-method/a"), Some(AclPath::Refused(LOGIN)));
        assert_eq!(find("nothing"), None);
        assert_eq!(find("token/a/b"), None);
    }
}
