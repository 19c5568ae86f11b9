//! The scheduler's state, counted sequence by sequence.

use crate::scheduler::audit::{Audit, Broken, Depth, Holding, Limits, QueueOrder, Rule};

use super::VllmV1;
use super::sequence::Phase;

impl VllmV1 {
    pub(super) fn take_audit(&self, depth: Depth) -> Audit {
        let identified = self.kv.is_identified();
        let (mut lockstep, mut computed_sum, mut held) = (0u64, 0u64, 0u64);
        let mut running = Vec::with_capacity(self.running.len());
        for &id in &self.running {
            let seq = &self.seqs[id.index()];
            let tokens = match seq.phase {
                Phase::Decode => self.lockstep.computed(seq),
                _ => seq.computed,
            };
            if seq.phase == Phase::Decode {
                lockstep += 1;
                computed_sum += u64::from(tokens);
            }
            let needed = self.kv.blocks_for(tokens);
            let units = u64::from(if identified { seq.table.held() } else { needed });
            held += units;
            running.push(Holding { id, tokens: u64::from(tokens), units });
        }
        let mut audit = Audit {
            running,
            waiting: self.waiting.in_order(),
            order: QueueOrder::HeadFirst,
            limits: Limits {
                seqs: Some(self.config.max_num_seqs.max(self.seat_limit()).into()),
                prompt_tokens: Some(self.budget.into()),
            },
            ..Audit::default()
        };
        let tokens = Rule::TokensConserved;
        audit.compare(tokens, "sequences in lockstep", self.lockstep.seqs().into(), lockstep);
        audit.compare(tokens, "their tokens", self.lockstep.computed_sum(), computed_sum);
        if depth == Depth::Blocks {
            let mut wrong = Vec::new();
            let tables = self.running.iter().map(|id| &self.seqs[id.index()].table);
            audit.kv = Some(self.kv.audit(tables, held, &mut wrong));
            let broken = wrong.into_iter().map(|what| Broken { rule: Rule::ReferenceCounts, what });
            audit.broken.extend(broken);
        }
        audit
    }

    fn seat_limit(&self) -> u32 {
        u32::try_from(self.seats).unwrap_or(u32::MAX)
    }
}
