//! State machines that decide where a request goes and whether it is tried again.
//!
//! All are pure and synchronous: the caller gives `now` and random bits, so that a
//! test can repeat any run. Nothing here knows HTTP, services or tasks, and nothing
//! waits. What many workers share is made of atomics, never of locks.
//!
//! Start with [`Weights`] (choice by weight, power of two choices), then
//! [`Rotation`] (round robin), [`Ring`] (consistent hashing) and [`RetryBudget`].

mod budget;
mod ring;
mod rotation;
mod weights;

pub use budget::RetryBudget;
pub use ring::{Ring, hash_key};
pub use rotation::Rotation;
pub use weights::{Weights, less_loaded};
