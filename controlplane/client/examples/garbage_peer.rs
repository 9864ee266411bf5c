//! A control plane that means harm: attaches to a dataplane and writes garbage into its own segment and
//! onto the socket, again and again. For tests of the dataplane, which has to put it out each time.
//!
//! `garbage_peer [--seed N] SOCKET SECONDS`

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use turnpike_abi::MAX_WORKERS;
use turnpike_abi::attach::{Message, MessageKind};
use turnpike_abi::command::SLOT;
use turnpike_abi::layout::{RING_SLOTS, rings};
use turnpike_abi::table::{SECTIONS, Section, TableHeader, TableKind};
use turnpike_shm::segment::Segment;
use turnpike_shm::socket::{Connection, Received};
use turnpike_shm::table::SealedTable;
use zerocopy::IntoBytes;

/// How long to wait for an answer, and for the end of a session.
const PATIENCE: Duration = Duration::from_millis(500);
/// Writes to the segment between two looks at the socket.
const WRITES: usize = 2000;

/// xorshift64*: the same seed, the same garbage.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Small, large, near a power of two, near the end, or anything.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(16),
            1 => self.below(2 * RING_SLOTS as u64 + 2),
            2 => u64::MAX - self.below(4),
            3 => (1u64 << self.below(64)).wrapping_add(self.below(3)).wrapping_sub(1),
            4 => 0,
            _ => self.next(),
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    attaches: u64,
    refused: u64,
    detached: u64,
    closed: u64,
    unanswered: u64,
    tables: u64,
    tables_answered: u64,
    writes: u64,
}

/// One session's state.
struct Peer<'a> {
    random: &'a mut Random,
    counts: &'a mut Counts,
    segment: Segment,
    connection: Connection,
    workers: usize,
    /// Commands written to each worker's ring, where the indices are kept honest.
    tails: Vec<u64>,
}

/// How a session goes on.
enum Next {
    Stay,
    Over,
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(counts) if counts.attaches > 0 => {
            println!(
                "{} attaches, {} refused, {} detached, {} closed, {} unanswered, {} tables ({} answered), {} writes",
                counts.attaches,
                counts.refused,
                counts.detached,
                counts.closed,
                counts.unanswered,
                counts.tables,
                counts.tables_answered,
                counts.writes
            );
            ExitCode::SUCCESS
        }
        Ok(_) => {
            eprintln!("never attached: is the dataplane running, and may this user attach?");
            ExitCode::FAILURE
        }
        Err(what) => {
            eprintln!("{what}\nusage: garbage_peer [--seed N] SOCKET SECONDS");
            ExitCode::from(2)
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<Counts, String> {
    let mut seed = 1;
    let mut first = arguments.next().ok_or("no socket given")?;
    if first == "--seed" {
        let text = arguments.next().ok_or("--seed needs a number")?;
        seed = text.parse().map_err(|_| format!("--seed {text}: not a number"))?;
        first = arguments.next().ok_or("no socket given")?;
    }
    let seconds = arguments.next().ok_or("no duration given")?;
    let seconds: u64 = seconds.parse().map_err(|_| format!("{seconds}: not a number of seconds"))?;
    // xorshift needs a state that is not zero.
    let mut random = Random(seed | 1 << 63);
    let mut counts = Counts::default();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline {
        match Connection::connect(Path::new(&first), PATIENCE) {
            Ok(connection) => session(connection, &mut random, &mut counts, deadline)?,
            // Between two dataplanes nobody listens.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Ok(counts)
}

/// From HELLO to the end of the connection.
fn session(
    connection: Connection,
    random: &mut Random,
    counts: &mut Counts,
    deadline: Instant,
) -> Result<(), String> {
    let length = rings::length(MAX_WORKERS);
    let segment = Segment::create("garbage", length).map_err(|error| format!("segment: {error}"))?;
    // Garbage may lie in the rings before anybody looks.
    if random.below(4) == 0 {
        for _ in 0..WRITES {
            let _ = segment.poke(random.below(length as u64 / 8) as usize * 8, random.value());
        }
    }
    say_hello(&connection, &segment, random);
    let workers = match connection.receive_within(PATIENCE) {
        Ok(Received::Message(answer, _)) if answer.kind == MessageKind::WELCOME => answer.value as usize,
        Ok(Received::Message(..)) => {
            counts.refused += 1;
            return Ok(());
        }
        Ok(Received::Closed) | Err(_) => {
            counts.closed += 1;
            return Ok(());
        }
        Ok(Received::Nothing) => {
            counts.unanswered += 1;
            return Ok(());
        }
    };
    counts.attaches += 1;
    let workers = workers.clamp(1, MAX_WORKERS);
    let mut peer = Peer { random, counts, segment, connection, workers, tails: vec![0; workers] };
    let style = peer.random.below(6);
    // Most garbage is noticed at once; what is not must be borne for a while.
    let end = deadline.min(Instant::now() + PATIENCE);
    while Instant::now() < end {
        peer.write(style);
        if let Next::Over = peer.listen()? {
            return Ok(());
        }
    }
    Ok(())
}

/// Mostly a good HELLO, else one with something wrong.
fn say_hello(connection: &Connection, segment: &Segment, random: &mut Random) {
    let mut hello = Message { value: segment.length() as u64, ..Message::new(MessageKind::HELLO) };
    let mut descriptors = vec![segment.as_fd()];
    match random.below(24) {
        0 => hello.magic = random.next(),
        1 => hello.layout_hash = random.next(),
        2 => hello.abi_version = random.next() as u32,
        3 => hello.kind = MessageKind(random.below(9) as u32),
        4 => hello.value = random.value(),
        5 => descriptors.clear(),
        6 => descriptors.push(segment.as_fd()),
        7 => descriptors = vec![connection.as_fd()],
        8 => {
            let bytes = [0xa5; 200];
            let length = random.below(bytes.len() as u64 + 1) as usize;
            let _ = connection.send_bytes(bytes.get(..length).unwrap_or(&bytes), &descriptors);
            return;
        }
        _ => {}
    }
    // A dataplane that has hung up already is met at the answer.
    let _ = connection.send(&hello, &descriptors);
}

impl Peer<'_> {
    fn poke(&mut self, offset: usize, value: u64) {
        self.counts.writes += u64::from(self.segment.poke(offset, value).is_ok());
    }

    fn write(&mut self, style: u64) {
        let worker = self.random.below(self.workers as u64) as usize;
        let part = rings::WORKERS + worker * rings::STRIDE;
        match style {
            // Anything anywhere.
            0 => {
                for _ in 0..WRITES {
                    let word = self.random.below(self.segment.length() as u64 / 8) as usize;
                    let value = self.random.value();
                    self.poke(word * 8, value);
                }
            }
            // The indices only.
            1 => {
                let index = if self.random.below(2) == 0 { rings::TAIL } else { rings::HEAD };
                let value = self.random.value();
                self.poke(part + index, value);
            }
            // Honest indices, commands of any kind and content.
            2 => self.commands(worker, part, false),
            // Commands of known kinds with any content, rewritten while they are read.
            3 => {
                self.commands(worker, part, true);
                for _ in 0..WRITES {
                    let word = self.random.below((RING_SLOTS * SLOT / 8) as u64) as usize;
                    let value = self.random.value();
                    self.poke(part + rings::SLOTS + word * 8, value);
                }
            }
            4 => self.table(),
            _ => self.message(),
        }
    }

    fn commands(&mut self, worker: usize, part: usize, known: bool) {
        let mut tail = self.tails.get(worker).copied().unwrap_or(0);
        for _ in 0..self.random.below(64) {
            let slot = part + rings::SLOTS + (tail as usize % RING_SLOTS) * SLOT;
            for word in 0..SLOT / 8 {
                let value = self.random.value();
                self.poke(slot + word * 8, value);
            }
            if known {
                let kind = 1 + self.random.below(8);
                self.poke(slot, kind);
            }
            tail = tail.wrapping_add(1);
        }
        self.poke(part + rings::TAIL, tail);
        if let Some(place) = self.tails.get_mut(worker) {
            *place = tail;
        }
    }

    /// A table: no memfd, not sealed, of another length, or with a good header and garbage behind it.
    fn table(&mut self) {
        let length = size_of::<TableHeader>() as u64 + self.random.below(5000);
        let kind = TableKind(self.random.below(4) as u32);
        let mut header =
            TableHeader { kind, generation: self.random.value(), length, ..TableHeader::default() };
        let mut sections: [Section; SECTIONS] = core::array::from_fn(|_| Section {
            offset: if self.random.below(2) == 0 {
                self.random.value() as u32
            } else {
                self.random.below(length / 8) as u32 * 8
            },
            count: self.random.value() as u32,
        });
        // A forwarding table without any record is lawful: it takes every route away.
        sections[0].count |= 1;
        if self.random.below(4) > 0 {
            header.magic = turnpike_abi::layout::MAGIC;
            header.layout_hash = turnpike_abi::layout::LAYOUT_HASH;
            header.sections = sections;
        }
        let random = &mut *self.random;
        let table = SealedTable::write(length as usize, |bytes| {
            for byte in bytes.iter_mut() {
                *byte = random.next() as u8;
            }
            for (to, from) in bytes.iter_mut().zip(header.as_bytes()) {
                *to = *from;
            }
        });
        let Ok(table) = table else { return };
        let mut message = Message {
            table: kind.0,
            generation: header.generation,
            value: length,
            ..Message::new(MessageKind::TABLE)
        };
        let mut descriptor = table.fd();
        match self.random.below(8) {
            0 => message.value = self.random.value(),
            1 => descriptor = self.segment.fd(),
            2 => descriptor = self.connection.as_fd(),
            _ => {}
        }
        // One that has hung up is met when its answer is taken.
        if self.connection.send(&message, &[descriptor]).is_ok() {
            self.counts.tables += 1;
        }
    }

    /// Any message of any size.
    fn message(&mut self) {
        let mut bytes = [0u8; 2 * size_of::<Message>()];
        for byte in &mut bytes {
            *byte = self.random.next() as u8;
        }
        let kind = MessageKind(self.random.below(9) as u32);
        if self.random.below(2) == 0 {
            let message = Message { value: self.random.value(), ..Message::new(kind) };
            for (to, from) in bytes.iter_mut().zip(message.as_bytes()) {
                *to = *from;
            }
        }
        let exact = self.random.below(3) > 0;
        let length =
            if exact { size_of::<Message>() } else { self.random.below(bytes.len() as u64) as usize };
        let descriptors = vec![self.segment.fd(); self.random.below(3) as usize];
        let _ = self.connection.send_bytes(bytes.get(..length).unwrap_or(&bytes), &descriptors);
    }

    /// Takes what the dataplane says. A violation that it has not noticed yet leaves the session as it is.
    fn listen(&mut self) -> Result<Next, String> {
        match self.connection.receive_within(Duration::from_millis(5)) {
            Ok(Received::Nothing) => Ok(Next::Stay),
            Ok(Received::Message(message, _)) if message.kind == MessageKind::TABLE_DONE => {
                self.counts.tables_answered += 1;
                Ok(Next::Stay)
            }
            Ok(Received::Message(message, _)) if message.kind == MessageKind::DETACHED => {
                self.counts.detached += 1;
                Ok(Next::Over)
            }
            Ok(Received::Message(message, _)) => Err(format!("the dataplane sent {message:?}")),
            Ok(Received::Closed) | Err(_) => {
                self.counts.closed += 1;
                Ok(Next::Over)
            }
        }
    }
}
