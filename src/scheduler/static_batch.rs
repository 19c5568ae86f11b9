//! Static batching, the baseline for teaching: a batch is formed, runs until its last sequence has
//! finished, and only then is the next one formed.
//!
//! Sequences that finish early keep their row: the batch goes on computing at its full width, as a
//! plain `generate()` over a padded tensor does. That waste is what continuous batching (Orca,
//! OSDI 2022) removes.

use std::collections::VecDeque;

use crate::cost::StepShape;
use crate::request::{FinishReason, Request, RequestId};
use crate::time::SimTime;

use super::audit::{Audit, Depth, Holding, Limits, QueueOrder};
use super::{
    Admission, Ended, Occupancy, Refusal, ScheduledSeq, Scheduler, Step, StepDetail, StepKind,
    StepOutcome,
};

/// The settings of a static server. Lengths are in tokens.
#[derive(Clone, Debug)]
pub struct StaticConfig {
    /// Most sequences in a batch.
    pub batch_size: u32,
    /// Prompt and output together; longer requests are refused.
    pub max_sequence_length: u32,
    /// KV tokens that fit, padding included.
    pub kv_tokens: u64,
}

#[derive(Clone, Debug)]
struct Row {
    id: RequestId,
    prompt: u32,
    ends_at: u32,
    ends_by: FinishReason,
}

/// The static scheduler. The prompts of a batch are padded to the longest of them.
#[derive(Debug)]
pub struct StaticBatch {
    config: StaticConfig,
    waiting: VecDeque<Row>,
    /// Rows of the running batch whose requests are unfinished, by the step that ends them, the
    /// last first.
    rows: Vec<Row>,
    /// Width of the batch, finished rows included.
    width: u32,
    longest_prompt: u32,
    /// Tokens that each row of the batch has generated.
    generated: u32,
    record: bool,
}

impl StaticBatch {
    pub fn new(config: StaticConfig) -> Self {
        Self {
            config,
            waiting: VecDeque::new(),
            rows: Vec::new(),
            width: 0,
            longest_prompt: 0,
            generated: 0,
            record: false,
        }
    }

    /// Forms a batch from the head of the queue: as many as there are seats and memory for.
    fn form_batch(&mut self) {
        let (mut prompt, mut output, mut count) = (0u64, 0u64, 0u64);
        while let Some(row) = self.waiting.front() {
            let with_prompt = prompt.max(u64::from(row.prompt));
            let with_output = output.max(u64::from(row.ends_at));
            let fits = (count + 1) * (with_prompt + with_output) <= self.config.kv_tokens;
            let seat = count < u64::from(self.config.batch_size);
            if !seat || (!fits && count > 0) {
                break;
            }
            (prompt, output, count) = (with_prompt, with_output, count + 1);
            self.rows.extend(self.waiting.pop_front());
        }
        self.width = u32::try_from(self.rows.len()).expect("a batch fits u32");
        self.longest_prompt = self.rows.iter().map(|r| r.prompt).max().unwrap_or(0);
        self.generated = 0;
        self.rows.sort_by_key(|row| std::cmp::Reverse(row.ends_at));
    }

    fn context(&self) -> u64 {
        u64::from(self.width) * u64::from(self.longest_prompt + self.generated)
    }
}

impl Scheduler for StaticBatch {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        // What could not run even alone is refused, as it would be for its length.
        let room = u32::try_from(self.config.kv_tokens).unwrap_or(u32::MAX);
        let limit = self.config.max_sequence_length.min(room);
        let total = request.spec.prompt_tokens.saturating_add(request.spec.max_output_tokens);
        if total > limit {
            return Err(Refusal::TotalTooLong { total, limit });
        }
        Ok(())
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        let spec = &request.spec;
        let (ends_at, ends_by) = if spec.stop_at <= spec.max_output_tokens {
            (spec.stop_at, FinishReason::Stop)
        } else {
            (spec.max_output_tokens, FinishReason::Length)
        };
        self.waiting.push_back(Row { id, prompt: spec.prompt_tokens, ends_at, ends_by });
    }

    /// Only a waiting request can leave; a row of the batch is computed to the end.
    fn abort(&mut self, _: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        if let Some(at) = self.waiting.iter().position(|row| row.id == id) {
            self.waiting.remove(at);
            ended.push(Ended { id, reason: FinishReason::Aborted, output_tokens: 0 });
        }
    }

    fn schedule(&mut self, _: SimTime, step: &mut Step) -> bool {
        let prefill = self.rows.is_empty();
        if prefill {
            self.form_batch();
            if self.rows.is_empty() {
                return false;
            }
            let (width, longest) = (u64::from(self.width), u64::from(self.longest_prompt));
            step.kind = StepKind::Prefill;
            step.shape = StepShape {
                prefill_seqs: self.width,
                prefill_tokens: width * longest,
                prefill_pairs: width * longest * longest,
                prefill_context: width * longest,
                logits_rows: width,
                sampled_seqs: self.width,
                ..StepShape::default()
            };
            step.admitted.extend(self.rows.iter().map(|row| (row.id, 0)));
        } else {
            step.kind = StepKind::Decode;
            step.shape = StepShape::decode(self.width, self.context());
        }
        if self.record {
            let admission = if prefill { Admission::New } else { Admission::Running };
            let (new_tokens, computed_tokens) = if prefill {
                (self.longest_prompt, 0)
            } else {
                (1, self.longest_prompt + self.generated - 1)
            };
            let seq = |row: &Row| ScheduledSeq {
                id: row.id,
                new_tokens,
                computed_tokens,
                admission,
                blocks: Vec::new(),
            };
            step.detail = Some(StepDetail {
                scheduled: self.rows.iter().map(seq).collect(),
                billed_tokens: step.shape.tokens(),
                ..StepDetail::default()
            });
        }
        true
    }

    fn complete(&mut self, _: SimTime, _: SimTime, outcome: &mut StepOutcome) {
        if self.generated == 0 {
            outcome.first_tokens.extend(self.rows.iter().map(|row| row.id));
        } else {
            outcome.decode_tokens = u32::try_from(self.rows.len()).expect("a batch fits u32");
        }
        self.generated += 1;
        while self.rows.last().is_some_and(|row| row.ends_at <= self.generated) {
            let row = self.rows.pop().expect("a row was seen");
            let output_tokens = self.generated;
            outcome.ended.push(Ended { id: row.id, reason: row.ends_by, output_tokens });
        }
    }

    fn has_work(&self) -> bool {
        !self.rows.is_empty() || !self.waiting.is_empty()
    }

    fn generated(&self, id: RequestId) -> u32 {
        if self.rows.iter().any(|row| row.id == id) { self.generated } else { 0 }
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy {
            running: u32::try_from(self.rows.len()).expect("a batch fits u32"),
            waiting: u32::try_from(self.waiting.len()).expect("a queue fits u32"),
            kv_used: if self.rows.is_empty() { 0 } else { self.context() },
            kv_total: self.config.kv_tokens,
        }
    }

    fn record_detail(&mut self) {
        self.record = true;
    }

    fn audit(&self, _: Depth) -> Option<Audit> {
        let row = |row: &Row| {
            let tokens = u64::from(row.prompt + self.generated);
            Holding { id: row.id, tokens, units: tokens }
        };
        Some(Audit {
            running: self.rows.iter().map(row).collect(),
            waiting: self.waiting.iter().map(|row| row.id).collect(),
            order: QueueOrder::HeadFirst,
            limits: Limits { seqs: Some(self.config.batch_size.into()), prompt_tokens: None },
            ..Audit::default()
        })
    }
}
