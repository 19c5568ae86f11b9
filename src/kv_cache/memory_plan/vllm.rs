//! vLLM: profile the largest step, give what is left of `gpu-memory-utilization` to KV blocks,
//! and refuse to start if one request of `max-model-len` does not fit.

use crate::engine_name::EngineName;
use crate::model::ModelConfig;
use crate::units::Bytes;

use super::constants::{
    self, CUDA_CONTEXT_GIB, CUDA_GRAPH_MIB, Provenance, VLLM_V0_SAMPLER_COPIES,
    VLLM_V1_NON_TORCH_GIB, VLLM_V1_SAMPLER_COPIES,
};
use super::{Draft, RefusalKind, TermName, activations};

/// Settings after defaults, common to both generations.
struct Limits {
    utilization: f64,
    max_model_len: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    block_size: u32,
}

/// vLLM 0.2.7 and 0.4.2: peak = total - free after a profile run of `max_num_batched_tokens`
/// tokens as `max_num_seqs` sequences; blocks = (total x utilisation - peak) / block. CUDA graphs
/// are captured later, out of the reserve.
pub(super) fn plan_v0(draft: &mut Draft<'_, '_>) {
    let settings = &draft.request.vllm;
    let model = draft.request.model;
    let chunked = settings.enable_chunked_prefill.unwrap_or(false)
        && draft.request.engine != EngineName::Vllm0_2_7;
    let max_model_len = settings.max_model_len.unwrap_or(model.max_position_embeddings);
    let default_tokens = if chunked { 512 } else { max_model_len.max(2048) };
    let limits = Limits {
        utilization: settings.gpu_memory_utilization.unwrap_or(0.90),
        max_model_len,
        max_num_seqs: settings.max_num_seqs.unwrap_or(256),
        max_num_batched_tokens: settings.max_num_batched_tokens.unwrap_or(default_tokens),
        block_size: settings.block_size.unwrap_or(16),
    };
    resolve(draft, &limits, chunked);
    reserve(draft, limits.utilization);
    draft.weights();
    draft.constant(TermName::CudaContext, &CUDA_CONTEXT_GIB);
    draft.nccl();
    peak(draft, &limits, &VLLM_V0_SAMPLER_COPIES);
    draft.plan.notes.push("CUDA graphs are captured out of the reserve".into());
    blocks(draft, &limits, 0);
}

/// vLLM 0.13 and 0.32 (V1): non-KV memory = weights + peak allocated in a dummy step of
/// `max_num_batched_tokens` tokens and a sampler pass + what else appeared on the device. The
/// context itself was there before the first snapshot, so it comes out of the reserve. From 0.21
/// on an estimate of the CUDA graphs is taken off too. One block is the null block.
pub(super) fn plan_v1(draft: &mut Draft<'_, '_>) {
    let settings = &draft.request.vllm;
    let model = draft.request.model;
    let chunked = settings.enable_chunked_prefill.unwrap_or(true);
    let is_0_32 = draft.request.engine == EngineName::Vllm0_32;
    let max_model_len = settings.max_model_len.unwrap_or(model.max_position_embeddings);
    let (default_tokens, default_seqs) = server_defaults(draft);
    let max_num_seqs = settings.max_num_seqs.unwrap_or(default_seqs);
    let default_tokens = if chunked { default_tokens } else { default_tokens.max(max_model_len) };
    let most = u64::from(max_num_seqs) * u64::from(max_model_len);
    let default_tokens = default_tokens.min(u32::try_from(most).unwrap_or(u32::MAX));
    let limits = Limits {
        utilization: settings.gpu_memory_utilization.unwrap_or(if is_0_32 { 0.92 } else { 0.90 }),
        max_model_len,
        max_num_seqs,
        max_num_batched_tokens: settings.max_num_batched_tokens.unwrap_or(default_tokens),
        block_size: settings.block_size.unwrap_or(16),
    };
    resolve(draft, &limits, chunked);
    reserve(draft, limits.utilization);
    let context = Bytes::from_gib_f64(CUDA_CONTEXT_GIB.value);
    let left = draft.plan.term(TermName::Reserve);
    if left < context {
        let free = draft.plan.gpu_memory.saturating_sub(context);
        draft.refuse(
            RefusalKind::Settings,
            format!(
                "gpu-memory-utilization {} asks for {}, but only {free} are free at start \
                 (CUDA context {context}); lower it",
                limits.utilization,
                draft.plan.gpu_memory.saturating_sub(left)
            ),
        );
    }
    draft.plan.notes.push(format!("the CUDA context ({context}) comes out of the reserve"));
    draft.weights();
    draft.constant(TermName::NonTorch, &VLLM_V1_NON_TORCH_GIB);
    draft.nccl();
    peak(draft, &limits, &VLLM_V1_SAMPLER_COPIES);
    if is_0_32 && !settings.enforce_eager.unwrap_or(false) {
        cuda_graphs(draft, &limits);
    }
    blocks(draft, &limits, 1);
}

/// Tokens per step and sequences of the API server, by memory and name of the device.
fn server_defaults(draft: &Draft<'_, '_>) -> (u32, u32) {
    let gpu = draft.request.gpu;
    let gib = gpu.memory.total.as_gib();
    if gib >= 160.0 {
        (16384, 1024)
    } else if gib >= 70.0 && !gpu.product.to_lowercase().contains("a100") {
        (8192, 1024)
    } else {
        (2048, 256)
    }
}

fn resolve(draft: &mut Draft<'_, '_>, limits: &Limits, chunked: bool) {
    let settings = &mut draft.plan.settings;
    settings.gpu_memory_utilization = Some(limits.utilization);
    settings.max_model_len = Some(limits.max_model_len);
    settings.max_num_seqs = Some(limits.max_num_seqs);
    settings.max_num_batched_tokens = Some(limits.max_num_batched_tokens);
    let own = draft.request.model.max_position_embeddings;
    let (len, seqs, tokens) =
        (limits.max_model_len, limits.max_num_seqs, limits.max_num_batched_tokens);
    let utilization = limits.utilization;
    let problem = if !(utilization > 0.0 && utilization <= 1.0) {
        format!("gpu-memory-utilization {utilization} must be above 0 and at most 1")
    } else if !(1..=1024).contains(&limits.block_size) {
        format!("block-size {} must be from 1 to 1024", limits.block_size)
    } else if len == 0 || seqs == 0 || tokens == 0 {
        "max-model-len, max-num-seqs and max-num-batched-tokens must be at least 1".into()
    } else if len > own {
        format!("max-model-len {len} is beyond the model's own {own}")
    } else if tokens < seqs {
        format!("max-num-batched-tokens {tokens} must be at least max-num-seqs {seqs}")
    } else if tokens < len && !chunked {
        format!(
            "max-num-batched-tokens {tokens} must be at least max-model-len {len} \
             without chunked prefill"
        )
    } else {
        return;
    };
    draft.refuse(RefusalKind::Settings, problem);
}

fn reserve(draft: &mut Draft<'_, '_>, utilization: f64) {
    let bytes = draft.plan.gpu_memory.scale(1.0 - utilization.clamp(0.0, 1.0));
    let detail = format!("1 - gpu-memory-utilization {utilization}");
    draft.term(TermName::Reserve, bytes, Provenance::Computed, detail);
}

fn peak(draft: &mut Draft<'_, '_>, limits: &Limits, copies: &constants::Constant) {
    let request = draft.request;
    let tokens = limits.max_num_batched_tokens;
    let rows = limits.max_num_seqs.min(tokens);
    let layers = activations::layers(
        request.model,
        &request.precision,
        request.tensor_parallel_size,
        tokens,
    );
    let sampler = activations::sampler(request.model, rows, copies);
    draft.peak(layers, sampler);
}

fn cuda_graphs(draft: &mut Draft<'_, '_>, limits: &Limits) {
    let sizes = cuda_graph_sizes(limits.max_num_seqs, limits.max_num_batched_tokens);
    let layers = draft.request.model.num_hidden_layers;
    let mib = CUDA_GRAPH_MIB.value * sizes.len() as f64 * f64::from(layers);
    let detail = format!("{} captured sizes x {layers} layers", sizes.len());
    let bytes = Bytes::from_gib_f64(mib / 1024.0);
    draft.term(TermName::CudaGraphs, bytes, CUDA_GRAPH_MIB.provenance, detail);
}

/// Batch sizes that vLLM V1 captures CUDA graphs for, ascending (0.32, GPUs other than data-centre
/// Blackwell).
pub fn cuda_graph_sizes(max_num_seqs: u32, max_num_batched_tokens: u32) -> Vec<u32> {
    let most = max_num_seqs.saturating_mul(2).min(512).min(max_num_batched_tokens);
    let mut sizes: Vec<u32> = [1, 2, 4]
        .into_iter()
        .chain((8..256).step_by(8))
        .chain((256..=512).step_by(16))
        .chain([max_num_seqs, max_num_batched_tokens])
        .filter(|size| (1..=most).contains(size))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn blocks(draft: &mut Draft<'_, '_>, limits: &Limits, kept: u64) {
    draft.settle_budget();
    draft.settle_blocks(limits.block_size.clamp(1, 1024), kept);
    if !draft.refuse_unless_weights_load() {
        return;
    }
    let reserve = draft.plan.term(TermName::Reserve);
    let held = draft.spent().saturating_sub(reserve);
    if !draft.refuse_unless_resident(RefusalKind::WarmUp, "weights and the profile run", held) {
        return;
    }
    if let Some(blocks) = draft.request.vllm.num_gpu_blocks_override {
        draft.plan.kv_blocks = u64::from(blocks);
        draft.keep_blocks(kept);
        let kv =
            draft.plan.kv_bytes_per_token * u64::from(draft.plan.block_size) * draft.plan.kv_blocks;
        draft.plan.notes.push(format!("num-gpu-blocks-override: {kv} whatever the budget is"));
        let what = "weights, profile run and the overridden KV blocks";
        draft.refuse_unless_resident(RefusalKind::NoKvCache, what, held + kv);
    }
    if draft.plan.usable_kv_blocks == 0 {
        let (budget, shortfall) = (draft.plan.kv_budget, draft.plan.shortfall);
        draft.refuse(
            RefusalKind::NoKvCache,
            format!(
                "no memory for KV blocks: {} at gpu-memory-utilization {}",
                if shortfall > Bytes::ZERO {
                    format!("{shortfall} too little")
                } else {
                    format!("only {budget} left")
                },
                limits.utilization
            ),
        );
        return;
    }
    let need = tokens_of_longest_request(draft.request.model, limits, kept > 0);
    let need_blocks = need.div_ceil(u64::from(draft.plan.block_size));
    if need_blocks > draft.plan.usable_kv_blocks {
        draft.refuse(
            RefusalKind::OneRequest,
            format!(
                "one request of max-model-len {} needs {need_blocks} KV blocks; there are {}, \
                 room for {} tokens",
                limits.max_model_len, draft.plan.usable_kv_blocks, draft.plan.kv_tokens
            ),
        );
    }
}

/// V1 lets go of blocks behind a window that all layers share, so a request holds the window and
/// one step's tokens; V0 checks against the whole length.
fn tokens_of_longest_request(model: &ModelConfig, limits: &Limits, is_v1: bool) -> u64 {
    let whole = u64::from(limits.max_model_len);
    match model.sliding_window {
        Some(sliding) if is_v1 && sliding.layers == model.num_hidden_layers => {
            let held = u64::from(sliding.window) + u64::from(limits.max_num_batched_tokens);
            whole.min(held)
        }
        _ => whole,
    }
}
