//! The fast path against the long way, over flows with traffic in both directions.

use turnpike_abi::counters::{Counter, DropReason};
use turnpike_abi::table::{PoolRecord, SettingsRecord};
use turnpike_sim::Dice;
use turnpike_sim::lab::{
    GATEWAY, HOST, HOST_MAC, HOST6, INSIDE_PORT, Lab, OTHER_MAC, OUTSIDE_PORT, ROUTER_MAC, SERVER, SERVER6,
};
use turnpike_sim::packets::{Build, see};
use turnpike_sim::tables::{PolicyTable, address};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

fn policy() -> PolicyTable {
    let mut policy = PolicyTable::default();
    policy.settings.flags |= SettingsRecord::REVERSE_PATH;
    assert!(matches!(policy.pools[..], [PoolRecord { .. }]));
    policy
}

/// The external end of each flow, learnt from what left.
type Flows = Vec<Option<(String, u16)>>;

/// One packet of a random kind; what left is noted.
fn roll(dice: &mut Dice, lab: &mut Lab, flows: &mut Flows) -> Vec<(u16, Vec<u8>)> {
    let flow = dice.below(flows.len() as u64) as u16;
    let (tcp, v6) = (flow % 2 == 1, flow % 5 == 4);
    let payload = vec![flow as u8; dice.below(40) as usize * 37];
    let flags = match dice.below(20) {
        0 => TCP_SYN,
        1 => TCP_FIN | TCP_ACK,
        2 => TCP_RST,
        3 => TCP_SYN | TCP_ACK,
        _ => TCP_ACK,
    };
    let external = flows[usize::from(flow)].clone();
    let inward = external.is_some() && dice.below(2) == 0;
    let (source, destination) = match (&external, inward) {
        (Some(end), true) => ((if v6 { SERVER6 } else { SERVER }, 443), (end.0.as_str(), end.1)),
        _ => ((if v6 { HOST6 } else { HOST }, 5000 + flow), (if v6 { SERVER6 } else { SERVER }, 443)),
    };
    let mut packet = if tcp {
        let flags = if external.is_none() { TCP_SYN } else { flags };
        Build::tcp(source, destination, flags, &payload)
    } else {
        Build::udp(source, destination, &payload)
    };
    packet = packet.ttl(if dice.below(30) == 0 { 1 } else { 2 + dice.below(250) as u8 });
    if dice.below(4) == 0 {
        packet = packet.df();
    }
    let port = if inward { OUTSIDE_PORT } else { INSIDE_PORT };
    let mut frame = packet.frame(port);
    let damage = dice.below(60);
    match damage {
        // A byte changed, padding, a frame cut short, the wrong port.
        0 => {
            let at = dice.below(frame.len() as u64) as usize;
            frame[at] ^= 1 << dice.below(8);
        }
        1 | 2 => frame.extend_from_slice(&[0; 9]),
        3 => frame.truncate(14 + dice.below(60) as usize),
        _ => {}
    }
    let sent = lab.frame(port, &frame).sent;
    if let ([(1, left)], false, true) = (&sent[..], inward, damage > 3) {
        let seen = see(left);
        let (address, port) = seen.source();
        if port != 0 && external.is_none() {
            flows[usize::from(flow)] = Some((address.to_string(), port));
        }
    }
    sent
}

/// What else happens to a box: time, next hops that move or vanish, tables.
fn event(dice: &mut Dice, lab: &mut Lab) {
    match dice.below(40) {
        0 => lab.appliance.advance(dice.below(40_000), 500),
        1 => lab.appliance.neighbour(1, address(GATEWAY), [2, 0xee, 0, 0, 0, dice.below(8) as u8]),
        2 => lab.appliance.neighbour(0, address(HOST), [2, 0xff, 0, 0, 0, dice.below(8) as u8]),
        3 => {
            lab.appliance.neighbour(1, address(GATEWAY), ROUTER_MAC);
            lab.appliance.neighbour(0, address(HOST), HOST_MAC);
            lab.appliance.neighbour(0, address(HOST6), OTHER_MAC);
        }
        4 => lab.appliance.policy(&policy()),
        _ => {}
    }
}

#[test]
fn both_end_alike_over_flows_that_live() {
    let mut fast = 0;
    for seed in 0..40 {
        let mut labs = [
            Lab::with(1, &policy(), &turnpike_sim::lab::forwarding()),
            Lab::with(1, &policy(), &turnpike_sim::lab::forwarding()),
        ];
        labs[1].appliance.take_the_long_way();
        let mut dice = [Dice(seed), Dice(seed)];
        let mut flows: [Flows; 2] = [vec![None; 12], vec![None; 12]];
        for step in 0..600 {
            let mut sent = Vec::new();
            for ((lab, dice), flows) in labs.iter_mut().zip(&mut dice).zip(&mut flows) {
                event(dice, lab);
                sent.push(roll(dice, lab, flows));
            }
            assert_eq!(sent[0], sent[1], "seed {seed}, step {step}");
        }
        let [counters, expected] = labs.map(|lab| lab.appliance.counters());
        for &reason in DropReason::ALL {
            assert_eq!(counters.drops(reason), expected.drops(reason), "{}", reason.name());
        }
        assert_eq!(expected.get(Counter::FastPath), 0);
        fast += counters.get(Counter::FastPath);
    }
    assert!(fast > 5000, "only {fast} of 24000 packets took the fast path");
}
