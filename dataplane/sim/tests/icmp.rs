//! ICMP through the translator and from the box: RFC 5508, RFC 1812, RFC 1191. Tests carry the ids of their rows.

use turnpike_abi::counters::{Counter, DropReason, IcmpKind, ProtocolClass};
use turnpike_sim::lab::{
    BOX_INSIDE, BOX_INSIDE6, BOX_OUTSIDE, BOX_OUTSIDE6, GATEWAY, HOST, HOST6, INSIDE_PORT, Lab, OTHER_HOST,
    OTHER_SERVER, OUTSIDE_PORT, SERVER, SERVER6, everywhere, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::{Build, Seen};
use turnpike_sim::tables::PolicyTable;
use turnpike_wire::checksum::ones_complement;
use turnpike_wire::packet::TCP_SYN;

fn queries(lab: &Lab) -> u64 {
    lab.appliance.counters().flows(ProtocolClass::Icmp).0
}

/// Puts options behind the fixed header of an IPv4 packet.
fn with_options(mut packet: Vec<u8>, options: &[u8]) -> Vec<u8> {
    packet.splice(20..20, options.iter().copied());
    packet[0] = 0x45 + (options.len() / 4) as u8;
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    fixed(packet)
}

/// With the IPv4 header checksum right.
fn fixed(mut packet: Vec<u8>) -> Vec<u8> {
    let header = usize::from(packet[0] & 0xf) * 4;
    packet[10..12].fill(0);
    let check = ones_complement(&packet[..header]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet
}

fn mtu_of(error: &Seen) -> u32 {
    let at = error.packet.l4 + 4;
    u32::from_be_bytes(error.frame[at..at + 4].try_into().unwrap())
}

#[test]
fn icmp_1_the_identifier_does_not_depend_on_the_destination() {
    everywhere(|lab| {
        let first = text(lab.out(&Build::echo(HOST, SERVER, 77, false, &[1; 56])).source());
        assert_eq!(text(lab.out(&Build::echo(HOST, OTHER_SERVER, 77, false, b"")).source()), first);
        for server in [SERVER, OTHER_SERVER] {
            let seen = lab.back(&Build::echo(server, &first.0, first.1, true, &[1; 1472]));
            assert_eq!(text(seen.destination()), (HOST.to_owned(), 77));
        }
        // Timestamp is a query too.
        let mut stamp = Build::echo(HOST, SERVER, 77, false, &[0; 12]);
        stamp.message[0] = 13;
        assert_eq!(text(lab.out(&stamp).source()), first);
    });
}

#[test]
fn icmp_2_a_query_session_lives_60_seconds() {
    everywhere(|lab| {
        let (external, identifier) = text(lab.out(&Build::echo(HOST, SERVER, 77, false, b"")).source());
        lab.appliance.advance(59_000, 200);
        lab.back(&Build::echo(SERVER, &external, identifier, true, b""));
        lab.appliance.advance(59_000, 200);
        assert_eq!(queries(lab), 1);
        lab.appliance.advance(2000, 200);
        assert_eq!(queries(lab), 0);
        // UPD-13: its mapping went with it.
        assert_eq!(lab.appliance.counters().bindings(ProtocolClass::Icmp).0, 0);
        lab.step(OUTSIDE_PORT, &Build::echo(SERVER, &external, identifier, true, b""))
            .dropped(DropReason::IcmpReplyUnasked);
    });
}

#[test]
fn icmp_2a_the_time_is_configurable() {
    let mut policy = PolicyTable::default();
    policy.settings.icmp = 90;
    everywhere_with(&policy, &forwarding(), |lab| {
        lab.out(&Build::echo(HOST, SERVER, 77, false, b""));
        lab.appliance.advance(89_000, 200);
        assert_eq!(queries(lab), 1);
        lab.appliance.advance(2000, 200);
        assert_eq!(queries(lab), 0);
    });
}

#[test]
fn icmp_3_errors_with_bad_checksums_are_dropped() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), &[9; 30]));
        let (external, _) = text(left.source());
        let mut frame = Build::icmp_error(GATEWAY, &external, 3, 1, 0, left.ip()).frame(1);
        frame[38] ^= 1;
        lab.frame(OUTSIDE_PORT, &frame).dropped(DropReason::IcmpBadChecksum);
        // 3a: the embedded header's.
        let mut about = left.ip().to_vec();
        about[8] ^= 1;
        let error = Build::icmp_error(GATEWAY, &external, 3, 1, 0, &about);
        lab.step(OUTSIDE_PORT, &error).dropped(DropReason::IcmpInnerBadChecksum);
        // 3c: the embedded transport's is not looked at.
        let mut about = left.ip().to_vec();
        about[26] ^= 1;
        let seen = lab.back(&Build::icmp_error(GATEWAY, &external, 3, 1, 0, &about));
        assert_eq!(text(seen.destination()).0, HOST);
    });
}

#[test]
fn icmp_3b_ports_are_found_past_embedded_options() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), &[9; 30]));
        let (external, _) = text(left.source());
        // A router on the way recorded its route.
        let about = with_options(left.ip().to_vec(), &[7, 7, 8, 1, 2, 3, 4, 0]);
        for quoted in [36, about.len()] {
            let seen = lab.back(&Build::icmp_error(GATEWAY, &external, 11, 0, 0, &about[..quoted]));
            let original = Build::udp((HOST, 5000), (SERVER, 53), &[9; 30]).ttl(63).ip();
            assert_eq!(seen.payload(), &with_options(original, &[7, 7, 8, 1, 2, 3, 4, 0])[..quoted]);
        }
        let short = Build::icmp_error(GATEWAY, &external, 11, 0, 0, &about[..35]);
        lab.step(OUTSIDE_PORT, &short).dropped(DropReason::IcmpInnerTruncated);
    });
}

#[test]
fn icmp_3d_extensions_behind_the_embedded_packet_pass_untouched() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), &[9; 30]));
        let (external, _) = text(left.source());
        let length = left.ip().len();
        let extensions = [&[0; 70][..], &[0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0x10, 0x40]].concat();
        let about = [left.ip(), &extensions].concat();
        let seen = lab.back(&Build::icmp_error(GATEWAY, &external, 11, 0, 0x0020_0000, &about));
        assert_eq!(&seen.payload()[length..], extensions);
        assert_eq!(seen.payload()[..length], Build::udp((HOST, 5000), (SERVER, 53), &[9; 30]).ttl(63).ip());
    });
}

#[test]
fn icmp_4_errors_about_no_flow_are_dropped() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), b"hello"));
        let (external, port) = text(left.source());
        for about in [
            Build::udp((&external, port ^ 1), (SERVER, 53), b"hello"),
            Build::udp((&external, port), (SERVER, 54), b"hello"),
            Build::tcp((&external, port), (SERVER, 53), TCP_SYN, b""),
            Build::echo(&external, SERVER, port, false, b""),
            Build::udp((OTHER_SERVER, port), (SERVER, 53), b"hello"),
        ] {
            let error = Build::icmp_error(GATEWAY, &external, 3, 1, 0, &about.ip());
            lab.step(OUTSIDE_PORT, &error).dropped(DropReason::IcmpNoSession);
        }
        let other = Build::icmp_error(
            GATEWAY,
            &external,
            3,
            1,
            0,
            &Build::other(&external, SERVER, 47, &[0; 8]).ip(),
        );
        lab.step(OUTSIDE_PORT, &other).dropped(DropReason::IcmpNoSession);
    });
}

#[test]
fn icmp_4_an_error_about_a_query_reaches_its_sender() {
    everywhere(|lab| {
        let left = lab.out(&Build::echo(HOST, SERVER, 77, false, &[1; 56]));
        let (external, _) = text(left.source());
        for quoted in [28, 84] {
            let seen = lab.back(&Build::icmp_error(GATEWAY, &external, 11, 0, 0, &left.ip()[..quoted]));
            assert_eq!(text(seen.destination()).0, HOST);
            assert_eq!(
                seen.payload(),
                &Build::echo(HOST, SERVER, 77, false, &[1; 56]).ttl(63).ip()[..quoted]
            );
        }
        assert_eq!(lab.appliance.counters().get(Counter::IcmpTranslatedOut2In), 2);
    });
}

#[test]
fn icmp_5_errors_from_inside_come_from_the_external_address() {
    everywhere(|lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        let arrived = lab.back(&Build::udp((SERVER, 53), (&external, port), &[5; 100]));
        for (from, quoted) in [(HOST, 28), (HOST, 128), ("10.0.0.200", 128)] {
            // Port unreachable from the host, or an unreachable from a router before it.
            let error = Build::icmp_error(from, SERVER, 3, 3, 0, &arrived.ip()[..quoted]);
            let seen = lab.out(&error);
            assert_eq!(seen.icmp(), (3, 3));
            assert_eq!(text(seen.source()).0, external);
            assert_eq!(text(seen.destination()).0, SERVER);
            let original = Build::udp((SERVER, 53), (&external, port), &[5; 100]).ttl(63).ip();
            assert_eq!(seen.payload(), &original[..quoted]);
        }
        assert_eq!(lab.appliance.counters().get(Counter::IcmpTranslatedIn2Out), 3);
        let about = Build::udp((SERVER, 53), (HOST, 5001), &[5; 100]).ip();
        lab.step(INSIDE_PORT, &Build::icmp_error(HOST, SERVER, 3, 3, 0, &about))
            .dropped(DropReason::IcmpNoSession);
    });
}

#[test]
fn icmp_6_an_error_about_a_query_neither_refreshes_nor_ends_it() {
    everywhere(|lab| {
        let left = lab.out(&Build::echo(HOST, SERVER, 77, false, b""));
        let (external, identifier) = text(left.source());
        lab.appliance.advance(40_000, 200);
        lab.back(&Build::icmp_error(GATEWAY, &external, 3, 1, 0, left.ip()));
        lab.back(&Build::echo(SERVER, &external, identifier, true, b""));
        for _ in 0..2 {
            lab.appliance.advance(31_000, 200);
            lab.appliance.receive(1, &[&Build::icmp_error(GATEWAY, &external, 3, 1, 0, left.ip()).frame(1)]);
        }
        assert_eq!(queries(lab), 0);
    });
}

/// HP-1: B refuses what A sent to its external end; the error goes back the same way.
#[test]
fn icmp_7_hairpinned_errors_reach_the_sender() {
    everywhere(|lab| {
        let b = lab.udp_mapping(OTHER_HOST, 6000);
        let packet = Build::udp((HOST, 5000), (&b.0, b.1), &[4; 60]);
        let arrived = lab.hairpin(&packet);
        let a = text(arrived.source());
        for (from, quoted) in [(OTHER_HOST, 28), (OTHER_HOST, 88), ("10.0.0.201", 88)] {
            let error = Build::icmp_error(from, &a.0, 3, 3, 0, &arrived.ip()[..quoted]);
            let seen = lab.hairpin(&error);
            assert_eq!(seen.icmp(), (3, 3));
            // 7a: to the embedded source as A knows it, from the address that A sent to.
            assert_eq!(text(seen.destination()).0, HOST);
            assert_eq!(text(seen.source()).0, b.0);
            assert_eq!(seen.payload(), &packet.clone().ttl(63).ip()[..quoted]);
        }
    });
}

#[test]
fn icmp_10a_unreachable_time_exceeded_and_echo_are_forwarded_and_11_other_types_are_not() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), b"hello"));
        let (external, _) = text(left.source());
        for (kind, code) in [(3, 1), (11, 0), (12, 0)] {
            lab.back(&Build::icmp_error(GATEWAY, &external, kind, code, 0, left.ip()));
        }
        // 10c: Source Quench, Information Request; 11: the rest.
        for kind in [4, 5, 9, 10, 15, 16, 17, 18, 40, 42, 255] {
            for (port, from, to) in [(OUTSIDE_PORT, SERVER, external.as_str()), (INSIDE_PORT, HOST, SERVER)] {
                let packet = Build::icmp_error(from, to, kind, 0, 0, left.ip());
                lab.step(port, &packet).dropped(DropReason::IcmpUnknownType);
            }
        }
    });
}

#[test]
fn icmp_10d_errors_have_the_dscp_of_the_packet() {
    everywhere(|lab| {
        let mut packet = Build::udp((HOST, 5000), (SERVER, 53), b"hello").ttl(1);
        packet.traffic_class = 0xb8 | 1;
        let error = lab.step(INSIDE_PORT, &packet).refused(DropReason::TtlExpired);
        assert_eq!(error.packet.traffic_class, 0xb8);
    });
}

/// RFC 1812 4.3.2.7.
#[test]
fn icmp_10e_no_error_about_an_error_and_none_to_many() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), b"hello"));
        let (external, _) = text(left.source());
        let error = Build::icmp_error(GATEWAY, &external, 3, 1, 0, left.ip()).ttl(1);
        lab.step(OUTSIDE_PORT, &error).dropped(DropReason::TtlExpired);
        // To a broadcast station.
        let mut packet = Build::udp((HOST, 5000), (SERVER, 53), b"hello").ttl(1);
        packet.to = [0xff; 6];
        lab.step(INSIDE_PORT, &packet).dropped(DropReason::TtlExpired);
    });
}

#[test]
fn icmp_10f_errors_are_limited_by_rate() {
    let mut policy = PolicyTable::default();
    policy.settings.icmp_rate = 5;
    let mut lab = Lab::with(1, &policy, &forwarding());
    let packet = Build::udp((HOST, 5000), (SERVER, 53), b"hello").ttl(1).frame(0);
    lab.appliance.advance(1000, 1000);
    for _ in 0..20 {
        lab.appliance.receive(INSIDE_PORT, &[&packet]);
    }
    assert_eq!(lab.appliance.counters().icmp_errors(IcmpKind::TimeExceeded), (5, 15));
    assert_eq!(lab.appliance.drops(DropReason::TtlExpired), 20);
    lab.appliance.advance(1000, 1000);
    lab.appliance.receive(INSIDE_PORT, &[&packet]);
    assert_eq!(lab.appliance.counters().icmp_errors(IcmpKind::TimeExceeded), (6, 15));
}

/// ICMP-9: the box makes no errors at a rate of 0.
#[test]
fn icmp_9_the_box_may_be_told_to_make_no_errors() {
    let mut policy = PolicyTable::default();
    policy.settings.icmp_rate = 0;
    everywhere_with(&policy, &forwarding(), |lab| {
        lab.step(INSIDE_PORT, &Build::udp((HOST, 5000), (SERVER, 53), b"hello").ttl(1))
            .dropped(DropReason::TtlExpired);
    });
}

#[test]
fn icmp_double_error_an_error_about_an_error_is_dropped() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), b"hello"));
        let (external, _) = text(left.source());
        let first = Build::icmp_error(&external, SERVER, 3, 3, 0, left.ip()).ip();
        let second = Build::icmp_error(GATEWAY, &external, 11, 0, 0, &first);
        lab.step(OUTSIDE_PORT, &second).dropped(DropReason::IcmpDoubleError);
        let about6 = Build::icmp_error(HOST6, SERVER6, 1, 4, 0, &[0; 48]).ip();
        let second = Build::icmp_error(SERVER6, HOST6, 3, 0, 0, &about6);
        lab.step(OUTSIDE_PORT, &second).dropped(DropReason::IcmpDoubleError);
    });
}

#[test]
fn icmp_ptb_of_a_link_inside_too() {
    let mut policy = PolicyTable::default();
    policy.interfaces[1].mtu = 1300;
    everywhere_with(&policy, &forwarding(), |lab| {
        let tcp = Build::tcp((HOST, 5000), (SERVER, 80), TCP_SYN, &[0; 1300]).df();
        let error = lab.step(INSIDE_PORT, &tcp).refused(DropReason::MtuExceeded);
        assert_eq!((error.icmp(), mtu_of(&error)), ((3, 4), 1300));
        assert_eq!(text(error.source()).0, BOX_INSIDE);
    });
}

#[test]
fn pmt_1_frag_needed_from_outside_reaches_the_host_with_its_mtu() {
    everywhere(|lab| {
        let packet = Build::tcp((HOST, 5000), (SERVER, 80), TCP_SYN, &[0; 1200]).df();
        let left = lab.out(&packet);
        let (external, _) = text(left.source());
        for mtu in [68, 576, 1280, 1492] {
            let seen = lab.back(&Build::icmp_error(GATEWAY, &external, 3, 4, mtu, &left.ip()[..28]));
            assert_eq!((seen.icmp(), mtu_of(&seen)), ((3, 4), mtu));
            assert_eq!(text(seen.destination()).0, HOST);
            assert_eq!(seen.payload(), &packet.clone().ttl(63).ip()[..28]);
        }
    });
}

#[test]
fn pmt_3_packet_too_big_is_made_and_forwarded() {
    let mut policy = PolicyTable::default();
    policy.interfaces[1].mtu = 1400;
    everywhere_with(&policy, &forwarding(), |lab| {
        let big = Build::udp((HOST6, 5000), (SERVER6, 53), &[0; 1353]);
        let error = lab.step(INSIDE_PORT, &big).refused(DropReason::MtuExceeded);
        assert_eq!((error.icmp(), mtu_of(&error)), ((2, 0), 1400));
        assert_eq!(text(error.source()).0, BOX_INSIDE6);
        assert_eq!(text(error.destination()).0, HOST6);
        assert_eq!(error.payload(), &big.ip()[..1232]);
        assert_eq!(lab.appliance.counters().icmp_errors(IcmpKind::PacketTooBig), (1, 0));
        let left = lab.out(&Build::udp((HOST6, 5000), (SERVER6, 53), &[0; 1352]));
        // From a router further on.
        let seen =
            lab.back(&Build::icmp_error("2001:db8:77::1", HOST6, 2, 0, 1280, left.ip()[..1232].as_ref()));
        assert_eq!((seen.icmp(), mtu_of(&seen)), ((2, 0), 1280));
        assert_eq!(text(seen.destination()).0, HOST6);
    });
}

#[test]
fn icmp_sr_source_routes_are_not_forwarded() {
    everywhere(|lab| {
        for (kind, pointer) in [(131, 4), (137, 4)] {
            for packet in [Build::echo(HOST, SERVER, 1, false, b""), Build::udp((HOST, 1), (SERVER, 2), b"")]
            {
                let routed = with_options(packet.ip(), &[1, kind, 7, pointer, 10, 0, 0, 7]);
                let frame = [&packet.frame(0)[..14], &routed].concat();
                lab.frame(INSIDE_PORT, &frame).dropped(DropReason::IpOptionsSourceRoute);
            }
        }
        // NAT-6: a recorded route passes.
        let packet = Build::echo(HOST, SERVER, 1, false, b"");
        let frame = [&packet.frame(0)[..14], &with_options(packet.ip(), &[7, 7, 4, 0, 0, 0, 0, 0])].concat();
        let _ = lab.frame(INSIDE_PORT, &frame).passed(OUTSIDE_PORT);
    });
}

#[test]
fn ttl_1_the_box_is_a_hop_from_both_sides_for_every_protocol() {
    everywhere(|lab| {
        for probe in [
            Build::udp((HOST, 5000), (SERVER, 33434), b"probe"),
            Build::tcp((HOST, 5000), (SERVER, 80), TCP_SYN, b""),
            Build::echo(HOST, SERVER, 7, false, b"probe"),
        ] {
            let error = lab.step(INSIDE_PORT, &probe.clone().ttl(1)).refused(DropReason::TtlExpired);
            assert_eq!(error.icmp(), (11, 0));
            assert_eq!(
                (text(error.source()).0, text(error.destination()).0),
                (BOX_INSIDE.into(), HOST.into())
            );
            assert_eq!(error.payload(), probe.clone().ttl(1).ip());
            // The next probe gets further.
            assert_eq!(lab.out(&probe.ttl(2)).packet.ttl, 1);
        }
        for (probe, own, to) in [
            (Build::udp((HOST6, 5000), (SERVER6, 33434), b"probe"), BOX_INSIDE6, HOST6),
            (Build::echo(HOST6, SERVER6, 7, false, b"probe"), BOX_INSIDE6, HOST6),
        ] {
            let error = lab.step(INSIDE_PORT, &probe.ttl(1)).refused(DropReason::TtlExpired);
            assert_eq!(error.icmp(), (3, 0));
            assert_eq!((text(error.source()).0, text(error.destination()).0), (own.into(), to.into()));
        }
        // From outside, towards a mapping.
        let (external, port) = lab.udp_mapping(HOST, 6000);
        let probe = Build::udp((SERVER, 53), (&external, port), b"probe").ttl(1);
        let error = lab.step(OUTSIDE_PORT, &probe).refused(DropReason::TtlExpired);
        assert_eq!(
            (text(error.source()).0, text(error.destination()).0),
            (BOX_OUTSIDE.into(), SERVER.into())
        );
        assert_eq!(error.payload(), probe.ip());
        let left = lab.out(&Build::udp((HOST6, 5000), (SERVER6, 53), b"q"));
        assert_eq!(left.packet.ttl, 63);
        let probe = Build::udp((SERVER6, 53), (HOST6, 5000), b"probe").ttl(1);
        let error = lab.step(OUTSIDE_PORT, &probe).refused(DropReason::TtlExpired);
        assert_eq!(text(error.source()).0, BOX_OUTSIDE6);
    });
}

#[test]
fn ttl_1_a_ttl_of_0_is_used_up_too() {
    everywhere(|lab| {
        let probe = Build::udp((HOST, 5000), (SERVER, 33434), b"probe").ttl(0);
        let _ = lab.step(INSIDE_PORT, &probe).refused(DropReason::TtlExpired);
    });
}

/// A hairpinned packet crosses the box once.
#[test]
fn ttl_1_hairpinned_packets_lose_one_hop() {
    everywhere(|lab| {
        let b = lab.udp_mapping(OTHER_HOST, 6000);
        let seen = lab.hairpin(&Build::udp((HOST, 5000), (&b.0, b.1), b"x").ttl(2));
        assert_eq!(seen.packet.ttl, 1);
        let probe = Build::udp((HOST, 5000), (&b.0, b.1), b"x").ttl(1);
        let error = lab.step(INSIDE_PORT, &probe).refused(DropReason::TtlExpired);
        assert_eq!((text(error.source()).0, text(error.destination()).0), (BOX_INSIDE.into(), HOST.into()));
    });
}

#[test]
fn echo_to_the_external_address_of_another_is_not_for_anybody() {
    everywhere(|lab| {
        let b = text(lab.out(&Build::echo(OTHER_HOST, SERVER, 7, false, b"")).source());
        lab.step(INSIDE_PORT, &Build::echo(HOST, &b.0, 99, false, b"")).dropped(DropReason::NoMapping);
    });
}
