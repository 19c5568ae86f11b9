//! What fits on a GPU: weights, what the engine takes beside them, and the KV cache that is left.
//!
//! "Does it fit" is an outcome, never an error: each engine family has its own rule for how much
//! it sets aside and for when it refuses to start, and the plan shows the arithmetic of both.
//! A plan is of one rank; all ranks are alike.

mod activations;
pub mod constants;
mod draft;
mod remedy;
mod request;
mod support;
mod tgi;
mod tgis;
mod tgis_estimate;
pub mod vllm;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::engine_name::EngineName;
use crate::model::{KvCacheDtype, WeightPrecision};
use crate::named::named_enum;
use crate::units::Bytes;

use constants::Provenance;
use draft::Draft;
pub use remedy::{Change, Setting};
pub use request::{MemoryRequest, TgiMemory, TgisMemory, VllmMemory};

named_enum! {
    /// What takes memory on a rank besides the KV cache.
    pub enum TermName as "memory term" {
        Weights = "weights",
        CudaContext = "CUDA context",
        /// What appears on the device after the engine's first look, outside PyTorch.
        NonTorch = "kernels and workspaces",
        Nccl = "NCCL buffers",
        /// Live tensors of the decoder layers in the largest step.
        Activations = "activations",
        /// What logits and sampling need beyond the layers' activations, which they reuse.
        Logits = "logits and sampling",
        CudaGraphs = "CUDA graphs",
        /// Kept out of the engine's reach: 1 - utilisation, or a wiggle room.
        Reserve = "reserve",
        /// The second copy while a contiguous KV tensor is rebuilt (TGIS).
        KvCopy = "second KV copy",
    }
}

/// One term of the plan, with the reason for its size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryTerm {
    pub name: TermName,
    pub bytes: Bytes,
    pub provenance: Provenance,
    pub detail: String,
}

/// The settings a plan was made with, defaults filled in; those of other families are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ResolvedSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_num_seqs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_prefill_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sequence_length: Option<u32>,
}

/// The memory model of TGIS 2024, which bills requests in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TgisMemoryModel {
    /// What the loaded model leaves.
    pub free: Bytes,
    /// Free memory less the safety margin.
    pub budget: Bytes,
    /// Bytes of peak memory per prompt token of a prefill, as far as the peak is linear.
    pub prefill_bytes_per_token: f64,
    /// Beyond that: bytes per prompt token, and per prompt token and token of the longest prompt.
    /// Zero where the peak is linear to the end.
    pub prefill_quadratic: [f64; 2],
    /// Bytes of peak memory per token resident while decoding.
    pub next_token_bytes_per_token: f64,
}

impl TgisMemoryModel {
    /// What the prefill of one prompt of `length` tokens is billed.
    pub fn prefill_bytes(&self, length: u32) -> f64 {
        let length = f64::from(length);
        let [per_token, per_pair] = self.prefill_quadratic;
        (length * self.prefill_bytes_per_token).max(length * (per_token + length * per_pair))
    }
}

/// Where the memory of one rank goes, and whether the engine starts.
///
/// `gpu_memory + shortfall` = the terms + `kv_budget`, to the byte.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPlan {
    pub engine: EngineName,
    pub model: String,
    pub precision: WeightPrecision,
    pub kv_cache_dtype: KvCacheDtype,
    pub gpu: String,
    pub tensor_parallel_size: u32,
    pub settings: ResolvedSettings,
    /// What PyTorch sees of the GPU's memory.
    pub gpu_memory: Bytes,
    pub terms: Vec<MemoryTerm>,
    /// What is left for the KV cache; zero where something is missing.
    pub kv_budget: Bytes,
    /// What is missing before the first byte of KV cache.
    pub shortfall: Bytes,
    pub kv_bytes_per_token: Bytes,
    /// Tokens in a block; 1 where the cache is not paged.
    pub block_size: u32,
    /// Whole blocks in the budget (or the user's override).
    pub kv_blocks: u64,
    /// Of those, the ones that requests can have: some engines keep one for themselves.
    pub usable_kv_blocks: u64,
    /// Tokens in the usable blocks.
    pub kv_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tgis_memory_model: Option<TgisMemoryModel>,
    /// Things worth knowing that stop nothing.
    pub notes: Vec<String>,
    pub verdict: Verdict,
}

named_enum! {
    /// Why an engine does not start.
    pub enum RefusalKind as "refusal" {
        Settings = "settings",
        TensorParallel = "tensor-parallel",
        Dtype = "dtype",
        Weights = "weights",
        WarmUp = "warm-up",
        NoKvCache = "no-kv-cache",
        OneRequest = "one-request",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

/// Whether the engine starts, and if not, what would make it start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    pub fits: bool,
    pub refusal: Option<Refusal>,
    /// The sum that decided, in one line.
    pub arithmetic: String,
    /// The first of `changes`.
    pub smallest_change: Option<Change>,
    /// Changes after each of which the deployment was planned again and fits, smallest first.
    pub changes: Vec<Change>,
}

impl MemoryPlan {
    /// Plans a deployment and, where it does not fit, looks for changes that would make it fit.
    pub fn new(request: &MemoryRequest<'_>) -> Self {
        let mut plan = Self::without_remedies(request);
        if !plan.verdict.fits {
            plan.verdict.changes = remedy::search(request, &plan);
            plan.verdict.smallest_change = plan.verdict.changes.first().cloned();
        }
        plan
    }

    /// The plan alone; cheap enough for searches.
    pub fn without_remedies(request: &MemoryRequest<'_>) -> Self {
        let mut draft = Draft::new(request);
        match request.engine {
            EngineName::Vllm0_2_7 | EngineName::Vllm0_4_2 => vllm::plan_v0(&mut draft),
            EngineName::Vllm0_13 | EngineName::Vllm0_32 => vllm::plan_v1(&mut draft),
            EngineName::TgiV2 | EngineName::TgiV3 => tgi::plan(&mut draft),
            EngineName::Tgis2023 => tgis::plan_2023(&mut draft),
            EngineName::Tgis2024 => tgis::plan_2024(&mut draft),
            EngineName::Static => tgis::plan_static(&mut draft),
        }
        draft.finish()
    }

    pub fn fits(&self) -> bool {
        self.verdict.fits
    }

    pub fn term(&self, name: TermName) -> Bytes {
        self.terms.iter().filter(|term| term.name == name).map(|term| term.bytes).sum()
    }
}
