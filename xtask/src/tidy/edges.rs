//! Which crate may use which.
//!
//! `model <- runtime <- store, net, resilience <- domains <- protocols, console <- atoll`.
//! Tests are held to the same edges: a test that needs a second domain belongs above
//! both.

use super::Finding;
use crate::house::{House, Member};

/// Crates in a folder, and the folders of what they may use.
struct Row {
    folder: &'static str,
    may_use: &'static [&'static str],
    reason: &'static str,
}

/// The first row that fits a crate holds.
const TABLE: &[Row] = &[
    Row {
        folder: "crates/base/model",
        may_use: &[],
        reason: "the nouns stand on nothing, so that everything can stand on them",
    },
    Row {
        folder: "crates/base/runtime",
        may_use: &["crates/base/model"],
        reason: "tasks and clocks know nothing of stores or sockets",
    },
    Row {
        folder: "crates/base",
        may_use: &["crates/base/model", "crates/base/runtime"],
        reason: "each can be read, tested and replaced without the others",
    },
    Row {
        folder: "crates/domain",
        may_use: &["crates/base"],
        reason: "no domain knows another; it declares a port, and the binary plugs it in",
    },
    Row {
        folder: "crates/protocol",
        may_use: &["crates/base", "crates/domain"],
        reason: "a translator stands on one domain",
    },
    Row {
        folder: "crates/console",
        may_use: &["crates/base"],
        reason: "it shows what the binary hands it through `Control`",
    },
    Row {
        folder: "atoll",
        may_use: &["crates"],
        reason: "the only crate that knows all others",
    },
    Row {
        folder: "examples",
        may_use: &[],
        reason: "services as a user writes them",
    },
    Row {
        folder: "e2e",
        may_use: &[],
        reason: "what is tested is what a user has: a binary",
    },
    Row {
        folder: "bench",
        may_use: &[],
        reason: "what is measured is what a user has, as its peers are",
    },
    Row {
        folder: "xtask",
        may_use: &[],
        reason: "it must build when nothing else does",
    },
];

pub(super) fn check(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in &house.crates {
        check_member(house, member, &mut findings);
    }
    findings
}

fn check_member(house: &House, member: &Member, findings: &mut Vec<Finding>) {
    let manifest = member.manifest();
    let Some(row) = TABLE.iter().find(|row| within(&member.folder, row.folder)) else {
        let message = format!(
            "no rule says what `{}` may use: add a row to the table in xtask/src/tidy/edges.rs",
            member.name
        );
        findings.push(Finding::new(&manifest, 1, message));
        return;
    };
    let mut refuse = |used: &Member, mend: &str| {
        let line = house
            .file(&manifest)
            .map_or(1, |file| file.line_of(&used.name));
        let message = format!(
            "`{}` may not use `{}` ({}): {mend}",
            member.name, used.name, row.reason
        );
        findings.push(Finding::new(&manifest, line, message));
    };
    let used = house
        .crates
        .iter()
        // A crate's tests may switch on its own features.
        .filter(|used| used.name != member.name && member.uses.contains(&used.name));
    let mut domains = 0;
    for used in used {
        domains += u32::from(within(&used.folder, "crates/domain"));
        if !row
            .may_use
            .iter()
            .any(|folder| within(&used.folder, folder))
        {
            refuse(used, "declare a trait with the calls it needs");
        } else if row.folder == "crates/protocol" && domains > 1 {
            refuse(used, "split it, or join them in the binary");
        }
    }
}

fn within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{house_of, told};

    /// A crate in each place, and one that uses these.
    fn edges(folder: &str, uses: &[&str]) -> Vec<String> {
        let folders = [
            "crates/base/model",
            "crates/base/runtime",
            "crates/base/store",
            "crates/base/net",
            "crates/domain/registry",
            "crates/domain/gateway",
            "crates/console",
            "atoll",
        ];
        let member = |folder: &str, uses: &[&str]| Member {
            name: folder.rsplit('/').next().unwrap().to_owned(),
            folder: folder.to_owned(),
            uses: uses.iter().map(|&name| name.to_owned()).collect(),
        };
        let manifest = format!("{folder}/Cargo.toml");
        let mut house = house_of(&[(&manifest, "[dependencies]\n\nstore.workspace = true\n")]);
        house.crates = folders.map(|other| member(other, &[])).into();
        house.crates.retain(|other| other.folder != folder);
        house.crates.push(member(folder, uses));
        told(&check(&house))
    }

    #[test]
    fn edges_downwards_pass() {
        for (folder, uses) in [
            ("crates/base/runtime", &["model"][..]),
            ("crates/base/store", &["model", "runtime", "store"]),
            ("crates/domain/registry", &["store", "net"]),
            ("crates/protocol/eureka", &["net", "registry"]),
            ("crates/console", &["net"]),
            ("atoll", &["registry", "gateway", "console", "model"]),
        ] {
            assert_eq!(edges(folder, uses), [""; 0], "{folder}");
        }
    }

    #[test]
    fn edges_sideways_and_upwards_are_found() {
        for (folder, uses) in [
            ("crates/base/model", "runtime"),
            ("crates/base/runtime", "store"),
            ("crates/base/net", "store"),
            ("crates/domain/registry", "gateway"),
            ("crates/domain/registry", "console"),
            ("crates/domain/registry", "atoll"),
            ("crates/console", "registry"),
            ("examples/shop/users", "model"),
            ("e2e", "atoll"),
        ] {
            assert_eq!(edges(folder, &[uses]).len(), 1, "{folder} -> {uses}");
        }
        let told = edges("crates/base/net", &["store"]);
        assert!(told[0].starts_with("crates/base/net/Cargo.toml:3: `net` may not use `store`"));
    }

    #[test]
    fn a_protocol_stands_on_one_domain() {
        let told = edges("crates/protocol/eureka", &["registry", "gateway"]);
        assert_eq!(told.len(), 1, "{told:?}");
    }

    #[test]
    fn a_crate_in_a_new_place_needs_a_row() {
        assert!(edges("tools/odd", &[])[0].contains("add a row"));
        assert!(edges("atollette", &[])[0].contains("add a row"));
    }
}
