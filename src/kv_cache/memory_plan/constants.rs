//! The numbers of the memory plan that no rule gives: assumed, counted or fitted, each with where
//! it comes from.

use serde::Serialize;

use crate::named::named_enum;

named_enum! {
    /// How a number came about.
    pub enum Provenance as "provenance" {
        /// Follows from shapes and settings.
        Computed = "computed",
        Datasheet = "datasheet",
        Measured = "measured",
        Fitted = "fitted",
        Assumed = "assumed",
    }
}

/// A number with its provenance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Constant {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    pub provenance: Provenance,
    pub source: &'static str,
}

const fn assumed(
    name: &'static str,
    value: f64,
    unit: &'static str,
    source: &'static str,
) -> Constant {
    Constant { name, value, unit, provenance: Provenance::Assumed, source }
}

/// All constants, for reports of what is fitted and what is assumed.
pub const ALL: [&Constant; 9] = [
    &VLLM_V0_SAMPLER_COPIES,
    &VLLM_V1_SAMPLER_COPIES,
    &VLLM_V1_NON_TORCH_GIB,
    &CUDA_CONTEXT_GIB,
    &TGIS_CONTEXT_GIB,
    &TGIS_ACTIVATIONS_GIB,
    &NCCL_GIB,
    &CUDA_GRAPH_MIB,
    &TGI_LOGITS_COPIES,
];

/// How many times rows x vocabulary x 4 bytes vLLM's V0 profile run takes on the device.
///
/// The profile run samples 256 sequences with top-k and top-p: float32 logits, their sort (values,
/// 64-bit indices, the sort's own buffers), softmax, cumulative sum and scatter, plus what the
/// caching allocator keeps between them, since V0 measures total minus free memory. One published
/// fact fixes it: Gemma 7B in bfloat16 on one L4 at utilisation 0.9 has room for 640 tokens and
/// with an 8-bit KV cache for 1200, so its KV budget is from 280 up to 287 MiB (Google's GKE guide
/// on LLM inference; vLLM of 2024-02). The value leaves 282 MiB, given [`CUDA_CONTEXT_GIB`] and the
/// L4's 22.17 GiB: all three could shift against each other.
pub const VLLM_V0_SAMPLER_COPIES: Constant = Constant {
    name: "vllm-v0-sampler-copies",
    value: 13.62,
    unit: "x rows x vocabulary x 4 B",
    provenance: Provenance::Fitted,
    source: "fitted to one fact: Gemma 7B on one L4 has room for 640 tokens (GKE guide, vLLM of 2024-02)",
};

/// The same for V1, which measures what is allocated and not what the allocator keeps: float32
/// logits 1, sorted values 1, their 64-bit indices 2, the sort's double buffers 3, softmax 1.
pub const VLLM_V1_SAMPLER_COPIES: Constant = assumed(
    "vllm-v1-sampler-copies",
    8.0,
    "x rows x vocabulary x 4 B",
    "counted: logits, sorted values, 64-bit indices, sort buffers, softmax",
);

/// What V1 finds on the device after profiling that neither PyTorch nor the context at start held:
/// kernels loaded late, cuBLAS workspaces.
pub const VLLM_V1_NON_TORCH_GIB: Constant =
    assumed("vllm-v1-non-torch", 0.25, "GiB", "kernels and workspaces loaded while profiling");

/// Context of a PyTorch process with its kernels.
pub const CUDA_CONTEXT_GIB: Constant =
    assumed("cuda-context", 0.45, "GiB", "CUDA context, kernels, cuBLAS workspace");

/// With [`TGIS_ACTIVATIONS_GIB`], the two numbers behind the published batch of about 20 requests
/// of Llama-2 7B on g5.2xlarge: they leave 8.24 GiB, half of which holds 8436 tokens.
pub const TGIS_CONTEXT_GIB: Constant =
    assumed("tgis-cuda-context", 0.9, "GiB", "CUDA context, kernels, cuBLAS of TGIS 2023");

pub const TGIS_ACTIVATIONS_GIB: Constant =
    assumed("tgis-activations", 0.5, "GiB", "activations and logits of a prefill under TGIS 2023");

/// Channels and buffers of one communicator.
pub const NCCL_GIB: Constant =
    assumed("nccl", 0.7, "GiB", "communicator channels and buffers of one rank");

/// Memory of CUDA graphs, for each layer and captured batch size.
pub const CUDA_GRAPH_MIB: Constant = assumed(
    "cuda-graph",
    0.25,
    "MiB per layer and captured size",
    "a quarter MiB per layer and captured size",
);

/// The warm-up of TGI asks for log-probabilities of all prompt tokens: logits and their
/// log-softmax, both in the activations' dtype.
pub const TGI_LOGITS_COPIES: Constant = assumed(
    "tgi-logits-copies",
    2.0,
    "x prompt tokens x vocabulary x dtype",
    "counted: logits and log-softmax of all prompt tokens of the warm-up",
);
