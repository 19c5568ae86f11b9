//! Recorded vLLM V1 schedules (`engines/vllm-golden-format.md`), in whole nanoseconds.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::observer::RequestRecord;
use crate::request::{PromptContent, RequestSpec, TokenRun};
use crate::scheduler::vllm_v1::{Policy, VllmV1, VllmV1Config, VllmV1Rules};
use crate::scheduler::{Admission, ScheduledSeq, StepDetail};

use super::vllm::{Dialect, Golden, GoldenRequest, check_sizes};
use super::{ConformanceError, Verdict};

pub(super) const FORMAT: &str = "vllm-sched-golden/1";

#[derive(Deserialize, Serialize)]
struct Config {
    max_num_seqs: u32,
    max_num_active_seqs: Option<u32>,
    max_num_batched_tokens: u32,
    max_num_scheduled_tokens: Option<u32>,
    enable_chunked_prefill: bool,
    long_prefill_token_threshold: u32,
    long_prefill_token_threshold_adaptive: bool,
    policy: String,
    scheduler_reserve_full_isl: bool,
    watermark: f64,
    async_scheduling: bool,
    max_model_len: u32,
    block_size: u32,
    num_gpu_blocks: u32,
    enable_prefix_caching: bool,
}

#[derive(Deserialize)]
struct Request {
    id: String,
    arrival_ns: u64,
    /// [first token id, length].
    prompt: Vec<(u64, u32)>,
    out_base: u64,
    max_tokens: u32,
    priority: i32,
    /// Where the model stops by itself; real recordings ignore the end of a sequence.
    stop_at: Option<u32>,
}

/// By the rules of `engine`; where that is another version than was `recorded`, its own defaults
/// decide what the recorded one did not know.
pub(super) fn check(
    golden: Value,
    recorded: &str,
    engine: &str,
) -> Result<Verdict, ConformanceError> {
    let golden: Golden<Config, Request> = Golden::read(golden)?;
    let mut rules = if engine == "vllm-0.13" { VllmV1Rules::V0_13 } else { VllmV1Rules::V0_32 };
    if engine == recorded {
        rules.reserve_full_isl = golden.config.scheduler_reserve_full_isl;
    }
    let config = golden.config.scheduler(rules)?;
    let scheduler = || Box::new(VllmV1::new(config.clone())) as _;
    golden.check::<V1>(engine, scheduler, |cost| Box::new(cost))
}

impl Config {
    fn scheduler(&self, rules: VllmV1Rules) -> Result<VllmV1Config, ConformanceError> {
        let policy = match self.policy.as_str() {
            "fcfs" => Policy::Fcfs,
            "priority" => Policy::Priority,
            other => {
                return Err(ConformanceError::Malformed(format!("unknown policy {other:?}")));
            }
        };
        let budget = self.max_num_scheduled_tokens.unwrap_or(self.max_num_batched_tokens);
        check_sizes(&[
            ("max_num_seqs", self.max_num_seqs),
            ("max_model_len", self.max_model_len),
            ("block_size", self.block_size),
            ("num_gpu_blocks", self.num_gpu_blocks),
            ("the token budget", budget),
        ])?;
        Ok(VllmV1Config {
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_active_seqs: self.max_num_active_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_num_scheduled_tokens: self.max_num_scheduled_tokens,
            num_gpu_blocks: self.num_gpu_blocks,
            block_size: self.block_size,
            enable_prefix_caching: self.enable_prefix_caching,
            prompts_share: true,
            enable_chunked_prefill: self.enable_chunked_prefill,
            policy,
            async_scheduling: self.async_scheduling,
            watermark: self.watermark,
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive: self.long_prefill_token_threshold_adaptive,
            rules,
        })
    }
}

/// The settings as a recording of ours holds them.
pub(super) fn written(config: &VllmV1Config) -> Value {
    json!(Config {
        max_num_seqs: config.max_num_seqs,
        max_num_active_seqs: config.max_num_active_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        max_num_scheduled_tokens: config.max_num_scheduled_tokens,
        enable_chunked_prefill: config.enable_chunked_prefill,
        long_prefill_token_threshold: config.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive: config.long_prefill_token_threshold_adaptive,
        policy: match config.policy {
            Policy::Fcfs => "fcfs".into(),
            Policy::Priority => "priority".into(),
        },
        scheduler_reserve_full_isl: config.rules.reserve_full_isl,
        watermark: config.watermark,
        async_scheduling: config.async_scheduling,
        max_model_len: config.max_model_len,
        block_size: config.block_size,
        num_gpu_blocks: config.num_gpu_blocks,
        enable_prefix_caching: config.enable_prefix_caching,
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
        let runs = self.prompt.iter().map(|&(first, len)| TokenRun { first, len });
        let content = PromptContent { runs: runs.collect(), output_base: self.out_base };
        let prompt = content.runs.iter().fold(0u32, |sum, run| sum.saturating_add(run.len));
        RequestSpec {
            priority: self.priority,
            stop_at: self.stop_at.unwrap_or(u32::MAX),
            content: Some(Arc::new(content)),
            ..RequestSpec::fixed(prompt, self.max_tokens)
        }
    }
}

/// What V1 recordings write in a way of their own, and its totals.
#[derive(Default)]
pub(super) struct V1 {
    hit_tokens: u64,
    scheduled_tokens: u64,
    chunked: u64,
}

impl Dialect for V1 {
    fn sequence(&mut self, index: usize, seq: &ScheduledSeq) -> Value {
        let (new, past) = (seq.new_tokens, seq.computed_tokens);
        self.scheduled_tokens += u64::from(new);
        self.chunked += u64::from(new > 1);
        let kind = match seq.admission {
            Admission::New => 0,
            Admission::Resumed => 1,
            Admission::Running if seq.blocks.is_empty() => return json!([index, new, past]),
            Admission::Running => 2,
        };
        if kind < 2 {
            self.hit_tokens += u64::from(past);
        }
        json!([index, new, past, kind, seq.blocks])
    }

    fn step(&mut self, detail: &StepDetail, _: &[usize], step: &mut Value) {
        let hash = detail.free_queue_hash.expect("blocks have identities");
        step["fq"] = format!("{hash:016x}").into();
    }

    fn result(&self, record: &RequestRecord, result: &mut Value) {
        result["cached_tokens"] = json!(record.first_scheduled.map(|_| record.cached_tokens));
    }

    fn summary(&self, summary: &mut Value) {
        summary["hit_tokens"] = self.hit_tokens.into();
        summary["scheduled_tokens"] = self.scheduled_tokens.into();
        summary["chunked"] = self.chunked.into();
    }
}
