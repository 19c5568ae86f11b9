//! TGI: run the largest prefill, give what is left to KV blocks, refuse if the configured maxima
//! do not fit (`engines/tgis-tgi.md`, B5).

use crate::engine_name::EngineName;
use crate::units::Bytes;

use super::constants::{CUDA_CONTEXT_GIB, Provenance, TGI_LOGITS_COPIES};
use super::{Draft, RefusalKind, TermName, activations};

/// Of the memory found free after the warm-up, TGI 1.3 to 2.3 uses 95 %.
const V2_USED_OF_FREE: f64 = 0.95;
/// Of the whole memory, v3 keeps 10 % back (`TGI_WIGGLE_ROOM` 0.90).
const V3_WIGGLE_ROOM: f64 = 0.90;

struct Limits {
    max_input: u32,
    max_total: u32,
    prefill: u32,
}

pub(super) fn plan(draft: &mut Draft<'_, '_>) {
    let fraction = draft.request.tgi.cuda_memory_fraction.unwrap_or(1.0);
    if !(fraction > 0.0 && fraction <= 1.0) {
        let message = format!("cuda-memory-fraction {fraction} must be above 0 and at most 1");
        draft.refuse(RefusalKind::Settings, message);
    }
    let limits = resolve(draft);
    draft.weights();
    draft.constant(TermName::CudaContext, &CUDA_CONTEXT_GIB);
    draft.nccl();
    let request = draft.request;
    let tokens = limits.prefill;
    let tp = request.tensor_parallel_size;
    let layers = activations::layers(request.model, &request.precision, tp, tokens);
    let logits =
        activations::prompt_logits(request.model, &request.precision, tokens, &TGI_LOGITS_COPIES);
    draft.peak(layers, logits);
    let warm_up = draft.spent();
    reserve(draft, fraction.clamp(0.0, 1.0));
    draft.settle_budget();
    draft.settle_blocks(block_size(draft), u64::from(is_v3(draft)));
    if draft.refuse_unless_weights_load() {
        start_up_checks(draft, &limits, warm_up);
    }
}

fn is_v3(draft: &Draft<'_, '_>) -> bool {
    draft.request.engine == EngineName::TgiV3
}

/// flashinfer (block size 1) is v3's default where it has kernels; paged attention has 16.
fn block_size(draft: &Draft<'_, '_>) -> u32 {
    let has_kernels = matches!(draft.request.model.head_dim, 64 | 128 | 256)
        && draft.request.gpu.chip.compute_capability.major >= 8;
    if is_v3(draft) && has_kernels { 1 } else { 16 }
}

fn resolve(draft: &mut Draft<'_, '_>) -> Limits {
    let settings = &draft.request.tgi;
    let own = draft.request.model.max_position_embeddings;
    let limits = if is_v3(draft) {
        // v3 asks for no more than it can hold; what that is, is known only after the warm-up, so
        // the start-up checks use the model's length only as an upper bound.
        let max_total = settings.max_total_tokens.unwrap_or(own);
        let max_input = settings.max_input_tokens.unwrap_or(max_total.saturating_sub(1));
        let prefill =
            settings.max_batch_prefill_tokens.unwrap_or_else(|| default_prefill_v3(draft));
        Limits { max_input, max_total, prefill }
    } else {
        Limits {
            max_input: settings.max_input_tokens.unwrap_or(1024),
            max_total: settings.max_total_tokens.unwrap_or(2048),
            prefill: settings.max_batch_prefill_tokens.unwrap_or(4096),
        }
    };
    let Limits { max_input, max_total, prefill } = limits;
    let resolved = &mut draft.plan.settings;
    resolved.max_input_tokens = Some(max_input);
    resolved.max_total_tokens = Some(max_total);
    resolved.max_batch_prefill_tokens = Some(prefill);
    let problem = if max_input == 0 || prefill == 0 {
        "max-input-tokens and max-batch-prefill-tokens must be at least 1".into()
    } else if max_total > own {
        format!("max-total-tokens {max_total} is beyond the model's own {own}")
    } else if max_input >= max_total {
        format!("max-input-tokens {max_input} must be below max-total-tokens {max_total}")
    } else if prefill < max_input && !is_v3(draft) {
        // v3 cuts long prompts into chunks.
        format!("max-batch-prefill-tokens {prefill} must be at least max-input-tokens {max_input}")
    } else {
        return limits;
    };
    draft.refuse(RefusalKind::Settings, problem);
    limits
}

/// v3 sizes a prefill to take about a second: the GPU's 16-bit rate (its launcher's own table)
/// over the model's operations per token, within the model's length.
///
/// The launcher also bounds it by the memory it expects; here, by what the warm-up can hold
/// (assumed).
fn default_prefill_v3(draft: &Draft<'_, '_>) -> u32 {
    let request = draft.request;
    let own = request.model.max_position_embeddings;
    let rate = match request.gpu.name.as_str() {
        "a10g" => Some(125e12),
        "l4" => Some(121e12),
        "a100-40gb" | "a100-80gb" => Some(312e12),
        "h100-80gb" => Some(900e12),
        _ => None,
    };
    let by_rate = rate.map_or(4096.0, |rate: f64| {
        rate * f64::from(request.tensor_parallel_size) / request.model.flops_per_token(0).get()
    });
    let tp = request.tensor_parallel_size;
    let spare = request
        .gpu
        .memory
        .usable
        .scale(V3_WIGGLE_ROOM)
        .saturating_sub(request.model.weight_bytes(&request.precision, tp))
        .saturating_sub(Bytes::from_gib_f64(CUDA_CONTEXT_GIB.value));
    let logits = Bytes::new(u64::from(request.model.vocab_size) * request.precision.dtype.bytes())
        .scale(TGI_LOGITS_COPIES.value);
    let per_token = activations::layer_bytes_per_token(request.model, &request.precision, tp)
        .widest()
        .max(logits)
        + request.kv_bytes_per_token();
    let by_memory = match (spare / 2) / per_token {
        0 => u32::MAX, // the weights do not fit: the prefill is not what fails
        tokens => u32::try_from(tokens).unwrap_or(u32::MAX),
    };
    (by_rate as u32).min(by_memory).clamp(1, own)
}

fn reserve(draft: &mut Draft<'_, '_>, fraction: f64) {
    let memory = draft.plan.gpu_memory;
    let (bytes, detail) = if is_v3(draft) {
        let kept = 1.0 - fraction * V3_WIGGLE_ROOM;
        (memory.scale(kept), format!("{:.0} % of the memory", kept * 100.0))
    } else {
        let outside = memory.scale(1.0 - fraction);
        let free = memory.saturating_sub(draft.spent()).saturating_sub(outside);
        (outside + free.scale(1.0 - V2_USED_OF_FREE), "5 % of what is free".into())
    };
    draft.term(TermName::Reserve, bytes, Provenance::Computed, detail);
}

fn start_up_checks(draft: &mut Draft<'_, '_>, limits: &Limits, warm_up: Bytes) {
    let &Limits { max_input, max_total, prefill } = limits;
    // The warm-up batch: requests of max-input tokens that together reach the prefill limit, each
    // with blocks up to max-total.
    let requests = prefill.div_ceil(max_input.max(1));
    let most = if draft.request.tgi.max_total_tokens.is_none() && is_v3(draft) {
        1 // with no maximum set, the warm-up generates one token
    } else {
        max_total.saturating_sub(max_input)
    };
    let held = u64::from(prefill) + u64::from(requests) * u64::from(most);
    let kv = draft.plan.kv_bytes_per_token * held;
    let what = format!("weights and the warm-up prefill of {prefill} tokens");
    let memory = draft.plan.gpu_memory;
    if warm_up + kv > memory {
        let message = format!(
            "not enough memory to handle {prefill} prefill tokens: {what} take {} of {memory}; \
             lower max-batch-prefill-tokens",
            warm_up + kv
        );
        draft.refuse(RefusalKind::WarmUp, message);
        return;
    }
    // Blocks of the warm-up batch were allocated beside what was found free.
    let capacity = draft.plan.kv_tokens;
    if capacity == 0 {
        let message = "no memory for KV blocks after the warm-up".to_owned();
        draft.refuse(RefusalKind::NoKvCache, message);
        return;
    }
    let fitted_total = draft.request.tgi.max_total_tokens.is_none() && is_v3(draft);
    if fitted_total {
        let total = u32::try_from(capacity).unwrap_or(u32::MAX).min(max_total);
        draft.plan.settings.max_total_tokens = Some(total);
        if draft.request.tgi.max_input_tokens.is_none() {
            draft.plan.settings.max_input_tokens = Some(total.saturating_sub(1));
        }
    }
    let wanted = [("max-batch-prefill-tokens", prefill), ("max-total-tokens", max_total)];
    for (key, tokens) in wanted {
        let counts = key == "max-batch-prefill-tokens" || !fitted_total;
        if counts && u64::from(tokens) > capacity {
            let message = format!(
                "{key} {tokens} is more than the {capacity} tokens that the KV cache holds"
            );
            draft.refuse(RefusalKind::OneRequest, message);
        }
    }
}
