//! Any bytes as a body that a client of Eureka sends, in JSON and in XML.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_eureka::fuzz(bytes));
