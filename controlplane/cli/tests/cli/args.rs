//! The command tree itself.

use clap::{CommandFactory, Parser};
use std::time::Duration;
use turnpike_cli::args::{Cli, Command, Extent, Show};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("turnpike").chain(line.split_whitespace()))
}

#[test]
fn the_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_stand_anywhere() {
    for line in [
        "--socket /tmp/s --json --timeout 2.5 -q show flows",
        "show --socket /tmp/s --json --timeout 2.5 -q flows",
        "show flows --socket /tmp/s --json --timeout 2.5 --quiet",
    ] {
        let cli = parse(line).unwrap();
        assert_eq!(cli.socket.to_str(), Some("/tmp/s"));
        assert!(cli.json && cli.quiet);
        assert_eq!(cli.timeout, Duration::from_millis(2500));
    }
    let cli = parse("version").unwrap();
    assert_eq!(cli.socket.to_str(), Some(turnpike_api::DEFAULT_SOCKET));
    assert!(!cli.json && !cli.quiet && cli.timeout == Duration::from_secs(10));
}

#[test]
fn how_many_rows() {
    let cap = |line: &str| match parse(line).unwrap().command {
        Command::Show { what: Show::Flows(args) } => args.extent.cap(),
        Command::Show { what: Show::Bindings(args) } => args.extent.cap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(cap("show flows"), Some(Extent::DEFAULT));
    assert_eq!(cap("show flows --limit 5"), Some(5));
    assert_eq!(cap("show flows --limit 5000"), Some(5000));
    assert_eq!(cap("show bindings --all"), None);
}

#[test]
fn every_line_of_the_manual_parses() {
    for line in [
        "show status",
        "show ports",
        "show workers",
        "show flows --subscriber 192.168.0.10 --protocol icmp --state none --external 203.0.113.16 --remote :443",
        "show flows --subscriber fd00:1::/64 --protocol 132 --all",
        "show bindings --subscriber 192.168.0.0/16 --external 203.0.113.16:40000 --pinholes --limit 10",
        "show pools",
        "show neighbours",
        "show routes",
        "show drops --all",
        "show config",
        "pinhole add --protocol tcp --inside 192.168.0.20:22",
        "pinhole add --protocol tcp --inside 192.168.0.20:22 --external 203.0.113.18",
        "pinhole add --protocol tcp --inside 192.168.0.20:22 --external 203.0.113.18:2222 --remote 198.51.100.9",
        "pinhole add --protocol udp --inside [fd00:1::20]:53 --remote ::/0 --remote-ports 53 --lifetime 1",
        "pinhole list",
        "show rules",
        "show rules --owner simco:proxy.example --subscriber 192.168.0.0/24 --protocol udp --group 7 --all",
        "show groups --limit 5",
        "show agents",
        "show sessions",
        "rule delete 4294967295",
        "pinhole remove 18446744073709551615",
        "nat forward 100.64.0.9",
        "nat reverse 203.0.113.16 40000 --time 2026-11-21T03:20:00Z",
        "config check turnpike.toml",
        "config reload",
        "top",
        "top --once",
        "top --interval 0.5",
        "version",
        "completions bash",
        "completions zsh",
        "completions fish",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn refusals_name_what_is_wrong() {
    for (line, named) in [
        ("show flows --subscriber 192.168.0.77/24", "did you mean 192.168.0.0/24"),
        ("show flows --subscriber ::ffff:192.0.2.1", "IPv4 address itself"),
        ("show flows --state open", "established"),
        ("show flows --protocol tpc", "tcp, udp, icmp"),
        ("show flows --external host:80", "ADDRESS:PORT"),
        ("show flows --limit 1 --all", "cannot be used with"),
        ("show flwos", "flows"),
        ("pinhole add --protocol icmp --inside 192.168.0.20:22", "tcp, udp"),
        ("pinhole add --protocol tcp --inside 192.168.0.20", "[2001:db8::10]:443"),
        ("pinhole add --protocol tcp --inside 192.168.0.20:22 --lifetime 0", "1.."),
        ("pinhole add --protocol tcp --inside 192.168.0.20:22 --remote-ports 9-1", "1024-2047"),
        ("--timeout 0 version", "0.01 to 86400"),
        ("--timeout nan version", "0.01 to 86400"),
        ("--timeout soon version", "number of seconds"),
        ("completions tcsh", "bash, zsh, fish"),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(named), "{line}: {error}");
    }
}
