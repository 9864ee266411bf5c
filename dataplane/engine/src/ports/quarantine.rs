//! Freed ports and blocks that are held back (RFC 6888 REQ-8): chains by the second in which their time is over.
//!
//! There is no timer for a port: a chain runs through the entries of the ports themselves. What is over is let
//! go in bounded steps, whenever the worker looks after its timers.

use super::units::END;
use turnpike_abi::flow::NONE;
use turnpike_abi::table::PoolRecord;

/// Seconds there are chains for: more than the longest quarantine.
const SECONDS: usize = 4096;
const _: () = assert!(SECONDS > PoolRecord::MAX_QUARANTINE as usize + 1);

/// Heads of the chains.
#[derive(Debug)]
pub(super) struct Quarantine {
    ports: Box<[u32; SECONDS]>,
    blocks: Box<[u32; SECONDS]>,
    /// The second that is emptied next.
    second: u32,
    /// Ports held back.
    pub(super) held: u32,
}

impl Quarantine {
    pub(super) fn new() -> Self {
        Self { ports: Box::new([END; SECONDS]), blocks: Box::new([NONE; SECONDS]), second: 0, held: 0 }
    }

    /// Head of the chain of ports for a second: what the new one is chained before.
    pub(super) fn port_chain(&mut self, due_s: u32) -> &mut u32 {
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
            let (slot, block) = (*self.port_chain(self.second), *self.block_chain(self.second));
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

    /// Puts `next` in place of the head that [`Quarantine::due`] named.
    pub(super) fn pop_port(&mut self, next: u32) {
        *self.port_chain(self.second) = next;
        self.held -= 1;
    }

    /// Likewise of a block.
    pub(super) fn pop_block(&mut self, next: u32) {
        *self.block_chain(self.second) = next;
    }

    /// Notes that ports left the chains without being let go.
    pub(super) fn lose(&mut self, ports: u32) {
        self.held -= ports;
    }

    /// Every chain's heads, of ports and of blocks.
    pub(super) fn heads(&mut self) -> impl Iterator<Item = (&mut u32, &mut u32)> {
        self.ports.iter_mut().zip(self.blocks.iter_mut())
    }
}

/// What is over.
pub(super) enum Due {
    Port(u32),
    Block(u32),
}
