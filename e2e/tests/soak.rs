//! The soak, in short: what `cargo xtask soak` does for half an hour, with the binary
//! that the other tests drive. It checks a model by itself (`bench/src/soak/model.rs`)
//! and fails when something does not hold; here it must also have had something to
//! check.

use std::process::{Command, Stdio};

use atoll_e2e::{binary, describe};

/// The figure in a row of its report.
fn figure(report: &str, name: &str) -> u64 {
    let row = report.lines().find(|line| line.contains(name));
    let row = row.unwrap_or_else(|| panic!("no `{name}` in {report}"));
    let figure = row.split('|').nth(2).unwrap_or_default().trim();
    figure
        .parse()
        .unwrap_or_else(|_| panic!("no figure: {row}"))
}

#[test]
fn under_churn_and_kills_nothing_acknowledged_is_lost_and_no_ghost_stays() {
    let mut soak = Command::new(binary("atoll-bench"));
    soak.args([
        "soak",
        "--seconds",
        "24",
        "--kill-every",
        "8",
        "--rate",
        "40",
    ]);
    soak.args(["--lease", "3", "--seed", "11", "--no-report", "--atoll"]);
    let output = soak.arg(binary("atoll")).stdin(Stdio::null()).output();
    let output = output.expect("start the soak");
    assert!(output.status.success(), "{}", describe(&output));
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("Everything held"), "{report}");
    assert!(figure(&report, "kills") >= 2, "{report}");
    for done in [
        "registrations acknowledged",
        "renewals acknowledged",
        "left",
        "vanished without a word",
        "registrations cut off in the middle",
        "events that the watcher was pushed",
        "times an instance had to be in a list",
        "times an instance must not be in a list",
    ] {
        assert!(figure(&report, done) > 0, "{done}: {report}");
    }
}
