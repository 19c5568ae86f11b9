//! Conversations that begin whatever becomes of the earlier ones.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::engine::observer::RequestRecord;
use crate::request::RequestSpec;
use crate::time::{SimDuration, SimTime};

use super::tenant::Conversation;
use super::{Arrivals, Mix, Workload};

/// An open loop: at each arrival of a process a conversation begins, often of one request only. Later
/// turns come after the answer to the one before.
#[derive(Debug)]
pub struct OpenLoop {
    arrivals: Arrivals,
    mix: Mix,
    /// From an answer to the client's next request, beside its think time.
    pause: SimDuration,
    /// Requests still to be sent.
    left: u64,
    until: SimTime,
    /// Later turns: (time, order of queueing, conversation), the next first.
    due: BinaryHeap<Reverse<(SimTime, u64, u32)>>,
    queued: u64,
    /// Conversations that go on, by the client of their requests; only looked up, never iterated.
    live: HashMap<u32, Conversation>,
}

impl OpenLoop {
    /// Ends after `requests` or at `duration`, later turns included.
    pub fn new(
        arrivals: Arrivals,
        mix: Mix,
        pause: SimDuration,
        requests: Option<u64>,
        duration: Option<SimDuration>,
    ) -> Self {
        Self {
            arrivals,
            mix,
            pause,
            left: requests.unwrap_or(u64::MAX),
            until: duration.map_or(SimTime::MAX, |d| SimTime::ZERO + d),
            due: BinaryHeap::new(),
            queued: 0,
            live: HashMap::new(),
        }
    }

    fn next_turn(&self) -> Option<SimTime> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }
}

impl Workload for OpenLoop {
    fn next_arrival(&mut self) -> Option<SimTime> {
        if self.left == 0 {
            return None;
        }
        match (self.arrivals.peek(), self.next_turn()) {
            (Some(new), Some(turn)) => Some(new.min(turn)),
            (new, turn) => new.or(turn),
        }
    }

    fn take(&mut self) -> RequestSpec {
        self.left -= 1;
        let new = self.arrivals.peek();
        if let Some(turn) = self.next_turn()
            && new.is_none_or(|new| turn <= new)
        {
            let Reverse((_, _, client)) = self.due.pop().expect("a turn is due");
            let conversation = self.live.get_mut(&client).expect("a conversation that goes on");
            return conversation.go_on();
        }
        self.arrivals.advance();
        let (spec, rest) = self.mix.begin(0);
        if let Some(conversation) = rest {
            self.live.insert(spec.client, conversation);
        }
        spec
    }

    fn on_reply(&mut self, record: &RequestRecord) {
        let Some(conversation) = self.live.get_mut(&record.client) else { return };
        let at = conversation.hear(record).map(|think| record.ended + think + self.pause);
        match at.filter(|at| *at < self.until) {
            Some(at) => {
                self.due.push(Reverse((at, self.queued, record.client)));
                self.queued += 1;
            }
            None => {
                self.live.remove(&record.client);
            }
        }
    }
}
