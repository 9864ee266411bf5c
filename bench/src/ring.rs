//! The rings: between the processes (slots in sealed memory) and between threads of one (packets that cross).

use crate::clock::{hz, ticks};
use crate::machine;
use crate::report::{Cell, Report, Table};
use crate::spread::Spread;
use std::os::fd::AsFd;
use std::thread;
use turnpike_abi::WorkerId;
use turnpike_abi::command::{Kind, Slot};
use turnpike_abi::layout;
use turnpike_shm::link::{ControlLink, WorkerLink};
use turnpike_shm::segment::{PeerSegment, Segment};
use turnpike_shm::spsc;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Messages one way, and half as many round trips divided by ten.
    #[arg(long, default_value_t = 4_000_000)]
    pub messages: u64,
}

/// Messages between two readings of the time.
const BATCH: u64 = 1024;

/// One end of a ring in each direction.
trait Channel: Send {
    fn send(&mut self, number: u64) -> bool;
    fn receive(&mut self) -> Option<u64>;
}

struct Threads {
    to: spsc::Sender<u64>,
    from: spsc::Receiver<u64>,
}

impl Channel for Threads {
    fn send(&mut self, number: u64) -> bool {
        self.to.push(number).is_ok()
    }

    fn receive(&mut self) -> Option<u64> {
        self.from.pop()
    }
}

impl Channel for ControlLink {
    fn send(&mut self, number: u64) -> bool {
        ControlLink::send(self, &Slot::new(Kind(1), number, &[number; 4])).is_ok()
    }

    fn receive(&mut self) -> Option<u64> {
        self.event().ok().flatten().map(|slot| slot.header.sequence)
    }
}

impl Channel for WorkerLink {
    fn send(&mut self, number: u64) -> bool {
        WorkerLink::send(self, &Slot::new(Kind(1), number, &[number; 4])).is_ok()
    }

    fn receive(&mut self) -> Option<u64> {
        self.command().ok().flatten().map(|slot| slot.header.sequence)
    }
}

fn processes() -> Result<(ControlLink, WorkerLink), String> {
    let failed = |error: &dyn core::fmt::Display| format!("cannot make the rings' memory: {error}");
    let length = layout::rings::length(1);
    let commands = Segment::create("bench-commands", length).map_err(|error| failed(&error))?;
    let events = Segment::create("bench-events", length).map_err(|error| failed(&error))?;
    let peer = |segment: &Segment| -> Result<PeerSegment, String> {
        let fd = segment.as_fd().try_clone_to_owned().map_err(|error| failed(&error))?;
        PeerSegment::map(fd, length).map_err(|error| failed(&error))
    };
    let control =
        ControlLink::new(&commands, &peer(&events)?, WorkerId(0)).map_err(|error| failed(&error))?;
    let worker = WorkerLink::new(&events, &peer(&commands)?, WorkerId(0)).map_err(|error| failed(&error))?;
    Ok((control, worker))
}

fn threads() -> (Threads, Threads) {
    let (to_b, from_a) = spsc::channel(1024);
    let (to_a, from_b) = spsc::channel(1024);
    (Threads { to: to_b, from: from_b }, Threads { to: to_a, from: from_a })
}

/// Ticks a message one way, and ticks a round trip.
fn measure(
    mut near: impl Channel,
    mut far: impl Channel,
    cpus: &[usize],
    messages: u64,
) -> Result<(Spread, Spread), String> {
    let trips = messages / 20;
    thread::scope(|scope| {
        let receiver = scope.spawn(move || -> Result<Spread, String> {
            machine::pin(cpus, 1)?;
            let mut spread = Spread::with_capacity((messages / BATCH) as usize + 1);
            let mut from = ticks();
            let mut next = 0;
            while next < messages {
                let Some(number) = far.receive() else {
                    std::hint::spin_loop();
                    continue;
                };
                if number != next {
                    return Err(format!("message {next} arrived as {number}"));
                }
                next += 1;
                if next % BATCH == 0 {
                    let now = ticks();
                    spread.add(now - from, BATCH as usize);
                    from = now;
                }
            }
            for number in 0..trips {
                while far.receive() != Some(number) {
                    std::hint::spin_loop();
                }
                while !far.send(number) {}
            }
            Ok(spread)
        });
        let mut sent = 0;
        // A receiver that gave up takes nothing any more.
        while sent < messages && !receiver.is_finished() {
            if near.send(sent) {
                sent += 1;
            } else {
                std::hint::spin_loop();
            }
        }
        let mut round = Spread::with_capacity(trips as usize);
        for number in 0..trips {
            let from = ticks();
            while !near.send(number) {}
            let mut spins = 0u32;
            while near.receive() != Some(number) {
                spins = spins.wrapping_add(1);
                // Only one that failed is finished before it has answered.
                if spins == 0 && receiver.is_finished() {
                    break;
                }
                std::hint::spin_loop();
            }
            round.add(ticks() - from, 1);
        }
        let one_way = receiver.join().map_err(|_| "the receiving thread failed")??;
        Ok((one_way, round))
    })
}

/// Measures both kinds of ring.
///
/// # Errors
/// If there are not two processors, or a message is lost.
pub fn run(options: &Options, cpus: &[usize], report: &mut Report) -> Result<(), String> {
    let columns = [
        ("ring", "ring"),
        ("bytes", "bytes"),
        ("messages_per_second", "messages/s"),
        ("one_way", "cycles/message"),
        ("round_trip", "round trip, cycles"),
        ("round_trip_ns", "round trip, ns"),
        ("round_trip_p99_ns", "p99, ns"),
    ];
    let mut table = Table::new("ring: between two threads on two processors, both polling", &columns);
    machine::describe(&mut table);
    if cpus.len() < 2 {
        return Err("rings are measured between two processors: name them with --cpus".to_owned());
    }
    let (control, worker) = processes()?;
    let (near, far) = threads();
    let rows = [
        ("between processes", size_of::<Slot>(), measure(control, worker, cpus, options.messages)?),
        ("between threads", size_of::<u64>(), measure(near, far, cpus, options.messages)?),
    ];
    for (name, bytes, (mut one_way, mut round)) in rows {
        let (one, trip) = (one_way.summary(), round.summary());
        table.row(vec![
            name.into(),
            (bytes as u64).into(),
            Cell::Number(hz() / one.median, 0),
            one.into(),
            trip.into(),
            Cell::Number(trip.median / hz() * 1e9, 0),
            Cell::Number(round.quantile(0.99) / hz() * 1e9, 0),
        ]);
    }
    report.table(&table);
    Ok(())
}
