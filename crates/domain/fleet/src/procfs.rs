//! The little that is read of `/proc`: who is in which group, since when, with which
//! mark in its environment (proc(5), `/proc/pid/stat` and `/proc/pid/environ`).

use std::fs;

/// Whether this system has a `/proc` as Linux does.
pub(crate) const IS_THERE: bool = cfg!(target_os = "linux");

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// Clock ticks since boot: with the id, the identity of a process.
    pub(crate) started: u64,
    state: u8,
}

impl Entry {
    /// It ended and waits to be reaped, by whoever its parent is.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// It is there, is the same, and has not ended.
    pub(crate) fn still_runs(&self) -> bool {
        entry(self.pid).is_some_and(|now| now.started == self.started && !now.is_zombie())
    }
}

/// All processes that may be seen; empty where there is no `/proc`.
pub(crate) fn entries() -> Vec<Entry> {
    let Ok(directory) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    directory
        .filter_map(|item| item.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(entry)
        .collect()
}

/// When the process started; `None` when it is gone or there is no `/proc`.
pub(crate) fn started(pid: i32) -> Option<u64> {
    entry(pid).map(|entry| entry.started)
}

/// Whether anybody in `group` still runs, zombies aside.
pub(crate) fn group_runs(group: i32) -> bool {
    entries()
        .iter()
        .any(|entry| entry.group == group && !entry.is_zombie())
}

/// Whether the process was started with `name=value` in its environment.
pub(crate) fn has_variable(pid: i32, name: &str, value: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false; // gone, or another user's
    };
    environment.split(|byte| *byte == 0).any(|pair| {
        pair.strip_prefix(name.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            == Some(value.as_bytes())
    })
}

fn entry(pid: i32) -> Option<Entry> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, stat: &str) -> Option<Entry> {
    // The name, in parentheses, may hold anything, parentheses and spaces included.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let started = fields.nth(16)?.parse().ok()?; // field 22
    Some(Entry {
        pid,
        parent,
        group,
        started,
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "13 (a) Z (b) S 12 77 70 0 -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0 208400 31 3";
        let entry = parse(13, stat).unwrap();
        let fields = (entry.parent, entry.group, entry.started);
        assert_eq!(fields, (12, 77, 208_400));
        assert!(!entry.is_zombie());
    }

    #[test]
    fn a_cut_line_is_no_process() {
        assert_eq!(parse(13, "13 (sh) S 12"), None);
    }
}
