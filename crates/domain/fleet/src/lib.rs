//! Runs replicas: desired to actual.

pub mod ports;
pub mod workload;
