//! Segments, tables and pages between two mappings of one memfd.

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, ftruncate,
    memfd_create,
};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use turnpike_abi::counters::{Counter, Counters, region};
use turnpike_abi::layout::{LINE, stats};
use turnpike_abi::stats::{Identity, InterfaceInfo, MainStats, PortStats, field};
use turnpike_abi::table::MAX_TABLE;
use turnpike_abi::{InterfaceId, MAX_INTERFACES, MAX_PORTS, PortId, WorkerId};
use turnpike_shm::segment::{OutOfBounds, PeerSegment, Segment, SegmentError};
use turnpike_shm::statistics::{RuleHits, Statistics, StatisticsView};
use turnpike_shm::table::SealedTable;

const LENGTH: usize = 8192;

fn peer_of(segment: &Segment) -> PeerSegment {
    PeerSegment::map(segment.fd().try_clone_to_owned().unwrap(), segment.length()).unwrap()
}

fn memfd(length: u64, allocated: bool, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, length).unwrap();
    if allocated && length > 0 {
        fallocate(&fd, FallocateFlags::empty(), 0, length).unwrap();
    }
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn a_segment_cannot_be_changed_by_anybody_who_has_its_descriptor() {
    let segment = Segment::create("test", LENGTH).unwrap();
    let file = File::from(segment.fd().try_clone_to_owned().unwrap());
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.set_len(0).is_err());
    assert!(file.set_len(2 * LENGTH as u64).is_err());
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert!(fallocate(&file, punch, 0, 4096).is_err());
    assert!(fcntl_get_seals(&file).unwrap().contains(SealFlags::FUTURE_WRITE | SealFlags::SEAL));
}

#[test]
fn the_peer_sees_what_the_owner_writes() {
    let segment = Segment::create("test", LENGTH).unwrap();
    let peer = peer_of(&segment);
    assert_eq!(peer.load(0), Some(0));
    segment.poke(LENGTH - 8, 7).unwrap();
    assert_eq!(peer.load(LENGTH - 8), Some(7));
    for outside in [LENGTH, LENGTH - 4, 4, usize::MAX, usize::MAX - 7] {
        assert_eq!(segment.poke(outside, 1), Err(OutOfBounds));
        assert_eq!(peer.load(outside), None);
        assert!(peer.read::<[u64; 2]>(outside).is_none());
    }
    segment.write(64, &[1u64, 2, 3]).unwrap();
    assert_eq!(peer.read::<[u64; 3]>(64), Some([1, 2, 3]));
    assert_eq!(segment.write(LENGTH - 16, &[1u64, 2, 3]), Err(OutOfBounds));
}

#[test]
fn a_segment_that_is_not_sealed_or_whole_is_refused() {
    let needed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
    assert!(PeerSegment::map(memfd(8192, true, needed), LENGTH).is_ok());
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE] {
        let fd = memfd(8192, true, needed.difference(missing));
        assert!(matches!(PeerSegment::map(fd, LENGTH), Err(SegmentError::Unsealed)), "{missing:?}");
    }
    for length in [0, 4096, 8191, 8193, 12288] {
        let Err(SegmentError::Length { expected: 8192, actual }) =
            PeerSegment::map(memfd(length, true, needed), LENGTH)
        else {
            panic!("{length} bytes were taken for {LENGTH}");
        };
        assert_eq!(actual, length);
    }
    assert!(matches!(PeerSegment::map(memfd(8192, false, needed), LENGTH), Err(SegmentError::Sparse)));
}

#[test]
fn what_is_no_memfd_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(LENGTH as u64).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let directory = File::open("/").unwrap();
    for fd in [OwnedFd::from(file), pipe.into(), null.into(), socket.into(), directory.into()] {
        match PeerSegment::map(fd.try_clone().unwrap(), LENGTH) {
            // A file on a tmpfs has seals, but not these.
            Err(SegmentError::NotMemfd | SegmentError::Unsealed) => {}
            other => panic!("{other:?}"),
        }
        assert!(SealedTable::map(fd, LENGTH as u64).is_err());
    }
}

#[test]
fn a_memfd_of_huge_pages_is_refused() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    // A kernel without huge pages cannot make one, and has nothing to refuse.
    let Ok(fd) = memfd_create("test", flags) else { return };
    let length = 2 << 20;
    ftruncate(&fd, length).unwrap();
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE).unwrap();
    assert!(matches!(PeerSegment::map(fd, length as usize), Err(SegmentError::NotMemfd)));
}

#[test]
fn a_table_arrives_as_it_was_sent_and_cannot_be_changed() {
    let bytes: Vec<u8> = (0..10_001u32).map(|n| n as u8).collect();
    let table = SealedTable::create(&bytes).unwrap();
    assert_eq!(&*table, &bytes[..]);
    let received = SealedTable::map(table.fd().try_clone_to_owned().unwrap(), bytes.len() as u64).unwrap();
    assert_eq!(&*received, &bytes[..]);
    assert_eq!(received.as_ptr().align_offset(8), 0);
    let file = File::from(table.fd().try_clone_to_owned().unwrap());
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.set_len(0).is_err());
    drop(table);
    assert_eq!(&*received, &bytes[..]);
}

#[test]
fn a_table_that_could_change_or_has_another_length_is_refused() {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    assert!(SealedTable::map(memfd(100, true, all), 100).is_ok());
    // The last seal keeps others from being added: it is given last in each case.
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE, SealFlags::SEAL] {
        let fd = memfd(100, true, all.difference(missing));
        assert!(matches!(SealedTable::map(fd, 100), Err(SegmentError::Unsealed)), "{missing:?}");
    }
    for (actual, said) in [(100, 101), (100, 99), (100, 0), (0, 0), (0, 1), (100, u64::MAX)] {
        let refused = SealedTable::map(memfd(actual, true, all), said);
        assert!(matches!(refused, Err(SegmentError::Length { .. })), "{actual} {said}: {refused:?}");
    }
    let beyond = MAX_TABLE as u64 + 1;
    assert!(matches!(SealedTable::map(memfd(beyond, false, all), beyond), Err(SegmentError::Length { .. })));
    assert!(matches!(SealedTable::map(memfd(1 << 20, false, all), 1 << 20), Err(SegmentError::Sparse)));
    assert!(SealedTable::create(&[]).is_err());
    assert!(SealedTable::write(MAX_TABLE + 1, |_| ()).is_err());
}

#[test]
fn pages_carry_every_statistic() {
    let statistics = Statistics::create(3).unwrap();
    let fd = || statistics.segment().fd().try_clone_to_owned().unwrap();
    let view = StatisticsView::map(fd(), 3).unwrap();
    assert!(view.identity().is_none(), "nothing was published");
    assert!(view.interfaces().is_empty());
    let identity =
        Identity { pid: 7, workers: 3, interfaces: 2, version: field("1.2.3"), ..Identity::default() };
    statistics.identify(identity).unwrap();
    for id in 0..2 {
        let name = field(&format!("interface {id}"));
        statistics
            .describe(&InterfaceInfo { name, id: InterfaceId(id), mtu: 1500, ..InterfaceInfo::default() })
            .unwrap();
    }
    let beyond = InterfaceInfo { id: InterfaceId(MAX_INTERFACES as u16), ..InterfaceInfo::default() };
    assert_eq!(statistics.describe(&beyond), Err(OutOfBounds));
    assert_eq!(view.identity().unwrap().pid, 7);
    let names: Vec<_> =
        view.interfaces().iter().map(|i| turnpike_abi::stats::text(&i.name).to_owned()).collect();
    assert_eq!(names, ["interface 0", "interface 1"]);

    let mut main = statistics.main().unwrap();
    assert_eq!(view.main(), Some(MainStats::default()));
    main.publish(&MainStats { buffers: 16384, heartbeat_ms: 5, ..MainStats::default() });
    assert_eq!(view.main().unwrap().buffers, 16384);

    for port in [0, MAX_PORTS as u16 - 1] {
        let mut page = statistics.port(PortId(port)).unwrap();
        page.publish(&PortStats { rx_packets: u64::from(port) + 1, ..PortStats::default() });
        assert_eq!(view.port(PortId(port)).unwrap().rx_packets, u64::from(port) + 1);
    }
    assert!(statistics.port(PortId(MAX_PORTS as u16)).is_err());
    assert!(view.port(PortId(MAX_PORTS as u16)).is_none());

    let mut counters = Counters::default();
    for worker in 0..3u8 {
        counters.add(Counter::Received, 10);
        statistics.worker(WorkerId(worker)).unwrap().publish(counters.words());
        assert_eq!(view.worker(WorkerId(worker)), Some(counters.clone()));
    }
    assert!(statistics.worker(WorkerId(3)).is_err());
    let mut hits = statistics.hits(WorkerId(2)).unwrap();
    hits.publish_first(&[9, 3, 10, 20, 30]);
    assert_eq!(view.hits(WorkerId(2)).unwrap(), RuleHits { generation: 9, hits: vec![10, 20, 30] });
    // Fewer rules: what lies behind them is not shown. A number of rules that cannot be shows what there is.
    hits.publish_first(&[10, 1, 5]);
    assert_eq!(view.hits(WorkerId(2)).unwrap().hits, [5]);
    hits.publish_first(&[11, u64::MAX]);
    assert_eq!(view.hits(WorkerId(2)).unwrap().hits.len(), stats::HITS - 2);
    assert_eq!(view.hits(WorkerId(1)), Some(RuleHits::default()));
    assert!(statistics.hits(WorkerId(3)).is_err() && view.hits(WorkerId(3)).is_none());
    assert!(view.worker(WorkerId(3)).is_none());
    assert!(StatisticsView::map(fd(), 2).is_err());
    assert!(StatisticsView::map(fd(), usize::MAX).is_err());
}

#[test]
fn a_writer_that_died_halfway_or_lies_gives_no_value() {
    let segment = Segment::create("test", LENGTH).unwrap();
    let page = peer_of(&segment).page::<[u64; 4]>(0).unwrap();
    segment.poke(0, 3).unwrap();
    assert_eq!(page.read(), None);
    segment.poke(0, 4).unwrap();
    segment.poke(LINE, 9).unwrap();
    assert_eq!(page.read(), Some([9, 0, 0, 0]));
    assert!(peer_of(&segment).page::<[u64; 4]>(LENGTH - 64).is_err());
    assert!(segment.page::<[u64; 4]>(LENGTH - 64).is_err());
}

#[test]
fn a_page_read_while_it_is_written_is_never_mixed() {
    let statistics = Statistics::create(1).unwrap();
    let view = StatisticsView::map(statistics.segment().fd().try_clone_to_owned().unwrap(), 1).unwrap();
    let mut page = statistics.worker(WorkerId(0)).unwrap();
    let (stop, readings) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut last, mut values, mut mixed) = (0, 0, false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // One publication for each reading, somewhere in the middle of it.
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                let reading = readings.load(Ordering::Relaxed);
                if reading > round {
                    page.publish(&[reading; region::WORDS]);
                    round = reading;
                } else {
                    std::thread::yield_now();
                }
            }
        });
        // Nothing panics in here: the writer would never stop.
        let deadline = Instant::now() + Duration::from_secs(10);
        while values < 200 && !mixed && Instant::now() < deadline {
            readings.fetch_add(1, Ordering::Relaxed);
            let Some(counters) = view.worker(WorkerId(0)) else { continue };
            let words = counters.words();
            mixed = words.iter().any(|word| *word != words[0]) || words[0] < last;
            values += u64::from(words[0] > last);
            last = words[0];
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    assert!(!mixed, "half of one value and half of another, or an older one after a newer");
    assert_eq!(values, 200, "the reader starved");
    assert_eq!(stats::length(1), statistics.segment().length());
    assert!(statistics.segment().as_fd().try_clone_to_owned().is_ok());
}
