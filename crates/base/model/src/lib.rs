//! The nouns that two parts of Atoll share: what a service and an instance are,
//! how healthy one is, and the catalogue of all of them at a revision.
//!
//! It owns no behaviour beyond parsing its own names, does no I/O and knows no
//! serialisation format: each edge (`wire.rs`, `draft.rs`, `stored.rs`) has
//! types of its own and translates. Look next at `registry`, which makes the
//! [`Catalog`], and at `gateway`, which routes by it.

mod catalog;
mod check;
mod fault;
mod health;
mod instance;
mod name;
mod probe;

pub use catalog::{Catalog, Revision};
pub use check::Check;
pub use fault::{Fault, FaultKind};
pub use health::Health;
pub use instance::{Address, AddressError, Instance, is_front_label};
pub use name::{InstanceId, NameError, ServiceName};
pub use probe::{Alias, HttpRequest, Probe, Tls};
