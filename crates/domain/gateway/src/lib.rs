//! The data plane: `listener -> router -> policies -> balancer -> upstream -> record`.

mod buffer;
pub mod config;
mod h1;

pub use h1::fuzz_request_head;
