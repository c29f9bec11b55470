//! The findings as a section of Markdown.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Findings, Idle, Options, Reading, Start};
use crate::machine;
use crate::page::table;
use crate::statistics::Summary;

/// Promised of a start: the most milliseconds until ready, and megabytes when ready.
const START_MS: f64 = 100.0;
const START_MB: f64 = 30.0;

/// Promised of [`IDLE_CONNECTIONS`] idle connections: the most megabytes in all.
const IDLE_MB: f64 = 150.0;
const IDLE_CONNECTIONS: usize = 10_000;

/// The whole section.
pub(super) fn report(options: &Options, findings: &Findings) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "What Atoll takes before it does anything.\n\n\
         Written by `cargo xtask bench footprint --starts {} --connections {}`; do not edit.\n",
        options.starts, options.connections
    )?;
    for line in machine::describe() {
        writeln!(text, "- {line}")?;
    }
    writeln!(text, "- atoll: {}", findings.version)?;
    writeln!(
        text,
        "- load average when it began: {}; what others did then lengthens the times",
        findings.load_average
    )?;
    let open_files = findings.open_files.map(|limit| limit.to_string());
    writeln!(
        text,
        "- open files of a process: {}",
        open_files.as_deref().unwrap_or("without limit")
    )?;
    writeln!(
        text,
        "- binary: {:.1} MB ({} bytes)\n",
        megabytes(findings.binary_bytes),
        findings.binary_bytes
    )?;
    starts(&mut text, &findings.starts)?;
    idle(&mut text, options, &findings.idle)?;
    reading(&mut text)?;
    Ok(text)
}

fn starts(text: &mut String, starts: &[Start]) -> Result<()> {
    writeln!(
        text,
        "### Start\n\n\
         `atoll up` of a file that says nothing but to listen on free ports, {} times, each time \
         in a new folder.\n",
        starts.len()
    )?;
    type Figure = fn(&Start) -> f64;
    let figures: [(&str, Figure, Option<f64>); 6] = [
        (
            "until `/readyz` answers 200, ms",
            |start| start.to_ready.as_secs_f64() * 1e3,
            Some(START_MS),
        ),
        (
            "CPU time until then, ms",
            |start| start.cpu.as_secs_f64() * 1e3,
            None,
        ),
        (
            "atoll VmRSS, MB",
            |start| megabytes(start.memory.atoll.rss),
            None,
        ),
        (
            "guardian VmRSS, MB",
            |start| megabytes(start.memory.guardian.rss),
            None,
        ),
        (
            "both VmRSS, MB",
            |start| megabytes(start.memory.rss()),
            Some(START_MB),
        ),
        ("both Pss, MB", |start| megabytes(start.memory.pss()), None),
    ];
    let mut rows = vec![["", "median", "worst", "promised", ""].map(str::to_owned)];
    for (name, figure, promised) in figures {
        let Some(summary) = Summary::of(starts.iter().map(figure)) else {
            continue;
        };
        rows.push([
            name.to_owned(),
            format!("{:.1}", summary.median),
            format!("{:.1}", summary.most),
            promised.map_or(String::new(), |limit| format!("< {limit:.0}")),
            promised.map_or(String::new(), |limit| verdict(&summary, limit).to_owned()),
        ]);
    }
    table(text, &rows)?;
    writeln!(text)?;
    Ok(())
}

fn verdict(summary: &Summary, limit: f64) -> &'static str {
    if summary.most < limit {
        "met"
    } else if summary.median < limit {
        "met by the median, not by the worst"
    } else {
        "MISSED"
    }
}

fn idle(text: &mut String, options: &Options, idle: &Idle) -> Result<()> {
    writeln!(
        text,
        "### Idle connections\n\n\
         {} connections to the gateway over loopback, opened one after the other (client \
         processes: {}), each kept after one GET through a route to an upstream (200, {} bytes).\n",
        idle.opened,
        idle.clients,
        crate::workload::Workload::Get200.answer_bytes()
    )?;
    if let Some(refused) = &idle.refused {
        writeln!(
            text,
            "Fewer than the {} asked for: this machine gave no more ({refused}).\n",
            options.connections
        )?;
    }
    let mut rows = vec![
        [
            "in MB",
            "atoll VmRSS",
            "guardian VmRSS",
            "both VmRSS",
            "both Pss",
        ]
        .map(str::to_owned),
    ];
    for (name, reading) in [
        ("before", &idle.before),
        ("while open", &idle.held),
        ("after they closed", &idle.closed),
    ] {
        rows.push(row(name, reading));
    }
    table(text, &rows)?;
    let growth = idle.held.rss().saturating_sub(idle.before.rss());
    let total_mb = megabytes(idle.held.rss());
    writeln!(
        text,
        "\nThey took {:.1} MB: {} bytes each. {}\n",
        megabytes(growth),
        growth / idle.opened.max(1) as u64,
        promise(idle.opened, total_mb)
    )?;
    Ok(())
}

fn row(name: &str, reading: &Reading) -> [String; 5] {
    let mb = |bytes| format!("{:.1}", megabytes(bytes));
    [
        name.to_owned(),
        mb(reading.atoll.rss),
        mb(reading.guardian.rss),
        mb(reading.rss()),
        mb(reading.pss()),
    ]
}

/// Whether that is kept, where it can be told.
fn promise(opened: usize, total_mb: f64) -> String {
    let said = if total_mb >= IDLE_MB {
        "MISSED"
    } else if opened >= IDLE_CONNECTIONS {
        "met"
    } else {
        return format!(
            "Promised are < {IDLE_MB:.0} MB in all with {IDLE_CONNECTIONS} connections: \
             not told by so few."
        );
    };
    format!("Promised are < {IDLE_MB:.0} MB in all with {IDLE_CONNECTIONS} connections: {said}.")
}

fn reading(text: &mut String) -> Result<()> {
    writeln!(
        text,
        "### How to read this\n\n\
         - The time begins before the process is made and ends when the answer is there, looked \
         for every millisecond; a small program that binds Atoll to this one's end runs first and \
         is within it. Where that is allowed Atoll runs at a raised priority.\n\
         - Memory is read when it has stopped changing. VmRSS counts a page for each process that \
         has it, Pss in proportion; MB are 10^6 bytes.\n\
         - What the kernel keeps for a connection is in neither."
    )?;
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_met_only_by_the_worst_start() {
        let verdict = |values: [f64; 3]| verdict(&Summary::of(values).unwrap(), 100.0);
        assert_eq!(verdict([40.0, 50.0, 99.9]), "met");
        assert_eq!(
            verdict([40.0, 50.0, 100.0]),
            "met by the median, not by the worst"
        );
        assert_eq!(verdict([40.0, 100.0, 200.0]), "MISSED");
    }

    #[test]
    fn fewer_connections_can_break_the_promise_but_not_meet_it() {
        assert!(promise(10_000, 149.9).ends_with(": met."));
        assert!(promise(10_000, 150.0).ends_with(": MISSED."));
        assert!(promise(9_999, 149.9).ends_with("not told by so few."));
        assert!(promise(9_999, 150.0).ends_with(": MISSED."));
    }
}
