//! Behaviour that recorded schedules do not show, and conservation over random workloads.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use super::*;
use crate::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::{CompletedStep, Observer, Outcome, RequestRecord};
use crate::engine::router::RoundRobin;
use crate::engine::{RunOptions, Simulation};
use crate::request::{PromptContent, RequestSpec, TokenRun};
use crate::scheduler::StepKind;
use crate::time::SimDuration;
use crate::workload::Workload;

const V3: TgiRules = TgiRules::V3 { prefill_chunking: false, prefix_caching: false };
const V3_CACHING: TgiRules = TgiRules::V3 { prefill_chunking: false, prefix_caching: true };
const V3_CHUNKING: TgiRules = TgiRules::V3 { prefill_chunking: true, prefix_caching: false };

fn config(rules: TgiRules) -> TgiConfig {
    TgiConfig {
        rules,
        block_size: 16,
        max_batch_prefill_tokens: 512,
        max_batch_total_tokens: 4096,
        waiting_served_ratio: 1.2,
        max_waiting_tokens: 20,
        max_batch_size: None,
        requires_padding: false,
        shard: ShardLayout::Paged,
        speculate: 0,
        max_input_tokens: 500,
        max_total_tokens: 600,
        max_concurrent_requests: 128,
    }
}

/// A millisecond a step, and a microsecond a token.
struct Steady;

impl StepCost for Steady {
    fn step(&mut self, shape: &StepShape) -> StepTime {
        let mut time = self.decode(shape.decode_seqs).fixed;
        time.add(CostTerm::Linear, SimDuration::from_nanos(1000 * shape.prefill_tokens));
        time
    }

    fn decode(&mut self, seqs: u32) -> DecodeCost {
        let mut fixed = StepTime::ZERO;
        let time = SimDuration::from_nanos(1000 * (1000 + u64::from(seqs)));
        fixed.set(CostTerm::Linear, time);
        DecodeCost {
            fixed,
            fixed_gpu: time,
            fixed_total: time,
            host: SimDuration::ZERO,
            attention: ContextCost::Zero,
            per_spread: 0.0,
            kv_copy: ContextCost::Zero,
        }
    }
}

/// Requests at times of their own, in order of time.
struct Script(std::collections::VecDeque<(SimTime, RequestSpec)>);

impl Workload for Script {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.0.front().map(|&(at, _)| at)
    }

    fn take(&mut self) -> RequestSpec {
        self.0.pop_front().expect("a request was announced").1
    }

    fn on_reply(&mut self, _: &RequestRecord) {}
}

/// A scheduler that recounts everything after each call.
struct Recounted(Tgi);

impl Recounted {
    fn check(&self) {
        let tgi = &self.0;
        let (mut blocks, mut own, mut context, mut decoding, mut waiting) = (0, 0, 0, 0, 0);
        for entry in tgi.entries.iter().flatten() {
            if entry.progress == Progress::Waiting {
                waiting += 1;
                continue;
            }
            let held = entry.allocation.blocks;
            blocks += u64::from(held);
            own += u64::from(held - entry.allocation.cached / tgi.config.block_size);
            if let Progress::Decoding { .. } = entry.progress {
                decoding += 1;
                context += u64::from(entry.member.input + tgi.generated_by(entry));
            }
        }
        assert_eq!(waiting, tgi.queue.len(), "who waits is in the queue");
        assert_eq!(blocks, tgi.batch.blocks());
        assert_eq!(decoding, tgi.batch.decoding());
        if let Some(allocator) = &tgi.allocator {
            let (free, cached) = allocator.free_and_cached();
            assert_eq!(free + cached + own, allocator.usable(), "free, cached and held blocks");
            assert!(allocator.in_use() >= own);
        }
        let prompts: u64 = tgi.batch.prefilling.iter().map(|p| u64::from(p.input)).sum();
        assert_eq!(context + prompts, tgi.batch.tokens());
    }
}

impl Scheduler for Recounted {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        self.0.admit(request)
    }
    fn enqueue(&mut self, id: RequestId, request: &Request) {
        self.0.enqueue(id, request);
        self.check();
    }
    fn abort(&mut self, now: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        self.0.abort(now, id, ended);
        self.check();
    }
    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool {
        let runs = self.0.schedule(now, step);
        self.check();
        runs
    }
    fn complete(&mut self, start: SimTime, now: SimTime, outcome: &mut StepOutcome) {
        self.0.complete(start, now, outcome);
        self.check();
    }
    fn steady_turns(&self) -> u32 {
        self.0.steady_turns()
    }
    fn advance(&mut self, turns: u32) {
        self.0.advance(turns);
        self.check();
    }
    fn has_work(&self) -> bool {
        self.0.has_work()
    }
    fn generated(&self, id: RequestId) -> u32 {
        self.0.generated(id)
    }
    fn occupancy(&self) -> Occupancy {
        self.0.occupancy()
    }
}

/// What a run has done.
#[derive(Default, Debug, PartialEq)]
struct Log {
    /// Kind, shape and cached tokens of newcomers by step; empty after a jump.
    steps: Vec<(StepKind, StepShape, Vec<u32>)>,
    records: Vec<RequestRecord>,
    every_step: bool,
}

impl Observer for Log {
    fn needs_every_step(&self) -> bool {
        self.every_step
    }
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        if self.every_step {
            let cached = step.step.admitted.iter().map(|&(_, cached)| cached).collect();
            self.steps.push((step.step.kind, step.step.shape, cached));
        }
    }
    fn on_request(&mut self, record: &RequestRecord) {
        self.records.push(*record);
    }
}

fn run(
    config: &TgiConfig,
    requests: Vec<(u64, RequestSpec)>,
    aborts: &[(u64, u64)],
    every_step: bool,
) -> Log {
    let at = |ms: u64| SimTime::ZERO + SimDuration::from_millis(ms);
    let script = Script(requests.into_iter().map(|(ms, spec)| (at(ms), spec)).collect());
    let options = RunOptions {
        aborts: aborts.iter().map(|&(ms, uid)| (at(ms), uid)).collect(),
        ..RunOptions::default()
    };
    let scheduler: Box<dyn Scheduler> = Box::new(Recounted(Tgi::new(config.clone())));
    let log = Log { every_step, ..Log::default() };
    let replicas = vec![(scheduler, Box::new(Steady) as Box<dyn StepCost>)];
    Simulation::new(replicas, Box::new(RoundRobin::default()), script, log, options).run().1
}

/// A prompt of `tokens` tokens whose first `shared` are those of family `family`.
fn prompt(family: u64, shared: u32, own: u64, tokens: u32, output: u32) -> RequestSpec {
    let shared = shared.min(tokens);
    let content = PromptContent {
        runs: vec![
            TokenRun { first: family * 10_000, len: shared },
            TokenRun { first: (own + 1) << 32, len: tokens - shared },
        ],
        output_base: 0,
    };
    RequestSpec { content: Some(Arc::new(content)), ..RequestSpec::fixed(tokens, output) }
}

#[test]
fn prompts_too_long_and_requests_too_many_are_refused_and_never_cut() {
    let mut tgi = Tgi::new(TgiConfig { max_concurrent_requests: 1, ..config(TgiRules::V2) });
    let request =
        |prompt, output| Request::new(0, RequestSpec::fixed(prompt, output), SimTime::ZERO);
    let too_long = Refusal::PromptTooLong { prompt: 501, limit: 500 };
    assert_eq!(tgi.admit(&request(501, 1)), Err(too_long));
    let too_much = Refusal::TotalTooLong { total: 601, limit: 600 };
    assert_eq!(tgi.admit(&request(500, 101)), Err(too_much));
    assert_eq!(tgi.admit(&request(500, 100)), Ok(()));
    assert_eq!(tgi.admit(&request(1, 1)), Err(Refusal::TooManyRequests { limit: 1 }));
}

#[test]
fn a_server_that_could_not_hold_its_longest_request_does_not_start() {
    let good = config(TgiRules::V2);
    assert_eq!(good.check(), Ok(()));
    let bad = TgiConfig { max_batch_prefill_tokens: 400, ..good.clone() };
    assert_eq!(bad.check(), Err(TgiStartError::PromptAboveBudget { prefill: 400, input: 500 }));
    assert_eq!(TgiConfig { rules: V3_CHUNKING, ..bad }.check(), Ok(()));
    let bad = TgiConfig { max_batch_total_tokens: 550, ..good };
    assert_eq!(bad.check(), Err(TgiStartError::TotalAboveCapacity { total: 600, capacity: 550 }));
}

#[test]
fn a_prompt_is_shared_only_once_its_request_has_ended() {
    let config = TgiConfig { waiting_served_ratio: 0.0, ..config(V3_CACHING) };
    let requests = vec![
        (0, prompt(1, 160, 0, 200, 10)),
        (3, prompt(1, 160, 1, 200, 10)),
        (100, prompt(1, 160, 2, 200, 10)),
        (200, prompt(1, 160, 2, 200, 10)),
        (300, RequestSpec::fixed(200, 10)),
        (400, RequestSpec::fixed(200, 10)),
    ];
    let log = run(&config, requests, &[], true);
    let cached: Vec<u32> = log.records.iter().map(|r| r.cached_tokens).collect();
    assert_eq!(cached, [0, 0, 160, 192, 0, 0], "whole blocks of what others have left behind");
}

#[test]
fn a_prompt_that_is_cached_whole_is_computed_to_one_token() {
    let config = TgiConfig { block_size: 1, ..config(V3_CACHING) };
    let same = || prompt(1, 100, 0, 100, 2);
    let log = run(&config, vec![(0, same()), (50, same())], &[], true);
    assert_eq!(log.records[1].cached_tokens, 99);
    let (kind, shape, _) = &log.steps[2];
    assert_eq!(*kind, StepKind::Prefill);
    assert_eq!((shape.prefill_seqs, shape.prefill_tokens, shape.prefill_pairs), (1, 1, 199));
}

#[test]
fn a_request_that_was_put_back_counts_as_cached() {
    // Two prompts of 300 exceed the prefill budget of 512: the second is put back, and what is put
    // back finds its own prompt in the cache.
    let requests = vec![(0, RequestSpec::fixed(300, 30)), (0, RequestSpec::fixed(300, 30))];
    let log = run(&config(V3_CACHING), requests.clone(), &[], true);
    assert_eq!(log.records.iter().map(|r| r.cached_tokens).collect::<Vec<_>>(), [0, 288]);
    let log = run(&config(V3), requests, &[], true);
    assert_eq!(log.records.iter().map(|r| r.cached_tokens).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn chunks_share_the_forward_pass_with_decoding_sequences() {
    let config = TgiConfig { max_batch_prefill_tokens: 128, ..config(V3_CHUNKING) };
    let log = run(
        &config,
        vec![(0, RequestSpec::fixed(100, 20)), (2, RequestSpec::fixed(300, 2))],
        &[],
        true,
    );
    let mixed: Vec<u64> = log
        .steps
        .iter()
        .filter(|(kind, ..)| *kind == StepKind::Mixed)
        .map(|(_, shape, _)| shape.prefill_tokens)
        .collect();
    // 127 tokens are left beside one decoding sequence, rounded up to whole blocks for the first
    // chunk.
    assert_eq!(mixed, [128, 127, 45]);
}

#[test]
fn a_padded_shard_computes_a_rectangle() {
    let config =
        TgiConfig { requires_padding: true, shard: ShardLayout::Padded, ..config(TgiRules::V2) };
    let requests = vec![(0, RequestSpec::fixed(100, 3)), (0, RequestSpec::fixed(10, 9))];
    let log = run(&config, requests, &[], true);
    let (_, prefill, _) = &log.steps[0];
    assert_eq!((prefill.prefill_tokens, prefill.logits_rows), (200, 200), "two rows of 100");
    let widest = log.steps.iter().map(|(_, shape, _)| shape.decode_context).max();
    assert_eq!(widest, Some(204), "two rows of 102");
    assert_eq!(log.records.len(), 2);
}

#[test]
fn a_client_that_has_gone_is_noticed_at_the_next_token_and_its_permit_at_once() {
    let mut tgi = Tgi::new(TgiConfig { max_concurrent_requests: 1, ..config(TgiRules::V2) });
    let request = Request::new(0, RequestSpec::fixed(20, 50), SimTime::ZERO);
    let (id, mut step, mut ended) = (RequestId(0), Step::default(), Vec::new());
    tgi.admit(&request).expect("there is room");
    tgi.enqueue(id, &request);
    assert!(tgi.schedule(SimTime::ZERO, &mut step));
    tgi.abort(SimTime::ZERO, id, &mut ended);
    assert!(ended.is_empty());
    assert_eq!(tgi.admit(&request), Ok(()));
    let mut outcome = StepOutcome::default();
    tgi.complete(SimTime::ZERO, SimTime::ZERO, &mut outcome);
    let gone = Ended { id, reason: FinishReason::Aborted, output_tokens: 1 };
    assert_eq!(outcome.ended, [gone]);
    assert!(!tgi.has_work());
}

fn configs() -> impl Strategy<Value = TgiConfig> {
    let rules = prop_oneof![
        2 => Just(TgiRules::V2),
        5 => (any::<bool>(), any::<bool>()).prop_map(|(prefill_chunking, prefix_caching)| {
            TgiRules::V3 { prefill_chunking, prefix_caching }
        }),
    ];
    (
        rules,
        prop_oneof![Just(1u32), Just(16)],
        (1u32..600, 700u32..3000),
        prop_oneof![Just(0.0f32), Just(0.3), Just(1.2)],
        0u32..25,
        prop::option::of(1u32..8),
        (prop::bool::weighted(0.15), 0u32..3),
    )
        .prop_map(|(rules, block_size, (prefill, total), ratio, patience, seats, rest)| {
            let (requires_padding, speculate) = rest;
            let chunking = rules.prefill_joins_decoding() && !requires_padding;
            let rules = match rules {
                TgiRules::V2 => TgiRules::V2,
                TgiRules::V3 { prefix_caching, .. } => {
                    TgiRules::V3 { prefill_chunking: chunking, prefix_caching }
                }
            };
            let padded = ShardLayout::Padded;
            TgiConfig {
                rules,
                block_size,
                max_batch_prefill_tokens: if chunking { prefill } else { prefill.max(400) },
                max_batch_total_tokens: total,
                waiting_served_ratio: ratio,
                max_waiting_tokens: patience,
                max_batch_size: seats,
                requires_padding,
                shard: if requires_padding { padded } else { ShardLayout::Paged },
                speculate: if rules == TgiRules::V2 { 0 } else { speculate },
                max_input_tokens: 400,
                max_total_tokens: 600,
                max_concurrent_requests: 30,
            }
        })
}

fn requests() -> impl Strategy<Value = Vec<(u64, RequestSpec)>> {
    let one = (0u64..60, prop::option::of(0u64..3), 1u32..420, 1u32..200, 1u32..300, 1u32..220);
    prop::collection::vec(one, 1..50).prop_map(|list| {
        let mut at = 0;
        let timed = (0u64..).zip(list).map(|(own, (gap, family, shared, tokens, output, stop))| {
            at += gap;
            let plain = RequestSpec::fixed(tokens, output);
            let spec = family.map_or(plain, |family| prompt(family, shared, own, tokens, output));
            (at, RequestSpec { stop_at: stop, ..spec })
        });
        timed.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn blocks_are_conserved_nobody_starves_and_jumping_changes_nothing(
        config in configs(),
        requests in requests(),
        mut aborts in prop::collection::vec((0u64..2000, 0u64..50), 0..6),
    ) {
        aborts.sort_unstable();
        let sent = requests.len();
        let stepped = run(&config, requests.clone(), &aborts, true);
        let jumped = run(&config, requests, &aborts, false);
        prop_assert_eq!(&stepped.records, &jumped.records);
        prop_assert_eq!(stepped.records.len(), sent);
        for record in &stepped.records {
            prop_assert!(record.outcome != Outcome::Unfinished, "nobody starves: {record:?}");
        }
    }
}
