//! Any octets, no panic; the fuzzer runs the same harness, and its corpus is replayed here.

use proptest::prelude::*;
use turnpike_simco::any_bytes::run;

/// Octets that look like SIMCO: headers and attributes with lengths that mostly fit.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let attribute = (prop_oneof![0_u16..14, 0x8000_u16..0x800C], 0_usize..30, any::<[u8; 30]>()).prop_map(
        |(code, length, value)| {
            let length = if code < 12 && length > 6 { 4 } else { length };
            let mut octets = code.to_be_bytes().to_vec();
            octets.extend(u16::try_from(length).unwrap().to_be_bytes());
            octets.extend(&value[..length]);
            octets
        },
    );
    let subs = prop_oneof![1_u8..4, 0x11_u8..0x17, 0x21_u8..0x25, 0x41_u8..0x44, any::<u8>()];
    let message = (1_u8..5, subs, 0_u8..4, proptest::collection::vec(attribute, 0..7)).prop_map(
        |(basic, sub, tid, attributes)| {
            let payload = attributes.concat();
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            [&[basic, sub, length[0], length[1], 0, 0, 0, tid][..], &payload].concat()
        },
    );
    (any::<u8>(), proptest::collection::vec(message, 0..8))
        .prop_map(|(choice, messages)| [vec![choice], messages.concat()].concat())
}

proptest! {
    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        run(&data);
    }

    #[test]
    fn plausible_bytes(data in plausible()) {
        run(&data);
    }
}

/// Inputs that the fuzzer found worth keeping.
#[test]
fn the_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/any_bytes");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus is empty");
}
