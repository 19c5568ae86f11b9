//! Pictures of a run, made from the files that the run has left.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn servesim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_servesim")).args(args).output().expect("the program starts")
}

fn done(args: &[&str]) -> String {
    let output = servesim(args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn run(folder: &str, more: &[&str]) {
    let run = ["run", "--duration", "20s", "--out", folder];
    done(&run.iter().chain(more).copied().collect::<Vec<_>>());
}

fn trace(folder: &Path) -> Vec<Value> {
    let text = fs::read(folder.join("trace.json")).expect("a trace");
    let trace: Value = serde_json::from_slice(&text).expect("JSON");
    trace["traceEvents"].as_array().expect("events").clone()
}

#[test]
fn steps_of_the_trace_are_those_of_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    run(dir, &["--steps"]);
    let said = done(&["report", dir]);
    assert!(!said.contains("note:"), "{said}");
    let rows = fs::read_to_string(folder.path().join("steps.csv")).expect("steps");
    let steps = trace(folder.path()).into_iter().filter(|e| e["ph"] == "X" && e["tid"] == 0);
    let steps: Vec<Value> = steps.collect();
    assert_eq!(steps.len(), rows.lines().count() - 1);
    let first: Vec<&str> = rows.lines().nth(1).expect("a step").split(',').collect();
    assert_eq!(steps[0]["name"], first[3]);
    let micros = |field: &str| field.parse::<f64>().expect("a number") / 1e3;
    assert_eq!(steps[0]["dur"].as_f64(), Some(micros(first[5]) - micros(first[4])));
    for picture in ["latencies.svg", "load.svg", "time.svg"] {
        let svg = fs::read_to_string(folder.path().join(picture)).expect("a picture");
        assert!(svg.starts_with("<svg") && !svg.contains("NaN"), "{picture}");
    }
    let page = fs::read_to_string(folder.path().join("report.html")).expect("a page");
    assert_eq!(page.matches("<figure>").count(), 3);
}

#[test]
fn a_window_shows_what_it_meets_and_no_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    run(dir, &["--steps"]);
    done(&["report", dir, "--from", "5s", "--until", "6s"]);
    let events = trace(folder.path());
    let slices = || events.iter().filter(|event| event["ph"] == "X");
    assert!(slices().count() > 20, "something happens in a second");
    for event in slices().filter(|event| event["tid"] == 0) {
        let start = event["ts"].as_f64().expect("a time");
        let end = start + event["dur"].as_f64().expect("a time");
        assert!(end >= 5e6 && start < 6e6, "{event}");
    }
}

#[test]
fn a_run_without_steps_is_drawn_by_its_requests_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    run(dir, &[]);
    assert!(done(&["report", dir]).contains("`servesim run --steps` writes one"));
    let events = trace(folder.path());
    let names: Vec<&str> = events.iter().filter_map(|event| event["name"].as_str()).collect();
    assert!(names.contains(&"request 0") && names.contains(&"prefill"), "{names:?}");
}

#[test]
fn a_new_run_in_the_folder_takes_the_old_report_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    run(dir, &[]);
    done(&["report", dir]);
    run(dir, &["--seed", "2"]);
    assert!(!folder.path().join("report.html").exists(), "it showed another run");
}

#[test]
fn files_that_no_run_wrote_are_refused_with_their_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    run(dir, &[]);
    let path = folder.path().join("requests.csv");
    let mut text = fs::read_to_string(&path).expect("rows");
    text.push_str("1,2,3\n");
    let line = text.lines().count();
    fs::write(&path, text).expect("rows");
    let output = servesim(&["report", dir]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said.contains(&format!("requests.csv:{line}: 3 fields where the header has 21")),
        "{said}"
    );
    assert!(!folder.path().join("report.html").exists());
}
