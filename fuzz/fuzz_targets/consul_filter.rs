//! Any bytes as a filter expression of Consul's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_consul::fuzz_filter(bytes));
