//! Any bytes as datagrams and as the policy engine's answers: what the fuzzer and a property test run.

use crate::server::{
    Answer, Effect, Order, Place, Prefix, Refused, RuleId, Seen, Server, Settings, Side, Speaks, Time,
};
use crate::wire::Reader;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Feeds `bytes` to a server, as a length, an action and a datagram each.
///
/// # Panics
/// If the server answers with more than it was sent, or its table and the rules it ordered differ.
pub fn run(bytes: &[u8]) {
    let settings = Settings {
        rate: 1_000_000,
        port_set: 64,
        quota: 16,
        sides: vec![(Prefix { address: HOST.into(), length: 8 }, Side::Translated(None))],
        ..Settings::default()
    };
    let mut server = Server::new(settings, Time(0));
    let place = Place { interface: 1, address: Ipv4Addr::new(10, 0, 0, 1).into() };
    server.set_places(Time(0), vec![(place, Speaks { pcp: true, nat_pmp: true })]);
    let (mut now, mut rules, mut next) = (Time(0), BTreeSet::new(), 0);
    let mut reader = Reader::new(bytes);
    while let (Some(action), Some(length)) = (reader.u8(), reader.u8()) {
        now = now.after(u64::from(action & 7) * 400);
        let length = usize::from(length) * 5;
        let mut datagram = reader.take(length.min(reader.rest().len())).unwrap_or_default().to_vec();
        // Half of them past the first two checks.
        if action & 8 != 0
            && let Some([version, _, _, _, _, _, _, _, client @ ..]) = datagram.first_chunk_mut::<24>()
        {
            *version = 2;
            *client = HOST.to_ipv6_mapped().octets();
        }
        server.receive(now, place, SocketAddr::from((HOST, 1)), &datagram);
        server.poll(now);
        let mut answered = 0;
        loop {
            let effects: Vec<Effect> = server.effects().collect();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Send { bytes, to, .. } => {
                        let most = datagram.len().max(24).next_multiple_of(4);
                        let multicast = to.ip().is_multicast();
                        assert!(multicast || bytes.len() <= most, "{} bytes for {most}", bytes.len());
                        answered += usize::from(!multicast);
                    }
                    Effect::Epoch(_) => {}
                    Effect::Order(id, order) => {
                        let answer = carry_out(&order, action, &mut rules, &mut next);
                        server.answered(now, id, answer);
                    }
                }
            }
        }
        assert!(answered <= 16, "{answered} responses to one request");
        assert_eq!(server.waiting(), 0);
    }
}

fn carry_out(order: &Order, action: u8, rules: &mut BTreeSet<RuleId>, next: &mut u64) -> Answer {
    if action & 0x70 == 0x70 {
        return Answer::Refused(if action & 0x80 == 0 { Refused::External } else { Refused::Gone });
    }
    match order {
        Order::Look { .. } => Answer::Seen(Seen {
            fixed: None,
            outbound: (action & 0x10 != 0).then(|| SocketAddr::from((EXTERNAL, 4000))),
            remaining: if action & 0x20 == 0 { 0 } else { 60 },
            paired: Some(IpAddr::V4(EXTERNAL)),
        }),
        Order::Open(wanted) => {
            *next += 1;
            let rule = RuleId(*next);
            rules.insert(rule);
            let address = wanted.address.unwrap_or(EXTERNAL.into());
            let port = wanted.external_port.unwrap_or((*next % 60_000) as u16 + 1);
            Answer::Opened { rule, external: SocketAddr::new(address, port), size: wanted.size }
        }
        Order::Change { rule, .. } if rules.contains(rule) => Answer::Changed,
        Order::Close { rule } if rules.remove(rule) => Answer::Closed,
        Order::Change { .. } | Order::Close { .. } => Answer::Refused(Refused::Gone),
    }
}
