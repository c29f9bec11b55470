//! The data plane: `listener -> router -> policies -> balancer -> upstream -> record`.

pub mod config;
pub mod endpoint;
pub mod metrics;
mod router;
pub mod snapshot;
pub mod view;
