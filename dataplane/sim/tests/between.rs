//! Between two hosts inside: whichever workers own them, both directions of a flow find it.

use turnpike_abi::command::{Kind, PinholeAdd};
use turnpike_abi::counters::{DropReason, ProtocolClass};
use turnpike_abi::event::AckResult;
use turnpike_abi::table::{Action, NatAction, NatRuleRecord, ZonePairRecord};
use turnpike_abi::{Prefix, steering};
use turnpike_sim::lab::{
    HOST, HOST6, INSIDE_PORT, OTHER_HOST, OTHER_HOST6, SERVER, everywhere, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::{Build, TCP, UDP, see};
use turnpike_sim::tables::{INSIDE, PolicyTable, address, prefix};
use turnpike_wire::packet::{TCP_ACK, TCP_SYN};

/// Both orders of both families: each time another of the two is the one that owns the pair.
const PAIRS: [(&str, &str); 4] =
    [(HOST, OTHER_HOST), (OTHER_HOST, HOST), (HOST6, OTHER_HOST6), (OTHER_HOST6, HOST6)];

#[test]
fn a_pinhole_of_the_receiver_lets_its_flow_pass_both_ways() {
    everywhere(|lab| {
        for (id, (client, server)) in (1..).zip(PAIRS) {
            let open = Build::tcp((client, 4000), (server, 80), TCP_SYN, b"");
            lab.step(INSIDE_PORT, &open).dropped(DropReason::FirewallDefaultDeny);
            let owner = steering::owner_of_inside(address(server), lab.appliance.workers()).index();
            let pinhole = PinholeAdd {
                id,
                inside: address(server),
                remote: Prefix::ANY,
                inside_port: 80,
                remote_port_last: u16::MAX,
                protocol: TCP,
                ..PinholeAdd::default()
            };
            assert_eq!(lab.appliance.command(owner, Kind::PINHOLE_ADD, &pinhole).result, AckResult::OK);
            for packet in [
                open,
                Build::tcp((server, 80), (client, 4000), TCP_SYN | TCP_ACK, b""),
                Build::tcp((client, 4000), (server, 80), TCP_ACK, b"GET"),
                Build::tcp((server, 80), (client, 4000), TCP_ACK, b"200"),
            ] {
                let sent = lab.step(INSIDE_PORT, &packet).sent;
                assert_eq!(sent.len(), 1, "{client} to {server}: {packet:?}");
                assert_eq!(see(&sent[0].1).ip(), packet.ttl(63).ip());
            }
            // An error about it, from the server's side.
            let about = Build::tcp((client, 4000), (server, 80), TCP_ACK, b"GET").ip();
            let (kind, code) = if server.contains(':') { (1, 4) } else { (3, 1) };
            let error = Build::icmp_error(server, client, kind, code, 0, &about);
            assert_eq!(lab.step(INSIDE_PORT, &error).sent.len(), 1, "{client} to {server}: an error");
            let closed = Build::tcp((client, 4000), (server, 81), TCP_SYN, b"");
            lab.step(INSIDE_PORT, &closed).dropped(DropReason::FirewallDefaultDeny);
        }
    });
}

/// The sender's pinhole opens outwards; nothing else gets in by it, and the receiver's comes before it.
#[test]
fn a_pinhole_of_the_sender_lets_its_flow_pass_both_ways() {
    everywhere(|lab| {
        for (id, (client, server)) in (1..).zip(PAIRS) {
            let owner = steering::owner_of_inside(address(client), lab.appliance.workers()).index();
            let pinhole = PinholeAdd {
                id,
                inside: address(client),
                remote: Prefix::ANY,
                inside_port: 5000,
                remote_port_last: u16::MAX,
                protocol: UDP,
                flags: PinholeAdd::OUTBOUND,
                ..PinholeAdd::default()
            };
            let there = Build::udp((client, 5000), (server, 53), b"ask");
            let back = Build::udp((server, 53), (client, 5000), b"tell");
            lab.step(INSIDE_PORT, &there).dropped(DropReason::FirewallDefaultDeny);
            assert_eq!(lab.appliance.command(owner, Kind::PINHOLE_ADD, &pinhole).result, AckResult::OK);
            assert!(!lab.step(INSIDE_PORT, &back).drops.is_empty());
            let before = lab.appliance.counters().flows(ProtocolClass::Udp).1;
            for _ in 0..2 {
                assert_eq!(lab.step(INSIDE_PORT, &there).sent.len(), 1, "{client} to {server}");
            }
            // One way is what it says.
            assert!(!lab.step(INSIDE_PORT, &back).drops.is_empty());
            assert_eq!(lab.appliance.counters().flows(ProtocolClass::Udp).1, before + 1);
        }
    });
}

#[test]
fn what_the_firewall_lets_in_is_one_flow_for_both_ways() {
    let mut policy = PolicyTable::default();
    policy.pairs.push(ZonePairRecord {
        from: INSIDE,
        to: INSIDE,
        action: Action::ACCEPT,
        ..ZonePairRecord::default()
    });
    everywhere_with(&policy, &forwarding(), |lab| {
        for (client, server) in PAIRS {
            // The answer to a SYN opens nothing: it passes only as part of the flow.
            let answer = Build::tcp((server, 80), (client, 4000), TCP_SYN | TCP_ACK, b"");
            lab.step(INSIDE_PORT, &answer).dropped(DropReason::SynRequired);
            for packet in [Build::tcp((client, 4000), (server, 80), TCP_SYN, b""), answer] {
                assert_eq!(lab.step(INSIDE_PORT, &packet).sent.len(), 1, "{client} to {server}");
            }
        }
    });
}

/// The sender is exempt, the receiver's external address is what it knows: the answers come from there.
#[test]
fn answers_to_a_host_that_is_not_translated_come_from_the_external_address_it_asked() {
    let mut policy = PolicyTable::default();
    policy
        .nat
        .insert(0, NatRuleRecord { action: NatAction::EXEMPT, source: prefix(HOST, 32), ..policy.nat[0] });
    everywhere_with(&policy, &forwarding(), |lab| {
        let (pool, port) = text(lab.out(&Build::udp((OTHER_HOST, 5000), (SERVER, 53), b"a")).source());
        let sent = lab.step(INSIDE_PORT, &Build::udp((HOST, 6000), (&pool, port), b"ask")).sent;
        assert_eq!(sent.len(), 1);
        assert_eq!(text(see(&sent[0].1).destination()), (OTHER_HOST.to_owned(), 5000));
        assert_eq!(text(see(&sent[0].1).source()), (HOST.to_owned(), 6000));
        let sent = lab.step(INSIDE_PORT, &Build::udp((OTHER_HOST, 5000), (HOST, 6000), b"tell")).sent;
        assert_eq!(sent.len(), 1);
        assert_eq!(text(see(&sent[0].1).source()), (pool.clone(), port));
        assert_eq!(text(see(&sent[0].1).destination()), (HOST.to_owned(), 6000));
    });
}
