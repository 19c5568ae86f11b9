//! A prediction beside a real load test, figure by figure and by the definitions of its tool.

use serde::Serialize;

use crate::metrics::Interval;

use super::guidellm::metrics::{weighted_itl, weighted_tpot};
use super::read::{Figure, Measured, Told};
use super::statistics::{Sorted, Weighted};
use super::{Load, Request, ResultFormat, Run};

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub metric: String,
    pub unit: &'static str,
    pub measured: f64,
    /// Null where a simulation does not know it.
    pub predicted: Option<f64>,
    /// Predicted over measured, less 1; null where there is nothing to divide by.
    pub error: Option<f64>,
    /// Standard deviation of the error over seeds; null of one seed.
    pub spread: Option<f64>,
    /// The key of the figure in the file, or that it was computed from the file's requests.
    pub place: String,
}

/// What came out of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub format: ResultFormat,
    /// Runs whose means are the predictions.
    pub seeds: usize,
    pub rows: Vec<Row>,
    /// Where the file tells of another load than the scenario's.
    pub warnings: Vec<String>,
}

impl Comparison {
    /// Throughputs and latencies further off than `tolerance`.
    pub fn beyond(&self, tolerance: f64) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| {
            row.is_judged() && row.error.is_some_and(|error| error.abs() > tolerance)
        })
    }
}

impl Row {
    /// Counts and extremes say more about the length of a test than about the system.
    fn is_judged(&self) -> bool {
        let statistic = self.metric.split_once("_ms.").map(|(_, statistic)| statistic);
        match statistic {
            Some(statistic) => !["min", "max", "std"].contains(&statistic),
            None => self.metric.ends_with("_throughput"),
        }
    }
}

/// Statistics that are computed from a file's requests where the file does not state them.
const DERIVED: [&str; 5] = ["mean", "median", "p90", "p95", "p99"];
const LATENCIES: [&str; 4] = ["ttft_ms", "tpot_ms", "itl_ms", "e2el_ms"];

/// Sets `run` beside `measured`. Both sides' figures come from the same reader: ours are read from
/// the document that the tool would have written.
pub fn compare(measured: &Measured, run: &Run) -> Comparison {
    let format = measured.format;
    let document = serde_json::to_vec(&format.document(run)).expect("a tree of values is JSON");
    let ours = super::read(&document, None).ok();
    let predict = |name: &str| {
        let stated = ours.as_ref().and_then(|ours| ours.figure(name));
        stated.map(|figure| figure.value).or_else(|| derived(format, &run.requests, name))
    };
    let mut rows = Vec::new();
    let mut push = |name: &str, measured: f64, place: String| {
        let predicted = predict(name);
        let error =
            predicted.filter(|_| measured != 0.0).map(|predicted| predicted / measured - 1.0);
        let (metric, unit) = (name.to_owned(), unit(name));
        rows.push(Row { metric, unit, measured, predicted, error, spread: None, place });
    };
    for Figure { name, place, value } in in_order(&measured.figures) {
        push(name, *value, place.clone());
    }
    for latency in LATENCIES {
        for statistic in DERIVED {
            let name = format!("{latency}.{statistic}");
            if measured.figure(&name).is_none()
                && let Some(value) = derived(format, &measured.requests, &name)
            {
                push(&name, value, "its requests".to_owned());
            }
        }
    }
    Comparison { format, seeds: 1, rows, warnings: warnings(&measured.told, run) }
}

/// One comparison of several runs with the same measurement: predictions are means, as far as a run
/// has the figure. `None` without a run.
pub fn over_seeds(runs: Vec<Comparison>) -> Option<Comparison> {
    let mut all = runs.first()?.clone();
    if runs.len() == 1 {
        return Some(all);
    }
    all.seeds = runs.len();
    for (place, row) in all.rows.iter_mut().enumerate() {
        // The rows are those of the measurement.
        let of_runs: Vec<f64> = runs.iter().filter_map(|run| run.rows[place].predicted).collect();
        if of_runs.is_empty() {
            continue;
        }
        let mean = of_runs.iter().sum::<f64>() / of_runs.len() as f64;
        row.predicted = Some(mean);
        let divisible = row.measured != 0.0;
        row.error = divisible.then(|| mean / row.measured - 1.0);
        row.spread = Interval::standard_deviation(&of_runs)
            .filter(|_| divisible)
            .map(|deviation| deviation / row.measured.abs());
    }
    for run in runs {
        let new = run.warnings.into_iter().filter(|warning| !all.warnings.contains(warning));
        all.warnings.extend(new.collect::<Vec<_>>());
    }
    Some(all)
}

/// Latencies after all else, each with its statistics together.
fn in_order(figures: &[Figure]) -> Vec<&Figure> {
    let rank = |figure: &&Figure| {
        let latency = LATENCIES.iter().position(|latency| figure.name.starts_with(latency));
        latency.map_or(0, |at| at + 1)
    };
    let mut ordered: Vec<_> = figures.iter().collect();
    ordered.sort_by_key(rank);
    ordered
}

fn unit(name: &str) -> &'static str {
    match name {
        "duration_s" => "s",
        "request_throughput" | "goodput" => "requests/s",
        name if name.contains("_throughput") => "tokens/s",
        "max_output_tokens_per_s" => "tokens/s",
        "total_output_tokens" => "tokens",
        "completed" | "failed" | "max_concurrent_requests" | "concurrency" => "requests",
        _ => "ms",
    }
}

/// A statistic of a latency over requests, by the tool's definition. `None` where the requests do
/// not tell.
fn derived(format: ResultFormat, requests: &[Request], name: &str) -> Option<f64> {
    let (latency, statistic) = name.split_once('.')?;
    let answered = || requests.iter().filter(|request| request.is_answered());
    let counted = answered().filter(|request| {
        format != ResultFormat::LlmLoadTest || request.in_time || latency == "e2el_ms"
    });
    let ms = |seconds: f64| seconds * 1e3;
    if format == ResultFormat::Guidellm {
        let pairs: Vec<_> = match latency {
            "ttft_ms" => counted.map(|r| (ms(r.ttft().unwrap_or(0.0)), 1.0)).collect(),
            "tpot_ms" => counted.map(weighted_tpot).collect(),
            "itl_ms" => counted.map(weighted_itl).collect(),
            _ => counted.map(|r| (ms(r.latency()), 1.0)).collect(),
        };
        let values = Weighted::of(&pairs);
        return (!values.is_empty()).then(|| match statistic {
            "mean" => Some(values.mean()),
            "std" => Some(values.variance().sqrt()),
            "min" => Some(values.min()),
            "max" => Some(values.max()),
            _ => percent_of(statistic).map(|percent| values.percentile(percent)),
        })?;
    }
    let with_first =
        |r: &Request| (r.output_tokens > 0).then(|| r.latency() / r.output_tokens as f64);
    let values = match (latency, format) {
        ("ttft_ms", _) => Sorted::of(counted.filter_map(Request::ttft).map(ms)),
        ("tpot_ms", ResultFormat::LlmLoadTest) => {
            Sorted::of(counted.filter_map(with_first).map(ms))
        }
        ("tpot_ms", ResultFormat::Aiperf) => return None,
        ("itl_ms", ResultFormat::Vllm) => {
            Sorted::of(counted.flat_map(|request| request.gaps.iter().copied()).map(ms))
        }
        ("tpot_ms" | "itl_ms", _) => Sorted::of(counted.filter_map(Request::mean_gap).map(ms)),
        ("e2el_ms", _) => Sorted::of(counted.map(Request::latency).map(ms)),
        _ => return None,
    };
    match statistic {
        "mean" => values.mean(),
        "std" => values.std(),
        "min" => values.min(),
        "max" => values.max(),
        _ => values.percentile(percent_of(statistic)?),
    }
}

fn percent_of(statistic: &str) -> Option<f64> {
    if statistic == "median" {
        return Some(50.0);
    }
    statistic.strip_prefix('p')?.parse().ok().filter(|percent| (0.0..=100.0).contains(percent))
}

/// Where what the file tells of its load and what was simulated part.
fn warnings(told: &Told, run: &Run) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(model) = &told.model {
        let plain = |name: &str| name.to_lowercase().replace(['_', ' '], "-");
        if !plain(model).contains(&plain(&run.model)) && !plain(&run.model).contains(&plain(model))
        {
            warnings.push(format!("the test was of {model}, the scenario is of {}", run.model));
        }
    }
    let mut differ = |what: &str, measured: Option<f64>, ours: Option<f64>, by: f64| {
        if let (Some(measured), Some(ours)) = (measured, ours)
            && (measured - ours).abs() > by * measured.abs()
        {
            let [measured, ours] = [measured, ours].map(plain_number);
            warnings.push(format!("the test had {measured} {what}, the scenario has {ours}"));
        }
    };
    let (clients, rate) = match run.load {
        Load::Clients(clients) => (Some(f64::from(clients)), None),
        Load::Rate { rate, .. } => (None, Some(rate)),
        Load::Other => (None, None),
    };
    differ("clients", told.concurrency, clients, 0.0);
    differ("requests/s", told.rate, rate, 0.01);
    differ("requests", told.requests, run.num_requests.map(|n| n as f64), 0.0);
    differ("seconds", told.duration_s, run.measured(), 0.01);
    let answered: Vec<_> = run.answered().collect();
    let mean = |of: fn(&Request) -> u64| {
        let total: u64 = answered.iter().map(|request| of(request)).sum();
        (!answered.is_empty()).then(|| total as f64 / answered.len() as f64)
    };
    differ("prompt tokens per request", told.mean_input, mean(|r| r.input_tokens), 0.05);
    differ("output tokens per request", told.mean_output, mean(|r| r.output_tokens), 0.05);
    match run.load {
        Load::Clients(clients) if told.rate.is_some() && told.concurrency.is_none() => {
            warnings.push(format!(
                "the test sent at a rate, the scenario has {clients} clients that wait"
            ));
        }
        Load::Rate { .. } | Load::Other if told.concurrency.is_some() && told.rate.is_none() => {
            warnings.push("the test had clients that wait, the scenario sends unasked".to_owned());
        }
        _ => {}
    }
    warnings
}

/// At most one decimal, none where it is zero.
fn plain_number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
