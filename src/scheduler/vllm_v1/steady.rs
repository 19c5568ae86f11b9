//! Turns that only repeat the newest step.

use crate::kv_cache::KvCacheManager;

use super::VllmV1;

impl VllmV1 {
    /// How many more turns give each sequence in lockstep a token and do nothing else.
    pub(super) fn count_steady_turns(&self) -> u32 {
        let depth = if self.config.async_scheduling { 2 } else { 1 };
        let seqs = self.lockstep.seqs();
        // The oldest step may have run beside one who has left since: only what it held shows it, and
        // that the engine knows.
        let pure = self.in_flight.len() == depth
            && self.in_flight.back().is_some_and(|f| !f.outdated)
            && self.in_flight.iter().all(|f| f.only_decodes() && f.decode == seqs);
        if seqs == 0 || !pure || self.running.len() != seqs as usize || self.exact_only {
            return 0;
        }
        // The newest turn finishes nobody, so the next to finish does so later.
        if !self.waiting_stop.lasts() {
            return 0;
        }
        let Some(finish) = self.lockstep.next_finish() else { return 0 };
        let most = u32::try_from(finish - self.lockstep.turn()).unwrap_or(u32::MAX);
        self.lockstep.turns_within(self.kv.free_blocks(), most)
    }

    /// Takes that many turns at once, or fewer, and notes the blocks held after each of the last
    /// `kv_used.len()` of them.
    pub(super) fn take_steady_turns(&mut self, turns: u32, kv_used: &mut [u64]) {
        if turns == 0 {
            return;
        }
        let held = |kv: &KvCacheManager| kv.usable_blocks() - kv.free_blocks();
        if self.kv.is_identified() {
            // Which block goes where is part of the result, so they are handed out turn by turn.
            let before = turns - u32::try_from(kv_used.len()).expect("no more than the turns");
            for _ in 0..before {
                self.take_lockstep_blocks(None);
                self.lockstep.tick();
            }
            for noted in kv_used {
                self.take_lockstep_blocks(None);
                self.lockstep.tick();
                *noted = held(&self.kv).into();
            }
        } else {
            let blocks = self.lockstep.blocks_for_turns(turns);
            self.kv.take_counted(u32::try_from(blocks).expect("no more than there are free"));
            let mut after = u64::from(held(&self.kv));
            for (turn, noted) in (1..=turns).rev().zip(kv_used.iter_mut().rev()) {
                *noted = after;
                after -= u64::from(self.lockstep.blocks_for_turn(turn));
            }
            self.lockstep.tick_many(turns);
        }
        let oldest = self.lockstep.turn() + 1 - self.in_flight.len() as u64;
        for (turn, flight) in (oldest..).zip(&mut self.in_flight) {
            flight.turn = turn;
            flight.outdated = false;
        }
        let mut newest = self.in_flight.pop_back().expect("the step that is repeated");
        self.retire_finishing(&mut newest);
        self.in_flight.push_back(newest);
    }
}
