//! The fleet with real processes, a recorded directory and a recorded gateway. One
//! binary, since every part shares the world. What is started ends with its test, also
//! when that fails: a dropped runtime kills the groups, and the guardian the rest.

#![expect(clippy::unwrap_used, reason = "tests, helpers included, may panic")]

mod chaos;
mod guardian;
mod replicas;
mod updates;
mod world;
