//! The host's kernels, in 32 bits.

use gemm_common::Parallelism;
use pulp::Arch;
use rayon::prelude::*;

use crate::calibrate::device::DeviceError;
use crate::calibrate::device::kernels::attention::{Heads, PAGE, Prefill};
use crate::calibrate::device::kernels::check::{Checked, compare};
use crate::calibrate::device::kernels::pack::noise;
use crate::calibrate::device::kernels::{reference, small};
use crate::calibrate::table::AttentionBatch;

/// Rows of numbers, one after the other.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f32>,
}

impl Matrix {
    pub fn noise(rows: usize, columns: usize, seed: u32) -> Self {
        Self { rows, columns, values: noise(rows * columns, seed).collect() }
    }
}

/// A matrix inside a larger one: where it begins, and how far apart rows and columns are.
#[derive(Clone, Copy)]
struct View<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

/// `c [m][n] = a [m][k] b [k][n]`; rows of `c` follow each other.
fn multiply(
    (m, n, k): (usize, usize, usize),
    a: View<'_>,
    b: View<'_>,
    c: &mut [f32],
    parallelism: Parallelism,
) {
    let reaches = |view: View<'_>, rows: usize, columns: usize| {
        rows == 0
            || columns == 0
            || (rows - 1) * view.row + (columns - 1) * view.column < view.values.len()
    };
    assert!(reaches(a, m, k) && reaches(b, k, n) && c.len() >= m * n, "operands hold the product");
    // SAFETY: the last element of each operand lies within its slice, as just asserted.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `output [m][n]` = `input [m][k]` times the transpose of `weights [n][k]`.
pub fn product(input: &Matrix, weights: &Matrix, output: &mut [f32], threads: usize) {
    let a = View { values: &input.values, row: input.columns, column: 1 };
    let b = View { values: &weights.values, row: 1, column: weights.columns };
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    multiply((input.rows, weights.rows, input.columns), a, b, output, parallelism);
}

pub fn sum_of_words(words: &[u64]) -> u64 {
    // Eight sums, so that loads do not wait for each other.
    let mut sums = [0u64; 8];
    let chunks = words.chunks_exact(8);
    let rest: u64 = chunks.remainder().iter().fold(0, |a, &b| a.wrapping_add(b));
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(rest, |a, &b| a.wrapping_add(b))
}

/// An attention batch of equal chunks and equal decode sequences.
pub struct Attention {
    heads: Heads,
    chunks: usize,
    fresh: usize,
    past: usize,
    sequences: usize,
    context: usize,
}

/// Queries and caches of a batch.
pub struct Caches {
    q: Vec<f32>,
    /// Of the chunks: `[chunks][past + fresh][kv_heads][dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    decode_q: Vec<f32>,
    /// Of the sequences: `[pages][16][kv_heads][dim]`.
    paged_keys: Vec<f32>,
    paged_values: Vec<f32>,
    /// `[sequences][pages of each]`.
    table: Vec<usize>,
}

pub struct Output {
    /// `[chunks][heads][fresh][dim]`: each head's rows together, since heads are worked on apart.
    chunks: Vec<f32>,
    /// `[sequences][heads][dim]`.
    sequences: Vec<f32>,
}

/// Queries of a chunk that are taken together.
const QUERIES: usize = 64;

impl Attention {
    pub fn new(batch: &AttentionBatch) -> Result<Self, DeviceError> {
        let size = |x: u64| usize::try_from(x).unwrap_or(usize::MAX);
        let [heads, kv_heads, dim] = [batch.heads, batch.kv_heads, batch.head_dim].map(size);
        let heads = Heads { heads, kv_heads, dim };
        heads.check().map_err(|error| {
            DeviceError::new(error.0, "report this, since the plan should not hold it")
        })?;
        Ok(Self {
            heads,
            chunks: size(batch.chunks),
            fresh: size(batch.chunk_tokens),
            past: size(batch.chunk_past),
            sequences: size(batch.sequences),
            context: size(batch.context),
        })
    }

    fn token_len(&self) -> usize {
        self.heads.kv_heads * self.heads.dim
    }

    fn pages(&self) -> usize {
        self.context.div_ceil(PAGE)
    }

    pub fn cache_bytes(&self) -> u64 {
        let tokens = self.chunks * (self.past + self.fresh) + self.sequences * self.pages() * PAGE;
        (tokens * self.token_len() * 2 * 4) as u64
    }

    pub fn caches(&self, seed: u32) -> Caches {
        let numbers = |count: usize, salt: u32| noise(count, seed * 8 + salt).collect();
        let query_len = self.heads.heads * self.heads.dim;
        let chunked = self.chunks * (self.past + self.fresh) * self.token_len();
        let pages = self.sequences * self.pages();
        Caches {
            q: numbers(self.chunks * self.fresh * query_len, 0),
            keys: numbers(chunked, 1),
            values: numbers(chunked, 2),
            decode_q: numbers(self.sequences * query_len, 3),
            paged_keys: numbers(pages * PAGE * self.token_len(), 4),
            paged_values: numbers(pages * PAGE * self.token_len(), 5),
            // Pages of one sequence lie apart, as after some time of service.
            table: (0..pages)
                .map(|i| i % self.pages().max(1) * self.sequences + i / self.pages().max(1))
                .collect(),
        }
    }

    pub fn output(&self) -> Output {
        let query_len = self.heads.heads * self.heads.dim;
        Output {
            chunks: vec![0.0; self.chunks * self.fresh * query_len],
            sequences: vec![0.0; self.sequences * query_len],
        }
    }

    /// The chunks, then the sequences.
    pub fn run(&self, caches: &Caches, output: &mut Output) {
        let Heads { heads, dim, .. } = self.heads;
        if self.chunks > 0 {
            let of_head = output.chunks.par_chunks_mut(self.fresh * dim).enumerate();
            of_head.for_each(|(i, out)| {
                let tiles = out.par_chunks_mut(QUERIES * dim).enumerate();
                tiles.for_each(|(tile, out)| {
                    self.chunk_tile(caches, (i / heads, i % heads), tile * QUERIES, out);
                });
            });
        }
        if self.sequences > 0 {
            let group = heads / self.heads.kv_heads;
            let tasks = output.sequences.par_chunks_mut(group * dim).enumerate();
            tasks.for_each(|(task, out)| {
                Arch::new().dispatch(
                    #[inline(always)]
                    || self.decode_task(caches, task, out),
                );
            });
        }
    }

    /// Up to 64 queries of one head of a chunk, from `query0` on: `out [queries][dim]`.
    fn chunk_tile(
        &self,
        caches: &Caches,
        (chunk, head): (usize, usize),
        query0: usize,
        out: &mut [f32],
    ) {
        let Heads { heads, kv_heads, dim } = self.heads;
        let queries = out.len() / dim;
        let seen = self.past + query0 + queries;
        let all = self.past + self.fresh;
        let mut scores = vec![0.0; queries * seen];
        let kv_head = head / (heads / kv_heads);
        let q = &caches.q[((chunk * self.fresh + query0) * heads + head) * dim..];
        let from = (chunk * all * kv_heads + kv_head) * dim;
        let (keys, values) = (&caches.keys[from..], &caches.values[from..]);
        let token = self.token_len();
        let q = View { values: q, row: heads * dim, column: 1 };
        let keys = View { values: keys, row: 1, column: token };
        let values = View { values, row: token, column: 1 };
        multiply((queries, seen, dim), q, keys, &mut scores, Parallelism::None);
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                    soften(row, self.past + query0 + i + 1, dim);
                }
            },
        );
        let weights = View { values: &scores, row: seen, column: 1 };
        multiply((queries, dim, seen), weights, values, out, Parallelism::None);
    }

    /// One key-value head of one sequence: `out [group][dim]`.
    #[inline(always)]
    fn decode_task(&self, caches: &Caches, task: usize, out: &mut [f32]) {
        let Heads { kv_heads, dim, .. } = self.heads;
        let (sequence, kv_head) = (task / kv_heads, task % kv_heads);
        let q = &caches.decode_q[task * out.len()..][..out.len()];
        let token = self.token_len();
        let row = |token_index: usize| {
            let page = caches.table[sequence * self.pages() + token_index / PAGE];
            (page * PAGE + token_index % PAGE) * token + kv_head * dim
        };
        let group = out.len() / dim;
        let mut scores = vec![0.0; group * self.context];
        for index in 0..self.context {
            let key = &caches.paged_keys[row(index)..][..dim];
            for (head, query) in q.chunks_exact(dim).enumerate() {
                scores[head * self.context + index] = dot(query, key);
            }
        }
        scores.chunks_exact_mut(self.context).for_each(|row| soften(row, self.context, dim));
        out.fill(0.0);
        for index in 0..self.context {
            let value = &caches.paged_values[row(index)..][..dim];
            for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                let weight = scores[head * self.context + index];
                out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
            }
        }
    }
}

/// Scores to weights: those of the first `seen`, zero for the rest.
#[inline(always)]
fn soften(row: &mut [f32], seen: usize, dim: usize) {
    let scale = 1.0 / (dim as f32).sqrt();
    let (row, hidden) = row.split_at_mut(seen);
    hidden.fill(0.0);
    let top = largest(row);
    row.iter_mut().for_each(|score| *score = exp((*score - top) * scale));
    let total = in_lanes(row, 0.0, |a, b| a + b);
    row.iter_mut().for_each(|weight| *weight /= total);
}

/// Numbers that are joined at once: sums and comparisons of floating-point numbers are not
/// reordered by themselves.
const LANES: usize = 16;

/// All `values` joined, in any order; `start` changes nothing.
#[inline(always)]
fn in_lanes(values: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(start, |a, &b| join(a, b));
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = join(*lane, *value);
        }
    }
    join(joined(lanes, &join), rest)
}

#[inline(always)]
fn joined(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    in_lanes(row, f32::NEG_INFINITY, |top, x| if x > top { x } else { top })
}

/// `e^x` for x <= 0 within 3e-7, in steps that vectorise: 2^n of the whole part, and a Taylor
/// polynomial of the rest, which is at most ln(2) / 2 in size.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.max(-87.0);
    let n = (x * std::f32::consts::LOG2_E + 0.5).floor();
    let rest = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0 / 5040.0;
    let p = p * rest + 1.0 / 720.0;
    let p = p * rest + 1.0 / 120.0;
    let p = p * rest + 1.0 / 24.0;
    let p = p * rest + 1.0 / 6.0;
    let p = p * rest + 0.5;
    let p = (p * rest + 1.0) * rest + 1.0;
    p * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, others) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = chunks.remainder().iter().zip(others.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in chunks.zip(others) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    joined(sums, |a, b| a + b) + rest
}

/// `residual += x`, and `x` its norm.
pub fn add_rms_norm(x: &mut [f32], residual: &mut [f32], weight: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            residual.iter_mut().zip(&*x).for_each(|(sum, x)| *sum += x);
            let mean = dot(residual, residual) / residual.len() as f32;
            let scale = 1.0 / (mean + small::EPSILON).sqrt();
            for ((x, sum), weight) in x.iter_mut().zip(&*residual).zip(weight) {
                *x = sum * scale * weight;
            }
        },
    );
}

/// Cosines, then sines, of one position.
pub fn angles(dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let angle = |i: usize| 17.0 * 10_000f32.powf(-(i as f32) / half as f32);
    (0..dim).map(|i| if i < half { angle(i).cos() } else { angle(i - half).sin() }).collect()
}

pub fn rotate(head: &mut [f32], angles: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let half = head.len() / 2;
            let (first, second) = head.split_at_mut(half);
            let (cosines, sines) = angles.split_at(half);
            for i in 0..half {
                let (a, b) = (first[i], second[i]);
                first[i] = a * cosines[i] - b * sines[i];
                second[i] = b * cosines[i] + a * sines[i];
            }
        },
    );
}

/// `out = silu(gate) * up` of a row `[gate, up]`.
pub fn silu_and_mul(out: &mut [f32], gate_up: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let (gate, up) = gate_up.split_at(out.len());
            for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
                // The exponential of what is not above zero serves both signs.
                let small = exp(-gate.abs());
                let sigmoid = if gate >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) };
                *out = gate * sigmoid * up;
            }
        },
    );
}

/// The first of the largest.
pub fn argmax(row: &[f32]) -> usize {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let top = largest(row);
            row.iter().position(|&x| x == top).expect("a row holds numbers")
        },
    )
}

/// Single precision, with sums of a few hundred.
const TOLERANCE: f64 = 1e-4;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Every kernel against plain double precision.
pub fn check(threads: usize) -> Result<Vec<Checked>, DeviceError> {
    let mut checked = Vec::new();
    let mut add = |kernel, problem: &str, got: &[f32], want: &[f64]| {
        checked.push(compare(kernel, problem.to_owned(), (&wide(got), want), TOLERANCE));
    };
    for (m, n, k) in [(1, 70, 130), (37, 65, 200)] {
        let (a, w) = (Matrix::noise(m, k, 1), Matrix::noise(n, k, 2));
        let mut c = vec![f32::NAN; m * n];
        product(&a, &w, &mut c, threads);
        let want = reference::product(&wide(&a.values), &wide(&w.values), k);
        add("gemm", &format!("{m} x {n} x {k}"), &c, &want);
    }

    let batch = AttentionBatch {
        chunks: 2,
        chunk_tokens: 70,
        chunk_past: 30,
        sequences: 3,
        context: 50,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        kv_dtype: "fp32".into(),
        window: 0,
    };
    let attention = Attention::new(&batch)?;
    let caches = attention.caches(3);
    let mut out = attention.output();
    attention.run(&caches, &mut out);
    let heads = attention.heads;
    let shape = Prefill { heads, batch: 2, fresh: 70, past: 30 };
    let want =
        reference::prefill(&shape, &wide(&caches.q), &wide(&caches.keys), &wide(&caches.values));
    // As the reference has it: `[chunks][fresh][heads][dim]`.
    let row = |i: usize| {
        let (chunk, token, head) = (i / (70 * 4), i / 4 % 70, i % 4);
        &out.chunks[((chunk * 4 + head) * 70 + token) * 64..][..64]
    };
    let chunks: Vec<f32> = (0..2 * 70 * 4).flat_map(row).copied().collect();
    add("prefill", "2 x 70 tokens behind 30", &chunks, &want);
    let table: Vec<i32> = caches.table.iter().map(|&page| page as i32).collect();
    let paged = (wide(&caches.paged_keys), wide(&caches.paged_values));
    let want =
        reference::decode(heads, &wide(&caches.decode_q), (&paged.0, &paged.1), &table, &[50; 3]);
    add("decode", "3 contexts of 50", &out.sequences, &want);

    let [mut x, mut residual, weight] = [4, 5, 6].map(|seed| Matrix::noise(1, 200, seed).values);
    let (sums, normed) = reference::add_rms_norm(&wide(&x), &wide(&residual), &wide(&weight));
    add_rms_norm(&mut x, &mut residual, &weight);
    add("add_rms_norm", "200", &x, &normed);
    add("add_rms_norm", "200", &residual, &sums);
    let angles = angles(64);
    let mut head = Matrix::noise(1, 64, 7).values;
    let want = reference::rotary(&wide(&head), &wide(&angles));
    rotate(&mut head, &angles);
    add("rotary", "64", &head, &want);
    let gate_up: Vec<f32> = noise(300, 8).map(|x| 20.0 * x).collect();
    let mut out = vec![f32::NAN; 150];
    silu_and_mul(&mut out, &gate_up);
    add("silu_and_mul", "150", &out, &reference::silu_and_mul(&wide(&gate_up), 150));
    let row = [0.5, -1.0, 2.0, 2.0, 1.0];
    add("argmax", "5 with a tie", &[argmax(&row) as f32], &[2.0]);
    Ok(checked)
}
