//! A run that jumps and a run that steps agree to the nanosecond.

mod common;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use common::{CurvedCost, Digest};
use servesim::engine::observer::Outcome;
use servesim::engine::router::LeastOutstanding;
use servesim::engine::{RunOptions, RunTotals, Simulation};
use servesim::scheduler::Scheduler;
use servesim::scheduler::static_batch::{StaticBatch, StaticConfig};
use servesim::scheduler::tgi::{ShardLayout, Tgi, TgiConfig, TgiRules};
use servesim::scheduler::tgis::{BatchType, ShardMemory, Tgis, TgisConfig, WeightRules};
use servesim::scheduler::vllm_v0::{VllmV0, VllmV0Config, VllmV0Rules};
use servesim::scheduler::vllm_v1::{Policy, VllmV1, VllmV1Config, VllmV1Rules};
use servesim::time::{SimDuration, SimTime};
use servesim::workload::{
    ArrivalProcess, Arrivals, ClosedLoop, LengthOrder, LengthPair, LengthSource, Mix, OpenLoop,
    Sessions, SharedPrefix, Tenant, Turns, Workload,
};

#[derive(Clone, Debug)]
struct Case {
    scheduler: SchedulerCase,
    replicas: usize,
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

#[derive(Clone, Debug)]
enum SchedulerCase {
    Tgis(TgisConfig),
    Tgi(TgiConfig),
    Static(StaticConfig),
    VllmV0(VllmV0Config),
    VllmV1(VllmV1Config),
}

impl SchedulerCase {
    fn build(&self) -> Box<dyn Scheduler> {
        match self {
            Self::Tgis(config) => Box::new(Tgis::new(config.clone())),
            Self::Tgi(config) => Box::new(Tgi::new(config.clone())),
            Self::Static(config) => Box::new(StaticBatch::new(config.clone())),
            Self::VllmV0(config) => Box::new(VllmV0::new(config.clone())),
            Self::VllmV1(config) => Box::new(VllmV1::new(config.clone())),
        }
    }
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
        .map(|_| (case.scheduler.build(), Box::new(CurvedCost) as Box<_>))
        .collect();
    let router = Box::new(LeastOutstanding);
    Simulation::new(replicas, router, workload, Digest::default(), options).run()
}

/// TGIS settings under which the real router starts.
fn tgis() -> impl Strategy<Value = SchedulerCase> {
    (
        prop_oneof![Just(BatchType::Flash), Just(BatchType::Padded)],
        1u32..24,
        0u32..30,
        600u64..6000,
        prop::bool::ANY,
        prop::option::of(800u64..3000),
    )
        .prop_map(|(batch_type, seats, patience, weight, newer, memory)| {
            let square = if batch_type == BatchType::Padded { 500 } else { 1 };
            let rules = if newer {
                WeightRules::Tgis2024 {
                    weight_limit: weight * square * 1000,
                    prefill_linear: 1200.0,
                    prefill_quadratic: [300.0, 0.7],
                    nexttoken: [900.0, 1000.0],
                    max_prefill_padding: 0.3,
                }
            } else {
                WeightRules::Tgis2023 {
                    max_batch_weight: weight * square,
                    max_prefill_weight: weight,
                }
            };
            SchedulerCase::Tgis(TgisConfig {
                batch_type,
                rules,
                max_batch_size: seats,
                max_waiting_tokens: patience,
                max_sequence_length: 500,
                max_new_tokens: 400,
                max_concurrent_requests: 40,
                memory: ShardMemory { prefill_tokens: memory, decode_tokens: memory },
            })
        })
        .prop_filter("the router starts", |case| match case {
            SchedulerCase::Tgis(config) => config.check().is_ok(),
            _ => true,
        })
}

/// TGI settings of both back-ends; the KV cache holds at least one longest request.
fn tgi() -> impl Strategy<Value = SchedulerCase> {
    (
        (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY, prop::bool::weighted(0.2)),
        prop_oneof![Just(1u32), Just(16)],
        (64u32..800, 600u32..6000),
        prop_oneof![Just(0.0f32), Just(0.3), Just(1.2)],
        0u32..30,
        prop::option::of(1u32..24),
    )
        .prop_map(|(switches, block_size, (prefill, total), ratio, patience, seats)| {
            let (newer, chunking, prefix_caching, padded) = switches;
            let prefill_chunking = newer && chunking && !padded;
            SchedulerCase::Tgi(TgiConfig {
                rules: if newer {
                    TgiRules::V3 { prefill_chunking, prefix_caching }
                } else {
                    TgiRules::V2
                },
                block_size,
                max_batch_prefill_tokens: prefill.max(if prefill_chunking { 64 } else { 300 }),
                max_batch_total_tokens: total,
                waiting_served_ratio: ratio,
                max_waiting_tokens: patience,
                max_batch_size: seats,
                requires_padding: padded,
                shard: if padded { ShardLayout::Padded } else { ShardLayout::Paged },
                speculate: 0,
                max_input_tokens: 300,
                max_total_tokens: 500,
                max_concurrent_requests: 40,
            })
        })
}

fn static_batch() -> impl Strategy<Value = SchedulerCase> {
    (1u32..16, 500u64..6000).prop_map(|(batch_size, kv_tokens)| {
        SchedulerCase::Static(StaticConfig { batch_size, max_sequence_length: 500, kv_tokens })
    })
}

fn vllm_v0() -> impl Strategy<Value = SchedulerCase> {
    let rules = prop_oneof![
        Just((VllmV0Rules::V0_2_7, false)),
        Just((VllmV0Rules::V0_4_2, false)),
        Just((VllmV0Rules::V0_4_2, true)),
    ];
    (rules, 1u32..24, 24u32..600, 20u32..200, prop_oneof![Just(8u32), Just(16)], 0u32..300)
        .prop_map(|(rules, max_num_seqs, tokens, num_gpu_blocks, block_size, max_paddings)| {
            let (rules, enable_chunked_prefill) = rules;
            SchedulerCase::VllmV0(VllmV0Config {
                max_model_len: 400,
                max_num_seqs,
                max_num_batched_tokens: tokens,
                max_paddings,
                num_gpu_blocks,
                block_size,
                enable_chunked_prefill,
                rules,
            })
        })
}

fn vllm_v1() -> impl Strategy<Value = SchedulerCase> {
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (1u32..24, 24u32..600, 32u32..200, prop_oneof![Just(0.0), 0.0..0.1], switches).prop_map(
        |(max_num_seqs, budget, num_gpu_blocks, watermark, switches)| {
            let (caching, chunked, asynchronous, newer) = switches;
            SchedulerCase::VllmV1(VllmV1Config {
                max_model_len: 400,
                max_num_seqs,
                max_num_active_seqs: None,
                max_num_batched_tokens: if chunked { budget } else { budget.max(400) },
                max_num_scheduled_tokens: None,
                num_gpu_blocks,
                block_size: 16,
                enable_prefix_caching: caching,
                enable_chunked_prefill: chunked,
                policy: Policy::Fcfs,
                async_scheduling: asynchronous,
                watermark,
                long_prefill_token_threshold: 0,
                long_prefill_token_threshold_adaptive: false,
                rules: if newer { VllmV1Rules::V0_32 } else { VllmV1Rules::V0_13 },
            })
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    (
        prop_oneof![4 => tgis(), 4 => tgi(), 1 => static_batch(), 4 => vllm_v0(), 4 => vllm_v1()],
        1usize..4,
        prop::collection::vec((1u32..300, 1u32..120), 1..12),
        prop::bool::ANY,
        1u32..30,
        0.5f64..40.0,
        (1u64..80, prop::option::of(1u64..20_000), 0u64..40, any::<u64>()),
        (prop::option::of((1u32..200, 1u16..3)), prop::option::of((1u32..5, 0u64..200))),
    )
        .prop_map(|(scheduler, replicas, pairs, closed, clients, rate, rest, shared)| {
            let (prefix, sessions) = shared;
            let (requests, stop_ms, pause_ms, seed) = rest;
            let pairs = pairs.into_iter().map(|(input, output)| LengthPair { input, output });
            Case {
                scheduler,
                replicas,
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
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn jumping_and_stepping_give_the_same_run(case in cases()) {
        let (stepped_totals, stepped) = run(&case, true);
        let (jumped_totals, jumped) = run(&case, false);
        prop_assert_eq!(&stepped.records, &jumped.records);
        prop_assert_eq!(stepped, jumped);
        prop_assert_eq!(stepped_totals, jumped_totals);
    }

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
