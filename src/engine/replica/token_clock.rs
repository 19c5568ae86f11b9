//! When tokens leave a replica, and the gaps between them.

use crate::engine::observer::Observer;
use crate::request::{Request, RequestId, RequestTable};
use crate::scheduler::StepOutcome;
use crate::time::SimTime;

/// When the sequences of a replica got their newest tokens.
///
/// All sequences that decode together got theirs at the same instant, so one instant stands for the
/// whole batch; only those whose token came at another time (a prefill that stalled the others, a
/// step that passed them over) carry their own in [`crate::request::Request::last_token`].
#[derive(Debug, Default)]
pub(super) struct TokenClock {
    pub(super) batch: SimTime,
    /// Sequences with an instant of their own; few, and empty most of the time.
    apart: Vec<RequestId>,
}

impl TokenClock {
    /// Notes the tokens of a step that ended at `now`.
    pub(super) fn tokens<O: Observer>(
        &mut self,
        now: SimTime,
        outcome: &StepOutcome,
        requests: &mut RequestTable,
        observer: &mut O,
    ) {
        for &id in &outcome.stalled {
            if !self.apart.contains(&id) {
                requests.get_mut(id).last_token = self.batch;
                self.apart.push(id);
            }
        }
        if outcome.decode_tokens > 0 && self.apart.is_empty() {
            observer.on_token_gap(now.since(self.batch), outcome.decode_tokens);
            self.batch = now;
        } else if outcome.decode_tokens > 0 {
            let mut together = outcome.decode_tokens;
            self.apart.retain(|&id| {
                if outcome.stalled.contains(&id) {
                    return true;
                }
                observer.on_token_gap(now.since(requests.get(id).last_token), 1);
                together -= 1;
                false
            });
            if together > 0 {
                observer.on_token_gap(now.since(self.batch), together);
            }
            self.batch = now;
        }
        for &id in &outcome.first_tokens {
            let request = requests.get_mut(id);
            token_apart(now, request, observer);
            request.decoding = true;
            if self.batch != now {
                self.apart.push(id);
            }
        }
        for &id in &outcome.late_tokens {
            token_apart(now, requests.get_mut(id), observer);
        }
    }

    /// The tokens of a step in which `seqs` sequences decoded and nothing else happened.
    #[inline]
    pub(super) fn decode_tokens<O: Observer>(
        &mut self,
        now: SimTime,
        seqs: u32,
        requests: &RequestTable,
        observer: &mut O,
    ) {
        let mut together = seqs;
        if !self.apart.is_empty() {
            for id in self.apart.drain(..) {
                observer.on_token_gap(now.since(requests.get(id).last_token), 1);
                together -= 1;
            }
        }
        if together > 0 {
            observer.on_token_gap(now.since(self.batch), together);
        }
        self.batch = now;
    }

    /// A sequence is preempted: it keeps the instant of its newest token, which is not the batch's
    /// if it was still being recomputed.
    pub(super) fn leave_batch(&mut self, id: RequestId, requests: &mut RequestTable) {
        let request = requests.get_mut(id);
        if let Some(at) = self.apart.iter().position(|&other| other == id) {
            self.apart.swap_remove(at);
        } else if request.decoding {
            request.last_token = self.batch;
        }
        request.decoding = false;
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        if let Some(at) = self.apart.iter().position(|&other| other == id) {
            self.apart.swap_remove(at);
        }
    }
}

/// A request gets a token that the batch's instant does not stand for.
fn token_apart<O: Observer>(now: SimTime, request: &mut Request, observer: &mut O) {
    if request.first_token.is_none() {
        request.first_token = Some(now);
    } else {
        observer.on_token_gap(now.since(request.last_token), 1);
    }
    request.last_token = now;
}
