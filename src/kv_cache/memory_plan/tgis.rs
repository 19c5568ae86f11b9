//! TGIS, whose flash models keep the KV of a batch in one tensor and rebuild it at every decode
//! step, so that two copies coexist (`engines/tgis-tgi.md`, A8 and A9); and the static baseline.

use crate::units::Bytes;

use super::constants::{
    CUDA_CONTEXT_GIB, Constant, Provenance, TGIS_ACTIVATIONS_GIB, TGIS_CONTEXT_GIB,
};
use super::tgis_estimate::{self, BATCH, PrefillPeak, SHORTEST};
use super::{Draft, RefusalKind, TermName, activations};

/// TGIS of 2023 estimates nothing: its operator sets `MAX_BATCH_WEIGHT`. `auto` stands for the
/// value that a careful one would find: the tokens that fit in half of the free memory.
pub(super) fn plan_2023(draft: &mut Draft<'_, '_>) {
    let max_sequence = max_sequence_length(draft);
    load(draft, &TGIS_CONTEXT_GIB);
    draft.constant(TermName::Activations, &TGIS_ACTIVATIONS_GIB);
    second_copy(draft);
    draft.settle_budget();
    draft.settle_blocks(1, 0);
    if !draft.refuse_unless_weights_load() {
        return;
    }
    let held = draft.plan.kv_tokens;
    let (key, weight) = match draft.request.tgis.max_batch_weight {
        Some(weight) => {
            if weight > held {
                draft.plan.notes.push(format!(
                    "max-batch-weight {weight} is more than the {held} tokens that fit: \
                     TGIS of 2023 starts and may fail requests for lack of memory"
                ));
            }
            ("max-batch-weight", weight)
        }
        None => ("the memory's max-batch-weight of", held),
    };
    refuse_unless_one_sequence_fits(draft, key, weight, max_sequence);
}

/// TGIS of 2024 fits a memory model at start: requests are billed in bytes against the free
/// memory less a safety margin.
pub(super) fn plan_2024(draft: &mut Draft<'_, '_>) {
    let max_sequence = max_sequence_length(draft);
    load(draft, &TGIS_CONTEXT_GIB);
    let margin = draft.request.tgis.batch_safety_margin.unwrap_or(20);
    if margin > 99 {
        let message = format!("batch-safety-margin {margin} must be from 0 to 99 percent");
        draft.refuse(RefusalKind::Settings, message);
    }
    let free = draft.plan.gpu_memory.saturating_sub(draft.spent());
    let kept = free.scale(f64::from(margin.min(100)) / 100.0);
    let detail = format!("batch-safety-margin {margin} %");
    draft.term(TermName::Reserve, kept, Provenance::Computed, detail);
    let budget = draft.plan.gpu_memory.saturating_sub(draft.spent());
    let peak = prefill_peak(draft);
    // The whole cache once more: flash models rebuild their tensor at every step (A8), and of padded
    // ones the old tensors of all layers stand until the new ones are complete.
    let next_token = draft.plan.kv_bytes_per_token * 2;
    draft.plan.tgis_memory_model = tgis_estimate::estimate(peak, next_token, free, budget);
    second_copy(draft);
    draft.settle_budget();
    draft.settle_blocks(1, 0);
    if !draft.refuse_unless_weights_load() {
        return;
    }
    let Some(memory) = draft.plan.tgis_memory_model else {
        let smallest = Bytes::from_f64(peak.bytes(SHORTEST));
        let message = format!(
            "the memory estimation finds no prefill that fits: {BATCH} prompts of {SHORTEST} tokens \
             take {smallest} of {free}"
        );
        draft.refuse(RefusalKind::WarmUp, message);
        return;
    };
    let held = (budget.as_f64() / memory.next_token_bytes_per_token) as u64;
    refuse_unless_one_sequence_fits(draft, "the memory model's budget of", held, max_sequence);
    // The router's second check at start (A7).
    let prefill = memory.prefill_bytes(max_sequence);
    if prefill > budget.as_f64() {
        let bill = Bytes::from_f64(prefill);
        let message = format!(
            "the prefill of one request of max-sequence-length {max_sequence} is billed {bill}, \
             over the memory model's budget of {budget}"
        );
        draft.refuse(RefusalKind::OneRequest, message);
    }
}

/// What stands at the peak of a prefill: the KV that it builds, and the widest of a layer's two
/// halves and the logits, which are computed for every prompt token (A8).
fn prefill_peak(draft: &Draft<'_, '_>) -> PrefillPeak {
    let request = draft.request;
    let tp = request.tensor_parallel_size;
    let element = request.precision.dtype.bytes() as f64;
    let layer = activations::layer_bytes_per_token(request.model, &request.precision, tp);
    // Eager attention in 16 bits: the masked scores, their softmax in float32, and its copy in 16
    // bits stand together (transformers, `LlamaAttention.forward`).
    let scores = f64::from(request.model.heads_per_rank(tp)) * (2.0 * element + 4.0);
    let flash = request.tgis.flash_attention.unwrap_or(true);
    PrefillPeak {
        kv: draft.plan.kv_bytes_per_token.as_f64(),
        mlp: layer.mlp.as_f64(),
        attention: layer.attention.as_f64(),
        scores: if flash { 0.0 } else { scores },
        logits: f64::from(request.model.vocab_size) * element,
    }
}

/// The teaching baseline: contiguous KV, one copy, no reserve, room for a prefill of the model's
/// length or 2048 tokens, whichever is less.
pub(super) fn plan_static(draft: &mut Draft<'_, '_>) {
    load(draft, &CUDA_CONTEXT_GIB);
    let request = draft.request;
    let tokens = request.model.max_position_embeddings.min(2048);
    let tp = request.tensor_parallel_size;
    let layers = activations::layers(request.model, &request.precision, tp, tokens);
    draft.term(TermName::Activations, layers.bytes, layers.provenance, layers.detail);
    draft.settle_budget();
    draft.settle_blocks(1, 0);
    if draft.refuse_unless_weights_load() && draft.plan.kv_tokens == 0 {
        let message = "no memory is left for the KV cache".to_owned();
        draft.refuse(RefusalKind::NoKvCache, message);
    }
}

fn load(draft: &mut Draft<'_, '_>, context: &Constant) {
    draft.weights();
    draft.constant(TermName::CudaContext, context);
    draft.nccl();
}

/// Half of what is free, rounded up: the copy is as large as the cache.
fn second_copy(draft: &mut Draft<'_, '_>) {
    let free = draft.plan.gpu_memory.saturating_sub(draft.spent());
    let detail = "the KV tensor is rebuilt at every decode step".to_owned();
    let half = Bytes::new(free.get().div_ceil(2));
    draft.term(TermName::KvCopy, half, Provenance::Computed, detail);
}

fn max_sequence_length(draft: &mut Draft<'_, '_>) -> u32 {
    let own = draft.request.model.max_position_embeddings;
    let length = draft.request.tgis.max_sequence_length.unwrap_or(own.min(2048));
    draft.plan.settings.max_sequence_length = Some(length);
    if length == 0 || length > own {
        let message = format!("max-sequence-length {length} must be from 1 to the model's {own}");
        draft.refuse(RefusalKind::Settings, message);
    }
    length
}

/// The router stops at start if one request of the longest sequence could never be served.
fn refuse_unless_one_sequence_fits(
    draft: &mut Draft<'_, '_>,
    key: &str,
    weight: u64,
    max_sequence: u32,
) {
    if weight < u64::from(max_sequence) {
        let message = format!(
            "{key} {weight} tokens is below one request of max-sequence-length {max_sequence}"
        );
        draft.refuse(RefusalKind::OneRequest, message);
    }
}
