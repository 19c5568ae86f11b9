//! A scheduler of one's own: shortest prompt first, with an age limit against starvation.
//!
//! ```sh
//! cargo run --release --example shortest_prompt_first -- run examples/shortest_prompt_first.toml
//! ```
//!
//! is the whole servesim command line with one engine more. `docs/own-scheduler.md` walks through
//! this file. The scheduler batches continuously under one token budget, cuts prompts into chunks,
//! takes KV blocks as sequences grow, and preempts the youngest by recompute when none is left, all
//! as vLLM V1 does; its own is the order of admission.

use std::collections::BTreeMap;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servesim::engine_name::EngineName;
use servesim::kv_cache::{BlockTable, KvCacheManager, Release};
use servesim::request::{FinishReason, Request, RequestId};
use servesim::scenario::registry::{BadSetting, CustomEngine, Registry, Server};
use servesim::scheduler::{
    Admission, Ended, Occupancy, Refusal, ScheduledSeq, Scheduler, Step, StepDetail, StepKind,
    StepOutcome,
};
use servesim::time::{SimDuration, SimTime};

fn main() -> ExitCode {
    servesim::cli::main_with(&registry())
}

/// The built-in engines and ours.
pub fn registry() -> Registry {
    Registry::builtin().with::<ShortestPromptFirst>()
}

/// The engine as scenarios name it: vLLM's server with our scheduler in it.
pub struct ShortestPromptFirst;

/// Settings of shortest-prompt-first.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// A request that has waited this long goes before all shorter ones, oldest first (default 10s;
    /// 0s is first come, first served).
    pub max_age: SimDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_age: SimDuration::from_secs(10) }
    }
}

impl CustomEngine for ShortestPromptFirst {
    const NAME: &'static str = "shortest-prompt-first";
    const ABOUT: &'static str = "admits the shortest prompt first, with an age limit";
    const LIKE: EngineName = EngineName::Vllm0_13;
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), BadSetting> {
        // Types, units and bounds are checked by the schema; this is for what it cannot say.
        if settings.max_age > SimDuration::from_secs(3600) {
            return Err(BadSetting {
                key: "max-age",
                problem: "above one hour is no limit: long prompts would starve".into(),
                help: "set it to the longest wait that you can answer for".into(),
            });
        }
        Ok(())
    }

    fn scheduler(settings: &Settings, server: &Server) -> Box<dyn Scheduler> {
        Box::new(SpfScheduler {
            max_age: settings.max_age,
            budget: server.max_num_batched_tokens,
            seats: server.max_num_seqs,
            max_model_len: server.max_model_len,
            kv: KvCacheManager::counted(server.kv_blocks, server.block_size),
            waiting: Waiting::default(),
            running: Vec::new(),
            record: false,
        })
    }
}

/// A request with all that the scheduler knows of it. Lengths are in tokens.
#[derive(Debug)]
struct Sequence {
    id: RequestId,
    uid: u64,
    arrival: SimTime,
    prompt: u32,
    /// Output tokens that it will have, and how it then ends.
    limit: u32,
    ends_by: FinishReason,
    outputs: u32,
    /// Tokens whose KV stands in the cache, those of the step in flight included.
    computed: u32,
    /// Of those, the ones that the step in flight computes; 0 if it passes the sequence over.
    scheduled: u32,
    /// Whether it has got a token since it was last admitted.
    decoding: bool,
    preempted: bool,
    table: BlockTable,
}

impl Sequence {
    fn new(id: RequestId, request: &Request) -> Self {
        let spec = &request.spec;
        let (limit, ends_by) = if spec.stop_at <= spec.max_output_tokens {
            (spec.stop_at, FinishReason::Stop)
        } else {
            (spec.max_output_tokens, FinishReason::Length)
        };
        Self {
            id,
            uid: request.uid,
            arrival: request.arrival,
            prompt: spec.prompt_tokens.max(1),
            limit: limit.max(1),
            ends_by,
            outputs: 0,
            computed: 0,
            scheduled: 0,
            decoding: false,
            preempted: false,
            table: BlockTable::default(),
        }
    }

    /// Tokens that are known. A prompt still to be computed and the newest output token of a
    /// decoding sequence differ only in how many of them have no KV yet.
    fn len(&self) -> u32 {
        self.prompt + self.outputs
    }
}

/// The waiting requests in both orders that count. Every operation is O(log n).
#[derive(Debug, Default)]
struct Waiting {
    /// By prompt, then by arrival.
    shortest: BTreeMap<(u32, u64), Sequence>,
    /// The same by arrival: uid to prompt.
    oldest: BTreeMap<u64, u32>,
}

impl Waiting {
    fn push(&mut self, seq: Sequence) {
        self.oldest.insert(seq.uid, seq.prompt);
        self.shortest.insert((seq.prompt, seq.uid), seq);
    }

    /// Whose turn it is: the oldest if it has waited for `max_age`, else the shortest.
    fn next(&self, now: SimTime, max_age: SimDuration) -> Option<&Sequence> {
        let (&uid, &prompt) = self.oldest.first_key_value()?;
        let oldest = &self.shortest[&(prompt, uid)];
        if now.since(oldest.arrival) >= max_age {
            return Some(oldest);
        }
        self.shortest.first_key_value().map(|(_, seq)| seq)
    }

    fn remove(&mut self, uid: u64) -> Sequence {
        let prompt = self.oldest.remove(&uid).expect("who is taken out waits");
        self.shortest.remove(&(prompt, uid)).expect("who waits does so in both orders")
    }

    fn find(&self, id: RequestId) -> Option<&Sequence> {
        self.shortest.values().find(|seq| seq.id == id)
    }

    fn len(&self) -> usize {
        self.oldest.len()
    }
}

/// The scheduler of one replica.
#[derive(Debug)]
struct SpfScheduler {
    max_age: SimDuration,
    /// Tokens of a step.
    budget: u32,
    /// Sequences that may run at once.
    seats: u32,
    max_model_len: u32,
    kv: KvCacheManager,
    waiting: Waiting,
    /// In order of admission: the last is the first to be preempted.
    running: Vec<Sequence>,
    record: bool,
}

impl SpfScheduler {
    /// Blocks that `seq` lacks for `new` tokens more.
    fn blocks_for_more(&self, seq: &Sequence, new: u32) -> u32 {
        self.kv.blocks_for(seq.computed + new) - self.kv.blocks_for(seq.computed)
    }

    /// Gives each running sequence its tokens, the oldest first, as far as the budget goes. When
    /// blocks run out the youngest makes room. Returns what is left of the budget.
    fn schedule_running(&mut self, step: &mut Step) -> u32 {
        let mut budget = self.budget;
        let mut at = 0;
        while at < self.running.len() {
            let seq = &self.running[at];
            let new = (seq.len() - seq.computed).min(budget);
            let blocks = self.blocks_for_more(seq, new);
            if blocks > self.kv.free_blocks() {
                // Perhaps the sequence itself: then the loop is over.
                self.preempt_youngest(step);
                continue;
            }
            let seq = &mut self.running[at];
            self.kv.grow(&mut seq.table, blocks);
            seq.computed += new;
            seq.scheduled = new;
            budget -= new;
            at += 1;
        }
        budget
    }

    /// Takes back all its blocks; its prompt and what it has generated will be computed again.
    fn preempt_youngest(&mut self, step: &mut Step) {
        let mut seq = self.running.pop().expect("somebody runs who needs a block");
        self.give_back(&mut seq, Release::Preempted);
        seq.computed = 0;
        seq.decoding = false;
        seq.preempted = true;
        step.preempted.push(seq.id);
        self.waiting.push(seq);
    }

    fn give_back(&mut self, seq: &mut Sequence, release: Release) {
        let held = self.kv.blocks_for(seq.computed);
        self.kv.release(&mut seq.table, held, 0, release);
    }

    /// Admits those whose turn it is. Nobody is passed over: if the oldest is too old to be
    /// overtaken and does not fit yet, the others wait with it.
    fn admit_waiting(&mut self, now: SimTime, mut budget: u32, step: &mut Step) {
        while budget > 0 && self.running.len() < self.seats as usize {
            let Some(seq) = self.waiting.next(now, self.max_age) else { break };
            // The whole sequence must fit, and leave a block for each that runs: to admit what is
            // preempted again at once would be work for nothing.
            let spare = u32::try_from(self.running.len()).expect("no more than there are seats");
            if self.kv.blocks_for(seq.len()) + spare > self.kv.free_blocks() {
                break;
            }
            let uid = seq.uid;
            let mut seq = self.waiting.remove(uid);
            let new = seq.len().min(budget);
            let blocks = self.blocks_for_more(&seq, new);
            self.kv.grow(&mut seq.table, blocks);
            seq.computed = new;
            seq.scheduled = new;
            budget -= new;
            step.admitted.push((seq.id, 0));
            self.running.push(seq);
        }
    }

    /// What the step computes, for the cost model.
    fn describe(&self, step: &mut Step) {
        let mut detail = StepDetail::default();
        for seq in self.running.iter().filter(|seq| seq.scheduled > 0) {
            let past = seq.computed - seq.scheduled;
            step.shape.push(past, seq.scheduled);
            if seq.computed == seq.len() {
                step.shape.sampled_seqs += 1;
                step.shape.logits_rows += 1;
            }
            if self.record {
                detail.scheduled.push(ScheduledSeq {
                    id: seq.id,
                    new_tokens: seq.scheduled,
                    computed_tokens: past,
                    admission: match (past, seq.preempted) {
                        (0, false) => Admission::New,
                        (0, true) => Admission::Resumed,
                        _ => Admission::Running,
                    },
                    blocks: Vec::new(),
                });
            }
        }
        step.kind = match (step.shape.prefill_seqs, step.shape.decode_seqs) {
            (0, 0) => StepKind::Empty,
            (_, 0) => StepKind::Prefill,
            (0, _) => StepKind::Decode,
            _ => StepKind::Mixed,
        };
        if self.record {
            detail.free_blocks = u64::from(self.kv.free_blocks());
            step.detail = Some(detail);
        }
    }

    fn find(&self, id: RequestId) -> Option<&Sequence> {
        self.running.iter().find(|seq| seq.id == id).or_else(|| self.waiting.find(id))
    }
}

impl Scheduler for SpfScheduler {
    /// What could not run even alone is refused at the door.
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        let room = u64::from(self.kv.usable_blocks()) * u64::from(self.kv.block_size());
        let limit = self.max_model_len.min(u32::try_from(room).unwrap_or(u32::MAX));
        let total = request.spec.prompt_tokens.saturating_add(request.spec.max_output_tokens);
        if total > limit { Err(Refusal::TotalTooLong { total, limit }) } else { Ok(()) }
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        self.waiting.push(Sequence::new(id, request));
    }

    fn abort(&mut self, _: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        let seq = if let Some(at) = self.running.iter().position(|seq| seq.id == id) {
            let mut seq = self.running.remove(at);
            self.give_back(&mut seq, Release::Ended);
            seq
        } else {
            let uid = self.waiting.find(id).expect("who does not run waits").uid;
            self.waiting.remove(uid)
        };
        ended.push(Ended { id, reason: FinishReason::Aborted, output_tokens: seq.outputs });
    }

    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool {
        let budget = self.schedule_running(step);
        if step.preempted.is_empty() {
            self.admit_waiting(now, budget, step);
        }
        self.describe(step);
        !self.running.is_empty()
    }

    fn complete(&mut self, _: SimTime, _: SimTime, outcome: &mut StepOutcome) {
        for seq in &mut self.running {
            let scheduled = std::mem::take(&mut seq.scheduled);
            if scheduled == 0 {
                if seq.decoding {
                    outcome.stalled.push(seq.id);
                }
                continue;
            }
            if seq.computed < seq.len() {
                continue;
            }
            seq.outputs += 1;
            if seq.decoding {
                outcome.decode_tokens += 1;
            } else {
                seq.decoding = true;
                outcome.first_tokens.push(seq.id);
            }
        }
        if outcome.decode_tokens == 0 {
            outcome.stalled.clear();
        }
        for mut seq in self.running.extract_if(.., |seq| seq.outputs == seq.limit) {
            let held = self.kv.blocks_for(seq.computed);
            self.kv.release(&mut seq.table, held, 0, Release::Ended);
            let Sequence { id, ends_by: reason, outputs: output_tokens, .. } = seq;
            outcome.ended.push(Ended { id, reason, output_tokens });
        }
    }

    /// Optional, and what makes long decodes cheap to simulate: as long as everybody decodes, nobody
    /// ends, blocks suffice and nobody can be admitted, turns only repeat.
    fn steady_turns(&self) -> u32 {
        let all_decode = self.running.iter().all(|seq| seq.decoding && seq.scheduled == 1);
        let full = self.running.len() >= self.seats as usize;
        if !all_decode || !(full || self.waiting.len() == 0) {
            return 0;
        }
        let to_end = self.running.iter().map(|seq| seq.limit - seq.outputs - 1).min();
        // In t turns a sequence needs at most t / block size blocks, rounded up.
        let running = u32::try_from(self.running.len()).expect("no more than there are seats");
        let blocks_each = self.kv.free_blocks().checked_div(running).unwrap_or(0);
        to_end.unwrap_or(0).min(blocks_each.saturating_mul(self.kv.block_size()))
    }

    fn advance(&mut self, turns: u32) {
        for at in 0..self.running.len() {
            let blocks = self.blocks_for_more(&self.running[at], turns);
            let seq = &mut self.running[at];
            self.kv.grow(&mut seq.table, blocks);
            seq.computed += turns;
            seq.outputs += turns;
        }
    }

    fn has_work(&self) -> bool {
        !self.running.is_empty() || self.waiting.len() > 0
    }

    fn generated(&self, id: RequestId) -> u32 {
        self.find(id).map_or(0, |seq| seq.outputs)
    }

    fn occupancy(&self) -> Occupancy {
        let count = |n: usize| u32::try_from(n).expect("fewer than 2^32 live requests");
        let (total, free) = (self.kv.usable_blocks(), self.kv.free_blocks());
        Occupancy {
            running: count(self.running.len()),
            waiting: count(self.waiting.len()),
            kv_used: u64::from(total - free),
            kv_total: u64::from(total),
        }
    }

    fn record_detail(&mut self) {
        self.record = true;
    }
}
