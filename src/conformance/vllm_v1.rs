//! Recorded vLLM V1 schedules (`engines/vllm-golden-format.md`), in whole nanoseconds.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::{CompletedStep, Observer, Outcome, RequestRecord, ScheduledStep};
use crate::engine::router::RoundRobin;
use crate::engine::{RunOptions, Simulation};
use crate::request::{FinishReason, PromptContent, Request, RequestId, RequestSpec, TokenRun};
use crate::scheduler::vllm_v1::{Policy, VllmV1, VllmV1Config, VllmV1Rules};
use crate::scheduler::{
    Admission, Ended, Occupancy, Refusal, ScheduledSeq, Scheduler, Step, StepOutcome,
};
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;

use super::{ConformanceError, Verdict, first_difference};

pub(super) const FORMAT: &str = "vllm-sched-golden/1";

/// A recording, as far as the replay reads it; steps, results and summary are only compared.
#[derive(Deserialize)]
struct Golden {
    oracle: Oracle,
    config: Config,
    cost: Linear,
    /// (time, request), in order of time.
    #[serde(default)]
    aborts: Vec<(u64, usize)>,
    requests: Vec<GoldenRequest>,
    steps: Vec<Value>,
    results: Vec<Value>,
    summary: Value,
}

#[derive(Deserialize)]
struct Oracle {
    version: String,
}

#[derive(Deserialize)]
struct Config {
    max_num_seqs: u32,
    max_num_active_seqs: Option<u32>,
    max_num_batched_tokens: u32,
    max_num_scheduled_tokens: Option<u32>,
    enable_chunked_prefill: bool,
    long_prefill_token_threshold: u32,
    long_prefill_token_threshold_adaptive: bool,
    policy: String,
    scheduler_reserve_full_isl: bool,
    watermark: f64,
    async_scheduling: bool,
    max_model_len: u32,
    block_size: u32,
    num_gpu_blocks: u32,
    enable_prefix_caching: bool,
}

#[derive(Deserialize)]
struct GoldenRequest {
    id: String,
    arrival_ns: u64,
    /// [first token id, length].
    prompt: Vec<(u64, u32)>,
    out_base: u64,
    max_tokens: u32,
    priority: i32,
}

/// The recorded cost in nanoseconds: `a + b * tokens in chunks + c * single tokens + d * context`.
#[derive(Clone, Copy, Deserialize)]
struct Linear {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

pub(super) fn check(golden: Value) -> Result<Verdict, ConformanceError> {
    let golden: Golden = serde_json::from_value(golden)
        .map_err(|error| ConformanceError::Malformed(error.to_string()))?;
    let engine = match golden.oracle.version.as_str() {
        "0.32.0" => "vllm-0.32",
        "0.13.0" => "vllm-0.13",
        other => return Err(ConformanceError::UnknownEngine(format!("vllm {other}"))),
    };
    let config = golden.config.scheduler(engine)?;
    let ours = replay(&golden, config)?;
    let divergence = first_difference("steps", &golden.steps, &ours.steps)
        .or_else(|| first_difference("results", &golden.results, &ours.results))
        .or_else(|| first_difference("summary", &[golden.summary], &[ours.summary]));
    Ok(Verdict { engine: engine.to_owned(), steps: golden.steps.len(), divergence })
}

impl Config {
    fn scheduler(&self, engine: &str) -> Result<VllmV1Config, ConformanceError> {
        let malformed = |what: String| Err(ConformanceError::Malformed(what));
        let policy = match self.policy.as_str() {
            "fcfs" => Policy::Fcfs,
            "priority" => Policy::Priority,
            other => return malformed(format!("unknown policy {other:?}")),
        };
        let budget = self.max_num_scheduled_tokens.unwrap_or(self.max_num_batched_tokens);
        if [self.max_num_seqs, budget, self.block_size, self.num_gpu_blocks].contains(&0) {
            return malformed("a size in its configuration is zero".into());
        }
        let rules = if engine == "vllm-0.13" { VllmV1Rules::V0_13 } else { VllmV1Rules::V0_32 };
        Ok(VllmV1Config {
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_active_seqs: self.max_num_active_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_num_scheduled_tokens: self.max_num_scheduled_tokens,
            num_gpu_blocks: self.num_gpu_blocks,
            block_size: self.block_size,
            enable_prefix_caching: self.enable_prefix_caching,
            enable_chunked_prefill: self.enable_chunked_prefill,
            policy,
            async_scheduling: self.async_scheduling,
            watermark: self.watermark,
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive: self.long_prefill_token_threshold_adaptive,
            rules: VllmV1Rules { reserve_full_isl: self.scheduler_reserve_full_isl, ..rules },
        })
    }
}

fn replay(golden: &Golden, config: VllmV1Config) -> Result<Recorder, ConformanceError> {
    let log = Rc::new(RefCell::new(Log::default()));
    let mut scheduler = VllmV1::new(config);
    scheduler.record_detail();
    let scheduler = Box::new(Logged { scheduler, slots: Vec::new(), log: Rc::clone(&log) });
    let script = Script::new(&golden.requests);
    let mut uids = vec![0; golden.requests.len()];
    for (uid, &index) in (0u64..).zip(&script.order) {
        uids[index] = uid;
    }
    let mut aborts = Vec::new();
    for &(time, index) in &golden.aborts {
        let &uid = uids.get(index).ok_or_else(|| {
            ConformanceError::Malformed(format!("request {index}, which is aborted, is missing"))
        })?;
        aborts.push((SimTime::from_nanos(time), uid));
    }
    aborts.sort_by_key(|&(time, _)| time);
    let recorder = Recorder {
        order: script.order.clone(),
        results: golden.requests.iter().map(|r| json!({ "id": r.id })).collect(),
        log,
        ..Recorder::default()
    };
    let options = RunOptions { aborts, ..RunOptions::default() };
    let replicas: Vec<(Box<dyn Scheduler>, Box<dyn StepCost>)> =
        vec![(scheduler, Box::new(golden.cost))];
    let router = Box::new(RoundRobin::default());
    let (_, recorder) = Simulation::new(replicas, router, script, recorder, options).run();
    Ok(recorder)
}

impl StepCost for Linear {
    fn step(&mut self, shape: &StepShape) -> StepTime {
        let mut time = StepTime::ZERO;
        if shape.is_empty() {
            return time;
        }
        let tokens = self.b * shape.prefill_tokens + self.c * u64::from(shape.decode_seqs);
        let context = self.d * (shape.prefill_context + shape.decode_context);
        time.set(CostTerm::Linear, SimDuration::from_nanos(self.a + tokens));
        time.set(CostTerm::Attention, SimDuration::from_nanos(context));
        time
    }

    fn decode(&mut self, seqs: u32) -> DecodeCost {
        let fixed = self.step(&StepShape::decode(seqs, 0));
        DecodeCost {
            fixed,
            fixed_gpu: fixed.gpu(),
            fixed_total: fixed.total(),
            host: SimDuration::ZERO,
            attention: ContextCost::Integer { numerator: self.d, denominator: 1, unit: 1 },
            kv_copy: ContextCost::Zero,
        }
    }
}

/// The recorded requests at their recorded times.
struct Script {
    /// Position in the recording of each request, in order of arrival.
    order: Vec<usize>,
    specs: Vec<(SimTime, RequestSpec)>,
    taken: usize,
}

impl Script {
    fn new(requests: &[GoldenRequest]) -> Self {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&index| (requests[index].arrival_ns, index));
        let spec = |&index: &usize| {
            let request = &requests[index];
            let runs = request.prompt.iter().map(|&(first, len)| TokenRun { first, len });
            let content = PromptContent { runs: runs.collect(), output_base: request.out_base };
            let prompt = content.runs.iter().fold(0u32, |sum, run| sum.saturating_add(run.len));
            let spec = RequestSpec {
                priority: request.priority,
                content: Some(Arc::new(content)),
                ..RequestSpec::fixed(prompt, request.max_tokens)
            };
            (SimTime::from_nanos(request.arrival_ns), spec)
        };
        Self { specs: order.iter().map(spec).collect(), order, taken: 0 }
    }
}

impl Workload for Script {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.specs.get(self.taken).map(|&(time, _)| time)
    }

    fn take(&mut self) -> RequestSpec {
        let (_, spec) = self.specs[self.taken].clone();
        self.taken += 1;
        spec
    }

    fn on_reply(&mut self, _: &RequestRecord) {}
}

/// What the scheduler was told between two steps, which the engine's observers do not see.
#[derive(Debug, Default)]
struct Log {
    added: Vec<u64>,
    aborted: Vec<u64>,
    /// Aborted just before the update of a step.
    aborted_before_update: Vec<u64>,
}

/// The scheduler under test, with a note of each arrival and abort.
struct Logged {
    scheduler: VllmV1,
    /// The `uid` in each slot.
    slots: Vec<u64>,
    log: Rc<RefCell<Log>>,
}

impl Scheduler for Logged {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        self.scheduler.admit(request)
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        if self.slots.len() <= id.index() {
            self.slots.resize(id.index() + 1, 0);
        }
        self.slots[id.index()] = request.uid;
        self.log.borrow_mut().added.push(request.uid);
        self.scheduler.enqueue(id, request);
    }

    fn abort(&mut self, now: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        self.log.borrow_mut().aborted.push(self.slots[id.index()]);
        self.scheduler.abort(now, id, ended);
    }

    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool {
        self.scheduler.schedule(now, step)
    }

    fn complete(&mut self, start: SimTime, now: SimTime, outcome: &mut StepOutcome) {
        let log = &mut *self.log.borrow_mut();
        log.aborted_before_update.append(&mut log.aborted);
        self.scheduler.complete(start, now, outcome);
    }

    fn has_work(&self) -> bool {
        self.scheduler.has_work()
    }

    fn generated(&self, id: RequestId) -> u32 {
        self.scheduler.generated(id)
    }

    fn occupancy(&self) -> Occupancy {
        self.scheduler.occupancy()
    }

    fn pipeline_depth(&self) -> usize {
        self.scheduler.pipeline_depth()
    }
}

/// Writes our steps as the recording writes its own.
#[derive(Default)]
struct Recorder {
    /// Position in the recording of each request, by `uid`.
    order: Vec<usize>,
    log: Rc<RefCell<Log>>,
    steps: Vec<Value>,
    results: Vec<Value>,
    summary: Value,
    totals: Totals,
}

#[derive(Default)]
struct Totals {
    preemptions: usize,
    hit_tokens: u64,
    scheduled_tokens: u64,
    max_running: u32,
    chunked: u64,
}

impl Recorder {
    fn index(&self, uid: u64) -> usize {
        self.order[usize::try_from(uid).expect("a position fits usize")]
    }

    fn indices(&self, uids: &[u64]) -> Vec<usize> {
        uids.iter().map(|&uid| self.index(uid)).collect()
    }

    fn show(&mut self, index: usize, seq: &ScheduledSeq) -> Value {
        let (new, past) = (seq.new_tokens, seq.computed_tokens);
        self.totals.scheduled_tokens += u64::from(new);
        self.totals.chunked += u64::from(new > 1);
        let kind = match seq.admission {
            Admission::New => 0,
            Admission::Resumed => 1,
            Admission::Running if seq.blocks.is_empty() => return json!([index, new, past]),
            Admission::Running => 2,
        };
        if kind < 2 {
            self.totals.hit_tokens += u64::from(past);
        }
        json!([index, new, past, kind, seq.blocks])
    }
}

impl Observer for Recorder {
    fn needs_every_step(&self) -> bool {
        true
    }

    fn on_scheduled(&mut self, scheduled: &ScheduledStep<'_>) {
        let index = |id| self.index(scheduled.requests.get(id).uid);
        let preempted: Vec<usize> = scheduled.step.preempted.iter().map(|&id| index(id)).collect();
        let detail = scheduled.step.detail.as_ref().expect("detail was asked for");
        let batch: Vec<Value> = detail
            .scheduled
            .iter()
            .map(|seq| self.show(self.index(scheduled.requests.get(seq.id).uid), seq))
            .collect();
        let hash = detail.free_queue_hash.expect("blocks have identities");
        let Occupancy { running, waiting, .. } = scheduled.occupancy;
        let mut step = json!({
            "i": scheduled.index,
            "t": scheduled.decided.as_nanos(),
            "s": batch,
            "end": scheduled.end.as_nanos(),
            "rw": [running, waiting],
            "fb": [detail.free_blocks],
            "fq": format!("{hash:016x}"),
        });
        let (added, aborted) = {
            let log = &mut *self.log.borrow_mut();
            (std::mem::take(&mut log.added), std::mem::take(&mut log.aborted))
        };
        for (key, list) in
            [("add", self.indices(&added)), ("ab", self.indices(&aborted)), ("p", preempted)]
        {
            if !list.is_empty() {
                step[key] = json!(list);
            }
        }
        self.totals.preemptions += scheduled.step.preempted.len();
        self.totals.max_running = self.totals.max_running.max(running);
        self.steps.push(step);
    }

    fn on_completed(&mut self, completed: &CompletedStep<'_>) {
        let aborted = std::mem::take(&mut self.log.borrow_mut().aborted_before_update);
        let finished: Vec<usize> = completed
            .outcome
            .ended
            .iter()
            .map(|ended| self.index(completed.requests.get(ended.id).uid))
            .collect();
        let aborted = self.indices(&aborted);
        let at = usize::try_from(completed.index).expect("a position fits usize");
        let step = &mut self.steps[at];
        let Occupancy { kv_used, kv_total, .. } = completed.occupancy_after;
        step["fb"] = json!([step["fb"][0], kv_total - kv_used]);
        for (key, list) in [("uab", aborted), ("fin", finished)] {
            if !list.is_empty() {
                step[key] = json!(list);
            }
        }
        self.summary = json!({
            "steps": self.steps.len(),
            "preemptions": self.totals.preemptions,
            "end_ns": completed.end.as_nanos(),
            "hit_tokens": self.totals.hit_tokens,
            "scheduled_tokens": self.totals.scheduled_tokens,
            "max_running": self.totals.max_running,
            "chunked": self.totals.chunked,
        });
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let Outcome::Ended(reason) = record.outcome else { return };
        let index = self.index(record.uid);
        let why = match reason {
            FinishReason::Aborted => "abort",
            other => other.name(),
        };
        let result = &mut self.results[index];
        result["first_token_ns"] = json!(record.first_token.map(SimTime::as_nanos));
        result["finish_ns"] = json!(record.ended.as_nanos());
        result["why"] = json!(why);
        result["out_tokens"] = json!(record.output_tokens);
        result["preemptions"] = json!(record.preemptions);
        result["cached_tokens"] = json!(record.first_scheduled.map(|_| record.cached_tokens));
    }
}
