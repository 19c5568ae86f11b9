//! The small kernels of a layer, added up.

use std::collections::BTreeMap;

use crate::cost::elementwise::{ElementwiseForm, SamplerForm, layer_bytes_per_token};
use crate::cost::profile::{Fit, GpuProfile};

use super::super::table::{Operator, Timing};
use super::{
    Dropped, Origin, Precision, Rows, Sample, Surface, fit, hash, judge, source_of, sources,
};

/// How often a layer runs a kernel, by the names of the tables (vidur, LLMServingSim).
fn per_layer(op: &str) -> Option<f64> {
    match op {
        "layernorm" => Some(2.0),
        "input_layernorm"
        | "post_attention_layernorm"
        | "rotary_emb"
        | "attn_rope"
        | "act_fn"
        | "mlp_act"
        | "add" => Some(1.0),
        _ => None,
    }
}

/// Kernels of one layer at one number of tokens.
#[derive(Default)]
struct Layer {
    /// Seconds of each kernel, all repeats.
    times: BTreeMap<String, Vec<f64>>,
    source: String,
    /// Bytes of one number.
    element: f64,
}

/// The op of a sampler's rows: tokens are sequences, and `hidden` is the vocabulary.
const SAMPLER: &str = "sampler";

/// Models are told by their sizes: the tables have Llama-2-7B (32 KV heads) and Llama-3.1-8B (8).
fn heads(hidden: u64, ffn: u64) -> (f64, f64) {
    let heads = hidden as f64 / 128.0;
    (heads, if ffn as f64 > 3.0 * hidden as f64 { heads / 4.0 } else { heads })
}

/// The errors of a surface that was not fitted to these rows.
pub fn elementwise_errors(rows: &Rows<'_>, form: &ElementwiseForm) -> Vec<Fit> {
    let (samples, _) = samples(rows);
    judge("elementwise", &samples, |bytes| form.seconds(*bytes))
}

/// Sums over a layer, by the bytes that it moves.
fn samples(rows: &Rows<'_>) -> (Vec<Sample<f64>>, Dropped) {
    let mut dropped = Dropped::default();
    let mut layers: BTreeMap<(u64, u64, u32, u64), Layer> = BTreeMap::new();
    for timing in rows.timings {
        let Operator::Elementwise { op, tokens, hidden, ffn, tp } = &timing.operator else {
            continue;
        };
        let Some(precision) = Precision::of(&timing.dtype).filter(|_| op != SAMPLER) else {
            continue;
        };
        if per_layer(op).is_none() {
            dropped.count("small kernels: not of a layer (embedding, final norm)");
            continue;
        }
        let layer = layers.entry((*hidden, *ffn, *tp, *tokens)).or_default();
        layer.source = source_of(timing);
        layer.element = precision.element;
        layer.times.entry(op.clone()).or_default().push(timing.seconds);
    }
    let most = layers.values().map(|layer| layer.times.len()).max().unwrap_or(0);
    let mut samples = Vec::new();
    for ((hidden, ffn, tp, tokens), layer) in layers {
        if layer.times.len() < most {
            dropped.count("small kernels: a layer of which some are missing");
            continue;
        }
        let seconds = layer.times.iter().map(|(op, times)| {
            let mut sorted = times.clone();
            sorted.sort_by(f64::total_cmp);
            per_layer(op).unwrap_or(0.0) * sorted[sorted.len() / 2]
        });
        let ranks = f64::from(tp);
        let (heads, kv_heads) = match rows.origin {
            Origin::Tables => heads(hidden, ffn),
            // Queries and keys are `hidden` wide together.
            Origin::Probes => (hidden as f64 / 128.0, 0.0),
        };
        let bytes = tokens as f64
            * (layer.element / 2.0)
            * layer_bytes_per_token(
                (heads / ranks, kv_heads / ranks, 128.0),
                ffn as f64 / ranks,
                hidden as f64,
                2,
            );
        samples.push(Sample {
            shape: bytes,
            seconds: seconds.sum(),
            source: layer.source,
            key: hash(&[tokens, u64::from(tp)]),
            row: hash(&[tokens, u64::from(tp), hidden, ffn]),
            region: if tokens <= 256 { "tokens<=256" } else { "tokens>256" },
        });
    }
    (samples, dropped)
}

/// `f + bytes / B` through the sums over a layer.
pub fn elementwise(rows: &Rows<'_>) -> Option<Surface<ElementwiseForm>> {
    let (samples, dropped) = samples(rows);
    if !rows.suffice(samples.len(), 4) {
        return None;
    }
    let nominal = GpuProfile::from_datasheet(rows.gpu).elementwise.form();
    let start = vec![
        rows.prior("floor", nominal.floor, 4.0),
        rows.prior("cache-bandwidth", nominal.cache_bandwidth, 3.0),
        rows.prior("dram-bandwidth", nominal.dram_bandwidth, 2.0),
        rows.prior("cache", nominal.cache, 3.0),
    ];
    let form = |v: &[f64]| ElementwiseForm {
        floor: v[0],
        cache_bandwidth: v[1].max(v[2]),
        dram_bandwidth: v[2],
        cache: v[3],
    };
    let (values, fits) =
        fit(("elementwise", "held-out sums", rows.origin), &samples, &[start], |v, bytes| {
            form(v).seconds(*bytes)
        });
    let source = sources(&samples);
    Some(Surface { form: form(&values), fits, dropped, rows: samples.len(), source })
}

/// A floor and a time for each sequence and entry of the vocabulary.
pub fn sampler(rows: &Rows<'_>) -> Option<Surface<SamplerForm>> {
    let sample = |timing: &&Timing| match &timing.operator {
        Operator::Elementwise { op, tokens, hidden, .. } if op == SAMPLER => Some(Sample {
            shape: (*tokens as f64, *hidden as f64),
            seconds: timing.seconds,
            source: source_of(timing),
            key: hash(&[*tokens, *hidden]),
            row: hash(&[*tokens, *hidden]),
            region: "all",
        }),
        _ => None,
    };
    let samples: Vec<_> = rows.timings.iter().filter_map(sample).collect();
    if !rows.suffice(samples.len(), 2) {
        return None;
    }
    let nominal = GpuProfile::from_datasheet(rows.gpu).sampler.form();
    let start = vec![
        rows.prior("floor", nominal.floor, 6.0),
        rows.prior("per-sequence", nominal.per_sequence, 6.0),
    ];
    let form = |v: &[f64]| SamplerForm { floor: v[0], per_sequence: v[1] };
    let (values, fits) = fit(
        ("sampler", "held-out batches", rows.origin),
        &samples,
        &[start],
        |v, (sequences, vocabulary)| form(v).seconds(*sequences, *vocabulary),
    );
    let source = sources(&samples);
    Some(Surface {
        form: form(&values),
        fits,
        dropped: Dropped::default(),
        rows: samples.len(),
        source,
    })
}
