//! Gaps between arrivals with a mean of one.

use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma, Weibull};

/// A distribution of positive numbers with mean one.
#[derive(Clone, Copy, Debug)]
pub(super) enum UnitGap {
    Exponential,
    Gamma(Gamma<f64>),
    Weibull(Weibull<f64>),
}

impl UnitGap {
    /// Gamma of a shape above zero; of shape one, the exponential that it is.
    pub(super) fn gamma(shape: f64) -> Self {
        if shape == 1.0 {
            return Self::Exponential;
        }
        Self::Gamma(Gamma::new(shape, 1.0 / shape).expect("shapes are checked to be above zero"))
    }

    /// Weibull of a shape above zero; its mean is scale x gamma(1 + 1/shape).
    pub(super) fn weibull(shape: f64) -> Self {
        let scale = 1.0 / statrs::function::gamma::gamma(1.0 + 1.0 / shape);
        Self::Weibull(Weibull::new(scale, shape).expect("shapes are checked to be above zero"))
    }

    pub(super) fn sample(&self, rng: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Exponential => Exp1.sample(rng),
            Self::Gamma(gamma) => gamma.sample(rng),
            Self::Weibull(weibull) => weibull.sample(rng),
        }
    }
}
