//! What `servesim record` writes, `servesim conformance` replays.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use servesim::engine_name::EngineName;

fn servesim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_servesim")).args(args).output().expect("the program starts")
}

fn record(engine: &str, out: &Path) -> Output {
    let out = out.to_str().expect("a path in UTF-8");
    servesim(&[
        "record",
        "--model",
        "llama-2-7b",
        "--instance",
        "g5.2xlarge",
        "--engine",
        engine,
        "--concurrency",
        "5",
        "--duration",
        "12s",
        "--out",
        out,
    ])
}

#[test]
fn a_recorded_scenario_of_every_engine_is_reproduced_step_by_step() {
    let folder = tempfile::tempdir().expect("a folder");
    for engine in EngineName::ALL.iter().map(|engine| engine.name()) {
        let file = folder.path().join(format!("{engine}.json"));
        let recorded = record(engine, &file);
        assert!(recorded.status.success(), "{engine}: {recorded:?}");
        let bytes = std::fs::read(&file).expect("the recording");
        let verdict = servesim::conformance::check(&bytes).expect("a recording");
        assert!(verdict.passes(), "{engine}: {verdict:?}");
        assert!(verdict.steps > 100, "{engine}: {} steps", verdict.steps);
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(names.len(), EngineName::ALL.len(), "nothing else is left behind");
}

#[test]
fn the_same_scenario_and_seed_are_recorded_as_the_same_bytes_and_another_seed_is_not() {
    let run = |seed| servesim(&["record", "--duration", "5s", "--seed", seed]).stdout;
    let first = run("7");
    assert!(first.len() > 1000);
    assert!(first == run("7"), "the bytes depend on more than the seed");
    assert!(first != run("8"));
}

#[test]
fn a_recording_in_which_another_decision_stands_is_not_reproduced() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("schedule.json");
    assert!(record("vllm-0.32", &file).status.success());
    let mut golden: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    let step = golden["steps"].as_array().expect("steps").len() / 2;
    let batch = golden["steps"][step]["s"].as_array_mut().expect("a batch");
    batch.swap(0, 1);
    std::fs::write(&file, golden.to_string()).expect("written");
    let replayed = servesim(&["conformance", file.to_str().expect("UTF-8")]);
    assert_eq!(replayed.status.code(), Some(1));
    let text = String::from_utf8(replayed.stdout).expect("UTF-8");
    for part in [
        format!("first difference: steps[{step}] at "),
        "* s[0]".into(),
        "state before it, by request:".into(),
        "running  ".into(),
        "waiting  ".into(),
        "KV free  ".into(),
        "0 passed, 1 failed\n".into(),
    ] {
        assert!(text.contains(&part), "{part:?} in {text}");
    }
}

#[test]
fn the_rules_of_another_family_are_a_mistake_and_no_finding() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tgi/v_d12_prefix_lru.json");
    let file = file.to_str().expect("UTF-8");
    for engine in ["vllm-0.32", "vllm-9"] {
        let output = servesim(&["conformance", "--engine", engine, file]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(text.contains(engine) && text.contains("v_d12_prefix_lru"), "{text}");
    }
    let output = servesim(&["conformance", "--engine", "tgi-v2", file]);
    assert_eq!(output.status.code(), Some(1), "another version of the family may differ");
}

#[test]
fn what_cannot_be_recorded_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("schedule.json");
    let out = out.to_str().expect("UTF-8");
    let output = servesim(&[
        "record",
        "--instance",
        "g5.12xlarge",
        "--engine",
        "vllm-0.32",
        "--model",
        "llama-2-7b",
        "--replicas",
        "2",
        "--concurrency",
        "2",
        "--out",
        out,
    ]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(text.contains("2 replicas; set engine.replicas = 1"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    let file = folder.path().join("file");
    std::fs::write(&file, b"").expect("a file");
    let below = file.join("x.json");
    let below = below.to_str().expect("UTF-8");
    let output = servesim(&["record", "--duration", "1s", "--out", below]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}
