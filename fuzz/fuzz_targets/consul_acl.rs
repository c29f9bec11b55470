//! Any bytes as the rules of a policy of Consul's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_consul::fuzz_acl_rules(bytes));
