//! The worked scheduler of `examples/shortest_prompt_first.rs`: what it promises, and that an
//! engine of one's own is used like a built-in one.

use std::path::PathBuf;
use std::process::Command;

use servesim::compare::metric::Judge;
use servesim::compare::schedule::{Contest, Schedules};
use servesim::compare::witness::Witness;
use servesim::compare::{self, Plan, Verdict};
use servesim::deploy::Deployment;
use servesim::engine::invariants::Invariants;
use servesim::engine::observer::{Observer, RequestRecord};
use servesim::engine_name::EngineName;
use servesim::metrics::{Recorder, Summary};
use servesim::scenario::registry::{CustomEngine, Registry, Server};
use servesim::scenario::{self, DiskFiles, Override, Scenario, Source};
use servesim::scheduler::Scheduler;
use servesim::time::{SimDuration, SimTime};

#[expect(dead_code, reason = "its main is the program, which the transcripts run")]
#[path = "../examples/shortest_prompt_first.rs"]
mod example;

const SCENARIO: &str = "examples/shortest_prompt_first.toml";
const MAX_AGE: &str = "engine.shortest-prompt-first.max-age";

fn load(set: &[String]) -> Scenario {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(SCENARIO);
    let text = std::fs::read(&path).expect("the scenario of the example");
    let source = Source::File { path, text };
    let overrides: Vec<_> = set.iter().map(|set| Override::set(set)).collect();
    scenario::load_with(&source, &overrides, &DiskFiles, &example::registry())
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
}

fn max_age(age: &str) -> String {
    format!("{MAX_AGE}={age}")
}

fn rate(rate: f64) -> String {
    format!("workload.poisson.request-rate={rate}")
}

/// The run with every step checked.
fn run(set: &[String]) -> Summary {
    let scenario = load(set);
    let deployment = Deployment::new(&scenario).expect("it fits");
    let observer = (Recorder::new(deployment.measure()), Invariants::default());
    let (_, (recorder, invariants)) = deployment.simulate(1, observer, false);
    assert_eq!(invariants.finish(), [""; 0]);
    recorder.summary()
}

/// When a request arrived, and when a step first worked on it.
#[derive(Clone, Copy)]
struct Admission {
    uid: u64,
    arrival: SimTime,
    first: SimTime,
}

#[derive(Default)]
struct Admissions(Vec<Admission>);

impl Observer for Admissions {
    fn on_request(&mut self, record: &RequestRecord) {
        let first = record.first_scheduled.expect("every request is served");
        self.0.push(Admission { uid: record.uid, arrival: record.arrival, first });
    }
}

fn admissions(set: &[String]) -> Vec<Admission> {
    let scenario = load(set);
    let deployment = Deployment::new(&scenario).expect("it fits");
    let (_, seen) = deployment.simulate(1, Admissions::default(), false);
    seen.0
}

/// Requests that were passed by a later one after they had waited for `age`.
fn passed_over(admissions: &[Admission], age: SimDuration) -> usize {
    let passed = |one: &&Admission| {
        let old = one.arrival + age;
        admissions
            .iter()
            .any(|other| other.uid > one.uid && other.first >= old && other.first < one.first)
    };
    admissions.iter().filter(passed).count()
}

#[test]
fn the_mean_time_to_first_token_falls_on_a_mixed_workload() {
    let (fcfs, ours) = (run(&["engine.name=vllm-0.13".into()]), run(&[]));
    let mean = |summary: &Summary| summary.ttft_ms.mean.expect("requests were served");
    let (fcfs_ttft, our_ttft) = (mean(&fcfs), mean(&ours));
    assert!(our_ttft < fcfs_ttft / 3.0, "{our_ttft} against {fcfs_ttft} ms");
    assert_eq!(ours.completed.get(), fcfs.completed.get());
}

/// One line of the table in docs/own-scheduler.md: times to first token in seconds.
fn line(label: &str, set: &[String]) -> String {
    let ttft = run(set).ttft_ms;
    let seconds = |ms: Option<f64>| ms.expect("requests were served") / 1e3;
    let [mean, median, p99, max] = [ttft.mean, ttft.median, ttft.p99, ttft.max].map(seconds);
    format!("| {label} | {mean:.1} | {median:.1} | {p99:.1} | {max:.1} |")
}

#[test]
fn the_walk_through_shows_what_the_runs_give() {
    let page = include_str!("../docs/own-scheduler.md");
    let overload = |age| run(&[rate(3.5), max_age(age)]).ttft_ms.mean.expect("served") / 1e3;
    let expected = [
        line("`--engine vllm-0.13`", &["engine.name=vllm-0.13".into()]),
        line("ours, `max-age = \"0s\"` (first come, first served)", &[max_age("0s")]),
        line("ours, `max-age = \"5s\"`", &[max_age("5s")]),
        line("ours, `max-age = \"10s\"`", &[]),
        format!("{:.1} s with it and {:.1} s", overload("10s"), overload("1h")),
    ];
    let missing: Vec<_> = expected.iter().filter(|line| !page.contains(line.as_str())).collect();
    assert!(missing.is_empty(), "docs/own-scheduler.md should say\n{missing:#?}");
}

#[test]
fn nobody_is_passed_over_after_the_age_limit_and_without_it_somebody_is() {
    let age = SimDuration::from_secs(10);
    let overload = rate(3.5);
    let limited = admissions(&[overload.clone(), max_age("10s")]);
    assert_eq!(passed_over(&limited, age), 0);
    let unlimited = admissions(&[overload, max_age("1h")]);
    let starved = passed_over(&unlimited, age);
    assert!(starved > 20, "{starved} of {}", unlimited.len());
}

#[test]
fn with_an_age_limit_of_zero_it_is_vllm_to_the_nanosecond() {
    // Below the load at which vLLM would preempt: admission is where the two differ.
    let light = rate(1.5);
    let mut vllm = run(&[light.clone(), "engine.name=vllm-0.13".into()]);
    let mut ours = run(&[light, max_age("0s")]);
    // vLLM flushes what has ended once more when nothing is left to run.
    for summary in [&mut vllm, &mut ours] {
        summary.steps.remove("empty");
    }
    assert_eq!(ours, vllm);
}

#[test]
fn a_small_cache_preempts_and_stepping_shows_the_same_as_jumping() {
    let set = [
        "engine.vllm.num-gpu-blocks-override=600".into(),
        "workload.lengths.fixed.input=100".into(),
        "workload.lengths.fixed.output=600".into(),
        rate(3.0),
    ];
    let scenario = load(&set);
    let deployment = Deployment::new(&scenario).expect("it fits");
    let once = |step_by_step| {
        let observer = (Recorder::new(deployment.measure()), Invariants::default());
        let (totals, (recorder, invariants)) = deployment.simulate(1, observer, step_by_step);
        assert_eq!(invariants.finish(), [""; 0]);
        (totals.steps, totals.end, recorder.summary())
    };
    let recorder = || Recorder::new(deployment.measure());
    let (jumped, jumping) = deployment.simulate(1, recorder(), false);
    let summary = jumping.summary();
    assert!(summary.preemptions.get() > 10.0, "{}", summary.preemptions.get());
    assert_eq!((jumped.steps, jumped.end, summary), once(true));
}

#[test]
fn a_comparison_with_the_built_in_one_says_who_gains_and_where_they_part() {
    let few = "workload.num-requests=60".to_owned();
    let (vllm, ours) = (load(&[few.clone(), "engine.name=vllm-0.13".into()]), load(&[few]));
    let (a, b) =
        (Deployment::new(&vllm).expect("it fits"), Deployment::new(&ours).expect("it fits"));
    let plan = Plan {
        judges: Judge::parse(&["ttft_ms.mean".into()], 0.01, false).expect("a metric"),
        split: Some(500),
        step_by_step: false,
        check: true,
    };
    let compared = compare::compare((&a, &b), &plan, &|| {});
    assert_eq!(compared.broken, [""; 0]);
    assert_eq!(compared.verdict, Verdict::Better);
    let of = |class: &str| {
        let mut metrics = compared.metrics.iter().filter(|metric| metric.metric == "ttft_ms.mean");
        metrics.find(|metric| metric.class == class).expect("a class").verdict
    };
    assert_eq!(of("prompt < 500"), Verdict::Better);

    let contest = Contest::new(&a, &b);
    let (Schedules::Part(parting), requests) = contest.follow(1) else { panic!("they differ") };
    let witness = Witness::find(&contest, &requests, &parting).expect("a trace shows it");
    // Two wait, and the shorter is not the first: it takes no more to tell the two apart.
    let prompts: Vec<_> = witness.requests.iter().map(|row| row.input).collect();
    assert!(prompts.len() <= 3 && !prompts.is_sorted(), "{prompts:?}");
}

/// The example's scheduler in the server of built-in engine number `N`.
struct Like<const N: usize>;

impl<const N: usize> CustomEngine for Like<N> {
    const NAME: &'static str = "like";
    const ABOUT: &'static str = "the example in another server";
    const LIKE: EngineName = EngineName::ALL[N];
    type Settings = example::Settings;

    fn scheduler(settings: &Self::Settings, server: &Server) -> Box<dyn Scheduler> {
        assert!(server.kv_blocks > 0 && server.block_size > 0, "{server:?}");
        assert!(server.max_model_len <= 4096 && server.max_num_seqs > 1, "{server:?}");
        example::ShortestPromptFirst::scheduler(settings, server)
    }
}

#[test]
fn an_engine_of_one_s_own_may_be_like_any_built_in_one() {
    fn check<const N: usize>() {
        let flags = [
            "model.name=llama-2-7b",
            "hardware.gpu=a100-80gb",
            "engine.name=like",
            "workload.num-requests=50",
            "workload.poisson.request-rate=5",
            "workload.lengths.dataset=openorca-006",
        ];
        let flags: Vec<_> = flags.iter().map(|flag| Override::set(flag)).collect();
        let registry = Registry::builtin().with::<Like<N>>();
        let scenario = scenario::load_with(&Source::Flags, &flags, &DiskFiles, &registry)
            .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        assert_eq!(scenario.engine.name.base(), EngineName::ALL[N]);
        let deployment = Deployment::new(&scenario).expect("it fits");
        let observer = (Recorder::new(deployment.measure()), Invariants::default());
        let (_, (recorder, invariants)) = deployment.simulate(1, observer, false);
        assert_eq!(invariants.finish(), [""; 0], "{}", EngineName::ALL[N]);
        assert_eq!(recorder.summary().completed.get(), 50.0, "{}", EngineName::ALL[N]);
    }
    assert_eq!(EngineName::ALL.len(), 9, "one call for each");
    check::<0>();
    check::<1>();
    check::<2>();
    check::<3>();
    check::<4>();
    check::<5>();
    check::<6>();
    check::<7>();
    check::<8>();
}

#[test]
fn a_registry_refuses_a_name_that_is_taken() {
    let twice = || Registry::builtin().with::<example::ShortestPromptFirst>();
    let taken = std::panic::catch_unwind(|| twice().with::<example::ShortestPromptFirst>());
    assert!(taken.is_err());
}

#[test]
fn transcripts_are_what_the_program_says() {
    // Built here so that it is there, and not an old one, when only this test runs.
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--example", "shortest_prompt_first"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success());
    let tests = std::env::current_exe().expect("this test has a path");
    let profile = tests.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps");
    let program = profile.join("examples").join("shortest_prompt_first");
    trycmd::TestCases::new()
        .case("tests/own_scheduler/*.md")
        .register_bin("shortest_prompt_first", program.as_path())
        .env("NO_COLOR", "1");
}
