//! Recorded TGIS schedules (`engines/tgis-tgi-golden-format.md`), in whole milliseconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde_json::{Value, json};

use crate::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::{Observer, RequestRecord, ScheduledStep};
use crate::engine::router::RoundRobin;
use crate::engine::{RunOptions, Simulation};
use crate::request::RequestSpec;
use crate::scheduler::tgis::{BatchType, ShardMemory, Tgis, TgisConfig, WeightRules};
use crate::scheduler::{Scheduler, StepKind};
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;

use super::{ConformanceError, Verdict, first_difference, number};

const MS: u64 = 1_000_000;

pub(super) fn check(engine: &str, golden: &Value) -> Result<Verdict, ConformanceError> {
    let scenario = &golden["scenario"];
    let mut scheduler = Box::new(Tgis::new(config(engine, &scenario["config"])?));
    scheduler.record_detail();
    let cost = Box::new(Linear::read(&scenario["cost"])?);
    let script = Script::read(&scenario["requests"], &golden["arrivals"])?;
    let ids = script.ids.clone();
    let options = RunOptions { aborts: script.aborts.clone(), ..RunOptions::default() };
    let cancelled = script.cancelled.clone();
    let (_, recorder) = Simulation::new(
        vec![(scheduler as Box<dyn Scheduler>, cost as Box<dyn StepCost>)],
        Box::new(RoundRobin::default()),
        script,
        Recorder { ids, cancelled, ..Recorder::default() },
        options,
    )
    .run();

    let list = |key: &str| golden[key].as_array().cloned().unwrap_or_default();
    let sorted = |mut entries: Vec<Value>| {
        entries.sort_by_key(|e| (e["t_ms"].as_u64(), e["id"].as_u64()));
        entries
    };
    let steps = list("steps");
    let divergence = first_difference("steps", &steps, &recorder.steps).or_else(|| {
        first_difference("finished", &sorted(list("finished")), &sorted(recorder.finished))
    });
    Ok(Verdict { engine: engine.to_owned(), steps: steps.len(), divergence })
}

fn config(engine: &str, config: &Value) -> Result<TgisConfig, ConformanceError> {
    let size = |key| {
        number(config, key).and_then(|n| {
            u32::try_from(n).map_err(|_| ConformanceError::Malformed(format!("{key} is too large")))
        })
    };
    let coefficient = |key: &str| {
        // Coefficients travel as f32 and are then used as f64 (A4).
        config.get(key).and_then(Value::as_f64).map_or(0.0, |c| f64::from(c as f32))
    };
    let batch_type =
        if config["batch_type"] == "padded" { BatchType::Padded } else { BatchType::Flash };
    let (length, seats) = (size("max_sequence_length")?, size("max_batch_size")?);
    let given =
        |key: &str, default: u64| config.get(key).and_then(Value::as_u64).unwrap_or(default);
    let rules = match engine {
        "tgis-2023" => {
            let most = WeightRules::default_batch_weight(batch_type, length, seats);
            WeightRules::Tgis2023 {
                max_batch_weight: given("max_batch_weight", most),
                max_prefill_weight: given(
                    "max_prefill_weight",
                    WeightRules::default_prefill_weight(batch_type),
                ),
            }
        }
        "tgis-2024" => WeightRules::Tgis2024 {
            weight_limit: number(config, "weight_limit")?,
            prefill_linear: coefficient("prefill_linear_coef0"),
            prefill_quadratic: [
                coefficient("prefill_quadratic_coef0"),
                coefficient("prefill_quadratic_coef1"),
            ],
            nexttoken: [
                coefficient("nexttoken_linear_coef0"),
                coefficient("nexttoken_linear_coef1"),
            ],
            max_prefill_padding: config
                .get("max_prefill_padding")
                .and_then(Value::as_f64)
                .map_or(0.2, |p| p as f32),
        },
        other => return Err(ConformanceError::UnknownEngine(other.to_owned())),
    };
    let oom_at = config.get("oom_at_tokens").and_then(Value::as_u64);
    Ok(TgisConfig {
        batch_type,
        rules,
        max_batch_size: seats,
        max_waiting_tokens: size("max_waiting_tokens")?,
        max_sequence_length: length,
        max_new_tokens: u32::MAX,
        max_concurrent_requests: u32::MAX,
        memory: ShardMemory { prefill_tokens: oom_at, decode_tokens: oom_at },
    })
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
            let ms = self.prefill[0] + self.prefill[1] * shape.prefill_tokens / 1000;
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
    cancelled: BTreeMap<u64, u64>,
    taken: usize,
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
            taken: 0,
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
        self.taken += 1;
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

/// Writes our steps as the recording writes its own.
#[derive(Default)]
struct Recorder {
    ids: Vec<u64>,
    cancelled: BTreeMap<u64, u64>,
    steps: Vec<Value>,
    finished: Vec<Value>,
}

impl Recorder {
    /// The recording's id of the request that arrived as number `uid`.
    fn id(&self, uid: u64) -> u64 {
        self.ids[usize::try_from(uid).expect("a position fits usize")]
    }
}

impl Observer for Recorder {
    fn needs_every_step(&self) -> bool {
        true
    }

    fn on_scheduled(&mut self, scheduled: &ScheduledStep<'_>) {
        let name = |id| self.id(scheduled.requests.get(id).uid);
        let detail = scheduled.step.detail.as_ref().expect("detail was asked for");
        let kind = match scheduled.step.kind {
            StepKind::Prefill => "prefill",
            StepKind::Decode => "decode",
            _ => "cleanup",
        };
        let mut step = json!({
            "ids": detail.scheduled.iter().map(|s| name(s.id)).collect::<Vec<_>>(),
            "kind": kind,
            "t0_ms": scheduled.start.as_nanos() / MS,
            "t1_ms": scheduled.end.as_nanos() / MS,
            "tokens": detail.billed_tokens,
        });
        if !detail.pruned.is_empty() {
            let ids = detail.pruned.iter().map(|&uid| self.id(uid));
            step["pruned_first"] = ids.collect();
        }
        if detail.out_of_memory {
            step["error"] = "oom".into();
        }
        self.steps.push(step);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        use crate::request::FinishReason as Reason;
        let crate::engine::observer::Outcome::Ended(reason) = record.outcome else { return };
        let ended = record.ended.as_nanos() / MS;
        // A recorded client notes when it went away, whenever the server noticed.
        let gone = self.cancelled.get(&record.uid).filter(|&&at| at <= ended);
        let (name, at, generated) = match reason {
            _ if gone.is_some() => ("ClientCancelled", gone.map_or(ended, |&at| at), 0),

            Reason::Stop => ("EosToken", ended, record.output_tokens),
            Reason::Length => ("MaxTokens", ended, record.output_tokens),
            Reason::TimeLimit => ("TimeLimit", ended, record.output_tokens),
            Reason::Aborted => ("ClientCancelled", ended, 0),
            Reason::OutOfMemory => {
                ("Error: Request failed during generation: GPU out of memory", ended, 0)
            }
            Reason::Ignored | Reason::Refused => ("refused", ended, 0),
        };
        self.finished.push(json!({
            "generated": generated,
            "id": self.id(record.uid),
            "reason": name,
            "t_ms": at,
        }));
    }
}
