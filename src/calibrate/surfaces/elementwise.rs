//! The small kernels of a layer, added up.

use std::collections::BTreeMap;

use crate::cost::elementwise::{ElementwiseForm, layer_bytes_per_token};
use crate::hardware::Gpu;

use super::super::table::{Operator, Timing};
use super::{Dropped, FEWEST_ROWS, Sample, Surface, fit, free, hash, judge, short_source, sources};
use crate::cost::profile::Fit;

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
}

/// Models are told by their sizes: the tables have Llama-2-7B (32 KV heads) and Llama-3.1-8B (8).
fn heads(hidden: u64, ffn: u64) -> (f64, f64) {
    let heads = hidden as f64 / 128.0;
    (heads, if ffn as f64 > 3.0 * hidden as f64 { heads / 4.0 } else { heads })
}

/// The errors of a surface that was not fitted to these rows.
pub fn elementwise_errors(rows: &[&Timing], form: &ElementwiseForm) -> Vec<Fit> {
    let (samples, _) = samples(rows);
    judge("elementwise", &samples, |bytes| form.seconds(*bytes))
}

/// Sums over a layer, by the bytes that it moves.
fn samples(rows: &[&Timing]) -> (Vec<Sample<f64>>, Dropped) {
    let mut dropped = Dropped::default();
    let mut layers: BTreeMap<(u64, u64, u32, u64), Layer> = BTreeMap::new();
    for timing in rows {
        let Operator::Elementwise { op, tokens, hidden, ffn, tp } = &timing.operator else {
            continue;
        };
        if per_layer(op).is_none() {
            dropped.count("small kernels: not of a layer (embedding, final norm)");
            continue;
        }
        let layer = layers.entry((*hidden, *ffn, *tp, *tokens)).or_default();
        layer.source = short_source(timing);
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
        let (ranks, (heads, kv_heads)) = (f64::from(tp), heads(hidden, ffn));
        let bytes = tokens as f64
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
            region: if tokens <= 256 { "tokens<=256" } else { "tokens>256" },
        });
    }
    (samples, dropped)
}

/// `f + bytes / B` through the sums over a layer.
pub fn elementwise(rows: &[&Timing], gpu: &Gpu) -> Option<Surface<ElementwiseForm>> {
    let dram = gpu.memory.bandwidth.bytes_per_s();
    let (samples, dropped) = samples(rows);
    if samples.len() < FEWEST_ROWS {
        return None;
    }
    let l2 = gpu.memory.l2.as_f64();
    let start = vec![
        free("floor", 10e-6, 1e-6, 60e-6),
        free("cache-bandwidth", 2.0 * dram, 0.5 * dram, 8.0 * dram),
        free("dram-bandwidth", 0.75 * dram, 0.2 * dram, 1.5 * dram),
        free("cache", 1.5 * l2, 0.2 * l2, 6.0 * l2),
    ];
    let form = |v: &[f64]| ElementwiseForm {
        floor: v[0],
        cache_bandwidth: v[1].max(v[2]),
        dram_bandwidth: v[2],
        cache: v[3],
    };
    let (values, fits) =
        fit("elementwise", "held-out sums", &samples, &[start], |v, bytes| form(v).seconds(*bytes));
    let source = sources(&samples);
    Some(Surface { form: form(&values), fits, dropped, rows: samples.len(), source })
}
