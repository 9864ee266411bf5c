//! State files: what one process writes another reads, whole or not at all, whatever lies there.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use turnpike_abi::counters::TcpState;
use turnpike_abi::flow::{
    CREATED_SHIFT, FlowCold, FlowRecord, FlowRow, StateHeader, StateLayout, Toward, flag,
};
use turnpike_abi::layout::MAGIC;
use turnpike_abi::{Address, WorkerId};
use turnpike_shm::memory::{HUGE, Memory};
use turnpike_shm::state::{Place, StateArrays, StateError, StateView};

const WORKER: WorkerId = WorkerId(3);
const V4: u32 = 65;
const V6: u32 = 9;

fn header() -> StateHeader {
    StateHeader { flows: V4, flows_v6: V6, worker: WORKER, workers: 4, ..StateHeader::default() }
}

fn layout() -> StateLayout {
    StateLayout { flows: V4 as usize, flows_v6: V6 as usize }
}

/// A state file: its arrays, and a descriptor to read it.
fn file() -> (StateArrays, OwnedFd) {
    let (mut memory, file) = Memory::nameless("test", layout().length(), false).unwrap();
    let arrays = StateArrays::new(header(), &mut memory).unwrap();
    assert_eq!(memory.used(), layout().length(), "the layout is what the arrays are cut to");
    (arrays, file.into())
}

/// The flow of generation `n` in a record: every field says so.
fn write(arrays: &mut StateArrays, place: usize, n: u32) {
    // As the engine does: what is cold first, while the record holds no flow.
    arrays.cold[place] = FlowCold { created: n, ..FlowCold::default() };
    let v6 = place.checked_sub(V4 as usize);
    let record = match v6 {
        None => &mut arrays.records[place],
        Some(at) => &mut arrays.records6[at].head,
    };
    record.open();
    record.bytes = [0; 2];
    record.packets = [0; 2];
    record.protocol = if n.is_multiple_of(2) { 6 } else { 17 };
    record.state = flag::LIVE | if n.is_multiple_of(3) { flag::TRANSLATED } else { 0 };
    let [a, b, c, d] = n.to_be_bytes();
    record.addresses = [a, b, c, d, a, b, c, d, a, b, c, d];
    record.ports = [c, d, c, d, c, d];
    if let Some(at) = v6 {
        let record = &mut arrays.records6[at];
        record.inside = wide(n);
        record.remote = wide(!n);
        record.head.close();
    } else {
        arrays.records[place].close();
    }
}

fn end(arrays: &mut StateArrays, place: usize) {
    let record = match place.checked_sub(V4 as usize) {
        None => &mut arrays.records[place],
        Some(at) => &mut arrays.records6[at].head,
    };
    record.open();
    record.mark(flag::LIVE, false);
    record.close();
}

fn wide(n: u32) -> [u8; 16] {
    std::array::from_fn(|at| n.to_ne_bytes()[at % 4])
}

/// What a reader is to see of generation `n`, whichever that is by the row's own word.
fn check(place: usize, row: &FlowRow) -> u32 {
    let n = (u64::MAX - row.age_ms) >> CREATED_SHIFT;
    let n = u32::try_from(n).unwrap();
    let [a, b, c, d] = n.to_be_bytes();
    let port = u16::from_be_bytes([c, d]);
    let v4 = Address::v4([a, b, c, d]);
    let [inside, remote, external] =
        if place < V4 as usize { [v4; 3] } else { [Address(wide(n)), Address(wide(!n)), Address(wide(n))] };
    assert_eq!((row.inside, row.remote, row.external), ((inside, port), (remote, port), (external, port)));
    assert_eq!(row.number as usize, place);
    assert_eq!((row.protocol == 6, row.translated), (n.is_multiple_of(2), n.is_multiple_of(3)), "{n}");
    assert_eq!(row.state, TcpState::None);
    n
}

#[test]
fn rows_are_what_was_written() {
    let (mut arrays, file) = file();
    let view = StateView::map(file, WORKER).unwrap();
    assert_eq!((view.places(), view.worker()), ((V4 + V6) as usize, WORKER));
    for place in 0..view.places() {
        assert_eq!(view.flow(place, 0), Place::Empty);
        write(&mut arrays, place, 1000 + place as u32);
    }
    for place in 0..view.places() {
        let Place::Flow(row) = view.flow(place, u64::MAX) else { panic!("{place}") };
        assert_eq!(check(place, &row), 1000 + place as u32);
    }
    assert_eq!(view.flow(view.places(), 0), Place::Outside);
    assert_eq!(view.flow(usize::MAX, 0), Place::Outside);
    for place in 0..view.places() {
        end(&mut arrays, place);
        assert_eq!(view.flow(place, 0), Place::Empty);
    }

    write(&mut arrays, 4, 1);
    let record = &mut arrays.records[4];
    record.count(Toward::Out, 100);
    record.count(Toward::In, 1500);
    record.count(Toward::In, 1500);
    record.stamp = 9_000;
    record.mark(flag::INBOUND, true);
    let Place::Flow(row) = view.flow(4, 10_000) else { panic!() };
    assert_eq!((row.packets, row.bytes, row.idle_ms, row.inbound), ([1, 2], [100, 3000], 1_000, true));
    assert_eq!(row.age_ms, 10_000 - 128);
    arrays.header[0].clock_base = 50_000;
    assert_eq!((view.clock_ms(60_000), view.clock_ms(1)), (10_000, 0));
}

/// A writer that stopped halfway, dead or interrupted, costs its record alone.
#[test]
fn a_record_that_is_open_is_left_out() {
    let (mut arrays, file) = file();
    let view = StateView::map(file, WORKER).unwrap();
    for place in [3, 4, 70] {
        write(&mut arrays, place, 5);
    }
    arrays.records[4].open();
    arrays.records6[70 - V4 as usize].head.open();
    let found = (0..view.places()).filter(|&place| matches!(view.flow(place, 0), Place::Flow(_)));
    assert_eq!(found.collect::<Vec<_>>(), [3]);
    arrays.records[4].close();
    assert!(matches!(view.flow(4, 0), Place::Flow(_)));
}

/// Records that are opened, closed, ended and used again as fast as a thread can, and a reader of all of them.
#[test]
fn no_row_is_a_mixture_of_two_flows() {
    const GENERATIONS: u32 = 400_000;
    let (mut arrays, file) = file();
    let view = StateView::map(file, WORKER).unwrap();
    // Few records, so that reader and writer meet.
    let places = [0, 1, V4 as usize - 1, V4 as usize, (V4 + V6) as usize - 1];
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=GENERATIONS {
                let place = places[n as usize % places.len()];
                // Every other time without an end between: both ways change who it is.
                if n.is_multiple_of(2) {
                    end(&mut arrays, place);
                    write(&mut arrays, place, n);
                } else {
                    end(&mut arrays, place);
                    write(&mut arrays, place, n.wrapping_mul(0x9e37_79b1) | 1);
                }
            }
            done.store(true, Ordering::Release);
        });
        let mut seen = 0u64;
        while !done.load(Ordering::Acquire) {
            for place in places {
                if let Place::Flow(row) = view.flow(place, u64::MAX) {
                    check(place, &row);
                    seen += 1;
                }
            }
        }
        seen
    });
    assert!(seen > 0, "the reader saw nothing");
    for place in places {
        assert!(matches!(view.flow(place, 0), Place::Flow(_)), "at rest every record is seen");
    }
}

/// A number that follows another, for bytes without a pattern.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn any_bytes_make_rows_or_none() {
    let (mut arrays, file) = file();
    let view = StateView::map(file, WORKER).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut flows = 0;
    for _ in 0..2_000 {
        let bytes: [u8; 64] = std::array::from_fn(|_| next(&mut state) as u8);
        let record: FlowRecord = zerocopy::FromBytes::read_from_bytes(&bytes).unwrap();
        let place = next(&mut state) as usize % view.places();
        arrays.cold[place].created = next(&mut state) as u32;
        arrays.header[0].clock_base = next(&mut state);
        match place.checked_sub(V4 as usize) {
            None => arrays.records[place] = record,
            Some(at) => arrays.records6[at].head = record,
        }
        for place in 0..=view.places() {
            flows += usize::from(matches!(view.flow(place, view.clock_ms(next(&mut state))), Place::Flow(_)));
        }
    }
    assert!(flows > 0);
}

#[test]
fn only_a_sound_state_file_is_mapped() {
    let of = |change: &dyn Fn(&mut StateHeader)| {
        let (mut arrays, file) = file();
        change(&mut arrays.header[0]);
        StateView::map(file, WORKER)
    };
    assert!(of(&|_| ()).is_ok());
    for (what, mapped) in [
        ("magic", of(&|header| header.magic = MAGIC ^ 1)),
        ("layout", of(&|header| header.layout_hash ^= 1)),
        ("version", of(&|header| header.abi_version += 1)),
        ("worker", of(&|header| header.worker = WorkerId(0))),
    ] {
        assert!(matches!(mapped, Err(StateError::Header)), "{what}");
    }
    let (v4, v6) = (of(&|header| header.flows = u32::MAX), of(&|header| header.flows_v6 = u32::MAX));
    for mapped in [v4, v6] {
        assert!(matches!(mapped, Err(StateError::Short { .. })), "more than the file has");
    }
    let (_, empty) = Memory::nameless("test", HUGE, false).unwrap();
    assert!(matches!(StateView::map(empty.into(), WORKER), Err(StateError::Header)), "not finished");
    let none: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    assert!(matches!(StateView::map(none, WORKER), Err(StateError::NotMemory)));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(StateView::map(socket.into(), WORKER), Err(StateError::NotMemory)));
    let memory = tempfile::TempDir::new_in("/dev/shm").unwrap();
    let path = memory.path().join("short");
    let short = std::fs::File::options().read(true).write(true).create_new(true).open(path).unwrap();
    short.set_len(100).unwrap();
    let error = StateView::map(short.into(), WORKER).unwrap_err();
    assert!(matches!(error, StateError::Short { actual: 100, .. }), "{error}");
    assert!(!error.to_string().is_empty());
}
