//! What runs where, at one moment: taken from the running parts, compared with the
//! moment before, drawn for a terminal. Pure but for [`Picture::of`].

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use atoll_console::wire;
use atoll_fleet::{BuildState, FleetStatus, LogLine, LogStream, ReplicaStatus};

use super::live::Live;
use super::services;
use crate::paint::{Paint, Table, harmless};

/// Lines of output that are shown when something failed.
const LAST_LINES_MAX: usize = 10;

/// One line of a picture.
#[derive(Debug)]
pub(crate) struct Row(pub(crate) String);

/// What runs where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    /// `atoll shop`, and where it listens; empty before anything is known.
    title: String,
    listeners: BTreeMap<String, String>,
    services: Vec<wire::Service>,
    builds: BTreeMap<String, Build>,
    /// How each replica ended last.
    ends: BTreeMap<String, End>,
}

#[derive(Clone, Debug, PartialEq)]
enum Build {
    Queued,
    Running { for_: Duration, last_line: String },
    Done(Duration),
    Failed { message: String, lines: Vec<String> },
}

#[derive(Clone, Debug, PartialEq)]
struct End {
    at: SystemTime,
    how: String,
    success: bool,
    looping: bool,
    service: String,
    lines: Vec<String>,
}

impl Picture {
    pub(crate) fn of(live: &Live) -> Self {
        let fleet = live.fleet_status();
        let now = live.clock.wall();
        Self {
            title: live.loaded().name.clone(),
            listeners: live.listeners.clone(),
            services: services::all(live).services,
            builds: builds(&fleet, now),
            ends: ends(&fleet),
        }
    }

    /// Whether a build runs, whose clock goes on.
    pub(crate) fn is_building(&self) -> bool {
        let mut builds = self.builds.values();
        builds.any(|build| matches!(build, Build::Running { .. }))
    }

    /// What went wrong since `before`: worth a line even beside the picture.
    pub(crate) fn happened(&self, before: &Self, paint: Paint) -> Vec<String> {
        let mut lines = Vec::new();
        for (service, build) in &self.builds {
            if let Build::Failed {
                message,
                lines: last,
            } = build
                && before.builds.get(service) != Some(build)
            {
                lines.push(paint.red(format!("{service}: {message}")));
                lines.extend(last.iter().map(|line| quoted(paint, service, line)));
            }
        }
        for (replica, end) in &self.ends {
            let known = before.ends.get(replica);
            if end.success || known.is_some_and(|known| known.at == end.at) {
                continue;
            }
            // A crash loop is told once; from then on the picture shows it.
            if known.is_some_and(|known| known.looping) {
                continue;
            }
            let again = match end.looping {
                true => format!(
                    "; crash-looping, see: atoll logs {} --replica {replica}",
                    end.service
                ),
                false => String::new(),
            };
            lines.push(paint.red(format!("{replica}: {}{again}", end.how)));
            lines.extend(end.lines.iter().map(|line| quoted(paint, replica, line)));
        }
        lines
    }

    /// What changed since `before`, one plain line each; for pipes and files.
    pub(crate) fn changes(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if before.title.is_empty() && !self.title.is_empty() {
            let (first, others) = self.headlines(Paint { on: false });
            lines.push(format!("{first}  {others}").trim_end().to_owned());
        }
        for (service, build) in &self.builds {
            let known = before.builds.get(service);
            match (build, known) {
                (Build::Running { .. }, Some(Build::Running { .. })) => {}
                (Build::Running { .. }, _) => lines.push(format!("{service}: building")),
                (Build::Done(took), known) if known != Some(build) => {
                    lines.push(format!("{service}: built in {}", seconds(*took)));
                }
                _ => {}
            }
        }
        let states = |picture: &Self| -> BTreeMap<String, (String, String)> {
            let all = picture.services.iter().flat_map(|service| {
                let key = |i: &wire::Instance| match service.source == "fleet" {
                    true => i.id.clone(),
                    false => format!("{}/{}", service.name, i.id),
                };
                let instances = service.instances.iter();
                instances.map(move |i| (key(i), (i.health.clone(), i.address.clone())))
            });
            all.collect()
        };
        let (was, is) = (states(before), states(self));
        for (instance, state) in &is {
            if was.get(instance) != Some(state) {
                let (health, address) = state;
                let at = match address.is_empty() {
                    true => String::new(),
                    false => format!(" at {address}"),
                };
                lines.push(format!("{instance}: {health}{at}"));
            }
        }
        let gone = was.keys().filter(|instance| !is.contains_key(*instance));
        lines.extend(gone.map(|instance| format!("{instance}: gone")));
        lines
    }

    /// The whole picture.
    pub(crate) fn draw(&self, paint: Paint) -> Vec<Row> {
        if self.title.is_empty() {
            return Vec::new();
        }
        let headings = ["SERVICE", "INSTANCE", "STATE", "ADDRESS", "PID", "NOTE"];
        let mut table = Table::new(paint, &headings);
        for service in &self.services {
            let mut name = service.name.clone();
            if let Some((state, note)) = self.builds.get(&service.name).and_then(in_words) {
                let name = std::mem::take(&mut name);
                table.row([
                    name,
                    String::new(),
                    paint.state(state),
                    String::new(),
                    String::new(),
                    paint.dim(harmless(&note)),
                ]);
            }
            for instance in &service.instances {
                table.row([
                    std::mem::take(&mut name),
                    instance.id.clone(),
                    paint.state(&instance.health),
                    instance.address.clone(),
                    instance.pid.map(|pid| pid.to_string()).unwrap_or_default(),
                    paint.dim(harmless(&remark(instance))),
                ]);
            }
            if !name.is_empty() {
                let none = paint.dim("no instance");
                table.row([
                    name,
                    none,
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                ]);
            }
        }
        let (first, others) = self.headlines(paint);
        let mut lines = vec![String::new(), first];
        if !others.is_empty() {
            lines.push(paint.dim(others));
        }
        if table.is_empty() {
            lines
                .push(paint.dim(
                    "no services yet: add some to the file, it is read again when it changes",
                ));
        } else {
            lines.extend(table.lines());
        }
        lines.push(paint.dim("Ctrl-C drains and stops everything"));
        lines.into_iter().map(Row).collect()
    }

    /// The fleet with the listeners that a person begins with, and all others.
    fn headlines(&self, paint: Paint) -> (String, String) {
        let shown = |name: &str, address: &str| format!("{name} {}", listener_url(name, address));
        let (mut first, mut others) = (vec![], vec![]);
        for name in ["gateway", "console"] {
            let address = self.listeners.get(name);
            first.extend(address.map(|address| shown(name, address)));
        }
        for (name, address) in &self.listeners {
            if !matches!(&name[..], "gateway" | "console") {
                others.push(shown(name, address));
            }
        }
        first.insert(
            0,
            format!("{} {}", paint.bold("atoll"), paint.bold(&self.title)),
        );
        (first.join("  "), others.join("  "))
    }
}

/// What a person may copy to reach a listener, by its key in the file.
pub(crate) fn listener_url(name: &str, address: &str) -> String {
    let scheme = match name {
        // RFC 4501.
        "dns" => "dns",
        _ => "http",
    };
    format!("{scheme}://{address}")
}

fn remark(instance: &wire::Instance) -> String {
    let restarts = match instance.restarts {
        None | Some(0) => None,
        Some(1) => Some("1 restart".to_owned()),
        Some(count) => Some(format!("{count} restarts")),
    };
    let note = (instance.health != "passing" && !instance.note.is_empty())
        .then(|| instance.note.lines().next().unwrap_or_default().to_owned());
    let both: Vec<_> = restarts.into_iter().chain(note).collect();
    both.join(", ")
}

/// What a build is at, while there is something to say.
fn in_words(build: &Build) -> Option<(&'static str, String)> {
    match build {
        Build::Queued => Some(("waiting to be built", String::new())),
        Build::Running { for_, last_line } => {
            Some(("building", format!("{}  {last_line}", seconds(*for_))))
        }
        Build::Done(_) => None,
        Build::Failed { message, .. } => Some(("build failed", message.clone())),
    }
}

fn builds(fleet: &FleetStatus, now: SystemTime) -> BTreeMap<String, Build> {
    let shown = fleet.services.iter().filter_map(|(name, service)| {
        let build = match &service.build {
            BuildState::None => return None,
            BuildState::Queued => Build::Queued,
            BuildState::Running { since, last_line } => Build::Running {
                for_: now.duration_since(*since).unwrap_or_default(),
                last_line: last_line.clone(),
            },
            BuildState::Done { took } => Build::Done(*took),
            BuildState::Failed(failure) => Build::Failed {
                message: format!(
                    "`{}` in {} {}; all of its output: {}",
                    failure.command,
                    failure.working_dir.display(),
                    failure.exit,
                    failure.log.display()
                ),
                lines: texts(failure.last_lines.iter()),
            },
        };
        Some((name.to_string(), build))
    });
    shown.collect()
}

fn ends(fleet: &FleetStatus) -> BTreeMap<String, End> {
    let mut ends = BTreeMap::new();
    for (name, service) in &fleet.services {
        let ended = |replica: &ReplicaStatus| {
            let last = replica.last_exit.as_ref()?;
            // A replica that was told to end ends by our signal.
            let leaving = service.removed || fleet.stopping;
            Some(End {
                at: last.at,
                how: last.exit.to_string(),
                success: last.exit.is_success() || leaving,
                looping: replica.crash_looping,
                service: name.to_string(),
                lines: texts(printed(replica)),
            })
        };
        for replica in &service.replicas {
            if let Some(end) = ended(replica) {
                ends.insert(replica.id.to_string(), end);
            }
        }
    }
    ends
}

/// What the process that ended had to say, not those before it nor Atoll.
fn printed(replica: &ReplicaStatus) -> impl Iterator<Item = &LogLine> {
    let lines = replica.last_lines.iter();
    lines.filter(|line| {
        line.stream != LogStream::Atoll && replica.started_at.is_none_or(|start| line.at >= start)
    })
}

fn texts<'l>(lines: impl Iterator<Item = &'l LogLine>) -> Vec<String> {
    let all: Vec<_> = lines.map(|line| line.text.to_string()).collect();
    let from = all.len().saturating_sub(LAST_LINES_MAX);
    all[from..].to_vec()
}

fn quoted(paint: Paint, source: &str, line: &str) -> String {
    format!("  {} {}", paint.dim(format!("{source} |")), harmless(line))
}

fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} s", duration.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { on: false };

    fn picture(instances: &[(&str, &str, &str)]) -> Picture {
        let instance = |&(id, health, address): &(&str, &str, &str)| wire::Instance {
            id: id.to_owned(),
            health: health.to_owned(),
            address: address.to_owned(),
            ..wire::Instance::default()
        };
        Picture {
            title: "shop".to_owned(),
            listeners: [("gateway".to_owned(), "127.0.0.1:8080".to_owned())].into(),
            services: vec![wire::Service {
                name: "users".to_owned(),
                source: "fleet".to_owned(),
                note: String::new(),
                instances: instances.iter().map(instance).collect(),
            }],
            ..Picture::default()
        }
    }

    fn end(at_secs: u64, looping: bool) -> End {
        End {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(at_secs),
            how: "exited with status 3".to_owned(),
            success: false,
            looping,
            service: "users".to_owned(),
            lines: vec!["cannot open\u{1b}[2J the database".to_owned()],
        }
    }

    #[test]
    fn each_change_is_one_line_and_nothing_is_said_twice() {
        let first = picture(&[("users-1", "starting", "127.0.0.1:4000")]);
        let said = first.changes(&Picture::default());
        assert_eq!(
            said,
            [
                "atoll shop  gateway http://127.0.0.1:8080",
                "users-1: starting at 127.0.0.1:4000"
            ]
        );
        assert_eq!(first.changes(&first), Vec::<String>::new());
        let second = picture(&[("users-2", "passing", "127.0.0.1:4001")]);
        assert_eq!(
            second.changes(&first),
            ["users-2: passing at 127.0.0.1:4001", "users-1: gone"]
        );
    }

    #[test]
    fn a_failure_is_told_with_what_was_printed_last_and_a_loop_once() {
        let mut now = picture(&[]);
        now.ends.insert("users-1".to_owned(), end(1, false));
        let told = now.happened(&picture(&[]), PLAIN);
        assert_eq!(told[0], "users-1: exited with status 3");
        assert_eq!(told[1], "  users-1 | cannot open\u{fffd}[2J the database");
        assert!(now.happened(&now.clone(), PLAIN).is_empty());

        let mut looping = now.clone();
        looping.ends.insert("users-1".to_owned(), end(2, true));
        assert!(looping.happened(&now, PLAIN)[0].contains("crash-looping"));
        let mut again = now.clone();
        again.ends.insert("users-1".to_owned(), end(3, true));
        assert!(again.happened(&looping, PLAIN).is_empty());
    }

    #[test]
    fn a_failed_build_is_told_once_with_its_last_lines() {
        let failed = |message: &str| {
            let mut picture = picture(&[]);
            let build = Build::Failed {
                message: message.to_owned(),
                lines: vec!["error[E0425]".to_owned()],
            };
            picture.builds.insert("users".to_owned(), build);
            picture
        };
        let (one, other) = (failed("no such file"), failed("another"));
        assert_eq!(
            one.happened(&picture(&[]), PLAIN),
            ["users: no such file", "  users | error[E0425]"]
        );
        assert!(one.happened(&one, PLAIN).is_empty());
        assert_eq!(other.happened(&one, PLAIN).len(), 2);
    }

    #[test]
    fn the_picture_names_each_service_once() {
        let rows = picture(&[
            ("users-1", "passing", "127.0.0.1:4000"),
            ("users-2", "starting", ""),
        ]);
        let rows = rows.draw(PLAIN);
        let text: Vec<&str> = rows.iter().map(|row| &row.0[..]).collect();
        assert_eq!(
            &text[2..5],
            [
                "SERVICE  INSTANCE  STATE     ADDRESS",
                "users    users-1   passing   127.0.0.1:4000",
                "         users-2   starting",
            ]
        );
    }
}
