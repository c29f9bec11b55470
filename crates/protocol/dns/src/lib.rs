//! Consul's DNS: services, nodes and addresses of the catalogue by name, on UDP and TCP.
//!
//! A translator without state of its own. `wire.rs` reads and writes messages (RFC
//! 1035, RFC 6891), `name.rs` says what a name asks for, `translate.rs` what the
//! catalogue answers, `front.rs` joins them for one packet; `server.rs` has the
//! sockets and `recursor.rs` asks other servers for names that are not ours.
//! `SPEC.md` lists what is supported, refused and different, with reasons.

mod addresses;
mod front;
mod fuzz;
mod name;
mod queries;
mod recursor;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod translate;
mod wire;

pub use fuzz::fuzz_packet;
pub use queries::{Found, Queries, QueryFailed, Running};
pub use server::start;
pub use settings::{Domain, DomainError, Settings};
