//! The router's state, counted request by request.

use crate::scheduler::audit::{Audit, Holding, Limits, Rule};

use super::Tgis;
use super::calls::Call;

impl Tgis {
    pub(super) fn take_audit(&self) -> Audit {
        let (mut sum_input, mut sum_output) = (0u64, 0u64);
        let mut running = Vec::with_capacity(self.batch.len());
        for id in self.batch.ids() {
            let entry = self.entry(id);
            let generated = self.tokens_of(entry);
            let tokens = u64::from(entry.input + generated);
            sum_input += tokens;
            sum_output += u64::from(entry.max_new - generated);
            // A tensor without blocks: it holds what it is long.
            running.push(Holding { id, tokens, units: tokens });
        }
        // Not in the batch before their prefill has ended.
        if let Some(Call::Prefill { new, .. }) = &self.call {
            running.extend(new.iter().map(|&id| {
                let tokens = u64::from(self.entry(id).input);
                Holding { id, tokens, units: tokens }
            }));
        }
        let mut audit = Audit {
            running,
            waiting: self.buffer.iter().copied().collect(),
            limits: Limits { seqs: Some(self.config.max_batch_size.into()), prompt_tokens: None },
            ..Audit::default()
        };
        let tokens = Rule::TokensConserved;
        audit.compare(tokens, "tokens in memory", self.sum_input, sum_input);
        audit.compare(tokens, "tokens to come", self.sum_output, sum_output);
        audit
    }
}
