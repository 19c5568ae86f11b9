//! Continuous-batching schedulers: each decides what the next step runs, and nothing else.
//!
//! A scheduler sees requests, its own KV cache and `now`. It never sees the event queue, the
//! metrics or the cost model; the engine acts on what it decides. One engine generation is one file
//! behind [`Scheduler`].
//!
//! The engine drives it in this order, at every boundary between steps:
//! `complete` (the step that has just ended), `enqueue` (arrivals so far), `abort`, `schedule`.

pub mod audit;
pub mod rules;
pub mod static_batch;
pub mod tgi;
pub mod tgis;
pub mod vllm_v0;
pub mod vllm_v1;

use audit::{Audit, Depth};

use crate::cost::StepShape;
use crate::request::{FinishReason, Request, RequestId};
use crate::time::SimTime;

/// A policy that forms batches for one replica.
pub trait Scheduler {
    /// The front door, asked at the instant of arrival: `Err` refuses the request at once, as the
    /// real server does for one that is too long or one too many.
    fn admit(&mut self, request: &Request) -> Result<(), Refusal>;

    /// An admitted request reaches the scheduler's waiting queue. Equal arrival times come in order
    /// of `uid`.
    fn enqueue(&mut self, id: RequestId, request: &Request);

    /// The client of `id` has gone away. Whether and when the request ends is the engine's rule; if
    /// it ends now, it appears in `ended`.
    fn abort(&mut self, now: SimTime, id: RequestId, ended: &mut Vec<Ended>);

    /// Decides the next step and fills `step` (which arrives cleared). Returns false if there is
    /// nothing to run; `step.ended` may still name requests that were dropped.
    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool;

    /// The step that began at `start` ends at `now`: tokens are appended, requests finish. With a
    /// pipeline deeper than one this is the oldest step in flight.
    fn complete(&mut self, start: SimTime, now: SimTime, outcome: &mut StepOutcome);

    /// How many more turns (`complete` then `schedule`) would repeat the newest step exactly: the
    /// same decode sequences, each one token further, nobody admitted, preempted or finished, as
    /// long as nobody arrives or aborts. Zero is always a correct answer. Of a deeper pipeline only the
    /// newest step must be like those to come; an older one may have run beside a sequence that has
    /// left since, if all that is still due from it is one token for each of those that stay.
    fn steady_turns(&self) -> u32 {
        0
    }

    /// Takes `turns <= steady_turns()` such turns at once.
    fn advance(&mut self, turns: u32) {
        assert_eq!(turns, 0, "only a scheduler that promises steady turns is asked to take them");
    }

    /// As `advance`; and into `kv_used` goes what `occupancy` would say of the cache after each of
    /// the last `kv_used.len()` turns.
    fn advance_noting(&mut self, turns: u32, kv_used: &mut [u64]) {
        let singly = u32::try_from(kv_used.len()).expect("a pipeline is short");
        if turns > singly {
            self.advance(turns - singly);
        }
        for noted in kv_used {
            self.advance(1);
            *noted = self.occupancy().kv_used;
        }
    }

    /// Whether stepping could still achieve anything: requests unfinished, or bookkeeping left.
    fn has_work(&self) -> bool;

    /// Output tokens that a live request has got so far.
    fn generated(&self, id: RequestId) -> u32;

    /// Queue lengths and KV use, for metrics and routers.
    fn occupancy(&self) -> Occupancy;

    /// Steps in flight at once: 1, or 2 with asynchronous scheduling.
    fn pipeline_depth(&self) -> usize {
        1
    }

    /// Turns on what only recorded schedules need: [`Step::detail`], block identities.
    fn record_detail(&mut self) {}

    /// What it holds between two calls, gathered anew: for checks and reports, and never asked for
    /// by a plain run. `None`: it can only be judged by what it decides.
    fn audit(&self, _depth: Depth) -> Option<Audit> {
        None
    }
}

/// Why a request is refused at the front door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("prompt of {prompt} tokens is over the limit of {limit}")]
    PromptTooLong { prompt: u32, limit: u32 },
    #[error("prompt and output of {total} tokens are over the limit of {limit}")]
    TotalTooLong { total: u32, limit: u32 },
    #[error("{limit} requests are in flight already")]
    TooManyRequests { limit: u32 },
}

/// What kind of work a step is, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// No tokens: only bookkeeping; takes no time.
    #[default]
    Empty,
    Prefill,
    Decode,
    /// Prompt chunks and decode sequences in one batch (chunked prefill).
    Mixed,
}

impl StepKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Mixed => "mixed",
        }
    }
}

/// What a scheduler wants run. Reused from step to step: `clear` keeps the allocations.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub kind: StepKind,
    pub shape: StepShape,
    /// Requests that this step works on for the first time, with their prefix-cache hits in tokens.
    pub admitted: Vec<(RequestId, u32)>,
    /// Requests taken off the GPU while this step was formed, in order.
    pub preempted: Vec<RequestId>,
    /// Requests that ended while this step was formed (dropped from a queue).
    pub ended: Vec<Ended>,
    /// Only if [`Scheduler::record_detail`] was called.
    pub detail: Option<StepDetail>,
}

impl Step {
    pub fn clear(&mut self) {
        self.kind = StepKind::Empty;
        self.shape = StepShape::default();
        self.admitted.clear();
        self.preempted.clear();
        self.ended.clear();
        self.detail = None;
    }
}

/// What recorded schedules compare beyond the step's aggregates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepDetail {
    /// The batch in the engine's own order.
    pub scheduled: Vec<ScheduledSeq>,
    /// The `uid`s of finished sequences that the shard drops at the start of this call (TGIS).
    pub pruned: Vec<u64>,
    /// Tokens billed to a prefill, padding included, or context before a decode (TGIS).
    pub billed_tokens: u64,
    /// Blocks held by the batch (TGI).
    pub blocks_held: u64,
    /// Whether the shards got a prefill call; with chunking either call may hold prompts (TGI).
    pub prefill_call: bool,
    /// FNV-1a-64 over the free queue after scheduling (vLLM V1).
    pub free_queue_hash: Option<u64>,
    /// Free blocks after scheduling (vLLM).
    pub free_blocks: u64,
    /// The scheduler's own count of batched tokens, padding included (vLLM V0).
    pub batched_tokens: u64,
    /// The step that carries an out-of-memory failure (TGIS).
    pub out_of_memory: bool,
}

/// One sequence of a recorded step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledSeq {
    pub id: RequestId,
    pub new_tokens: u32,
    /// Tokens whose KV stood in the cache before.
    pub computed_tokens: u32,
    pub admission: Admission,
    /// Block ids: the whole table of a newcomer, the new ones of a running request.
    pub blocks: Vec<u32>,
}

/// How a sequence came into a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    New,
    Resumed,
    Running,
}

/// What a step has brought about.
#[derive(Clone, Debug, Default)]
pub struct StepOutcome {
    /// Sequences that got a token and had got one before since they were (re)admitted.
    pub decode_tokens: u32,
    /// Sequences that got their first token since they were (re)admitted.
    pub first_tokens: Vec<RequestId>,
    /// Sequences that got a token although they were preempted while the step ran (vLLM's
    /// asynchronous scheduling).
    pub late_tokens: Vec<RequestId>,
    /// Running sequences that got no token although `decode_tokens` others did (budget, preemption
    /// of others).
    pub stalled: Vec<RequestId>,
    /// Requests that ended, in the engine's order.
    pub ended: Vec<Ended>,
}

impl StepOutcome {
    /// Tokens that the step has produced.
    pub fn tokens(&self) -> u64 {
        let apart = self.first_tokens.len() + self.late_tokens.len();
        u64::from(self.decode_tokens) + u64::try_from(apart).expect("a batch fits u64")
    }

    pub fn clear(&mut self) {
        self.decode_tokens = 0;
        self.first_tokens.clear();
        self.late_tokens.clear();
        self.stalled.clear();
        self.ended.clear();
    }
}

/// A request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub id: RequestId,
    pub reason: FinishReason,
    pub output_tokens: u32,
}

/// Queue lengths and KV use of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    pub running: u32,
    pub waiting: u32,
    /// In blocks where the engine has them, else in tokens.
    pub kv_used: u64,
    pub kv_total: u64,
}
