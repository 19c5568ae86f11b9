//! Model, machine and engine.

use clap::Args;

use super::{switched, valued};
use crate::scenario::Override;

/// Model, machine and engine.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Deployment")]
pub struct DeploymentArgs {
    /// A preset, or the path of a Hugging Face config.json
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,

    /// An instance type by the cloud's own name
    #[arg(long, value_name = "INSTANCE", conflicts_with = "gpu")]
    pub instance: Option<String>,

    /// A GPU in a machine of one's own, in place of --instance
    #[arg(long, value_name = "GPU")]
    pub gpu: Option<String>,

    /// How many of them
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "instance")]
    pub num_gpus: Option<String>,

    /// Price of the whole machine, as in "1.212 USD/h"
    #[arg(long, value_name = "PRICE", allow_hyphen_values = true)]
    pub price: Option<String>,

    /// An engine and its generation
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,

    /// A deployment profile of `calibrate --fit-deployment`, or the environment of an embedded one
    #[arg(long, value_name = "FILE|ENVIRONMENT")]
    pub profile: Option<String>,

    /// GPUs that share each layer
    #[arg(
        long = "tp",
        visible_alias = "tensor-parallel-size",
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub tensor_parallel_size: Option<String>,

    /// Independent copies of the engine on the machine
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub replicas: Option<String>,

    /// Element type of activations and unquantised weights
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,

    /// How the weights are stored
    #[arg(long, value_name = "FORMAT", visible_alias = "quantization")]
    pub quantize: Option<String>,

    /// Element type of the KV cache
    #[arg(long, value_name = "DTYPE")]
    pub kv_cache_dtype: Option<String>,

    /// Longest prompt and output together
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_model_len: Option<String>,

    /// Share of the GPU's memory that the engine may use
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub gpu_memory_utilization: Option<String>,

    /// Most sequences in a batch
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_num_seqs: Option<String>,

    /// Most tokens in a step (prefill, where the engine separates it)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_num_batched_tokens: Option<String>,

    /// Tokens per KV block
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub block_size: Option<String>,

    /// Reuse the KV blocks of equal prefixes
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub enable_prefix_caching: bool,

    /// Do not
    #[arg(long, overrides_with = "enable_prefix_caching")]
    pub no_enable_prefix_caching: bool,

    /// Cut long prompts into chunks that run with decodes
    #[arg(long, overrides_with = "no_enable_chunked_prefill")]
    pub enable_chunked_prefill: bool,

    /// Do not
    #[arg(long, overrides_with = "enable_chunked_prefill")]
    pub no_enable_chunked_prefill: bool,
}

impl DeploymentArgs {
    /// Whether the flags name a deployment of their own.
    pub const fn names_a_deployment(&self) -> bool {
        self.model.is_some()
            || self.instance.is_some()
            || self.gpu.is_some()
            || self.engine.is_some()
    }

    pub(super) fn overrides(&self) -> Vec<Override> {
        // A preset has no slash and no extension.
        let is_path = |model: &str| model.contains(['/', '\\']) || model.ends_with(".json");
        let model_key = match &self.model {
            Some(model) if is_path(model) => "model.config",
            _ => "model.name",
        };
        let mut overrides = valued(&[
            ("--model", model_key, &self.model),
            ("--instance", "hardware.instance", &self.instance),
            ("--gpu", "hardware.gpu", &self.gpu),
            ("--num-gpus", "hardware.num-gpus", &self.num_gpus),
            ("--price", "hardware.price", &self.price),
            ("--engine", "engine.name", &self.engine),
            ("--profile", "hardware.deployment", &self.profile),
            ("--tp", "engine.tensor-parallel-size", &self.tensor_parallel_size),
            ("--replicas", "engine.replicas", &self.replicas),
            ("--dtype", "model.dtype", &self.dtype),
            ("--quantize", "model.quantize", &self.quantize),
            ("--kv-cache-dtype", "engine.*.kv-cache-dtype", &self.kv_cache_dtype),
            ("--max-model-len", "engine.*.max-model-len", &self.max_model_len),
            (
                "--gpu-memory-utilization",
                "engine.*.gpu-memory-utilization",
                &self.gpu_memory_utilization,
            ),
            ("--max-num-seqs", "engine.*.max-num-seqs", &self.max_num_seqs),
            (
                "--max-num-batched-tokens",
                "engine.*.max-num-batched-tokens",
                &self.max_num_batched_tokens,
            ),
            ("--block-size", "engine.*.block-size", &self.block_size),
        ]);
        overrides.extend(switched(&[
            (
                self.enable_prefix_caching,
                "--enable-prefix-caching",
                self.no_enable_prefix_caching,
                "--no-enable-prefix-caching",
                "engine.*.enable-prefix-caching",
            ),
            (
                self.enable_chunked_prefill,
                "--enable-chunked-prefill",
                self.no_enable_chunked_prefill,
                "--no-enable-chunked-prefill",
                "engine.*.enable-chunked-prefill",
            ),
        ]));
        overrides
    }
}
