//! N clients, each of which sends its next request when its last one has been answered.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::engine::observer::{Outcome, RequestRecord};
use crate::request::{FinishReason, RequestSpec};
use crate::time::{SimDuration, SimTime};

use super::tenant::Conversation;
use super::{Mix, Workload};

/// A client that is turned away does not ask again before this time: without it a client and a server
/// that refuses at once would spin at one instant.
const REFUSED_PAUSE: SimDuration = SimDuration::from_millis(1);

/// A closed loop. All clients start at time zero.
#[derive(Debug)]
pub struct ClosedLoop {
    mix: Mix,
    /// From a reply to the client's next request: network, client code.
    pause: SimDuration,
    /// The same between conversations, on top.
    think_time: SimDuration,
    /// (time, order of queueing, client), the next first.
    due: BinaryHeap<Reverse<(SimTime, u64, u32)>>,
    queued: u64,
    /// Requests still to be sent, if their number is limited.
    left: Option<u64>,
    /// What each client has still to say; empty where every request stands alone.
    conversations: Vec<Option<Conversation>>,
}

impl ClosedLoop {
    pub fn new(
        clients: u32,
        mix: Mix,
        think_time: SimDuration,
        pause: SimDuration,
        requests: Option<u64>,
    ) -> Self {
        let conversations = if mix.has_sessions() { clients } else { 0 };
        let mut this = Self {
            mix,
            pause,
            think_time,
            due: BinaryHeap::new(),
            queued: 0,
            left: requests,
            conversations: (0..conversations).map(|_| None).collect(),
        };
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
        if let Some(Some(conversation)) = self.conversations.get_mut(client as usize) {
            return conversation.go_on();
        }
        let (spec, rest) = self.mix.begin(client);
        if let Some(slot) = self.conversations.get_mut(client as usize) {
            *slot = rest;
        }
        spec
    }

    fn on_reply(&mut self, record: &RequestRecord) {
        let slot = self.conversations.get_mut(record.client as usize);
        let next_turn = slot.and_then(|slot| {
            let think = slot.as_mut()?.hear(record);
            if think.is_none() {
                *slot = None;
            }
            think
        });
        let mut pause = next_turn.unwrap_or(self.think_time) + self.pause;
        let turned_away = matches!(
            record.outcome,
            Outcome::Ended(
                FinishReason::Refused | FinishReason::Rejected | FinishReason::Unavailable
            )
        );
        if turned_away {
            pause = pause.max(REFUSED_PAUSE);
        }
        self.queue(record.ended + pause, record.client);
    }
}
