//! The scheduler of vLLM V0 (`vllm/core/scheduler.py`, 0.2.7 and 0.4.2): prompts first and in steps
//! of their own while decodes stall, or, with the chunked prefill of 0.4.2, decodes first and pieces
//! of prompts in what is left of a token budget.
//!
//! Scope: groups of one sequence, so preemption is always recompute (swapping is for several
//! sequences a request); no prefix caching, LoRA, sliding window or scheduling delay. Blocks are
//! only counted. Rules in words: `engines/vllm.md` section 10.
//!
//! A step costs O(changes). Decoding sequences advance in lockstep and are not touched
//! ([`lockstep`]); where all of them are sure to get their turns, which is almost always, the
//! running loop is a look-up ([`running`], `run_all`), and otherwise the engine's own loop over the
//! batch (`run_each`).

mod admission;
mod audit;
mod describe;
mod lockstep;
mod rules;
mod running;
mod sequence;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::cost::StepShape;
use crate::request::{FinishReason, Request, RequestId};
use crate::time::SimTime;

use super::audit::{Audit, Depth};
use super::{
    Admission, Ended, Occupancy, Refusal, ScheduledSeq, Scheduler, Step, StepDetail, StepKind,
    StepOutcome,
};
use admission::{Batch, Verdict};
use lockstep::Lockstep;
pub use rules::VllmV0Rules;
use sequence::{Phase, Sequence};

/// Share of the blocks that admission leaves free (`BlockSpaceManager`, `watermark`).
const WATERMARK: f64 = 0.01;

/// The settings of one replica, named as vLLM names them. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct VllmV0Config {
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    /// Most padding in a step of prompts; only where prompts are padded (0.2.7).
    pub max_paddings: u32,
    pub num_gpu_blocks: u32,
    pub block_size: u32,
    pub enable_chunked_prefill: bool,
    pub rules: VllmV0Rules,
}

/// Tokens of a prompt that a step computes.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    id: RequestId,
    tokens: u32,
}

/// The step that is decided and has not ended.
#[derive(Debug, Default)]
struct Flight {
    /// Prompts that it starts.
    new: Vec<Chunk>,
    /// Prompts that it continues.
    chunks: Vec<Chunk>,
    /// Whether it gives a token to those in lockstep.
    decodes: bool,
    /// Those in lockstep for which its budget does not suffice.
    stalled: Vec<RequestId>,
}

impl Flight {
    fn clear(&mut self) {
        self.new.clear();
        self.chunks.clear();
        self.decodes = false;
        self.stalled.clear();
    }
}

/// The V0 scheduler of one replica.
#[derive(Debug)]
pub struct VllmV0 {
    config: VllmV0Config,
    watermark_blocks: u32,
    free_blocks: u32,
    /// By request slot.
    seqs: Vec<Sequence>,
    waiting: VecDeque<RequestId>,
    /// By arrival; those that arrived together in the order of the engine's own list. Removing one
    /// moves four bytes for each that stands behind it.
    running: Vec<RequestId>,
    /// Running sequences in phase [`Phase::Prefill`].
    prefilling: usize,
    lockstep: Lockstep,
    flight: Flight,
    /// Preemptions since the last token.
    fruitless: u32,
    finished: Vec<(usize, RequestId)>,
    record: bool,
    /// Always runs the engine's own loop over the batch.
    #[cfg(test)]
    exact_only: bool,
}

impl VllmV0 {
    pub fn new(config: VllmV0Config) -> Self {
        assert!(config.max_num_seqs > 0, "at least one sequence runs at a time");
        assert!(config.max_num_batched_tokens > 0, "a step has a token budget");
        assert!(
            !config.enable_chunked_prefill || config.rules.chunked_prefill_exists,
            "this version has no chunked prefill"
        );
        Self {
            // Python's int() truncates.
            watermark_blocks: (WATERMARK * f64::from(config.num_gpu_blocks)) as u32,
            free_blocks: config.num_gpu_blocks,
            seqs: Vec::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefilling: 0,
            lockstep: Lockstep::new(config.block_size),
            flight: Flight::default(),
            fruitless: 0,
            finished: Vec::new(),
            record: false,
            #[cfg(test)]
            exact_only: false,
            config,
        }
    }

    /// Blocks that `tokens` tokens fill.
    fn blocks(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.config.block_size)
    }

    /// Running sequences, all of which count against `max_num_seqs`.
    fn running_seqs(&self) -> u32 {
        u32::try_from(self.running.len()).expect("a batch fits u32")
    }

    /// What `step` computes, once it is decided.
    fn describe(&self, batch: &Batch, step: &mut Step) {
        let flight = &self.flight;
        let mut shape = StepShape::default();
        if flight.decodes {
            let missed: u64 = flight.stalled.iter().map(|&id| self.computed(id)).sum();
            let stalled = u32::try_from(flight.stalled.len()).expect("a batch fits u32");
            let context = self.lockstep.computed_sum() - missed;
            shape = StepShape::decode(self.lockstep.seqs() - stalled, context);
        }
        for chunk in flight.new.iter().chain(&flight.chunks) {
            let seq = &self.seqs[chunk.id.index()];
            shape.push(seq.computed, chunk.tokens);
            // Only what follows the last prompt token is sampled.
            let sampled = seq.computed + chunk.tokens == seq.len();
            shape.sampled_seqs += u32::from(sampled);
            shape.logits_rows += u64::from(sampled);
        }
        if self.config.rules.prompts_padded && batch.prompts > 0 {
            let single = u64::from(shape.decode_seqs);
            shape.prefill_tokens = batch.prompts * batch.longest - single;
            shape.prefill_pairs = batch.prompts * batch.longest * batch.longest - single;
        }
        let prompts = !(flight.new.is_empty() && flight.chunks.is_empty());
        step.kind = match (prompts, flight.decodes) {
            (true, true) => StepKind::Mixed,
            (true, false) => StepKind::Prefill,
            (false, true) => StepKind::Decode,
            (false, false) => StepKind::Empty,
        };
        step.shape = shape;
        if self.record {
            step.detail = Some(self.detail(batch));
        }
    }

    /// The batch in the engine's order: new prompts, prompts in progress, decodes.
    fn detail(&self, batch: &Batch) -> StepDetail {
        let seq = |id, new_tokens, computed_tokens, admission| ScheduledSeq {
            id,
            new_tokens,
            computed_tokens,
            admission,
            blocks: Vec::new(),
        };
        let mut scheduled = Vec::new();
        for &Chunk { id, tokens } in &self.flight.new {
            let resumed = self.seqs[id.index()].preempted;
            let admission = if resumed { Admission::Resumed } else { Admission::New };
            scheduled.push(seq(id, tokens, 0, admission));
        }
        for &Chunk { id, tokens } in &self.flight.chunks {
            scheduled.push(seq(id, tokens, self.seqs[id.index()].computed, Admission::Running));
        }
        for &id in self.running.iter().filter(|&&id| self.decodes_now(id)) {
            let computed = self.lockstep.computed(&self.seqs[id.index()]);
            scheduled.push(seq(id, 1, computed - 1, Admission::Running));
        }
        let padded = self.config.rules.prompts_padded && batch.prompts > 0;
        StepDetail {
            scheduled,
            free_blocks: u64::from(self.free_blocks),
            batched_tokens: if padded { batch.prompts * batch.longest } else { batch.tokens },
            ..StepDetail::default()
        }
    }

    fn computed(&self, id: RequestId) -> u64 {
        u64::from(self.lockstep.computed(&self.seqs[id.index()]))
    }

    /// Whether the step in flight gives a decoding sequence a token.
    fn decodes_now(&self, id: RequestId) -> bool {
        let seq = &self.seqs[id.index()];
        self.flight.decodes && seq.phase == Phase::Decode && !self.flight.stalled.contains(&id)
    }

    /// The prompts of a step have advanced; where one is complete, its sequence has got a token.
    fn complete_prompts(&mut self, chunks: &[Chunk], outcome: &mut StepOutcome) {
        for &Chunk { id, tokens } in chunks {
            let seq = &mut self.seqs[id.index()];
            seq.computed += tokens;
            if seq.computed < seq.len() {
                continue;
            }
            outcome.first_tokens.push(id);
            if seq.outputs + 1 < seq.limit {
                seq.outputs += 1;
                self.prefilling -= 1;
                self.lockstep.join(id, seq);
            } else {
                self.running.remove(self.position(id));
                self.release(id);
                outcome.ended.push(self.ended(id));
            }
        }
    }

    /// Ends the decoding sequences that have got their last token, in running order.
    fn complete_decodes(&mut self, outcome: &mut StepOutcome) {
        let mut finished = std::mem::take(&mut self.finished);
        while let Some(id) = self.lockstep.next_finished(&self.seqs) {
            finished.push((self.position(id), id));
            self.release(id);
        }
        finished.sort_unstable();
        outcome.ended.extend(finished.iter().map(|&(_, id)| self.ended(id)));
        for (at, _) in finished.drain(..).rev() {
            self.running.remove(at);
        }
        self.finished = finished;
    }

    /// How a sequence that has all its tokens ends.
    fn ended(&self, id: RequestId) -> Ended {
        let seq = &self.seqs[id.index()];
        Ended { id, reason: seq.ends_by(), output_tokens: seq.limit }
    }
}

impl Scheduler for VllmV0 {
    /// V0 refuses nobody: what is too long is dropped when its turn comes (`Ignored`).
    fn admit(&mut self, _: &Request) -> Result<(), Refusal> {
        Ok(())
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        if self.seqs.len() <= id.index() {
            self.seqs.resize_with(id.index() + 1, Sequence::default);
        }
        self.seqs[id.index()] = Sequence::new(request, self.config.max_model_len);
        self.waiting.push_back(id);
    }

    fn abort(&mut self, _: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        let output_tokens = self.generated(id);
        if self.seqs[id.index()].phase == Phase::Waiting {
            let at = self.waiting.iter().position(|&other| other == id);
            self.waiting.remove(at.expect("who does not run waits"));
        } else {
            self.running.remove(self.position(id));
            self.release(id);
            self.flight.new.retain(|chunk| chunk.id != id);
            self.flight.chunks.retain(|chunk| chunk.id != id);
            self.flight.stalled.retain(|&other| other != id);
        }
        ended.push(Ended { id, reason: FinishReason::Aborted, output_tokens });
    }

    fn schedule(&mut self, _: SimTime, step: &mut Step) -> bool {
        if !self.has_work() {
            return false;
        }
        self.flight.clear();
        let batch = if self.config.enable_chunked_prefill {
            let mut batch = self.run_running(self.config.max_num_batched_tokens, step);
            // Even after a preemption; but the victims are not in the queue yet.
            self.admit_waiting(&mut batch, step);
            batch
        } else {
            let mut batch = Batch { seqs: self.running_seqs(), ..Batch::default() };
            self.admit_waiting(&mut batch, step);
            let ignored = self.config.rules.ignoring_is_a_step && !step.ended.is_empty();
            if self.flight.new.is_empty() && !ignored {
                // The token limit is not applied to decodes.
                batch = self.run_running(u32::MAX, step);
            }
            batch
        };
        for &id in &step.preempted {
            self.waiting.push_front(id);
        }
        self.describe(&batch, step);
        true
    }

    fn complete(&mut self, _: SimTime, _: SimTime, outcome: &mut StepOutcome) {
        let mut flight = std::mem::take(&mut self.flight);
        if flight.decodes {
            let stalled = u32::try_from(flight.stalled.len()).expect("a batch fits u32");
            outcome.decode_tokens = self.lockstep.seqs() - stalled;
        }
        if outcome.decode_tokens > 0 {
            outcome.stalled.append(&mut flight.stalled);
        }
        self.complete_prompts(&flight.new, outcome);
        self.complete_prompts(&flight.chunks, outcome);
        self.complete_decodes(outcome);
        if outcome.decode_tokens > 0 || !outcome.first_tokens.is_empty() {
            self.fruitless = 0;
        }
        flight.clear();
        self.flight = flight;
    }

    fn steady_turns(&self) -> u32 {
        let flight = &self.flight;
        let seqs = self.lockstep.seqs();
        let plain = flight.new.is_empty() && flight.chunks.is_empty() && flight.stalled.is_empty();
        if !flight.decodes || !plain || self.running_seqs() != seqs {
            return 0;
        }
        if let Some(&head) = self.waiting.front() {
            let tokens = if self.config.enable_chunked_prefill { u64::from(seqs) } else { 0 };
            // What makes it wait lasts: seats and tokens do not change, and blocks only get fewer.
            let batch = Batch { seqs, tokens, ..Batch::default() };
            if self.judge(head, &batch) != Verdict::Wait {
                return 0;
            }
        }
        // A free block must be left at every turn, or somebody is preempted.
        let Some(spare) = self.free_blocks.checked_sub(1) else { return 0 };
        self.lockstep.turns_within(spare, self.lockstep.turns_to_finish())
    }

    fn advance(&mut self, turns: u32) {
        let blocks = self.lockstep.blocks_for_turns(turns);
        self.free_blocks -= u32::try_from(blocks).expect("no more than are free");
        self.lockstep.tick(turns);
    }

    fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    fn generated(&self, id: RequestId) -> u32 {
        let seq = &self.seqs[id.index()];
        if seq.phase != Phase::Decode {
            return seq.outputs;
        }
        let outputs = self.lockstep.computed(seq) + 1 - seq.prompt;
        outputs - u32::from(self.decodes_now(id))
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy {
            running: self.running_seqs(),
            waiting: u32::try_from(self.waiting.len()).expect("a queue fits u32"),
            kv_used: u64::from(self.config.num_gpu_blocks - self.free_blocks),
            kv_total: u64::from(self.config.num_gpu_blocks),
        }
    }

    fn record_detail(&mut self) {
        self.record = true;
    }

    fn audit(&self, _: Depth) -> Option<Audit> {
        Some(self.take_audit())
    }
}
