//! Sections 8.2.1 and 8.3.1: what is checked of parameters and tuples, in its order.

use crate::peer::golden_box;
use std::net::IpAddr;
use turnpike_simco::{
    Capabilities, Direction, Ends, Failure, IpVersion, IpVersions, Location, NatMode, PortParity,
    ReserveParameters, Tuple, checks,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn internal() -> Tuple {
    Tuple::full(Location::Internal, 17, ip("10.1.8.3"), 5004, 2)
}

fn external() -> Tuple {
    Tuple::full(Location::External, 17, ip("192.0.2.33"), 4000, 2)
}

fn full(tuple: Tuple, protocol: u8, prefix: u8, port: u16, range: u16) -> Tuple {
    let Ends::Full { address, .. } = tuple.ends else { panic!() };
    Tuple { protocol, ends: Ends::Full { address, prefix, port, range }, ..tuple }
}

fn check(internal: Tuple, external: Tuple, direction: Direction) -> Result<(), Failure> {
    checks::enable(&internal, &external, direction, &golden_box())
}

use Direction::{Bidirectional, Inbound, Outbound};

#[test]
fn b_per_01_locations_protocols_ranges_wildcards() {
    assert_eq!(check(internal(), external(), Bidirectional), Ok(()));
    assert_eq!(check(internal().at(Location::Inside), external(), Inbound), Err(Failure::Inconsistent));
    assert_eq!(check(internal(), external().at(Location::Outside), Inbound), Err(Failure::Inconsistent));
    assert_eq!(check(external(), internal(), Inbound), Err(Failure::Inconsistent));
    let tcp = full(external(), 6, 32, 4000, 2);
    assert_eq!(check(internal(), tcp, Inbound), Err(Failure::Inconsistent));
    let three = full(external(), 17, 32, 4000, 3);
    assert_eq!(check(internal(), three, Inbound), Err(Failure::Inconsistent));
    // Port 0 makes the range irrelevant, so does "protocols only".
    assert_eq!(check(internal(), full(external(), 17, 32, 0, 9), Inbound), Ok(()));
    let any = Tuple::protocols_only(Location::External, 17, IpVersion::V4);
    assert_eq!(check(internal(), any, Inbound), Ok(()));
}

#[test]
fn b_per_01_wildcards_as_the_box_supports_them() {
    let none = Capabilities {
        internal_wildcard: false,
        external_wildcard: false,
        port_wildcard: false,
        ..golden_box()
    };
    let port = full(external(), 17, 32, 0, 2);
    let prefix = Tuple {
        ends: Ends::Full { address: ip("192.0.2.0"), prefix: 24, port: 4000, range: 2 },
        ..external()
    };
    let any = Tuple::protocols_only(Location::External, 17, IpVersion::V4);
    let inside_any = Tuple::protocols_only(Location::Internal, 17, IpVersion::V4);
    let e = Capabilities { external_wildcard: true, ..none };
    let p = Capabilities { port_wildcard: true, ..none };
    let ep = Capabilities { port_wildcard: true, ..e };
    let i = Capabilities { internal_wildcard: true, ..ep };
    let cases = [
        (internal(), external(), [true, true, true, true, true]),
        (internal(), port, [false, false, true, true, true]),
        (internal(), prefix, [false, true, false, true, true]),
        (internal(), any, [false, false, false, true, true]),
        (inside_any, any, [false, false, false, false, true]),
    ];
    for (inside, outside, supported) in cases {
        for (middlebox, supported) in [none, e, p, ep, i].into_iter().zip(supported) {
            let expected = if supported { Ok(()) } else { Err(Failure::Wildcarding) };
            assert_eq!(
                checks::enable(&inside, &outside, Inbound, &middlebox),
                expected,
                "{inside} {outside}"
            );
        }
    }
    // Whatever is wrong before is said before.
    let misplaced = any.at(Location::Outside);
    assert_eq!(checks::enable(&inside_any, &misplaced, Inbound, &none), Err(Failure::Inconsistent));
    // Unsupported wildcards before unlawful ones.
    assert_eq!(checks::enable(&internal(), &port, Bidirectional, &none), Err(Failure::Wildcarding));
}

#[test]
fn b_per_01_both_ways_only_the_protocol_may_be_any() {
    for wild in [
        full(external(), 17, 32, 0, 2),
        Tuple { ends: Ends::Full { address: ip("192.0.2.0"), prefix: 24, port: 1, range: 2 }, ..external() },
        Tuple::protocols_only(Location::External, 17, IpVersion::V4),
    ] {
        assert_eq!(check(internal(), wild, Bidirectional), Err(Failure::Inconsistent));
        assert_eq!(check(internal(), wild, Inbound), Ok(()));
        assert_eq!(check(internal(), wild, Outbound), Ok(()));
    }
    let any = |tuple| full(tuple, 0, 32, 0, 1);
    assert_eq!(check(any(internal()), any(external()), Bidirectional), Ok(()));
}

#[test]
fn b_amb_10_the_same_rule_for_pea() {
    // PEA has the same tuples and the same check.
    let wild = full(external(), 17, 32, 0, 2);
    assert_eq!(check(internal(), wild, Bidirectional), Err(Failure::Inconsistent));
}

#[test]
fn b_amb_11_protocols_without_ports_have_none_to_wildcard() {
    for protocol in [41, 47, 50, 55] {
        let both = (full(internal(), protocol, 32, 0, 1), full(external(), protocol, 32, 0, 7));
        assert_eq!(check(both.0, both.1, Bidirectional), Ok(()));
        let no_ports = Capabilities { port_wildcard: false, ..golden_box() };
        assert_eq!(checks::enable(&both.0, &both.1, Bidirectional, &no_ports), Ok(()));
    }
}

#[test]
fn b_amb_12_range_ffff_is_all() {
    let all = full(internal(), 17, 32, 5004, 0xFFFF);
    assert_eq!(check(all, external(), Inbound), Ok(()));
    assert_eq!(check(internal(), full(external(), 17, 32, 1, 0xFFFF), Inbound), Ok(()));
}

/// Codes 0x53, 0x55, 0x56 and 0x4F as section B.1 of the requirements assigns them.
#[test]
fn b_per_01_values_that_mean_nothing() {
    for (address, prefix) in [
        ("224.0.0.1", 32),
        ("127.0.0.1", 32),
        ("0.0.0.0", 32),
        ("255.255.255.255", 32),
        ("192.0.2.1", 24),
        ("192.0.2.1", 0),
    ] {
        let tuple =
            Tuple { ends: Ends::Full { address: ip(address), prefix, port: 1, range: 2 }, ..external() };
        assert_eq!(check(internal(), tuple, Inbound), Err(Failure::IllegalAddress), "{address}/{prefix}");
    }
    let zero = (full(internal(), 17, 32, 1, 0), full(external(), 17, 32, 1, 0));
    assert_eq!(check(zero.0, zero.1, Inbound), Err(Failure::IllegalRange));
    let beyond = full(internal(), 17, 32, 65_535, 2);
    assert_eq!(check(beyond, external(), Inbound), Err(Failure::IllegalPort));
    assert_eq!(check(full(internal(), 17, 32, 65_534, 2), external(), Inbound), Ok(()));
    let six = Tuple::full(Location::External, 17, ip("2001:db8::1"), 4000, 2);
    assert_eq!(check(internal(), six, Inbound), Err(Failure::IpVersion));
}

#[test]
fn b_prr_01_versions_and_range() {
    let wanted = ReserveParameters {
        mode: NatMode::Traditional,
        parity: PortParity::Any,
        inside: None,
        outside: None,
        protocol: 17,
        range: 1,
    };
    assert_eq!(checks::reserve(&wanted, &golden_box()), Ok(()));
    let six = Some(IpVersion::V6);
    let inside = ReserveParameters { inside: six, ..wanted };
    let outside = ReserveParameters { outside: six, ..wanted };
    assert_eq!(checks::reserve(&inside, &golden_box()), Err(Failure::IpVersion));
    assert_eq!(checks::reserve(&outside, &golden_box()), Err(Failure::IpVersion));
    let both = Capabilities {
        internal_versions: IpVersions::BOTH,
        external_versions: IpVersions::BOTH,
        ..golden_box()
    };
    assert_eq!(checks::reserve(&inside, &both), Ok(()));
    let none = ReserveParameters { range: 0, ..wanted };
    assert_eq!(checks::reserve(&none, &golden_box()), Err(Failure::IllegalRange));
    let portless = ReserveParameters { range: 0, protocol: 41, ..wanted };
    assert_eq!(checks::reserve(&portless, &golden_box()), Ok(()));
}

#[test]
fn b_cap_01_the_mb_type_octet() {
    let napt_firewall_pdr = Capabilities { disable: true, ..golden_box() };
    assert_eq!(napt_firewall_pdr.middlebox_type(), 0xD1);
    let twice = Capabilities { twice_nat: true, protocol_translation: true, ..golden_box() };
    assert_eq!(twice.middlebox_type(), 0xC7);
    // The kinds of translation need a NAT.
    assert_eq!(Capabilities { nat: false, ..twice }.middlebox_type(), 0x80);
    assert_eq!(Capabilities::default().middlebox_type(), 0);
}

#[test]
fn tuples_read_well() {
    let text = |tuple: Tuple| tuple.to_string();
    assert_eq!(text(internal()), "10.1.8.3:5004+2 udp");
    assert_eq!(text(full(external(), 6, 32, 80, 1)), "192.0.2.33:80 tcp");
    assert_eq!(text(Tuple::protocols_only(Location::External, 41, IpVersion::V6)), "any IPv6 protocol 41");
    let prefix =
        Tuple { ends: Ends::Full { address: ip("2001:db8::"), prefix: 64, port: 0, range: 1 }, ..external() };
    assert_eq!(text(prefix), "[2001:db8::]/64 udp");
}
