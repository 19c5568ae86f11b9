//! What a scenario's engine settings mean for the memory plan, the cost model and the scheduler.

use std::sync::Arc;

use crate::cost::host::{GraphSizes, Graphs};
use crate::engine_name::EngineName;
use crate::kv_cache::memory_plan::{MemoryPlan, MemoryRequest, TgiMemory, TgisMemory, VllmMemory};
use crate::scenario::defaults::{EffectiveSettings, TgiEffective, TgisEffective, VllmEffective};
use crate::scenario::registry::{Configured, Server};
use crate::scenario::settings::{AutoOr, SchedulingPolicy};
use crate::scenario::{EngineSpec, Kind};
use crate::scheduler::Scheduler;
use crate::scheduler::rules::RuleTexts;
use crate::scheduler::static_batch::{StaticBatch, StaticConfig};
use crate::scheduler::tgi::{ShardLayout, Tgi, TgiConfig, TgiRules};
use crate::scheduler::tgis::{BatchType, ShardMemory, Tgis, TgisConfig, WeightRules};
use crate::scheduler::vllm_v0::{VllmV0, VllmV0Config, VllmV0Rules};
use crate::scheduler::vllm_v1::{Policy, VllmV1, VllmV1Config, VllmV1Rules};

use super::RouterError;

pub(super) fn memory_request<'a>(kind: &Kind<'a>) -> MemoryRequest<'a> {
    let (hardware, engine) = (kind.hardware, kind.engine);
    let mut request = MemoryRequest {
        kv_cache_dtype: kind.kv_cache_dtype,
        tensor_parallel_size: engine.tensor_parallel_size,
        instance_gpus: hardware.instance.num_gpus,
        ..MemoryRequest::new(engine.name.base(), kind.model, kind.precision, hardware.gpu())
    };
    match &engine.effective {
        EffectiveSettings::Vllm(s) => {
            request.vllm = VllmMemory {
                gpu_memory_utilization: Some(s.gpu_memory_utilization),
                max_model_len: Some(s.max_model_len),
                max_num_seqs: Some(s.max_num_seqs),
                max_num_batched_tokens: Some(s.max_num_batched_tokens),
                block_size: Some(s.block_size),
                num_gpu_blocks_override: s.num_gpu_blocks_override,
                enable_chunked_prefill: Some(s.enable_chunked_prefill),
                enforce_eager: Some(s.enforce_eager),
            }
        }
        EffectiveSettings::Tgi(s) => {
            request.tgi = TgiMemory {
                max_input_tokens: s.max_input_tokens,
                max_total_tokens: s.max_total_tokens,
                max_batch_prefill_tokens: Some(s.max_batch_prefill_tokens),
                cuda_memory_fraction: Some(s.cuda_memory_fraction),
            }
        }
        EffectiveSettings::Tgis(s) => {
            request.tgis = TgisMemory {
                max_sequence_length: Some(s.max_sequence_length),
                max_batch_weight: match s.max_batch_weight {
                    AutoOr::Auto => None,
                    AutoOr::Value(weight) => Some(weight),
                },
                flash_attention: Some(s.flash_attention),
                batch_safety_margin: Some(s.batch_safety_margin),
            }
        }
        EffectiveSettings::Static(s) => {
            request.vllm.gpu_memory_utilization = Some(s.gpu_memory_utilization);
            request.vllm.max_model_len = Some(s.max_model_len);
        }
    }
    request
}

/// The steps that the engine replays from CUDA graphs under these settings.
pub(super) fn graphs(engine: &EngineSpec) -> Graphs {
    match &engine.effective {
        EffectiveSettings::Tgis(_) => Graphs::Off,
        EffectiveSettings::Static(_) => Graphs::Off,
        EffectiveSettings::Tgi(s) if s.cuda_graphs.is_empty() => Graphs::Off,
        EffectiveSettings::Tgi(s) => Graphs::Decode(GraphSizes::new(s.cuda_graphs.clone())),
        EffectiveSettings::Vllm(s) if s.enforce_eager => Graphs::Off,
        EffectiveSettings::Vllm(s) => match engine.name.base() {
            EngineName::Vllm0_2_7 | EngineName::Vllm0_4_2 => Graphs::Decode(GraphSizes::vllm_v0()),
            _ => Graphs::Any(GraphSizes::vllm_v1(s.max_num_seqs, s.max_num_batched_tokens)),
        },
    }
}

/// The scheduler's own settings, complete.
#[derive(Clone, Debug)]
pub enum EngineConfig {
    Tgis(TgisConfig),
    Tgi(TgiConfig),
    VllmV0(VllmV0Config),
    VllmV1(VllmV1Config),
    Static(StaticConfig),
    Custom(Arc<dyn Configured>, Server),
}

impl EngineConfig {
    /// From the settings and what the memory plan found; the router's own checks at start included.
    /// `share` is whether any two prompts may have a beginning in common.
    pub(super) fn new(
        kind: &Kind<'_>,
        share: bool,
        plan: &MemoryPlan,
    ) -> Result<Self, RouterError> {
        let engine = kind.engine.name.base();
        if let Some(custom) = &kind.engine.custom {
            let server = server(&kind.engine.effective, plan);
            return Ok(Self::Custom(Arc::clone(custom), server));
        }
        Ok(match &kind.engine.effective {
            EffectiveSettings::Tgis(s) => {
                let config = tgis(engine, s, plan);
                config.check()?;
                Self::Tgis(config)
            }
            EffectiveSettings::Tgi(s) => {
                let config = tgi(engine, s, plan);
                config.check()?;
                Self::Tgi(config)
            }
            EffectiveSettings::Vllm(s) => match engine {
                EngineName::Vllm0_2_7 => Self::VllmV0(vllm_v0(VllmV0Rules::V0_2_7, s, plan)),
                EngineName::Vllm0_4_2 => Self::VllmV0(vllm_v0(VllmV0Rules::V0_4_2, s, plan)),
                EngineName::Vllm0_13 => Self::VllmV1(vllm_v1(VllmV1Rules::V0_13, s, plan, share)),
                _ => Self::VllmV1(vllm_v1(VllmV1Rules::V0_32, s, plan, share)),
            },
            EffectiveSettings::Static(s) => Self::Static(StaticConfig {
                batch_size: s.batch_size,
                max_sequence_length: s.max_model_len,
                kv_tokens: plan.kv_tokens,
            }),
        })
    }

    /// For requests that may have prefixes in common whatever the scenario's own have.
    #[must_use]
    pub(super) fn with_shared_prompts(mut self) -> Self {
        if let Self::VllmV1(config) = &mut self {
            config.prompts_share = true;
        }
        self
    }

    /// A fresh scheduler with these settings.
    pub fn scheduler(&self) -> Box<dyn Scheduler> {
        match self.clone() {
            Self::Tgis(config) => Box::new(Tgis::new(config)),
            Self::Tgi(config) => Box::new(Tgi::new(config)),
            Self::VllmV0(config) => Box::new(VllmV0::new(config)),
            Self::VllmV1(config) => Box::new(VllmV1::new(config)),
            Self::Static(config) => Box::new(StaticBatch::new(config)),
            Self::Custom(engine, server) => engine.scheduler(&server),
        }
    }
}

impl EngineConfig {
    /// The scheduler's rules in words; `None` where there is no original.
    pub(super) fn rules(&self) -> Option<RuleTexts> {
        match self {
            Self::Tgis(config) => Some(config.describe()),
            Self::Tgi(config) => Some(config.describe()),
            Self::VllmV0(config) => Some(config.describe()),
            Self::VllmV1(config) => Some(config.describe()),
            Self::Static(_) | Self::Custom(..) => None,
        }
    }
}

/// What a custom engine is told of its server.
fn server(settings: &EffectiveSettings, plan: &MemoryPlan) -> Server {
    let kv_blocks = u32::try_from(plan.usable_kv_blocks).unwrap_or(u32::MAX);
    let server = Server {
        max_model_len: u32::MAX,
        max_num_seqs: u32::MAX,
        max_num_batched_tokens: u32::MAX,
        block_size: plan.block_size,
        kv_blocks,
    };
    match settings {
        EffectiveSettings::Vllm(s) => Server {
            max_model_len: s.max_model_len,
            max_num_seqs: s.max_num_seqs,
            max_num_batched_tokens: s.max_num_batched_tokens,
            ..server
        },
        EffectiveSettings::Tgi(s) => Server {
            max_model_len: tgi_total_tokens(s, plan),
            max_num_seqs: s.max_batch_size.unwrap_or(u32::MAX),
            max_num_batched_tokens: tgi_prefill_tokens(s, plan),
            ..server
        },
        EffectiveSettings::Tgis(s) => Server {
            max_model_len: s.max_sequence_length,
            max_num_seqs: s.max_batch_size,
            ..server
        },
        EffectiveSettings::Static(s) => {
            Server { max_model_len: s.max_model_len, max_num_seqs: s.batch_size, ..server }
        }
    }
}

/// A TGIS server. Coefficients and budgets of 2024 come from the memory plan, as its own estimate
/// does from the device.
fn tgis(engine: EngineName, s: &TgisEffective, plan: &MemoryPlan) -> TgisConfig {
    let batch_type = if s.flash_attention { BatchType::Flash } else { BatchType::Padded };
    let rules = if engine == EngineName::Tgis2023 {
        let square = |tokens: u64| match batch_type {
            BatchType::Flash => tokens,
            BatchType::Padded => tokens * u64::from(s.max_sequence_length),
        };
        WeightRules::Tgis2023 {
            max_batch_weight: match s.max_batch_weight {
                AutoOr::Auto => square(plan.kv_tokens),
                AutoOr::Value(weight) => weight,
            },
            max_prefill_weight: match s.max_prefill_weight {
                AutoOr::Auto => WeightRules::default_prefill_weight(batch_type),
                AutoOr::Value(weight) => weight,
            },
        }
    } else {
        let model = plan.tgis_memory_model.expect("the plan of tgis-2024 has a memory model");
        // Both samples of the estimation's decodes lie on one line.
        let next = model.next_token_bytes_per_token;
        WeightRules::Tgis2024 {
            weight_limit: model.budget.get(),
            prefill_linear: model.prefill_bytes_per_token,
            prefill_quadratic: model.prefill_quadratic,
            nexttoken: [next, next],
            max_prefill_padding: s.max_prefill_padding as f32,
        }
    };
    // The safety margin of 2024 is memory that is there, only not given out.
    let free = plan.tgis_memory_model.map(|model| model.free / plan.kv_bytes_per_token);
    let prefill_tokens = free.unwrap_or(2 * plan.kv_tokens);
    TgisConfig {
        batch_type,
        rules,
        max_batch_size: s.max_batch_size,
        max_waiting_tokens: s.max_waiting_tokens,
        max_sequence_length: s.max_sequence_length,
        max_new_tokens: s.max_new_tokens,
        max_concurrent_requests: s.max_concurrent_requests,
        // While decoding, the old and the new tensor stand side by side; a prefill has both halves
        // to itself (A8).
        memory: ShardMemory {
            prefill_tokens: Some(prefill_tokens),
            decode_tokens: Some(prefill_tokens / 2),
        },
    }
}

/// A TGI server. Its token limits are those of the memory plan, as warm-up sets them.
fn tgi(engine: EngineName, s: &TgiEffective, plan: &MemoryPlan) -> TgiConfig {
    let capacity = tgi_capacity(plan);
    let total = tgi_total_tokens(s, plan);
    let input = s.max_input_tokens.or(plan.settings.max_input_tokens);
    TgiConfig {
        rules: match engine {
            EngineName::TgiV2 => TgiRules::V2,
            _ => TgiRules::V3 {
                prefill_chunking: s.prefill_chunking,
                prefix_caching: s.prefix_caching,
            },
        },
        block_size: s.block_size,
        max_batch_prefill_tokens: tgi_prefill_tokens(s, plan),
        max_batch_total_tokens: capacity,
        waiting_served_ratio: s.waiting_served_ratio as f32,
        max_waiting_tokens: s.max_waiting_tokens,
        max_batch_size: s.max_batch_size,
        requires_padding: false,
        shard: ShardLayout::Paged,
        speculate: 0,
        max_input_tokens: input.unwrap_or(total.saturating_sub(1)),
        max_total_tokens: total,
        max_concurrent_requests: s.max_concurrent_requests,
    }
}

fn tgi_capacity(plan: &MemoryPlan) -> u32 {
    let held = plan.kv_blocks * u64::from(plan.block_size);
    u32::try_from(held).unwrap_or(u32::MAX)
}

/// v3 asks for no more than it can hold where the user has set nothing.
fn tgi_total_tokens(s: &TgiEffective, plan: &MemoryPlan) -> u32 {
    let capacity = tgi_capacity(plan);
    s.max_total_tokens.unwrap_or_else(|| {
        plan.settings.max_total_tokens.map_or(capacity, |planned| planned.min(capacity))
    })
}

fn tgi_prefill_tokens(s: &TgiEffective, plan: &MemoryPlan) -> u32 {
    plan.settings.max_batch_prefill_tokens.unwrap_or(s.max_batch_prefill_tokens)
}

fn vllm_v0(rules: VllmV0Rules, s: &VllmEffective, plan: &MemoryPlan) -> VllmV0Config {
    VllmV0Config {
        max_model_len: s.max_model_len,
        max_num_seqs: s.max_num_seqs,
        max_num_batched_tokens: s.max_num_batched_tokens,
        max_paddings: s.max_paddings,
        num_gpu_blocks: u32::try_from(plan.kv_blocks).unwrap_or(u32::MAX),
        block_size: s.block_size,
        enable_chunked_prefill: s.enable_chunked_prefill,
        rules,
    }
}

fn vllm_v1(
    rules: VllmV1Rules,
    s: &VllmEffective,
    plan: &MemoryPlan,
    prompts_share: bool,
) -> VllmV1Config {
    VllmV1Config {
        max_model_len: s.max_model_len,
        max_num_seqs: s.max_num_seqs,
        max_num_active_seqs: Some(s.max_num_active_seqs),
        max_num_batched_tokens: s.max_num_batched_tokens,
        max_num_scheduled_tokens: Some(s.max_num_scheduled_tokens),
        num_gpu_blocks: u32::try_from(plan.kv_blocks).unwrap_or(u32::MAX),
        block_size: s.block_size,
        enable_prefix_caching: s.enable_prefix_caching,
        prompts_share,
        enable_chunked_prefill: s.enable_chunked_prefill,
        policy: match s.scheduling_policy {
            SchedulingPolicy::Fcfs => Policy::Fcfs,
            SchedulingPolicy::Priority => Policy::Priority,
        },
        async_scheduling: s.async_scheduling,
        watermark: s.watermark,
        long_prefill_token_threshold: s.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive: s.long_prefill_token_threshold_adaptive,
        // The one rule that is a setting: on by default since 0.20.0.
        rules: VllmV1Rules { reserve_full_isl: s.scheduler_reserve_full_isl, ..rules },
    }
}

#[cfg(test)]
mod tests {
    use crate::deploy::Deployment;
    use crate::metrics::Recorder;
    use crate::scenario::{self, DiskFiles, Override};

    /// What the estimation of 2024 is for; and the margin stays free.
    #[test]
    fn under_tgis_of_2024_no_request_runs_out_of_memory_padded_or_not() {
        let source = scenario::embedded(scenario::DEFAULT_SCENARIO).expect("it is embedded");
        for flash in ["true", "false"] {
            let set = [
                "engine.name=tgis-2024",
                "engine.tgis.max-batch-size=64",
                "engine.tgis.max-sequence-length=2048",
                &format!("engine.tgis.flash-attention={flash}"),
                "workload.closed-loop.clients=40",
                "workload.duration=100s",
            ]
            .map(Override::set);
            let scenario = scenario::load(&source, &set, &DiskFiles).expect("a sound scenario");
            let deployment = Deployment::new(&scenario).expect("it starts");
            let recorder = Recorder::new(deployment.measure());
            let summary = deployment.simulate(1, recorder, false).1.summary();
            assert_eq!(summary.failed.get(), 0.0, "flash {flash}");
            let peak = summary.kv_usage_peak;
            assert!((0.7..=0.8).contains(&peak), "flash {flash}: {peak}");
        }
    }
}
