//! The turns of the running sequences: decodes, and chunks of prompts that were admitted before.

use crate::request::{FinishReason, RequestId};
use crate::scheduler::{Ended, Step};
use crate::time::SimTime;

use super::admission::Batch;
use super::sequence::Phase;
use super::{Chunk, VllmV0};

/// Preemptions without a token in between after which the victim is dropped. With fewer than 100
/// blocks there is no watermark, and a chunked prompt that takes them all preempts itself at its
/// second chunk, or two that arrived together preempt each other: the real 0.4.2 goes on so for
/// ever.
const MOST_FRUITLESS_PREEMPTIONS: u32 = 1000;

impl VllmV0 {
    /// Gives running sequences their turns until `budget` tokens are spent, preempting from the end
    /// of the list where blocks run out. Whoever is preempted is in `step` and not yet in the queue.
    pub(super) fn run_running(&mut self, budget: u32, step: &mut Step) -> Batch {
        // A turn needs a free block even if it takes none (0.2.7 and 0.4.2 `core/block_manager*.py`,
        // `can_append_slot`), so one must be left when all have had theirs.
        let crossing = self.lockstep.crossing_seqs();
        #[cfg(test)]
        if self.exact_only {
            return self.run_each(budget, step);
        }
        if self.free_blocks > crossing
            && self.prompts_stand_last()
            && let Some(left) = budget.checked_sub(self.lockstep.seqs())
        {
            return self.run_all(budget, left);
        }
        self.run_each(budget, step)
    }

    /// Whether the prompts in progress stand behind all decodes.
    fn prompts_stand_last(&self) -> bool {
        let decodes = self.running.len() - self.prefilling;
        self.running[decodes..].iter().all(|id| self.seqs[id.index()].phase == Phase::Prefill)
    }

    /// All decodes have their turns, then prompts what is left of the budget. O(prompts).
    fn run_all(&mut self, budget: u32, mut left: u32) -> Batch {
        let decodes = self.running.len() - self.prefilling;
        self.free_blocks -= self.lockstep.crossing_seqs();
        if decodes > 0 {
            self.lockstep.tick(1);
            self.flight.decodes = true;
        }
        let mut taken = decodes;
        for &id in &self.running[decodes..] {
            let seq = &self.seqs[id.index()];
            let tokens = (seq.len() - seq.computed).min(left);
            if tokens == 0 {
                break;
            }
            self.flight.chunks.push(Chunk { id, tokens });
            left -= tokens;
            taken += 1;
        }
        if taken < self.running.len() {
            self.reorder(taken);
        }
        batch(taken, budget - left)
    }

    /// The engine's own loop over the batch, for everything else. O(batch).
    fn run_each(&mut self, budget: u32, step: &mut Step) -> Batch {
        let (mut left, mut taken) = (budget, 0);
        'turns: while let Some(&id) = self.running.get(taken) {
            let seq = &self.seqs[id.index()];
            let decodes = seq.phase == Phase::Decode;
            let rest = if decodes { 1 } else { seq.len() - seq.computed };
            let tokens = rest.min(left);
            if tokens == 0 {
                break;
            }
            while self.free_blocks == 0 {
                let victim = self.running.pop().expect("the one whose turn it is remains");
                self.preempt(victim, step);
                if victim == id {
                    break 'turns;
                }
            }
            if decodes {
                self.free_blocks -= u32::from(self.lockstep.crosses(&self.seqs[id.index()]));
                self.flight.decodes = true;
            } else {
                self.flight.chunks.push(Chunk { id, tokens });
            }
            left -= tokens;
            taken += 1;
        }
        if self.flight.decodes {
            self.lockstep.tick(1);
            for &id in &self.running[taken..] {
                let seq = &mut self.seqs[id.index()];
                if seq.phase == Phase::Decode {
                    self.lockstep.miss(seq);
                    self.flight.stalled.push(id);
                }
            }
        }
        self.reorder(taken);
        batch(taken, budget - left)
    }

    /// The running list after a step in which the first `taken` had a turn: those left over, then
    /// decodes, then chunks (0.4.2, `_schedule_chunked_prefill`). Only the order of those that
    /// arrived together can change: the list is sorted by arrival, stably, before its next use.
    fn reorder(&mut self, taken: usize) {
        if taken == self.running.len() && self.prompts_stand_last() {
            return;
        }
        let seqs = &self.seqs;
        self.running.rotate_left(taken);
        let left_over = self.running.len() - taken;
        let decodes = |id: &RequestId| seqs[id.index()].phase == Phase::Decode;
        self.running[left_over..].sort_by_key(|id| !decodes(id));
        self.running.sort_by_key(|id| seqs[id.index()].arrival);
    }

    /// Takes a sequence that has had no turn in this step off the GPU; it has left the running list.
    /// Its KV is thrown away and recomputed later, its outputs are kept.
    fn preempt(&mut self, id: RequestId, step: &mut Step) {
        self.release(id);
        let seq = &mut self.seqs[id.index()];
        seq.preempted = true;
        self.fruitless += 1;
        if self.fruitless < MOST_FRUITLESS_PREEMPTIONS {
            step.preempted.push(id);
        } else {
            let output_tokens = seq.outputs;
            step.ended.push(Ended { id, reason: FinishReason::Starved, output_tokens });
        }
    }

    /// Gives back the blocks of a running sequence, which leaves its phase.
    pub(super) fn release(&mut self, id: RequestId) {
        let seq = &mut self.seqs[id.index()];
        let held = match seq.phase {
            Phase::Waiting => return,
            Phase::Prefill => {
                self.prefilling -= 1;
                seq.len()
            }
            Phase::Decode => {
                let computed = self.lockstep.computed(seq);
                seq.outputs = computed + 1 - seq.prompt;
                self.lockstep.leave(seq);
                computed
            }
        };
        seq.phase = Phase::Waiting;
        self.free_blocks += self.blocks(held);
    }

    /// Where those that arrived at `arrival` begin in the running list.
    pub(super) fn first_arrived_at(&self, arrival: SimTime) -> usize {
        self.running.partition_point(|id| self.seqs[id.index()].arrival < arrival)
    }

    /// Where a sequence stands in the running list.
    pub(super) fn position(&self, id: RequestId) -> usize {
        let first = self.first_arrived_at(self.seqs[id.index()].arrival);
        let among = self.running[first..].iter().position(|&other| other == id);
        first + among.expect("a running sequence is in the list")
    }
}

fn batch(seqs: usize, tokens: u32) -> Batch {
    Batch {
        seqs: u32::try_from(seqs).expect("a batch fits u32"),
        tokens: u64::from(tokens),
        ..Batch::default()
    }
}
