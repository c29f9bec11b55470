//! Takes over a changed config file while everything runs: compile beside, swap, or
//! refuse with the reason while the old one serves on.
//!
//! One task does it, whoever asks: a changed file, SIGHUP, the admin API. Files are
//! looked at by `stat` four times a second instead of by inotify: that works alike on
//! network file systems, through the symbolic links that Kubernetes mounts, and for
//! editors that move a new file over the old one, at a cost of some microseconds.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_console::wire;
use atoll_model::{Fault, FaultKind, Health, InstanceId, ServiceName};
use atoll_registry::{Registration, Registry, RegistryError, Source};
use atoll_runtime::{Stop, Tasks};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::live::{Live, ReloadRequest};
use super::screen::Screen;
use crate::config::{self, External};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A file that changed must stay as it is for this long before it is read, so that
/// an editor's half-written one is not.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// A file that never settles is read after this many looks all the same.
const SETTLE_LOOKS_MAX: u32 = 20;

pub(crate) struct Reloader {
    pub(crate) live: Arc<Live>,
    pub(crate) tasks: Tasks,
    pub(crate) screen: Screen,
    pub(crate) environment: Arc<BTreeMap<String, String>>,
    pub(crate) requests: mpsc::Receiver<ReloadRequest>,
    /// Told at each SIGHUP.
    pub(crate) hangups: mpsc::Receiver<()>,
}

impl Reloader {
    pub(crate) async fn run(mut self, stop: Stop) {
        // What the files were before they were last read, so that one that changes
        // meanwhile is read again.
        let mut seen = Prints::of(&self.live.loaded().watched);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.requested() => return,
                Some(done) = self.requests.recv() => {
                    seen = self.look();
                    let outcome = self.reload().await;
                    // Whoever asked may have gone.
                    drop(done.send(outcome));
                }
                Some(()) = self.hangups.recv() => {
                    seen = self.look();
                    drop(self.reload().await);
                }
                _ = looks.tick() => {
                    let now = self.look();
                    if now == seen {
                        continue;
                    }
                    match stop.unless(settle(now)).await {
                        Some(settled) => seen = settled,
                        None => return,
                    }
                    drop(self.reload().await);
                }
            }
            // The new file may name others.
            seen.watch(&self.live.loaded().watched);
        }
    }

    fn look(&self) -> Prints {
        Prints::of(&self.live.loaded().watched)
    }

    /// Reads the file again and takes it over; says and remembers what became of it.
    async fn reload(&self) -> Result<wire::Reloaded, Fault> {
        let outcome = self.take_over().await;
        if let Err(refused) = &outcome {
            self.screen.say(format!(
                "{}\nthe configuration in force stays as it was",
                refused.shown.trim_end()
            ));
        }
        let outcome = outcome.map_err(|refused| refused.fault);
        let (ok, detail) = match &outcome {
            Ok(reloaded) if reloaded.restart_needed.is_empty() => {
                self.screen.say(format!(
                    "the configuration was reloaded (generation {})",
                    reloaded.generation
                ));
                (true, String::new())
            }
            Ok(reloaded) => {
                let needed = reloaded.restart_needed.join(", ");
                let detail = format!("needs a restart to take effect: {needed}");
                self.screen.say(format!(
                    "the configuration was reloaded (generation {}); {detail}",
                    reloaded.generation
                ));
                (true, detail)
            }
            Err(fault) => (false, fault.message.clone()),
        };
        self.live.configured().last_reload = Some(wire::LastReload {
            ok,
            at_unix_ms: self.live.clock.wall_unix_ms(),
            detail,
        });
        outcome
    }

    async fn take_over(&self) -> Result<wire::Reloaded, Refused> {
        let before = self.live.loaded();
        let (file, environment) = (before.file.clone(), Arc::clone(&self.environment));
        let colour = self.screen.colour();
        let read = self
            .tasks
            .blocking("config", move || config::load(&file, &environment));
        let loaded = match read.await {
            Ok(Ok(loaded)) => Arc::new(loaded),
            Ok(Err(wrong)) => {
                return Err(Refused {
                    shown: wrong.render(colour),
                    fault: Fault::new(FaultKind::Invalid, wrong.render(false)),
                });
            }
            Err(gone) => return Err(Fault::new(FaultKind::Internal, gone.to_string()).into()),
        };
        for warning in &loaded.warnings {
            self.screen.say(warning.render(colour));
        }
        if let Some(gateway) = &self.live.gateway {
            let published = gateway.publish(loaded.gateway.clone()).await;
            published.map_err(|errors| Fault::new(FaultKind::Invalid, errors.to_string()))?;
        }
        let restart_needed = loaded.restart_needed(&before);
        let generation = {
            let mut configured = self.live.configured();
            configured.generation += 1;
            configured.loaded = Arc::clone(&loaded);
            configured.generation
        };
        enlist(&self.live.registry, &before.external, &loaded.external).await?;
        let applied = self.live.fleet.apply(loaded.workloads.clone()).await;
        applied.map_err(|error| {
            let message = format!("routes were changed, but services were not: {error}");
            Refused::from(Fault::new(FaultKind::Conflict, message))
        })?;
        Ok(wire::Reloaded {
            generation,
            restart_needed,
        })
    }
}

/// Why a configuration was not taken over: for the terminal, which may have colours,
/// and for the admin API, which has none.
struct Refused {
    shown: String,
    fault: Fault,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self {
            shown: fault.message.clone(),
            fault,
        }
    }
}

impl From<RegistryError> for Refused {
    fn from(error: RegistryError) -> Self {
        Fault::from(error).into()
    }
}

/// Makes the file's `endpoints` known, and forgets those that it no longer names.
pub(crate) async fn enlist(
    registry: &Registry,
    before: &[External],
    now: &[External],
) -> Result<(), RegistryError> {
    let wanted = registrations(now);
    for (service, id) in registrations(before).into_keys() {
        if !wanted.contains_key(&(service.clone(), id.clone())) {
            match registry.deregister(service, id, Source::Config).await {
                // Gone is gone.
                Ok(_) | Err(RegistryError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    for registration in wanted.into_values() {
        registry.register(registration).await?;
    }
    Ok(())
}

/// Each endpoint is an instance whose id is its address.
fn registrations(list: &[External]) -> BTreeMap<(ServiceName, InstanceId), Registration> {
    let mut all = BTreeMap::new();
    for external in list {
        for endpoint in &external.endpoints {
            // An address is a host name or an IP address, all of it fit for an id.
            let Ok(id) = endpoint.address.to_string().parse::<InstanceId>() else {
                continue;
            };
            let registration = Registration {
                weight: endpoint.weight,
                tags: external.tags.clone(),
                metadata: external.metadata.clone(),
                checks: external.check.clone().into_iter().collect(),
                health: Health::Passing,
                ..Registration::new(
                    external.service.clone(),
                    id.clone(),
                    endpoint.address.clone(),
                    Source::Config,
                )
            };
            all.insert((external.service.clone(), id), registration);
        }
    }
    all
}

/// Waits until the files have stopped changing, and gives what they are then.
async fn settle(mut last: Prints) -> Prints {
    for _ in 0..SETTLE_LOOKS_MAX {
        tokio::time::sleep(SETTLED_AFTER).await;
        let now = Prints::of(last.0.keys());
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// What `stat` says of each file that is watched; `None` of one that is not there.
#[derive(PartialEq, Eq)]
struct Prints(BTreeMap<PathBuf, Option<Print>>);

#[derive(PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Prints {
    /// Watches these files from now on, and what is known of those that were watched
    /// before stays.
    fn watch(&mut self, paths: &[PathBuf]) {
        let mut now = Self::of(paths);
        for (path, print) in &mut now.0 {
            if let Some(known) = self.0.remove(path) {
                *print = known;
            }
        }
        *self = now;
    }

    fn of<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let print = |path: &Path| {
            let data = std::fs::metadata(path).ok()?;
            Some(Print {
                device: data.dev(),
                inode: data.ino(),
                bytes: data.size(),
                changed: (data.ctime(), data.ctime_nsec()),
                modified: (data.mtime(), data.mtime_nsec()),
            })
        };
        let paths = paths.into_iter();
        Self(
            paths
                .map(|path| (path.as_ref().to_owned(), print(path.as_ref())))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_while_it_was_read_still_counts_as_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("atoll.yaml"), folder.path().join(".env"));
        std::fs::write(&file, "before").unwrap();
        let mut seen = Prints::of([&file]);
        std::fs::write(&file, "changed, and longer").unwrap();
        seen.watch(&[file.clone(), other.clone()]);
        assert!(seen != Prints::of([&file, &other]));
        // Nothing else changed: once read again, there is nothing to do.
        seen = Prints::of([&file, &other]);
        seen.watch(std::slice::from_ref(&file));
        assert!(seen == Prints::of([&file]));
    }
}
