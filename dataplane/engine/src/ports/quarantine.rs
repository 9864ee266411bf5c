//! Freed ports and blocks that are held back (RFC 6888 REQ-8): chains by the second in which their time is over.
//!
//! There is no timer for a port: chains run through the entries of the ports themselves, the newest first, each
//! leading to the one chained [`STRIDE`] before it, so that the lines of so many can be on their way at once. What is
//! over is let go in bounded steps, whenever the worker looks after its timers.

use super::units::END;
use turnpike_abi::flow::NONE;
use turnpike_abi::table::PoolRecord;

/// Seconds there are chains for: more than the longest quarantine.
const SECONDS: usize = 4096;
const _: () = assert!(SECONDS > PoolRecord::MAX_QUARANTINE as usize + 1);

/// Ports of a second that are known without a look at others.
pub(super) const STRIDE: usize = 8;

/// The newest ports of a second, or [`END`].
pub(super) type Chain = [u32; STRIDE];

/// Chains a port before all others. Returns what its entry is to lead to.
pub(super) fn chain(chain: &mut Chain, slot: u32) -> u32 {
    let [newest @ .., last] = *chain;
    chain[0] = slot;
    chain[1..].copy_from_slice(&newest);
    last
}

/// Takes the newest port off a chain; its entry leads to `next`.
pub(super) fn unchain(chain: &mut Chain, next: u32) {
    chain.copy_within(1.., 0);
    chain[STRIDE - 1] = next;
}

/// Heads of the chains.
#[derive(Debug)]
pub(super) struct Quarantine {
    ports: Box<[Chain]>,
    blocks: Box<[u32; SECONDS]>,
    /// The second that is emptied next.
    second: u32,
    /// Ports held back.
    pub(super) held: u32,
    /// How many may be, whatever a pool says: those in use need as much room.
    pub(super) most: u32,
}

impl Quarantine {
    pub(super) fn new(most: usize) -> Self {
        Self {
            ports: vec![[END; STRIDE]; SECONDS].into(),
            blocks: Box::new([NONE; SECONDS]),
            second: 0,
            held: 0,
            most: u32::try_from(most).unwrap_or(u32::MAX),
        }
    }

    /// Holds a port back until a second. Returns what its entry is to lead to.
    pub(super) fn hold(&mut self, slot: u32, due_s: u32) -> u32 {
        let at = self.at(due_s);
        self.held += 1;
        self.ports.get_mut(at).map_or(END, |ports| chain(ports, slot))
    }

    /// The ports that come first in the second which is emptied next.
    pub(super) fn coming(&self) -> Chain {
        self.ports.get(self.at(self.second)).copied().unwrap_or([END; STRIDE])
    }

    /// The ports that come first in a second's chain.
    pub(super) fn port_chain(&mut self, due_s: u32) -> &mut Chain {
        &mut self.ports[self.at(due_s)]
    }

    /// Head of the chain of blocks for a second.
    pub(super) fn block_chain(&mut self, due_s: u32) -> &mut u32 {
        &mut self.blocks[self.at(due_s)]
    }

    fn at(&self, due_s: u32) -> usize {
        due_s.clamp(self.second, self.second + SECONDS as u32 - 1) as usize % SECONDS
    }

    /// The head of the first chain of ports whose second is over, `None` if there is none.
    pub(super) fn due(&mut self, now_s: u32) -> Option<Due> {
        while self.second <= now_s {
            let ([slot, ..], block) = (self.coming(), *self.block_chain(self.second));
            if slot != END {
                return Some(Due::Port(slot));
            }
            if block != NONE {
                return Some(Due::Block(block));
            }
            self.second += 1;
        }
        None
    }

    /// Lets go of the port that [`Quarantine::due`] named; its entry leads to `next`.
    pub(super) fn pop_port(&mut self, next: u32) {
        let at = self.at(self.second);
        if let Some(ports) = self.ports.get_mut(at) {
            unchain(ports, next);
        }
        self.held -= 1;
    }

    /// Puts `next` in place of the block that [`Quarantine::due`] named.
    pub(super) fn pop_block(&mut self, next: u32) {
        *self.block_chain(self.second) = next;
    }

    /// Notes that ports left the chains without being let go.
    pub(super) fn lose(&mut self, ports: u32) {
        self.held -= ports;
    }

    /// Every chain's heads, of ports and of blocks.
    pub(super) fn heads(&mut self) -> impl Iterator<Item = (&mut Chain, &mut u32)> {
        self.ports.iter_mut().zip(self.blocks.iter_mut())
    }
}

/// What is over.
pub(super) enum Due {
    Port(u32),
    Block(u32),
}
