//! Form "H" through timed matrix products.

use crate::cost::gemm::{GemmForm, GemmWork};
use crate::hardware::Gpu;

use super::super::table::{Operator, Timing};
use super::{Dropped, FEWEST_ROWS, Sample, Surface, fit, free, hash, judge, short_source, sources};
use crate::cost::profile::Fit;

/// The surface holds from these sizes on; below, no form of few parameters does
/// (`../shared/physics/operator-surfaces.md` 4.1).
const SMALLEST_SIDE: u64 = 512;
const SMALLEST_MATRIX: f64 = 2.0e6;
const MOST_ROWS_OF_A: u64 = 8192;

/// Cards run above their nominal boost clock by up to this factor.
const BOOST: f64 = 1.15;

const fn name(element: f64) -> &'static str {
    if element < 2.0 { "gemm-fp8" } else { "gemm" }
}

/// The errors of a surface that was not fitted to these rows; arguments as of [`gemm`].
pub fn gemm_errors(
    rows: &[&Timing],
    gpu: &Gpu,
    dtypes: &[&str],
    element: f64,
    form: &GemmForm,
) -> Vec<Fit> {
    let (samples, _) = samples(rows, gpu, dtypes, element, form.peak_limit);
    judge(name(element), &samples, |work| form.seconds(work))
}

/// Rows that count.
fn samples(
    rows: &[&Timing],
    gpu: &Gpu,
    dtypes: &[&str],
    element: f64,
    peak: f64,
) -> (Vec<Sample<GemmWork>>, Dropped) {
    let dram = gpu.memory.bandwidth.bytes_per_s();
    let mut dropped = Dropped::default();
    let mut samples = Vec::new();
    for timing in rows {
        let Operator::Gemm { m, n, k } = timing.operator else { continue };
        if !dtypes.contains(&timing.dtype.as_str()) {
            continue;
        }
        let (rows, columns, depth) = (m as f64, n as f64, k as f64);
        let work = GemmWork::dense(rows, columns, depth, element);
        let why = if n.min(k) < SMALLEST_SIDE || columns * depth < SMALLEST_MATRIX {
            Some("GEMM: a side under 512 or a matrix under 2 M elements")
        } else if m > MOST_ROWS_OF_A {
            Some("GEMM: more than 8192 rows")
        } else if work.bytes() / timing.seconds > dram {
            Some("GEMM: faster than DRAM, the weights were in L2")
        } else if work.flops() / timing.seconds > BOOST * peak {
            Some("GEMM: faster than the tensor cores")
        } else {
            None
        };
        match why {
            Some(why) => dropped.count(why),
            None => samples.push(Sample {
                shape: work,
                seconds: timing.seconds,
                source: short_source(timing),
                key: hash(&[n, k]),
                region: match m {
                    0..=16 => "m<=16",
                    17..=128 => "m<=128",
                    129..=1024 => "m<=1024",
                    _ => "m>1024",
                },
            }),
        }
    }
    (samples, dropped)
}

/// The surface of products with `element` bytes on both sides, from rows whose type is one of
/// `dtypes`; `None` where too few rows are left.
pub fn gemm(
    rows: &[&Timing],
    gpu: &Gpu,
    dtypes: &[&str],
    element: f64,
    peak: f64,
) -> Option<Surface<GemmForm>> {
    let dram = gpu.memory.bandwidth.bytes_per_s();
    let (samples, dropped) = samples(rows, gpu, dtypes, element, peak);
    if samples.len() < FEWEST_ROWS {
        return None;
    }
    let parameters = |floor: f64, blend: f64, loss: f64| {
        vec![
            free("peak", peak, 0.3 * peak, 2.0 * peak),
            free("bandwidth", 0.85 * dram, 0.4 * dram, dram),
            free("floor", floor, 1e-8, 20e-6),
            free("blend", blend, 1.0, 21.0),
            free("tile-loss", loss, 1e-3, 2.0),
            free("start-up", 2e-6, 1e-8, 12e-6),
            free("row-loss", 0.1, 1e-3, 0.5),
        ]
    };
    let form = |values: &[f64]| GemmForm {
        peak: values[0],
        bandwidth: values[1],
        floor: values[2],
        blend: values[3],
        tile_loss: values[4],
        start_up: values[5],
        row_loss: values[6],
        multiprocessors: f64::from(gpu.chip.streaming_multiprocessors),
        peak_limit: peak * BOOST,
        bandwidth_limit: dram,
    };
    let starts = [parameters(4e-6, 3.0, 0.19), parameters(1e-6, 10.0, 0.05)];
    let (values, fits) =
        fit(name(element), "rows of held-out (n, k)", &samples, &starts, |values, work| {
            form(values).seconds(work)
        });
    Some(Surface {
        form: form(&values),
        fits,
        dropped,
        rows: samples.len(),
        source: sources(&samples),
    })
}
