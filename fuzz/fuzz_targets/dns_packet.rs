//! Any bytes as a question of DNS.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_dns::fuzz_packet(bytes));
