//! The data plane: `listener -> router -> policies -> balancer -> upstream -> record`.

pub mod config;
pub mod endpoint;
pub mod explain;
pub mod metrics;
pub mod record;
mod router;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod view;
