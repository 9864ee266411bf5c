//! `scripts/etc/turnpike.toml` says what the schema is. Here each of its lines is held against the code.

use crate::model::Config;
use crate::read::Document;
use crate::sections;
use toml::{Table, Value};

const CONTRACT: &str = include_str!("../../../scripts/etc/turnpike.toml");

/// What a file says value by value, whether or not it makes sense as a whole.
fn values(text: &str) -> Result<Table, String> {
    let mut document = Document::new(text);
    let root = toml::de::DeTable::parse(text).map_err(|error| error.to_string())?;
    let config = sections::config(root.get_ref(), &mut document);
    match document.into_problems("contract") {
        None => Ok(config.to_table()),
        Some(problems) => Err(problems.to_string()),
    }
}

/// A line `key = value # comment` of the contract, also one that is commented out.
struct Line {
    number: usize,
    /// Position of its section in the file, such as `["port", "1", "vlan", "0"]`.
    section: Vec<String>,
    key: &'static str,
    comment: &'static str,
}

fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    let mut section: Vec<String> = Vec::new();
    let mut counts: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for (number, line) in CONTRACT.lines().enumerate() {
        if let Some(header) = line.strip_prefix("[[").and_then(|rest| rest.split_once("]]")) {
            let count = counts.entry(header.0.to_owned()).or_default();
            let index = count.to_string();
            *count += 1;
            section = match header.0.split_once('.') {
                // A subtable of the last table of that list.
                Some((list, sublist)) => {
                    let parent = (counts[list] - 1).to_string();
                    vec![list.into(), parent, sublist.into(), index]
                }
                None => vec![header.0.into(), index],
            };
        } else if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = vec![header.0.into()];
        } else if let Some((key, rest)) = uncommented(line).split_once(" = ") {
            let comment = rest.split_once("# ").map_or("", |(_, comment)| comment);
            lines.push(Line { number, section: section.clone(), key, comment });
        }
    }
    lines
}

/// A line without the `# ` that comments a key out.
fn uncommented(line: &str) -> &str {
    let rest = line.strip_prefix("# ").unwrap_or(line);
    let key = rest.split(" = ").next().unwrap_or_default();
    if key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') { rest } else { line }
}

/// The contract with line `number` replaced.
fn with_line(number: usize, replacement: &str) -> String {
    let replaced = CONTRACT.lines().enumerate();
    let lines: Vec<&str> = replaced.map(|(i, line)| if i == number { replacement } else { line }).collect();
    lines.join("\n")
}

fn value_at<'v>(table: &'v Table, section: &[String], key: &str) -> Option<&'v Value> {
    let mut value: Option<&Value> = None;
    for step in section {
        value = match (value, step.parse::<usize>()) {
            (Some(list), Ok(index)) => list.get(index),
            (Some(table), Err(_)) => table.get(step),
            (None, _) => table.get(step),
        };
    }
    value?.get(key)
}

#[test]
fn it_is_a_valid_configuration() {
    Config::parse(CONTRACT, "turnpike.toml").unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn every_default_it_shows_is_that_of_the_code() {
    let (mut required, mut absent, mut other, mut shown) = (0, 0, 0, 0);
    for line in lines() {
        let Line { number, section, key, comment } = &line;
        let name = format!("line {}: {key}", number + 1);
        let text = CONTRACT.lines().nth(*number).unwrap();
        let written = values(&with_line(*number, uncommented(text))).unwrap();
        let value = value_at(&written, section, key).unwrap_or_else(|| panic!("{name} is not in the model"));
        let left_out = values(&with_line(*number, ""));
        let default = comment.split_once("default: ").map(|(_, default)| default.split("; ").next().unwrap());
        if *key != "default" && is_required(&section[0], key) {
            let problems = left_out.unwrap_err();
            assert!(problems.contains("\": is missing: "), "{name}: {problems}");
            required += 1;
            continue;
        }
        if *key == "default" {
            assert!(left_out.unwrap_err().contains("default\": is missing"), "{name}");
            continue;
        }
        let left_out = left_out.unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let effective = value_at(&left_out, section, key);
        match default {
            Some(word) if word.starts_with("any") || word.starts_with("none") => {
                assert_eq!(effective, None, "{name}");
                absent += 1;
            }
            Some(literal) => {
                let expected: Table = format!("value = {literal}").parse().unwrap();
                assert_eq!(effective, expected.get("value"), "{name}");
                other += 1;
            }
            None => {
                assert_eq!(effective, Some(value), "{name}");
                shown += 1;
            }
        }
    }
    assert!(
        required >= 18 && absent >= 9 && other >= 5 && shown >= 29,
        "{required} {absent} {other} {shown}"
    );
}

/// Whether the comment at the first appearance of a key says so; later ones do not repeat it.
fn is_required(list: &str, key: &str) -> bool {
    let lines = lines();
    let first =
        lines.iter().find(|line| line.section[0] == list && line.key == key && !line.comment.is_empty());
    first.is_some_and(|line| line.comment.starts_with("required"))
}

#[test]
fn it_shows_every_key() {
    let headers: Vec<usize> =
        CONTRACT.lines().enumerate().filter(|(_, line)| line.starts_with('[')).map(|(i, _)| i).collect();
    let shown = lines();
    let mut known_keys = 0;
    for number in headers {
        let header = CONTRACT.lines().nth(number).unwrap().split(" #").next().unwrap().trim();
        let problems = values(&with_line(number, &format!("{header}\nqqqqqqqqqqqqqqqq = 1"))).unwrap_err();
        let known = problems.split_once("the keys here are ").unwrap().1.lines().next().unwrap();
        for key in known.split(", ") {
            let section = header.trim_matches(['[', ']']);
            let (list, vlan) = section.split_once('.').map_or((section, false), |(list, _)| (list, true));
            let is_shown = key == "vlan"
                || shown.iter().any(|line| {
                    line.section[0] == list && (line.section.len() > 2) == vlan && line.key == key
                });
            assert!(is_shown, "[{section}] {key}");
            known_keys += 1;
        }
    }
    assert!(known_keys > 60, "{known_keys}");
}
