//! N clients, each of which sends its next request when its last one has been answered.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::engine::observer::RequestRecord;
use crate::request::{FinishReason, RequestSpec};
use crate::time::{SimDuration, SimTime};

use super::{LengthPair, Lengths, Workload};

/// A client that is refused does not ask again before this time: without it a client and a server
/// that refuses at once would spin at one instant.
const REFUSED_PAUSE: SimDuration = SimDuration::from_millis(1);

/// A closed loop. All clients start at time zero.
#[derive(Debug)]
pub struct ClosedLoop {
    lengths: Lengths,
    /// From a reply to the client's next request: think time, network, client code.
    pause: SimDuration,
    /// (time, order of queueing, client), the next first.
    due: BinaryHeap<Reverse<(SimTime, u64, u32)>>,
    queued: u64,
    /// Requests still to be sent, if their number is limited.
    left: Option<u64>,
}

impl ClosedLoop {
    pub fn new(clients: u32, lengths: Lengths, pause: SimDuration, requests: Option<u64>) -> Self {
        let mut this = Self { lengths, pause, due: BinaryHeap::new(), queued: 0, left: requests };
        for client in 0..clients {
            this.queue(SimTime::ZERO, client);
        }
        this
    }

    fn queue(&mut self, at: SimTime, client: u32) {
        self.due.push(Reverse((at, self.queued, client)));
        self.queued += 1;
    }
}

impl Workload for ClosedLoop {
    fn next_arrival(&mut self) -> Option<SimTime> {
        if self.left == Some(0) {
            return None;
        }
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    fn take(&mut self) -> RequestSpec {
        let Reverse((_, _, client)) = self.due.pop().expect("a request was announced");
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        let LengthPair { input, output } = self.lengths.next(client);
        RequestSpec { client, ..RequestSpec::fixed(input, output) }
    }

    fn on_reply(&mut self, record: &RequestRecord) {
        let refused =
            record.outcome == crate::engine::observer::Outcome::Ended(FinishReason::Refused);
        let pause = if refused { self.pause.max(REFUSED_PAUSE) } else { self.pause };
        self.queue(record.ended + pause, record.client);
    }
}
