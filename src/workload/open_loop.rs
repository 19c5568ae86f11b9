//! Requests that arrive whatever becomes of the earlier ones.

use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

use crate::engine::observer::RequestRecord;
use crate::random::{self, Use};
use crate::request::RequestSpec;
use crate::time::{SimDuration, SimTime};

use super::{Lengths, Workload};

/// When requests arrive. Rates are in requests per second and greater than zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ArrivalProcess {
    /// Equal gaps; the first request at time zero.
    Constant { rate: f64 },
    /// Exponential gaps; the first request after the first gap.
    Poisson { rate: f64 },
}

/// An open loop that ends after a number of requests, or at a time, or both.
#[derive(Debug)]
pub struct OpenLoop {
    process: ArrivalProcess,
    lengths: Lengths,
    rng: ChaCha8Rng,
    left: u64,
    until: SimTime,
    next: Option<SimTime>,
    sent: u64,
}

impl OpenLoop {
    pub fn new(
        process: ArrivalProcess,
        lengths: Lengths,
        requests: Option<u64>,
        duration: Option<SimDuration>,
        seed: u64,
    ) -> Self {
        assert!(requests.is_some() || duration.is_some(), "an open loop ends some day");
        let mut this = Self {
            process,
            lengths,
            rng: random::stream(seed, Use::Arrivals),
            left: requests.unwrap_or(u64::MAX),
            until: duration.map_or(SimTime::MAX, |d| SimTime::ZERO + d),
            next: Some(SimTime::ZERO),
            sent: 0,
        };
        this.step();
        this
    }

    /// Moves `next` to the arrival after it.
    fn step(&mut self) {
        let at = match self.process {
            // From the index, not by adding gaps up, so that rounding does not drift.
            ArrivalProcess::Constant { rate } => {
                SimTime::ZERO + SimDuration::from_secs_f64(self.sent as f64 / rate)
            }
            ArrivalProcess::Poisson { rate } => {
                let gap: f64 = Exp1.sample(&mut self.rng);
                self.next.unwrap_or(SimTime::MAX) + SimDuration::from_secs_f64(gap / rate)
            }
        };
        self.next = (self.left > 0 && at < self.until).then_some(at);
    }
}

impl Workload for OpenLoop {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.next
    }

    fn take(&mut self) -> RequestSpec {
        self.left -= 1;
        self.sent += 1;
        let spec = self.lengths.next(0);
        self.step();
        spec
    }

    fn on_reply(&mut self, _: &RequestRecord) {}
}

#[cfg(test)]
mod tests {
    use super::super::{LengthOrder, LengthPair};
    use super::*;

    fn arrivals(process: ArrivalProcess, requests: u64, seed: u64) -> Vec<u64> {
        let pairs = [LengthPair { input: 1, output: 1 }].into();
        let lengths = Lengths::new(pairs, LengthOrder::InOrder, 1, seed);
        let mut open = OpenLoop::new(process, lengths, Some(requests), None, seed);
        std::iter::from_fn(|| {
            let at = open.next_arrival()?;
            open.take();
            Some(at.as_nanos())
        })
        .collect()
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_from_zero() {
        let at = arrivals(ArrivalProcess::Constant { rate: 4.0 }, 3, 1);
        assert_eq!(at, [0, 250_000_000, 500_000_000]);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let n = 20_000u64;
        let at = arrivals(ArrivalProcess::Poisson { rate: 10.0 }, n, 3);
        assert_eq!(at.len() as u64, n);
        let gaps: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]) as f64 * 1e-9).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Four standard errors of the mean of 20,000 exponentials are 2.8 %.
        assert!((mean - 0.1).abs() < 0.003, "mean {mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "spread {}", variance.sqrt() / mean);
    }

    #[test]
    fn a_duration_ends_the_arrivals() {
        let pairs = [LengthPair { input: 1, output: 1 }].into();
        let lengths = Lengths::new(pairs, LengthOrder::InOrder, 1, 1);
        let process = ArrivalProcess::Constant { rate: 1.0 };
        let mut open = OpenLoop::new(process, lengths, None, Some(SimDuration::from_secs(3)), 1);
        let mut count = 0;
        while open.next_arrival().is_some() {
            open.take();
            count += 1;
        }
        assert_eq!(count, 3, "at 0, 1 and 2 s");
    }
}
