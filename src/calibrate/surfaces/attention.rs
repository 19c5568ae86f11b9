//! The forms of attention through timed kernels: of ragged batches, and of pure decode ("D3").

use std::collections::{BTreeMap, BTreeSet};

use crate::cost::StepShape;
use crate::cost::attention::{AttentionForm, AttentionShape, DecodeForm, RaggedForm, SkewForm};
use crate::cost::profile::{Fit, GpuProfile};
use crate::hardware::Gpu;

use super::super::fit::Parameter;
use super::super::table::{AttentionBatch, Operator, Timing};
use super::{
    Dropped, Origin, Precision, Rows, Sample, Surface, at_most, blend, fit, hash, judge,
    of_one_source, once, prior, source_of, sources,
};

/// KV of this size and more may sit in L2 when a kernel is timed again and again.
const LARGEST_SMALL_KV: f64 = 8e6;
/// Beyond this many times L2 it does not.
const BEYOND_L2: f64 = 1.3;

/// A source of which more than this share is faster than DRAM is not to be believed at all.
const UNPHYSICAL_SHARE: f64 = 0.05;

const PREFILL: &str = "attention.prefill";
const DECODE: &str = "attention.decode";
const MIXED: &str = "attention.mixed";

type Batch = (AttentionShape, StepShape);

fn shape_of(batch: &AttentionBatch) -> AttentionShape {
    AttentionShape {
        heads: batch.heads as f64,
        kv_heads: batch.kv_heads as f64,
        head_dim: batch.head_dim as f64,
        kv_bytes: Precision::of(&batch.kv_dtype).map_or(2.0, |precision| precision.element),
        full_layers: 1.0,
        window_layers: 0.0,
        window: f64::INFINITY,
    }
}

fn step_of(batch: &AttentionBatch) -> StepShape {
    let (new, past) = (batch.chunk_tokens, batch.chunk_past);
    StepShape {
        prefill_seqs: u32::try_from(batch.chunks).unwrap_or(u32::MAX),
        prefill_tokens: batch.chunks * new,
        prefill_pairs: batch.chunks * new * (2 * past + new),
        prefill_context: batch.chunks * (past + new),
        decode_seqs: u32::try_from(batch.sequences).unwrap_or(u32::MAX),
        decode_context: batch.sequences * batch.context,
        ..StepShape::default()
    }
}

/// One layer of a batch, as the cost model sees it.
pub fn shapes(batch: &AttentionBatch) -> (AttentionShape, StepShape) {
    (shape_of(batch), step_of(batch))
}

/// What every surface asks of a row; others are another kernel's.
fn is_plain(rows: &Rows<'_>, batch: &AttentionBatch) -> bool {
    let chosen = rows.origin == Origin::Probes;
    let known = Precision::of(&batch.kv_dtype).is_some();
    known && batch.window == 0 && (chosen || batch.head_dim == 128)
}

fn key_of(batch: &AttentionBatch) -> u64 {
    hash(&[
        batch.chunks,
        batch.chunk_tokens,
        batch.chunk_past,
        batch.sequences,
        batch.context,
        batch.heads,
        batch.kv_heads,
        batch.head_dim,
    ])
}

fn sample(timing: &Timing, batch: &AttentionBatch) -> Sample<Batch> {
    Sample {
        shape: shapes(batch),
        seconds: timing.seconds,
        source: source_of(timing),
        key: key_of(batch),
        row: key_of(batch),
        region: if timing.seconds > 100e-6 { ">100 us" } else { "<=100 us" },
    }
}

fn batches<'a>(
    rows: &Rows<'a>,
    keep: fn(&AttentionBatch) -> bool,
) -> impl Iterator<Item = (&'a Timing, &'a AttentionBatch)> {
    rows.timings.iter().filter_map(move |timing| match &timing.operator {
        Operator::Attention(batch) if keep(batch) => Some((*timing, batch)),
        _ => None,
    })
}

/// A form of which only the part under fit matters.
fn with(gpu: &Gpu, prefill: RaggedForm, decode: DecodeForm, mixed: RaggedForm) -> AttentionForm {
    let nominal = GpuProfile::from_datasheet(gpu).attention.form(gpu);
    AttentionForm { prefill, decode, mixed, skew: SkewForm::default(), ..nominal }
}

const NO_RAGGED: RaggedForm =
    RaggedForm { floor: 0.0, peak: 1e18, start_up: 0.0, tail: 0.0, blend: 1.0, bandwidth: 1e18 };
const NO_DECODE: DecodeForm =
    DecodeForm { floor: 0.0, per_sequence: 0.0, bandwidth: 1e18, per_sqrt_context: 0.0 };

/// What is thought of a ragged kernel beforehand.
fn ragged_priors(
    nominal: RaggedForm,
    gpu: &Gpu,
    prior: impl Fn(&str, f64, f64) -> Parameter,
) -> Vec<Parameter> {
    let dram = gpu.memory.bandwidth.bytes_per_s();
    vec![
        prior("floor", nominal.floor, 4.0),
        at_most(prior("peak", nominal.peak, 2.0), gpu.peak.fp16.per_s()),
        prior("start-up", nominal.start_up, 4.0),
        at_most(prior("tail", nominal.tail, 3.0), 2.0),
        blend(nominal.blend),
        at_most(prior("bandwidth", nominal.bandwidth, 1.5), dram),
    ]
}

fn ragged(v: &[f64]) -> RaggedForm {
    RaggedForm { floor: v[0], peak: v[1], start_up: v[2], tail: v[3], blend: v[4], bandwidth: v[5] }
}

/// The errors of a form that was not fitted to these rows.
pub fn prefill_errors(rows: &Rows<'_>, form: RaggedForm) -> Vec<Fit> {
    let (samples, _) = prefill_samples(rows);
    let form = with(rows.gpu, form, NO_DECODE, NO_RAGGED);
    judge(PREFILL, &samples, |(shape, step)| form.with_prefill(shape, step))
}

fn prefill_samples(rows: &Rows<'_>) -> (Vec<Sample<Batch>>, Dropped) {
    let peak = rows.gpu.peak.fp16.per_s();
    let mut dropped = Dropped::default();
    let mut samples = Vec::new();
    for (timing, batch) in batches(rows, |b| b.chunks > 0 && b.sequences == 0) {
        if !is_plain(rows, batch) {
            dropped.count("prefill: another KV type, head size or a window");
            continue;
        }
        if batch.chunk_tokens == 1 {
            dropped.count("prefill: chunks of one token, which engines decode");
            continue;
        }
        let one = sample(timing, batch);
        let pairs = one.shape.1.prefill_pairs as f64 / 2.0;
        let flops = 4.0 * one.shape.0.heads * one.shape.0.head_dim * pairs;
        if flops / timing.seconds > 1.15 * peak {
            dropped.count("prefill: faster than the tensor cores");
        } else {
            samples.push(one);
        }
    }
    once(&mut samples, &mut dropped);
    (of_one_source(samples), dropped)
}

/// The form through batches of prompt chunks.
pub fn prefill(rows: &Rows<'_>) -> Option<Surface<RaggedForm>> {
    let gpu = rows.gpu;
    let (samples, dropped) = prefill_samples(rows);
    if !rows.suffice(samples.len(), 6) {
        return None;
    }
    let nominal = with(gpu, NO_RAGGED, NO_DECODE, NO_RAGGED);
    let guess = GpuProfile::from_datasheet(gpu).attention.prefill.form(gpu);
    let start = ragged_priors(guess, gpu, |name, guess, factor| rows.prior(name, guess, factor));
    let (values, fits) =
        fit((PREFILL, "held-out rows", rows.origin), &samples, &[start], |v, (shape, step)| {
            AttentionForm { prefill: ragged(v), ..nominal }.with_prefill(shape, step)
        });
    let source = sources(&samples);
    Some(Surface { form: ragged(&values), fits, dropped, rows: samples.len(), source })
}

/// The errors of D3 where it was not fitted to these rows.
pub fn decode_errors(rows: &Rows<'_>, form: DecodeForm) -> Vec<Fit> {
    let (samples, _) = decode_samples(rows);
    let form = with(rows.gpu, NO_RAGGED, form, NO_RAGGED);
    judge(DECODE, &samples, |(shape, step)| {
        form.decode_seconds(shape, step.decode_seqs, step.decode_context)
    })
}

fn decode_samples(rows: &Rows<'_>) -> (Vec<Sample<Batch>>, Dropped) {
    let dram = rows.gpu.memory.bandwidth.bytes_per_s();
    let l2 = rows.gpu.memory.l2.as_f64();
    let foreign = rows.origin == Origin::Tables;
    let kv = |batch: &AttentionBatch| {
        shape_of(batch).kv_bytes_per_token() * (batch.sequences * batch.context) as f64
    };
    let mut dropped = Dropped::default();
    let mut streaming: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (timing, batch) in batches(rows, |b| b.chunks == 0 && b.sequences > 0) {
        if is_plain(rows, batch) && kv(batch) > BEYOND_L2 * l2 {
            let (all, fast) = streaming.entry(source_of(timing)).or_default();
            *all += 1;
            *fast += usize::from(kv(batch) / timing.seconds > dram);
        }
    }
    let unbelievable: BTreeSet<&str> = streaming
        .iter()
        .filter(|(_, (all, fast))| *fast as f64 > UNPHYSICAL_SHARE * *all as f64)
        .map(|(source, _)| source.as_str())
        .collect();
    let mut samples = Vec::new();
    for (timing, batch) in batches(rows, |b| b.chunks == 0 && b.sequences > 0) {
        let bytes = kv(batch);
        let why = if !is_plain(rows, batch) {
            Some("decode: another KV type, head size or a window")
        } else if !foreign {
            None
        } else if unbelievable.contains(source_of(timing).as_str()) {
            Some("decode: a source that reads KV faster than DRAM")
        } else if bytes / timing.seconds > dram {
            Some("decode: faster than DRAM, the KV was in L2")
        } else if (LARGEST_SMALL_KV..BEYOND_L2 * l2).contains(&bytes) {
            Some("decode: KV of a size that L2 may hold")
        } else if batch.heads == batch.kv_heads {
            // `mha_varlen_fwd` splits along the context only where query heads share KV: without, a
            // block walks all of it, up to four times as long where there are few.
            Some("decode: a KV head for each query head, whose context is not split")
        } else if batch.sequences > 512 || batch.heads > 40 || batch.kv_heads < 4 {
            Some("decode: more than 512 sequences, over 40 heads or under 4 KV heads")
        } else if !(64..=32_768).contains(&batch.context) {
            Some("decode: contexts under 64 or over 32768")
        } else {
            None
        };
        match why {
            Some(why) => dropped.count(why),
            None => samples.push(sample(timing, batch)),
        }
    }
    once(&mut samples, &mut dropped);
    (of_one_source(samples), dropped)
}

/// D3 through batches in which every sequence decodes.
pub fn decode(rows: &Rows<'_>) -> Option<Surface<DecodeForm>> {
    let dram = rows.gpu.memory.bandwidth.bytes_per_s();
    let (samples, dropped) = decode_samples(rows);
    if !rows.suffice(samples.len(), 4) {
        return None;
    }
    let nominal = GpuProfile::from_datasheet(rows.gpu).attention.form(rows.gpu).decode;
    let start = vec![
        rows.prior("floor", nominal.floor, 4.0),
        rows.prior("per-sequence", nominal.per_sequence, 6.0),
        at_most(rows.prior("bandwidth", nominal.bandwidth, 1.5), dram),
        rows.prior("per-sqrt-context", nominal.per_sqrt_context, 6.0),
    ];
    let form = |v: &[f64]| DecodeForm {
        floor: v[0],
        per_sequence: v[1],
        bandwidth: v[2],
        per_sqrt_context: v[3],
    };
    let without = with(rows.gpu, NO_RAGGED, NO_DECODE, NO_RAGGED);
    let (values, fits) =
        fit((DECODE, "held-out rows", rows.origin), &samples, &[start], |v, (shape, step)| {
            let form = AttentionForm { decode: form(v), ..without };
            form.decode_seconds(shape, step.decode_seqs, step.decode_context)
        });
    let source = sources(&samples);
    Some(Surface { form: form(&values), fits, dropped, rows: samples.len(), source })
}

/// The errors of a form that was not fitted to these rows.
pub fn mixed_errors(rows: &Rows<'_>, form: &AttentionForm) -> Vec<Fit> {
    let (samples, _) = mixed_samples(rows);
    judge(MIXED, &samples, |(shape, step)| form.with_prefill(shape, step))
}

fn mixed_samples(rows: &Rows<'_>) -> (Vec<Sample<Batch>>, Dropped) {
    let mut dropped = Dropped::default();
    let mut samples = Vec::new();
    for (timing, batch) in batches(rows, |b| b.chunks > 0 && b.sequences > 0) {
        let serving = batch.chunk_past <= 4096
            && (128..=4096).contains(&batch.context)
            && batch.sequences * batch.context <= 400_000;
        if !is_plain(rows, batch) {
            dropped.count("mixed: another KV type, head size or a window");
        } else if rows.origin == Origin::Tables && !serving {
            dropped.count("mixed: outside past <= 4096, contexts 128-4096, 400 k tokens in all");
        } else {
            samples.push(sample(timing, batch));
        }
    }
    once(&mut samples, &mut dropped);
    (of_one_source(samples), dropped)
}

/// The form through batches that hold a chunk and decode sequences, given the pure surfaces. Fitted
/// where engines work: pasts up to 4,096, contexts from 128 to 4,096.
pub fn mixed(
    rows: &Rows<'_>,
    prefill: RaggedForm,
    decode: DecodeForm,
) -> Option<Surface<RaggedForm>> {
    let (samples, dropped) = mixed_samples(rows);
    if !rows.suffice(samples.len(), 6) {
        return None;
    }
    let pure = with(rows.gpu, prefill, decode, NO_RAGGED);
    // What the same GPU's pure batches say is known better than a datasheet's guess.
    let guess = RaggedForm { bandwidth: decode.bandwidth, ..prefill };
    let start = ragged_priors(guess, rows.gpu, prior);
    let (values, fits) =
        fit((MIXED, "held-out rows", rows.origin), &samples, &[start], |v, (shape, step)| {
            AttentionForm { mixed: ragged(v), ..pure }.with_prefill(shape, step)
        });
    let source = sources(&samples);
    Some(Surface { form: ragged(&values), fits, dropped, rows: samples.len(), source })
}
