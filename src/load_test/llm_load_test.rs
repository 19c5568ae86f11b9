//! llm-load-test's output (`utils.py` and `result.py` since commit de80e02, 2024-03-25): one object
//! for each request, and a summary of those without an error.
//!
//! Left out: `output_text`. A simulated test stops at its deadline, where llm-load-test waits for the
//! answers on the way; such requests have no `end_time` and no latencies, and their
//! `output_tokens_before_timeout` is what they had got. Of one that was answered after the deadline
//! that number is not known; the summary's `throughput` has its tokens nevertheless.

use serde_json::{Map, Value, json};

use super::read::Told;
use super::statistics::Sorted;
use super::{Load, Measured, Request, ResultFormat, Run, Status, rate, span};

/// Summarised over requests that were answered before the deadline, and over all.
const IN_TIME: [&str; 4] = ["tpot", "ttft", "itl", "tt_ack"];
const OF_ALL: [&str; 4] =
    ["response_time", "output_tokens", "output_tokens_before_timeout", "input_tokens"];

pub fn document(run: &Run) -> Value {
    let results: Vec<_> = run.requests.iter().map(result).collect();
    let fine: Vec<_> = run
        .requests
        .iter()
        .zip(&results)
        .filter(|(request, _)| !matches!(request.status, Status::Failed(_)))
        .collect();
    let mut summary = Map::new();
    for key in IN_TIME {
        let values = fine.iter().filter(|(request, _)| request.in_time);
        summary.insert(key.into(), figures(values.filter_map(|(_, r)| r[key].as_f64())));
    }
    for key in OF_ALL {
        summary.insert(key.into(), figures(fine.iter().filter_map(|(_, r)| r[key].as_f64())));
    }
    let tokens = |key: &str| fine.iter().filter_map(|(_, result)| result[key].as_u64()).sum();
    let full = span(fine.iter().map(|pair| pair.0).filter(|request| request.is_answered()))
        .map_or(0.0, |(start, end)| end - start);
    let failed = run.requests.len() - fine.len();
    let in_time = fine.iter().filter(|(request, _)| request.in_time).count();
    let of_all = |n: usize| if n > 0 { failed as f64 / n as f64 * 100.0 } else { 0.0 };
    summary.extend([
        ("throughput_full_duration".to_owned(), rate(tokens("output_tokens"), full).into()),
        ("full_duration".to_owned(), full.into()),
        ("throughput".to_owned(), rate(run.tokens_in_time, run.measured().unwrap_or(full)).into()),
        ("total_requests".to_owned(), run.requests.len().into()),
        ("req_completed_within_test_duration".to_owned(), in_time.into()),
        ("total_failures".to_owned(), failed.into()),
        ("failure_rate".to_owned(), of_all(run.requests.len()).into()),
    ]);
    json!({ "results": results, "config": config(run), "summary": summary })
}

fn result(request: &Request) -> Value {
    let answered = request.is_answered();
    let failed = matches!(request.status, Status::Failed(_));
    let cut_off = request.status == Status::CutOff;
    // In milliseconds, where its requests have an answer.
    let ms = |seconds: Option<f64>| seconds.filter(|_| answered).map(|seconds| seconds * 1e3);
    let per_token =
        (request.output_tokens > 0).then(|| request.latency() / request.output_tokens as f64);
    let before = match (request.in_time, cut_off) {
        (true, _) | (_, true) => Some(request.output_tokens),
        // How far it was at the deadline is not known of one that the system went on to answer.
        (false, false) => None,
    };
    json!({
        "user_id": request.user,
        "input_id": null,
        "input_tokens": request.input_tokens,
        "output_text": null,
        "output_tokens": answered.then_some(request.output_tokens),
        "output_tokens_before_timeout": before.filter(|_| !failed),
        "start_time": request.start,
        "ack_time": request.first_token.filter(|_| answered),
        "first_token_time": request.first_token.filter(|_| answered),
        "end_time": (!cut_off).then_some(request.end),
        "response_time": ms(Some(request.latency())),
        "tt_ack": ms(request.ttft()),
        "ttft": ms(request.ttft()),
        "itl": ms(request.mean_gap()),
        "tpot": ms(per_token),
        "stop_reason": answered.then_some("length"),
        "error_code": null,
        "error_text": match request.status {
            Status::Failed(reason) => Some(reason),
            Status::Answered | Status::CutOff => None,
        },
    })
}

fn config(run: &Run) -> Value {
    let (kind, concurrency, rps) = match run.load {
        Load::Clients(clients) => ("concurrency", Some(clients), None),
        Load::Rate { rate, .. } => ("rps", None, Some(rate)),
        Load::Other => ("rps", None, None),
    };
    json!({
        "output": { "format": "json" },
        "dataset": { "max_queries": run.num_requests },
        "load_options": {
            "type": kind,
            "concurrency": concurrency,
            "rps": rps,
            "duration": run.measured(),
        },
        "plugin": "servesim",
        "plugin_options": { "model_name": run.model, "streaming": true },
    })
}

fn figures(values: impl Iterator<Item = f64>) -> Value {
    let values = Sorted::of(values);
    json!({
        "min": values.min(),
        "max": values.max(),
        "median": values.percentile(50.0),
        "mean": values.mean(),
        "percentile_80": values.percentile(80.0),
        "percentile_90": values.percentile(90.0),
        "percentile_95": values.percentile(95.0),
        "percentile_99": values.percentile(99.0),
    })
}

pub fn recognises(document: &Value) -> bool {
    document.get("results").is_some_and(Value::is_array)
        && document.pointer("/summary/throughput").is_some()
}

pub fn read(document: &Value) -> Measured {
    let mut measured = Measured::new(ResultFormat::LlmLoadTest);
    let summary = &document["summary"];
    for (name, key) in [
        ("completed", "req_completed_within_test_duration"),
        ("failed", "total_failures"),
        ("duration_s", "full_duration"),
        ("output_throughput", "throughput"),
        ("output_throughput_full_duration", "throughput_full_duration"),
    ] {
        measured.take(name, &format!("summary.{key}"), summary.get(key), 1.0);
    }
    for (name, metric) in
        [("ttft_ms", "ttft"), ("tpot_ms", "tpot"), ("itl_ms", "itl"), ("e2el_ms", "response_time")]
    {
        for (key, value) in summary[metric].as_object().into_iter().flatten() {
            let statistic = match key.strip_prefix("percentile_") {
                Some(percent) => format!("p{percent}"),
                None => key.clone(),
            };
            let place = format!("summary.{metric}.{key}");
            measured.take(&format!("{name}.{statistic}"), &place, Some(value), 1.0);
        }
    }
    let results = document["results"].as_array();
    measured.requests = results.into_iter().flatten().filter_map(request).collect();
    let options = &document["config"]["load_options"];
    let mean = |key: &str| summary.get(key).and_then(|of| of.get("mean")?.as_f64());
    measured.told = Told {
        model: document
            .pointer("/config/plugin_options/model_name")
            .and_then(Value::as_str)
            .map(str::to_owned),
        requests: summary.get("total_requests").and_then(Value::as_f64),
        concurrency: options.get("concurrency").and_then(Value::as_f64),
        rate: options.get("rps").and_then(Value::as_f64),
        duration_s: options.get("duration").and_then(Value::as_f64),
        mean_input: mean("input_tokens"),
        mean_output: mean("output_tokens"),
    };
    measured
}

fn request(result: &Value) -> Option<Request> {
    let number = |key: &str| result.get(key).and_then(Value::as_f64);
    let count = |key: &str| result.get(key).and_then(Value::as_u64);
    let start = number("start_time")?;
    let end = number("end_time");
    let failed = ["error_code", "error_text"].iter().any(|&key| !result[key].is_null());
    let in_time = count("output_tokens") == count("output_tokens_before_timeout");
    Some(Request {
        id: 0,
        user: number("user_id").map_or(0, |user| user as u32),
        start,
        first_token: number("first_token_time"),
        last_token: end,
        end: end.unwrap_or(start),
        input_tokens: count("input_tokens").unwrap_or(0),
        output_tokens: count("output_tokens").unwrap_or(0),
        cached_tokens: 0,
        in_time: in_time && end.is_some(),
        status: match (failed, end) {
            (true, _) => Status::Failed("error"),
            (false, Some(_)) => Status::Answered,
            (false, None) => Status::CutOff,
        },
        gaps: Vec::new(),
    })
}
