//! Turns that only repeat the last decode, taken at once.

use super::{Phase, Tgis};

impl Tgis {
    /// Turns until a sequence ends, memory may run out, or a look could find something.
    pub(super) fn count_steady_turns(&self) -> u32 {
        if self.phase == Phase::Idle || self.watched > 0 || !self.last_decode_plain {
            return 0;
        }
        let Some(next_end) = self.batch.next_ending() else { return 0 };
        // The step in flight is `tick + 1`; the one that ends a sequence must be taken singly.
        let until_end = next_end.saturating_sub(self.tick + 1);
        let mut turns = u32::try_from(until_end).unwrap_or(u32::MAX);
        if let Some(limit) = self.config.memory.decode_tokens {
            let room = limit.saturating_sub(self.context() + self.running());
            let steps = (room / self.running()).saturating_sub(1);
            turns = turns.min(u32::try_from(steps).unwrap_or(u32::MAX));
        }
        if self.buffer.is_empty() {
            return turns;
        }
        // While requests wait, a look before each step must be sure to find nothing.
        let waiting = u64::try_from(self.buffer.len()).expect("a queue fits u64");
        let seats = u64::from(self.config.max_batch_size);
        if self.running() >= seats {
            return turns;
        }
        let blind = (0..turns).take_while(|&ahead| {
            // `waited` counts the step in flight once it has completed.
            let min = self.min_waiting(self.waited + 1 + ahead);
            waiting < min || self.running() + min > seats
        });
        u32::try_from(blind.count()).expect("at most `turns`")
    }

    pub(super) fn take_steady_turns(&mut self, turns: u32) {
        let (steps, running) = (u64::from(turns), self.running());
        self.tick += steps;
        self.sum_input += steps * running;
        self.sum_output -= steps * running;
        self.waited += turns;
        // Each turn looks once: the router's count of tokens to come falls by one a look.
        if turns > 0 {
            let first_look = match self.remaining {
                None => i64::try_from(self.sum_output + (steps - 1) * running)
                    .expect("tokens to come fit i64"),
                Some(counted) => counted - 1,
            };
            self.remaining = Some(first_look - i64::from(turns - 1));
        }
    }
}
