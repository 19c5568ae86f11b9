//! What an engine runs with where the scenario says nothing: the defaults of the real engine's
//! server at that version on that hardware.

use serde::Serialize;

use crate::engine_name::EngineName;
use crate::hardware::Gpu;
use crate::model::{KvCacheDtype, ModelConfig};
use crate::units::Bytes;

use super::settings::{
    AutoOr, CudaGraphs, EngineSettings, SchedulingPolicy, StaticSettings, TgiAttention,
    TgiSettings, TgisSettings, VllmSettings,
};

/// Every setting of the engine, defaults filled in. `auto` and `None` remain only where the memory
/// plan decides.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EffectiveSettings {
    Tgis(TgisEffective),
    Tgi(TgiEffective),
    Vllm(VllmEffective),
    Static(StaticEffective),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TgisEffective {
    pub flash_attention: bool,
    pub max_batch_size: u32,
    /// In tokens for flash models. `Auto`: from the memory plan, and always so for tgis-2024.
    pub max_batch_weight: AutoOr<u64>,
    /// 0 is no limit. `Auto`: tgis-2024, whose limit is the memory model's.
    pub max_prefill_weight: AutoOr<u64>,
    /// 1.0 is no limit.
    pub max_prefill_padding: f64,
    pub max_waiting_tokens: u32,
    pub max_sequence_length: u32,
    pub max_new_tokens: u32,
    pub max_concurrent_requests: u32,
    /// Percent; of use to tgis-2024 only.
    pub batch_safety_margin: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TgiEffective {
    pub max_concurrent_requests: u32,
    /// `None`: max-total-tokens - 1.
    pub max_input_tokens: Option<u32>,
    /// `None`: what the KV memory and the model allow.
    pub max_total_tokens: Option<u32>,
    pub max_batch_prefill_tokens: u32,
    pub max_batch_total_tokens: Option<u64>,
    pub waiting_served_ratio: f64,
    pub max_waiting_tokens: u32,
    pub max_batch_size: Option<u32>,
    pub cuda_graphs: Vec<u32>,
    pub cuda_memory_fraction: f64,
    pub kv_cache_dtype: KvCacheDtype,
    pub prefill_chunking: bool,
    pub prefix_caching: bool,
    /// Tokens per KV block.
    pub block_size: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VllmEffective {
    pub max_model_len: u32,
    pub gpu_memory_utilization: f64,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    /// What a step may schedule: max-num-batched-tokens unless set apart.
    pub max_num_scheduled_tokens: u32,
    pub max_num_active_seqs: u32,
    pub block_size: u32,
    pub kv_cache_dtype: KvCacheDtype,
    pub num_gpu_blocks_override: Option<u32>,
    pub enable_prefix_caching: bool,
    pub enable_chunked_prefill: bool,
    pub scheduling_policy: SchedulingPolicy,
    pub async_scheduling: bool,
    pub watermark: f64,
    pub long_prefill_token_threshold: u32,
    pub long_prefill_token_threshold_adaptive: bool,
    pub scheduler_reserve_full_isl: bool,
    pub enforce_eager: bool,
    /// Of use to vllm-0.2.7 only.
    pub max_paddings: u32,
    /// Of use before vllm-0.13 only.
    pub swap_space: Bytes,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StaticEffective {
    pub batch_size: u32,
    pub max_model_len: u32,
    pub gpu_memory_utilization: f64,
    pub kv_cache_dtype: KvCacheDtype,
}

/// Where an engine is started: what its defaults depend on.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub engine: EngineName,
    pub model: &'a ModelConfig,
    pub gpu: &'a Gpu,
    pub tensor_parallel_size: u32,
}

impl EffectiveSettings {
    pub fn resolve(settings: &EngineSettings, place: Place<'_>) -> Self {
        match settings {
            EngineSettings::Tgis(s) => Self::Tgis(tgis(s, place)),
            EngineSettings::Tgi(s) => Self::Tgi(tgi(s, place)),
            EngineSettings::Vllm(s) => Self::Vllm(vllm(s, place)),
            EngineSettings::Static(s) => Self::Static(static_batch(s, place)),
        }
    }

    pub fn kv_cache_dtype(&self) -> KvCacheDtype {
        match self {
            // TGIS keeps its KV cache in the activations' dtype.
            Self::Tgis(_) => KvCacheDtype::Auto,
            Self::Tgi(s) => s.kv_cache_dtype,
            Self::Vllm(s) => s.kv_cache_dtype,
            Self::Static(s) => s.kv_cache_dtype,
        }
    }
}

/// TGIS launcher and router at commits 6645b7a (2023) and 006006d (2024).
fn tgis(s: &TgisSettings, place: Place<'_>) -> TgisEffective {
    let old = place.engine == EngineName::Tgis2023;
    let flash = s.flash_attention.unwrap_or(true);
    let max_batch_size = s.max_batch_size.unwrap_or(12);
    let own_length = if old { 2048 } else { place.model.max_position_embeddings };
    let max_sequence_length = s.max_sequence_length.unwrap_or(own_length);
    let max_new_tokens = s.max_new_tokens.unwrap_or(1024);
    // Weight of the batch that every seat filled with a longest request would make: the default
    // and at once the upper limit of MAX_BATCH_WEIGHT. Padded models count squares.
    let length = u64::from(max_sequence_length);
    let one = if flash { length } else { length.saturating_mul(length) };
    let full = one.saturating_mul(u64::from(max_batch_size));
    let max_batch_weight = match s.max_batch_weight {
        _ if !old => AutoOr::Auto,
        None => AutoOr::Value(full),
        Some(AutoOr::Value(weight)) => AutoOr::Value(weight.min(full)),
        Some(AutoOr::Auto) => AutoOr::Auto,
    };
    let max_prefill_weight = if old {
        AutoOr::Value(s.max_prefill_weight.unwrap_or(if flash { 8192 } else { 300_000 }))
    } else {
        AutoOr::Auto
    };
    let no_padding_limit = old || flash;
    TgisEffective {
        flash_attention: flash,
        max_batch_size,
        max_batch_weight,
        max_prefill_weight,
        max_prefill_padding: if no_padding_limit {
            1.0
        } else {
            s.max_prefill_padding.unwrap_or(0.2)
        },
        max_waiting_tokens: s.max_waiting_tokens.unwrap_or(24),
        max_sequence_length,
        // 2024 lowers a limit that no request could reach.
        max_new_tokens: if old {
            max_new_tokens
        } else {
            max_new_tokens.min(max_sequence_length - 1)
        },
        max_concurrent_requests: s.max_concurrent_requests.unwrap_or(if old { 96 } else { 512 }),
        batch_safety_margin: s.batch_safety_margin.unwrap_or(20),
    }
}

/// Batch sizes that TGI's launcher captures by default.
const TGI_CUDA_GRAPHS: [u32; 6] = [1, 2, 4, 8, 16, 32];

/// TGI's launcher at commit db931fc, back-ends v2 and v3.
fn tgi(s: &TgiSettings, place: Place<'_>) -> TgiEffective {
    let v3 = place.engine == EngineName::TgiV3;
    let flashinfer = matches!(place.model.head_dim, 64 | 128 | 256);
    let attention = match s.attention {
        Some(attention) => attention,
        None if v3 && flashinfer => TgiAttention::Flashinfer,
        None => TgiAttention::Paged,
    };
    let paged = attention == TgiAttention::Paged;
    TgiEffective {
        max_concurrent_requests: s.max_concurrent_requests.unwrap_or(128),
        max_input_tokens: s.max_input_tokens.or(if v3 { None } else { Some(1024) }),
        max_total_tokens: s.max_total_tokens.or(if v3 { None } else { Some(2048) }),
        max_batch_prefill_tokens: s
            .max_batch_prefill_tokens
            .unwrap_or_else(|| if v3 { tgi_v3_prefill_tokens(place) } else { 4096 }),
        max_batch_total_tokens: s.max_batch_total_tokens,
        waiting_served_ratio: s.waiting_served_ratio.unwrap_or(0.3),
        max_waiting_tokens: s.max_waiting_tokens.unwrap_or(20),
        max_batch_size: s.max_batch_size,
        cuda_graphs: match &s.cuda_graphs {
            None | Some(CudaGraphs::Enabled(true)) => TGI_CUDA_GRAPHS.to_vec(),
            Some(CudaGraphs::Enabled(false)) => Vec::new(),
            Some(CudaGraphs::Sizes(sizes)) => sizes.clone(),
        },
        cuda_memory_fraction: s.cuda_memory_fraction.unwrap_or(1.0),
        kv_cache_dtype: s.kv_cache_dtype.unwrap_or(KvCacheDtype::Auto),
        prefill_chunking: v3 && s.prefill_chunking.unwrap_or(!paged),
        prefix_caching: v3 && s.prefix_caching.unwrap_or(!paged),
        block_size: match attention {
            TgiAttention::Paged => 16,
            TgiAttention::Flashinfer => 1,
            TgiAttention::Flashdecoding => 256,
        },
    }
}

/// v3 gives one prefill about a second of the GPUs' nominal arithmetic, at most the model's length.
/// Its table of GPUs is its own (the A10G's 125 TFLOP/s are the A10's); elsewhere it falls back to
/// 4096. Its further bound by GPU memory is left to the memory plan.
fn tgi_v3_prefill_tokens(place: Place<'_>) -> u32 {
    let product = place.gpu.product.to_ascii_lowercase();
    let known = [("a10g", 125e12), ("l4", 121e12), ("a100", 312e12), ("h100", 900e12)];
    let words: Vec<&str> = product.split([' ', '-', '_']).collect();
    let Some((_, flops)) = known.iter().find(|(name, _)| words.contains(name)) else { return 4096 };
    let per_token = place.model.flops_per_token(0).get();
    let tokens = flops * f64::from(place.tensor_parallel_size) / per_token;
    // The cast saturates.
    (tokens as u32).clamp(1, place.model.max_position_embeddings)
}

/// vLLM's engine arguments in the class of an API server.
fn vllm(s: &VllmSettings, place: Place<'_>) -> VllmEffective {
    let engine = place.engine;
    let v0 = matches!(engine, EngineName::Vllm0_2_7 | EngineName::Vllm0_4_2);
    let newest = engine == EngineName::Vllm0_32;
    let max_model_len = s.max_model_len.unwrap_or(place.model.max_position_embeddings);
    let chunked = s.enable_chunked_prefill.unwrap_or(!v0);

    // 0.32: 8192 tokens and 1024 sequences from 70 GiB on, unless it is an A100. 0.13 is taken to
    // be the same; 0.8.5 still counted the A100-80 among the large ones.
    let gpu = place.gpu;
    let large =
        gpu.memory.total.as_gib() >= 70.0 && !gpu.product.to_ascii_lowercase().contains("a100");
    let (tokens, seqs) = if large && !v0 { (8192, 1024) } else { (2048, 256) };
    let default_tokens = match (v0, chunked) {
        // V0 takes whole prompts; its opt-in chunked prefill (0.4.2) has a budget of 512.
        (true, false) => max_model_len.max(2048),
        (true, true) => 512,
        (false, true) => tokens,
        (false, false) => max_model_len.max(tokens),
    };
    // V1 fits the default of one to the other: no step could fill more tokens than all sequences
    // have, nor hold more sequences than tokens. What is set by hand has to fit by itself.
    let max_num_seqs = s.max_num_seqs.unwrap_or(match s.max_num_batched_tokens {
        Some(tokens) if !v0 => seqs.min(tokens),
        _ => seqs,
    });
    let default_tokens = if v0 {
        default_tokens
    } else {
        default_tokens.min(max_num_seqs.saturating_mul(max_model_len))
    };
    let max_num_batched_tokens = s.max_num_batched_tokens.unwrap_or(default_tokens);
    VllmEffective {
        max_model_len,
        gpu_memory_utilization: s.gpu_memory_utilization.unwrap_or(if newest { 0.92 } else { 0.9 }),
        max_num_seqs,
        max_num_batched_tokens,
        max_num_scheduled_tokens: s.max_num_scheduled_tokens.unwrap_or(max_num_batched_tokens),
        max_num_active_seqs: s.max_num_active_seqs.unwrap_or(max_num_seqs),
        block_size: s.block_size.unwrap_or(16),
        kv_cache_dtype: s.kv_cache_dtype.unwrap_or(KvCacheDtype::Auto),
        num_gpu_blocks_override: s.num_gpu_blocks_override,
        enable_prefix_caching: s.enable_prefix_caching.unwrap_or(!v0),
        enable_chunked_prefill: chunked,
        scheduling_policy: s.scheduling_policy.unwrap_or(SchedulingPolicy::Fcfs),
        async_scheduling: s.async_scheduling.unwrap_or(newest),
        watermark: s.watermark.unwrap_or(if v0 { 0.01 } else { 0.0 }),
        long_prefill_token_threshold: s.long_prefill_token_threshold.unwrap_or(0),
        long_prefill_token_threshold_adaptive: s
            .long_prefill_token_threshold_adaptive
            .unwrap_or(false),
        scheduler_reserve_full_isl: s.scheduler_reserve_full_isl.unwrap_or(newest),
        enforce_eager: s.enforce_eager.unwrap_or(false),
        max_paddings: s.max_paddings.unwrap_or(256),
        swap_space: s.swap_space.unwrap_or(Bytes::new(4 * Bytes::GIB)),
    }
}

/// The baseline has no original: 8 is small enough to watch, and 0.9 is vLLM's share.
fn static_batch(s: &StaticSettings, place: Place<'_>) -> StaticEffective {
    StaticEffective {
        batch_size: s.batch_size.unwrap_or(8),
        max_model_len: s.max_model_len.unwrap_or(place.model.max_position_embeddings),
        gpu_memory_utilization: s.gpu_memory_utilization.unwrap_or(0.9),
        kv_cache_dtype: s.kv_cache_dtype.unwrap_or(KvCacheDtype::Auto),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hardware, model};

    fn vllm_on(engine: EngineName, gpu: &str, settings: VllmSettings) -> VllmEffective {
        let (gpu, model) = (hardware::gpu(gpu).unwrap(), model::find("llama-3.1-8b").unwrap());
        let place = Place { engine, model: &model, gpu: &gpu, tensor_parallel_size: 1 };
        vllm(&settings, place)
    }

    #[test]
    fn vllm_s_budget_follows_the_memory_of_the_gpu_except_on_an_a100() {
        let budget = |engine, gpu| {
            let s = vllm_on(engine, gpu, VllmSettings::default());
            (s.max_num_batched_tokens, s.max_num_seqs)
        };
        for gpu in ["a10g", "l4", "a100-40gb", "a100-80gb"] {
            assert_eq!(budget(EngineName::Vllm0_32, gpu), (2048, 256), "{gpu}");
        }
        for gpu in ["h100-80gb", "h200-141gb"] {
            assert_eq!(budget(EngineName::Vllm0_32, gpu), (8192, 1024), "{gpu}");
        }
        assert_eq!(budget(EngineName::Vllm0_4_2, "a10g"), (131_072, 256));
    }

    #[test]
    fn each_vllm_has_the_rules_of_its_time() {
        let s = |engine| vllm_on(engine, "a10g", VllmSettings::default());
        let (new, mid, old) =
            (s(EngineName::Vllm0_32), s(EngineName::Vllm0_13), s(EngineName::Vllm0_2_7));
        assert!(new.async_scheduling && new.scheduler_reserve_full_isl);
        assert!(!mid.async_scheduling && !mid.scheduler_reserve_full_isl);
        assert!(mid.enable_chunked_prefill && mid.enable_prefix_caching);
        assert!(!old.enable_chunked_prefill && !old.enable_prefix_caching);
        assert_eq!([new.gpu_memory_utilization, mid.gpu_memory_utilization], [0.92, 0.9]);
        assert_eq!([new.watermark, old.watermark], [0.0, 0.01]);
    }

    #[test]
    fn without_chunking_the_budget_takes_a_longest_prompt() {
        let settings =
            VllmSettings { enable_chunked_prefill: Some(false), ..VllmSettings::default() };
        assert_eq!(vllm_on(EngineName::Vllm0_32, "a10g", settings).max_num_batched_tokens, 131_072);
    }

    #[test]
    fn a_small_budget_lowers_the_default_number_of_sequences() {
        let settings = VllmSettings { max_num_batched_tokens: Some(64), ..VllmSettings::default() };
        assert_eq!(vllm_on(EngineName::Vllm0_32, "a10g", settings).max_num_seqs, 64);
    }

    #[test]
    fn tgis_2023_defaults_to_what_twelve_longest_requests_weigh() {
        let (gpu, model) = (hardware::gpu("a10g").unwrap(), model::find("llama-2-7b").unwrap());
        let place = |engine| Place { engine, model: &model, gpu: &gpu, tensor_parallel_size: 1 };
        let s = tgis(&TgisSettings::default(), place(EngineName::Tgis2023));
        assert_eq!(s.max_batch_weight, AutoOr::Value(2048 * 12));
        assert_eq!((s.max_batch_size, s.max_waiting_tokens), (12, 24));
        let more = TgisSettings {
            max_batch_weight: Some(AutoOr::Value(1_000_000)),
            ..TgisSettings::default()
        };
        let s = tgis(&more, place(EngineName::Tgis2023));
        assert_eq!(s.max_batch_weight, AutoOr::Value(2048 * 12), "never above full seats");
        let s = tgis(&TgisSettings::default(), place(EngineName::Tgis2024));
        assert_eq!(s.max_batch_weight, AutoOr::Auto);
        assert_eq!((s.max_sequence_length, s.max_concurrent_requests), (4096, 512));
    }

    #[test]
    fn tgi_v3_takes_limits_from_the_hardware_and_v2_does_not() {
        let (gpu, model) = (hardware::gpu("a10g").unwrap(), model::find("llama-2-7b").unwrap());
        let place = |engine| Place { engine, model: &model, gpu: &gpu, tensor_parallel_size: 1 };
        let v2 = tgi(&TgiSettings::default(), place(EngineName::TgiV2));
        assert_eq!((v2.max_input_tokens, v2.max_total_tokens), (Some(1024), Some(2048)));
        assert_eq!((v2.max_batch_prefill_tokens, v2.block_size), (4096, 16));
        assert!(!v2.prefix_caching && !v2.prefill_chunking);
        let v3 = tgi(&TgiSettings::default(), place(EngineName::TgiV3));
        assert_eq!((v3.max_input_tokens, v3.max_total_tokens), (None, None));
        assert_eq!((v3.max_batch_prefill_tokens, v3.block_size), (4096, 1));
        assert!(v3.prefix_caching && v3.prefill_chunking);
    }
}
