//! What we build on, held to `deny.toml`: licences, crates that we refuse, and least
//! versions. The file is cargo-deny's; these are its parts that need no network.

use cargo_metadata::semver::VersionReq;

use super::{Finding, licence};
use crate::house::{House, Package, SourceFile};

const PAPER: &str = "deny.toml";

/// An entry of `bans.deny`.
struct Ban {
    name: String,
    versions: VersionReq,
    reason: String,
}

pub(super) fn check(house: &House) -> Vec<Finding> {
    let Some(paper) = house.file(PAPER) else {
        return vec![Finding::new(
            PAPER,
            1,
            "missing: nothing says what may be used",
        )];
    };
    let table = match paper.text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => return vec![Finding::new(PAPER, 1, format!("not TOML: {error}"))],
    };
    let mut findings = Vec::new();
    let allowed = strings(&table, "licenses", "allow");
    if allowed.is_empty() {
        findings.push(Finding::new(
            PAPER,
            1,
            "`licenses.allow` is empty: list the licences",
        ));
    }
    let bans = read_bans(&table, paper, &mut findings);
    for package in &house.packages {
        let line = line_in_lock(house, package);
        let mut find = |message| findings.push(Finding::new("Cargo.lock", line, message));
        if let Some(message) = judge_licence(package, &allowed) {
            find(message);
        }
        for ban in &bans {
            if ban.name == package.name && ban.versions.matches(&package.version) {
                find(format!(
                    "`{}` {} is refused ({}): use another, or a newer one by `cargo update`; `cargo tree --invert {}` says who wants it",
                    package.name, package.version, ban.reason, package.name
                ));
            }
        }
    }
    findings
}

fn judge_licence(package: &Package, allowed: &[String]) -> Option<String> {
    let Package { name, version, .. } = package;
    let Some(expression) = &package.license else {
        return Some(format!("`{name}` {version} names no licence: replace it"));
    };
    match licence::satisfied(expression, allowed) {
        Ok(true) => None,
        Ok(false) => Some(format!(
            "`{name}` {version} is under `{expression}`, which `licenses.allow` in {PAPER} does not cover: replace it"
        )),
        Err(error) => Some(format!(
            "`{name}` {version}: licence `{expression}`: {error}"
        )),
    }
}

fn strings(table: &toml::Table, section: &str, key: &str) -> Vec<String> {
    let list = table
        .get(section)
        .and_then(|section| section.get(key)?.as_array());
    let words = list.into_iter().flatten().filter_map(toml::Value::as_str);
    words.map(str::to_owned).collect()
}

fn read_bans(table: &toml::Table, paper: &SourceFile, findings: &mut Vec<Finding>) -> Vec<Ban> {
    let list = table
        .get("bans")
        .and_then(|bans| bans.get("deny")?.as_array());
    let mut bans = Vec::new();
    for entry in list.into_iter().flatten() {
        let spec = entry.as_str().or_else(|| entry.get("crate")?.as_str());
        let ban = spec.ok_or("has no `crate`".to_owned()).and_then(|spec| {
            let reason = entry.get("reason").and_then(toml::Value::as_str);
            read_ban(spec, reason.unwrap_or("no reason given"))
        });
        match ban {
            Ok(ban) => bans.push(ban),
            Err(error) => {
                let line = paper.line_of(spec.unwrap_or("deny"));
                findings.push(Finding::new(
                    PAPER,
                    line,
                    format!("an entry of `bans.deny` {error}"),
                ));
            }
        }
    }
    bans
}

/// `name`, `name@1.2.3` (that version) or `name:<1.2.3` (a range), as cargo-deny does.
fn read_ban(spec: &str, reason: &str) -> Result<Ban, String> {
    let (name, versions) = match spec.split_once(['@', ':']) {
        None => (spec, "*".to_owned()),
        Some((name, version)) if spec.contains('@') => (name, format!("={version}")),
        Some((name, range)) => (name, range.to_owned()),
    };
    let versions = VersionReq::parse(&versions).map_err(|error| format!("`{spec}`: {error}"))?;
    Ok(Ban {
        name: name.to_owned(),
        versions,
        reason: reason.to_owned(),
    })
}

/// Where `Cargo.lock` names it.
fn line_in_lock(house: &House, package: &Package) -> usize {
    let Some(lock) = house.file("Cargo.lock") else {
        return 1;
    };
    let name = format!("name = \"{}\"", package.name);
    let version = format!("version = \"{}\"", package.version);
    let lines: Vec<&str> = lock.text.lines().collect();
    let found = lines.windows(2).position(|pair| pair == [&name, &version]);
    found.map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{house_of, told};

    const RULES: &str = "
[licenses]
allow = [\"MIT\"]

[bans]
deny = [
    \"gone\",
    { crate = \"exact@1.0.0\", reason = \"RUSTSEC-1\" },
    { crate = \"h2:<0.4.16\", reason = \"RUSTSEC-2\" },
]
";

    fn look(rules: &str, name: &str, version: &str, license: Option<&str>) -> Vec<String> {
        let lock = format!("\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
        let mut house = house_of(&[(PAPER, rules), ("Cargo.lock", &lock)]);
        house.packages.push(Package {
            name: name.to_owned(),
            version: version.parse().unwrap(),
            license: license.map(str::to_owned),
        });
        told(&check(&house))
    }

    #[test]
    fn what_is_allowed_passes() {
        assert_eq!(look(RULES, "h2", "0.4.16", Some("MIT")), [""; 0]);
        assert_eq!(
            look(RULES, "exact", "1.0.1", Some("MIT OR GPL-2.0-only")),
            [""; 0]
        );
    }

    #[test]
    fn licences_that_are_not_allowed_are_found() {
        let told = look(RULES, "a", "1.0.0", Some("GPL-3.0-only"));
        assert!(
            told[0].starts_with("Cargo.lock:3: `a` 1.0.0 is under `GPL-3.0-only`"),
            "{told:?}"
        );
        assert_eq!(look(RULES, "a", "1.0.0", None).len(), 1);
        assert_eq!(look(RULES, "a", "1.0.0", Some("MIT AND")).len(), 1);
    }

    #[test]
    fn refused_crates_and_versions_below_the_floor_are_found() {
        assert_eq!(look(RULES, "gone", "9.9.9", Some("MIT")).len(), 1);
        assert_eq!(look(RULES, "exact", "1.0.0", Some("MIT")).len(), 1);
        let told = look(RULES, "h2", "0.4.15", Some("MIT"));
        assert!(told[0].contains("RUSTSEC-2"), "{told:?}");
    }

    #[test]
    fn rules_that_cannot_be_read_are_found() {
        assert!(told(&check(&House::default()))[0].contains("missing"));
        assert_eq!(look("[licenses", "a", "1.0.0", None).len(), 1);
        let odd = "licenses.allow = [\"MIT\"]\nbans.deny = [\n\"a:newer\",\n{ name = 1 }]\n";
        let told = look(odd, "a", "1.0.0", Some("MIT"));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("deny.toml:3: "), "{told:?}");
    }
}
