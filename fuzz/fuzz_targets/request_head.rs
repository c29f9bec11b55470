//! Any bytes as the beginning of a client's connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_gateway::fuzz_request_head(bytes));
