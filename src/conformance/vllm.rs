//! What the recorded schedules of vLLM V0 and V1 have in common
//! (`engines/vllm-golden-format.md`), in whole nanoseconds.

use std::cell::RefCell;
use std::rc::Rc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::{CompletedStep, Observer, Outcome, RequestRecord, ScheduledStep};
use crate::engine::router::RoundRobin;
use crate::engine::{RunOptions, Simulation};
use crate::request::{FinishReason, Request, RequestId, RequestSpec};
use crate::scheduler::{
    Ended, Occupancy, Refusal, ScheduledSeq, Scheduler, Step, StepDetail, StepOutcome,
};
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;

use super::{ConformanceError, Verdict, first_difference};

/// The recorded cost in nanoseconds: `a + b * tokens in chunks + c * single tokens + d * context`.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Linear {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
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

/// A recording, as far as the replay reads it; steps, results and summary are only compared.
#[derive(Deserialize)]
pub(super) struct Golden<Config, Request> {
    pub(super) oracle: Oracle,
    pub(super) config: Config,
    pub(super) cost: Linear,
    /// (time, request), in order of time.
    #[serde(default)]
    aborts: Vec<(u64, usize)>,
    pub(super) requests: Vec<Request>,
    steps: Vec<Value>,
    results: Vec<Value>,
    summary: Value,
}

#[derive(Deserialize)]
pub(super) struct Oracle {
    pub(super) version: String,
}

/// A recorded request.
pub(super) trait GoldenRequest {
    fn id(&self) -> &str;
    fn arrival_ns(&self) -> u64;
    fn spec(&self) -> RequestSpec;
}

/// What V0 and V1 write differently.
pub(super) trait Dialect {
    /// A member of the batch.
    fn sequence(&mut self, index: usize, seq: &ScheduledSeq) -> Value;

    /// What else is written of a step in which the requests `dropped` ended.
    fn step(&mut self, detail: &StepDetail, dropped: &[usize], step: &mut Value);

    /// What else is written of a request that has ended.
    fn result(&self, record: &RequestRecord, result: &mut Value);

    /// What else is written of the run.
    fn summary(&self, summary: &mut Value);
}

impl<Config: DeserializeOwned, Request: GoldenRequest + DeserializeOwned> Golden<Config, Request> {
    pub(super) fn read(golden: Value) -> Result<Self, ConformanceError> {
        let golden: Self = serde_json::from_value(golden)
            .map_err(|error| ConformanceError::Malformed(error.to_string()))?;
        let Linear { a, b, c, d } = golden.cost;
        if [a, b, c, d].iter().any(|&ns| ns > 1_000_000_000) {
            let what = "a coefficient of its cost is over a second";
            return Err(ConformanceError::Malformed(what.into()));
        }
        Ok(golden)
    }

    /// Compares what `scheduler` does on the recorded requests with what is recorded.
    pub(super) fn check<D: Dialect>(
        self,
        engine: &str,
        mut scheduler: Box<dyn Scheduler>,
        cost: Box<dyn StepCost>,
        dialect: D,
    ) -> Result<Verdict, ConformanceError> {
        scheduler.record_detail();
        let requests = &self.requests;
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&index| (requests[index].arrival_ns(), index));
        let aborts = self.aborts_by_uid(&order)?;
        let arrivals = order.iter().map(|&index| {
            (SimTime::from_nanos(requests[index].arrival_ns()), requests[index].spec())
        });
        let workload = Arrivals { specs: arrivals.collect(), taken: 0 };
        let log = Rc::new(RefCell::new(Log::default()));
        let recorder = Recorder {
            results: requests.iter().map(|request| json!({ "id": request.id() })).collect(),
            order,
            log: Rc::clone(&log),
            dialect,
            steps: Vec::new(),
            preemptions: 0,
            max_running: 0,
            end: SimTime::ZERO,
        };
        // What a damaged recording asks for may keep a scheduler busy for ever.
        let left = self.steps.len() + 8;
        let logged: Box<dyn Scheduler> =
            Box::new(Logged { scheduler, uids: Vec::new(), left, log });
        let options = RunOptions { aborts, ..RunOptions::default() };
        let router = Box::new(RoundRobin::default());
        let (_, ours) =
            Simulation::new(vec![(logged, cost)], router, workload, recorder, options).run();
        let summary = ours.summary();
        let divergence = first_difference("steps", &self.steps, &ours.steps)
            .or_else(|| first_difference("results", &self.results, &ours.results))
            .or_else(|| first_difference("summary", &[self.summary], &[summary]));
        Ok(Verdict { engine: engine.to_owned(), steps: self.steps.len(), divergence })
    }

    /// The script of aborts, with the rank by arrival in place of the position in the recording.
    fn aborts_by_uid(&self, order: &[usize]) -> Result<Vec<(SimTime, u64)>, ConformanceError> {
        let mut uids = vec![0; order.len()];
        for (uid, &index) in (0u64..).zip(order) {
            uids[index] = uid;
        }
        let mut script = Vec::new();
        for &(time, index) in &self.aborts {
            let &uid = uids.get(index).ok_or_else(|| {
                ConformanceError::Malformed(format!(
                    "request {index}, which is aborted, is missing"
                ))
            })?;
            script.push((SimTime::from_nanos(time), uid));
        }
        script.sort_by_key(|&(time, _)| time);
        Ok(script)
    }
}

/// Refuses sizes that no recording has and that would exhaust memory or overflow a sum.
pub(super) fn check_sizes(sizes: &[(&str, u32)]) -> Result<(), ConformanceError> {
    const MOST: u32 = 1 << 24;
    match sizes.iter().find(|(_, size)| !(1..=MOST).contains(size)) {
        None => Ok(()),
        Some((what, size)) => {
            let what = format!("{what} is {size}, not within 1 and {MOST}");
            Err(ConformanceError::Malformed(what))
        }
    }
}

/// The recorded requests at their recorded times.
struct Arrivals {
    specs: Vec<(SimTime, RequestSpec)>,
    taken: usize,
}

impl Workload for Arrivals {
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

/// The `uid`s that the scheduler was told of between two steps, which observers do not see.
#[derive(Debug, Default)]
struct Log {
    added: Vec<u64>,
    aborted: Vec<u64>,
    /// Aborted just before the update of a step.
    aborted_before_update: Vec<u64>,
}

/// The scheduler under test, with a note of each arrival and abort.
struct Logged {
    scheduler: Box<dyn Scheduler>,
    /// The `uid` in each slot.
    uids: Vec<u64>,
    /// Steps that may still be scheduled.
    left: usize,
    log: Rc<RefCell<Log>>,
}

impl Scheduler for Logged {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        self.scheduler.admit(request)
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        if self.uids.len() <= id.index() {
            self.uids.resize(id.index() + 1, 0);
        }
        self.uids[id.index()] = request.uid;
        self.log.borrow_mut().added.push(request.uid);
        self.scheduler.enqueue(id, request);
    }

    fn abort(&mut self, now: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        self.log.borrow_mut().aborted.push(self.uids[id.index()]);
        self.scheduler.abort(now, id, ended);
    }

    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool {
        self.left -= 1;
        self.scheduler.schedule(now, step)
    }

    fn complete(&mut self, start: SimTime, now: SimTime, outcome: &mut StepOutcome) {
        let log = &mut *self.log.borrow_mut();
        log.aborted_before_update.append(&mut log.aborted);
        self.scheduler.complete(start, now, outcome);
    }

    fn has_work(&self) -> bool {
        self.left > 0 && self.scheduler.has_work()
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
struct Recorder<D> {
    /// Position in the recording of each request, by `uid`.
    order: Vec<usize>,
    log: Rc<RefCell<Log>>,
    dialect: D,
    steps: Vec<Value>,
    results: Vec<Value>,
    preemptions: usize,
    max_running: u32,
    end: SimTime,
}

impl<D: Dialect> Recorder<D> {
    fn index(&self, uid: u64) -> usize {
        self.order[usize::try_from(uid).expect("a position fits usize")]
    }

    fn indices(&self, uids: &[u64]) -> Vec<usize> {
        uids.iter().map(|&uid| self.index(uid)).collect()
    }

    fn summary(&self) -> Value {
        let mut summary = json!({
            "steps": self.steps.len(),
            "preemptions": self.preemptions,
            "end_ns": self.end.as_nanos(),
            "max_running": self.max_running,
        });
        self.dialect.summary(&mut summary);
        summary
    }
}

/// Lists are written only if there is something in them.
pub(super) fn set_list(step: &mut Value, key: &str, list: &[usize]) {
    if !list.is_empty() {
        step[key] = json!(list);
    }
}

impl<D: Dialect> Observer for Recorder<D> {
    fn needs_every_step(&self) -> bool {
        true
    }

    fn on_scheduled(&mut self, scheduled: &ScheduledStep<'_>) {
        let order = &self.order;
        let index = |id| {
            let uid = scheduled.requests.get(id).uid;
            order[usize::try_from(uid).expect("a position fits usize")]
        };
        let detail = scheduled.step.detail.as_ref().expect("detail was asked for");
        let preempted: Vec<usize> = scheduled.step.preempted.iter().map(|&id| index(id)).collect();
        let batch: Vec<Value> =
            detail.scheduled.iter().map(|s| self.dialect.sequence(index(s.id), s)).collect();
        let Occupancy { running, waiting, .. } = scheduled.occupancy;
        let mut step = json!({
            "i": scheduled.index,
            "t": scheduled.decided.as_nanos(),
            "s": batch,
            "end": scheduled.end.as_nanos(),
            "rw": [running, waiting],
            "fb": [detail.free_blocks],
        });
        let dropped: Vec<usize> = scheduled.step.ended.iter().map(|e| index(e.id)).collect();
        self.dialect.step(detail, &dropped, &mut step);
        let (added, aborted) = {
            let log = &mut *self.log.borrow_mut();
            (std::mem::take(&mut log.added), std::mem::take(&mut log.aborted))
        };
        set_list(&mut step, "add", &self.indices(&added));
        set_list(&mut step, "ab", &self.indices(&aborted));
        set_list(&mut step, "p", &preempted);
        self.preemptions += preempted.len();
        self.max_running = self.max_running.max(running);
        self.steps.push(step);
    }

    fn on_completed(&mut self, completed: &CompletedStep<'_>) {
        let aborted = std::mem::take(&mut self.log.borrow_mut().aborted_before_update);
        let aborted = self.indices(&aborted);
        let ended = completed.outcome.ended.iter();
        let finished: Vec<usize> =
            ended.map(|e| self.index(completed.requests.get(e.id).uid)).collect();
        let at = usize::try_from(completed.index).expect("a position fits usize");
        let step = &mut self.steps[at];
        let Occupancy { kv_used, kv_total, .. } = completed.occupancy_after;
        step["fb"] = json!([step["fb"][0], kv_total - kv_used]);
        set_list(step, "uab", &aborted);
        set_list(step, "fin", &finished);
        self.end = completed.end;
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let Outcome::Ended(reason) = record.outcome else { return };
        let why = match reason {
            FinishReason::Aborted => "abort",
            other => other.name(),
        };
        let index = self.index(record.uid);
        let result = &mut self.results[index];
        result["first_token_ns"] = json!(record.first_token.map(SimTime::as_nanos));
        result["finish_ns"] = json!(record.ended.as_nanos());
        result["why"] = json!(why);
        result["out_tokens"] = json!(record.output_tokens);
        result["preemptions"] = json!(record.preemptions);
        self.dialect.result(record, result);
    }
}
