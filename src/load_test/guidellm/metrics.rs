//! guidellm's metrics over a list of requests (0.8.1 `benchmark/schemas/generative/metrics.py` and
//! `schemas/base/request_stats.py`).

use serde_json::{Value, json};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, StudentsT};

use super::super::statistics::Weighted;
use super::super::{Request, Status};
use crate::metrics::Slo;

/// Of the intervals beside request-level metrics.
pub const CONFIDENCE: f64 = 0.95;

const PERCENTILES: [(&str, f64); 11] = [
    ("p001", 0.1),
    ("p01", 1.0),
    ("p05", 5.0),
    ("p10", 10.0),
    ("p25", 25.0),
    ("p50", 50.0),
    ("p75", 75.0),
    ("p90", 90.0),
    ("p95", 95.0),
    ("p99", 99.0),
    ("p999", 99.9),
];

/// Requests by how they ended.
#[derive(Debug)]
pub struct Classes<'a> {
    successful: Vec<&'a Request>,
    errored: Vec<&'a Request>,
    incomplete: Vec<&'a Request>,
}

impl<'a> Classes<'a> {
    pub fn of(requests: &'a [Request]) -> Self {
        let of = |wanted: fn(Status) -> bool| {
            requests.iter().filter(|request| wanted(request.status)).collect()
        };
        Self {
            successful: of(|status| status == Status::Answered),
            errored: of(|status| matches!(status, Status::Failed(_))),
            incomplete: of(|status| status == Status::CutOff),
        }
    }

    /// The same of each class; of all together there is none.
    pub fn map(&self, of: impl Fn(&[&Request]) -> Value) -> Value {
        json!({
            "successful": of(&self.successful),
            "errored": of(&self.errored),
            "incomplete": of(&self.incomplete),
            "total": null,
        })
    }

    /// The same of each class and of all together.
    fn each(&self, of: impl Fn(&[&Request]) -> Value) -> Value {
        let all = [&self.successful[..], &self.incomplete, &self.errored].concat();
        let mut classes = self.map(&of);
        classes["total"] = of(&all);
        classes
    }

    pub fn totals(&self) -> Value {
        self.each(|requests| requests.len().into())
    }
}

pub fn time_per_output_token_ms(request: &Request) -> Option<f64> {
    let last = request.last_token.unwrap_or(request.end);
    (request.output_tokens > 0).then(|| 1e3 * (last - request.start) / request.output_tokens as f64)
}

pub fn inter_token_latency_ms(request: &Request) -> Option<f64> {
    let gaps = request.output_tokens.checked_sub(1).filter(|&gaps| gaps > 0)?;
    Some(1e3 * (request.last_token? - request.first_token?) / gaps as f64)
}

/// What a request adds to the summary of its TPOT, and to that of its ITL.
pub fn weighted_tpot(request: &Request) -> (f64, f64) {
    (time_per_output_token_ms(request).unwrap_or(0.0), request.output_tokens as f64)
}

pub fn weighted_itl(request: &Request) -> (f64, f64) {
    let gaps = request.output_tokens.saturating_sub(1);
    (inter_token_latency_ms(request).unwrap_or(0.0), gaps as f64)
}

/// Output tokens by time: evenly spread from the first to the last, as the tool counts chunks and
/// keeps no times of them.
fn output_events(request: &Request) -> Vec<(f64, f64)> {
    let tokens = request.output_tokens;
    match (request.first_token, request.last_token) {
        (Some(first), Some(last)) if tokens > 1 => {
            let step = (last - first) / (tokens - 1) as f64;
            (0..tokens).map(|i| (first + step * i as f64, 1.0)).collect()
        }
        (_, last) => vec![(last.unwrap_or(request.end), tokens as f64)],
    }
}

fn prompt_event(request: &Request) -> (f64, f64) {
    (request.first_token.unwrap_or(request.end), request.input_tokens as f64)
}

pub fn document(classes: &Classes<'_>, window: (f64, f64), slo: Option<&Slo>) -> Value {
    let ms = |seconds: Option<f64>| seconds.unwrap_or(0.0) * 1e3;
    let per_request = |of: &dyn Fn(&Request) -> f64| {
        classes.each(|requests| {
            with_intervals(&requests.iter().map(|request| of(request)).collect::<Vec<_>>())
        })
    };
    let weighted = |of: &dyn Fn(&Request) -> (f64, f64)| {
        classes.each(|requests| summary(&requests.iter().map(|r| of(r)).collect::<Vec<_>>()))
    };
    let rates = |of: &dyn Fn(&Request) -> Vec<(f64, f64)>| {
        classes.each(|requests| {
            let events: Vec<_> = requests.iter().flat_map(|request| of(request)).collect();
            rate_summary(&events, Some(window))
        })
    };
    let input = |request: &Request| request.input_tokens as f64;
    let output = |request: &Request| request.output_tokens as f64;
    let goodput = slo.map(|slo| Goodput::of(classes, slo));
    json!({
        "request_totals": classes.totals(),
        "requests_per_second": rates(&|request| vec![(request.end, 1.0)]),
        "request_concurrency": classes.each(|requests| {
            let intervals: Vec<_> =
                requests.iter().map(|request| (request.start, request.end, 1.0)).collect();
            concurrency_summary(&intervals, Some(window))
        }),
        "request_latency": per_request(&Request::latency),
        "request_dispatch_delay": null,
        "request_scheduled_latency": null,
        "turn_predecessor_delay": null,
        "turn_scheduling_delay": null,
        "root_dispatch_delay": summary(&vec![(0.0, 1.0); classes.successful.len()]),
        "request_streaming_iterations_count": per_request(&output),
        "prompt_token_count": per_request(&input),
        "output_token_count": per_request(&output),
        "total_token_count": per_request(&|request| input(request) + output(request)),
        "time_to_first_token_ms": per_request(&|request| ms(request.ttft())),
        "time_to_first_output_token_ms": per_request(&|request| ms(request.ttft())),
        "time_per_output_token_ms": weighted(&weighted_tpot),
        "inter_token_latency_ms": weighted(&weighted_itl),
        // Of web sockets only: nothing counts, as zero.
        "time_to_last_round_trip_ms": per_request(&|_| 0.0),
        "avg_round_trip_time_ms": per_request(&|_| 0.0),
        "prompt_tokens_per_second": rates(&|request| vec![prompt_event(request)]),
        "output_tokens_per_second": rates(&output_events),
        "tokens_per_second": rates(&|request| {
            let mut events = vec![prompt_event(request)];
            events.extend(output_events(request));
            events
        }),
        "output_tokens_per_iteration": weighted(&|request| (1.0, output(request))),
        "iter_tokens_per_iteration":
            weighted(&|request| (1.0, request.output_tokens.saturating_sub(1) as f64)),
        "text": {
            "tokens": amounts(classes),
            "words": no_amounts(),
            "characters": no_amounts(),
        },
        "image": unknown(&["tokens", "images", "pixels", "bytes"]),
        "video": unknown(&["tokens", "frames", "seconds", "bytes"]),
        "audio": unknown(&["tokens", "samples", "seconds", "bytes"]),
        "tool_call": unknown(&["tokens", "mixed_tokens", "count"]),
        "turns": null,
        "slo_attainment": goodput.as_ref().and_then(Goodput::attainment),
        "slo_determined_requests": goodput.as_ref().map_or(0, |goodput| goodput.determined),
        "request_goodput": goodput.map(|goodput| {
            let ends: Vec<_> = goodput.good.iter().map(|request| (request.end, 1.0)).collect();
            let good = rate_summary(&ends, Some(window));
            let none = rate_summary(&[], Some(window));
            json!({ "successful": good, "errored": none, "incomplete": none, "total": good })
        }),
    })
}

/// Verdicts against the objective; its TPOT is held against the inter-token latency, and a request
/// without one has no verdict. Failed requests count as bad ones.
struct Goodput<'a> {
    good: Vec<&'a Request>,
    determined: usize,
}

impl<'a> Goodput<'a> {
    fn of(classes: &Classes<'a>, slo: &Slo) -> Self {
        let has_verdict =
            |request: &&&Request| slo.tpot.is_none() || inter_token_latency_ms(request).is_some();
        let judged: Vec<_> = classes.successful.iter().filter(has_verdict).copied().collect();
        let determined = judged.len() + classes.errored.len();
        let good = judged.into_iter().filter(|request| super::super::meets(request, slo));
        Self { good: good.collect(), determined }
    }

    fn attainment(&self) -> Option<f64> {
        (self.determined > 0).then(|| self.good.len() as f64 / self.determined as f64)
    }
}

/// `GenerativeMetricsSummary`: tokens in and out as counts, as rates at the requests' ends, and as
/// what is in flight.
fn amounts(classes: &Classes<'_>) -> Value {
    let input = |request: &Request| request.input_tokens as f64;
    let output = |request: &Request| request.output_tokens as f64;
    type Amount<'a> = &'a dyn Fn(&Request) -> f64;
    let counts = |of: &[Amount<'_>]| {
        classes.each(|requests| {
            let pairs = of.iter().flat_map(|of| requests.iter().map(|r| (of(r), 1.0)));
            summary(&pairs.collect::<Vec<_>>())
        })
    };
    let rates = |of: &[Amount<'_>]| {
        classes.each(|requests| {
            let events = of.iter().flat_map(|of| requests.iter().map(|r| (r.end, of(r))));
            rate_summary(&events.collect::<Vec<_>>(), None)
        })
    };
    let levels = |of: &[Amount<'_>]| {
        classes.each(|requests| {
            let intervals =
                of.iter().flat_map(|of| requests.iter().map(|r| (r.start, r.end, of(r))));
            concurrency_summary(&intervals.collect::<Vec<_>>(), None)
        })
    };
    json!({
        "input": counts(&[&input]),
        "input_per_second": rates(&[&input]),
        "input_concurrency": levels(&[&input]),
        "output": counts(&[&output]),
        "output_per_second": rates(&[&output]),
        "output_concurrency": levels(&[&output]),
        "total": counts(&[&input, &output]),
        "total_per_second": rates(&[&input, &output]),
        "total_concurrency": levels(&[&input, &output]),
    })
}

fn no_amounts() -> Value {
    json!({
        "input": null,
        "input_per_second": null,
        "input_concurrency": null,
        "output": null,
        "output_per_second": null,
        "output_concurrency": null,
        "total": null,
        "total_per_second": null,
        "total_concurrency": null,
    })
}

fn unknown(keys: &[&str]) -> Value {
    keys.iter()
        .map(|key| ((*key).to_owned(), no_amounts()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// `DistributionSummary` of weighted values.
pub fn summary(pairs: &[(f64, f64)]) -> Value {
    let count: f64 = pairs.iter().map(|pair| pair.1).sum();
    of_weighted(&Weighted::of(pairs), count)
}

fn rate_summary(events: &[(f64, f64)], window: Option<(f64, f64)>) -> Value {
    let (rates, count) = Weighted::rates(events, window);
    of_weighted(&rates, count)
}

fn concurrency_summary(intervals: &[(f64, f64, f64)], window: Option<(f64, f64)>) -> Value {
    of_weighted(&Weighted::concurrency(intervals, window), intervals.len() as f64)
}

fn of_weighted(values: &Weighted, count: f64) -> Value {
    let percentiles: serde_json::Map<_, _> = PERCENTILES
        .iter()
        .map(|&(key, percent)| (key.to_owned(), values.percentile(percent).into()))
        .collect();
    let count = count.round();
    json!({
        "mean": values.mean(),
        "median": values.percentile(50.0),
        "mode": values.mode(),
        "variance": values.variance(),
        "std_dev": values.variance().sqrt(),
        "min": values.min(),
        "max": values.max(),
        "count": count as u64,
        "total_sum": values.mean() * count,
        "percentiles": percentiles,
        "pdf": null,
        "mean_ci": null,
        "percentile_cis": null,
    })
}

/// The same of one value per request, with intervals: Student's for the mean; between order
/// statistics for the percentiles, and none where the list is too short for them.
fn with_intervals(values: &[f64]) -> Value {
    let pairs: Vec<_> = values.iter().map(|&value| (value, 1.0)).collect();
    let mut summary = summary(&pairs);
    if values.len() < 2 {
        return summary;
    }
    let n = values.len() as f64;
    let mean = summary["mean"].as_f64().unwrap_or(0.0);
    let variance = summary["variance"].as_f64().unwrap_or(0.0) * n / (n - 1.0);
    let student = StudentsT::new(0.0, 1.0, n - 1.0).expect("a degree of freedom");
    let half = student.inverse_cdf((1.0 + CONFIDENCE) / 2.0) * (variance / n).sqrt();
    summary["mean_ci"] = json!({ "lower": mean - half, "upper": mean + half });

    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let intervals: serde_json::Map<_, _> = PERCENTILES
        .iter()
        .map(|&(key, percent)| {
            let below = Binomial::new(percent / 100.0, sorted.len() as u64)
                .expect("a share between 0 and 1");
            // Ranks counted from 1.
            let (low, high) = (below.inverse_cdf(tail), below.inverse_cdf(1.0 - tail) + 1);
            let interval = (low >= 1 && high <= sorted.len() as u64).then(|| {
                let at = |rank: u64| sorted[rank as usize - 1];
                json!({ "lower": at(low), "upper": at(high) })
            });
            (key.to_owned(), interval.into())
        })
        .collect();
    summary["percentile_cis"] = intervals.into();
    summary
}
