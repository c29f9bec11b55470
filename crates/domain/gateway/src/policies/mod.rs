//! What a route demands of a request, one file each. They decide; `proxy.rs` acts.
//!
//! What a route does not use costs nothing. Header edits are applied where heads
//! are written (`hygiene.rs`), timeouts where something is waited for (`proxy.rs`).

pub(crate) mod body_limit;
pub(crate) mod retry;
