//! 300 ShareGPT requests under vLLM 0.19 on one RTX PRO 6000, compared request by request.
//!
//! The recording is not part of the project; it lies in the shared folder.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::deploy::Deployment;
use crate::engine::observer::{Observer, RequestRecord};
use crate::metrics::{Recorder, quantile};
use crate::request::{PromptContent, RequestSpec, TokenRun};
use crate::scenario::{self, DiskFiles, Override, Source};
use crate::time::SimTime;
use crate::uncertainty;
use crate::workload::Workload;

use super::{Check, Report, Row, Suite, ValidateError};

const RECORDING: &str = "data/validation/requests_rtxpro6000_llama31_8b.jsonl";

/// The engine arguments on file; the rest are the defaults of vLLM 0.19, whose rules are those of
/// 0.13 with the reserve for whole prompts and asynchronous scheduling.
const SETTINGS: [&str; 9] = [
    "model.name=llama-3.1-8b",
    "model.dtype=bfloat16",
    "hardware.gpu=rtx-pro-6000",
    "engine.name=vllm-0.13",
    "engine.vllm.max-num-seqs=128",
    "engine.vllm.max-num-batched-tokens=2048",
    "engine.vllm.block-size=16",
    "engine.vllm.async-scheduling=true",
    "engine.vllm.scheduler-reserve-full-isl=true",
];

/// Largest errors of means that pass: TPOT, E2E, TTFT, and TTFT of requests that did not queue.
const TPOT_BOUND: f64 = 0.02;
const E2E_BOUND: f64 = 0.03;
const TTFT_BOUND: f64 = 0.06;
const UNQUEUED_BOUND: f64 = 0.15;

/// A request that was scheduled within this many seconds of its arrival did not queue: a little
/// over the longest step, which any arrival may have to await.
const UNQUEUED: f64 = 0.25;

/// One request as it was measured; instants in seconds from the first arrival.
#[derive(Clone, Debug, Deserialize)]
struct Recorded {
    arrival_s: f64,
    input_length: u32,
    output_length: u32,
    scheduled_s: f64,
    first_token_s: f64,
    last_token_s: f64,
    /// One id for each full block of the prompt; equal ids are equal prefixes.
    hash_ids: Vec<u64>,
}

/// Tokens of a block that one hash stands for.
const BLOCK: u32 = 16;

impl Recorded {
    fn spec(&self, index: u64) -> RequestSpec {
        let mut runs: Vec<TokenRun> = self
            .hash_ids
            .iter()
            .map(|id| TokenRun { first: id * u64::from(BLOCK), len: BLOCK })
            .collect();
        // The last tokens fill no block: no other prompt has them.
        let hashed = BLOCK * u32::try_from(self.hash_ids.len()).expect("a prompt is short");
        let own = (1 << 40) + (index << 20);
        if self.input_length > hashed {
            runs.push(TokenRun { first: own, len: self.input_length - hashed });
        }
        let content = PromptContent { runs, output_base: own + (1 << 19) };
        RequestSpec {
            content: Some(Arc::new(content)),
            ..RequestSpec::fixed(self.input_length, self.output_length)
        }
    }
}

/// The recorded arrivals, in order.
struct Replay {
    recorded: Arc<[Recorded]>,
    next: usize,
}

impl Workload for Replay {
    fn next_arrival(&mut self) -> Option<SimTime> {
        let request = self.recorded.get(self.next)?;
        Some(SimTime::from_nanos((request.arrival_s * 1e9).round() as u64))
    }

    fn take(&mut self) -> RequestSpec {
        let index = self.next;
        self.next += 1;
        self.recorded[index].spec(index as u64)
    }

    fn on_reply(&mut self, _: &RequestRecord) {}
}

#[derive(Default)]
struct Collected(Vec<RequestRecord>);

impl Observer for Collected {
    fn on_request(&mut self, record: &RequestRecord) {
        self.0.push(*record);
    }
}

/// Latencies of one request in seconds.
#[derive(Clone, Copy)]
struct Latency {
    queue: f64,
    ttft: f64,
    tpot: f64,
    e2e: f64,
}

impl Latency {
    fn new(arrival: f64, scheduled: f64, first: f64, last: f64, tokens: u32) -> Self {
        Self {
            queue: scheduled - arrival,
            ttft: first - arrival,
            tpot: (last - first) / f64::from(tokens.max(2) - 1),
            e2e: last - arrival,
        }
    }
}

fn recording() -> Option<PathBuf> {
    let shared = std::env::var_os("SERVESIM_SHARED").map_or("../shared".into(), PathBuf::from);
    Some(shared.join(RECORDING)).filter(|path| path.exists())
}

pub(super) fn report(bands: bool) -> Result<Report, ValidateError> {
    let mut report = Report::new(
        Suite::VllmRtxPro6000,
        "vLLM 0.19 on one RTX PRO 6000: Llama-3.1-8B, 300 ShareGPT requests at 10/s",
    );
    let Some(path) = recording() else {
        report.notes.push(format!("skipped: no {RECORDING} under SERVESIM_SHARED (../shared)"));
        if std::env::var_os("SERVESIM_REQUIRE_SHARED").is_some() {
            let claim = "the recording is there (SERVESIM_REQUIRE_SHARED is set)";
            report.checks.push(Check::new("vllm-rtxpro6000.present", claim, false, RECORDING));
        }
        return Ok(report);
    };
    let recorded: Arc<[Recorded]> = read(&path)?.into();
    let overrides: Vec<Override> = SETTINGS
        .iter()
        .map(|key| Override::set(key))
        // Not used: the requests are the recording's.
        .chain(["workload.num-requests=1", "workload.constant.request-rate=1"].map(Override::set))
        .chain([Override::set("workload.lengths.fixed={ input = 1, output = 1 }")])
        .collect();
    let name = Suite::VllmRtxPro6000.name().to_owned();
    let scenario = scenario::load(&Source::Flags, &overrides, &DiskFiles)
        .map_err(|d| ValidateError::Scenario { name: name.clone(), why: d.render(false) })?;
    let deployment =
        Deployment::new(&scenario).map_err(|source| ValidateError::Deploy { name, source })?;
    let replay = || Box::new(Replay { recorded: Arc::clone(&recorded), next: 0 });
    let observer = (Collected::default(), Recorder::new(deployment.measure()));
    let run = deployment.serve(replay(), observer, false);
    let (Collected(simulated), recorder) = run.observer;
    let trust = run.priced.trusted(&recorder).grade();
    let measured: Vec<Latency> = recorded
        .iter()
        .map(|r| {
            let (scheduled, first) = (r.scheduled_s, r.first_token_s);
            Latency::new(r.arrival_s, scheduled, first, r.last_token_s, r.output_length)
        })
        .collect();
    compare(&mut report, &measured, &latencies(simulated));
    let deviations = if bands {
        uncertainty::deviations(&deployment, |varied| {
            let run = varied.serve(replay(), Collected::default(), false);
            let predicted = latencies(run.observer.0);
            let figures = QUANTITIES.iter().flat_map(|(_, get, _)| {
                let values: Vec<f64> = predicted.iter().map(get).collect();
                STATISTICS.map(|(_, of)| Some(of(&values)))
            });
            figures.collect()
        })
    } else {
        vec![None; report.rows.len()]
    };
    for (row, deviation) in report.rows.iter_mut().zip(deviations) {
        row.trust = trust;
        row.expected = deviation.map(|deviation| deviation.around(row.predicted));
    }
    Ok(report)
}

/// Of simulated requests, in order of arrival.
fn latencies(mut simulated: Vec<RequestRecord>) -> Vec<Latency> {
    simulated.sort_by_key(|record| record.uid);
    let seconds = |at: Option<SimTime>| at.map_or(f64::NAN, SimTime::as_secs_f64);
    let latency = |r: &RequestRecord| {
        let (scheduled, first) = (seconds(r.first_scheduled), seconds(r.first_token));
        let (arrival, last) = (r.arrival.as_secs_f64(), r.ended.as_secs_f64());
        Latency::new(arrival, scheduled, first, last, r.output_tokens)
    };
    simulated.iter().map(latency).collect()
}

type Get = fn(&Latency) -> f64;

/// What is compared, and the largest error of the mean that passes.
const QUANTITIES: [(&str, Get, Option<f64>); 4] = [
    ("TTFT", |l| l.ttft, Some(TTFT_BOUND)),
    ("TPOT", |l| l.tpot, Some(TPOT_BOUND)),
    ("E2E", |l| l.e2e, Some(E2E_BOUND)),
    ("queue", |l| l.queue, None),
];

type Statistic = fn(&[f64]) -> f64;

const STATISTICS: [(&str, Statistic); 4] = [
    ("mean", mean),
    ("p50", |values| percentile(values, 0.5)),
    ("p90", |values| percentile(values, 0.9)),
    ("p99", |values| percentile(values, 0.99)),
];

fn read(path: &std::path::Path) -> Result<Vec<Recorded>, ValidateError> {
    let fault = |why: String| ValidateError::Shared { path: path.display().to_string(), why };
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    text.lines()
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|error| fault(format!("line {}: {error}", i + 1)))
        })
        .collect()
}

/// Mean and percentiles of each latency, the error request by request, and the bounds.
fn compare(report: &mut Report, measured: &[Latency], predicted: &[Latency]) {
    for (what, get, bound) in QUANTITIES {
        let values = |of: &[Latency]| of.iter().map(get).collect::<Vec<f64>>();
        let (measured, predicted) = (values(measured), values(predicted));
        let mut of_mean = f64::NAN;
        for (statistic, of) in STATISTICS {
            let (measured, predicted) = (of(&measured) * 1e3, of(&predicted) * 1e3);
            let error = predicted / measured - 1.0;
            report.rows.push(Row {
                gpu: "rtx-pro-6000".into(),
                engine: "vllm-0.13".into(),
                model: "llama-3.1-8b".into(),
                quantity: what,
                unit: "ms",
                measured,
                predicted,
                error,
                ..Row::new(statistic.to_owned())
            });
            if statistic == "mean" {
                of_mean = error;
            }
        }
        let apart: Vec<f64> =
            measured.iter().zip(&predicted).map(|(m, p)| (p / m - 1.0).abs()).collect();
        let single = percentile(&apart, 0.5);
        report.notes.push(format!("{what}: median error of one request {:.1} %", single * 100.0));
        if let Some(bound) = bound {
            check(report, what, &format!("mean {what} is off by at most"), of_mean, bound);
        }
    }
    let unqueued: Vec<(f64, f64)> = measured
        .iter()
        .zip(predicted)
        .filter(|(m, _)| m.queue < UNQUEUED)
        .map(|(m, p)| (m.ttft, p.ttft))
        .collect();
    let error = mean(&unqueued.iter().map(|(_, p)| *p).collect::<Vec<f64>>())
        / mean(&unqueued.iter().map(|(m, _)| *m).collect::<Vec<f64>>())
        - 1.0;
    let singly: Vec<f64> = unqueued.iter().map(|(m, p)| (p / m - 1.0).abs()).collect();
    report.notes.push(format!(
        "TTFT of the {} requests that did not queue: median error of one {:.1} %",
        unqueued.len(),
        percentile(&singly, 0.5) * 100.0
    ));
    check(
        report,
        "unqueued",
        "mean TTFT of requests that did not queue is off by at most",
        error,
        UNQUEUED_BOUND,
    );
}

fn check(report: &mut Report, id: &str, claim: &str, error: f64, bound: f64) {
    report.checks.push(Check::new(
        format!("vllm-rtxpro6000.{}", id.to_ascii_lowercase()),
        format!("{claim} {:.0} %", bound * 100.0),
        error.abs() <= bound,
        format!("{:+.1} %", error * 100.0),
    ));
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile::percentile_of_sorted(&sorted, share * 100.0).unwrap_or(f64::NAN)
}
