//! `ARCHITECTURE.md` names every crate, and no file or type that is not there.

use super::Finding;
use crate::house::House;

const PAPER: &str = "ARCHITECTURE.md";

/// Endings that make a word in backticks the name of a file.
const FILE_ENDINGS: &[&str] = &[
    ".rs", ".toml", ".md", ".yaml", ".yml", ".json", ".py", ".txt",
];

/// Folders that exist only while Atoll runs or after a build.
const MADE_LATER: &[&str] = &[".atoll", "target"];

pub(super) fn check(house: &House) -> Vec<Finding> {
    // Its absence is told by `papers`.
    let Some(paper) = house.file(PAPER) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let words: Vec<(usize, &str)> = in_backticks(&paper.text).collect();
    for member in &house.crates {
        let named = words
            .iter()
            .any(|(_, word)| word.trim_end_matches('/') == member.folder);
        if !named {
            let message = format!(
                "says nothing of `{}`: name its folder, `{}/`, and what it is for",
                member.name, member.folder
            );
            findings.push(Finding::new(PAPER, 1, message));
        }
    }
    for (line, word) in words {
        if is_path(word) && !exists(house, word) {
            let message = format!("`{word}` does not exist: correct the name or delete it");
            findings.push(Finding::new(PAPER, line, message));
        } else if is_symbol(word) && !is_said_in_code(house, word) {
            let message = format!("no code says `{word}`: correct the name or delete it");
            findings.push(Finding::new(PAPER, line, message));
        }
    }
    findings
}

/// Line and content of each span between single backticks; blocks between fences are
/// pictures and are left alone.
fn in_backticks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    let lines = text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.flat_map(|(index, line)| {
        let spans = line.split('`').skip(1).step_by(2);
        spans.map(move |span| (index + 1, span))
    })
}

fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let first = word.split('/').next().unwrap_or_default();
    word.chars().all(plain)
        // A path of a URL, as in `/api/v1`.
        && !word.starts_with('/')
        && !MADE_LATER.contains(&first)
        && (word.contains('/') || FILE_ENDINGS.iter().any(|ending| word.ends_with(ending)))
}

/// Whether a file or folder is there: the whole path, or, when it is a file's name
/// alone, anywhere.
fn exists(house: &House, word: &str) -> bool {
    let wanted = word.trim_end_matches('/');
    let under = format!("{wanted}/");
    let named = format!("/{wanted}");
    house.files.iter().any(|file| {
        file.path == wanted
            || file.path.starts_with(&under)
            || (!wanted.contains('/') && file.path.ends_with(&named))
    })
}

/// A type, or something of one: `Gateway`, `Gateway::publish`.
fn is_symbol(word: &str) -> bool {
    let identifier = |part: &str| !part.is_empty() && part.chars().all(is_of_identifier);
    word.split("::").all(identifier)
        && word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.contains(|c: char| c.is_ascii_lowercase())
}

fn is_of_identifier(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether one Rust file says all parts of a symbol.
fn is_said_in_code(house: &House, symbol: &str) -> bool {
    let says = |text: &str, part: &str| text.split(|c| !is_of_identifier(c)).any(|w| w == part);
    let mut code = house.files.iter().filter(|file| file.path.ends_with(".rs"));
    code.any(|file| symbol.split("::").all(|part| says(&file.text, part)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::Member;
    use crate::tidy::{house_of, told};

    fn read(text: &str) -> Vec<String> {
        let mut house = house_of(&[
            (PAPER, text),
            ("crates/base/model/src/lib.rs", ""),
            (
                "atoll/src/main.rs",
                "struct Gateway;\nimpl Gateway { fn start() {} }\n",
            ),
        ]);
        for folder in ["crates/base/model", "atoll"] {
            house.crates.push(Member {
                name: folder.rsplit('/').next().unwrap().to_owned(),
                folder: folder.to_owned(),
                uses: Vec::new(),
            });
        }
        told(&check(&house))
    }

    const GOOD: &str = "`atoll/` uses `crates/base/model`.\n";

    #[test]
    fn crates_named_by_their_folder_pass() {
        assert_eq!(read(GOOD), [""; 0]);
    }

    #[test]
    fn a_crate_that_is_not_named_is_found() {
        let told = read("The `atoll/` binary stands on crates/base/model.\n");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("says nothing of `model`"), "{told:?}");
    }

    #[test]
    fn paths_that_are_not_there_are_found() {
        let told = read(&format!(
            "{GOOD}\n`crates/base/gone` and `atoll/src/gone.rs`, `gone.rs`\n"
        ));
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("ARCHITECTURE.md:3: `crates/base/gone`"));
    }

    #[test]
    fn symbols_that_no_code_says_are_found() {
        assert_eq!(
            read(&format!("{GOOD}`Gateway` `Gateway::start`\n")),
            [""; 0]
        );
        let told = read(&format!("{GOOD}`Gate` and `Gateway::stop`\n"));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("ARCHITECTURE.md:2: no code says `Gate`"));
    }

    #[test]
    fn other_words_in_backticks_are_no_paths() {
        let words = "`main.rs` `Gateway::start` `/api/v1` `.atoll/run.json` `a <- b` `{path*}`";
        assert_eq!(
            read(&format!("{GOOD}{words}\n```\nx/y `x/y`\n```\n")),
            [""; 0]
        );
    }
}
