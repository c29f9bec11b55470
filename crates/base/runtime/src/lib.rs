//! What every part of Atoll stands on: a supervised task tree, one clock, one
//! source of randomness, and threads for the data plane.
//!
//! This is the only crate that spawns and the only one that reads a clock; clippy
//! refuses both elsewhere. It knows nothing of services. Start with [`Tasks`].

mod backoff;
mod clock;
pub mod local;
mod random;
mod tasks;

pub use backoff::Backoff;
pub use clock::Clock;
pub use random::{Random, unguessable};
pub use tasks::{Restart, Stop, Stuck, Task, TaskGone, Tasks, WorkerError};
