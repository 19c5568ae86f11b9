//! The figures of a run, as they are printed and written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::confidence::{Band, Interval};
use super::distribution::{Distribution, Figures};
use super::fleet::{FleetSummary, ReplicaSummary};
use super::histogram::RELATIVE_ERROR;
use super::pools::{self, PoolSummary};
use super::quantile::Quantile;
use super::recorder::{Recorder, Tally};
use super::slo::{Slo, SloTally};
use super::tenants::TenantSummary;
use super::trust::{self, Trusted};
use crate::cost::trust::Trust;
use crate::request::FinishReason;
use crate::units::UsdPerHour;

/// How many there were: a whole number, or the mean of several runs' whole numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
pub struct Count(f64);

impl Count {
    pub fn new(count: u64) -> Self {
        Self(count as f64)
    }

    pub const fn get(self) -> f64 {
        self.0
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // 2^53: beyond it an f64 does not hold every whole number.
        if self.0.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&self.0) {
            serializer.serialize_u64(self.0 as u64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

/// Statistics of a latency in milliseconds; null where nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub mean: Option<f64>,
    pub median: Option<f64>,
    pub p90: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub std: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub count: Count,
    /// Whether the percentiles come from a histogram; the rest is exact.
    #[serde(default, skip_serializing_if = "is_false")]
    pub approximate: bool,
    /// How far such percentiles can be off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
}

impl Stats {
    pub(super) fn of(values: &Distribution, quantile: Quantile) -> Self {
        let to_ms = |ns: f64| ns / 1e6;
        let figures = values.figures_by(quantile, &[50.0, 90.0, 95.0, 99.0]);
        let figure = |of: fn(&Figures) -> f64| figures.as_ref().map(of).map(to_ms);
        let approximate = values.is_approximate();
        Self {
            mean: figure(|f| f.mean),
            median: figure(|f| f.percentiles[0]),
            p90: figure(|f| f.percentiles[1]),
            p95: figure(|f| f.percentiles[2]),
            p99: figure(|f| f.percentiles[3]),
            std: figure(|f| f.std),
            min: figure(|f| f.min),
            max: figure(|f| f.max),
            count: Count::new(figures.as_ref().map_or(0, |f| f.count)),
            approximate,
            relative_error: approximate.then_some(RELATIVE_ERROR),
        }
    }
}

/// Sequences that run at once, over the time in which steps ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchSize {
    pub mean: Option<f64>,
    pub max: Count,
}

/// Where the time of the replicas went; `terms_s` adds up to `busy_s`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeBreakdown {
    pub busy_s: f64,
    pub idle_s: f64,
    /// By cost term.
    pub terms_s: BTreeMap<String, f64>,
    /// By kind of step.
    pub kinds_s: BTreeMap<String, f64>,
}

/// How the run did against its objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SloResult {
    /// Share of the requests that meet every limit.
    pub attainment: Option<f64>,
    /// Whether each limit holds for the wanted share of the requests; over several seeds, whether it
    /// does in all of them.
    pub met: bool,
    pub percentile: f64,
    pub ttft_ms: Option<f64>,
    pub tpot_ms: Option<f64>,
    pub e2el_ms: Option<f64>,
}

impl SloResult {
    pub(super) fn of(slo: &Slo, tally: &SloTally) -> Self {
        Self {
            attainment: tally.attainment(),
            met: tally.is_met(slo),
            percentile: slo.percentile,
            ttft_ms: slo.ttft.map(|limit| limit.as_millis_f64()),
            tpot_ms: slo.tpot.map(|limit| limit.as_millis_f64()),
            e2el_ms: slo.e2el.map(|limit| limit.as_millis_f64()),
        }
    }
}

/// The figures of a run. Times in seconds or, where the name says so, milliseconds; throughputs per
/// second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub convention: String,
    pub completed: Count,
    /// Ended without the answer that was asked for; refused ones are among them.
    pub failed: Count,
    /// In flight when the run ended: neither completed nor failed.
    pub unfinished: Count,
    pub refused: Count,
    pub failed_by_reason: BTreeMap<String, Count>,
    /// Left out because they arrived in the warm-up.
    pub warm_up_requests: Count,
    pub duration_s: f64,
    /// Of completed requests.
    pub total_input_tokens: Count,
    pub total_output_tokens: Count,
    pub cached_input_tokens: Count,
    /// By all steps of the run, for whatever request.
    pub generated_tokens: Count,
    pub output_throughput: f64,
    /// Under `redhat-2023`: counting only requests answered by the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_throughput_answered: Option<f64>,
    pub request_throughput: f64,
    pub total_token_throughput: f64,
    pub ttft_ms: Stats,
    pub tpot_ms: Stats,
    pub itl_ms: Stats,
    pub e2el_ms: Stats,
    pub normalized_latency_ms: Stats,
    pub queue_ms: Stats,
    pub batch_size: BatchSize,
    pub preemptions: Count,
    /// Of one replica; tokens where the engine has no blocks.
    pub kv_blocks_total: Count,
    /// Share of the cache, at the fullest moment of the fullest replica.
    pub kv_usage_peak: f64,
    pub steps: BTreeMap<String, Count>,
    pub time: TimeBreakdown,
    /// What the deployment costs per hour: all machines that were there, on average over the run.
    /// Null without a price.
    #[serde(default)]
    pub usd_per_hour: Option<f64>,
    /// What the price of the deployment comes to, all of it put on the one kind of token. Null
    /// without a price or without tokens.
    pub usd_per_1m_output_tokens: Option<f64>,
    pub usd_per_1m_input_tokens: Option<f64>,
    pub usd_per_1m_total_tokens: Option<f64>,
    pub minutes_per_1m_output_tokens: Option<f64>,
    /// Requests per second that meet every limit of the objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodput: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloResult>,
    /// By what kind of numbers the prediction is limited; null where nothing says where they come
    /// from, or nothing ran.
    #[serde(default)]
    pub trust: Option<Trust>,
    /// Share of the busy time by the grade of the numbers that price it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trust_shares: BTreeMap<String, f64>,
    /// Terms of no better grade, largest share first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust_limits: Vec<String>,
    /// Where machines come and go or fail, or clients try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetSummary>,
    /// By name, where machines are of several kinds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<String, PoolSummary>,
    /// By number, where there are several; of the whole run, warm-up included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaSummary>,
    /// By name; none where requests are of one kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, TenantSummary>,
    /// What the time of an answered request went to on average, in milliseconds by
    /// [`super::blame::Cause`]; only where that was asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blame_ms: BTreeMap<String, f64>,
    /// Assumptions and extrapolations behind the figures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Independent repetitions behind the figures, if more than one: then each is a mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<u64>,
    /// 95 % Student-t interval of each figure over the seeds, by dotted key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, Interval>,
    /// Where a measurement of each figure is expected, given how far the numbers behind the
    /// prediction may be off; only where that was asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prediction_intervals: BTreeMap<String, Band>,
}

impl Summary {
    pub(super) fn of(recorder: &Recorder) -> Self {
        let end = recorder.end();
        let Recorder { measure, latencies, tally, steps, .. } = recorder;
        let counted = measure.convention.count(measure, tally, end);
        let duration_s = counted.duration.as_secs_f64();
        // A run without a reply has no duration, and a rate of 0 rather than none.
        let rate = |n: u64| if duration_s > 0.0 { n as f64 / duration_s } else { 0.0 };
        let pools = &measure.pools;
        let fleet = FleetSummary::of(&recorder.fleet, recorder.retries, measure.price, pools);
        let price = if pools.is_empty() {
            let fixed = f64::from(measure.machines.max(1));
            let machines = fleet.as_ref().map_or(fixed, |fleet| fleet.machines);
            measure.price.map(|price| UsdPerHour::new(price.get() * machines))
        } else {
            pools::usd_per_hour(&recorder.fleet, pools)
        };
        let per_million = |n: u64| {
            let throughput = rate(n);
            price.filter(|_| throughput > 0.0).map(|p| p.per_million_tokens(throughput))
        };
        let stats = |values| Stats::of(values, measure.convention.quantile());
        let output_throughput = rate(counted.output_tokens);
        let busy_s = steps.busy().as_secs_f64();
        let available_s = match &fleet {
            Some(_) => recorder.fleet.replicas.iter().map(|row| row.up.as_secs_f64()).sum(),
            None => end.as_secs_f64() * f64::from(measure.replicas.max(1)),
        };
        Self {
            convention: measure.convention.name().to_owned(),
            completed: Count::new(tally.completed),
            failed: Count::new(tally.failed.iter().sum()),
            unfinished: Count::new(tally.unfinished),
            refused: Count::new(tally.failed_for(FinishReason::Refused)),
            failed_by_reason: Tally::FAILURES
                .iter()
                .map(|&reason| (reason.name().to_owned(), Count::new(tally.failed_for(reason))))
                .collect(),
            warm_up_requests: Count::new(tally.in_warm_up),
            duration_s,
            total_input_tokens: Count::new(tally.input_tokens),
            total_output_tokens: Count::new(tally.output_tokens),
            cached_input_tokens: Count::new(tally.cached_tokens),
            generated_tokens: Count::new(steps.tokens),
            output_throughput,
            output_throughput_answered: counted.answered_tokens.map(rate),
            request_throughput: rate(counted.requests),
            total_token_throughput: rate(counted.input_tokens + counted.output_tokens),
            ttft_ms: stats(&latencies.ttft),
            tpot_ms: if measure.convention.has_tpot() {
                stats(&latencies.tpot)
            } else {
                Stats::default()
            },
            itl_ms: stats(recorder.itl()),
            e2el_ms: stats(&latencies.e2el),
            normalized_latency_ms: stats(&latencies.normalized),
            queue_ms: stats(&latencies.queue),
            batch_size: BatchSize {
                mean: steps.mean_batch(),
                max: Count::new(steps.max_batch.into()),
            },
            preemptions: Count::new(steps.preemptions),
            kv_blocks_total: Count::new(steps.kv_total),
            kv_usage_peak: steps.kv_usage_peak(),
            steps: steps.by_kind().map(|(k, n, _)| (k.name().to_owned(), Count::new(n))).collect(),
            time: TimeBreakdown {
                busy_s,
                idle_s: (available_s - busy_s).max(0.0),
                terms_s: steps
                    .time()
                    .terms()
                    .map(|(term, time)| (term.name().to_owned(), time.as_secs_f64()))
                    .collect(),
                kinds_s: steps
                    .by_kind()
                    .map(|(kind, _, time)| (kind.name().to_owned(), time.as_secs_f64()))
                    .collect(),
            },
            usd_per_hour: price.map(UsdPerHour::get),
            usd_per_1m_output_tokens: per_million(counted.output_tokens),
            usd_per_1m_input_tokens: per_million(counted.input_tokens),
            usd_per_1m_total_tokens: per_million(counted.input_tokens + counted.output_tokens),
            minutes_per_1m_output_tokens: (output_throughput > 0.0)
                .then(|| 1e6 / output_throughput / 60.0),
            goodput: measure.slo.map(|_| rate(tally.slo.good)),
            slo: measure.slo.map(|slo| SloResult::of(&slo, &tally.slo)),
            trust: None,
            trust_shares: BTreeMap::new(),
            trust_limits: Vec::new(),
            pools: PoolSummary::of(&recorder.fleet, pools),
            replicas: ReplicaSummary::of(&recorder.fleet, pools),
            fleet,
            tenants: recorder.tenants.summaries(measure.convention, counted.duration),
            blame_ms: BTreeMap::new(),
            notes: Vec::new(),
            seeds: None,
            intervals: BTreeMap::new(),
            prediction_intervals: BTreeMap::new(),
        }
    }

    /// The same, saying how far it can be trusted.
    #[must_use]
    pub fn trusted(mut self, trusted: &Trusted) -> Self {
        self.trust = trusted.grade();
        self.trust_limits = trusted.limits();
        self.trust_shares.clone_from(&trusted.shares);
        self
    }

    /// One summary of independent repetitions: each figure is the mean of those that have it, with
    /// its interval in `intervals`. One repetition stays as it is; `None` for none.
    pub fn over_seeds(runs: &[Self]) -> Option<Self> {
        match runs {
            [] => return None,
            [one] => return Some(one.clone()),
            _ => {}
        }
        let values: Vec<_> = runs
            .iter()
            .map(|run| serde_json::to_value(run).expect("a summary has only string keys"))
            .collect();
        let mut intervals = BTreeMap::new();
        let merged = merge(&values.iter().collect::<Vec<_>>(), "", &mut intervals);
        let mut summary: Self =
            serde_json::from_value(merged).expect("means of a summary's figures are a summary");
        summary.seeds = Some(runs.len() as u64);
        // Shares say what a figure rests on and are none themselves.
        intervals.retain(|key, _| !key.contains("trust_shares."));
        summary.intervals = intervals;
        summary.trust = trust::grade(&summary.trust_shares);
        for pool in summary.pools.values_mut() {
            pool.trust = trust::grade(&pool.trust_shares);
        }
        Some(summary)
    }
}

/// Means of numbers, union of lists, flags by their meaning; anything else from the first.
fn merge(values: &[&Value], key: &str, intervals: &mut BTreeMap<String, Interval>) -> Value {
    let values: Vec<_> = values.iter().copied().filter(|value| !value.is_null()).collect();
    let Some(first) = values.first() else { return Value::Null };
    match first {
        Value::Number(_) => {
            let numbers: Vec<_> = values.iter().filter_map(|value| value.as_f64()).collect();
            if let Some(interval) = Interval::of(&numbers) {
                intervals.insert(key.to_owned(), interval);
            }
            (numbers.iter().sum::<f64>() / numbers.len() as f64).into()
        }
        // An objective is met only if it always is; one approximate percentile makes a mean of them
        // approximate.
        Value::Bool(_) if key.ends_with(".met") => {
            values.iter().all(|value| value.as_bool() == Some(true)).into()
        }
        Value::Bool(_) => values.iter().any(|value| value.as_bool() == Some(true)).into(),
        // Rows, one by one.
        Value::Array(rows) if rows.first().is_some_and(Value::is_object) => {
            let lists: Vec<_> = values.iter().filter_map(|value| value.as_array()).collect();
            let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
            let row = |i: usize| {
                let rows: Vec<_> = lists.iter().filter_map(|list| list.get(i)).collect();
                merge(&rows, &format!("{key}.{i}"), intervals)
            };
            (0..longest).map(row).collect()
        }
        Value::Array(_) => {
            let mut union = Vec::new();
            for item in values.iter().filter_map(|value| value.as_array()).flatten() {
                if !union.contains(item) {
                    union.push(item.clone());
                }
            }
            union.into()
        }
        Value::Object(_) => {
            let objects: Vec<_> = values.iter().filter_map(|value| value.as_object()).collect();
            let mut merged = Map::new();
            for name in objects.iter().flat_map(|object| object.keys()) {
                if !merged.contains_key(name) {
                    let parts: Vec<_> = objects.iter().filter_map(|o| o.get(name)).collect();
                    let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    merged.insert(name.clone(), merge(&parts, &path, intervals));
                }
            }
            merged.into()
        }
        other => (*other).clone(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::super::recorder::tests::answered;
    use super::super::{Measure, Slo};
    use super::*;
    use crate::engine::observer::Observer;
    use crate::time::SimDuration;

    fn summary_of(requests: &[(u64, u64, u64, u32)], measure: Measure) -> Summary {
        let mut recorder = Recorder::new(measure);
        for &(arrival, first, end, tokens) in requests {
            recorder.on_request(&answered(arrival, first, end, tokens));
        }
        recorder.summary()
    }

    #[test]
    fn the_contract_names_every_key() {
        let slo = Slo { ttft: Some(SimDuration::from_millis(100)), ..Slo::default() };
        let measure = Measure { slo: Some(slo), ..Measure::default() };
        let json = serde_json::to_value(summary_of(&[(0, 50, 100, 6)], measure)).unwrap();
        for key in [
            "completed",
            "failed",
            "duration_s",
            "output_throughput",
            "request_throughput",
            "total_token_throughput",
            "preemptions",
            "kv_blocks_total",
            "kv_usage_peak",
            "usd_per_1m_output_tokens",
            "minutes_per_1m_output_tokens",
            "unfinished",
            "goodput",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        for key in ["ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "normalized_latency_ms", "queue_ms"]
        {
            for statistic in ["mean", "median", "p90", "p95", "p99"] {
                assert!(json[key].get(statistic).is_some(), "{key}.{statistic}");
            }
        }
        assert!(
            json["batch_size"].get("mean").is_some() && json["batch_size"].get("max").is_some()
        );
        assert_eq!(json["completed"].to_string(), "1");
    }

    #[test]
    fn price_and_throughput_come_out_as_published() {
        // Red Hat Table 2, first row: 38,713 tokens in 240 s on g5.2xlarge at 1.212 USD/h.
        let measure = Measure { price: Some(UsdPerHour::new(1.212)), ..Measure::default() };
        let summary = summary_of(&[(0, 1, 240_000, 38_713)], measure);
        assert_eq!(format!("{:.2}", summary.output_throughput), "161.30");
        assert_eq!(format!("{:.2}", summary.minutes_per_1m_output_tokens.unwrap()), "103.32");
        assert_eq!(format!("{:.2}", summary.usd_per_1m_output_tokens.unwrap()), "2.09");
    }

    #[test]
    fn a_run_without_requests_has_rates_of_zero_and_no_latencies() {
        let measure = Measure { price: Some(UsdPerHour::new(1.0)), ..Measure::default() };
        let summary = summary_of(&[], measure);
        assert_eq!((summary.output_throughput, summary.usd_per_1m_output_tokens), (0.0, None));
        let json = serde_json::to_string(&summary).unwrap();
        assert!(json.contains("\"ttft_ms\":{\"mean\":null"), "{json}");
    }

    #[test]
    fn a_summary_is_read_back_as_it_was_written() {
        let summary = summary_of(&[(0, 50, 100, 6), (0, 70, 200, 9)], Measure::default());
        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
    }

    #[test]
    fn several_seeds_give_means_with_intervals() {
        let of = |end| summary_of(&[(0, 50, end, 6)], Measure::default());
        let merged = Summary::over_seeds(&[of(100), of(200), of(300)]).unwrap();
        assert_eq!((merged.seeds, merged.completed.get()), (Some(3), 1.0));
        assert_eq!(merged.e2el_ms.mean, Some(200.0));
        let interval = merged.intervals["e2el_ms.mean"];
        // t = 4.303 at two degrees of freedom, standard error 100 / sqrt 3.
        assert!((interval.half_width - 248.4).abs() < 0.1, "{interval:?}");
        assert_eq!(merged.failed_by_reason["refused"].get(), 0.0);
    }

    #[test]
    fn a_figure_that_some_seeds_lack_is_the_mean_of_the_others() {
        let (some, none) = (
            summary_of(&[(0, 50, 100, 6)], Measure::default()),
            summary_of(&[], Measure::default()),
        );
        let merged = Summary::over_seeds(&[none, some]).unwrap();
        assert_eq!((merged.ttft_ms.mean, merged.completed.get()), (Some(50.0), 0.5));
    }

    #[test]
    fn an_objective_is_met_if_every_seed_meets_it() {
        let slo = Slo { e2el: Some(SimDuration::from_millis(150)), ..Slo::default() };
        let of =
            |end| summary_of(&[(0, 50, end, 6)], Measure { slo: Some(slo), ..Measure::default() });
        let met = |ends: [u64; 2]| Summary::over_seeds(&ends.map(of)).unwrap().slo.unwrap().met;
        assert_eq!((met([100, 100]), met([100, 200])), (true, false));
    }

    #[test]
    fn one_seed_is_its_own_summary() {
        let one = summary_of(&[(0, 50, 100, 6)], Measure::default());
        assert_eq!(Summary::over_seeds(std::slice::from_ref(&one)), Some(one));
        assert_eq!(Summary::over_seeds(&[]), None);
    }
}
