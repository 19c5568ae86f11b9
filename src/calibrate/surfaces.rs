//! Surfaces through the rows of operator tables: which rows count, which are kept back, and how far
//! the surface is from each.
//!
//! Parameters are fitted to log ratios under a loss that outliers do not dominate. The error that is
//! reported is of rows that a fit never saw: of a table, one part that is kept back; of our own
//! probes, which are few, each part in its turn. The surface itself is then fitted to all rows, since
//! a few shapes more are worth more than a second look at the error.

mod attention;
mod elementwise;
mod gemm;
mod links;
mod weight_kernel;

use std::collections::{BTreeMap, BTreeSet};

use crate::cost::profile::Fit;
use crate::hardware::Gpu;
use crate::units::FlopRate;

use super::fit::{self, Parameter, least_squares};
use super::table::Timing;

pub use attention::{decode, decode_errors, mixed, mixed_errors, prefill, prefill_errors, shapes};
pub use elementwise::{elementwise, elementwise_errors, sampler};
pub use gemm::{gemm, gemm_errors};
pub use links::{AllReduce, FittedLine, Messages};
pub use weight_kernel::QuantisedProducts;

/// Share of a table's shapes (or rows) that are kept back from a fit.
const HELD_OUT: f64 = 0.4;

/// Parts of our own few probes, each of which is kept back once.
const FOLDS: usize = 8;

/// Log ratios beyond about this count less than their square.
const OUTLIER: f64 = 0.10;

/// How far one timing is from the next of the same kernel: what a row weighs beside what is thought
/// of a coefficient beforehand.
const SCATTER: f64 = 0.03;

/// Products are fitted from these sizes on; below, no form of few parameters holds
/// (`../shared/physics/operator-surfaces.md` 4.1).
const SMALLEST_SIDE: f64 = 512.0;
const SMALLEST_MATRIX: f64 = 2.0e6;

/// Fewer rows than this of a table are no ground for a surface.
pub const FEWEST_ROWS: usize = 24;

/// Rows beyond this many, over all sources, teach a surface of seven parameters nothing
/// (`../shared/physics/operator-surfaces.md` 4.1: 64 do).
const MOST_ROWS: usize = 900;

/// Who timed the rows, which says which of them count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Others, of every shape and often the same operands again and again, which the cache may hold.
    Tables,
    /// Our probes: shapes that the surfaces are for, over buffers larger than the cache.
    Probes,
}

/// The rows of one GPU.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub gpu: &'a Gpu,
    pub timings: &'a [&'a Timing],
    pub origin: Origin,
}

impl Rows<'_> {
    /// Whether that many are ground for a surface of `coefficients`.
    fn suffice(&self, samples: usize, coefficients: usize) -> bool {
        match self.origin {
            Origin::Tables => samples >= FEWEST_ROWS,
            // Few, but spread over the shapes on purpose.
            Origin::Probes => samples >= coefficients,
        }
    }

    /// See [`prior`]. Kernels of our own, or of a host, may be further from what libraries make of a
    /// datasheet than those that tables are of.
    fn prior(&self, name: &str, guess: f64, factor: f64) -> Parameter {
        match self.origin {
            Origin::Tables => prior(name, guess, factor),
            Origin::Probes => prior(name, guess, factor * factor),
        }
    }
}

/// Types of the numbers that are multiplied.
#[derive(Clone, Copy, Debug)]
pub struct Precision {
    /// The surface of a profile that their products are for.
    pub surface: &'static str,
    /// As tables write them.
    pub dtypes: &'static [&'static str],
    /// Bytes of one number.
    pub element: f64,
    pub peak: fn(&Gpu) -> Option<FlopRate>,
}

impl Precision {
    pub const HALF: Self = Self {
        surface: "gemm",
        dtypes: &["fp16", "bf16", "float16", "bfloat16"],
        element: 2.0,
        peak: |gpu| Some(gpu.peak.fp16),
    };
    pub const FP8: Self =
        Self { surface: "gemm-fp8", dtypes: &["fp8"], element: 1.0, peak: |gpu| gpu.peak.fp8 };
    /// What a host without tensor cores computes in.
    pub const SINGLE: Self =
        Self { surface: "gemm", dtypes: &["fp32"], element: 4.0, peak: |gpu| Some(gpu.peak.fp32) };

    fn has(&self, dtype: &str) -> bool {
        self.dtypes.contains(&dtype)
    }

    /// The 16- or 32-bit type of that name.
    fn of(dtype: &str) -> Option<&'static Self> {
        [&Self::HALF, &Self::SINGLE].into_iter().find(|precision| precision.has(dtype))
    }
}

/// Why rows were left out, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped(BTreeMap<&'static str, usize>);

impl Dropped {
    pub fn count(&mut self, why: &'static str) {
        *self.0.entry(why).or_default() += 1;
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, usize)> + '_ {
        self.0.iter().map(|(why, count)| (*why, *count))
    }

    pub fn join(&mut self, other: &Self) {
        for (why, count) in &other.0 {
            *self.0.entry(why).or_default() += count;
        }
    }
}

/// A surface as it was fitted: its parameters in base units, and how good it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Surface<F> {
    pub form: F,
    /// One entry for each source.
    pub fits: Vec<Fit>,
    pub dropped: Dropped,
    /// All rows that counted, fitted and held out.
    pub rows: usize,
    /// Where they come from.
    pub source: String,
}

/// A row that counts, by what it asks of the GPU.
#[derive(Clone, Debug)]
struct Sample<T> {
    shape: T,
    seconds: f64,
    source: String,
    /// Rows with the same key are fitted together or held out together.
    key: u64,
    /// What was timed, in full.
    row: u64,
    /// For residuals by region.
    region: &'static str,
}

/// Collections of tables by the abbreviation that their rows have, and whether the next part of a
/// row's path tells measurements apart: an engine's version, or a GPU.
const COLLECTIONS: [(&str, &str, bool); 4] = [
    ("aic", "aiconfigurator-core", true),
    ("vidur", "microsoft/vidur", true),
    ("lss", "casys-kaist/LLMServingSim", false),
    ("rgs", "robertgshaw2-neuralmagic/vllm-benchmarking", false),
];

/// What a table calls its source, short enough to cite: the collection, or the first two parts of
/// its path.
fn source_of(timing: &Timing) -> String {
    let path = timing.source.split([':', '@']).next().unwrap_or("").trim();
    let parts: Vec<&str> = path.split('/').collect();
    match COLLECTIONS.iter().find(|(short, ..)| *short == parts[0]) {
        Some((_, name, true)) if parts.len() > 1 => format!("{name} {}", parts[1]),
        Some((_, name, _)) => (*name).to_owned(),
        None => parts[..parts.len().min(2)].join("/"),
    }
}

/// Leaves out what stands in two tables of one collection: it would count twice.
fn once<T>(samples: &mut Vec<Sample<T>>, dropped: &mut Dropped) {
    let mut seen = BTreeSet::new();
    samples.retain(|sample| {
        let new = seen.insert((sample.row, sample.source.clone(), sample.seconds.to_bits()));
        if !new {
            dropped.count("the same timing in another table");
        }
        new
    });
}

/// The rows of one source. Engines run different attention kernels, which no one surface can meet:
/// those of vLLM stand for all where there are any.
fn of_one_source<T>(samples: Vec<Sample<T>>) -> Vec<Sample<T>> {
    let is_vllm = |sample: &Sample<T>| sample.source.contains("vllm");
    if samples.iter().any(is_vllm) {
        samples.into_iter().filter(is_vllm).collect()
    } else {
        samples
    }
}

/// The part of a product's rows that errors are stated for.
fn region(m: u64) -> &'static str {
    match m {
        0..=16 => "m<=16",
        17..=128 => "m<=128",
        129..=1024 => "m<=1024",
        _ => "m>1024",
    }
}

/// FNV-1a, so that a split is the same everywhere.
fn hash(numbers: &[u64]) -> u64 {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Keys that are held out together, each list in order: of a table 40 % of all, once; of probes
/// every key in one list.
fn held_out_keys<T>(origin: Origin, samples: &[Sample<T>]) -> Vec<Vec<u64>> {
    let mut keys: Vec<u64> = samples.iter().map(|sample| sample.key).collect();
    // In the order of their hash, which is none of shapes.
    keys.sort_unstable();
    keys.dedup();
    match origin {
        Origin::Tables => {
            keys.truncate((keys.len() as f64 * HELD_OUT) as usize);
            vec![keys]
        }
        Origin::Probes => {
            let folds = FOLDS.min(keys.len()).max(1);
            (0..folds).map(|i| keys.iter().skip(i).step_by(folds).copied().collect()).collect()
        }
    }
}

/// Fits `predict` to the samples that are not held out, from each of `starts`, states the errors on
/// those that are (`split` says which), and fits it to all.
fn fit<T>(
    (surface, split, origin): (&str, &str, Origin),
    samples: &[Sample<T>],
    starts: &[Vec<Parameter>],
    predict: impl Fn(&[f64], &T) -> f64,
) -> (Vec<f64>, Vec<Fit>) {
    let mut judged: BTreeMap<&str, Vec<(&str, f64)>> = BTreeMap::new();
    let mut last = None;
    for held_keys in held_out_keys(origin, samples) {
        let (held, train): (Vec<_>, Vec<_>) =
            samples.iter().partition(|s| held_keys.binary_search(&s.key).is_ok());
        let best = starts
            .iter()
            .map(|start| fit_to(&train, start, &predict))
            .min_by(|a, b| {
                let sum = |rows: &[f64]| rows.iter().map(|r| r * r).sum::<f64>();
                sum(&a.residuals).total_cmp(&sum(&b.residuals))
            })
            .expect("at least one start");
        for s in if held.is_empty() { &train } else { &held } {
            let error = (predict(&best.values, &s.shape) / s.seconds - 1.0).abs();
            judged.entry(&s.source).or_default().push((s.region, error));
        }
        last = Some(best);
    }
    let split = match origin {
        Origin::Tables => split,
        Origin::Probes => "rows, each by a fit to the others",
    };
    let all: Vec<&Sample<T>> = samples.iter().collect();
    let fits = by_source(&all)
        .into_iter()
        .filter_map(|(source, fitted)| {
            let rows = judged.get(source)?;
            let errors: Vec<f64> = rows.iter().map(|(_, error)| *error).collect();
            Some(Fit {
                surface: surface.to_owned(),
                rows: u32::try_from(fitted).unwrap_or(u32::MAX),
                median_percent: percent(&errors, 0.5),
                p90_percent: percent(&errors, 0.9),
                on: format!("{} {split}; {}", errors.len(), regions(rows)),
                source: source.to_owned(),
            })
        })
        .collect();
    let from_there: Vec<Parameter> = starts[0]
        .iter()
        .zip(&last.expect("at least one split").values)
        .map(|(parameter, value)| Parameter { start: *value, ..parameter.clone() })
        .collect();
    (fit_to(&all, &from_there, &predict).values, fits)
}

/// Rows of each source.
fn by_source<'a, T>(samples: &[&'a Sample<T>]) -> BTreeMap<&'a str, usize> {
    let mut rows = BTreeMap::new();
    samples.iter().for_each(|s| *rows.entry(s.source.as_str()).or_default() += 1);
    rows
}

/// The best parameters for these samples, of which each source counts alike, however many rows it
/// has.
fn fit_to<T>(
    samples: &[&Sample<T>],
    start: &[Parameter],
    predict: impl Fn(&[f64], &T) -> f64,
) -> fit::Fit {
    let most = MOST_ROWS / by_source(samples).len().max(1);
    let mut taken = samples.to_vec();
    // In no order of shape, and the same everywhere.
    taken.sort_by_key(|s| (s.row, s.seconds.to_bits()));
    let mut of_source: BTreeMap<&str, usize> = BTreeMap::new();
    taken.retain(|s| {
        let count = of_source.entry(&s.source).or_default();
        *count += 1;
        *count <= most
    });
    let by_source = by_source(&taken);
    let share = taken.len() as f64 / by_source.len().max(1) as f64;
    let residuals = |values: &[f64]| -> Vec<f64> {
        taken
            .iter()
            .map(|s| {
                let weight = (share / by_source[s.source.as_str()] as f64).sqrt();
                weight * soft((predict(values, &s.shape) / s.seconds).ln())
            })
            .collect()
    };
    least_squares(start, SCATTER, residuals)
}

/// The errors of a surface that never saw these rows, by source.
fn judge<T>(surface: &str, samples: &[Sample<T>], predict: impl Fn(&T) -> f64) -> Vec<Fit> {
    let mut by_source: BTreeMap<&str, Vec<(&str, f64)>> = BTreeMap::new();
    for s in samples {
        let error = (predict(&s.shape) / s.seconds - 1.0).abs();
        by_source.entry(&s.source).or_default().push((s.region, error));
    }
    by_source
        .into_iter()
        .map(|(source, rows)| {
            let errors: Vec<f64> = rows.iter().map(|(_, error)| *error).collect();
            Fit {
                surface: surface.to_owned(),
                rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
                median_percent: percent(&errors, 0.5),
                p90_percent: percent(&errors, 0.9),
                on: format!("all rows; {}", regions(&rows)),
                source: source.to_owned(),
            }
        })
        .collect()
}

/// Soft L1: quadratic for small residuals, linear beyond.
fn soft(residual: f64) -> f64 {
    let scaled = residual / OUTLIER;
    residual.signum() * OUTLIER * (2.0 * ((1.0 + scaled * scaled).sqrt() - 1.0)).sqrt()
}

/// Medians by region.
fn regions(rows: &[(&str, f64)]) -> String {
    let mut by_region: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    rows.iter().for_each(|(region, error)| by_region.entry(region).or_default().push(*error));
    let parts: Vec<String> = by_region
        .iter()
        .map(|(region, errors)| format!("{} {:.1}", region, percent(errors, 0.5)))
        .collect();
    format!("medians: {}", parts.join(", "))
}

fn percent(errors: &[f64], share: f64) -> f64 {
    let mut sorted = errors.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    (sorted[at] * 1000.0).round() / 10.0
}

/// A coefficient before the fit: the datasheet's guess, and one standard deviation as a factor up
/// and down. It matters where the rows do not tell.
fn prior(name: &str, guess: f64, factor: f64) -> Parameter {
    let most = factor.powi(3);
    Parameter {
        name: name.to_owned(),
        guess,
        start: guess,
        spread: factor.ln(),
        bounds: (guess / most, guess * most),
    }
}

/// The exponent of a blend.
fn blend(guess: f64) -> Parameter {
    Parameter { bounds: (1.0, 21.0), ..prior("blend", guess, 2.0) }
}

/// With an upper bound of its own.
fn at_most(mut parameter: Parameter, most: f64) -> Parameter {
    parameter.bounds.1 = most;
    parameter.start = parameter.start.min(most);
    parameter.bounds.0 = parameter.bounds.0.min(most);
    parameter
}

/// Names of the sources of samples, most rows first.
fn sources<T>(samples: &[Sample<T>]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    samples.iter().for_each(|sample| *counts.entry(&sample.source).or_default() += 1);
    let mut list: Vec<(&str, usize)> = counts.into_iter().collect();
    list.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
    list.iter().map(|(name, rows)| format!("{name} {rows} rows")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
