//! Which flows there are, and what the box translates them to.

use crate::packet::Endpoint;

/// Flows of one subscriber.
const OF_A_SUBSCRIBER: u32 = 64;
/// First port of a subscriber.
const FIRST_PORT: u16 = 20_000;

/// Every flow, by number.
#[derive(Debug)]
pub struct Flows {
    count: u32,
    /// What the outside sees as the source; the default until that is known.
    external: Vec<Endpoint>,
    random: u64,
}

impl Flows {
    pub fn new(count: u32) -> Self {
        let count = count.max(1);
        Self { count, external: vec![Endpoint::default(); count as usize], random: 0x9e37_79b9_7f4a_7c15 }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Any flow.
    #[inline]
    pub fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (((self.random >> 32) * u64::from(self.count)) >> 32) as u32
    }

    /// The subscriber's end: in 100.64.0.0/12.
    #[inline]
    pub fn inside(flow: u32) -> Endpoint {
        let [_, a, b, c] = (flow / OF_A_SUBSCRIBER).to_be_bytes();
        Endpoint { address: [100, 64 | a & 0x0f, b, c], port: FIRST_PORT + (flow % OF_A_SUBSCRIBER) as u16 }
    }

    /// The other end: in 198.18.0.0/16, which is there for benchmarks (RFC 2544).
    #[inline]
    pub fn peer(flow: u32) -> Endpoint {
        let [_, _, b, c] = flow.wrapping_mul(2_654_435_761).to_be_bytes();
        Endpoint { address: [198, 18, b, c], port: 4000 }
    }

    /// What the outside sees of a flow; `None` while unknown.
    #[inline]
    pub fn external(&self, flow: u32) -> Option<Endpoint> {
        self.external.get(flow as usize).copied().filter(|end| end.port != 0)
    }

    /// Notes what the outside sees of a flow. `true` if that is news.
    pub fn learn(&mut self, flow: u32, end: Endpoint) -> bool {
        match self.external.get_mut(flow as usize) {
            Some(known) if *known != end => {
                *known = end;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn flows_differ_and_random_reaches_all() {
        let mut flows = Flows::new(1000);
        let ends: HashSet<_> = (0..1_000_000)
            .map(|flow| {
                let end = Flows::inside(flow);
                (end.address, end.port)
            })
            .collect();
        assert_eq!(ends.len(), 1_000_000);
        let reached: HashSet<_> = (0..20_000).map(|_| flows.random()).collect();
        assert_eq!(reached.len(), 1000);
        assert!(reached.iter().all(|&flow| flow < 1000));
    }

    #[test]
    fn what_was_learnt_is_known() {
        let mut flows = Flows::new(2);
        let end = Endpoint { address: [192, 0, 2, 1], port: 1024 };
        assert_eq!(flows.external(1), None);
        assert!(flows.learn(1, end) && !flows.learn(1, end) && !flows.learn(2, end));
        assert_eq!((flows.external(1), flows.external(0)), (Some(end), None));
    }
}
