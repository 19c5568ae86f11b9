//! The running batch: sums over it, the tokens of its sequences, and how they end (A5, A6).

use super::running::{Member, Span};
use super::weights::{BatchStats, BatchType};
use super::{Phase, Tgis};
use crate::request::{FinishReason, RequestId};
use crate::scheduler::StepOutcome;
use crate::time::SimTime;

/// A non-streaming request notices that its client has gone only at every 16th token (A5).
pub(super) const ABORT_NOTICE_TOKENS: u32 = 16;

/// A request that waits or runs.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) uid: u64,
    pub(super) input: u32,
    pub(super) max_new: u32,
    /// Tokens after which it ends by itself, and how.
    pub(super) ends_at: u32,
    pub(super) ends_by: FinishReason,
    pub(super) queued_at: SimTime,
    pub(super) deadline: Option<SimTime>,
    pub(super) client_gone: bool,
    /// Tokens generated when `joined` was taken; 0 while it waits.
    pub(super) base: u32,
    /// The decode step count at which `base` was true.
    pub(super) joined: u64,
    /// Position in the batch order.
    pub(super) order: u64,
}

impl Entry {
    /// As it stands in the running set.
    fn member(&self, id: RequestId) -> Member {
        let joined = i64::try_from(self.joined).expect("decode steps fit i64");
        let span = Span {
            last: self.joined + u64::from(self.max_new - self.base),
            start: i64::from(self.input) + i64::from(self.base) - joined,
        };
        let ends_at = self.joined + u64::from(self.ends_at.max(1)) - 1;
        Member { id, order: self.order, ends_at, span }
    }
}

impl Tgis {
    pub(super) fn running(&self) -> u64 {
        u64::try_from(self.batch.len()).expect("a batch fits u64")
    }

    pub(super) fn tokens_of(&self, entry: &Entry) -> u32 {
        let steps = u32::try_from(self.tick - entry.joined).expect("an output fits u32");
        entry.base + if entry.base == 0 { 0 } else { steps }
    }

    /// The longest sequence of the running set in tokens; only padded batches ask.
    pub(super) fn longest(&self) -> u64 {
        let lengths = self.batch.ids().map(|id| {
            let entry = self.entry(id);
            u64::from(entry.input + self.tokens_of(entry))
        });
        lengths.max().unwrap_or(0)
    }

    /// The context that a decode step walks, as the shards bill it: one token of it is new for each
    /// sequence.
    pub(super) fn context(&self) -> u64 {
        match self.config.batch_type {
            BatchType::Flash => self.sum_input,
            BatchType::Padded => self.running() * self.longest(),
        }
    }

    pub(super) fn stats(&self) -> BatchStats {
        let mut stats = BatchStats {
            sum_input: self.sum_input,
            sum_output: self.sum_output,
            ..BatchStats::default()
        };
        if self.config.batch_type == BatchType::Padded {
            for id in self.batch.ids() {
                let entry = self.entry(id);
                let tokens = self.tokens_of(entry);
                stats.max_input = stats.max_input.max(u64::from(entry.input + tokens));
                stats.max_output = stats.max_output.max(u64::from(entry.max_new - tokens));
            }
        }
        stats
    }

    /// The sequences of a prefill join the batch with their first token.
    pub(super) fn complete_prefill(
        &mut self,
        now: SimTime,
        (new, first): (Vec<RequestId>, bool),
        outcome: &mut StepOutcome,
    ) {
        let first_order = self.next_order;
        for id in new {
            let order = self.next_order;
            self.next_order += 1;
            let tick = self.tick;
            let entry = self.entries[id.index()].as_mut().expect("a request in prefill");
            entry.base = 1;
            entry.joined = tick;
            entry.order = order;
            let (input, max_new) = (u64::from(entry.input), u64::from(entry.max_new));
            let member = entry.member(id);
            self.batch.insert(member);
            self.sum_input += input + 1;
            self.sum_output += max_new - 1;
            outcome.first_tokens.push(id);
        }
        self.end_sequences(now, first_order, outcome);
        self.phase = if first { Phase::Look } else { Phase::MustDecode };
    }

    /// Ends every sequence whose time has come among those that have just got a token, which are
    /// those from `first_order` on in batch order (A5).
    pub(super) fn end_sequences(
        &mut self,
        now: SimTime,
        first_order: u64,
        outcome: &mut StepOutcome,
    ) {
        let mut done: Vec<(u64, RequestId, FinishReason)> = Vec::new();
        if self.watched > 0 {
            for (order, id) in self.batch.from(first_order) {
                let entry = self.entry(id);
                if entry.deadline.is_some_and(|deadline| now > deadline) {
                    done.push((order, id, FinishReason::TimeLimit));
                } else if entry.client_gone
                    && self.tokens_of(entry).is_multiple_of(ABORT_NOTICE_TOKENS)
                {
                    done.push((order, id, FinishReason::Aborted));
                }
            }
        }
        for (order, id) in self.batch.ended_by(self.tick) {
            if !done.iter().any(|&(other, ..)| other == order) {
                done.push((order, id, self.entry(id).ends_by));
            }
        }
        done.sort_unstable_by_key(|&(order, ..)| order);
        for (_, id, reason) in done {
            self.leave_batch(id);
            let tokens = self.tokens_of(self.entry(id));
            self.pruned.push(self.entry(id).uid);
            outcome.ended.push(self.forget(id, reason, tokens));
        }
    }

    /// Takes a sequence out of the running set and its sums; its entry stays.
    pub(super) fn leave_batch(&mut self, id: RequestId) {
        let entry = self.entry(id);
        let (member, tokens) = (entry.member(id), self.tokens_of(entry));
        let (input, output) = (u64::from(entry.input + tokens), u64::from(entry.max_new - tokens));
        self.sum_input -= input;
        self.sum_output -= output;
        self.batch.remove(member);
    }

    /// Every sequence on the shards fails (A6).
    pub(super) fn fail_running(&mut self, outcome: &mut StepOutcome) {
        let ids: Vec<RequestId> = self.batch.ids().collect();
        for id in ids {
            let tokens = self.tokens_of(self.entry(id));
            self.leave_batch(id);
            outcome.ended.push(self.forget(id, FinishReason::OutOfMemory, tokens));
        }
        self.pruned.clear();
        self.phase = Phase::Idle;
    }
}
