//! Real frames through two workers: one wire carries the inside untagged and the outside on a VLAN.

use crate::lab::{Daemon, Namespace, wait_for};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, LaxSlicedPacket, PacketBuilder, VlanId};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::collections::BTreeSet;
use tun_rs::SyncDevice;
use turnpike_abi::attach::AttachResult;
use turnpike_abi::command::{Kind, NeighbourSet};
use turnpike_abi::counters::{Counter, Counters, DropReason};
use turnpike_abi::stats::text;
use turnpike_abi::table::{AddressRecord, RouteKind, RouteRecord, TableKind, forwarding};
use turnpike_abi::{Address, InterfaceId, Prefix, WorkerId};
use turnpike_client::{Attachment, SealedTable, TableBuilder};
use turnpike_config::Config;
use turnpike_config::compile_policy;

const PORTS: &str = r#"
[[port]]
name = "lan"
device = "net_af_packet0,iface=wire0,qpairs=2"
zone = "inside"
addresses = ["192.168.0.1/24"]

[[port.vlan]]
id = 100
name = "uplink"
zone = "outside"
addresses = ["203.0.113.2/24"]

[[zone]]
name = "inside"
side = "inside"

[[zone]]
name = "outside"
side = "outside"

[[pool]]
name = "public"
addresses = ["203.0.113.16/28"]
zone = "outside"

[[nat]]
from = "inside"
to = "outside"
pool = "public"

[[policy]]
from = "inside"
to = "outside"
default = "accept"
"#;

const LAN: InterfaceId = InterfaceId(0);
const UPLINK: InterfaceId = InterfaceId(1);
const VLAN: u16 = 100;
const SERVER: [u8; 4] = [203, 0, 113, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// Inside hosts; their low bits decide who owns them, so that both workers own some.
const HOSTS: std::ops::Range<u8> = 10..74;

fn host_mac(host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, host]
}

fn vlan(id: u16) -> VlanId {
    VlanId::try_new(id).expect("a VLAN id")
}

/// A frame that a step built.
fn frame(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

/// The next frame on the wire, but for what the kernel says on its own: IPv6 multicast listener reports.
fn next(wire: &SyncDevice, what: &str) -> Vec<u8> {
    let mut bytes = [0; 2048];
    wait_for(what, || {
        let length = wire.recv(&mut bytes).ok()?;
        let frame = &bytes[..length];
        let sliced = SlicedPacket::from_ethernet(frame).ok()?;
        (!matches!(sliced.net, Some(NetSlice::Ipv6(_)))).then(|| frame.to_vec())
    })
}

fn counters(attachment: &Attachment) -> [Counters; 2] {
    [WorkerId(0), WorkerId(1)].map(|worker| wait_for("a page", || attachment.counters(worker)))
}

fn sum(counters: &[Counters; 2], counter: Counter) -> u64 {
    counters.iter().map(|counters| counters.get(counter)).sum()
}

/// Policy, forwarding table and every host's station address: what a control plane would bring.
fn bring_up(attachment: &mut Attachment, config: &Config) {
    let ids = attachment.interfaces().to_vec();
    let id_of = |name: &str| ids.iter().find(|info| text(&info.name) == name).map(|info| (info.id, info.mtu));
    let policy = compile_policy(config, &id_of, 1);
    let policy = SealedTable::create(policy.as_bytes()).expect("a memfd");
    attachment.offer_table(TableKind::POLICY, 1, &policy).expect("sent");

    let own = [([192, 168, 0, 1], LAN), ([203, 0, 113, 2], UPLINK)];
    let addresses = own.map(|(address, interface)| AddressRecord {
        address: Address::v4(address),
        prefix_length: 24,
        interface,
        ..AddressRecord::default()
    });
    let route = |address, length, interface, kind| RouteRecord {
        prefix: Prefix::new(Address::v4(address), length).expect("a prefix"),
        interface,
        kind,
        ..RouteRecord::default()
    };
    let routes = own.map(|(address, interface)| {
        [route(address, 24, interface, RouteKind::UNICAST), route(address, 32, interface, RouteKind::LOCAL)]
    });
    let mut table = TableBuilder::new(TableKind::FORWARDING, 2);
    table.section(forwarding::ADDRESSES, &addresses).expect("room");
    table.section(forwarding::ROUTES, routes.as_flattened()).expect("room");
    attachment.offer_table(TableKind::FORWARDING, 2, &table.seal().expect("a memfd")).expect("sent");
    for _ in 0..2 {
        let notice = wait_for("an answer", || attachment.receive().expect("attached"));
        assert_eq!(notice.result, AttachResult::OK, "{notice:?}");
    }

    let hosts = HOSTS.map(|host| ([192, 168, 0, host], LAN, host_mac(host)));
    for (address, interface, mac) in hosts.chain([(SERVER, UPLINK, SERVER_MAC)]) {
        let set = NeighbourSet { address: Address::v4(address), interface, mac };
        for worker in [WorkerId(0), WorkerId(1)] {
            attachment.command(worker, Kind::NEIGHBOUR_SET, &set).expect("room");
        }
    }
    let neighbours = HOSTS.len() as u64 + 1;
    wait_for("the neighbours", || {
        let counters = counters(attachment);
        counters.iter().all(|counters| counters.get(Counter::Neighbours) == neighbours).then_some(())
    });
}

/// The kernel behind the TAP twin of the VLAN answers ARP, tagged.
fn arp(wire: &SyncDevice, box_mac: [u8; 6]) {
    let request = |id: u16| {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REQUEST,
            &SERVER_MAC,
            &SERVER,
            &[0; 6],
            &[203, 0, 113, 2],
        );
        let step = PacketBuilder::ethernet2(SERVER_MAC, [0xff; 6]).single_vlan(vlan(id));
        frame(|frame| step.arp(packet.expect("an ARP packet")).write_to_vec(frame).expect("written"))
    };
    wire.send(&request(200)).expect("sent");
    wire.send(&request(VLAN)).expect("sent");
    let reply = next(wire, "an ARP reply");
    let sliced = SlicedPacket::from_ethernet(&reply).expect("a sound frame");
    assert_eq!(sliced.vlan_ids().as_slice(), [vlan(VLAN)], "{sliced:?}");
    let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("{sliced:?}") };
    assert_eq!((arp.operation(), arp.sender_hw_addr()), (ArpOperation::REPLY, &box_mac[..]));
    assert_eq!(
        (arp.sender_protocol_addr(), arp.target_protocol_addr()),
        (&[203, 0, 113, 2][..], &SERVER[..])
    );
}

/// A datagram as it came out of the wire, its checksums verified.
struct Datagram {
    vlans: Vec<VlanId>,
    destination_mac: [u8; 6],
    source: ([u8; 4], u16),
    destination: ([u8; 4], u16),
    payload: Vec<u8>,
}

fn datagram(frame: &[u8]) -> Datagram {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a sound frame");
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&sliced.net, &sliced.transport) else {
        panic!("{sliced:?}");
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("it fits");
    assert_eq!(udp.checksum(), expected);
    let lax = LaxSlicedPacket::from_ethernet(frame).expect("a sound frame");
    let destination_mac = match lax.link {
        Some(etherparse::LinkSlice::Ethernet2(link)) => link.destination(),
        other => panic!("{other:?}"),
    };
    Datagram {
        vlans: sliced.vlan_ids().to_vec(),
        destination_mac,
        source: (header.source, udp.source_port()),
        destination: (header.destination, udp.destination_port()),
        payload: udp.payload().to_vec(),
    }
}

/// A datagram of each inside host out and its answer back in.
fn echo(wire: &SyncDevice, box_mac: [u8; 6]) {
    let mut external = BTreeSet::new();
    for host in HOSTS {
        let payload = vec![host; usize::from(host) * 20];
        let out = PacketBuilder::ethernet2(host_mac(host), box_mac)
            .ipv4([192, 168, 0, host], SERVER, 64)
            .udp(5000, 7);
        wire.send(&frame(|frame| out.write(frame, &payload).expect("written"))).expect("sent");
        let seen = datagram(&next(wire, "a translated datagram"));
        assert_eq!((seen.vlans.as_slice(), seen.destination_mac), (&[vlan(VLAN)][..], SERVER_MAC));
        assert_eq!((seen.destination, &seen.payload), ((SERVER, 7), &payload));
        let (address, port) = seen.source;
        assert!(matches!(address, [203, 0, 113, 16..=31]), "{address:?} is not of the pool");
        assert!(external.insert(seen.source), "{:?} was given out twice", seen.source);

        let back =
            PacketBuilder::ethernet2(SERVER_MAC, box_mac).single_vlan(vlan(VLAN)).ipv4(SERVER, address, 64);
        let back = back.udp(7, port);
        wire.send(&frame(|frame| back.write(frame, &payload).expect("written"))).expect("sent");
        let seen = datagram(&next(wire, "its answer"));
        assert_eq!((seen.vlans.as_slice(), seen.destination_mac), (&[][..], host_mac(host)));
        assert_eq!((seen.source, seen.destination), ((SERVER, 7), ([192, 168, 0, host], 5000)));
        assert_eq!(seen.payload, payload);
    }
}

#[test]
fn two_workers_a_vlan_and_the_kernel() {
    let namespace = Namespace::new();
    let wire = namespace.wire("wire0");
    let daemon = Daemon::start(&namespace, "[0, 1]", PORTS);
    let directory = std::env::temp_dir();
    let config = crate::lab::configuration(&directory, &directory, "[0, 1]", PORTS);
    let config = Config::parse(&config, "test").unwrap_or_else(|problems| panic!("{problems}"));
    let mut attachment = daemon.attach();
    let box_mac = attachment.interfaces().first().expect("an interface").mac;
    bring_up(&mut attachment, &config);
    arp(&wire, box_mac);
    echo(&wire, box_mac);

    // Those of the hosts and the server, and two ARP requests.
    let packets = 2 * HOSTS.len() as u64;
    let counters = wait_for("every packet to be accounted for", || {
        let counters = counters(&attachment);
        let answered = packets + sum(&counters, Counter::Injected);
        let all =
            sum(&counters, Counter::Received) == packets + 2 && sum(&counters, Counter::Sent) == answered;
        all.then_some(counters)
    });
    for counters in &counters {
        let (came, went) = counters.conservation();
        assert_eq!(came, went);
        assert!(counters.get(Counter::Received) > 0, "the device spreads over both queues");
    }
    assert_eq!(counters.iter().map(|counters| counters.drops(DropReason::VlanUnknown)).sum::<u64>(), 1);
    assert_eq!(counters.iter().map(Counters::total_drops).sum::<u64>(), 1);
    assert_eq!(sum(&counters, Counter::Punted), 1);
    assert!(sum(&counters, Counter::CrossedOut) > 0, "a socket's fanout knows nothing of owners");
    assert_eq!(sum(&counters, Counter::CrossedOut), sum(&counters, Counter::CrossedIn));
    let main = wait_for("all buffers back", || {
        attachment.main_stats().filter(|main| main.buffers_available == main.buffers)
    });
    assert!(main.tap_received >= 1, "the ARP reply");
    assert_eq!((main.tap_sent, main.tap_dropped, main.inject_dropped), (1, 0, 0));
    let (status, log) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("not given back"), "{log}");
}
