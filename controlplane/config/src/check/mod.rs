//! What a single value cannot tell: names, references, overlaps, families, limits.

mod firewall;
mod idle;
mod midcom;
mod ports;
mod translation;

use crate::model::{Config, ZoneMatch};
use crate::read::{Document, nearest, quoted};
use crate::value::Name;
use std::collections::HashMap;
use turnpike_abi::{MAX_WORKERS, MAX_ZONES};

/// Reports everything that is wrong with a configuration whose values are right one by one.
pub(crate) fn config(config: &Config, document: &mut Document<'_>) {
    dataplane(config, document);
    let zones = Zones::new(config, document);
    ports::check(config, &zones, document);
    ports::routes(config, document);
    translation::check(config, &zones, document);
    firewall::check(config, &zones, document);
    midcom::check(config, &zones, document);
    idle::check(config, document);
    timeouts(config, document);
}

fn dataplane(config: &Config, document: &mut Document<'_>) {
    let dataplane = &config.dataplane;
    let workers = dataplane.cores.len();
    if workers == 0 {
        document.refuse("dataplane.cores", "is empty: name a processor core for each worker".into());
    }
    if workers > MAX_WORKERS {
        let message = format!("has {workers} cores: a dataplane runs at most {MAX_WORKERS} workers");
        document.refuse("dataplane.cores", message);
    }
    let cores = dataplane.cores.iter().enumerate();
    distinct(document, cores.map(|(i, core)| (format!("dataplane.cores[{i}]"), *core)), |core, first, _| {
        format!("core {core} is {first} already: each worker has its own")
    });
    let largest_frame = config.ports.iter().map(|port| u64::from(port.mtu)).max().unwrap_or_default() + 18;
    // Each buffer has at least DPDK's header and headroom, 128 bytes each, and room for a frame.
    let needed = u64::from(dataplane.buffers) * (largest_frame.max(2048) + 256);
    if needed > dataplane.memory.bytes() {
        let (buffers, memory, needed) = (dataplane.buffers, dataplane.memory, (needed >> 20) + 1);
        let message =
            format!("{buffers} buffers do not fit in memory = \"{memory}\": they take at least {needed}M");
        document.refuse("dataplane.buffers", message);
    }
    if dataplane.socket == config.control.socket {
        let path = quoted(&dataplane.socket.to_string_lossy());
        document.refuse("control.socket", format!("{path} is dataplane.socket already: give each its own"));
    }
}

/// Shortest timers that the RFCs allow, seconds.
fn timeouts(config: &Config, document: &mut Document<'_>) {
    let timeouts = &config.timeouts;
    let minima = [
        ("udp", timeouts.udp, 120, "RFC 4787 REQ-5"),
        ("icmp", timeouts.icmp, 60, "RFC 5508 REQ-2"),
        ("tcp_established", timeouts.tcp_established, 7440, "RFC 5382 REQ-5"),
        ("tcp_opening", timeouts.tcp_opening, 240, "RFC 5382 REQ-5"),
        ("tcp_closing", timeouts.tcp_closing, 240, "RFC 5382 REQ-5"),
    ];
    if config.options.allow_noncompliant || document.is_faulty("options.allow_noncompliant") {
        return;
    }
    for (key, seconds, minimum, source) in minima {
        if seconds.0 < minimum {
            let seconds = seconds.0;
            document.refuse(
                &format!("timeouts.{key}"),
                format!(
                    "{seconds} s is too short: {source} asks for at least {minimum} s; \
                     [options] allow_noncompliant = true takes it all the same"
                ),
            );
        }
    }
}

/// The zones, to resolve references.
struct Zones<'c> {
    config: &'c Config,
    /// Index of each name.
    by_name: HashMap<&'c Name, usize>,
    /// Every name could be read, and none is there twice: a reference that is not among them is wrong.
    complete: bool,
}

impl<'c> Zones<'c> {
    fn new(config: &'c Config, document: &mut Document<'_>) -> Self {
        let zones = &config.zones;
        limit(document, "zone", zones.len(), MAX_ZONES);
        let names = zones.iter().enumerate().map(|(i, zone)| (format!("zone[{i}].name"), &zone.name));
        distinct_names(document, names, "zone");
        // Of two with one name the first counts.
        let by_name: HashMap<_, _> =
            zones.iter().enumerate().rev().map(|(i, zone)| (&zone.name, i)).collect();
        let complete = !document.is_faulty("zone") && is_complete(&by_name, zones.len(), MAX_ZONES);
        Self { config, by_name, complete }
    }

    /// Reports `name` at `path` unless it is a zone. `any` says whether that word would be right there too.
    fn expect(&self, document: &mut Document<'_>, path: &str, name: &Name, any: bool) -> Option<usize> {
        let index = self.by_name.get(name).copied();
        if index.is_none() && self.complete && !name.is_unread() {
            let mut names: Vec<&str> = self.config.zones.iter().map(|zone| zone.name.as_str()).collect();
            if any {
                names.push("any");
            }
            document.refuse(path, unknown(name, "zone", &names));
        }
        index
    }

    fn expect_match(&self, document: &mut Document<'_>, path: &str, zone: &ZoneMatch) -> Option<usize> {
        zone.name().and_then(|name| self.expect(document, path, name, true))
    }
}

/// Whether each of `count` tables has a name, and one of its own.
fn is_complete(by_name: &HashMap<&Name, usize>, count: usize, most: usize) -> bool {
    by_name.len() == count && count <= most && !by_name.contains_key(&Name::UNREAD)
}

/// What is said of a name that nothing has.
fn unknown(name: &Name, what: &str, known: &[&str]) -> String {
    let name = quoted(name.as_str());
    match nearest(name.trim_matches('"'), known) {
        _ if known.is_empty() => format!("{name} is not a {what}: there is no [[{what}]]"),
        Some(meant) => format!("{name} is not a {what}: did you mean \"{meant}\"?"),
        None => {
            let known: Vec<String> = known.iter().map(|known| quoted(known)).collect();
            let (last, others) =
                known.split_last().map_or(("", &[][..]), |(last, rest)| (last.as_str(), rest));
            let others = if others.is_empty() { String::new() } else { format!("{} or ", others.join(", ")) };
            format!("{name} is not a {what}: write {others}{last}")
        }
    }
}

/// Reports a list of tables that is longer than the shared layout allows.
fn limit(document: &mut Document<'_>, list: &str, count: usize, most: usize) {
    if count > most {
        document.refuse(&format!("{list}[{most}]"), format!("is one too many: at most {most} are possible"));
    }
}

/// Reports every value after its first occurrence. `message` gets the value, the first one's key path and line.
fn distinct<T: Eq + std::hash::Hash + Copy>(
    document: &mut Document<'_>,
    values: impl Iterator<Item = (String, T)>,
    message: impl Fn(T, &str, usize) -> String,
) {
    let mut seen: HashMap<T, String> = HashMap::new();
    for (path, value) in values {
        match seen.get(&value) {
            Some(first) => {
                let line = document.line(first);
                let message = message(value, first, line);
                document.refuse(&path, message);
            }
            None => {
                seen.insert(value, path);
            }
        }
    }
}

fn distinct_names<'n>(
    document: &mut Document<'_>,
    names: impl Iterator<Item = (String, &'n Name)>,
    what: &str,
) {
    let names = names.filter(|(_, name)| !name.is_unread());
    distinct(document, names, |name, first, line| {
        format!(
            "{} is {first} already (line {line}): each {what} needs a name of its own",
            quoted(name.as_str())
        )
    });
}
