//! Form "H" through timed matrix products.

use std::collections::BTreeMap;

use crate::cost::gemm::{GemmForm, GemmWork};
use crate::cost::profile::{Fit, GpuProfile};

use super::super::fit::Parameter;
use super::super::table::{Operator, Timing};
use super::{
    Dropped, Origin, Precision, Rows, SMALLEST_MATRIX, SMALLEST_SIDE, Sample, Surface, at_most,
    blend, fit, hash, judge, once, region, source_of, sources,
};

const MOST_ROWS_OF_A: u64 = 8192;

/// Sources whose library is older than any that the engines of their GPU have now: between 256 and
/// 2048 rows this one's products take 20 % longer than those of vLLM 0.24 on the same chip, beyond
/// the 6-13 % that sources differ by. A surface between the two would be true of neither.
const SUPERSEDED: [&str; 1] = ["microsoft/vidur h100"];

/// Weights were in L2 where more than this share of the rows that only move them is faster than DRAM, and
/// those that are larger by up to this factor were so in part.
const RESIDENT_SHARE: f64 = 0.25;
const PARTLY_RESIDENT: f64 = 1.3;
/// Rows that only move weights.
const FEW_ROWS_OF_A: u64 = 16;

/// Cards run above their nominal boost clock by up to this factor.
const BOOST: f64 = 1.15;

/// The errors of a surface that was not fitted to these rows.
pub fn gemm_errors(rows: &Rows<'_>, precision: &Precision, form: &GemmForm) -> Vec<Fit> {
    let (samples, _) = samples(rows, precision, form.peak_limit);
    judge(precision.surface, &samples, |work| form.seconds(work))
}

/// Rows that count.
fn samples(rows: &Rows<'_>, precision: &Precision, peak: f64) -> (Vec<Sample<GemmWork>>, Dropped) {
    let dram = rows.gpu.memory.bandwidth.bytes_per_s();
    let foreign = rows.origin == Origin::Tables;
    let products = || {
        rows.timings.iter().filter_map(|timing| match timing.operator {
            Operator::Gemm { m, n, k } if precision.has(&timing.dtype) => {
                let work = GemmWork::dense(m as f64, n as f64, k as f64, precision.element);
                Some((*timing, (m, n, k), work))
            }
            _ => None,
        })
    };
    let resident = resident(products().filter(|(.., work)| is_large(work)), dram);
    let mut dropped = Dropped::default();
    let mut samples = Vec::new();
    for (timing, (m, n, k), work) in products() {
        let source = source_of(timing);
        // Where the tensor cores take twice as long as DRAM would, it does not matter who holds the
        // weights.
        let moves = work.bytes() / dram > 0.5 * work.flops() / peak;
        let held = moves && resident.get(&source).is_some_and(|size| work.weight_bytes <= *size);
        let why = if !foreign {
            None
        } else if !is_large(&work) {
            Some("GEMM: a side under 512 or a matrix under 2 M elements")
        } else if m > MOST_ROWS_OF_A {
            Some("GEMM: more than 8192 rows")
        } else if SUPERSEDED.contains(&source.as_str()) {
            Some("GEMM: an older library than engines have now")
        } else if work.bytes() / timing.seconds > dram {
            Some("GEMM: faster than DRAM, the weights were in L2")
        } else if held {
            Some("GEMM: weights of a size that the source's repeats held in L2")
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
                source,
                key: hash(&[n, k]),
                row: hash(&[m, n, k]),
                region: region(m),
            }),
        }
    }
    once(&mut samples, &mut dropped);
    (samples, dropped)
}

fn is_large(work: &GemmWork) -> bool {
    work.n.min(work.k) >= SMALLEST_SIDE && work.n * work.k >= SMALLEST_MATRIX
}

/// Bytes of weights up to which a source timed products whose weights its own repeats had left in
/// L2. When serving, weights always come from DRAM.
fn resident<'a>(
    products: impl Iterator<Item = (&'a Timing, (u64, u64, u64), GemmWork)>,
    dram: f64,
) -> BTreeMap<String, f64> {
    // Rows and fast rows of each source and size of weights.
    let mut sizes: BTreeMap<String, BTreeMap<u64, (u32, u32)>> = BTreeMap::new();
    for (timing, _, work) in products.filter(|(_, (m, ..), _)| *m <= FEW_ROWS_OF_A) {
        let sizes = sizes.entry(source_of(timing)).or_default();
        let (all, fast) = sizes.entry(work.weight_bytes as u64).or_default();
        *all += 1;
        *fast += u32::from(work.bytes() / timing.seconds > dram);
    }
    let largest = |sizes: &BTreeMap<u64, (u32, u32)>| {
        let held = |(_, (all, fast)): &(&u64, &(u32, u32))| {
            f64::from(*fast) > RESIDENT_SHARE * f64::from(*all)
        };
        sizes.iter().filter(held).map(|(size, _)| PARTLY_RESIDENT * *size as f64).next_back()
    };
    sizes.iter().filter_map(|(source, of)| Some((source.clone(), largest(of)?))).collect()
}

/// The surface of products in `precision`; `None` where too few rows are left, or the GPU has no
/// such products.
pub fn gemm(rows: &Rows<'_>, precision: &Precision) -> Option<Surface<GemmForm>> {
    let gpu = rows.gpu;
    let dram = gpu.memory.bandwidth.bytes_per_s();
    let rate = (precision.peak)(gpu)?;
    let peak = rate.per_s();
    let (samples, dropped) = samples(rows, precision, peak);
    if !rows.suffice(samples.len(), 7) {
        return None;
    }
    let nominal = GpuProfile::from_datasheet(gpu).gemm.form(gpu, rate);
    let parameters = [
        at_most(rows.prior("peak", peak, 2.0), 2.0 * peak),
        at_most(rows.prior("bandwidth", nominal.bandwidth, 1.5), dram),
        rows.prior("floor", nominal.floor, 4.0),
        blend(nominal.blend),
        rows.prior("tile-loss", nominal.tile_loss, 3.0),
        rows.prior("start-up", nominal.start_up, 4.0),
        rows.prior("row-loss", nominal.row_loss, 4.0),
    ];
    // The best of two valleys: a soft blend with lossy tiles, or a sharp one.
    let sharp = [None, None, Some(1e-6), Some(10.0), Some(0.05), None, None];
    let sharp = parameters.iter().zip(sharp).map(|(parameter, start)| Parameter {
        start: start.unwrap_or(parameter.start),
        ..parameter.clone()
    });
    let starts = [parameters.to_vec(), sharp.collect()];
    let form = |values: &[f64]| GemmForm {
        peak: values[0],
        bandwidth: values[1],
        floor: values[2],
        blend: values[3],
        tile_loss: values[4],
        start_up: values[5],
        row_loss: values[6],
        peak_limit: peak * BOOST,
        ..nominal
    };
    let (values, fits) = fit(
        (precision.surface, "rows of held-out (n, k)", rows.origin),
        &samples,
        &starts,
        |values, work| form(values).seconds(work),
    );
    Some(Surface {
        form: form(&values),
        fits,
        dropped,
        rows: samples.len(),
        source: sources(&samples),
    })
}
