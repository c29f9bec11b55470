//! What the kernel says that processes used, from `/proc`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// A process and all that it started, and they.
pub(crate) fn family(root: u32) -> Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Gone since it was listed: nobody's child.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        family.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    Ok(family)
}

/// The fourth field of `stat`; the second, a name, may hold anything.
fn parent(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// Time on a core of each thread of these processes, in nanoseconds.
pub(crate) fn threads_cpu_ns(pids: &[u32]) -> Result<BTreeMap<u32, u64>> {
    let mut threads = BTreeMap::new();
    for pid in pids {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} is gone"))?;
        for task in tasks {
            let task = task?;
            // A thread may end between being listed and being read.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
            let id = task.file_name().to_str().and_then(|id| id.parse().ok());
            threads.insert(
                id.context("a thread's number")?,
                ns.context("schedstat: is CONFIG_SCHED_INFO off?")?,
            );
        }
    }
    Ok(threads)
}

/// What was used between two readings. A thread that ended in between is left out:
/// its last reading is unknown.
pub(crate) fn used_ns(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> u64 {
    after
        .iter()
        .map(|(id, ns)| ns.saturating_sub(before.get(id).copied().unwrap_or(0)))
        .sum()
}

/// Resident memory of these processes together; pages that they share count once
/// (`Pss`).
pub(crate) fn resident_bytes(pids: &[u32]) -> Result<u64> {
    pids.iter()
        .map(|pid| Memory::of(*pid))
        .try_fold(0, |sum, memory| Ok(sum + memory?.pss))
}

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All pages that are resident (`VmRSS`).
    pub(crate) rss: u64,
    /// The same, a page that others have too in proportion (`Pss`).
    pub(crate) pss: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            rss: memory_field(pid, "status", "VmRSS:")?,
            pss: memory_field(pid, "smaps_rollup", "Pss:")?,
        })
    }
}

/// A field in kB, as bytes.
fn memory_field(pid: u32, file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))
        .with_context(|| format!("memory of process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = value.context(name.to_owned())?.parse()?;
    Ok(kib * 1024)
}

/// The most that was resident (`VmHWM`) since the last [`forget_peak`].
pub(crate) fn peak_bytes(pid: u32) -> Result<u64> {
    memory_field(pid, "status", "VmHWM:")
}

/// Lets the kernel begin anew to look for the most (proc(5), `clear_refs`).
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    let file = format!("/proc/{pid}/clear_refs");
    fs::write(&file, "5").with_context(|| file)
}

/// How many files a process has open.
pub(crate) fn open_files(pid: u32) -> Result<usize> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"));
    Ok(files
        .with_context(|| format!("files of process {pid}"))?
        .count())
}

/// Time that this core was not idle since the machine started, in nanoseconds; to the
/// hundredth of a second.
pub(crate) fn core_busy_ns(core: usize) -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    let fields = line
        .context("no such core")?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    // user nice system idle iowait irq softirq steal; guests are within user.
    let busy: u64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|at| fields.get(*at))
        .sum();
    Ok(busy * 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_a_name_with_brackets() {
        assert_eq!(parent("7 (a) b) c) S 42 7 7 0"), Some(42));
    }

    #[test]
    fn a_process_is_its_own_family_and_uses_time_and_memory() {
        let me = std::process::id();
        assert!(family(me).unwrap().contains(&me));
        let before = threads_cpu_ns(&[me]).unwrap();
        let mut sum = 0u64;
        while used_ns(&before, &threads_cpu_ns(&[me]).unwrap()) == 0 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let memory = Memory::of(me).unwrap();
        assert!(memory.pss > 100 * 1024 && memory.rss >= memory.pss);
        // Beside us other tests allocate, but not as much as that.
        let twice = resident_bytes(&[me, me]).unwrap();
        assert!(twice > memory.pss * 3 / 2 && twice < memory.pss * 3);
    }

    #[test]
    fn a_file_that_is_opened_counts() {
        let files: Vec<_> = (0..200)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        assert!(open_files(std::process::id()).unwrap() >= files.len());
    }

    #[test]
    fn a_new_thread_counts_whole_and_an_ended_one_not() {
        let before = BTreeMap::from([(1, 100), (2, 50)]);
        let after = BTreeMap::from([(1, 130), (3, 7)]);
        assert_eq!(used_ns(&before, &after), 37);
    }
}
