//! Percentiles as numpy computes them (`method="linear"`, the default), which vLLM's, aiperf's and
//! pandas' figures are: the value at position `(n - 1) * p / 100` of the sorted list, with linear
//! interpolation between neighbours. And as guidellm does: the first value at or below which at
//! least the wanted share of the list lies.

/// How a percentile is taken from a sorted list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantile {
    #[default]
    Linear,
    /// A value of the list, without interpolation.
    Step,
}

/// Where a percentile lies in a sorted list: between two positions, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    pub low: u64,
    pub high: u64,
    /// How far from `low` to `high`, 0 to 1.
    pub fraction: f64,
}

impl Position {
    /// Position of `percent` (0 to 100) in a list of `count` values; `None` if it is empty.
    pub fn of(percent: f64, count: u64) -> Option<Self> {
        let last = count.checked_sub(1)?;
        let position = last as f64 * (percent / 100.0).clamp(0.0, 1.0);
        let low = (position.floor() as u64).min(last);
        let high = (low + 1).min(last);
        Some(Self { low, high, fraction: position - low as f64 })
    }

    /// The same by another rule.
    pub fn by(quantile: Quantile, percent: f64, count: u64) -> Option<Self> {
        match quantile {
            Quantile::Linear => Self::of(percent, count),
            Quantile::Step => {
                let last = count.checked_sub(1)?;
                // The share that a percent stands for is inexact: 0.9 x 10 values are 9 and not 10.
                let wanted = percent.clamp(0.0, 100.0) * count as f64 / 100.0;
                let nearest = wanted.round();
                let wanted = if (wanted - nearest).abs() < 1e-9 { nearest } else { wanted.ceil() };
                let rank = (wanted as u64).saturating_sub(1).min(last);
                Some(Self { low: rank, high: rank, fraction: 0.0 })
            }
        }
    }

    /// Between the values at `low` and `high`; from the nearer end, as numpy does, so that the
    /// result never leaves the interval through rounding.
    pub fn interpolate(&self, low: f64, high: f64) -> f64 {
        let span = high - low;
        if self.fraction >= 0.5 {
            high - span * (1.0 - self.fraction)
        } else {
            low + span * self.fraction
        }
    }
}

/// The percentile of values in ascending order; `None` if there are none.
pub fn percentile_of_sorted(sorted: &[f64], percent: f64) -> Option<f64> {
    let position = Position::of(percent, sorted.len() as u64)?;
    Some(position.interpolate(sorted[position.low as usize], sorted[position.high as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_agree_with_numpy() {
        // numpy.percentile([1, 2, 4, 8, 16], [0, 10, 50, 90, 95, 99, 100])
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        let expected = [1.0, 1.4, 4.0, 12.8, 14.4, 15.68, 16.0];
        for (percent, want) in [0.0, 10.0, 50.0, 90.0, 95.0, 99.0, 100.0].into_iter().zip(expected)
        {
            let got = percentile_of_sorted(&values, percent).unwrap();
            assert!((got - want).abs() < 1e-12, "p{percent}: {got}, numpy says {want}");
        }
    }

    #[test]
    fn a_step_percentile_is_the_first_value_with_the_wanted_share_below() {
        let rank = |percent, count| Position::by(Quantile::Step, percent, count).unwrap().low;
        assert_eq!([50.0, 75.0, 90.0, 99.0].map(|p| rank(p, 8)), [3, 5, 7, 7]);
        assert_eq!([0.1, 10.0, 90.0, 90.1, 100.0].map(|p| rank(p, 10)), [0, 0, 8, 9, 9]);
        assert_eq!(Position::by(Quantile::Step, 50.0, 0), None);
    }

    #[test]
    fn one_value_is_every_percentile_and_none_has_none() {
        assert_eq!(percentile_of_sorted(&[7.0], 99.0), Some(7.0));
        assert_eq!(percentile_of_sorted(&[], 50.0), None);
    }
}
