//! The event queue: boundaries of replicas in order of (time, sequence number).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::SimTime;

type Event = (SimTime, u64, u16);

/// Pending boundaries. Equal times are FIFO: the sequence number counts insertions. A replica has
/// at most one boundary pending, and the next one stands outside of the heap, which a deployment of
/// one replica therefore never touches; else insertion and removal are O(log replicas).
#[derive(Debug, Default)]
pub struct EventQueue {
    next: Option<Event>,
    others: BinaryHeap<Reverse<Event>>,
    inserted: u64,
}

impl EventQueue {
    /// The boundary of `replica` is at `time`.
    #[inline]
    pub fn push(&mut self, time: SimTime, replica: u16) {
        let event = (time, self.inserted, replica);
        self.inserted += 1;
        match &mut self.next {
            None => self.next = Some(event),
            Some(next) if event < *next => {
                let later = std::mem::replace(next, event);
                self.others.push(Reverse(later));
            }
            Some(_) => self.others.push(Reverse(event)),
        }
    }

    /// When the next boundary is.
    #[inline]
    pub fn next_time(&self) -> Option<SimTime> {
        self.next.map(|(time, ..)| time)
    }

    /// Forgets the boundary of `replica`, if one is pending. O(replicas).
    pub fn remove(&mut self, replica: u16) {
        if self.next.is_some_and(|(.., first)| first == replica) {
            self.pop();
        } else {
            self.others.retain(|Reverse((.., other))| *other != replica);
        }
    }

    /// The replica whose boundary comes first.
    #[inline]
    pub fn pop(&mut self) -> Option<u16> {
        let (.., replica) = self.next?;
        self.next = self.others.pop().map(|Reverse(event)| event);
        Some(replica)
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
            // One that was in between and has been taken out leaves no trace.
            queue.push(SimTime::from_nanos(2), u16::MAX);
            queue.remove(u16::MAX);
            queue.remove(u16::MAX - 1);
            let popped: Vec<u16> = std::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(popped, expected.into_iter().map(|(_, r)| r).collect::<Vec<_>>());
        }
    }
}
