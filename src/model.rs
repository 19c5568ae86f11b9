//! What a model is to a server: its shapes, and the bytes and operations that follow from them.

pub mod catalog;
mod error;
mod hf_config;
pub mod quantization;
mod shapes;

use serde::Serialize;

use crate::named::named_enum;

pub use catalog::{find, preset, presets};
pub use error::ModelError;
pub use quantization::{Dtype, DtypeSetting, KvCacheDtype, WeightFormat, WeightPrecision};
pub use shapes::LayerGemm;

named_enum! {
    /// Decoder architectures by the class name that `config.json` gives under `architectures`.
    pub enum Architecture as "architecture" {
        Llama = "LlamaForCausalLM",
        Mistral = "MistralForCausalLM",
        Mixtral = "MixtralForCausalLM",
        Gemma = "GemmaForCausalLM",
        Gemma2 = "Gemma2ForCausalLM",
        Gemma3 = "Gemma3ForCausalLM",
        Qwen2 = "Qwen2ForCausalLM",
        Qwen3 = "Qwen3ForCausalLM",
        Qwen3Moe = "Qwen3MoeForCausalLM",
        Phi3 = "Phi3ForCausalLM",
    }
}

impl Architecture {
    pub const fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }

    /// RMS norms of one layer over the hidden size: Gemma 2 and 3 also normalise what attention
    /// and MLP give back.
    pub const fn norms_per_layer(self) -> u64 {
        match self {
            Self::Gemma2 | Self::Gemma3 => 4,
            _ => 2,
        }
    }
}

/// Mixture of experts in place of the MLP of some or all layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moe {
    pub num_experts: u32,
    pub experts_per_token: u32,
    pub expert_intermediate_size: u32,
    /// How many of the layers hold experts; the others keep a dense MLP.
    pub moe_layers: u32,
}

impl Moe {
    /// Expected number of distinct experts that `tokens` tokens touch in one layer, under uniform
    /// routing: a token leaves an expert out with probability 1 - k/E. Real routers are skewed and
    /// touch fewer.
    pub fn distinct_experts(&self, tokens: f64) -> f64 {
        let experts = f64::from(self.num_experts);
        let missed = 1.0 - f64::from(self.experts_per_token) / experts;
        experts * (1.0 - missed.powf(tokens.max(0.0)))
    }
}

/// Attention that looks back at most `window` tokens, in `layers` of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SlidingWindow {
    pub window: u32,
    pub layers: u32,
}

/// A decoder-only transformer, with the meaning of the fields of a Hugging Face `config.json`.
///
/// Every instance comes from [`ModelConfig::from_hf_json`], which bounds all fields so that no
/// product of them overflows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelConfig {
    pub name: String,
    pub architecture: Architecture,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    pub num_key_value_heads: u32,
    pub head_dim: u32,
    pub vocab_size: u32,
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: u32,
    /// The checkpoint's own dtype; what is served is [`WeightPrecision::resolve`]'s answer.
    pub dtype: Dtype,
    /// The format that the checkpoint itself is stored in, where `quantization_config` says so.
    pub checkpoint_format: WeightFormat,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    pub qk_norm: bool,
    pub moe: Option<Moe>,
    pub sliding_window: Option<SlidingWindow>,
}

/// A tensor-parallel size that the model cannot be cut into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "tensor-parallel-size {tp} does not divide {model}: {reason}; sizes that do: {}",
    .possible.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
)]
pub struct TpError {
    pub model: String,
    pub tp: u32,
    pub reason: String,
    pub possible: Vec<u32>,
}

impl ModelConfig {
    /// Reads the bytes of a Hugging Face `config.json`; `name` is what messages call the model.
    pub fn from_hf_json(name: &str, bytes: &[u8]) -> Result<Self, ModelError> {
        hf_config::parse(name, bytes)
    }

    /// Whether the model can be cut into `tp` equal shards: query heads, MLP columns and KV heads
    /// must divide, except that KV heads are replicated where there are fewer than ranks.
    pub fn check_tensor_parallel(&self, tp: u32) -> Result<(), TpError> {
        self.tensor_parallel_obstacle(tp).map_or(Ok(()), |reason| {
            let possible =
                (1..=64).filter(|tp| self.tensor_parallel_obstacle(*tp).is_none()).collect();
            Err(TpError { model: self.name.clone(), tp, reason, possible })
        })
    }

    fn tensor_parallel_obstacle(&self, tp: u32) -> Option<String> {
        if tp == 0 {
            return Some("it must be at least 1".into());
        }
        let dense = match &self.moe {
            Some(moe) if moe.moe_layers == self.num_hidden_layers => None,
            _ => Some(self.intermediate_size),
        };
        let experts = self.moe.as_ref().map(|moe| moe.expert_intermediate_size);
        let uneven = dense.into_iter().chain(experts).find(|ffn| !ffn.is_multiple_of(tp));
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(tp) {
            Some(format!("{heads} attention heads are not a multiple of {tp}"))
        } else if !kv_heads.is_multiple_of(tp) && !tp.is_multiple_of(kv_heads) {
            Some(format!("{kv_heads} KV heads are neither a multiple nor a divisor of {tp}"))
        } else {
            uneven.map(|ffn| format!("the MLP's {ffn} columns are not a multiple of {tp}"))
        }
    }

    pub fn heads_per_rank(&self, tp: u32) -> u32 {
        self.num_attention_heads.div_ceil(tp.max(1))
    }

    /// At least one: with more ranks than KV heads, each rank holds a copy of one.
    pub fn kv_heads_per_rank(&self, tp: u32) -> u32 {
        (self.num_key_value_heads / tp.max(1)).max(1)
    }

    /// The embedding is cut by rows of the vocabulary; the last rank's share is padded.
    pub fn vocab_per_rank(&self, tp: u32) -> u32 {
        self.vocab_size.div_ceil(tp.max(1))
    }

    /// Tokens of one request that ever need KV memory at once: a window that all layers share
    /// lets older blocks go; with some full-attention layers every token stays.
    pub fn resident_tokens(&self, tokens: u32) -> u32 {
        match self.sliding_window {
            Some(sliding) if sliding.layers == self.num_hidden_layers => tokens.min(sliding.window),
            _ => tokens,
        }
    }
}

#[cfg(test)]
mod tests;
