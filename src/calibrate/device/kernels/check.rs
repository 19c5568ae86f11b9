//! Each kernel on a small problem with ragged edges, against [`reference`].
//!
//! A kernel that fails must not be timed: a product that is wrong is often fast.

use half::f16;

use super::attention::{Decode, DecodeOperands, Heads, Prefill};
use super::gemm::{Choice, Operands, Problem, TILES, Weights};
use super::pack::{half_noise, noise, pack_int4, pack_int8};
use super::{Buffer, Launch, Runner, RunnerError, downloaded, reference, small, uploaded};

/// How a kernel did.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    pub kernel: &'static str,
    /// What was computed.
    pub problem: String,
    /// The largest difference, relative to the number and to the root mean square of all, whichever
    /// is larger.
    pub error: f64,
    pub tolerance: f64,
}

impl Checked {
    /// False also where the result is no number.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// One rounding to half precision is 4.9e-4 of a number.
const PRODUCT: f64 = 1e-3;
/// Weights of the softmax are rounded too, and sums of many are small.
const ATTENTION: f64 = 5e-3;
/// Rounded once or twice, with fast exponentials between.
const SMALL: f64 = 2e-3;

/// Checks every kernel.
pub fn all(runner: &dyn Runner) -> Result<Vec<Checked>, RunnerError> {
    let mut checked = Vec::new();
    streams(runner, &mut checked)?;
    products(runner, &mut checked)?;
    prefills(runner, &mut checked)?;
    decodes(runner, &mut checked)?;
    elementwise(runner, &mut checked)?;
    Ok(checked)
}

pub(in crate::calibrate::device) fn compare(
    kernel: &'static str,
    problem: String,
    (got, want): (&[f64], &[f64]),
    tolerance: f64,
) -> Checked {
    let squares: f64 = want.iter().map(|x| x * x).sum();
    let typical = (squares / want.len().max(1) as f64).sqrt();
    let mut error = if got.len() == want.len() { 0.0 } else { f64::INFINITY };
    for (got, want) in got.iter().zip(want) {
        let off = (got - want).abs() / want.abs().max(typical).max(f64::MIN_POSITIVE);
        // `max` would pass over what is no number.
        error = if off.is_nan() { f64::INFINITY } else { error.max(off) };
    }
    Checked { kernel, problem, error, tolerance }
}

fn halves(runner: &dyn Runner, count: usize) -> Result<Buffer, RunnerError> {
    uploaded(runner, &vec![f16::NAN; count])
}

fn read(runner: &dyn Runner, buffer: Buffer) -> Result<Vec<f64>, RunnerError> {
    Ok(reference::widened(&downloaded::<f16>(runner, buffer)?))
}

fn run(runner: &dyn Runner, launches: &[Launch]) -> Result<(), RunnerError> {
    launches.iter().try_for_each(|launch| runner.launch(launch))
}

fn streams(runner: &dyn Runner, checked: &mut Vec<Checked>) -> Result<(), RunnerError> {
    let exact = |kernel, problem: &str, same: bool| Checked {
        kernel,
        problem: problem.to_owned(),
        error: if same { 0.0 } else { f64::INFINITY },
        tolerance: 0.0,
    };
    runner.launch(&small::empty())?;

    let count = 4_100;
    let filled = halves(runner, count)?;
    runner.launch(&small::fill_halves(filled, 7, 0.5))?;
    let same = downloaded::<f16>(runner, filled)? == half_noise(count, 7, 0.5);
    checked.push(exact("fill_halves", "4100 numbers", same));

    // Neither a multiple of the threads nor of four of their strides.
    let (blocks, quads) = (3, 4 * 3 * 256 * 2 + 333);
    let from = runner.allocate(quads * 16)?;
    runner.launch(&small::fill_words(from, 3))?;
    let words = downloaded::<u32>(runner, from)?;
    let unlike = words.windows(2).filter(|pair| pair[0] != pair[1]).count();
    checked.push(exact("fill_words", "24708 words", unlike == words.len() - 1));

    let to = uploaded(runner, &vec![0u32; words.len()])?;
    runner.launch(&small::stream_copy(to, from, blocks))?;
    let same = downloaded::<u32>(runner, to)? == words;
    checked.push(exact("stream_copy", "6177 words of 16 bytes", same));

    let sink = uploaded(runner, &vec![0u32; blocks * 256])?;
    runner.launch(&small::stream_read(from, sink, blocks))?;
    let total = |words: &[u32]| words.iter().fold(0u32, |sum, &word| sum.wrapping_add(word));
    let folded: Vec<u32> = words.chunks_exact(4).map(|q| q[0] ^ q[1] ^ q[2] ^ q[3]).collect();
    let same = total(&downloaded::<u32>(runner, sink)?) == total(&folded);
    checked.push(exact("stream_read", "6177 words of 16 bytes", same));

    runner.launch(&small::stream_write(to, 0xabcd, blocks))?;
    let same = downloaded::<u32>(runner, to)?.iter().all(|&word| word == 0xabcd);
    checked.push(exact("stream_write", "6177 words of 16 bytes", same));

    let (count, pitch, ranks) = (1_502, 1_600, 3);
    let rows = half_noise(pitch * ranks, 11, 1.0);
    let out = halves(runner, count)?;
    let source = uploaded(runner, &rows)?;
    runner.launch(&small::add_rows(out, source, count as u64, pitch as u64, ranks))?;
    let want: Vec<f64> =
        (0..count).map(|i| (0..ranks).map(|rank| rows[rank * pitch + i].to_f64()).sum()).collect();
    let got = read(runner, out)?;
    checked.push(compare("add_rows", "3 rows of 1502".into(), (&got, &want), SMALL));
    Ok(())
}

fn products(runner: &dyn Runner, checked: &mut Vec<Checked>) -> Result<(), RunnerError> {
    for tile in TILES {
        let weights = tile.weights;
        // Two rows and columns of tiles with ragged ends; more slices than are in flight.
        let (m, n, k) = if tile.kernel.contains("16x") { (19, 136, 512) } else { (150, 200, 384) };
        let problem = Problem { m, n, k, weights };
        problem.check()?;
        let a = half_noise(m * k, 1, 1.0);
        let bits: Vec<f32> = noise(n * k, 2).collect();
        let (stored, scales, plain) = match weights {
            Weights::Half => {
                let w = half_noise(n * k, 2, 1.0);
                let plain = reference::widened(&w);
                (uploaded(runner, &w)?, None, plain)
            }
            Weights::Int8 => {
                let w: Vec<i8> = bits.iter().map(|x| (x * 128.0) as i8).collect();
                let scales: Vec<f16> =
                    half_noise(n, 3, 0.01).iter().map(|s| *s + f16::from_f32(0.02)).collect();
                let plain = reference::scaled_rows(&w, &scales, k);
                (uploaded(runner, &pack_int8(&w, k))?, Some(uploaded(runner, &scales)?), plain)
            }
            Weights::Int4 => {
                let w: Vec<i8> = bits.iter().map(|x| (x * 8.0).floor() as i8).collect();
                let scales: Vec<f16> = half_noise(weights.scales(n, k), 3, 0.1)
                    .iter()
                    .map(|s| *s + f16::from_f32(0.2))
                    .collect();
                let plain = reference::scaled_groups(&w, &scales, (n, k));
                (uploaded(runner, &pack_int4(&w, k))?, Some(uploaded(runner, &scales)?), plain)
            }
        };
        let want = reference::product(&reference::widened(&a), &plain, k);
        let a = uploaded(runner, &a)?;
        for splits in [1, 5] {
            let c = halves(runner, m * n)?;
            let partial = match problem.partial_bytes(splits) {
                0 => None,
                bytes => Some(runner.allocate(bytes)?),
            };
            let operands = Operands { a, w: stored, scales, c, partial };
            run(runner, &problem.launches(&operands, Choice { tile, splits }))?;
            let got = read(runner, c)?;
            let what = format!("{m} x {n} x {k} in {splits} parts");
            checked.push(compare(tile.kernel, what, (&got, &want), PRODUCT));
        }
    }
    Ok(())
}

/// A product in half precision by a library: `multiply` enqueues it.
pub fn one_product(
    runner: &dyn Runner,
    kernel: &'static str,
    problem: Problem,
    multiply: impl FnOnce(&Operands) -> Result<(), RunnerError>,
) -> Result<Checked, RunnerError> {
    let Problem { m, n, k, .. } = problem;
    let (a, w) = (half_noise(m * k, 1, 1.0), half_noise(n * k, 2, 1.0));
    let want = reference::product(&reference::widened(&a), &reference::widened(&w), k);
    let (a, w, c) = (uploaded(runner, &a)?, uploaded(runner, &w)?, halves(runner, m * n)?);
    multiply(&Operands { a, w, scales: None, c, partial: None })?;
    Ok(compare(kernel, format!("{m} x {n} x {k}"), (&read(runner, c)?, &want), PRODUCT))
}

fn prefills(runner: &dyn Runner, checked: &mut Vec<Checked>) -> Result<(), RunnerError> {
    for (heads, batch, fresh, past) in [
        (Heads { heads: 2, kv_heads: 1, dim: 64 }, 2, 130, 0),
        (Heads { heads: 4, kv_heads: 1, dim: 128 }, 1, 70, 90),
        (Heads { heads: 2, kv_heads: 2, dim: 128 }, 1, 3, 200),
    ] {
        heads.check()?;
        let shape = Prefill { heads, batch, fresh, past };
        let q = half_noise(shape.query_len(), 4, 2.0);
        let keys = half_noise(shape.key_len(), 5, 2.0);
        let values = half_noise(shape.key_len(), 6, 1.0);
        let out = halves(runner, shape.query_len())?;
        let launch = shape.launch(
            uploaded(runner, &q)?,
            uploaded(runner, &keys)?,
            uploaded(runner, &values)?,
            out,
        );
        runner.launch(&launch)?;
        let want = reference::prefill(
            &shape,
            &reference::widened(&q),
            &reference::widened(&keys),
            &reference::widened(&values),
        );
        let what = format!("{batch} x {fresh} tokens behind {past}");
        checked.push(compare(launch.kernel, what, (&read(runner, out)?, &want), ATTENTION));
    }
    Ok(())
}

fn decodes(runner: &dyn Runner, checked: &mut Vec<Checked>) -> Result<(), RunnerError> {
    // One token, a full page, a page and one token, and many.
    let contexts = [1, 16, 17, 300];
    for heads in [
        Heads { heads: 2, kv_heads: 2, dim: 64 },
        Heads { heads: 8, kv_heads: 1, dim: 128 },
        Heads { heads: 14, kv_heads: 2, dim: 64 },
    ] {
        heads.check()?;
        let shape = Decode { heads, sequences: contexts.len(), context: 300 };
        let pages = shape.pages();
        // Every sequence's pages lie scattered over the cache; pages that it lacks are not there.
        let own = |sequence: usize| (contexts[sequence] as usize).div_ceil(16);
        let table: Vec<i32> = (0..contexts.len() * pages)
            .map(|i| match (i / pages, i % pages) {
                (sequence, page) if page < own(sequence) => {
                    ((page * 7 + 3) % pages * contexts.len() + sequence) as i32
                }
                _ => i32::MAX,
            })
            .collect();
        let cache = shape.page_len() * pages * contexts.len();
        let q = half_noise(shape.query_len(), 7, 2.0);
        let keys = half_noise(cache, 8, 2.0);
        let values = half_noise(cache, 9, 1.0);
        let want = reference::decode(
            heads,
            &reference::widened(&q),
            (&reference::widened(&keys), &reference::widened(&values)),
            &table,
            &contexts,
        );
        let stored = DecodeOperands {
            q: uploaded(runner, &q)?,
            keys: uploaded(runner, &keys)?,
            values: uploaded(runner, &values)?,
            table: uploaded(runner, &table)?,
            contexts: uploaded(runner, &contexts)?,
            out: halves(runner, shape.query_len())?,
            partial: None,
        };
        for splits in [1, 3] {
            let out = halves(runner, shape.query_len())?;
            let partial = match shape.partial_bytes(splits) {
                0 => None,
                bytes => Some(runner.allocate(bytes)?),
            };
            let launches = shape.launches(&DecodeOperands { out, partial, ..stored }, splits);
            run(runner, &launches)?;
            let what = format!("contexts of 1 to 300 in {splits} parts");
            let got = read(runner, out)?;
            checked.push(compare(launches[0].kernel, what, (&got, &want), ATTENTION));
        }
    }
    Ok(())
}

fn elementwise(runner: &dyn Runner, checked: &mut Vec<Checked>) -> Result<(), RunnerError> {
    let (tokens, hidden) = (3, 2_568);
    let x = half_noise(tokens * hidden, 12, 1.0);
    let residual = half_noise(tokens * hidden, 13, 1.0);
    let weight = half_noise(hidden, 14, 1.0);
    let (sums, normed) = reference::add_rms_norm(
        &reference::widened(&x),
        &reference::widened(&residual),
        &reference::widened(&weight),
    );
    let (x, residual) = (uploaded(runner, &x)?, uploaded(runner, &residual)?);
    let weight = uploaded(runner, &weight)?;
    runner.launch(&small::add_rms_norm(x, residual, weight, tokens, hidden))?;
    let what = || "3 rows of 2568".to_owned();
    checked.push(compare("add_rms_norm", what(), (&read(runner, x)?, &normed), SMALL));
    checked.push(compare("add_rms_norm", what(), (&read(runner, residual)?, &sums), SMALL));

    let (heads, dim, stride) = (5, 64, 7 * 64);
    let rows = half_noise(tokens * stride, 15, 1.0);
    let table: Vec<f32> = (0..40 * dim)
        .map(|i| {
            let angle = (i / dim) as f32 / 1.5f32.powi((i % (dim / 2)) as i32);
            if i % dim < dim / 2 { angle.cos() } else { angle.sin() }
        })
        .collect();
    let positions = [0, 39, 7];
    let mut want = reference::widened(&rows);
    for (token, position) in positions.iter().enumerate() {
        let angles: Vec<f64> =
            table[position * dim..(position + 1) * dim].iter().map(|&x| f64::from(x)).collect();
        for head in 0..heads {
            let start = token * stride + head * dim;
            let turned = reference::rotary(&want[start..start + dim], &angles);
            want[start..start + dim].copy_from_slice(&turned);
        }
    }
    let rows = uploaded(runner, &rows)?;
    let table = uploaded(runner, &table)?;
    let positions = uploaded(runner, &positions.map(|position| position as i32))?;
    runner.launch(&small::rotary(rows, table, positions, (tokens, heads, dim, stride)))?;
    let what = "5 of 7 heads of 3 tokens".to_owned();
    checked.push(compare("rotary", what, (&read(runner, rows)?, &want), SMALL));

    let ffn = 2_200;
    let gate_up = half_noise(tokens * 2 * ffn, 16, 4.0);
    let want = reference::silu_and_mul(&reference::widened(&gate_up), ffn);
    let out = halves(runner, tokens * ffn)?;
    runner.launch(&small::silu_and_mul(out, uploaded(runner, &gate_up)?, tokens, ffn))?;
    let what = "3 rows of 2200".to_owned();
    checked.push(compare("silu_and_mul", what, (&read(runner, out)?, &want), SMALL));

    let (width, slots) = (136, [5i32, 0, 3]);
    let fresh = half_noise(tokens * 2 * width, 17, 1.0);
    let mut want = vec![0.0; 2 * 6 * width];
    for (token, &slot) in slots.iter().enumerate() {
        for i in 0..width {
            want[slot as usize * width + i] = fresh[token * 2 * width + i].to_f64();
            want[(6 + slot as usize) * width + i] = fresh[(token * 2 + 1) * width + i].to_f64();
        }
    }
    let zeros = vec![f16::ZERO; 6 * width];
    let (keys, values) = (uploaded(runner, &zeros)?, uploaded(runner, &zeros)?);
    let (fresh, slots) = (uploaded(runner, &fresh)?, uploaded(runner, &slots)?);
    runner.launch(&small::write_kv(keys, values, fresh, slots, (tokens, width)))?;
    let got = [read(runner, keys)?, read(runner, values)?].concat();
    checked.push(compare("write_kv", "3 of 6 slots".into(), (&got, &want), 0.0));

    let vocabulary = 3_002;
    let logits = half_noise(tokens * vocabulary, 18, 8.0);
    let want: Vec<i32> = logits
        .chunks_exact(vocabulary)
        .map(|row| {
            let first = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
            (0..vocabulary).fold(0, first) as i32
        })
        .collect();
    let out = uploaded(runner, &vec![-1i32; tokens])?;
    runner.launch(&small::argmax(out, uploaded(runner, &logits)?, tokens, vocabulary))?;
    let same = downloaded::<i32>(runner, out)? == want;
    checked.push(Checked {
        kernel: "argmax",
        problem: "3 rows of 3002, with ties".into(),
        error: if same { 0.0 } else { f64::INFINITY },
        tolerance: 0.0,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_is_no_number_fails_wherever_it_stands() {
        let want = [1.0, 2.0, 3.0];
        let passed = |got: &[f64]| compare("x", String::new(), (got, &want), 1e-3).passed();
        assert!(passed(&[1.0, 2.001, 3.0]));
        for got in [&[f64::NAN, 2.0, 3.0], &[1.0, 2.0, f64::NAN], &[1.0, 2.1, 3.0]] {
            assert!(!passed(got), "{got:?}");
        }
        assert!(!passed(&[1.0, 2.0]));
    }
}
