//! What would make a deployment fit: changes of one setting, else of two, each planned again.

use std::fmt;

use serde::Serialize;

use crate::engine_name::{EngineFamily, EngineName};
use crate::model::{Dtype, KvCacheDtype, WeightFormat, WeightPrecision};

use super::{MemoryPlan, MemoryRequest, RefusalKind, support};

/// One setting, under the engine's own name for it, and the value to give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub key: &'static str,
    pub value: String,
}

/// Settings after which the deployment fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub settings: Vec<Setting>,
    /// Tokens of KV cache after the change.
    pub kv_tokens: u64,
    /// GPUs that the change needs, where the instance has fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_gpus: Option<u32>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, setting) in self.settings.iter().enumerate() {
            let and = if i > 0 { " and " } else { "" };
            write!(f, "{and}{} {}", setting.key, setting.value)?;
        }
        if let Some(gpus) = self.needs_gpus {
            write!(f, " (on an instance with {gpus} such GPUs)")?;
        }
        Ok(())
    }
}

/// Shorter contexts than this serve so little that other changes come first.
const USEFUL_CONTEXT: u32 = 256;
/// Tensor-parallel sizes beyond the instance's GPUs that are tried.
const MOST_GPUS: u32 = 64;

/// A setting that takes a definite value.
#[derive(Clone, Copy)]
enum Fixed {
    TensorParallel(u32),
    Dtype(Dtype),
    Kv(KvCacheDtype),
    Utilization(f64),
    Quantize(WeightFormat),
}

/// A setting of which the largest value that fits is looked for.
#[derive(Clone, Copy, PartialEq)]
enum Searched {
    BatchedTokens,
    Context,
    Sequences,
}

type Edited<'a> = (MemoryRequest<'a>, Vec<Setting>);

/// Changes that make `request` fit, smallest first: those that cost least of what users see come
/// first, in the order batch limits, context, KV precision, utilisation, sequences, more GPUs,
/// weights' precision. Pairs are tried only where no single change is enough, and larger instances
/// only where no pair is.
pub(super) fn search(request: &MemoryRequest<'_>, refused: &MemoryPlan) -> Vec<Change> {
    let start: Edited<'_> = (request.clone(), Vec::new());
    let fixed = fixed_changes(request, refused);
    let single = |searched: Searched| largest_that_fits(&start, searched);
    let mut changes: Vec<Change> = Vec::new();
    let mut late = None;
    changes.extend(single(Searched::BatchedTokens).map(|(change, _)| change));
    match single(Searched::Context) {
        Some((change, context)) if context < USEFUL_CONTEXT => late = Some(change),
        found => changes.extend(found.map(|(change, _)| change)),
    }
    let (first, last): (Vec<Fixed>, Vec<Fixed>) = fixed.iter().partition(|change| {
        matches!(change, Fixed::Dtype(_) | Fixed::Kv(_) | Fixed::Utilization(_))
    });
    changes.extend(first.iter().filter_map(|fixed| if_fits(&apply(&start, *fixed))));
    changes.extend(single(Searched::Sequences).map(|(change, _)| change));
    changes.extend(last.iter().filter_map(|fixed| if_fits(&apply(&start, *fixed))));
    changes.extend(late);
    if changes.is_empty() {
        changes = pairs(&start, &fixed);
    }
    if changes.is_empty() {
        changes.extend(more_gpus(&start, &fixed));
    }
    changes
}

fn fixed_changes(request: &MemoryRequest<'_>, refused: &MemoryPlan) -> Vec<Fixed> {
    let mut changes = Vec::new();
    let kind = refused.verdict.refusal.as_ref().map(|refusal| refusal.kind);
    if kind == Some(RefusalKind::Dtype) {
        changes.push(Fixed::Dtype(Dtype::Float16));
    }
    if request.kv_cache_dtype == KvCacheDtype::Auto {
        // e4m3 keeps more precision; vLLM of early 2024 had e5m2 only.
        let kv = [KvCacheDtype::Fp8E4m3, KvCacheDtype::Fp8E5m2];
        let kv = kv.into_iter().find(|kv| support::stores_kv(request.engine, *kv));
        changes.extend(kv.map(Fixed::Kv));
    }
    if refused.settings.gpu_memory_utilization.is_some_and(|utilization| utilization < 0.95) {
        changes.push(Fixed::Utilization(0.95));
    }
    let current = request.tensor_parallel_size;
    let divides = |tp: &u32| request.model.check_tensor_parallel(*tp).is_ok();
    let available = request.instance_gpus.min(MOST_GPUS);
    changes
        .extend((current.saturating_add(1)..=available).filter(divides).map(Fixed::TensorParallel));
    if kind == Some(RefusalKind::TensorParallel) {
        let lower = (1..=available).rev().filter(|tp| *tp < current);
        changes.extend(lower.filter(divides).map(Fixed::TensorParallel));
    }
    if !request.precision.format.is_quantized() {
        changes.extend(formats(request).into_iter().map(Fixed::Quantize));
    }
    changes
}

/// Formats worth trying, those the engine's generation could load: prequantised 4-bit checkpoints
/// are the usual way out, 8 bits keep more where 4 are not needed.
fn formats(request: &MemoryRequest<'_>) -> Vec<WeightFormat> {
    use WeightFormat::{Awq, Bitsandbytes, Eetq, Fp8, Gptq};
    let fp8 = request.gpu.peak.fp8.map(|_| Fp8);
    [Gptq, Awq, Eetq, Bitsandbytes]
        .into_iter()
        .chain(fp8)
        .filter(|format| support::loads(request.engine, *format))
        .collect()
}

fn apply<'a>(edited: &Edited<'a>, change: Fixed) -> Edited<'a> {
    let (mut request, mut settings) = edited.clone();
    let mut set = |key, value: String| settings.push(Setting { key, value });
    match change {
        Fixed::TensorParallel(tp) => {
            request.tensor_parallel_size = tp;
            set("tensor-parallel-size", tp.to_string());
        }
        Fixed::Dtype(dtype) => {
            request.precision.dtype = dtype;
            set("dtype", dtype.to_string());
        }
        Fixed::Kv(kv) => {
            request.kv_cache_dtype = kv;
            set("kv-cache-dtype", kv.to_string());
        }
        Fixed::Utilization(utilization) => {
            request.vllm.gpu_memory_utilization = Some(utilization);
            set("gpu-memory-utilization", utilization.to_string());
        }
        Fixed::Quantize(format) => {
            // As under dtype auto: AWQ and GPTQ checkpoints are float16.
            let dtype = match format {
                WeightFormat::Awq | WeightFormat::Gptq => Dtype::Float16,
                _ => request.precision.dtype,
            };
            request.precision = WeightPrecision { format, dtype };
            set("quantize", format.to_string());
        }
    }
    (request, settings)
}

fn if_fits(edited: &Edited<'_>) -> Option<Change> {
    let plan = MemoryPlan::without_remedies(&edited.0);
    plan.fits().then(|| Change {
        settings: edited.1.clone(),
        kv_tokens: plan.kv_tokens,
        needs_gpus: None,
    })
}

/// Sets a searched setting to `value`; `None` where this engine has no such setting.
fn set_searched<'a>(edited: &Edited<'a>, searched: Searched, value: u32) -> Option<Edited<'a>> {
    let (mut request, mut settings) = edited.clone();
    let key = match (request.engine.family(), searched) {
        (EngineFamily::Vllm, Searched::BatchedTokens) => {
            request.vllm.max_num_batched_tokens = Some(value);
            "max-num-batched-tokens"
        }
        (EngineFamily::Vllm, Searched::Context) => {
            request.vllm.max_model_len = Some(value);
            "max-model-len"
        }
        (EngineFamily::Vllm, Searched::Sequences) => {
            request.vllm.max_num_seqs = Some(value);
            "max-num-seqs"
        }
        (EngineFamily::Tgi, Searched::BatchedTokens) => {
            request.tgi.max_batch_prefill_tokens = Some(value);
            "max-batch-prefill-tokens"
        }
        (EngineFamily::Tgi, Searched::Context) => {
            request.tgi.max_total_tokens = Some(value);
            "max-total-tokens"
        }
        (EngineFamily::Tgis, Searched::Context) => {
            request.tgis.max_sequence_length = Some(value);
            "max-sequence-length"
        }
        _ => return None,
    };
    settings.push(Setting { key, value: value.to_string() });
    // TGI wants input < total, and v2 input <= prefill: the input limit gives way.
    if request.engine.family() == EngineFamily::Tgi {
        let plan = MemoryPlan::without_remedies(&request);
        let resolved = &plan.settings;
        let input = resolved.max_input_tokens.unwrap_or(1);
        let total = resolved.max_total_tokens.unwrap_or(u32::MAX);
        let prefill = match request.engine {
            EngineName::TgiV2 => resolved.max_batch_prefill_tokens.unwrap_or(u32::MAX),
            _ => u32::MAX,
        };
        let allowed = input.min(total.saturating_sub(1)).min(prefill);
        if allowed < input {
            request.tgi.max_input_tokens = Some(allowed);
            settings.retain(|setting| setting.key != "max-input-tokens");
            settings.push(Setting { key: "max-input-tokens", value: allowed.to_string() });
        }
    }
    Some((request, settings))
}

/// The largest value below the current one that fits, if any does, and that value. Room only grows
/// as these settings shrink, so bisection finds it.
fn largest_that_fits(edited: &Edited<'_>, searched: Searched) -> Option<(Change, u32)> {
    let plan = MemoryPlan::without_remedies(&edited.0);
    let resolved = &plan.settings;
    let (current, least) = match (edited.0.engine.family(), searched) {
        (EngineFamily::Vllm, Searched::BatchedTokens) => {
            // Fewer than one per sequence is refused, and so is less than a prompt in one piece.
            (resolved.max_num_batched_tokens?, resolved.max_num_seqs?)
        }
        (EngineFamily::Vllm, Searched::Context) => (resolved.max_model_len?, 1),
        (EngineFamily::Vllm, Searched::Sequences) => (resolved.max_num_seqs?, 1),
        (EngineFamily::Tgi, Searched::BatchedTokens) => (resolved.max_batch_prefill_tokens?, 16),
        (EngineFamily::Tgi, Searched::Context) => (resolved.max_total_tokens?, 2),
        (EngineFamily::Tgis, Searched::Context) => (resolved.max_sequence_length?, 1),
        _ => return None,
    };
    let attempt = |value: u32| if_fits(&set_searched(edited, searched, value)?);
    // A context beyond the model's own is brought back to it first.
    let current = if searched == Searched::Context {
        current.min(edited.0.model.max_position_embeddings.saturating_add(1))
    } else {
        current
    };
    if least >= current {
        return None;
    }
    attempt(least)?;
    let (mut fits, mut too_much) = (least, current);
    while too_much - fits > 1 {
        let middle = fits + (too_much - fits) / 2;
        if attempt(middle).is_some() {
            fits = middle;
        } else {
            too_much = middle;
        }
    }
    // Round figures are what people write; a whole number of blocks loses nothing.
    let step = match searched {
        Searched::Sequences => 1,
        Searched::BatchedTokens | Searched::Context => plan.block_size.max(16),
    };
    let rounded = fits / step * step;
    let value = if rounded >= least { rounded } else { fits };
    attempt(value).map(|change| (change, value))
}

fn pairs(start: &Edited<'_>, fixed: &[Fixed]) -> Vec<Change> {
    let mut found = Vec::new();
    for (i, first) in fixed.iter().enumerate() {
        let once = apply(start, *first);
        for searched in [Searched::BatchedTokens, Searched::Context] {
            found.extend(largest_that_fits(&once, searched).map(|(change, _)| change));
        }
        for second in &fixed[i + 1..] {
            if std::mem::discriminant(first) != std::mem::discriminant(second) {
                found.extend(if_fits(&apply(&once, *second)));
            }
        }
    }
    found
}

/// The fewest GPUs of this kind, beyond those of the instance, on which the deployment fits with
/// one other change, and the fewest on which it fits as it is.
fn more_gpus(start: &Edited<'_>, fixed: &[Fixed]) -> Vec<Change> {
    let divides = |tp: &u32| start.0.model.check_tensor_parallel(*tp).is_ok();
    let sizes: Vec<u32> =
        (start.0.instance_gpus.saturating_add(1)..=MOST_GPUS).filter(divides).collect();
    let others: Vec<Fixed> =
        fixed.iter().filter(|other| !matches!(other, Fixed::TensorParallel(_))).copied().collect();
    let grown = |tp: u32| {
        let (mut request, settings) = apply(start, Fixed::TensorParallel(tp));
        request.instance_gpus = tp;
        (request, settings)
    };
    let needing = |tp: u32, change: Change| Change { needs_gpus: Some(tp), ..change };
    let as_it_is = sizes.iter().find_map(|tp| Some(needing(*tp, if_fits(&grown(*tp))?)));
    let with_one_more = sizes.iter().find_map(|tp| {
        let change = others.iter().find_map(|other| if_fits(&apply(&grown(*tp), *other)))?;
        Some(needing(*tp, change))
    });
    let fewer = with_one_more.filter(|change| {
        as_it_is.as_ref().is_none_or(|alone| change.needs_gpus < alone.needs_gpus)
    });
    as_it_is.into_iter().chain(fewer).collect()
}
