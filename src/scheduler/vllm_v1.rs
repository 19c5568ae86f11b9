//! The scheduler of vLLM V1 (`vllm/v1/core/sched/scheduler.py`, 0.10.0 to 0.32.0): one token budget
//! for prompts and decodes alike, preemption by recompute, prefix caching, asynchronous scheduling.
//!
//! Scope: decoder-only text models, full attention, one KV-cache group; no speculative decoding,
//! LoRA, KV connector or structured output.
//!
//! A step costs O(changes). Decoding sequences advance in lockstep and are not touched
//! ([`lockstep`]). Where all of them fit into the budget and the free blocks, which is almost
//! always, the running loop is a look-up ([`running`], `run_lockstep`); otherwise the exact loop
//! over the batch runs (`run_each`). Both give the same steps.

mod admission;
mod audit;
mod describe;
mod detail;
mod flight;
mod lockstep;
mod queue;
mod rules;
mod running;
mod sequence;
mod steady;
#[cfg(test)]
mod tests;
mod update;

use std::collections::VecDeque;

use crate::cost::StepShape;
use crate::kv_cache::KvCacheManager;
use crate::request::{FinishReason, Request, RequestId};
use crate::scheduler::audit::{Audit, Depth};
use crate::scheduler::{Ended, Occupancy, Refusal, Scheduler, Step, StepKind, StepOutcome};
use crate::time::SimTime;

use admission::WaitingStop;
use flight::Flight;
use lockstep::Lockstep;
use queue::WaitingQueue;
pub use rules::VllmV1Rules;
use sequence::{Phase, Sequence};

/// In which order waiting requests are admitted and running ones preempted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Fcfs,
    Priority,
}

/// The settings of one replica, named as vLLM names them. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct VllmV1Config {
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    /// Limit of running requests at admission, if it differs from `max_num_seqs`.
    pub max_num_active_seqs: Option<u32>,
    pub max_num_batched_tokens: u32,
    /// Token budget of a step, if it differs from `max_num_batched_tokens`.
    pub max_num_scheduled_tokens: Option<u32>,
    /// KV blocks, the null block included: one less can be used.
    pub num_gpu_blocks: u32,
    pub block_size: u32,
    pub enable_prefix_caching: bool,
    /// Whether any two requests may have a prefix in common. Where none have, blocks need no
    /// identities.
    pub prompts_share: bool,
    pub enable_chunked_prefill: bool,
    pub policy: Policy,
    pub async_scheduling: bool,
    /// Share of the blocks that admission leaves free while anything runs.
    pub watermark: f64,
    /// Most tokens of one prompt in one step; 0: no limit.
    pub long_prefill_token_threshold: u32,
    /// Raises the threshold to an even share of the budget.
    pub long_prefill_token_threshold_adaptive: bool,
    pub rules: VllmV1Rules,
}

/// The V1 scheduler of one replica.
#[derive(Debug)]
pub struct VllmV1 {
    config: VllmV1Config,
    /// Token budget of a step.
    budget: u32,
    /// Running requests at which admission stops.
    seats: usize,
    /// Blocks that admission leaves free while anything runs.
    watermark_blocks: u32,
    kv: KvCacheManager,
    /// By request slot.
    seqs: Vec<Sequence>,
    /// Running sequences in order of admission.
    running: Vec<RequestId>,
    /// Those of them in phase `Prefill`, in the same order.
    partial: Vec<RequestId>,
    waiting: WaitingQueue,
    lockstep: Lockstep,
    /// Steps scheduled and not yet completed, oldest first.
    in_flight: VecDeque<Box<Flight>>,
    #[expect(clippy::vec_box, reason = "they change places with those in flight at every step")]
    spare: Vec<Box<Flight>>,
    admissions: u64,
    /// Preemptions since the last token.
    fruitless: u32,
    /// Requests have ended that no step has reported to the workers yet.
    unflushed: bool,
    waiting_stop: WaitingStop,
    recording: bool,
    /// Always takes the exact loop over the batch; for tests of the fast one.
    exact_only: bool,
}

impl VllmV1 {
    pub fn new(config: VllmV1Config) -> Self {
        assert!(config.max_num_seqs > 0, "at least one sequence runs at a time");
        let budget = config.max_num_scheduled_tokens.unwrap_or(config.max_num_batched_tokens);
        assert!(budget > 0, "a step has a token budget");
        let kv = kv_cache(&config, config.enable_prefix_caching && config.prompts_share);
        Self {
            budget,
            seats: config.max_num_active_seqs.unwrap_or(config.max_num_seqs) as usize,
            // Python's int() truncates.
            watermark_blocks: (config.watermark * f64::from(config.num_gpu_blocks)) as u32,
            lockstep: Lockstep::new(config.block_size, kv.is_identified()),
            kv,
            seqs: Vec::new(),
            running: Vec::new(),
            partial: Vec::new(),
            waiting: WaitingQueue::new(config.policy),
            in_flight: VecDeque::with_capacity(2),
            spare: Vec::new(),
            admissions: 0,
            fruitless: 0,
            unflushed: false,
            waiting_stop: WaitingStop::Unknown,
            recording: false,
            exact_only: false,
            config,
        }
    }

    /// The longest prompt plus output that one request can ever reach here.
    ///
    /// vLLM refuses to start unless a request of `max_model_len` fits into the cache. Where a
    /// scenario starts it all the same, a request that can never fit is refused at the door: in the
    /// real scheduler it would wait at the head of the queue for ever.
    fn longest_sequence(&self) -> u32 {
        let cache = u64::from(self.kv.usable_blocks()) * u64::from(self.config.block_size);
        // The last token sampled needs no KV.
        u32::try_from(cache + 1).unwrap_or(u32::MAX).min(self.config.max_model_len)
    }

    /// Prompt and output as the scheduler will see them. An empty prompt still has its
    /// begin-of-sequence token; `max_tokens` is cut to what `max_model_len` leaves, where generation
    /// would end anyway (vLLM 0.32.0 `sched/utils.py`, `check_stop`).
    fn lengths(&self, request: &Request) -> (u32, u32) {
        let prompt = request.spec.prompt_tokens.max(1);
        let room = self.config.max_model_len.saturating_sub(prompt);
        (prompt, request.spec.max_output_tokens.min(room).max(1))
    }
}

fn kv_cache(config: &VllmV1Config, identified: bool) -> KvCacheManager {
    let blocks = config.num_gpu_blocks;
    let (size, order) = (config.block_size, config.rules.free_order());
    if identified {
        return KvCacheManager::identified(blocks, size, order, config.enable_prefix_caching);
    }
    let usable = blocks.checked_sub(1).expect("there is at least the null block");
    if config.enable_prefix_caching {
        KvCacheManager::unshared(usable, size, order)
    } else {
        KvCacheManager::counted(usable, size)
    }
}

impl Scheduler for VllmV1 {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        let (prompt, max_output) = self.lengths(request);
        // vLLM 0.32.0 `v1/engine/processor.py`: a prompt must leave room for one token.
        if prompt >= self.config.max_model_len {
            let limit = self.config.max_model_len.saturating_sub(1);
            return Err(Refusal::PromptTooLong { prompt, limit });
        }
        let total = prompt + max_output.min(request.spec.stop_at).max(1);
        let limit = self.longest_sequence();
        if total > limit {
            return Err(Refusal::TotalTooLong { total, limit });
        }
        Ok(())
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        if self.seqs.len() <= id.index() {
            self.seqs.resize_with(id.index() + 1, Sequence::default);
        }
        debug_assert!(self.config.prompts_share || request.spec.content.is_none());
        let (prompt, max_output) = self.lengths(request);
        let seq = &mut self.seqs[id.index()];
        seq.start(request, prompt, max_output);
        self.waiting.arrive(id, seq.urgency());
        self.waiting_stop = self.waiting_stop.after_arrival(self.config.policy);
        self.note_change();
    }

    fn abort(&mut self, _: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        self.drop_request(id, FinishReason::Aborted, ended);
    }

    fn schedule(&mut self, _: SimTime, step: &mut Step) -> bool {
        if !self.has_work() {
            return false;
        }
        self.schedule_step(step);
        true
    }

    fn complete(&mut self, _: SimTime, _: SimTime, outcome: &mut StepOutcome) {
        self.complete_step(outcome);
    }

    fn steady_turns(&self) -> u32 {
        self.count_steady_turns()
    }

    fn advance(&mut self, turns: u32) {
        self.take_steady_turns(turns, &mut []);
    }

    fn advance_noting(&mut self, turns: u32, kv_used: &mut [u64]) {
        self.take_steady_turns(turns, kv_used);
    }

    fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty() || self.unflushed
    }

    fn generated(&self, id: RequestId) -> u32 {
        self.outputs(id)
    }

    fn occupancy(&self) -> Occupancy {
        let count = |n: usize| u32::try_from(n).expect("fewer than 2^32 live requests");
        Occupancy {
            running: count(self.running.len()),
            waiting: count(self.waiting.len()),
            kv_used: u64::from(self.kv.usable_blocks() - self.kv.free_blocks()),
            kv_total: u64::from(self.kv.usable_blocks()),
        }
    }

    fn pipeline_depth(&self) -> usize {
        if self.config.async_scheduling { 2 } else { 1 }
    }

    fn record_detail(&mut self) {
        assert!(self.seqs.is_empty(), "recording is turned on before the run");
        self.recording = true;
        self.kv = kv_cache(&self.config, true);
        self.lockstep = Lockstep::new(self.config.block_size, true);
    }

    fn audit(&self, depth: Depth) -> Option<Audit> {
        Some(self.take_audit(depth))
    }
}

/// A step being formed.
#[derive(Debug)]
struct Round {
    /// The turn that this step will be.
    turn: u64,
    /// Tokens left of the budget.
    budget: u32,
    /// Most tokens of one prompt; 0: no limit.
    threshold: u32,
    flight: Box<Flight>,
}

impl VllmV1 {
    /// One `schedule()` of vLLM: running requests first, then waiting ones, unless someone was
    /// preempted.
    fn schedule_step(&mut self, step: &mut Step) {
        if self.only_decodes() {
            self.schedule_decodes(step);
            return;
        }
        let mut round = Round {
            turn: self.lockstep.turn() + 1,
            budget: self.budget,
            threshold: self.prefill_threshold(),
            flight: self.spare.pop().unwrap_or_default(),
        };
        round.flight.clear();
        if self.exact_only || !self.run_lockstep(&mut round, step) {
            self.run_each(&mut round, step);
        }
        if !step.preempted.is_empty() {
            self.count_fruitless(step);
        }
        self.waiting_stop = if step.preempted.is_empty() {
            self.admit_waiting(&mut round, step)
        } else {
            WaitingStop::Unknown
        };
        self.commit(round, step);
        self.unflushed = false;
    }

    /// Whether this step can only be one token for each sequence in lockstep: nobody waits, nobody
    /// has prompt tokens left, budget and blocks are there for all.
    fn only_decodes(&self) -> bool {
        let seqs = self.lockstep.seqs();
        seqs > 0
            && self.waiting.is_empty()
            && self.partial.is_empty()
            && seqs <= self.budget
            && self.lockstep.crossing_seqs() <= self.kv.free_blocks()
            && (!self.kv.caches_prefixes() || self.lockstep_is_in_step())
            && !self.exact_only
    }

    /// Such a step: what the two loops and the commit come to for it.
    fn schedule_decodes(&mut self, step: &mut Step) {
        let mut flight = self.spare.pop().unwrap_or_default();
        flight.clear();
        if self.kv.is_identified() {
            self.take_lockstep_blocks(None);
        } else {
            self.kv.take_counted(self.lockstep.crossing_seqs());
        }
        self.lockstep.tick();
        flight.turn = self.lockstep.turn();
        flight.decode = self.lockstep.seqs();
        step.shape = StepShape::decode(flight.decode, self.lockstep.computed_sum());
        step.shape.decode_squares = self.lockstep.computed_squares();
        step.kind = StepKind::Decode;
        self.retire_finishing(&mut flight);
        if self.recording {
            step.detail = Some(self.describe(&flight));
        }
        self.in_flight.push_back(flight);
        self.waiting_stop = WaitingStop::Drained;
        self.unflushed = false;
    }

    /// The cap on prompt tokens per step, as it is before anything is scheduled.
    fn prefill_threshold(&self) -> u32 {
        let threshold = self.config.long_prefill_token_threshold;
        if threshold == 0 && !self.config.long_prefill_token_threshold_adaptive {
            return 0;
        }
        let live = self.running.len() + self.waiting.len();
        if live <= 1 && self.config.rules.lone_request_exempt_from_threshold {
            return 0;
        }
        if self.config.long_prefill_token_threshold_adaptive && live > 0 {
            let share = self.budget as usize / live;
            return threshold.max(u32::try_from(share).expect("no more than the budget"));
        }
        threshold
    }

    /// Everything is decided: progress is made, the shape of the step known (vLLM 0.32.0
    /// `_update_after_schedule`).
    fn commit(&mut self, round: Round, step: &mut Step) {
        let Round { turn, mut flight, .. } = round;
        flight.turn = turn;
        self.lockstep.tick();
        let mut decode = self.lockstep.seqs();
        for &(_, id) in &flight.missed {
            let seq = &mut self.seqs[id.index()];
            decode -= 1;
            if seq.finish_turn < turn {
                // Its last token is in flight already; only its client's limit did not say so.
                self.lockstep.leave(id, seq);
                seq.phase = Phase::Leaving;
                seq.computed = seq.final_computed();
            } else {
                self.lockstep.miss(id, seq);
            }
        }
        flight.decode = decode;
        step.shape.decode_seqs = decode;
        step.shape.decode_context = self.lockstep.computed_sum();
        step.shape.decode_squares = self.lockstep.computed_squares();
        for &(_, id) in &flight.missed {
            let seq = &self.seqs[id.index()];
            if seq.phase == Phase::Decode {
                let computed = u64::from(self.lockstep.computed(seq));
                step.shape.decode_context -= computed;
                step.shape.decode_squares -= u128::from(computed) * u128::from(computed);
            }
        }

        let mut samples = decode;
        for chunk in &flight.chunks {
            step.shape.push(chunk.past, chunk.new);
            samples += u32::from(chunk.samples);
            self.advance_chunk(chunk, &mut flight.finishing);
        }
        if !flight.chunks.is_empty() {
            let seqs = &self.seqs;
            self.partial.retain(|id| seqs[id.index()].phase == Phase::Prefill);
        }
        step.shape.sampled_seqs = samples;
        step.shape.logits_rows = u64::from(samples);
        step.kind = match (step.shape.prefill_seqs, step.shape.decode_seqs) {
            (0, 0) => StepKind::Empty,
            (_, 0) => StepKind::Prefill,
            (0, _) => StepKind::Decode,
            _ => StepKind::Mixed,
        };
        self.retire_finishing(&mut flight);
        if self.recording {
            step.detail = Some(self.describe(&flight));
        }
        self.in_flight.push_back(flight);
    }

    /// A chunk is handed to the step; after its last one a sequence decodes.
    fn advance_chunk(&mut self, chunk: &flight::Chunk, finishing: &mut Vec<lockstep::Member>) {
        let (_, id) = chunk.member;
        let seq = &mut self.seqs[id.index()];
        seq.computed = chunk.past + chunk.new;
        if !chunk.samples {
            return;
        }
        if seq.outputs + 1 == seq.limit && self.leaves_with_last_token(id) {
            let seq = &mut self.seqs[id.index()];
            seq.phase = Phase::Leaving;
            seq.joined = self.lockstep.turn();
            seq.finish_turn = self.lockstep.turn();
            finishing.push(chunk.member);
        } else {
            self.lockstep.join(id, &mut self.seqs[id.index()]);
        }
    }

    /// Sequences whose last token the newest turn computes get no further one, unless the scheduler
    /// cannot know.
    #[inline]
    fn retire_finishing(&mut self, flight: &mut Flight) {
        let due = self.lockstep.next_finish().is_some_and(|turn| turn <= self.lockstep.turn());
        if due || flight.finishing.len() > 1 {
            self.retire_due(flight);
        }
    }

    // Apart, so that the many steps that finish nobody do not save registers for it.
    #[inline(never)]
    fn retire_due(&mut self, flight: &mut Flight) {
        while let Some((order, id)) = self.lockstep.pop_finishing(&self.seqs) {
            flight.finishing.push((order, id));
            if self.leaves_with_last_token(id) {
                let seq = &mut self.seqs[id.index()];
                self.lockstep.leave(id, seq);
                seq.phase = Phase::Leaving;
                seq.computed = seq.final_computed();
            }
        }
        flight.finishing.sort_unstable();
    }

    /// Whether a sequence is scheduled no more while its last token is in flight. A scheduler that
    /// runs ahead of the outputs knows of the limit, but not of a model that stops by itself: that
    /// request gets one step too many, whose token is thrown away.
    fn leaves_with_last_token(&self, id: RequestId) -> bool {
        let seq = &self.seqs[id.index()];
        !self.config.async_scheduling || seq.limit == seq.max_output
    }
}
