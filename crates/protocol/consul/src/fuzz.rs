//! What must hold whatever a stranger sends; driven by `fuzz/` and by ordinary tests.

use serde_json::{Value, json};

use crate::acl::authority::Authority;
use crate::acl::rules::{self, Access, Resource};
use crate::filter::Filter;
use crate::translate::{self, Node};
use crate::wire::{Fields, Query};
use crate::{config, copying, query, txn, wire};

/// Reads `bytes` as the query of a request whose `filter` is tried on some rows: what is
/// accepted shares them out with its negation, and keeps the same when it is applied
/// twice.
///
/// # Panics
/// When that does not hold: a defect.
pub fn fuzz_filter(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    drop(Query::parse(&text));
    wire::duration(&text);
    let rows = json!([
        { "Node": "n1", "Meta": { "rack": "7" }, "Tags": ["blue", "v1"], "Port": 80, "Up": true },
        { "Node": "n2", "Meta": {}, "Tags": [], "Port": 81, "Up": false },
        { "Node": "", "Meta": { "a b": "" }, "Tags": ["blue"], "Port": 0, "Up": true },
    ]);
    let kept = |expression: &str, mut rows: Value| {
        let applied = Filter::parse(expression).and_then(|filter| filter.apply(&mut rows));
        applied.ok().map(|()| rows)
    };
    let Some(some) = kept(&text, rows.clone()) else {
        return;
    };
    assert_eq!(kept(&text, some.clone()).as_ref(), Some(&some), "twice");
    // May be one level too deep, or a few characters too long.
    if let Some(others) = kept(&format!("not ({text})"), rows) {
        let count = |rows: &Value| rows.as_array().map_or(0, Vec::len);
        assert_eq!(count(&some) + count(&others), 3, "shared out");
    }
}

/// Reads `bytes` as the rules of a policy: those that are accepted are the same again when
/// they are written out, and nobody may do by one what it denies.
///
/// # Panics
/// When that does not hold: a defect.
pub fn fuzz_acl_rules(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(rules) = rules::parse(&text) else {
        return;
    };
    let mut written = String::new();
    for rule in &rules {
        let (word, access) = (rule.resource.word(), rule.access.word());
        let prefix = if rule.prefix { "_prefix" } else { "" };
        // A text of JSON is one of HCL.
        let name = Value::from(&rule.name[..]);
        written += &match rule.resource.has_names() {
            true => format!("{word}{prefix} {name} {{ policy = {access:?} }}\n"),
            false => format!("{word} = {access:?}\n"),
        };
    }
    assert_eq!(rules::parse(&written).as_ref(), Ok(&rules), "{written}");
    for default_allow in [false, true] {
        let authority = Authority::new(1, default_allow, &rules);
        for rule in rules.iter().filter(|rule| !rule.prefix) {
            let may = |access| authority.allows(rule.resource, &rule.name, access);
            assert!(!may(Access::Write) || may(Access::Read), "writes unread");
            if rule.access == Access::Deny {
                assert!(!may(Access::Read), "reads what is denied");
            }
        }
        if authority.writes_tree("") {
            assert!(authority.allows(Resource::Key, "any", Access::Write));
        }
    }
}

/// Reads `bytes` as the body of a registration, of a transaction, of a config entry and
/// of a prepared query: what is accepted
/// has what the registry needs.
///
/// # Panics
/// When that does not hold: a defect.
pub fn fuzz_body(bytes: &[u8]) {
    drop(txn::parse(bytes));
    // What a migration reads of a server that is a stranger's.
    drop((copying::read_services(bytes), copying::read_keys(bytes)));
    drop((copying::read_instances(bytes), copying::answers(bytes)));
    let Ok(fields) = Fields::of_body(bytes) else {
        return;
    };
    query::fuzz(&fields);
    drop(config::entry(bytes));
    let node = Node {
        name: "n".to_owned(),
        address: "127.0.0.1".to_owned(),
        ..Node::default()
    };
    for foreign in [false, true] {
        let Ok(defined) = translate::define(&fields, &node, foreign) else {
            continue;
        };
        let registration = defined.registration;
        let named = |name: &str| registration.checks.iter().any(|check| check.name == name);
        assert!(
            defined.said.iter().all(|(name, ..)| named(name)),
            "said of nothing"
        );
        assert!(
            registration
                .checks
                .iter()
                .all(|check| !check.name.is_empty()),
            "no name"
        );
    }
}
