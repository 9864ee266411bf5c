//! Any bytes, no panic, conservation holds. The same harness runs as fuzz target `any_bytes`.

use proptest::prelude::*;
use turnpike_abi::counters::{Counter, DropReason, region};
use turnpike_sim::chaos;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_no_panic_and_conservation(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        chaos::run(&data);
    }
}

/// The fast path does what the long way does, to the byte, whatever comes.
#[test]
fn the_fast_path_and_the_long_way_end_alike() {
    let mut fast = 0;
    let mut state = 7u64;
    for _ in 0..500 {
        let program: Vec<u8> = (0..1500)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        let (mut counters, sent) = chaos::trace(&program, false);
        let (mut expected, wanted) = chaos::trace(&program, true);
        assert_eq!(sent, wanted);
        assert_eq!(expected.get(Counter::FastPath), 0);
        fast += counters.get(Counter::FastPath);
        counters.set(Counter::FastPath, 0);
        for each in [&mut counters, &mut expected] {
            each.set(Counter::Bursts, 0);
            each.words_mut()[region::BURST_SIZES..region::FRAME_SIZES].fill(0);
        }
        assert_eq!(counters.words(), expected.words());
    }
    assert!(fast > 5, "only {fast} packets took the fast path");
}

/// The harness is not vacuous: over a fixed set of programs packets pass, are translated, and end in many reasons.
#[test]
fn the_harness_reaches_the_interesting_cases() {
    let mut sum = turnpike_abi::counters::Counters::default();
    let mut state = 1u64;
    for _ in 0..1200 {
        let program: Vec<u8> = (0..1500)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        sum.merge(&chaos::run(&program));
    }
    for counter in
        [Counter::Sent, Counter::Punted, Counter::CrossedOut, Counter::Generated, Counter::Commands]
    {
        assert!(sum.get(counter) > 0, "{} never happened", counter.name());
    }
    let reasons = DropReason::ALL.iter().filter(|&&reason| sum.drops(reason) > 0).count();
    assert!(reasons >= 25, "only {reasons} drop reasons were reached");
}
