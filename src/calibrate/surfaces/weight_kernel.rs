//! Kernels for quantised weights through timed products, beside the same GPU's 16-bit surface.

use crate::cost::gemm::{GemmForm, GemmWork};
use crate::cost::weight_kernel::{DirectForm, PassForm};

use super::super::table::{Operator, Timing};
use super::{
    Dropped, Rows, SMALLEST_MATRIX, SMALLEST_SIDE, Sample, Surface, at_most, fit, hash, prior,
    region, source_of, sources,
};

/// Which products of a table.
#[derive(Clone, Copy, Debug)]
pub struct QuantisedProducts {
    pub dtype: &'static str,
    /// What the rows' source begins with.
    pub source: &'static str,
    /// Bytes of one weight with its scales.
    pub weight: f64,
    pub row_granule: f64,
    /// Rows of a pass, where the kernel goes over the weights again for each few.
    pub pass: Option<f64>,
    /// Smaller matrices, in elements, are other kernels' or in L2.
    pub least: f64,
}

impl QuantisedProducts {
    fn sample(&self, timing: &Timing) -> Option<Sample<GemmWork>> {
        let Operator::Gemm { m, n, k } = timing.operator else { return None };
        if timing.dtype != self.dtype || !timing.source.starts_with(self.source) {
            return None;
        }
        let [rows, columns, depth] = [m, n, k].map(|x| x as f64);
        let dense = GemmWork::dense(rows, columns, depth, 2.0);
        Some(Sample {
            shape: GemmWork { weight_bytes: columns * depth * self.weight, ..dense },
            seconds: timing.seconds,
            source: format!("{} {}", source_of(timing), self.dtype),
            key: hash(&[n, k]),
            row: hash(&[m, n, k]),
            region: region(m),
        })
    }

    /// `gemm` is held to the GPU's nominal peak and bandwidth.
    pub fn fit(&self, rows: &Rows<'_>, gemm: &GemmForm) -> Option<Surface<DirectForm>> {
        let mut dropped = Dropped::default();
        let mut samples: Vec<Sample<GemmWork>> = Vec::new();
        for sample in rows.timings.iter().filter_map(|timing| self.sample(timing)) {
            let work = &sample.shape;
            let small = work.n.min(work.k) < SMALLEST_SIDE;
            if small || work.n * work.k < self.least.max(SMALLEST_MATRIX) {
                dropped.count("quantised: a side under 512 or a small matrix");
            } else if work.bytes() / sample.seconds > gemm.bandwidth_limit {
                dropped.count("quantised: faster than DRAM, the weights were in L2");
            } else {
                samples.push(sample);
            }
        }
        if samples.len() < super::FEWEST_ROWS {
            return None;
        }
        let mut start = vec![
            at_most(prior("rate", 0.8, 1.5), 1.0),
            at_most(prior("bandwidth", 1.0, 1.5), gemm.bandwidth_limit / gemm.bandwidth),
            prior("floor", 8e-6, 3.0),
        ];
        if self.pass.is_some() {
            start.extend([prior("start-up", 8e-6, 3.0), prior("join", 4e-6, 4.0)]);
        }
        let form = |v: &[f64]| DirectForm {
            rate: v[0],
            bandwidth: v[1],
            floor: v[2],
            row_granule: self.row_granule,
            passes: self.pass.map(|rows| PassForm { rows, start_up: v[3], join: v[4] }),
        };
        let what = ("direct", "rows of held-out (n, k)", rows.origin);
        let (values, fits) = fit(what, &samples, &[start], |v, work| form(v).seconds(gemm, work));
        let source = sources(&samples);
        Some(Surface { form: form(&values), fits, dropped, rows: samples.len(), source })
    }
}
