//! Wrong files and what is said of each: `bad/NNN-name.toml` and `bad/NNN-name.expected`.
//! `UPDATE_GOLDEN=1` writes what is said now into the second.

use std::fs;
use std::path::{Path, PathBuf};
use turnpike_config::Config;

fn wrong_files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

#[test]
fn each_wrong_file_gets_its_message() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differing = Vec::new();
    let files = wrong_files();
    assert!(files.len() >= 45, "only {} wrong files", files.len());
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        let said = match Config::parse_bytes(&bytes, name) {
            Ok(_) => panic!("{name} was accepted"),
            Err(problems) => format!("{problems}\n"),
        };
        let expected = path.with_extension("expected");
        if update {
            fs::write(&expected, said).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != said {
            differing.push(format!("--- {name} says now:\n{said}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// Every message names file, line and column, and none but a syntax error or a broken byte lacks its key.
#[test]
fn each_message_says_where() {
    for path in wrong_files() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let problems = Config::parse_bytes(&fs::read(&path).unwrap(), name).unwrap_err();
        for problem in problems.iter() {
            assert!(problem.place.is_some(), "{name}: {problem:?}");
            let without_key = name.contains("-syntax-") || name.contains("-not-utf8");
            assert_eq!(problem.key.is_none(), without_key, "{name}: {problem:?}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_said_so() {
    let problems = Config::load("/nonexistent/turnpike.toml").unwrap_err();
    let said = "/nonexistent/turnpike.toml: cannot be read: No such file or directory (os error 2)";
    assert_eq!(problems.to_string(), said);
    let directory = env!("CARGO_MANIFEST_DIR");
    let problems = Config::load(directory).unwrap_err();
    assert_eq!(problems.to_string(), format!("{directory}: cannot be read: Is a directory (os error 21)"));
}

#[test]
fn a_file_that_is_too_large_is_said_so() {
    let large = vec![b'\n'; turnpike_config::MAX_FILE as usize + 1];
    let problems = Config::parse_bytes(&large, "large.toml").unwrap_err();
    assert_eq!(problems.to_string(), "large.toml: is larger than 16 MiB, the most that is read");
    let endless = Config::load("/dev/zero").unwrap_err();
    assert_eq!(endless.to_string(), "/dev/zero: is larger than 16 MiB, the most that is read");
}

#[test]
fn a_file_full_of_problems_gets_a_hundred_messages_and_a_number() {
    let text = (0..250).map(|i| format!("bad{i} = 1\n")).collect::<String>();
    let problems = Config::parse(&text, "full.toml").unwrap_err();
    assert_eq!(problems.iter().count(), 100);
    let last = format!("full.toml: {} more problems", problems.count() - 100);
    assert_eq!(problems.to_string().lines().last(), Some(last.as_str()));
}
