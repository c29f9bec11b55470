//! The findings as a section of Markdown.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Findings, Options, Rate};
use crate::machine;
use crate::page::table;
use crate::statistics::{Summary, quantile};

/// Promised: megabytes with [`MANY`] instances.
const MANY_MB: f64 = 300.0;
const MANY: usize = 100_000;
/// Promised: renewals a second on one core.
const RENEWALS_PER_CORE: f64 = 20_000.0;
/// Promised: milliseconds from a registration to the first routed request, p99.
const ROUTED_MS: f64 = 10.0;

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// The whole section.
pub(super) fn report(options: &Options, findings: &Findings) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "What the registry can do, over sockets.\n\n\
         Written by `cargo xtask bench registry --instances {} --waiting {}`; do not edit.\n",
        options.instances, options.waiting
    )?;
    for line in machine::describe() {
        writeln!(text, "- {line}")?;
    }
    writeln!(text, "- atoll: {}", findings.version)?;
    writeln!(
        text,
        "- load average when it began: {}; what others did then lengthens the times\n",
        findings.load_average
    )?;
    promises(&mut text, options, findings)?;
    rates(&mut text, &findings.rates)?;
    reach(&mut text, options, findings)?;
    weight(&mut text, options, findings)?;
    reading(&mut text)?;
    Ok(text)
}

fn promises(text: &mut String, options: &Options, findings: &Findings) -> Result<()> {
    let rate = |what: &str| {
        let mut rates = findings.rates.iter();
        rates.find(|rate| rate.what.contains(what))
    };
    let mut rows = vec![["", "measured", "promised", ""].map(str::to_owned)];
    let rss = findings.full.rss as f64 / 1e6;
    rows.push([
        format!("resident with {} instances, MB", options.instances),
        format!("{rss:.0}"),
        format!("< {MANY_MB:.0} with {MANY}"),
        verdict(rss < MANY_MB && options.instances >= MANY).to_owned(),
    ]);
    for what in ["renewals by Eureka", "renewals by Consul"] {
        if let Some(rate) = rate(what) {
            let per_core = 1e6 / rate.cpu_us;
            rows.push([
                format!("{what}, a second on one core"),
                format!("{per_core:.0}"),
                format!("{RENEWALS_PER_CORE:.0}"),
                verdict(per_core >= RENEWALS_PER_CORE).to_owned(),
            ]);
        }
    }
    let p99 = quantile(&findings.routed_ms, 0.99);
    rows.push([
        "from a registration to the first routed request, p99, ms".to_owned(),
        format!("{p99:.1}"),
        format!("< {ROUTED_MS:.0}"),
        verdict(p99 < ROUTED_MS).to_owned(),
    ]);
    table(text, &rows)?;
    Ok(())
}

fn rates(text: &mut String, rates: &[Rate]) -> Result<()> {
    writeln!(text, "\n### Rates\n")?;
    let head = [
        "",
        "among",
        "CPU each, us",
        "a second on a core",
        "a second here",
        "p50 / p99, ms",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(rates.iter().map(|rate| {
        [
            rate.what.to_owned(),
            rate.among.to_string(),
            format!("{:.1}", rate.cpu_us),
            format!("{:.0}", 1e6 / rate.cpu_us),
            format!("{:.0}", rate.driven.per_second()),
            format!("{:.2} / {:.2}", rate.driven.p50_ms, rate.driven.p99_ms),
        ]
    }));
    table(text, &rows)
}

fn reach(text: &mut String, options: &Options, findings: &Findings) -> Result<()> {
    writeln!(
        text,
        "\n### How far a change goes\n\n\
         By Eureka, one after the other, {} times, among {} instances.\n",
        options.reaches, options.instances
    )?;
    let mut rows = vec![["from a registration, in ms", "p50", "p99", "worst"].map(str::to_owned)];
    for (what, sorted) in [
        ("to the first routed request", &findings.routed_ms),
        ("to a watcher of `/api/v1/watch`", &findings.watched_ms),
    ] {
        rows.push([
            what.to_owned(),
            format!("{:.2}", quantile(sorted, 0.5)),
            format!("{:.2}", quantile(sorted, 0.99)),
            format!("{:.2}", quantile(sorted, 1.0)),
        ]);
    }
    table(text, &rows)?;
    let fanout = &findings.fanout;
    let (Some(last), Some(cpu)) = (
        Summary::of(fanout.last_ms.iter().copied()),
        Summary::of(fanout.cpu_ms.iter().copied()),
    ) else {
        return Ok(());
    };
    writeln!(
        text,
        "\n{} clients wait for one service by Consul's blocking queries (each takes {} bytes). \
         From its change until the last of them had the answer: {:.0} ms (median), {:.0} ms \
         (worst). The server used {:.0} ms of CPU for it (median): {:.1} us for each client, \
         where an answer that is made for one alone takes {:.1} us.\n\n\
         A change of another service takes {:.0} us of CPU while they wait and {:.0} us without \
         them; none of them was woken by it.",
        fanout.clients,
        fanout.bytes_per_client,
        last.median,
        last.most,
        cpu.median,
        cpu.median * 1e3 / fanout.clients.max(1) as f64,
        fanout.alone_us,
        fanout.other_waiting_us,
        fanout.other_alone_us,
    )?;
    Ok(())
}

fn weight(text: &mut String, options: &Options, findings: &Findings) -> Result<()> {
    writeln!(text, "\n### {} instances\n", options.instances)?;
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    let mut rows = vec![["", ""].map(str::to_owned)];
    for (what, value) in [
        ("resident before the first, MB", mb(findings.empty.rss)),
        ("resident with all, MB", mb(findings.full.rss)),
        (
            "resident after all that was measured, MB",
            mb(findings.after_all.rss),
        ),
        (
            "resident after a restart and a list of all, MB",
            mb(findings.after_restart.rss),
        ),
        ("on disk, MB", mb(findings.kept_bytes)),
        (
            "from a start until ready, ms",
            format!("{:.0}", findings.restart.as_secs_f64() * 1e3),
        ),
    ] {
        rows.push([what.to_owned(), value]);
    }
    table(text, &rows)?;
    writeln!(text)?;
    let head = ["", "ms", "MB sent", "most resident above before, MB"];
    let mut rows = vec![head.map(str::to_owned)];
    for fetch in &findings.fetches {
        rows.push([
            fetch.what.to_owned(),
            format!("{:.0}", fetch.took.as_secs_f64() * 1e3),
            mb(fetch.bytes as u64),
            mb(fetch.peak_bytes),
        ]);
    }
    table(text, &rows)
}

fn reading(text: &mut String) -> Result<()> {
    writeln!(
        text,
        "\n### How to read this\n\n\
         - Half of the instances come by Eureka, as Spring's client registers, half by Consul \
         with a TTL check; a hundred to a service, but ten to the one that is asked for.\n\
         - CPU is the time on a core of all the server's threads (`schedstat`), divided by what \
         was answered; 32 connections ask, each when it has its answer, on the same machine as \
         the server. A registration is answered when it is on disk.\n\
         - MB are 10^6 bytes; resident is VmRSS."
    )?;
    Ok(())
}
