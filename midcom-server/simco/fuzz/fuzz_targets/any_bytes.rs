#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    turnpike_simco::any_bytes::run(data);
});
