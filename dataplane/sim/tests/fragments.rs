//! Fragments through the box: every one is translated on its own, and whoever puts them together gets what was
//! sent. The receivers verify every checksum and refuse overlaps.

use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use turnpike_abi::counters::{Counter, DropReason};
use turnpike_sim::lab::{
    BOX_OUTSIDE, HOST, HOST6, INSIDE_PORT, Lab, OTHER_HOST, OTHER_HOST6, OUTSIDE_PORT, SERVER, SERVER6, Step,
    everywhere, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::{Build, Seen, see};
use turnpike_sim::pieces::{Receiver, cut, cut_evenly};
use turnpike_sim::tables::{PolicyTable, address};
use turnpike_wire::packet::Fragment;

const TCP_SYN: u8 = 2;

fn payload(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + seed * 13 + i / 256) as u8).collect()
}

/// Orders of `count` things: all of them up to four, then first last and middle in front and behind.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count <= 4 {
        return (0..count).fold(vec![vec![]], |orders, next| {
            let insert = |order: &Vec<usize>, at: usize| [&order[..at], &[next], &order[at..]].concat();
            orders.iter().flat_map(|order| (0..=order.len()).map(move |at| insert(order, at))).collect()
        });
    }
    let ascending: Vec<usize> = (0..count).collect();
    let mut orders = Vec::new();
    for first in [0, 1, count / 2, count - 1] {
        let mut order = ascending.clone();
        order.rotate_left(first);
        orders.push(order.clone());
        order.reverse();
        orders.push(order);
    }
    // First, last, then the middle, and from both ends inwards.
    orders.push([&[0, count - 1][..], &ascending[1..count - 1]].concat());
    orders.push([&[count - 1, 0][..], &ascending[1..count - 1]].concat());
    orders
}

/// Sends fragments in an order; the datagrams that come out by `to`.
fn deliver(lab: &mut Lab, port: u16, pieces: &[Vec<u8>], order: &[usize], to: u16) -> Vec<Seen> {
    let mut receiver = Receiver::default();
    let mut whole = Vec::new();
    for &at in order {
        let step = lab.frame(port, &pieces[at]);
        assert!(step.drops.is_empty() && step.punted.is_empty(), "{step:?}");
        for (by, frame) in step.sent {
            assert_eq!(by, to);
            whole.extend(receiver.take(&frame));
        }
    }
    assert_eq!((receiver.incomplete(), lab.appliance.counters().get(Counter::Held)), (0, 0));
    whole
}

/// One datagram comes out, and is what `expected` says.
fn delivered(lab: &mut Lab, port: u16, packet: &Build, count: usize, order: &[usize]) -> Seen {
    let frame = packet.frame(port);
    let length = (packet.message.len().div_ceil(count)).next_multiple_of(8);
    let pieces = cut_evenly(&frame, 77, length);
    assert_eq!(pieces.len(), count);
    let mut whole = deliver(lab, port, &pieces, order, 1 - port);
    assert_eq!(whole.len(), 1, "{order:?}");
    whole.remove(0)
}

/// RFC 4787 REQ-14, RFC 6146 3.4: any order, both directions, TCP, UDP, ICMP and others, both families.
#[test]
fn udp_14_fragments_in_any_order_are_delivered() {
    everywhere(|lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        let mut number = 0;
        for count in 2..=8 {
            for order in orders(count) {
                number += 1;
                let data = payload(count * 104 - 8, number);
                let mut out = Build::udp((HOST, 5000), (SERVER, 53), &data);
                out.identification = number as u16;
                let seen = delivered(lab, INSIDE_PORT, &out, count, &order);
                assert_eq!((text(seen.source()), seen.payload()), ((external.clone(), port), &data[..]));
                let mut back = Build::udp((SERVER, 53), (&external, port), &data);
                back.identification = number as u16;
                let seen = delivered(lab, OUTSIDE_PORT, &back, count, &order);
                assert_eq!((text(seen.destination()), seen.payload()), ((HOST.into(), 5000), &data[..]));
            }
        }
    });
}

#[test]
fn frg_1_any_protocol_and_family_in_any_order() {
    everywhere(|lab| {
        for (number, order) in orders(3).iter().enumerate() {
            let data = payload(300, number);
            let ports = 6000 + number as u16;
            for (there, back) in [
                // IPv6 through the firewall: UDP, TCP, ICMPv6, GRE.
                (
                    Build::udp((HOST6, ports), (SERVER6, 53), &data),
                    Build::udp((SERVER6, 53), (HOST6, ports), &data),
                ),
                (
                    Build::echo(HOST6, SERVER6, ports, false, &data),
                    Build::echo(SERVER6, HOST6, ports, true, &data),
                ),
                (Build::other(HOST6, SERVER6, 47, &data), Build::other(SERVER6, HOST6, 47, &data)),
            ] {
                let seen = delivered(lab, INSIDE_PORT, &there, 3, order);
                assert_eq!(seen.ip(), there.clone().ttl(63).ip());
                let seen = delivered(lab, OUTSIDE_PORT, &back, 3, order);
                assert_eq!(seen.ip(), back.clone().ttl(63).ip());
            }
            // An echo through the translator: ping with a large packet.
            let echo = Build::echo(HOST, SERVER, ports, false, &data);
            let seen = delivered(lab, INSIDE_PORT, &echo, 3, order);
            let (external, identifier) = text(seen.source());
            assert_eq!(seen.payload(), data);
            let reply = Build::echo(SERVER, &external, identifier, true, &data);
            let seen = delivered(lab, OUTSIDE_PORT, &reply, 3, order);
            assert_eq!((text(seen.destination()), seen.payload()), ((HOST.into(), ports), &data[..]));
            // TCP: the SYN opens, whichever of its fragments comes first.
            let syn = Build::tcp((HOST, ports), (SERVER, 80), TCP_SYN, &data);
            let seen = delivered(lab, INSIDE_PORT, &syn, 3, order);
            let end = text(seen.source());
            let answer = Build::tcp((SERVER, 80), (&end.0, end.1), TCP_SYN | 16, &data);
            let seen = delivered(lab, OUTSIDE_PORT, &answer, 3, order);
            assert_eq!((text(seen.destination()), seen.payload()), ((HOST.into(), ports), &data[..]));
        }
    });
}

/// From one subscriber to the external end of another, in fragments.
#[test]
fn udp_14_hairpinned_fragments_are_delivered() {
    everywhere(|lab| {
        let target = lab.udp_mapping(OTHER_HOST, 7000);
        let own = lab.udp_mapping(HOST, 5000);
        for (number, order) in orders(4).iter().enumerate() {
            let data = payload(400, number);
            let packet = Build::udp((HOST, 5000), (&target.0, target.1), &data);
            let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 1, 104);
            let whole = deliver(lab, INSIDE_PORT, &pieces, order, INSIDE_PORT);
            assert_eq!(whole.len(), 1);
            assert_eq!(text(whole[0].source()), own);
            assert_eq!(text(whole[0].destination()), (OTHER_HOST.to_owned(), 7000));
            assert_eq!(whole[0].payload(), data);
        }
    });
}

/// A router beyond the box cannot forward a first fragment: its error quotes that, and finds the host.
#[test]
fn frg_1_errors_about_a_first_fragment_reach_its_sender() {
    everywhere(|lab| {
        let data = payload(300, 1);
        for (packet, host) in [
            (Build::udp((HOST, 5000), (SERVER, 53), &data), HOST),
            (Build::udp((HOST6, 5000), (SERVER6, 53), &data), HOST6),
        ] {
            let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 5, 104);
            let first = lab.frame(INSIDE_PORT, &pieces[0]).passed(OUTSIDE_PORT);
            let (from, to) = (first.source().0.to_string(), SERVER);
            let (router, kind) = if host == HOST { ("198.51.100.99", 11) } else { ("2001:db8:77::1", 3) };
            let error = Build::icmp_error(router, &from, kind, 0, 0, first.ip());
            let seen = lab.back(&error);
            assert_eq!(seen.destination().0.to_string(), host, "{to}");
        }
    });
}

/// RFC 5508 REQ-3: the checksum of an error is verified, and nobody has seen all of this one.
#[test]
fn icmp_errors_in_fragments_are_dropped() {
    everywhere(|lab| {
        let left = lab.out(&Build::udp((HOST, 5000), (SERVER, 53), &[7; 64]));
        let external = left.source().0.to_string();
        let error = Build::icmp_error(SERVER, &external, 3, 3, 0, left.ip());
        for piece in cut_evenly(&error.frame(OUTSIDE_PORT), 9, 48) {
            lab.frame(OUTSIDE_PORT, &piece).dropped(DropReason::FragIcmpError);
        }
    });
}

/// RFC 5722: no part of a datagram with overlapping fragments gets further than it had got by then.
#[test]
fn frg_4_overlapping_fragments_take_the_whole_datagram_with_them() {
    everywhere(|lab| {
        for (number, (packet, port)) in [
            (Build::udp((HOST, 5000), (SERVER, 53), &payload(392, 3)), INSIDE_PORT),
            (Build::udp((HOST6, 5000), (SERVER6, 53), &payload(392, 3)), INSIDE_PORT),
        ]
        .into_iter()
        .enumerate()
        {
            let frame = packet.frame(port);
            let id = |n: u32| n * 16 + number as u32;
            let with = |n: u32, at: &[usize]| {
                let mut frame = frame.clone();
                if number == 0 {
                    frame[18..20].copy_from_slice(&(id(n) as u16).to_be_bytes());
                }
                cut(&frame, id(n), at)
            };
            // Before the first: what waits goes too.
            let (one, other) = (with(1, &[10, 20, 30]), with(1, &[10, 15, 25]));
            assert_eq!(lab.frame(port, &one[2]).sent, []);
            let step = lab.frame(port, &other[2]);
            assert_eq!((step.drops, step.sent.len()), (vec![(DropReason::FragOverlap, 2)], 0));
            for piece in [&one[0], &one[1], &one[3], &one[2]] {
                lab.frame(port, piece).dropped(DropReason::FragOverlap);
            }
            // Behind it: nothing more of it passes.
            let (one, other) = (with(2, &[10, 20, 30]), with(2, &[10, 25, 30]));
            let _ = lab.frame(port, &one[0]).passed(OUTSIDE_PORT);
            let _ = lab.frame(port, &one[1]).passed(OUTSIDE_PORT);
            lab.frame(port, &other[1]).dropped(DropReason::FragOverlap);
            lab.frame(port, &one[2]).dropped(DropReason::FragOverlap);
            lab.frame(port, &one[3]).dropped(DropReason::FragOverlap);
            // A second end, and data behind the end.
            let (one, shorter) = (with(3, &[10, 20, 30]), with(3, &[10, 20]));
            let _ = lab.frame(port, &one[0]).passed(OUTSIDE_PORT);
            let _ = lab.frame(port, &one[3]).passed(OUTSIDE_PORT);
            lab.frame(port, &shorter[2]).dropped(DropReason::FragOverlap);
            // The same fragment again is no overlap (RFC 8200 4.5).
            let pieces = with(4, &[10, 20, 30]);
            let _ = lab.frame(port, &pieces[0]).passed(OUTSIDE_PORT);
            lab.frame(port, &pieces[0]).dropped(DropReason::FragDuplicate);
            let _ = lab.frame(port, &pieces[2]).passed(OUTSIDE_PORT);
            lab.frame(port, &pieces[2]).dropped(DropReason::FragDuplicate);
        }
        let counters = lab.appliance.counters();
        assert_eq!(counters.get(Counter::Held), 0);
    });
}

/// Later fragments without their first one are kept for two seconds, and no longer.
#[test]
fn frg_2_fragments_wait_two_seconds_for_the_first() {
    everywhere(|lab| {
        for (packet, gauge) in [
            (Build::udp((HOST, 5000), (SERVER, 53), &payload(300, 4)), Counter::FragmentsWaitingV4),
            (Build::udp((HOST6, 5000), (SERVER6, 53), &payload(300, 4)), Counter::FragmentsWaitingV6),
        ] {
            let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 5, 104);
            let before = lab.appliance.drops(DropReason::FragTimeout);
            for piece in &pieces[1..] {
                let step = lab.frame(INSIDE_PORT, piece);
                assert!(step.drops.is_empty() && step.sent.is_empty());
            }
            assert_eq!(lab.appliance.counters().get(gauge), 2);
            lab.appliance.advance(1999, 100);
            assert_eq!(lab.appliance.counters().get(gauge), 2);
            lab.appliance.advance(1, 1);
            assert_eq!(lab.appliance.counters().get(gauge), 0);
            assert_eq!(lab.appliance.drops(DropReason::FragTimeout) - before, 2);
        }
        assert_eq!(lab.appliance.counters().get(Counter::FragmentsHeld), 4);
    });
}

/// A source that sends nothing but later fragments holds its share and no more.
#[test]
fn frg_2_what_waits_is_bounded_by_source_by_datagram_and_in_all() {
    let mut policy = PolicyTable::default();
    policy.settings.fragments_waiting = 40;
    policy.settings.fragments_per_source = 16;
    everywhere_with(&policy, &forwarding(), |lab| {
        let flood = |lab: &mut Lab, host: &str, ids: std::ops::Range<u32>| {
            for id in ids {
                let mut packet = Build::udp((host, 5000), (SERVER, 53), &payload(300, 4));
                packet.identification = id as u16;
                lab.frame(INSIDE_PORT, &cut_evenly(&packet.frame(INSIDE_PORT), id, 104)[1]);
            }
        };
        flood(lab, HOST, 0..100);
        assert_eq!(lab.appliance.counters().get(Counter::Held), 16);
        assert_eq!(lab.appliance.drops(DropReason::FragLimit), 84);
        // One datagram of very many fragments.
        lab.appliance.advance(3000, 100);
        let packet = Build::udp((HOST, 5000), (SERVER, 53), &payload(8 * 200, 4));
        let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 7, 8);
        let before = lab.appliance.drops(DropReason::FragLimit);
        let passed: usize = pieces.iter().map(|piece| lab.frame(INSIDE_PORT, piece).sent.len()).sum();
        assert_eq!(passed, 64);
        assert_eq!(lab.appliance.drops(DropReason::FragLimit) - before, (pieces.len() - 64) as u64);
        // Many sources: the oldest gives way.
        lab.appliance.advance(3000, 100);
        for host in 20..30 {
            flood(lab, &format!("10.0.0.{host}"), 0..10);
        }
        let workers = u64::from(lab.appliance.workers());
        let held = lab.appliance.counters().get(Counter::Held);
        assert!((40..=40 * workers).contains(&held), "{held}");
    });
}

/// A flood of fragments with identifications out of a hat takes nothing from whole packets, nor from datagrams
/// whose fragments come together.
#[test]
fn udp_14a_a_flood_of_fragments_leaves_other_traffic_alone() {
    let mut policy = PolicyTable::default();
    policy.settings.fragments_waiting = 64;
    everywhere_with(&policy, &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        let mut random = 9u32;
        let mut receiver = Receiver::default();
        let mut delivered = 0;
        for round in 0..600u32 {
            for _ in 0..8 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let source = format!("198.51.{}.{}", random >> 24 & 0x3f, random >> 16 & 0xff);
                let mut packet = Build::udp((&source, 53), (&external, port), &payload(64, 1));
                packet.identification = random as u16;
                let pieces = cut_evenly(&packet.frame(OUTSIDE_PORT), random, 32);
                lab.frame(OUTSIDE_PORT, &pieces[usize::from(random & 64 != 0)]);
            }
            let reply = lab.back(&Build::udp((SERVER, 53), (&external, port), b"whole"));
            assert_eq!(reply.payload(), b"whole");
            if round % 10 == 0 {
                let mut packet = Build::udp((SERVER, 53), (&external, port), &payload(300, 1));
                packet.identification = round as u16;
                let pieces = cut_evenly(&packet.frame(OUTSIDE_PORT), round, 104);
                for at in if round % 20 == 0 { [0, 1, 2] } else { [2, 1, 0] } {
                    for (_, frame) in lab.frame(OUTSIDE_PORT, &pieces[at]).sent {
                        delivered += usize::from(receiver.take(&frame).is_some());
                    }
                }
            }
            if round % 100 == 0 {
                lab.appliance.advance(1, 1);
            }
        }
        assert_eq!(delivered, 60);
        let counters = lab.appliance.counters();
        assert!(counters.get(Counter::Held) <= 64 * u64::from(lab.appliance.workers()));
        assert!(counters.drops(DropReason::FragLimit) > 1000, "the flood must exceed the limits");
        lab.appliance.advance(4000, 1);
        assert_eq!(lab.appliance.counters().get(Counter::Held), 0);
    });
}

/// RFC 3022 6.3, RFC 6864 5.3.1: hosts behind one address choose the same identification for one server.
#[test]
fn nat_8_datagrams_of_two_hosts_with_one_identification_do_not_mix() {
    let mut policy = PolicyTable::default();
    policy.ranges[0].last = policy.ranges[0].first;
    everywhere_with(&policy, &forwarding(), |lab| {
        let mut receiver = Receiver::default();
        let mut wholes = Vec::new();
        let hosts = [HOST, OTHER_HOST, "10.0.0.11", "10.0.0.12"];
        for host in &hosts[2..] {
            lab.appliance.neighbour(INSIDE_PORT, address(host), [2, 0xff, 0, 0, 0, 9]);
        }
        let pieces: Vec<Vec<Vec<u8>>> = (0..)
            .zip(hosts)
            .map(|(n, host)| {
                let packet = Build::udp((host, 5000), (SERVER, 53), &payload(300, n));
                cut_evenly(&packet.frame(INSIDE_PORT), 1, 104)
            })
            .collect();
        for at in [1, 0, 2] {
            for of_host in &pieces {
                for (_, frame) in lab.frame(INSIDE_PORT, &of_host[at]).sent {
                    wholes.extend(receiver.take(&frame));
                }
            }
        }
        assert_eq!((wholes.len(), receiver.incomplete()), (4, 0));
        for n in 0..4 {
            assert!(wholes.iter().any(|whole| whole.payload() == payload(300, n)), "{n}");
        }
        // Datagrams that the box itself has to cut, likewise.
        let mut narrow = policy.clone();
        narrow.interfaces[1].mtu = 600;
        lab.appliance.policy(&narrow);
        lab.neighbours();
        let steps: Vec<Step> = hosts
            .iter()
            .zip(0..)
            .map(|(host, n)| {
                lab.step(INSIDE_PORT, &Build::udp((host, 5000), (SERVER, 53), &payload(1000, n)))
            })
            .collect();
        let mut complete = 0;
        for at in 0..2 {
            for step in &steps {
                complete += usize::from(receiver.take(&step.sent[at].1).is_some());
            }
        }
        assert_eq!(complete, 4);
    });
}

/// RFC 4963: an identification that comes round again starts a new datagram, and what is left of an old one
/// never completes it.
#[test]
fn frg_6_an_identification_used_again_mixes_nothing() {
    everywhere(|lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        let pieces = |seed, length| {
            let packet = Build::udp((SERVER, 53), (&external, port), &payload(length, seed));
            cut_evenly(&packet.frame(OUTSIDE_PORT), 1, 104)
        };
        // Complete ones follow each other at once.
        for seed in 0..50 {
            let whole = deliver(lab, OUTSIDE_PORT, &pieces(seed, 300), &[2, 0, 1], INSIDE_PORT);
            assert_eq!(whole[0].payload(), payload(300, seed));
        }
        // One lost its middle: the next with its number fails with it, the one after the timeout passes.
        let (lost, next) = (pieces(90, 300), pieces(91, 300));
        let _ = lab.frame(OUTSIDE_PORT, &lost[0]).passed(INSIDE_PORT);
        let _ = lab.frame(OUTSIDE_PORT, &lost[2]).passed(INSIDE_PORT);
        lab.frame(OUTSIDE_PORT, &next[0]).dropped(DropReason::FragDuplicate);
        lab.appliance.advance(2000, 100);
        let whole = deliver(lab, OUTSIDE_PORT, &next, &[0, 2, 1], INSIDE_PORT);
        assert_eq!(whole[0].payload(), payload(300, 91));
        // The same addresses and number from inside are another datagram.
        let packet = Build::udp((HOST6, 1), (SERVER6, 2), &payload(200, 1));
        let spoof = Build::udp((SERVER6, 1), (HOST6, 2), &payload(200, 1));
        let (out, back) = (cut(&packet.frame(0), 3, &[10]), cut(&spoof.frame(1), 3, &[10]));
        assert!(lab.frame(INSIDE_PORT, &out[1]).sent.is_empty());
        lab.frame(OUTSIDE_PORT, &back[0]).dropped(DropReason::FirewallDefaultDeny);
        assert_eq!(lab.frame(INSIDE_PORT, &out[0]).sent.len(), 2);
    });
}

/// A fragment too big for the next link is cut again; with DF, or in IPv6, its sender is told.
#[test]
fn udp_13a_fragments_are_fragmented_further() {
    let mut policy = PolicyTable::default();
    policy.interfaces[1].mtu = 600;
    everywhere_with(&policy, &forwarding(), |lab| {
        let data = payload(2000, 1);
        let packet = Build::udp((HOST, 5000), (SERVER, 53), &data);
        let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 1, 1104);
        let whole = deliver(lab, INSIDE_PORT, &pieces, &[1, 0], OUTSIDE_PORT);
        assert_eq!(whole[0].payload(), data);
    });
    let mut policy = PolicyTable::default();
    policy.interfaces[1].mtu = 1280;
    everywhere_with(&policy, &forwarding(), |lab| {
        let packet = Build::udp((HOST6, 5000), (SERVER6, 53), &payload(2700, 1));
        let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 1, 1400);
        let error = lab.frame(INSIDE_PORT, &pieces[0]).refused(DropReason::MtuExceeded);
        assert_eq!(error.icmp(), (2, 0));
        // Nobody is told about a later one (RFC 1812 4.3.2.7).
        let step = lab.frame(INSIDE_PORT, &pieces[1]);
        assert_eq!((step.drops, step.sent.len()), (vec![(DropReason::MtuExceeded, 1)], 0));
    });
}

/// What the firewall refuses is refused in fragments, and answered once.
#[test]
fn fragments_are_filtered_by_the_ports_of_the_first() {
    let mut policy = PolicyTable::default();
    let mut web = turnpike_sim::tables::rule(
        turnpike_sim::tables::INSIDE,
        turnpike_sim::tables::OUTSIDE,
        turnpike_abi::table::Action::REJECT,
    );
    (web.protocol, web.destination_ports) = (17, [53, 53]);
    policy.rules = vec![web];
    everywhere_with(&policy, &forwarding(), |lab| {
        for port in [53, 54] {
            let mut packet = Build::udp((HOST, 5000), (SERVER, port), &payload(300, 1));
            packet.identification = port;
            let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 1, 104);
            assert!(lab.frame(INSIDE_PORT, &pieces[2]).sent.is_empty());
            let step = lab.frame(INSIDE_PORT, &pieces[0]);
            if port == 54 {
                assert_eq!((step.sent.len(), step.drops), (2, vec![]));
                continue;
            }
            assert_eq!(step.drops, [(DropReason::FirewallRuleDeny, 2)]);
            let [(INSIDE_PORT, answer)] = &step.sent[..] else { panic!("{step:?}") };
            assert_eq!(see(answer).icmp(), (3, 13));
            lab.frame(INSIDE_PORT, &pieces[1]).dropped(DropReason::FirewallRuleDeny);
        }
    });
}

/// Fragments nobody may send open nothing and take no room.
#[test]
fn spoofed_fragments_do_not_wait() {
    everywhere(|lab| {
        let packet = Build::udp(("198.51.100.1", 5000), (SERVER, 53), &payload(300, 1));
        for piece in cut_evenly(&packet.frame(INSIDE_PORT), 1, 104) {
            lab.frame(INSIDE_PORT, &piece).dropped(DropReason::SpoofedSource);
        }
    });
}

/// A pool address that is the box's own as well: with a binding a datagram is the host's, else the kernel's.
#[test]
fn fragments_for_an_address_of_box_and_pool_find_the_one_they_are_for() {
    let mut policy = PolicyTable::default();
    policy.ranges[0].first = [192, 0, 2, 1];
    policy.ranges[0].last = [192, 0, 2, 1];
    everywhere_with(&policy, &forwarding(), |lab| {
        let (external, port) = lab.udp_mapping(HOST, 5000);
        assert_eq!(external, BOX_OUTSIDE);
        let data = payload(300, 1);
        let packet = Build::udp((SERVER, 53), (&external, port), &data);
        let pieces = cut_evenly(&packet.frame(OUTSIDE_PORT), 1, 104);
        let whole = deliver(lab, OUTSIDE_PORT, &pieces, &[2, 1, 0], INSIDE_PORT);
        assert_eq!(whole[0].payload(), data);
        let mut packet = Build::udp((SERVER, 53), (BOX_OUTSIDE, 9), &data);
        packet.identification = 2;
        let pieces = cut_evenly(&packet.frame(OUTSIDE_PORT), 1, 104);
        assert!(lab.frame(OUTSIDE_PORT, &pieces[1]).punted.is_empty());
        assert_eq!(lab.frame(OUTSIDE_PORT, &pieces[0]).punted.len(), 2);
        assert_eq!(lab.frame(OUTSIDE_PORT, &pieces[2]).punted(1), pieces[2]);
    });
}

/// Fragments are counted where they are sent on.
#[test]
fn fragments_are_counted() {
    everywhere(|lab| {
        let packet = Build::udp((HOST, 5000), (SERVER, 53), &payload(300, 1));
        let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 1, 104);
        deliver(lab, INSIDE_PORT, &pieces, &[1, 2, 0], OUTSIDE_PORT);
        let counters = lab.appliance.counters();
        assert_eq!(counters.get(Counter::FragmentsForwarded), 3);
        assert_eq!(counters.get(Counter::FragmentsHeld), 2);
        assert_eq!(counters.get(Counter::FragmentsLimit), 512 * u64::from(lab.appliance.workers()));
    });
}

/// A datagram of a random test: who sends how much, cut where.
#[derive(Clone, Debug)]
struct Datagram {
    way: u8,
    length: usize,
    cuts: Vec<usize>,
}

fn datagram() -> impl Strategy<Value = Datagram> {
    (0u8..4, 200usize..700, prop::collection::btree_set(2usize..25, 1..7))
        .prop_map(|(way, length, cuts)| Datagram { way, length, cuts: cuts.into_iter().collect() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    /// Datagrams of several hosts, both directions and families, their fragments shuffled together, some lost, some
    /// twice: whatever came whole arrives once, unchanged; nothing else ever does.
    #[test]
    fn whatever_comes_whole_arrives(
        workers in 1u8..4,
        datagrams in prop::collection::vec(datagram(), 1..12),
        shuffle in prop::collection::vec(any::<Index>(), 100),
        faults in prop::collection::vec((any::<Index>(), any::<bool>()), 0..4),
    ) {
        let mut lab = Lab::new(workers);
        let external = lab.udp_mapping(HOST, 5000);
        lab.out(&Build::udp((HOST6, 5000), (SERVER6, 53), b"opens"));
        lab.out(&Build::udp((OTHER_HOST6, 5000), (SERVER6, 53), b"opens"));
        let mut fragments = Vec::new();
        for (n, datagram) in datagrams.iter().enumerate() {
            let data = payload(datagram.length, n);
            let (port, mut packet) = match datagram.way {
                0 => (INSIDE_PORT, Build::udp((HOST, 5000), (SERVER, 53), &data)),
                1 => (OUTSIDE_PORT, Build::udp((SERVER, 53), (&external.0, external.1), &data)),
                2 => (INSIDE_PORT, Build::udp((OTHER_HOST6, 5000), (SERVER6, 53), &data)),
                _ => (OUTSIDE_PORT, Build::udp((SERVER6, 53), (HOST6, 5000), &data)),
            };
            packet.identification = n as u16;
            let pieces = cut(&packet.frame(port), n as u32, &datagram.cuts);
            fragments.extend(pieces.into_iter().map(|piece| (n, port, piece)));
        }
        for (at, to) in shuffle.iter().enumerate().take(fragments.len()) {
            let to = to.index(fragments.len());
            fragments.swap(at, to);
        }
        let mut lost: Vec<usize> = Vec::new();
        for (at, twice) in faults {
            let at = at.index(fragments.len());
            if twice {
                let copy = fragments[at].clone();
                fragments.insert(at, copy);
            } else if fragments.len() > 1 {
                let (n, _, gone) = fragments.remove(at);
                if !fragments.iter().any(|(_, _, other)| *other == gone) {
                    lost.push(n);
                }
            }
        }
        let mut receivers: BTreeMap<u16, Receiver> = BTreeMap::new();
        let mut arrived: Vec<Vec<u8>> = Vec::new();
        for (_, port, piece) in &fragments {
            for (by, frame) in lab.frame(*port, piece).sent {
                prop_assert_eq!(by, 1 - *port);
                let whole = receivers.entry(by).or_default().take(&frame);
                arrived.extend(whole.map(|whole| whole.payload().to_vec()));
            }
        }
        let mut expected: Vec<Vec<u8>> = (0..datagrams.len())
            .filter(|n| !lost.contains(n))
            .map(|n| payload(datagrams[n].length, n))
            .collect();
        arrived.sort();
        // A fragment that comes again behind its whole datagram begins another one.
        arrived.dedup();
        expected.sort();
        prop_assert_eq!(arrived, expected);
        lab.appliance.advance(2100, 100);
        prop_assert_eq!(lab.appliance.counters().get(Counter::Held), 0);
    }
}

/// What the box sends of a datagram carries the fragment's own place, whole or not.
#[test]
fn each_fragment_leaves_with_its_place_and_no_more() {
    everywhere(|lab| {
        let packet = Build::udp((HOST, 5000), (SERVER, 53), &payload(300, 1));
        let pieces = cut_evenly(&packet.frame(INSIDE_PORT), 1, 104);
        let mut identifications = Vec::new();
        for piece in &pieces {
            let (came, left) = (see(piece), lab.frame(INSIDE_PORT, piece).passed(OUTSIDE_PORT));
            match (came.packet.fragment, left.packet.fragment) {
                (Fragment::First { .. }, Fragment::First { .. }) => {}
                (came, left) => assert_eq!(came, left),
            }
            assert_eq!(left.packet.ttl, came.packet.ttl - 1);
            assert_eq!(left.ip().len(), came.ip().len());
            identifications.push(left.packet.identification);
        }
        identifications.dedup();
        assert_eq!(identifications.len(), 1);
    });
}
