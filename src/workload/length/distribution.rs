//! Distributions of a number of tokens.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Zipf};
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal};

/// A distribution of whole numbers from 1 on.
///
/// Cuts (`min`, `max`) truncate: the values outside are as if they had been drawn again, and do not
/// heap up at the cut. Except for Zipf's, one draw makes one value, and a larger draw never a smaller
/// value, so that the same seed gives longer prompts where the median is larger, and not others.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum LengthDistribution {
    /// Always the same.
    Fixed(u32),
    /// Every whole number from `min` to `max` alike.
    Uniform { min: u32, max: u32 },
    /// A normal distribution, rounded.
    Normal { mean: f64, stddev: f64, min: u32, max: u32 },
    /// A log-normal distribution, rounded: ln(x / median) is normal with deviation `sigma`.
    LogNormal { median: f64, sigma: f64, min: u32, max: u32 },
    /// `min` + k - 1 with a probability proportional to k^-exponent, k from 1.
    Zipf { exponent: f64, min: u32, max: u32 },
    /// Bin i is drawn in proportion to `counts[i]`; within it, every whole number from `edges[i]` to
    /// below `edges[i + 1]` alike, the last edge included in the last bin (numpy's convention).
    Histogram { edges: Vec<u32>, counts: Vec<f64> },
}

impl LengthDistribution {
    /// The share of the uncut distribution that lies between the cuts.
    pub fn share_within_cuts(&self) -> f64 {
        self.normal().map_or(1.0, |(_, low, high)| high - low)
    }

    /// The normal distribution behind it, and its cumulative probability at the cuts, half a token
    /// outside of them, as values are rounded.
    fn normal(&self) -> Option<(Normal, f64, f64)> {
        let (normal, min, max) = match *self {
            Self::Normal { mean, stddev, min, max } => {
                (Normal::new(mean, stddev).ok()?, f64::from(min) - 0.5, f64::from(max) + 0.5)
            }
            Self::LogNormal { median, sigma, min, max } => {
                let log = |tokens: f64| tokens.ln();
                let normal = Normal::new(median.ln(), sigma).ok()?;
                (normal, log(f64::from(min) - 0.5), log(f64::from(max) + 0.5))
            }
            _ => return None,
        };
        Some((normal, normal.cdf(min), normal.cdf(max)))
    }
}

/// A distribution made ready to be drawn from.
#[derive(Clone, Debug)]
pub(super) enum Sampler {
    Fixed(u32),
    Uniform {
        min: u32,
        max: u32,
    },
    /// Truncated between two cumulative probabilities.
    Normal {
        normal: Normal,
        low: f64,
        high: f64,
        log: bool,
        min: u32,
        max: u32,
    },
    Zipf {
        zipf: Zipf<f64>,
        min: u32,
        max: u32,
    },
    /// Bins as (cumulative share at their end, first, last).
    Bins(Vec<(f64, u32, u32)>),
}

impl Sampler {
    pub(super) fn new(distribution: &LengthDistribution) -> Self {
        match *distribution {
            LengthDistribution::Fixed(tokens) => Self::Fixed(tokens),
            LengthDistribution::Uniform { min, max } => Self::Uniform { min, max },
            LengthDistribution::Normal { min, max, .. }
            | LengthDistribution::LogNormal { min, max, .. } => {
                let (normal, low, high) =
                    distribution.normal().expect("deviations are checked to be above zero");
                let log = matches!(distribution, LengthDistribution::LogNormal { .. });
                Self::Normal { normal, low, high, log, min, max }
            }
            LengthDistribution::Zipf { exponent, min, max } => {
                let values = f64::from(max - min) + 1.0;
                let zipf = Zipf::new(values, exponent).expect("exponents are checked");
                Self::Zipf { zipf, min, max }
            }
            LengthDistribution::Histogram { ref edges, ref counts } => {
                let all: f64 = counts.iter().sum();
                let mut below = 0.0;
                let last = counts.len().saturating_sub(1);
                let bins = counts.iter().zip(edges.windows(2)).enumerate().map(|(i, (n, edge))| {
                    below += n / all;
                    (below, edge[0], if i == last { edge[1] } else { edge[1] - 1 })
                });
                Self::Bins(bins.collect())
            }
        }
    }

    pub(super) fn sample(&self, rng: &mut ChaCha8Rng) -> u32 {
        match *self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform { min, max } => rng.random_range(min..=max),
            Self::Normal { ref normal, low, high, log, min, max } => {
                let at = low + rng.random::<f64>() * (high - low);
                let x = normal.inverse_cdf(at);
                let x = if log { x.exp() } else { x };
                // The cast saturates.
                (x.round() as u32).clamp(min, max)
            }
            Self::Zipf { ref zipf, min, max } => {
                let rank = zipf.sample(rng) as u32;
                min.saturating_add(rank.saturating_sub(1)).min(max)
            }
            Self::Bins(ref bins) => {
                // One draw for the bin and the place in it.
                let at: f64 = rng.random();
                let bin = bins.partition_point(|&(end, ..)| end <= at).min(bins.len() - 1);
                let start = if bin == 0 { 0.0 } else { bins[bin - 1].0 };
                let (end, first, last) = bins[bin];
                let share = ((at - start) / (end - start)).clamp(0.0, 1.0);
                let step = (share * (f64::from(last - first) + 1.0)) as u32;
                first + step.min(last - first)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Use, stream};
    use proptest::prelude::*;

    const N: usize = 20_000;

    fn draws(distribution: &LengthDistribution, seed: u64) -> Vec<u32> {
        let sampler = Sampler::new(distribution);
        let mut rng = stream(seed, Use::Lengths);
        (0..N).map(|_| sampler.sample(&mut rng)).collect()
    }

    fn mean(values: &[u32]) -> f64 {
        values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
    }

    /// Fails if the values are not of the distribution, at level 0.001 (Massey 1951); `cdf` at whole
    /// numbers, where a distance can only be smaller than for a continuous one.
    fn assert_distributed(values: &[u32], cdf: impl Fn(u32) -> f64) {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let n = sorted.len();
        for (i, pair) in sorted.windows(2).enumerate() {
            if pair[0] != pair[1] {
                let distance = ((i + 1) as f64 / n as f64 - cdf(pair[0])).abs();
                assert!(distance < 1.949 / (n as f64).sqrt(), "distance {distance} at {}", pair[0]);
            }
        }
    }

    #[test]
    fn uniform_lengths_cover_their_range_evenly() {
        let values = draws(&LengthDistribution::Uniform { min: 10, max: 29 }, 1);
        assert_distributed(&values, |x| f64::from(x - 9) / 20.0);
        assert_eq!((values.iter().min(), values.iter().max()), (Some(&10), Some(&29)));
    }

    #[test]
    fn log_normal_lengths_have_their_median_and_deviation() {
        let distribution =
            LengthDistribution::LogNormal { median: 500.0, sigma: 0.7, min: 1, max: 1 << 20 };
        let values = draws(&distribution, 2);
        let normal = Normal::new(500f64.ln(), 0.7).unwrap();
        assert_distributed(&values, |x| normal.cdf((f64::from(x) + 0.5).ln()));
        let logs: Vec<f64> = values.iter().map(|&v| f64::from(v).ln()).collect();
        let center = logs.iter().sum::<f64>() / N as f64;
        let deviation = (logs.iter().map(|l| (l - center).powi(2)).sum::<f64>() / N as f64).sqrt();
        assert!((center - 500f64.ln()).abs() < 0.02, "{center}");
        assert!((deviation - 0.7).abs() < 0.015, "{deviation}");
    }

    #[test]
    fn cuts_truncate_and_do_not_heap_up() {
        let distribution =
            LengthDistribution::LogNormal { median: 500.0, sigma: 1.0, min: 100, max: 1000 };
        let values = draws(&distribution, 3);
        assert!(values.iter().all(|v| (100..=1000).contains(v)));
        let at_cut = values.iter().filter(|&&v| v == 1000).count();
        assert!(at_cut < 40, "{at_cut} of {N} at the cut");
        let normal = Normal::new(500f64.ln(), 1.0).unwrap();
        let (low, high) = (normal.cdf(99.5f64.ln()), normal.cdf(1000.5f64.ln()));
        assert!((distribution.share_within_cuts() - (high - low)).abs() < 1e-12);
        let cdf = |x: u32| (normal.cdf((f64::from(x) + 0.5).ln()) - low) / (high - low);
        assert_distributed(&values, cdf);
    }

    #[test]
    fn normal_lengths_have_their_mean_and_are_at_least_one() {
        let distribution =
            LengthDistribution::Normal { mean: 200.0, stddev: 40.0, min: 1, max: 1 << 20 };
        let normal = Normal::new(200.0, 40.0).unwrap();
        let values = draws(&distribution, 4);
        assert_distributed(&values, |x| normal.cdf(f64::from(x) + 0.5));
        assert!((mean(&values) - 200.0).abs() < 1.2, "{}", mean(&values));
        let near_zero = LengthDistribution::Normal { mean: 2.0, stddev: 40.0, min: 1, max: 9999 };
        assert!(draws(&near_zero, 4).iter().all(|&v| v >= 1));
    }

    #[test]
    fn zipf_lengths_fall_with_the_power_of_their_rank() {
        let distribution = LengthDistribution::Zipf { exponent: 1.2, min: 5, max: 104 };
        let weight = |x: u32| f64::from(x - 4).powf(-1.2);
        let all: f64 = (5..=104).map(weight).sum();
        let values = draws(&distribution, 5);
        assert_distributed(&values, |x| (5..=x).map(weight).sum::<f64>() / all);
    }

    #[test]
    fn histogram_lengths_fill_their_bins_by_the_counts() {
        let distribution = LengthDistribution::Histogram {
            edges: vec![1, 101, 201, 1000],
            counts: vec![6.0, 0.0, 2.0],
        };
        let values = draws(&distribution, 6);
        let cdf = |x: u32| match x {
            ..=100 => 0.75 * f64::from(x) / 100.0,
            101..=200 => 0.75,
            _ => 0.75 + 0.25 * f64::from(x - 200) / 800.0,
        };
        assert_distributed(&values, cdf);
        assert!(values.iter().all(|v| !(101..=200).contains(v) && *v <= 1000));
    }

    fn distributions() -> impl Strategy<Value = LengthDistribution> {
        let cuts = (1u32..5000, 0u32..5000).prop_map(|(min, more)| (min, min + more));
        prop_oneof![
            cuts.clone().prop_map(|(min, max)| LengthDistribution::Uniform { min, max }),
            (cuts.clone(), 1.0f64..5000.0, 0.1f64..1e4).prop_map(|((min, max), mean, stddev)| {
                LengthDistribution::Normal { mean, stddev, min, max }
            }),
            (cuts.clone(), 1.0f64..5000.0, 0.01f64..4.0).prop_map(|((min, max), median, sigma)| {
                LengthDistribution::LogNormal { median, sigma, min, max }
            }),
            (cuts.clone(), 0.0f64..5.0)
                .prop_map(|((min, max), exponent)| LengthDistribution::Zipf { exponent, min, max }),
            (cuts, 1u32..500).prop_map(|((min, max), bin)| LengthDistribution::Histogram {
                edges: vec![min, max + 1, max + 1 + bin],
                counts: vec![1.0, 3.0],
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_length_is_within_its_cuts(distribution in distributions(), seed: u64) {
            let sampler = Sampler::new(&distribution);
            let mut rng = stream(seed, Use::Lengths);
            let (min, max) = match &distribution {
                LengthDistribution::Fixed(n) => (*n, *n),
                LengthDistribution::Histogram { edges, .. } => (edges[0], edges[2]),
                LengthDistribution::Uniform { min, max }
                | LengthDistribution::Normal { min, max, .. }
                | LengthDistribution::LogNormal { min, max, .. }
                | LengthDistribution::Zipf { min, max, .. } => (*min, *max),
            };
            for _ in 0..50 {
                let tokens = sampler.sample(&mut rng);
                prop_assert!((min..=max).contains(&tokens), "{distribution:?}: {tokens}");
            }
        }

        #[test]
        fn a_larger_median_makes_no_prompt_shorter(median in 10.0f64..1000.0, more in 1.0f64..500.0, seed: u64) {
            let draw = |median| {
                let distribution = LengthDistribution::LogNormal { median, sigma: 0.8, min: 1, max: 4096 };
                let sampler = Sampler::new(&distribution);
                let mut rng = stream(seed, Use::Lengths);
                (0..20).map(|_| sampler.sample(&mut rng)).collect::<Vec<_>>()
            };
            prop_assert!(draw(median).iter().zip(draw(median + more)).all(|(a, b)| *a <= b));
        }
    }
}
