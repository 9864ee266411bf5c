//! The commands of an agent.

use clap::{Args, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use turnpike_simco::{Ends, IpVersion, Location, Tuple, has_ports};

const ABOUT: &str = "\
Connects to a middlebox over SIMCO (RFC 4540), in clear text or with --certificate, --key and --authorities over
TLS, and acts as an agent. Rules live on when the command is done.

Exit codes beside the common ones: 3 no such rule or group, 5 the middlebox refuses the agent or the
transaction, 6 no session, 8 it contradicts a rule that is there.";

/// `turnpike midcom`.
#[derive(Debug, Args)]
#[command(after_help = ABOUT)]
pub struct MidcomArgs {
    /// The middlebox's host and port
    #[arg(
        long = "box",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7626",
        help_heading = "Connection"
    )]
    pub middlebox: String,
    /// The agent's certificate, PEM
    #[arg(long, value_name = "FILE", requires_all = ["key", "authorities"], help_heading = "Connection")]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate", help_heading = "Connection")]
    pub key: Option<PathBuf>,
    /// Authorities of the middlebox's certificate, PEM
    #[arg(long, value_name = "FILE", requires = "certificate", help_heading = "Connection")]
    pub authorities: Option<PathBuf>,
    /// The name in the middlebox's certificate; its host if left out
    #[arg(long, value_name = "NAME", requires = "certificate", help_heading = "Connection")]
    pub server_name: Option<String>,
    /// The agent's name where it proves itself by a key
    #[arg(long, value_name = "NAME", requires = "agent_key", help_heading = "Connection")]
    pub agent: Option<String>,
    /// The file of that key
    #[arg(long, value_name = "FILE", requires = "agent", help_heading = "Connection")]
    pub agent_key: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do as an agent.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Open a session, show what the middlebox can do, and close it
    Session,
    /// Reserve an outside address and ports (PRR)
    Reserve(ReserveArgs),
    /// Enable communication (PER)
    Enable(EnableArgs),
    /// Enable communication through what was reserved (PEA)
    EnableReserved {
        /// The reserve rule
        rule: u32,
        /// What to enable.
        #[command(flatten)]
        enable: EnableArgs,
    },
    /// Change the lifetime of a rule (PLC)
    Extend {
        /// The rule
        rule: u32,
        /// Seconds from now
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        lifetime: u32,
    },
    /// Delete a rule (PLC with lifetime 0)
    Delete {
        /// The rule
        rule: u32,
    },
    /// List the rules the agent may access (PRL, and PRS of each)
    List,
    /// Show a rule (PRS)
    Status {
        /// The rule
        rule: u32,
    },
    /// List the groups the agent may access (GL, an extension)
    Groups,
    /// Change the lifetime of all rules of a group, 0 deletes them (GLC, an extension)
    ExtendGroup {
        /// The group
        group: u32,
        /// Seconds from now
        lifetime: u32,
    },
    /// Print an authorization token, which lets its bearer open what it could not (an extension); asks no middlebox
    Token(TokenArgs),
    /// Print notifications as they come, with --json one JSON object a line; a lost session is opened again
    Watch {
        /// End after so many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
}

/// What a token permits.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The file of the key that the middlebox knows as simco.token_key
    #[arg(long, value_name = "FILE")]
    pub token_key: PathBuf,
    /// The inside host, or prefix
    #[arg(long, value_name = "ADDRESS")]
    pub internal: End,
    /// The outside hosts: ADDRESS[/LENGTH], or any
    #[arg(long, value_name = "ADDRESS", default_value = "any")]
    pub external: End,
    /// Protocol, by name or number; any: every one
    #[arg(long, default_value = "any")]
    pub protocol: Protocol,
    /// The longest lifetime of a rule, seconds
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub lifetime: u32,
    /// How many rules may be enabled with it
    #[arg(long, value_name = "N", default_value = "2")]
    pub rules: u32,
    /// Seconds until it expires
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub valid: u32,
}

/// A token as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText(pub Vec<u8>);

impl FromStr for TokenText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a token: write what `turnpike midcom token` prints".to_owned();
        if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let pair = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let octets: Option<Vec<u8>> = pairs.iter().map(|digits| pair(digits)).collect();
        octets.filter(|_| rest.is_empty()).map(Self).ok_or_else(wrong)
    }
}

/// Parity of reserved ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Parity {
    /// Odd or even.
    Any,
    /// The lowest is odd.
    Odd,
    /// The lowest is even.
    Even,
}

/// What to reserve.
#[derive(Debug, Args)]
pub struct ReserveArgs {
    /// Protocol, by name or number; any reserves an address alone
    #[arg(long)]
    pub protocol: Protocol,
    /// Consecutive ports
    #[arg(long, value_name = "N", default_value = "1")]
    pub ports: u16,
    /// Parity of the lowest
    #[arg(long, default_value = "any")]
    pub parity: Parity,
    /// Seconds it is kept
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub lifetime: u32,
    /// The group it joins; a new one if left out
    #[arg(long, value_name = "ID")]
    pub group: Option<u32>,
    /// The host it is for, if it is known already; an extension
    #[arg(long, value_name = "ADDRESS")]
    pub internal: Option<IpAddr>,
    /// The zone of that host; an extension
    #[arg(long, value_name = "NAME")]
    pub realm: Option<String>,
    /// An authorization token, for a host that the agent itself may not open for; an extension
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<TokenText>,
    /// IP version
    #[arg(long, value_name = "4|6", value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: Option<u8>,
}

/// Which way the first packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// From outside; UDP that way only.
    In,
    /// From inside; UDP that way only.
    Out,
    /// Both.
    Both,
}

/// Whom the first packet locks a pinhole to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lock {
    /// The first external address.
    Address,
    /// The first external address and port.
    Endpoint,
}

/// What to enable.
#[derive(Debug, Args)]
pub struct EnableArgs {
    /// Protocol, by name or number
    #[arg(long)]
    pub protocol: Protocol,
    /// The inside host: ADDRESS:PORT, IPv6 as [ADDRESS]:PORT
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub internal: End,
    /// The outside host: ADDRESS[/LENGTH][:PORT], or any; without port all ports
    #[arg(long, value_name = "ADDRESS[:PORT]", default_value = "any")]
    pub external: End,
    /// Which way the first packet goes
    #[arg(long, default_value = "in")]
    pub direction: Way,
    /// Consecutive ports, from those given
    #[arg(long, value_name = "N", default_value = "1")]
    pub ports: u16,
    /// Odd ports stay odd outside, and even ones even
    #[arg(long)]
    pub same_parity: bool,
    /// Seconds until it ends by itself
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub lifetime: u32,
    /// The group it joins; a new one if left out
    #[arg(long, value_name = "ID")]
    pub group: Option<u32>,
    /// The zone of the inside host; an extension
    #[arg(long, value_name = "NAME")]
    pub realm: Option<String>,
    /// The outside address and port one would like; an extension
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub outside: Option<End>,
    /// That one or none
    #[arg(long, requires = "outside")]
    pub strict: bool,
    /// The first source keeps the pinhole for itself; an extension
    #[arg(long)]
    pub lock: Option<Lock>,
    /// Most flows at a time; an extension
    #[arg(long, value_name = "N")]
    pub max_flows: Option<u16>,
    /// It ends with its connection; an extension
    #[arg(long)]
    pub close_on_fin: bool,
    /// An authorization token, for what the agent itself may not open; an extension
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<TokenText>,
    /// Seconds without a packet after which it ends; an extension
    #[arg(long, value_name = "SECONDS")]
    pub idle: Option<u32>,
}

/// A protocol by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

const NAMES: [(&str, u8); 9] = [
    ("any", 0),
    ("tcp", 6),
    ("udp", 17),
    ("6in4", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("mobile", 55),
    ("sctp", 132),
];

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = NAMES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
        named
            .or_else(|| text.parse().ok())
            .map(Self)
            .ok_or_else(|| "not a protocol: write tcp, udp, 6in4, gre, esp, any or a number".to_owned())
    }
}

/// A protocol as it is written.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    let named = NAMES.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// An address or prefix with or without a port; or anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Address and prefix length; none: any.
    pub address: Option<(IpAddr, u8)>,
    /// 0: every port.
    pub port: u16,
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not an end: write ADDRESS[/LENGTH][:PORT], [IPV6]:PORT or any".to_owned();
        if text == "any" {
            return Ok(Self { address: None, port: 0 });
        }
        // An IPv6 address with a port stands in brackets.
        let (network, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((network, "")) => (network, None),
            Some((network, rest)) => (network, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
            None if text.matches(':').count() == 1 => {
                let (network, port) = text.split_once(':').ok_or_else(wrong)?;
                (network, Some(port))
            }
            None => (text, None),
        };
        let (address, length) = match network.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (network, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = IpVersion::of(address).bits();
        let length = match length {
            Some(length) => length.parse().ok().filter(|&length| length <= bits).ok_or_else(wrong)?,
            None => bits,
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None => 0,
        };
        Ok(Self { address: Some((address, length)), port })
    }
}

impl End {
    /// As an address tuple; anybody is of `version`.
    #[must_use]
    pub fn tuple(&self, location: Location, protocol: u8, range: u16, version: IpVersion) -> Tuple {
        let Some((address, prefix)) = self.address else {
            return Tuple::protocols_only(location, protocol, version);
        };
        let range = if has_ports(protocol) { range } else { 1 };
        Tuple { location, protocol, ends: Ends::Full { address, prefix, port: self.port, range } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Option<(Option<(String, u8)>, u16)> {
        let end: End = text.parse().ok()?;
        Some((end.address.map(|(address, length)| (address.to_string(), length)), end.port))
    }

    #[test]
    fn ends_are_read() {
        let full = |address: &str, length, port| Some((Some((address.to_owned(), length)), port));
        assert_eq!(end("any"), Some((None, 0)));
        assert_eq!(end("192.0.2.1:80"), full("192.0.2.1", 32, 80));
        assert_eq!(end("192.0.2.1"), full("192.0.2.1", 32, 0));
        assert_eq!(end("192.0.2.0/24:5004"), full("192.0.2.0", 24, 5004));
        assert_eq!(end("2001:db8::1"), full("2001:db8::1", 128, 0));
        assert_eq!(end("2001:db8::/32"), full("2001:db8::", 32, 0));
        assert_eq!(end("[2001:db8::1]:443"), full("2001:db8::1", 128, 443));
        assert_eq!(end("[2001:db8::/64]:443"), full("2001:db8::", 64, 443));
        for wrong in
            ["", "host:80", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.1/33", "[::1]443", "[::1", "1:2:3"]
        {
            assert_eq!(end(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tokens_are_read() {
        assert_eq!("00fF10".parse(), Ok(TokenText(vec![0, 255, 16])));
        for wrong in ["", "0", "0g", "+1", "zürich"] {
            assert!(wrong.parse::<TokenText>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn protocols_are_read() {
        assert_eq!("udp".parse(), Ok(Protocol(17)));
        assert_eq!("132".parse(), Ok(Protocol(132)));
        assert!("256".parse::<Protocol>().is_err());
        assert_eq!([protocol_name(6), protocol_name(200)], ["tcp", "200"]);
    }
}
