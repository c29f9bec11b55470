//! What runs, in a form that survives us: the lines that both the guardian and the
//! state file are fed, and the ending of what such a record names.
//!
//! A process is known by its id *and* its start time, so that a stranger who was given
//! the same id later is never signalled. Since a process exists a moment before its
//! line is written, each run also has a mark, given to its processes as
//! `ATOLL_RUN`, by which such a process is found (Linux only).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_runtime::Clock;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::procfs::{self, Entry};

/// The variable that carries the mark of a run.
pub(crate) const RUN_VARIABLE: &str = "ATOLL_RUN";

/// Pause between two looks at who is left.
const POLL: Duration = Duration::from_millis(25);
/// Rounds of SIGKILL; only who cannot be killed, or forks without end, is left then.
const KILLS_MAX: usize = 8;

/// Groups by leader and its start time, and the mark of their run.
///
/// ```text
/// run 9f86d081884c7d65
/// +4711 208400
/// -4711
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) run: Option<String>,
    pub(crate) groups: BTreeMap<i32, u64>,
}

impl Record {
    /// The record after all lines of `text`.
    pub(crate) fn of(text: &str) -> Self {
        let mut record = Self::default();
        for line in text.lines() {
            record.read_line(line);
        }
        record
    }

    /// Takes notice of one line; a line cut short by a crash is passed over.
    pub(crate) fn read_line(&mut self, line: &str) {
        if let Some(run) = line.strip_prefix("run ") {
            self.run = Some(run.trim().to_owned()).filter(|run| run.len() == 16);
        } else if let Some(rest) = line.strip_prefix('+') {
            let mut words = rest.split_ascii_whitespace().map(str::parse::<u64>);
            if let (Some(Ok(pid)), Some(Ok(started))) = (words.next(), words.next())
                && let Ok(pid) = i32::try_from(pid)
            {
                self.groups.insert(pid, started);
            }
        } else if let Some(rest) = line.strip_prefix('-')
            && let Ok(pid) = rest.trim().parse::<i32>()
        {
            self.groups.remove(&pid);
        }
    }

    /// The lines that give this record.
    pub(crate) fn to_text(&self) -> String {
        let run = self.run.iter().map(|run| format!("run {run}\n"));
        let groups = self
            .groups
            .iter()
            .map(|(pid, started)| format!("+{pid} {started}\n"));
        run.chain(groups).collect()
    }

    /// Ends what is left: SIGTERM, at most `grace`, SIGKILL. Blocks for that long.
    /// Returns how many processes it found.
    pub(crate) fn end(&self, grace: Duration) -> usize {
        let clock = Clock::system();
        let deadline = clock.now() + grace;
        let mut left = self.survivors();
        let found = left.processes.len();
        left.signal(Signal::TERM);
        while !left.is_empty() && clock.now() < deadline {
            std::thread::sleep(POLL);
            // To look at all processes is dear; do so only when these are gone.
            if !left.any_runs() {
                left = self.survivors();
                left.signal(Signal::TERM);
            }
        }
        // A process that forks while it is being killed is found the next time.
        for _ in 0..KILLS_MAX {
            left = self.survivors();
            if left.is_empty() {
                break;
            }
            left.signal(Signal::KILL);
            std::thread::sleep(POLL);
        }
        found
    }

    /// Who of this record still runs.
    fn survivors(&self) -> Survivors {
        if !procfs::IS_THERE {
            // Without start times, only the guardian's own moment is trusted: its
            // parent died just now, ids are not reused that fast.
            let alive = |pid: &i32| Pid::from_raw(*pid).is_some_and(group_exists);
            return Survivors {
                groups: self.groups.keys().copied().filter(alive).collect(),
                ..Survivors::default()
            };
        }
        let entries = procfs::entries();
        let own = std::process::id().cast_signed();
        let marked: BTreeSet<i32> = entries
            .iter()
            .filter(|entry| entry.pid != own && self.marks(entry))
            .map(|entry| entry.pid)
            .collect();
        let is_ours = |pid: i32, started: u64| match entries.iter().find(|one| one.pid == pid) {
            Some(leader) => leader.started == started,
            // The leader is reaped. Its number is not given out again while its group
            // has members, but be sure by the mark.
            None => entries
                .iter()
                .any(|one| one.group == pid && marked.contains(&one.pid)),
        };
        let groups = self.groups.iter();
        let ours: BTreeSet<i32> = groups
            .filter(|(pid, started)| is_ours(**pid, **started))
            .map(|(pid, _)| *pid)
            .collect();
        let mut survivors = Survivors::default();
        for entry in entries.iter().filter(|entry| !entry.is_zombie()) {
            let is_marked = marked.contains(&entry.pid);
            if ours.contains(&entry.group) || (is_marked && entry.group == entry.pid) {
                survivors.groups.insert(entry.group);
            } else if is_marked {
                survivors.singles.insert(entry.pid);
            } else {
                continue;
            }
            survivors.processes.push(*entry);
        }
        survivors
    }

    fn marks(&self, entry: &Entry) -> bool {
        self.run
            .as_ref()
            .is_some_and(|run| procfs::has_variable(entry.pid, RUN_VARIABLE, run))
    }
}

#[derive(Default)]
struct Survivors {
    groups: BTreeSet<i32>,
    /// Those that left their group.
    singles: BTreeSet<i32>,
    /// All of them; empty where there is no `/proc`.
    processes: Vec<Entry>,
}

impl Survivors {
    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.singles.is_empty()
    }

    /// Whether any that was found still runs.
    fn any_runs(&self) -> bool {
        self.processes.iter().any(Entry::still_runs)
    }

    fn signal(&self, signal: Signal) {
        // ESRCH means that it ended meanwhile, which is what is wanted.
        for pid in self.groups.iter().copied().filter_map(Pid::from_raw) {
            kill_process_group(pid, signal).ok();
        }
        for pid in self.singles.iter().copied().filter_map(Pid::from_raw) {
            kill_process(pid, signal).ok();
        }
    }
}

/// Whether anybody, a zombie included, is in the group.
pub(crate) fn group_exists(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_and_remove_groups() {
        let record = Record::of("run 0123456789abcdef\n+10 500\n+11 501\n-10\n");
        assert_eq!(record.run.as_deref(), Some("0123456789abcdef"));
        assert_eq!(record.groups, BTreeMap::from([(11, 501)]));
        assert_eq!(Record::of(&record.to_text()), record);
    }

    #[test]
    fn torn_and_foreign_lines_are_passed_over() {
        let record = Record::of("+1\n+x 5\n-\n+99999999999 1\nhello\nrun 01\n+12 7\n+13");
        assert_eq!(record.groups, BTreeMap::from([(12, 7)]));
        assert_eq!(record.run, None);
    }

    #[test]
    fn a_reused_process_id_is_not_ours() {
        let own = std::process::id().cast_signed();
        let Some(started) = procfs::started(own) else {
            return; // no /proc here
        };
        let mut record = Record::default();
        record.groups.insert(own, started + 1);
        assert!(record.survivors().is_empty());
    }
}
