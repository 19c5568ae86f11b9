//! The prompt phase: waiting requests from the head of the queue (0.2.7 `core/scheduler.py`,
//! `_schedule`; 0.4.2 `_schedule_prefills`).

use crate::request::{FinishReason, RequestId};
use crate::scheduler::{Ended, Step};

use super::sequence::Phase;
use super::{Chunk, VllmV0};

/// What a step holds already, as admission counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// Sequences that count against `max_num_seqs`.
    pub(super) seqs: u32,
    /// Tokens without padding.
    pub(super) tokens: u64,
    /// Prompts, and the longest of them: they are padded in 0.2.7.
    pub(super) prompts: u64,
    pub(super) longest: u64,
}

/// What becomes of the request at the head of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can never run and is dropped; the next one is looked at.
    Ignore,
    /// It must wait, and everybody behind it.
    Wait,
    /// It starts with that many tokens.
    Admit(u32),
}

impl VllmV0 {
    /// Admits requests until the head of the queue must wait.
    pub(super) fn admit_waiting(&mut self, batch: &mut Batch, step: &mut Step) {
        while let Some(&id) = self.waiting.front() {
            let tokens = match self.judge(id, batch) {
                Verdict::Wait => break,
                Verdict::Ignore => {
                    let output_tokens = self.seqs[id.index()].outputs;
                    step.ended.push(Ended { id, reason: FinishReason::Ignored, output_tokens });
                    self.waiting.pop_front();
                    continue;
                }
                Verdict::Admit(tokens) => tokens,
            };
            self.waiting.pop_front();
            let seq = &mut self.seqs[id.index()];
            seq.phase = Phase::Prefill;
            seq.computed = 0;
            // Blocks for the whole prompt, even if only a chunk of it is computed.
            let len = seq.len();
            self.free_blocks -= self.blocks(len);
            self.prefilling += 1;
            batch.seqs += 1;
            batch.tokens += u64::from(tokens);
            batch.prompts += 1;
            batch.longest = batch.longest.max(u64::from(len));
            step.admitted.push((id, 0));
            self.flight.new.push(Chunk { id, tokens });
        }
        self.seat_new_prompts();
    }

    /// Whether the request at the head of the queue can start in a step that holds `batch`.
    pub(super) fn judge(&self, id: RequestId, batch: &Batch) -> Verdict {
        let config = &self.config;
        let len = self.seqs[id.index()].len();
        let limit = u64::from(config.max_num_batched_tokens);
        let (tokens, longest) = if config.enable_chunked_prefill {
            let left = u32::try_from(limit - batch.tokens).expect("part of a u32");
            (len.min(left), config.max_model_len)
        } else {
            (len, config.max_model_len.min(config.max_num_batched_tokens))
        };
        // In chunks, what is held against the greatest length is the chunk (0.4.2).
        if tokens > longest {
            return Verdict::Ignore;
        }
        let need = u64::from(self.blocks(len)) + u64::from(self.watermark_blocks);
        if need > u64::from(config.num_gpu_blocks) {
            return Verdict::Ignore;
        }
        if need > u64::from(self.free_blocks) || tokens == 0 || batch.seqs >= config.max_num_seqs {
            return Verdict::Wait;
        }
        let sum = batch.tokens + u64::from(tokens);
        if !config.rules.prompts_padded {
            return if sum > limit { Verdict::Wait } else { Verdict::Admit(tokens) };
        }
        let padded = (batch.prompts + 1) * batch.longest.max(u64::from(len));
        if padded > limit || padded - sum > u64::from(config.max_paddings) {
            return Verdict::Wait;
        }
        Verdict::Admit(tokens)
    }

    /// Puts the prompts that start in this step into the running order.
    fn seat_new_prompts(&mut self) {
        if !self.config.enable_chunked_prefill {
            // Victims are taken from the end of the running list and go to the front of the queue,
            // so that whoever waits has arrived after all that run, or with the last of them.
            self.running.extend(self.flight.new.iter().map(|chunk| chunk.id));
            return;
        }
        // The list is sorted by arrival before it is used, and new prompts stand before the decodes
        // and chunks then (0.4.2, `_schedule_chunked_prefill`): before all that arrived with them.
        for at in (0..self.flight.new.len()).rev() {
            let id = self.flight.new[at].id;
            let arrival = self.seqs[id.index()].arrival;
            let seat = self.first_arrived_at(arrival);
            self.running.insert(seat, id);
        }
    }
}
