//! A distribution of durations, each with a weight: exact as long as it is small.
//!
//! Mean, standard deviation, minimum and maximum are always exact (integer sums). Percentiles are
//! exact up to [`EXACT_LIMIT`] entries; beyond, they come from a [`Histogram`] and are off by at most
//! [`RELATIVE_ERROR`](super::histogram::RELATIVE_ERROR).
//!
//! Recording is an append, since it is done for every step and five times for every request. Entries
//! are worked through together: once at the end if there are few, in blocks if there are many.

use super::histogram::{Histogram, bucket_of, middle_of};
use super::quantile::{Position, Quantile};
use crate::time::SimDuration;

/// Entries up to which percentiles are exact. The gaps of all sequences that get a token in one step
/// and waited equally long for it are one entry, so a run that jumps over steps and a run that takes
/// them one by one make equally many.
pub const EXACT_LIMIT: usize = 100_000;

/// Entries that are sorted rather than counted into buckets, of which there are 7,424.
const FEW: usize = 1024;

/// Entries worked through at a time once exactness is given up; they stay in the nearest cache.
const BLOCK: usize = 1024;

/// A weighted multiset of durations.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// Nanoseconds in the order of recording: of all entries, or of those since the last block.
    values: Vec<u64>,
    /// As many, or none while all are 1, as they are for whatever a request has one of.
    weights: Vec<u64>,
    /// How many make it time to work through them.
    full: usize,
    /// What was worked through, once there were too many entries to keep.
    sketch: Option<Box<Sketch>>,
}

/// What is known of entries that are not kept.
#[derive(Clone, Debug, Default)]
struct Sketch {
    moments: Moments,
    histogram: Histogram,
}

/// Integer sums; the order of the entries does not show in them.
#[derive(Clone, Copy, Debug)]
struct Moments {
    count: u64,
    /// Nanoseconds; an hour squared, 10^10 times, stays below 2^128.
    sum: u128,
    sum_of_squares: u128,
    min: u64,
    max: u64,
}

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0, sum: 0, sum_of_squares: 0, min: u64::MAX, max: 0 }
    }
}

/// Below these the squares of all entries that are added together, with their weights, come to less
/// than 2^128: 9.7 hours, and 65,536 sequences.
const SMALL: u64 = 1 << 45;
const LIGHT: u64 = 1 << 16;

impl Sketch {
    fn add(&mut self, values: &[u64], weights: &[u64]) {
        let histogram = &mut self.histogram;
        self.moments.add(values, weights, |value, weight| histogram.add(value, weight));
    }
}

impl Moments {
    /// Adds entries, each of which is also shown to `each`.
    #[inline]
    fn add(&mut self, values: &[u64], weights: &[u64], mut each: impl FnMut(u64, u64)) {
        // No bit that one of them has is above the bound.
        let largest = values.iter().fold(0, |bits, &value| bits | value);
        let heaviest = weights.iter().fold(1, |bits, &weight| bits | weight);
        if values.len() <= EXACT_LIMIT + 1 && largest < SMALL && heaviest < LIGHT {
            self.add_small(values, weights, each);
            return;
        }
        for (i, &value) in values.iter().enumerate() {
            let weight = weights.get(i).copied().unwrap_or(1);
            each(value, weight);
            let product = u128::from(value) * u128::from(weight);
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.count += weight;
            self.sum += product;
            let squares = product * u128::from(value);
            self.sum_of_squares = self.sum_of_squares.saturating_add(squares);
        }
    }

    /// The same of entries whose products fit 64 bits.
    #[inline]
    fn add_small(&mut self, values: &[u64], weights: &[u64], mut each: impl FnMut(u64, u64)) {
        let mut sums = Self { min: self.min, max: self.max, ..Self::default() };
        let mut add = |value: u64, weight: u64| {
            each(value, weight);
            let product = value * weight;
            // In the same loop: without SSE 4 vectors have no unsigned comparison of 64 bits, and
            // a loop of its own would emulate one.
            sums.min = sums.min.min(value);
            sums.max = sums.max.max(value);
            sums.count += weight;
            sums.sum += u128::from(product);
            sums.sum_of_squares += u128::from(product) * u128::from(value);
        };
        if weights.is_empty() {
            values.iter().for_each(|&value| add(value, 1));
        } else {
            values.iter().zip(weights).for_each(|(&value, &weight)| add(value, weight));
        }
        let Self { count, sum, sum_of_squares, min, max } = sums;
        *self = Self {
            count: self.count + count,
            sum: self.sum + sum,
            sum_of_squares: self.sum_of_squares.saturating_add(sum_of_squares),
            min,
            max,
        };
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / self.count as f64
    }

    fn std(&self) -> f64 {
        // The exact integers lose nothing; only this difference rounds.
        let scaled = self
            .sum_of_squares
            .checked_mul(u128::from(self.count))
            .zip(self.sum.checked_mul(self.sum))
            .map(|(squares, square)| squares.saturating_sub(square) as f64)
            .map(|difference| difference / self.count as f64 / self.count as f64);
        let variance = scaled.unwrap_or_else(|| {
            self.sum_of_squares as f64 / self.count as f64 - self.mean() * self.mean()
        });
        variance.max(0.0).sqrt()
    }
}

/// What a distribution amounts to, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    pub count: u64,
    pub mean: f64,
    /// Of the population (numpy's default, `ddof=0`).
    pub std: f64,
    pub min: f64,
    pub max: f64,
    /// In the order asked for.
    pub percentiles: Vec<f64>,
}

impl Default for Distribution {
    fn default() -> Self {
        Self::with_limit(EXACT_LIMIT)
    }
}

impl Distribution {
    fn with_limit(limit: usize) -> Self {
        Self { values: Vec::new(), weights: Vec::new(), full: limit + 1, sketch: None }
    }

    /// Adds `value` as if it came `weight` times.
    #[inline]
    pub fn record(&mut self, value: SimDuration, weight: u64) {
        if weight == 0 {
            return;
        }
        if weight != 1 || !self.weights.is_empty() {
            self.weigh(weight);
        }
        self.values.push(value.as_nanos());
        if self.values.len() >= self.full {
            self.fold();
        }
    }

    /// Adds each of `values` as if it came `weight` times.
    pub fn record_each(&mut self, values: &[SimDuration], weight: u64) {
        if weight == 0 || values.is_empty() {
            return;
        }
        if weight != 1 || !self.weights.is_empty() {
            self.weights.resize(self.values.len(), 1);
            self.weights.resize(self.values.len() + values.len(), weight);
        }
        self.values.extend(values.iter().map(|value| value.as_nanos()));
        if self.values.len() >= self.full {
            self.fold();
        }
    }

    /// The weight of the value to come.
    #[inline]
    fn weigh(&mut self, weight: u64) {
        if self.weights.is_empty() {
            self.weights.resize(self.values.len(), 1);
        }
        self.weights.push(weight);
    }

    #[cold]
    fn fold(&mut self) {
        self.sketch.get_or_insert_default().add(&self.values, &self.weights);
        for list in [&mut self.values, &mut self.weights] {
            list.clear();
            list.shrink_to(BLOCK);
        }
        self.full = BLOCK;
    }

    /// Whether percentiles are within the histogram's error only.
    pub const fn is_approximate(&self) -> bool {
        self.sketch.is_some()
    }

    /// All figures at once; `None` without values.
    pub fn figures(&self, percents: &[f64]) -> Option<Figures> {
        self.figures_by(Quantile::Linear, percents)
    }

    /// The same with percentiles by another rule.
    pub fn figures_by(&self, quantile: Quantile, percents: &[f64]) -> Option<Figures> {
        let few = self.values.len() <= FEW && !self.is_approximate();
        let (moments, histogram) = if few {
            let mut moments = Moments::default();
            moments.add(&self.values, &self.weights, |_, _| {});
            (moments, None)
        } else {
            let mut all = self.sketch.as_deref().cloned().unwrap_or_default();
            all.add(&self.values, &self.weights);
            (all.moments, Some(all.histogram))
        };
        let positions: Vec<_> = percents
            .iter()
            .map(|&p| Position::by(quantile, p, moments.count))
            .collect::<Option<_>>()?;
        let mut ranks: Vec<_> = positions.iter().flat_map(|p| [p.low, p.high]).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let values = match histogram {
            None => self.sorted_values_at(&ranks),
            Some(histogram) if self.is_approximate() => {
                // The middle of the first and last bucket may lie outside of what was seen.
                let (min, max) = (moments.min as f64, moments.max as f64);
                let located = histogram.locate(&ranks);
                located.iter().map(|l| middle_of(l.bucket).clamp(min, max)).collect()
            }
            Some(histogram) => self.values_at(&ranks, &histogram),
        };
        let value_at = |rank: u64| values[ranks.partition_point(|&r| r < rank)];
        let between = |p: &Position| p.interpolate(value_at(p.low), value_at(p.high));
        Some(Figures {
            count: moments.count,
            mean: moments.mean(),
            std: moments.std(),
            min: moments.min as f64,
            max: moments.max as f64,
            percentiles: positions.iter().map(between).collect(),
        })
    }

    fn weighted(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.values.iter().enumerate().map(|(i, &value)| (value, self.weight(i)))
    }

    fn weight(&self, entry: usize) -> u64 {
        self.weights.get(entry).copied().unwrap_or(1)
    }

    /// The values with the given ranks (ascending), of few.
    fn sorted_values_at(&self, ranks: &[u64]) -> Vec<f64> {
        let mut sorted: Vec<_> = self.weighted().collect();
        sorted.sort_unstable_by_key(|&(value, _)| value);
        let (mut next, mut passed) = (0, 0);
        let mut at = |rank: u64| {
            while passed + sorted[next].1 <= rank {
                passed += sorted[next].1;
                next += 1;
            }
            sorted[next].0 as f64
        };
        ranks.iter().map(|&rank| at(rank)).collect()
    }

    /// The values with the given ranks (ascending). The histogram says which bucket holds each, and
    /// only the values of those buckets need sorting.
    fn values_at(&self, ranks: &[u64], histogram: &Histogram) -> Vec<f64> {
        let located = histogram.locate(ranks);
        let Some(last) = located.last() else { return Vec::new() };
        let mut wanted = vec![false; last.bucket + 1];
        located.iter().for_each(|l| wanted[l.bucket] = true);
        // Most values are in none of them: their weights are not looked at.
        let is_near = |value: u64| wanted.get(bucket_of(value)).is_some_and(|&wanted| wanted);
        let near = self.values.iter().enumerate().filter(|&(_, &value)| is_near(value));
        let mut near: Vec<_> = near.map(|(i, &value)| (value, self.weight(i))).collect();
        near.sort_unstable_by_key(|&(value, _)| value);

        let mut found = Vec::with_capacity(ranks.len());
        let (mut next, mut bucket, mut passed) = (0, usize::MAX, 0);
        for (&rank, at) in ranks.iter().zip(&located) {
            if bucket != at.bucket {
                bucket = at.bucket;
                passed = at.below;
                while bucket_of(near[next].0) != bucket {
                    next += 1;
                }
            }
            while passed + near[next].1 <= rank {
                passed += near[next].1;
                next += 1;
            }
            found.push(near[next].0 as f64);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::RELATIVE_ERROR;
    use super::super::quantile::percentile_of_sorted;
    use super::*;
    use proptest::prelude::*;

    const PERCENTS: [f64; 7] = [0.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0];

    fn filled(mut into: Distribution, values: &[(u64, u64)]) -> Distribution {
        values.iter().for_each(|&(v, w)| into.record(SimDuration::from_nanos(v), w));
        into
    }

    /// Each value as often as its weight says, sorted.
    fn expanded(values: &[(u64, u64)]) -> Vec<f64> {
        let mut list: Vec<_> =
            values.iter().flat_map(|&(v, w)| (0..w).map(move |_| v as f64)).collect();
        list.sort_by(f64::total_cmp);
        list
    }

    fn weighted_values() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let value = prop_oneof![0u64..300, 1_000_000u64..1_200_000, 0u64..10_000_000_000];
        prop::collection::vec((value, 1u64..6), 1..200)
    }

    proptest! {
        #[test]
        fn weighted_percentiles_are_those_of_the_expanded_list(values in weighted_values()) {
            let figures = filled(Distribution::default(), &values).figures(&PERCENTS).unwrap();
            let list = expanded(&values);
            let want: Vec<_> =
                PERCENTS.iter().map(|&p| percentile_of_sorted(&list, p).unwrap()).collect();
            prop_assert_eq!(figures.percentiles, want);
            let mean = list.iter().sum::<f64>() / list.len() as f64;
            prop_assert!((figures.mean - mean).abs() <= 1e-9 * mean);
            let variance =
                list.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / list.len() as f64;
            let std = figures.std;
            prop_assert!((std - variance.sqrt()).abs() <= 1e-6 * variance.sqrt() + 1e-9 * mean);
            prop_assert_eq!((figures.min, figures.max), (list[0], list[list.len() - 1]));
        }

        #[test]
        fn beyond_the_limit_percentiles_stay_within_the_stated_error(values in weighted_values()) {
            let exact = filled(Distribution::default(), &values).figures(&PERCENTS).unwrap();
            let sketch = filled(Distribution::with_limit(0), &values);
            prop_assert!(sketch.is_approximate());
            let sketch = sketch.figures(&PERCENTS).unwrap();
            for (got, want) in sketch.percentiles.iter().zip(&exact.percentiles) {
                prop_assert!((got - want).abs() <= want * RELATIVE_ERROR * (1.0 + 1e-9));
            }
            prop_assert_eq!((sketch.mean, sketch.std), (exact.mean, exact.std));
        }

        #[test]
        fn values_recorded_together_count_as_one_by_one(
            runs in prop::collection::vec(
                (prop::collection::vec(0u64..10_000_000_000, 0..9), 0u64..4), 0..20,
            ),
            limit in 0usize..60,
        ) {
            let (mut together, mut singly) =
                (Distribution::with_limit(limit), Distribution::with_limit(limit));
            for (values, weight) in runs {
                let values: Vec<_> = values.into_iter().map(SimDuration::from_nanos).collect();
                together.record_each(&values, weight);
                values.iter().for_each(|&value| singly.record(value, weight));
            }
            prop_assert_eq!(together.is_approximate(), singly.is_approximate());
            prop_assert_eq!(together.figures(&PERCENTS), singly.figures(&PERCENTS));
        }

        #[test]
        fn the_order_of_recording_does_not_show(values in weighted_values(), limit in 0usize..150) {
            let forwards = filled(Distribution::with_limit(limit), &values);
            let mut reversed = values;
            reversed.reverse();
            let backwards = filled(Distribution::with_limit(limit), &reversed);
            prop_assert_eq!(forwards.is_approximate(), backwards.is_approximate());
            prop_assert_eq!(forwards.figures(&PERCENTS), backwards.figures(&PERCENTS));
        }
    }

    #[test]
    fn a_distribution_of_a_million_values_forgets_them() {
        let mut distribution = Distribution::default();
        for value in 0..1_000_000u64 {
            distribution.record(SimDuration::from_nanos(value), 1);
        }
        assert!(distribution.is_approximate() && distribution.values.capacity() <= 2 * BLOCK);
        let figures = distribution.figures(&[50.0]).unwrap();
        assert_eq!((figures.count, figures.mean), (1_000_000, 499_999.5));
        assert!((figures.percentiles[0] / 499_999.5 - 1.0).abs() <= RELATIVE_ERROR, "{figures:?}");
    }

    #[test]
    fn up_to_the_limit_percentiles_are_exact() {
        let mut distribution = Distribution::default();
        for i in 0..EXACT_LIMIT as u64 {
            distribution.record(SimDuration::from_nanos(1_000_000 + i), 1);
        }
        assert!(!distribution.is_approximate());
        assert_eq!(distribution.figures(&[50.0]).unwrap().percentiles, [1_049_999.5]);
        distribution.record(SimDuration::from_nanos(1), 1);
        assert!(distribution.is_approximate());
    }

    #[test]
    fn weeks_and_crowds_add_up_as_well() {
        for (long, many) in [(SMALL, 3), (1000, LIGHT), (SMALL, LIGHT)] {
            let values = [(long, many), (long / 2, many)];
            let figures = filled(Distribution::default(), &values).figures(&[100.0]).unwrap();
            assert_eq!(figures.count, 2 * many);
            assert_eq!(figures.mean, 0.75 * long as f64);
            assert_eq!(figures.std, 0.25 * long as f64);
        }
    }

    #[test]
    fn nothing_recorded_has_no_figures() {
        assert_eq!(Distribution::default().figures(&[50.0]), None);
    }
}
