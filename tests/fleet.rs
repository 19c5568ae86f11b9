//! Several replicas behind a router: what holds for whole scenarios.

mod common;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use common::engines::{Engine, engines};
use common::{CurvedCost, Digest};
use servesim::deploy::Deployment;
use servesim::engine::fleet::autoscaling::{Autoscaling, ScalingMetric};
use servesim::engine::fleet::rules::{
    Admission, FleetRules, LostRequests, Outage, Patience, PoolRules, RandomFailures,
};
use servesim::engine::invariants::Invariants;
use servesim::engine::observer::{NO_REPLICA, Observer, Outcome, RequestRecord};
use servesim::engine::router::{RouterPolicy, RouterSettings};
use servesim::engine::{RunOptions, RunTotals, Simulation};
use servesim::metrics::{PoolSummary, Recorder, Summary};
use servesim::request::FinishReason;
use servesim::scenario::{self, DiskFiles, Override, Scenario};
use servesim::time::{SimDuration, SimTime};
use servesim::workload::{
    ArrivalProcess, Arrivals, ClosedLoop, LengthOrder, LengthPair, LengthSource, Mix, OpenLoop,
    Tenant, Workload,
};

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
    let observer = (
        Recorder::new(deployment.measure()).with_tenants(deployment.tenants()),
        Records::default(),
    );
    let run = deployment.simulate_noting(scenario.workload.seed, observer, false);
    let (totals, (recorder, Records(mut records))) = (run.totals, run.observer);
    records.sort_by_key(|record| record.uid);
    assert!(
        records.iter().map(|record| record.uid).eq(0..totals.requests),
        "every request ends exactly once"
    );
    (run.priced.summary(recorder), records)
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
        assert_eq!(sum(|r| r.served.requests.get()), records.len() as f64, "{policy}");
        assert_eq!(sum(|r| r.served.completed.get()), summary.completed.get(), "{policy}");
        assert_eq!(
            sum(|r| r.served.output_tokens.get()),
            summary.generated_tokens.get(),
            "{policy}"
        );
        let busy = sum(|r| r.served.busy_s);
        assert!((busy - summary.time.busy_s).abs() < 1e-6, "{policy}: {busy}");
        for (number, row) in summary.replicas.iter().enumerate() {
            let there = records.iter().filter(|r| usize::from(r.replica) == number).count();
            assert_eq!(row.served.requests.get(), there as f64, "{policy}");
            assert!(
                row.served.utilization > 0.0 && row.served.utilization <= 1.0,
                "{policy}: {row:?}"
            );
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

#[test]
fn a_time_out_frees_the_server_and_is_an_outcome() {
    // Far more than one machine serves.
    let load =
        ["workload.num-requests=200", "fleet.machines=1", "workload.poisson.request-rate=40"];
    let patient = run(SHARED, &load).0;
    let (summary, records) = run(SHARED, &[&load[..], &["workload.patience.timeout=20s"]].concat());
    let gone = summary.failed_by_reason["timed-out"].get();
    assert!(gone > 10.0 && summary.completed.get() + gone == 200.0, "{gone}");
    assert!(summary.duration_s < 0.9 * patient.duration_s, "those who have gone are not served");
    let limit = SimDuration::from_secs(20);
    for record in &records {
        let waited = record.ended.since(record.arrival);
        assert!(waited <= limit, "{record:?}");
        let at_limit = record.outcome == Outcome::Ended(FinishReason::TimedOut);
        assert_eq!(at_limit, waited == limit, "{record:?}");
    }
}

#[test]
fn who_tries_again_is_answered_later_and_counted_once() {
    let limited = [
        "workload.num-requests=300",
        "workload.poisson.request-rate=40",
        "fleet.admission.max-outstanding=8",
    ];
    let turned_away = run(SHARED, &limited).0;
    let rejected = turned_away.failed_by_reason["rejected"].get();
    assert!(rejected > 50.0, "{rejected}");
    let again = ["workload.patience.retries=9", "workload.patience.retry-delay=1s"];
    let (summary, records) = run(SHARED, &[&limited[..], &again].concat());
    assert!(summary.completed.get() > turned_away.completed.get() + 50.0);
    let retries: u32 = records.iter().map(|record| record.retries).sum();
    assert_eq!(summary.fleet.expect("a fleet").retries.get(), f64::from(retries));
    assert!(records.iter().all(|record| record.retries <= 9));
    let tried = records.iter().filter(|record| record.retries > 0 && record.outcome.is_success());
    assert!(tried.into_iter().all(|record| record.ttft() >= Some(SimDuration::from_millis(750))));
}

const OUTAGE: [&str; 3] = [
    "fleet.outages.first.replica=1",
    "fleet.outages.first.at=20s",
    "fleet.outages.first.duration=30s",
];

#[test]
fn a_failure_loses_what_was_there_or_sends_it_elsewhere_and_nothing_else() {
    let base = ["workload.num-requests=500"];
    let at = |seconds| SimTime::ZERO + SimDuration::from_secs(seconds);
    let (lost, records) = run(SHARED, &[&base[..], &OUTAGE].concat());
    let failed = lost.failed_by_reason["replica-failed"].get();
    assert!(failed > 0.0 && lost.completed.get() + failed == 500.0, "{failed}");
    for record in &records {
        let hit = record.outcome == Outcome::Ended(FinishReason::ReplicaFailed);
        assert_eq!(hit, record.replica == 1 && record.ended == at(20), "{record:?}");
        let there = record.replica == 1 && record.arrival > at(20) && record.arrival < at(50);
        assert!(!there, "nobody is sent to a replica that is down: {record:?}");
    }
    assert!(records.iter().any(|r| r.replica == 1 && r.arrival >= at(50)), "it comes back");
    assert_eq!(lost.replicas[1].served.failures.get(), 1.0);
    assert!((lost.replicas[0].served.up_s - lost.replicas[1].served.up_s - 30.0).abs() < 1e-6);

    let retried = [&base[..], &OUTAGE, &["fleet.lost-requests=retry"]].concat();
    let (retried, records) = run(SHARED, &retried);
    assert_eq!(retried.completed.get(), 500.0);
    let moved: u32 = records.iter().map(|record| record.retries).sum();
    assert_eq!(f64::from(moved), failed, "the same requests, once each");
    assert!(records.iter().all(|record| record.retries == 0 || record.replica != 1));
}

#[test]
fn a_machine_goes_down_with_all_replicas_on_it() {
    let at = |seconds| SimTime::ZERO + SimDuration::from_secs(seconds);
    let shared = [
        "workload.num-requests=400",
        "fleet.machines=2",
        "hardware.instance=g5.12xlarge",
        "engine.replicas=2",
        "fleet.outages.first.at=20s",
        "fleet.outages.first.duration=30s",
    ];
    let by_machine = [&shared[..], &["fleet.outages.first.machine=1"]].concat();
    let (summary, records) = run(SHARED, &by_machine);
    let failures = |summary: &Summary| -> Vec<f64> {
        summary.replicas.iter().map(|replica| replica.served.failures.get()).collect()
    };
    assert_eq!(failures(&summary), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(summary.fleet.as_ref().map(|fleet| fleet.failures.get()), Some(1.0));
    for replica in [2, 3] {
        let lost = records.iter().filter(|r| r.replica == replica && r.ended == at(20));
        let mut lost = lost.map(|record| record.outcome).peekable();
        assert!(lost.peek().is_some(), "{replica} had nothing to lose");
        assert!(lost.all(|outcome| outcome == Outcome::Ended(FinishReason::ReplicaFailed)));
        let meanwhile = |r: &&RequestRecord| r.arrival > at(20) && r.arrival < at(50);
        assert!(records.iter().filter(meanwhile).all(|record| record.replica != replica));
        assert!(records.iter().any(|r| r.replica == replica && r.arrival >= at(50)));
    }
    // Whichever of its replicas names it, the machine is the same.
    let by_replica = [&shared[..], &["fleet.outages.first.replica=2"]].concat();
    assert_eq!(run(SHARED, &by_replica).1, records);

    let random = [
        &shared[..4],
        &["fleet.failures.mtbf=20s", "fleet.failures.mttr=5s", "workload.patience.retries=9"],
    ];
    let (summary, _) = run(SHARED, &random.concat());
    let rows = failures(&summary);
    assert_eq!((rows[0], rows[2]), (rows[1], rows[3]));
    let counted = summary.fleet.expect("a fleet").failures.get();
    assert!(counted > 1.0 && counted == rows[0] + rows[2], "{counted} of {rows:?}");
}

#[test]
fn with_nobody_left_requests_are_unavailable() {
    let settings = [&["workload.num-requests=400", "fleet.machines=1"][..], &OUTAGE].concat();
    let settings: Vec<&str> = settings
        .iter()
        .map(|set| if set.ends_with("replica=1") { "fleet.outages.first.replica=0" } else { set })
        .collect();
    let (summary, _) = run(SHARED, &settings);
    assert!(summary.failed_by_reason["unavailable"].get() > 100.0);
}

#[test]
fn random_failures_repeat_by_seed() {
    let failing = |seed: &str| {
        let settings = [
            "workload.num-requests=400",
            "fleet.failures.mtbf=30s",
            "fleet.failures.mttr=10s",
            "workload.patience.retries=3",
            seed,
        ];
        let (summary, records) = run(SHARED, &settings);
        (summary.fleet.expect("a fleet").failures.get(), records)
    };
    let (failures, records) = failing("workload.seed=1");
    assert!(failures >= 3.0, "{failures}");
    assert_eq!(records, failing("workload.seed=1").1);
    assert_ne!(records, failing("workload.seed=2").1);
}

#[test]
fn machines_follow_the_load_and_only_those_there_are_paid_for() {
    let (summary, records) = run("examples/autoscaled-day", &["workload.duration=20min"]);
    let fleet = summary.fleet.expect("a fleet");
    assert!(fleet.most_machines.get() >= 3.0, "{fleet:?}");
    assert!(fleet.machines < fleet.most_machines.get() && fleet.machines > 1.0, "{fleet:?}");
    assert_eq!(summary.completed.get(), records.len() as f64, "nobody is lost in scaling");
    let usd = fleet.machine_hours * 1.212;
    assert!((fleet.usd.expect("a price") - usd).abs() < 1e-9, "{usd}");
    let per_hour =
        summary.usd_per_1m_output_tokens.expect("a price") * summary.output_throughput * 3600.0
            / 1e6;
    assert!((per_hour / (fleet.machines * 1.212) - 1.0).abs() < 1e-9, "{per_hour}");
}

#[test]
fn each_tenant_is_held_to_its_own_targets() {
    let settings = [
        "workload.num-requests=200",
        "workload.tenants.interactive.slo={ ttft = \"1ms\" }",
        "workload.tenants.batch.slo={ ttft = \"1h\" }",
    ];
    let (summary, records) = run("examples/tenants-with-priorities", &settings);
    let slo = |name: &str| summary.tenants[name].slo.clone().expect("it has targets");
    assert!(!slo("interactive").met && slo("batch").met);
    assert_eq!((slo("interactive").attainment, slo("batch").attainment), (Some(0.0), Some(1.0)));
    let counted: f64 = summary.tenants.values().map(|tenant| tenant.completed.get()).sum();
    assert_eq!(counted, records.len() as f64);
}

const TWO_KINDS: &str = "what-if/two-kinds-of-machines";
const TWO_MODELS: &str = "what-if/two-models";

#[test]
fn pools_add_up_to_the_run_and_each_is_paid_for_at_its_own_price() {
    for (name, more) in [
        (TWO_KINDS, &["workload.num-requests=200"][..]),
        (TWO_MODELS, &["workload.num-requests=200"]),
        (
            TWO_KINDS,
            &["workload.num-requests=200", "fleet.failures={ mtbf = \"20s\", mttr = \"5s\" }"],
        ),
    ] {
        let (summary, records) = run(name, more);
        let fleet = summary.fleet.clone().expect("a fleet");
        let sum = |of: fn(&PoolSummary) -> f64| summary.pools.values().map(of).sum::<f64>();
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(1.0);
        let taken = records.iter().filter(|record| record.replica != NO_REPLICA).count();
        assert_eq!(sum(|pool| pool.served.requests.get()), taken as f64, "{name}");
        assert_eq!(
            sum(|pool| pool.served.output_tokens.get()),
            summary.generated_tokens.get(),
            "{name}"
        );
        assert!(near(sum(|pool| pool.served.busy_s), summary.time.busy_s), "{name}");
        assert!(near(sum(|pool| pool.machine_hours), fleet.machine_hours), "{name}");
        assert!(near(sum(|pool| pool.usd.unwrap()), fleet.usd.unwrap()), "{name}");
        assert_eq!(sum(|pool| pool.served.failures.get()), fleet.failures.get(), "{name}");
        // Dollars per hour of the mean machines; per token of what was generated in that time.
        let hours = fleet.machine_hours / fleet.machines;
        let usd_per_hour = summary.usd_per_hour.unwrap();
        assert!(near(usd_per_hour * hours, fleet.usd.unwrap()), "{name}: {usd_per_hour}");
        let per_million = summary.usd_per_1m_output_tokens.unwrap();
        assert!(near(per_million * summary.output_throughput * 0.0036, usd_per_hour), "{name}");
        for (pool, row) in &summary.pools {
            let price = if row.instance.starts_with("g6") { 0.97 } else { 1.2 };
            let per_machine = row.usd.unwrap() / row.machine_hours;
            assert!(per_machine >= price && per_machine < 6.0, "{pool}: {per_machine}");
            let of_pool = summary.replicas.iter().filter(|r| r.pool.as_ref() == Some(pool));
            let requests: f64 = of_pool.map(|replica| replica.served.requests.get()).sum();
            assert_eq!(requests, row.served.requests.get(), "{pool}");
            let shares: f64 = row.trust_shares.values().sum();
            assert!(row.served.busy_s == 0.0 || near(shares, 1.0), "{pool}: {shares}");
        }
    }
}

#[test]
fn a_tenant_is_served_by_the_pools_that_have_its_model() {
    let settings = ["workload.num-requests=300", "fleet.lost-requests=fail"];
    let scenario = load(TWO_MODELS, &settings);
    let serving = scenario.fleet_rules(1).expect("pools").serving;
    let kinds = scenario.kinds();
    let ends: Vec<u16> = kinds
        .iter()
        .scan(0, |end, kind| {
            *end += kind.rules.replicas();
            Some(*end)
        })
        .collect();
    let (summary, records) = run(TWO_MODELS, &settings);
    let mut seen = vec![0; kinds.len()];
    for record in records.iter().filter(|record| record.replica != NO_REPLICA) {
        let pool = ends.iter().position(|&end| record.replica < end).expect("a replica");
        assert!(serving[usize::from(record.tenant)].contains(&(pool as u16)), "{record:?}");
        seen[pool] += 1;
    }
    assert!(seen.iter().all(|&n| n > 20), "{seen:?}");
    assert!(summary.failed_by_reason["replica-failed"].get() > 0.0);
    // One model is down altogether, and the other does not notice.
    let down = [&settings[..], &["fleet.pools.large.machines=1", "fleet.outages.crash.machine=0"]];
    let (summary, records) = run(TWO_MODELS, &down.concat());
    let unavailable = summary.failed_by_reason["unavailable"].get();
    assert!(unavailable > 5.0, "{unavailable}");
    let turned_away = records.iter().filter(|record| record.replica == NO_REPLICA);
    let mut turned_away = turned_away.map(|record| &serving[usize::from(record.tenant)]);
    assert!(turned_away.all(|pools| *pools == [0]), "only those who ask for the large model");
}

#[test]
fn each_pool_steps_at_its_own_pace_and_weights_move_requests() {
    let share = |weight: &str, router: &str| {
        let weight = format!("fleet.pools.l4.weight={weight}");
        let router = format!("fleet.router={router}");
        let (summary, _) = run(TWO_KINDS, &["workload.num-requests=300", &weight, &router]);
        summary.pools["l4"].served.requests.get() / 300.0
    };
    assert_eq!((share("1.0", "round-robin"), share("0.5", "round-robin")), (0.5, 1.0 / 3.0));
    assert!(share("0.25", "least-outstanding") < share("1.0", "least-outstanding") - 0.1);
    let (_, records) = run(TWO_KINDS, &["workload.num-requests=300"]);
    let pace = |replicas: std::ops::Range<u16>| {
        let of = records.iter().filter(|r| replicas.contains(&r.replica) && r.output_tokens > 20);
        let gaps = of.filter_map(|r| {
            let first = r.first_token?;
            Some(r.ended.since(first).as_secs_f64() / f64::from(r.output_tokens - 1))
        });
        gaps.fold(f64::INFINITY, f64::min)
    };
    let (a10g, l4) = (pace(0..2), pace(2..4));
    assert!(l4 > 1.5 * a10g, "an L4 has half the bandwidth: {a10g} {l4}");
}

#[test]
fn a_pool_that_does_not_fit_is_named() {
    let scenario = load(TWO_MODELS, &["fleet.pools.large.engine.tensor-parallel-size=1"]);
    let error = Deployment::new(&scenario).expect_err("64 GB on one A10G").to_string();
    assert!(error.starts_with("pool large: vllm-0.32 does not start"), "{error}");
}

/// Everything around the replicas at once, on every engine.
#[derive(Clone, Debug)]
struct Case {
    engine: Engine,
    rules: FleetRules,
    router: RouterPolicy,
    pairs: Vec<LengthPair>,
    clients: Option<u32>,
    rate: f64,
    requests: u64,
    stop_ms: Option<u64>,
    seed: u64,
}

impl Case {
    fn pool_of(&self, replica: u16) -> u16 {
        let mut ends = self.rules.pools.iter().scan(0, |end, pool| {
            *end += pool.replicas();
            Some(*end)
        });
        ends.position(|end| replica < end).expect("a replica of the fleet") as u16
    }
}

fn ms(ms: u64) -> SimDuration {
    SimDuration::from_millis(ms)
}

fn pool() -> impl Strategy<Value = PoolRules> {
    (
        (1u16..4, 1u16..3, 0u16..3),
        prop::sample::select(vec![1.0, 1.0, 0.5, 3.0]),
        prop::option::of((200u64..20_000, 1u64..5000)),
        prop::option::of((prop::sample::select(ScalingMetric::ALL), 1u64..3000, 0u64..5000)),
    )
        .prop_map(|((machines, replicas_per_machine, more), weight, failures, scaling)| {
            let autoscaling = scaling.map(|(metric, interval, delay)| Autoscaling {
                metric,
                target: if metric == ScalingMetric::Kv { 0.3 } else { 2.5 },
                min_machines: 1,
                max_machines: machines + more,
                interval: ms(interval),
                start_up_delay: ms(delay),
                scale_down_delay: ms(2 * delay),
            });
            PoolRules {
                most_machines: machines + more,
                replicas_per_machine,
                weight,
                failures: failures
                    .map(|(mtbf, mttr)| RandomFailures { mtbf: ms(mtbf), mttr: ms(mttr) }),
                autoscaling,
                ..PoolRules::of(machines)
            }
        })
}

fn rules() -> impl Strategy<Value = FleetRules> {
    let optional = |range: std::ops::Range<u32>| prop::option::of(range);
    (
        (prop::collection::vec(pool(), 1..4), prop::collection::vec(any::<u8>(), 2)),
        (optional(1..20), optional(1..6)),
        prop::option::of((prop::option::of(1u64..8000), 0u32..4, 1u64..2000)),
        prop::sample::select(LostRequests::ALL),
        prop::collection::vec((0u16..9, 0u64..8000, 1u64..5000), 0..4),
        any::<u64>(),
    )
        .prop_map(|((pools, serving), limits, patience, lost_requests, outages, seed)| {
            let machines: u16 = pools.iter().map(|pool| pool.most_machines).sum();
            let outage = |(machine, at, duration): (u16, u64, u64)| Outage {
                machine: machine % machines,
                at: ms(at),
                duration: ms(duration),
            };
            // Each tenant's pools are a subset that is not empty.
            let subset = |bits: u8| -> Vec<u16> {
                let pools = 0..pools.len() as u16;
                let some: Vec<u16> = pools.clone().filter(|pool| bits >> pool & 1 == 1).collect();
                if some.is_empty() { pools.collect() } else { some }
            };
            FleetRules {
                serving: serving.into_iter().map(subset).collect(),
                admission: Admission { max_outstanding: limits.0, max_waiting: limits.1 },
                patience: Vec::new(),
                patience_of_all: patience.map(|(timeout, retries, delay)| Patience {
                    timeout: timeout.map(ms),
                    retries,
                    retry_delay: ms(delay),
                }),
                lost_requests,
                outages: outages.into_iter().map(outage).collect(),
                seed,
                pools,
            }
        })
}

fn cases() -> impl Strategy<Value = Case> {
    (
        engines(),
        rules(),
        prop::sample::select(RouterPolicy::ALL),
        prop::collection::vec((1u32..300, 1u32..120), 1..12),
        prop::option::of(1u32..30),
        0.5f64..40.0,
        (1u64..80, prop::option::of(1u64..20_000), any::<u64>()),
    )
        .prop_map(|(engine, rules, router, pairs, clients, rate, rest)| {
            let (requests, stop_ms, seed) = rest;
            let pairs = pairs.into_iter().map(|(input, output)| LengthPair { input, output });
            let pairs = pairs.collect();
            Case { engine, rules, router, pairs, clients, rate, requests, stop_ms, seed }
        })
}

fn run_case(case: &Case, step_by_step: bool) -> (RunTotals, (Digest, Invariants)) {
    let order = LengthOrder::Shuffle;
    let lengths = LengthSource::Pairs { pairs: case.pairs.clone().into(), order };
    let tenant = Tenant { share: 1.0, priority: 0, lengths, prefix: None, sessions: None };
    let tenants = [tenant.clone(), Tenant { share: 0.5, ..tenant }];
    let requests = Some(case.requests);
    let workload: Box<dyn Workload> = match case.clients {
        Some(clients) => {
            let mix = Mix::of_clients(&tenants, clients, case.seed);
            Box::new(ClosedLoop::new(clients, mix, ms(3), ms(1), requests))
        }
        None => {
            let process = ArrivalProcess::Poisson { request_rate: case.rate, rescale: false };
            let arrivals = Arrivals::new(&process, requests, None, case.seed);
            let mix = Mix::open_loop(&tenants, case.seed);
            Box::new(OpenLoop::new(arrivals, mix, ms(0), requests, None))
        }
    };
    let stop_at = case.stop_ms.map(|stop| SimTime::ZERO + ms(stop));
    let options = RunOptions { stop_at, step_by_step, ..RunOptions::default() };
    let replicas = (0..case.rules.replicas())
        .map(|_| (case.engine.config.scheduler(), Box::new(CurvedCost) as Box<_>))
        .collect();
    let settings = RouterSettings {
        policy: case.router,
        sessions: case.clients.is_some(),
        kv_tokens: vec![3000],
        ..RouterSettings::default()
    };
    let observer = (Digest::default(), Invariants::default());
    // The checks want every step; the run that jumps does without them.
    let config = case.engine.config.clone();
    let new_scheduler = Box::new(move |_| config.scheduler());
    let router = settings.router(case.seed);
    if step_by_step {
        let simulation = Simulation::new(replicas, router, workload, observer, options);
        simulation.with_fleet(case.rules.clone(), new_scheduler).run()
    } else {
        let simulation = Simulation::new(replicas, router, workload, observer.0, options);
        let (totals, digest) = simulation.with_fleet(case.rules.clone(), new_scheduler).run();
        (totals, (digest, observer.1))
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_fails_every_request_ends_once_and_the_jump_changes_nothing(case in cases()) {
        let (stepped_totals, (stepped, checks)) = run_case(&case, true);
        prop_assert_eq!(checks.finish(), [""; 0]);
        let (jumped_totals, (jumped, _)) = run_case(&case, false);
        prop_assert_eq!(&stepped.records, &jumped.records);
        prop_assert_eq!(stepped_totals, jumped_totals);
        prop_assert_eq!(&stepped, &jumped);

        let mut uids: Vec<u64> = jumped.records.iter().map(|r| r.uid).collect();
        uids.sort_unstable();
        prop_assert_eq!(uids, (0..jumped_totals.requests).collect::<Vec<_>>());
        let delivered = jumped.records.iter().chain(&jumped.lost);
        let delivered: u64 = delivered.map(|r| u64::from(r.output_tokens)).sum();
        prop_assert_eq!(delivered, jumped.tokens, "tokens are got or lost");
        for record in &jumped.records {
            prop_assert!(record.arrival <= record.ended);
            if record.replica != NO_REPLICA {
                let pool = case.pool_of(record.replica);
                let serving = &case.rules.serving[usize::from(record.tenant)];
                prop_assert!(serving.contains(&pool), "{record:?} by pool {pool}");
            }
            if case.stop_ms.is_none() {
                prop_assert!(record.outcome != Outcome::Unfinished, "{record:?}");
            }
        }
    }
}
