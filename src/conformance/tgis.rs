//! Recorded TGIS schedules (`engines/tgis-tgi-golden-format.md`).

use serde_json::{Value, json};

use crate::engine::observer::{RequestRecord, ScheduledStep};
use crate::request::FinishReason;
use crate::scheduler::StepKind;
use crate::scheduler::static_batch::{StaticBatch, StaticConfig};
use crate::scheduler::tgis::{BatchType, ShardMemory, Tgis, TgisConfig, WeightRules};

use super::router::{self, Dialect, limit, size};
use super::{ConformanceError, Verdict, number};

pub(super) fn check(engine: &str, golden: &Value) -> Result<Verdict, ConformanceError> {
    let config = config(engine, &golden["scenario"]["config"])?;
    router::check(engine, golden, &TgisDialect, || Box::new(Tgis::new(config.clone())))
}

/// Static batching, which no engine records: in the form of TGIS, to which its calls are nearest.
pub(super) fn check_static(golden: &Value) -> Result<Verdict, ConformanceError> {
    let config = &golden["scenario"]["config"];
    let config = StaticConfig {
        batch_size: size(config, "batch_size")?,
        max_sequence_length: size(config, "max_sequence_length")?,
        kv_tokens: number(config, "kv_tokens")?,
    };
    router::check("static", golden, &TgisDialect, || Box::new(StaticBatch::new(config.clone())))
}

pub(super) fn written_static(config: &StaticConfig) -> Value {
    json!({
        "batch_size": config.batch_size,
        "max_sequence_length": config.max_sequence_length,
        "kv_tokens": config.kv_tokens,
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
    // The scripted shard has one limit for both; in a run of ours they may differ.
    let both = config.get("oom_at_tokens").and_then(Value::as_u64);
    let oom_at = |key: &str| config.get(key).and_then(Value::as_u64).or(both);
    Ok(TgisConfig {
        batch_type,
        rules,
        max_batch_size: seats,
        max_waiting_tokens: size(config, "max_waiting_tokens")?,
        max_sequence_length: length,
        max_new_tokens: limit(config, "max_new_tokens")?,
        max_concurrent_requests: limit(config, "max_concurrent_requests")?,
        memory: ShardMemory {
            prefill_tokens: oom_at("oom_at_prefill_tokens"),
            decode_tokens: oom_at("oom_at_decode_tokens"),
        },
    })
}

/// The settings as a recording of ours holds them: what `config` reads.
pub(super) fn written(config: &TgisConfig) -> Value {
    let mut written = json!({
        "batch_type": if config.batch_type == BatchType::Padded { "padded" } else { "flash" },
        "max_batch_size": config.max_batch_size,
        "max_waiting_tokens": config.max_waiting_tokens,
        "max_sequence_length": config.max_sequence_length,
        "max_new_tokens": config.max_new_tokens,
        "max_concurrent_requests": config.max_concurrent_requests,
        "oom_at_prefill_tokens": config.memory.prefill_tokens,
        "oom_at_decode_tokens": config.memory.decode_tokens,
    });
    match config.rules {
        WeightRules::Tgis2023 { max_batch_weight, max_prefill_weight } => {
            written["max_batch_weight"] = max_batch_weight.into();
            written["max_prefill_weight"] = max_prefill_weight.into();
        }
        WeightRules::Tgis2024 {
            weight_limit,
            prefill_linear,
            prefill_quadratic,
            nexttoken,
            max_prefill_padding,
        } => {
            written["weight_limit"] = weight_limit.into();
            written["prefill_linear_coef0"] = prefill_linear.into();
            written["prefill_quadratic_coef0"] = prefill_quadratic[0].into();
            written["prefill_quadratic_coef1"] = prefill_quadratic[1].into();
            written["nexttoken_linear_coef0"] = nexttoken[0].into();
            written["nexttoken_linear_coef1"] = nexttoken[1].into();
            written["max_prefill_padding"] = max_prefill_padding.into();
        }
    }
    written
}

/// How TGIS is recorded.
pub(super) struct TgisDialect;

impl Dialect for TgisDialect {
    fn step(&self, scheduled: &ScheduledStep<'_>, name: &dyn Fn(u64) -> u64) -> Value {
        let id = |id| name(scheduled.requests.get(id).uid);
        let detail = scheduled.step.detail.as_ref().expect("detail was asked for");
        let kind = match scheduled.step.kind {
            StepKind::Prefill => "prefill",
            StepKind::Decode => "decode",
            _ => "cleanup",
        };
        let mut step = json!({
            "ids": detail.scheduled.iter().map(|s| id(s.id)).collect::<Vec<_>>(),
            "kind": kind,
            "tokens": detail.billed_tokens,
        });
        if !detail.pruned.is_empty() {
            step["pruned_first"] = detail.pruned.iter().map(|&uid| name(uid)).collect();
        }
        if detail.out_of_memory {
            step["error"] = "oom".into();
        }
        step
    }

    fn reason(&self, reason: FinishReason) -> &'static str {
        match reason {
            FinishReason::Aborted => "ClientCancelled",
            FinishReason::Stop => "EosToken",
            FinishReason::Length => "MaxTokens",
            FinishReason::TimeLimit => "TimeLimit",
            FinishReason::OutOfMemory => {
                "Error: Request failed during generation: GPU out of memory"
            }
            other => other.name(),
        }
    }

    fn finished(&self, _: &RequestRecord, _: bool, _: &mut Value) {}
}
