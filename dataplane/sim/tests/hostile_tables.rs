//! Tables that only an attacker sends: sound in form, ruinous to take.

use turnpike_abi::table::{RouteKind, RouteRecord};
use turnpike_abi::{Address, InterfaceId, MAX_OWN_ADDRESSES, PortId, Prefix};
use turnpike_engine::{Forwarding, Interface};
use turnpike_sim::tables::ForwardingTable;

fn interfaces() -> [Interface; 2] {
    [0, 1].map(|index| Interface { port: PortId(index), vlan: 0, mac: [2, 0, 0, 0, 0, 1], mtu: 1500 })
}

#[test]
fn more_addresses_of_the_box_than_a_packet_can_be_held_against_are_refused() {
    let mut table = ForwardingTable::default();
    table.addresses.resize(MAX_OWN_ADDRESSES + 1, table.addresses[0]);
    let fault = Forwarding::decode(&table.bytes(1), &interfaces()).expect_err("too many");
    assert_eq!(fault.what, "too many addresses");
}

/// Hosts first and default routes behind them: each default route must not visit every host's node again.
#[test]
fn the_order_of_routes_costs_no_time() {
    const HOSTS: u32 = 5000;
    let host = |n: u32| {
        let mut bytes = [0x20; 16];
        bytes[12..].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
        RouteRecord {
            prefix: Prefix { address: Address(bytes), length: 128, ..Prefix::default() },
            interface: InterfaceId(1),
            kind: RouteKind::UNICAST,
            ..RouteRecord::default()
        }
    };
    let default = RouteRecord { interface: InterfaceId(0), kind: RouteKind::UNICAST, ..host(0) };
    let default = RouteRecord { prefix: Prefix::default(), ..default };
    let mut table = ForwardingTable { routes: (0..HOSTS).map(host).collect(), ..ForwardingTable::default() };
    table.routes.resize(table.routes.len() + 20_000, default);
    let begin = std::time::Instant::now();
    Forwarding::decode(&table.bytes(1), &interfaces()).expect("sound");
    // In any other order of insertion: 20 000 times 5000 nodes of 256 entries, hours.
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
}
