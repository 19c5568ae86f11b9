//! Several replicas behind a router: what holds for whole scenarios.

use std::collections::BTreeMap;

use servesim::deploy::Deployment;
use servesim::engine::observer::{Observer, RequestRecord};
use servesim::engine::router::RouterPolicy;
use servesim::metrics::{Recorder, Summary};
use servesim::scenario::{self, DiskFiles, Override, Scenario};

#[derive(Default)]
struct Records(Vec<RequestRecord>);

impl Observer for Records {
    fn on_request(&mut self, record: &RequestRecord) {
        self.0.push(*record);
    }
}

fn load(name: &str, settings: &[&str]) -> Scenario {
    let source = scenario::embedded(name).expect("a name of the list");
    let settings: Vec<Override> = settings.iter().map(|set| Override::set(set)).collect();
    scenario::load(&source, &settings, &DiskFiles).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn run(name: &str, settings: &[&str]) -> (Summary, Vec<RequestRecord>) {
    let scenario = load(name, settings);
    let deployment = Deployment::new(&scenario).expect("it fits");
    let observer = (Recorder::new(deployment.measure()), Records::default());
    let (totals, (recorder, Records(mut records))) =
        deployment.simulate(scenario.workload.seed, observer, false);
    records.sort_by_key(|record| record.uid);
    assert!(
        records.iter().map(|record| record.uid).eq(0..totals.requests),
        "every request ends exactly once"
    );
    (recorder.summary(), records)
}

const SHARED: &str = "examples/prefix-aware-fleet";

#[test]
fn a_router_that_knows_the_prefixes_finds_more_of_them_cached() {
    let shared = |router: RouterPolicy| {
        let router = format!("fleet.router={router}");
        // Replicas hold about two of the sixty-four beginnings.
        let settings = ["workload.num-requests=300", "workload.shared-prefix.count=64", &router];
        run(SHARED, &settings).0
    };
    let aware = shared(RouterPolicy::PrefixAware);
    let turns = shared(RouterPolicy::RoundRobin);
    let cached = |summary: &Summary| summary.cached_input_tokens.get();
    assert!(cached(&aware) > 1.5 * cached(&turns), "{} {}", cached(&aware), cached(&turns));
    assert!(aware.ttft_ms.mean < turns.ttft_ms.mean);
}

#[test]
fn a_session_stays_with_its_replica_and_its_history_with_it() {
    let sessions = |router: &str| {
        let settings =
            ["workload.num-requests=300", "fleet.machines=4", &format!("fleet.router={router}")];
        run("examples/chat-sessions", &settings)
    };
    let (sticky, records) = sessions("session-sticky");
    let mut homes: BTreeMap<u32, u16> = BTreeMap::new();
    for record in &records {
        let home = *homes.entry(record.client).or_insert(record.replica);
        assert_eq!(record.replica, home, "conversation {} moved", record.client);
    }
    let (turns, _) = sessions("round-robin");
    assert!(sticky.cached_input_tokens.get() > turns.cached_input_tokens.get());
}

#[test]
fn the_rows_of_the_replicas_add_up_to_the_run() {
    for &policy in RouterPolicy::ALL {
        let settings = ["workload.num-requests=200", &format!("fleet.router={policy}")];
        let (summary, records) = run(SHARED, &settings);
        assert_eq!(summary.replicas.len(), 4, "{policy}");
        let sum = |of: fn(&servesim::metrics::ReplicaSummary) -> f64| -> f64 {
            summary.replicas.iter().map(of).sum()
        };
        assert_eq!(sum(|r| r.requests.get()), records.len() as f64, "{policy}");
        assert_eq!(sum(|r| r.completed.get()), summary.completed.get(), "{policy}");
        assert_eq!(sum(|r| r.output_tokens.get()), summary.generated_tokens.get(), "{policy}");
        let busy = sum(|r| r.busy_s);
        assert!((busy - summary.time.busy_s).abs() < 1e-6, "{policy}: {busy}");
        for (number, row) in summary.replicas.iter().enumerate() {
            let there = records.iter().filter(|r| usize::from(r.replica) == number).count();
            assert_eq!(row.requests.get(), there as f64, "{policy}");
            assert!(row.utilization > 0.0 && row.utilization <= 1.0, "{policy}: {row:?}");
        }
    }
}

#[test]
fn machines_are_paid_for_one_by_one() {
    let usd = |machines: &str| {
        let settings = ["workload.num-requests=50", machines];
        let (summary, _) = run(SHARED, &settings);
        summary.usd_per_1m_output_tokens.expect("a price") * summary.output_throughput
    };
    let (one, four) = (usd("fleet.machines=1"), usd("fleet.machines=4"));
    assert!((four / one - 4.0).abs() < 1e-9, "{one} {four}");
}
