//! Rates that change over time, by their cumulative rate and its inverse.

use std::f64::consts::TAU;

use crate::time::SimDuration;

use super::RampStrategy;

/// A rate in requests per second as a function of time in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Intensity {
    /// `start + slope * t` up to `over`, then `end`.
    Linear { start: f64, end: f64, over: f64 },
    /// `start * exp(growth * t)` up to `over`, then `end`.
    Exponential { start: f64, end: f64, over: f64, growth: f64 },
    /// `mean * (1 + amplitude * cos(frequency * (t - peak)))`, angular frequency.
    Wave { mean: f64, amplitude: f64, frequency: f64, peak: f64 },
    /// `high` in [start, start + length), and again every `every`; else `base`.
    Spikes { base: f64, high: f64, start: f64, length: f64, every: f64 },
}

impl Intensity {
    pub(super) fn ramp(start: f64, end: f64, over: SimDuration, strategy: RampStrategy) -> Self {
        let over = over.as_secs_f64();
        match strategy {
            RampStrategy::Exponential if start != end => {
                Self::Exponential { start, end, over, growth: (end / start).ln() / over }
            }
            RampStrategy::Linear | RampStrategy::Exponential => Self::Linear { start, end, over },
        }
    }

    pub(super) fn diurnal(
        mean: f64,
        amplitude: f64,
        period: SimDuration,
        peak: SimDuration,
    ) -> Self {
        let frequency = TAU / period.as_secs_f64();
        Self::Wave { mean, amplitude, frequency, peak: peak.as_secs_f64() }
    }

    pub(super) fn spike(
        base: f64,
        high: f64,
        start: SimDuration,
        length: SimDuration,
        every: Option<SimDuration>,
    ) -> Self {
        Self::Spikes {
            base,
            high,
            start: start.as_secs_f64(),
            length: length.as_secs_f64(),
            every: every.map_or(f64::INFINITY, SimDuration::as_secs_f64),
        }
    }

    /// When the cumulative rate reaches `count`; `None` if it never does.
    pub(super) fn time_of(&self, count: f64) -> Option<f64> {
        let time = match *self {
            Self::Linear { start, end, over } => {
                let all = (start + end) / 2.0 * over;
                if count < all {
                    // The smaller root, in the form that does not cancel for a small slope.
                    let slope = (end - start) / over;
                    2.0 * count / (start + (start * start + 2.0 * slope * count).max(0.0).sqrt())
                } else {
                    over + (count - all) / end
                }
            }
            Self::Exponential { start, end, over, growth } => {
                let all = (end - start) / growth;
                if count < all {
                    (growth * count / start).ln_1p() / growth
                } else {
                    over + (count - all) / end
                }
            }
            Self::Wave { mean, amplitude, frequency, peak } => {
                wave_time(count / mean, amplitude / frequency, frequency, peak)
            }
            Self::Spikes { base, high, start, length, every } => {
                spike_time(count, base, high, start, length, every)
            }
        };
        time.is_finite().then_some(time)
    }
}

/// Solves t + a (sin(w (t - p)) + sin(w p)) = x, the wave's cumulative rate over its mean. The left
/// side never falls, and is within 2a of t.
fn wave_time(x: f64, a: f64, w: f64, p: f64) -> f64 {
    let at_zero = (w * p).sin();
    let (mut low, mut high) = ((x - 2.0 * a).max(0.0), x + 2.0 * a);
    let mut t = x;
    // Newton's step where it stays inside of the bracket, else its middle.
    for _ in 0..100 {
        let excess = t + a * ((w * (t - p)).sin() + at_zero) - x;
        if excess > 0.0 {
            high = t;
        } else {
            low = t;
        }
        // Below the nanosecond to which instants are rounded.
        if excess.abs() < 1e-11 || high - low < 1e-11 {
            break;
        }
        let newton = t - excess / (1.0 + a * w * (w * (t - p)).cos());
        t = if newton > low && newton < high { newton } else { (low + high) / 2.0 };
    }
    t
}

fn spike_time(count: f64, base: f64, high: f64, start: f64, length: f64, every: f64) -> f64 {
    let before = base * start;
    if count < before {
        return count / base;
    }
    let (spike, mut count) = (high * length, count - before);
    let mut begin = start;
    if every.is_finite() {
        let round = spike + base * (every - length);
        let rounds = (count / round).floor();
        begin += rounds * every;
        count -= rounds * round;
    }
    if count < spike { begin + count / high } else { begin + length + (count - spike) / base }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn secs(s: u64) -> SimDuration {
        SimDuration::from_secs(s)
    }

    /// The rate itself, straight from its definition.
    fn rate(intensity: &Intensity, t: f64) -> f64 {
        match *intensity {
            Intensity::Linear { start, end, over } => {
                if t < over {
                    start + (end - start) * t / over
                } else {
                    end
                }
            }
            Intensity::Exponential { start, end, over, .. } => {
                if t < over {
                    start * (end / start).powf(t / over)
                } else {
                    end
                }
            }
            Intensity::Wave { mean, amplitude, frequency, peak } => {
                mean * (1.0 + amplitude * (frequency * (t - peak)).cos())
            }
            Intensity::Spikes { base, high, start, length, every } => {
                let since = t - start;
                let since = if every.is_finite() { since.rem_euclid(every) } else { since };
                if t >= start && since < length { high } else { base }
            }
        }
    }

    fn shapes() -> impl Strategy<Value = Intensity> {
        let rates = (0.5f64..50.0, 0.5f64..50.0);
        prop_oneof![
            (rates.clone(), 1u64..300).prop_map(|((a, b), d)| Intensity::ramp(
                a,
                b,
                secs(d),
                RampStrategy::Linear
            )),
            (rates.clone(), 1u64..300).prop_map(|((a, b), d)| Intensity::ramp(
                a,
                b,
                secs(d),
                RampStrategy::Exponential
            )),
            (0.5f64..50.0, 0.0f64..1.0, 1u64..300, 0u64..300)
                .prop_map(|(m, a, d, p)| Intensity::diurnal(m, a, secs(d), secs(p))),
            (rates, 0u64..60, 1u64..30, prop::option::of(31u64..90)).prop_map(
                |((a, b), s, l, e)| Intensity::spike(a, b, secs(s), secs(l), e.map(secs))
            ),
        ]
    }

    proptest! {
        #[test]
        fn the_rate_summed_up_to_the_time_of_a_count_is_that_count(
            shape in shapes(), count in 0.1f64..2000.0
        ) {
            let end = shape.time_of(count).unwrap();
            // The midpoint rule; jumps of the rate cost at most one slice each.
            let slices = 10_000;
            let width = end / f64::from(slices);
            let sum: f64 =
                (0..slices).map(|i| rate(&shape, (f64::from(i) + 0.5) * width)).sum::<f64>() * width;
            let jumps = 2.0 * (end / 30.0 + 2.0) * 50.0 * width;
            prop_assert!((sum - count).abs() <= 1e-4 * count + jumps, "{shape:?}: {sum}, not {count}");
        }

        #[test]
        fn later_counts_are_not_earlier(shape in shapes(), count in 0.0f64..2000.0, more in 0.0f64..10.0) {
            prop_assert!(shape.time_of(count + more) >= shape.time_of(count));
        }
    }

    #[test]
    fn a_rate_that_falls_to_zero_ends_the_arrivals() {
        let ramp = Intensity::ramp(10.0, 0.0, secs(60), RampStrategy::Linear);
        assert!(ramp.time_of(299.0).unwrap() < 60.0);
        assert_eq!(ramp.time_of(301.0), None);
        let spike = Intensity::spike(0.0, 10.0, secs(5), secs(2), None);
        assert_eq!(spike.time_of(10.0), Some(6.0));
        assert_eq!(spike.time_of(21.0), None);
        let again = Intensity::spike(0.0, 10.0, secs(5), secs(2), Some(secs(10)));
        assert_eq!(again.time_of(30.0), Some(16.0));
    }
}
