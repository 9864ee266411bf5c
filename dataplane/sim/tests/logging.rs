//! What the operator wants logged: port blocks, ports in others' blocks, flows that end. Tests carry the ids of
//! their requirement rows.

use proptest::prelude::*;
use turnpike_abi::command::{Kind, Parity, PinholeAdd, PinholeRemove, PortsReserve, Slot, Walk, WalkTable};
use turnpike_abi::counters::{Counter, FlowEnd, TcpState};
use turnpike_abi::event::{AckResult, FlowEnded, PortsLogged, WalkEnd};
use turnpike_abi::table::{PoolRecord, SettingsRecord};
use turnpike_abi::{Prefix, steering};
use turnpike_sim::lab::{
    HOST, HOST6, INSIDE_PORT, Lab, OTHER_HOST, SERVER, SERVER6, everywhere_with, forwarding, text,
};
use turnpike_sim::packets::{Build, TCP, UDP};
use turnpike_sim::tables::{PolicyTable, address};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

fn logging(flags: u32, change: impl Fn(&mut PoolRecord)) -> PolicyTable {
    let mut policy = PolicyTable::default();
    policy.settings.flags |= flags;
    change(&mut policy.pools[0]);
    policy
}

fn ended(lab: &mut Lab) -> Vec<FlowEnded> {
    let all = std::mem::take(&mut lab.appliance.events);
    all.iter().filter(|(_, slot)| slot.header.kind == Kind::FLOW_ENDED).map(|(_, slot)| slot.body()).collect()
}

fn owner(lab: &Lab, host: &str) -> usize {
    steering::owner_of_inside(address(host), lab.appliance.workers()).index()
}

/// External ends of new mappings, from an inside port on until the first refusal.
fn fill(lab: &mut Lab, from: u16) -> Vec<(String, u16)> {
    let mut got = Vec::new();
    for port in from.. {
        let step = lab.step(INSIDE_PORT, &Build::udp((HOST, port), (SERVER, 53), b"x"));
        if !step.drops.is_empty() {
            break;
        }
        got.push(text(step.passed(1).source()));
    }
    got
}

/// One subscriber's ports by what was logged, for as long as it says.
#[derive(Debug)]
struct Span {
    inside: String,
    external: String,
    ports: Vec<[u16; 2]>,
    protocol: u8,
    from_ms: u64,
    to_ms: u64,
}

/// Reads a log as whoever answers a query does: each assignment lasts until its release.
#[derive(Debug, Default)]
struct Log(Vec<Span>);

impl Log {
    fn read(&mut self, lab: &mut Lab) {
        for (_, slot) in std::mem::take(&mut lab.appliance.events) {
            let kind = slot.header.kind;
            if kind != Kind::PORTS_ASSIGNED && kind != Kind::PORTS_RELEASED {
                continue;
            }
            let logged: PortsLogged = slot.body();
            let (inside, external) = (logged.inside.to_ip().to_string(), logged.external.to_ip().to_string());
            let ports: Vec<_> = logged.ports().collect();
            if kind == Kind::PORTS_ASSIGNED {
                let (from_ms, to_ms) = (logged.at_ms, u64::MAX);
                self.0.push(Span { inside, external, ports, protocol: logged.protocol, from_ms, to_ms });
                continue;
            }
            let open = self.0.iter_mut().rfind(|span| {
                (&span.inside, &span.external, &span.ports, span.protocol, span.to_ms)
                    == (&inside, &external, &ports, logged.protocol, u64::MAX)
            });
            let open = open.expect("released what was never assigned");
            open.to_ms = logged.at_ms;
            if logged.since_ms != PortsLogged::UNKNOWN {
                assert!(open.from_ms - logged.since_ms < 128, "{open:?} {logged:?}");
            }
        }
    }

    /// Who had a port: a single port's line stands before a block's.
    fn who(&self, external: &str, port: u16, protocol: u8, at_ms: u64) -> Vec<&str> {
        let at = self.0.iter().filter(|span| {
            span.external == external
                && (span.from_ms..=span.to_ms).contains(&at_ms)
                && (span.protocol == 0 || span.protocol == protocol)
                && span.ports.iter().any(|&[first, last]| (first..=last).contains(&port))
        });
        let (single, blocks): (Vec<_>, Vec<_>) = at.partition(|span| span.protocol != 0);
        let best = if single.is_empty() { blocks } else { single };
        let mut who: Vec<_> = best.into_iter().map(|span| span.inside.as_str()).collect();
        who.dedup();
        who
    }
}

/// Nothing is said that nobody asked for.
#[test]
fn cgn_12_without_the_operators_word_nothing_is_logged() {
    everywhere_with(&PolicyTable::default(), &forwarding(), |lab| {
        lab.udp_mapping(HOST, 5000);
        lab.appliance.advance(700_000, 1000);
        let logged = [Kind::PORTS_ASSIGNED, Kind::PORTS_RELEASED, Kind::FLOW_ENDED];
        assert!(lab.appliance.events.iter().all(|(_, slot)| !logged.contains(&slot.header.kind)));
        assert_eq!(lab.appliance.counters().get(Counter::LogRecords), 0);
    });
}

/// CGN-Q: a block is logged when a subscriber gets it and when it comes back, with all of its ports, whatever its
/// size, and no flow with it.
#[test]
fn cgn_q_blocks_are_logged_as_they_come_and_go() {
    for (size, blocks) in [(64, 3), (256, 2), (2048, 1)] {
        let policy = logging(SettingsRecord::LOG_BLOCKS, |pool| {
            (pool.block_size, pool.blocks, pool.quarantine) = (size, blocks, 120);
        });
        everywhere_with(&policy, &forwarding(), |lab| {
            let mut log = Log::default();
            let got = fill(lab, 1);
            log.read(lab);
            assert_eq!(log.0.len(), usize::from(blocks));
            let ports: u32 = log
                .0
                .iter()
                .flat_map(|span| &span.ports)
                .map(|[first, last]| u32::from(last - first) + 1)
                .sum();
            // The first and the last block of an address may be smaller.
            assert_eq!(ports, got.len() as u32);
            assert!(ports <= u32::from(size * blocks));
            for (external, port) in &got {
                assert_eq!(log.who(external, *port, UDP, lab.appliance.now.0), [HOST]);
            }
            lab.appliance.advance(700_000, 100);
            log.read(lab);
            for span in &log.0 {
                // 300 s to expire, 120 s held back.
                assert!((400_000..440_000).contains(&(span.to_ms - span.from_ms)), "{span:?}");
            }
            assert_eq!(lab.appliance.counters().get(Counter::LogRecords), 2 * u64::from(blocks));
        });
    }
}

/// DET-5: what the configuration tells is not logged, the overflow is.
#[test]
fn det_5_overflow_blocks_are_logged_and_computed_ranges_are_not() {
    let policy = logging(SettingsRecord::LOG_BLOCKS, |pool| {
        pool.flags = PoolRecord::DETERMINISTIC;
        (pool.inside_first, pool.inside_last) = ([10, 0, 0, 0], [10, 0, 3, 255]);
        (pool.dynamic, pool.block_size, pool.blocks) = (8, 64, 2);
    });
    everywhere_with(&policy, &forwarding(), |lab| {
        let mut log = Log::default();
        lab.udp_mapping(HOST, 1);
        log.read(lab);
        assert!(log.0.is_empty(), "{log:?}");
        let got = fill(lab, 2);
        log.read(lab);
        assert_eq!(log.0.len(), 1);
        let told =
            got.iter().filter(|(external, port)| !log.who(external, *port, UDP, u64::MAX >> 1).is_empty());
        assert_eq!(told.count(), 64);
    });
}

/// A flow's end says both of its five-tuples, its traffic, when it began and ended, and why.
#[test]
fn every_end_of_a_flow_is_told_with_its_cause() {
    let policy = logging(SettingsRecord::LOG_FLOWS, |_| {});
    everywhere_with(&policy, &forwarding(), |lab| {
        lab.appliance.advance(10_000, 1000);
        let begin = lab.appliance.now.0;
        let (external, port) = lab.udp_mapping(HOST, 5000);
        lab.back(&Build::udp((SERVER, 53), (&external, port), b"an answer"));
        lab.appliance.advance(400_000, 100);
        let [flow] = ended(lab)[..] else { panic!("one flow") };
        assert_eq!((flow.cause(), flow.state()), (Some(FlowEnd::Timeout), TcpState::None));
        assert_eq!((flow.inside.to_ip().to_string(), flow.inside_port), (HOST.to_owned(), 5000));
        assert_eq!((flow.external.to_ip().to_string(), flow.external_port), (external, port));
        assert_eq!(flow.remote.to_ip().to_string(), SERVER);
        assert_eq!((flow.protocol, flow.flags), (UDP, FlowEnded::TRANSLATED));
        assert_eq!(flow.packets, [1, 1]);
        assert!(flow.bytes[1] >= 28 + 9, "{flow:?}");
        assert!(begin - flow.began_ms < 128 && begin - flow.last_ms < 128, "{flow:?}");
        assert!((300_000..301_000).contains(&(flow.ended_ms - flow.last_ms)), "{flow:?}");

        let web = (SERVER, 80);
        for (flags, cause) in [(TCP_FIN | TCP_ACK, FlowEnd::Fin), (TCP_RST | TCP_ACK, FlowEnd::Rst)] {
            let client = (HOST, 6000);
            let (external, port) = text(lab.out(&Build::tcp(client, web, TCP_SYN, b"")).source());
            lab.back(&Build::tcp(web, (&external, port), TCP_SYN | TCP_ACK, b""));
            lab.out(&Build::tcp(client, web, flags, b""));
            if cause == FlowEnd::Fin {
                lab.back(&Build::tcp(web, (&external, port), flags, b""));
            }
            lab.appliance.advance(300_000, 100);
            let [flow] = ended(lab)[..] else { panic!("one flow") };
            assert_eq!((flow.cause(), flow.protocol), (Some(cause), TCP));
        }

        // An IPv6 flow has its inside end outside too.
        lab.out(&Build::udp((HOST6, 7), (SERVER6, 9), b"x"));
        lab.appliance.advance(400_000, 100);
        let [flow] = ended(lab)[..] else { panic!("one flow") };
        assert_eq!((flow.inside, flow.flags), (flow.external, 0));
        assert_eq!((flow.inside_port, flow.external_port, flow.remote_port), (7, 7, 9));
    });
}

/// CGN-L: a block that comes back with its last flow does so when the flow ends, not at the tick before.
#[test]
fn cgn_l_a_block_is_released_when_its_last_flow_ends() {
    let flags = SettingsRecord::LOG_FLOWS | SettingsRecord::LOG_BLOCKS;
    let policy = logging(flags, |pool| pool.quarantine = 0);
    everywhere_with(&policy, &forwarding(), |lab| {
        lab.udp_mapping(HOST, 5000);
        lab.appliance.advance(400_000, 700);
        let events = std::mem::take(&mut lab.appliance.events);
        let of = |kind| events.iter().find(|(_, slot)| slot.header.kind == kind).map(|(_, slot)| slot);
        let flow: FlowEnded = of(Kind::FLOW_ENDED).expect("the flow ended").body();
        let block: PortsLogged = of(Kind::PORTS_RELEASED).expect("the block came back").body();
        assert_eq!(block.at_ms, flow.ended_ms);
    });
}

/// A closed pinhole, a reservation that takes an endpoint over, and a policy without the address end flows, each
/// with a cause of its own.
#[test]
fn ends_by_command_by_another_binding_and_by_policy_are_told_apart() {
    let policy = logging(SettingsRecord::LOG_FLOWS | SettingsRecord::LOG_BLOCKS, |_| {});
    everywhere_with(&policy, &forwarding(), |lab| {
        let worker = owner(lab, HOST);
        let mut add = PinholeAdd {
            id: 1,
            inside: address(HOST),
            remote: Prefix::ANY,
            inside_port: 4000,
            remote_port_last: u16::MAX,
            protocol: UDP,
            flags: PinholeAdd::POOL,
            ..PinholeAdd::default()
        };
        assert_eq!(lab.appliance.command(worker, Kind::PINHOLE_ADD, &add).result, AckResult::OK);
        lab.udp_mapping(HOST, 4000);
        let remove = PinholeRemove { id: 1, ..PinholeRemove::default() };
        assert_eq!(lab.appliance.command(worker, Kind::PINHOLE_REMOVE, &remove).result, AckResult::OK);
        let causes = |lab: &mut Lab| ended(lab).iter().map(|flow| flow.cause().unwrap()).collect::<Vec<_>>();
        assert_eq!(causes(lab), [FlowEnd::Admin]);

        lab.udp_mapping(HOST, 4002);
        let reserve = PortsReserve {
            id: 2,
            inside: address(HOST),
            protocol: UDP,
            ports: 1,
            parity: Parity::EVEN,
            ..PortsReserve::default()
        };
        assert_eq!(lab.appliance.command(worker, Kind::PORTS_RESERVE, &reserve).result, AckResult::OK);
        (add.id, add.reservation, add.inside_port) = (3, 2, 4002);
        add.flags |= PinholeAdd::RESERVED;
        assert_eq!(lab.appliance.command(worker, Kind::PINHOLE_ADD, &add).result, AckResult::OK);
        assert_eq!(causes(lab), [FlowEnd::Binding]);

        lab.udp_mapping(OTHER_HOST, 4004);
        let mut elsewhere = policy.clone();
        elsewhere.ranges[0].first = [203, 0, 113, 32];
        elsewhere.ranges[0].last = [203, 0, 113, 47];
        lab.appliance.policy(&elsewhere);
        lab.appliance.advance(1, 1);
        assert_eq!(causes(lab), [FlowEnd::Policy]);
    });
}

/// A ring that nobody empties costs records, which are counted, and no packet; afterwards the log goes on.
#[test]
fn a_full_ring_loses_records_and_nothing_else() {
    let policy = logging(SettingsRecord::LOG_FLOWS, |_| {});
    let mut lab = Lab::with(1, &policy, &forwarding());
    lab.appliance.log_room = 0;
    let mut flows = 0;
    for _ in 0..2 {
        for port in 1..=3000 {
            lab.udp_mapping(HOST, port);
            flows += 1;
        }
        lab.appliance.advance(301_000, 10);
    }
    let counters = lab.appliance.counters();
    assert_eq!(counters.get(Counter::LogRecordsLost), flows - 4096);
    assert_eq!(counters.total_drops(), 0);
    lab.appliance.log_room = 500;
    lab.appliance.advance(10, 1);
    assert_eq!(ended(&mut lab).len(), 4096);
    lab.udp_mapping(HOST, 1);
    lab.appliance.advance(301_000, 10);
    assert_eq!(ended(&mut lab).len(), 1);
    assert_eq!(lab.appliance.counters().get(Counter::LogRecords), 4097);
}

/// LOG-14: a walk shows every block that subscribers have, with its beginning: what was not told at the time is told
/// then.
#[test]
fn log_14_a_walk_shows_the_blocks_that_are_held() {
    everywhere_with(&logging(0, |pool| pool.block_size = 64), &forwarding(), |lab| {
        lab.appliance.advance(5000, 1000);
        let begin = lab.appliance.now.0;
        for host in [HOST, OTHER_HOST] {
            for port in 1..=640 {
                lab.udp_mapping(host, port);
            }
        }
        lab.appliance.advance(5000, 1000);
        let mut seen: Vec<PortsLogged> = Vec::new();
        for worker in 0..lab.appliance.workers().into() {
            let mut cursor = 0;
            while cursor != WalkEnd::DONE {
                let walk = Walk { cursor, table: WalkTable::BLOCKS, limit: 3 };
                lab.appliance.command_raw(worker, &Slot::new(Kind::WALK, 9, &walk)).unwrap();
                let mut events = std::mem::take(&mut lab.appliance.events);
                let (_, end) = events.pop().unwrap();
                let end: WalkEnd = end.body();
                assert_eq!(end.rows as usize, events.len());
                seen.extend(events.iter().map(|(_, slot)| slot.body::<PortsLogged>()));
                cursor = end.cursor;
            }
        }
        assert_eq!(seen.len(), 20);
        for host in [HOST, OTHER_HOST] {
            assert_eq!(seen.iter().filter(|row| row.inside == address(host)).count(), 10);
        }
        assert!(seen.iter().all(|row| begin - row.since_ms < 128 && row.at_ms == lab.appliance.now.0));
    });
}

#[derive(Clone, Debug)]
enum Op {
    Map { host: u8, port: u16 },
    Pinhole { host: u8, port: u16, external_port: u16 },
    Unpinhole { which: usize },
    Wait { ms: u64 },
    Recut { size: u16 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (2u8..8, 1u16..400).prop_map(|(host, port)| Op::Map { host, port }),
        2 => (2u8..8, 1000u16..1400, 1024u16..3000)
            .prop_map(|(host, port, external_port)| Op::Pinhole { host, port, external_port }),
        1 => any::<usize>().prop_map(|which| Op::Unpinhole { which }),
        2 => (1u64..200_000).prop_map(|ms| Op::Wait { ms }),
        1 => (6u32..10).prop_map(|shift| Op::Recut { size: 1 << shift }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// CGN-L: whoever reads the log knows who had an external port at any moment: every packet that left says so,
    /// dynamic ones, pinholes in somebody else's block, and through changes of the block size.
    #[test]
    fn cgn_l_the_log_tells_who_had_a_port(ops in prop::collection::vec(op(), 1..120), workers in 1u8..4) {
        let policy = |size| {
            let mut policy = logging(SettingsRecord::LOG_BLOCKS, |pool| {
                (pool.block_size, pool.quarantine) = (size, 30);
                (pool.port_first, pool.port_last) = (1024, 8191);
            });
            policy.ranges[0].last = [203, 0, 113, 1];
            policy
        };
        let mut lab = Lab::with(workers, &policy(64), &forwarding());
        let mut log = Log::default();
        let mut seen = Vec::new();
        let mut pinholes: Vec<(u64, String)> = Vec::new();
        for op in ops {
            match op {
                Op::Map { host, port } => {
                    let host = format!("10.0.0.{host}");
                    let step = lab.step(INSIDE_PORT, &Build::udp((&host, port), (SERVER, 53), b"x"));
                    if step.drops.is_empty() {
                        seen.push((text(step.passed(1).source()), host, lab.appliance.now.0));
                    }
                }
                Op::Pinhole { host, port, external_port } => {
                    let host = format!("10.0.0.{host}");
                    let worker = owner(&lab, &host);
                    let add = PinholeAdd {
                        id: 1 + pinholes.len() as u64,
                        inside: address(&host),
                        external: address("203.0.113.1"),
                        remote: Prefix::ANY,
                        inside_port: port,
                        external_port,
                        remote_port_last: u16::MAX,
                        protocol: UDP,
                        flags: PinholeAdd::POOL,
                        ..PinholeAdd::default()
                    };
                    if lab.appliance.command(worker, Kind::PINHOLE_ADD, &add).result == AckResult::OK {
                        pinholes.push((add.id, host.clone()));
                        let got = lab.udp_mapping(&host, port);
                        seen.push((got, host, lab.appliance.now.0));
                    }
                }
                Op::Unpinhole { which } => {
                    if let Some((id, host)) = pinholes.get(which % pinholes.len().max(1)).cloned() {
                        let remove = PinholeRemove { id, ..PinholeRemove::default() };
                        let worker = owner(&lab, &host);
                        lab.appliance.command(worker, Kind::PINHOLE_REMOVE, &remove);
                    }
                }
                Op::Wait { ms } => lab.appliance.advance(ms, 500),
                Op::Recut { size } => lab.appliance.policy(&policy(size)),
            }
            // Time passes between any two events, so that none are of one moment.
            lab.appliance.advance(1, 1);
        }
        lab.appliance.advance(1, 1);
        log.read(&mut lab);
        for ((external, port), host, at_ms) in seen {
            let who = log.who(&external, port, UDP, at_ms);
            prop_assert_eq!(&who, &[host.as_str()], "{}:{} at {} ms: {:?}", external, port, at_ms, log);
        }
    }
}
