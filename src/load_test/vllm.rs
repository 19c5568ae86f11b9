//! vLLM `bench serve --save-result` (vLLM 0.32.0 `benchmarks/serve.py`, `calculate_metrics` and
//! `benchmark`), with the lists of `--save-detailed`: those with one number for each request always,
//! `itls` (as long as all answers together) and `generated_texts` (there is no text: all are empty)
//! where they are asked for.
//!
//! `date` is the start of the test's own clock. Requests that the end of the test cut off do not
//! appear: `bench serve` waits for every answer.

use serde_json::{Map, Value, json};

use super::read::{Told, numbers};
use super::statistics::Sorted;
use super::{Load, Measured, Request, ResultFormat, Run, Status, rate, span};
use crate::metrics::Stats;

/// As with `--percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 90,95,99`.
const PERCENTILES: [f64; 3] = [90.0, 95.0, 99.0];

pub fn document(run: &Run) -> Value {
    let requests: Vec<_> = run.ended().collect();
    let answered: Vec<_> = run.answered().collect();
    let (start, end) = span(requests.iter().copied()).unwrap_or_default();
    let duration = end - start;
    let completed = answered.len() as u64;
    let input: u64 = answered.iter().map(|request| request.input_tokens).sum();
    let output: u64 = answered.iter().map(|request| request.output_tokens).sum();
    let list = |of: &dyn Fn(&Request) -> Value| requests.iter().map(|r| of(r)).collect::<Value>();
    let (request_rate, burstiness) = match run.load {
        Load::Rate { rate, burstiness } => {
            (json!(rate), if burstiness.is_finite() { json!(burstiness) } else { json!("inf") })
        }
        Load::Clients(_) | Load::Other => (json!("inf"), json!(1.0)),
    };
    let max_concurrency = match run.load {
        Load::Clients(clients) => json!(clients),
        Load::Rate { .. } | Load::Other => Value::Null,
    };
    // With a limit on concurrency all requests are there from the start and wait for the semaphore.
    let queued = |request: &Request| match run.load {
        Load::Clients(_) => request.start - start,
        Load::Rate { .. } | Load::Other => 0.0,
    };
    let goodput = run.slo.as_ref().map(|slo| rate(run.good(slo) as u64, duration));

    let mut document = json!({
        "date": "19700101-000000",
        "endpoint_type": "servesim",
        "backend": "servesim",
        "label": null,
        "model_id": run.model,
        "tokenizer_id": run.model,
        "num_prompts": requests.len(),
        "request_rate": request_rate,
        "burstiness": burstiness,
        "max_concurrency": max_concurrency,
        "duration": duration,
        "completed": completed,
        "failed": requests.len() as u64 - completed,
        "total_input_tokens": input,
        "total_output_tokens": output,
        "request_throughput": rate(completed, duration),
        "request_goodput": goodput,
        "output_throughput": rate(output, duration),
        "total_token_throughput": rate(input + output, duration),
        "input_lens": list(&|r| r.input_tokens.into()),
        "output_lens": list(&|r| if r.is_answered() { r.output_tokens } else { 0 }.into()),
        "ttfts": list(&|r| r.ttft().unwrap_or(0.0).into()),
        "latencies": list(&|r| if r.is_answered() { r.latency() } else { 0.0 }.into()),
        "start_times": list(&|r| r.start.into()),
        "queue_times": list(&|r| queued(r).into()),
        "errors": list(&|r| match r.status {
            Status::Failed(reason) => reason.into(),
            Status::Answered | Status::CutOff => "".into(),
        }),
        "max_output_tokens_per_s": run.busiest_second as f64,
        "max_concurrent_requests": most_at_once(&answered),
        "rtfx": 0.0,
    });
    let members = document.as_object_mut().expect("an object was made");
    if run.each_gap {
        members.insert("itls".into(), list(&|r| json!(r.gaps)));
        members.insert("generated_texts".into(), list(&|_| "".into()));
    }
    let each = |of: &dyn Fn(&Request) -> Option<f64>| {
        Sorted::of(answered.iter().filter_map(|request| of(request)).map(|seconds| seconds * 1e3))
    };
    of_list(members, "ttft", &each(&Request::ttft));
    of_list(members, "tpot", &each(&Request::mean_gap));
    of_stats(members, "itl", &run.gaps);
    of_list(members, "e2el", &each(&|request| Some(request.latency())));
    document
}

/// Without values numpy is given a zero.
fn of_list(members: &mut Map<String, Value>, metric: &str, values: &Sorted) {
    let mut put = |statistic: &str, value: Option<f64>| {
        members.insert(format!("{statistic}_{metric}_ms"), value.unwrap_or(0.0).into());
    };
    put("mean", values.mean());
    put("median", values.percentile(50.0));
    put("std", values.std());
    for percent in PERCENTILES {
        put(&format!("p{percent}"), values.percentile(percent));
    }
}

fn of_stats(members: &mut Map<String, Value>, metric: &str, stats: &Stats) {
    let Stats { mean, median, std, p90, p95, p99, .. } = stats;
    let all = [("mean", mean), ("median", median), ("std", std)];
    for (statistic, value) in all.into_iter().chain([("p90", p90), ("p95", p95), ("p99", p99)]) {
        members.insert(format!("{statistic}_{metric}_ms"), value.unwrap_or(0.0).into());
    }
}

/// Requests in flight at the fullest moment; one that ends makes room before another comes.
fn most_at_once(requests: &[&Request]) -> i64 {
    let mut changes: Vec<_> =
        requests.iter().flat_map(|request| [(request.start, 1), (request.end, -1)]).collect();
    changes.sort_by(|a: &(f64, i64), b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut level = 0;
    let levels = changes.iter().map(|change| {
        level += change.1;
        level
    });
    levels.max().unwrap_or(0)
}

const FIGURES: [(&str, &str); 10] = [
    ("completed", "completed"),
    ("failed", "failed"),
    ("duration_s", "duration"),
    ("request_throughput", "request_throughput"),
    ("output_throughput", "output_throughput"),
    ("total_token_throughput", "total_token_throughput"),
    ("goodput", "request_goodput"),
    ("max_output_tokens_per_s", "max_output_tokens_per_s"),
    ("max_concurrent_requests", "max_concurrent_requests"),
    ("total_output_tokens", "total_output_tokens"),
];

pub fn recognises(document: &Value) -> bool {
    document.get("output_throughput").is_some_and(Value::is_number)
        && document.get("completed").is_some_and(Value::is_number)
        && document.get("duration").is_some_and(Value::is_number)
}

pub fn read(document: &Value) -> Measured {
    let mut measured = Measured::new(ResultFormat::Vllm);
    for (name, key) in FIGURES {
        measured.take(name, key, document.get(key), 1.0);
    }
    for (key, value) in document.as_object().into_iter().flatten() {
        let Some((statistic, metric)) =
            key.strip_suffix("_ms").and_then(|rest| rest.split_once('_'))
        else {
            continue;
        };
        let percentile = statistic.strip_prefix('p').is_some_and(|p| p.parse::<f64>().is_ok());
        let known = percentile || ["mean", "median", "std"].contains(&statistic);
        if known && ["ttft", "tpot", "itl", "e2el"].contains(&metric) {
            measured.take(&format!("{metric}_ms.{statistic}"), key, Some(value), 1.0);
        }
    }
    measured.requests = requests(document);
    let number = |key: &str| document.get(key).and_then(Value::as_f64);
    let mean = |total: &str| Some(number(total)? / number("completed").filter(|&n| n > 0.0)?);
    measured.told = Told {
        model: document.get("model_id").and_then(Value::as_str).map(str::to_owned),
        requests: number("num_prompts"),
        concurrency: number("max_concurrency"),
        rate: number("request_rate"),
        duration_s: None,
        mean_input: mean("total_input_tokens"),
        mean_output: mean("total_output_tokens"),
    };
    measured
}

/// From the lists of `--save-detailed`; none without them.
fn requests(document: &Value) -> Vec<Request> {
    let list = |key: &str| numbers(document.get(key));
    let (ttfts, latencies) = (list("ttfts"), list("latencies"));
    let (inputs, outputs, starts) = (list("input_lens"), list("output_lens"), list("start_times"));
    let count = ttfts.len();
    if [&latencies, &inputs, &outputs].iter().any(|list| list.len() != count) {
        return Vec::new();
    }
    let gaps = document.get("itls").and_then(Value::as_array);
    let errors = document.get("errors").and_then(Value::as_array);
    (0..count)
        .map(|i| {
            let start = starts.get(i).copied().unwrap_or(0.0);
            let failed = errors
                .and_then(|errors| errors.get(i)?.as_str())
                .map_or(outputs[i] == 0.0, |error| !error.is_empty());
            let end = start + latencies[i];
            Request {
                id: i as u64,
                user: 0,
                start,
                first_token: Some(start + ttfts[i]),
                last_token: Some(end),
                end,
                input_tokens: inputs[i] as u64,
                output_tokens: outputs[i] as u64,
                cached_tokens: 0,
                in_time: true,
                status: if failed { Status::Failed("error") } else { Status::Answered },
                gaps: numbers(gaps.and_then(|gaps| gaps.get(i))),
            }
        })
        .collect()
}
