//! aiperf's `profile_export_aiperf.json` (aiperf 0.13 `exporters/metrics_json_exporter.py`,
//! `metrics/types/*.py`): one object for each metric, over the requests that were answered.
//!
//! Left out: `benchmark_id`, `start_time` and `end_time` (no wall-clock times), `telemetry_data`,
//! `time_to_second_token`, `inter_chunk_latency` and `output_inter_chunk_latency` (which token came
//! when is recorded once for all sequences of a step).

use serde_json::{Map, Value, json};

use super::read::Told;
use super::statistics::Sorted;
use super::{Load, Measured, Request, ResultFormat, Run, Status, rate, span};

const PERCENTILES: [f64; 9] = [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0];

pub fn document(run: &Run) -> Value {
    let answered: Vec<_> = run.answered().collect();
    let (start, end) = span(answered.iter().copied()).unwrap_or_default();
    let duration = end - start;
    let sum = |of: fn(&Request) -> u64| answered.iter().map(|request| of(request)).sum::<u64>();
    let (input, output) = (sum(|r| r.input_tokens), sum(|r| r.output_tokens));
    let each = |unit: &str, scale: f64, of: &dyn Fn(&Request) -> Option<f64>| {
        let values = answered.iter().filter_map(|request| of(request));
        distribution(unit, &Sorted::of(values.map(|value| value * scale)))
    };
    let one = |unit: &str, value: f64| json!({ "unit": unit, "avg": value });
    let count = answered.len() as u64;

    let mut document = Map::new();
    let mut put = |key: &str, value: Value| document.insert(key.to_owned(), value);
    put("schema_version", "1.4".into());
    put("aiperf_version", "0.13.0".into());
    put("request_throughput", one("requests/sec", rate(count, duration)));
    put("request_latency", each("ms", 1e3, &|r| Some(r.latency())));
    put("request_count", one("requests", count as f64));
    put("time_to_first_token", each("ms", 1e3, &Request::ttft));
    put("inter_token_latency", each("ms", 1e3, &Request::mean_gap));
    put("output_token_throughput", one("tokens/sec", rate(output, duration)));
    put(
        "output_token_throughput_per_user",
        each("tokens/sec/user", 1.0, &|r| r.mean_gap().filter(|&gap| gap > 0.0).map(f64::recip)),
    );
    put("output_sequence_length", each("tokens", 1.0, &|r| Some(r.output_tokens as f64)));
    put("input_sequence_length", each("tokens", 1.0, &|r| Some(r.input_tokens as f64)));
    if let Some(slo) = &run.slo {
        let good = run.good(slo) as u64;
        put("goodput", one("requests/sec", rate(good, duration)));
        put("good_request_count", one("requests", good as f64));
    }
    put("output_token_count", each("tokens", 1.0, &|r| Some(r.output_tokens as f64)));
    put("total_output_tokens", one("tokens", output as f64));
    put("total_token_throughput", one("tokens/sec", rate(input + output, duration)));
    put("benchmark_duration", one("sec", duration));
    put("total_isl", one("tokens", input as f64));
    put("total_osl", one("tokens", output as f64));
    let failures = failures(run);
    let failed: u64 = failures.iter().map(|failure| failure.1).sum();
    if failed > 0 {
        put("error_request_count", one("requests", failed as f64));
    }
    put("input_config", config(run));
    put("was_cancelled", false.into());
    put(
        "error_summary",
        failures
            .into_iter()
            .map(|(reason, count)| {
                let details = json!({ "code": null, "type": reason, "message": reason });
                json!({ "error_details": details, "count": count })
            })
            .collect(),
    );
    Value::Object(document)
}

/// Reasons in the order in which they came up, with how often.
fn failures(run: &Run) -> Vec<(&'static str, u64)> {
    let mut failures: Vec<(&str, u64)> = Vec::new();
    for request in &run.requests {
        let Status::Failed(reason) = request.status else { continue };
        match failures.iter_mut().find(|failure| failure.0 == reason) {
            Some(failure) => failure.1 += 1,
            None => failures.push((reason, 1)),
        }
    }
    failures
}

fn distribution(unit: &str, values: &Sorted) -> Value {
    let mut metric = Map::new();
    let mut put = |key: &str, value: Value| metric.insert(key.to_owned(), value);
    put("unit", unit.into());
    put("avg", values.mean().into());
    for percent in PERCENTILES {
        put(&format!("p{percent}"), values.percentile(percent).into());
    }
    put("min", values.min().into());
    put("max", values.max().into());
    put("std", values.std().into());
    put("count", values.count().into());
    put("sum", values.sum().into());
    Value::Object(metric)
}

fn config(run: &Run) -> Value {
    let mut loadgen = Map::new();
    match run.load {
        Load::Clients(clients) => {
            loadgen.insert("concurrency".into(), clients.into());
        }
        Load::Rate { rate, burstiness } => {
            loadgen.insert("request_rate".into(), rate.into());
            let mode = match burstiness {
                1.0 => "poisson",
                b if b.is_infinite() => "constant",
                _ => "gamma",
            };
            loadgen.insert("request_rate_mode".into(), mode.into());
        }
        Load::Other => {}
    }
    if let Some(requests) = run.num_requests {
        loadgen.insert("request_count".into(), requests.into());
    }
    if let Some(seconds) = run.duration {
        loadgen.insert("benchmark_duration".into(), seconds.into());
    }
    json!({
        "endpoint": { "model_names": [run.model], "streaming": true },
        "input": { "random_seed": run.seed },
        "loadgen": loadgen,
    })
}

/// The metrics, which genai-perf keeps at the top level too and early versions of aiperf under
/// `records`.
fn metrics(document: &Value) -> &Value {
    document.get("records").filter(|records| records.is_object()).unwrap_or(document)
}

pub fn recognises(document: &Value) -> bool {
    ["request_throughput", "request_latency"]
        .iter()
        .all(|key| metrics(document)[key].get("avg").is_some_and(Value::is_number))
}

pub fn read(document: &Value) -> Measured {
    let mut measured = Measured::new(ResultFormat::Aiperf);
    let metrics = metrics(document);
    for (name, key) in [
        ("completed", "request_count"),
        ("failed", "error_request_count"),
        ("duration_s", "benchmark_duration"),
        ("request_throughput", "request_throughput"),
        ("output_throughput", "output_token_throughput"),
        ("total_token_throughput", "total_token_throughput"),
        ("goodput", "goodput"),
        ("total_output_tokens", "total_osl"),
    ] {
        measured.take(name, &format!("{key}.avg"), metrics[key].get("avg"), 1.0);
    }
    for (name, key) in [
        ("ttft_ms", "time_to_first_token"),
        ("itl_ms", "inter_token_latency"),
        ("e2el_ms", "request_latency"),
    ] {
        let scale = match metrics[key]["unit"].as_str() {
            Some("s" | "sec") => 1e3,
            Some("us") => 1e-3,
            Some("ns") => 1e-6,
            _ => 1.0,
        };
        for (statistic, value) in metrics[key].as_object().into_iter().flatten() {
            let ours = match statistic.as_str() {
                "avg" => "mean",
                "p50" => "median",
                "unit" | "count" | "sum" => continue,
                // Percentiles that take failed requests for endless ones.
                other if other.starts_with("adj_") => continue,
                other => other,
            };
            let place = format!("{key}.{statistic}");
            measured.take(&format!("{name}.{ours}"), &place, Some(value), scale);
        }
    }
    let average = |key: &str| metrics[key].get("avg").and_then(Value::as_f64);
    // The configuration's shape is not stable over versions: each key wherever it stands.
    let configured = |key: &str| find(&document["input_config"], key);
    measured.told = Told {
        model: configured("model_names")
            .and_then(|names| names.get(0)?.as_str())
            .map(str::to_owned),
        requests: average("request_count"),
        concurrency: configured("concurrency").and_then(Value::as_f64),
        rate: configured("request_rate").and_then(Value::as_f64),
        duration_s: None,
        mean_input: average("input_sequence_length"),
        mean_output: average("output_sequence_length"),
    };
    measured
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let members = value.as_object()?;
    members.get(key).or_else(|| members.values().find_map(|value| find(value, key)))
}
