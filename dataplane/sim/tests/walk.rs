//! Walks over tables: bounded work a command, and every row once.

use std::collections::BTreeSet;
use turnpike_abi::Address;
use turnpike_abi::command::{Kind, Slot, Walk, WalkTable};
use turnpike_abi::event::{BindingRow, WalkEnd};
use turnpike_sim::Appliance;
use turnpike_sim::packets::Build;
use turnpike_sim::tables::{PolicyTable, address};

/// Walks over all bindings of worker 0; the rows' inside ports and the number of commands.
fn bindings(appliance: &mut Appliance) -> (BTreeSet<u16>, u32) {
    let (mut ports, mut commands, mut cursor) = (BTreeSet::new(), 0u64, 0);
    loop {
        commands += 1;
        let walk = Walk { cursor, table: WalkTable::BINDINGS, limit: 256 };
        appliance.command_raw(0, &Slot::new(Kind::WALK, commands, &walk)).expect("a sound command");
        let mut end = None;
        for (_, event) in appliance.events.drain(..) {
            match event.header.kind {
                Kind::BINDING_ROW => {
                    assert!(ports.insert(event.body::<BindingRow>().inside_port), "twice");
                }
                Kind::WALK_END => end = Some(event.body::<WalkEnd>()),
                _ => {}
            }
        }
        cursor = end.expect("every walk has an end").cursor;
        if cursor == WalkEnd::DONE {
            return (ports, commands as u32);
        }
        assert!(commands < 100, "the walk gets on");
    }
}

/// A worker carries one command out between bursts: over a table that was full once, it must not take longer.
#[test]
fn a_table_that_was_full_once_is_walked_in_steps() {
    let mut appliance = Appliance::new(1);
    appliance.neighbour(1, address("192.0.2.254"), [2, 0, 0, 0, 0, 9]);
    let open = |appliance: &mut Appliance, port: u16| {
        appliance.receive(0, &[&Build::udp(("10.0.0.9", port), ("198.51.100.7", 53), b"x").frame(0)]);
    };
    for port in 1..=4000 {
        open(&mut appliance, port);
    }
    assert_eq!(bindings(&mut appliance).0, (1..=4000).collect());
    appliance.advance(400_000, 1000);
    assert_eq!(bindings(&mut appliance), (BTreeSet::new(), 1), "64 units that hold nothing, 512 a command");
    open(&mut appliance, 7);
    assert_eq!(bindings(&mut appliance), (BTreeSet::from([7]), 1));
}

/// One command, and its rows' inside ends.
fn page(appliance: &mut Appliance, walk: Walk) -> (Vec<(Address, u16)>, u64) {
    appliance.events.clear();
    appliance.command_raw(0, &Slot::new(Kind::WALK, 1, &walk)).expect("a sound command");
    let (_, end) = appliance.events.pop().expect("an end");
    let rows = appliance.events.drain(..).map(|(_, event)| event.body::<BindingRow>());
    (rows.map(|row| (row.inside, row.inside_port)).collect(), end.body::<WalkEnd>().cursor)
}

/// A box with 20 bindings of each of 200 hosts: a few ports of many words are in use.
fn many_hosts() -> Appliance {
    let mut appliance = Appliance::new(1);
    appliance.neighbour(1, address("192.0.2.254"), [2, 0, 0, 0, 0, 9]);
    for host in 0..200 {
        let host = format!("10.0.{}.{}", 1 + host / 100, 1 + host % 100);
        for port in 2000..2020 {
            appliance.receive(0, &[&Build::udp((&host, port), ("198.51.100.7", 53), b"x").frame(0)]);
        }
    }
    appliance
}

#[test]
fn a_walk_takes_as_many_commands_as_its_rows_need() {
    let mut appliance = many_hosts();
    let (mut commands, mut rows, mut cursor) = (0, 0, 0);
    while cursor != WalkEnd::DONE {
        let (some, next) = page(&mut appliance, Walk { cursor, table: WalkTable::BINDINGS, limit: 256 });
        (commands, rows, cursor) = (commands + 1, rows + some.len(), next);
    }
    assert_eq!(rows, 4000);
    assert!(commands <= 20, "{commands} commands");
    appliance.advance(700_000, 1000);
    let (mut commands, mut cursor) = (0, 0);
    while cursor != WalkEnd::DONE {
        let (none, next) = page(&mut appliance, Walk { cursor, table: WalkTable::BINDINGS, limit: 256 });
        assert!(none.is_empty());
        (commands, cursor) = (commands + 1, next);
    }
    assert!(commands <= 4, "{commands} commands for nothing");
}

/// Ports take other places then. Who was seen may be seen again; nobody is missed.
#[test]
fn a_walk_during_which_the_blocks_change_misses_nobody() {
    let mut appliance = many_hosts();
    let (mut seen, mut cursor, mut commands) = (BTreeSet::new(), 0, 0);
    while cursor != WalkEnd::DONE {
        let (rows, next) = page(&mut appliance, Walk { cursor, table: WalkTable::BINDINGS, limit: 100 });
        seen.extend(rows);
        (commands, cursor) = (commands + 1, next);
        if commands == 7 {
            let mut policy = PolicyTable::default();
            policy.pools[0].block_size = 128;
            appliance.policy(&policy);
        }
    }
    assert_eq!(seen.len(), 4000);
}

#[test]
fn a_cursor_that_nobody_gave_leads_on() {
    let mut appliance = many_hosts();
    let bases =
        [0, 64, 640, 1 << 20, 1 << 31, 1 << 32, (1 << 40) - 2048, 1 << 40, 1 << 41, 1 << 63, u64::MAX];
    let tables = [
        WalkTable::BINDINGS,
        WalkTable::PINHOLES,
        WalkTable::RESERVATIONS,
        WalkTable::LEASES,
        WalkTable::BLOCKS,
    ];
    for (base, off) in bases.into_iter().flat_map(|base| [0, 1, 63, 64, 2047, 2048].map(|off| (base, off))) {
        for cursor in [u64::wrapping_add(base, off), u64::wrapping_sub(base, off)] {
            for table in tables {
                let (mut at, mut commands) = (cursor, 0);
                while at != WalkEnd::DONE {
                    at = page(&mut appliance, Walk { cursor: at, table, limit: 256 }).1;
                    commands += 1;
                    assert!(commands < 100, "from {cursor}");
                }
            }
        }
    }
}
