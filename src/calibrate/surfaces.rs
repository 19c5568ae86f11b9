//! Surfaces through the rows of operator tables: which rows count, which are kept back, and how far
//! the surface is from each.
//!
//! Parameters are fitted to log ratios under a loss that outliers do not dominate; the error that is
//! reported is of rows that the fit never saw.

mod attention;
mod elementwise;
mod gemm;

use std::collections::BTreeMap;

use crate::cost::profile::Fit;

use super::fit::{Parameter, least_squares};
use super::table::Timing;

pub use attention::{decode, decode_errors, mixed, mixed_errors, prefill, prefill_errors};
pub use elementwise::{elementwise, elementwise_errors};
pub use gemm::{gemm, gemm_errors};

/// Share of the shapes (or rows) that are kept back from a fit.
const HELD_OUT: f64 = 0.4;

/// Log ratios beyond about this count less than their square.
const OUTLIER: f64 = 0.10;

/// Fewer rows than this are no ground for a surface.
pub const FEWEST_ROWS: usize = 24;

/// Rows beyond this many teach a surface of seven parameters nothing
/// (`../shared/physics/operator-surfaces.md` 4.1: 64 do).
const MOST_ROWS: usize = 600;

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
    /// For residuals by region.
    region: &'static str,
}

/// What a table calls its source, short enough to cite: its first two path parts.
fn short_source(timing: &Timing) -> String {
    let parts: Vec<&str> =
        timing.source.split([':', '@']).next().unwrap_or("").split('/').collect();
    parts[..parts.len().min(2)].join("/")
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

/// FNV-1a, so that a split is the same everywhere.
fn hash(numbers: &[u64]) -> u64 {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Keys in the order of their hash; the first 40 % are held out.
fn held_out_keys<T>(samples: &[Sample<T>]) -> Vec<u64> {
    let mut keys: Vec<u64> = samples.iter().map(|sample| sample.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let held = (keys.len() as f64 * HELD_OUT) as usize;
    keys.truncate(held);
    keys
}

/// Fits `predict` to the samples that are not held out, from each of `starts`, and states the
/// errors on those that are.
fn fit<T>(
    surface: &str,
    split: &str,
    samples: &[Sample<T>],
    starts: &[Vec<Parameter>],
    predict: impl Fn(&[f64], &T) -> f64,
) -> (Vec<f64>, Vec<Fit>) {
    let held_keys = held_out_keys(samples);
    let is_held = |sample: &&Sample<T>| held_keys.binary_search(&sample.key).is_ok();
    let mut train: Vec<&Sample<T>> = samples.iter().filter(|s| !is_held(s)).collect();
    // Evenly over the table, which is in order of shape.
    let step = train.len().div_ceil(MOST_ROWS).max(1);
    train = train.into_iter().step_by(step).collect();
    let mut by_source: BTreeMap<&str, usize> = BTreeMap::new();
    train.iter().for_each(|s| *by_source.entry(&s.source).or_default() += 1);
    // Each source counts alike, however many rows it has.
    let share = train.len() as f64 / by_source.len().max(1) as f64;
    let residuals = |values: &[f64]| -> Vec<f64> {
        train
            .iter()
            .map(|s| {
                let weight = (share / by_source[s.source.as_str()] as f64).sqrt();
                weight * soft((predict(values, &s.shape) / s.seconds).ln())
            })
            .collect()
    };
    let best = starts
        .iter()
        .map(|start| least_squares(start, 1.0, residuals))
        .min_by(|a, b| {
            let sum = |rows: &[f64]| rows.iter().map(|r| r * r).sum::<f64>();
            sum(&a.residuals).total_cmp(&sum(&b.residuals))
        })
        .expect("at least one start");
    let held: Vec<&Sample<T>> = samples.iter().filter(is_held).collect();
    let judged = if held.is_empty() { samples.iter().collect() } else { held };
    let fits = by_source
        .keys()
        .filter_map(|source| {
            let rows: Vec<(&str, f64)> = judged
                .iter()
                .filter(|s| s.source == **source)
                .map(|s| (s.region, (predict(&best.values, &s.shape) / s.seconds - 1.0).abs()))
                .collect();
            let errors: Vec<f64> = rows.iter().map(|(_, error)| *error).collect();
            let fitted = by_source[source];
            (!errors.is_empty()).then(|| Fit {
                surface: surface.to_owned(),
                rows: u32::try_from(fitted).unwrap_or(u32::MAX),
                median_percent: percent(&errors, 0.5),
                p90_percent: percent(&errors, 0.9),
                on: format!("{} {split}; {}", errors.len(), regions(&rows)),
                source: (*source).to_owned(),
            })
        })
        .collect();
    (best.values, fits)
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

/// A free parameter: starts at `start`, may go from `low` to `high`.
fn free(name: &str, start: f64, low: f64, high: f64) -> Parameter {
    Parameter {
        name: name.to_owned(),
        guess: start,
        start: start.clamp(low, high),
        spread: f64::INFINITY,
        bounds: (low, high),
    }
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
