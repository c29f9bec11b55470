//! The rules of the house that no compiler knows. Each says where it is broken and
//! how to mend it, and each has tests which show that it can fail.

mod architecture;
mod deny;
mod edges;
mod layout;
mod length;
mod licence;
mod papers;
mod serde_place;
mod text;

use std::fmt;

use crate::house::House;

/// A rule is broken here.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    /// What is wrong, and how to mend it.
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// A rule: what it finds in this house.
type Rule = fn(&House) -> Vec<Finding>;

const RULES: &[Rule] = &[
    papers::check,
    architecture::check,
    edges::check,
    deny::check,
    layout::check,
    length::check,
    serde_place::check,
    text::check,
];

/// Prints all findings; whether there were none.
pub(crate) fn print_findings(house: &House) -> bool {
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(house)).collect();
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => println!("tidy: {} files in order", house.files.len()),
        count => println!("tidy: {count} to mend"),
    }
    findings.is_empty()
}

/// A house of these files, for the rules' own tests.
#[cfg(test)]
fn house_of(files: &[(&str, &str)]) -> House {
    let files = files.iter();
    House {
        files: files
            .map(|(path, text)| crate::house::SourceFile::new(path, text))
            .collect(),
        ..House::default()
    }
}

/// `path:line` and message of each finding.
#[cfg(test)]
fn told(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}
