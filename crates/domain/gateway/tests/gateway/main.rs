//! The gateway over real sockets.
#![expect(clippy::unwrap_used, reason = "tests, helpers included, may panic")]

mod balancing;
mod bodies;
mod connections;
mod fields;
mod h2;
mod harness;
mod observing;
mod passing;
mod refusals;
mod reload;
mod retries;
mod timeouts;
mod upgrades;
mod waiting;
