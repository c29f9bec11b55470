//! The library half of the binary: what can be tested without starting it.

pub mod config;
