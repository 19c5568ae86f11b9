//! Calls to the shards: what they compute, and what they bring about.

use crate::request::{FinishReason, RequestId};
use crate::scheduler::{Admission, ScheduledSeq, Step, StepDetail, StepKind, StepOutcome};

use super::batch::{Prefilling, Rows};
use super::{Phase, Progress, Tgi};

/// The call that is on the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The members from `first_order` on are new; whether a batch begins with it.
    Prefill {
        first_order: u64,
        first: bool,
    },
    Decode,
}

impl Tgi {
    /// What was taken joins the batch and is prefilled.
    pub(super) fn plan_prefill(&mut self, step: &mut Step) {
        let first_order = self.next_order;
        let taken = std::mem::take(&mut self.taken);
        for &(id, chunk) in &taken {
            let order = self.next_order;
            self.next_order += 1;
            let entry = self.entry_mut(id);
            entry.progress = Progress::Prefilling;
            entry.member.order = order;
            entry.member.blocks = entry.allocation.blocks;
            let (member, computed) = (entry.member, entry.cached());
            self.batch.reserve(member.blocks);
            self.batch.prefilling.push(Prefilling { id, computed, chunk, input: member.input });
            step.admitted.push((id, computed));
        }
        self.taken = taken;
        self.waited = 1;
        let first = self.phase == Phase::Idle;
        self.plan(Call::Prefill { first_order, first }, step);
    }

    /// Whether the decoding sequences take part in a call.
    pub(super) fn includes_decoding(&self, call: Call) -> bool {
        call == Call::Decode || self.config.rules.prefill_joins_decoding()
    }

    pub(super) fn plan(&mut self, call: Call, step: &mut Step) {
        let joint = self.includes_decoding(call);
        step.shape = self.batch.shape(joint);
        step.kind = match (self.batch.prefilling.is_empty(), joint && self.batch.decoding() > 0) {
            (true, _) => StepKind::Decode,
            (false, false) => StepKind::Prefill,
            (false, true) => StepKind::Mixed,
        };
        if self.record {
            step.detail = Some(self.detail(call, joint));
        }
        self.call = Some(call);
    }

    fn detail(&self, call: Call, joint: bool) -> StepDetail {
        let first_order = match call {
            Call::Prefill { first_order, .. } => first_order,
            Call::Decode => self.next_order,
        };
        let chunk_of = |id| self.batch.prefilling.iter().find(|p| p.id == id);
        let mut members: Vec<(u64, u32, ScheduledSeq)> = (0u32..)
            .map(RequestId)
            .zip(&self.entries)
            .filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
            .filter_map(|(id, entry)| {
                let (new_tokens, computed_tokens) = match entry.progress {
                    Progress::Decoding { .. } if joint => {
                        (1, entry.member.input + self.generated_by(entry) - 1)
                    }
                    Progress::Prefilling => {
                        let prompt = chunk_of(id).expect("a member whose prompt is incomplete");
                        (prompt.chunk, prompt.computed)
                    }
                    Progress::Decoding { .. } | Progress::Waiting => return None,
                };
                let new = entry.member.order >= first_order;
                let admission = if new { Admission::New } else { Admission::Running };
                let blocks = Vec::new();
                let seq = ScheduledSeq { id, new_tokens, computed_tokens, admission, blocks };
                Some((entry.member.order, entry.member.blocks, seq))
            })
            .collect();
        members.sort_unstable_by_key(|&(order, ..)| order);
        StepDetail {
            blocks_held: members.iter().map(|&(_, blocks, _)| u64::from(blocks)).sum(),
            scheduled: members.into_iter().map(|(.., seq)| seq).collect(),
            prefill_call: matches!(call, Call::Prefill { .. }),
            ..StepDetail::default()
        }
    }

    /// The prompts of a call are one chunk further: those that are complete get their first token,
    /// the others their next chunk. Returns what was prefilled whole, as rows.
    pub(super) fn advance_prompts(&mut self, size: u32, outcome: &mut StepOutcome) -> Rows {
        let mut complete = Rows::default();
        let mut prompts = std::mem::take(&mut self.batch.prefilling);
        prompts.retain_mut(|prompt| {
            prompt.computed += prompt.chunk;
            if prompt.computed < prompt.input {
                return true;
            }
            let joined = self.batch.tick();
            let entry = self.entry_mut(prompt.id);
            entry.progress = Progress::Decoding { joined };
            let member = entry.member;
            self.batch.start_decoding(prompt.id, &member);
            outcome.first_tokens.push(prompt.id);
            complete.count += 1;
            complete.width = complete.width.max(u64::from(member.input));
            complete.to_come += u64::from(member.max_new);
            false
        });
        self.batch.prefilling = prompts;
        self.batch.hand_out_chunks(self.config.max_batch_prefill_tokens, size);
        complete
    }

    /// Ends the sequences that have just got their last token, or a token that nobody awaits. Only
    /// those from `first_order` on have got one.
    pub(super) fn end_sequences(&mut self, first_order: u64, outcome: &mut StepOutcome) {
        let mut done = std::mem::take(&mut self.done);
        done.extend(self.batch.due().map(|(order, id)| (order, id, self.entry(id).ends_by)));
        for &id in &self.gone {
            let entry = self.entry(id);
            let order = entry.member.order;
            let decoding = matches!(entry.progress, Progress::Decoding { .. });
            if decoding && order >= first_order {
                done.retain(|&(other, ..)| other != order);
                done.push((order, id, FinishReason::Aborted));
            }
        }
        done.sort_unstable_by_key(|&(order, ..)| order);
        for &(_, id, reason) in &done {
            let entry = self.entry(id);
            let (member, gone) = (entry.member, entry.client_gone);
            let Progress::Decoding { joined } = entry.progress else {
                unreachable!("only a sequence that got a token ends")
            };
            let tokens = self.generated_by(entry);
            if gone {
                self.gone.retain(|&other| other != id);
            }
            self.batch.leave(&member, joined);
            self.free_blocks(id);
            outcome.ended.push(self.forget(id, reason, tokens));
        }
        done.clear();
        self.done = done;
    }

    /// Those of the newest prefill that are still there, as rows.
    pub(super) fn rows_left(&self, outcome: &StepOutcome) -> Rows {
        let mut left = Rows::default();
        for &id in &outcome.first_tokens {
            if let Some(entry) = &self.entries[id.index()] {
                left.count += 1;
                left.width = left.width.max(u64::from(entry.member.input) + 1);
                left.to_come += u64::from(entry.member.max_new) - 1;
            }
        }
        left
    }
}
