//! Port blocks in use, the lists of a subscriber's blocks with free ports, and what is free in each.

use super::Class;
use super::geometry::{BLOCK_WORDS, Geometry};
use super::subscribers::Subscribers;
use crate::Time;
use turnpike_abi::flow::{CREATED_SHIFT, NONE};
use turnpike_shm::memory::{prefetch_value, roomy};

/// A block that somebody has. Its first cache line is what a new port asks for.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Block {
    /// [`NONE`]: nobody's, for ports that were asked for by name or reserved.
    pub(super) subscriber: u32,
    pub(super) address: u32,
    pub(super) number: u16,
    pub(super) first_word: u16,
    pub(super) words: u16,
    /// Free eligible ports by class.
    pub(super) free: [u16; Class::COUNT],
    /// By class, a bit for each word that has none.
    pub(super) full: [u64; Class::COUNT],
    /// Ports not free, cooling ones included, of all classes.
    pub(super) busy: u32,
    pub(super) live: bool,
    pub(super) hangs: bool,
    /// By class, neighbours in the subscriber's, or nobody's, list of blocks with free ports.
    links: [(u32, u32); Class::COUNT],
    /// When it was taken, in units of 128 ms.
    pub(super) since: u32,
    /// Second of the last time a port of it was given back.
    pub(super) freed_s: u32,
    /// Next in the list of its second; `hangs` says whether it is in one.
    pub(super) next: u32,
}

const _: () = assert!(core::mem::offset_of!(Block, links) <= 64);

#[derive(Debug)]
pub(super) struct Blocks {
    slab: Vec<Block>,
    free: Vec<u32>,
    capacity: usize,
    /// By address and number: block plus one, 0 for none.
    directory: Vec<u32>,
    /// Numbers of an address.
    numbers: usize,
    /// By address, the numbers in use.
    taken: Vec<[u64; BLOCK_WORDS]>,
    /// By class, the first of nobody's blocks with free ports, or [`NONE`].
    nobodys: [u32; Class::COUNT],
}

impl Blocks {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            slab: roomy(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
            directory: Vec::new(),
            numbers: 0,
            taken: Vec::new(),
            nobodys: [NONE; Class::COUNT],
        }
    }

    fn place(&self, address: u32, number: u16) -> usize {
        address as usize * self.numbers + usize::from(number)
    }

    pub(super) fn find(&self, address: u32, number: u16) -> Option<u32> {
        self.directory.get(self.place(address, number))?.checked_sub(1)
    }

    /// Asks for the record of a block.
    pub(super) fn prefetch(&self, block: u32) {
        if let Some(block) = self.slab.get(block as usize) {
            prefetch_value(block);
        }
    }

    pub(super) fn record(&self, block: u32) -> Option<&Block> {
        self.slab.get(block as usize).filter(|block| block.live)
    }

    pub(super) fn record_mut(&mut self, block: u32) -> Option<&mut Block> {
        self.slab.get_mut(block as usize).filter(|block| block.live)
    }

    pub(super) fn taken(&self, address: u32) -> Option<&[u64; BLOCK_WORDS]> {
        self.taken.get(address as usize)
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slab.len() < self.capacity
    }

    /// Takes a block that nobody has. `None` if there is no room or somebody has it.
    pub(super) fn take(
        &mut self,
        geometry: &Geometry,
        subscriber: u32,
        (address, number): (u32, u16),
        now: Time,
    ) -> Option<u32> {
        if self.find(address, number).is_some() || !self.has_room() {
            return None;
        }
        let (first_word, words) = geometry.words(number);
        let mut full = u64::MAX.checked_shl(u32::from(words)).unwrap_or(0);
        for word in 0..words {
            if geometry.eligible(first_word + word) == 0 {
                full |= 1 << word;
            }
        }
        let block = Block {
            subscriber,
            address,
            number,
            first_word,
            words,
            free: [geometry.capacity(number); Class::COUNT],
            full: [full; Class::COUNT],
            links: [(NONE, NONE); Class::COUNT],
            busy: 0,
            since: (now.0 >> CREATED_SHIFT) as u32,
            freed_s: 0,
            next: NONE,
            hangs: false,
            live: true,
        };
        let at = match self.free.pop() {
            Some(at) => {
                *self.slab.get_mut(at as usize)? = block;
                at
            }
            None => {
                self.slab.push(block);
                (self.slab.len() - 1) as u32
            }
        };
        self.enter(at);
        Some(at)
    }

    fn enter(&mut self, at: u32) {
        let Some(&Block { address, number, .. }) = self.record(at) else { return };
        let place = self.place(address, number);
        if let Some(directory) = self.directory.get_mut(place) {
            *directory = at + 1;
        }
        self.mark(address, number, true);
    }

    fn mark(&mut self, address: u32, number: u16, taken: bool) {
        let word =
            self.taken.get_mut(address as usize).and_then(|bits| bits.get_mut(usize::from(number / 64)));
        if let Some(word) = word {
            let bit = 1 << (number % 64);
            *word = if taken { *word | bit } else { *word & !bit };
        }
    }

    /// Gives a block back. It is in no list any more.
    pub(super) fn give_back(&mut self, at: u32) {
        let Some(block) = self.record_mut(at) else { return };
        block.live = false;
        let (address, number) = (block.address, block.number);
        let place = self.place(address, number);
        if let Some(directory) = self.directory.get_mut(place) {
            *directory = 0;
        }
        self.mark(address, number, false);
        self.free.push(at);
    }

    /// The first of nobody's blocks with free ports, the newest.
    pub(super) fn nobodys(&self, class: Class) -> u32 {
        self.nobodys.get(class.index()).copied().unwrap_or(NONE)
    }

    /// The head of the list of a subscriber's, or nobody's, blocks with free ports.
    fn head<'a>(
        &'a mut self,
        subscribers: &'a mut Subscribers,
        owner: u32,
        class: usize,
    ) -> Option<&'a mut u32> {
        if owner == NONE {
            self.nobodys.get_mut(class)
        } else {
            subscribers.record_mut(owner)?.open.get_mut(class)
        }
    }

    /// Puts a block at the head of its list.
    pub(super) fn link(&mut self, subscribers: &mut Subscribers, at: u32, class: Class) {
        let class = class.index();
        let Some(owner) = self.record(at).map(|block| block.subscriber) else { return };
        let Some(head) = self.head(subscribers, owner, class) else { return };
        let next = core::mem::replace(head, at);
        if let Some(link) = self.link_of(at, class) {
            *link = (NONE, next);
        }
        if let Some(link) = self.link_of(next, class) {
            link.0 = at;
        }
    }

    /// Takes a block out of its list.
    pub(super) fn unlink(&mut self, subscribers: &mut Subscribers, at: u32, class: Class) {
        let class = class.index();
        let Some(owner) = self.record(at).map(|block| block.subscriber) else { return };
        let Some(&mut (previous, next)) = self.link_of(at, class) else { return };
        match self.link_of(previous, class) {
            Some(link) => link.1 = next,
            None => {
                if let Some(head) = self.head(subscribers, owner, class)
                    && *head == at
                {
                    *head = next;
                }
            }
        }
        if let Some(link) = self.link_of(next, class) {
            link.0 = previous;
        }
        if let Some(link) = self.link_of(at, class) {
            *link = (NONE, NONE);
        }
    }

    fn link_of(&mut self, at: u32, class: usize) -> Option<&mut (u32, u32)> {
        self.slab.get_mut(at as usize)?.links.get_mut(class)
    }

    /// The next block in its list.
    pub(super) fn next(&self, at: u32, class: Class) -> u32 {
        let links = self.slab.get(at as usize).and_then(|block| block.links.get(class.index()));
        links.map_or(NONE, |links| links.1)
    }

    /// Forgets a block that the new directories do not have.
    pub(super) fn forget(&mut self, at: u32) {
        if let Some(block) = self.record_mut(at) {
            block.live = false;
            self.free.push(at);
        }
    }

    /// Makes directories for `addresses` with so many blocks each; zero pages until they are written.
    pub(super) fn renew(&mut self, addresses: usize, numbers: usize) {
        self.numbers = numbers;
        self.directory = vec![0; addresses * numbers];
        self.taken = vec![[0; BLOCK_WORDS]; addresses];
    }

    /// Moves a block to another number of its address.
    pub(super) fn carry(&mut self, at: u32, address: u32) {
        if let Some(block) = self.record_mut(at) {
            block.address = address;
        }
        self.enter(at);
    }

    /// How many numbers of blocks there are.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Every block there is, by number.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.slab.len() as u32
    }
}
