//! Any bytes as a record of the journal: refused, or a rule that is written as it was read and can be carried out.

use crate::support::access;
use proptest::prelude::*;
use turnpike_policy::{Effect, Engine, GroupId, Rule, RuleId, Time};

/// Reads `bytes`; what comes of it goes through a restart and its end.
pub fn run(bytes: &[u8]) {
    let id = RuleId(7);
    let Ok(rule) = Rule::decode(id, bytes) else { return };
    assert_eq!(rule.encode(), bytes);
    let mut engine = Engine::new(RuleId(1), GroupId(1));
    engine.set_access(access(), Time(0));
    assert_eq!(engine.restore(rule), Ok(()));
    engine.attached(2);
    engine.walked(Time(1));
    let count = |engine: &mut Engine| engine.effects().collect::<Vec<Effect>>().len();
    assert!(count(&mut engine) < 100);
    assert!(engine.status_of(id, Time(1)).is_some());
    for _ in 0..4 {
        let Some(due) = engine.deadline() else { break };
        engine.advance(due);
        count(&mut engine);
    }
    engine.detached(Time(2));
    count(&mut engine);
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        run(&bytes);
    }
}

/// Inputs that the fuzzer found worth keeping.
#[test]
fn the_corpus_of_records() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/records");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus is empty");
}
