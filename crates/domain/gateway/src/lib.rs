//! The data plane: `listener -> router -> policies -> balancer -> upstream -> record`.
//!
//! Start with [`Gateway`] and `worker.rs` (a thread and its connections), then
//! `proxy.rs` (one request), `router.rs` and [`snapshot`] (where it goes),
//! `hygiene.rs` (what of a message may cross) and `h1` (the codec). It knows
//! neither the registry nor the configuration file: both hand it finished types.

mod answer;
mod buffer;
pub mod config;
mod connection;
pub mod endpoint;
mod exchange;
pub mod explain;
mod gateway;
mod h1;
mod h2;
mod hygiene;
pub mod metrics;
mod output;
mod policies;
mod proxy;
pub mod record;
mod router;
pub mod snapshot;
#[cfg(test)]
mod testing;
mod timer;
mod trace;
mod tunnel;
mod upstream;
pub mod view;
mod worker;

pub use answer::Reason;
pub use gateway::{Gateway, GatewayError, Settings};
pub use h1::fuzz_request_head;
