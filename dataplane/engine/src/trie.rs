//! Longest-prefix match: a trie of eight bits a level with every prefix expanded to the level's end, so a
//! lookup walks at most four nodes for IPv4 and sixteen for IPv6 and never backtracks.

const SPAN: usize = 256;
/// Set in an entry that leads to another node.
const NODE: u32 = 1 << 31;
/// Most nodes: 640 MiB. A table that would need more is refused, lest its sender takes all memory.
const MAX_NODES: usize = if cfg!(test) { 1 << 10 } else { 1 << 19 };

/// Values by prefix. A value is below 2^31 - 1.
#[derive(Debug)]
pub(crate) struct Trie {
    /// `SPAN` entries a node: 0 for nothing, value + 1, or `NODE` and a node's index.
    entries: Vec<u32>,
    /// Length of the prefix that owns each entry, so that a longer one wins whatever the order.
    lengths: Vec<u8>,
}

impl Trie {
    pub(crate) fn new() -> Self {
        Self { entries: vec![0; SPAN], lengths: vec![0; SPAN] }
    }

    /// Adds `value` for the first `length` bits of `key`, which has enough bytes. A second value for the
    /// same prefix replaces the first. `false`, and nothing added, if there is no room.
    #[must_use]
    pub(crate) fn insert(&mut self, key: &[u8], length: u8, value: u32) -> bool {
        // A key makes at most one node for each of its bytes.
        if self.entries.len() / SPAN + key.len() > MAX_NODES {
            return false;
        }
        self.insert_at(0, key, length, 0, value + 1);
        true
    }

    fn insert_at(&mut self, node: usize, key: &[u8], length: u8, depth: u8, leaf: u32) {
        let bits = length - depth;
        if bits > 8 {
            let slot = node * SPAN + usize::from(key[usize::from(depth / 8)]);
            let child = self.descend(slot);
            self.insert_at(child, key, length, depth + 8, leaf);
            return;
        }
        let first = if bits == 0 {
            0
        } else {
            usize::from(key[usize::from(depth / 8)]) & !((1usize << (8 - bits)) - 1) & 0xff
        };
        for slot in first..first + (1 << (8 - bits)) {
            self.fill(node * SPAN + slot, length, leaf);
        }
    }

    /// Writes `leaf` where no longer prefix stands, below as well.
    fn fill(&mut self, slot: usize, length: u8, leaf: u32) {
        let entry = self.entries[slot];
        if entry & NODE == 0 {
            if self.lengths[slot] <= length {
                self.entries[slot] = leaf;
                self.lengths[slot] = length;
            }
            return;
        }
        let child = (entry & !NODE) as usize;
        for below in child * SPAN..(child + 1) * SPAN {
            self.fill(below, length, leaf);
        }
    }

    fn descend(&mut self, slot: usize) -> usize {
        let entry = self.entries[slot];
        if entry & NODE != 0 {
            return (entry & !NODE) as usize;
        }
        let child = self.entries.len() / SPAN;
        self.entries.resize(self.entries.len() + SPAN, entry);
        self.lengths.resize(self.lengths.len() + SPAN, self.lengths[slot]);
        self.entries[slot] = NODE | child as u32;
        child
    }

    /// The value of the longest prefix of `key`.
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<u32> {
        let mut node = 0;
        for &byte in key {
            let entry = *self.entries.get(node * SPAN + usize::from(byte))?;
            if entry & NODE == 0 {
                return entry.checked_sub(1);
            }
            node = (entry & !NODE) as usize;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix() -> impl Strategy<Value = (u32, u8)> {
        // Few distinct high bits, so that prefixes nest and collide.
        (
            prop::sample::select(vec![0u32, 0x0a00_0000, 0x0a01_0000, 0xc0a8_0000, 0xffff_ff00]),
            any::<u8>(),
            0u8..=32,
        )
            .prop_map(|(base, low, length)| {
                let mask = if length == 0 { 0 } else { u32::MAX << (32 - length) };
                ((base | u32::from(low)) & mask, length)
            })
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_scan(
            routes in prop::collection::btree_map(prefix(), 0u32..1000, 0..40),
            probes in prop::collection::vec((prefix(), any::<u8>()), 1..60),
        ) {
            let mut trie = Trie::new();
            for (&(address, length), &value) in &routes {
                prop_assert!(trie.insert(&address.to_be_bytes(), length, value));
            }
            let mut hits = 0;
            for ((address, _), low) in probes {
                let key = address | u32::from(low);
                let expected = routes
                    .iter()
                    .filter(|&(&(address, length), _)| {
                        length == 0 || (key ^ address) >> (32 - length) == 0
                    })
                    .max_by_key(|&(&(_, length), _)| length)
                    .map(|(_, &value)| value);
                hits += usize::from(expected.is_some());
                prop_assert_eq!(trie.lookup(&key.to_be_bytes()), expected);
            }
            prop_assert!(routes.is_empty() || !routes.contains_key(&(0, 0)) || hits > 0);
        }
    }

    #[test]
    fn a_full_trie_takes_nothing_and_answers_on() {
        let mut trie = Trie::new();
        let key = |n: u16| {
            let mut key = [0x20; 16];
            key[..2].copy_from_slice(&n.to_be_bytes());
            key
        };
        let fitted = (0..u16::MAX).take_while(|&n| trie.insert(&key(n), 128, u32::from(n))).count() as u16;
        assert!((50..200).contains(&fitted), "{fitted}");
        assert!(trie.entries.len() / SPAN <= MAX_NODES);
        assert!((0..fitted).all(|n| trie.lookup(&key(n)) == Some(u32::from(n))));
        assert_eq!(trie.lookup(&key(fitted)), None);
    }

    #[test]
    fn sixteen_levels() {
        let mut trie = Trie::new();
        let host = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        assert!(trie.insert(&[0; 16], 0, 1));
        assert!(trie.insert(&host, 128, 3));
        assert!(trie.insert(&host, 33, 2));
        assert_eq!(trie.lookup(&host), Some(3));
        let mut other = host;
        other[15] = 8;
        assert_eq!(trie.lookup(&other), Some(2));
        assert_eq!(trie.lookup(&[0xff; 16]), Some(1));
    }
}
