//! What the recorded schedules of vLLM V0 and V1 have in common
//! (`engines/vllm-golden-format.md`), in whole nanoseconds.

mod recorder;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::RequestRecord;
use crate::request::RequestSpec;
use crate::scheduler::{ScheduledSeq, Scheduler, StepDetail};
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;

use super::replay::{Drive, RECORDED_COST, RecordedCost, Steps, Watch, compare};
use super::{ConformanceError, Verdict, number};

pub(super) use recorder::{Recorder, request_name, set_list};

/// The recorded cost in nanoseconds: `a + b * tokens in chunks + c * single tokens + d * context`.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Linear {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl Linear {
    fn read(cost: &Value) -> Result<Self, ConformanceError> {
        let linear: Self = serde_json::from_value(cost.clone())
            .map_err(|error| ConformanceError::Malformed(error.to_string()))?;
        let Self { a, b, c, d } = linear;
        if [a, b, c, d].iter().any(|&ns| ns > 1_000_000_000) {
            let what = "a coefficient of its cost is over a second";
            return Err(ConformanceError::Malformed(what.into()));
        }
        Ok(linear)
    }
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
            per_spread: 0.0,
            kv_copy: ContextCost::Zero,
        }
    }
}

/// A recording, as far as the replay reads it; steps, results and summary are only compared.
#[derive(Deserialize)]
pub(super) struct Golden<Config, Request> {
    pub(super) config: Config,
    /// The coefficients of [`Linear`], or that steps last as long as they are recorded to.
    cost: Value,
    /// (time, request), in order of time.
    #[serde(default)]
    aborts: Vec<(u64, usize)>,
    /// When the recorded run was cut off, if it was.
    stop_ns: Option<u64>,
    requests: Vec<Request>,
    steps: Vec<Value>,
    results: Vec<Value>,
    summary: Value,
}

/// A recorded request.
pub(super) trait GoldenRequest {
    fn id(&self) -> &str;
    fn arrival_ns(&self) -> u64;
    fn spec(&self) -> RequestSpec;
}

/// What V0 and V1 write differently.
pub(super) trait Dialect: Default {
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
        serde_json::from_value(golden)
            .map_err(|error| ConformanceError::Malformed(error.to_string()))
    }

    /// Compares what a scheduler does on the recorded requests with what is recorded; a fresh one
    /// is asked for each run, and `bill` may change what the recorded linear cost is asked.
    pub(super) fn check<D: Dialect>(
        &self,
        engine: &str,
        scheduler: impl Fn() -> Box<dyn Scheduler>,
        bill: impl Fn(Linear) -> Box<dyn StepCost>,
    ) -> Result<Verdict, ConformanceError> {
        let requests = &self.requests;
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&index| (requests[index].arrival_ns(), index));
        let aborts = self.aborts_by_uid(&order)?;
        let arrivals: Vec<_> = order
            .iter()
            .map(|&index| {
                let at = SimTime::from_nanos(requests[index].arrival_ns());
                (at, requests[index].spec())
            })
            .collect();
        let linear = (self.cost != RECORDED_COST).then(|| Linear::read(&self.cost)).transpose()?;
        let durations = if linear.is_none() { self.durations()? } else { Vec::new() };
        let run = |watch: Watch| {
            let mut recorder = Recorder::new(D::default(), Steps::kept(), &watch);
            recorder.order.clone_from(&order);
            recorder.results =
                requests.iter().map(|request| json!({ "id": request.id() })).collect();
            let drive = Drive {
                scheduler: scheduler(),
                cost: match linear {
                    Some(linear) => bill(linear),
                    None => Box::new(RecordedCost::new(durations.clone())),
                },
                workload: Box::new(Arrivals { specs: arrivals.clone(), taken: 0 }),
                aborts: aborts.clone(),
                stop_at: self.stop_ns.map(SimTime::from_nanos),
            };
            let mut ours = drive.run(watch, recorder);
            ours.flush();
            let summary = vec![ours.summary()];
            Ok(vec![
                ("steps", ours.steps.into_kept()),
                ("results", ours.results),
                ("summary", summary),
            ])
        };
        let recorded = vec![
            ("steps", self.steps.clone()),
            ("results", self.results.clone()),
            ("summary", vec![self.summary.clone()]),
        ];
        let mut verdict = compare(engine, &recorded, linear.is_some(), run)?;
        if let Some(state) = verdict.divergence.as_mut().and_then(|found| found.state.as_mut()) {
            let index = |uid| usize::try_from(uid).ok().and_then(|at| order.get(at).copied());
            state.rename(|uid| index(uid).map_or(uid, |at| at as u64));
        }
        Ok(verdict)
    }

    /// How long the recorded steps last: each begins when the one before it has ended.
    fn durations(&self) -> Result<Vec<SimDuration>, ConformanceError> {
        let (mut busy_until, mut durations) = (0, Vec::with_capacity(self.steps.len()));
        for step in &self.steps {
            let (decided, end) = (number(step, "t")?, number(step, "end")?);
            let start = decided.max(busy_until);
            durations.push(SimDuration::from_nanos(end.saturating_sub(start)));
            busy_until = end;
        }
        Ok(durations)
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
