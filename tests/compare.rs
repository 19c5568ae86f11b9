//! Comparisons as scripts use them: exit codes, keys, classes, and workloads that show a parting.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn servesim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_servesim")).args(args).output().expect("the program starts")
}

/// The comparison as JSON, and the exit code.
fn compare(args: &[&str]) -> (Value, i32) {
    let output = servesim(&[&["compare", "--format", "json"], args].concat());
    let json = serde_json::from_slice(&output.stdout);
    let code = output.status.code().expect("it was not killed");
    (json.unwrap_or_else(|error| panic!("{error}: {output:?}")), code)
}

/// A small cache: every step of a debug build looks at all of it.
const VLLM: &[&str] = &[
    "--model",
    "llama-3.1-8b",
    "--gpu",
    "a100-80gb",
    "--max-model-len",
    "2048",
    "--set",
    "engine.vllm.num-gpu-blocks-override=1000",
];
const OPEN_LOOP: &[&str] =
    &["--request-rate", "4", "--lengths", "openorca-006", "--num-prompts", "20", "--seeds", "5"];

fn metric<'a>(comparison: &'a Value, class: &str, metric: &str) -> &'a Value {
    let metrics = comparison["metrics"].as_array().expect("a list");
    metrics
        .iter()
        .find(|one| one["class"] == class && one["metric"] == metric)
        .unwrap_or_else(|| panic!("no {metric} of {class}"))
}

/// A trace of `requests` requests, every other of them long.
fn trace(folder: &Path, requests: usize) -> String {
    let mut text = "arrival_s,input_tokens,output_tokens,priority,tenant\n".to_owned();
    for i in 0..requests {
        let (input, tenant) = if i % 2 == 0 { (100 + i % 7, "chat") } else { (900, "batch") };
        text.push_str(&format!(
            "{}.{},{input},{},{},{tenant}\n",
            i / 10,
            i % 10,
            5 + i % 11,
            i % 2
        ));
    }
    let path = folder.join("trace.csv");
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("a plain path").to_owned()
}

#[test]
fn a_worse_b_is_exit_code_1_and_a_b_that_is_not_is_0() {
    let slower = [VLLM, OPEN_LOOP, &["--engines", "vllm-0.13,vllm-0.32"]].concat();
    let (comparison, code) = compare(&slower);
    assert_eq!((comparison["verdict"].as_str(), code), (Some("worse"), 1));
    let ttft = metric(&comparison, "all", "ttft_ms.mean");
    assert_eq!(ttft["verdict"], "worse");
    assert!(ttft["relative"]["low"].as_f64() > Some(0.01), "{ttft}");
    assert!(ttft["judged"]["p_worse"].as_f64() < Some(0.025), "{ttft}");

    let (tolerated, code) = compare(&[&slower[..], &["--tolerance", "200%"]].concat());
    assert_eq!((tolerated["verdict"].as_str(), code), (Some("same"), 0));
    let (faster, code) =
        compare(&[VLLM, OPEN_LOOP, &["--engines", "vllm-0.32,vllm-0.13"]].concat());
    assert_eq!((faster["verdict"].as_str(), code), (Some("better"), 0));
}

#[test]
fn only_the_metrics_that_are_named_judge() {
    let args = [VLLM, OPEN_LOOP, &["--engines", "vllm-0.13,vllm-0.32"]].concat();
    let (comparison, code) =
        compare(&[&args[..], &["--metric", "tpot_ms.mean", "--metric", "e2el_ms.p99=5%"]].concat());
    assert_eq!((comparison["verdict"].as_str(), code), (Some("same"), 0));
    let judges: Vec<_> = comparison["metrics"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|metric| !metric["judged"].is_null())
        .map(|metric| (metric["metric"].clone(), metric["judged"]["tolerance"].clone()))
        .collect();
    assert_eq!(judges, [("tpot_ms.mean".into(), 0.01.into()), ("e2el_ms.p99".into(), 0.05.into())]);
}

#[test]
fn figures_are_those_of_run_with_the_same_seeds() {
    let args = [VLLM, OPEN_LOOP].concat();
    let (comparison, _) = compare(&[&args[..], &["--engines", "vllm-0.13,vllm-0.32"]].concat());
    for (side, engine) in [("a", "vllm-0.13"), ("b", "vllm-0.32")] {
        let run = [&["run", "--format", "json", "--engine", engine], &args[..]].concat();
        let run: Value = serde_json::from_slice(&servesim(&run).stdout).expect("a summary");
        for (key, path) in
            [("ttft_ms.p99", "/ttft_ms/p99"), ("output_throughput", "/output_throughput")]
        {
            let ours = metric(&comparison, "all", key)[side].as_f64().expect("a number");
            let theirs = run["summary"].pointer(path).and_then(Value::as_f64).expect("a number");
            assert!((ours / theirs - 1.0).abs() < 1e-12, "{engine} {key}: {ours}, {theirs}");
        }
    }
}

#[test]
fn a_comparison_is_the_same_on_any_number_of_threads() {
    let args = [&["compare", "--format", "json"], VLLM, OPEN_LOOP].concat();
    let on = |threads: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_servesim"))
            .args(&args)
            .args(["--engines", "vllm-0.13,vllm-0.32"])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .expect("the program starts");
        let mut json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        json.as_object_mut().expect("an object").remove("simulator").expect("what it took");
        json
    };
    assert_eq!(on("1"), on("3"));
}

#[test]
fn a_trace_is_compared_by_its_sections_and_by_class() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = trace(folder.path(), 200);
    let args = [VLLM, &["--trace", &trace, "--engines", "vllm-0.13,vllm-0.32", "--split", "500"]];
    let (comparison, _) = compare(&args.concat());
    assert_eq!(comparison["pairs"]["sections"], 10);
    let ttft = metric(&comparison, "all", "ttft_ms.mean");
    assert!(ttft["difference"]["low"].is_number(), "{ttft}");
    let throughput = metric(&comparison, "all", "output_throughput");
    assert!(throughput["difference"]["low"].is_null(), "nothing is drawn: {throughput}");
    let classes: Vec<_> = comparison["classes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|class| (class["class"].as_str().unwrap(), class["completed_a"].as_f64().unwrap()))
        .collect();
    let want = [
        ("all", 200.0),
        ("prompt < 500", 100.0),
        ("prompt >= 500", 100.0),
        ("priority 0", 100.0),
        ("priority 1", 100.0),
        ("tenant chat", 100.0),
        ("tenant batch", 100.0),
    ];
    assert_eq!(classes, want);
    let of = |class: &str| metric(&comparison, class, "ttft_ms.mean")["a"].as_f64().unwrap();
    assert_eq!(of("prompt < 500"), of("tenant chat"));
    assert!(of("prompt < 500") < of("prompt >= 500"));
}

/// Compares `args` on some workload, then on the witness alone; the number of its requests.
fn witnessed(args: &[&str], workload: &[&str]) -> usize {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("witness.jsonl");
    let file = file.to_str().expect("a plain path");
    let (found, _) = compare(&[args, workload, &["--witness", file]].concat());
    let parting = &found["witness"]["parting"];
    assert!(parting["step"].is_number(), "{}", found["schedules"]);
    let blocks = ["--trace", file, "--set", "workload.trace.hash-block-size=16"];
    let (again, _) = compare(&[args, &blocks].concat());
    assert_eq!(&again["schedules"]["part"], parting, "the trace shows what was found");
    let requests = found["witness"]["requests"].as_array().expect("a list").len();
    assert_eq!(std::fs::read_to_string(file).expect("the trace").lines().count(), requests);
    requests
}

#[test]
fn a_small_trace_shows_where_two_engines_part() {
    let args = [VLLM, &["--engines", "vllm-0.13,vllm-0.32"]].concat();
    assert_eq!(witnessed(&args, OPEN_LOOP), 2);
}

#[test]
fn so_it_does_where_a_small_cache_preempts_one_and_not_the_other() {
    let blocks = "engine.vllm.num-gpu-blocks-override=400";
    let args = [VLLM, &["--engine", "vllm-0.13", "--set-b", blocks]];
    let closed_loop =
        ["--concurrency", "30", "--duration", "20s", "--input-len", "300", "--output-len", "100"];
    let requests = witnessed(&args.concat(), &[&closed_loop[..], &["--seeds", "2"]].concat());
    assert!(requests < 30, "{requests}");
}

#[test]
fn so_it_does_where_prompts_share_what_one_caches() {
    let shared = ["--set", "workload.shared-prefix.tokens=160"];
    let args =
        [VLLM, &["--engine", "vllm-0.13", "--set-b", "engine.vllm.enable-prefix-caching=false"]];
    let (found, _) = compare(&[&args.concat()[..], OPEN_LOOP, &shared].concat());
    assert!(found["witness"]["requests"][0]["hash_ids"].is_array(), "{}", found["witness"]);
    assert_eq!(witnessed(&args.concat(), &[OPEN_LOOP, &shared].concat()), 2);
}

#[test]
fn schedules_that_agree_are_told_from_costs_that_do() {
    let args = [VLLM, OPEN_LOOP, &["--engine", "vllm-0.13"]].concat();
    let agree = |set_b: &str| {
        let (comparison, _) = compare(&[&args[..], &["--set-b", set_b]].concat());
        assert!(comparison["witness"].is_null());
        comparison["schedules"]["agree"].clone()
    };
    let same = agree("engine.vllm.max-num-seqs=200");
    assert_eq!((same["requests"].as_u64(), same["all"].as_bool()), (Some(20), Some(true)));
    assert!(same["cost"].is_null());
    let cost = &agree("hardware.gpu=h100-80gb")["cost"];
    assert!(cost["a_ms"].as_f64() > cost["b_ms"].as_f64(), "{cost}");
}

#[test]
fn files_hold_what_is_printed_and_no_clock() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().to_str().expect("a plain path");
    let args = [VLLM, OPEN_LOOP, &["--engines", "vllm-0.13,vllm-0.32", "--out", out]].concat();
    let (printed, _) = compare(&args);
    let read = |file: &str| std::fs::read_to_string(folder.path().join(file)).expect("a file");
    let mut expected = printed;
    expected.as_object_mut().expect("an object").remove("simulator");
    let written: Value = serde_json::from_str(&read("comparison.json")).expect("JSON");
    assert_eq!(written, expected);
    let metrics = expected["metrics"].as_array().expect("a list").len();
    let rows =
        |file: &str| csv::Reader::from_path(folder.path().join(file)).unwrap().into_records();
    assert_eq!(rows("comparison.csv").count(), metrics);
    assert_eq!(rows("pairs.csv").filter(|row| row.as_ref().unwrap()[2] == *"goodput").count(), 5);
    assert_eq!(read("witness.jsonl").lines().count(), 2);
}
