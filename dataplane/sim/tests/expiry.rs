//! Many flows whose time comes at once, against a model that knows when each was last used.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use turnpike_abi::command::Kind;
use turnpike_abi::counters::{Counter, DropReason, FlowEnd, ProtocolClass};
use turnpike_abi::event::FlowEnded;
use turnpike_abi::table::{Filtering, SettingsRecord};
use turnpike_engine::Time;
use turnpike_sim::lab::{INSIDE_PORT, Lab, OUTSIDE_PORT, forwarding, text};
use turnpike_sim::packets::{Build, ICMP, TCP, UDP, see};
use turnpike_sim::tables::{PolicyTable, address};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_SYN};

const HOSTS: [&str; 4] = ["10.0.0.9", "10.0.0.10", "10.0.3.77", "fd00::9"];
const SERVERS: [&str; 3] = ["198.51.100.7", "198.51.100.8", "198.51.100.9"];
const SERVER6: &str = "2001:db8:9::7";
/// Milliseconds between two looks at the timers, and how many flows one looks at.
const STEP_MS: u64 = 8;
const VISITS: u64 = 64;
/// Milliseconds of a slot of the timers.
const TICK_MS: u64 = 128;

/// A flow by its own words: protocol, inside end, remote end.
type Flow = (u8, String, u16, String, u16);

#[derive(Clone, Debug)]
enum Step {
    /// Opens flows, or uses those that are there.
    Use(Vec<(u8, usize, u16, usize, u16)>),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let protocol = prop::sample::select(vec![UDP, UDP, TCP, ICMP]);
    let flow = (protocol, 0..HOSTS.len(), 1u16..25, 0..SERVERS.len(), 50u16..52);
    prop_oneof![
        3 => prop::collection::vec(flow, 1..200).prop_map(Step::Use),
        2 => (1u64..4000).prop_map(Step::Wait),
        1 => (4000u64..16_000).prop_map(Step::Wait),
    ]
}

#[derive(Default)]
struct Model {
    /// When each was last used.
    flows: BTreeMap<Flow, u64>,
    /// External ends of UDP.
    external: BTreeMap<(String, u16), (String, u16)>,
}

const fn timeout_ms(protocol: u8) -> u64 {
    match protocol {
        UDP => 9000,
        TCP => 6000,
        _ => 4000,
    }
}

impl Model {
    fn of_class(&self, class: ProtocolClass) -> impl Iterator<Item = &Flow> {
        self.flows.keys().filter(move |flow| ProtocolClass::of(flow.0) == class)
    }

    fn use_flows(&mut self, lab: &mut Lab, flows: &[(u8, usize, u16, usize, u16)]) {
        let mut frames = Vec::new();
        for &(protocol, host, port, server, to) in flows {
            let host = HOSTS[host];
            let (protocol, server) =
                if host.contains(':') { (UDP, SERVER6) } else { (protocol, SERVERS[server]) };
            let (packet, to) = match protocol {
                UDP => (Build::udp((host, port), (server, to), b"x"), to),
                TCP => (Build::tcp((host, port), (server, to), TCP_SYN, b""), to),
                _ => (Build::echo(host, server, port, false, b"x"), port),
            };
            frames.push(packet.frame(INSIDE_PORT));
            self.flows.insert((protocol, host.to_owned(), port, server.to_owned(), to), lab.appliance.now.0);
        }
        for frame in &frames {
            let [(OUTSIDE_PORT, bytes)] = &lab.frame(INSIDE_PORT, frame).sent[..] else { panic!("refused") };
            let (before, after) = (see(frame), see(bytes));
            if after.packet.protocol == UDP && frame[12..14] == [0x08, 0x00] {
                self.external.insert(text(before.source()), text(after.source()));
            }
        }
    }

    /// Every flow that ended was overdue, by no more than a slot and what waits in it. Returns the most that ended at
    /// one time.
    fn take_ended(&mut self, lab: &mut Lab) -> u64 {
        let mut together = BTreeMap::new();
        // As many may be due in one slot.
        let waiting = (self.flows.len() as u64 / VISITS + 2) * STEP_MS;
        for (_, slot) in std::mem::take(&mut lab.appliance.events) {
            if slot.header.kind != Kind::FLOW_ENDED {
                continue;
            }
            let ended: FlowEnded = slot.body();
            let words = |end: turnpike_abi::Address| end.to_ip().to_string();
            let (inside, remote) = (words(ended.inside), words(ended.remote));
            let flow = (ended.protocol, inside, ended.inside_port, remote, ended.remote_port);
            let last =
                self.flows.remove(&flow).unwrap_or_else(|| panic!("{flow:?} ended twice, or never was"));
            assert_eq!((ended.cause(), ended.last_ms), (Some(FlowEnd::Timeout), last), "{flow:?}");
            let due = last + timeout_ms(ended.protocol);
            *together.entry(ended.ended_ms).or_insert(0u64) += 1;
            assert!((due..=due + TICK_MS + waiting).contains(&ended.ended_ms), "{ended:?}");
        }
        // Nor is any left that should have ended.
        let now = lab.appliance.now.0;
        for (flow, last) in &self.flows {
            assert!(now <= last + timeout_ms(flow.0) + TICK_MS + waiting, "{flow:?} should have ended");
        }
        together.into_values().max().unwrap_or(0)
    }

    /// Flows and bindings are those of the model, no more and no fewer.
    fn agree(&self, lab: &Lab) {
        let counters = lab.appliance.counters();
        for class in [ProtocolClass::Udp, ProtocolClass::Tcp, ProtocolClass::Icmp] {
            assert_eq!(counters.flows(class).0, self.of_class(class).count() as u64, "{}", class.name());
            let translated = self.of_class(class).filter(|flow| !flow.1.contains(':'));
            let bindings: BTreeSet<_> = translated.map(|flow| (&flow.1, flow.2)).collect();
            assert_eq!(counters.bindings(class).0, bindings.len() as u64, "{}", class.name());
        }
        let shown: usize = (0..lab.appliance.workers()).map(|at| lab.appliance.flows(at.into()).len()).sum();
        assert_eq!(shown, self.flows.len());
    }

    /// Whether the external end that an inside end had is now another's.
    fn is_others(&self, host: &str, port: u16) -> bool {
        let had = self.external.get(&(host.to_owned(), port));
        let has = |(inside, external): (&(String, u16), &(String, u16))| {
            let lives = |flow: &Flow| (flow.0, flow.1.as_str(), flow.2) == (UDP, inside.0.as_str(), inside.1);
            Some(external) == had
                && (inside.0.as_str(), inside.1) != (host, port)
                && self.flows.keys().any(lives)
        };
        self.external.iter().any(has)
    }

    /// Those get through from outside who have a flow, and no strangers. Returns how many did and how many did not.
    fn ask_from_outside(&self, lab: &mut Lab, host: &str, port: u16) -> (u32, u32) {
        let (mut through, mut refused) = (0, 0);
        let Some(external) = self.external.get(&(host.to_owned(), port)) else { return (0, 0) };
        let mine = |flow: &&Flow| flow.0 == UDP && (flow.1.as_str(), flow.2) == (host, port) && flow.4 == 50;
        let of_host = self.flows.keys().filter(|flow| (flow.0, flow.1.as_str(), flow.2) == (UDP, host, port));
        let known: BTreeSet<_> = of_host.map(|flow| flow.3.as_str()).collect();
        for server in SERVERS {
            let packet = Build::udp((server, 50), (&external.0, external.1), b"y");
            let asked = self.flows.keys().filter(mine).any(|flow| flow.3 == server);
            if asked {
                assert_eq!(text(lab.back(&packet).destination()), (host.to_owned(), port));
                through += 1;
            } else if known.is_empty() {
                // Its port may be somebody else's by now, who may have asked for this.
                if self.is_others(host, port) {
                    continue;
                }
                let step = lab.step(OUTSIDE_PORT, &packet);
                let [(reason, 1)] = step.drops[..] else { panic!("{step:?}") };
                assert!(matches!(reason, DropReason::NoMapping | DropReason::FilteredUnasked), "{step:?}");
                refused += 1;
            } else if !known.contains(server) {
                lab.step(OUTSIDE_PORT, &packet).dropped(DropReason::FilteredUnasked);
                refused += 1;
            }
        }
        (through, refused)
    }
}

/// Flows that share a binding, of both families and all classes, ended together or one after the other, in the same
/// call or not: each on time, once, with all that it had.
#[test]
fn flows_that_come_due_together_end_as_each_would_alone() {
    agrees_with_the_model(24, None);
}

/// The same while a flow's milliseconds wrap, which have 32 bits.
#[test]
fn flows_end_on_time_after_49_days() {
    agrees_with_the_model(2, Some(u64::from(u32::MAX) - 12_000));
}

fn agrees_with_the_model(cases: u32, start_ms: Option<u64>) {
    let mut policy = PolicyTable::default();
    policy.settings.flags |= SettingsRecord::LOG_FLOWS;
    (policy.settings.udp, policy.settings.icmp, policy.settings.tcp_opening) = (9, 4, 6);
    let pool = &mut policy.pools[0];
    pool.block_size = 64;
    pool.filtering = Filtering::ADDRESS_DEPENDENT;
    let (most, asked) = (Cell::new(0), Cell::new((0, 0)));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let quarantine = (prop::sample::select(vec![0, 3, 3, 120]), prop::sample::select(vec![9, u32::MAX]));
    // What wraps is to be in use then.
    let few = if start_ms.is_some() { 12 } else { 1 };
    let strategy = (1u8..3, quarantine, prop::collection::vec(step(), few..20));
    let result = runner.run(&strategy, |(workers, (seconds, ports), steps)| {
        let mut policy = policy.clone();
        let pool = &mut policy.pools[0];
        (pool.quarantine, pool.quarantine_tcp, pool.quarantine_ports) = (seconds, seconds, ports);
        let mut lab = Lab::with(workers, &policy, &forwarding());
        for host in HOSTS {
            lab.appliance.neighbour(INSIDE_PORT, address(host), [2, 0xff, 0, 0, 0, 7]);
        }
        if let Some(start) = start_ms {
            lab.appliance.now = Time(start);
        }
        let mut model = Model::default();
        let silence = Step::Wait(20_000 + 2000 * u64::from(seconds));
        for step in steps.iter().chain([&silence]) {
            match step {
                Step::Use(flows) => model.use_flows(&mut lab, flows),
                Step::Wait(milliseconds) => lab.appliance.advance(*milliseconds, STEP_MS),
            }
            most.set(most.get().max(model.take_ended(&mut lab)));
            model.agree(&lab);
            for (host, port) in [(HOSTS[0], 3), (HOSTS[1], 7), (HOSTS[2], 11)] {
                let (through, refused) = model.ask_from_outside(&mut lab, host, port);
                asked.set((asked.get().0 + through, asked.get().1 + refused));
            }
        }
        assert!(model.flows.is_empty());
        let counters = lab.appliance.counters();
        for gauge in [Counter::Quarantined, Counter::Subscribers, Counter::Blocks] {
            assert_eq!(counters.get(gauge), 0, "{gauge:?}");
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    if start_ms.is_some() {
        return;
    }
    // The generator hit it: a whole batch at once, and packets of either kind.
    assert!(most.get() >= VISITS, "at most {} flows ended at one time", most.get());
    assert!(asked.get().0 >= 20 && asked.get().1 >= 20, "through and refused: {:?}", asked.get());
}

/// Shorter timeouts are those of flows that are there, too: of what is overdue at once, and of what becomes so before
/// its timer would have looked at it.
#[test]
fn timeouts_that_become_shorter_hold_for_every_flow() {
    for workers in [1, 2] {
        let mut lab = Lab::with(workers, &PolicyTable::default(), &forwarding());
        let flow = |port: u16| Build::udp((HOSTS[0], port), (SERVERS[0], 50), b"x");
        let six = Build::udp((HOSTS[3], 1), (SERVER6, 50), b"x");
        lab.appliance.neighbour(INSIDE_PORT, address(HOSTS[3]), [2, 0xff, 0, 0, 0, 7]);
        for port in 1..200 {
            lab.out(&flow(port));
        }
        lab.appliance.advance(30_000, STEP_MS);
        for packet in [flow(200), flow(201), six] {
            lab.out(&packet);
        }
        // A connection that both ends closed is over for that reason.
        let (client, server) = ((HOSTS[0], 9), (SERVERS[0], 80));
        let external = text(lab.out(&Build::tcp(client, server, TCP_SYN, b"")).source());
        let external = (external.0.as_str(), external.1);
        lab.back(&Build::tcp(server, external, TCP_SYN | TCP_ACK, b""));
        lab.back(&Build::tcp(server, external, TCP_FIN | TCP_ACK, b""));
        lab.out(&Build::tcp(client, server, TCP_FIN | TCP_ACK, b""));
        lab.appliance.advance(4000, STEP_MS);
        let mut policy = PolicyTable::default();
        (policy.settings.udp, policy.settings.tcp_closing) = (20, 10);
        lab.appliance.policy(&policy);
        lab.appliance.advance(500, STEP_MS);
        let flows = |lab: &Lab, class| lab.appliance.counters().flows(class).0;
        assert_eq!((flows(&lab, ProtocolClass::Udp), flows(&lab, ProtocolClass::Tcp)), (3, 1));
        lab.out(&flow(201));
        lab.appliance.advance(6500, STEP_MS);
        assert_eq!(lab.appliance.counters().flows_ended(ProtocolClass::Tcp, FlowEnd::Fin), 1);
        assert_eq!(flows(&lab, ProtocolClass::Tcp), 0);
        lab.appliance.advance(10_000, STEP_MS);
        assert_eq!(flows(&lab, ProtocolClass::Udp), 1, "used since");
        lab.appliance.advance(5000, STEP_MS);
        assert_eq!(flows(&lab, ProtocolClass::Udp), 0);
    }
}

/// A table that is full has room again as soon as what fills it has ended, not when that would have been looked at.
#[test]
fn what_ends_early_makes_room_at_once() {
    let shorter = |policy: &mut PolicyTable| policy.settings.udp = 5;
    let moved = |policy: &mut PolicyTable| {
        (policy.ranges[0].first, policy.ranges[0].last) = ([203, 0, 113, 128], [203, 0, 113, 143]);
    };
    for change in [&shorter as &dyn Fn(&mut PolicyTable), &moved] {
        let mut policy = PolicyTable::default();
        let mut lab = Lab::sized(1, 300, &policy);
        for (round, server) in SERVERS.iter().enumerate() {
            for port in 1..=300 {
                let packet = Build::udp((HOSTS[0], port), (server, 50), b"x");
                assert_eq!(lab.step(INSIDE_PORT, &packet).drops, [], "round {round}, port {port}");
            }
            lab.appliance.advance(6000, STEP_MS);
            if round == 0 {
                change(&mut policy);
                lab.appliance.policy(&policy);
                lab.appliance.advance(100, STEP_MS);
            }
            let flows = lab.appliance.counters().flows(ProtocolClass::Udp).0;
            if flows > 0 {
                break;
            }
        }
    }
}
