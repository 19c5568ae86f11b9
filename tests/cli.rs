//! The program as its users meet it: transcripts in `tests/cli/*.md`, and what a transcript cannot
//! show.
//!
//! `TRYCMD=overwrite cargo test --test cli` rewrites the transcripts from what the program says.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[test]
fn transcripts_are_what_the_program_says() {
    trycmd::TestCases::new().case("tests/cli/*.md").env("NO_COLOR", "1");
}

fn servesim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_servesim")).args(args).output().expect("the program starts")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_memory_plan_is_kept_in_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("plan");
    let output = servesim(&["memory", "--out", out.to_str().expect("UTF-8"), "--format", "json"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read(out.join("memory.json")).expect("the plan"), output.stdout);
    let rows = std::fs::read_to_string(out.join("memory.csv")).expect("its rows");
    assert!(rows.starts_with("item,bytes,gib,provenance,detail\n"), "{rows}");
}

/// What must be the same whatever the machine is doing.
fn without_clock(mut object: Value) -> Value {
    object.as_object_mut().expect("an object").remove("simulator").expect("figures of the run");
    object
}

const SHORT: &[&str] = &["run", "--duration", "20s"];

fn short(more: &[&str]) -> Vec<&'static str> {
    // Leaked so that the arguments read as a list; a test ends soon.
    let more = more.iter().map(|arg| &*Box::leak(arg.to_string().into_boxed_str()));
    SHORT.iter().copied().chain(more).collect()
}

#[test]
fn json_has_the_keys_that_scripts_rely_on() {
    let object = json(&servesim(&short(&["--format", "json", "--slo-ttft", "2s"])));
    let summary = &object["summary"];
    for key in [
        "completed",
        "failed",
        "unfinished",
        "duration_s",
        "output_throughput",
        "request_throughput",
        "total_token_throughput",
        "preemptions",
        "kv_blocks_total",
        "kv_usage_peak",
        "usd_per_1m_output_tokens",
        "minutes_per_1m_output_tokens",
        "goodput",
    ] {
        assert!(summary[key].is_number(), "{key}: {}", summary[key]);
    }
    for latency in ["ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "normalized_latency_ms", "queue_ms"]
    {
        for statistic in ["mean", "median", "p90", "p95", "p99"] {
            assert!(summary[latency][statistic].is_number(), "{latency}.{statistic}");
        }
    }
    assert!(summary["batch_size"]["mean"].is_number() && summary["batch_size"]["max"].is_number());
    for key in ["steps", "output_tokens", "cpu_s", "wall_s"] {
        assert!(object["simulator"][key].is_number(), "simulator.{key}");
    }
    assert!(object["scenario"].is_object());
}

#[test]
fn the_same_scenario_and_seed_give_the_same_result_however_it_is_stepped() {
    let run = |more: &[&str]| {
        let args = [&["--format", "json"], more].concat();
        without_clock(json(&servesim(&short(&args))))
    };
    let jumped = run(&[]);
    assert_eq!(jumped, run(&[]), "the same run twice");
    assert_eq!(jumped, run(&["--step-by-step"]));
    assert_eq!(jumped, run(&["--check"]));
    assert_ne!(jumped["summary"], run(&["--seed", "2"])["summary"]);
    // The warm-up ends within a step, and what follows it is cut the same way.
    let cut = run(&["--warm-up", "7.3s"]);
    assert_ne!(cut["summary"]["completed"], jumped["summary"]["completed"]);
    assert_eq!(cut, run(&["--warm-up", "7.3s", "--step-by-step"]));
}

/// A small cache, so that requests are preempted, some of them while a token is under way.
#[test]
fn preemption_shows_the_same_however_it_is_stepped() {
    for engine in ["vllm-0.32", "vllm-0.13"] {
        let run = |more: &[&str]| {
            let scenario = "run --model llama-2-7b --gpu a100-80gb --concurrency 60 --duration 30s \
                --input-len 300 --output-len 300 --max-model-len 2048 --format json \
                --set engine.vllm.num-gpu-blocks-override=600 --engine";
            let words: Vec<_> = scenario.split_whitespace().chain([engine]).collect();
            let output = servesim(&[words.as_slice(), more].concat());
            assert!(output.status.success(), "{output:?}");
            without_clock(json(&output))
        };
        let jumped = run(&[]);
        assert!(jumped["summary"]["preemptions"].as_u64() > Some(10), "{engine}");
        assert_eq!(jumped, run(&["--step-by-step"]), "{engine}");
        assert_eq!(jumped, run(&["--check"]), "{engine}");
    }
}

#[test]
fn files_do_not_depend_on_threads_or_stepping() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, threads: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let status = Command::new(env!("CARGO_BIN_EXE_servesim"))
            .args(short(&["--seeds", "3", "--out"]))
            .arg(&out)
            .args(more)
            .env("RAYON_NUM_THREADS", threads)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("the program starts").success());
        out
    };
    let (one, two) = (write("one", "1", &[]), write("two", "2", &["--step-by-step"]));
    for file in ["summary.json", "requests.csv", "timeline.csv"] {
        let read = |out: &Path| std::fs::read_to_string(out.join(file)).expect("a file of results");
        let (a, b) = (read(&one), read(&two));
        assert!(a == b, "{file} differs");
        assert!(!a.contains("wall_s"), "{file} has wall-clock figures");
    }
    let names = std::fs::read_dir(&one).expect("the folder").count();
    assert_eq!(names, 3, "nothing else is left in the folder");
}

#[test]
fn the_rows_of_files_agree_with_the_summary() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().to_str().expect("a plain path");
    let output = servesim(&short(&["--format", "json", "--steps", "--out", out]));
    let object = json(&output);
    let rows = |file: &str| -> Vec<std::collections::BTreeMap<String, String>> {
        csv::Reader::from_path(folder.path().join(file))
            .expect("a file of results")
            .deserialize()
            .collect::<Result<_, _>>()
            .expect("rows of the header's columns")
    };
    let requests = rows("requests.csv");
    let answered: Vec<_> =
        requests.iter().filter(|r| ["length", "stop"].contains(&&*r["outcome"])).collect();
    assert_eq!(object["summary"]["completed"], answered.len());
    let number = |row: &std::collections::BTreeMap<String, String>, key: &str| -> f64 {
        row[key].parse().expect("a number")
    };
    let mean = |key: &str| {
        answered.iter().map(|row| number(row, key)).sum::<f64>() / answered.len() as f64
    };
    for key in ["ttft_ms", "e2el_ms", "queue_ms", "normalized_latency_ms"] {
        let summary = object["summary"][key]["mean"].as_f64().expect("a mean");
        assert!((summary - mean(key)).abs() < 1e-5 * summary, "{key}: {summary}, {}", mean(key));
    }
    let steps = rows("steps.csv");
    assert_eq!(object["simulator"]["steps"], steps.len());
    let tokens: f64 = steps.iter().map(|row| number(row, "tokens")).sum();
    assert_eq!(object["simulator"]["output_tokens"].as_f64(), Some(tokens));
}

/// The rows share their first 1024 and 512 tokens; the requests come one after the other.
#[test]
fn block_ids_of_a_trace_reach_the_prefix_cache() {
    let cached = |more: &[&str]| {
        let flags = "run --trace tests/traces/mooncake.jsonl --model llama-3.1-8b --gpu a100-80gb \
            --engine vllm-0.32 --format json";
        let words: Vec<_> = flags.split_whitespace().chain(more.iter().copied()).collect();
        json(&servesim(&words))["summary"]["cached_input_tokens"].clone()
    };
    assert_eq!(cached(&[]), 1024 + 512);
    assert_eq!(cached(&["--no-enable-prefix-caching"]), 0);
}

#[test]
fn parquet_stands_beside_the_tables_or_is_refused_before_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().to_str().expect("a plain path");
    let output = servesim(&short(&["--out", out, "--parquet"]));
    let magic = std::fs::read(folder.path().join("requests.parquet")).unwrap_or_default();
    if cfg!(feature = "parquet") {
        assert!(output.status.success(), "{output:?}");
        assert!(magic.starts_with(b"PAR1") && magic.ends_with(b"PAR1"));
    } else {
        assert_eq!((output.status.code(), magic.len()), (Some(2), 0));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--features parquet"));
    }
}

#[test]
fn what_does_not_fit_leaves_no_folder_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let out_text = out.to_str().expect("a plain path");
    let output = servesim(
        &["run", "--model", "llama-2-70b", "--out", out_text, "--instance"]
            .into_iter()
            .chain(["g5.2xlarge", "--engine", "tgis-2023"])
            .collect::<Vec<_>>(),
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("does not start"));
    assert!(!out.exists());
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_the_environments_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else { return };
    let status = Command::new(env!("CARGO_BIN_EXE_servesim"))
        .args(["list", "gpus"])
        .stdout(full)
        .stderr(Stdio::null())
        .status();
    assert_eq!(status.expect("the program starts").code(), Some(3));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_servesim"))
        .args(["list", "models"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
}

/// A run that takes minutes ends at once on SIGINT, with 130 and nothing half-written.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_with_130_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let child = Command::new(env!("CARGO_BIN_EXE_servesim"))
        .args(["run", "--duration", "100h", "--step-by-step", "--out"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    std::thread::sleep(std::time::Duration::from_millis(800));
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status();
    assert!(killed.expect("kill is there").success());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
