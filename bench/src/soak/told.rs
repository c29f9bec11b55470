//! The findings as a section of Markdown.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Findings, Options};
use crate::machine;
use crate::page::table;
use crate::statistics::{Summary, quantile};

pub(super) fn report(options: &Options, findings: &Findings) -> Result<String> {
    let mut text = String::new();
    let tally = &findings.tally;
    writeln!(
        text,
        "Atoll under churn over Eureka, Consul and the admin API, with clients that disconnect in \
         the middle of things, killed (`kill -9`) and started anew.\n\n\
         Written by `cargo xtask soak --seconds {} --rate {} --kill-every {} --lease {} --seed {}`; \
         do not edit.\n",
        options.duration().as_secs(),
        options.rate,
        options.kill_every,
        options.lease,
        findings.seed
    )?;
    for line in machine::describe() {
        writeln!(text, "- {line}")?;
    }
    writeln!(text, "- atoll: {}", findings.version)?;
    writeln!(
        text,
        "- load average when it began: {}; it ran for {} s\n",
        findings.load_average,
        findings.took.as_secs()
    )?;
    let wrong = tally.wrong.len() as u64 + tally.wrong_untold;
    let verdict = if wrong == 0 {
        "Everything held"
    } else {
        "NOT EVERYTHING HELD"
    };
    writeln!(
        text,
        "{verdict}: {} lists were compared with what the clients know. Wrong: {wrong}.\n",
        tally.lists
    )?;
    for what in &tally.wrong {
        writeln!(text, "- {what}")?;
    }
    let figures = [
        ("registrations acknowledged", tally.registered),
        ("renewals acknowledged", tally.renewed),
        ("left", tally.left),
        ("vanished without a word", tally.vanished),
        ("requests without an answer", tally.unanswered),
        ("registrations cut off in the middle", tally.cut),
        ("other connections dropped", findings.nuisances),
        ("events that the watcher was pushed", findings.events),
        ("times it was told everything anew", findings.resyncs),
        ("instances at the same time, at most", tally.most as u64),
        ("times an instance had to be in a list", tally.had_to_be),
        ("times an instance must not be in a list", tally.must_not_be),
        ("stalls of the machine (a list took 4 s)", tally.stalls),
        ("kills", findings.returns.len() as u64),
    ];
    let mut rows = vec![["", "count"].map(str::to_owned)];
    rows.extend(figures.map(|(name, count)| [name.to_owned(), count.to_string()]));
    table(&mut text, &rows)?;
    let returns = findings.returns.iter().map(|took| took.as_secs_f64() * 1e3);
    if let Some(returns) = Summary::of(returns) {
        writeln!(
            text,
            "\nFrom a kill until it was ready again: {:.0} ms (median), {:.0} ms (worst).",
            returns.median, returns.most
        )?;
    }
    if !findings.registered_ms.is_empty() {
        writeln!(
            text,
            "A registration was durable and acknowledged after {:.1} ms (p50), {:.1} ms (p99).",
            quantile(&findings.registered_ms, 0.5),
            quantile(&findings.registered_ms, 0.99)
        )?;
    }
    memory(&mut text, findings)?;
    Ok(text)
}

fn memory(text: &mut String, findings: &Findings) -> Result<()> {
    writeln!(
        text,
        "\n### Memory\n\nJust before each kill, so of processes of the same age.\n"
    )?;
    let head = [
        "after, s",
        "VmRSS, MB",
        "Pss, MB",
        "on disk, MB",
        "instances known to clients",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(findings.samples.iter().map(|sample| {
        [
            sample.at.as_secs().to_string(),
            format!("{:.1}", sample.memory.rss as f64 / 1e6),
            format!("{:.1}", sample.memory.pss as f64 / 1e6),
            format!("{:.1}", sample.kept_bytes as f64 / 1e6),
            sample.instances.to_string(),
        ]
    }));
    table(text, &rows)
}
