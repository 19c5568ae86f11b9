//! The Markov-modulated Poisson process.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

use crate::random::{self, Use};
use crate::time::SimDuration;

/// A Poisson process whose rate follows a Markov chain. Times in seconds.
#[derive(Debug)]
pub(super) struct Modulated {
    /// (rate, mean stay) of each state.
    states: Vec<(f64, f64)>,
    /// States have a stream of their own, so that other rates do not change when they begin.
    rng: ChaCha8Rng,
    state: usize,
    now: f64,
    /// When the stay in the present state ends.
    until: f64,
}

impl Modulated {
    /// At least two states, one of them with a rate above zero; stays above zero.
    pub(super) fn new(rates: &[f64], mean_dwell: &[SimDuration], seed: u64) -> Self {
        let states: Vec<_> =
            rates.iter().copied().zip(mean_dwell.iter().map(|d| d.as_secs_f64())).collect();
        let mut rng = random::stream(seed, Use::Modulation);
        // With equal probabilities of the jumps, the share of time in a state is that of its stays.
        let all: f64 = states.iter().map(|(_, stay)| stay).sum();
        let mut at = rng.random::<f64>() * all;
        let mut state = states.len() - 1;
        for (index, (_, stay)) in states.iter().enumerate() {
            if at < *stay {
                state = index;
                break;
            }
            at -= stay;
        }
        let mut this = Self { states, rng, state, now: 0.0, until: 0.0 };
        // What remains of an exponential stay is again one.
        this.stay();
        this
    }

    fn stay(&mut self) {
        let stay: f64 = Exp1.sample(&mut self.rng);
        self.until = self.now + stay * self.states[self.state].1;
    }

    /// The next arrival.
    pub(super) fn next(&mut self, rng: &mut ChaCha8Rng) -> f64 {
        let mut count: f64 = Exp1.sample(rng);
        loop {
            let rate = self.states[self.state].0;
            let here = rate * (self.until - self.now);
            if count < here {
                self.now += count / rate;
                return self.now;
            }
            count -= here;
            self.now = self.until;
            let jump = self.rng.random_range(1..self.states.len());
            self.state = (self.state + jump) % self.states.len();
            self.stay();
        }
    }
}
