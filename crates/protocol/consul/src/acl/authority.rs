//! What the rules of several policies come to: who has them may do what.
//!
//! Consul's order ("ACL Rules", precedence): a rule about one name counts before those
//! about a prefix, of these the longest; of several about the very same, `deny` before
//! `write`, `list` and `read`; where none says anything, the default policy.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::rules::{Access, Resource, Rule};

/// What somebody may do.
#[derive(Debug)]
pub(crate) struct Authority {
    /// Another for each that was made: answers are shared by it.
    pub(crate) id: u64,
    /// What is allowed of which no rule speaks.
    default_allow: bool,
    /// No rule is asked: ACLs are off.
    everything: bool,
    rules: BTreeMap<Resource, Table>,
}

/// The rules about one kind of thing.
#[derive(Debug, Default)]
struct Table {
    exact: BTreeMap<String, Access>,
    prefix: BTreeMap<String, Access>,
    /// How long prefixes are, the longest first.
    lengths: Vec<usize>,
}

impl Authority {
    /// May do everything, as all do where ACLs are off.
    pub(crate) fn everything() -> Self {
        Self {
            id: 0,
            default_allow: true,
            everything: true,
            rules: BTreeMap::new(),
        }
    }

    pub(crate) fn new<'r>(
        id: u64,
        default_allow: bool,
        rules: impl IntoIterator<Item = &'r Rule>,
    ) -> Self {
        let mut tables: BTreeMap<Resource, Table> = BTreeMap::new();
        for rule in rules {
            let table = tables.entry(rule.resource).or_default();
            let all = if rule.prefix {
                &mut table.prefix
            } else {
                &mut table.exact
            };
            let known = all.entry(rule.name.clone()).or_insert(rule.access);
            *known = known.over(rule.access);
        }
        for table in tables.values_mut() {
            table.lengths = table.prefix.keys().map(String::len).collect();
            table.lengths.sort_unstable_by(|a, b| b.cmp(a));
            table.lengths.dedup();
        }
        Self {
            id,
            default_allow,
            everything: false,
            rules: tables,
        }
    }

    /// Whether `access` to `name` is allowed; what has no names is called "".
    pub(crate) fn allows(&self, resource: Resource, name: &str, access: Access) -> bool {
        if self.everything {
            return true;
        }
        let name = resource.fold(name);
        match self
            .rules
            .get(&resource)
            .and_then(|table| table.find(&name))
        {
            Some(rule) => rule.allows(access),
            None => match resource {
                // Both are the operator's where nothing else is said.
                Resource::Mesh | Resource::Peering => self.allows(Resource::Operator, "", access),
                // Whatever the default, who may make tokens may do everything.
                Resource::Acl => false,
                _ => self.default_allow,
            },
        }
    }

    pub(crate) fn reads(&self, resource: Resource, name: &str) -> bool {
        self.allows(resource, name, Access::Read)
    }

    /// Whether all keys that begin with `prefix` may be changed, those to come, too.
    pub(crate) fn writes_tree(&self, prefix: &str) -> bool {
        if self.everything {
            return true;
        }
        let Some(table) = self.rules.get(&Resource::Key) else {
            return self.default_allow;
        };
        let writes = |access: &Access| *access == Access::Write;
        let above = table
            .longest(prefix)
            .map_or(self.default_allow, |a| writes(&a));
        above && below(&table.prefix, prefix).all(writes) && below(&table.exact, prefix).all(writes)
    }

    /// Whether something of this kind may be read: who may read nothing of it is not told
    /// what there is not either.
    pub(crate) fn reads_any(&self, resource: Resource) -> bool {
        self.default_allow
            || self.rules.get(&resource).is_some_and(|table| {
                let mut all = table.exact.values().chain(table.prefix.values());
                all.any(|access| access.allows(Access::Read))
            })
    }

    /// Whether everything of this kind may be read, so that nothing need be left out.
    pub(crate) fn reads_all(&self, resource: Resource) -> bool {
        let Some(table) = self.rules.get(&resource) else {
            return self.everything || self.default_allow;
        };
        let mut all = table.exact.values().chain(table.prefix.values());
        let base = table.prefix.get("").map_or(self.default_allow, |_| true);
        base && all.all(|access| access.allows(Access::Read))
    }
}

/// The rules whose names begin so.
fn below<'t>(
    all: &'t BTreeMap<String, Access>,
    prefix: &'t str,
) -> impl Iterator<Item = &'t Access> {
    let from = all.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(move |(name, _)| name.starts_with(prefix))
        .map(|(_, access)| access)
}

impl Table {
    fn find(&self, name: &str) -> Option<Access> {
        self.exact.get(name).copied().or_else(|| self.longest(name))
    }

    fn longest(&self, name: &str) -> Option<Access> {
        // A length within a character is none of a prefix of this name.
        let heads = self.lengths.iter().filter_map(|length| name.get(..*length));
        let mut found = heads.filter_map(|head| self.prefix.get(head));
        found.next().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rules;
    use super::*;

    fn authority(default_allow: bool, text: &str) -> Authority {
        Authority::new(1, default_allow, &rules::parse(text).unwrap())
    }

    #[test]
    fn the_documented_precedence_holds() {
        let of = authority(
            false,
            r#"key_prefix "" { policy = "read" } key_prefix "foo/" { policy = "write" }
               key_prefix "foo/private/" { policy = "deny" } key "foo/private/open" { policy = "read" }
               service "web" { policy = "read" } service "Web" { policy = "write" } operator = "read""#,
        );
        let may = |name, access| of.allows(Resource::Key, name, access);
        assert!(may("bar", Access::Read) && !may("bar", Access::Write));
        assert!(may("foo/bar", Access::Write));
        assert!(!may("foo/private/x", Access::Read));
        assert!(may("foo/private/open", Access::Read));
        // As one service, and write before read.
        assert!(of.allows(Resource::Service, "WEB", Access::Write));
        assert!(!of.reads(Resource::Node, "n"));
        assert!(of.reads(Resource::Mesh, "") && !of.allows(Resource::Peering, "", Access::Write));
        let allow = authority(true, "");
        assert!(allow.allows(Resource::Node, "n", Access::Write));
        assert!(!allow.reads(Resource::Acl, ""), "never by default");
        assert!(allow.reads_all(Resource::Key) && allow.writes_tree("a"));
    }

    #[test]
    fn a_tree_is_deleted_only_by_who_may_write_all_of_it() {
        let of = authority(
            false,
            r#"key_prefix "a/" { policy = "write" } key "a/b/c" { policy = "read" } key "d" { policy = "write" }"#,
        );
        assert!(of.writes_tree("a/c") && of.writes_tree("a/b/cd"));
        for tree in ["", "a", "a/", "a/b/", "a/b/c", "d", "x"] {
            assert!(!of.writes_tree(tree), "{tree}");
        }
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let access = prop_oneof![
            Just(Access::Deny),
            Just(Access::Read),
            Just(Access::List),
            Just(Access::Write)
        ];
        let resource = prop_oneof![Just(Resource::Key), Just(Resource::Service)];
        (resource, any::<bool>(), "[aAé]{0,3}", access).prop_map(
            |(resource, prefix, name, access)| Rule {
                resource,
                prefix,
                name: resource.fold(&name).into_owned(),
                access,
            },
        )
    }

    /// As the documentation says it, without any index.
    fn naive(all: &[Rule], default: bool, resource: Resource, name: &str, wanted: Access) -> bool {
        let name = match resource {
            Resource::Service => name.to_ascii_lowercase(),
            _ => name.to_owned(),
        };
        let about = |rule: &&Rule| {
            rule.resource == resource
                && (rule.name == name || (rule.prefix && name.starts_with(&rule.name)))
        };
        let about: Vec<&Rule> = all.iter().filter(about).collect();
        let exact = about.iter().any(|rule| !rule.prefix);
        let longest = about.iter().map(|rule| rule.name.len()).max();
        let counts = about.into_iter().filter(|rule| match exact {
            true => !rule.prefix,
            false => Some(rule.name.len()) == longest,
        });
        let said: Vec<Access> = counts.map(|rule| rule.access).collect();
        match () {
            () if said.is_empty() => default,
            () if said.contains(&Access::Deny) => false,
            () if said.contains(&Access::Write) => true,
            () if said.contains(&Access::List) => wanted != Access::Write,
            () => wanted == Access::Read,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_decision_is_that_of_the_naive_reference(
            all in proptest::collection::vec(rule(), 0..8), default: bool,
            name in "[aAé]{0,4}", wanted in prop_oneof![Just(Access::Read), Just(Access::List), Just(Access::Write)],
        ) {
            let authority = Authority::new(1, default, &all);
            for resource in [Resource::Key, Resource::Service] {
                let told = authority.allows(resource, &name, wanted);
                prop_assert_eq!(told, naive(&all, default, resource, &name, wanted));
                if authority.reads_all(resource) {
                    prop_assert!(authority.reads(resource, &name));
                }
                if authority.reads(resource, &name) {
                    prop_assert!(authority.reads_any(resource));
                }
            }
        }

        #[test]
        fn who_writes_a_tree_writes_every_key_of_it(
            all in proptest::collection::vec(rule(), 0..6), default: bool,
            prefix in "[aAé]{0,2}", rest in "[aAé]{0,3}",
        ) {
            let authority = Authority::new(1, default, &all);
            if authority.writes_tree(&prefix) {
                let key = format!("{prefix}{rest}");
                prop_assert!(authority.allows(Resource::Key, &key, Access::Write), "{}", key);
            }
        }
    }
}
