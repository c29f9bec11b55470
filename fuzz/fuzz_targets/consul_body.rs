//! Any bytes as the body of a registration or transaction of Consul's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_consul::fuzz_body(bytes));
