//! The calls to the shards: what a prefill or a decode computes and copies, and whether it fails for
//! want of memory (A8).

use super::Tgis;
use super::weights::BatchType;
use crate::cost::StepShape;
use crate::request::RequestId;
use crate::scheduler::{Admission, ScheduledSeq, Step, StepDetail, StepKind};

/// What is on the shards right now.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// New sequences, by position in the batch order; whether it fails for want of memory.
    Prefill {
        new: Vec<RequestId>,
        first: bool,
        out_of_memory: bool,
    },
    Decode {
        out_of_memory: bool,
    },
    /// Frees a batch that has finished completely; no forward pass, no time.
    Cleanup,
}

fn seq(id: RequestId, new_tokens: u32, computed: u32, admission: Admission) -> ScheduledSeq {
    ScheduledSeq { id, new_tokens, computed_tokens: computed, admission, blocks: Vec::new() }
}

impl Tgis {
    /// Sends `new` to the shards: to found a batch (`first`), or beside the one that waits meanwhile.
    pub(super) fn plan_prefill(&mut self, new: Vec<RequestId>, first: bool, step: &mut Step) {
        let lengths = || new.iter().map(|&id| u64::from(self.entry(id).input));
        let seqs = u64::try_from(new.len()).expect("a batch fits u64");
        let shape = match self.config.batch_type {
            BatchType::Flash => StepShape {
                prefill_tokens: lengths().sum(),
                prefill_pairs: lengths().map(|l| l * l).sum(),
                ..StepShape::default()
            },
            BatchType::Padded => {
                let longest = lengths().max().expect("a prefill has a prompt");
                StepShape {
                    prefill_tokens: seqs * longest,
                    prefill_pairs: seqs * longest * longest,
                    ..StepShape::default()
                }
            }
        };
        let sampled_seqs = u32::try_from(new.len()).expect("a batch fits u32");
        let shape = StepShape {
            prefill_seqs: sampled_seqs,
            prefill_context: shape.prefill_tokens,
            // The logits of every prompt token are computed (A8).
            logits_rows: shape.prefill_tokens,
            sampled_seqs,
            ..shape
        };
        let resident = if first { 0 } else { self.context() };
        let limit = self.config.memory.prefill_tokens;
        let out_of_memory = limit.is_some_and(|limit| resident + shape.prefill_tokens > limit);
        // The shard drops the finished rows it is told of: survivors are copied (A8).
        let pruned = std::mem::take(&mut self.pruned);
        let copied = if pruned.is_empty() { 0 } else { resident };
        step.kind = StepKind::Prefill;
        step.shape = StepShape { kv_copy_tokens: copied, ..shape };
        step.admitted.extend(new.iter().map(|&id| (id, 0)));
        if self.record {
            step.detail = Some(StepDetail {
                scheduled: new
                    .iter()
                    .map(|&id| seq(id, self.entry(id).input, 0, Admission::New))
                    .collect(),
                pruned,
                billed_tokens: shape.prefill_tokens,
                out_of_memory,
                ..StepDetail::default()
            });
        }
        self.call = Some(Call::Prefill { new, first, out_of_memory });
    }

    /// Sends the running batch for a token each, or to be freed if none of it is left.
    pub(super) fn plan_decode(&mut self, step: &mut Step) {
        let pruned = std::mem::take(&mut self.pruned);
        if self.batch.is_empty() {
            if self.record {
                step.detail = Some(StepDetail { pruned, ..StepDetail::default() });
            }
            self.call = Some(Call::Cleanup);
            return;
        }
        let context = self.context();
        let seqs = u32::try_from(self.batch.len()).expect("a batch fits u32");
        step.kind = StepKind::Decode;
        step.shape = StepShape::decode(seqs, context);
        // FlashCausalLM rebuilds the whole KV tensor after the forward pass, unless it is alone;
        // dropping rows or concatenating batches copies everything once more before it (A8).
        let rebuild = self.rebuild || !pruned.is_empty();
        if self.config.batch_type == BatchType::Flash {
            let copies = u64::from(seqs > 1) + u64::from(rebuild);
            step.shape.kv_copy_tokens = copies * context;
        } else if rebuild {
            step.shape.kv_copy_tokens = context;
        }
        let limit = self.config.memory.decode_tokens;
        let out_of_memory = limit.is_some_and(|limit| context + u64::from(seqs) > limit);
        self.last_decode_plain = !rebuild && !out_of_memory;
        self.rebuild = false;
        if self.record {
            step.detail = Some(StepDetail {
                scheduled: self
                    .batch
                    .ids()
                    .map(|id| {
                        let entry = self.entry(id);
                        let cached = entry.input + self.tokens_of(entry) - 1;
                        seq(id, 1, cached, Admission::Running)
                    })
                    .collect(),
                pruned,
                billed_tokens: context,
                out_of_memory,
                ..StepDetail::default()
            });
        }
        self.call = Some(Call::Decode { out_of_memory });
    }
}
