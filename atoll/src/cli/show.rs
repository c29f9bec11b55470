//! What a running Atoll answers, as tables for people or as JSON for programs.

use std::process::ExitCode;
use std::time::Duration;

use atoll_console::wire;

use super::remote::Remote;
use super::{Context, print};
use crate::paint::{Paint, Table, harmless};
use crate::up::listener_url;

fn remote(context: &Context) -> anyhow::Result<Remote> {
    Remote::find(&context.running_data_dir())
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<ExitCode> {
    print(serde_json::to_string_pretty(value)?)?;
    Ok(ExitCode::SUCCESS)
}

/// `atoll status`
pub(super) fn status(context: &Context) -> anyhow::Result<ExitCode> {
    let remote = remote(context)?;
    let status: wire::Status = remote.get("/api/v1/status")?;
    if context.json {
        return print_json(&status);
    }
    let services: wire::Services = remote.get("/api/v1/services")?;
    let paint = context.paint;
    let mut lines = vec![headline(paint, &status)];
    for (name, address) in &status.listeners {
        lines.push(format!("  {name:<8} {}", listener_url(name, address)));
    }
    lines.push(format!("  {:<8} {}", "file", status.file));
    lines.push(format!("  {:<8} {}", "store", store(paint, &status.store)));
    if let Some(last) = status.last_reload.filter(|last| !last.ok) {
        lines.push(paint.red("the file as it is now was refused; an earlier one is in force:"));
        lines.extend(last.detail.lines().map(|line| format!("  {line}")));
    }
    lines.push(String::new());
    lines.extend(instances(paint, &services.services));
    print(lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn headline(paint: Paint, status: &wire::Status) -> String {
    let state = match &status.reason {
        None => paint.green("ready"),
        Some(reason) => paint.state(reason),
    };
    format!(
        "{} {state}, up {}, pid {}, version {}, configuration {}",
        paint.bold(&status.name),
        age(status.uptime_ms),
        status.pid,
        status.version,
        status.generation
    )
}

fn store(paint: Paint, store: &wire::Store) -> String {
    let place = match &store.addresses[..] {
        [] => store.kind.clone(),
        addresses => format!("{} at {}", store.kind, addresses.join(", ")),
    };
    let Some(away) = store.away_ms else {
        return place;
    };
    let reason = store.reason.as_deref().unwrap_or_default();
    let away = format!("away for {}: {}", age(away), harmless(reason));
    format!("{place}; {}", paint.red(&away))
}

/// `atoll services [NAME]`
pub(super) fn services(context: &Context, name: Option<&str>) -> anyhow::Result<ExitCode> {
    let remote = remote(context)?;
    let services = match name {
        None => {
            let all: wire::Services = remote.get("/api/v1/services")?;
            if context.json {
                return print_json(&all);
            }
            all.services
        }
        Some(name) => {
            let path = format!("/api/v1/services/{}", encoded(name));
            let one: wire::Service = remote.get(&path)?;
            if context.json {
                return print_json(&one);
            }
            vec![one]
        }
    };
    print(instances(context.paint, &services).join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn instances(paint: Paint, services: &[wire::Service]) -> Vec<String> {
    let headings = [
        "SERVICE",
        "INSTANCE",
        "STATE",
        "ADDRESS",
        "PID",
        "UP",
        "RESTARTS",
        "IN FLIGHT",
        "NOTE",
    ];
    let mut table = Table::new(paint, &headings);
    for service in services {
        let mut name = service.name.clone();
        if !service.note.is_empty() || service.instances.is_empty() {
            let note = match &service.note[..] {
                "" => paint.dim("no instance"),
                note => paint.state(note),
            };
            let mut row = [const { String::new() }; 9];
            row[0] = std::mem::take(&mut name);
            row[2] = note;
            table.row(row);
        }
        for instance in &service.instances {
            let count = |number: u64| match number {
                0 => String::new(),
                number => number.to_string(),
            };
            let note = instance.note.lines().next().unwrap_or_default();
            let note = match &instance.health[..] {
                "passing" => String::new(),
                _ => paint.dim(harmless(note)),
            };
            table.row([
                std::mem::take(&mut name),
                instance.id.clone(),
                paint.state(&instance.health),
                instance.address.clone(),
                instance.pid.map(|pid| pid.to_string()).unwrap_or_default(),
                instance.uptime_ms.map(age).unwrap_or_default(),
                count(instance.restarts.unwrap_or_default()),
                count(instance.in_flight),
                note,
            ]);
        }
    }
    match table.is_empty() {
        true => vec![paint.dim("no services")],
        false => table.lines(),
    }
}

/// `atoll routes`
pub(super) fn routes(context: &Context) -> anyhow::Result<ExitCode> {
    let routes: wire::Routes = remote(context)?.get("/api/v1/routes")?;
    if context.json {
        return print_json(&routes);
    }
    let mut table = Table::new(context.paint, &["MATCHES", "HOSTS", "TO", "WHERE"]);
    for route in &routes.routes {
        let mut rest = [
            route.hostnames.join(", "),
            backends(route),
            route.origin.clone(),
        ];
        for matching in &route.matches {
            let [hosts, to, origin] = std::mem::take(&mut rest);
            table.row([matching.clone(), hosts, to, context.paint.dim(origin)]);
        }
    }
    match table.is_empty() {
        true => print("no routes")?,
        false => print(table.lines().join("\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn backends(route: &wire::Route) -> String {
    let one = route.backends.len() == 1;
    let shown = route.backends.iter().map(|backend| match one {
        true => backend.service.clone(),
        false => format!("{} ({})", backend.service, backend.weight),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// `atoll explain METHOD URL`
pub(super) fn explain(
    context: &Context,
    method: String,
    url: String,
    headers: Vec<(String, String)>,
) -> anyhow::Result<ExitCode> {
    let request = wire::ExplainRequest {
        method,
        url,
        headers,
    };
    let told: wire::Explanation = remote(context)?.post("/api/v1/explain", &request)?;
    if context.json {
        return print_json(&told);
    }
    let paint = context.paint;
    let mut lines = vec![match told.status {
        None => paint.bold(&told.verdict),
        Some(_) => paint.red(&told.verdict),
    }];
    if let Some(route) = &told.route {
        lines.push(format!(
            "\nroute {}  {}",
            route.name,
            paint.dim(&route.origin)
        ));
        if let Some(path) = &told.upstream_path {
            lines.push(format!("  the service is asked for {path}"));
        }
        lines.extend(route.policies.iter().map(|policy| format!("  {policy}")));
    }
    if !told.instances.is_empty() {
        lines.push("\ninstances".to_owned());
        let mut table = Table::new(paint, &["", "INSTANCE", "ADDRESS", "WHY"]);
        for candidate in &told.instances {
            let mark = match candidate.eligible {
                true => paint.green("eligible"),
                false => paint.red("not eligible"),
            };
            table.row([
                mark,
                candidate.id.clone(),
                candidate.address.clone(),
                harmless(&candidate.why),
            ]);
        }
        lines.extend(
            table
                .lines()
                .into_iter()
                .skip(1)
                .map(|line| format!("  {line}")),
        );
    }
    if !told.near.is_empty() {
        lines.push("\nclose".to_owned());
        for miss in &told.near {
            lines.push(format!("  {}  {}", miss.why, paint.dim(&miss.origin)));
        }
    }
    print(lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// `atoll logs SERVICE`
pub(super) fn logs(
    context: &Context,
    service: &str,
    replica: Option<&str>,
    tail: usize,
    follow: bool,
) -> anyhow::Result<ExitCode> {
    let mut path = format!(
        "/api/v1/logs/{}?tail={tail}&follow={follow}",
        encoded(service)
    );
    if let Some(replica) = replica {
        path.push_str(&format!("&replica={}", encoded(replica)));
    }
    let paint = context.paint;
    let mut widest = 0;
    remote(context)?.lines(&path, |json| {
        if context.json {
            print(json)?;
            return Ok(());
        }
        let line: wire::LogLine = serde_json::from_str(json)?;
        widest = widest.max(line.replica.len());
        let prefix = format!("{:<widest$} |", line.replica);
        let text = match &line.stream[..] {
            "atoll" => paint.dim(harmless(&line.text)),
            // A service's own colours are kept on a terminal; elsewhere it is plain text.
            _ if paint.on => line.text,
            _ => harmless(&line.text),
        };
        print(format!("{} {text}", paint.source(&prefix)))?;
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A name as one segment or value of a URL (RFC 3986 §2.3: what is unreserved stays).
fn encoded(name: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes()
        .map(|byte| match kept(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// `12s`, `3m 4s`, `2h 10m`, `5d 3h`.
fn age(ms: u64) -> String {
    let seconds = Duration::from_millis(ms).as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let shown = [0, 59_999, 184_000, 7_800_000, 442_800_000].map(age);
        assert_eq!(shown, ["0s", "59s", "3m 4s", "2h 10m", "5d 3h"]);
    }

    #[test]
    fn names_cannot_leave_their_segment() {
        assert_eq!(encoded("users-1.a"), "users-1.a");
        assert_eq!(encoded("../x?y&z"), "..%2Fx%3Fy%26z");
    }
}
