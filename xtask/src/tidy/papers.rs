//! The papers that a house has, and the one lint table that holds for every crate.

use super::Finding;
use crate::house::House;

/// Files that a stranger looks for.
const PAPERS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
];

pub(super) fn check(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for paper in PAPERS {
        if house
            .file(paper)
            .is_none_or(|file| file.text.trim().is_empty())
        {
            findings.push(Finding::new(paper, 1, "missing or empty: write it"));
        }
    }
    let forbids = house
        .file("Cargo.toml")
        .and_then(|file| file.text.parse::<toml::Table>().ok())
        .is_some_and(|table| {
            let lints = table.get("workspace").and_then(|table| table.get("lints"));
            let lint = lints.and_then(|table| table.get("rust")?.get("unsafe_code"));
            lint.and_then(toml::Value::as_str) == Some("forbid")
        });
    if !forbids {
        let message = "[workspace.lints.rust] must say `unsafe_code = \"forbid\"`";
        findings.push(Finding::new("Cargo.toml", 1, message));
    }
    for member in &house.crates {
        let inherits = house
            .file(&member.manifest())
            .and_then(|file| file.text.parse::<toml::Table>().ok())
            .is_some_and(|table| {
                let inherits = table.get("lints").and_then(|lints| lints.get("workspace"));
                inherits.and_then(toml::Value::as_bool) == Some(true)
            });
        if !inherits {
            let message =
                "the workspace's lints do not hold here: add `[lints]` with `workspace = true`";
            findings.push(Finding::new(&member.manifest(), 1, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::Member;
    use crate::tidy::{house_of, told};

    const ROOT: &str = "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n";

    fn house(root: &str, member: &str) -> House {
        let mut files: Vec<_> = PAPERS.iter().map(|paper| (*paper, "words")).collect();
        files.push(("Cargo.toml", root));
        files.push(("crates/a/Cargo.toml", member));
        let mut house = house_of(&files);
        house.crates.push(Member {
            name: "a".to_owned(),
            folder: "crates/a".to_owned(),
            uses: Vec::new(),
        });
        house
    }

    #[test]
    fn a_complete_house_passes() {
        let house = house(ROOT, "[lints]\nworkspace = true\n");
        assert_eq!(check(&house), []);
    }

    #[test]
    fn a_missing_or_empty_paper_is_found() {
        let mut house = house(ROOT, "[lints]\nworkspace = true\n");
        house.files.retain(|file| file.path != "README.md");
        let changelog = house.files.iter_mut();
        for file in changelog.filter(|file| file.path == "CHANGELOG.md") {
            file.text = "\n".to_owned();
        }
        assert_eq!(
            told(&check(&house)),
            [
                "README.md:1: missing or empty: write it",
                "CHANGELOG.md:1: missing or empty: write it"
            ]
        );
    }

    #[test]
    fn a_crate_outside_of_the_lint_table_is_found() {
        assert_eq!(check(&house(ROOT, "[package]\n")).len(), 1);
        assert_eq!(check(&house(ROOT, "[lints]\nworkspace = false\n")).len(), 1);
    }

    #[test]
    fn unsafe_code_stays_forbidden() {
        let weak = "[workspace.lints.rust]\nunsafe_code = \"warn\"\n";
        let told = told(&check(&house(weak, "[lints]\nworkspace = true\n")));
        assert!(told[0].contains("forbid"), "{told:?}");
    }
}
