//! Reaps the orphans of replicas where they become our children.
//!
//! A process whose parent ended is given to the next subreaper, or to process 1, which
//! in a container is often Atoll itself. Nobody else would reap it there, and each dead
//! grandchild would hold a process id for ever. Elsewhere this does nothing.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpgrp, waitpid};
use tokio::signal::unix::Signal as SignalStream;

use crate::ledger::Ledger;
use crate::procfs::{self, Entry};

/// Somebody in this process may be about to reap a child of its own.
const COURTESY: Duration = Duration::from_secs(1);

/// Whether orphans come to us.
pub(crate) fn come_to_us() -> bool {
    #[cfg(target_os = "linux")]
    {
        std::process::id() == 1 || matches!(rustix::process::child_subreaper(), Ok(Some(_)))
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Reaps them as they come, until it is dropped. `ends` is a stream of SIGCHLD.
pub(crate) async fn reap(ledger: Arc<Ledger>, mut ends: SignalStream) {
    while ends.recv().await.is_some() {
        let first = orphans(&ledger);
        if first.is_empty() {
            continue;
        }
        tokio::time::sleep(COURTESY).await;
        for orphan in orphans(&ledger) {
            if first.contains(&orphan)
                && let Some(pid) = Pid::from_raw(orphan.pid)
            {
                // Fails only if it was reaped meanwhile.
                waitpid(Some(pid), WaitOptions::NOHANG).ok();
            }
        }
    }
}

/// Children of ours that ended, that we did not start for the fleet, and that are not
/// in our own group as other children of this process would be.
fn orphans(ledger: &Ledger) -> Vec<Entry> {
    let own = std::process::id().cast_signed();
    let own_group = getpgrp().as_raw_nonzero().get();
    let mut entries = procfs::entries();
    entries.retain(|entry| {
        entry.parent == own
            && entry.is_zombie()
            && entry.group != own_group
            && !ledger.holds(entry.pid)
    });
    entries
}
