//! Replays what the fuzzers found, reduced to what reaches every edge they reached. A crash found becomes a file there.

use std::path::Path;
use turnpike_abi::counters::{Counter, Counters, DropReason};
use turnpike_sim::any_table::{self, Outcome};
use turnpike_sim::chaos;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries =
        std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("a file");
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn the_corpus_of_any_bytes_runs_and_reaches_most_drop_reasons() {
    let mut sum = Counters::default();
    for (name, program) in corpus("any_bytes") {
        // Says which file it was.
        let counters =
            std::panic::catch_unwind(|| chaos::run(&program)).unwrap_or_else(|_| panic!("{name} crashes"));
        sum.merge(&counters);
    }
    let never: Vec<_> = DropReason::ALL
        .iter()
        .filter(|&&reason| sum.drops(reason) == 0)
        .map(|reason| reason.name())
        .collect();
    assert!(DropReason::COUNT - never.len() >= 50, "never dropped for {never:?}");
    for counter in [Counter::EifHits, Counter::Sent, Counter::Commands, Counter::PeerViolations] {
        assert!(sum.get(counter) > 0, "{} never happened", counter.name());
    }
}

#[test]
fn the_corpus_of_tables_runs_and_is_accepted_in_part() {
    let mut accepted = 0;
    for (name, table) in corpus("tables") {
        let outcome =
            std::panic::catch_unwind(|| any_table::run(&table)).unwrap_or_else(|_| panic!("{name} crashes"));
        accepted += u32::from(!matches!(outcome, Outcome::Refused(_)));
    }
    assert!(accepted > 0);
}
