//! The waiting loop: whom a step admits.

use crate::request::RequestId;
use crate::scheduler::Step;

use super::sequence::Phase;
use super::{Policy, Round, VllmV1};

/// Why the newest waiting loop stopped, as far as it tells whether the next one would do anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitingStop {
    /// It did not run, or something has changed since.
    Unknown,
    /// Nobody waits.
    Drained,
    /// All seats are taken.
    Seats,
    /// The token budget is used up, or too small for the whole prompt.
    Budget,
    /// The head finds too few free blocks, and cannot find more cached ones.
    Blocks,
    /// The head finds too few free blocks, but others may yet compute what it looks for.
    SharedBlocks,
}

impl WaitingStop {
    pub(super) fn after_arrival(self, policy: Policy) -> Self {
        // Behind a head that is stuck an arrival changes nothing, unless it becomes the head.
        if self == Self::Drained || policy == Policy::Priority { Self::Unknown } else { self }
    }

    /// Whether the loop stays stuck while sequences only decode: seats do not free up, the budget
    /// left is the same at each turn, and free blocks become only fewer. A cached block that the
    /// head counts on may be taken, but then one free block less is needed and there is one less.
    pub(super) fn lasts(self) -> bool {
        matches!(self, Self::Drained | Self::Seats | Self::Budget | Self::Blocks)
    }
}

impl VllmV1 {
    /// Admits waiting requests in order until one does not fit: nobody overtakes the head
    /// (vLLM 0.32.0 `scheduler.py`, `schedule`).
    pub(super) fn admit_waiting(&mut self, round: &mut Round, step: &mut Step) -> WaitingStop {
        loop {
            let Some(id) = self.waiting.head() else { return WaitingStop::Drained };
            if round.budget == 0 {
                return WaitingStop::Budget;
            }
            if self.running.len() >= self.seats {
                return WaitingStop::Seats;
            }
            if let Err(stop) = self.admit_head(id, round, step) {
                return stop;
            }
        }
    }

    fn admit_head(
        &mut self,
        id: RequestId,
        round: &mut Round,
        step: &mut Step,
    ) -> Result<(), WaitingStop> {
        let seq = &mut self.seqs[id.index()];
        let known = seq.known();
        // At least one token is left to compute, so that there is something to sample from.
        let hit = self.kv.lookup(&mut seq.table, self.kv.full_blocks(known - 1));
        let cached = hit.blocks * self.config.block_size;
        // The cap comes first: with a threshold, prompts are chunked even where chunking is off.
        let wanted = round.capped(known - cached);
        if !self.config.enable_chunked_prefill && wanted > round.budget {
            return Err(WaitingStop::Budget);
        }
        let new = wanted.min(round.budget);

        let set_aside = if self.running.is_empty() { 0 } else { self.watermark_blocks };
        let fits = |tokens: u32| {
            let need = self.kv.blocks_for(tokens) - hit.blocks + hit.unreferenced;
            u64::from(need) + u64::from(set_aside) <= u64::from(self.kv.free_blocks())
        };
        // Only a test: the blocks beyond the chunk are not set aside.
        let whole = known.min(self.config.max_model_len);
        if (self.config.rules.reserve_full_isl && !fits(whole)) || !fits(cached + new) {
            let shared = self.kv.caches_prefixes() && seq.table.is_shareable();
            return Err(if shared { WaitingStop::SharedBlocks } else { WaitingStop::Blocks });
        }

        self.waiting.pop();
        self.running.push(id);
        self.partial.push(id);
        self.kv.take_hit(&mut seq.table, hit);
        seq.phase = Phase::Prefill;
        seq.order = self.admissions;
        self.admissions += 1;
        if !seq.preempted {
            step.admitted.push((id, cached));
        }
        self.schedule_chunk(round, id, cached, new);
        let chunk = round.flight.chunks.last_mut().expect("it has just been scheduled");
        chunk.admitted = true;
        Ok(())
    }
}
