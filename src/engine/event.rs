//! The event queue: boundaries of replicas in order of (time, sequence number).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::SimTime;

/// Pending boundaries. Equal times are FIFO: the sequence number counts insertions. A replica has
/// at most one boundary pending, so a binary heap of a few entries is all there is to it; insertion
/// and removal are O(log replicas).
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    heap: BinaryHeap<Reverse<(SimTime, u64, u16)>>,
    inserted: u64,
}

impl EventQueue {
    pub(super) fn push(&mut self, time: SimTime, replica: u16) {
        self.heap.push(Reverse((time, self.inserted, replica)));
        self.inserted += 1;
    }

    pub(super) fn next_time(&self) -> Option<SimTime> {
        self.heap.peek().map(|Reverse((time, ..))| *time)
    }

    /// The replica whose boundary comes first.
    pub(super) fn pop(&mut self) -> Option<u16> {
        self.heap.pop().map(|Reverse((_, _, replica))| replica)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_leave_in_order_of_time_and_equal_times_first_in_first_out(
            times in prop::collection::vec(0u64..5, 0..60),
        ) {
            let mut queue = EventQueue::default();
            for (replica, &t) in (0u16..).zip(&times) {
                queue.push(SimTime::from_nanos(t), replica);
            }
            let mut expected: Vec<(u64, u16)> = times.iter().copied().zip(0u16..).collect();
            expected.sort();
            let popped: Vec<u16> = std::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(popped, expected.into_iter().map(|(_, r)| r).collect::<Vec<_>>());
        }
    }
}
