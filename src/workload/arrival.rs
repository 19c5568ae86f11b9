//! When requests arrive that wait for nobody.
//!
//! Two families. *Renewal* processes have independent gaps of one distribution. *Modulated* ones
//! have a rate that changes over time: the sum of unit gaps is carried through the inverse of the
//! cumulative rate (time change of a unit-rate process; Daley and Vere-Jones, "An Introduction to
//! the Theory of Point Processes", section 7.4), so that one draw makes one arrival whatever the
//! rate, and a higher rate moves each arrival forward instead of drawing others.

mod gap;
mod intensity;
mod modulated;

#[cfg(test)]
mod tests;

use rand::rngs::ChaCha8Rng;
use serde::Serialize;

use crate::named::named_enum;
use crate::random::{self, Use};
use crate::time::{SimDuration, SimTime};

use gap::UnitGap;
use intensity::Intensity;
use modulated::Modulated;

/// When requests arrive. Rates are in requests per second; `burstiness` is the shape of the gaps'
/// distribution (1: exponential, below: bursts, above: more even).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum ArrivalProcess {
    /// Equal gaps; the first request at time zero.
    Constant { request_rate: f64 },
    /// Exponential gaps; the first request after the first gap, as in all that follow.
    Poisson {
        request_rate: f64,
        /// Stretch the gaps so that the last of the requests arrives at exactly count / rate, as
        /// `vllm bench serve` does (vLLM 0.32.0 `benchmarks/serve.py`, `get_request`).
        rescale: bool,
    },
    /// Gaps from a Gamma distribution of shape `burstiness`: their coefficient of variation is
    /// 1/sqrt(burstiness).
    Gamma { request_rate: f64, burstiness: f64, rescale: bool },
    /// Gaps from a Weibull distribution of shape `burstiness`; heavier tails than Gamma's.
    Weibull { request_rate: f64, burstiness: f64, rescale: bool },
    /// A Poisson process whose rate follows a Markov chain in continuous time: an exponential stay
    /// in each state, then any of the others with equal probability. Starts in its steady state.
    Mmpp { request_rates: Vec<f64>, mean_dwell: Vec<SimDuration> },
    /// `request_rate` times 1 + amplitude x cos(2 pi (t - peak_at) / period).
    Diurnal {
        request_rate: f64,
        amplitude: f64,
        period: SimDuration,
        peak_at: SimDuration,
        burstiness: f64,
    },
    /// From one rate to another over a time, and then on at the second.
    Ramp {
        start_rate: f64,
        end_rate: f64,
        over: SimDuration,
        strategy: RampStrategy,
        burstiness: f64,
    },
    /// A base rate with one stretch at another, or with one every `spike_every`.
    Spike {
        request_rate: f64,
        spike_rate: f64,
        spike_start: SimDuration,
        spike_duration: SimDuration,
        spike_every: Option<SimDuration>,
        burstiness: f64,
    },
}

named_enum! {
    /// How a ramp gets from one rate to the other.
    pub enum RampStrategy as "strategy" {
        /// By equal differences.
        Linear = "linear",
        /// By equal factors; neither rate may be zero.
        Exponential = "exponential",
    }
}

/// The arrivals of one process, in order, up to a count and a time.
#[derive(Debug)]
pub struct Arrivals {
    clock: Clock,
    rng: ChaCha8Rng,
    left: u64,
    until: SimTime,
    next: Option<SimTime>,
    sent: u64,
}

/// How the next instant follows from the last.
#[derive(Debug)]
enum Clock {
    Constant {
        rate: f64,
    },
    /// Unit gaps over a rate.
    Renewal {
        gap: UnitGap,
        rate: f64,
    },
    /// Sums of unit gaps times a factor that is known beforehand.
    Rescaled {
        gap: UnitGap,
        sum: f64,
        seconds_per_unit: f64,
    },
    /// Sums of unit gaps through the inverse of the cumulative rate.
    Changing {
        gap: UnitGap,
        sum: f64,
        intensity: Intensity,
    },
    Modulated(Box<Modulated>),
}

impl Arrivals {
    /// Ends after `requests` or at `duration`, whichever comes first. Where gaps are to be rescaled
    /// there must be a count.
    pub fn new(
        process: &ArrivalProcess,
        requests: Option<u64>,
        duration: Option<SimDuration>,
        seed: u64,
    ) -> Self {
        assert!(requests.is_some() || duration.is_some(), "an open loop ends some day");
        let mut this = Self {
            clock: Clock::new(process, requests, seed),
            rng: random::stream(seed, Use::Arrivals),
            left: requests.unwrap_or(u64::MAX),
            until: duration.map_or(SimTime::MAX, |d| SimTime::ZERO + d),
            next: Some(SimTime::ZERO),
            sent: 0,
        };
        this.step();
        this
    }

    /// The next arrival; `None` after the last.
    pub const fn peek(&self) -> Option<SimTime> {
        self.next
    }

    /// Moves on to the arrival after the one that `peek` shows.
    pub fn advance(&mut self) {
        self.left -= 1;
        self.sent += 1;
        self.step();
    }

    fn step(&mut self) {
        let Some(last) = self.next else { return };
        let at = self.clock.after(last, self.sent, &mut self.rng);
        self.next = (self.left > 0 && at < self.until).then_some(at);
    }
}

impl Clock {
    fn new(process: &ArrivalProcess, requests: Option<u64>, seed: u64) -> Self {
        let renewal = |gap: UnitGap, rate: f64, rescale: bool| {
            if !rescale {
                return Self::Renewal { gap, rate };
            }
            let requests = requests.expect("gaps are rescaled to a number of requests");
            // The gaps are drawn twice instead of kept.
            let mut rng = random::stream(seed, Use::Arrivals);
            let sum: f64 = (0..requests).map(|_| gap.sample(&mut rng)).sum();
            Self::Rescaled { gap, sum: 0.0, seconds_per_unit: requests as f64 / rate / sum }
        };
        let changing = |burstiness, intensity| Self::Changing {
            gap: UnitGap::gamma(burstiness),
            sum: 0.0,
            intensity,
        };
        match *process {
            ArrivalProcess::Constant { request_rate: rate } => Self::Constant { rate },
            ArrivalProcess::Poisson { request_rate, rescale } => {
                renewal(UnitGap::Exponential, request_rate, rescale)
            }
            ArrivalProcess::Gamma { request_rate, burstiness, rescale } => {
                renewal(UnitGap::gamma(burstiness), request_rate, rescale)
            }
            ArrivalProcess::Weibull { request_rate, burstiness, rescale } => {
                renewal(UnitGap::weibull(burstiness), request_rate, rescale)
            }
            ArrivalProcess::Mmpp { ref request_rates, ref mean_dwell } => {
                Self::Modulated(Box::new(Modulated::new(request_rates, mean_dwell, seed)))
            }
            ArrivalProcess::Diurnal { request_rate, amplitude, period, peak_at, burstiness } => {
                changing(burstiness, Intensity::diurnal(request_rate, amplitude, period, peak_at))
            }
            ArrivalProcess::Ramp { start_rate, end_rate, over, strategy, burstiness } => {
                changing(burstiness, Intensity::ramp(start_rate, end_rate, over, strategy))
            }
            ArrivalProcess::Spike {
                request_rate,
                spike_rate,
                spike_start,
                spike_duration,
                spike_every,
                burstiness,
            } => changing(
                burstiness,
                Intensity::spike(
                    request_rate,
                    spike_rate,
                    spike_start,
                    spike_duration,
                    spike_every,
                ),
            ),
        }
    }

    /// The arrival after the one at `last`, which is the `sent`-th; `MAX` if there is none.
    fn after(&mut self, last: SimTime, sent: u64, rng: &mut ChaCha8Rng) -> SimTime {
        let instant = |seconds: f64| SimTime::ZERO + SimDuration::from_secs_f64(seconds);
        match self {
            // From the index, not by adding gaps up, so that rounding does not drift.
            Self::Constant { rate } => instant(sent as f64 / *rate),
            Self::Renewal { gap, rate } => {
                last + SimDuration::from_secs_f64(gap.sample(rng) / *rate)
            }
            Self::Rescaled { gap, sum, seconds_per_unit } => {
                *sum += gap.sample(rng);
                instant(*sum * *seconds_per_unit)
            }
            Self::Changing { gap, sum, intensity } => {
                *sum += gap.sample(rng);
                intensity.time_of(*sum).map_or(SimTime::MAX, instant).max(last)
            }
            Self::Modulated(modulated) => instant(modulated.next(rng)).max(last),
        }
    }
}
