//! What happens when a step ends, and when a client goes away.

use crate::kv_cache::Release;
use crate::request::{FinishReason, RequestId};
use crate::scheduler::{Ended, StepOutcome};

use super::VllmV1;
use super::admission::WaitingStop;
use super::lockstep::Member;
use super::sequence::Phase;

impl VllmV1 {
    /// The oldest step in flight ends: tokens are appended, requests finish in output order
    /// (vLLM 0.32.0 `scheduler.py`, `update_from_output`).
    pub(super) fn complete_step(&mut self, outcome: &mut StepOutcome) {
        let flight = self.in_flight.pop_front().expect("a step in flight");
        outcome.decode_tokens = flight.decode;
        if flight.only_decodes() && self.in_flight.front().is_none_or(|f| f.missed.is_empty()) {
            if flight.decode > 0 {
                self.fruitless = 0;
            }
            self.spare.push(flight);
            return;
        }
        for &(order, id) in &flight.late {
            if self.is_alive((order, id)) {
                self.seqs[id.index()].outputs += 1;
                outcome.late_tokens.push(id);
            }
        }
        for chunk in flight.chunks.iter().filter(|chunk| chunk.samples) {
            let (_, id) = chunk.member;
            if self.is_alive(chunk.member) {
                let seq = &mut self.seqs[id.index()];
                if seq.is_running() {
                    // In lockstep its outputs follow from the turn counter.
                    outcome.first_tokens.push(id);
                } else {
                    seq.outputs += 1;
                    outcome.late_tokens.push(id);
                }
            }
        }
        if outcome.decode_tokens > 0 {
            let stalled = flight.missed.iter().filter(|&&member| self.is_running(member));
            outcome.stalled.extend(stalled.map(|&(_, id)| id));
        }
        if outcome.tokens() > 0 {
            self.fruitless = 0;
        }
        self.register_known_tokens();
        for &member in &flight.finishing {
            if self.is_alive(member) {
                let output_tokens = self.seqs[member.1.index()].limit;
                let reason = self.finish(member);
                outcome.ended.push(Ended { id: member.1, reason, output_tokens });
            }
        }
        self.spare.push(flight);
    }

    /// Whether the request that a flight names has not ended meanwhile.
    fn is_alive(&self, (order, id): Member) -> bool {
        let seq = &self.seqs[id.index()];
        seq.order == order && seq.phase != Phase::Absent
    }

    fn is_running(&self, (order, id): Member) -> bool {
        let seq = &self.seqs[id.index()];
        seq.order == order && seq.is_running()
    }

    /// Asynchronously a token becomes known only now. A sequence that the next step passes over has
    /// nothing in flight any more, so the key of a block that it has filled is due; for all others
    /// the next step has seen to it (vLLM 0.32.0 `async_scheduler.py`,
    /// `_update_request_with_output`).
    fn register_known_tokens(&mut self) {
        if !self.kv.caches_prefixes() {
            return;
        }
        let Some(next) = self.in_flight.front() else { return };
        for &member in &next.missed {
            if self.is_running(member) {
                let seq = &mut self.seqs[member.1.index()];
                let computed = match seq.phase {
                    Phase::Decode => self.lockstep.computed(seq),
                    _ => seq.computed,
                };
                self.kv.register(&mut seq.table, self.kv.full_blocks(computed));
            }
        }
    }

    /// A request has got its last token.
    fn finish(&mut self, member: Member) -> FinishReason {
        let (_, id) = member;
        let seq = &mut self.seqs[id.index()];
        let reason = if seq.stops { FinishReason::Stop } else { FinishReason::Length };
        if seq.is_running() {
            let computed = seq.final_computed();
            self.kv.register(&mut seq.table, self.kv.full_blocks(computed));
        }
        self.end(id);
        reason
    }

    /// A request ends before it is complete.
    pub(super) fn drop_request(
        &mut self,
        id: RequestId,
        reason: FinishReason,
        ended: &mut Vec<Ended>,
    ) {
        let output_tokens = self.outputs(id);
        self.end(id);
        ended.push(Ended { id, reason, output_tokens });
    }

    /// A request leaves the scheduler from wherever it stands; its blocks are free at once.
    fn end(&mut self, id: RequestId) {
        let seq = &self.seqs[id.index()];
        assert_ne!(seq.phase, Phase::Absent, "a request ends once");
        let member = (seq.order, id);
        if seq.is_running() {
            for flight in &mut self.in_flight {
                if flight.decodes(member, seq) {
                    flight.decode -= 1;
                }
            }
            let computed = match seq.phase {
                Phase::Decode => self.lockstep.computed(seq),
                _ => seq.computed,
            };
            let (held, keyed) = (self.kv.blocks_for(computed), self.keyed_blocks(seq, computed));
            if seq.phase == Phase::Decode {
                self.lockstep.leave(id, seq);
            }
            let table = &mut self.seqs[id.index()].table;
            self.kv.release(table, held, keyed, Release::Ended);
            let at = self.running.iter().position(|&other| other == id);
            self.running.remove(at.expect("a running request is in the list"));
            if self.seqs[id.index()].phase == Phase::Prefill {
                self.partial.retain(|&other| other != id);
            }
        } else {
            self.waiting.remove(id);
        }
        self.seqs[id.index()].phase = Phase::Absent;
        self.unflushed = true;
        self.waiting_stop = WaitingStop::Unknown;
        self.note_change();
    }

    /// Requests have come or gone: the steps in flight are not like those to come.
    pub(super) fn note_change(&mut self) {
        for flight in &mut self.in_flight {
            flight.outdated = true;
        }
    }
}
