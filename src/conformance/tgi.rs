//! Recorded TGI schedules (`engines/tgis-tgi-golden-format.md`).

use serde_json::{Value, json};

use crate::engine::observer::{RequestRecord, ScheduledStep};
use crate::request::FinishReason;
use crate::scheduler::tgi::{ShardLayout, Tgi, TgiConfig, TgiRules};

use super::router::{self, Dialect, limit, millis, size};
use super::{ConformanceError, Verdict};

pub(super) fn check(engine: &str, golden: &Value) -> Result<Verdict, ConformanceError> {
    let config = config(engine, &golden["scenario"]["config"])?;
    router::check(engine, golden, &TgiDialect, || Box::new(Tgi::new(config.clone())))
}

fn config(engine: &str, config: &Value) -> Result<TgiConfig, ConformanceError> {
    let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
    let rules = match engine {
        "tgi-v2" => TgiRules::V2,
        "tgi-v3" => TgiRules::V3 {
            prefill_chunking: flag("support_chunking"),
            prefix_caching: flag("prefix_caching"),
        },
        other => return Err(ConformanceError::UnknownEngine(other.to_owned())),
    };
    let ratio = config.get("waiting_served_ratio").and_then(Value::as_f64).ok_or_else(|| {
        ConformanceError::Malformed("waiting_served_ratio is not a number".into())
    })?;
    let seats = config.get("max_batch_size").filter(|seats| !seats.is_null());
    Ok(TgiConfig {
        rules,
        block_size: size(config, "block_size")?,
        max_batch_prefill_tokens: size(config, "max_batch_prefill_tokens")?,
        max_batch_total_tokens: size(config, "max_batch_total_tokens")?,
        waiting_served_ratio: ratio as f32,
        max_waiting_tokens: size(config, "max_waiting_tokens")?,
        max_batch_size: seats.map(|_| size(config, "max_batch_size")).transpose()?,
        requires_padding: flag("requires_padding"),
        // The scripted shard holds and bills blocks, whatever the router believes.
        shard: if flag("padded_shard") && flag("requires_padding") {
            ShardLayout::Padded
        } else {
            ShardLayout::Paged
        },
        speculate: size(config, "speculate")?,
        max_input_tokens: limit(config, "max_input_tokens")?,
        max_total_tokens: limit(config, "max_total_tokens")?,
        max_concurrent_requests: limit(config, "max_concurrent_requests")?,
    })
}

/// The settings as a recording of ours holds them: what `config` reads.
pub(super) fn written(config: &TgiConfig) -> Value {
    let (chunking, caching) = match config.rules {
        TgiRules::V2 => (false, false),
        TgiRules::V3 { prefill_chunking, prefix_caching } => (prefill_chunking, prefix_caching),
    };
    json!({
        "block_size": config.block_size,
        "max_batch_prefill_tokens": config.max_batch_prefill_tokens,
        "max_batch_total_tokens": config.max_batch_total_tokens,
        "waiting_served_ratio": config.waiting_served_ratio,
        "max_waiting_tokens": config.max_waiting_tokens,
        "max_batch_size": config.max_batch_size,
        "requires_padding": config.requires_padding,
        "padded_shard": config.shard == ShardLayout::Padded,
        "speculate": config.speculate,
        "support_chunking": chunking,
        "prefix_caching": caching,
        "max_input_tokens": config.max_input_tokens,
        "max_total_tokens": config.max_total_tokens,
        "max_concurrent_requests": config.max_concurrent_requests,
    })
}

/// How TGI is recorded.
pub(super) struct TgiDialect;

impl Dialect for TgiDialect {
    fn step(&self, scheduled: &ScheduledStep<'_>, name: &dyn Fn(u64) -> u64) -> Value {
        let id = |id| name(scheduled.requests.get(id).uid);
        let detail = scheduled.step.detail.as_ref().expect("detail was asked for");
        let prompt = |id| scheduled.requests.get(id).spec.prompt_tokens;
        let seqs = &detail.scheduled;
        let emitted = seqs.iter().filter(|s| s.computed_tokens + s.new_tokens >= prompt(s.id));
        json!({
            "blocks_total": detail.blocks_held,
            "cached_tokens": seqs.iter().map(|s| s.computed_tokens).collect::<Vec<_>>(),
            "call": if detail.prefill_call { "prefill" } else { "decode" },
            "emitted": emitted.map(|s| id(s.id)).collect::<Vec<_>>(),
            "ids": seqs.iter().map(|s| id(s.id)).collect::<Vec<_>>(),
            "input_tokens": seqs.iter().map(|s| s.new_tokens).collect::<Vec<_>>(),
        })
    }

    fn reason(&self, reason: FinishReason) -> &'static str {
        match reason {
            FinishReason::Aborted => "ClientCancelled",
            FinishReason::Stop => "EndOfSequenceToken",
            FinishReason::Length => "Length",
            other => other.name(),
        }
    }

    fn finished(&self, record: &RequestRecord, gone: bool, entry: &mut Value) {
        entry["first_token_ms"] = json!(record.first_token.filter(|_| !gone).map(millis));
    }
}
