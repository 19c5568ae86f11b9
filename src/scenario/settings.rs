//! The settings of each engine family, under the real engines' own names.
//!
//! A field is `None` where the scenario does not set it; `defaults` says what the engine would
//! then do. The structs are at once what `[engine.FAMILY]` may hold, the JSON Schema of it, and
//! what the rest of the program sees, so that the three cannot drift apart. Bounds are wide: they
//! keep sums of tokens far from overflow, not users from experiments.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine_name::EngineFamily;
use crate::model::KvCacheDtype;
use crate::named::named_enum;
use crate::units::Bytes;

/// Settings of the engine that the scenario names.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EngineSettings {
    Tgis(TgisSettings),
    Tgi(TgiSettings),
    Vllm(VllmSettings),
    Static(StaticSettings),
}

impl EngineSettings {
    pub fn family(&self) -> EngineFamily {
        match self {
            Self::Tgis(_) => EngineFamily::Tgis,
            Self::Tgi(_) => EngineFamily::Tgi,
            Self::Vllm(_) => EngineFamily::Vllm,
            Self::Static(_) => EngineFamily::Static,
        }
    }

    /// The settings of a family with nothing set.
    pub fn unset(family: EngineFamily) -> Self {
        match family {
            EngineFamily::Tgis => Self::Tgis(TgisSettings::default()),
            EngineFamily::Tgi => Self::Tgi(TgiSettings::default()),
            EngineFamily::Vllm => Self::Vllm(VllmSettings::default()),
            EngineFamily::Static => Self::Static(StaticSettings::default()),
        }
    }
}

/// Only the settings that are set.
pub(super) fn only_set(settings: &EngineSettings) -> serde_json::Result<serde_json::Value> {
    let mut json = serde_json::to_value(settings)?;
    if let Some(map) = json.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    Ok(json)
}

/// `"auto"`, or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoOr<T> {
    Auto,
    Value(T),
}

impl<T: Serialize> Serialize for AutoOr<T> {
    fn serialize<S: serde::Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => ser.serialize_str("auto"),
            Self::Value(value) => value.serialize(ser),
        }
    }
}

impl<'de> Deserialize<'de> for AutoOr<u64> {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(de)? {
            Form::Number(n) => Ok(Self::Value(n)),
            Form::Text(text) if text == "auto" => Ok(Self::Auto),
            Form::Text(text) => {
                Err(serde::de::Error::custom(format!("{text:?} is neither a number nor \"auto\"")))
            }
        }
    }
}

impl JsonSchema for AutoOr<u64> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AutoOrTokens".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            { "type": "string", "enum": ["auto"] },
            { "type": "integer", "minimum": 1, "maximum": 1_000_000_000_000_u64 },
        ] })
    }
}

/// Which CUDA graphs the engine captures: `true` (the engine's own sizes), `false`, or batch sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CudaGraphs {
    Enabled(bool),
    Sizes(Vec<u32>),
}

impl JsonSchema for CudaGraphs {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CudaGraphs".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            { "type": "boolean" },
            { "type": "array",
              "items": { "type": "integer", "minimum": 1, "maximum": 65536 } },
        ] })
    }
}

named_enum! {
    /// vLLM's order of the waiting queue.
    pub enum SchedulingPolicy as "scheduling policy" {
        Fcfs = "fcfs",
        Priority = "priority",
    }
}

named_enum! {
    /// TGI v3's attention kernels, which fix the size of a KV block.
    pub enum TgiAttention as "attention" {
        Paged = "paged",
        Flashinfer = "flashinfer",
        Flashdecoding = "flashdecoding",
    }
}

/// Settings of TGIS: its environment variables in lower case with hyphens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TgisSettings {
    /// Most requests in a running batch (MAX_BATCH_SIZE; default 12).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_batch_size: Option<u32>,
    /// Limit on the projected weight of a batch, in tokens for flash models
    /// (MAX_BATCH_WEIGHT; default max-sequence-length x max-batch-size; tgis-2023 only). "auto" is
    /// what an operator would set by hand: the tokens that fit in half of the free KV memory, since
    /// two copies of the KV cache exist at each decode step.
    pub max_batch_weight: Option<AutoOr<u64>>,
    /// Limit on the weight of one prefill, in tokens for flash models; 0 is no limit
    /// (MAX_PREFILL_WEIGHT; default 8192 flash, 300000 padded; tgis-2023 only).
    #[schemars(range(max = 1_000_000_000_000_u64))]
    pub max_prefill_weight: Option<u64>,
    /// Largest share of padding in a prefill of a padded model
    /// (MAX_PREFILL_PADDING; default 0.2; tgis-2024 only).
    #[schemars(range(min = 0, max = 1))]
    pub max_prefill_padding: Option<f64>,
    /// Decode steps after which one waiting request is enough for a prefill
    /// (MAX_WAITING_TOKENS; default 24).
    #[schemars(range(max = 1_000_000))]
    pub max_waiting_tokens: Option<u32>,
    /// Longest prompt and output together, in tokens (MAX_SEQUENCE_LENGTH; default 2048, and in
    /// tgis-2024 the model's own).
    #[schemars(range(min = 2, max = 0x4000_0000))]
    pub max_sequence_length: Option<u32>,
    /// Longest output that a request may ask for (MAX_NEW_TOKENS; default 1024).
    #[schemars(range(min = 1, max = 0x4000_0000))]
    pub max_new_tokens: Option<u32>,
    /// Requests in flight beyond which new ones are refused (MAX_CONCURRENT_REQUESTS; default 96,
    /// tgis-2024 512).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent_requests: Option<u32>,
    /// Flash attention with unpadded batches (FLASH_ATTENTION); false is the padded model class.
    /// Default true.
    pub flash_attention: Option<bool>,
    /// Percent of the free memory that the memory model leaves unused (BATCH_SAFETY_MARGIN;
    /// default 20; tgis-2024 only).
    #[schemars(range(min = 0, max = 99))]
    pub batch_safety_margin: Option<u32>,
}

/// Settings of TGI's launcher.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TgiSettings {
    /// Requests in flight beyond which new ones are refused (default 128).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent_requests: Option<u32>,
    /// Longest prompt, in tokens (default 1024 in v2, max-total-tokens - 1 in v3).
    #[schemars(range(min = 1, max = 0x4000_0000))]
    pub max_input_tokens: Option<u32>,
    /// Longest prompt and output together (default 2048 in v2, what the model and the KV memory
    /// allow in v3).
    #[schemars(range(min = 2, max = 0x4000_0000))]
    pub max_total_tokens: Option<u32>,
    /// Most prompt tokens in one prefill (default 4096 in v2; v3 derives it from the hardware).
    #[schemars(range(min = 1, max = 0x4000_0000))]
    pub max_batch_prefill_tokens: Option<u32>,
    /// Most tokens in a running batch. Flash models ignore it and take what memory allows.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub max_batch_total_tokens: Option<u64>,
    /// Waiting requests per running one from which they are prefilled early (default 1.2 in 1.x,
    /// 0.3 later).
    #[schemars(range(min = 0, max = 1_000_000))]
    pub waiting_served_ratio: Option<f64>,
    /// Decode steps after which waiting requests are prefilled whatever their number (default 20).
    #[schemars(range(max = 1_000_000))]
    pub max_waiting_tokens: Option<u32>,
    /// Most requests in a running batch (default: no limit).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_batch_size: Option<u32>,
    /// CUDA graphs for decode: true, false, or a list of batch sizes (default 1, 2, 4, 8, 16, 32;
    /// 1.x had none).
    pub cuda_graphs: Option<CudaGraphs>,
    /// Share of the GPU that the server may use (default 1.0).
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub cuda_memory_fraction: Option<f64>,
    /// Element type of the KV cache (default: the activations').
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// Cut long prompts into chunks that run with decodes (default true; tgi-v3 only).
    pub prefill_chunking: Option<bool>,
    /// Reuse the KV blocks of equal prompt prefixes (default true; tgi-v3 only).
    pub prefix_caching: Option<bool>,
    /// Attention kernels; they fix the KV block size at 16, 1 or 256 tokens (default flashinfer;
    /// tgi-v3 only).
    pub attention: Option<TgiAttention>,
}

/// Settings of `vllm serve`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VllmSettings {
    /// Longest prompt and output together (default: the model's own).
    #[schemars(range(min = 1, max = 0x4000_0000))]
    pub max_model_len: Option<u32>,
    /// Share of the GPU's memory that the engine may use (default 0.9; 0.92 in vllm-0.32).
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub gpu_memory_utilization: Option<f64>,
    /// Most sequences in a step (default 256; 1024 on H100, H200 and larger with vllm-0.13 and
    /// later).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_num_seqs: Option<u32>,
    /// Token budget of a step (default 2048, on H100, H200 and larger 8192, with vllm-0.13 and
    /// later; max(max-model-len, 2048) before).
    #[schemars(range(min = 1, max = 0x4000_0000))]
    pub max_num_batched_tokens: Option<u32>,
    /// Cap on the tokens that a step schedules, where it differs from max-num-batched-tokens
    /// (vllm-0.13 and later).
    #[schemars(range(min = 1, max = 0x4000_0000))]
    pub max_num_scheduled_tokens: Option<u32>,
    /// Most running sequences (default max-num-seqs; vllm-0.32).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_num_active_seqs: Option<u32>,
    /// Tokens per KV block (default 16).
    #[schemars(range(min = 1, max = 4096))]
    pub block_size: Option<u32>,
    /// Element type of the KV cache (default: the activations').
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// Number of KV blocks in place of what memory allows.
    #[schemars(range(min = 2, max = 0x4000_0000))]
    pub num_gpu_blocks_override: Option<u32>,
    /// Reuse the KV blocks of equal prefixes (default true with vllm-0.13 and later).
    pub enable_prefix_caching: Option<bool>,
    /// Cut long prompts into chunks that run with decodes (default true with vllm-0.13 and later,
    /// false before).
    pub enable_chunked_prefill: Option<bool>,
    /// Order of the waiting queue (default fcfs).
    pub scheduling_policy: Option<SchedulingPolicy>,
    /// Schedule a step while the one before it runs (default true in vllm-0.32, false before).
    pub async_scheduling: Option<bool>,
    /// Share of the KV blocks kept free at admission (default 0; 0.01 before vllm-0.13).
    #[schemars(range(min = 0, max = 1))]
    pub watermark: Option<f64>,
    /// Most prompt tokens of one request in a step; 0 is no cap (default 0; vllm-0.13 and later).
    #[schemars(range(max = 0x4000_0000))]
    pub long_prefill_token_threshold: Option<u32>,
    /// Raise the threshold when few requests share the budget (default false; vllm-0.32).
    pub long_prefill_token_threshold_adaptive: Option<bool>,
    /// Admit a request only if its whole current sequence fits in the free blocks (default true in
    /// vllm-0.32, false before).
    pub scheduler_reserve_full_isl: Option<bool>,
    /// Run without CUDA graphs (default false).
    pub enforce_eager: Option<bool>,
    /// Most padding tokens in a prompt batch (default 256; vllm-0.2.7 only).
    #[schemars(range(max = 0x4000_0000))]
    pub max_paddings: Option<u32>,
    /// CPU memory per GPU for swapped blocks, as in "4 GiB" (default 4 GiB; before vllm-0.13).
    /// Requests with one answer each are recomputed and never swapped.
    pub swap_space: Option<Bytes>,
}

/// Settings of the teaching baseline: a batch is filled, run to its end, and only then replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StaticSettings {
    /// Requests in a batch (default 8).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch_size: Option<u32>,
    /// Longest prompt and output together (default: the model's own).
    #[schemars(range(min = 1, max = 0x4000_0000))]
    pub max_model_len: Option<u32>,
    /// Share of the GPU's memory that the engine may use (default 0.9).
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub gpu_memory_utilization: Option<f64>,
    /// Element type of the KV cache (default: the activations').
    pub kv_cache_dtype: Option<KvCacheDtype>,
}
