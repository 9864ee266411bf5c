//! Any bytes as a record of the journal, as the property test runs them.
#![no_main]

#[path = "../../tests/engine/records.rs"]
mod records;
#[path = "../../tests/engine/support.rs"]
#[expect(dead_code, reason = "what other tests use of the world is not used here")]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    records::run(data);
});
