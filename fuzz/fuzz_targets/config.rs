//! Any bytes as `atoll.yaml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll::config::fuzz(bytes));
