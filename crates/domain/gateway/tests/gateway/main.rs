//! The gateway over real sockets.

mod harness;
mod passing;
