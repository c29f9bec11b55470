//! The data plane: `listener -> router -> policies -> balancer -> upstream -> record`.

mod buffer;
pub mod config;
pub mod endpoint;
mod h1;
pub mod metrics;
pub mod record;
mod router;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod view;

pub use h1::fuzz_request_head;
