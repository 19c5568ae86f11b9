//! A distribution of durations, each with a weight: exact as long as it is small.
//!
//! Mean, standard deviation, minimum and maximum are always exact (integer sums). Percentiles are
//! exact up to [`EXACT_LIMIT`] distinct values; beyond, they come from a [`Histogram`] and are off by
//! at most [`RELATIVE_ERROR`](super::histogram::RELATIVE_ERROR).
//!
//! The histogram is kept from the first value on, which also makes the exact percentiles cheap: it
//! says which bucket holds the wanted rank, and only the values of that bucket need sorting.

use super::histogram::{Histogram, bucket_of, middle_of};
use super::quantile::Position;
use crate::time::SimDuration;

/// Distinct values up to which percentiles are exact.
///
/// Distinct, not recorded: a stretch of equal gaps may come as one entry with a large weight or as
/// many, and which it is must not show in the result.
pub const EXACT_LIMIT: usize = 100_000;

/// Entries held before equal ones are merged.
const BUFFER: usize = 1 << 17;

/// A weighted multiset of durations.
#[derive(Clone, Debug)]
pub struct Distribution {
    count: u64,
    /// Nanoseconds; an hour squared, 10^10 times, stays below 2^128.
    sum: u128,
    sum_of_squares: u128,
    min: u64,
    max: u64,
    histogram: Histogram,
    /// Values with weights, until there are too many.
    exact: Option<Vec<(u64, u64)>>,
    limit: usize,
    buffer: usize,
}

impl Default for Distribution {
    fn default() -> Self {
        Self::with_limit(EXACT_LIMIT, BUFFER)
    }
}

impl Distribution {
    fn with_limit(limit: usize, buffer: usize) -> Self {
        Self {
            count: 0,
            sum: 0,
            sum_of_squares: 0,
            min: u64::MAX,
            max: 0,
            histogram: Histogram::default(),
            exact: Some(Vec::new()),
            limit,
            buffer,
        }
    }

    /// Adds `value` as if it came `weight` times.
    pub fn record(&mut self, value: SimDuration, weight: u64) {
        if weight == 0 {
            return;
        }
        let value = value.as_nanos();
        self.count += weight;
        let product = u128::from(value) * u128::from(weight);
        self.sum += product;
        self.sum_of_squares = self.sum_of_squares.saturating_add(product * u128::from(value));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.histogram.add(value, weight);
        if let Some(exact) = &mut self.exact {
            exact.push((value, weight));
            if exact.len() >= self.buffer {
                self.merge_equal();
            }
        }
    }

    /// Merges equal values and gives up exactness if too many are left.
    fn merge_equal(&mut self) {
        let Some(exact) = &mut self.exact else { return };
        if exact.len() <= self.limit {
            return;
        }
        exact.sort_unstable_by_key(|&(value, _)| value);
        exact.dedup_by(|later, kept| {
            let equal = later.0 == kept.0;
            if equal {
                kept.1 += later.1;
            }
            equal
        });
        if exact.len() > self.limit {
            self.exact = None;
        }
    }

    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether percentiles are within the histogram's error only.
    pub fn is_approximate(&mut self) -> bool {
        self.merge_equal();
        self.exact.is_none()
    }

    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Standard deviation of the population (numpy's default, `ddof=0`).
    pub fn std(&self) -> Option<f64> {
        let mean = self.mean()?;
        // The exact integers lose nothing; only this difference rounds.
        let scaled = self
            .sum_of_squares
            .checked_mul(u128::from(self.count))
            .zip(self.sum.checked_mul(self.sum))
            .map(|(squares, square)| squares.saturating_sub(square) as f64)
            .map(|difference| difference / self.count as f64 / self.count as f64);
        let variance = scaled
            .unwrap_or_else(|| self.sum_of_squares as f64 / self.count as f64 - mean * mean)
            .max(0.0);
        Some(variance.sqrt())
    }

    pub fn min(&self) -> Option<f64> {
        (self.count > 0).then_some(self.min as f64)
    }

    pub fn max(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max as f64)
    }

    /// The percentiles in nanoseconds, in the order asked for; `None` without values.
    pub fn percentiles(&mut self, percents: &[f64]) -> Option<Vec<f64>> {
        self.merge_equal();
        let positions: Vec<_> =
            percents.iter().map(|&p| Position::of(p, self.count)).collect::<Option<_>>()?;
        let mut ranks: Vec<_> = positions.iter().flat_map(|p| [p.low, p.high]).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let values = self.values_at(&ranks);
        let value_at = |rank: u64| values[ranks.partition_point(|&r| r < rank)];
        Some(positions.iter().map(|p| p.interpolate(value_at(p.low), value_at(p.high))).collect())
    }

    /// The values with the given ranks (ascending).
    fn values_at(&self, ranks: &[u64]) -> Vec<f64> {
        let located = self.histogram.locate(ranks);
        let Some(exact) = &self.exact else {
            // The middle of the first and last bucket may lie outside of what was seen.
            let (min, max) = (self.min as f64, self.max as f64);
            return located.iter().map(|l| middle_of(l.bucket).clamp(min, max)).collect();
        };
        let Some(last) = located.last() else { return Vec::new() };
        let mut wanted = vec![false; last.bucket + 1];
        located.iter().for_each(|l| wanted[l.bucket] = true);
        let mut near: Vec<_> = exact
            .iter()
            .filter(|(value, _)| *wanted.get(bucket_of(*value)).unwrap_or(&false))
            .copied()
            .collect();
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
            let mut distribution = filled(Distribution::default(), &values);
            let list = expanded(&values);
            let want: Vec<_> =
                PERCENTS.iter().map(|&p| percentile_of_sorted(&list, p).unwrap()).collect();
            prop_assert_eq!(distribution.percentiles(&PERCENTS).unwrap(), want);
            let mean = list.iter().sum::<f64>() / list.len() as f64;
            prop_assert!((distribution.mean().unwrap() - mean).abs() <= 1e-9 * mean);
            let variance =
                list.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / list.len() as f64;
            let std = distribution.std().unwrap();
            prop_assert!((std - variance.sqrt()).abs() <= 1e-6 * variance.sqrt() + 1e-9 * mean);
        }

        #[test]
        fn beyond_the_limit_percentiles_stay_within_the_stated_error(values in weighted_values()) {
            let mut exact = filled(Distribution::default(), &values);
            let mut sketch = filled(Distribution::with_limit(0, 1), &values);
            prop_assert!(sketch.is_approximate());
            let want = exact.percentiles(&PERCENTS).unwrap();
            for (got, want) in sketch.percentiles(&PERCENTS).unwrap().into_iter().zip(want) {
                prop_assert!((got - want).abs() <= want * RELATIVE_ERROR * (1.0 + 1e-9));
            }
            prop_assert_eq!(sketch.mean(), exact.mean());
            prop_assert_eq!(sketch.std(), exact.std());
        }

        #[test]
        fn the_grouping_of_equal_values_does_not_show(values in weighted_values()) {
            // One entry of weight w against w entries of weight 1, with a limit in between.
            let limit = 100;
            let mut whole = filled(Distribution::with_limit(limit, limit + 7), &values);
            let single: Vec<_> = values
                .iter()
                .flat_map(|&(v, w)| (0..w).map(move |_| (v, 1)))
                .collect();
            let mut split = filled(Distribution::with_limit(limit, limit + 7), &single);
            prop_assert_eq!(whole.is_approximate(), split.is_approximate());
            prop_assert_eq!(whole.percentiles(&PERCENTS), split.percentiles(&PERCENTS));
            prop_assert_eq!(whole.std(), split.std());
        }
    }

    #[test]
    fn a_distribution_of_a_million_values_forgets_them() {
        let mut distribution = Distribution::default();
        for value in 0..1_000_000u64 {
            distribution.record(SimDuration::from_nanos(value), 1);
        }
        assert!(distribution.is_approximate() && distribution.exact.is_none());
        let median = distribution.percentiles(&[50.0]).unwrap()[0];
        assert!((median / 499_999.5 - 1.0).abs() <= RELATIVE_ERROR, "{median}");
    }

    #[test]
    fn many_repeats_of_few_values_stay_exact() {
        let mut distribution = Distribution::default();
        for i in 0..1_000_000u64 {
            distribution.record(SimDuration::from_nanos(i % 1000), 1);
        }
        assert!(!distribution.is_approximate());
        assert_eq!(distribution.percentiles(&[50.0]).unwrap(), [499.5]);
    }

    #[test]
    fn nothing_recorded_has_no_figures() {
        let mut empty = Distribution::default();
        assert_eq!((empty.mean(), empty.std(), empty.min(), empty.max()), (None, None, None, None));
        assert_eq!(empty.percentiles(&[50.0]), None);
    }
}
