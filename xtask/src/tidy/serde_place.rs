//! Serialisation formats stand in three files: `wire.rs` (what crosses a socket),
//! `draft.rs` (the file that a user writes), `stored.rs` (what is on disk). Elsewhere
//! a type could not change without breaking somebody far away.
//!
//! A format is a derive, an implementation, or an import of serde's two traits; a mere
//! bound (`T: DeserializeOwned`) is none. Tests may do as they like.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::Finding;
use crate::house::House;

/// Whose types live long enough for this to matter. The example services, the tests
/// and the tools keep theirs where they use them.
const HELD: &[&str] = &["crates/", "atoll/"];

const PLACES: &[&str] = &["wire.rs", "draft.rs", "stored.rs"];

const TRAITS: &[&str] = &["Serialize", "Deserialize"];

pub(super) fn check(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    let held = house.files.iter().filter(|file| {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        HELD.iter().any(|folder| file.path.starts_with(folder))
            && file.path.contains("/src/")
            && name != "tests.rs"
            && !PLACES.contains(&name)
    });
    for file in held {
        if let Some(rust) = file.parsed() {
            let mut formats = Formats { lines: Vec::new() };
            formats.visit_file(rust);
            for line in formats.lines {
                let message = "serde outside of `wire.rs`, `draft.rs` and `stored.rs`: move the type there and translate";
                findings.push(Finding::new(&file.path, line, message));
            }
        }
    }
    findings
}

/// Whether these are the attributes of something that only tests see.
pub(super) fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

struct Formats {
    lines: Vec<usize>,
}

impl<'ast> Visit<'ast> for Formats {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test_only(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let derives = ["derive", "cfg_attr"];
        if let syn::Meta::List(list) = &attribute.meta
            && derives.iter().any(|name| list.path.is_ident(name))
            && names_a_trait(list.tokens.clone())
        {
            self.lines.push(attribute.pound_token.span.start().line);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of = item.trait_.as_ref().and_then(|of| of.0.segments.last());
        if of.is_some_and(|last| is_trait(&last.ident)) {
            self.lines.push(item.impl_token.span.start().line);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if let syn::UseTree::Path(path) = &item.tree
            && path.ident == "serde"
            && imports_a_trait(&path.tree)
        {
            self.lines.push(item.use_token.span.start().line);
        }
    }
}

fn is_trait(name: &proc_macro2::Ident) -> bool {
    TRAITS.iter().any(|known| name == known)
}

fn names_a_trait(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(name) => is_trait(&name),
        TokenTree::Group(group) => names_a_trait(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn imports_a_trait(tree: &syn::UseTree) -> bool {
    match tree {
        syn::UseTree::Path(path) => imports_a_trait(&path.tree),
        syn::UseTree::Name(name) => is_trait(&name.ident),
        syn::UseTree::Rename(rename) => is_trait(&rename.ident),
        syn::UseTree::Glob(_) => true,
        syn::UseTree::Group(group) => group.items.iter().any(imports_a_trait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{house_of, told};

    fn look(path: &str, text: &str) -> Vec<String> {
        told(&check(&house_of(&[(path, text)])))
    }

    const DERIVED: &str = "\n#[derive(Debug, serde::Serialize)]\nstruct A;\n";

    #[test]
    fn formats_in_their_places_pass() {
        for path in [
            "crates/console/src/wire.rs",
            "crates/domain/registry/src/stored.rs",
            "atoll/src/config/draft.rs",
            "crates/console/src/tests.rs",
            "crates/console/tests/api.rs",
            "examples/shop/users/src/api.rs",
        ] {
            assert_eq!(look(path, DERIVED), [""; 0], "{path}");
        }
    }

    #[test]
    fn formats_elsewhere_are_found() {
        for text in [
            DERIVED,
            "\nuse serde::{Deserialize, de::DeserializeOwned};",
            "\nuse serde::Serialize as S;",
            "\nuse serde::*;",
            "\nimpl serde::Serialize for A {}",
            "\n#[cfg_attr(feature = \"x\", derive(Deserialize))]\nstruct A;",
            "mod inner {\n#[derive(Serialize)]\nenum B {}\n}",
        ] {
            let told = look("crates/base/net/src/a.rs", text);
            assert_eq!(told.len(), 1, "{text}");
            assert!(
                told[0].starts_with("crates/base/net/src/a.rs:2: "),
                "{told:?}"
            );
        }
    }

    #[test]
    fn bounds_and_tests_are_no_formats() {
        for text in [
            "use serde::de::DeserializeOwned;\nfn read<T: DeserializeOwned>() {}",
            "#[derive(Debug, Clone)]\nstruct Serialize;",
            "#[cfg(test)]\nmod tests {\n#[derive(serde::Serialize)]\nstruct A;\n}",
        ] {
            assert_eq!(look("crates/base/net/src/a.rs", text), [""; 0], "{text}");
        }
    }
}
