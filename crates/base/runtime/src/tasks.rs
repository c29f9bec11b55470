//! The task tree: every task has a name, a group, a stop signal and an owner that
//! waits for it.
//!
//! Groups stop in the reverse of the order in which they were made, so that what
//! was started last (and leans on the others) goes first. A task that outlives the
//! deadline of its group is named in [`Stuck`], not waited for.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::{Backoff, Clock, Random};

/// First pause before a failed task is started again.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before a failed task is started again.
const RESTART_MOST: Duration = Duration::from_secs(10);
/// Having run for this long, a task is taken for well: past failures are forgotten.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// What every group is given to stop, however long those before it took: a stuck
/// one must not cost the store its flush.
const STOP_LEAST: Duration = Duration::from_secs(1);

/// A group of tasks; clones are the same group.
#[derive(Clone)]
pub struct Tasks(Arc<Group>);

struct Group {
    name: String,
    stop: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<BTreeMap<u64, String>>,
    children: Mutex<Vec<Tasks>>,
    next: AtomicU64,
    clock: Clock,
}

/// Told to every task: end soon.
#[derive(Clone, Debug)]
pub struct Stop(CancellationToken);

/// What happens to a task that ends by itself or panics before it was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It stays ended; a panic is logged.
    Never,
    /// It is started again after 100 ms, doubling to 10 s; at 100 ms again once it
    /// has run for a minute.
    WithBackoff,
}

/// The result of a task started by [`Tasks::once`] or [`Tasks::blocking`].
pub struct Task<T>(oneshot::Receiver<T>);

/// The task panicked, or its group ended before it did.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the task ended without a result")]
pub struct TaskGone;

/// Tasks that did not end by the deadline.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("still running at the deadline: {}", .0.join(", "))]
pub struct Stuck(pub Vec<String>);

/// A worker's thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("worker `{name}` could not be started")]
pub struct WorkerError {
    name: String,
    #[source]
    source: std::io::Error,
}

impl Stop {
    /// Resolves when the task should end.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Whether the task should end.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Runs `future` until it is done or the task should end; `None` then.
    pub async fn unless<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.0.run_until_cancelled(future).await
    }
}

impl Tasks {
    /// The root of a tree.
    pub fn root(clock: Clock) -> Self {
        Self::with_token("atoll".to_owned(), CancellationToken::new(), clock)
    }

    fn with_token(name: String, stop: CancellationToken, clock: Clock) -> Self {
        Self(Arc::new(Group {
            name,
            stop,
            tracker: TaskTracker::new(),
            running: Mutex::default(),
            children: Mutex::default(),
            next: AtomicU64::new(0),
            clock,
        }))
    }

    /// A group below this one, named `parent.name`, that stops before it.
    ///
    /// It is forgotten once nobody holds it and nothing runs in it, so that groups
    /// may come and go.
    pub fn group(&self, name: &str) -> Self {
        let full = format!("{}.{name}", self.0.name);
        let child = Self::with_token(full, self.0.stop.child_token(), self.0.clock.clone());
        let mut children = lock(&self.0.children);
        children.retain(|child| !child.is_over());
        children.push(child.clone());
        child
    }

    /// Whether only its parent knows of it: each of its tasks holds it, too.
    fn is_over(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && lock(&self.0.children).is_empty()
    }

    /// The clock that the tree was made with.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// This group's stop signal.
    pub fn stop_signal(&self) -> Stop {
        Stop(self.0.stop.clone())
    }

    /// Runs a task for as long as the group lives. `make` is called for each
    /// start, so that a restarted task begins afresh.
    pub fn run<F, Fut>(&self, name: &str, restart: Restart, mut make: F)
    where
        F: FnMut(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop_signal();
        let label = format!("{}.{name}", self.0.name);
        self.spawn(label.clone(), async move {
            let mut random = Random::from_entropy();
            let mut backoff = Backoff::new(RESTART_FIRST, RESTART_MOST, 0.2);
            loop {
                let begun = tokio::time::Instant::now();
                // Made within, so that a panic of `make` itself is one of the task.
                let task = async { make(stop.clone()).await };
                let ended = AssertUnwindSafe(task).catch_unwind().await;
                if stop.is_requested() {
                    return;
                }
                match (&ended, restart) {
                    (Ok(()), Restart::Never) => return,
                    (Err(_), Restart::Never) => {
                        error!(task = label, "task panicked");
                        return;
                    }
                    (_, Restart::WithBackoff) => {
                        if begun.elapsed() >= SETTLED_AFTER {
                            backoff.reset();
                        }
                        let delay = backoff.next(&mut random);
                        let delay_ms = delay.as_millis();
                        warn!(
                            task = label,
                            panicked = ended.is_err(),
                            delay_ms,
                            "task ended, starting it again"
                        );
                        if stop.unless(tokio::time::sleep(delay)).await.is_none() {
                            return;
                        }
                    }
                }
            }
        });
    }

    /// Runs `future` once; awaiting the returned task gives its result.
    pub fn once<T: Send + 'static>(
        &self,
        name: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (send, receive) = oneshot::channel();
        let label = format!("{}.{name}", self.0.name);
        self.spawn(label.clone(), async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                // Nobody need wait for the result.
                Ok(value) => drop(send.send(value)),
                Err(_) => error!(task = label, "task panicked"),
            }
        });
        Task(receive)
    }

    /// Runs `work` on a thread where blocking is allowed.
    pub fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Task<T> {
        let (send, receive) = oneshot::channel();
        let entry = self.enter(format!("{}.{name}", self.0.name));
        self.0.tracker.spawn_blocking(move || {
            let _entry = entry;
            drop(send.send(work()));
        });
        Task(receive)
    }

    /// Starts a thread of its own with a single-threaded runtime, on which
    /// `make`'s future runs; [`crate::local::spawn`] adds tasks beside it. The
    /// thread ends when that future returns.
    ///
    /// # Errors
    /// When the system refuses a thread or the runtime's descriptors.
    pub fn worker<F, Fut>(&self, name: &str, make: F) -> Result<(), WorkerError>
    where
        F: FnOnce(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let failed = |source| WorkerError {
            name: name.to_owned(),
            source,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let stop = self.stop_signal();
        let label = format!("{}.{name}", self.0.name);
        let entry = self.enter(label.clone());
        let token = self.0.tracker.token();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Dropped last, in reverse: who waits for the worker waits for its
                // runtime and all that ran on it.
                let (_token, _entry, runtime) = (token, entry, runtime);
                let local = tokio::task::LocalSet::new();
                let worked = AssertUnwindSafe(|| local.block_on(&runtime, make(stop)));
                if std::panic::catch_unwind(worked).is_err() {
                    error!(task = label, "worker panicked");
                }
            })
            .map_err(failed)?;
        Ok(())
    }

    /// Stops the groups below, last made first, then this one; each is given what
    /// is left of `deadline`, and a second (or `deadline`, when that is less) even
    /// when nothing is.
    ///
    /// # Errors
    /// Names the tasks that did not end in time. They have been told to.
    pub async fn stop(&self, deadline: Duration) -> Result<(), Stuck> {
        let until = tokio::time::Instant::now() + deadline;
        let left = || {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            left.max(STOP_LEAST.min(deadline))
        };
        let mut stuck = Vec::new();
        loop {
            while let Some(child) = self.last_child() {
                if let Err(Stuck(names)) = Box::pin(child.stop(left())).await {
                    stuck.extend(names);
                }
            }
            self.0.stop.cancel();
            self.0.tracker.close();
            let ended = tokio::time::timeout(left(), self.0.tracker.wait()).await;
            if ended.is_err() {
                stuck.extend(lock(&self.0.running).values().cloned());
                break;
            }
            // A task may have made another group on its way out.
            if lock(&self.0.children).is_empty() {
                break;
            }
        }
        if stuck.is_empty() {
            Ok(())
        } else {
            Err(Stuck(stuck))
        }
    }

    fn last_child(&self) -> Option<Self> {
        lock(&self.0.children).pop()
    }

    /// Names of the tasks that run now, here and below.
    pub fn running(&self) -> Vec<String> {
        let mut names: Vec<_> = lock(&self.0.running).values().cloned().collect();
        for child in lock(&self.0.children).iter() {
            names.extend(child.running());
        }
        names
    }

    fn spawn(&self, label: String, future: impl Future<Output = ()> + Send + 'static) {
        let entry = self.enter(label);
        drop(self.0.tracker.spawn(async move {
            let _entry = entry;
            future.await;
        }));
    }

    fn enter(&self, label: String) -> Entry {
        let key = self.0.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.0.running).insert(key, label);
        Entry {
            group: Arc::clone(&self.0),
            key,
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskGone>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        self.0.poll_unpin(context).map_err(|_| TaskGone)
    }
}

/// Keeps a task's name in its group's list while it runs, however it ends.
struct Entry {
    group: Arc<Group>,
    key: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.group.running).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can leave them half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn tree() -> Tasks {
        Tasks::root(Clock::system())
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicking_task_is_started_again_until_it_is_told_to_stop() {
        let tasks = tree();
        let starts = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&starts);
        tasks.run("flaky", Restart::WithBackoff, move |stop| {
            let seen = Arc::clone(&seen);
            async move {
                assert!(
                    seen.fetch_add(1, Ordering::SeqCst) >= 2,
                    "the first two starts fail"
                );
                stop.requested().await;
            }
        });
        while starts.load(Ordering::SeqCst) < 3 {
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert_eq!(tasks.running(), ["atoll.flaky"]);
        assert_eq!(tasks.stop(Duration::from_secs(1)).await, Ok(()));
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn groups_stop_last_made_first() {
        let tasks = tree();
        let order = Arc::new(Mutex::new(Vec::new()));
        for name in ["store", "registry", "gateway"] {
            let order = Arc::clone(&order);
            tasks.group(name).run("main", Restart::Never, move |stop| {
                let order = Arc::clone(&order);
                async move {
                    stop.requested().await;
                    // The others must wait for it, however long it takes.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    order.lock().unwrap().push(name);
                }
            });
        }
        tasks.stop(Duration::from_secs(10)).await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["gateway", "registry", "store"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_task_is_named_and_not_waited_for() {
        let tasks = tree();
        tasks
            .group("fleet")
            .run("deaf", Restart::Never, |_| std::future::pending());
        let stuck = tasks.stop(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(stuck, Stuck(vec!["atoll.fleet.deaf".to_owned()]));
    }

    #[tokio::test]
    async fn a_panic_in_a_single_task_is_an_error_for_its_owner() {
        let tasks = tree();
        let task: Task<u8> = tasks.once("bad", async { panic!("on purpose") });
        assert_eq!(task.await, Err(TaskGone));
        assert_eq!(tasks.once("good", async { 7 }).await, Ok(7));
        assert_eq!(tasks.blocking("slow", || 8).await, Ok(8));
    }

    #[tokio::test]
    async fn a_worker_runs_local_tasks_on_its_own_thread_and_ends_when_told() {
        let tasks = tree();
        let (send, receive) = oneshot::channel();
        tasks
            .worker("gateway-0", |stop| async move {
                crate::local::spawn(async move {
                    let name = std::thread::current().name().map(str::to_owned);
                    send.send(name).unwrap();
                });
                stop.requested().await;
            })
            .unwrap();
        assert_eq!(receive.await.unwrap().as_deref(), Some("gateway-0"));
        tasks.stop(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_before_its_first_await_is_started_again_too() {
        let tasks = tree();
        let starts = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&starts);
        tasks.run("flaky", Restart::WithBackoff, move |stop| {
            assert!(seen.fetch_add(1, Ordering::SeqCst) > 0, "the first fails");
            async move { stop.requested().await }
        });
        // Far beyond the first pause.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(starts.load(Ordering::SeqCst), 2);
        assert_eq!(tasks.stop(Duration::from_secs(1)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ran_long_is_started_again_without_a_long_pause() {
        let tasks = tree();
        let pauses = Arc::new(Mutex::new(Vec::new()));
        let (noted, clock) = (Arc::clone(&pauses), tasks.clock().clone());
        let mut ended = clock.now();
        let mut number = 0;
        tasks.run("seldom", Restart::WithBackoff, move |stop| {
            let now = clock.now();
            lock(&noted).push(now - ended);
            number += 1;
            // Ten quick ends drive the pause to its most, then one after an hour.
            let lives = match number {
                11 => Duration::from_secs(3600),
                12 => Duration::from_secs(360_000),
                _ => Duration::ZERO,
            };
            ended = now + lives;
            async move {
                stop.unless(tokio::time::sleep(lives)).await;
            }
        });
        tokio::time::sleep(Duration::from_secs(7200)).await;
        let pauses = lock(&pauses).clone();
        assert!(pauses[10] > Duration::from_secs(5), "{pauses:?}");
        assert!(pauses[11] < Duration::from_secs(1), "{pauses:?}");
        tasks.stop(Duration::from_secs(1)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_group_does_not_take_the_time_of_those_it_leans_on() {
        let tasks = tree();
        let flushed = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&flushed);
        tasks
            .group("store")
            .run("main", Restart::Never, move |stop| {
                let seen = Arc::clone(&seen);
                async move {
                    stop.requested().await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            });
        tasks
            .group("gateway")
            .run("deaf", Restart::Never, |_| std::future::pending());
        let stuck = tasks.stop(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(stuck, Stuck(vec!["atoll.gateway.deaf".to_owned()]));
        assert_eq!(flushed.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn groups_that_nobody_holds_any_more_are_let_go() {
        let tasks = tree();
        for _ in 0..100 {
            let group = tasks.group("connection");
            group.once("work", async {}).await.unwrap();
            group.stop(Duration::from_secs(1)).await.unwrap();
        }
        assert!(lock(&tasks.0.children).len() <= 1);
        // One that is held, or has something running, stays.
        let held = tasks.group("held");
        tasks
            .group("busy")
            .run("main", Restart::Never, |stop| async move {
                stop.requested().await
            });
        drop(tasks.group("last"));
        assert_eq!(tasks.running(), ["atoll.busy.main"]);
        tasks.stop(Duration::from_secs(5)).await.unwrap();
        assert!(held.stop_signal().is_requested());
    }

    #[tokio::test]
    async fn a_group_made_while_its_parent_stops_is_waited_for() {
        let tasks = tree();
        let ended = Arc::new(AtomicUsize::new(0));
        let (parent, seen) = (tasks.clone(), Arc::clone(&ended));
        tasks.run("main", Restart::Never, move |stop| {
            let (parent, seen) = (parent.clone(), Arc::clone(&seen));
            async move {
                stop.requested().await;
                let late = parent.group("late");
                drop(late.once("work", async move {
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                    seen.fetch_add(1, Ordering::SeqCst);
                }));
            }
        });
        tokio::task::yield_now().await;
        tasks.stop(Duration::from_secs(5)).await.unwrap();
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    }
}
