//! TGIS, IBM's fork of text-generation-inference: prefill and decode in separate calls to the
//! shards, admission by the projected weight of the batch.
//!
//! Two generations share the loop: Nov 2023 (commit 6645b7a), whose limits are tokens set by hand,
//! and since 2024-01-29 (read at 006006d), whose limits are bytes from a memory model and which
//! waits half a prefill's time before the next. Rules in words: `engines/tgis-tgi.md` part A.

mod select;
mod weights;

use std::collections::{BTreeMap, VecDeque};

use crate::cost::StepShape;
use crate::request::{FinishReason, Request, RequestId};
use crate::time::SimTime;

use super::{
    Admission, Ended, Occupancy, Refusal, ScheduledSeq, Scheduler, Step, StepDetail, StepKind,
    StepOutcome,
};
use select::{Candidate, Running};
pub use weights::{BatchStats, BatchType, WeightRules, Weights};

/// A non-streaming request notices that its client has gone only at every 16th token (A5).
const ABORT_NOTICE_TOKENS: u32 = 16;

/// The settings of a TGIS server. Lengths and limits are in tokens.
#[derive(Clone, Debug)]
pub struct TgisConfig {
    pub batch_type: BatchType,
    pub rules: WeightRules,
    pub max_batch_size: u32,
    /// Decode steps after which a single waiting request is enough for a prefill.
    pub max_waiting_tokens: u32,
    pub max_sequence_length: u32,
    pub max_new_tokens: u32,
    pub max_concurrent_requests: u32,
    pub memory: ShardMemory,
}

/// Limits under which a TGIS router panics at start: a request of the greatest length could wait
/// forever (A7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TgisStartError {
    #[error(
        "the batch limit of {limit} is below {weight}, the weight of one request of \
         max-sequence-length; raise max-batch-weight or lower max-sequence-length"
    )]
    BatchWeight { limit: u64, weight: u64 },
    #[error(
        "the prefill limit of {limit} is below {weight}, the prefill weight of one request of \
         max-sequence-length; raise max-prefill-weight (0 turns it off) or lower max-sequence-length"
    )]
    PrefillWeight { limit: u64, weight: u64 },
}

impl TgisConfig {
    /// The router's own checks at start.
    pub fn check(&self) -> Result<(), TgisStartError> {
        let weights = Weights { batch: self.batch_type, rules: self.rules };
        let mut longest = BatchStats::default();
        longest.push(u64::from(self.max_sequence_length), 0);
        let (limit, weight) = (self.rules.weight_limit(), weights.max_weight(&longest, 1));
        if weight > limit {
            return Err(TgisStartError::BatchWeight { limit, weight });
        }
        let (limit, weight) = (self.rules.prefill_limit(), weights.prefill_weight(&longest, 1));
        if limit > 0 && weight > limit {
            return Err(TgisStartError::PrefillWeight { limit, weight });
        }
        Ok(())
    }
}

/// When the shard runs out of memory; without limits it never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardMemory {
    /// A prefill fails if the tokens resident and those of the new prompts are more than this.
    pub prefill_tokens: Option<u64>,
    /// A decode fails if the context and one token a sequence are more than this. The cache is
    /// rebuilt at every step of 2023, so old and new stand side by side: half of what fits.
    pub decode_tokens: Option<u64>,
}

/// Where the router's loop stands (A2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No batch on the shards.
    Idle,
    /// About to look for an add-on prefill, else to decode.
    Look,
    /// A prefill was added: at least one decode follows.
    MustDecode,
}

/// What is on the shards right now.
#[derive(Clone, Debug)]
enum Call {
    /// New sequences, by position in the batch order; whether it fails for want of memory.
    Prefill {
        new: Vec<RequestId>,
        first: bool,
        out_of_memory: bool,
    },
    Decode {
        out_of_memory: bool,
    },
    /// Frees a batch that has finished completely; no forward pass, no time.
    Cleanup,
}

/// A request that waits or runs.
#[derive(Clone, Debug)]
struct Entry {
    uid: u64,
    input: u32,
    max_new: u32,
    /// Tokens after which it ends by itself, and how.
    ends_at: u32,
    ends_by: FinishReason,
    queued_at: SimTime,
    deadline: Option<SimTime>,
    client_gone: bool,
    /// Tokens generated when `joined` was taken; 0 while it waits.
    base: u32,
    /// The decode step count at which `base` was true.
    joined: u64,
    /// Position in the batch order.
    order: u64,
}

/// The TGIS router and the state of its shards.
pub struct Tgis {
    config: TgisConfig,
    weights: Weights,
    entries: Vec<Option<Entry>>,
    buffer: VecDeque<RequestId>,
    /// The running set in batch order; finished ones leave at once, `pruned` remembers them.
    batch: BTreeMap<u64, RequestId>,
    pruned: Vec<u64>,
    /// Running sequences by the decode step that ends them, then by batch order.
    endings: BTreeMap<(u64, u64), RequestId>,
    next_order: u64,
    /// Decode steps taken: a sequence's tokens follow from it.
    tick: u64,
    /// Sums over the running set at `tick`: tokens in memory, tokens to come.
    sum_input: u64,
    sum_output: u64,
    phase: Phase,
    call: Option<Call>,
    /// Decode steps since the last prefill, plus 1 (W).
    waited: u32,
    /// Tokens still to come, as the router counts them (R): a sum when taken, then one less a step.
    remaining: Option<i64>,
    /// 2024: no prefill before this instant has passed.
    hold: Option<SimTime>,
    /// Whether the next decode must first concatenate batches or drop finished rows, and so copies
    /// the whole cache once more.
    rebuild: bool,
    last_decode_plain: bool,
    in_flight: u32,
    /// Requests with a deadline or a client that has gone, among those in `entries`.
    watched: u32,
    record: bool,
    chosen: Vec<usize>,
}

impl Tgis {
    pub fn new(config: TgisConfig) -> Self {
        let weights = Weights { batch: config.batch_type, rules: config.rules };
        Self {
            config,
            weights,
            entries: Vec::new(),
            buffer: VecDeque::new(),
            batch: BTreeMap::new(),
            pruned: Vec::new(),
            endings: BTreeMap::new(),
            next_order: 0,
            tick: 0,
            sum_input: 0,
            sum_output: 0,
            phase: Phase::Idle,
            call: None,
            waited: 0,
            remaining: None,
            hold: None,
            rebuild: false,
            last_decode_plain: false,
            in_flight: 0,
            watched: 0,
            record: false,
            chosen: Vec::new(),
        }
    }

    fn is_2024(&self) -> bool {
        matches!(self.config.rules, WeightRules::Tgis2024 { .. })
    }

    fn entry(&self, id: RequestId) -> &Entry {
        self.entries[id.index()].as_ref().expect("an entry of this scheduler")
    }

    fn running(&self) -> u64 {
        u64::try_from(self.batch.len()).expect("a batch fits u64")
    }

    fn tokens_of(&self, entry: &Entry) -> u32 {
        let steps = u32::try_from(self.tick - entry.joined).expect("an output fits u32");
        entry.base + if entry.base == 0 { 0 } else { steps }
    }

    /// The longest sequence of the running set in tokens; only padded batches ask.
    fn longest(&self) -> u64 {
        let lengths = self.batch.values().map(|&id| {
            let entry = self.entry(id);
            u64::from(entry.input + self.tokens_of(entry))
        });
        lengths.max().unwrap_or(0)
    }

    /// The context that a decode step walks, as the shards bill it: one token of it is new for each
    /// sequence.
    fn context(&self) -> u64 {
        match self.config.batch_type {
            BatchType::Flash => self.sum_input,
            BatchType::Padded => self.running() * self.longest(),
        }
    }

    fn stats(&self) -> BatchStats {
        let mut stats = BatchStats {
            sum_input: self.sum_input,
            sum_output: self.sum_output,
            ..BatchStats::default()
        };
        if self.config.batch_type == BatchType::Padded {
            for &id in self.batch.values() {
                let entry = self.entry(id);
                let tokens = self.tokens_of(entry);
                stats.max_input = stats.max_input.max(u64::from(entry.input + tokens));
                stats.max_output = stats.max_output.max(u64::from(entry.max_new - tokens));
            }
        }
        stats
    }

    /// How many requests must wait before decoding is interrupted (A2): a demand that falls from
    /// the batch size to 1 over `max_waiting_tokens` steps.
    fn min_waiting(&self, waited: u32) -> u64 {
        let (running, patience) = (self.running(), self.config.max_waiting_tokens);
        if running <= 1 || waited >= patience {
            return 1;
        }
        (running * u64::from(patience - waited) / u64::from(patience)).max(1)
    }

    /// Takes the chosen requests off the buffer.
    fn select(&mut self, min: u64) -> Vec<RequestId> {
        let mut chosen = std::mem::take(&mut self.chosen);
        let running = Running {
            count: self.running(),
            stats: self.stats(),
            sequences: &|out: &mut Vec<(u64, u64)>| {
                out.extend(self.batch.values().map(|&id| {
                    let entry = self.entry(id);
                    let tokens = self.tokens_of(entry);
                    (u64::from(entry.max_new - tokens), u64::from(entry.input + tokens))
                }));
            },
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
            &running,
            waiting,
            candidates,
            &mut chosen,
        );
        let ids: Vec<RequestId> = chosen.iter().map(|&position| self.buffer[position]).collect();
        for &position in chosen.iter().rev() {
            self.buffer.remove(position);
        }
        self.chosen = chosen;
        ids
    }

    /// Entries whose client has gone leave the buffer; those whose time is up are answered. Only at
    /// the start of a step.
    fn drop_waiting(&mut self, now: SimTime, ended: &mut Vec<Ended>) {
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

    /// Removes an entry for good.
    fn forget(&mut self, id: RequestId, reason: FinishReason, output_tokens: u32) -> Ended {
        let entry = self.entries[id.index()].take().expect("an entry ends once");
        self.watched -= u32::from(entry.client_gone || entry.deadline.is_some());
        self.in_flight -= 1;
        Ended { id, reason, output_tokens }
    }

    fn plan_prefill(&mut self, new: Vec<RequestId>, first: bool, step: &mut Step) {
        let lengths = || new.iter().map(|&id| u64::from(self.entry(id).input));
        let seqs = u64::try_from(new.len()).expect("a batch fits u64");
        let shape = match self.config.batch_type {
            BatchType::Flash => StepShape {
                prefill_tokens: lengths().sum(),
                prefill_pairs: lengths().map(|l| l * l).sum(),
                ..StepShape::default()
            },
            BatchType::Padded => {
                let longest = lengths().max().expect("a prefill has a prompt");
                StepShape {
                    prefill_tokens: seqs * longest,
                    prefill_pairs: seqs * longest * longest,
                    ..StepShape::default()
                }
            }
        };
        let sampled_seqs = u32::try_from(new.len()).expect("a batch fits u32");
        let shape = StepShape {
            prefill_seqs: sampled_seqs,
            prefill_context: shape.prefill_tokens,
            // The logits of every prompt token are computed (A8).
            logits_rows: shape.prefill_tokens,
            sampled_seqs,
            ..shape
        };
        let resident = if first { 0 } else { self.context() };
        let limit = self.config.memory.prefill_tokens;
        let out_of_memory = limit.is_some_and(|limit| resident + shape.prefill_tokens > limit);
        // The shard drops the finished rows it is told of: survivors are copied (A8).
        let pruned = std::mem::take(&mut self.pruned);
        let copied = if pruned.is_empty() { 0 } else { resident };
        step.kind = StepKind::Prefill;
        step.shape = StepShape { kv_copy_tokens: copied, ..shape };
        step.admitted.extend(new.iter().map(|&id| (id, 0)));
        if self.record {
            step.detail = Some(StepDetail {
                scheduled: new
                    .iter()
                    .map(|&id| seq(id, self.entry(id).input, 0, Admission::New))
                    .collect(),
                pruned,
                billed_tokens: shape.prefill_tokens,
                out_of_memory,
                ..StepDetail::default()
            });
        }
        self.call = Some(Call::Prefill { new, first, out_of_memory });
    }

    fn plan_decode(&mut self, step: &mut Step) {
        let pruned = std::mem::take(&mut self.pruned);
        if self.batch.is_empty() {
            if self.record {
                step.detail = Some(StepDetail { pruned, ..StepDetail::default() });
            }
            self.call = Some(Call::Cleanup);
            return;
        }
        let context = self.context();
        let seqs = u32::try_from(self.batch.len()).expect("a batch fits u32");
        step.kind = StepKind::Decode;
        step.shape = StepShape::decode(seqs, context);
        // FlashCausalLM rebuilds the whole KV tensor after the forward pass, unless it is alone;
        // dropping rows or concatenating batches copies everything once more before it (A8).
        let rebuild = self.rebuild || !pruned.is_empty();
        if self.config.batch_type == BatchType::Flash {
            let copies = u64::from(seqs > 1) + u64::from(rebuild);
            step.shape.kv_copy_tokens = copies * context;
        } else if rebuild {
            step.shape.kv_copy_tokens = context;
        }
        let limit = self.config.memory.decode_tokens;
        let out_of_memory = limit.is_some_and(|limit| context + u64::from(seqs) > limit);
        self.last_decode_plain = !rebuild && !out_of_memory;
        self.rebuild = false;
        if self.record {
            step.detail = Some(StepDetail {
                scheduled: self
                    .batch
                    .values()
                    .map(|&id| {
                        let entry = self.entry(id);
                        let cached = entry.input + self.tokens_of(entry) - 1;
                        seq(id, 1, cached, Admission::Running)
                    })
                    .collect(),
                pruned,
                billed_tokens: context,
                out_of_memory,
                ..StepDetail::default()
            });
        }
        self.call = Some(Call::Decode { out_of_memory });
    }

    fn complete_prefill(
        &mut self,
        now: SimTime,
        (new, first): (Vec<RequestId>, bool),
        outcome: &mut StepOutcome,
    ) {
        let first_order = self.next_order;
        for id in new {
            let order = self.next_order;
            self.next_order += 1;
            let tick = self.tick;
            let entry = self.entries[id.index()].as_mut().expect("a request in prefill");
            entry.base = 1;
            entry.joined = tick;
            entry.order = order;
            let (input, max_new) = (u64::from(entry.input), u64::from(entry.max_new));
            let ends_at_tick = tick + u64::from(entry.ends_at.max(1)) - 1;
            self.batch.insert(order, id);
            self.endings.insert((ends_at_tick, order), id);
            self.sum_input += input + 1;
            self.sum_output += max_new - 1;
            outcome.first_tokens.push(id);
        }
        self.end_sequences(now, first_order, outcome);
        self.phase = if first { Phase::Look } else { Phase::MustDecode };
    }

    /// Ends every sequence whose time has come among those that have just got a token, which are
    /// those from `first_order` on in batch order (A5).
    fn end_sequences(&mut self, now: SimTime, first_order: u64, outcome: &mut StepOutcome) {
        let mut done: Vec<(u64, RequestId, FinishReason)> = Vec::new();
        if self.watched > 0 {
            for (&order, &id) in self.batch.range(first_order..) {
                let entry = self.entry(id);
                if entry.deadline.is_some_and(|deadline| now > deadline) {
                    done.push((order, id, FinishReason::TimeLimit));
                } else if entry.client_gone
                    && self.tokens_of(entry).is_multiple_of(ABORT_NOTICE_TOKENS)
                {
                    done.push((order, id, FinishReason::Aborted));
                }
            }
        }
        for (&(_, order), &id) in self.endings.range(..=(self.tick, u64::MAX)) {
            if !done.iter().any(|&(other, ..)| other == order) {
                done.push((order, id, self.entry(id).ends_by));
            }
        }
        done.sort_unstable_by_key(|&(order, ..)| order);
        for (_, id, reason) in done {
            self.leave_batch(id);
            let tokens = self.tokens_of(self.entry(id));
            self.pruned.push(self.entry(id).uid);
            outcome.ended.push(self.forget(id, reason, tokens));
        }
    }

    fn leave_batch(&mut self, id: RequestId) {
        let entry = self.entry(id);
        let (order, tokens) = (entry.order, self.tokens_of(entry));
        let ends_at_tick = entry.joined + u64::from(entry.ends_at.max(1)) - 1;
        let (input, output) = (u64::from(entry.input + tokens), u64::from(entry.max_new - tokens));
        self.sum_input -= input;
        self.sum_output -= output;
        self.batch.remove(&order);
        self.endings.remove(&(ends_at_tick, order));
    }

    /// Every sequence on the shards fails (A6).
    fn fail_running(&mut self, outcome: &mut StepOutcome) {
        let ids: Vec<RequestId> = self.batch.values().copied().collect();
        for id in ids {
            let tokens = self.tokens_of(self.entry(id));
            self.leave_batch(id);
            outcome.ended.push(self.forget(id, FinishReason::OutOfMemory, tokens));
        }
        self.pruned.clear();
        self.phase = Phase::Idle;
    }
}

fn seq(id: RequestId, new_tokens: u32, computed: u32, admission: Admission) -> ScheduledSeq {
    ScheduledSeq { id, new_tokens, computed_tokens: computed, admission, blocks: Vec::new() }
}

impl Scheduler for Tgis {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        let limit = self.config.max_concurrent_requests;
        if self.in_flight >= limit {
            return Err(Refusal::TooManyRequests { limit });
        }
        let spec = &request.spec;
        if spec.max_output_tokens > self.config.max_new_tokens {
            let (total, limit) = (spec.max_output_tokens, self.config.max_new_tokens);
            return Err(Refusal::TotalTooLong { total, limit });
        }
        if spec.prompt_tokens >= self.config.max_sequence_length {
            let (prompt, limit) = (spec.prompt_tokens, self.config.max_sequence_length);
            return Err(Refusal::PromptTooLong { prompt, limit });
        }
        // The permit is held until the answer is complete.
        self.in_flight += 1;
        Ok(())
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        let spec = &request.spec;
        // A request that could outgrow the longest sequence is not refused, but cut (A1).
        let room = self.config.max_sequence_length - spec.prompt_tokens;
        let max_new = spec.max_output_tokens.min(room);
        let (ends_at, ends_by) = if spec.stop_at <= max_new {
            (spec.stop_at, FinishReason::Stop)
        } else {
            (max_new, FinishReason::Length)
        };
        if self.entries.len() <= id.index() {
            self.entries.resize(id.index() + 1, None);
        }
        self.watched += u32::from(spec.deadline.is_some());
        self.entries[id.index()] = Some(Entry {
            uid: request.uid,
            input: spec.prompt_tokens,
            max_new,
            ends_at,
            ends_by,
            queued_at: request.arrival,
            deadline: spec.deadline,
            client_gone: false,
            base: 0,
            joined: 0,
            order: 0,
        });
        self.buffer.push_back(id);
    }

    fn abort(&mut self, _: SimTime, id: RequestId, _: &mut Vec<Ended>) {
        let entry = self.entries[id.index()].as_mut().expect("an entry of this scheduler");
        if !entry.client_gone {
            entry.client_gone = true;
            self.watched += u32::from(entry.deadline.is_none());
        }
    }

    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool {
        self.drop_waiting(now, &mut step.ended);
        match self.phase {
            Phase::Idle => {
                if self.buffer.is_empty() {
                    return false;
                }
                let new = self.select(1);
                if new.is_empty() {
                    return false;
                }
                self.waited = 1;
                self.remaining = None;
                self.hold = None;
                self.plan_prefill(new, true, step);
                return true;
            }
            Phase::Look => {
                let remaining = match self.remaining {
                    None => i64::try_from(self.sum_output).expect("tokens to come fit i64"),
                    Some(counted) => counted - 1,
                };
                self.remaining = Some(remaining);
                let held = self.hold.is_some_and(|hold| now <= hold);
                if remaining >= 2 && !held {
                    let new = self.select(self.min_waiting(self.waited));
                    self.hold = None;
                    if !new.is_empty() {
                        self.waited = 1;
                        self.remaining = None;
                        self.plan_prefill(new, false, step);
                        return true;
                    }
                }
            }
            Phase::MustDecode => {}
        }
        self.plan_decode(step);
        true
    }

    fn complete(&mut self, start: SimTime, now: SimTime, outcome: &mut StepOutcome) {
        match self.call.take().expect("a call is on the shards") {
            Call::Prefill { new, first, out_of_memory } => {
                if !first && self.is_2024() {
                    let half = now.since(start).as_nanos() / 2;
                    self.hold = Some(now + crate::time::SimDuration::from_nanos(half));
                }
                if out_of_memory {
                    for id in new {
                        outcome.ended.push(self.forget(id, FinishReason::OutOfMemory, 0));
                    }
                    self.phase = if first { Phase::Idle } else { Phase::MustDecode };
                } else {
                    self.rebuild |= !first;
                    self.complete_prefill(now, (new, first), outcome);
                }
            }
            Call::Decode { out_of_memory: true } => self.fail_running(outcome),
            Call::Decode { out_of_memory: false } => {
                self.tick += 1;
                let running = self.running();
                self.sum_input += running;
                self.sum_output -= running;
                self.waited += 1;
                outcome.decode_tokens = u32::try_from(running).expect("a batch fits u32");
                self.end_sequences(now, 0, outcome);
                if !outcome.ended.is_empty() {
                    self.remaining = None;
                }
                self.phase = Phase::Look;
            }
            Call::Cleanup => self.phase = Phase::Idle,
        }
    }

    fn steady_turns(&self) -> u32 {
        if self.phase == Phase::Idle || self.watched > 0 || !self.last_decode_plain {
            return 0;
        }
        let Some((&(next_end, _), _)) = self.endings.first_key_value() else { return 0 };
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
        let blind = (0..turns).take_while(|&ahead| {
            // `waited` counts the step in flight once it has completed.
            let min = self.min_waiting(self.waited + 1 + ahead);
            waiting < min || self.running() + min > seats
        });
        u32::try_from(blind.count()).expect("at most `turns`")
    }

    fn advance(&mut self, turns: u32) {
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

    fn has_work(&self) -> bool {
        !self.buffer.is_empty() || self.phase != Phase::Idle
    }

    fn generated(&self, id: RequestId) -> u32 {
        self.entries[id.index()].as_ref().map_or(0, |entry| self.tokens_of(entry))
    }

    fn occupancy(&self) -> Occupancy {
        let limit = match self.config.rules {
            WeightRules::Tgis2023 { max_batch_weight, .. } => max_batch_weight,
            WeightRules::Tgis2024 { weight_limit, nexttoken, .. } => {
                (weight_limit as f64 / nexttoken[1]) as u64
            }
        };
        Occupancy {
            running: u32::try_from(self.batch.len()).expect("a batch fits u32"),
            waiting: u32::try_from(self.buffer.len()).expect("a queue fits u32"),
            kv_used: self.context(),
            kv_total: self.config.memory.decode_tokens.unwrap_or(limit),
        }
    }

    fn record_detail(&mut self) {
        self.record = true;
    }
}
