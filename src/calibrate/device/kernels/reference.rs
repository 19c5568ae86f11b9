//! What the kernels should compute, written plainly in double precision.

use half::f16;

use super::attention::{Heads, Prefill};
use super::gemm::GROUP;
use super::small::EPSILON;

/// `a [m][k]` times the transpose of `w [n][k]`.
pub fn product(a: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    let rows = a.chunks_exact(k);
    rows.flat_map(|row| w.chunks_exact(k).map(|column| dot(row, column))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub fn widened(values: &[f16]) -> Vec<f64> {
    values.iter().map(|x| x.to_f64()).collect()
}

/// Weights `[n][k]` with one scale a row.
pub fn scaled_rows(weights: &[i8], scales: &[f16], k: usize) -> Vec<f64> {
    let rows = weights.chunks_exact(k).zip(scales);
    rows.flat_map(|(row, scale)| row.iter().map(|&w| f64::from(w) * scale.to_f64())).collect()
}

/// Weights `[n][k]` with scales `[k / 128][n]`; the kernel rounds a scaled weight to half precision.
pub fn scaled_groups(weights: &[i8], scales: &[f16], (n, k): (usize, usize)) -> Vec<f64> {
    let at = |i: usize| (i / k, i % k);
    let scaled = |(i, &weight): (usize, &i8)| {
        let (row, column) = at(i);
        let scale = scales[column / GROUP * n + row].to_f64();
        f16::from_f64(f64::from(weight) * scale).to_f64()
    };
    weights.iter().enumerate().map(scaled).collect()
}

/// The attention of one query over the first `context` keys of one head.
fn attend(
    q: &[f64],
    keys: impl Fn(usize) -> Vec<f64>,
    values: impl Fn(usize) -> Vec<f64>,
    context: usize,
) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scores: Vec<f64> = (0..context).map(|i| dot(q, &keys(i)) * scale).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; q.len()];
    for (i, weight) in weights.iter().enumerate() {
        for (sum, value) in out.iter_mut().zip(values(i)) {
            *sum += weight / total * value;
        }
    }
    out
}

/// Causal attention; shapes as in [`Prefill`].
pub fn prefill(shape: &Prefill, q: &[f64], keys: &[f64], values: &[f64]) -> Vec<f64> {
    let Prefill { heads: Heads { heads, kv_heads, dim }, batch, fresh, past } = *shape;
    let context = past + fresh;
    let mut out = Vec::with_capacity(q.len());
    for sequence in 0..batch {
        for query in 0..fresh {
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                let row = |all: &[f64], token: usize| {
                    let start = ((sequence * context + token) * kv_heads + kv_head) * dim;
                    all[start..start + dim].to_vec()
                };
                let start = ((sequence * fresh + query) * heads + head) * dim;
                out.extend(attend(
                    &q[start..start + dim],
                    |token| row(keys, token),
                    |token| row(values, token),
                    past + query + 1,
                ));
            }
        }
    }
    out
}

/// One query per sequence over a paged cache: `table [sequences][pages]`, pages of 16 tokens.
pub fn decode(
    Heads { heads, kv_heads, dim }: Heads,
    q: &[f64],
    (keys, values): (&[f64], &[f64]),
    table: &[i32],
    contexts: &[i32],
) -> Vec<f64> {
    let pages = table.len() / contexts.len();
    let mut out = Vec::with_capacity(q.len());
    for (i, query) in q.chunks_exact(dim).enumerate() {
        let (sequence, head) = (i / heads, i % heads);
        let kv_head = head / (heads / kv_heads);
        let row = |all: &[f64], token: usize| {
            let page = table[sequence * pages + token / 16] as usize;
            let start = ((page * 16 + token % 16) * kv_heads + kv_head) * dim;
            all[start..start + dim].to_vec()
        };
        let context = contexts[sequence] as usize;
        out.extend(attend(query, |t| row(keys, t), |t| row(values, t), context));
    }
    out
}

/// The new residual and its norm, `[tokens][hidden]` each.
pub fn add_rms_norm(x: &[f64], residual: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let hidden = weight.len();
    let sums: Vec<f64> = x.iter().zip(residual).map(|(a, b)| a + b).collect();
    let norm = |row: &[f64]| {
        let mean = dot(row, row) / hidden as f64;
        let scale = 1.0 / (mean + f64::from(EPSILON)).sqrt();
        row.iter().zip(weight).map(|(x, w)| x * scale * w).collect::<Vec<_>>()
    };
    let normed = sums.chunks_exact(hidden).flat_map(norm).collect();
    (sums, normed)
}

/// Rotates one head by angles whose cosines and sines are in `table` (each half as long).
pub fn rotary(head: &[f64], table: &[f64]) -> Vec<f64> {
    let half = head.len() / 2;
    let first = (0..half).map(|i| head[i] * table[i] - head[half + i] * table[half + i]);
    let second = (0..half).map(|i| head[half + i] * table[i] + head[i] * table[half + i]);
    first.chain(second).collect()
}

/// `silu(gate) * up` of rows `[gate, up]`.
pub fn silu_and_mul(gate_up: &[f64], ffn: usize) -> Vec<f64> {
    let row = |row: &[f64]| {
        let (gate, up) = row.split_at(ffn);
        gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect::<Vec<_>>()
    };
    gate_up.chunks_exact(2 * ffn).flat_map(row).collect()
}
