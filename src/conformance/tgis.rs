//! Recorded TGIS schedules (`engines/tgis-tgi-golden-format.md`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::engine::observer::{Observer, RequestRecord, ScheduledStep};
use crate::scheduler::StepKind;
use crate::scheduler::tgis::{BatchType, ShardMemory, Tgis, TgisConfig, WeightRules};

use super::router_script::{MS, Written, replay, size};
use super::{ConformanceError, Verdict, number};

pub(super) fn check(engine: &str, golden: &Value) -> Result<Verdict, ConformanceError> {
    let config = config(engine, &golden["scenario"]["config"])?;
    replay(engine, golden, Box::new(Tgis::new(config)), |ids, cancelled| Recorder {
        ids,
        cancelled,
        ..Recorder::default()
    })
}

fn config(engine: &str, config: &Value) -> Result<TgisConfig, ConformanceError> {
    let coefficient = |key: &str| {
        // Coefficients travel as f32 and are then used as f64 (A4).
        config.get(key).and_then(Value::as_f64).map_or(0.0, |c| f64::from(c as f32))
    };
    let batch_type =
        if config["batch_type"] == "padded" { BatchType::Padded } else { BatchType::Flash };
    let (length, seats) = (size(config, "max_sequence_length")?, size(config, "max_batch_size")?);
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
        max_waiting_tokens: size(config, "max_waiting_tokens")?,
        max_sequence_length: length,
        max_new_tokens: u32::MAX,
        max_concurrent_requests: u32::MAX,
        memory: ShardMemory { prefill_tokens: oom_at, decode_tokens: oom_at },
    })
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

impl Written for Recorder {
    fn written(self) -> (Vec<Value>, Vec<Value>) {
        (self.steps, self.finished)
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
