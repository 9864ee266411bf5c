//! Whatever agents ask, workers answer and dataplanes do: the property test's model, driven by bytes.
#![no_main]

#[path = "../../tests/engine/model.rs"]
#[expect(dead_code, reason = "the property test's generator is not used here")]
mod model;
#[path = "../../tests/engine/support.rs"]
#[expect(dead_code, reason = "what other tests use of the world is not used here")]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (workers, ops) = model::of_bytes(data);
    model::run(workers, &ops);
});
