//! The columns of `points.csv`: one tidy row per point, the same columns whatever is swept.

use crate::metrics::{Stats, Summary};

/// Columns before the axes.
pub const FIRST: [&str; 2] = ["point", "hash"];

/// Columns between the axes and the metrics.
pub const DEPLOYMENT: [&str; 16] = [
    "status",
    "reason",
    "model",
    "instance",
    "gpu",
    "gpus",
    "tensor_parallel_size",
    "replicas",
    "machines",
    "engine",
    "weights",
    "kv_cache_dtype",
    "load",
    "usd_per_hour",
    "bound",
    "trust",
];

/// A figure of a run; empty where there is none.
pub type Metric = (&'static str, fn(&Summary) -> Option<f64>);

macro_rules! stats {
    ($field:ident) => {
        [
            (concat!(stringify!($field), ".mean"), |s| s.$field.mean),
            (concat!(stringify!($field), ".median"), |s| s.$field.median),
            (concat!(stringify!($field), ".p90"), |s| s.$field.p90),
            (concat!(stringify!($field), ".p95"), |s| s.$field.p95),
            (concat!(stringify!($field), ".p99"), |s| s.$field.p99),
        ]
    };
}

const LATENCIES: [[Metric; 5]; 6] = [
    stats!(ttft_ms),
    stats!(tpot_ms),
    stats!(itl_ms),
    stats!(e2el_ms),
    stats!(normalized_latency_ms),
    stats!(queue_ms),
];

const FIGURES: [Metric; 22] = [
    ("usd_per_1m_output_tokens", |s| s.usd_per_1m_output_tokens),
    ("usd_per_1m_input_tokens", |s| s.usd_per_1m_input_tokens),
    ("usd_per_1m_total_tokens", |s| s.usd_per_1m_total_tokens),
    ("minutes_per_1m_output_tokens", |s| s.minutes_per_1m_output_tokens),
    ("output_throughput", |s| Some(s.output_throughput)),
    ("request_throughput", |s| Some(s.request_throughput)),
    ("total_token_throughput", |s| Some(s.total_token_throughput)),
    ("goodput", |s| s.goodput),
    ("slo_attainment", |s| s.slo.as_ref().and_then(|slo| slo.attainment)),
    ("completed", |s| Some(s.completed.get())),
    ("failed", |s| Some(s.failed.get())),
    ("unfinished", |s| Some(s.unfinished.get())),
    ("duration_s", |s| Some(s.duration_s)),
    ("total_input_tokens", |s| Some(s.total_input_tokens.get())),
    ("total_output_tokens", |s| Some(s.total_output_tokens.get())),
    ("preemptions", |s| Some(s.preemptions.get())),
    ("batch_size.mean", |s| s.batch_size.mean),
    ("batch_size.max", |s| Some(s.batch_size.max.get())),
    ("kv_blocks_total", |s| Some(s.kv_blocks_total.get())),
    ("kv_usage_peak", |s| Some(s.kv_usage_peak)),
    ("busy_s", |s| Some(s.time.busy_s)),
    ("idle_s", |s| Some(s.time.idle_s)),
];

/// All metrics in the order of their columns.
pub fn metrics() -> impl Iterator<Item = Metric> {
    FIGURES.into_iter().chain(LATENCIES.into_iter().flatten())
}

/// Whether less of a metric is better; `None` if there is no such metric, or it says nothing of
/// better and worse.
pub fn less_is_better(name: &str) -> Option<bool> {
    if !metrics().any(|(known, _)| known == name) {
        return None;
    }
    let latency = name.contains("_ms.");
    let cost = name.starts_with("usd_per") || name.starts_with("minutes_per");
    let good = ["throughput", "goodput", "attainment"].iter().any(|word| name.contains(word));
    match (latency || cost, good) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// The header of `points.csv` for a sweep over `axes`.
pub fn header<'a>(axes: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names = FIRST.into_iter().chain(axes).chain(DEPLOYMENT);
    names.chain(metrics().map(|(name, _)| name)).map(str::to_owned).collect()
}

/// The value at one of the percentiles that a summary has.
pub fn percentile(stats: &Stats, percent: f64) -> Option<f64> {
    match percent {
        50.0 => stats.median,
        90.0 => stats.p90,
        95.0 => stats.p95,
        99.0 => stats.p99,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_column_stands_twice() {
        let mut names = header(std::iter::empty());
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn metrics_know_their_direction() {
        assert_eq!(less_is_better("usd_per_1m_output_tokens"), Some(true));
        assert_eq!(less_is_better("ttft_ms.p99"), Some(true));
        assert_eq!(less_is_better("output_throughput"), Some(false));
        assert_eq!(less_is_better("goodput"), Some(false));
        assert_eq!(less_is_better("completed"), None);
        assert_eq!(less_is_better("colour"), None);
    }
}
