//! How often a subscriber may ask.

use super::Time;
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Subscribers remembered; one that is not is one that did not ask for a while.
const MOST: usize = 65_536;

/// Whose share of the box an address belongs to: an IPv4 address, or an IPv6 network of 64 bits.
pub(super) fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of a request.
    tokens: u64,
    filled: Time,
}

/// A token bucket for each subscriber.
#[derive(Debug)]
pub(super) struct Rates {
    /// Requests a second, which is thousandths a millisecond.
    rate: u64,
    buckets: HashMap<IpAddr, Bucket>,
}

impl Rates {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate: rate.into(), buckets: HashMap::new() }
    }

    pub(super) fn set(&mut self, rate: u32) {
        self.rate = rate.into();
    }

    const fn most(&self) -> u64 {
        self.rate.saturating_mul(2000)
    }

    /// Whether `client` may have `cost` requests worth of work done.
    pub(super) fn admit(&mut self, now: Time, client: IpAddr, cost: u64) -> bool {
        let (rate, most) = (self.rate, self.most());
        let subscriber = subscriber(client);
        if self.buckets.len() >= MOST && !self.buckets.contains_key(&subscriber) {
            // Full buckets say nothing that a new one would not.
            self.buckets
                .retain(|_, bucket| bucket.tokens.saturating_add(bucket.filled.until(now) * rate) < most);
            if self.buckets.len() >= MOST {
                return false;
            }
        }
        let bucket = self.buckets.entry(subscriber).or_insert(Bucket { tokens: most, filled: now });
        let earned = bucket.filled.until(now).saturating_mul(rate);
        bucket.tokens = bucket.tokens.saturating_add(earned).min(most);
        bucket.filled = now;
        match bucket.tokens.checked_sub(cost * 1000) {
            Some(left) => {
                bucket.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_gets_twice_its_rate_at_once_and_its_rate_from_then_on() {
        let mut rates = Rates::new(10);
        let client: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        let admitted = (0..100).filter(|_| rates.admit(Time(0), client, 1)).count();
        assert_eq!(admitted, 20);
        assert!(!rates.admit(Time(0), neighbour, 1), "the same network of 64 bits");
        assert!(rates.admit(Time(0), other, 1));
        let later = (0..100).filter(|_| rates.admit(Time(1000), client, 1)).count();
        assert_eq!(later, 10);
    }

    #[test]
    fn subscribers_that_stopped_asking_make_room() {
        let mut rates = Rates::new(1);
        for number in 0..MOST as u32 {
            assert!(rates.admit(Time(0), IpAddr::from(number.to_be_bytes()), 1));
        }
        let late = IpAddr::from([255, 0, 0, 1]);
        assert!(!rates.admit(Time(0), late, 1));
        assert!(rates.admit(Time(5000), late, 1));
        assert!(rates.buckets.len() < 10);
    }
}
