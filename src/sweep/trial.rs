//! A deployment under a load of a given size: what searches and comparisons repeat.
//!
//! Trials of one scenario share their random numbers: a seed gives the same lengths in the same
//! order, and gaps that only stretch with the rate. So two trials differ by what was changed and not
//! by luck, and what they measure rises with the load almost without noise.

use serde::Serialize;

use super::bound::Pressure;
use super::slo::{Latency, Objective, Statistic};
use super::{Bound, SearchedLoad};
use crate::cost::trust::Trust;
use crate::deploy::Deployment;
use crate::engine::observer::{Observer, RequestRecord};
use crate::metrics::{Convention, Interval, Recorder, Summary};
use crate::scenario::{ArrivalSpec, Scenario};
use crate::time::{SimDuration, SimTime};
use crate::workload::{ArrivalProcess, LengthOrder, LengthSource};

/// Share of a trial that is left out at its beginning.
const WARM_UP: f64 = 0.1;
/// Batches whose means say whether a trial is in a steady state.
const BATCHES: usize = 10;
/// Requests of an open loop where the scenario does not ask for more: twenty lie above the 99th
/// percentile.
const REQUESTS: u64 = 2000;

/// How a trial went.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Requests per second, or clients.
    pub load: f64,
    /// Whether everything that is asked holds, in a steady state.
    pub met: bool,
    /// Whether latency had stopped growing when the warm-up was over.
    pub steady: bool,
    pub limits: Vec<Measured>,
    /// Share of the requests within all limits, where that is asked.
    pub goodput: Option<f64>,
    /// Answered requests and output tokens per second.
    pub request_throughput: f64,
    pub output_throughput: f64,
    pub usd_per_1m_output_tokens: Option<f64>,
    /// Mean end-to-end latency with the 95 % interval of its batch means, in milliseconds.
    pub e2el_ms: Option<Interval>,
    pub bound: Bound,
    /// By what kind of numbers the figures are limited.
    pub trust: Option<Trust>,
    /// What is missed, in words; empty if it is met.
    pub missed: Vec<String>,
}

/// A limit and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub limit: String,
    /// Milliseconds; nothing where no request was answered.
    pub value_ms: Option<f64>,
    pub most_ms: f64,
}

/// The scenario under a load of `load`, long enough for percentiles.
pub fn under(scenario: &Scenario, over: SearchedLoad, load: f64) -> Scenario {
    let mut scenario = scenario.clone();
    let workload = &mut scenario.workload;
    match over {
        SearchedLoad::Rate => {
            workload.arrivals = ArrivalSpec::Open(match &workload.arrivals {
                ArrivalSpec::Open(process) => with_rate(process, load),
                ArrivalSpec::ClosedLoop { .. } | ArrivalSpec::Trace(_) => {
                    ArrivalProcess::Poisson { request_rate: load, rescale: false }
                }
            });
            // A permutation for each client has no meaning without clients.
            let of_tenants = workload.tenants.iter_mut().map(|tenant| &mut tenant.lengths);
            for lengths in workload.lengths.iter_mut().chain(of_tenants) {
                if let LengthSource::Pairs { order, .. } = &mut lengths.source
                    && *order == LengthOrder::PerClientShuffle
                {
                    *order = LengthOrder::Shuffle;
                }
            }
            // By count and to the last answer: a trial has as many samples at any rate.
            workload.num_requests = Some(workload.num_requests.unwrap_or(0).max(REQUESTS));
            workload.duration = None;
            workload.drain = true;
            // Those that divide by a configured duration, which there is not.
            if matches!(
                scenario.measure.convention,
                Convention::RedHat2023 | Convention::LlmLoadTest
            ) {
                scenario.measure.convention = Convention::Vllm;
            }
            let length = REQUESTS.max(workload.num_requests.unwrap_or(0)) as f64 / load;
            let warm_up = SimDuration::from_secs_f64(length * WARM_UP);
            scenario.measure.warm_up = scenario.measure.warm_up.max(warm_up);
        }
        SearchedLoad::Concurrency => {
            let think_time = match &workload.arrivals {
                ArrivalSpec::ClosedLoop { think_time, .. } => *think_time,
                ArrivalSpec::Open(_) | ArrivalSpec::Trace(_) => SimDuration::ZERO,
            };
            let clients = load.round().clamp(1.0, 1e6) as u32;
            workload.arrivals = ArrivalSpec::ClosedLoop { clients, think_time };
            let duration = workload.duration.unwrap_or(SimDuration::from_secs(240));
            workload.duration = Some(duration);
            workload.num_requests = None;
            workload.drain = false;
            let warm_up = SimDuration::from_secs_f64(duration.as_secs_f64() * WARM_UP);
            scenario.measure.warm_up = scenario.measure.warm_up.max(warm_up);
        }
    }
    scenario.measure.slo = None;
    scenario
}

/// The same kind of arrivals at another rate; a process without one rate becomes a Poisson process.
fn with_rate(process: &ArrivalProcess, rate: f64) -> ArrivalProcess {
    let mut process = process.clone();
    match &mut process {
        ArrivalProcess::Constant { request_rate }
        | ArrivalProcess::Poisson { request_rate, .. }
        | ArrivalProcess::Gamma { request_rate, .. }
        | ArrivalProcess::Weibull { request_rate, .. } => *request_rate = rate,
        _ => process = ArrivalProcess::Poisson { request_rate: rate, rescale: false },
    }
    process
}

/// Runs a deployment, whose scenario is [`under`] a load, and judges it.
pub fn run(deployment: &Deployment<'_>, load: f64, objective: &Objective) -> Trial {
    let scenario = deployment.scenario();
    let measure = deployment.measure();
    let mut pressure = Pressure::new(scenario);
    let (mut recorders, mut priced) = (Vec::new(), Vec::new());
    let mut series = Vec::new();
    let mut good = Good::new(objective, measure.warm_up);
    for i in 0..u64::from(scenario.measure.seeds) {
        let watch = Series { from: measure.warm_up, requests: Vec::new() };
        let observer = ((Recorder::new(measure.clone()), pressure), (watch, good));
        let seed = scenario.workload.seed.wrapping_add(i);
        let run = deployment.simulate_noting(seed, observer, false);
        let ((recorder, watched), (one, tally)) = run.observer;
        priced.push(run.priced);
        (pressure, good) = (watched, tally);
        recorders.push(recorder);
        series.push(one);
    }
    let limits = measured(objective, &recorders);
    let summaries: Vec<Summary> = recorders
        .into_iter()
        .zip(&priced)
        .map(|(recorder, priced)| priced.summary(recorder))
        .collect();
    let summary = Summary::over_seeds(&summaries).expect("at least one seed");
    let steady = series.iter().all(Series::is_steady);
    let mut missed: Vec<String> = Vec::new();
    if !steady {
        missed.push("latency keeps growing: more arrives than is served".into());
    }
    for (limit, measured) in objective.limits.iter().zip(&limits) {
        // With a share of good requests, only limits on another percentile bind by themselves.
        match measured.value_ms {
            Some(value) if value > measured.most_ms => missed.push(format!(
                "{} {} is {}, {:.0} % over {}",
                limit.statistic,
                limit.latency.title(),
                super::point::duration(value),
                (value / measured.most_ms - 1.0) * 100.0,
                super::point::duration(measured.most_ms)
            )),
            _ => {}
        }
    }
    if objective.goodput.is_some() {
        // The share decides, and not each percentile.
        missed.truncate(usize::from(!steady));
    }
    let goodput = objective.goodput.map(|wanted| {
        let share = good.share();
        if share < wanted {
            missed.push(format!(
                "{:.1} % of the requests are within all limits, of {:.1} % asked",
                share * 100.0,
                wanted * 100.0
            ));
        }
        share
    });
    let failed = summary.failed.get();
    if summary.completed.get() == 0.0 {
        missed.push("no request was answered".into());
    } else if failed > 0.01 * (failed + summary.completed.get()) {
        missed.push(format!("{failed} requests failed"));
    }
    Trial {
        load,
        met: missed.is_empty(),
        steady,
        limits,
        goodput,
        request_throughput: summary.request_throughput,
        output_throughput: summary.output_throughput,
        usd_per_1m_output_tokens: summary.usd_per_1m_output_tokens,
        e2el_ms: series.first().and_then(Series::interval),
        bound: pressure.bound(&summary),
        trust: summary.trust,
        missed,
    }
}

fn measured(objective: &Objective, recorders: &[Recorder]) -> Vec<Measured> {
    let mean = |values: Vec<f64>| {
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let limits = objective.limits.iter();
    limits
        .map(|limit| {
            let of = |recorder: &Recorder| {
                let place = limit.latency as usize;
                match limit.statistic {
                    Statistic::Percentile(percent) => recorder.latencies_at(percent)[place],
                    Statistic::Mean => recorder.mean_latencies()[place],
                }
            };
            Measured {
                limit: limit.to_string(),
                value_ms: mean(recorders.iter().filter_map(of).collect()),
                most_ms: limit.most.as_millis_f64(),
            }
        })
        .collect()
}

/// Requests that are within all limits at once. A limit on token gaps is judged by the mean gap of
/// the request, since a request's record has no more.
#[derive(Clone, Debug)]
struct Good {
    ttft: Option<SimDuration>,
    tpot: Option<SimDuration>,
    e2el: Option<SimDuration>,
    from: SimTime,
    good: u64,
    all: u64,
}

impl Good {
    fn new(objective: &Objective, from: SimTime) -> Self {
        let least = |wanted: &[Latency]| {
            let limits = objective.limits.iter().filter(|limit| wanted.contains(&limit.latency));
            limits.map(|limit| limit.most).min()
        };
        Self {
            ttft: least(&[Latency::Ttft]),
            tpot: least(&[Latency::Tpot, Latency::Itl]),
            e2el: least(&[Latency::E2el]),
            from,
            good: 0,
            all: 0,
        }
    }

    fn share(&self) -> f64 {
        if self.all == 0 { 0.0 } else { self.good as f64 / self.all as f64 }
    }
}

impl Observer for Good {
    fn on_request(&mut self, record: &RequestRecord) {
        let crate::engine::observer::Outcome::Ended(reason) = record.outcome else { return };
        if record.arrival < self.from {
            return;
        }
        self.all += 1;
        let within = |limit: Option<SimDuration>, value: Option<SimDuration>| {
            limit.is_none_or(|limit| value.is_some_and(|value| value <= limit))
        };
        let tpot = crate::metrics::slo::tpot(record).unwrap_or(SimDuration::ZERO);
        let good = reason.is_success()
            && within(self.ttft, record.ttft())
            && within(self.tpot, Some(tpot))
            && within(self.e2el, Some(record.e2e()));
        self.good += u64::from(good);
    }
}

/// End-to-end latencies by arrival, after the warm-up.
#[derive(Clone, Debug)]
struct Series {
    from: SimTime,
    /// (arrival, latency) in nanoseconds.
    requests: Vec<(u64, u64)>,
}

impl Series {
    /// Means of batches of equally many requests, in the order of arrival, in milliseconds.
    fn batch_means(&self) -> Vec<f64> {
        let mut requests = self.requests.clone();
        requests.sort_unstable();
        let size = requests.len() / BATCHES;
        if size == 0 {
            return Vec::new();
        }
        let mean = |batch: &[(u64, u64)]| {
            batch.iter().map(|(_, latency)| *latency as f64).sum::<f64>() / batch.len() as f64 / 1e6
        };
        requests.chunks_exact(size).take(BATCHES).map(mean).collect()
    }

    fn interval(&self) -> Option<Interval> {
        Interval::of(&self.batch_means())
    }

    /// Whether latency does not grow from batch to batch. It grows where the last half of the
    /// batches lies a quarter above the first, and the line through all of them rises by more than
    /// their scatter explains (t above 3 with 8 degrees of freedom, one in a hundred by chance).
    fn is_steady(&self) -> bool {
        let means = self.batch_means();
        let n = means.len() as f64;
        if means.len() < BATCHES {
            return true;
        }
        let half = means.len() / 2;
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&means[..half]), mean(&means[half..]));
        let middle = (n - 1.0) / 2.0;
        let all = mean(&means);
        let spread: f64 = (0..means.len()).map(|i| (i as f64 - middle).powi(2)).sum();
        let slope: f64 = means
            .iter()
            .enumerate()
            .map(|(i, value)| (i as f64 - middle) * (value - all))
            .sum::<f64>()
            / spread;
        let residual: f64 = means
            .iter()
            .enumerate()
            .map(|(i, value)| (value - all - slope * (i as f64 - middle)).powi(2))
            .sum();
        let error = (residual / (n - 2.0) / spread).sqrt();
        !(last > 1.25 * first && slope > 3.0 * error)
    }
}

impl Observer for Series {
    fn on_request(&mut self, record: &RequestRecord) {
        if record.arrival >= self.from && record.outcome.is_success() {
            self.requests.push((record.arrival.as_nanos(), record.e2e().as_nanos()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(latency: impl Fn(u64) -> u64) -> Series {
        let requests = (0..1000).map(|i| (i, latency(i) * 1_000_000)).collect();
        Series { from: SimTime::ZERO, requests }
    }

    #[test]
    fn a_queue_that_grows_is_told_from_one_that_scatters() {
        assert!(series(|_| 100).is_steady());
        // Deterministic scatter of 30 %.
        assert!(series(|i| 100 + (i * 7919) % 30).is_steady());
        // A busy spell that ends.
        assert!(series(|i| if (300..500).contains(&i) { 300 } else { 100 }).is_steady());
        assert!(!series(|i| 100 + i).is_steady());
        assert!(!series(|i| 100 + i / 10 + (i * 7919) % 30).is_steady());
    }

    #[test]
    fn batch_means_have_the_mean_of_all() {
        let interval = series(|i| i % 10).interval().unwrap();
        assert!((interval.mean - 4.5).abs() < 1e-9, "{interval:?}");
    }
}
