//! The link layer and the exception path: VLANs, ARP, what is the kernel's, next hops.

use turnpike_abi::command::Kind;
use turnpike_abi::counters::{Counter, DropReason};
use turnpike_abi::event::NeighbourNeeded;
use turnpike_abi::table::InterfaceRecord;
use turnpike_abi::{InterfaceId, PortId, WorkerId};
use turnpike_engine::Interface;
use turnpike_sim::lab::{
    BOX_INSIDE, BOX_OUTSIDE, BOX_OUTSIDE6, GATEWAY, HOST, HOST_MAC, HOST6, INSIDE_PORT, Lab, OUTSIDE_PORT,
    ROUTER_MAC, SERVER, SERVER6, everywhere, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::{Build, see};
use turnpike_sim::tables::{ForwardingTable, INSIDE, OUTSIDE, PolicyTable, address};
use turnpike_sim::{Appliance, Steering, station};
use turnpike_wire::arp::{self, Arp};
use turnpike_wire::checksum::ones_complement;
use turnpike_wire::ethernet;

const BROADCAST: [u8; 6] = [0xff; 6];

/// Port 0 untagged and VLAN 7 inside, port 1 VLAN 100 outside and nothing untagged.
fn tagged(workers: u8) -> Lab {
    let interface = |port, vlan| Interface { port: PortId(port), vlan, mac: station(port), mtu: 1500 };
    let mut appliance =
        Appliance::bare(workers, vec![interface(0, 0), interface(1, 100), interface(0, 7)], 1024);
    let interfaces = [(0, INSIDE), (1, OUTSIDE), (2, INSIDE)].map(|(interface, zone)| InterfaceRecord {
        interface: InterfaceId(interface),
        zone,
        mtu: 1500,
        ..InterfaceRecord::default()
    });
    let policy = PolicyTable { interfaces: interfaces.to_vec(), ..PolicyTable::default() };
    appliance.policy(&policy);
    let mut table = ForwardingTable::default();
    table.address("10.7.0.1", 16, 2);
    appliance.forwarding(&table);
    appliance.neighbour(0, address(HOST), HOST_MAC);
    appliance.neighbour(1, address(GATEWAY), ROUTER_MAC);
    appliance.neighbour(1, address("2001:db8::fe"), ROUTER_MAC);
    appliance.neighbour(2, address("10.7.0.9"), HOST_MAC);
    Lab { appliance }
}

fn frame(packet: &Build, port: u16, vlan: Option<u16>) -> Vec<u8> {
    Build { vlan, ..packet.clone() }.frame(port)
}

#[test]
fn packets_pass_between_tagged_and_untagged_interfaces() {
    for workers in [1, 3] {
        let mut lab = tagged(workers);
        for (host, vlan) in [(HOST, None), ("10.7.0.9", Some(7))] {
            let packet = Build::udp((host, 5000), (SERVER, 53), b"question");
            let seen = lab.frame(0, &frame(&packet, 0, vlan)).passed(1);
            assert_eq!((seen.vlan, seen.to, seen.from), (Some(100), ROUTER_MAC, station(1)));
            let (external, port) = text(seen.source());
            let answer = Build::udp((SERVER, 53), (&external, port), b"answer");
            let seen = lab.frame(1, &frame(&answer, 1, Some(100))).passed(0);
            assert_eq!((seen.vlan, seen.to), (vlan, HOST_MAC));
            assert_eq!(text(seen.destination()), (host.to_owned(), 5000));
        }
        // A fragmented packet has its tag on every piece; an error goes back tagged.
        let big = Build::udp(("10.7.0.9", 5000), (SERVER, 53), &[1; 1600]);
        let step = lab.frame(0, &frame(&big, 0, Some(7)));
        assert_eq!(step.sent.len(), 2);
        assert!(step.sent.iter().all(|(port, bytes)| *port == 1 && see(bytes).vlan == Some(100)));
        let expired = Build::udp(("10.7.0.9", 5000), (SERVER, 53), b"").ttl(1);
        let error = lab.frame(0, &frame(&expired, 0, Some(7))).refused(DropReason::TtlExpired);
        assert_eq!((error.vlan, text(error.source()).0), (Some(7), "10.7.0.1".to_owned()));
    }
}

#[test]
fn unknown_vlans_and_missing_tags_are_dropped() {
    let mut lab = tagged(2);
    let packet = Build::udp((HOST, 5000), (SERVER, 53), b"x");
    for (port, vlan) in [(0, Some(8)), (0, Some(100)), (1, Some(7)), (1, None), (1, Some(0))] {
        lab.frame(port, &frame(&packet, port, vlan)).dropped(DropReason::VlanUnknown);
    }
    // 802.1Q 9.6: VLAN id 0 is a priority without VLAN.
    let seen = lab.frame(0, &frame(&packet, 0, Some(0))).passed(1);
    assert_eq!(seen.vlan, Some(100));
    let mut cut = frame(&packet, 0, Some(7));
    cut.truncate(16);
    lab.frame(0, &cut).dropped(DropReason::VlanTruncated);
    // A second tag is no EtherType that is known.
    let mut double = frame(&packet, 0, Some(7));
    double.splice(16..16, [0x81, 0, 0, 9]);
    lab.frame(0, &double).dropped(DropReason::EthertypeUnknown);
}

#[test]
fn tags_are_stripped_on_the_way_to_the_kernel_and_added_on_the_way_from_it() {
    let mut lab = tagged(2);
    let packet = Build::udp(("10.7.0.9", 5000), ("10.7.0.1", 53), b"x");
    let step = lab.frame(0, &frame(&packet, 0, Some(7)));
    assert_eq!(step.punted(2), packet.frame(0));
    let reply =
        Build { to: HOST_MAC, from: station(0), ..Build::udp(("10.7.0.1", 53), ("10.7.0.9", 5000), b"y") };
    for (interface, port, vlan) in [(2, 0, Some(7)), (0, 0, None), (1, 1, Some(100))] {
        lab.appliance.inject(interface, &reply.frame(0));
        let sent = lab.appliance.sent().unwrap();
        assert_eq!(sent.port.0, port);
        assert_eq!(sent.bytes, frame(&reply, 0, vlan));
    }
    lab.appliance.inject(3, &reply.frame(0));
    assert_eq!(lab.appliance.drops(DropReason::InternalError), 1);
    lab.appliance.inject(0, &[0; 13]);
    assert_eq!(lab.appliance.drops(DropReason::EthTruncated), 1);
    assert_eq!(lab.appliance.counters().get(Counter::Injected), 5);
}

#[test]
fn frames_for_other_stations_and_of_other_types_are_dropped() {
    everywhere(|lab| {
        let packet = Build::udp((HOST, 5000), (SERVER, 53), b"x");
        lab.frame(0, &Build { to: ROUTER_MAC, ..packet.clone() }.frame(0)).dropped(DropReason::MacNotOurs);
        for ethertype in [0x88a8u16, 0x8847, 0x8863, 0x88cc, 0x0042] {
            let mut frame = packet.frame(0);
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            lab.frame(0, &frame).dropped(DropReason::EthertypeUnknown);
        }
        lab.frame(0, &[0; 13]).dropped(DropReason::EthTruncated);
        lab.frame(0, &[]).dropped(DropReason::EthTruncated);
    });
}

/// Each fault of a header ends in its own counter.
#[test]
fn malformed_packets_are_counted_by_their_fault() {
    everywhere(|lab| {
        let good = Build::udp((HOST, 5000), (SERVER, 53), b"x").frame(0);
        let six = Build::udp((HOST6, 5000), (SERVER6, 53), b"x").frame(0);
        let changed = |frame: &[u8], at: usize, value: u8| {
            let mut frame = frame.to_vec();
            frame[at] = value;
            frame
        };
        for (frame, reason) in [
            (good[..33].to_vec(), DropReason::Ip4Truncated),
            (changed(&good, 14, 0x65), DropReason::Ip4BadVersion),
            (changed(&good, 14, 0x44), DropReason::Ip4BadIhl),
            (changed(&good, 17, 200), DropReason::Ip4BadTotalLength),
            (changed(&good, 22, 9), DropReason::Ip4BadChecksum),
            (changed(&good, 38, 1), DropReason::UdpBadLength),
            (six[..53].to_vec(), DropReason::Ip6Truncated),
            (changed(&six, 14, 0x40), DropReason::Ip6BadVersion),
            (changed(&six, 19, 200), DropReason::Ip6BadPayloadLength),
            (changed(&six, 20, 60), DropReason::Ip6ExtTruncated),
            (Build::other(HOST, SERVER, 6, &[0; 19]).frame(0), DropReason::TcpTruncated),
            (Build::tcp((HOST, 1), (SERVER, 2), 0x03, b"").frame(0), DropReason::TcpBadFlags),
            (Build::other(HOST, SERVER, 17, &[0; 7]).frame(0), DropReason::UdpTruncated),
            (Build::other(HOST, SERVER, 1, &[8; 7]).frame(0), DropReason::IcmpTruncated),
        ] {
            lab.frame(0, &frame).dropped(reason);
        }
        // Padding behind the packet is not part of it.
        let seen = lab.frame(0, &[&good[..], &[0xee; 17]].concat()).passed(OUTSIDE_PORT);
        assert_eq!(seen.payload(), b"x");
    });
}

fn arp_frame(operation: u16, sender: &str, target: &str, to: [u8; 6]) -> Vec<u8> {
    let octets = |text: &str| address(text).to_v4().unwrap();
    let mut frame = vec![0; 60];
    ethernet::write(&mut frame, to, ROUTER_MAC, None, ethernet::ETHERTYPE_ARP).unwrap();
    let packet = Arp {
        operation,
        sender_mac: ROUTER_MAC,
        sender_ip: octets(sender),
        target_mac: [0; 6],
        target_ip: octets(target),
    };
    arp::write(&mut frame[14..], &packet).unwrap();
    frame
}

#[test]
fn arp_is_the_kernels() {
    everywhere(|lab| {
        for (operation, target, to) in [
            (arp::REQUEST, BOX_OUTSIDE, BROADCAST),
            (arp::REPLY, BOX_OUTSIDE, station(1)),
            (arp::REQUEST, "192.0.2.77", BROADCAST),
            // An announcement.
            (arp::REQUEST, GATEWAY, BROADCAST),
        ] {
            let frame = arp_frame(operation, GATEWAY, target, to);
            assert_eq!(lab.frame(OUTSIDE_PORT, &frame).punted(1), frame);
        }
        lab.frame(OUTSIDE_PORT, &arp_frame(1, GATEWAY, BOX_OUTSIDE, BROADCAST)[..41])
            .dropped(DropReason::ArpMalformed);
    });
}

/// NAT-7, RFC 3022 6.2.
#[test]
fn nat_7_requests_for_pool_addresses_are_answered_outside() {
    everywhere(|lab| {
        let request = arp_frame(arp::REQUEST, GATEWAY, "203.0.113.7", BROADCAST);
        lab.appliance.receive(OUTSIDE_PORT, &[&request]);
        let sent = lab.appliance.sent().expect("a reply");
        assert_eq!(sent.port.0, OUTSIDE_PORT);
        let link = ethernet::parse(&sent.bytes).unwrap();
        assert_eq!((link.destination, link.source), (ROUTER_MAC, station(1)));
        let reply = arp::parse(&sent.bytes[14..]).unwrap();
        assert_eq!(reply.operation, arp::REPLY);
        assert_eq!((reply.sender_mac, reply.sender_ip), (station(1), [203, 0, 113, 7]));
        assert_eq!((reply.target_mac, reply.target_ip), (ROUTER_MAC, [192, 0, 2, 254]));
        assert!(lab.appliance.punted().is_none());
        // Not inside, not for another address, and not to somebody who is not on that link.
        for (port, sender, target) in [
            (INSIDE_PORT, HOST, "203.0.113.7"),
            (OUTSIDE_PORT, GATEWAY, "203.0.113.16"),
            (OUTSIDE_PORT, HOST, "203.0.113.7"),
        ] {
            let request = arp_frame(arp::REQUEST, sender, target, BROADCAST);
            let _ = lab.frame(port, &request).punted(port);
        }
    });
    let mut policy = PolicyTable::default();
    policy.pools[0].proxy_arp = 0;
    everywhere_with(&policy, &forwarding(), |lab| {
        let request = arp_frame(arp::REQUEST, GATEWAY, "203.0.113.7", BROADCAST);
        let _ = lab.frame(OUTSIDE_PORT, &request).punted(1);
    });
}

#[test]
fn packets_for_the_box_go_to_the_kernel_as_they_are() {
    everywhere(|lab| {
        for (port, from, to) in [
            (INSIDE_PORT, HOST, BOX_INSIDE),
            (INSIDE_PORT, HOST, BOX_OUTSIDE),
            (OUTSIDE_PORT, SERVER, BOX_OUTSIDE),
            (OUTSIDE_PORT, SERVER6, BOX_OUTSIDE6),
            (INSIDE_PORT, "fe80::9", "fd00::1"),
            // Neighbour discovery and what else stays on the link.
            (INSIDE_PORT, "fe80::9", "ff02::1:ff00:1"),
            (OUTSIDE_PORT, "fe80::9", "ff02::5"),
            (OUTSIDE_PORT, GATEWAY, "224.0.0.5"),
            (INSIDE_PORT, "0.0.0.0", "255.255.255.255"),
        ] {
            for packet in [
                Build::udp((from, 1), (to, 22), b"x"),
                Build::tcp((from, 1), (to, 22), 2, b""),
                Build::echo(from, to, 7, false, b"ping"),
                Build::udp((from, 1), (to, 22), b"x").ttl(1),
                Build::other(from, to, 89, &[0; 44]),
            ] {
                let step = lab.step(port, &packet);
                assert_eq!(step.punted(port), packet.frame(port));
            }
        }
    });
}

#[test]
fn fragments_for_the_box_go_to_the_kernel() {
    everywhere(|lab| {
        for field in [0x2000u16, 0x2001, 0x0003] {
            let mut frame = Build::udp((SERVER, 1), (BOX_OUTSIDE, 22), &[1; 16]).frame(1);
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            frame[24..26].fill(0);
            let check = ones_complement(&frame[14..34]);
            frame[24..26].copy_from_slice(&check.to_be_bytes());
            assert_eq!(lab.frame(OUTSIDE_PORT, &frame).punted(1), frame);
        }
    });
}

/// FW-5: the box serves nobody itself; what its addresses get is for the kernel, which has its own rules.
#[test]
fn icmp_errors_for_the_box_go_to_the_kernel() {
    everywhere(|lab| {
        let about = Build::udp((BOX_OUTSIDE, 5), (SERVER, 6), b"x").ip();
        let error = Build::icmp_error(SERVER, BOX_OUTSIDE, 3, 3, 0, &about);
        let _ = lab.step(OUTSIDE_PORT, &error).punted(1);
    });
}

/// A pool address that is the box's own as well: what no binding wants is the kernel's.
#[test]
fn a_pool_address_that_is_the_boxs_own_serves_both() {
    let mut table = forwarding();
    table.address("203.0.113.0", 28, OUTSIDE_PORT);
    let mut policy = PolicyTable::default();
    policy.ranges[0].last = policy.ranges[0].first;
    everywhere_with(&policy, &table, |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        assert_eq!(external, "203.0.113.0");
        lab.back(&Build::udp((SERVER, 53), (&external, port), b"x"));
        for packet in [
            Build::udp((SERVER, 53), (&external, port ^ 1), b"x"),
            Build::tcp((SERVER, 53), (&external, 22), 2, b""),
            Build::echo(SERVER, &external, 7, false, b""),
            Build::other(SERVER, &external, 89, &[0; 44]),
        ] {
            let step = lab.step(OUTSIDE_PORT, &packet);
            assert_eq!(step.punted(1), packet.frame(1));
        }
    });
}

#[test]
fn without_tables_only_arp_passes() {
    let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
    let mut lab = Lab { appliance: Appliance::bare(2, vec![interface(0), interface(1)], 16) };
    lab.step(0, &Build::udp((HOST, 1), (SERVER, 2), b"x")).dropped(DropReason::NotConfigured);
    let frame = arp_frame(arp::REQUEST, GATEWAY, BOX_OUTSIDE, BROADCAST);
    let _ = lab.frame(OUTSIDE_PORT, &frame).punted(1);
    // With a policy alone, still.
    lab.appliance.policy(&PolicyTable::default());
    lab.step(0, &Build::udp((HOST, 1), (SERVER, 2), b"x")).dropped(DropReason::NotConfigured);
}

#[test]
fn interfaces_without_zone_forward_nothing() {
    let mut policy = PolicyTable::default();
    policy.interfaces.remove(1);
    everywhere_with(&policy, &forwarding(), |lab| {
        lab.step(INSIDE_PORT, &Build::udp((HOST, 1), (SERVER, 2), b"x")).dropped(DropReason::NotConfigured);
        lab.step(OUTSIDE_PORT, &Build::udp((SERVER, 1), (HOST, 2), b"x")).dropped(DropReason::NotConfigured);
    });
}

fn needed(lab: &mut Lab) -> Vec<NeighbourNeeded> {
    let events = std::mem::take(&mut lab.appliance.events);
    let needed = events.iter().filter(|(_, event)| event.header.kind == Kind::NEIGHBOUR_NEEDED);
    needed.map(|(_, event)| event.body()).collect()
}

#[test]
fn a_next_hop_is_asked_for_once_a_second_and_packets_leave_in_order() {
    let mut lab = Lab { appliance: Appliance::new(1) };
    lab.appliance.steer(Steering::Fixed(WorkerId(0)));
    for (number, expected) in [(0, 1), (1, 0), (2, 0)] {
        let step = lab.step(0, &Build::udp((HOST, 1), (SERVER, 2), &[number]));
        assert!(step.sent.is_empty() && step.drops.is_empty());
        let needed = needed(&mut lab);
        assert_eq!(needed.len(), expected);
        if let Some(needed) = needed.first() {
            assert_eq!((needed.address, needed.interface), (address(GATEWAY), InterfaceId(1)));
        }
    }
    lab.appliance.advance(1000, 100);
    assert!(lab.step(0, &Build::udp((HOST, 1), (SERVER, 2), &[3])).sent.is_empty());
    assert_eq!(needed(&mut lab).len(), 1);
    assert_eq!(lab.appliance.counters().get(Counter::Held), 4);
    lab.appliance.neighbour(1, address(GATEWAY), ROUTER_MAC);
    for number in 0..4 {
        let seen = see(&lab.appliance.sent().unwrap().bytes);
        assert_eq!((seen.payload(), seen.to), (&[number][..], ROUTER_MAC));
    }
    assert_eq!(lab.appliance.counters().get(Counter::Held), 0);
    assert_eq!(lab.appliance.counters().get(Counter::NeighbourReleased), 4);
}

#[test]
fn a_neighbour_that_moves_gets_its_packets_at_the_new_station() {
    everywhere(|lab| {
        lab.udp_mapping(HOST, 5000);
        lab.appliance.neighbour(1, address(GATEWAY), [2, 9, 9, 9, 9, 9]);
        assert_eq!(lab.out(&Build::udp((HOST, 5000), (SERVER, 53), b"x")).to, [2, 9, 9, 9, 9, 9]);
    });
}
