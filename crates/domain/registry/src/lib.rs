//! Instances register, renew, are checked and found.
//!
//! One owner task holds all of it: [`Registry`] is a handle that sends it events
//! and reads the [`atoll_model::Catalog`] that it publishes. `state.rs` is the
//! heart, a synchronous machine that is given `now`; `owner.rs` feeds it, `probe.rs`
//! asks the instances, `writer.rs` makes registrations durable through a
//! [`Journal`]. It knows no protocol: Eureka, Consul and the admin API translate.

mod aliases;
mod checks;
mod deadlines;
mod error;
mod history;
mod journal;
mod kept;
mod nodes;
mod owner;
mod preservation;
mod probe;
mod recent;
mod record;
mod registration;
mod registry;
mod report;
mod schedule;
mod shared;
mod state;
mod stored;
mod verdict;
mod watch;
mod writer;

pub use error::RegistryError;
pub use history::Change;
pub use journal::{Entry, Journal, JournalError, Kept, Memory, Pending};
pub use kept::InStore;
pub use nodes::NodeRegistration;
pub use preservation::{Preservation, SelfPreservation};
pub use registration::{Registration, Source};
pub use registry::{Recently, Registry, Settings};
pub use report::{CheckReport, Detail, LastAnswer};
pub use state::{Touched, Word};
pub use verdict::Outcome;
pub use watch::{Watch, WatchEvent};
