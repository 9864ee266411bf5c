//! Which remote addresses a binding's inside end has a flow with: what address-dependent filtering asks for
//! (RFC 4787 section 5). Made when the first pool wants it.

use crate::index::Index;
use crate::keyed::{Keyed, TupleHash};
use turnpike_shm::memory::Memory;

#[derive(Clone, Copy, Debug)]
struct Contact {
    binding: u32,
    remote: [u8; 4],
    flows: u32,
}

/// Pairs of a binding and a remote address, with the number of flows between them.
#[derive(Debug)]
pub(super) struct Contacts {
    slab: Vec<Contact>,
    free: Vec<u32>,
    index: Index,
    hash: TupleHash,
}

impl Contacts {
    /// Room for as many as there are flows.
    pub(super) fn new(flows: usize, keyed: Keyed) -> Option<Self> {
        let mut memory = Memory::ordinary(Index::bytes(flows)).ok()?;
        Some(Self {
            slab: Vec::with_capacity(flows),
            free: Vec::with_capacity(flows),
            index: Index::new(flows, flows, &mut memory)?,
            hash: TupleHash::new(keyed),
        })
    }

    fn hash_of(&self, binding: u32, remote: [u8; 4]) -> u64 {
        self.hash.v4(u64::from(binding) << 32 | u64::from(u32::from_be_bytes(remote)), 0, 0)
    }

    fn find(&self, hash: u64, binding: u32, remote: [u8; 4]) -> Option<u32> {
        self.index.find(hash, |number| {
            self.slab.get(number as usize).is_some_and(|it| it.binding == binding && it.remote == remote)
        })
    }

    /// Whether there is a flow between them that the inside end opened.
    pub(super) fn has(&self, binding: u32, remote: [u8; 4]) -> bool {
        self.find(self.hash_of(binding, remote), binding, remote).is_some()
    }

    pub(super) fn add(&mut self, binding: u32, remote: [u8; 4]) {
        let hash = self.hash_of(binding, remote);
        if let Some(number) = self.find(hash, binding, remote) {
            if let Some(contact) = self.slab.get_mut(number as usize) {
                contact.flows += 1;
            }
            return;
        }
        let contact = Contact { binding, remote, flows: 1 };
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.slab.len() < self.slab.capacity() => {
                self.slab.push(contact);
                (self.slab.len() - 1) as u32
            }
            None => return,
        };
        if let Some(place) = self.slab.get_mut(number as usize) {
            *place = contact;
        }
        if !self.index.insert(hash, number) {
            self.free.push(number);
        }
    }

    pub(super) fn remove(&mut self, binding: u32, remote: [u8; 4]) {
        let hash = self.hash_of(binding, remote);
        let Some(number) = self.find(hash, binding, remote) else { return };
        let Some(contact) = self.slab.get_mut(number as usize) else { return };
        contact.flows -= 1;
        if contact.flows == 0 {
            self.index.remove(hash, number);
            self.free.push(number);
        }
    }
}
