//! Recorded vLLM V0 schedules (`engines/vllm-golden-format.md`), in whole nanoseconds.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cost::{DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::RequestRecord;
use crate::request::RequestSpec;
use crate::scheduler::vllm_v0::{VllmV0, VllmV0Config, VllmV0Rules};
use crate::scheduler::{ScheduledSeq, StepDetail};

use super::vllm::{Dialect, Golden, GoldenRequest, Linear, check_sizes, set_list};
use super::{ConformanceError, Verdict};

pub(super) const FORMAT: &str = "vllm-v0-sched-golden/1";

#[derive(Deserialize, Serialize)]
struct Config {
    block_size: u32,
    num_gpu_blocks: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    max_model_len: u32,
    /// 0.2.7 only.
    #[serde(default)]
    max_paddings: u32,
    /// 0.4.2 only.
    #[serde(default)]
    enable_chunked_prefill: bool,
}

#[derive(Deserialize)]
struct Request {
    id: String,
    arrival_ns: u64,
    prompt_len: u32,
    max_tokens: u32,
    /// Where the model stops by itself; real recordings ignore the end of a sequence.
    stop_at: Option<u32>,
}

/// By the rules of `engine`, whichever version was recorded.
pub(super) fn check(golden: Value, engine: &str) -> Result<Verdict, ConformanceError> {
    let golden: Golden<Config, Request> = Golden::read(golden)?;
    let rules = if engine == "vllm-0.2.7" { VllmV0Rules::V0_2_7 } else { VllmV0Rules::V0_4_2 };
    let config = golden.config.scheduler(rules)?;
    let unpadded = |cost| Box::new(Unpadded { cost, padded: rules.prompts_padded }) as _;
    golden.check::<V0>(engine, || Box::new(VllmV0::new(config.clone())), unpadded)
}

impl Config {
    fn scheduler(&self, rules: VllmV0Rules) -> Result<VllmV0Config, ConformanceError> {
        check_sizes(&[
            ("block_size", self.block_size),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
            ("num_gpu_blocks", self.num_gpu_blocks),
        ])?;
        if self.enable_chunked_prefill && !rules.chunked_prefill_exists {
            return Err(ConformanceError::Impossible(
                "this schedule has chunked prefill, which the version does not know".into(),
            ));
        }
        Ok(VllmV0Config {
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_paddings: self.max_paddings,
            num_gpu_blocks: self.num_gpu_blocks,
            block_size: self.block_size,
            enable_chunked_prefill: self.enable_chunked_prefill,
            rules,
        })
    }
}

/// The settings as a recording of ours holds them.
pub(super) fn written(config: &VllmV0Config) -> Value {
    json!(Config {
        block_size: config.block_size,
        num_gpu_blocks: config.num_gpu_blocks,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        max_model_len: config.max_model_len,
        max_paddings: config.max_paddings,
        enable_chunked_prefill: config.enable_chunked_prefill,
    })
}

impl GoldenRequest for Request {
    fn id(&self) -> &str {
        &self.id
    }

    fn arrival_ns(&self) -> u64 {
        self.arrival_ns
    }

    fn spec(&self) -> RequestSpec {
        let stop_at = self.stop_at.unwrap_or(u32::MAX);
        RequestSpec { stop_at, ..RequestSpec::fixed(self.prompt_len, self.max_tokens) }
    }
}

/// The recorded cost bills prompts without the padding that 0.2.7 computes.
struct Unpadded {
    cost: Linear,
    padded: bool,
}

impl StepCost for Unpadded {
    fn step(&mut self, shape: &StepShape) -> StepTime {
        if !self.padded {
            return self.cost.step(shape);
        }
        // Without chunks, the context of the prompts is the prompts themselves.
        self.cost.step(&StepShape { prefill_tokens: shape.prefill_context, ..*shape })
    }

    fn decode(&mut self, seqs: u32) -> DecodeCost {
        self.cost.decode(seqs)
    }
}

/// What V0 recordings write in a way of their own.
#[derive(Default)]
pub(super) struct V0 {
    ignored: usize,
}

impl Dialect for V0 {
    fn sequence(&mut self, index: usize, seq: &ScheduledSeq) -> Value {
        json!([index, seq.new_tokens, seq.computed_tokens])
    }

    fn step(&mut self, detail: &StepDetail, dropped: &[usize], step: &mut Value) {
        step["nbt"] = json!(detail.batched_tokens);
        self.ignored += dropped.len();
        set_list(step, "ign", dropped);
    }

    fn result(&self, _: &RequestRecord, _: &mut Value) {}

    fn summary(&self, summary: &mut Value) {
        summary["ignored"] = json!(self.ignored);
    }
}
