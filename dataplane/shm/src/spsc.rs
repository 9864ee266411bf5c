//! A bounded channel between two threads of one process: one sender, one receiver, wait-free. Each end
//! touches the other's cache line only when its copy of the other's index no longer suffices.

use crate::atomic::{Arc, AtomicU64, Ordering, UnsafeCell};
use crate::cursor::{ConsumerCursor, ProducerCursor};
use core::mem::MaybeUninit;

/// Two cache lines: processors prefetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

#[derive(Debug)]
struct Shared<T> {
    /// Index behind the last item written. Stored by the sender alone.
    tail: Padded<AtomicU64>,
    /// Index of the next item to read. Stored by the receiver alone.
    head: Padded<AtomicU64>,
    /// A power of two of them, at least the capacity.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: an item is moved in by the sender's thread and out by the receiver's, never seen by both, so
// `T: Send` suffices. The indices are atomics; a slot is touched by the one end that owns it (below).
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: it owns its items, which are `Send`.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    #[inline]
    fn slot(&self, index: u64) -> &UnsafeCell<MaybeUninit<T>> {
        // `slots.len()` is a power of two: the mask stays in bounds.
        &self.slots[index as usize & (self.slots.len() - 1)]
    }

    /// Moves the item at `index` out.
    ///
    /// # Safety
    /// The slot holds an item, nobody else touches it, and it counts as empty afterwards.
    #[inline]
    unsafe fn take(&self, index: u64) -> T {
        self.slot(index).with_mut(|slot| {
            // SAFETY: the pointer comes from a live cell, and the caller says it is ours alone.
            let item = unsafe { core::ptr::read(slot) };
            // SAFETY: the caller says the slot holds an item and will not be read again.
            unsafe { item.assume_init() }
        })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut head = self.head.0.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: both ends are gone, so this thread alone is left, and the slots from head to tail
            // hold items; each is taken once.
            drop(unsafe { self.take(head) });
            head = head.wrapping_add(1);
        }
    }
}

/// A channel for `capacity` items, in the order they were sent.
///
/// # Panics
/// If `capacity` is 0 or so large that no power of two of slots holds it.
#[must_use]
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    channel_at(0, capacity)
}

/// The channel as it is after `index` items went through.
fn channel_at<T: Send>(index: u64, capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel needs room for one item");
    let slots = (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared =
        Arc::new(Shared { tail: Padded(AtomicU64::new(index)), head: Padded(AtomicU64::new(index)), slots });
    let capacity = capacity as u64;
    (
        Sender { shared: Arc::clone(&shared), cursor: ProducerCursor::at(index, capacity) },
        Receiver { shared, cursor: ConsumerCursor::at(index, capacity) },
    )
}

/// The end that sends.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    cursor: ProducerCursor,
}

impl<T: Send> Sender<T> {
    /// Sends `item`.
    ///
    /// # Errors
    /// Hands `item` back if the channel is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.cursor.room() == 0 && self.refresh() == 0 {
            return Err(item);
        }
        self.shared.slot(self.cursor.tail()).with_mut(|slot| {
            // SAFETY: the cursor has room, so the receiver is done with this slot (its head, which we read
            // with acquire ordering, is past it) and will not look at it before we publish the new tail.
            // `&mut self` makes this the only sender. What the slot held was moved out: nothing leaks.
            unsafe { core::ptr::write(slot, MaybeUninit::new(item)) }
        });
        self.shared.tail.0.store(self.cursor.advance(1), Ordering::Release);
        Ok(())
    }

    /// Items that can be sent now without a refusal.
    #[inline]
    pub fn free(&mut self) -> usize {
        self.refresh() as usize
    }

    /// Items sent and not yet received; the receiver may be taking some meanwhile.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cursor.tail().wrapping_sub(self.shared.head.0.load(Ordering::Relaxed)) as usize
    }

    /// Whether everything sent was received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn refresh(&mut self) -> u64 {
        let head = self.shared.head.0.load(Ordering::Acquire);
        // The receiver's cursor never passes our tail; were it otherwise, the channel would count as full.
        self.cursor.observe(head).unwrap_or(0)
    }
}

/// The end that receives.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    cursor: ConsumerCursor,
}

impl<T: Send> Receiver<T> {
    /// The oldest item, if there is one.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.cursor.ready() == 0 && self.refresh() == 0 {
            return None;
        }
        // SAFETY: the cursor says an item is ready: the sender published it with a tail that we read with
        // acquire ordering, and will not touch the slot before we publish the new head. `&mut self` makes
        // this the only receiver, and the head moves past the slot below.
        let item = unsafe { self.shared.take(self.cursor.head()) };
        self.shared.head.0.store(self.cursor.advance(1), Ordering::Release);
        Some(item)
    }

    /// Appends up to `max` items to `items`, oldest first; returns how many. The slots are given back to
    /// the sender in one step.
    #[inline]
    pub fn drain_into(&mut self, items: &mut Vec<T>, max: usize) -> usize {
        let mut ready = self.cursor.ready();
        if ready < max as u64 {
            ready = self.refresh();
        }
        let count = ready.min(max as u64);
        // First the memory: from here on nothing can panic half-way.
        items.reserve(count as usize);
        for offset in 0..count {
            // SAFETY: as in `pop`; `count` items are ready, each index is taken once, and the head moves
            // past all of them below.
            items.push(unsafe { self.shared.take(self.cursor.head().wrapping_add(offset)) });
        }
        if count > 0 {
            self.shared.head.0.store(self.cursor.advance(count), Ordering::Release);
        }
        count as usize
    }

    /// Items ready to be received; the sender may be adding some meanwhile.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.tail.0.load(Ordering::Relaxed).wrapping_sub(self.cursor.head()) as usize
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn refresh(&mut self) -> u64 {
        let tail = self.shared.tail.0.load(Ordering::Acquire);
        // The sender's cursor never runs further ahead than the capacity; were it otherwise, the channel
        // would count as empty.
        self.cursor.observe(tail).unwrap_or(0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Push,
        Pop,
        Drain(usize),
        Measure,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => Just(Op::Push),
            2 => Just(Op::Pop),
            1 => (0..10usize).prop_map(Op::Drain),
            1 => Just(Op::Measure),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_bounded_queue(
            capacity in 1..20usize,
            start in prop_oneof![Just(0), Just(u64::MAX - 5), any::<u64>()],
            ops in proptest::collection::vec(op(), 0..300),
        ) {
            let (mut sender, mut receiver) = channel_at(start, capacity);
            let mut oracle = VecDeque::new();
            // Every item holds a reference to `alive`: a leak or a double drop shows in its count.
            let alive = std::sync::Arc::new(());
            for (number, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Push => {
                        let sent = sender.push((number, std::sync::Arc::clone(&alive)));
                        prop_assert_eq!(sent.is_ok(), oracle.len() < capacity);
                        if sent.is_ok() {
                            oracle.push_back(number);
                        }
                    }
                    Op::Pop => prop_assert_eq!(receiver.pop().map(|item| item.0), oracle.pop_front()),
                    Op::Drain(max) => {
                        let mut items = Vec::new();
                        let count = receiver.drain_into(&mut items, max);
                        let expected: Vec<_> = oracle.drain(..max.min(oracle.len())).collect();
                        prop_assert_eq!(count, expected.len());
                        prop_assert_eq!(items.iter().map(|item| item.0).collect::<Vec<_>>(), expected);
                    }
                    Op::Measure => {
                        prop_assert_eq!(sender.len(), oracle.len());
                        prop_assert_eq!(receiver.len(), oracle.len());
                        prop_assert_eq!(sender.is_empty(), oracle.is_empty());
                        prop_assert_eq!(receiver.is_empty(), oracle.is_empty());
                        prop_assert_eq!(sender.free(), capacity - oracle.len());
                    }
                }
                prop_assert_eq!(std::sync::Arc::strong_count(&alive), 1 + oracle.len());
            }
            drop(sender);
            drop(receiver);
            prop_assert_eq!(std::sync::Arc::strong_count(&alive), 1);
        }
    }

    #[test]
    fn two_threads_see_every_item_once_and_in_order() {
        const ITEMS: u64 = 200_000;
        let (mut sender, mut receiver) = channel::<Box<u64>>(64);
        let thread = std::thread::spawn(move || {
            for number in 0..ITEMS {
                let mut item = Box::new(number);
                while let Err(back) = sender.push(item) {
                    item = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut batch = Vec::new();
        let mut next = 0;
        while next < ITEMS {
            // By turns one at a time and in batches.
            if next % 3 == 0 {
                batch.extend(receiver.pop());
            } else {
                receiver.drain_into(&mut batch, 17);
            }
            if batch.is_empty() {
                std::thread::yield_now();
            }
            for item in batch.drain(..) {
                assert_eq!(*item, next);
                next += 1;
            }
        }
        thread.join().unwrap();
        assert!(receiver.pop().is_none());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    /// Every interleaving of three sends into a channel of two with three receptions, in which the slots
    /// are reused; loom's cells report any access that is not ordered.
    #[test]
    fn loom_items_arrive_once_and_in_order() {
        loom::model(|| {
            let (mut sender, mut receiver) = channel_at(u64::MAX, 2);
            let thread = loom::thread::spawn(move || {
                (0..3).map(|item| sender.push(Box::new(item))).filter(Result::is_ok).count()
            });
            let mut received = Vec::new();
            received.extend(receiver.pop());
            receiver.drain_into(&mut received, 2);
            let sent = thread.join().unwrap();
            while let Some(item) = receiver.pop() {
                received.push(item);
            }
            assert_eq!(received.len(), sent);
            assert!(sent >= 2);
            assert!(received.windows(2).all(|pair| *pair[0] < *pair[1]));
        });
    }

    #[test]
    fn loom_what_was_not_received_is_dropped_once() {
        loom::model(|| {
            let alive = std::sync::Arc::new(());
            let (mut sender, mut receiver) = channel(2);
            let item = std::sync::Arc::clone(&alive);
            let thread = loom::thread::spawn(move || {
                let _ = sender.push(std::sync::Arc::clone(&item));
                let _ = sender.push(item);
            });
            drop(receiver.pop());
            drop(receiver);
            thread.join().unwrap();
            assert_eq!(std::sync::Arc::strong_count(&alive), 1);
        });
    }
}
