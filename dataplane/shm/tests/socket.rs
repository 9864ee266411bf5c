//! The socket: messages and descriptors, bounds, stale paths; and the dataplane's side of the handshake.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use turnpike_abi::attach::{AttachResult, Message, MessageKind};
use turnpike_abi::layout::rings;
use turnpike_abi::table::TableKind;
use turnpike_abi::{ABI_VERSION, MAX_WORKERS};
use turnpike_shm::attach::{Departure, Hello, Session, refuse, serve_hello};
use turnpike_shm::segment::{PeerSegment, Segment};
use turnpike_shm::socket::{Connection, Listener, MAX_DESCRIPTORS, Received, SocketError};
use turnpike_shm::statistics::Statistics;
use turnpike_shm::table::SealedTable;
use zerocopy::IntoBytes;

const WORKERS: usize = 2;

fn message(connection: &Connection) -> (Message, usize) {
    match connection.receive_within(Duration::from_secs(10)).unwrap() {
        Received::Message(message, descriptors) => (message, descriptors.len()),
        other => panic!("{other:?} instead of a message"),
    }
}

#[test]
fn messages_arrive_whole_with_their_descriptors() {
    let (left, right) = Connection::pair().unwrap();
    assert!(matches!(right.receive(), Ok(Received::Nothing)));
    let file = tempfile::tempfile().unwrap();
    let sent = Message { value: 42, ..Message::new(MessageKind::HELLO) };
    left.send(&sent, &[file.as_fd(), file.as_fd()]).unwrap();
    let Received::Message(message, descriptors) = right.receive().unwrap() else { panic!() };
    assert_eq!(message.as_bytes(), sent.as_bytes());
    assert_eq!(descriptors.len(), 2);
    for fd in descriptors.iter() {
        let flags = rustix::io::fcntl_getfd(fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    left.send(&sent, &[file.as_fd(); MAX_DESCRIPTORS]).unwrap();
    let Received::Message(_, descriptors) = right.receive().unwrap() else { panic!() };
    let ([_, _], mut others) = descriptors.split().unwrap();
    assert_eq!(others.len(), MAX_WORKERS, "a WELCOME of as many workers as there can be");
    assert!(others.take_first().is_some() && others.len() == MAX_WORKERS - 1);
    assert!(others.split::<MAX_WORKERS>().is_none());
    let more = [file.as_fd(); MAX_DESCRIPTORS + 1];
    assert!(matches!(left.send(&sent, &more), Err(SocketError::TooManyDescriptors)));
    drop(left);
    assert!(matches!(right.receive(), Ok(Received::Closed)));
    assert!(matches!(right.send(&sent, &[]), Err(SocketError::Io(_))));
}

#[test]
fn packets_of_another_size_are_refused() {
    let (left, right) = Connection::pair().unwrap();
    let bytes = [0u8; 2 * size_of::<Message>()];
    for length in [1, size_of::<Message>() - 1, size_of::<Message>() + 1, bytes.len()] {
        left.send_bytes(&bytes[..length], &[]).unwrap();
        assert!(matches!(right.receive(), Err(SocketError::Malformed(_))), "{length}");
    }
    left.send_bytes(&[], &[]).unwrap();
    assert!(matches!(right.receive(), Ok(Received::Closed)));
    // A peer that does not read is not waited for.
    let message = Message::new(MessageKind::HELLO);
    let full = (0..100_000).find_map(|_| left.send(&message, &[]).err());
    assert!(matches!(full, Some(SocketError::Full)));
}

#[test]
fn a_stale_path_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dataplane.sock");
    let listener = Listener::bind(&path, 0o600).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Listener::bind(&path, 0o600).unwrap_err().kind(), ErrorKind::AddrInUse);
    // The attempt above connected, to see whether somebody listens.
    while listener.accept().unwrap().is_some() {}

    let client = Connection::connect(&path, Duration::from_secs(1)).unwrap();
    let (server, credentials) = listener.accept().unwrap().unwrap();
    assert_eq!(credentials.pid as u32, std::process::id());
    assert_eq!(credentials.uid, rustix::process::geteuid().as_raw());
    assert_eq!(credentials.gid, rustix::process::getegid().as_raw());
    assert!(listener.accept().unwrap().is_none());
    client.send(&Message::new(MessageKind::HELLO), &[]).unwrap();
    assert_eq!(message(&server).0.kind, MessageKind::HELLO);

    // What a killed process leaves: a socket file that nobody listens on.
    let left_behind = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&left_behind).unwrap());
    assert_eq!(
        Connection::connect(&left_behind, Duration::from_secs(1)).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    let listener = Listener::bind(&left_behind, 0o666).unwrap();
    drop(listener);
    assert!(!left_behind.exists());

    std::fs::write(directory.path().join("file"), "x").unwrap();
    let error = Listener::bind(&directory.path().join("file"), 0o600).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

/// Says `hello` with a segment and returns the answer and what the dataplane made of it.
fn try_hello(hello: &Message, descriptors: &[BorrowedFd<'_>]) -> (Message, Hello) {
    let statistics = Statistics::create(WORKERS).unwrap();
    let (control, dataplane) = Connection::pair().unwrap();
    control.send(hello, descriptors).unwrap();
    let outcome = serve_hello(dataplane, &statistics, &[]);
    let (answer, _) = message(&control);
    if matches!(outcome, Hello::Refused(_)) {
        assert!(matches!(control.receive(), Ok(Received::Closed)), "a refusal ends the connection");
    }
    (answer, outcome)
}

#[test]
fn each_wrong_hello_is_refused_with_its_reason() {
    let length = rings::length(WORKERS);
    let good = Message { value: length as u64, ..Message::new(MessageKind::HELLO) };
    let segment = Segment::create("test", length).unwrap();
    let larger = Segment::create("test", rings::length(MAX_WORKERS)).unwrap();
    let smaller = Segment::create("test", rings::length(WORKERS - 1)).unwrap();
    let table = SealedTable::write(length, |_| ()).unwrap();
    let file = File::open("/dev/null").unwrap();
    let (fd, none): (&[BorrowedFd<'_>], &[BorrowedFd<'_>]) = (&[segment.fd()], &[]);

    let (answer, outcome) = try_hello(&good, fd);
    assert_eq!((answer.kind, answer.value), (MessageKind::WELCOME, WORKERS as u64));
    let Hello::Attached(_, links) = outcome else { panic!("{outcome:?}") };
    assert_eq!(links.len(), WORKERS);
    let value = larger.length() as u64;
    assert!(matches!(try_hello(&Message { value, ..good }, &[larger.fd()]).1, Hello::Attached(..)));

    let cases: [(&str, Message, &[BorrowedFd<'_>], AttachResult); 13] = [
        ("magic", Message { magic: 1, ..good }, fd, AttachResult::PROTOCOL),
        ("version", Message { abi_version: ABI_VERSION + 1, ..good }, fd, AttachResult::VERSION),
        ("layout", Message { layout_hash: 0, ..good }, fd, AttachResult::LAYOUT),
        ("kind", Message { kind: MessageKind::TABLE, ..good }, fd, AttachResult::PROTOCOL),
        ("unknown kind", Message { kind: MessageKind(99), ..good }, fd, AttachResult::PROTOCOL),
        ("no descriptor", good, none, AttachResult::SEGMENT),
        ("two descriptors", good, &[segment.fd(), segment.fd()], AttachResult::SEGMENT),
        ("smaller", good, &[smaller.fd()], AttachResult::SEGMENT),
        (
            "smaller, and says so",
            Message { value: smaller.length() as u64, ..good },
            &[smaller.fd()],
            AttachResult::SEGMENT,
        ),
        ("larger than it says", good, &[larger.fd()], AttachResult::SEGMENT),
        ("beyond all bounds", Message { value: u64::MAX, ..good }, fd, AttachResult::SEGMENT),
        ("other seals", good, &[table.fd()], AttachResult::SEGMENT),
        ("no memfd", good, &[file.as_fd()], AttachResult::SEGMENT),
    ];
    for (name, hello, descriptors, expected) in cases {
        let (answer, outcome) = try_hello(&hello, descriptors);
        assert_eq!((answer.kind, answer.result), (MessageKind::REFUSED, expected), "{name}");
        let Hello::Refused(error) = outcome else { panic!("{name}: {outcome:?}") };
        assert_eq!(error.result(), expected, "{name}");
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn a_silent_or_gone_peer_is_not_waited_for() {
    let statistics = Statistics::create(WORKERS).unwrap();
    let (control, dataplane) = Connection::pair().unwrap();
    let Hello::Waiting(dataplane) = serve_hello(dataplane, &statistics, &[]) else { panic!() };
    drop(control);
    assert!(matches!(serve_hello(dataplane, &statistics, &[]), Hello::Refused(_)));

    let (control, dataplane) = Connection::pair().unwrap();
    control.send_bytes(b"short", &[]).unwrap();
    assert!(matches!(serve_hello(dataplane, &statistics, &[]), Hello::Refused(_)));
    assert_eq!(message(&control).0.result, AttachResult::PROTOCOL);

    // Refused before its HELLO was read, a peer still learns why.
    let (control, dataplane) = Connection::pair().unwrap();
    control.send(&Message::new(MessageKind::HELLO), &[]).unwrap();
    refuse(dataplane, AttachResult::BUSY);
    let (answer, _) = message(&control);
    assert_eq!((answer.kind, answer.result), (MessageKind::REFUSED, AttachResult::BUSY));
    assert!(matches!(control.receive(), Ok(Received::Closed)));
}

fn attached() -> (Connection, Session, Segment) {
    let statistics = Statistics::create(WORKERS).unwrap();
    let (control, dataplane) = Connection::pair().unwrap();
    let segment = Segment::create("test", rings::length(WORKERS)).unwrap();
    let hello = Message { value: segment.length() as u64, ..Message::new(MessageKind::HELLO) };
    control.send(&hello, &[segment.fd()]).unwrap();
    let Hello::Attached(session, _) = serve_hello(dataplane, &statistics, &[]) else { panic!() };
    let Received::Message(answer, descriptors) = control.receive().unwrap() else { panic!() };
    assert_eq!(answer.kind, MessageKind::WELCOME);
    let [statistics_fd, events] = <[_; 2]>::try_from(descriptors).unwrap();
    assert!(PeerSegment::map(statistics_fd, statistics.segment().length()).is_ok());
    assert!(PeerSegment::map(events, rings::length(WORKERS)).is_ok());
    (control, session, segment)
}

#[test]
fn a_session_takes_tables_and_answers() {
    let (control, session, segment) = attached();
    assert!(matches!(session.poll(), Ok(None)));
    assert_eq!(session.heartbeat(), 0);
    segment.poke(rings::HEARTBEAT, 77).unwrap();
    assert_eq!(session.heartbeat(), 77);

    let table = SealedTable::create(b"a table of any bytes").unwrap();
    let offer = Message {
        table: TableKind::POLICY.0,
        generation: 3,
        value: table.len() as u64,
        ..Message::new(MessageKind::TABLE)
    };
    control.send(&offer, &[table.fd()]).unwrap();
    let received = session.poll().unwrap().unwrap();
    assert_eq!((received.kind, received.generation), (TableKind::POLICY, 3));
    assert_eq!(&*received.table.unwrap(), b"a table of any bytes");
    session.answer(received.kind, received.generation, AttachResult::TABLE, 56).unwrap();
    let (answer, _) = message(&control);
    assert_eq!(answer.kind, MessageKind::TABLE_DONE);
    assert_eq!((answer.result, answer.generation, answer.value), (AttachResult::TABLE, 3, 56));

    // A descriptor that could change is no table; what becomes of it is the dataplane's to say.
    control.send(&offer, &[segment.fd()]).unwrap();
    assert!(session.poll().unwrap().unwrap().table.is_err());

    session.detach(AttachResult::RING);
    let (answer, _) = message(&control);
    assert_eq!((answer.kind, answer.result), (MessageKind::DETACHED, AttachResult::RING));
    assert!(matches!(control.receive(), Ok(Received::Closed)));
}

#[test]
fn a_session_ends_with_the_first_breach_of_protocol() {
    let table = Message { value: 4096, ..Message::new(MessageKind::TABLE) };
    let breaches: [(&str, Message, AttachResult); 5] = [
        ("no descriptor", table, AttachResult::PROTOCOL),
        ("a second HELLO", Message::new(MessageKind::HELLO), AttachResult::PROTOCOL),
        ("an answer", Message::new(MessageKind::TABLE_DONE), AttachResult::PROTOCOL),
        ("magic", Message { magic: 0, ..table }, AttachResult::PROTOCOL),
        ("version", Message { abi_version: 0, ..table }, AttachResult::VERSION),
    ];
    for (name, breach, expected) in breaches {
        let (control, session, _segment) = attached();
        control.send(&breach, &[]).unwrap();
        match session.poll() {
            Err(Departure::Violation(result)) => assert_eq!(result, expected, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let (control, session, _segment) = attached();
    control.send_bytes(&[0; 7], &[]).unwrap();
    assert!(matches!(session.poll(), Err(Departure::Violation(AttachResult::PROTOCOL))));
    let (control, session, _segment) = attached();
    assert!(session.as_fd().as_raw_fd() >= 0);
    drop(control);
    assert!(matches!(session.poll(), Err(Departure::Closed)));
}

#[test]
fn descriptors_of_refused_messages_are_closed() {
    let (left, right) = Connection::pair().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    // Two descriptors beside a packet that is too short.
    left.send_bytes(b"short", &[writer.as_fd(), writer.as_fd()]).unwrap();
    assert!(matches!(right.receive(), Err(SocketError::Malformed(_))));
    drop(writer);
    // If one of them were still open, the pipe would not be at its end.
    let mut byte = [0];
    assert_eq!(rustix::io::read(&reader, &mut byte).unwrap(), 0);
}

#[test]
fn more_descriptors_than_allowed_are_refused_and_closed() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let (left, right) = Connection::pair().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let fds = [writer.as_fd(); MAX_DESCRIPTORS + 1];
    let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let message = Message::new(MessageKind::HELLO);
    let parts = [std::io::IoSlice::new(message.as_bytes())];
    sendmsg(left.as_fd(), &parts, &mut control, SendFlags::empty()).unwrap();
    assert!(matches!(right.receive(), Err(SocketError::Malformed(_))));
    drop(writer);
    let mut byte = [0];
    assert_eq!(rustix::io::read(&reader, &mut byte).unwrap(), 0);
}

/// A TCP socket that lingers as long as its peer does not read: to close the last descriptor of it waits.
fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut left = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (right, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&left, Some(Duration::from_secs(60))).unwrap();
    left.set_nonblocking(true).unwrap();
    while left.write(&[0; 65536]).is_ok() {}
    (left, right)
}

#[test]
fn descriptors_whose_close_waits_hold_nobody_up() {
    let begin = std::time::Instant::now();
    let hello = Message { value: 4096, ..Message::new(MessageKind::HELLO) };
    let mut others = Vec::new();
    let mut send = |left: &Connection, count: usize| {
        for _ in 0..count {
            let (socket, other) = lingering();
            left.send(&hello, &[socket.as_fd()]).unwrap();
            others.push(other);
        }
    };
    // Dropped with its message, refused as a segment and as a table, and never read at all.
    let (left, right) = Connection::pair().unwrap();
    send(&left, 4);
    drop(right.receive().unwrap());
    for map in [|fd| PeerSegment::map(fd, 4096).is_err(), |fd| SealedTable::map(fd, 4096).is_err()] {
        let Received::Message(_, descriptors) = right.receive().unwrap() else { panic!() };
        let [fd] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        assert!(map(fd));
    }
    drop(right);
    assert!(matches!(left.send(&hello, &[]), Err(SocketError::Io(_))), "the end shows at once");
    assert!(begin.elapsed() < Duration::from_secs(30));
}
