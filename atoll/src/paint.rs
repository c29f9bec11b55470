//! Colours and aligned columns for people.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

/// Colours, if they are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    /// Whether they are.
    pub on: bool,
}

const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();
const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

/// Colours that tell the sources of log lines apart.
const SOURCES: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightRed,
];

impl Paint {
    fn with(self, style: Style, text: impl Display) -> String {
        if self.on {
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    }

    /// A heading.
    pub fn bold(self, text: impl Display) -> String {
        self.with(BOLD, text)
    }

    /// Of less weight.
    pub fn dim(self, text: impl Display) -> String {
        self.with(DIM, text)
    }

    /// A failure.
    pub fn red(self, text: impl Display) -> String {
        self.with(RED, text)
    }

    /// A success.
    pub fn green(self, text: impl Display) -> String {
        self.with(GREEN, text)
    }

    /// A state, by what it means.
    pub fn state(self, word: &str) -> String {
        let style = match word {
            "passing" | "built" => GREEN,
            "critical" | "crash-looping" | "build failed" => RED,
            "exited" | "stopped" => DIM,
            _ => YELLOW,
        };
        self.with(style, word)
    }

    /// The name of a source of log lines, in a colour of its own.
    pub fn source(self, name: &str) -> String {
        let sum = name.bytes().fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        self.with(SOURCES[sum % SOURCES.len()].on_default(), name)
    }
}

/// Columns of cells; a cell may have colours.
#[derive(Debug, Default)]
pub struct Table(Vec<Vec<String>>);

/// Between two columns.
const GAP: usize = 2;

impl Table {
    /// A table with headings.
    pub fn new(paint: Paint, headings: &[&str]) -> Self {
        Self(vec![headings.iter().map(|text| paint.dim(text)).collect()])
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    /// Whether it has no rows but its headings.
    pub fn is_empty(&self) -> bool {
        self.0.len() < 2
    }

    /// The lines; columns that are empty throughout are left out, and nothing
    /// stands behind the last cell.
    pub fn lines(&self) -> Vec<String> {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let widths = self.0.iter().skip(1).filter_map(|row| row.get(column));
                let widest = widths.map(|cell| width(cell)).max().unwrap_or_default();
                match widest {
                    0 => 0,
                    widest => widest.max(self.0[0].get(column).map_or(0, |cell| width(cell))),
                }
            })
            .collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            let mut owed = 0;
            for (cell, &column) in row.iter().zip(&widths) {
                if column == 0 {
                    continue;
                }
                if !cell.is_empty() {
                    line.extend(std::iter::repeat_n(' ', owed));
                    line.push_str(cell);
                    owed = 0;
                }
                owed += column - width(cell) + GAP;
            }
            line
        };
        self.0.iter().map(line).collect()
    }
}

/// Columns that a text takes on a terminal, colours not counted.
pub fn width(text: &str) -> usize {
    pieces(text)
        .map(|(piece, escape)| if escape { 0 } else { piece.width() })
        .sum()
}

/// The text cut to `columns`, with an ellipsis where it was cut.
pub fn clip(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut left = columns.saturating_sub(1);
    let mut cut = false;
    for (piece, escape) in pieces(text) {
        if escape {
            out.push_str(piece);
            continue;
        }
        for character in piece.chars() {
            let wide = unicode_width::UnicodeWidthChar::width(character).unwrap_or_default();
            cut |= wide > left;
            if cut {
                break;
            }
            left -= wide;
            out.push(character);
        }
    }
    out.push('…');
    out
}

/// What of a text moves no cursor and clears no screen, since a service wrote it.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\t' => ' ',
            character if character.is_control() => '\u{fffd}',
            character => character,
        })
        .collect()
}

/// Runs of plain text and escape sequences (`ESC [ ... m`), in order.
fn pieces(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (end, escape) = match rest.find('\u{1b}') {
            Some(0) => (rest.find('m').map_or(rest.len(), |at| at + 1), true),
            Some(at) => (at, false),
            None => (rest.len(), false),
        };
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some((piece, escape))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { on: false };
    const COLOURED: Paint = Paint { on: true };

    #[test]
    fn columns_line_up_whatever_their_colours() {
        for paint in [PLAIN, COLOURED] {
            let mut table = Table::new(paint, &["SERVICE", "STATE", "NOTE"]);
            table.row(["users".into(), paint.state("passing"), String::new()]);
            table.row(["größe".into(), paint.state("critical"), "x".into()]);
            let lines = table.lines();
            assert_eq!(width(&lines[1]), "users    passing".len());
            assert_eq!(width(&lines[2]), "grose    critical  x".len());
        }
    }

    #[test]
    fn empty_columns_are_left_out() {
        let mut table = Table::new(PLAIN, &["A", "B", "C"]);
        table.row(["1".into(), String::new(), "3".into()]);
        assert_eq!(table.lines(), ["A  C", "1  3"]);
    }

    #[test]
    fn a_long_line_is_cut_and_its_colours_end() {
        assert_eq!(clip("abcdef", 6), "abcdef");
        assert_eq!(clip("abcdef", 4), "abc…");
        let cut = clip(&COLOURED.red("abcdef"), 4);
        assert_eq!(width(&cut), 4);
        assert!(cut.contains("\u{1b}[0m"), "{cut:?}");
    }

    #[test]
    fn what_a_service_wrote_moves_no_cursor() {
        assert_eq!(harmless("a\u{1b}[2Jb\tc\r"), "a\u{fffd}[2Jb c\u{fffd}");
    }
}
