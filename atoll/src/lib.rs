//! The binary's parts: the configuration file, the wiring of a running Atoll, and the
//! command line. A library only so that tests and the fuzzer reach them.
//!
//! The only crate that knows all others. Start with [`cli::main`], then [`up`] and
//! [`config`].

pub mod cli;
pub mod config;
mod migrate;
pub mod paint;
pub mod up;
