//! The jump over steps changes nothing, and neither does the number of threads: the same bytes.
//!
//! `tests/fast_forward.rs` holds the engine to it on random workloads with every scheduler; here are
//! whole scenarios, with the calibrated cost and everything that is written about a run.

use std::path::Path;
use std::process::Command;

use rayon::prelude::*;
use serde_json::Value;

use servesim::deploy::{DeployError, Deployment};
use servesim::engine_name::EngineName;
use servesim::metrics::Recorder;
use servesim::report::plot_data::timeline_rows;
use servesim::report::{BlameCsv, RequestsCsv};
use servesim::scenario::{self, DiskFiles, Override, Scenario, Source};
use servesim::time::SimTime;

/// Long enough for queues to form and for hundreds of requests to end.
const SECONDS: &str = "60s";
const REQUESTS: &str = "150";

/// The scenario, cut short.
fn shortened(source: &Source, more: &[&str]) -> Scenario {
    let mut overrides: Vec<Override> = more.iter().map(|set| Override::set(set)).collect();
    let whole = scenario::load(source, &overrides, &DiskFiles);
    let whole = whole.unwrap_or_else(|error| panic!("{}", error.render(false)));
    if whole.workload.duration.is_some() {
        overrides.push(Override::set(&format!("workload.duration={SECONDS}")));
    }
    if whole.workload.num_requests.is_some() {
        overrides.push(Override::set(&format!("workload.num-requests={REQUESTS}")));
    }
    scenario::load(source, &overrides, &DiskFiles)
        .unwrap_or_else(|error| panic!("{}", error.render(false)))
}

/// Everything that a run writes.
struct Written {
    summary: String,
    requests: Vec<u8>,
    timeline: Vec<u8>,
    blame: Vec<u8>,
    steps: u64,
}

fn written(deployment: &Deployment<'_>, step_by_step: bool) -> Written {
    let requests = RequestsCsv::new(1, Vec::new(), Vec::new());
    let blame = BlameCsv::new(1, SimTime::ZERO, Some(Vec::new()));
    let observer = (Recorder::new(deployment.measure()), (requests, blame));
    let seed = deployment.scenario().workload.seed;
    let run = deployment.simulate_noting(seed, observer, step_by_step);
    let (totals, (recorder, (requests, blame))) = (run.totals, run.observer);
    let requests = requests.finish().expect("memory takes any row");
    let timeline = timeline_rows(seed, recorder.timeline());
    let (blame_ms, blame) = blame.finish().expect("memory takes any row");
    let mut summary = run.priced.summary(recorder);
    summary.blame_ms = blame_ms;
    summary.notes = run.priced.extrapolations().iter().map(ToString::to_string).collect();
    let summary = serde_json::to_string_pretty(&summary).expect("a summary is JSON");
    let blame = blame.expect("its rows were asked for");
    Written { summary, requests, timeline, blame, steps: totals.steps }
}

/// Of each row of blame.csv: the latency, and the causes.
fn causes(blame: &[u8]) -> Vec<(u64, Vec<u64>)> {
    let text = std::str::from_utf8(blame).expect("rows are text");
    let row = |line: &str| {
        let mut fields = line.split(',').skip(2).map(|field| field.parse().expect("nanoseconds"));
        (fields.next().expect("a latency"), fields.collect())
    };
    text.lines().map(row).collect()
}

/// Whether the scenario runs at all; where it does, stepping and jumping write the same bytes.
fn agrees(name: &str, scenario: &Scenario) -> bool {
    let deployment = match Deployment::new(scenario) {
        Ok(deployment) => deployment,
        Err(DeployError::DoesNotFit { .. } | DeployError::Refuses { .. }) => return false,
        Err(error) => panic!("{name}: {error}"),
    };
    let (stepped, jumped) = (written(&deployment, true), written(&deployment, false));
    assert_eq!(stepped.summary, jumped.summary, "{name}: the summary");
    assert_eq!(stepped.steps, jumped.steps, "{name}: the number of steps");
    assert!(stepped.requests == jumped.requests, "{name}: requests.csv differs");
    assert!(stepped.timeline == jumped.timeline, "{name}: timeline.csv differs");
    assert!(stepped.blame == jumped.blame, "{name}: blame.csv differs");
    assert!(!stepped.requests.is_empty(), "{name}: nobody came");
    for (latency, causes) in causes(&jumped.blame) {
        assert_eq!(causes.iter().sum::<u64>(), latency, "{name}: causes add up");
    }
    true
}

#[test]
fn every_embedded_scenario_writes_the_same_with_and_without_the_jump() {
    let names = scenario::embedded_names();
    let ran: usize = names
        .par_iter()
        .map(|name| {
            let source = scenario::embedded(name).expect("a name of the list");
            usize::from(agrees(name, &shortened(&source, &[])))
        })
        .sum();
    // Some scenarios show what does not fit.
    assert!(ran * 10 >= names.len() * 8 && ran > 40, "{ran} of {} ran", names.len());
}

#[test]
fn every_engine_writes_the_same_with_and_without_the_jump() {
    let loads = ["workload.closed-loop.clients=40", "workload.poisson.request-rate=3"];
    let source = scenario::embedded(scenario::DEFAULT_SCENARIO).expect("the default is embedded");
    EngineName::ALL.par_iter().for_each(|engine| {
        for load in loads {
            let name = format!("engine.name={engine}");
            let scenario = shortened(&source, &[&name, load]);
            assert!(agrees(&format!("{engine} under {load}"), &scenario), "{engine} runs");
        }
    });
}

#[test]
fn every_nanosecond_of_an_answered_request_has_a_cause_under_every_engine() {
    // Enough of them that requests queue, prompts meet decodes, and some lose their place.
    let keys =
        ["workload.poisson.request-rate=6", "workload.num-requests=300", "measure.convention=vllm"];
    let source = scenario::embedded(scenario::DEFAULT_SCENARIO).expect("the default is embedded");
    EngineName::ALL.par_iter().for_each(|engine| {
        let name = format!("engine.name={engine}");
        let overrides: Vec<_> = keys.into_iter().chain([&*name]).map(Override::set).collect();
        let scenario = scenario::load(&source, &overrides, &DiskFiles)
            .unwrap_or_else(|error| panic!("{}", error.render(false)));
        let deployment = Deployment::new(&scenario).expect("it fits");
        let summary: Value =
            serde_json::from_str(&written(&deployment, false).summary).expect("JSON");
        let blame = &summary["blame_ms"];
        let mean = |cause: &str| blame[cause].as_f64().expect("a cause");
        assert_eq!(mean("other"), 0.0, "{engine}: {blame}");
        for cause in ["queue", "prefill", "weights", "attention", "host"] {
            assert!(mean(cause) > 0.0, "{engine}: {cause} in {blame}");
        }
        let all: f64 = blame.as_object().expect("causes").values().filter_map(Value::as_f64).sum();
        let latency = summary["e2el_ms"]["mean"].as_f64().expect("a latency");
        assert!((all / latency - 1.0).abs() < 1e-9, "{engine}: {all} of {latency} ms");
    });
}

#[test]
fn contexts_that_grow_beyond_the_measurements_are_noted_with_and_without_the_jump() {
    let keys = [
        "model.name=llama-3.1-8b",
        "hardware.gpu=h100-80gb",
        "engine.name=vllm-0.13",
        "engine.vllm.max-model-len=32768",
        "workload.num-requests=6",
        "workload.lengths.fixed={ input = 16000, output = 700 }",
        "workload.closed-loop.clients=3",
    ];
    let overrides = keys.map(Override::set);
    let scenario = scenario::load(&Source::Flags, &overrides, &DiskFiles)
        .unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert!(agrees("long contexts", &scenario), "it runs");
    let deployment = Deployment::new(&scenario).expect("it fits");
    let summary = written(&deployment, false).summary;
    // The last of them is alone in the end, and its last token comes from a context of 16,699.
    assert!(summary.contains("mean context of decoding sequences: 16699 asked"), "{summary}");
}

/// All files of a folder, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder was made")
        .map(|entry| {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("a readable file"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn the_number_of_threads_does_not_show_in_any_byte() {
    let run = |threads: &str| {
        let folder = tempfile::tempdir().expect("room for a folder");
        let status = Command::new(env!("CARGO_BIN_EXE_servesim"))
            .env("RAYON_NUM_THREADS", threads)
            // Prompts beyond the measured range: what is noted of it may not depend on who was last.
            .args(["run", "vllm/llama-3.1-8b-4-replicas", "--set", "measure.seeds=6"])
            .args(["--num-prompts", "60", "--set", "engine.vllm.max-num-batched-tokens=16384"])
            .args(["--steps", "--format", "csv", "--out"])
            .arg(folder.path())
            .output()
            .expect("the program starts");
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        (status.stdout, files(folder.path()))
    };
    let one = run("1");
    assert_eq!(one.1.len(), 4, "summary, requests, timeline, steps");
    for threads in ["2", "5"] {
        let several = run(threads);
        assert!(one.0 == several.0, "{threads} threads print something else");
        for ((name, expected), (_, actual)) in one.1.iter().zip(&several.1) {
            assert!(expected == actual, "{name} with {threads} threads");
        }
    }
}
