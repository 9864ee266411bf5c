//! The attachment, between two processes and within one.

mod dataplane;

use dataplane::{Dataplane, WORKERS};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use turnpike_abi::attach::{AttachResult, Message, MessageKind};
use turnpike_abi::command::{Kind, Walk};
use turnpike_abi::counters::Counter;
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::layout::RING_SLOTS;
use turnpike_abi::stats::text;
use turnpike_abi::table::{Reader, TableKind, ZoneRecord, policy};
use turnpike_abi::{ABI_VERSION, PortId, WorkerId};
use turnpike_client::{AttachError, Attachment, LinkError, Place, SealedTable, TableBuilder};
use turnpike_shm::socket::{Connection, Listener, Received};

const PATIENCE: Duration = Duration::from_secs(20);

/// Set in a process that `separate_dataplane` starts: where to listen.
const CHILD: &str = "TURNPIKE_TEST_DATAPLANE";

/// Not a test of its own: the other process of the tests below runs it.
#[test]
fn dataplane_process() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut dataplane = Dataplane::new(Path::new(&path));
    let deadline = Instant::now() + 3 * PATIENCE;
    // Until the one control plane that attaches has left again.
    while dataplane.seen.departures + dataplane.seen.violations == 0 && Instant::now() < deadline {
        dataplane.step();
        std::thread::yield_now();
    }
}

fn separate_dataplane(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "dataplane_process"])
        .env(CHILD, path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dataplane.sock");
    (directory, path)
}

/// Attaches as soon as somebody listens.
fn connect(path: &Path) -> Attachment {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Attachment::connect(path) {
            Ok(attachment) => return attachment,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn two_processes_attach_and_talk() {
    let (_directory, path) = socket();
    let mut child = separate_dataplane(&path);
    let mut attachment = connect(&path);
    assert_eq!(attachment.identity().pid, child.id(), "the dataplane is another process");
    assert_eq!(attachment.workers(), usize::from(WORKERS));
    let names: Vec<_> = attachment.interfaces().iter().map(|interface| text(&interface.name)).collect();
    assert_eq!(names, ["inside"]);
    assert_eq!(attachment.counters(WorkerId(1)).unwrap().get(Counter::Received), 200);
    assert!(attachment.counters(WorkerId(WORKERS)).is_none());
    assert_eq!(attachment.port_stats(PortId(0)).unwrap().rx_packets, 11);
    assert!(attachment.port_stats(PortId(1)).is_none());
    assert_eq!(attachment.main_stats().unwrap().buffers, 12);
    let flows: Vec<_> =
        attachment.states().iter().flat_map(|view| (0..5).map(|at| view.flow(at, 0))).collect();
    let found: Vec<_> =
        flows.iter().enumerate().filter(|(_, place)| matches!(place, Place::Flow(_))).collect();
    let [(7, Place::Flow(flow))] = found[..] else { panic!("{found:?}") };
    assert_eq!((flow.protocol, flow.inside.1, flow.remote.1), (17, 5353, 53));
    assert_eq!(flows.iter().filter(|place| **place == Place::Outside).count(), 2);

    // More commands than the ring holds, each answered once and in order.
    for worker in [WorkerId(0), WorkerId(1)] {
        let (mut sent, mut answered) = (Vec::new(), 0);
        let deadline = Instant::now() + PATIENCE;
        while answered < 3 * RING_SLOTS {
            assert!(Instant::now() < deadline, "{answered} answers");
            if sent.len() < 3 * RING_SLOTS {
                match attachment.command(worker, Kind::WALK, &Walk::default()) {
                    Ok(sequence) => sent.push(sequence),
                    Err(error) => assert_eq!(error, LinkError::Full),
                }
            }
            while let Some(event) = attachment.poll_events(worker).unwrap() {
                assert_eq!((event.header.kind, event.header.sequence), (Kind::ACK, sent[answered]));
                assert_eq!(event.body::<Ack>().result, AckResult::NO_POLICY);
                answered += 1;
            }
        }
        assert!(sent.is_sorted_by(|a, b| a < b));
    }
    assert_eq!(
        attachment.command(WorkerId(WORKERS), Kind::WALK, &Walk::default()),
        Err(LinkError::NoSuchWorker(WORKERS))
    );
    assert_eq!(attachment.poll_events(WorkerId(WORKERS)), Err(LinkError::NoSuchWorker(WORKERS)));

    // A table, then one that is none.
    let zones = [ZoneRecord::default(); 3];
    let mut builder = TableBuilder::new(TableKind::POLICY, 5);
    let table = builder.section(policy::ZONES, &zones).unwrap().seal().unwrap();
    assert_eq!(Reader::new(&table).unwrap().section::<ZoneRecord>(policy::ZONES).unwrap(), zones);
    for (generation, table, result) in
        [(5, table, AttachResult::OK), (6, SealedTable::create(&[0; 100]).unwrap(), AttachResult::TABLE)]
    {
        attachment.offer_table(TableKind::POLICY, generation, &table).unwrap();
        let notice = attachment.receive_within(PATIENCE).unwrap().unwrap();
        assert_eq!((notice.kind, notice.generation, notice.result), (TableKind::POLICY, generation, result));
    }
    assert!(attachment.receive().unwrap().is_none());

    drop(attachment);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_dataplane_that_is_killed_closes_the_attachment() {
    let (_directory, path) = socket();
    let mut child = separate_dataplane(&path);
    let attachment = connect(&path);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(attachment.receive_within(PATIENCE), Err(AttachError::Closed)));
    // What it published stays readable: the memory lives as long as somebody maps it.
    assert_eq!(attachment.main_stats().unwrap().buffers, 12);
    // The path it left behind is taken over by the next one.
    let mut next = separate_dataplane(&path);
    drop(connect(&path));
    assert!(next.wait().unwrap().success());
}

/// Runs `step` on a dataplane of this process until `done`.
fn run(dataplane: &mut Dataplane, mut done: impl FnMut(&Dataplane) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(dataplane) {
        assert!(Instant::now() < deadline, "{:?}", dataplane.seen);
        dataplane.step();
        std::thread::yield_now();
    }
}

#[test]
fn one_control_plane_at_a_time_and_the_next_after_it() {
    let (_directory, path) = socket();
    let mut dataplane = Dataplane::new(&path);
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| connect(&path));
        run(&mut dataplane, |dataplane| dataplane.seen.attaches == 1);
        let second = scope.spawn(|| Attachment::connect(&path));
        run(&mut dataplane, |dataplane| dataplane.seen.refused == 1);
        (first.join().unwrap(), second.join().unwrap())
    });
    match second {
        Err(AttachError::Refused(AttachResult::BUSY)) => {}
        other => panic!("{other:?}"),
    }
    first.heartbeat(99);
    assert_eq!(dataplane.heartbeat(), Some(99));
    drop(first);
    std::thread::scope(|scope| {
        let third = scope.spawn(|| connect(&path));
        run(&mut dataplane, |dataplane| dataplane.seen.attaches == 2);
        third.join().unwrap()
    });
    assert_eq!((dataplane.seen.departures, dataplane.seen.violations), (1, 0));
}

#[test]
fn a_malformed_command_ends_the_attachment_with_its_reason() {
    let (_directory, path) = socket();
    let mut dataplane = Dataplane::new(&path);
    let mut attachment = std::thread::scope(|scope| {
        let attachment = scope.spawn(|| connect(&path));
        run(&mut dataplane, |dataplane| dataplane.seen.attaches == 1);
        attachment.join().unwrap()
    });
    attachment.command(WorkerId(0), Kind(77), &[0u8; 16]).unwrap();
    run(&mut dataplane, |dataplane| dataplane.seen.violations == 1);
    assert!(matches!(attachment.receive(), Err(AttachError::Detached(AttachResult::RING))));
    assert!(matches!(attachment.receive(), Err(AttachError::Closed)));
}

/// What `Attachment::attach` makes of a dataplane that answers HELLO with `answer`.
fn answered(answer: &Message) -> AttachError {
    let (control, dataplane) = Connection::pair().unwrap();
    dataplane.send(answer, &[]).unwrap();
    Attachment::attach(control).unwrap_err()
}

#[test]
fn wrong_answers_are_errors_that_say_what_to_do() {
    let welcome = Message { value: 1, ..Message::new(MessageKind::WELCOME) };
    let refused = |error| matches!(error, AttachError::Refused(AttachResult::VERSION));
    assert!(refused(answered(&Message { abi_version: ABI_VERSION + 1, ..welcome })));
    let result = AttachResult::VERSION;
    assert!(refused(answered(&Message { result, abi_version: 9, ..Message::new(MessageKind::REFUSED) })));
    for wrong in [
        welcome,
        Message { value: 0, ..welcome },
        Message { value: 65, ..welcome },
        Message { value: u64::MAX, ..welcome },
        Message::new(MessageKind::TABLE_DONE),
    ] {
        assert!(matches!(answered(&wrong), AttachError::Protocol(_)));
    }
    let (control, dataplane) = Connection::pair().unwrap();
    drop(dataplane);
    assert!(matches!(Attachment::attach(control), Err(AttachError::Closed | AttachError::Socket(_))));

    let (_directory, path) = socket();
    let error = Attachment::connect(&path).unwrap_err().to_string();
    assert!(error.contains("is turnpike-dataplane running"), "{error}");
    // A dataplane that was stopped before it looked at the HELLO.
    let listener = Listener::bind(&path, 0o600).unwrap();
    let connection = Connection::connect(&path, PATIENCE).unwrap();
    let (server, _) = listener.accept().unwrap().unwrap();
    assert!(matches!(server.receive(), Ok(Received::Nothing)));
    drop(server);
    assert!(Attachment::attach(connection).is_err());
}

#[test]
fn a_garbage_writing_peer_is_put_out_again_and_again() {
    let (_directory, path) = socket();
    let mut dataplane = Dataplane::new(&path);
    // Examples are built with the tests; their directory is beside that of the test programs.
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/garbage_peer");
    let deadline = Instant::now() + PATIENCE * 10;
    let mut said = String::new();
    // A slow machine gets through fewer kinds of garbage in a second: it goes on until each had its turn.
    for seed in 7.. {
        let mut peer = Command::new(&program)
            .args(["--seed", &seed.to_string()])
            .arg(&path)
            .arg("1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; cargo build --examples", program.display()));
        while peer.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{:?}; {said}", dataplane.seen);
            dataplane.step();
            std::thread::yield_now();
        }
        let output = peer.wait_with_output().unwrap();
        said += &String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        let seen = dataplane.seen;
        let kinds = [seen.attaches, seen.refused, seen.violations, seen.commands, seen.tables_refused];
        if kinds.iter().all(|&count| count > 0) {
            break;
        }
        assert!(Instant::now() < deadline, "some kind of garbage never came: {seen:?}; {said}");
    }
    assert!(said.contains("attaches"), "{said}");
    let seen = dataplane.seen;
    // And an honest one after it finds everything as it was.
    let attachment = std::thread::scope(|scope| {
        let attachment = scope.spawn(|| connect(&path));
        run(&mut dataplane, |dataplane| dataplane.seen.attaches == seen.attaches + 1);
        attachment.join().unwrap()
    });
    assert_eq!(attachment.main_stats().unwrap().buffers, 12);
}
