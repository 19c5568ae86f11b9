//! The running loop: tokens for those who run already, and preemption where blocks run out.

use crate::kv_cache::Release;
use crate::request::{FinishReason, RequestId};
use crate::scheduler::Step;

use super::flight::Chunk;
use super::sequence::{Phase, Sequence};
use super::{Policy, Round, VllmV1};

/// Preemptions without a token in between after which the newest victim is dropped. Two requests of
/// equal priority that arrived together and do not fit beside each other displace each other in
/// turns: of equals the first of the list is the victim, whoever asks, and the real scheduler goes on
/// so for ever.
const MOST_FRUITLESS_PREEMPTIONS: u32 = 1000;

impl VllmV1 {
    /// Output tokens of a live request that have been delivered.
    pub(super) fn outputs(&self, id: RequestId) -> u32 {
        let seq = &self.seqs[id.index()];
        // All turns up to this one are over.
        let done = self.in_flight.front().map_or(self.lockstep.turn(), |oldest| oldest.turn - 1);
        if !matches!(seq.phase, Phase::Decode | Phase::Leaving) || done < seq.joined {
            return seq.outputs;
        }
        // A turn missed delays the last token as soon as it is scheduled, but costs a token only
        // once it is over.
        let member = (seq.order, id);
        let until_then = self.in_flight.iter().filter(|f| f.turn <= seq.finish_turn);
        let missed = until_then.filter(|f| f.missed.contains(&member)).count();
        let missed = u64::try_from(missed).expect("a pipeline is short");
        let outputs = u64::from(seq.limit) + done + missed - seq.finish_turn;
        u32::try_from(outputs).expect("no more than the limit")
    }

    /// Tokens of a running sequence that are computed or handed to a step; `turn` is the one being
    /// formed.
    fn held_tokens(&self, seq: &Sequence, turn: u64) -> u32 {
        let computed = match seq.phase {
            Phase::Decode => self.lockstep.computed(seq),
            _ => seq.computed,
        };
        computed + if seq.scheduled_turn == turn { seq.chunk } else { 0 }
    }

    /// Leading blocks of a running sequence that carry a content key.
    ///
    /// Keys are given out when blocks are allocated, up to the tokens known by then. In lockstep
    /// nobody notes that for each sequence: synchronously all computed tokens are known;
    /// asynchronously the newest one is still in flight (vLLM 0.32.0 `async_scheduler.py`).
    pub(super) fn keyed_blocks(&self, seq: &Sequence, held_tokens: u32) -> u32 {
        let lockstep = match seq.phase {
            Phase::Decode | Phase::Leaving if self.config.async_scheduling => held_tokens - 1,
            _ => held_tokens,
        };
        self.kv.full_blocks(lockstep).max(seq.table.keyed())
    }

    /// The running loop without walking the batch: every sequence in lockstep gets its token, then
    /// the unfinished prompts at the tail of the list their chunks. Returns false, with nothing
    /// done, where that may not be what the loop over each sequence does.
    ///
    /// Under fcfs the victim of a preemption is the last of the list, which has got nothing yet, so
    /// those who stay are served in the same order whether or not the others are looked at.
    pub(super) fn run_lockstep(&mut self, round: &mut Round, step: &mut Step) -> bool {
        let seqs = self.lockstep.seqs();
        if seqs > round.budget || !(self.config.policy == Policy::Fcfs || self.all_fit(round)) {
            return false;
        }
        if let Some(&first) = self.partial.first() {
            let tail = self.running.len() - self.partial.len();
            if self.running[tail] != first {
                return false;
            }
        }
        if self.kv.caches_prefixes() && seqs > 0 && !self.lockstep_is_in_step() {
            return false;
        }

        self.take_lockstep_blocks(Some((&mut *round, &mut *step)));
        round.budget -= self.lockstep.seqs();
        let mut at = 0;
        while at < self.partial.len() && round.budget > 0 {
            let id = self.partial[at];
            let seq = &self.seqs[id.index()];
            let (past, new) = (seq.computed, round.chunk_of(seq.known() - seq.computed));
            let need = self.kv.blocks_for(past + new) - self.kv.blocks_for(past);
            while need > self.kv.free_blocks() && at < self.partial.len() {
                self.preempt(self.running.len() - 1, round, step);
            }
            if at < self.partial.len() {
                self.schedule_chunk(round, id, past, new);
            }
            at += 1;
        }
        true
    }

    /// After a turn missed a sequence is one token out of step with what is known of it.
    pub(super) fn lockstep_is_in_step(&self) -> bool {
        !self.config.async_scheduling || self.in_flight.back().is_some_and(|f| f.missed.is_empty())
    }

    /// Whether there are blocks for all who run.
    fn all_fit(&self, round: &Round) -> bool {
        let mut budget = round.budget - self.lockstep.seqs();
        let mut need = self.lockstep.crossing_seqs();
        for id in &self.partial {
            let seq = &self.seqs[id.index()];
            let new = round.capped(seq.known() - seq.computed).min(budget);
            need += self.kv.blocks_for(seq.computed + new) - self.kv.blocks_for(seq.computed);
            budget -= new;
        }
        need <= self.kv.free_blocks()
    }

    /// The blocks that the lockstep needs for its next turn, and the keys of those it fills. Where
    /// blocks run out, sequences are preempted from the tail; without a round there must be enough.
    pub(super) fn take_lockstep_blocks(&mut self, round: Option<(&mut Round, &mut Step)>) {
        if self.kv.is_identified() {
            self.take_identified_blocks(round);
            return;
        }
        if let Some((round, step)) = round {
            while self.lockstep.crossing_seqs() > self.kv.free_blocks() {
                self.preempt(self.running.len() - 1, round, step);
            }
        }
        self.kv.take_counted(self.lockstep.crossing_seqs());
    }

    /// Which sequence takes which block depends on whose blocks have been freed by then, so here
    /// they go one by one, in running order.
    fn take_identified_blocks(&mut self, mut round: Option<(&mut Round, &mut Step)>) {
        let shares = self.kv.caches_prefixes();
        let mut at = 0;
        while let Some(&(_, id)) = self.lockstep.crossing_members().get(at) {
            if self.kv.free_blocks() == 0 {
                let (round, step) = round.as_mut().expect("there are blocks for steady turns");
                self.preempt(self.running.len() - 1, round, step);
                continue;
            }
            let table = &mut self.seqs[id.index()].table;
            let full = table.held();
            self.kv.grow(table, 1);
            if shares && self.config.async_scheduling && table.is_shareable() {
                self.kv.register(table, full);
            }
            at += 1;
        }
        if shares && !self.config.async_scheduling {
            for &(_, id) in self.lockstep.filling_members() {
                let table = &mut self.seqs[id.index()].table;
                if table.is_shareable() {
                    self.kv.register(table, table.held());
                }
            }
        }
    }

    /// Gives a sequence outside of lockstep `new` tokens; the blocks must be free.
    pub(super) fn schedule_chunk(&mut self, round: &mut Round, id: RequestId, past: u32, new: u32) {
        let seq = &mut self.seqs[id.index()];
        let need = self.kv.blocks_for(past + new) - self.kv.blocks_for(past);
        self.kv.grow(&mut seq.table, need);
        self.kv.register(&mut seq.table, self.kv.full_blocks(past + new));
        seq.scheduled_turn = round.turn;
        seq.chunk = new;
        round.budget -= new;
        let samples = past + new == seq.known();
        let member = (seq.order, id);
        round.flight.chunks.push(Chunk { member, past, new, admitted: false, samples });
    }

    /// The running loop of vLLM, sequence by sequence (vLLM 0.32.0 `scheduler.py`, `schedule`).
    ///
    /// The bound `max_model_len - 1 - computed` on a chunk is left out: with `max_tokens` cut at
    /// the door it never binds.
    pub(super) fn run_each(&mut self, round: &mut Round, step: &mut Step) {
        let mut cursor = 0;
        'running: while cursor < self.running.len() && round.budget > 0 {
            let id = self.running[cursor];
            let seq = &self.seqs[id.index()];
            let (past, new) = match seq.phase {
                Phase::Leaving => {
                    cursor += 1;
                    continue;
                }
                Phase::Decode => (self.lockstep.computed(seq), 1),
                _ => (seq.computed, round.chunk_of(seq.known() - seq.computed)),
            };
            let need = self.kv.blocks_for(past + new) - self.kv.blocks_for(past);
            while need > self.kv.free_blocks() {
                let victim_at = match self.config.policy {
                    Policy::Fcfs => self.running.len() - 1,
                    Policy::Priority => self.least_urgent(),
                };
                let victim = self.running[victim_at];
                let was_scheduled = self.preempt(victim_at, round, step);
                if victim == id {
                    break 'running;
                }
                let moves = was_scheduled || self.config.rules.any_earlier_victim_moves_cursor;
                if victim_at < cursor && moves {
                    cursor -= 1;
                }
            }
            if self.seqs[id.index()].phase == Phase::Decode {
                self.schedule_decode(round, id, past, need);
            } else {
                self.schedule_chunk(round, id, past, new);
            }
            cursor += 1;
        }
        for &id in &self.running {
            let seq = &self.seqs[id.index()];
            if seq.phase == Phase::Decode && seq.scheduled_turn != round.turn {
                round.flight.missed.push((seq.order, id));
            }
        }
    }

    /// Gives a sequence in lockstep its token.
    fn schedule_decode(&mut self, round: &mut Round, id: RequestId, past: u32, need: u32) {
        let seq = &mut self.seqs[id.index()];
        self.kv.grow(&mut seq.table, need);
        if self.kv.caches_prefixes() {
            let known = seq.prompt + self.outputs(id);
            let table = &mut self.seqs[id.index()].table;
            self.kv.register(table, self.kv.full_blocks(known.min(past + 1)));
        }
        let seq = &mut self.seqs[id.index()];
        seq.scheduled_turn = round.turn;
        seq.chunk = 1;
        round.budget -= 1;
    }

    /// Drops the newest victim where preemptions have long come to nothing.
    pub(super) fn count_fruitless(&mut self, step: &mut Step) {
        self.fruitless += u32::try_from(step.preempted.len()).expect("a batch fits u32");
        if self.fruitless < MOST_FRUITLESS_PREEMPTIONS {
            return;
        }
        let id = *step.preempted.last().expect("somebody was preempted");
        self.drop_request(id, FinishReason::Starved, &mut step.ended);
    }

    /// Where the running request stands that a more urgent one displaces first: the largest
    /// (priority, arrival), and of equals the first (Python's `max`).
    fn least_urgent(&self) -> usize {
        let key = |at: usize| {
            let seq = &self.seqs[self.running[at].index()];
            (seq.priority, seq.arrival)
        };
        let later = |best, at| if key(at) > key(best) { at } else { best };
        (1..self.running.len()).fold(0, later)
    }

    /// Takes a running request off the GPU: its KV is recomputed later, its output kept. Returns
    /// whether it had been scheduled in this step; its tokens then return to the budget.
    fn preempt(&mut self, at: usize, round: &mut Round, step: &mut Step) -> bool {
        let id = self.running.remove(at);
        let outputs = self.outputs(id);
        let seq = &self.seqs[id.index()];
        let member = (seq.order, id);
        let was_scheduled = seq.scheduled_turn == round.turn;
        let held = self.held_tokens(seq, round.turn);
        let keyed = self.keyed_blocks(seq, held);
        let held = self.kv.blocks_for(held);
        match seq.phase {
            Phase::Decode | Phase::Leaving => {
                for flight in &mut self.in_flight {
                    if flight.decodes(member, seq) {
                        flight.decode -= 1;
                        flight.late.push(member);
                    }
                }
                if seq.phase == Phase::Decode {
                    self.lockstep.leave(id, seq);
                }
            }
            Phase::Prefill => {
                self.partial.retain(|&other| other != id);
                round.flight.chunks.retain(|chunk| chunk.member != member);
            }
            _ => {}
        }
        let seq = &mut self.seqs[id.index()];
        if was_scheduled {
            round.budget += seq.chunk;
            seq.scheduled_turn = super::sequence::NEVER;
        }
        self.kv.release(&mut seq.table, held, keyed, Release::Preempted);
        seq.phase = Phase::Waiting;
        seq.outputs = outputs;
        seq.computed = 0;
        seq.preempted = true;
        self.waiting.come_back(id, seq.urgency());
        step.preempted.push(id);
        was_scheduled
    }
}

impl Round {
    /// `tokens`, cut to the cap on prompts.
    pub(super) fn capped(&self, tokens: u32) -> u32 {
        if self.threshold > 0 { tokens.min(self.threshold) } else { tokens }
    }

    /// `tokens`, cut to the cap on prompts and to the budget.
    pub(super) fn chunk_of(&self, tokens: u32) -> u32 {
        self.capped(tokens).min(self.budget)
    }
}
