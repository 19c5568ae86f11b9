//! What the recordings of the two routers, TGIS and TGI, have in common: the linear cost and the
//! script of requests, in whole milliseconds (`engines/tgis-tgi-golden-format.md`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use serde_json::Value;

use crate::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::{Observer, RequestRecord};
use crate::engine::router::RoundRobin;
use crate::engine::{RunOptions, Simulation};
use crate::request::{PromptContent, RequestSpec, TokenRun};
use crate::scheduler::Scheduler;
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;

use super::{ConformanceError, Verdict, first_difference, number};

pub(super) const MS: u64 = 1_000_000;

/// What an observer of a replay has written, in the recording's own form.
pub(super) trait Written {
    fn written(self) -> (Vec<Value>, Vec<Value>);
}

/// Replays a recording with `scheduler` and compares steps and results. `recorder` is made from the
/// names of the requests and the times at which clients go away.
pub(super) fn replay<O: Observer + Written>(
    engine: &str,
    golden: &Value,
    mut scheduler: Box<dyn Scheduler>,
    recorder: impl FnOnce(Vec<u64>, BTreeMap<u64, u64>) -> O,
) -> Result<Verdict, ConformanceError> {
    let scenario = &golden["scenario"];
    scheduler.record_detail();
    let cost: Box<dyn StepCost> = Box::new(Linear::read(&scenario["cost"])?);
    let script = Script::read(&scenario["requests"], &golden["arrivals"])?;
    let options = RunOptions { aborts: script.aborts.clone(), ..RunOptions::default() };
    let recorder = recorder(script.ids.clone(), script.cancelled.clone());
    let replicas = vec![(scheduler, cost)];
    let router = Box::new(RoundRobin::default());
    let (_, recorder) = Simulation::new(replicas, router, script, recorder, options).run();
    let (our_steps, our_finished) = recorder.written();

    let list = |key: &str| golden[key].as_array().cloned().unwrap_or_default();
    let sorted = |mut entries: Vec<Value>| {
        entries.sort_by_key(|e| (e["t_ms"].as_u64(), e["id"].as_u64()));
        entries
    };
    let steps = list("steps");
    let divergence = first_difference("steps", &steps, &our_steps)
        .or_else(|| first_difference("finished", &sorted(list("finished")), &sorted(our_finished)));
    Ok(Verdict { engine: engine.to_owned(), steps: steps.len(), divergence })
}

/// Reads a setting that must fit 32 bits.
pub(super) fn size(config: &Value, key: &str) -> Result<u32, ConformanceError> {
    u32::try_from(number(config, key)?)
        .map_err(|_| ConformanceError::Malformed(format!("{key} is too large")))
}

/// The recorded cost: floors to milliseconds, term by term.
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
            time = decode.time(&decode.at(shape.decode_context, 0));
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
            kv_copy: ContextCost::Zero,
        }
    }
}

/// The recorded requests: at a time of their own, or some time after another has finished.
struct Script {
    /// (time in ms, position in the recording), the next first.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    followers: BTreeMap<usize, Vec<(u64, usize)>>,
    specs: Vec<RequestSpec>,
    /// The recording's id of each request, in order of arrival.
    ids: Vec<u64>,
    order: Vec<usize>,
    aborts: Vec<(SimTime, u64)>,
    /// When the client of a request (by uid) goes away, in ms.
    cancelled: BTreeMap<u64, u64>,
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
            by_arrival.push((number(arrivals, &id.to_string())?, position, id));
            let length = |key| number(request, key).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            let deadline = request.get("deadline_ms").and_then(Value::as_u64);
            script.specs.push(RequestSpec {
                max_output_tokens: length("max_new_tokens")?,
                stop_at: length("output_len")?,
                deadline: deadline.map(|ms| SimTime::from_nanos(ms * MS)),
                content: content(request, id)?,
                ..RequestSpec::fixed(length("input_len")?, 0)
            });
            let at = number(request, "arrival_ms")?;
            match request.get("after").and_then(Value::as_u64) {
                None => script.due.push(Reverse((at, position))),
                Some(other) => {
                    let leader = *positions.get(&other).ok_or_else(|| {
                        ConformanceError::Malformed(format!("request {id} follows nobody"))
                    })?;
                    script.followers.entry(leader).or_default().push((at, position));
                }
            }
        }
        by_arrival.sort_unstable();
        for (uid, &(_, position, id)) in (0u64..).zip(&by_arrival) {
            script.ids.push(id);
            script.order.push(position);
            if let Some(ms) = requests[position].get("cancel_ms").and_then(Value::as_u64) {
                script.aborts.push((SimTime::from_nanos(ms * MS), uid));
                script.cancelled.insert(uid, ms);
            }
        }
        script.aborts.sort_unstable();
        Ok(script)
    }
}

impl Workload for Script {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.due.peek().map(|Reverse((ms, _))| SimTime::from_nanos(ms * MS))
    }

    fn take(&mut self) -> RequestSpec {
        let Reverse((_, position)) = self.due.pop().expect("a request was announced");
        self.specs[position].clone()
    }

    fn on_reply(&mut self, record: &RequestRecord) {
        let uid = usize::try_from(record.uid).expect("a position fits usize");
        let Some(&leader) = self.order.get(uid) else { return };
        for (delay, position) in self.followers.remove(&leader).unwrap_or_default() {
            self.due.push(Reverse((record.ended.as_nanos() / MS + delay, position)));
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
