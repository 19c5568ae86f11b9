//! The jump over steps changes nothing, and neither does the number of threads: the same bytes.
//!
//! `tests/fast_forward.rs` holds the engine to it on random workloads with every scheduler; here are
//! whole scenarios, with the calibrated cost and everything that is written about a run.

use std::path::Path;
use std::process::Command;

use rayon::prelude::*;

use servesim::deploy::{DeployError, Deployment};
use servesim::engine_name::EngineName;
use servesim::metrics::Recorder;
use servesim::report::RequestsCsv;
use servesim::report::plot_data::timeline_rows;
use servesim::scenario::{self, DiskFiles, Override, Scenario, Source};

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

/// Everything that a run writes: its summary, its requests, its timeline.
fn written(deployment: &Deployment<'_>, step_by_step: bool) -> (String, Vec<u8>, Vec<u8>, u64) {
    let observer =
        (Recorder::new(deployment.measure()), RequestsCsv::new(1, Vec::new(), Vec::new()));
    let seed = deployment.scenario().workload.seed;
    let run = deployment.simulate_noting(seed, observer, step_by_step);
    let (totals, (recorder, requests)) = (run.totals, run.observer);
    let requests = requests.finish().expect("memory takes any row");
    let timeline = timeline_rows(seed, recorder.timeline());
    let mut summary = run.priced.summary(recorder);
    summary.notes = run.priced.extrapolations().iter().map(ToString::to_string).collect();
    let summary = serde_json::to_string_pretty(&summary).expect("a summary is JSON");
    (summary, requests, timeline, totals.steps)
}

/// Whether the scenario runs at all; where it does, stepping and jumping write the same bytes.
fn agrees(name: &str, scenario: &Scenario) -> bool {
    let deployment = match Deployment::new(scenario) {
        Ok(deployment) => deployment,
        Err(DeployError::DoesNotFit { .. } | DeployError::Refuses { .. }) => return false,
        Err(error) => panic!("{name}: {error}"),
    };
    let (stepped, jumped) = (written(&deployment, true), written(&deployment, false));
    assert_eq!(stepped.0, jumped.0, "{name}: the summary");
    assert_eq!(stepped.3, jumped.3, "{name}: the number of steps");
    assert!(stepped.1 == jumped.1, "{name}: requests.csv differs");
    assert!(stepped.2 == jumped.2, "{name}: timeline.csv differs");
    assert!(!stepped.1.is_empty(), "{name}: nobody came");
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
    let summary = written(&deployment, false).0;
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
