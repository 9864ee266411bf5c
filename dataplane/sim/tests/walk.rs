//! Walks over tables: bounded work a command, and every row once.

use std::collections::BTreeSet;
use turnpike_abi::command::{Kind, Slot, Walk, WalkTable};
use turnpike_abi::event::{BindingRow, WalkEnd};
use turnpike_sim::Appliance;
use turnpike_sim::packets::Build;
use turnpike_sim::tables::address;

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
    assert_eq!(
        bindings(&mut appliance),
        (BTreeSet::new(), 2),
        "4000 records that hold nothing, 2048 a command"
    );
    open(&mut appliance, 7);
    assert_eq!(bindings(&mut appliance), (BTreeSet::from([7]), 2));
}
