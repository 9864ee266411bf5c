//! The rings of a worker between two pairs of mappings, against an oracle, between threads, and with a
//! peer that writes whatever it likes.

use proptest::prelude::*;
use std::collections::VecDeque;
use turnpike_abi::WorkerId;
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::layout::{RING_SLOTS, rings};
use turnpike_shm::link::{ControlLink, WorkerLink};
use turnpike_shm::ring::{Broken, PushError};
use turnpike_shm::segment::{PeerSegment, Segment};

const WORKERS: usize = 2;

fn segment() -> Segment {
    Segment::create("test", rings::length(WORKERS)).unwrap()
}

fn peer_of(segment: &Segment) -> PeerSegment {
    PeerSegment::map(segment.fd().try_clone_to_owned().unwrap(), segment.length()).unwrap()
}

/// Both ends of one worker's rings, and the control plane's segment.
fn links(worker: u8) -> (WorkerLink, ControlLink, Segment) {
    let (events, commands) = (segment(), segment());
    let worker_link = WorkerLink::new(&events, &peer_of(&commands), WorkerId(worker)).unwrap();
    let control_link = ControlLink::new(&commands, &peer_of(&events), WorkerId(worker)).unwrap();
    (worker_link, control_link, commands)
}

fn slot(number: u64) -> Slot {
    Slot::new(Kind(number as u32), number, &[number; 22])
}

#[test]
fn a_segment_without_the_workers_part_makes_no_link() {
    let (events, commands) = (segment(), segment());
    assert!(WorkerLink::new(&events, &peer_of(&commands), WorkerId(WORKERS as u8)).is_err());
    assert!(ControlLink::new(&commands, &peer_of(&events), WorkerId(u8::MAX)).is_err());
}

#[test]
fn a_full_ring_takes_nothing_and_loses_nothing() {
    let (mut worker, mut control, _) = links(1);
    for number in 0..RING_SLOTS as u64 {
        assert_eq!(control.free(), Ok(RING_SLOTS - number as usize));
        control.send(&slot(number)).unwrap();
    }
    assert_eq!(control.send(&slot(9999)), Err(PushError::Full));
    assert_eq!(worker.has_room(RING_SLOTS), Ok(true));
    assert_eq!(worker.has_room(RING_SLOTS + 1), Ok(false));
    assert_eq!(worker.has_command(), Ok(true));
    for number in 0..RING_SLOTS as u64 {
        assert_eq!(worker.command(), Ok(Some(slot(number))));
    }
    assert_eq!(worker.command(), Ok(None));
    assert_eq!(control.free(), Ok(RING_SLOTS));
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Send(usize),
    Take(usize),
    Free,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1..600usize).prop_map(Op::Send),
        3 => (1..600usize).prop_map(Op::Take),
        1 => Just(Op::Free),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_bounded_queue(ops in proptest::collection::vec(op(), 0..40)) {
        let (mut worker, mut control, _) = links(0);
        let mut oracle = VecDeque::new();
        let mut next = 0;
        for op in ops {
            match op {
                Op::Send(count) => for _ in 0..count {
                    let full = oracle.len() == RING_SLOTS;
                    prop_assert_eq!(worker.send(&slot(next)), if full { Err(PushError::Full) } else { Ok(()) });
                    if !full {
                        oracle.push_back(next);
                    }
                    next += 1;
                },
                Op::Take(count) => for _ in 0..count {
                    prop_assert_eq!(control.event(), Ok(oracle.pop_front().map(slot)));
                },
                Op::Free => {
                    let free = RING_SLOTS - oracle.len();
                    prop_assert_eq!(worker.has_room(free), Ok(true));
                    prop_assert_eq!(worker.has_room(free + 1), Ok(false));
                }
            }
        }
    }

    /// The worker's end while the control plane writes any word anywhere: each call ends, in a slot, in
    /// nothing or in `Broken`; and what is broken stays broken.
    #[test]
    fn garbage_in_the_peers_segment_ends_in_broken(
        writes in proptest::collection::vec(
            (0..8usize, prop_oneof![any::<u64>(), 0..3000u64, (0..3000u64).prop_map(u64::wrapping_neg)]),
            1..60,
        ),
        place in 0..rings::STRIDE / 8,
    ) {
        let (mut worker, _control, commands) = links(0);
        // What an honest ring would say at most: the bounds that the indices are held to.
        let (mut taken, mut sent) = (0u64, 0u64);
        let (mut command_broken, mut event_broken) = (false, false);
        for (what, value) in writes {
            let offset = match what {
                0..=2 => rings::TAIL,
                3..=5 => rings::HEAD,
                _ => place * 8,
            };
            commands.poke(rings::WORKERS + offset, value).unwrap();
            for _ in 0..RING_SLOTS + 1 {
                match worker.command() {
                    Ok(Some(_)) => {
                        prop_assert!(!command_broken);
                        taken += 1;
                    }
                    Ok(None) => {
                        prop_assert!(!command_broken);
                        break;
                    }
                    Err(Broken) => {
                        command_broken = true;
                        break;
                    }
                }
            }
            prop_assert!(taken <= 60 * (RING_SLOTS as u64 + 1));
            match worker.send(&slot(sent)) {
                Ok(()) => {
                    prop_assert!(!event_broken);
                    sent += 1;
                }
                Err(PushError::Full) => prop_assert!(!event_broken),
                Err(PushError::Broken) => event_broken = true,
            }
            event_broken |= worker.has_room(RING_SLOTS).is_err();
        }
    }
}

#[test]
fn each_impossible_index_breaks_its_ring() {
    let part = rings::WORKERS;
    let slots = RING_SLOTS as u64;
    // (the command tail before, taken up to there, the tail after)
    for (before, after) in [(0, slots + 1), (0, u64::MAX), (5, 4), (5, 0), (5, 5 + slots + 1), (5, 1 << 63)] {
        let (mut worker, _control, commands) = links(0);
        commands.poke(part + rings::TAIL, before).unwrap();
        for _ in 0..before {
            assert!(worker.command().unwrap().is_some());
        }
        assert_eq!(worker.command(), Ok(None));
        commands.poke(part + rings::TAIL, after).unwrap();
        assert_eq!(worker.has_command(), Err(Broken), "tail {before} then {after}");
        commands.poke(part + rings::TAIL, before).unwrap();
        assert_eq!(worker.command(), Err(Broken), "a ring once broken stays so");
    }
    // The event head, with three events sent: it may be 0 to 3 and may not go back.
    for (before, after) in [(0, 4), (0, u64::MAX), (2, 1), (3, 2), (0, slots), (0, 1 << 63)] {
        let (mut worker, _control, commands) = links(0);
        for number in 0..3 {
            worker.send(&slot(number)).unwrap();
        }
        commands.poke(part + rings::HEAD, before).unwrap();
        assert_eq!(worker.has_room(RING_SLOTS), Ok(before == 3));
        commands.poke(part + rings::HEAD, after).unwrap();
        assert_eq!(worker.has_room(RING_SLOTS + 1), Err(Broken), "head {before} then {after}");
        commands.poke(part + rings::HEAD, before).unwrap();
        assert_eq!(worker.send(&slot(3)), Err(PushError::Broken), "a ring once broken stays so");
    }
}

#[test]
fn two_threads_pass_every_slot_once_and_whole_in_both_directions() {
    const SLOTS: u64 = 30_000;
    let (mut worker, mut control, _) = links(1);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            // Echoes each command as an event, and takes one only when its answer has room.
            let mut echoed = 0;
            while echoed < SLOTS {
                if worker.has_room(1).unwrap()
                    && let Some(command) = worker.command().unwrap()
                {
                    worker.send(&command).unwrap();
                    echoed += 1;
                } else {
                    std::thread::yield_now();
                }
            }
        });
        let (mut sent, mut received) = (0, 0);
        while received < SLOTS {
            while sent < SLOTS && control.send(&slot(sent)).is_ok() {
                sent += 1;
            }
            match control.event().unwrap() {
                Some(event) => {
                    assert_eq!(event, slot(received));
                    received += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        assert_eq!(control.event(), Ok(None));
        echo.join().unwrap();
    });
}
