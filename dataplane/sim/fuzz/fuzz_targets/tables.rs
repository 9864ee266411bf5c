#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = turnpike_sim::any_table::run(data);
});
