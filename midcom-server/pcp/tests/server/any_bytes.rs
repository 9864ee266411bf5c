//! No bytes make the server panic, answer at length, or break its own rules.

use crate::world::{HOST, MANAGER, World, map, peer};
use proptest::prelude::*;
use turnpike_pcp::any_bytes;

proptest! {
    #[test]
    fn any_bytes_are_answered_or_dropped(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
        any_bytes::run(&bytes);
    }

    /// Messages that are nearly right.
    #[test]
    fn any_change_of_a_request_is_answered_or_dropped(
        kind in 0..4u8,
        changes in prop::collection::vec((0..128usize, any::<u8>()), 0..6),
        cut in prop::option::of(0..128usize),
    ) {
        let mut world = World::new();
        let mut ask = match kind {
            0 => map(HOST, 6, 80, 600).filter("198.51.100.0", 120, 0).port_set(5, 80, true),
            1 => map(MANAGER, 17, 80, 600).third_party(HOST).suggest("203.0.113.7", 80).prefer_failure(),
            2 => peer(HOST, 6, 80, "198.51.100.1:443", 600),
            _ => map(HOST, 6, 80, 0),
        };
        for (at, value) in changes {
            let length = ask.bytes.len();
            ask.bytes[at % length] = value;
        }
        if let Some(cut) = cut {
            ask.bytes.truncate(cut);
        }
        for _ in 0..2 {
            for reply in world.ask_all(&ask) {
                prop_assert!(reply.bytes.len() <= ask.bytes.len().max(24).next_multiple_of(4));
                prop_assert_eq!(reply.bytes[1] & 0x80, 0x80);
            }
        }
        prop_assert!(world.server.waiting() == 0);
        prop_assert_eq!(world.server.mappings(), world.policy.rules.len());
    }
}

/// Inputs that the fuzzer found worth keeping.
#[test]
fn the_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/datagrams");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        any_bytes::run(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus is empty");
}
