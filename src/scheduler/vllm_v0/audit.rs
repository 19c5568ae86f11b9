//! The scheduler's state, counted sequence by sequence.

use crate::kv_cache::KvAudit;
use crate::scheduler::audit::{Audit, Holding, Limits, QueueOrder, Rule};

use super::VllmV0;
use super::sequence::Phase;

impl VllmV0 {
    pub(super) fn take_audit(&self) -> Audit {
        let (mut lockstep, mut computed_sum, mut held) = (0u64, 0u64, 0u64);
        let mut running = Vec::with_capacity(self.running.len());
        for &id in &self.running {
            let seq = &self.seqs[id.index()];
            let tokens = match seq.phase {
                Phase::Decode => self.lockstep.computed(seq),
                _ => seq.len(),
            };
            if seq.phase == Phase::Decode {
                lockstep += 1;
                computed_sum += u64::from(tokens);
            }
            let units = u64::from(self.blocks(tokens));
            held += units;
            running.push(Holding { id, tokens: u64::from(tokens), units });
        }
        let mut audit = Audit {
            running,
            waiting: self.waiting.iter().copied().collect(),
            order: QueueOrder::HeadFirst,
            limits: Limits {
                // With chunks only what a step schedules counts, and in it only at admission.
                seqs: (!self.config.enable_chunked_prefill)
                    .then(|| self.config.max_num_seqs.into()),
                prompt_tokens: Some(self.config.max_num_batched_tokens.into()),
            },
            kv: Some(KvAudit {
                unit_tokens: self.config.block_size,
                total: self.config.num_gpu_blocks.into(),
                free: self.free_blocks.into(),
                held,
                cached: 0,
            }),
            ..Audit::default()
        };
        let tokens = Rule::TokensConserved;
        audit.compare(tokens, "sequences in lockstep", self.lockstep.seqs().into(), lockstep);
        audit.compare(tokens, "their tokens", self.lockstep.computed_sum(), computed_sum);
        audit
    }
}
