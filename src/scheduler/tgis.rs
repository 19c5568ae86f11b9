//! TGIS, IBM's fork of text-generation-inference: prefill and decode in separate calls to the
//! shards, admission by the projected weight of the batch.
//!
//! Two generations share the loop: Nov 2023 (commit 6645b7a), whose limits are tokens set by hand,
//! and since 2024-01-29 (read at 006006d), whose limits are bytes from a memory model and which
//! waits half a prefill's time before the next. Rules in words: `engines/tgis-tgi.md` part A.

mod audit;
mod batch;
mod calls;
mod config;
mod describe;
mod queue;
mod running;
mod select;
mod steady;
mod weights;

use std::collections::VecDeque;

use crate::request::{FinishReason, Request, RequestId};
use crate::time::SimTime;

use super::audit::{Audit, Depth};
use super::{Ended, Occupancy, Refusal, Scheduler, Step, StepOutcome};
use batch::Entry;
use calls::Call;
pub use config::{ShardMemory, TgisConfig, TgisStartError};
use running::Running;
use select::Selection;
pub use weights::{BatchStats, BatchType, WeightRules, Weights};

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

/// The TGIS router and the state of its shards.
pub struct Tgis {
    config: TgisConfig,
    weights: Weights,
    entries: Vec<Option<Entry>>,
    buffer: VecDeque<RequestId>,
    /// Finished ones leave at once, `pruned` remembers them.
    batch: Running,
    pruned: Vec<u64>,
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
    selection: Selection,
}

impl Tgis {
    pub fn new(config: TgisConfig) -> Self {
        let weights = Weights { batch: config.batch_type, rules: config.rules };
        Self {
            config,
            weights,
            entries: Vec::new(),
            buffer: VecDeque::new(),
            batch: Running::default(),
            pruned: Vec::new(),
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
            selection: Selection::default(),
        }
    }

    fn is_2024(&self) -> bool {
        matches!(self.config.rules, WeightRules::Tgis2024 { .. })
    }

    fn entry(&self, id: RequestId) -> &Entry {
        self.entries[id.index()].as_ref().expect("an entry of this scheduler")
    }

    /// Removes an entry for good.
    fn forget(&mut self, id: RequestId, reason: FinishReason, output_tokens: u32) -> Ended {
        let entry = self.entries[id.index()].take().expect("an entry ends once");
        self.watched -= u32::from(entry.client_gone || entry.deadline.is_some());
        self.in_flight -= 1;
        Ended { id, reason, output_tokens }
    }
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
        self.count_steady_turns()
    }

    fn advance(&mut self, turns: u32) {
        self.take_steady_turns(turns);
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

    fn audit(&self, _: Depth) -> Option<Audit> {
        Some(self.take_audit())
    }
}
