//! The control plane's end: attach, tables, and what a bad one gets.

use crate::lab::{Daemon, Namespace, wait_for};
use crate::life::SILENT;
use std::time::Duration;
use turnpike_abi::attach::AttachResult;
use turnpike_abi::command::{Kind, Walk, WalkTable};
use turnpike_abi::counters::Counter;
use turnpike_abi::event::WalkEnd;
use turnpike_abi::stats::text;
use turnpike_abi::table::TableKind;
use turnpike_abi::{PortId, WorkerId};
use turnpike_client::{AttachError, Attachment, SealedTable, TableBuilder};

const WORKER: WorkerId = WorkerId(0);
const PATIENCE: Duration = Duration::from_secs(30);

/// How the attachment ended.
fn end_of(attachment: &Attachment) -> AttachError {
    wait_for("the end of the attachment", || attachment.receive_within(PATIENCE).err())
}

#[test]
fn one_control_plane_at_a_time_sees_who_it_talks_to() {
    let namespace = Namespace::new();
    let daemon = Daemon::start(&namespace, "[0, 1]", SILENT);
    let first = daemon.attach();
    let identity = first.identity();
    assert_eq!((identity.workers, identity.ports, identity.interfaces, identity.no_huge), (2, 2, 2, 1));
    assert!(text(&identity.dpdk_version).starts_with("DPDK "));
    let [inside, uplink] = first.interfaces() else { panic!("{:?}", first.interfaces()) };
    assert_eq!((text(&inside.name), inside.port, inside.vlan, inside.mtu), ("inside", PortId(0), 0, 1500));
    assert_eq!((text(&uplink.name), uplink.port, uplink.vlan, uplink.mtu), ("uplink", PortId(1), 100, 1400));
    assert_eq!(inside.mac, [2, 0, 0, 0, 0, 1]);
    let lines = namespace.addresses("tp-uplink").expect("a TAP");
    assert!(lines.starts_with(&format!("{}:", uplink.tap_index)), "{lines}");

    let refused = Attachment::connect(&daemon.socket()).expect_err("one is there already");
    assert!(matches!(refused, AttachError::Refused(AttachResult::BUSY)), "{refused}");

    let stats = wait_for("the port's page", || first.port_stats(PortId(0)).filter(|port| port.link_up == 1));
    assert_eq!((text(&stats.name), text(&stats.driver), stats.queues), ("inside", "net_null", 2));
    let main = wait_for("the main page", || first.main_stats().filter(|main| main.attaches == 1));
    assert_eq!((main.buffers, main.buffers_available), (8192, 8192), "no packet, no buffer in use");

    drop(first);
    let second = wait_for("the place to be free", || Attachment::connect(&daemon.socket()).ok());
    wait_for("both to be counted", || {
        second.main_stats().filter(|main| (main.attaches, main.departures) == (2, 1))
    });
    let (status, log) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    let end = end_of(&second);
    assert!(matches!(end, AttachError::Detached(AttachResult::STOPPING)), "{end}");
}

#[test]
fn workers_answer_commands_and_live() {
    let namespace = Namespace::new();
    let daemon = Daemon::start(&namespace, "[1]", SILENT);
    let mut attachment = daemon.attach();
    let walk = Walk { table: WalkTable::BINDINGS, limit: 10, ..Walk::default() };
    let sequence = attachment.command(WORKER, Kind::WALK, &walk).expect("room");
    let end = wait_for("the answer", || attachment.poll_events(WORKER).expect("a sound ring"));
    assert_eq!((end.header.kind, end.header.sequence), (Kind::WALK_END, sequence));
    assert_eq!(end.body::<WalkEnd>().rows, 0);
    // Publication goes on while nothing happens.
    let heartbeat = |attachment: &Attachment| {
        attachment.counters(WORKER).map_or(0, |counters| counters.get(Counter::HeartbeatMs))
    };
    let before = wait_for("a heartbeat", || Some(heartbeat(&attachment)).filter(|&ms| ms > 0));
    wait_for("a later one", || (heartbeat(&attachment) > before).then_some(()));
    let counters = attachment.counters(WORKER).expect("a whole page");
    assert!(counters.get(Counter::CyclesIdle) > 0 && counters.get(Counter::CyclesHousekeeping) > 0);
    assert_eq!((counters.get(Counter::Events), counters.get(Counter::Commands)), (1, 1));
}

#[test]
fn a_bad_control_plane_is_put_out_and_the_next_one_welcome() {
    let namespace = Namespace::new();
    let daemon = Daemon::start(&namespace, "[1]", SILENT);

    // A table that is none.
    let attachment = daemon.attach();
    let garbage = SealedTable::create(&[0x5a; 100]).expect("a memfd");
    attachment.offer_table(TableKind::POLICY, 7, &garbage).expect("sent");
    let notice = attachment.receive_within(PATIENCE).expect("an answer").expect("in time");
    assert_eq!((notice.kind, notice.generation, notice.result), (TableKind::POLICY, 7, AttachResult::TABLE));
    assert!(matches!(end_of(&attachment), AttachError::Detached(AttachResult::TABLE)));

    // A table whose message says another generation.
    let attachment = wait_for("a free place", || Attachment::connect(&daemon.socket()).ok());
    let table = TableBuilder::new(TableKind::FORWARDING, 3).seal().expect("a memfd");
    attachment.offer_table(TableKind::FORWARDING, 4, &table).expect("sent");
    let notice = attachment.receive_within(PATIENCE).expect("an answer").expect("in time");
    assert_eq!((notice.result, notice.offset), (AttachResult::TABLE, 24));
    assert!(matches!(end_of(&attachment), AttachError::Detached(AttachResult::TABLE)));

    // A table of a kind that does not exist.
    let attachment = wait_for("a free place", || Attachment::connect(&daemon.socket()).ok());
    attachment.offer_table(TableKind(99), 3, &table).expect("sent");
    assert!(matches!(end_of(&attachment), AttachError::Detached(AttachResult::TABLE)));

    // A command that no correct control plane sends.
    let mut attachment = wait_for("a free place", || Attachment::connect(&daemon.socket()).ok());
    attachment.command(WORKER, Kind(0xdead), &0u64).expect("room");
    assert!(matches!(end_of(&attachment), AttachError::Detached(AttachResult::RING)));

    let attachment = wait_for("a free place", || Attachment::connect(&daemon.socket()).ok());
    let main = wait_for("five attached", || attachment.main_stats().filter(|main| main.attaches == 5));
    assert_eq!((main.violations, main.departures, main.tables, main.tables_refused), (4, 0, 0, 3));
    let counters = wait_for("the worker's word", || {
        attachment.counters(WORKER).filter(|counters| counters.get(Counter::PeerViolations) == 1)
    });
    assert_eq!(counters.get(Counter::PolicyGeneration), 0);

    // A sound table is taken, and reaches the worker.
    let table = TableBuilder::new(TableKind::FORWARDING, 9).seal().expect("a memfd");
    attachment.offer_table(TableKind::FORWARDING, 9, &table).expect("sent");
    let notice = attachment.receive_within(PATIENCE).expect("an answer").expect("in time");
    assert_eq!((notice.generation, notice.result), (9, AttachResult::OK));
    wait_for("the table in force", || {
        attachment.counters(WORKER).filter(|counters| counters.get(Counter::ForwardingGeneration) == 9)
    });
    assert_eq!(daemon.stop().0.code(), Some(0));
}
