//! The gateway's findings as a section of Markdown, which also reads well in a terminal.

use std::fmt::Write as _;

use anyhow::Result;

use crate::contender::Contender;
use crate::gateway::{Findings, Options, Run};
use crate::machine;
use crate::page::table;
use crate::statistics::Summary;
use crate::workload::Workload;

/// A proxy that was busy for less of its core than this waited for the client: its
/// requests per second say nothing about it.
const BUSY_MIN: f64 = 0.95;

/// Others on the machine who took more of the two cores than this are mentioned.
const FOREIGN_MAX: f64 = 0.05;

/// Atoll's CPU in relation to nginx's: what must be reached, and what is promised.
fn target(workload: Workload) -> Option<(f64, f64)> {
    match workload {
        Workload::Get200 => Some((0.95, 0.90)),
        Workload::H2c | Workload::Post64k => Some((0.65, 0.55)),
        Workload::Get16k | Workload::Post1k | Workload::Connect | Workload::R5000 => None,
    }
}

/// One line while the measurement runs.
pub(crate) fn progress(run: &Run) -> String {
    let outcome = &run.outcome;
    let seconds = outcome.elapsed_ns as f64 / 1e9;
    format!(
        "{:<8} round {:>2}  {:<10}  {:>7.2} us/request  {:>7.0} requests/s  busy {:>3.0} %  others {:>3.0} %",
        run.workload.name(),
        run.round + 1,
        run.contender.name(),
        run.cpu_us_per_request(),
        outcome.completed as f64 / seconds,
        busy(run) * 100.0,
        foreign(run) * 100.0,
    )
}

/// The whole section.
pub(crate) fn report(options: &Options, findings: &Findings) -> Result<String> {
    let mut page = String::new();
    head(&mut page, options, findings)?;
    for workload in &findings.workloads {
        workload_table(&mut page, findings, *workload)?;
    }
    routes(&mut page, findings)?;
    memory(&mut page, findings)?;
    reading(&mut page, findings)?;
    settings(&mut page, findings)?;
    Ok(page)
}

fn head(page: &mut String, options: &Options, findings: &Findings) -> Result<()> {
    writeln!(
        page,
        "Atoll beside nginx, HAProxy and Envoy.\n\n\
         Written by `cargo xtask bench gateway {}`; do not edit.\n",
        options.told().join(" ")
    )?;
    for line in machine::describe() {
        writeln!(page, "- {line}")?;
    }
    writeln!(
        page,
        "- {} rounds of {} s for each contender in each workload, interleaved, their order \
         changed from round to round; {} requests under way; the proxy on one core, client \
         and upstream on another",
        options.rounds, options.seconds, options.connections
    )?;
    for (contender, version) in &findings.versions {
        writeln!(page, "- {}: {version}", contender.name())?;
    }
    for note in &findings.notes {
        writeln!(page, "- {note}")?;
    }
    writeln!(page)?;
    Ok(())
}

fn workload_table(page: &mut String, findings: &Findings, workload: Workload) -> Result<()> {
    let Some(control) = ratio(findings, workload, Contender::NginxTwin, Contender::Nginx) else {
        return Ok(());
    };
    let noise = control.deviation();
    writeln!(page, "### {}\n", workload.name())?;
    let columns = [
        "contender",
        "CPU us/request (range)",
        "to nginx (range)",
        "reading",
        "requests/s",
        "p50 / p99 us",
        "busy",
    ];
    let mut rows = vec![columns.map(str::to_owned)];
    for contender in &findings.contenders {
        rows.extend(row(findings, workload, *contender, noise));
    }
    table(page, &rows)?;
    writeln!(
        page,
        "\nControl: the twin's ratio is {}; what differs from 1 by less than {:.1} % is noise.",
        ranged(&control, 3),
        noise * 100.0
    )?;
    for peer in [Contender::Haproxy, Contender::Envoy] {
        if let Some(ratio) = ratio(findings, workload, Contender::Atoll, peer) {
            let ranged = ranged(&ratio, 3);
            writeln!(page, "Atoll to {}: {ranged}.", peer.name())?;
        }
    }
    verdict(page, findings, workload)?;
    disturbance(page, findings, workload)
}

fn row(
    findings: &Findings,
    workload: Workload,
    contender: Contender,
    noise: f64,
) -> Option<[String; 7]> {
    let of =
        |figure: &dyn Fn(&Run) -> f64| Summary::of(runs(findings, workload, contender).map(figure));
    let cpu = of(&Run::cpu_us_per_request)?;
    let ratio = ratio(findings, workload, contender, Contender::Nginx)?;
    let rate = of(&|run| run.outcome.completed as f64 * 1e9 / run.outcome.elapsed_ns as f64)?;
    let busy = of(&busy)?;
    let client_bound = if busy.median < BUSY_MIN {
        " (client-bound)"
    } else {
        ""
    };
    Some([
        contender.name().to_owned(),
        ranged(&cpu, 2),
        ranged(&ratio, 3),
        reading_of(contender, &ratio, noise),
        format!("{:.0}{client_bound}", rate.median),
        format!(
            "{:.0} / {:.0}",
            of(&|run| run.outcome.p50_us.into())?.median,
            of(&|run| run.outcome.p99_us.into())?.median
        ),
        format!("{:.0} %", busy.median * 100.0),
    ])
}

/// What may be claimed.
fn reading_of(contender: Contender, ratio: &Summary, noise: f64) -> String {
    let difference = ratio.median - 1.0;
    match contender {
        Contender::Nginx => "the measure".to_owned(),
        Contender::NginxTwin => "the control".to_owned(),
        Contender::Haproxy | Contender::Envoy | Contender::Atoll => {
            if difference.abs() <= noise {
                "within noise".to_owned()
            } else {
                let word = if difference < 0.0 { "less" } else { "more" };
                format!("{:.0} % {word}", difference.abs() * 100.0)
            }
        }
    }
}

fn verdict(page: &mut String, findings: &Findings, workload: Workload) -> Result<()> {
    let Some((required, promised)) = target(workload) else {
        return Ok(());
    };
    let Some(ratio) = ratio(findings, workload, Contender::Atoll, Contender::Nginx) else {
        return Ok(());
    };
    let said = |limit: f64| {
        if ratio.median <= limit {
            "met"
        } else {
            "MISSED"
        }
    };
    writeln!(
        page,
        "Atoll to nginx {:.3}: required <= {required:.2} {}, promised <= {promised:.2} {}.",
        ratio.median,
        said(required),
        said(promised)
    )?;
    Ok(())
}

/// Whether others worked on the same cores meanwhile.
fn disturbance(page: &mut String, findings: &Findings, workload: Workload) -> Result<()> {
    let all = findings.runs.iter().filter(|run| run.workload == workload);
    if let Some(foreign) = Summary::of(all.map(foreign))
        && foreign.most > FOREIGN_MAX
    {
        writeln!(
            page,
            "Others used {:.0} % of the two cores meanwhile (median; at most {:.0} %).",
            foreign.median * 100.0,
            foreign.most * 100.0
        )?;
    }
    writeln!(page)?;
    Ok(())
}

fn routes(page: &mut String, findings: &Findings) -> Result<()> {
    let median = |workload, contender| {
        Summary::of(runs(findings, workload, contender).map(Run::cpu_us_per_request))
    };
    let mut rows = vec![["contender", "5,000 routes to one"].map(str::to_owned)];
    for contender in &findings.contenders {
        let (one, many) = (Workload::Get200, Workload::R5000);
        if let (Some(one), Some(many)) = (median(one, *contender), median(many, *contender)) {
            let ratio = format!("{:.3}", many.median / one.median);
            rows.push([contender.name().to_owned(), ratio]);
        }
    }
    if rows.len() > 1 {
        writeln!(page, "### What 5,000 routes cost\n")?;
        writeln!(
            page,
            "CPU per request, median of r5000 to median of get200; not measured side by side, \
             and the path is 11 bytes longer.\n"
        )?;
        table(page, &rows)?;
        writeln!(page)?;
    }
    Ok(())
}

fn memory(page: &mut String, findings: &Findings) -> Result<()> {
    let mut counts: Vec<usize> = findings.resident_bytes.keys().map(|key| key.1).collect();
    counts.sort_unstable();
    counts.dedup();
    if counts.is_empty() {
        return Ok(());
    }
    writeln!(page, "### Memory\n")?;
    writeln!(
        page,
        "Resident (Pss) with that many connections at work on get200, in MiB.\n"
    )?;
    let mut rows = Vec::new();
    let mut columns = vec!["contender".to_owned()];
    columns.extend(counts.iter().map(|count| format!("at {count}")));
    rows.push(columns);
    for contender in &findings.contenders {
        let mut row = vec![contender.name().to_owned()];
        row.extend(counts.iter().map(|count| {
            let bytes = findings.resident_bytes.get(&(*contender, *count));
            bytes.map_or("-".to_owned(), |bytes| {
                format!("{:.1}", *bytes as f64 / f64::from(1 << 20))
            })
        }));
        rows.push(row);
    }
    table(page, &rows)?;
    writeln!(page)?;
    Ok(())
}

fn reading(page: &mut String, findings: &Findings) -> Result<()> {
    writeln!(
        page,
        "### How to read this\n\n\
         - The figure is the time on a core of all threads of all processes of the proxy \
         (`schedstat`), divided by the requests answered in the same span. What the kernel does \
         on behalf of the proxy is within it, and on loopback that is also part of the receiving \
         side's work: on a real network the share of the proxy's own code is larger.\n\
         - A ratio is taken within a round, between neighbours in time, and the median of the \
         ratios is told; it need not equal the ratio of the medians.\n\
         - The twin is a second nginx with the same settings. The noise is the end that is \
         further from 1 of the interval that holds the twin's true median with 90 % confidence \
         (sign test; with fewer than 5 rounds the whole range). A difference below it is not \
         claimed.\n\
         - Every answer was compared with the one expected, byte for byte; one wrong, short or \
         missing answer would have ended the run without a report.\n\
         - Requests per second are those of one core; where they are marked client-bound the \
         proxy waited for the client, handles smaller batches for it, and its CPU per request is \
         an upper bound.\n\
         - Latency is that of a saturated proxy with a closed loop: good for comparing, not for \
         quoting.\n\
         - With h2c, {} requests are under way on each connection.",
        crate::load::h2::STREAMS
    )?;
    if findings.workloads.contains(&Workload::R5000) {
        writeln!(
            page,
            "- For 5,000 routes HAProxy got a map and Envoy a matcher tree, by prefix; written \
             as a list, their cost grows with the routes."
        )?;
    }
    writeln!(page)?;
    Ok(())
}

fn settings(page: &mut String, findings: &Findings) -> Result<()> {
    writeln!(page, "### Settings\n")?;
    for (contender, settings) in &findings.settings {
        if *contender == Contender::NginxTwin {
            continue;
        }
        // Where the run's files were is of no interest, and nobody else's business.
        let folder = std::env::current_exe()?;
        let folder = folder.ancestors().nth(2).unwrap_or(&folder);
        let settings = settings.replace(&folder.display().to_string(), "target");
        writeln!(
            page,
            "<details><summary>{}</summary>\n\n```\n{}\n```\n</details>\n",
            contender.name(),
            settings.trim_end()
        )?;
    }
    Ok(())
}

fn runs(
    findings: &Findings,
    workload: Workload,
    contender: Contender,
) -> impl Iterator<Item = &Run> {
    let of = move |run: &&Run| run.workload == workload && run.contender == contender;
    findings.runs.iter().filter(of)
}

/// CPU per request of one to that of another, taken in each round.
fn ratio(
    findings: &Findings,
    workload: Workload,
    one: Contender,
    other: Contender,
) -> Option<Summary> {
    Summary::of(runs(findings, workload, one).filter_map(|run| {
        let mut others = runs(findings, workload, other);
        let other = others.find(|other| other.round == run.round)?;
        Some(run.cpu_us_per_request() / other.cpu_us_per_request())
    }))
}

/// The share of its core that the proxy used, of what others left to it.
fn busy(run: &Run) -> f64 {
    let outcome = &run.outcome;
    let left_ns = outcome
        .elapsed_ns
        .saturating_sub(outcome.foreign_proxy_core_ns);
    // Both are exact only to a few ticks.
    (outcome.proxy_cpu_ns as f64 / left_ns.max(1) as f64).min(1.0)
}

/// The share of both cores that others used.
fn foreign(run: &Run) -> f64 {
    let outcome = &run.outcome;
    let foreign_ns = outcome.foreign_proxy_core_ns + outcome.foreign_client_core_ns;
    foreign_ns as f64 / outcome.elapsed_ns as f64 / 2.0
}

fn ranged(summary: &Summary, digits: usize) -> String {
    format!(
        "{:.digits$} ({:.digits$} to {:.digits$})",
        summary.median, summary.least, summary.most
    )
}
