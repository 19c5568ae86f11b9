//! Confidence intervals over independent repetitions (seeds).

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Probability that an interval holds the true mean.
pub const LEVEL: f64 = 0.95;

/// A mean with its two-sided 95 % Student-t interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    pub half_width: f64,
}

/// The range in which a measurement is expected, with a probability of 80 and of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    pub low_80: f64,
    pub high_80: f64,
    pub low_95: f64,
    pub high_95: f64,
}

impl Band {
    pub fn holds_80(&self, value: f64) -> bool {
        (self.low_80..=self.high_80).contains(&value)
    }

    pub fn holds_95(&self, value: f64) -> bool {
        (self.low_95..=self.high_95).contains(&value)
    }
}

impl Interval {
    /// Of single samples around their mean; `None` for fewer than two.
    pub fn standard_deviation(samples: &[f64]) -> Option<f64> {
        if samples.len() < 2 {
            return None;
        }
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
        Some((squares / (n - 1.0)).sqrt())
    }

    /// Of independent samples of one quantity; `None` for fewer than two, which say nothing about
    /// their spread.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let error = Self::standard_deviation(samples)? / (samples.len() as f64).sqrt();
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let half_width = t_quantile(samples.len() - 1) * error;
        Some(Self { mean, low: mean - half_width, high: mean + half_width, half_width })
    }
}

/// How many standard errors the interval reaches to either side.
fn t_quantile(freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom as f64)
        .expect("at least one degree of freedom")
        .inverse_cdf(0.5 + LEVEL / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_printed_tables() {
        for (freedom, table) in [(1, 12.706), (4, 2.776), (31, 2.040), (1000, 1.962)] {
            assert!((t_quantile(freedom) - table).abs() < 5e-4, "{freedom} degrees of freedom");
        }
    }

    #[test]
    fn the_interval_of_five_samples_is_the_textbook_one() {
        // Mean 3, standard error sqrt(2.5 / 5), t = 2.776.
        let interval = Interval::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!(interval.mean, 3.0);
        assert!((interval.half_width - 1.963).abs() < 1e-3, "{interval:?}");
    }

    #[test]
    fn one_sample_has_no_interval() {
        assert_eq!(Interval::of(&[1.0]), None);
    }

    #[test]
    fn equal_samples_have_an_interval_without_width() {
        assert_eq!(Interval::of(&[2.0; 8]).unwrap().half_width, 0.0);
    }
}
