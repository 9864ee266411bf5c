//! Any bytes as a record of the journal: refused, or a rule, or uses of a permit, that are written as they were read and
//! can be carried out.

use crate::support::access;
use proptest::prelude::*;
use turnpike_policy::{Effect, Engine, GroupId, Note, Rule, RuleId, Time, Uses};

/// Reads `bytes`; what comes of it goes through a restart and its end.
pub fn run(bytes: &[u8]) {
    permit(bytes);
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

fn permit(bytes: &[u8]) {
    let Ok(uses) = Uses::decode(bytes) else { return };
    assert_eq!(uses.encode(), bytes);
    let mut engine = Engine::new(RuleId(1), GroupId(1));
    engine.restore_permit([3; 16], uses);
    assert_eq!(engine.deadline(), Some(uses.expires));
    engine.advance(uses.expires);
    let notes: Vec<Effect> = engine.effects().collect();
    assert!(matches!(&notes[..], [Effect::Note { notes, .. }] if notes[..] == [Note::ForgetPermit([3; 16])]));
    assert_eq!(engine.deadline(), None);
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        run(&bytes);
    }

    #[test]
    fn any_uses(times in 0u32..3, expires in any::<u64>(), rest in prop::collection::vec(any::<u8>(), 0..2)) {
        let record = [&[1][..], &times.to_be_bytes(), &expires.to_be_bytes(), &rest].concat();
        assert_eq!(Uses::decode(&record).is_ok(), times > 0 && rest.is_empty());
        run(&record);
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
