//! Where the time goes, from a single event to a thousand runs. `benches/README.md` says how to read
//! it.

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;

use servesim::deploy::Deployment;
use servesim::engine::event::EventQueue;
use servesim::metrics::Recorder;
use servesim::request::{Request, RequestSpec, RequestTable};
use servesim::scenario::{self, DiskFiles, Override, Scenario, Source};
use servesim::scheduler::{Scheduler, Step, StepOutcome};
use servesim::time::SimTime;

/// A scenario of this folder.
fn scenario(name: &str, sets: &[&str]) -> Scenario {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/scenarios").join(name);
    let text = std::fs::read(&path).expect("a scenario of this folder");
    let overrides: Vec<Override> = sets.iter().map(|set| Override::set(set)).collect();
    scenario::load(&Source::file(path, text), &overrides, &DiskFiles)
        .unwrap_or_else(|error| panic!("{}", error.render(false)))
}

fn simulate(deployment: &Deployment<'_>, seed: u64, step_by_step: bool) -> u64 {
    let recorder = Recorder::new(deployment.measure());
    let (totals, recorder) = deployment.simulate(seed, recorder, step_by_step);
    black_box(recorder.summary());
    totals.steps
}

/// An event in and an event out, with one boundary pending for each replica.
fn event_queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("event queue");
    group.throughput(Throughput::Elements(1));
    for replicas in [1u16, 8, 64] {
        let mut queue = EventQueue::default();
        let mut now = 0;
        for replica in 0..replicas {
            queue.push(SimTime::from_nanos(now), replica);
            now += 7;
        }
        group.bench_function(BenchmarkId::new("replicas", replicas), |b| {
            b.iter(|| {
                let replica = queue.pop().expect("one for each replica");
                // The replicas' steps last differently long.
                now += 5 + u64::from(replica % 5);
                queue.push(SimTime::from_nanos(now), replica);
            });
        });
    }
    group.finish();
}

/// A scheduler whose whole batch decodes.
struct Decoding {
    scheduler: Box<dyn Scheduler>,
    step: Step,
    outcome: StepOutcome,
    in_flight: usize,
    now: u64,
}

impl Decoding {
    fn new(deployment: &Deployment<'_>, batch: u32) -> Self {
        let mut scheduler = deployment.scheduler();
        let mut requests = RequestTable::default();
        for uid in 0..u64::from(batch) {
            let request = Request::new(uid, RequestSpec::fixed(16, 600), SimTime::ZERO);
            scheduler.admit(&request).expect("short enough");
            let id = requests.insert(request);
            scheduler.enqueue(id, requests.get(id));
        }
        let (step, outcome) = (Step::default(), StepOutcome::default());
        let mut this = Self { scheduler, step, outcome, in_flight: 0, now: 0 };
        for _ in 0..300 {
            this.turn();
        }
        assert_eq!(this.step.shape.decode_seqs, batch, "all of them decode");
        this
    }

    /// Fills the pipeline, then ends its oldest step.
    fn turn(&mut self) {
        while self.in_flight < self.scheduler.pipeline_depth() {
            self.step.clear();
            assert!(self.scheduler.schedule(SimTime::from_nanos(self.now), &mut self.step));
            self.in_flight += 1;
        }
        let start = SimTime::from_nanos(self.now);
        self.now += 10_000_000;
        self.outcome.clear();
        self.scheduler.complete(start, SimTime::from_nanos(self.now), &mut self.outcome);
        self.in_flight -= 1;
    }
}

/// One step of each engine's scheduler while everybody decodes, taken one by one.
fn step(c: &mut Criterion) {
    const STEPS: u32 = 100;
    let mut group = c.benchmark_group("step");
    group.throughput(Throughput::Elements(STEPS.into()));
    for engine in ["tgis-2023", "tgi-v3", "vllm-0.2.7", "vllm-0.4.2", "vllm-0.32", "static"] {
        for batch in [8u32, 64, 256] {
            let mut sets = vec![format!("engine.name={engine}")];
            // What the engine would let in by default is less.
            match engine {
                "static" => sets.push(format!("engine.static.batch-size={batch}")),
                "tgis-2023" => {
                    sets.push(format!("engine.tgis.max-batch-size={batch}"));
                    sets.push("engine.tgis.max-concurrent-requests=256".into());
                }
                "tgi-v3" => sets.push("engine.tgi.max-concurrent-requests=256".into()),
                _ => {}
            }
            let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
            let scenario = scenario("w3-plain.toml", &sets);
            let deployment = Deployment::new(&scenario).expect("it fits");
            group.bench_function(BenchmarkId::new(engine, batch), |b| {
                b.iter_batched_ref(
                    || Decoding::new(&deployment, batch),
                    |decoding| (0..STEPS).for_each(|_| decoding.turn()),
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

/// Whole runs without start-up: requests per second of real time.
fn end_to_end(c: &mut Criterion) {
    let mut group = c.benchmark_group("end to end");
    group.sample_size(10);
    let caching = "engine.vllm.enable-prefix-caching=true";
    let runs: [(&str, &str, &[&str], u64, bool); 5] = [
        ("W1", "w1.toml", &[], 10_000, false),
        ("W1 step by step", "w1.toml", &[], 10_000, true),
        ("W1 with prefix caching", "w1.toml", &[caching], 10_000, false),
        ("W2", "w1.toml", &["workload.num-requests=100000"], 100_000, false),
        ("W3", "w3.toml", &[], 5_000, false),
    ];
    for (name, file, sets, requests, step_by_step) in runs {
        let scenario = scenario(file, sets);
        let deployment = Deployment::new(&scenario).expect("it fits");
        group.throughput(Throughput::Elements(requests));
        group.bench_function(name, |b| b.iter(|| simulate(&deployment, 1, step_by_step)));
    }
    group.finish();
}

/// A recorded schedule of a real engine, read, replayed and compared.
fn conformance(c: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut group = c.benchmark_group("conformance");
    for family in ["tgis", "tgi", "vllm-v0", "vllm-v1-0.13", "vllm-v1-0.32"] {
        let Ok(entries) = std::fs::read_dir(folder.join(family)) else { continue };
        let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "json"));
        files.sort();
        let recordings: Vec<Vec<u8>> =
            files.iter().map(|path| std::fs::read(path).expect("readable")).collect();
        group.throughput(Throughput::Elements(recordings.len() as u64));
        group.bench_function(family, |b| {
            b.iter(|| {
                for recording in &recordings {
                    black_box(servesim::conformance::check(recording).expect("a recording"));
                }
            });
        });
    }
    group.finish();
}

/// A thousand runs of the published kind, on all cores.
fn thousand_points(c: &mut Criterion) {
    let source = scenario::embedded(scenario::DEFAULT_SCENARIO).expect("it is embedded");
    let scenarios: Vec<Scenario> = (1..=40)
        .map(|clients| {
            let clients = format!("workload.closed-loop.clients={clients}");
            let scenario = scenario::load(&source, &[Override::set(&clients)], &DiskFiles);
            scenario.unwrap_or_else(|error| panic!("{}", error.render(false)))
        })
        .collect();
    let mut group = c.benchmark_group("sweep");
    group.sample_size(10);
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000 points", |b| {
        b.iter(|| {
            let steps = (0..1000usize).into_par_iter().map(|point| {
                let deployment = Deployment::new(&scenarios[point % 40]).expect("it fits");
                simulate(&deployment, (point / 40) as u64, false)
            });
            steps.sum::<u64>()
        });
    });
    group.finish();
}

criterion_group!(benches, event_queue, step, end_to_end, conformance, thousand_points);
criterion_main!(benches);
