//! Files and functions have a ceiling. What was above it when the rule came stands in
//! `xtask/ratchet.toml` with its length, and that figure may only shrink.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};

use super::Finding;
use crate::house::{House, SourceFile};

const RATCHET: &str = "xtask/ratchet.toml";

/// Lines of a file, its tests at the end not counted.
const FILE_LINES_MAX: usize = 1000;

/// Lines of a function, from `fn` to its last brace.
const FUNCTION_LINES_MAX: usize = 100;

/// Something that has a length, by the name that it has in the ratchet.
#[derive(Debug)]
struct Measured {
    name: String,
    path: String,
    line: usize,
    lines: usize,
}

pub(super) fn check(house: &House) -> Vec<Finding> {
    let mut files = Vec::new();
    let mut functions = Vec::new();
    for file in &house.files {
        if let Some(rust) = file.parsed() {
            files.push(Measured {
                name: file.path.clone(),
                path: file.path.clone(),
                line: 1,
                lines: file.text.lines().count() - trailing_test_lines(rust),
            });
            measure_functions(file, rust, &mut functions);
        }
    }
    let mut findings = Vec::new();
    let empty = SourceFile::new(RATCHET, "");
    let ratchet = house.file(RATCHET).unwrap_or(&empty);
    let table = match ratchet.text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            findings.push(Finding::new(RATCHET, 1, format!("not TOML: {error}")));
            return findings;
        }
    };
    for (section, _) in &table {
        if !["files", "functions"].contains(&section.as_str()) {
            let message = format!("no section `{section}`: there are `files` and `functions`");
            findings.push(Finding::new(RATCHET, ratchet.line_of(section), message));
        }
    }
    for (section, measured, ceiling) in [
        ("files", files, FILE_LINES_MAX),
        ("functions", functions, FUNCTION_LINES_MAX),
    ] {
        let exceptions = read_exceptions(&table, section, ratchet, &mut findings);
        hold(&measured, &exceptions, ceiling, ratchet, &mut findings);
    }
    findings
}

fn read_exceptions(
    table: &toml::Table,
    section: &str,
    ratchet: &SourceFile,
    findings: &mut Vec<Finding>,
) -> BTreeMap<String, usize> {
    let mut exceptions = BTreeMap::new();
    let section = table.get(section).and_then(toml::Value::as_table);
    for (name, value) in section.into_iter().flatten() {
        let lines = value.as_integer().and_then(|n| usize::try_from(n).ok());
        if let Some(lines) = lines {
            exceptions.insert(name.clone(), lines);
        } else {
            let message = format!("`{name}`: write a number of lines");
            findings.push(Finding::new(RATCHET, ratchet.line_of(name), message));
        }
    }
    exceptions
}

fn hold(
    measured: &[Measured],
    exceptions: &BTreeMap<String, usize>,
    ceiling: usize,
    ratchet: &SourceFile,
    findings: &mut Vec<Finding>,
) {
    // Two functions of one name (two traits of one type) share an exception.
    let mut longest: BTreeMap<&str, &Measured> = BTreeMap::new();
    for one in measured {
        let entry = longest.entry(&one.name).or_insert(one);
        if one.lines > entry.lines {
            *entry = one;
        }
    }
    for one in longest.values().filter(|one| one.lines > ceiling) {
        let message = match exceptions.get(&one.name) {
            None => format!("{} lines, at most {ceiling}: split it", one.lines),
            Some(&allowed) if one.lines > allowed => format!(
                "grew to {} lines from the {allowed} that {RATCHET} allows: split it",
                one.lines
            ),
            Some(_) => continue,
        };
        findings.push(Finding::new(&one.path, one.line, message));
    }
    for (name, &allowed) in exceptions {
        let lines = longest.get(name.as_str()).map(|one| one.lines);
        let message = match lines {
            None => format!("`{name}` is gone: remove its exception"),
            Some(lines) if lines <= ceiling => {
                format!("`{name}` has {lines} lines, which is allowed: remove its exception")
            }
            Some(lines) if lines < allowed => {
                format!("`{name}` shrank from {allowed} lines: write {lines}")
            }
            Some(_) => continue,
        };
        findings.push(Finding::new(RATCHET, ratchet.line_of(name), message));
    }
}

/// Lines of a `#[cfg(test)] mod tests { ... }` that ends the file.
fn trailing_test_lines(rust: &syn::File) -> usize {
    let Some(syn::Item::Mod(module)) = rust.items.last() else {
        return 0;
    };
    let (Some((brace, _)), Some(first)) = (&module.content, module.attrs.first()) else {
        return 0;
    };
    if !super::serde_place::is_test_only(&module.attrs) {
        return 0;
    }
    let start = first.pound_token.span.start().line;
    brace.span.close().end().line + 1 - start
}

fn measure_functions(file: &SourceFile, rust: &syn::File, into: &mut Vec<Measured>) {
    let mut functions = Functions {
        path: &file.path,
        within: Vec::new(),
        found: into,
    };
    functions.visit_file(rust);
}

struct Functions<'a> {
    path: &'a str,
    /// Modules, types and functions around.
    within: Vec<String>,
    found: &'a mut Vec<Measured>,
}

impl Functions<'_> {
    fn inside(&mut self, name: String, visit: impl FnOnce(&mut Self)) {
        self.within.push(name);
        visit(self);
        self.within.pop();
    }

    fn note(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.fn_token.span.start().line;
        let name = [&self.within[..], &[signature.ident.to_string()]].concat();
        self.found.push(Measured {
            name: format!("{}::{}", self.path, name.join("::")),
            path: self.path.to_owned(),
            line,
            lines: block.brace_token.span.close().end().line + 1 - line,
        });
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.note(&function.sig, &function.block);
        self.inside(function.sig.ident.to_string(), |inside| {
            visit::visit_item_fn(inside, function);
        });
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.note(&function.sig, &function.block);
        self.inside(function.sig.ident.to_string(), |inside| {
            visit::visit_impl_item_fn(inside, function);
        });
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.note(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.inside(module.ident.to_string(), |inside| {
            visit::visit_item_mod(inside, module);
        });
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.inside(item.ident.to_string(), |inside| {
            visit::visit_item_trait(inside, item);
        });
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        self.inside(name.unwrap_or_else(|| "impl".to_owned()), |inside| {
            visit::visit_item_impl(inside, item);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{house_of, told};

    /// A method of so many lines.
    fn method(lines: usize) -> String {
        let body = "        work();\n".repeat(lines - 2);
        format!("impl<T> Long<T> {{\n    /// Why.\n    async fn run(&self) {{\n{body}    }}\n}}\n")
    }

    fn look(text: &str, ratchet: &str) -> Vec<String> {
        told(&check(&house_of(&[
            ("a/src/x.rs", text),
            (RATCHET, ratchet),
        ])))
    }

    #[test]
    fn at_the_ceiling_passes() {
        assert_eq!(look(&method(FUNCTION_LINES_MAX), ""), [""; 0]);
        assert_eq!(look(&"//\n".repeat(FILE_LINES_MAX), ""), [""; 0]);
    }

    #[test]
    fn above_the_ceiling_is_found_where_it_begins() {
        assert_eq!(
            look(&method(101), ""),
            ["a/src/x.rs:3: 101 lines, at most 100: split it"]
        );
        assert_eq!(
            look(&"//\n".repeat(1001), ""),
            ["a/src/x.rs:1: 1001 lines, at most 1000: split it"]
        );
    }

    #[test]
    fn tests_at_the_end_of_a_file_do_not_count() {
        let code = "//\n".repeat(FILE_LINES_MAX - 1) + "fn a() {}\n";
        let tests = "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
        assert_eq!(look(&format!("{code}{tests}"), ""), [""; 0]);
        let module = tests.replace("#[cfg(test)]\n", "");
        assert_eq!(look(&format!("{code}{module}"), "").len(), 1);
    }

    #[test]
    fn an_exception_allows_its_figure_and_no_more() {
        let ratchet = "[functions]\n\"a/src/x.rs::Long::run\" = 120\n";
        assert_eq!(look(&method(120), ratchet), [""; 0]);
        assert_eq!(
            look(&method(121), ratchet),
            [
                "a/src/x.rs:3: grew to 121 lines from the 120 that xtask/ratchet.toml allows: split it"
            ]
        );
    }

    #[test]
    fn an_exception_larger_than_needed_is_found() {
        let ratchet = "[functions]\n\"a/src/x.rs::Long::run\" = 120\n";
        let about = "xtask/ratchet.toml:2: `a/src/x.rs::Long::run`";
        assert_eq!(
            look(&method(110), ratchet),
            [format!("{about} shrank from 120 lines: write 110")]
        );
        assert_eq!(
            look(&method(90), ratchet),
            [format!(
                "{about} has 90 lines, which is allowed: remove its exception"
            )]
        );
        assert_eq!(
            look("", ratchet),
            [format!("{about} is gone: remove its exception")]
        );
    }

    #[test]
    fn a_ratchet_that_cannot_be_read_is_found() {
        assert_eq!(look("", "[functions").len(), 1);
        assert_eq!(look("", "[function]\n").len(), 1);
        assert_eq!(look("", "[files]\n\"x\" = \"long\"\n").len(), 1);
    }
}
