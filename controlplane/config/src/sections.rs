//! Reads each section of the document into the model. A value that is left out gets its default, one that
//! is wrong a stand-in: the document remembers which, and the checks pass over those.

use crate::midcom;
use crate::model::{
    Action, Config, Control, DEFAULT_MTU, Dataplane, Family, Filtering, Log, Nat, NatTarget, Options, Policy,
    Poll, Pool, Port, Route, Rule, Side, Timeouts, Vlan, Zone, ZoneMatch,
};
use crate::read::{Document, Section, boolean, integer, quoted, text};
use crate::value::{Name, Protocol, Refusal, Seconds, TapName};
use crate::{InterfaceAddress, Network, PortRange};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use toml::de::{DeTable, DeValue};
use turnpike_abi::table::{MAX_FRAGMENTS_WAITING, PoolRecord};

/// Longest path of a unix socket: `sun_path` less its terminator.
const LONGEST_SOCKET: usize = 107;
const LARGEST_TABLE: i64 = 1 << 28;
const LONGEST_TIMEOUT: i64 = 7 * 24 * 3600;
const MOST_WAITING: i64 = MAX_FRAGMENTS_WAITING as i64;
const LONGEST_QUARANTINE: i64 = PoolRecord::MAX_QUARANTINE as i64;
const MOST_FLOWS_A_SECOND: i64 = 1_000_000;

pub(crate) fn config<'t>(root: &DeTable<'t>, document: &mut Document<'t>) -> Config {
    let mut root = Section::root(root, document);
    let config = Config {
        dataplane: root.table("dataplane", dataplane),
        control: root.table("control", control),
        ports: root.tables("port", port),
        zones: root.tables("zone", zone),
        routes: root.tables("route", route),
        pools: root.tables("pool", pool),
        nat: root.tables("nat", nat),
        policies: root.tables("policy", policy),
        rules: root.tables("rule", rule),
        timeouts: root.table("timeouts", timeouts),
        options: root.table("options", options),
        log: root.table("log", log),
        midcom: root.table("midcom", midcom::midcom),
        agents: root.tables("agent", midcom::agent),
        simco: root.table("simco", crate::simco::simco),
        pcp: root.table("pcp", midcom::pcp),
        third_parties: root.tables("third_party", midcom::third_party),
    };
    root.finish();
    config
}

fn dataplane(section: &mut Section<'_, '_>) -> Dataplane {
    let default = Dataplane::default();
    let table_size = || integer(1024..=LARGEST_TABLE);
    Dataplane {
        cores: section
            .required_list(
                "cores",
                "name a processor core for each worker, such as [1, 2]",
                integer(0..=1023),
            )
            .unwrap_or_default(),
        poll: section
            .optional("poll", |value| {
                let modes = [("busy", Poll::Busy), ("adaptive", Poll::Adaptive)];
                word(value, &modes, "is not a poll mode: write \"busy\" or \"adaptive\"")
            })
            .unwrap_or(default.poll),
        no_huge: section.optional("no_huge", boolean).unwrap_or(default.no_huge),
        memory: section.optional("memory", text).unwrap_or(default.memory),
        buffers: section.optional("buffers", integer(1024..=1 << 23)).unwrap_or(default.buffers),
        flows: section.optional("flows", table_size()).unwrap_or(default.flows),
        flows_v6: section.optional("flows_v6", table_size()).unwrap_or(default.flows_v6),
        bindings: section.optional("bindings", table_size()).unwrap_or(default.bindings),
        state: section.optional("state", absolute_path),
        socket: section.optional("socket", socket).unwrap_or(default.socket),
        control_user: section.optional("control_user", user).unwrap_or(default.control_user),
        eal: section
            .list("eal", "write [\"ARGUMENT\", ...]", |value| argument(value, "is not an EAL argument"))
            .unwrap_or(default.eal),
    }
}

fn control(section: &mut Section<'_, '_>) -> Control {
    let default = Control::default();
    Control {
        socket: section.optional("socket", socket).unwrap_or(default.socket),
        metrics: section.optional("metrics", text).unwrap_or(default.metrics),
        state: section.optional("state", absolute_path).unwrap_or(default.state),
    }
}

fn port(section: &mut Section<'_, '_>) -> Port {
    let name = section.required("name", "name the port", text).unwrap_or(Name::UNREAD);
    let device = "give a PCI address or a DPDK device string, such as \"net_af_packet0,iface=eth1\"";
    let device = section
        .required("device", device, |value| argument(value, "is not a DPDK device"))
        .unwrap_or_default();
    let zone: Option<Name> = section.optional("zone", text);
    let addresses = addresses(section);
    let mtu = mtu(section).unwrap_or(DEFAULT_MTU);
    let mac = section.optional("mac", text);
    let mut tap = section.optional("tap", text);
    let untagged = section.has("zone") || section.has("addresses") && !addresses.is_empty();
    if untagged && tap.is_none() {
        tap = Some(default_tap(section, &name));
    }
    let vlans = section.tables("vlan", |section| vlan(section, mtu));
    Port { name, device, zone, addresses, mtu, mac, tap, vlans }
}

fn vlan(section: &mut Section<'_, '_>, port_mtu: u16) -> Vlan {
    let id = section.required("id", "give the VLAN id, 1 to 4094", integer(1..=4094));
    let name = section.required("name", "name the interface", text).unwrap_or(Name::UNREAD);
    Vlan {
        id: id.unwrap_or_default(),
        zone: section.optional("zone", text),
        addresses: addresses(section),
        mtu: mtu(section).unwrap_or(port_mtu),
        tap: section.optional("tap", text).unwrap_or_else(|| default_tap(section, &name)),
        name,
    }
}

fn addresses(section: &mut Section<'_, '_>) -> Vec<InterfaceAddress> {
    section.list("addresses", "write [\"ADDRESS/LENGTH\", ...]", text).unwrap_or_default()
}

fn mtu(section: &mut Section<'_, '_>) -> Option<u16> {
    section.optional("mtu", integer(68..=9600))
}

fn default_tap(section: &mut Section<'_, '_>, interface: &Name) -> TapName {
    if interface.is_unread() || section.has("tap") {
        return TapName::UNREAD;
    }
    TapName::default_of(interface).unwrap_or_else(|refusal| {
        let name = quoted(&format!("tp-{interface}"));
        section.cannot_default("tap", "name", format!("is missing, and {name}, its default, {refusal}"));
        TapName::UNREAD
    })
}

fn zone(section: &mut Section<'_, '_>) -> Zone {
    let sides = [("inside", Side::Inside), ("outside", Side::Outside)];
    Zone {
        name: section
            .required("name", "name the zone", |value| match text::<Name>(value)? {
                name if name.as_str() == "any" => {
                    Err("is reserved: in rules it stands for every zone".into())
                }
                name => Ok(name),
            })
            .unwrap_or(Name::UNREAD),
        side: section
            .required("side", "write \"inside\" (subscribers) or \"outside\"", |value| {
                word(value, &sides, "is not a side: write \"inside\" or \"outside\"")
            })
            .unwrap_or(Side::Inside),
    }
}

fn route(section: &mut Section<'_, '_>) -> Route {
    let via = |value: &DeValue<'_>| {
        let via: Option<IpAddr> = value.as_str().and_then(|text| text.parse().ok());
        via.ok_or(Refusal::from("is not an address: write the next hop, such as \"192.0.2.1\""))
    };
    Route {
        destination: section
            .required("destination", "write a prefix, such as \"0.0.0.0/0\"", text)
            .unwrap_or(Network::ANY_V4),
        via: section
            .required("via", "write the address of the next hop", via)
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    }
}

fn pool(section: &mut Section<'_, '_>) -> Pool {
    Pool {
        name: section.required("name", "name the pool", text).unwrap_or(Name::UNREAD),
        addresses: section
            .required_list("addresses", "list IPv4 addresses, prefixes and ranges", text)
            .unwrap_or_default(),
        ports: section.optional("ports", text).unwrap_or(Pool::DEFAULT_PORTS),
        zone: section.required("zone", "name the zone its addresses face", text).unwrap_or(Name::UNREAD),
        proxy_arp: section.optional("proxy_arp", boolean).unwrap_or(true),
        filtering: section
            .optional("filtering", |value| {
                let refusal = "is not a filtering: write \"endpoint-independent\", \"address-dependent\" or \"address-and-port-dependent\"";
                word(value, &FILTERINGS, refusal)
            })
            .unwrap_or(Filtering::EndpointIndependent),
        parity: section.optional("parity", boolean).unwrap_or(false),
        block_size: section.optional("block_size", block_size).unwrap_or(Pool::DEFAULT_BLOCK_SIZE),
        blocks: section.optional("blocks", integer(0..=1024)).unwrap_or(Pool::DEFAULT_BLOCKS),
        subscriber_ports: section.optional("subscriber_ports", integer(0..=65_536)).unwrap_or(0),
        subscriber_flows: section.optional("subscriber_flows", integer(0..=LARGEST_TABLE)).unwrap_or(0),
        subscriber_rate: section.optional("subscriber_rate", integer(0..=MOST_FLOWS_A_SECOND)).unwrap_or(0),
        subscriber_burst: section.optional("subscriber_burst", integer(0..=MOST_FLOWS_A_SECOND)).unwrap_or(0),
        quarantine: section
            .optional("quarantine", integer(0..=LONGEST_QUARANTINE))
            .map_or(Pool::DEFAULT_QUARANTINE, Seconds),
        quarantine_tcp: section
            .optional("quarantine_tcp", integer(0..=LONGEST_QUARANTINE))
            .map_or(Pool::DEFAULT_QUARANTINE_TCP, Seconds),
        quarantine_ports: section
            .optional("quarantine_ports", integer(0..=u32::MAX.into()))
            .unwrap_or(Pool::DEFAULT_QUARANTINE_PORTS),
        deterministic: section.optional("deterministic", text),
        dynamic: section.optional("dynamic", integer(0..=1024)).unwrap_or(Pool::DEFAULT_DYNAMIC),
    }
}

/// How filterings are written.
const FILTERINGS: [(&str, Filtering); 3] = [
    ("endpoint-independent", Filtering::EndpointIndependent),
    ("address-dependent", Filtering::AddressDependent),
    ("address-and-port-dependent", Filtering::AddressAndPortDependent),
];

fn block_size(value: &DeValue<'_>) -> Result<u16, Refusal> {
    let size: u16 = integer(64..=4096)(value)?;
    let refusal = "is not a power of two: write 64, 128, 256, 512, 1024, 2048 or 4096";
    if size.is_power_of_two() { Ok(size) } else { Err(refusal.into()) }
}

fn nat(section: &mut Section<'_, '_>) -> Nat {
    let what = "name a zone, or write \"any\"";
    let from = section.required("from", what, zone_match).unwrap_or(ZoneMatch::Any);
    let to = section.required("to", what, zone_match).unwrap_or(ZoneMatch::Any);
    let source = section.optional("source", ipv4_network).unwrap_or(Network::ANY_V4);
    let destination = section.optional("destination", ipv4_network).unwrap_or(Network::ANY_V4);
    let pool: Option<Name> = section.optional("pool", text);
    let exempt = section.optional("action", |value| {
        let refusal = "is not an action of a NAT rule: write \"exempt\", or name a pool instead";
        word(value, &[("exempt", ())], refusal)
    });
    match (section.has("pool"), section.has("action")) {
        (true, true) => {
            section.refuse("action", "\"exempt\" and a pool exclude each other: give one of them")
        }
        (false, false) => section.refuse("pool", "is missing: name a pool, or write action = \"exempt\""),
        _ => {}
    }
    let target = match (pool, exempt) {
        (Some(pool), _) => NatTarget::Pool(pool),
        (None, Some(())) => NatTarget::Exempt,
        (None, None) => NatTarget::Pool(Name::UNREAD),
    };
    Nat { from, to, source, destination, target }
}

fn policy(section: &mut Section<'_, '_>) -> Policy {
    Policy {
        from: section.required("from", "name a zone", text).unwrap_or(Name::UNREAD),
        to: section.required("to", "name a zone", text).unwrap_or(Name::UNREAD),
        default: section.required("default", ACTIONS, action).unwrap_or(Action::Drop),
    }
}

fn rule(section: &mut Section<'_, '_>) -> Rule {
    Rule {
        from: section.optional("from", zone_match).unwrap_or(ZoneMatch::Any),
        to: section.optional("to", zone_match).unwrap_or(ZoneMatch::Any),
        family: section.optional("family", |value| match integer(4..=6)(value) {
            Ok(4_u8) => Ok(Family::V4),
            Ok(6) => Ok(Family::V6),
            _ => Err("is not a family: write 4 or 6".into()),
        }),
        protocol: section.optional("protocol", protocol),
        icmp_type: section.optional("icmp_type", integer(0..=255)),
        icmp_code: section.optional("icmp_code", integer(0..=255)),
        source: section.optional("source", text),
        destination: section.optional("destination", text),
        source_ports: section.optional("source_ports", text::<PortRange>),
        destination_ports: section.optional("destination_ports", text::<PortRange>),
        action: section.required("action", ACTIONS, action).unwrap_or(Action::Drop),
    }
}

fn timeouts(section: &mut Section<'_, '_>) -> Timeouts {
    let default = Timeouts::default();
    let mut seconds =
        |key, default| section.optional(key, integer(1..=LONGEST_TIMEOUT)).map_or(default, Seconds);
    Timeouts {
        udp: seconds("udp", default.udp),
        icmp: seconds("icmp", default.icmp),
        tcp_established: seconds("tcp_established", default.tcp_established),
        tcp_opening: seconds("tcp_opening", default.tcp_opening),
        tcp_closing: seconds("tcp_closing", default.tcp_closing),
        other: seconds("other", default.other),
        fragment: section.optional("fragment", integer(2..=60)).map_or(default.fragment, Seconds),
        neighbour_wait_ms: section
            .optional("neighbour_wait_ms", integer(10..=60_000))
            .unwrap_or(default.neighbour_wait_ms),
    }
}

fn options(section: &mut Section<'_, '_>) -> Options {
    let default = Options::default();
    let mut switch = |key, default| section.optional(key, boolean).unwrap_or(default);
    Options {
        udp_inbound_refresh: switch("udp_inbound_refresh", default.udp_inbound_refresh),
        reverse_path: switch("reverse_path", default.reverse_path),
        mss_clamp: switch("mss_clamp", default.mss_clamp),
        allow_noncompliant: switch("allow_noncompliant", default.allow_noncompliant),
        icmp_rate: section.optional("icmp_rate", integer(0..=1_000_000)).unwrap_or(default.icmp_rate),
        fragments_waiting: section
            .optional("fragments_waiting", integer(0..=MOST_WAITING))
            .unwrap_or(default.fragments_waiting),
        fragments_per_source: section
            .optional("fragments_per_source", integer(1..=4096))
            .unwrap_or(default.fragments_per_source),
    }
}

fn log(section: &mut Section<'_, '_>) -> Log {
    let default = Log::default();
    let mut switch = |key, default| section.optional(key, boolean).unwrap_or(default);
    let log = Log {
        blocks: switch("blocks", default.blocks),
        flows: switch("flows", default.flows),
        destinations: switch("destinations", default.destinations),
        file: section.optional("file", absolute_path),
    };
    if log.destinations && !log.flows {
        section.refuse("destinations", "needs flows = true: only the lines of flows have a remote end");
    }
    log
}

/// One of a few words.
pub(crate) fn word<T: Copy>(
    value: &DeValue<'_>,
    words: &[(&str, T)],
    refusal: &'static str,
) -> Result<T, Refusal> {
    let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
    found.map(|(_, meaning)| *meaning).ok_or(refusal.into())
}

const ACTIONS: &str = "write \"accept\", \"drop\" or \"reject\"";

fn action(value: &DeValue<'_>) -> Result<Action, Refusal> {
    let actions = [("accept", Action::Accept), ("drop", Action::Drop), ("reject", Action::Reject)];
    word(value, &actions, "is not an action: write \"accept\", \"drop\" or \"reject\"")
}

fn zone_match(value: &DeValue<'_>) -> Result<ZoneMatch, Refusal> {
    Ok(match text::<Name>(value)? {
        name if name.as_str() == "any" => ZoneMatch::Any,
        name => ZoneMatch::Zone(name),
    })
}

fn ipv4_network(value: &DeValue<'_>) -> Result<Network, Refusal> {
    let network: Network = text(value)?;
    if network.is_v4() {
        Ok(network)
    } else {
        Err("is IPv6: NAT rules are for IPv4, IPv6 is forwarded without translation".into())
    }
}

pub(crate) fn protocol(value: &DeValue<'_>) -> Result<Protocol, Refusal> {
    match value {
        DeValue::String(name) => name.parse(),
        value => match integer::<u8>(0..=255)(value) {
            Ok(number) => Ok(Protocol::Number(number)),
            Err(_) => Err(Protocol::REFUSAL.into()),
        },
    }
}

/// A string that goes to DPDK: not empty, without control characters.
fn argument(value: &DeValue<'_>, refusal: &'static str) -> Result<String, Refusal> {
    let fits = |text: &&str| !text.trim().is_empty() && !text.chars().any(char::is_control);
    value.as_str().filter(fits).map(str::to_owned).ok_or_else(|| {
        Refusal::from(format!("{refusal}: write a string that is not empty and has no control characters"))
    })
}

pub(crate) fn absolute_path(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let fits = |text: &&str| text.starts_with('/') && !text.chars().any(char::is_control);
    value.as_str().filter(fits).map(PathBuf::from).ok_or("is not a path: write one that begins with /".into())
}

fn socket(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let path = absolute_path(value)?;
    match path.as_os_str().len() {
        length if length > LONGEST_SOCKET => {
            Err(format!("has {length} bytes: the path of a unix socket has at most {LONGEST_SOCKET}").into())
        }
        _ => Ok(path),
    }
}

fn user(value: &DeValue<'_>) -> Result<String, Refusal> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    let fits = |text: &&str| (1..=31).contains(&text.len()) && text.bytes().all(allowed);
    value
        .as_str()
        .filter(fits)
        .map(str::to_owned)
        .ok_or("is not the name of a user: write 1 to 31 characters of a-z, 0-9, _ and -".into())
}
