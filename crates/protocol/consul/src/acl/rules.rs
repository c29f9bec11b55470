//! Rules of a policy: what they say (Consul's documentation, "ACL Rules"), read from HCL
//! or JSON.

use super::hcl::{self, Item, Position, Value, Wrong};

/// Longest text of a policy's rules. Consul says none; this is thousands of rules, and
/// fits into one change of the store.
pub(crate) const RULES_BYTES_MAX: usize = 128 * 1024;

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resource {
    Agent,
    Event,
    Key,
    Node,
    Query,
    Service,
    Session,
    Acl,
    Keyring,
    Mesh,
    Operator,
    Peering,
}

/// What a rule lets be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Deny,
    Read,
    /// To read keys and to list them: more than read where `enable_key_list_policy` is
    /// on, which it is not here.
    List,
    Write,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub(crate) resource: Resource,
    /// About all whose name begins so, or about one.
    pub(crate) prefix: bool,
    /// Empty for what has no names (`operator`).
    pub(crate) name: String,
    pub(crate) access: Access,
}

const RESOURCES: [(Resource, &str); 12] = [
    (Resource::Agent, "agent"),
    (Resource::Event, "event"),
    (Resource::Key, "key"),
    (Resource::Node, "node"),
    (Resource::Query, "query"),
    (Resource::Service, "service"),
    (Resource::Session, "session"),
    (Resource::Acl, "acl"),
    (Resource::Keyring, "keyring"),
    (Resource::Mesh, "mesh"),
    (Resource::Operator, "operator"),
    (Resource::Peering, "peering"),
];

/// Kinds of rules that only other editions have.
const ENTERPRISE: [&str; 5] = [
    "namespace",
    "namespace_prefix",
    "partition",
    "partition_prefix",
    "sentinel",
];

impl Resource {
    /// As it is called in rules and refusals.
    pub(crate) fn word(self) -> &'static str {
        let known = RESOURCES.iter().find(|(resource, _)| *resource == self);
        known.map_or("", |(_, word)| word)
    }

    /// Whether rules about it name something.
    pub(crate) fn has_names(self) -> bool {
        match self {
            Self::Agent
            | Self::Event
            | Self::Key
            | Self::Node
            | Self::Query
            | Self::Service
            | Self::Session => true,
            Self::Acl | Self::Keyring | Self::Mesh | Self::Operator | Self::Peering => false,
        }
    }

    /// A name as it is compared. Services have no case here, so that a rule about `web`
    /// is one about `Web`, too: else it could be got round.
    pub(crate) fn fold(self, name: &str) -> std::borrow::Cow<'_, str> {
        match self == Self::Service && name.bytes().any(|b| b.is_ascii_uppercase()) {
            true => name.to_ascii_lowercase().into(),
            false => name.into(),
        }
    }
}

impl Access {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
        }
    }

    /// Whether a rule that says this lets `wanted` be done.
    pub(crate) fn allows(self, wanted: Self) -> bool {
        match self {
            Self::Deny => false,
            Self::Read => wanted == Self::Read,
            Self::List => matches!(wanted, Self::Read | Self::List),
            Self::Write => true,
        }
    }

    /// Of two policies that say something of the same, what counts: deny, then the
    /// greater right.
    pub(crate) fn over(self, other: Self) -> Self {
        let rank = |access| match access {
            Self::Deny => 3,
            Self::Write => 2,
            Self::List => 1,
            Self::Read => 0,
        };
        if rank(self) >= rank(other) {
            self
        } else {
            other
        }
    }
}

/// Reads the rules of a policy.
pub(crate) fn parse(text: &str) -> Result<Vec<Rule>, Wrong> {
    if text.len() > RULES_BYTES_MAX {
        let at = Position { line: 1, column: 1 };
        let what = format!("rules may have {RULES_BYTES_MAX} bytes, not {}", text.len());
        return Err(Wrong { at, what });
    }
    let mut rules = Vec::new();
    for item in hcl::parse(text)? {
        read(item, &mut rules)?;
    }
    Ok(rules)
}

fn read(item: Item, rules: &mut Vec<Rule>) -> Result<(), Wrong> {
    let wrong = |what: String| Wrong { at: item.at, what };
    let (word, prefix) = match item.name.strip_suffix("_prefix") {
        Some(word) => (word, true),
        None => (&item.name[..], false),
    };
    if ENTERPRISE.contains(&&item.name[..]) {
        return Err(wrong(format!("`{}` needs Consul Enterprise", item.name)));
    }
    let known = RESOURCES.iter().find(|(_, known)| *known == word);
    let known = known.filter(|(resource, _)| !prefix || resource.has_names());
    let Some(&(resource, _)) = known else {
        let words = RESOURCES.map(|(_, word)| word).join(", ");
        return Err(wrong(format!(
            "there are no rules about `{}`; known are {words}, and those with names with `_prefix`, too",
            item.name
        )));
    };
    match (item.value, item.label) {
        (Value::Text(word), None) if !resource.has_names() => {
            let access = access(resource, &word, item.at)?;
            let name = String::new();
            rules.push(Rule {
                resource,
                prefix,
                name,
                access,
            });
        }
        (Value::Body(body), Some(name)) if resource.has_names() => {
            rules.push(rule(resource, prefix, &name, item.at, body)?);
        }
        // `key { "a" { .. } }`, as JSON writes it.
        (Value::Body(all), None) if resource.has_names() => {
            for one in all {
                let Value::Body(body) = one.value else {
                    let what = format!("a rule about `{}` is written with braces", one.name);
                    return Err(Wrong { at: one.at, what });
                };
                if one.label.is_some() {
                    let what = "a rule has one label".to_owned();
                    return Err(Wrong { at: one.at, what });
                }
                rules.push(rule(resource, prefix, &one.name, one.at, body)?);
            }
        }
        _ if resource.has_names() => {
            let name = &item.name;
            return Err(wrong(format!(
                "write `{name} \"NAME\" {{ policy = \"read\" }}`"
            )));
        }
        _ => return Err(wrong(format!("write `{} = \"read\"`", item.name))),
    }
    Ok(())
}

fn rule(
    resource: Resource,
    prefix: bool,
    name: &str,
    at: Position,
    body: Vec<Item>,
) -> Result<Rule, Wrong> {
    let mut policy = None;
    for item in body {
        let wrong = |what: String| Wrong { at: item.at, what };
        let Value::Text(word) = item.value else {
            return Err(wrong(format!("`{}` must be a text", item.name)));
        };
        match &item.name[..] {
            "policy" if policy.is_some() => {
                return Err(wrong("`policy` stands here twice".to_owned()));
            }
            "policy" => policy = Some(access(resource, &word, item.at)?),
            // Intentions are the mesh's, which we are not; the word is held to be one.
            "intentions" if resource == Resource::Service => {
                access(resource, &word, item.at)?;
            }
            "sentinel" => return Err(wrong("`sentinel` needs Consul Enterprise".to_owned())),
            other => {
                return Err(wrong(format!(
                    "a rule about a {} has no `{other}`, but `policy`",
                    resource.word()
                )));
            }
        }
    }
    let Some(access) = policy else {
        let what = format!("the rule about {name:?} has no `policy`");
        return Err(Wrong { at, what });
    };
    let name = resource.fold(name).into_owned();
    Ok(Rule {
        resource,
        prefix,
        name,
        access,
    })
}

fn access(resource: Resource, word: &str, at: Position) -> Result<Access, Wrong> {
    match word {
        "deny" => Ok(Access::Deny),
        "read" => Ok(Access::Read),
        "write" => Ok(Access::Write),
        "list" if resource == Resource::Key => Ok(Access::List),
        _ => {
            let list = if resource == Resource::Key {
                "`list`, "
            } else {
                ""
            };
            let what = format!(
                "Invalid {} policy: {word:?}; use `read`, {list}`write` or `deny`",
                resource.word()
            );
            Err(Wrong { at, what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let rules = parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong}"));
        let shown = rules.into_iter().map(|rule| {
            let kind = if rule.prefix { "_prefix" } else { "" };
            let (word, access) = (rule.resource.word(), rule.access.word());
            format!("{word}{kind} {:?} {access}", rule.name)
        });
        shown.collect()
    }

    /// The examples of Consul's documentation ("ACL Rules").
    #[test]
    fn the_documented_rules_are_read() {
        let hcl = r#"
            key_prefix "" { policy = "read" }
            key "foo/private/" { policy = "deny" }
            key_prefix "bar" { policy = "list" }
            service "" { policy = "write" }
            service_prefix "Web" { policy = "read" intentions = "deny" }
            agent_prefix "" { policy = "read" }
            event "deploy" { policy = "write" }
            query_prefix "" { policy = "read" }
            session_prefix "" { policy = "write" }
            node "n" { policy = "write" }
            operator = "read"
            keyring = "write"
            acl = "read"
            mesh = "write"
            peering = "read"
        "#;
        let rules = read(hcl);
        assert_eq!(rules.len(), 15);
        assert_eq!(rules[1], "key \"foo/private/\" deny");
        assert_eq!(rules[4], "service_prefix \"web\" read");
        assert_eq!(rules[10], "operator \"\" read");
        let json = r#"{ "operator": "read", "key_prefix": { "": { "policy": "read" }, "foo/": { "policy": "write" } } }"#;
        let rules = read(json);
        assert_eq!(
            rules,
            [
                "operator \"\" read",
                "key_prefix \"\" read",
                "key_prefix \"foo/\" write"
            ]
        );
        assert_eq!(
            read(r#"key = { "a" = { policy = "read" } }"#),
            ["key \"a\" read"]
        );
    }

    #[test]
    fn a_wrong_rule_is_refused_with_its_place_and_what_may_stand_there() {
        for (text, told) in [
            (
                "keys \"a\" { policy = \"read\" }",
                "line 1, column 1: there are no rules about `keys`",
            ),
            (
                "operator_prefix \"\" {}",
                "there are no rules about `operator_prefix`",
            ),
            (
                "key \"a\" {}",
                "line 1, column 1: the rule about \"a\" has no `policy`",
            ),
            (
                "key \"a\" {\n policy = \"all\" }",
                "line 2, column 2: Invalid key policy: \"all\"; use `read`, `list`, `write` or `deny`",
            ),
            (
                "node \"a\" { policy = \"list\" }",
                "Invalid node policy: \"list\"; use `read`, `write` or `deny`",
            ),
            ("acl = \"\"", "Invalid acl policy: \"\""),
            (
                "operator \"a\" { policy = \"read\" }",
                "write `operator = \"read\"`",
            ),
            (
                "key = \"read\"",
                "write `key \"NAME\" { policy = \"read\" }`",
            ),
            (
                "key \"a\" { policy = \"read\" policy = \"deny\" }",
                "`policy` stands here twice",
            ),
            (
                "node \"a\" { intentions = \"read\" }",
                "has no `intentions`",
            ),
            ("namespace \"a\" {}", "needs Consul Enterprise"),
            (
                "{\"key\":{\"a\":\"read\"}}",
                "line 1, column 9: a rule about `a` is written with braces",
            ),
        ] {
            let wrong = parse(text).unwrap_err().to_string();
            assert!(wrong.contains(told), "{text}: {wrong}");
        }
        let long = "#".repeat(RULES_BYTES_MAX + 1);
        assert!(parse(&long).unwrap_err().what.contains("131072"));
    }
}
