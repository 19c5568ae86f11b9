//! Recorded TGI schedules (`engines/tgis-tgi-golden-format.md`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::engine::observer::{Observer, Outcome, RequestRecord, ScheduledStep};
use crate::request::FinishReason;
use crate::scheduler::tgi::{ShardLayout, Tgi, TgiConfig, TgiRules};

use super::router_script::{MS, Written, replay, size};
use super::{ConformanceError, Verdict};

pub(super) fn check(engine: &str, golden: &Value) -> Result<Verdict, ConformanceError> {
    let config = config(engine, &golden["scenario"]["config"])?;
    replay(engine, golden, Box::new(Tgi::new(config)), |ids, cancelled| Recorder {
        ids,
        cancelled,
        ..Recorder::default()
    })
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
        shard: ShardLayout::Paged,
        speculate: size(config, "speculate")?,
        max_input_tokens: u32::MAX,
        max_total_tokens: u32::MAX,
        max_concurrent_requests: u32::MAX,
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
        let detail = scheduled.step.detail.as_ref().expect("detail was asked for");
        let request = |id| scheduled.requests.get(id);
        let seqs = &detail.scheduled;
        let emitted = seqs
            .iter()
            .filter(|s| s.computed_tokens + s.new_tokens >= request(s.id).spec.prompt_tokens)
            .map(|s| self.id(request(s.id).uid));
        let step = json!({
            "blocks_total": detail.blocks_held,
            "cached_tokens": seqs.iter().map(|s| s.computed_tokens).collect::<Vec<_>>(),
            "call": if detail.prefill_call { "prefill" } else { "decode" },
            "emitted": emitted.collect::<Vec<_>>(),
            "ids": seqs.iter().map(|s| self.id(request(s.id).uid)).collect::<Vec<_>>(),
            "input_tokens": seqs.iter().map(|s| s.new_tokens).collect::<Vec<_>>(),
            "t0_ms": scheduled.start.as_nanos() / MS,
            "t1_ms": scheduled.end.as_nanos() / MS,
        });
        self.steps.push(step);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let Outcome::Ended(reason) = record.outcome else { return };
        let ended = record.ended.as_nanos() / MS;
        // A recorded client notes when it went away, whenever the server noticed, and forgets what
        // it had got.
        let gone = self.cancelled.get(&record.uid).copied().filter(|&at| at <= ended);
        let name = match reason {
            _ if gone.is_some() => "ClientCancelled",
            FinishReason::Stop => "EndOfSequenceToken",
            FinishReason::Length => "Length",
            other => other.name(),
        };
        let first_token = record.first_token.map(|t| t.as_nanos() / MS);
        self.finished.push(json!({
            "first_token_ms": if gone.is_some() { None } else { first_token },
            "generated": if gone.is_some() { 0 } else { record.output_tokens },
            "id": self.id(record.uid),
            "reason": name,
            "t_ms": gone.unwrap_or(ended),
        }));
    }
}
