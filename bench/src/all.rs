//! Every table of the README, by one command.

use crate::report::Report;
use crate::{firewall, flood, limit, memory, napt, ports, ring, scale, setup};
use clap::Parser;

/// How much of it.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Fewer flows and rows: under three minutes.
    #[arg(long)]
    pub quick: bool,
}

/// The options of a subcommand as its command line would have them.
#[derive(Debug, Parser)]
struct Line<O: clap::Args> {
    #[command(flatten)]
    options: O,
}

/// Options from words.
fn line<O: clap::Args>(words: &str) -> Result<O, String> {
    let words = ["turnpike-bench"].into_iter().chain(words.split_whitespace());
    Line::try_parse_from(words).map(|line| line.options).map_err(|error| error.to_string())
}

/// Runs everything.
///
/// # Errors
/// What the subcommands say.
pub fn run(options: &Options, cpus: &[usize], report: &mut Report) -> Result<(), String> {
    let [napt_all, napt_sizes, napt_shared, limits, setups, rules, scales, memories, rings, floods] =
        words(options.quick);
    // First: what this program had and gave back before cannot be told from what a table takes.
    memory::run(&line(memories)?, report)?;
    napt::run(&line(napt_all)?, report)?;
    napt::run(&line(napt_sizes)?, report)?;
    napt::run(&line(napt_shared)?, report)?;
    limit::run(&line(limits)?, report)?;
    setup::run(&line(setups)?, report)?;
    ports::run(&line("")?, report)?;
    firewall::run(&line(rules)?, report)?;
    if cpus.len() > 1 {
        scale::run(&line(scales)?, cpus, report)?;
        ring::run(&line(rings)?, cpus, report)?;
    } else {
        report.note("one processor: scale and ring are left out");
    }
    flood::run(&line(floods)?, report)
}

/// Command lines of the subcommands.
const fn words(quick: bool) -> [&'static str; 10] {
    if quick {
        [
            "--flows 1,64k,1M --order random --chunks 1024",
            "--flows 64k --order random --direction mixed --size 512,1518,imix --headers warm,cold --chunks 1024",
            "--flows 64k --order random --direction mixed --share 4 --chunks 1024",
            "--flows 64k,1M --order random --chunks 1024",
            "--capacity 256k --flows 128k",
            "--chunks 128",
            "--flows 64k --chunks 1024",
            "--flows 1M",
            "--messages 1000000",
            "--capacity 64k --chunks 512",
        ]
    } else {
        [
            "",
            "--flows 1M --order random --size 64,512,1518,imix --headers warm,cold",
            "--flows 64k,1M,4M --order random --share 4",
            "",
            "--capacity 1M,4M",
            "",
            "",
            "",
            "",
            "",
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_line_is_understood() {
        for quick in [false, true] {
            let [napt_all, napt_sizes, napt_shared, limits, setups, rules, scales, memories, rings, floods] =
                words(quick);
            line::<napt::Options>(napt_all).unwrap();
            line::<napt::Options>(napt_sizes).unwrap();
            line::<napt::Options>(napt_shared).unwrap();
            line::<limit::Options>(limits).unwrap();
            line::<setup::Options>(setups).unwrap();
            line::<firewall::Options>(rules).unwrap();
            line::<scale::Options>(scales).unwrap();
            line::<memory::Options>(memories).unwrap();
            line::<ring::Options>(rings).unwrap();
            line::<flood::Options>(floods).unwrap();
        }
    }
}
