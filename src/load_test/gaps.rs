//! The gaps between the tokens of each request, for results that list them.
//!
//! The engine tells gaps by step, with how many sequences had each. Who they were follows from the
//! steps' outcomes: all that run and are not named as stalled get a token.

use std::collections::BTreeMap;

use crate::engine::observer::{CompletedStep, RequestRecord, ScheduledStep};
use crate::request::{RequestId, RequestTable};
use crate::time::{SimDuration, SimTime};

/// Keeps every gap: its memory grows with the number of tokens.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// By request: its newest token and the gaps before it.
    tokens: BTreeMap<u64, (SimTime, Vec<SimDuration>)>,
    /// Requests that decode, by replica.
    decoding: Vec<Vec<u64>>,
}

impl Gaps {
    /// Of a request that has ended, in order.
    pub(super) fn of(&self, uid: u64) -> &[SimDuration] {
        self.tokens.get(&uid).map_or(&[], |(_, gaps)| gaps)
    }

    pub(super) fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        let preempted = uids(&step.step.preempted, step.requests);
        self.on_replica(step.replica).retain(|uid| !preempted.contains(uid));
    }

    pub(super) fn on_completed(&mut self, step: &CompletedStep<'_>) {
        let outcome = step.outcome;
        let of = |ids| uids(ids, step.requests);
        if outcome.decode_tokens > 0 {
            let stalled = of(&outcome.stalled);
            let decoding = std::mem::take(self.on_replica(step.replica));
            for &uid in decoding.iter().filter(|uid| !stalled.contains(uid)) {
                self.token(uid, step.end);
            }
            *self.on_replica(step.replica) = decoding;
        }
        for uid in of(&outcome.first_tokens) {
            self.token(uid, step.end);
            self.on_replica(step.replica).push(uid);
        }
        for uid in of(&outcome.late_tokens) {
            self.token(uid, step.end);
        }
    }

    pub(super) fn on_request(&mut self, record: &RequestRecord) {
        self.decoding.iter_mut().for_each(|running| running.retain(|&uid| uid != record.uid));
    }

    /// Nobody got the tokens of the attempt.
    pub(super) fn on_lost_attempt(&mut self, record: &RequestRecord) {
        self.on_request(record);
        self.tokens.remove(&record.uid);
    }

    fn on_replica(&mut self, replica: u16) -> &mut Vec<u64> {
        let replica = usize::from(replica);
        if self.decoding.len() <= replica {
            self.decoding.resize_with(replica + 1, Vec::new);
        }
        &mut self.decoding[replica]
    }

    fn token(&mut self, uid: u64, now: SimTime) {
        match self.tokens.get_mut(&uid) {
            Some((last, gaps)) => {
                gaps.push(now.since(*last));
                *last = now;
            }
            None => {
                self.tokens.insert(uid, (now, Vec::new()));
            }
        }
    }
}

fn uids(ids: &[RequestId], requests: &RequestTable) -> Vec<u64> {
    ids.iter().map(|&id| requests.get(id).uid).collect()
}
