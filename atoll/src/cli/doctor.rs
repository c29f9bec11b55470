//! `atoll doctor`: what would keep a fleet from running here, found before it does.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use atoll_fleet::workload::{CommandLine, Workload};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::remote::Remote;
use super::{Context, print};
use crate::config::{self, Loaded};
use crate::paint::Table;
use crate::up;

/// Open files below which a busy gateway runs out: two for each of 1,000 requests at
/// once, and the rest.
const OPEN_FILES_MIN: u64 = 4_096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    /// Works, but look at it.
    Odd,
    Bad,
}

struct Finding {
    mark: Mark,
    what: String,
    detail: String,
}

/// Looks at everything and fails if anything is bad.
pub(super) fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let mut findings = vec![open_files()];
    match context.file(None) {
        Err(error) => findings.push(finding(Mark::Bad, "atoll.yaml", format!("{error:#}"))),
        Ok(file) => look_at(context, &file, &mut findings),
    }
    let good = findings.iter().all(|found| found.mark != Mark::Bad);
    if context.json {
        let all: Vec<Value> = findings.iter().map(Finding::to_json).collect();
        let text = json!({ "ok": good, "findings": all });
        print(serde_json::to_string_pretty(&text)?)?;
    } else {
        let mut table = Table::new(context.paint, &["", "WHAT", "FOUND"]);
        for found in &findings {
            let mark = match found.mark {
                Mark::Good => context.paint.green("ok"),
                Mark::Odd => context.paint.state("look"),
                Mark::Bad => context.paint.red("bad"),
            };
            let mut lines = found.detail.lines();
            let first = lines.next().unwrap_or_default().to_owned();
            table.row([mark, found.what.clone(), first]);
            for line in lines {
                table.row([String::new(), String::new(), line.to_owned()]);
            }
        }
        print(table.lines()[1..].join("\n"))?;
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Finding {
    fn to_json(&self) -> Value {
        let mark = match self.mark {
            Mark::Good => "ok",
            Mark::Odd => "look",
            Mark::Bad => "bad",
        };
        json!({ "mark": mark, "what": self.what, "detail": self.detail })
    }
}

fn finding(mark: Mark, what: impl Into<String>, detail: impl Into<String>) -> Finding {
    Finding {
        mark,
        what: what.into(),
        detail: detail.into(),
    }
}

fn look_at(context: &Context, file: &Path, findings: &mut Vec<Finding>) {
    let name = file.file_name().unwrap_or(file.as_os_str());
    let name = name.display().to_string();
    let loaded = match config::load(file, &context.environment) {
        Ok(loaded) => loaded,
        Err(wrong) => return findings.push(finding(Mark::Bad, name, wrong.render(false))),
    };
    findings.push(finding(Mark::Good, name, loaded.summary()));
    for warning in &loaded.warnings {
        findings.push(finding(Mark::Odd, "warning", warning.render(false)));
    }
    let data_dir = up::data_dir(file, context.data_dir.as_deref());
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    let runs = Remote::find(&data_dir)
        .and_then(|remote| remote.get::<atoll_console::wire::Status>("/api/v1/status"));
    match runs {
        Ok(status) => findings.push(running(&status)),
        Err(_) => listeners(&loaded, findings),
    }
    findings.push(data_folder(&data_dir));
    for workload in &loaded.workloads {
        findings.extend(program(workload, &context.environment));
    }
}

fn running(status: &atoll_console::wire::Status) -> Finding {
    let listeners: Vec<_> = status
        .listeners
        .iter()
        .map(|(name, address)| format!("{name} {address}"))
        .collect();
    let listeners = listeners.join(", ");
    match &status.last_reload {
        Some(last) if !last.ok => finding(
            Mark::Bad,
            "running",
            format!(
                "pid {}, {listeners}; the file as it is now was refused:\n{}",
                status.pid, last.detail
            ),
        ),
        _ => finding(
            Mark::Good,
            "running",
            format!("pid {}, {listeners}", status.pid),
        ),
    }
}

fn listeners(loaded: &Loaded, findings: &mut Vec<Finding>) {
    for (name, address) in loaded.listen.by_key() {
        findings.push(match address {
            None => finding(Mark::Good, name, "switched off"),
            // Taken for a moment, and free again when it is dropped.
            Some(address) => match free(name, address) {
                Ok(()) if address.port() == 0 => {
                    finding(Mark::Good, name, format!("{address}, any free port"))
                }
                Ok(()) => finding(Mark::Good, name, format!("{address} is free")),
                Err(error) => finding(Mark::Bad, name, error.for_key(name).to_string()),
            },
        });
    }
}

fn free(name: &str, address: SocketAddr) -> Result<(), atoll_net::ListenError> {
    match name {
        "dns" => atoll_net::bind_both(address).map(drop),
        _ => atoll_net::bind(address).map(drop),
    }
}

fn open_files() -> Finding {
    let most = getrlimit(Resource::Nofile).maximum;
    let shown = most.map_or("no limit".to_owned(), |most| format!("up to {most}"));
    match most {
        Some(most) if most < OPEN_FILES_MIN => finding(
            Mark::Odd,
            "open files",
            format!(
                "{shown}: two are needed for each request in flight; raise it with `ulimit -Hn`"
            ),
        ),
        _ => finding(Mark::Good, "open files", shown),
    }
}

/// Whether state can be kept, and by whom else it may be read.
fn data_folder(path: &Path) -> Finding {
    use std::os::unix::fs::MetadataExt;

    let shown = path.display();
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    let Some(existing) = existing else {
        return finding(Mark::Bad, "data folder", format!("{shown} cannot be made"));
    };
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK);
    if let Err(error) = writable {
        let detail = format!("{} cannot be written to: {error}", existing.display());
        return finding(Mark::Bad, "data folder", detail);
    }
    match path.metadata() {
        Ok(data) if data.mode() & 0o077 != 0 => finding(
            Mark::Odd,
            "data folder",
            format!("{shown} can be read by others; mend it with `chmod 700 {shown}`"),
        ),
        Ok(_) => finding(Mark::Good, "data folder", format!("{shown}")),
        Err(_) => finding(Mark::Good, "data folder", format!("{shown} will be made")),
    }
}

/// What is odd about a workload's program: nothing, for one that its build makes.
fn program(
    workload: &Workload,
    environment: &std::collections::BTreeMap<String, String>,
) -> Option<Finding> {
    let CommandLine::Exec(words) = &workload.command else {
        return None; // a shell's business
    };
    if workload.build.is_some() {
        return None;
    }
    let program = words.first()?;
    let found = match program.contains('/') {
        true => workload.working_dir.join(program).exists(),
        false => {
            let path = workload
                .environment
                .get("PATH")
                .or_else(|| environment.get("PATH"))?;
            std::env::split_paths(path).any(|folder| folder.join(program).exists())
        }
    };
    (!found).then(|| {
        finding(
            Mark::Bad,
            format!("service {}", workload.service),
            format!("`{program}` is not found; install it, or name it by its path"),
        )
    })
}
