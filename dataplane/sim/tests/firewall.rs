//! The firewall between zones: RFC 6092, RFC 4890, RFC 2979, BCP 84. Tests carry the ids of their requirement rows.

use turnpike_abi::ZoneId;
use turnpike_abi::counters::{Counter, DropReason, FirewallAction, IcmpKind, ProtocolClass};
use turnpike_abi::table::{Action, FirewallRuleRecord, RouteKind, SettingsRecord, ZonePairRecord};
use turnpike_sim::lab::{
    BOX_INSIDE, BOX_INSIDE6, BOX_OUTSIDE, BOX_OUTSIDE6, HOST, HOST6, INSIDE_PORT, OTHER_HOST6, OUTSIDE_PORT,
    SERVER, SERVER6, everywhere, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::{Build, ICMP, ICMPV6, TCP, UDP};
use turnpike_sim::tables::{INSIDE, OUTSIDE, PolicyTable, prefix, rule};
use turnpike_wire::packet::{TCP_ACK, TCP_SYN};

const CLIENT: (&str, u16) = (HOST6, 40000);
const WEB: (&str, u16) = (SERVER6, 80);

fn with_rules(rules: Vec<FirewallRuleRecord>) -> PolicyTable {
    PolicyTable { rules, ..PolicyTable::default() }
}

/// Default of a pair of zones.
fn pair(from: ZoneId, to: ZoneId, action: Action) -> ZonePairRecord {
    ZonePairRecord { from, to, action, ..ZonePairRecord::default() }
}

/// FW-0, FW-19: without translation a permitted packet is changed in nothing but its hop limit.
#[test]
fn fw_0_permitted_packets_are_changed_in_their_hop_limit_only() {
    everywhere(|lab| {
        for packet in [
            Build::udp(CLIENT, WEB, &[7; 1400]),
            Build::tcp(CLIENT, WEB, TCP_SYN, b""),
            Build::echo(HOST6, SERVER6, 9, false, &[1; 56]),
            Build::other(HOST6, SERVER6, 50, &[9; 40]),
        ] {
            assert_eq!(lab.out(&packet).ip(), packet.ttl(63).ip());
        }
    });
}

#[test]
fn established_flows_pass_and_unsolicited_packets_are_blocked_and_counted() {
    everywhere(|lab| {
        for (there, back) in [
            (Build::udp(CLIENT, WEB, b"q"), Build::udp(WEB, CLIENT, b"a")),
            (Build::tcp(CLIENT, WEB, TCP_SYN, b""), Build::tcp(WEB, CLIENT, TCP_SYN | TCP_ACK, b"")),
            (Build::echo(HOST6, SERVER6, 9, false, b"q"), Build::echo(SERVER6, HOST6, 9, true, b"a")),
            (Build::other(HOST6, SERVER6, 50, b"q"), Build::other(SERVER6, HOST6, 50, b"a")),
            (Build::udp((OTHER_HOST6, 7), WEB, b"q"), Build::udp(WEB, (OTHER_HOST6, 7), b"a")),
        ] {
            let step = lab.step(OUTSIDE_PORT, &back);
            assert!(step.sent.is_empty());
            assert!(
                matches!(
                    step.drops[..],
                    [(
                        DropReason::FirewallDefaultDeny
                            | DropReason::SynRequired
                            | DropReason::IcmpReplyUnasked,
                        1
                    )]
                ),
                "{step:?}"
            );
            lab.out(&there);
            assert_eq!(lab.back(&back).ip(), back.clone().ttl(63).ip());
        }
        let syn = Build::tcp(WEB, (HOST6, 22), TCP_SYN, b"");
        lab.step(OUTSIDE_PORT, &syn).dropped(DropReason::FirewallDefaultDeny);
        let counters = lab.appliance.counters();
        assert_eq!(counters.verdicts(INSIDE, OUTSIDE, FirewallAction::Accept), 5);
        assert!(counters.verdicts(OUTSIDE, INSIDE, FirewallAction::Drop) >= 3);
    });
}

/// FW-10, FW-20: errors about a flow pass in both directions, others do not.
#[test]
fn fw_10_icmpv6_errors_about_a_flow_pass() {
    everywhere(|lab| {
        for packet in [
            Build::udp(CLIENT, WEB, b"q"),
            Build::tcp(CLIENT, WEB, TCP_SYN, b""),
            Build::echo(HOST6, SERVER6, 9, false, b""),
            // DCCP, ESP, SCTP, Mobility Header.
            Build::other(HOST6, SERVER6, 33, &[1; 16]),
            Build::other(HOST6, SERVER6, 50, &[1; 16]),
            Build::other(HOST6, SERVER6, 132, &[1; 16]),
            Build::other(HOST6, SERVER6, 135, &[59, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let left = lab.out(&packet);
            for (kind, code) in [(1, 0), (1, 1), (1, 3), (1, 4), (2, 0), (3, 0), (4, 0), (4, 1), (4, 2)] {
                let error = Build::icmp_error("2001:db8:77::1", HOST6, kind, code, 1280, left.ip());
                assert_eq!(lab.back(&error).ip(), error.ttl(63).ip());
            }
        }
        let about = lab.back(&Build::udp(WEB, CLIENT, b"a"));
        for from in [HOST6, "fd00:0:0:5::77"] {
            let error = Build::icmp_error(from, SERVER6, 1, 4, 0, about.ip());
            assert_eq!(lab.out(&error).ip(), error.ttl(63).ip());
        }
    });
}

#[test]
fn fw_6_icmpv6_errors_about_no_flow_are_dropped() {
    everywhere(|lab| {
        lab.out(&Build::udp(CLIENT, WEB, b"q"));
        for (kind, code) in [(1, 0), (2, 0), (3, 0), (4, 1)] {
            let about = Build::udp((HOST6, 40001), WEB, b"q").ip();
            let error = Build::icmp_error("2001:db8:77::1", HOST6, kind, code, 1280, &about);
            lab.step(OUTSIDE_PORT, &error).dropped(DropReason::IcmpNoSession);
        }
    });
}

#[test]
fn fw_11_icmpv6_ends_no_flow() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp(CLIENT, WEB, b"q"));
        for code in 0..7 {
            lab.back(&Build::icmp_error(SERVER6, HOST6, 1, code, 0, left.ip()));
        }
        lab.back(&Build::udp(WEB, CLIENT, b"a"));
        assert_eq!(lab.appliance.counters().flows(ProtocolClass::Udp).0, 1);
    });
}

#[test]
fn fw_8_idle_flows_end_after_their_time() {
    everywhere(|lab| {
        lab.out(&Build::udp(CLIENT, WEB, b"q"));
        lab.out(&Build::other(HOST6, SERVER6, 50, b"q"));
        lab.appliance.advance(299_000, 1000);
        lab.back(&Build::udp(WEB, CLIENT, b"a"));
        lab.appliance.advance(2000, 500);
        lab.step(OUTSIDE_PORT, &Build::udp(WEB, CLIENT, b"a")).dropped(DropReason::FirewallDefaultDeny);
        assert_eq!(lab.appliance.counters().flows(ProtocolClass::Other).0, 0);
    });
}

/// FW-9: outbound packets refresh.
#[test]
fn fw_9_outbound_packets_refresh_udp() {
    everywhere(|lab| {
        for _ in 0..5 {
            lab.out(&Build::udp(CLIENT, WEB, b"q"));
            lab.appliance.advance(250_000, 1000);
        }
        lab.back(&Build::udp(WEB, CLIENT, b"a"));
    });
}

#[test]
fn fw_12_flows_of_different_protocols_do_not_match() {
    everywhere(|lab| {
        lab.out(&Build::udp(CLIENT, WEB, b"q"));
        // UDP-Lite with the same ports.
        let lite = Build::other(SERVER6, HOST6, 136, &Build::udp(WEB, CLIENT, b"a").message);
        lab.step(OUTSIDE_PORT, &lite).dropped(DropReason::FirewallDefaultDeny);
    });
}

/// FW-13, FW-14: IPsec and HIP leave, and their answers come back whatever the SPI.
#[test]
fn fw_13_ipsec_is_not_blocked() {
    everywhere(|lab| {
        for protocol in [50, 51, 139] {
            lab.out(&Build::other(
                HOST6,
                SERVER6,
                protocol,
                &[17, 4, 0, 0, 1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ));
            lab.back(&Build::other(
                SERVER6,
                HOST6,
                protocol,
                &[17, 4, 0, 0, 9, 8, 7, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ));
        }
        lab.out(&Build::udp((HOST6, 500), (SERVER6, 500), b"ike"));
        lab.back(&Build::udp((SERVER6, 500), (HOST6, 500), b"ike"));
    });
}

#[test]
fn fw_15_simultaneous_open_passes() {
    everywhere(|lab| {
        lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b""));
        lab.back(&Build::tcp(WEB, CLIENT, TCP_SYN, b""));
        lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN | TCP_ACK, b""));
        lab.back(&Build::tcp(WEB, CLIENT, TCP_ACK, b"data"));
    });
}

/// FW-17: as for translated flows.
#[test]
fn fw_17_established_tcp_stays_for_7440_seconds() {
    everywhere(|lab| {
        lab.out(&Build::tcp(CLIENT, WEB, TCP_SYN, b""));
        lab.back(&Build::tcp(WEB, CLIENT, TCP_SYN | TCP_ACK, b""));
        lab.appliance.advance(7_439_000, 1000);
        lab.back(&Build::tcp(WEB, CLIENT, TCP_ACK, b"still here"));
        lab.out(&Build::tcp((HOST6, 40001), WEB, TCP_SYN, b""));
        lab.appliance.advance(239_000, 1000);
        lab.back(&Build::tcp(WEB, (HOST6, 40001), TCP_SYN | TCP_ACK, b""));
    });
}

#[test]
fn fw_1_frag_needed_about_a_flow_without_translation_comes_back_in() {
    let mut policy = PolicyTable::default();
    policy.nat[0].action = turnpike_abi::table::NatAction::EXEMPT;
    everywhere_with(&policy, &forwarding(), |lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), &[1; 1400]).df());
        let error = Build::icmp_error("192.0.2.254", HOST, 3, 4, 1280, &left.ip()[..28]);
        assert_eq!(lab.back(&error).ip(), error.ttl(63).ip());
    });
}

#[test]
fn fw_2_forbidden_sources_and_destinations_are_dropped() {
    let mut policy = PolicyTable::default();
    policy.settings.flags = 0;
    policy.pairs.push(pair(OUTSIDE, INSIDE, Action::ACCEPT));
    everywhere_with(&policy, &forwarding(), |lab| {
        for source in
            ["ff02::1", "::1", "::", "::ffff:10.0.0.1", "::10.0.0.1", "fec0::1", "2001:10::1", "fe80::1"]
        {
            let packet = Build::udp((source, 1), (HOST6, 2), b"x");
            lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::MartianSource);
        }
        for destination in ["::1", "::", "::ffff:10.0.0.1", "::10.0.0.1", "fec0::1", "2001:10::1", "fe80::1"]
        {
            let packet = Build::udp((SERVER6, 1), (destination, 2), b"x");
            lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::MartianDestination);
        }
        for destination in ["ff05::2", "ff08::2", "ff0e::101", "224.0.1.1", "239.1.1.1"] {
            let source = if destination.contains(':') { HOST6 } else { HOST };
            let packet = Build::udp((source, 1), (destination, 2), b"x");
            lab.step(INSIDE_PORT, &packet).dropped(DropReason::MulticastUnsupported);
        }
        for source in ["0.0.0.0", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255", "169.254.1.1"] {
            let packet = Build::udp((source, 1), (SERVER, 2), b"x");
            lab.step(INSIDE_PORT, &packet).dropped(DropReason::MartianSource);
        }
        for destination in ["0.0.0.0", "127.0.0.1", "240.0.0.1", "169.254.1.1"] {
            let packet = Build::udp((HOST, 1), (destination, 2), b"x");
            lab.step(INSIDE_PORT, &packet).dropped(DropReason::MartianDestination);
        }
    });
}

/// RFC 5095: type 0 with segments left; other types and used-up headers are the firewall's ordinary business.
#[test]
fn fw_3_routing_header_type_0_is_dropped() {
    everywhere(|lab| {
        let routed = |kind: u8, left: u8| {
            let mut payload = vec![17, 2, kind, left, 0, 0, 0, 0];
            payload.extend([0x20; 16]);
            payload.extend(&Build::udp(CLIENT, WEB, b"q").ip()[40..]);
            Build::other(HOST6, SERVER6, 43, &payload)
        };
        lab.step(INSIDE_PORT, &routed(0, 1)).dropped(DropReason::Ip6RoutingHeader0);
        let _ = lab.step(INSIDE_PORT, &routed(0, 0)).passed(OUTSIDE_PORT);
    });
}

/// What is for the box itself is no exception: PCP and whatever else answers there believe the source.
#[test]
fn fw_4_sources_that_do_not_route_back_do_not_reach_the_box() {
    let spoofed = [
        (INSIDE_PORT, SERVER, BOX_INSIDE),
        (INSIDE_PORT, "172.16.0.9", BOX_OUTSIDE),
        (OUTSIDE_PORT, HOST, BOX_INSIDE),
        (INSIDE_PORT, BOX_INSIDE, BOX_INSIDE),
        (INSIDE_PORT, SERVER6, BOX_INSIDE6),
        (OUTSIDE_PORT, HOST6, BOX_INSIDE6),
    ];
    everywhere(|lab| {
        for (port, source, destination) in spoofed {
            let packet = Build::udp((source, 1), (destination, 5351), b"x");
            lab.step(port, &packet).dropped(DropReason::SpoofedSource);
        }
        for (port, source, destination) in [
            (INSIDE_PORT, HOST, BOX_INSIDE),
            (INSIDE_PORT, HOST, BOX_OUTSIDE),
            (OUTSIDE_PORT, SERVER, BOX_OUTSIDE),
            (INSIDE_PORT, HOST6, BOX_INSIDE6),
            (INSIDE_PORT, "fe80::9", BOX_INSIDE6),
            (OUTSIDE_PORT, SERVER6, BOX_OUTSIDE6),
        ] {
            let _ = lab.step(port, &Build::udp((source, 1), (destination, 179), b"x")).punted(port);
        }
    });
    let mut policy = PolicyTable::default();
    policy.settings.flags &= !SettingsRecord::REVERSE_PATH;
    everywhere_with(&policy, &forwarding(), |lab| {
        for (port, source, destination) in spoofed {
            let _ = lab.step(port, &Build::udp((source, 1), (destination, 5351), b"x")).punted(port);
        }
    });
}

#[test]
fn fw_4_sources_that_do_not_route_back_are_dropped() {
    everywhere(|lab| {
        for (port, source, destination) in [
            (INSIDE_PORT, SERVER, "198.51.100.77"),
            (INSIDE_PORT, "172.16.0.9", SERVER),
            (OUTSIDE_PORT, HOST, "203.0.113.3"),
            (INSIDE_PORT, SERVER6, "2001:db8:9::8"),
            (INSIDE_PORT, "fd00:0:0:6::1", SERVER6),
            (OUTSIDE_PORT, HOST6, OTHER_HOST6),
        ] {
            let packet = Build::udp((source, 1), (destination, 2), b"x");
            lab.step(port, &packet).dropped(DropReason::SpoofedSource);
        }
    });
    let mut policy = PolicyTable::default();
    policy.settings.flags &= !SettingsRecord::REVERSE_PATH;
    everywhere_with(&policy, &forwarding(), |lab| {
        let _ = lab.out(&Build::udp(("172.16.0.9", 1), (SERVER, 2), b"x"));
    });
}

#[test]
fn rules_are_looked_at_in_order_and_the_first_match_decides() {
    let mut allow = rule(OUTSIDE, INSIDE, Action::ACCEPT);
    (allow.protocol, allow.destination_ports) = (u16::from(TCP), [80, 89]);
    allow.destination = prefix(HOST6, 128);
    let mut deny = rule(OUTSIDE, INSIDE, Action::DROP);
    (deny.protocol, deny.destination_ports) = (u16::from(TCP), [85, 85]);
    let mut again = deny;
    again.action = Action::ACCEPT;
    let syn = |port| Build::tcp((SERVER6, 5), (HOST6, port), TCP_SYN, b"");
    everywhere_with(&with_rules(vec![deny, allow, again]), &forwarding(), |lab| {
        for port in [80, 84, 86, 89] {
            lab.back(&syn(port));
        }
        lab.step(OUTSIDE_PORT, &syn(85)).dropped(DropReason::FirewallRuleDeny);
        for packet in [
            syn(79),
            syn(90),
            Build::udp((SERVER6, 5), (HOST6, 80), b""),
            Build::tcp((SERVER6, 5), (OTHER_HOST6, 80), TCP_SYN, b""),
        ] {
            lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::FirewallDefaultDeny);
        }
    });
    everywhere_with(&with_rules(vec![allow, deny]), &forwarding(), |lab| {
        lab.back(&syn(85));
        // And the answer passes.
        lab.out(&Build::tcp((HOST6, 85), (SERVER6, 5), TCP_SYN | TCP_ACK, b""));
    });
}

#[test]
fn rules_match_on_source_family_source_port_and_icmp_type() {
    let mut from = rule(OUTSIDE, INSIDE, Action::ACCEPT);
    (from.source, from.source_ports, from.protocol) =
        (prefix("2001:db8:9::", 48), [1000, 2000], u16::from(UDP));
    let mut ping = rule(OUTSIDE, INSIDE, Action::ACCEPT);
    (ping.protocol, ping.icmp_type, ping.icmp_code) = (u16::from(ICMPV6), 128, 0);
    everywhere_with(&with_rules(vec![from, ping]), &forwarding(), |lab| {
        for port in [1000, 2000] {
            lab.back(&Build::udp((SERVER6, port), (HOST6, 7), b""));
        }
        for (source, port) in [(SERVER6, 999), (SERVER6, 2001), ("2001:db8:a::7", 1500)] {
            let packet = Build::udp((source, port), (HOST6, 7), b"");
            lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::FirewallDefaultDeny);
        }
        lab.back(&Build::echo(SERVER6, HOST6, 3, false, b"ping"));
        lab.out(&Build::echo(HOST6, SERVER6, 3, true, b"ping"));
        let mut coded = Build::echo(SERVER6, HOST6, 4, false, b"ping");
        coded.message[1] = 1;
        lab.step(OUTSIDE_PORT, &coded).dropped(DropReason::FirewallDefaultDeny);
    });
    // `icmp` in a rule means that of either family; `family` narrows it.
    let mut any = rule(OUTSIDE, INSIDE, Action::ACCEPT);
    any.protocol = u16::from(ICMP);
    let mut four = any;
    four.family = 4;
    everywhere_with(&with_rules(vec![any]), &forwarding(), |lab| {
        lab.back(&Build::echo(SERVER6, HOST6, 3, false, b"ping"));
    });
    everywhere_with(&with_rules(vec![four]), &forwarding(), |lab| {
        let packet = Build::echo(SERVER6, HOST6, 3, false, b"ping");
        lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::FirewallDefaultDeny);
    });
}

#[test]
fn outbound_flows_obey_rules_too_and_translation_comes_after() {
    let mut smtp = rule(INSIDE, OUTSIDE, Action::REJECT);
    (smtp.protocol, smtp.destination_ports) = (u16::from(TCP), [25, 25]);
    smtp.source = prefix("10.0.0.0", 16);
    everywhere_with(&with_rules(vec![smtp]), &forwarding(), |lab| {
        let packet = Build::tcp((HOST, 5), (SERVER, 25), TCP_SYN, b"");
        let error = lab.step(INSIDE_PORT, &packet).refused(DropReason::FirewallRuleDeny);
        assert_eq!(error.icmp(), (3, 13));
        assert_eq!(error.payload(), packet.ip());
        lab.out(&Build::tcp((HOST, 5), (SERVER, 26), TCP_SYN, b""));
        assert_eq!(
            lab.appliance.counters().bindings(ProtocolClass::Tcp).1,
            1,
            "a refused flow made a binding"
        );
    });
}

/// A rule has the last word over a binding, whose endpoint-independent filter would let everybody in.
#[test]
fn inbound_flows_to_a_mapping_obey_rules_on_the_inside_address() {
    let mut deny = rule(OUTSIDE, INSIDE, Action::DROP);
    (deny.destination, deny.protocol) = (prefix(HOST, 32), u16::from(UDP));
    deny.source = prefix("198.51.100.8", 32);
    everywhere_with(&with_rules(vec![deny]), &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        let blocked = Build::udp(("198.51.100.8", 1), (&external, port), b"x");
        lab.step(OUTSIDE_PORT, &blocked).dropped(DropReason::FirewallRuleDeny);
        lab.back(&Build::udp(("198.51.100.9", 1), (&external, port), b"x"));
    });
}

#[test]
fn fw_16_rejected_packets_are_answered() {
    let mut policy = PolicyTable::default();
    policy.pairs.push(pair(OUTSIDE, INSIDE, Action::REJECT));
    everywhere_with(&policy, &forwarding(), |lab| {
        let packet = Build::tcp(WEB, CLIENT, TCP_SYN, b"");
        let error = lab.step(OUTSIDE_PORT, &packet).refused(DropReason::FirewallDefaultDeny);
        assert_eq!(error.icmp(), (1, 1));
        assert_eq!(text(error.source()).0, BOX_OUTSIDE6);
        assert_eq!(error.payload(), packet.ip());
        assert_eq!(lab.appliance.counters().icmp_errors(IcmpKind::UnreachableAdmin), (1, 0));
        assert_eq!(lab.appliance.counters().verdicts(OUTSIDE, INSIDE, FirewallAction::Reject), 1);
    });
}

#[test]
fn pairs_of_zones_that_are_not_named_drop() {
    let policy = PolicyTable { pairs: Vec::new(), ..PolicyTable::default() };
    everywhere_with(&policy, &forwarding(), |lab| {
        lab.step(INSIDE_PORT, &Build::udp((HOST, 1), (SERVER, 2), b""))
            .dropped(DropReason::FirewallDefaultDeny);
        lab.step(INSIDE_PORT, &Build::udp(CLIENT, WEB, b"")).dropped(DropReason::FirewallDefaultDeny);
        // From inside to inside is a pair as well.
        let across = Build::udp((HOST6, 1), (OTHER_HOST6, 2), b"");
        lab.step(INSIDE_PORT, &across).dropped(DropReason::FirewallDefaultDeny);
    });
}

#[test]
fn flows_within_a_zone_are_routed_between_their_owners() {
    let mut policy = PolicyTable::default();
    policy.pairs.push(pair(INSIDE, INSIDE, Action::ACCEPT));
    everywhere_with(&policy, &forwarding(), |lab| {
        let there = Build::udp((HOST6, 1), (OTHER_HOST6, 2), b"there");
        let arrived = lab.hairpin(&there);
        assert_eq!(arrived.ip(), there.ttl(63).ip());
        lab.hairpin(&Build::udp((OTHER_HOST6, 2), (HOST6, 1), b"back"));
        assert_eq!(lab.appliance.counters().flows(ProtocolClass::Udp).1, 1, "one flow for both directions");
        // An error of a router between them.
        lab.hairpin(&Build::icmp_error("fd00:0:0:5::1", HOST6, 1, 3, 0, arrived.ip()));
        // IPv4 between subscribers by their own addresses is not translated either.
        let there = Build::udp((HOST, 1), ("10.0.0.10", 2), b"there");
        assert_eq!(lab.hairpin(&there).ip(), there.ttl(63).ip());
    });
}

#[test]
fn routes_that_say_unreachable_or_nothing_are_obeyed() {
    let mut table = forwarding();
    table.routes.retain(|route| route.prefix.length != 0 && route.prefix.length != 96);
    for (text, length, kind) in [
        ("198.51.100.0", 24, RouteKind::UNREACHABLE),
        ("198.18.0.0", 15, RouteKind::BLACKHOLE),
        ("2001:db8:9::", 48, RouteKind::UNREACHABLE),
    ] {
        table.route(text, length, None, 0);
        table.routes.last_mut().unwrap().kind = kind;
    }
    let mut policy = PolicyTable::default();
    policy.settings.flags = 0;
    everywhere_with(&policy, &table, |lab| {
        let error = lab
            .step(INSIDE_PORT, &Build::udp((HOST, 1), (SERVER, 2), b""))
            .refused(DropReason::RouteUnreachable);
        assert_eq!(error.icmp(), (3, 1));
        lab.step(INSIDE_PORT, &Build::udp((HOST, 1), ("198.18.0.1", 2), b""))
            .dropped(DropReason::RouteUnreachable);
        let error =
            lab.step(INSIDE_PORT, &Build::udp((HOST, 1), ("8.8.8.8", 2), b"")).refused(DropReason::NoRoute);
        assert_eq!(error.icmp(), (3, 0));
        let error =
            lab.step(INSIDE_PORT, &Build::udp(CLIENT, WEB, b"")).refused(DropReason::RouteUnreachable);
        assert_eq!((error.icmp(), text(error.source()).0), ((1, 3), BOX_INSIDE6.to_owned()));
        let error = lab
            .step(INSIDE_PORT, &Build::udp(CLIENT, ("2001:db8:a::1", 1), b""))
            .refused(DropReason::NoRoute);
        assert_eq!(error.icmp(), (1, 0));
    });
}

/// FW-20, RFC 4890 4.3.1: what the firewall has to let out, if only the pair allows it.
#[test]
fn fw_20_icmpv6_messages_for_transit_pass() {
    let mut policy = PolicyTable::default();
    policy.pairs.push(pair(OUTSIDE, INSIDE, Action::ACCEPT));
    everywhere_with(&policy, &forwarding(), |lab| {
        lab.back(&Build::echo(SERVER6, HOST6, 3, false, b"ping"));
        lab.out(&Build::echo(HOST6, SERVER6, 3, true, b"ping"));
        // Neighbour discovery does not cross a router; nor do redirects and unknown types.
        for kind in [133, 134, 135, 136, 137, 130, 131, 132, 150] {
            let packet = Build::icmp_error(SERVER6, HOST6, kind, 0, 0, &[0; 20]);
            lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::IcmpUnknownType);
        }
    });
}

#[test]
fn frg_5_ipv6_extension_headers_pass_and_so_do_atomic_fragments() {
    everywhere(|lab| {
        let datagram = &Build::udp(CLIENT, WEB, b"q").ip()[40..];
        let extended = |chain: &[u8], next| Build::other(HOST6, SERVER6, next, &[chain, datagram].concat());
        for (next, chain) in [
            (0, &[17, 0, 1, 4, 0, 0, 0, 0][..]),
            (60, &[17, 0, 1, 4, 0, 0, 0, 0]),
            (0, &[60, 0, 5, 2, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]),
            // FRG-5: an atomic fragment is a packet.
            (44, &[17, 0, 0, 0, 0, 0, 0, 9]),
        ] {
            let seen = lab.out(&extended(chain, next));
            assert_eq!(text(seen.source()), (HOST6.to_owned(), 40000));
        }
    });
}

/// FRG-3 and its relatives: each kind of bad fragment has its own counter.
#[test]
fn frg_3_tiny_and_overlapping_headers_are_dropped() {
    everywhere(|lab| {
        let fragment = |protocol: u8, field: u16, payload: &[u8]| {
            let mut packet = Build::other(HOST, SERVER, protocol, payload).ip();
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            packet[10..12].fill(0);
            let check = turnpike_wire::checksum::ones_complement(&packet[..20]);
            packet[10..12].copy_from_slice(&check.to_be_bytes());
            [&Build::udp((HOST, 1), (SERVER, 2), b"").frame(0)[..14], &packet].concat()
        };
        lab.frame(INSIDE_PORT, &fragment(6, 0x2000, &[0; 8])).dropped(DropReason::FragTiny);
        lab.frame(INSIDE_PORT, &fragment(6, 0x0001, &[0; 8])).dropped(DropReason::FragOffsetOne);
        lab.frame(INSIDE_PORT, &fragment(17, 0x1fff, &[0; 16])).dropped(DropReason::FragOverrun);
        lab.frame(INSIDE_PORT, &fragment(17, 0x2002, &[0; 7])).dropped(DropReason::FragBadLength);
        assert_eq!(lab.appliance.counters().get(Counter::FragmentsHeld), 0);
    });
}

/// First packets are counted by the first rule that matches, whatever it says; packets of known flows are not, and
/// another policy with the same rules counts on.
#[test]
fn rules_count_the_first_packets_that_they_decide() {
    let numbered = |number, of: FirewallRuleRecord| FirewallRuleRecord { rule: number, ..of };
    let of = |protocol: u8| FirewallRuleRecord {
        protocol: protocol.into(),
        ..rule(ZoneId::ANY, ZoneId::ANY, Action::ACCEPT)
    };
    let rules = vec![
        numbered(0, FirewallRuleRecord { destination_ports: [23, 23], action: Action::REJECT, ..of(TCP) }),
        // One rule for the ICMP of both families is two records.
        numbered(1, FirewallRuleRecord { family: 4, ..of(ICMP) }),
        numbered(1, FirewallRuleRecord { family: 6, ..of(ICMPV6) }),
        numbered(2, FirewallRuleRecord { action: Action::DROP, source: prefix(SERVER, 32), ..of(UDP) }),
        numbered(3, of(UDP)),
    ];
    let policy = with_rules(rules);
    everywhere_with(&policy, &forwarding(), |lab| {
        let (first, hits) = lab.appliance.rule_hits();
        assert_eq!(hits, [0; 4]);
        for _ in 0..3 {
            let telnet = Build::tcp((HOST6, 7), (SERVER6, 23), TCP_SYN, b"");
            let _ = lab.step(INSIDE_PORT, &telnet).refused(DropReason::FirewallRuleDeny);
        }
        for _ in 0..2 {
            lab.out(&Build::echo(HOST6, SERVER6, 9, false, b"x"));
            lab.out(&Build::echo(HOST, SERVER, 9, false, b"x"));
        }
        let (external, port) = lab.udp_mapping(HOST, 5000);
        lab.back(&Build::udp((SERVER, 53), (&external, port), b"the flow's"));
        // To a binding, from outside: one is refused by a rule, one let in by another.
        lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 54), (&external, port), b"x"))
            .dropped(DropReason::FirewallRuleDeny);
        lab.back(&Build::udp(("198.51.100.99", 1), (&external, port), b"x"));
        // By no rule.
        lab.out(&Build::tcp((HOST6, 7), (SERVER6, 80), TCP_SYN, b""));
        assert_eq!(lab.appliance.rule_hits(), (first, vec![3, 2, 1, 2]));

        let mut same = policy.clone();
        same.settings.udp += 1;
        lab.appliance.policy(&same);
        let (second, hits) = lab.appliance.rule_hits();
        assert!(second > first);
        assert_eq!(hits, [3, 2, 1, 2]);
        same.rules.remove(0);
        lab.appliance.policy(&same);
        lab.udp_mapping(HOST, 6000);
        assert_eq!(lab.appliance.rule_hits().1, [0, 0, 0, 1]);
    });
}
