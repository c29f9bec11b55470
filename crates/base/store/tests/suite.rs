//! The embedded backend, in memory and on disk, held to the suite of all backends.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic as it may"
)]

use atoll_runtime::{Clock, Tasks};
use atoll_store::Store;
use atoll_store::embedded::{self, Options};

async fn in_memory() -> (Store, Tasks) {
    let tasks = Tasks::root(Clock::system());
    (embedded::in_memory(Options::default(), &tasks), tasks)
}

async fn on_disk() -> (Store, (Tasks, tempfile::TempDir)) {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::root(Clock::system());
    let store = embedded::open(dir.path(), Options::default(), &tasks).await;
    (store.unwrap(), (tasks, dir))
}

mod memory {
    atoll_store::suite_tests!(super::in_memory);
}

mod disk {
    atoll_store::suite_tests!(super::on_disk);
}
