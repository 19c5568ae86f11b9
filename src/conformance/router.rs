//! What the recordings of TGIS, TGI and static batching have in common: the linear cost, the script
//! of requests and the writing of steps, in milliseconds (`engines/tgis-tgi-golden-format.md`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::{Observer, Outcome, RequestRecord, ScheduledStep};
use crate::request::{FinishReason, PromptContent, RequestSpec, TokenRun};
use crate::scheduler::Scheduler;
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;

use super::replay::{Drive, RECORDED_COST, RecordedCost, Steps, compare};
use super::{ConformanceError, Verdict, number};

const MS: u64 = 1_000_000;

/// An instant in milliseconds: whole, as the recorded routers have them, or with the nanoseconds of
/// a run of our own behind the point. Exact up to a day.
pub(super) fn millis(at: SimTime) -> Value {
    let nanos = at.as_nanos();
    if nanos.is_multiple_of(MS) { json!(nanos / MS) } else { json!(nanos as f64 / MS as f64) }
}

/// Reads what `millis` has written.
fn instant(value: &Value, key: &str) -> Result<SimTime, ConformanceError> {
    let value = value.get(key).unwrap_or(&Value::Null);
    let whole = value.as_u64().and_then(|ms| ms.checked_mul(MS));
    let parts = || value.as_f64().map(|ms| (ms * MS as f64).round());
    let parts = || parts().filter(|nanos| (0.0..1e18).contains(nanos)).map(|nanos| nanos as u64);
    whole
        .or_else(parts)
        .map(SimTime::from_nanos)
        .ok_or_else(|| ConformanceError::Malformed(format!("{key} is not a time in milliseconds")))
}

/// The instant at `key`, if there is one.
fn given(value: &Value, key: &str) -> Result<Option<SimTime>, ConformanceError> {
    let there = value.get(key).is_some_and(|value| !value.is_null());
    there.then(|| instant(value, key)).transpose()
}

/// Replays a recording and compares steps and results. A fresh scheduler is asked for each run.
pub(super) fn check(
    engine: &str,
    golden: &Value,
    dialect: &dyn Dialect,
    scheduler: impl Fn() -> Box<dyn Scheduler>,
) -> Result<Verdict, ConformanceError> {
    let list = |key: &str| golden[key].as_array().cloned().unwrap_or_default();
    let recorded = vec![("steps", list("steps")), ("finished", sorted(list("finished")))];
    let script = Script::read(&golden["scenario"]["requests"], &golden["arrivals"])?;
    let stop_at = given(&golden["scenario"], "stop_ms")?;
    let cost = Cost::read(&golden["scenario"]["cost"], &recorded[0].1)?;
    let can_jump = matches!(cost, Cost::Linear(_));
    let mut verdict = compare(engine, &recorded, can_jump, |watch| {
        let mut recorder = Recorder::new(dialect, Steps::kept());
        recorder.ids.clone_from(&script.ids);
        recorder.cancelled.clone_from(&script.cancelled);
        let drive = Drive {
            scheduler: scheduler(),
            cost: cost.of_a_run(),
            workload: Box::new(script.clone()),
            aborts: script.aborts.clone(),
            stop_at,
        };
        let ours = drive.run(watch, recorder);
        Ok(vec![("steps", ours.steps.into_kept()), ("finished", sorted(ours.finished))])
    })?;
    if let Some(state) = verdict.divergence.as_mut().and_then(|found| found.state.as_mut()) {
        state.rename(|uid| name(&script.ids, uid));
    }
    Ok(verdict)
}

/// In order of time, then of id.
fn sorted(mut entries: Vec<Value>) -> Vec<Value> {
    entries.sort_by_key(|e| (instant(e, "t_ms").unwrap_or(SimTime::MAX), e["id"].as_u64()));
    entries
}

/// The recording's id of the request that arrived as number `uid`; its own in one that we make.
fn name(ids: &[u64], uid: u64) -> u64 {
    usize::try_from(uid).ok().and_then(|at| ids.get(at).copied()).unwrap_or(uid)
}

/// Reads a setting that must fit 32 bits.
pub(super) fn size(config: &Value, key: &str) -> Result<u32, ConformanceError> {
    u32::try_from(number(config, key)?)
        .map_err(|_| ConformanceError::Malformed(format!("{key} is too large")))
}

/// The same for one that real recordings leave out, because their harness sets no limit.
pub(super) fn limit(config: &Value, key: &str) -> Result<u32, ConformanceError> {
    if config.get(key).is_some() { size(config, key) } else { Ok(u32::MAX) }
}

/// What a step lasts.
enum Cost {
    Linear(Linear),
    Recorded(Vec<SimDuration>),
}

impl Cost {
    fn read(cost: &Value, steps: &[Value]) -> Result<Self, ConformanceError> {
        if cost != RECORDED_COST {
            return Ok(Self::Linear(Linear::read(cost)?));
        }
        let mut durations = Vec::with_capacity(steps.len());
        for step in steps {
            let (start, end) = (instant(step, "t0_ms")?, instant(step, "t1_ms")?);
            durations.push(end.max(start).since(start));
        }
        Ok(Self::Recorded(durations))
    }

    fn of_a_run(&self) -> Box<dyn StepCost> {
        match self {
            Self::Linear(linear) => Box::new(*linear),
            Self::Recorded(durations) => Box::new(RecordedCost::new(durations.clone())),
        }
    }
}

/// The recorded cost: floors to milliseconds, term by term.
#[derive(Clone, Copy)]
struct Linear {
    prefill: [u64; 2],
    decode: [u64; 3],
}

impl Linear {
    fn read(cost: &Value) -> Result<Self, ConformanceError> {
        Ok(Self {
            prefill: [
                number(cost, "prefill_base_ms")?,
                number(cost, "prefill_per_1000_tokens_ms")?,
            ],
            decode: [
                number(cost, "decode_base_ms")?,
                number(cost, "decode_per_1000_seqs_ms")?,
                number(cost, "decode_per_1000_ctx_ms")?,
            ],
        })
    }
}

impl StepCost for Linear {
    fn step(&mut self, shape: &StepShape) -> StepTime {
        let mut time = StepTime::ZERO;
        if shape.prefill_seqs > 0 {
            let ms = self.prefill[0] + self.prefill[1] * shape.tokens() / 1000;
            time.set(CostTerm::Linear, SimDuration::from_millis(ms));
        } else if shape.decode_seqs > 0 {
            let decode = self.decode(shape.decode_seqs);
            time = decode.time(&decode.at(shape.decode_context, 0.0, 0));
        }
        time
    }

    fn decode(&mut self, seqs: u32) -> DecodeCost {
        let ms = self.decode[0] + self.decode[1] * u64::from(seqs) / 1000;
        let mut fixed = StepTime::ZERO;
        fixed.set(CostTerm::Linear, SimDuration::from_millis(ms));
        DecodeCost {
            fixed,
            fixed_gpu: fixed.gpu(),
            fixed_total: fixed.total(),
            host: SimDuration::ZERO,
            attention: ContextCost::Integer {
                numerator: self.decode[2],
                denominator: 1000,
                unit: MS,
            },
            per_spread: 0.0,
            kv_copy: ContextCost::Zero,
        }
    }
}

/// The recorded requests: at a time of their own, or some time after another has finished.
#[derive(Clone)]
struct Script {
    /// (time, position in the recording), the next first.
    due: BinaryHeap<Reverse<(SimTime, usize)>>,
    followers: BTreeMap<usize, Vec<(SimDuration, usize)>>,
    specs: Vec<RequestSpec>,
    /// The recording's id of each request, in order of arrival.
    ids: Vec<u64>,
    order: Vec<usize>,
    aborts: Vec<(SimTime, u64)>,
    /// When the client of a request (by uid) goes away.
    cancelled: BTreeMap<u64, SimTime>,
}

impl Script {
    fn read(requests: &Value, arrivals: &Value) -> Result<Self, ConformanceError> {
        let requests = requests
            .as_array()
            .ok_or_else(|| ConformanceError::Malformed("it has no requests".into()))?;
        let mut positions = BTreeMap::new();
        for (position, request) in requests.iter().enumerate() {
            positions.insert(number(request, "id")?, position);
        }
        let mut script = Self {
            due: BinaryHeap::new(),
            followers: BTreeMap::new(),
            specs: Vec::new(),
            ids: Vec::new(),
            order: Vec::new(),
            aborts: Vec::new(),
            cancelled: BTreeMap::new(),
        };
        // The uid of a request is its rank by actual arrival, which the recording gives.
        let mut by_arrival = Vec::new();
        for (position, request) in requests.iter().enumerate() {
            let id = number(request, "id")?;
            by_arrival.push((instant(arrivals, &id.to_string())?, position, id));
            let length = |key| number(request, key).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            script.specs.push(RequestSpec {
                max_output_tokens: length("max_new_tokens")?,
                stop_at: length("output_len")?,
                deadline: given(request, "deadline_ms")?,
                content: content(request, id)?,
                ..RequestSpec::fixed(length("input_len")?, 0)
            });
            let at = instant(request, "arrival_ms")?;
            match request.get("after").and_then(Value::as_u64) {
                None => script.due.push(Reverse((at, position))),
                Some(other) => {
                    let leader = *positions.get(&other).ok_or_else(|| {
                        ConformanceError::Malformed(format!("request {id} follows nobody"))
                    })?;
                    let delay = at.since(SimTime::ZERO);
                    script.followers.entry(leader).or_default().push((delay, position));
                }
            }
        }
        by_arrival.sort_unstable();
        for (uid, &(_, position, id)) in (0u64..).zip(&by_arrival) {
            script.ids.push(id);
            script.order.push(position);
            if let Some(at) = given(&requests[position], "cancel_ms")? {
                script.aborts.push((at, uid));
                script.cancelled.insert(uid, at);
            }
        }
        script.aborts.sort_unstable();
        Ok(script)
    }
}

impl Workload for Script {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    fn take(&mut self) -> RequestSpec {
        let Reverse((_, position)) = self.due.pop().expect("a request was announced");
        self.specs[position].clone()
    }

    fn on_reply(&mut self, record: &RequestRecord) {
        let uid = usize::try_from(record.uid).expect("a position fits usize");
        let Some(&leader) = self.order.get(uid) else { return };
        for (delay, position) in self.followers.remove(&leader).unwrap_or_default() {
            self.due.push(Reverse((record.ended + delay, position)));
        }
    }
}

/// The token ids of a prompt, where the recording gives them; without, it shares nothing.
fn content(request: &Value, id: u64) -> Result<Option<Arc<PromptContent>>, ConformanceError> {
    let Some(runs) = request.get("prompt_runs") else { return Ok(None) };
    let malformed = || ConformanceError::Malformed(format!("prompt_runs of request {id}"));
    let run = |run: &Value| {
        let len = run.get(1).and_then(Value::as_u64).and_then(|len| u32::try_from(len).ok())?;
        Some(TokenRun { first: run.get(0)?.as_u64()?, len })
    };
    let runs: Option<Vec<TokenRun>> =
        runs.as_array().ok_or_else(malformed)?.iter().map(run).collect();
    // Neither router caches generated tokens: where their ids begin is of no account.
    let content = PromptContent { runs: runs.ok_or_else(malformed)?, output_base: 0 };
    Ok(Some(Arc::new(content)))
}

/// What TGIS and TGI write differently.
pub(super) trait Dialect {
    /// A step; `name` gives the recording's id of a request from its `uid`.
    fn step(&self, scheduled: &ScheduledStep<'_>, name: &dyn Fn(u64) -> u64) -> Value;

    fn reason(&self, reason: FinishReason) -> &'static str;

    /// What else is written of a request that has ended, or whose client has `gone` before.
    fn finished(&self, record: &RequestRecord, gone: bool, entry: &mut Value);
}

/// Writes our steps as the recording writes its own.
pub(super) struct Recorder<'a> {
    dialect: &'a dyn Dialect,
    /// The recording's id of each request, by `uid`; beyond them the `uid` itself.
    ids: Vec<u64>,
    pub(super) cancelled: BTreeMap<u64, SimTime>,
    pub(super) steps: Steps<'a>,
    pub(super) finished: Vec<Value>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(dialect: &'a dyn Dialect, steps: Steps<'a>) -> Self {
        let (ids, cancelled, finished) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { dialect, ids, cancelled, steps, finished }
    }
}

impl Observer for Recorder<'_> {
    fn needs_every_step(&self) -> bool {
        true
    }

    fn on_scheduled(&mut self, scheduled: &ScheduledStep<'_>) {
        let mut step = self.dialect.step(scheduled, &|uid| name(&self.ids, uid));
        step["t0_ms"] = millis(scheduled.start);
        step["t1_ms"] = millis(scheduled.end);
        self.steps.push(step);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let Outcome::Ended(reason) = record.outcome else { return };
        // A recorded client notes when it went away, whenever the server noticed, and forgets what
        // it had got.
        let gone = self.cancelled.get(&record.uid).copied().filter(|&at| at <= record.ended);
        let reason = if gone.is_some() { FinishReason::Aborted } else { reason };
        let keeps = reason.is_success() || reason == FinishReason::TimeLimit;
        let mut entry = json!({
            "generated": if keeps { record.output_tokens } else { 0 },
            "id": name(&self.ids, record.uid),
            "reason": self.dialect.reason(reason),
            "t_ms": millis(gone.unwrap_or(record.ended)),
        });
        self.dialect.finished(record, gone.is_some(), &mut entry);
        self.finished.push(entry);
    }
}
