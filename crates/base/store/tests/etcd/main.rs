//! The store on etcd: the suite of all backends, and what only happens to one that
//! is on another machine. Needs etcd and etcdctl; `cargo xtask test` installs them.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the helpers of a test may panic as it may, and look at the time"
)]

mod server;

use atoll_runtime::Tasks;
use atoll_store::Store;

use server::Etcd;

/// Each case gets an etcd of its own: it counts revisions and leases, and drops history.
async fn alone() -> (Store, (Tasks, Etcd)) {
    let etcd = Etcd::start();
    let (store, tasks) = etcd.store("/atoll").await;
    (store, (tasks, etcd))
}

mod suite {
    atoll_store::suite_tests!(super::alone);
}

mod access;
mod against;
mod mirror;
mod outage;
mod shared;

use std::future::Future;
use std::time::Duration;

use atoll_store::{Event, Standing, Watch};
use tokio::sync::watch;

/// Longer than anything here takes on a machine that builds something beside us.
const WAIT: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(WAIT, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// Waits until the store is away, or is not.
async fn until_away(standing: &mut watch::Receiver<Standing>, away: bool) {
    let what = if away { "being away" } else { "being back" };
    let come = standing.wait_for(|now| matches!(now, Standing::Away { .. }) == away);
    drop(soon(what, come).await.unwrap());
}

async fn events(watch: &mut Watch) -> Vec<Event> {
    let changes = soon("a change", watch.next()).await.unwrap();
    changes.events.to_vec()
}
