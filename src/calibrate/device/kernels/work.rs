//! A probe on a device: memory filled, launches ready to be timed.

use super::attention::{Decode, DecodeOperands, Heads, Prefill};
use super::gemm::{Operands, Problem, Weights};
use super::{Buffer, Launch, Runner, RunnerError, small, uploaded};
use crate::calibrate::device::probe::StreamKind;
use crate::calibrate::table::{AttentionBatch, Operator};

/// What the launches depend on besides the problem.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub multiprocessors: usize,
    /// Weights and KV caches are laid out often enough to fill this: in service each is read once
    /// and then others are, so nothing of it is in the cache when its turn comes again.
    pub rotation_bytes: u64,
}

impl Setup {
    fn copies(&self, bytes: u64) -> usize {
        usize::try_from(self.rotation_bytes.div_ceil(bytes.max(1))).unwrap_or(1).clamp(1, 64)
    }
}

/// Launches of one call, on each copy of what is rotated.
pub type Calls = Vec<Vec<Launch>>;

/// A probe made ready.
#[derive(Clone, Debug)]
pub struct Work {
    /// Ways to do it, of which the fastest counts.
    pub variants: Vec<Calls>,
    /// The product, for libraries that have kernels of their own.
    pub product: Option<(Problem, Vec<Operands>)>,
}

impl Work {
    fn one_way(calls: Calls) -> Self {
        Self { variants: vec![calls], product: None }
    }
}

/// Dtypes whose products there are kernels for, as operator tables write them.
pub fn weights_of(dtype: &str) -> Option<Weights> {
    match dtype {
        "fp16" => Some(Weights::Half),
        "w8a16" => Some(Weights::Int8),
        "w4a16" => Some(Weights::Int4),
        _ => None,
    }
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn noise(runner: &dyn Runner, count: usize, seed: u32) -> Result<Buffer, RunnerError> {
    let buffer = runner.allocate(count as u64 * 2)?;
    runner.launch(&small::fill_halves(buffer, seed, 1.0))?;
    Ok(buffer)
}

pub fn stream(
    runner: &dyn Runner,
    kind: StreamKind,
    bytes: u64,
    setup: Setup,
) -> Result<Work, RunnerError> {
    let blocks = small::stream_blocks(setup.multiprocessors);
    let buffer = runner.allocate(bytes)?;
    runner.launch(&small::fill_words(buffer, 1))?;
    let call = match kind {
        StreamKind::Read => {
            let sink = runner.allocate(blocks as u64 * 256 * 4)?;
            small::stream_read(buffer, sink, blocks)
        }
        StreamKind::Write => small::stream_write(buffer, 0x5bd1_e995, blocks),
        StreamKind::Copy => small::stream_copy(runner.allocate(bytes)?, buffer, blocks),
    };
    Ok(Work::one_way(vec![vec![call]]))
}

/// A row of an operator table; all-reduces take several devices and are not among them.
pub fn operator(
    runner: &dyn Runner,
    dtype: &str,
    operator: &Operator,
    setup: Setup,
) -> Result<Work, RunnerError> {
    match operator {
        Operator::Gemm { m, n, k } => {
            let weights = weights_of(dtype)
                .ok_or_else(|| RunnerError(format!("no product of {dtype} among the kernels")))?;
            product(runner, Problem { m: size(*m), n: size(*n), k: size(*k), weights }, setup)
        }
        Operator::Attention(batch) if batch.chunks > 0 && batch.sequences > 0 => {
            Err(RunnerError("no kernel for chunks and decode sequences together".into()))
        }
        Operator::Attention(batch) if batch.chunks > 0 => prefill(runner, batch, setup),
        Operator::Attention(batch) => decode(runner, batch, setup),
        Operator::Elementwise { op, tokens, hidden, ffn, .. } => {
            elementwise(runner, op, (size(*tokens), size(*hidden), size(*ffn)))
        }
        Operator::AllReduce { .. } => Err(RunnerError("an all-reduce takes several GPUs".into())),
    }
}

fn product(runner: &dyn Runner, problem: Problem, setup: Setup) -> Result<Work, RunnerError> {
    problem.check()?;
    let Problem { m, n, k, weights } = problem;
    let bytes = weights.bytes(n, k) as u64;
    let choices = problem.choices(setup.multiprocessors);
    let partial_bytes = choices.iter().map(|choice| problem.partial_bytes(choice.splits)).max();
    let partial = match partial_bytes.unwrap_or(0) {
        0 => None,
        bytes => Some(runner.allocate(bytes)?),
    };
    let (a, c) = (noise(runner, m * k, 1)?, runner.allocate((m * n * 2) as u64)?);
    let mut operands = Vec::new();
    for copy in 0..setup.copies(bytes) {
        let seed = copy as u32 + 2;
        let w = runner.allocate(bytes)?;
        runner.launch(&match weights {
            Weights::Half => small::fill_halves(w, seed, 1.0),
            Weights::Int8 | Weights::Int4 => small::fill_words(w, seed),
        })?;
        let scales = match weights.scales(n, k) {
            0 => None,
            count => {
                let scales = runner.allocate(count as u64 * 2)?;
                runner.launch(&small::fill_halves(scales, seed, 0.01))?;
                Some(scales)
            }
        };
        operands.push(Operands { a, w, scales, c, partial });
    }
    let calls = |choice| operands.iter().map(|one| problem.launches(one, choice)).collect();
    Ok(Work {
        variants: choices.into_iter().map(calls).collect(),
        product: Some((problem, operands)),
    })
}

fn heads(batch: &AttentionBatch) -> Result<Heads, RunnerError> {
    let [heads, kv_heads, dim] = [batch.heads, batch.kv_heads, batch.head_dim].map(size);
    let heads = Heads { heads, kv_heads, dim };
    heads.check()?;
    Ok(heads)
}

fn prefill(runner: &dyn Runner, batch: &AttentionBatch, setup: Setup) -> Result<Work, RunnerError> {
    let shape = Prefill {
        heads: heads(batch)?,
        batch: size(batch.chunks),
        fresh: size(batch.chunk_tokens),
        past: size(batch.chunk_past),
    };
    let q = noise(runner, shape.query_len(), 1)?;
    let out = runner.allocate(shape.query_len() as u64 * 2)?;
    let copies = setup.copies(shape.key_len() as u64 * 4);
    let mut calls = Vec::new();
    for copy in 0..copies {
        let seed = 2 * copy as u32 + 2;
        let keys = noise(runner, shape.key_len(), seed)?;
        let values = noise(runner, shape.key_len(), seed + 1)?;
        calls.push(vec![shape.launch(q, keys, values, out)]);
    }
    Ok(Work::one_way(calls))
}

fn decode(runner: &dyn Runner, batch: &AttentionBatch, setup: Setup) -> Result<Work, RunnerError> {
    let sequences = size(batch.sequences);
    let shape = Decode { heads: heads(batch)?, sequences, context: size(batch.context) };
    let pages = shape.pages();
    // Pages of one sequence lie apart, as after some time of service.
    let table: Vec<i32> = (0..sequences * pages)
        .map(|i| i32::try_from(i % pages * sequences + i / pages).unwrap_or(i32::MAX))
        .collect();
    let contexts = vec![i32::try_from(batch.context).unwrap_or(i32::MAX); sequences];
    let (table, contexts) = (uploaded(runner, &table)?, uploaded(runner, &contexts)?);
    let q = noise(runner, shape.query_len(), 1)?;
    let out = runner.allocate(shape.query_len() as u64 * 2)?;
    let splits = shape.splits(setup.multiprocessors);
    let partial = match shape.partial_bytes(splits) {
        0 => None,
        bytes => Some(runner.allocate(bytes)?),
    };
    let cache = shape.page_len() * pages * sequences;
    let mut calls = Vec::new();
    for copy in 0..setup.copies(cache as u64 * 4) {
        let seed = 2 * copy as u32 + 2;
        let keys = noise(runner, cache, seed)?;
        let values = noise(runner, cache, seed + 1)?;
        let operands = DecodeOperands { q, keys, values, table, contexts, out, partial };
        calls.push(shape.launches(&operands, splits));
    }
    Ok(Work::one_way(calls))
}

/// On one copy: what these kernels read was written just before, and lies in the cache if it fits.
fn elementwise(
    runner: &dyn Runner,
    op: &str,
    (tokens, hidden, ffn): (usize, usize, usize),
) -> Result<Work, RunnerError> {
    /// Numbers of one head.
    const DIM: usize = 128;
    let rows = |width: usize, seed| noise(runner, tokens * width, seed);
    let call = match op {
        "layernorm" => {
            let (x, residual, weight) =
                (rows(hidden, 1)?, rows(hidden, 2)?, noise(runner, hidden, 3)?);
            small::add_rms_norm(x, residual, weight, tokens, hidden)
        }
        "rotary_emb" => {
            let positions: Vec<i32> = (0..tokens).map(|i| i32::try_from(i).unwrap_or(0)).collect();
            let angles: Vec<f32> = (0..tokens * DIM)
                .map(|i| {
                    let (position, column) = ((i / DIM) as f32, i % DIM);
                    let angle = position
                        * 10_000f32.powf(-((column % (DIM / 2)) as f32) / (DIM / 2) as f32);
                    if column < DIM / 2 { angle.cos() } else { angle.sin() }
                })
                .collect();
            let (x, table) = (rows(hidden, 1)?, uploaded(runner, &angles)?);
            let positions = uploaded(runner, &positions)?;
            small::rotary(x, table, positions, (tokens, hidden / DIM, DIM, hidden))
        }
        "act_fn" => {
            let out = runner.allocate((tokens * ffn * 2) as u64)?;
            small::silu_and_mul(out, rows(2 * ffn, 1)?, tokens, ffn)
        }
        "sampler" => {
            small::argmax(runner.allocate(tokens as u64 * 4)?, rows(hidden, 1)?, tokens, hidden)
        }
        other => return Err(RunnerError(format!("no kernel for {other}"))),
    };
    Ok(Work::one_way(vec![vec![call]]))
}
