//! The box: one engine a worker, and everything a shell does around them.

use crate::frame::{Frame, Frames};
use crate::tables::{ForwardingTable, PolicyTable};
use std::collections::VecDeque;
use std::sync::Arc;
use turnpike_abi::command::{Kind, NeighbourSet, Slot};
use turnpike_abi::counters::{Counter, Counters, DropReason};
use turnpike_abi::event::{Ack, AckResult};
use turnpike_abi::flow::FlowRow;
use turnpike_abi::{Address, InterfaceId, PortId, WorkerId};
use turnpike_engine::{Buffer, Crossed, Engine, Forwarding, Interface, Outbox, Policy, Setup, Time};
use turnpike_shm::memory::Memory;
use turnpike_shm::state::{Place, StateView};
use zerocopy::{Immutable, IntoBytes};

/// Room in an outbox.
const ROOM: usize = 4096;

/// Which worker a port hands a frame to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Always this one.
    Fixed(WorkerId),
    /// One after the other, so that most packets have to cross.
    RoundRobin,
}

/// A frame that left the box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// By which port.
    pub port: PortId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The box.
pub struct Appliance {
    engines: Vec<Engine<Frame>>,
    states: Vec<StateView>,
    outboxes: Vec<Outbox<Frame>>,
    crossing: Vec<VecDeque<Crossed<Frame>>>,
    frames: Frames,
    interfaces: Vec<Interface>,
    /// Virtual time.
    pub now: Time,
    steering: Steering,
    forwarding: Option<Arc<Forwarding>>,
    long_way: bool,
    turn: usize,
    generation: u64,
    sequence: u64,
    /// Events of the workers.
    pub events: Vec<(WorkerId, Slot)>,
    /// Room in the event ring for what is logged; 0 is a ring that nobody empties.
    pub log_room: usize,
    /// By worker, what it last said of its rules' hits.
    hits: Vec<Vec<u64>>,
    sent: VecDeque<Sent>,
    punted: VecDeque<(InterfaceId, Vec<u8>)>,
}

/// The station address of interface `index`.
#[must_use]
pub fn station(index: u16) -> [u8; 6] {
    let [high, low] = index.to_be_bytes();
    [0x02, 0, 0, 0, high, low]
}

/// A worker's pipeline in ordinary pages, and its flows for others.
///
/// # Panics
/// If the machine has not enough of them.
fn engine<B: turnpike_engine::Buffer>(setup: &Setup) -> (Engine<B>, StateView) {
    let bytes = Engine::<B>::state_bytes(setup);
    let (mut state, file) = Memory::nameless("turnpike-sim", bytes, false).expect("memory for the flows");
    let mut private = Memory::ordinary(Engine::<B>::private_bytes(setup)).expect("memory for the index");
    let engine = Engine::new(setup, &mut state, &mut private).expect("as many bytes as the engine asked for");
    (engine, StateView::map(file.into(), setup.worker).expect("a sound state file"))
}

impl Appliance {
    /// A box with `workers` workers, two untagged ports, and the default tables.
    #[must_use]
    pub fn new(workers: u8) -> Self {
        let interface = |index| Interface { port: PortId(index), vlan: 0, mac: station(index), mtu: 1500 };
        let mut appliance = Self::bare(workers, vec![interface(0), interface(1)], 4096);
        appliance.policy(&PolicyTable::default());
        appliance.forwarding(&ForwardingTable::default());
        appliance
    }

    /// A box without tables; its tables hold `capacity` flows and bindings a worker.
    #[must_use]
    pub fn bare(workers: u8, interfaces: Vec<Interface>, capacity: usize) -> Self {
        let ports = interfaces.iter().map(|interface| interface.port.index() + 1).max().unwrap_or(0);
        let setup = |worker| Setup {
            worker: WorkerId(worker),
            workers,
            ports,
            interfaces: interfaces.clone(),
            flows: capacity,
            flows_v6: capacity,
            bindings: capacity,
            key: [0x5a ^ worker; 16],
        };
        let made = (0..workers).map(|worker| engine(&setup(worker)));
        let (engines, states): (Vec<_>, Vec<_>) = made.unzip();
        Self {
            engines,
            states,
            outboxes: (0..workers).map(|_| Outbox::new(ports, ROOM)).collect(),
            crossing: (0..workers).map(|_| VecDeque::new()).collect(),
            frames: Frames::new(65536),
            interfaces,
            now: Time(1),
            steering: Steering::RoundRobin,
            forwarding: None,
            long_way: false,
            turn: 0,
            generation: 0,
            sequence: 0,
            events: Vec::new(),
            log_room: ROOM,
            hits: vec![Vec::new(); workers.into()],
            sent: VecDeque::new(),
            punted: VecDeque::new(),
        }
    }

    /// The flows of a worker, as somebody else reads them.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn flows(&self, worker: usize) -> Vec<FlowRow> {
        let places = (0..).map(|place| self.states[worker].flow(place, self.now.0));
        let inside = places.take_while(|place| *place != Place::Outside);
        inside.filter_map(|place| if let Place::Flow(row) = place { Some(row) } else { None }).collect()
    }

    /// How many workers it has.
    #[must_use]
    pub fn workers(&self) -> u8 {
        self.engines.len() as u8
    }

    /// Chooses which worker gets a frame first.
    pub fn steer(&mut self, steering: Steering) {
        self.steering = steering;
    }

    /// Loads a policy into every worker.
    ///
    /// # Panics
    /// If the engine refuses it.
    pub fn policy(&mut self, table: &PolicyTable) {
        self.generation += 1;
        let policy = Policy::decode(&table.bytes(self.generation), &self.interfaces).expect("a sound policy");
        self.policy_decoded(&Arc::new(policy));
    }

    /// Loads a policy that is decoded already.
    pub fn policy_decoded(&mut self, policy: &Arc<Policy>) {
        for engine in &mut self.engines {
            engine.set_policy(Arc::clone(policy));
        }
    }

    /// Loads a forwarding table into every worker.
    ///
    /// # Panics
    /// If the engine refuses it.
    pub fn forwarding(&mut self, table: &ForwardingTable) {
        self.generation += 1;
        let forwarding =
            Forwarding::decode(&table.bytes(self.generation), &self.interfaces).expect("a sound table");
        self.forwarding_decoded(&Arc::new(forwarding));
    }

    /// Loads a forwarding table that is decoded already.
    pub fn forwarding_decoded(&mut self, forwarding: &Arc<Forwarding>) {
        for engine in &mut self.engines {
            engine.set_forwarding(Arc::clone(forwarding));
        }
        self.forwarding = Some(Arc::clone(forwarding));
    }

    /// Sends every packet the long way: each is a burst, before which flows forget their next hops. Nothing else
    /// may differ.
    pub fn take_the_long_way(&mut self) {
        self.long_way = true;
    }

    /// Tells every worker a neighbour's station address.
    pub fn neighbour(&mut self, interface: u16, address: Address, mac: [u8; 6]) {
        let set = NeighbourSet { address, interface: InterfaceId(interface), mac };
        for worker in 0..self.engines.len() {
            assert_eq!(self.command(worker, Kind::NEIGHBOUR_SET, &set).result, AckResult::OK);
        }
    }

    /// Sends a command and returns its answer.
    ///
    /// # Panics
    /// If the engine calls it malformed or does not answer.
    pub fn command<T: IntoBytes + Immutable>(&mut self, worker: usize, kind: Kind, body: &T) -> Ack {
        self.sequence += 1;
        let sequence = self.sequence;
        let slot = Slot::new(kind, sequence, body);
        self.engines[worker].command(self.now, &slot, &mut self.outboxes[worker]).expect("a sound command");
        self.settle();
        let answer = self.events.iter().position(|(from, event)| {
            from.index() == worker && event.header.kind == Kind::ACK && event.header.sequence == sequence
        });
        let (_, event) = self.events.remove(answer.expect("an answer"));
        event.body()
    }

    /// Sends a command whatever it holds.
    ///
    /// # Errors
    /// If the engine calls it malformed.
    pub fn command_raw(&mut self, worker: usize, slot: &Slot) -> Result<(), turnpike_engine::Violation> {
        let result = self.engines[worker].command(self.now, slot, &mut self.outboxes[worker]);
        self.settle();
        result
    }

    /// Hands frames to a port, as one burst, and carries everything out that follows from it.
    pub fn receive(&mut self, port: u16, frames: &[&[u8]]) {
        let worker = match self.steering {
            Steering::Fixed(worker) => worker.index(),
            Steering::RoundRobin => {
                self.turn = (self.turn + 1) % self.engines.len();
                self.turn
            }
        };
        let bursts = if self.long_way { frames.chunks(1) } else { frames.chunks(frames.len().max(1)) };
        for burst in bursts {
            if let (true, Some(forwarding)) = (self.long_way, self.forwarding.clone()) {
                self.forwarding_decoded(&forwarding);
            }
            self.receive_burst(worker, port, burst);
        }
    }

    fn receive_burst(&mut self, worker: usize, port: u16, frames: &[&[u8]]) {
        let mut burst = frames.iter().map(|bytes| self.frames.frame(bytes)).collect();
        self.engines[worker].receive(
            self.now,
            PortId(port),
            &mut burst,
            &mut self.frames,
            &mut self.outboxes[worker],
        );
        self.settle();
    }

    /// Hands a frame of the kernel to an interface.
    pub fn inject(&mut self, interface: u16, bytes: &[u8]) {
        let frame = self.frames.frame(bytes);
        self.engines[0].inject(InterfaceId(interface), frame, &mut self.outboxes[0]);
        self.settle();
    }

    /// Lets time pass, in steps of at most `step_ms`.
    pub fn advance(&mut self, milliseconds: u64, step_ms: u64) {
        let end = self.now.0 + milliseconds;
        while self.now.0 < end {
            self.now = Time((self.now.0 + step_ms.max(1)).min(end));
            for (engine, out) in self.engines.iter_mut().zip(&mut self.outboxes) {
                engine.tick(self.now, out);
            }
            self.settle();
        }
    }

    /// The next frame that left.
    pub fn sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    /// The next frame for a TAP twin.
    pub fn punted(&mut self) -> Option<(InterfaceId, Vec<u8>)> {
        self.punted.pop_front()
    }

    /// The counters of all workers together.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for engine in &self.engines {
            sum.merge(engine.counters());
        }
        sum
    }

    /// The counters of a worker.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn counters_of(&self, worker: usize) -> &Counters {
        self.engines[worker].counters()
    }

    /// The policy's generation and how often each of its firewall rules was the first to match, all workers together.
    ///
    /// # Panics
    /// If workers differ in generation or number of rules.
    pub fn rule_hits(&mut self) -> (u64, Vec<u64>) {
        for (engine, hits) in self.engines.iter_mut().zip(&mut self.hits) {
            if let Some(words) = engine.rule_hits() {
                *hits = words.to_vec();
            }
        }
        let (generation, rules) = (self.hits[0][0], self.hits[0][1] as usize);
        let mut sum = vec![0; rules];
        for words in &self.hits {
            assert_eq!((words[0], words[1] as usize, words.len()), (generation, rules, rules + 2));
            sum.iter_mut().zip(&words[2..]).for_each(|(sum, hits)| *sum += hits);
        }
        (generation, sum)
    }

    /// Drops for a reason, all workers together.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counters().drops(reason)
    }

    /// Frames that exist: those that wait in the engines, once everything else is out.
    #[must_use]
    pub fn live_frames(&self) -> usize {
        self.frames.live()
    }

    /// Empties the outboxes until nothing moves, then checks conservation.
    fn settle(&mut self) {
        loop {
            for worker in 0..self.engines.len() {
                self.flush(worker);
            }
            let mut moved = false;
            for worker in 0..self.engines.len() {
                let mut burst: Vec<_> = self.crossing[worker].drain(..).collect();
                if burst.is_empty() {
                    continue;
                }
                moved = true;
                let out = &mut self.outboxes[worker];
                self.engines[worker].receive_crossed(self.now, &mut burst, &mut self.frames, out);
            }
            if !moved {
                break;
            }
        }
        self.check();
    }

    fn flush(&mut self, worker: usize) {
        let out = &mut self.outboxes[worker];
        let engine = &mut self.engines[worker];
        for (port, queue) in (0u16..).zip(&mut out.transmit) {
            for frame in queue.drain(..) {
                engine.sent(1, frame.bytes().len() as u64);
                self.sent.push_back(Sent { port: PortId(port), bytes: frame.bytes().to_vec() });
            }
        }
        self.punted.extend(out.punt.drain(..).map(|(interface, frame)| (interface, frame.bytes().to_vec())));
        for (to, crossed) in out.cross.drain(..) {
            self.crossing[to.index()].push_back(crossed);
        }
        out.freed.clear();
        engine.send_records(self.log_room, out);
        let from = WorkerId(worker as u8);
        self.events.extend(out.events.drain(..).map(|event| (from, event)));
    }

    /// `received + injected + crossed_in + generated == sent + punted + crossed_out + drops + held`, for each worker,
    /// and no frame exists that no engine holds.
    fn check(&self) {
        let mut held = 0;
        for (worker, engine) in self.engines.iter().enumerate() {
            let (came, went) = engine.counters().conservation();
            assert_eq!(
                came,
                went,
                "worker {worker} lost or invented packets: {:?}",
                differences(engine.counters())
            );
            held += engine.counters().get(Counter::Held);
        }
        assert_eq!(self.frames.live() as u64, held, "frames leaked");
    }
}

fn differences(counters: &Counters) -> Vec<(&'static str, u64)> {
    let scalars = Counter::ALL.iter().map(|&counter| (counter.name(), counters.get(counter)));
    let drops = DropReason::ALL.iter().map(|&reason| (reason.name(), counters.drops(reason)));
    scalars.chain(drops).filter(|(_, value)| *value != 0).collect()
}
