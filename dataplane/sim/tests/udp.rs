//! UDP through the translator: RFC 4787. Tests carry the ids of their requirement rows.

use turnpike_abi::counters::{Counter, DropReason, IcmpKind, ProtocolClass};
use turnpike_abi::table::SettingsRecord;
use turnpike_sim::lab::{
    BOX_INSIDE, GATEWAY, HOST, HOST_MAC, INSIDE_PORT, OTHER_HOST, OTHER_SERVER, OUTSIDE_PORT, SERVER,
    everywhere, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::{Build, see};
use turnpike_sim::tables::PolicyTable;
use turnpike_wire::packet::Fragment;

fn udp(appliance: &turnpike_sim::Appliance) -> u64 {
    appliance.counters().bindings(ProtocolClass::Udp).0
}

#[test]
fn udp_2_every_session_of_a_host_has_the_same_external_address() {
    everywhere(|lab| {
        let first = lab.udp_mapping(HOST, 4000);
        for port in 4001..4100 {
            assert_eq!(lab.udp_mapping(HOST, port).0, first.0);
        }
    });
}

#[test]
fn udp_3_no_two_endpoints_share_an_external_port() {
    everywhere(|lab| {
        let mut seen = std::collections::HashSet::new();
        for port in 0..150 {
            for host in [HOST, OTHER_HOST] {
                assert!(seen.insert(lab.udp_mapping(host, 4000 + port)), "given out twice");
            }
        }
    });
}

#[test]
fn udp_5_a_mapping_is_still_there_after_119_seconds() {
    let mut policy = PolicyTable::default();
    policy.settings.udp = 120;
    everywhere_with(&policy, &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        lab.appliance.advance(119_000, 500);
        lab.back(&Build::udp((SERVER, 53), (&external, port), b"late"));
        lab.appliance.advance(2000, 500);
        lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 53), (&external, port), b"too late"))
            .dropped(DropReason::NoMapping);
        assert_eq!(udp(&lab.appliance), 0);
    });
}

#[test]
fn udp_6_only_outbound_packets_refresh() {
    everywhere(|lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        for _ in 0..4 {
            lab.appliance.advance(200_000, 1000);
            assert_eq!(lab.udp_mapping(HOST, 5000), (external.clone(), port));
        }
        for _ in 0..2 {
            lab.appliance.advance(140_000, 1000);
            lab.back(&Build::udp((SERVER, 53), (&external, port), b"in"));
        }
        lab.appliance.advance(25_000, 1000);
        assert_eq!(udp(&lab.appliance), 0);
    });
}

#[test]
fn udp_6a_inbound_packets_refresh_if_the_operator_says_so() {
    let mut policy = PolicyTable::default();
    policy.settings.flags |= SettingsRecord::UDP_INBOUND_REFRESH;
    everywhere_with(&policy, &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        for _ in 0..4 {
            lab.appliance.advance(200_000, 1000);
            lab.back(&Build::udp((SERVER, 53), (&external, port), b"in"));
        }
        assert_eq!(udp(&lab.appliance), 1);
    });
}

/// The outside interface gets an address out of the inside prefix, as from a DHCP server on the same numbers.
#[test]
fn udp_7_an_outside_address_in_the_inside_prefix_translates_still() {
    let mut table = forwarding();
    table.address("10.0.250.2", 24, OUTSIDE_PORT);
    everywhere_with(&PolicyTable::default(), &table, |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        let seen = lab.back(&Build::udp((SERVER, 53), (&external, port), b"in"));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 5000));
    });
}

#[test]
fn udp_8_filtering_does_not_depend_on_the_remote_end() {
    everywhere(|lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        for (server, from) in [(SERVER, 53), (SERVER, 54), (OTHER_SERVER, 53), (GATEWAY, 1)] {
            let seen = lab.back(&Build::udp((server, from), (&external, port), b"in"));
            assert_eq!(text(seen.source()), (server.to_owned(), from));
            assert_eq!(text(seen.destination()), (HOST.to_owned(), 5000));
            // And the answer to whoever it was leaves from the same mapping.
            let answer = lab.out(&Build::udp((HOST, 5000), (server, from), b"out"));
            assert_eq!(text(answer.source()), (external.clone(), port));
        }
        assert_eq!(lab.appliance.counters().get(Counter::EifHits), 3);
    });
}

#[test]
fn udp_9_hairpinning_delivers_without_a_mapping_of_the_sender() {
    everywhere(|lab| {
        let b = lab.udp_mapping(OTHER_HOST, 6000);
        let seen = lab.hairpin(&Build::udp((HOST, 5000), (&b.0, b.1), b"over"));
        assert_eq!(text(seen.destination()), (OTHER_HOST.to_owned(), 6000));
        // UDP-9a: the source is the mapping that everybody else sees too.
        assert_eq!(text(seen.source()), lab.udp_mapping(HOST, 5000));
        assert_eq!(seen.payload(), b"over");
        assert_eq!(seen.packet.ttl, 63);
    });
}

#[test]
fn udp_10_payloads_are_left_alone() {
    everywhere(|lab| {
        let invite = b"INVITE sip:b@198.51.100.7 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9:5060\r\nContact: <sip:a@10.0.0.9>\r\n\r\n";
        let seen = lab.out(&Build::udp((HOST, 5060), (SERVER, 5060), invite));
        assert_eq!(seen.payload(), invite);
        let (external, port) = text(seen.source());
        assert_eq!(lab.back(&Build::udp((SERVER, 5060), (&external, port), invite)).payload(), invite);
    });
}

#[test]
fn udp_12_no_icmp_error_ends_a_mapping() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), b"hello"));
        let (external, port) = text(left.source());
        for (kind, code) in (0..16).map(|code| (3, code)).chain([(11, 0), (11, 1), (12, 0)]) {
            // UDP-12a: from whomever.
            for from in [SERVER, GATEWAY, OTHER_SERVER] {
                let seen = lab.back(&Build::icmp_error(from, &external, kind, code, 0, left.ip()));
                assert_eq!(seen.icmp(), (kind, code));
            }
        }
        for (kind, code) in [(4, 0), (5, 1), (15, 0)] {
            lab.appliance.receive(
                OUTSIDE_PORT,
                &[&Build::icmp_error(SERVER, &external, kind, code, 0, left.ip()).frame(1)],
            );
        }
        assert!(lab.appliance.sent().is_none());
        let seen = lab.back(&Build::udp((OTHER_SERVER, 9), (&external, port), b"in"));
        assert_eq!(text(seen.destination()), (HOST.to_owned(), 5000));
    });
}

fn narrow(mtu: u16) -> PolicyTable {
    let mut policy = PolicyTable::default();
    policy.interfaces[1].mtu = mtu;
    policy
}

#[test]
fn udp_13_too_big_with_df_is_answered_with_the_mtu() {
    everywhere_with(&narrow(1400), &forwarding(), |lab| {
        lab.out(&Build::udp((HOST, 5000), (SERVER, 53), &[7; 1372]).df());
        let too_big = Build::udp((HOST, 5000), (SERVER, 53), &[7; 1373]).df();
        let error = lab.step(INSIDE_PORT, &too_big).refused(DropReason::MtuExceeded);
        assert_eq!(error.icmp(), (3, 4));
        assert_eq!(error.frame[error.packet.l4 + 4..error.packet.l4 + 8], [0, 0, 0x05, 0x78]);
        assert_eq!(text(error.source()).0, BOX_INSIDE);
        assert_eq!(text(error.destination()).0, HOST);
        assert_eq!(error.to, HOST_MAC);
        // The packet as its sender knows it.
        assert_eq!(error.payload(), &too_big.ip()[..548]);
        assert_eq!(lab.appliance.counters().icmp_errors(IcmpKind::FragNeeded), (1, 0));
    });
}

#[test]
fn udp_13a_too_big_without_df_is_fragmented_in_order() {
    everywhere_with(&narrow(600), &forwarding(), |lab| {
        for length in [573, 1000, 1472] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let packet = Build::udp((HOST, 5000), (SERVER, 53), &payload);
            let step = lab.step(INSIDE_PORT, &packet);
            assert!(step.drops.is_empty() && step.sent.len() == (length + 8usize).div_ceil(576), "{step:?}");
            let mut whole: Vec<u8> = Vec::new();
            let mut last = false;
            for (port, bytes) in &step.sent {
                assert_eq!(*port, OUTSIDE_PORT);
                let seen = see(bytes);
                assert!(seen.ip().len() <= 600 && !last);
                match seen.packet.fragment {
                    Fragment::First { .. } => assert!(whole.is_empty()),
                    Fragment::Later { offset, more } => {
                        assert_eq!(usize::from(offset), whole.len());
                        last = !more;
                    }
                    Fragment::Whole => panic!("not a fragment"),
                }
                whole.extend(&seen.ip()[20..]);
            }
            assert!(last);
            // It is the translated datagram, and its checksum covers it.
            let external = see(&step.sent[0].1);
            let (source, port) = text(external.source());
            let expected = Build { ttl: 63, ..Build::udp((&source, port), (SERVER, 53), &payload) };
            assert_eq!(whole, expected.ip()[20..]);
        }
    });
}

/// The same from outside: the link of smaller MTU is the subscriber's.
#[test]
fn udp_13a_towards_the_inside_too() {
    let mut policy = PolicyTable::default();
    policy.interfaces[0].mtu = 576;
    everywhere_with(&policy, &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        let packet = Build::udp((SERVER, 53), (&external, port), &[3; 1000]);
        let step = lab.step(OUTSIDE_PORT, &packet);
        assert_eq!(step.sent.len(), 2);
        let whole: Vec<u8> = step.sent.iter().flat_map(|(_, bytes)| see(bytes).ip()[20..].to_vec()).collect();
        assert_eq!(whole, Build::udp((SERVER, 53), (HOST, 5000), &[3; 1000]).ip()[20..]);
        let error = lab.step(OUTSIDE_PORT, &packet.df()).refused(DropReason::MtuExceeded);
        assert_eq!(error.icmp(), (3, 4));
        assert_eq!(error.frame[error.packet.l4 + 6..error.packet.l4 + 8], 576u16.to_be_bytes());
        assert_eq!(text(error.destination()).0, SERVER);
        // About the packet as the server sent it.
        let quoted = see(&[&[0; 12][..], &[8, 0], &packet_of(error.payload())].concat());
        assert_eq!(text(quoted.destination()), (external.clone(), port));
    });
}

/// RFC 6864 section 4.3: DF=1 is not cleared on the way, and what has it is not fragmented.
#[test]
fn ipid_2_df_is_kept_and_never_fragmented() {
    everywhere_with(&narrow(1400), &forwarding(), |lab| {
        for (df, length) in [(false, 100), (true, 100), (true, 1372)] {
            let mut packet = Build::udp((HOST, 5000), (SERVER, 53), &vec![1; length]);
            packet.dont_fragment = df;
            assert_eq!(lab.out(&packet).packet.dont_fragment, df);
        }
        for length in [1373, 1400, 1472] {
            let packet = Build::udp((HOST, 5000), (SERVER, 53), &vec![1; length]).df();
            let _ = lab.step(INSIDE_PORT, &packet).refused(DropReason::MtuExceeded);
        }
    });
}

/// A quote as a whole packet: its stated length is cut to what is there, and the checksum recomputed.
fn packet_of(quote: &[u8]) -> Vec<u8> {
    let mut bytes = quote.to_vec();
    let length = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes[10..12].fill(0);
    let check = turnpike_wire::checksum::ones_complement(&bytes[..20]);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes[24..26].copy_from_slice(&(length - 20).to_be_bytes());
    bytes[26..28].fill(0);
    bytes
}

#[test]
fn nat_1_every_payload_size_arrives() {
    everywhere(|lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        for length in (0..64).chain([511, 512, 513, 1471, 1472]) {
            let payload: Vec<u8> = (0..length).map(|i| (i * 31) as u8).collect();
            assert_eq!(lab.out(&Build::udp((HOST, 5000), (SERVER, 7), &payload)).payload(), payload);
            assert_eq!(lab.back(&Build::udp((SERVER, 7), (&external, port), &payload)).payload(), payload);
        }
    });
}

/// IPS-1, IPS-2, IPS-3: IKE and ESP in UDP are UDP; one byte of keepalive is enough.
#[test]
fn ips_3_a_keepalive_of_one_byte_keeps_the_mapping() {
    everywhere(|lab| {
        let first = text(lab.out(&Build::udp((HOST, 4500), (SERVER, 4500), b"esp")).source());
        for _ in 0..30 {
            lab.appliance.advance(20_000, 1000);
            assert_eq!(text(lab.out(&Build::udp((HOST, 4500), (SERVER, 4500), &[0xff])).source()), first);
        }
    });
}

#[test]
fn ips_2_port_500_of_several_clients_is_translated() {
    everywhere(|lab| {
        let a = text(lab.out(&Build::udp((HOST, 500), (SERVER, 500), b"ike")).source());
        let b = text(lab.out(&Build::udp((OTHER_HOST, 500), (SERVER, 500), b"ike")).source());
        assert_ne!(a, b);
        for (host, external) in [(HOST, a), (OTHER_HOST, b)] {
            let seen = lab.back(&Build::udp((SERVER, 500), (&external.0, external.1), b"ike"));
            assert_eq!(text(seen.destination()), (host.to_owned(), 500));
        }
    });
}

#[test]
fn ips_1_esp_in_udp_keeps_its_checksum_of_zero() {
    everywhere(|lab| {
        let mut packet = Build::udp((HOST, 4500), (SERVER, 4500), &[0, 0, 0, 9, 1, 2, 3]);
        packet.checksum_at = None;
        let seen = lab.out(&packet);
        assert_eq!(seen.frame[seen.packet.l4 + 6..seen.packet.l4 + 8], [0, 0]);
        assert_eq!(seen.payload(), [0, 0, 0, 9, 1, 2, 3]);
        let (external, port) = text(seen.source());
        let mut packet = Build::udp((SERVER, 4500), (&external, port), &[0, 0, 0, 9, 1, 2, 3]);
        packet.checksum_at = None;
        let seen = lab.back(&packet);
        assert_eq!(seen.frame[seen.packet.l4 + 6..seen.packet.l4 + 8], [0, 0]);
    });
}

/// RFC 3519 section 4.9: its keepalives come every 110 s.
#[test]
fn mip_1_a_keepalive_every_110_seconds_is_enough() {
    everywhere(|lab| {
        let first = lab.udp_mapping(HOST, 434);
        for _ in 0..5 {
            lab.appliance.advance(110_000, 1000);
            assert_eq!(lab.udp_mapping(HOST, 434), first);
        }
    });
}

/// PMT-4: probes of datagram path MTU discovery are datagrams.
#[test]
fn pmt_4_a_lost_probe_changes_nothing() {
    everywhere_with(&narrow(1400), &forwarding(), |lab| {
        let first = lab.udp_mapping(HOST, 5000);
        let flows = lab.appliance.counters().flows(ProtocolClass::Udp);
        for _ in 0..5 {
            let probe = Build::udp((HOST, 5000), (SERVER, 53), &[0; 1440]).df();
            let _ = lab.step(INSIDE_PORT, &probe).refused(DropReason::MtuExceeded);
        }
        assert_eq!(lab.appliance.counters().flows(ProtocolClass::Udp), flows);
        assert_eq!(lab.udp_mapping(HOST, 5000), first);
    });
}
