//! guidellm's report (0.8.1, report version 2), in the shape of its JSON Schema.
//!
//! Left out, or null where the schema wants the key: who ran it (`python_version`, `platform`, the
//! command in `config.spec.backend`, `environment`), texts and what is counted in them
//! (`request_args`, `output`, words, characters), and the delays of the tool's own processes, which
//! are 0. Times are seconds since the start of the run.

pub mod metrics;

use serde_json::{Map, Value, json};

use super::read::{ReadError, Told};
use super::{Load, Measured, Request, ResultFormat, Run, Status, span};
use metrics::Classes;

pub fn document(run: &Run) -> Value {
    let (start, end) = span(run.requests.iter()).unwrap_or_default();
    let classes = Classes::of(&run.requests);
    let window = (start, end);
    let totals = classes.totals();
    json!({
        "metadata": { "version": 2, "guidellm_version": "0.8.1" },
        "config": config(run),
        "benchmarks": [{
            "type_": "generative_benchmark",
            "config": benchmark_config(run),
            "scheduler_state": scheduler_state(run, window),
            "scheduler_metrics": scheduler_metrics(run, window, &totals),
            "metrics": metrics::document(&classes, window, run.slo.as_ref()),
            "requests": classes.map(|requests| requests.iter().copied().map(request).collect()),
            "warnings": [],
            "start_time": start,
            "end_time": end,
            "duration": end - start,
            "warmup_duration": run.warm_up,
            "cooldown_duration": 0.0,
        }],
        "conclusions": [],
    })
}

fn transient(seconds: f64) -> Value {
    let value = (seconds > 0.0).then_some(seconds);
    json!({ "percent": null, "value": value, "mode": "prefer_duration" })
}

/// The profile, whose name for replayed times is another than the strategy's.
fn profile(run: &Run) -> Value {
    let mut profile = json!({
        "kind": "replay",
        "rampup_duration": 0.0,
        "warmup": transient(run.warm_up),
        "cooldown": transient(0.0),
    });
    match run.load {
        Load::Clients(clients) => {
            profile["kind"] = "concurrent".into();
            profile["streams"] = json!([clients]);
        }
        Load::Rate { .. } => {
            if let Some((kind, rate)) = rate_kind(run) {
                profile["kind"] = kind.into();
                profile["rate"] = json!([rate]);
            }
        }
        Load::Other => {}
    }
    profile
}

/// guidellm sends at a constant rate or as a Poisson process; other gaps it can only replay.
fn rate_kind(run: &Run) -> Option<(&'static str, f64)> {
    match run.load {
        Load::Rate { rate, burstiness: 1.0 } => Some(("poisson", rate)),
        Load::Rate { rate, burstiness } if burstiness.is_infinite() => Some(("constant", rate)),
        Load::Rate { .. } | Load::Clients(_) | Load::Other => None,
    }
}

fn strategy(run: &Run) -> Value {
    match (run.load, rate_kind(run)) {
        (Load::Clients(clients), _) => json!({
            "type_": "concurrent",
            "worker_count": clients,
            "max_concurrency": clients,
            "streams": clients,
            "rampup_duration": 0.0,
        }),
        (_, Some((kind, rate))) => json!({
            "type_": kind,
            "worker_count": null,
            "max_concurrency": null,
            "rate": rate,
        }),
        _ => json!({
            "type_": "trace",
            "worker_count": null,
            "max_concurrency": null,
            "time_scale": 1.0,
            "schedule_turn": "timestamp",
        }),
    }
}

fn constraints(run: &Run) -> Vec<(&'static str, Value)> {
    let scope = "current";
    let count = run.num_requests.map(|count| {
        ("max_requests", json!({ "kind": "max_requests", "stopping_scope": scope, "count": count }))
    });
    let time = run.duration.map(|seconds| {
        let args = json!({ "kind": "max_duration", "stopping_scope": scope, "seconds": seconds });
        ("max_duration", args)
    });
    count.into_iter().chain(time).collect()
}

fn config(run: &Run) -> Value {
    let constraints: Value = constraints(run).into_iter().map(|(_, args)| args).collect();
    let mean = |of: fn(&Request) -> u64| {
        let total: u64 = run.requests.iter().map(of).sum();
        (total as f64 / run.requests.len().max(1) as f64).round().max(1.0) as u64
    };
    json!({
        "metadata": { "labels": {} },
        "spec": {
            "profile": profile(run),
            "constraints": constraints,
            "data": [{
                "kind": "synthetic_text",
                "prompt_tokens": mean(|request| request.input_tokens),
                "output_tokens": mean(|request| request.output_tokens),
            }],
            "seed": { "kind": "static", "value": run.seed },
        },
        "benchmarks": [null],
    })
}

fn benchmark_config(run: &Run) -> Value {
    let limits: Map<_, _> = constraints(run)
        .into_iter()
        .map(|(kind, args)| {
            let member = json!({ "type_": kind, "args": args, "current_index": 0 });
            (kind.to_owned(), member)
        })
        .collect();
    let slo = run.slo.map(|slo| {
        let ms = |limit: Option<crate::time::SimDuration>| limit.map(|limit| limit.as_millis_f64());
        json!({ "ttft_ms": ms(slo.ttft), "tpot_ms": ms(slo.tpot), "e2el_ms": ms(slo.e2el) })
    });
    json!({
        "id_": format!("servesim-{}", run.seed),
        "run_id": format!("servesim-{}", run.seed),
        "run_index": 0,
        "strategy": strategy(run),
        "constraints": limits,
        "sample_size": null,
        "warmup": transient(run.warm_up),
        "cooldown": transient(0.0),
        "prefer_response_metrics": true,
        "slo": slo,
        "confidence": metrics::CONFIDENCE,
        "warnings": [],
        "profile": profile(run),
        "requests": {},
        "backend": { "kind": "servesim", "model": run.model },
        "environment": {},
    })
}

fn scheduler_state(run: &Run, (start, end): (f64, f64)) -> Value {
    let count = |of: fn(Status) -> bool| run.requests.iter().filter(|r| of(r.status)).count();
    let all = run.requests.len();
    json!({
        "node_id": 0,
        "num_processes": 1,
        "start_time": start,
        "end_time": end,
        "start_requests_time": start,
        "end_requests_time": end,
        "end_queuing_time": run.requests.last().map(|request| request.start),
        "end_queuing_constraints": {},
        "end_processing_time": end,
        "end_processing_constraints": {},
        "scheduler_constraints": {},
        "progress": {
            "remaining_requests": 0.0,
            "total_requests": all as f64,
            "remaining_duration": null,
            "total_duration": run.duration,
            "stop_time": end,
        },
        "created_requests": all,
        "queued_requests": 0,
        "pending_requests": 0,
        "processing_requests": 0,
        "processed_requests": all,
        "successful_requests": count(|status| status == Status::Answered),
        "errored_requests": count(|status| matches!(status, Status::Failed(_))),
        "cancelled_requests": count(|status| status == Status::CutOff),
    })
}

fn scheduler_metrics(run: &Run, (start, end): (f64, f64), totals: &Value) -> Value {
    let time: f64 = run.requests.iter().map(Request::latency).sum();
    let mean_time = time / run.requests.len().max(1) as f64;
    json!({
        "start_time": start,
        "request_start_time": start,
        "measure_start_time": start,
        "measure_end_time": end,
        "request_end_time": end,
        "end_time": end,
        "requests_made": totals,
        "generation_delay": metrics::summary(&vec![(0.0, 1.0); run.requests.len()]),
        "queued_time_avg": 0.0,
        "resolve_start_delay_avg": 0.0,
        "resolve_targeted_start_delay_avg": 0.0,
        "request_start_delay_avg": 0.0,
        "request_targeted_start_delay_avg": 0.0,
        "request_time_avg": mean_time,
        "resolve_end_delay_avg": 0.0,
        "resolve_time_avg": mean_time,
        "finalized_delay_avg": 0.0,
        "processed_delay_avg": 0.0,
        "dataset_incomplete": false,
        "strategy_type": strategy(run)["type_"],
    })
}

fn usage(tokens: u64, cached: Option<u64>) -> Value {
    let unknown = [
        "text_words",
        "text_characters",
        "image_tokens",
        "image_count",
        "image_pixels",
        "image_bytes",
        "video_tokens",
        "video_frames",
        "video_seconds",
        "video_bytes",
        "audio_tokens",
        "audio_samples",
        "audio_seconds",
        "audio_bytes",
        "tool_call_tokens",
        "mixed_content_tool_tokens",
        "tool_call_count",
    ];
    let mut usage = json!({ "text_tokens": tokens, "cached_tokens": cached });
    for key in unknown {
        usage[key] = Value::Null;
    }
    usage["total_tokens"] = tokens.into();
    usage
}

fn info(request: &Request, id: &str) -> Value {
    let (status, error) = match request.status {
        Status::Answered => ("completed", None),
        Status::CutOff => ("cancelled", None),
        Status::Failed(reason) => ("errored", Some(reason)),
    };
    json!({
        "request_id": id,
        "conversation_id": id,
        "history_len": 0,
        "turn_index": 0,
        "preceding_nodes": 0,
        "node_id": "turn_0",
        "agent_id": "default",
        "parent_node_ids": [],
        "status": status,
        "scheduler_node_id": 0,
        "scheduler_process_id": 0,
        "scheduler_start_time": 0.0,
        "timings": timings(request),
        "settings": {
            "relative_timestamp": null,
            "requeue_delay": null,
            "trace_duration": null,
        },
        "error": error,
        "traceback": null,
        "started_at": request.start,
        "completed_at": request.end,
    })
}

fn timings(request: &Request) -> Value {
    let (start, end) = (request.start, request.end);
    json!({
        "targeted_start": start,
        "predecessor_completed": null,
        "queued": start,
        "dequeued": start,
        "scheduled_at": start,
        "resolve_start": start,
        "request_start": start,
        "first_request_iteration": request.first_token,
        "first_token_iteration": request.first_token,
        "first_output_token_iteration": request.first_token,
        "last_token_iteration": request.last_token,
        "last_request_iteration": request.last_token,
        "request_iterations": request.output_tokens,
        "token_iterations": request.output_tokens,
        "last_request_sent": null,
        "request_sent_sum": 0.0,
        "request_sent_count": 0,
        "token_received_sum": 0.0,
        "token_received_count": 0,
        "request_end": end,
        "resolve_end": end,
        "finalized": end,
    })
}

fn request(request: &Request) -> Value {
    let (start, end) = (request.start, request.end);
    let latency = request.latency();
    let tokens = request.input_tokens + request.output_tokens;
    let per_second = |n: u64| (latency > 0.0).then(|| n as f64 / latency);
    let one = (request.output_tokens > 0).then_some(1.0);
    let id = format!("servesim-{}", request.id);
    let ttft = request.ttft().map(|seconds| seconds * 1e3);
    json!({
        "type_": "generative_request_stats",
        "request_id": id,
        "response_id": null,
        "request_args": null,
        "output": null,
        "reasoning_output": null,
        "tool_calls": null,
        "info": info(request, &id),
        "input_metrics": usage(request.input_tokens, Some(request.cached_tokens)),
        "response_metrics": null,
        "output_metrics": usage(request.output_tokens, None),
        "request_start_time": start,
        "request_end_time": end,
        "request_latency": latency,
        "request_dispatch_delay": 0.0,
        "turn_predecessor_delay": 0.0,
        "turn_scheduling_delay": 0.0,
        "request_scheduled_latency": latency,
        "prompt_tokens": request.input_tokens,
        "cached_tokens": request.cached_tokens,
        "output_tokens": request.output_tokens,
        "total_tokens": tokens,
        "time_to_first_token_ms": ttft,
        "time_to_last_round_trip_ms": null,
        "avg_round_trip_time_ms": null,
        "time_per_output_token_ms": metrics::time_per_output_token_ms(request),
        "inter_token_latency_ms": metrics::inter_token_latency_ms(request),
        "tokens_per_second": per_second(tokens),
        "output_tokens_per_second": per_second(request.output_tokens),
        "time_to_first_output_token_ms": ttft,
        "iter_tokens_per_iteration": one.filter(|_| request.output_tokens > 1),
        "output_tokens_per_iteration": one,
    })
}

pub fn recognises(document: &Value) -> bool {
    let benchmarks = document.get("benchmarks").and_then(Value::as_array);
    benchmarks.is_some_and(|list| {
        list.first().is_some_and(|first| first.get("metrics").is_some_and(Value::is_object))
    })
}

/// One of the report's benchmarks: the only one, or the one that is asked for.
pub fn read(document: &Value, wanted: Option<usize>) -> Result<Measured, ReadError> {
    let benchmarks = document["benchmarks"].as_array().map_or(&[][..], Vec::as_slice);
    let benchmark = match (wanted, benchmarks) {
        (None, [one]) => one,
        (None, several) => {
            return Err(ReadError::Several { labels: several.iter().map(label).collect() });
        }
        (Some(wanted), all) => {
            all.get(wanted).ok_or(ReadError::OutOfRange { wanted, count: benchmarks.len() })?
        }
    };
    let mut measured = Measured::new(ResultFormat::Guidellm);
    let metrics = &benchmark["metrics"];
    let totals = &metrics["request_totals"];
    measured.take("completed", "metrics.request_totals.successful", totals.get("successful"), 1.0);
    measured.take("failed", "metrics.request_totals.errored", totals.get("errored"), 1.0);
    measured.take("duration_s", "duration", benchmark.get("duration"), 1.0);
    for (name, metric) in [
        ("request_throughput", "requests_per_second"),
        ("output_throughput", "output_tokens_per_second"),
        ("total_token_throughput", "tokens_per_second"),
        ("concurrency", "request_concurrency"),
    ] {
        let value = metrics[metric]["successful"].get("mean");
        measured.take(name, &format!("metrics.{metric}.successful.mean"), value, 1.0);
    }
    for (name, metric, scale) in [
        ("ttft_ms", "time_to_first_token_ms", 1.0),
        ("tpot_ms", "time_per_output_token_ms", 1.0),
        ("itl_ms", "inter_token_latency_ms", 1.0),
        ("e2el_ms", "request_latency", 1e3),
    ] {
        let of = &metrics[metric]["successful"];
        let place = |statistic: &str| format!("metrics.{metric}.successful.{statistic}");
        for (ours, theirs) in [
            ("mean", "mean"),
            ("median", "median"),
            ("std", "std_dev"),
            ("min", "min"),
            ("max", "max"),
        ] {
            let name = format!("{name}.{ours}");
            measured.take(&name, &place(theirs), of.get(theirs), scale);
        }
        for (ours, theirs) in [("p90", "p90"), ("p95", "p95"), ("p99", "p99"), ("p99.9", "p999")] {
            let value = of["percentiles"].get(theirs);
            let place = place(&format!("percentiles.{theirs}"));
            measured.take(&format!("{name}.{ours}"), &place, value, scale);
        }
    }
    let classes = [
        ("successful", Status::Answered),
        ("errored", Status::Failed("error")),
        ("incomplete", Status::CutOff),
    ];
    for (class, status) in classes {
        let list = benchmark["requests"][class].as_array();
        let requests = list.into_iter().flatten();
        measured.requests.extend(requests.filter_map(|stats| read_request(stats, status)));
    }
    measured.requests.sort_by(|a, b| a.start.total_cmp(&b.start));
    measured.told = told(document, benchmark);
    Ok(measured)
}

/// What a benchmark of several is called.
fn label(benchmark: &Value) -> String {
    let strategy = &benchmark["config"]["strategy"];
    let kind = strategy["type_"].as_str().unwrap_or("benchmark");
    let load = ["streams", "rate"].iter().find_map(|&key| strategy[key].as_f64());
    load.map_or_else(|| kind.to_owned(), |load| format!("{kind} {load}"))
}

fn told(document: &Value, benchmark: &Value) -> Told {
    let strategy = &benchmark["config"]["strategy"];
    let limit = |kind: &str, key: &str| {
        benchmark["config"]["constraints"][kind]["args"].get(key).and_then(Value::as_f64)
    };
    let mean = |metric: &str| {
        let of = &benchmark["metrics"][metric]["successful"];
        of.get("mean").and_then(Value::as_f64).filter(|&mean| mean > 0.0)
    };
    let transient: f64 = ["warmup_duration", "cooldown_duration"]
        .iter()
        .filter_map(|&phase| benchmark[phase].as_f64())
        .sum();
    let model = ["/config/backend/model", "/config/spec/backend/model"]
        .iter()
        .find_map(|at| benchmark.pointer(at).or_else(|| document.pointer(at))?.as_str());
    Told {
        model: model.map(str::to_owned),
        requests: limit("max_requests", "count"),
        concurrency: strategy["streams"].as_f64(),
        rate: strategy["rate"].as_f64(),
        duration_s: limit("max_duration", "seconds").map(|seconds| seconds - transient),
        mean_input: mean("prompt_token_count"),
        mean_output: mean("output_token_count"),
    }
}

fn read_request(stats: &Value, status: Status) -> Option<Request> {
    let timings = &stats["info"]["timings"];
    let at = |key: &str| timings.get(key).and_then(Value::as_f64);
    let count = |key: &str| stats.get(key).and_then(Value::as_u64);
    let start = stats["request_start_time"].as_f64()?;
    let end = stats["request_end_time"].as_f64()?;
    Some(Request {
        id: 0,
        user: 0,
        start,
        first_token: at("first_token_iteration"),
        last_token: at("last_token_iteration"),
        end,
        input_tokens: count("prompt_tokens").unwrap_or(0),
        output_tokens: count("output_tokens").unwrap_or(0),
        cached_tokens: count("cached_tokens").unwrap_or(0),
        in_time: true,
        status,
        gaps: Vec::new(),
    })
}
