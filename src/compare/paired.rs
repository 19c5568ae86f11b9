//! Paired samples of one figure: how much it differs, and whether that is more than chance.
//!
//! The two runs of a pair share their random numbers, so what they have in common cancels in the
//! difference of each pair. All tests are Student's on that difference.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::metrics::confidence::LEVEL;

/// Chance of calling one side worse (or better) that is not: one end of the interval at [`LEVEL`].
pub const ALPHA: f64 = (1.0 - LEVEL) / 2.0;

/// An estimate with its two-sided interval at [`LEVEL`]; without one where there is no chance in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// A figure under A and under B, as means over independent pairs or as figures of a whole whose
/// sections are the pairs.
#[derive(Clone, Debug)]
pub struct Paired {
    pub a: f64,
    pub b: f64,
    /// What the pairs say of the spread; `None` for a single pair in which nothing is drawn.
    spread: Option<Spread>,
}

/// Variances and covariance of the two estimates.
#[derive(Clone, Copy, Debug)]
struct Spread {
    freedom: f64,
    var_a: f64,
    var_b: f64,
    covariance: f64,
}

impl Paired {
    /// Means over pairs of independent runs; `None` without pairs.
    pub fn of_repetitions(pairs: &[(f64, f64)]) -> Option<Self> {
        let n = pairs.len() as f64;
        let mean = |side: fn(&(f64, f64)) -> f64| pairs.iter().map(side).sum::<f64>() / n;
        match pairs {
            [] => None,
            [(a, b)] => Some(Self { a: *a, b: *b, spread: None }),
            _ => Some(Self::around((mean(|pair| pair.0), mean(|pair| pair.1)), pairs)),
        }
    }

    /// The figure of a whole run with the spread of its sections around it. Centred on the whole,
    /// and not on the mean of the sections, because a percentile of the whole is not the mean of its
    /// sections' ("sectioning": Asmussen and Glynn 2007, Stochastic Simulation, section III.5a).
    pub fn of_sections(whole: (f64, f64), sections: &[(f64, f64)]) -> Self {
        if sections.len() < 2 {
            return Self { a: whole.0, b: whole.1, spread: None };
        }
        Self::around(whole, sections)
    }

    fn around((a, b): (f64, f64), pairs: &[(f64, f64)]) -> Self {
        let n = pairs.len() as f64;
        let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
            pairs.iter().map(|(x, y)| of(x - a, y - b)).sum::<f64>() / (n - 1.0) / n
        };
        let spread = Spread {
            freedom: n - 1.0,
            var_a: sum(&|x, _| x * x),
            var_b: sum(&|_, y| y * y),
            covariance: sum(&|x, y| x * y),
        };
        Self { a, b, spread: Some(spread) }
    }

    /// `b - a`.
    pub fn difference(&self) -> Estimate {
        let value = self.b - self.a;
        let half = self.spread.map(|spread| spread.t() * spread.error(1.0));
        Estimate { value, low: half.map(|half| value - half), high: half.map(|half| value + half) }
    }

    /// `b / a - 1` with Fieller's interval for a ratio of means (Fieller 1954, JRSS B 16); `None`
    /// where `a` is zero, and without an interval where `a` is not told from zero.
    pub fn relative(&self) -> Option<Estimate> {
        if self.a == 0.0 {
            return None;
        }
        let value = self.b / self.a - 1.0;
        let bounds = self.spread.and_then(|spread| {
            // Ratios r for which b - r a is within t standard errors of zero.
            let t2 = spread.t() * spread.t();
            let square = self.a * self.a - t2 * spread.var_a;
            let middle = self.a * self.b - t2 * spread.covariance;
            // `middle^2 - square * last`, without the terms that cancel.
            let crossed = spread.var_a * spread.var_b - spread.covariance * spread.covariance;
            let error = self.a * spread.error(self.b / self.a);
            let root = (t2 * (error * error - t2 * crossed)).max(0.0).sqrt();
            (square > 0.0).then(|| ((middle - root) / square - 1.0, (middle + root) / square - 1.0))
        });
        Some(Estimate { value, low: bounds.map(|b| b.0), high: bounds.map(|b| b.1) })
    }

    /// Probability of a `b` that is so far above `factor` times `a`, if in truth it is not above it.
    pub fn p_above(&self, factor: f64) -> f64 {
        self.p_positive(self.b - factor * self.a, factor)
    }

    /// Likewise of one that is so far below.
    pub fn p_below(&self, factor: f64) -> f64 {
        self.p_positive(factor * self.a - self.b, factor)
    }

    /// The chance of an estimate `excess` of what is not above zero; `factor` says whose it is.
    fn p_positive(&self, excess: f64, factor: f64) -> f64 {
        // The last digits of sums of the same numbers in another order.
        let noise = 1e-12 * (self.a.abs() + self.b.abs());
        let error = self.spread.map_or(0.0, |spread| spread.error(factor));
        match self.spread {
            Some(spread) if error > noise => 1.0 - spread.student().cdf(excess / error),
            _ if excess > noise => 0.0,
            _ => 1.0,
        }
    }
}

impl Spread {
    fn student(&self) -> StudentsT {
        StudentsT::new(0.0, 1.0, self.freedom).expect("at least one degree of freedom")
    }

    fn t(&self) -> f64 {
        self.student().inverse_cdf(1.0 - ALPHA)
    }

    /// Standard error of `b - factor a`.
    fn error(&self, factor: f64) -> f64 {
        let variance = self.var_b - 2.0 * factor * self.covariance + factor * factor * self.var_a;
        variance.max(0.0).sqrt()
    }
}

/// Holm's adjustment (Holm 1979): each probability as it counts among all of `p`, so that holding
/// each against one level errs in any of them no more often than the level says.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    let mut adjusted = vec![0.0; p.len()];
    let mut highest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        highest = highest.max(p[i] * (p.len() - rank) as f64).min(1.0);
        adjusted[i] = highest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-3 * want.abs().max(1.0), "{got}, not {want}");
    }

    #[test]
    fn the_difference_has_the_textbook_interval() {
        // Differences 1, 2, 3, 4, 5: as in `metrics::confidence`.
        let pairs: Vec<_> = (1..=5).map(|i| (100.0 * f64::from(i), 101.0 * f64::from(i))).collect();
        let difference = Paired::of_repetitions(&pairs).unwrap().difference();
        assert_eq!(difference.value, 3.0);
        close(difference.high.unwrap() - 3.0, 1.963);
    }

    #[test]
    fn what_both_sides_share_cancels() {
        // A and B scatter by a third and differ by 2 % in every pair.
        let pairs = [100.0, 130.0, 90.0, 110.0, 120.0].map(|x| (x, 1.02 * x));
        let paired = Paired::of_repetitions(&pairs).unwrap();
        let relative = paired.relative().unwrap();
        close(relative.value, 0.02);
        assert!(relative.high.unwrap() - relative.low.unwrap() < 1e-6, "{relative:?}");
        assert!(paired.p_above(1.01) < 1e-3 && paired.p_above(1.03) > 0.999);
    }

    #[test]
    fn the_test_and_the_interval_of_the_ratio_agree() {
        let pairs = [(10.0, 10.9), (12.0, 12.1), (9.0, 9.7), (11.0, 11.2), (10.5, 11.4)];
        let paired = Paired::of_repetitions(&pairs).unwrap();
        let relative = paired.relative().unwrap();
        let (low, high) = (relative.low.unwrap(), relative.high.unwrap());
        assert!(low < relative.value && relative.value < high, "{relative:?}");
        close(paired.p_above(1.0 + low), ALPHA);
        close(paired.p_below(1.0 + high), ALPHA);
    }

    #[test]
    fn a_ratio_to_what_may_be_zero_has_no_interval() {
        let paired = Paired::of_repetitions(&[(-1.0, 3.0), (1.5, 3.0)]).unwrap();
        let relative = paired.relative().unwrap();
        assert_eq!((relative.low, relative.high), (None, None));
        assert_eq!(Paired::of_repetitions(&[(0.0, 1.0)]).unwrap().relative(), None);
    }

    #[test]
    fn what_never_varies_is_decided_without_chance() {
        for pairs in [&[(2.0, 3.0)][..], &[(2.0, 3.0); 4]] {
            let paired = Paired::of_repetitions(pairs).unwrap();
            assert_eq!((paired.p_above(1.4), paired.p_above(1.5)), (0.0, 1.0));
            assert_eq!((paired.p_below(1.6), paired.p_below(1.5)), (0.0, 1.0));
        }
    }

    #[test]
    fn sections_scatter_around_the_whole_and_not_around_their_mean() {
        let sections = [(1.0, 2.0), (1.0, 4.0)];
        let centred = Paired::of_sections((1.0, 3.0), &sections).difference();
        let off = Paired::of_sections((1.0, 4.0), &sections).difference();
        assert_eq!((centred.value, off.value), (2.0, 3.0));
        let width = |e: Estimate| e.high.unwrap() - e.low.unwrap();
        assert!(width(off) > width(centred));
    }

    #[test]
    fn holm_multiplies_the_smallest_by_all_and_never_turns_the_order_round() {
        let adjusted = holm(&[0.04, 0.01, 0.03, 0.9]);
        for (got, want) in adjusted.iter().zip([0.09, 0.04, 0.09, 0.9]) {
            close(*got, want);
        }
        assert_eq!(holm(&[0.6, 0.7]), [1.0, 1.0]);
    }

    /// Over many samples without a difference, as many intervals miss it as they may.
    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_says() {
        use rand::{Rng, SeedableRng};
        let mut random = rand_chacha(7);
        let (mut missed, trials) = (0, 2000);
        for _ in 0..trials {
            let pairs: Vec<_> = (0..8)
                .map(|_| {
                    // Sums of uniforms: near enough to normal.
                    let mut draw = || (0..12).map(|_| unit(&mut random)).sum::<f64>() - 6.0;
                    let shared = draw();
                    (50.0 + shared + 0.5 * draw(), 55.0 + shared + 0.5 * draw())
                })
                .collect();
            let relative = Paired::of_repetitions(&pairs).unwrap().relative().unwrap();
            missed += i32::from(relative.low.unwrap() > 0.1 || relative.high.unwrap() < 0.1);
        }
        let share = f64::from(missed) / f64::from(trials);
        assert!((0.035..0.065).contains(&share), "{share} of the intervals miss the truth");

        fn rand_chacha(seed: u64) -> impl Rng {
            rand::rngs::ChaCha8Rng::seed_from_u64(seed)
        }

        fn unit(random: &mut impl Rng) -> f64 {
            (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
        }
    }
}
