//! The data plane: `listener -> router -> policies -> balancer -> upstream -> record`.

pub mod config;
