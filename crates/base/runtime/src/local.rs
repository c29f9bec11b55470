//! Tasks that stay on the thread of one worker (see [`crate::Tasks::worker`]).

use std::future::Future;

/// Runs `future` on this worker's thread, beside what runs there already. It is
/// dropped when the worker's main future returns.
///
/// # Panics
/// When the caller is not on a worker's thread.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the replacement that the ban names"
)]
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(tokio::task::spawn_local(future));
}
