//! What a memory plan is asked about: a deployment, and the settings that decide about memory.

use crate::engine_name::EngineName;
use crate::hardware::Gpu;
use crate::model::{KvCacheDtype, ModelConfig, WeightPrecision};
use crate::units::Bytes;

/// A deployment whose memory is asked about. `None` is the engine's own default.
#[derive(Clone, Debug)]
pub struct MemoryRequest<'a> {
    pub engine: EngineName,
    pub model: &'a ModelConfig,
    pub precision: WeightPrecision,
    pub kv_cache_dtype: KvCacheDtype,
    pub gpu: &'a Gpu,
    pub tensor_parallel_size: u32,
    /// GPUs of the instance: the limit of tensor parallelism.
    pub instance_gpus: u32,
    pub vllm: VllmMemory,
    pub tgi: TgiMemory,
    pub tgis: TgisMemory,
}

/// The settings of `[engine.vllm]` that decide about memory.
#[derive(Clone, Debug, Default)]
pub struct VllmMemory {
    pub gpu_memory_utilization: Option<f64>,
    pub max_model_len: Option<u32>,
    pub max_num_seqs: Option<u32>,
    pub max_num_batched_tokens: Option<u32>,
    pub block_size: Option<u32>,
    pub num_gpu_blocks_override: Option<u32>,
    pub enable_chunked_prefill: Option<bool>,
    pub enforce_eager: Option<bool>,
}

/// The settings of `[engine.tgi]` that decide about memory.
#[derive(Clone, Debug, Default)]
pub struct TgiMemory {
    pub max_input_tokens: Option<u32>,
    pub max_total_tokens: Option<u32>,
    pub max_batch_prefill_tokens: Option<u32>,
    pub cuda_memory_fraction: Option<f64>,
}

/// The settings of `[engine.tgis]` that decide about memory.
#[derive(Clone, Debug, Default)]
pub struct TgisMemory {
    pub max_sequence_length: Option<u32>,
    /// `None` is `auto`: as many tokens as the memory holds.
    pub max_batch_weight: Option<u64>,
    /// Flash models, without padding; `None` is true.
    pub flash_attention: Option<bool>,
    /// `BATCH_SAFETY_MARGIN` of 2024, in percent.
    pub batch_safety_margin: Option<u32>,
}

impl<'a> MemoryRequest<'a> {
    /// One GPU, the engine's defaults.
    pub fn new(
        engine: EngineName,
        model: &'a ModelConfig,
        precision: WeightPrecision,
        gpu: &'a Gpu,
    ) -> Self {
        Self {
            engine,
            model,
            precision,
            kv_cache_dtype: KvCacheDtype::Auto,
            gpu,
            tensor_parallel_size: 1,
            instance_gpus: 1,
            vllm: VllmMemory::default(),
            tgi: TgiMemory::default(),
            tgis: TgisMemory::default(),
        }
    }

    pub(super) fn kv_bytes_per_token(&self) -> Bytes {
        self.model.kv_bytes_per_token(
            self.kv_cache_dtype,
            self.precision.dtype,
            self.tensor_parallel_size,
        )
    }
}
