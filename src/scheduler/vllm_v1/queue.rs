//! The waiting queue under either policy.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::request::RequestId;
use crate::time::SimTime;

use super::Policy;

/// How urgent a request is: smaller goes first. Equal priorities go by arrival, equal arrivals by
/// number (vLLM 0.32.0 `request.py`, `Request.__lt__`, where the number is the request's id).
pub(super) type Urgency = (i32, SimTime, u64);

/// Requests that wait for admission.
#[derive(Debug)]
pub(super) enum WaitingQueue {
    /// First come, first served; a preempted request returns to the front.
    Fcfs(VecDeque<RequestId>),
    /// A heap; a preempted request returns with its own urgency.
    Priority(BinaryHeap<Reverse<(Urgency, RequestId)>>),
}

impl WaitingQueue {
    pub(super) fn new(policy: Policy) -> Self {
        match policy {
            Policy::Fcfs => Self::Fcfs(VecDeque::new()),
            Policy::Priority => Self::Priority(BinaryHeap::new()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Fcfs(queue) => queue.len(),
            Self::Priority(heap) => heap.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A request arrives.
    pub(super) fn arrive(&mut self, id: RequestId, urgency: Urgency) {
        match self {
            Self::Fcfs(queue) => queue.push_back(id),
            Self::Priority(heap) => heap.push(Reverse((urgency, id))),
        }
    }

    /// A preempted request comes back.
    pub(super) fn come_back(&mut self, id: RequestId, urgency: Urgency) {
        match self {
            Self::Fcfs(queue) => queue.push_front(id),
            Self::Priority(heap) => heap.push(Reverse((urgency, id))),
        }
    }

    pub(super) fn head(&self) -> Option<RequestId> {
        match self {
            Self::Fcfs(queue) => queue.front().copied(),
            Self::Priority(heap) => heap.peek().map(|Reverse((_, id))| *id),
        }
    }

    pub(super) fn pop(&mut self) {
        match self {
            Self::Fcfs(queue) => drop(queue.pop_front()),
            Self::Priority(heap) => drop(heap.pop()),
        }
    }

    /// Everybody, the head first. O(n log n).
    pub(super) fn in_order(&self) -> Vec<RequestId> {
        match self {
            Self::Fcfs(queue) => queue.iter().copied().collect(),
            Self::Priority(heap) => {
                let mut waiting: Vec<_> = heap.iter().map(|&Reverse(entry)| entry).collect();
                waiting.sort_unstable();
                waiting.into_iter().map(|(_, id)| id).collect()
            }
        }
    }

    /// Takes a request out from wherever it is, in O(length): only for requests that end while they
    /// wait.
    pub(super) fn remove(&mut self, id: RequestId) {
        match self {
            Self::Fcfs(queue) => queue.retain(|&other| other != id),
            Self::Priority(heap) => heap.retain(|&Reverse((_, other))| other != id),
        }
    }
}
