//! Instances register, renew, are checked and found.

mod registration;

pub use registration::{Registration, Source};
