//! Where code lies and how modules are called.

use syn::visit::{self, Visit};

use super::Finding;
use crate::house::House;

/// Deepest path below a crate's `src`, in parts: `a/b.rs`.
const PARTS_MAX: usize = 2;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "misc", "helpers"];

pub(super) fn check(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in house.files.iter().filter(|file| file.path.ends_with(".rs")) {
        if let Some(Err(error)) = &file.rust {
            let line = error.span().start().line;
            let message = format!("not Rust ({error}): mend the syntax");
            findings.push(Finding::new(&file.path, line, message));
        }
        let below = file.path.split_once("/src/").map(|(_, below)| below);
        if below.is_some_and(|below| below.split('/').count() > PARTS_MAX) {
            let message = "too deep: at most `src/a/b.rs`; move it up, or make it a crate";
            findings.push(Finding::new(&file.path, 1, message));
        }
        let parts = file.path.trim_end_matches(".rs").split('/');
        for part in parts.filter(|part| EMPTY_NAMES.contains(part)) {
            findings.push(Finding::new(&file.path, 1, nameless(part)));
        }
        let mut modules = Modules {
            path: &file.path,
            findings: &mut findings,
        };
        if let Some(rust) = file.parsed() {
            modules.visit_file(rust);
        }
    }
    findings
}

fn nameless(name: &str) -> String {
    format!("`{name}` says nothing: name the module after what it holds")
}

struct Modules<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl<'ast> Visit<'ast> for Modules<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let name = module.ident.to_string();
        // One in a file of its own is told by the file's name.
        if module.content.is_some() && EMPTY_NAMES.contains(&name.as_str()) {
            let line = module.mod_token.span.start().line;
            self.findings
                .push(Finding::new(self.path, line, nameless(&name)));
        }
        visit::visit_item_mod(self, module);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{house_of, told};

    fn look(path: &str, text: &str) -> Vec<String> {
        told(&check(&house_of(&[(path, text)])))
    }

    #[test]
    fn shallow_modules_with_names_pass() {
        assert_eq!(look("crates/base/net/src/lib.rs", "mod listen;"), [""; 0]);
        assert_eq!(look("crates/base/net/src/a/b.rs", ""), [""; 0]);
        assert_eq!(look("crates/base/net/tests/a/b/c.rs", ""), [""; 0]);
    }

    #[test]
    fn depth_is_found() {
        assert_eq!(look("crates/base/net/src/a/b/c.rs", "").len(), 1);
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        for path in ["x/src/util.rs", "x/src/common/a.rs", "x/tests/misc.rs"] {
            assert_eq!(look(path, "").len(), 1, "{path}");
        }
        let told = look("x/src/lib.rs", "\nmod a {\n    mod util {}\n}\n");
        assert!(told[0].starts_with("x/src/lib.rs:3: `util`"), "{told:?}");
    }

    #[test]
    fn broken_syntax_is_found() {
        let told = look("x/src/lib.rs", "\nfn a( {}\n");
        assert!(told[0].starts_with("x/src/lib.rs:2: not Rust"), "{told:?}");
    }
}
