//! Where the two ends of a ring stand. Plain arithmetic on indices that count up and wrap at 2^64, used by
//! the in-process channel and by the ring across segments alike. Each end keeps a copy of the other end's
//! index and looks at the shared one only when its copy says "no room" or "nothing there".

/// The peer's index cannot be true: the ring must not be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the peer wrote a ring index out of bounds: detach it")
    }
}

impl core::error::Error for Broken {}

/// The producing end. Invariant: `tail - head <= capacity`.
#[derive(Clone, Debug)]
pub(crate) struct ProducerCursor {
    tail: u64,
    head: u64,
    capacity: u64,
}

impl ProducerCursor {
    pub(crate) const fn new(capacity: u64) -> Self {
        Self::at(0, capacity)
    }

    /// An empty ring that has already carried `index` items.
    pub(crate) const fn at(index: u64, capacity: u64) -> Self {
        Self { tail: index, head: index, capacity }
    }

    /// Index of the next item to write.
    #[inline]
    pub(crate) const fn tail(&self) -> u64 {
        self.tail
    }

    /// Items that may still be written, as far as is known.
    #[inline]
    pub(crate) const fn room(&self) -> u64 {
        self.capacity - self.tail.wrapping_sub(self.head)
    }

    /// Takes note of the consumer's index and returns the room there is. It may only have moved forward,
    /// and not past our own.
    #[inline]
    pub(crate) const fn observe(&mut self, head: u64) -> Result<u64, Broken> {
        if head.wrapping_sub(self.head) > self.tail.wrapping_sub(self.head) {
            return Err(Broken);
        }
        self.head = head;
        Ok(self.room())
    }

    /// Counts `items` as written, never more than there is room for; returns the index to publish.
    #[inline]
    pub(crate) const fn advance(&mut self, items: u64) -> u64 {
        let room = self.room();
        self.tail = self.tail.wrapping_add(if items < room { items } else { room });
        self.tail
    }
}

/// The consuming end. Invariant: `tail - head <= capacity`.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerCursor {
    head: u64,
    tail: u64,
    capacity: u64,
}

impl ConsumerCursor {
    pub(crate) const fn new(capacity: u64) -> Self {
        Self::at(0, capacity)
    }

    /// An empty ring that has already carried `index` items.
    pub(crate) const fn at(index: u64, capacity: u64) -> Self {
        Self { head: index, tail: index, capacity }
    }

    /// Index of the next item to read.
    #[inline]
    pub(crate) const fn head(&self) -> u64 {
        self.head
    }

    /// Items that may be read, as far as is known.
    #[inline]
    pub(crate) const fn ready(&self) -> u64 {
        self.tail.wrapping_sub(self.head)
    }

    /// Takes note of the producer's index and returns how many items are there. It may only have moved
    /// forward, and not past the room there was.
    #[inline]
    pub(crate) const fn observe(&mut self, tail: u64) -> Result<u64, Broken> {
        if tail.wrapping_sub(self.tail) > self.capacity - self.ready() {
            return Err(Broken);
        }
        self.tail = tail;
        Ok(self.ready())
    }

    /// Counts `items` as read, never more than there are; returns the index to publish.
    #[inline]
    pub(crate) const fn advance(&mut self, items: u64) -> u64 {
        let ready = self.ready();
        self.head = self.head.wrapping_add(if items < ready { items } else { ready });
        self.head
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Produce(u64),
        Consume(u64),
        ShowTail,
        ShowHead,
        /// A wrong index: this far from the right one.
        LieAboutTail(u64),
        LieAboutHead(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..20u64).prop_map(Op::Produce),
            (0..20u64).prop_map(Op::Consume),
            Just(Op::ShowTail),
            Just(Op::ShowHead),
            any::<u64>().prop_map(Op::LieAboutTail),
            any::<u64>().prop_map(Op::LieAboutHead),
        ]
    }

    proptest! {
        /// The oracle holds the true counts as u128, so nothing of it wraps.
        #[test]
        fn cursors_agree_with_counts_that_do_not_wrap(
            shift in 0..6u32,
            start in prop_oneof![Just(0), Just(u64::MAX - 7), any::<u64>()],
            ops in proptest::collection::vec(op(), 0..200),
        ) {
            let capacity = 1u64 << shift;
            let mut producer = ProducerCursor::at(start, capacity);
            let mut consumer = ConsumerCursor::at(start, capacity);
            let base = u128::from(start);
            // Items produced, consumed, and what each end last saw of the other.
            let (mut tail, mut head, mut seen_tail, mut seen_head) = (base, base, base, base);
            for op in ops {
                match op {
                    Op::Produce(items) => {
                        tail += u128::from(items.min(capacity - (tail - seen_head) as u64));
                        prop_assert_eq!(producer.advance(items), tail as u64);
                    }
                    Op::Consume(items) => {
                        head += u128::from(items.min((seen_tail - head) as u64));
                        prop_assert_eq!(consumer.advance(items), head as u64);
                    }
                    Op::ShowTail => {
                        seen_tail = tail;
                        prop_assert_eq!(consumer.observe(tail as u64), Ok((tail - head) as u64));
                    }
                    Op::ShowHead => {
                        seen_head = head;
                        prop_assert_eq!(producer.observe(head as u64), Ok(capacity - (tail - head) as u64));
                    }
                    Op::LieAboutTail(offset) => {
                        let lie = (seen_tail as u64).wrapping_add(offset);
                        if offset > capacity - (seen_tail - head) as u64 {
                            prop_assert_eq!(consumer.observe(lie), Err(Broken));
                        }
                    }
                    Op::LieAboutHead(offset) => {
                        let lie = (seen_head as u64).wrapping_add(offset);
                        if u128::from(offset) > tail - seen_head {
                            prop_assert_eq!(producer.observe(lie), Err(Broken));
                        }
                    }
                }
                prop_assert_eq!(producer.room(), capacity - (tail - seen_head) as u64);
                prop_assert_eq!(consumer.ready(), (seen_tail - head) as u64);
                prop_assert!(tail - head <= u128::from(capacity));
            }
        }
    }
}
