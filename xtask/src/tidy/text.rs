//! What no text file of the tree may hold: leftovers of a merge, hosts of package
//! registries, paths of somebody's machine.
//!
//! The words to look for are put together here, so that this file does not hold them.

use super::Finding;
use crate::house::House;

/// What cargo writes into a lock file for a package from the public registry.
const PUBLIC_SOURCE: &str = concat!(
    "registry+https://github.com/rust-lang/",
    "crates",
    ".io-index"
);

/// Hosts of package registries. Which one is used is a matter of the machine.
const HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("yarn", "pkg.com"),
    concat!("proxy.golang", ".org"),
    concat!("ruby", "gems.org"),
    concat!("deb.debian", ".org"),
];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("C:", r"\Users\"),
];

pub(super) fn check(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &house.files {
        // Written by cargo, full of addresses.
        let is_lock = file.path.rsplit('/').next() == Some("Cargo.lock");
        for (index, line) in file.text.lines().enumerate() {
            let mut find = |message: String| {
                findings.push(Finding::new(&file.path, index + 1, message));
            };
            if is_conflict(line) {
                find("left over from a merge: resolve it".to_owned());
            }
            if is_lock {
                if line.starts_with("source = ") && !line.contains(PUBLIC_SOURCE) {
                    find("not from the public registry: depend on a release".to_owned());
                }
                continue;
            }
            if let Some(host) = HOSTS.iter().find(|host| line.contains(*host)) {
                find(format!(
                    "names a package registry (`{host}`): say `cargo`, `pip` or `npm` instead"
                ));
            }
            if let Some(path) = MACHINE_PATHS.iter().find(|path| begins_in(line, path)) {
                find(format!(
                    "a path of one machine (`{path}...`): say it from the root of the tree"
                ));
            }
        }
    }
    findings
}

/// One of the lines that git writes around a conflict. The middle one (`=======`)
/// never stands without them, and underlines titles elsewhere.
fn is_conflict(line: &str) -> bool {
    ["<", ">", "|"].iter().any(|sign| {
        let rest = line.strip_prefix(&sign.repeat(7));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    })
}

/// Whether a path that begins so stands in `line`: not as a later part of another one,
/// as in `examples/home/`.
fn begins_in(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "./_-}*".contains(c)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{house_of, told};

    fn look(path: &str, text: &str) -> Vec<String> {
        told(&check(&house_of(&[(path, text)])))
    }

    #[test]
    fn ordinary_text_passes() {
        let text = "Title\n=======\n\n| a | b |\nGET examples/home/ <<<<<<<<\nx << 7\n";
        assert_eq!(look("README.md", text), [""; 0]);
    }

    #[test]
    fn leftovers_of_a_merge_are_found() {
        for sign in ["<", ">", "|"] {
            let text = format!("a\n{} HEAD\nb\n", sign.repeat(7));
            let told = look("a.txt", &text);
            assert!(told[0].starts_with("a.txt:2: left over"), "{told:?}");
        }
    }

    #[test]
    fn registries_are_found() {
        for host in HOSTS {
            let told = look("docs/a.md", &format!("\nsee https://{host}/x\n"));
            assert_eq!(told.len(), 1, "{host}");
        }
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for path in MACHINE_PATHS {
            let told = look("a.toml", &format!("x = \"{path}me/a\"\n"));
            assert_eq!(told.len(), 1, "{path}");
        }
    }

    #[test]
    fn a_lock_file_names_the_public_registry_only() {
        let public = format!("source = \"{PUBLIC_SOURCE}\"\n");
        assert_eq!(look("fuzz/Cargo.lock", &public), [""; 0]);
        let told = look("Cargo.lock", "\nsource = \"git+https://example.com/a\"\n");
        assert!(told[0].starts_with("Cargo.lock:2: "), "{told:?}");
        assert_eq!(look("a.toml", &public).len(), 1);
    }
}
