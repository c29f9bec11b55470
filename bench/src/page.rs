//! `results.md`: one page with a section for each command, of which a command rewrites
//! its own and leaves every other byte alone. Sections begin with `## NAME`; within one,
//! headings are deeper.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::{fs, mem};

use anyhow::{Context, Result};

/// The page unless another is named.
pub(crate) const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results.md");

/// What a new page begins with.
const HEAD: &str = "# What was measured\n\nA section for each command of `cargo xtask bench`.\n";

/// Prints a section and puts it into the page at `path`.
pub(crate) fn publish(path: &Path, name: &str, text: &str) -> Result<()> {
    print(text);
    let page = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => HEAD.to_owned(),
        page => page.with_context(|| format!("read {}", path.display()))?,
    };
    fs::write(path, with_section(&page, name, text)).context("write the report")?;
    print(&format!("\nwritten to {}", path.display()));
    Ok(())
}

/// The page with this text in this section: in its place if it is there already, at the
/// end otherwise.
fn with_section(page: &str, name: &str, text: &str) -> String {
    let mut pieces = sections(page);
    let heading = format!("## {name}");
    let text = format!("{heading}\n\n{}\n", text.trim());
    let is_ours = |piece: &String| piece.lines().next() == Some(&heading);
    match pieces.iter().position(is_ours) {
        Some(at) => {
            let gap = if at + 1 < pieces.len() { "\n" } else { "" };
            pieces[at] = text + gap;
        }
        None => {
            if let Some(last) = pieces.last_mut() {
                while !last.ends_with("\n\n") {
                    last.push('\n');
                }
            }
            pieces.push(text);
        }
    }
    pieces.concat()
}

/// The page cut before each `## ` that is not within a block of code.
fn sections(page: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let mut in_code = false;
    for line in page.split_inclusive('\n') {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        if line.starts_with("## ") && !in_code && !piece.is_empty() {
            pieces.push(mem::take(&mut piece));
        }
        piece.push_str(line);
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// Rows of equal length, the first one the head, in aligned columns.
pub(crate) fn table<R: AsRef<[String]>>(page: &mut String, rows: &[R]) -> Result<()> {
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.as_ref().get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .as_ref()
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(page, "| {} |", cells.join(" | "))?;
        if number == 0 {
            let lines: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            writeln!(page, "|-{}-|", lines.join("-|-"))?;
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\nWords.\n\n## gateway\n\n### get200\n\n```\n## not a section\n```\n\n\
                        ## footprint\n\nSmall.\n\n## by hand\n\nKept,  as it  is";

    #[test]
    fn a_section_is_replaced_in_its_place_and_all_else_kept() {
        let page = with_section(PAGE, "footprint", "Smaller.\n");
        assert_eq!(page, PAGE.replace("Small.", "Smaller."));
        let page = with_section(PAGE, "by hand", "New.\n\n");
        assert_eq!(page, PAGE.replace("Kept,  as it  is", "New.\n"));
    }

    #[test]
    fn what_looks_like_a_section_within_code_belongs_to_the_code() {
        let page = with_section(PAGE, "gateway", "Fast.");
        let (head, rest) = (PAGE.find("### get200"), PAGE.find("## footprint"));
        let expected = [&PAGE[..head.unwrap()], "Fast.\n\n", &PAGE[rest.unwrap()..]].concat();
        assert_eq!(page, expected);
        assert!(with_section(PAGE, "not a section", "x").starts_with(PAGE));
    }

    #[test]
    fn a_missing_section_is_added_at_the_end_and_writing_twice_changes_nothing() {
        let page = with_section(HEAD, "gateway", "Fast.");
        assert_eq!(page, format!("{HEAD}\n## gateway\n\nFast.\n"));
        let page = with_section(&page, "footprint", "Small.");
        assert_eq!(
            page,
            format!("{HEAD}\n## gateway\n\nFast.\n\n## footprint\n\nSmall.\n")
        );
        assert_eq!(with_section(&page, "gateway", "Fast."), page);
        assert_eq!(with_section(&page, "footprint", "Small."), page);
    }

    #[test]
    fn a_new_page_gets_its_head_and_an_old_one_keeps_what_is_in_it() {
        let path = std::env::temp_dir().join(format!("atoll-bench-{}.md", std::process::id()));
        publish(&path, "gateway", "Fast.").unwrap();
        publish(&path, "footprint", "Small.").unwrap();
        publish(&path, "gateway", "Faster.").unwrap();
        let page = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(
            page,
            format!("{HEAD}\n## gateway\n\nFaster.\n\n## footprint\n\nSmall.\n")
        );
    }
}
