//! What subscribers get and give back, as it is logged: a block at a time (RFC 6888 section 4, RFC 7768), and a port
//! at a time where it lies in a block that is not its subscriber's.
//!
//! The computed ranges of a deterministic pool are not logged: the configuration tells whose they are (RFC 7422).

use super::Ports;
use super::geometry::{WORD, place_of, port_of};
use super::pools::Pools;
use crate::Time;
use turnpike_abi::Address;
use turnpike_abi::command::Kind;
use turnpike_abi::event::PortsLogged;
use turnpike_abi::flow::{CREATED_SHIFT, NONE};

/// A record and what it says of the ports.
pub(crate) type Logged = (Kind, PortsLogged);

impl Ports {
    /// Notes that a subscriber got a block or gave it back, if it is one to be logged.
    pub(super) fn note_block(&mut self, kind: Kind, block: u32) {
        if self.records.is_wanted()
            && let Some(logged) = self.logged_block(&self.pools, block)
        {
            self.records.note((kind, logged));
        }
    }

    /// Whether a port lies in a block of the subscriber that has it.
    pub(crate) fn is_own(&self, subscriber: u32, external: [u8; 4], port: u16) -> bool {
        let Some((address, pool)) = self.address(external) else { return false };
        let (word, _) = place_of(port, self.workers);
        let Some(state) = self.pools.state(pool) else { return false };
        let block = self.blocks.find(address, state.geometry.block_of(word));
        block.and_then(|block| self.blocks.record(block)).is_some_and(|block| block.subscriber == subscriber)
    }

    /// Notes a port that lies in no block of its subscriber's; 0 for a protocol without ports.
    pub(crate) fn note_foreign(
        &mut self,
        kind: Kind,
        inside: [u8; 4],
        external: [u8; 4],
        protocol: u8,
        port: u16,
    ) {
        let mut logged = PortsLogged {
            inside: Address::v4(inside),
            external: Address::v4(external),
            since_ms: if kind == Kind::PORTS_ASSIGNED { self.now.0 } else { PortsLogged::UNKNOWN },
            at_ms: self.now.0,
            protocol,
            ..PortsLogged::default()
        };
        if let Some(run) = logged.runs.first_mut() {
            *run = [port; 2];
        }
        self.records.note((kind, logged));
    }

    /// What there is to say of a block by the pools it was cut from: `None` if it is nobody's, or a computed range.
    pub(super) fn logged_block(&self, pools: &Pools, block: u32) -> Option<PortsLogged> {
        let record = self.blocks.record(block)?;
        let geometry = &pools.state(pools.pool_of(record.address)?)?.geometry;
        if record.subscriber == NONE || geometry.is_range(record.number) {
            return None;
        }
        let mut logged = PortsLogged {
            inside: Address::v4(self.subscriber(record.subscriber)?.inside),
            external: Address::v4(pools.external(record.address)?),
            since_ms: u64::from(record.since) << CREATED_SHIFT,
            at_ms: self.now.0,
            ..PortsLogged::default()
        };
        let mut runs = logged.runs.iter_mut();
        let mut run = runs.next()?;
        for word in record.first_word..record.first_word + record.words {
            let ports = geometry.eligible(word);
            let Some(base) = port_of(word, self.worker, self.workers).filter(|_| ports != 0) else {
                continue;
            };
            let first = base + ports.trailing_zeros() as u16;
            let last = base + (WORD - 1 - ports.leading_zeros() as u16);
            if *run == [0, 0] {
                *run = [first, last];
            } else if run[1].checked_add(1) == Some(first) {
                run[1] = last;
            } else {
                run = runs.next()?;
                *run = [first, last];
            }
        }
        Some(logged)
    }

    /// How many blocks [`Ports::walk_blocks`] looks at.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Subscribers' blocks among the `most` from `cursor` on, with their numbers.
    pub(crate) fn walk_blocks(
        &self,
        cursor: usize,
        most: usize,
        now: Time,
    ) -> impl Iterator<Item = (usize, PortsLogged)> {
        let numbers = self.blocks.numbers().skip(cursor).take(most);
        numbers.filter_map(move |number| {
            let logged = self.logged_block(&self.pools, number)?;
            Some((number as usize, PortsLogged { at_ms: now.0, ..logged }))
        })
    }
}
