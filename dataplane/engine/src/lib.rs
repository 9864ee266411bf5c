//! The packet pipeline of one worker, as a pure library: bursts in, verdicts out.
//!
//! The engine does no I/O, reads no clock, takes no lock and, after [`Engine::new`], allocates nothing on
//! the path. Time is an argument. The same code runs under DPDK, in the simulator, in the fuzzers and in
//! the benches.

#![forbid(unsafe_code)]

mod buffer;
mod outbox;
mod pipeline;

pub use buffer::{Buffer, BufferSource};
pub use outbox::{Crossed, Outbox};

use std::sync::Arc;
use turnpike_abi::command::Slot;
use turnpike_abi::counters::Counters;
use turnpike_abi::table::TableFault;
use turnpike_abi::{InterfaceId, PortId, WorkerId};

/// Milliseconds since the dataplane started. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// What a worker is told at start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This worker.
    pub worker: WorkerId,
    /// How many there are.
    pub workers: u8,
    /// Ports of the dataplane.
    pub ports: usize,
    /// Every interface, by [`InterfaceId`].
    pub interfaces: Vec<Interface>,
    /// Flows this worker can hold.
    pub flows: usize,
    /// Bindings this worker can hold.
    pub bindings: usize,
    /// Random key of the hash tables and of port choice, new at every start.
    pub key: [u8; 16],
}

/// A place with addresses: a port, or a VLAN of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its port.
    pub port: PortId,
    /// VLAN id, 0 for untagged.
    pub vlan: u16,
    /// Its station address.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes until the policy says otherwise.
    pub mtu: u16,
}

/// The compiled policy; immutable, shared by the workers.
#[derive(Debug)]
pub struct Policy {}

impl Policy {
    /// Decodes and checks a policy table.
    ///
    /// # Errors
    /// Says what is wrong and where; the caller keeps the policy it has.
    pub fn decode(_table: &[u8], _interfaces: &[Interface]) -> Result<Self, TableFault> {
        todo!()
    }

    /// Generation of the table it came from.
    #[must_use]
    pub fn generation(&self) -> u64 {
        todo!()
    }
}

/// The forwarding table: the box's addresses and routes; immutable, shared by the workers.
#[derive(Debug)]
pub struct Forwarding {}

impl Forwarding {
    /// Decodes and checks a forwarding table.
    ///
    /// # Errors
    /// Says what is wrong and where; the caller keeps the table it has.
    pub fn decode(_table: &[u8], _interfaces: &[Interface]) -> Result<Self, TableFault> {
        todo!()
    }

    /// Generation of the table it came from.
    #[must_use]
    pub fn generation(&self) -> u64 {
        todo!()
    }
}

/// The control plane sent a command that no correct one sends. The shell detaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str);

/// The pipeline of one worker and everything it owns.
#[derive(Debug)]
pub struct Engine<B> {
    _buffers: std::marker::PhantomData<B>,
}

impl<B: Buffer> Engine<B> {
    /// Allocates everything the worker will ever need.
    #[must_use]
    pub fn new(_setup: &Setup) -> Self {
        todo!()
    }

    /// Takes a burst from a port. `burst` is drained; every packet of it ends in `out` or is held inside.
    pub fn receive(
        &mut self,
        _now: Time,
        _port: PortId,
        _burst: &mut Vec<B>,
        _source: &mut impl BufferSource<B>,
        _out: &mut Outbox<B>,
    ) {
        todo!()
    }

    /// Takes packets from other workers. `burst` is drained.
    pub fn receive_crossed(
        &mut self,
        _now: Time,
        _burst: &mut Vec<Crossed<B>>,
        _source: &mut impl BufferSource<B>,
        _out: &mut Outbox<B>,
    ) {
        todo!()
    }

    /// Sends a frame of the kernel (from the TAP twin of `interface`) as it is, tagged where the interface is a VLAN.
    pub fn inject(&mut self, _interface: InterfaceId, _buffer: B, _out: &mut Outbox<B>) {
        todo!()
    }

    /// Carries out a command of the control plane; answers go to `out.events`. Takes at most 257 event slots.
    ///
    /// # Errors
    /// If the command is malformed.
    pub fn command(&mut self, _now: Time, _slot: &Slot, _out: &mut Outbox<B>) -> Result<(), Violation> {
        todo!()
    }

    /// Timers: expires flows and packets that wait, in bounded steps. Call it once a millisecond or after every burst.
    pub fn tick(&mut self, _now: Time, _out: &mut Outbox<B>) {
        todo!()
    }

    /// Switches to another policy at a burst boundary; returns the one in use until now, to be freed elsewhere.
    pub fn set_policy(&mut self, _policy: Arc<Policy>) -> Option<Arc<Policy>> {
        todo!()
    }

    /// Switches to another forwarding table; returns the one in use until now, to be freed elsewhere.
    pub fn set_forwarding(&mut self, _forwarding: Arc<Forwarding>) -> Option<Arc<Forwarding>> {
        todo!()
    }

    /// Counts packets that a TX queue took.
    pub fn sent(&mut self, _packets: u64, _bytes: u64) {
        todo!()
    }

    /// Counts packets that a TX queue did not take; the shell frees them.
    pub fn not_sent(&mut self, _packets: u64) {
        todo!()
    }

    /// Turns punted packets that found no room into drops; the shell frees them.
    pub fn not_punted(&mut self, _packets: u64) {
        todo!()
    }

    /// Turns crossed packets that found no room into drops; the shell frees them.
    pub fn not_crossed(&mut self, _packets: u64) {
        todo!()
    }

    /// The worker's counters, to publish.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        todo!()
    }

    /// The worker's counters, for what the shell counts (cycles, rings, heartbeat).
    pub fn counters_mut(&mut self) -> &mut Counters {
        todo!()
    }
}
