//! A run that jumps and a run that steps agree to the nanosecond.

mod common;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use common::engines::{Engine, engines};
use common::{CurvedCost, Digest};
use servesim::engine::observer::Outcome;
use servesim::engine::router::{RouterPolicy, RouterSettings};
use servesim::engine::{RunOptions, RunTotals, Simulation};
use servesim::time::{SimDuration, SimTime};
use servesim::workload::{
    ArrivalProcess, Arrivals, ClosedLoop, LengthOrder, LengthPair, LengthSource, Mix, OpenLoop,
    Sessions, SharedPrefix, Tenant, Turns, Workload,
};

#[derive(Clone, Debug)]
struct Case {
    engine: Engine,
    replicas: usize,
    router: RouterPolicy,
    pairs: Vec<LengthPair>,
    closed: bool,
    clients: u32,
    rate: f64,
    requests: u64,
    stop_ms: Option<u64>,
    pause_ms: u64,
    seed: u64,
    prefix: Option<SharedPrefix>,
    sessions: Option<Sessions>,
}

fn run(case: &Case, step_by_step: bool) -> (RunTotals, Digest) {
    let clients = if case.closed { case.clients } else { 1 };
    let order = LengthOrder::PerClientShuffle;
    let source = LengthSource::Pairs { pairs: case.pairs.clone().into(), order };
    let tenant = Tenant {
        share: 1.0,
        priority: 0,
        lengths: source,
        prefix: case.prefix,
        sessions: case.sessions,
    };
    let tenants = [tenant.clone(), Tenant { priority: 1, ..tenant }];
    let workload: Box<dyn Workload> = if case.closed {
        let pause = SimDuration::from_millis(case.pause_ms);
        let mix = Mix::of_clients(&tenants, clients, case.seed);
        Box::new(ClosedLoop::new(clients, mix, pause, SimDuration::ZERO, Some(case.requests)))
    } else {
        let process = ArrivalProcess::Poisson { request_rate: case.rate, rescale: false };
        let arrivals = Arrivals::new(&process, Some(case.requests), None, case.seed);
        let mix = Mix::open_loop(&tenants, case.seed);
        Box::new(OpenLoop::new(arrivals, mix, SimDuration::ZERO, Some(case.requests), None))
    };
    let stop_at = case.stop_ms.map(|ms| SimTime::from_nanos(ms * 1_000_000));
    let options = RunOptions { stop_at, step_by_step, ..RunOptions::default() };
    let replicas = (0..case.replicas)
        .map(|_| (case.engine.config.scheduler(), Box::new(CurvedCost) as Box<_>))
        .collect();
    let router = RouterSettings {
        policy: case.router,
        sessions: case.closed || case.sessions.is_some(),
        kv_tokens: vec![3000],
        ..RouterSettings::default()
    };
    let router = router.router(case.seed);
    Simulation::new(replicas, router, workload, Digest::default(), options).run()
}

fn cases() -> impl Strategy<Value = Case> {
    (
        engines(),
        (1usize..4, prop::sample::select(RouterPolicy::ALL)),
        prop::collection::vec((1u32..300, 1u32..120), 1..12),
        prop::bool::ANY,
        1u32..30,
        0.5f64..40.0,
        (1u64..80, prop::option::of(1u64..20_000), 0u64..40, any::<u64>()),
        (prop::option::of((1u32..200, 1u16..3)), prop::option::of((1u32..5, 0u64..200))),
    )
        .prop_map(
            |(engine, (replicas, router), pairs, closed, clients, rate, rest, shared)| {
                let (prefix, sessions) = shared;
                let (requests, stop_ms, pause_ms, seed) = rest;
                let pairs = pairs.into_iter().map(|(input, output)| LengthPair { input, output });
                Case {
                    engine,
                    replicas,
                    router,
                    pairs: pairs.collect(),
                    closed,
                    clients,
                    rate,
                    requests,
                    stop_ms,
                    pause_ms,
                    seed,
                    prefix: prefix.map(|(tokens, count)| SharedPrefix { tokens, count }),
                    sessions: sessions.map(|(turns, think)| Sessions {
                        turns: Turns::Fixed(turns),
                        think_time: SimDuration::from_millis(think),
                        exponential: think % 2 == 0,
                    }),
                }
            },
        )
}

/// `cases` random runs, different ones each time, or as many as PROPTEST_CASES says: a release build
/// takes tens of thousands in a minute.
fn config(cases: u32) -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn jumping_and_stepping_give_the_same_run(case in cases()) {
        let (stepped_totals, stepped) = run(&case, true);
        let (jumped_totals, jumped) = run(&case, false);
        prop_assert_eq!(&stepped.records, &jumped.records);
        prop_assert_eq!(stepped, jumped);
        prop_assert_eq!(stepped_totals, jumped_totals);
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn every_request_ends_once_with_its_tokens(case in cases()) {
        let (totals, digest) = run(&case, false);
        let mut uids: Vec<u64> = digest.records.iter().map(|r| r.uid).collect();
        uids.sort_unstable();
        prop_assert_eq!(uids, (0..totals.requests).collect::<Vec<_>>());
        let delivered: u64 = digest.records.iter().map(|r| u64::from(r.output_tokens)).sum();
        prop_assert_eq!(delivered, digest.tokens, "tokens are conserved");
        let gaps: u64 = digest.gaps.values().sum();
        let first = digest.records.iter().filter(|r| r.first_token.is_some()).count() as u64;
        prop_assert_eq!(gaps + first, digest.tokens, "each token is a first one or has a gap");
        if digest.records.iter().all(|r| r.outcome.is_success() || r.first_token.is_none()) {
            let waited: u64 = digest.gaps.iter().map(|(gap, n)| gap.as_nanos() * n).sum();
            let spans = digest.records.iter().filter_map(|r| Some(r.ended.since(r.first_token?)));
            prop_assert_eq!(waited, spans.map(|s| s.as_nanos()).sum::<u64>(), "gaps add up");
        }
        for record in &digest.records {
            let in_order = [record.first_scheduled, record.first_token, Some(record.ended)];
            prop_assert!(in_order.iter().flatten().is_sorted(), "{record:?}");
            prop_assert!(record.arrival <= record.ended);
            if case.stop_ms.is_none() {
                prop_assert!(record.outcome != Outcome::Unfinished, "nobody starves: {record:?}");
            }
        }
    }
}
