//! The golden vectors, byte for byte, in both directions.

use crate::peer::{golden_box, hex};
use std::net::IpAddr;
use turnpike_simco::{
    Direction, Enable, EnableParameters, EnableReserved, Enabled, Ends, Establish, Established, Extensions,
    Extras, IpVersion, Location, NatMode, Notification, Outcome, PortParity, Reply, Request, Reserve,
    ReserveParameters, Reserved, RuleRequest, Tuple, Version,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Decodes to the request and encodes to the octets.
fn request(octets: &str, tid: u32, expected: Request) {
    let octets = hex(octets);
    assert_eq!(Request::from_octets(&octets, Extensions::NONE), Ok((tid, expected.clone())));
    let mut out = Vec::new();
    expected.encode(tid, &mut out).unwrap();
    assert_eq!(out, octets);
}

fn outcome(octets: &str, tid: u32, expected: Outcome) {
    let octets = hex(octets);
    assert_eq!(Outcome::from_octets(&octets), Ok((tid, expected.clone())));
    let mut out = Vec::new();
    expected.encode(tid, &mut out).unwrap();
    assert_eq!(out, octets);
}

fn outside() -> Tuple {
    Tuple::full(Location::Outside, 17, ip("198.51.100.7"), 40_000, 2)
}

fn inside() -> Tuple {
    Tuple::full(Location::Inside, 17, ip("192.0.2.33"), 0, 2)
}

#[test]
fn session_establishment() {
    request(
        "01010008 00000001 | 00010004 03000000",
        1,
        Request::Establish(Establish { version: Version::V3_0, challenge: None, extensions: None }),
    );
    let established = Established { capabilities: golden_box(), ..Established::default() };
    outcome(
        "0201000c 00000001 | 00040008 c1f50000 00000e10",
        1,
        Outcome::Positive(Reply::Established(established)),
    );
}

#[test]
fn reserve_an_even_pair() {
    request(
        "01110010 00000002 | 000a0004 65110002 | 00070004 0000012c",
        2,
        Request::Rule(RuleRequest::Reserve(Reserve {
            parameters: ReserveParameters {
                mode: NatMode::Traditional,
                parity: PortParity::Even,
                inside: Some(IpVersion::V4),
                outside: Some(IpVersion::V4),
                protocol: 17,
                range: 2,
            },
            lifetime: 300,
            group: None,
            internal: None,
            extras: Extras::default(),
        })),
    );
    outcome(
        "02110028 00000002 | 00050004 00000001 | 00060004 00000001 | 00070004 0000012c \
         | 0009000c 01201102 9c400002 c6336407",
        2,
        Outcome::Positive(Reply::Reserved(Reserved {
            rule: 1,
            group: 1,
            lifetime: 300,
            outside: outside(),
            inside: None,
        })),
    );
}

#[test]
fn enable_what_was_reserved() {
    request(
        "01130038 00000003 | 000b0004 03010000 | 0009000c 01201100 138c0002 0a010803 \
         | 0009000c 01201103 00000002 c0000221 | 00070004 0000012c | 00050004 00000001",
        3,
        Request::Rule(RuleRequest::EnableReserved(EnableReserved {
            parameters: EnableParameters { same_parity: true, direction: Direction::Inbound },
            internal: Tuple::full(Location::Internal, 17, ip("10.1.8.3"), 5004, 2),
            external: Tuple::full(Location::External, 17, ip("192.0.2.33"), 0, 2),
            lifetime: 300,
            rule: 1,
            extras: Extras::default(),
        })),
    );
    outcome(
        "02120038 00000003 | 00050004 00000001 | 00060004 00000001 | 00070004 0000012c \
         | 0009000c 01201102 9c400002 c6336407 | 0009000c 01201101 00000002 c0000221",
        3,
        Outcome::Positive(Reply::Enabled(Enabled {
            rule: 1,
            group: 1,
            lifetime: 300,
            outside: outside(),
            inside: Some(inside()),
        })),
    );
}

#[test]
fn delete() {
    request(
        "01150010 00000004 | 00050004 00000001 | 00070004 00000000",
        4,
        Request::Rule(RuleRequest::ChangeLifetime { rule: 1, lifetime: 0 }),
    );
    outcome("02160000 00000004", 4, Outcome::Positive(Reply::Deleted));
}

#[test]
fn notifications() {
    outcome(
        "04030010 80000001 | 00050004 00000001 | 00070004 00000000",
        0x8000_0001,
        Outcome::Notification(Notification::Rule { rule: 1, lifetime: 0, reason: None }),
    );
    outcome("04010000 80000002", 0x8000_0002, Outcome::Notification(Notification::BadlyFormed));
}

/// Not among the vectors: every kind of tuple, packed by hand after figure 12.
#[test]
fn tuples_of_every_length() {
    let wildcard = Tuple {
        location: Location::External,
        protocol: 6,
        ends: Ends::Full { address: ip("2001:db8::"), prefix: 64, port: 80, range: 1 },
    };
    request(
        "0112003c 00000009 | 000b0004 00030000 | 00090004 12000600 \
         | 00090018 02400603 00500001 20010db8000000000000000000000000 | 00070004 0000003c | 00060004 00000007",
        9,
        Request::Rule(RuleRequest::Enable(Enable {
            parameters: EnableParameters { same_parity: false, direction: Direction::Bidirectional },
            internal: Tuple::protocols_only(Location::Internal, 6, IpVersion::V6),
            external: wildcard,
            lifetime: 60,
            group: Some(7),
            extras: Extras::default(),
        })),
    );
}
