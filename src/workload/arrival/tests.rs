//! Each process against its theory. Seeds are fixed; bounds are four standard errors or more, so that
//! a sound generator fails one seed in 16,000, and the Kolmogorov-Smirnov tests are at level 0.001.

use super::*;
use statrs::distribution::{ContinuousCDF, Exp, Gamma, Weibull};

fn arrivals(process: &ArrivalProcess, requests: u64, seed: u64) -> Vec<f64> {
    let mut arrivals = Arrivals::new(process, Some(requests), None, seed);
    std::iter::from_fn(|| {
        let at = arrivals.peek()?;
        arrivals.advance();
        Some(at.as_secs_f64())
    })
    .collect()
}

fn gaps(at: &[f64]) -> Vec<f64> {
    std::iter::once(at[0]).chain(at.windows(2).map(|w| w[1] - w[0])).collect()
}

fn mean_and_cv(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt() / mean)
}

/// Fails if the values are not from the distribution, at level 0.001 (Massey 1951: 1.949/sqrt(n)).
fn assert_distributed(values: &[f64], cdf: impl Fn(f64) -> f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let distance = sorted
        .iter()
        .enumerate()
        .map(|(i, &v)| {
            let expected = cdf(v);
            (expected - i as f64 / n).abs().max(((i + 1) as f64 / n - expected).abs())
        })
        .fold(0.0, f64::max);
    assert!(distance < 1.949 / n.sqrt(), "distance {distance} of {n} values");
}

const N: u64 = 20_000;

#[test]
fn constant_arrivals_are_evenly_spaced_from_zero() {
    let at = arrivals(&ArrivalProcess::Constant { request_rate: 4.0 }, 3, 1);
    assert_eq!(at, [0.0, 0.25, 0.5]);
}

#[test]
fn poisson_gaps_are_exponential() {
    let at = arrivals(&ArrivalProcess::Poisson { request_rate: 10.0, rescale: false }, N, 3);
    assert_eq!(at.len() as u64, N);
    let gaps = gaps(&at);
    let (mean, cv) = mean_and_cv(&gaps);
    assert!((mean - 0.1).abs() < 0.003, "mean {mean}");
    assert!((cv - 1.0).abs() < 0.05, "CV {cv}");
    let exponential = Exp::new(10.0).unwrap();
    assert_distributed(&gaps, |x| exponential.cdf(x));
}

#[test]
fn gamma_gaps_have_the_coefficient_of_variation_of_their_burstiness() {
    for (burstiness, seed) in [(0.25, 1), (0.7, 2), (4.0, 3)] {
        let process = ArrivalProcess::Gamma { request_rate: 5.0, burstiness, rescale: false };
        let gaps = gaps(&arrivals(&process, N, seed));
        let (mean, cv) = mean_and_cv(&gaps);
        let want = 1.0 / f64::sqrt(burstiness);
        assert!((mean - 0.2).abs() < 4.0 * 0.2 * want / (N as f64).sqrt(), "mean {mean}");
        assert!((cv / want - 1.0).abs() < 0.08, "CV {cv}, not {want}");
        let gamma = Gamma::new(burstiness, 5.0 * burstiness).unwrap();
        assert_distributed(&gaps, |x| gamma.cdf(x));
    }
}

#[test]
fn weibull_gaps_have_the_mean_of_their_rate() {
    let gamma = statrs::function::gamma::gamma;
    for (shape, seed) in [(0.6, 1), (1.0, 2), (3.0, 3)] {
        let process =
            ArrivalProcess::Weibull { request_rate: 5.0, burstiness: shape, rescale: false };
        let gaps = gaps(&arrivals(&process, N, seed));
        let (mean, cv) = mean_and_cv(&gaps);
        let first = gamma(1.0 + 1.0 / shape);
        let want = (gamma(1.0 + 2.0 / shape) / (first * first) - 1.0).sqrt();
        assert!((mean - 0.2).abs() < 4.0 * 0.2 * want / (N as f64).sqrt(), "mean {mean}");
        assert!((cv / want - 1.0).abs() < 0.08, "CV {cv}, not {want}");
        let weibull = Weibull::new(shape, 0.2 / first).unwrap();
        assert_distributed(&gaps, |x| weibull.cdf(x));
    }
}

#[test]
fn rescaled_gaps_end_exactly_at_count_over_rate() {
    let gamma = |rescale| ArrivalProcess::Gamma { request_rate: 8.0, burstiness: 0.5, rescale };
    let (plain, rescaled) = (arrivals(&gamma(false), 1000, 5), arrivals(&gamma(true), 1000, 5));
    assert!((rescaled.last().unwrap() - 125.0).abs() < 1e-9, "{:?}", rescaled.last());
    let factor = 125.0 / plain.last().unwrap();
    assert!((factor - 1.0).abs() > 1e-6, "the gaps were not stretched");
    for (a, b) in plain.iter().zip(&rescaled) {
        assert!((a * factor - b).abs() < 1e-5, "{a} became {b}");
    }
}

/// Arrivals in [from, to).
fn count(at: &[f64], from: f64, to: f64) -> f64 {
    at.iter().filter(|t| (from..to).contains(*t)).count() as f64
}

/// The counts of a Poisson process scatter by their square roots.
fn assert_count(at: &[f64], from: f64, to: f64, want: f64) {
    let got = count(at, from, to);
    assert!((got - want).abs() < 4.5 * want.sqrt(), "{got} in {from}..{to}, not {want}");
}

#[test]
fn a_ramp_has_its_rates_where_it_should() {
    let process = |strategy| ArrivalProcess::Ramp {
        start_rate: 2.0,
        end_rate: 50.0,
        over: SimDuration::from_secs(400),
        strategy,
        burstiness: 1.0,
    };
    let at = arrivals(&process(RampStrategy::Linear), 30_000, 1);
    for quarter in 0..4 {
        let from = f64::from(quarter) * 100.0;
        let middle = 2.0 + 48.0 * (from + 50.0) / 400.0;
        assert_count(&at, from, from + 100.0, middle * 100.0);
    }
    assert_count(&at, 400.0, 500.0, 5000.0);
    let at = arrivals(&process(RampStrategy::Exponential), 30_000, 1);
    let cumulative = |t: f64| 2.0 * 400.0 / 25f64.ln() * (25f64.powf(t / 400.0) - 1.0);
    for quarter in 0..4 {
        let from = f64::from(quarter) * 100.0;
        assert_count(&at, from, from + 100.0, cumulative(from + 100.0) - cumulative(from));
    }
    assert_count(&at, 400.0, 500.0, 5000.0);
}

#[test]
fn a_day_has_its_peak_where_it_should() {
    let process = ArrivalProcess::Diurnal {
        request_rate: 20.0,
        amplitude: 0.8,
        period: SimDuration::from_secs(1000),
        peak_at: SimDuration::from_secs(600),
        burstiness: 1.0,
    };
    let at = arrivals(&process, 45_000, 2);
    for period in [0.0, 1000.0] {
        assert_count(&at, period, period + 1000.0, 20_000.0);
        // The mean of cos over a tenth of a turn around its peak is sin(0.1 pi) / (0.1 pi).
        let near = (0.1 * std::f64::consts::PI).sin() / (0.1 * std::f64::consts::PI);
        assert_count(&at, period + 550.0, period + 650.0, 2000.0 * (1.0 + 0.8 * near));
        assert_count(&at, period + 50.0, period + 150.0, 2000.0 * (1.0 - 0.8 * near));
    }
}

#[test]
fn spikes_come_when_they_should_and_again() {
    let process = |every| ArrivalProcess::Spike {
        request_rate: 5.0,
        spike_rate: 80.0,
        spike_start: SimDuration::from_secs(100),
        spike_duration: SimDuration::from_secs(20),
        spike_every: every,
        burstiness: 1.0,
    };
    let once = arrivals(&process(None), 8000, 4);
    assert_count(&once, 0.0, 100.0, 500.0);
    assert_count(&once, 100.0, 120.0, 1600.0);
    assert_count(&once, 120.0, 500.0, 1900.0);
    let often = arrivals(&process(Some(SimDuration::from_secs(200))), 8000, 4);
    assert_count(&often, 300.0, 320.0, 1600.0);
    assert_count(&often, 320.0, 500.0, 900.0);
}

#[test]
fn burstiness_of_a_ramp_is_that_of_its_gaps() {
    let process = ArrivalProcess::Ramp {
        start_rate: 5.0,
        end_rate: 5.0,
        over: SimDuration::from_secs(10),
        strategy: RampStrategy::Linear,
        burstiness: 0.25,
    };
    let (mean, cv) = mean_and_cv(&gaps(&arrivals(&process, N, 9)));
    assert!((mean - 0.2).abs() < 0.012, "mean {mean}");
    assert!((cv - 2.0).abs() < 0.12, "CV {cv}");
}

#[test]
fn a_modulated_process_has_the_mean_and_the_dispersion_of_its_chain() {
    let (fast, slow) = (20.0, 2.0);
    let (stay_fast, stay_slow) = (10.0, 30.0);
    let process = ArrivalProcess::Mmpp {
        request_rates: vec![fast, slow],
        mean_dwell: vec![SimDuration::from_secs(10), SimDuration::from_secs(30)],
    };
    let at = arrivals(&process, 400_000, 6);
    let mean = (fast * stay_fast + slow * stay_slow) / (stay_fast + stay_slow);
    let got = at.len() as f64 / at.last().unwrap();
    // Variance to mean of the counts in long windows (Fischer and Meier-Hellstern 1993, eq. 12):
    // 1 + 2 (r1 - r2)^2 s1 s2 / ((s1 + s2)^2 (r1 s2 + r2 s1)), s: rates of leaving the states.
    let (leave_fast, leave_slow) = (1.0 / stay_fast, 1.0 / stay_slow);
    let sum: f64 = leave_fast + leave_slow;
    let dispersion = 1.0
        + 2.0 * (fast - slow).powi(2) * leave_fast * leave_slow
            / (sum.powi(2) * (fast * leave_slow + slow * leave_fast));
    let error = (dispersion * mean / at.last().unwrap()).sqrt();
    assert!((got - mean).abs() < 4.0 * error, "rate {got}, not {mean}");
    let window = 400.0;
    let windows = (at.last().unwrap() / window) as usize;
    let mut counts = vec![0.0; windows];
    for t in &at {
        if let Some(slot) = counts.get_mut((t / window) as usize) {
            *slot += 1.0;
        }
    }
    let (mean, cv) = mean_and_cv(&counts);
    let index = cv * cv * mean;
    // A variance from w windows scatters by sqrt(2/w); finite windows fall short by a few percent.
    let bound = 4.0 * (2.0 / windows as f64).sqrt() + 0.05;
    assert!((index / dispersion - 1.0).abs() < bound, "dispersion {index}, not {dispersion}");
}

#[test]
fn other_rates_leave_the_states_of_a_modulated_process_alone() {
    let process = |rate| ArrivalProcess::Mmpp {
        request_rates: vec![0.0, rate],
        mean_dwell: vec![SimDuration::from_secs(100), SimDuration::from_secs(1)],
    };
    let first = |rate| arrivals(&process(rate), 1, 8)[0];
    assert!((first(1e5) - first(1e6)).abs() < 1e-3, "the first busy stretch began elsewhere");
}

#[test]
fn a_duration_ends_the_arrivals() {
    let process = ArrivalProcess::Constant { request_rate: 1.0 };
    let mut arrivals = Arrivals::new(&process, None, Some(SimDuration::from_secs(3)), 1);
    let mut count = 0;
    while arrivals.peek().is_some() {
        arrivals.advance();
        count += 1;
    }
    assert_eq!(count, 3, "at 0, 1 and 2 s");
}

#[test]
fn a_higher_rate_brings_the_same_requests_sooner() {
    let at = |rate| {
        let process = ArrivalProcess::Ramp {
            start_rate: rate,
            end_rate: 3.0 * rate,
            over: SimDuration::from_secs(50),
            strategy: RampStrategy::Linear,
            burstiness: 1.0,
        };
        arrivals(&process, 500, 1)
    };
    assert!(at(4.0).iter().zip(at(5.0)).all(|(slow, fast)| fast < *slow));
}
