//! The buffer of waiting requests: who leaves it for the next prefill, and who gives up (A2).

use std::collections::VecDeque;

use super::Tgis;
use super::select::{self, Batch, Candidate};
use crate::request::{FinishReason, RequestId};
use crate::scheduler::Ended;
use crate::time::SimTime;

impl Tgis {
    /// How many requests must wait before decoding is interrupted (A2): a demand that falls from
    /// the batch size to 1 over `max_waiting_tokens` steps.
    pub(super) fn min_waiting(&self, waited: u32) -> u64 {
        let (running, patience) = (self.running(), self.config.max_waiting_tokens);
        if running <= 1 || waited >= patience {
            return 1;
        }
        (running * u64::from(patience - waited) / u64::from(patience)).max(1)
    }

    /// Takes the chosen requests off the buffer.
    pub(super) fn select(&mut self, min: u64) -> Vec<RequestId> {
        let mut selection = std::mem::take(&mut self.selection);
        let batch = Batch {
            count: self.running(),
            stats: self.stats(),
            prospects: &|out: &mut Vec<(u64, u64)>| out.extend(self.batch.prospects(self.tick)),
        };
        let candidates = self.buffer.iter().map(|&id| {
            let entry = self.entry(id);
            Candidate {
                input: u64::from(entry.input),
                output: u64::from(entry.max_new),
                queued_at: entry.queued_at,
            }
        });
        let waiting = u64::try_from(self.buffer.len()).expect("a queue fits u64");
        select::select(
            &self.weights,
            u64::from(self.config.max_batch_size),
            min,
            &batch,
            waiting,
            candidates,
            &mut selection,
        );
        let chosen = &selection.chosen;
        let ids: Vec<RequestId> = chosen.iter().map(|&position| self.buffer[position]).collect();
        for &position in chosen.iter().rev() {
            self.buffer.remove(position);
        }
        self.selection = selection;
        ids
    }

    /// Entries whose client has gone leave the buffer; those whose time is up are answered. Only at
    /// the start of a step.
    pub(super) fn drop_waiting(&mut self, now: SimTime, ended: &mut Vec<Ended>) {
        if self.watched == 0 {
            return;
        }
        let mut kept = VecDeque::with_capacity(self.buffer.len());
        for id in std::mem::take(&mut self.buffer) {
            let entry = self.entry(id);
            let reason = if entry.client_gone {
                FinishReason::Aborted
            } else if entry.deadline.is_some_and(|deadline| now > deadline) {
                FinishReason::TimeLimit
            } else {
                kept.push_back(id);
                continue;
            };
            ended.push(self.forget(id, reason, 0));
        }
        self.buffer = kept;
    }
}
