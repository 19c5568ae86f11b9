use std::path::PathBuf;

use serde_json::Value;

use super::guidellm::metrics::{Classes, document as guidellm_metrics};
use super::read::ReadError;
use super::*;
use crate::deploy::Deployment;
use crate::engine::observer::{Observer, RequestRecord};
use crate::metrics::{Convention, Recorder, Summary};
use crate::scenario::{Override, Scenario, Source, load};
use crate::time::SimDuration;

/// The sample of guidellm 0.8.1, of a run against a mock server; `None` where it is not to be had.
fn guidellm_sample() -> Option<Value> {
    let shared = std::env::var_os("SERVESIM_SHARED").map_or("../shared".into(), PathBuf::from);
    let path = shared.join("data/formats/guidellm-0.8.1-sample.json");
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("the sample is JSON")),
        Err(_) => {
            let required = std::env::var_os("SERVESIM_REQUIRE_SHARED").is_some_and(|v| v == "1");
            assert!(!required, "{} is missing", path.display());
            eprintln!("skipped: {} is missing", path.display());
            None
        }
    }
}

/// A small closed loop with short and one-token answers, cut off at its deadline.
const CLOSED: &str = r#"
[model]
name = "llama-3-8b"
[hardware]
gpu = "a100-80gb"
num-gpus = 1
price = "2 USD/h"
[engine]
name = "vllm-0.32"
[workload]
duration = "7s"
[workload.closed-loop]
clients = 5
[workload.lengths]
uniform = { input = { min = 20, max = 400 }, output = { min = 1, max = 60 } }
[measure]
warm-up = "1s"
slo = { ttft = "30ms", tpot = "12ms" }
"#;

/// A few requests at a rate, to the last answer.
const OPEN: &str = r#"
[model]
name = "llama-3-8b"
[hardware]
gpu = "a100-80gb"
num-gpus = 1
[engine]
name = "vllm-0.32"
[workload]
num-requests = 40
[workload.poisson]
request-rate = 8
[workload.lengths]
fixed = { input = 100, output = 20 }
"#;

fn scenario(text: &str, convention: Convention) -> Scenario {
    let source = Source::file("test.toml", text);
    let mut scenario = load(&source, &[], &crate::scenario::DiskFiles)
        .unwrap_or_else(|error| panic!("{}", error.render(false)));
    scenario.measure.convention = convention;
    scenario
}

fn simulate(scenario: &Scenario) -> (Summary, Run) {
    let deployment = Deployment::new(scenario).unwrap();
    let measure = deployment.measure();
    let observer = (Recorder::new(measure.clone()), Log::new(measure));
    let (_, (recorder, log)) = deployment.simulate(scenario.workload.seed, observer, false);
    (recorder.summary(), log.run(scenario, scenario.workload.seed))
}

fn read_back(format: ResultFormat, run: &Run) -> Measured {
    read(&serde_json::to_vec(&format.document(run)).unwrap(), None).unwrap()
}

/// Whether two trees are the same but for rounding; says where they part.
fn assert_close(ours: &Value, theirs: &Value, at: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, theirs) in theirs {
                let ours = ours.get(key).unwrap_or_else(|| panic!("{at}.{key} is missing"));
                assert_close(ours, theirs, &format!("{at}.{key}"));
            }
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-3), "{at}: {a}, guidellm says {b}");
        }
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

#[test]
fn guidellms_metrics_follow_from_its_requests() {
    let Some(sample) = guidellm_sample() else { return };
    let measured = guidellm::read(&sample, None).unwrap();
    assert_eq!(measured.requests.len(), 8);
    let (start, end) = span(measured.requests.iter()).unwrap();
    let ours = guidellm_metrics(&Classes::of(&measured.requests), (start, end), None);
    let mut theirs = sample["benchmarks"][0]["metrics"].clone();
    // Delays of the tool's own processes, its count of chunks without a token, and texts.
    let unknown = ["root_dispatch_delay", "request_streaming_iterations_count"];
    for key in unknown {
        theirs.as_object_mut().unwrap().remove(key);
    }
    for key in ["words", "characters"] {
        theirs["text"].as_object_mut().unwrap().remove(key);
    }
    assert_close(&ours, &theirs, "metrics");
}

#[test]
fn a_result_has_the_figures_of_the_summary_by_the_same_convention() {
    for text in [CLOSED, OPEN] {
        for &format in ResultFormat::ALL {
            let (summary, run) = simulate(&scenario(text, format.convention()));
            let read = read_back(format, &run);
            let summary = serde_json::to_value(&summary).unwrap();
            let mut shared = 0;
            for figure in &read.figures {
                let at = format!("/{}", figure.name.replace('.', "/"));
                let Some(ours) = summary.pointer(&at).and_then(Value::as_f64) else { continue };
                // llm-load-test divides by the configured duration and states the real one.
                if format == ResultFormat::LlmLoadTest && figure.name == "duration_s" {
                    continue;
                }
                let theirs = figure.value;
                // Latencies are summarised in whole nanoseconds.
                let near = (theirs - ours).abs() <= 1e-6 * ours.abs() + 1e-6;
                assert!(near, "{format} {}: {theirs}, the summary has {ours}", figure.name);
                shared += 1;
            }
            assert!(shared > 15, "{format}: {shared}");
        }
    }
}

#[test]
fn a_result_that_is_read_back_tells_what_was_sent() {
    let (_, closed) = simulate(&scenario(CLOSED, Convention::Vllm));
    let (_, open) = simulate(&scenario(OPEN, Convention::Vllm));
    for &format in ResultFormat::ALL {
        let told = read_back(format, &closed).told;
        assert_eq!((told.concurrency, told.model.as_deref()), (Some(5.0), Some("llama-3-8b")));
        let told = read_back(format, &open).told;
        assert_eq!((told.rate, told.requests), (Some(8.0), Some(40.0)), "{format}");
        assert_eq!((told.mean_input, told.mean_output), (Some(100.0), Some(20.0)), "{format}");
    }
}

#[test]
fn requests_come_back_as_they_were_written() {
    let (_, run) = simulate(&scenario(OPEN, Convention::Vllm));
    for format in [ResultFormat::Vllm, ResultFormat::Guidellm, ResultFormat::LlmLoadTest] {
        let requests = read_back(format, &run).requests;
        assert_eq!(requests.len(), run.requests.len(), "{format}");
        for (theirs, ours) in requests.iter().zip(&run.requests) {
            assert_eq!(theirs.output_tokens, ours.output_tokens);
            let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
            assert!(near(theirs.ttft().unwrap(), ours.ttft().unwrap()), "{format}");
            assert!(near(theirs.latency(), ours.latency()), "{format}");
        }
    }
}

/// Keys of guidellm's sample that a simulation does not have: below each of these paths, keys may be
/// missing or null.
const LEFT_OUT: &[&str] = &[
    "metadata.python_version",
    "metadata.platform",
    // The command that was typed, and what it found on its machine.
    "config.spec",
    "benchmarks.config.constraints",
    "benchmarks.config.requests",
    "benchmarks.config.backend",
    "benchmarks.config.environment",
    "benchmarks.config.warnings",
    "benchmarks.scheduler_state.end_queuing_constraints",
    "benchmarks.scheduler_state.end_processing_constraints",
    "benchmarks.scheduler_state.scheduler_constraints",
    // There is no text.
    "benchmarks.metrics.text.words",
    "benchmarks.metrics.text.characters",
    "benchmarks.requests.successful.response_id",
    "benchmarks.requests.successful.request_args",
    "benchmarks.requests.successful.output",
    "benchmarks.requests.successful.input_metrics.text_words",
    "benchmarks.requests.successful.input_metrics.text_characters",
    "benchmarks.requests.successful.output_metrics.text_words",
    "benchmarks.requests.successful.output_metrics.text_characters",
];

fn assert_same_shape(ours: Option<&Value>, theirs: &Value, at: &str) {
    if LEFT_OUT.iter().any(|path| at == *path || at.starts_with(&format!("{path}."))) {
        return;
    }
    let ours = ours.unwrap_or_else(|| panic!("{at} is missing"));
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, theirs) in theirs {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                assert_same_shape(ours.get(key), theirs, &at);
            }
            let strange = ours.keys().filter(|key| !theirs.contains_key(*key)).collect::<Vec<_>>();
            // Names of classes of requests, and null where the sample has an object, are all there.
            assert!(strange.is_empty(), "{at}: guidellm has no {strange:?}");
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            if let (Some(ours), Some(theirs)) = (ours.first(), theirs.first()) {
                assert_same_shape(Some(ours), theirs, at);
            }
        }
        // What the sample does not know may be known here.
        (_, Value::Null) => {}
        _ => assert_eq!(
            std::mem::discriminant(ours),
            std::mem::discriminant(theirs),
            "{at}: {ours}, guidellm has {theirs}"
        ),
    }
}

#[test]
fn a_guidellm_report_has_every_key_of_a_real_one_with_its_type() {
    let Some(sample) = guidellm_sample() else { return };
    let text = CLOSED.replace("min = 1,", "min = 2,");
    let (_, run) = simulate(&scenario(&text, Convention::Guidellm));
    assert_same_shape(Some(&ResultFormat::Guidellm.document(&run)), &sample, "");
}

#[test]
fn a_file_that_is_no_result_says_what_was_looked_for() {
    let unknown = read(br#"{"hello": 1, "world": []}"#, None).unwrap_err();
    assert_eq!(unknown, ReadError::Unknown { found: vec!["hello".into(), "world".into()] });
    let broken = read(b"{\n  \"duration\": 3,\n", None).unwrap_err();
    assert!(matches!(broken, ReadError::NotJson { line: 3, .. }), "{broken:?}");
}

#[test]
fn a_prediction_agrees_with_itself_in_every_format() {
    for &format in ResultFormat::ALL {
        let (_, run) = simulate(&scenario(CLOSED, format.convention()));
        let comparison = compare(&read_back(format, &run), &run);
        assert_eq!(comparison.warnings, [""; 0], "{format}");
        assert!(comparison.rows.len() > 20, "{format}");
        for row in &comparison.rows {
            let error = row.error.unwrap_or(0.0);
            assert!(row.predicted.is_some() && error.abs() < 1e-9, "{format}: {row:?}");
        }
    }
}

#[test]
fn another_load_than_the_scenarios_is_pointed_out() {
    let (_, open) = simulate(&scenario(OPEN, Convention::Vllm));
    let (_, closed) = simulate(&scenario(CLOSED, Convention::Vllm));
    let measured = read_back(ResultFormat::Vllm, &open);
    let warnings = compare(&measured, &closed).warnings.join("; ");
    assert!(warnings.contains("the test sent at a rate, the scenario has 5 clients"), "{warnings}");
    assert!(warnings.contains("100 prompt tokens per request"), "{warnings}");
}

const SMALL_CACHE: &[&str] =
    &["engine.vllm.num-gpu-blocks-override=60", "engine.vllm.max-model-len=500"];

/// Preemptions, stalls and machines that fail: what moves a request's tokens apart.
const HARD: &[(&str, &[&str])] = &[
    ("vllm-0.32", SMALL_CACHE),
    ("vllm-0.32", &[SMALL_CACHE[0], SMALL_CACHE[1], "engine.vllm.async-scheduling=false"]),
    ("vllm-0.4.2", SMALL_CACHE),
    ("vllm-0.13", &["engine.vllm.max-num-batched-tokens=64"]),
    ("tgi-v3", &["engine.tgi.max-batch-prefill-tokens=500"]),
    ("tgis-2023", &[]),
    (
        "vllm-0.13",
        &[
            "fleet.machines=2",
            "fleet.failures.mtbf=3s",
            "fleet.failures.mttr=1s",
            "fleet.lost-requests=retry",
        ],
    ),
];

#[test]
fn the_gaps_of_each_request_are_those_that_the_engine_told_all_together() {
    let (mut gaps_of_all, mut preempted, mut lost_attempts) = (0, 0, 0);
    for (engine, settings) in HARD {
        let text = CLOSED.replace("vllm-0.32", engine).replace("warm-up = \"1s\"", "");
        let overrides: Vec<Override> = settings.iter().map(|set| Override::set(set)).collect();
        let source = Source::file("test.toml", text);
        let scenario = load(&source, &overrides, &crate::scenario::DiskFiles)
            .unwrap_or_else(|error| panic!("{}", error.render(false)));
        let deployment = Deployment::new(&scenario).unwrap();
        let observer = (GapsTold::default(), Log::new(deployment.measure()).with_each_gap());
        let (_, (told, log)) = deployment.simulate(1, observer, false);
        let run = log.run(&scenario, 1);
        let mut all = Vec::new();
        for request in &run.requests {
            let tokens = usize::try_from(request.output_tokens).unwrap();
            assert_eq!(request.gaps.len(), tokens.saturating_sub(1), "{engine} {settings:?}");
            if request.is_answered() && tokens > 0 {
                let first = request.first_token.unwrap();
                let sum: f64 = request.gaps.iter().sum();
                assert!((first + sum - request.end).abs() < 1e-6, "{engine} {}", request.id);
            }
            all.extend(request.gaps.iter().map(|gap| (gap * 1e9).round() as u64));
        }
        all.sort_unstable();
        let GapsTold { mut gaps, lost, preemptions } = told;
        (preempted, lost_attempts) = (preempted + preemptions, lost_attempts + lost);
        gaps.sort_unstable();
        // The gaps of attempts that were lost were told too.
        if lost == 0 {
            assert_eq!(all, gaps, "{engine} {settings:?}");
        }
        gaps_of_all += all.len();
    }
    assert!(gaps_of_all > 1000, "{gaps_of_all}");
    assert!(preempted > 10 && lost_attempts > 0, "{preempted} {lost_attempts}");
}

#[derive(Debug, Default)]
struct GapsTold {
    gaps: Vec<u64>,
    lost: u32,
    preemptions: u32,
}

impl Observer for GapsTold {
    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        self.gaps.extend(std::iter::repeat_n(gap.as_nanos(), sequences as usize));
    }

    fn on_request(&mut self, record: &RequestRecord) {
        self.preemptions += record.preemptions;
    }

    fn on_lost_attempt(&mut self, _: &RequestRecord) {
        self.lost += 1;
    }
}

#[test]
fn details_are_read_back_as_they_were_written() {
    let scenario = scenario(OPEN, Convention::Vllm);
    let deployment = Deployment::new(&scenario).unwrap();
    let log = Log::new(deployment.measure()).with_each_gap();
    let run = deployment.simulate(1, log, false).1.run(&scenario, 1);
    let document = ResultFormat::Vllm.document(&run);
    assert_eq!(document["generated_texts"].as_array().map(Vec::len), Some(40));
    let read = super::read(&serde_json::to_vec(&document).unwrap(), None).unwrap();
    for (written, read) in run.requests.iter().zip(&read.requests) {
        assert_eq!(written.gaps.len(), 19);
        assert_eq!(written.gaps, read.gaps);
    }
    // Without being asked for they stay out: they are as long as all answers.
    assert!(ResultFormat::Vllm.document(&simulate(&scenario).1).get("itls").is_none());
}
