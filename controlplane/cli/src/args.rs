//! The command tree.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use turnpike_abi::counters::TcpState;
use turnpike_api::{
    BindingFilter, Endpoint, EndpointPattern, FlowFilter, FlowState, PinholeAdd, PinholeProtocol, PortRange,
    Prefix, Protocol, RuleFilter, Timestamp,
};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    usage: the command line or a value in it is wrong
  3    no match: nothing fits the filter, no such id
  5    permission: this user may not
  6    unreachable: turnpike-controlplane does not answer, or no dataplane is attached
  7    configuration invalid
  8    conflict with what is there
  9    degraded (show status --check)
  124  no answer in time (--timeout)

With --json, standard output holds exactly one JSON document: the answer in its envelope, or {\"error\": ...}.
Names are never resolved. Times are in UTC.";

/// Shows and steers a Turnpike box.
#[derive(Debug, Parser)]
#[command(name = "turnpike", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Socket of the control plane (control.socket in its configuration)
    #[arg(long, global = true, help_heading = "Global options", value_name = "PATH", default_value = turnpike_api::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print the answer as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Seconds to wait for each answer
    #[arg(long, global = true, help_heading = "Global options", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,
    /// Print no notes and warnings
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what the box is and does
    Show {
        /// What to show.
        #[command(subcommand)]
        what: Show,
    },
    /// Open and close pinholes: inside ports that can be reached from outside
    Pinhole {
        /// What to do.
        #[command(subcommand)]
        action: PinholeAction,
    },
    /// Compute the mappings of deterministic pools (RFC 7422)
    Nat {
        /// What to compute.
        #[command(subcommand)]
        action: NatAction,
    },
    /// End rules of any front end
    Rule {
        /// What to do.
        #[command(subcommand)]
        action: RuleAction,
    },
    /// Act as a MIDCOM agent: open pinholes over SIMCO
    Midcom(Box<crate::midcom::args::MidcomArgs>),
    /// Check a configuration file, or have the box read its own again
    Config {
        /// What to do.
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Live status screen; q quits
    Top(TopArgs),
    /// Versions of this program and of the daemons
    Version,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What can be computed of deterministic pools.
#[derive(Debug, Subcommand)]
pub enum NatAction {
    /// External address and ports of an inside address
    Forward {
        /// Inside address
        address: std::net::Ipv4Addr,
        /// When, such as 2026-11-21T03:20:00Z; now unless given
        #[arg(long, value_name = "TIME")]
        time: Option<Timestamp>,
    },
    /// Inside address that has an external port
    Reverse {
        /// External address
        external: std::net::Ipv4Addr,
        /// External port or ICMP identifier
        port: u16,
        /// When, such as 2026-11-21T03:20:00Z; now unless given
        #[arg(long, value_name = "TIME")]
        time: Option<Timestamp>,
    },
}

/// What can be shown.
#[derive(Debug, Subcommand)]
pub enum Show {
    /// The box on one page
    Status {
        /// Say in a line whether the box does its work; exit code 9 if not, for monitoring
        #[arg(long)]
        check: bool,
    },
    /// Ports, their interfaces and counters
    Ports,
    /// Worker threads
    Workers,
    /// Flows, at most 1000 unless --limit or --all says otherwise
    Flows(FlowsArgs),
    /// Bindings and pinholes, at most 1000 unless --limit or --all says otherwise
    Bindings(BindingsArgs),
    /// Pools of external addresses
    Pools,
    /// Next hops and their station addresses
    Neighbours,
    /// The forwarding table
    Routes,
    /// The firewall's static rules, and how many first packets each decided
    Firewall,
    /// Dropped packets by reason
    Drops {
        /// Show the reasons without drops too
        #[arg(long)]
        all: bool,
    },
    /// Rules of every front end, at most 1000 unless --limit or --all says otherwise
    Rules(RulesArgs),
    /// Groups of rules, at most 1000 unless --limit or --all says otherwise
    Groups {
        /// How many.
        #[command(flatten)]
        extent: Extent,
    },
    /// Agents: who may make rules, and who has some
    Agents,
    /// Open sessions of agents
    Sessions,
    /// The configuration in force
    Config,
}

/// How many rows.
#[derive(Clone, Copy, Debug, Args)]
pub struct Extent {
    /// Most rows to show
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "all")]
    pub limit: Option<u64>,
    /// Show every row
    #[arg(long)]
    pub all: bool,
}

impl Extent {
    /// Rows shown where neither option is given.
    pub const DEFAULT: u64 = 1000;

    /// Most rows; `None` for every one.
    #[must_use]
    pub fn cap(&self) -> Option<u64> {
        if self.all { None } else { Some(self.limit.unwrap_or(Self::DEFAULT)) }
    }
}

/// Which flows.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Inside address or prefix
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    subscriber: Option<Prefix>,
    /// Protocol, by name or number
    #[arg(long)]
    protocol: Option<Protocol>,
    /// TCP state; none for other protocols
    #[arg(long, value_parser = state_parser())]
    state: Option<FlowState>,
    /// External address and port
    #[arg(long, value_name = "[ADDRESS][:PORT]")]
    external: Option<EndpointPattern>,
    /// Remote address and port
    #[arg(long, value_name = "[ADDRESS][:PORT]")]
    remote: Option<EndpointPattern>,
    /// How many.
    #[command(flatten)]
    pub extent: Extent,
}

impl FlowsArgs {
    /// As the control plane takes it.
    #[must_use]
    pub const fn filter(&self) -> FlowFilter {
        FlowFilter {
            subscriber: self.subscriber,
            protocol: self.protocol,
            state: self.state,
            external: self.external,
            remote: self.remote,
        }
    }
}

/// Which bindings.
#[derive(Debug, Args)]
pub struct BindingsArgs {
    /// Inside address or prefix
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    subscriber: Option<Prefix>,
    /// Protocol, by name or number
    #[arg(long)]
    protocol: Option<Protocol>,
    /// External address and port
    #[arg(long, value_name = "[ADDRESS][:PORT]")]
    external: Option<EndpointPattern>,
    /// Pinholes alone
    #[arg(long)]
    pinholes: bool,
    /// How many.
    #[command(flatten)]
    pub extent: Extent,
}

impl BindingsArgs {
    /// As the control plane takes it.
    #[must_use]
    pub const fn filter(&self) -> BindingFilter {
        BindingFilter {
            subscriber: self.subscriber,
            protocol: self.protocol,
            external: self.external,
            pinholes: self.pinholes,
        }
    }
}

/// Which rules.
#[derive(Debug, Args)]
pub struct RulesArgs {
    /// Internal address or prefix
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    subscriber: Option<Prefix>,
    /// Protocol, by name or number
    #[arg(long)]
    protocol: Option<Protocol>,
    /// Owner, such as simco:NAME, or a front end alone: cli, simco, pcp, nat-pmp, turn
    #[arg(long)]
    owner: Option<String>,
    /// Group
    #[arg(long)]
    group: Option<u32>,
    /// How many.
    #[command(flatten)]
    pub extent: Extent,
}

impl RulesArgs {
    /// As the control plane takes it.
    #[must_use]
    pub fn filter(&self) -> RuleFilter {
        RuleFilter {
            subscriber: self.subscriber,
            protocol: self.protocol,
            owner: self.owner.clone(),
            group: self.group,
        }
    }
}

/// What to do with rules.
#[derive(Debug, Subcommand)]
pub enum RuleAction {
    /// End a rule, whoever owns it; who may act on it is told
    Delete {
        /// The rule's id
        id: u32,
    },
}

/// What to do with pinholes.
#[derive(Debug, Subcommand)]
pub enum PinholeAction {
    /// Open a pinhole; it stays across restarts until it is removed or its lifetime ends
    Add(PinholeArgs),
    /// List the pinholes
    List,
    /// Close a pinhole and cut the flows that use it
    Remove {
        /// The pinhole's id
        id: u64,
    },
}

/// A protocol that a pinhole can be for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A new pinhole.
#[derive(Debug, Args)]
pub struct PinholeArgs {
    /// Protocol
    #[arg(long)]
    protocol: Transport,
    /// The inside host's address and port; IPv6 as [ADDRESS]:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    inside: Endpoint,
    /// External address, port or both; the box chooses what is left out
    #[arg(long, value_name = "[ADDRESS][:PORT]")]
    external: Option<EndpointPattern>,
    /// Who may use it; everybody if left out
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    remote: Option<Prefix>,
    /// From which remote ports; all if left out
    #[arg(long, value_name = "A-B")]
    remote_ports: Option<PortRange>,
    /// Seconds until it ends by itself; never if left out
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    lifetime: Option<u32>,
    /// Pool of the external address; the one of the NAT rules if left out
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

impl PinholeArgs {
    /// As the control plane takes it.
    #[must_use]
    pub fn request(&self) -> PinholeAdd {
        PinholeAdd {
            protocol: match self.protocol {
                Transport::Tcp => PinholeProtocol::Tcp,
                Transport::Udp => PinholeProtocol::Udp,
            },
            inside: self.inside,
            external: self.external,
            remote: self.remote,
            remote_ports: self.remote_ports,
            lifetime_seconds: self.lifetime,
            pool: self.pool.clone(),
            note: self.note.clone(),
        }
    }
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Check a file and print everything that is wrong with it; asks no daemon
    Check {
        /// The file
        file: PathBuf,
    },
    /// Have the control plane read its file again; a wrong one changes nothing
    Reload,
}

/// How to watch.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print the screen once as plain text
    #[arg(long)]
    pub once: bool,
    /// Seconds between refreshes
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
}

/// A shell that completions can be made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// States by name, known to completions too.
fn state_parser() -> impl TypedValueParser<Value = FlowState> {
    PossibleValuesParser::new(TcpState::ALL.iter().map(|state| state.name()))
        .try_map(|name| name.parse::<FlowState>())
}

/// Seconds, with or without a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.01..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("allowed are 0.01 to 86400 seconds".to_owned())
    }
}
