//! The fast paths against the exact loop, and the rules that recorded schedules reach rarely.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::{
    CompletedStep, Observer, Outcome, RequestRecord, ScheduledStep, SteadyRun,
};
use crate::engine::router::RoundRobin;
use crate::engine::{RunOptions, RunTotals, Simulation};
use crate::request::{FinishReason, PromptContent, RequestSpec, TokenRun};
use crate::time::SimDuration;
use crate::workload::Workload;

/// A thousand nanoseconds a step and a few more for each token, sequence and token of context.
struct Cost;

impl StepCost for Cost {
    fn step(&mut self, shape: &StepShape) -> StepTime {
        let mut time = StepTime::ZERO;
        if !shape.is_empty() {
            let tokens = 1000 + 7 * shape.prefill_tokens + 3 * u64::from(shape.decode_seqs);
            time.set(CostTerm::Linear, SimDuration::from_nanos(tokens));
            let context = shape.decode_context + shape.prefill_context;
            time.set(CostTerm::Attention, SimDuration::from_nanos(context));
        }
        time
    }

    fn decode(&mut self, seqs: u32) -> DecodeCost {
        let fixed = self.step(&StepShape::decode(seqs, 0));
        DecodeCost {
            fixed,
            fixed_gpu: fixed.gpu(),
            fixed_total: fixed.total(),
            host: SimDuration::ZERO,
            attention: ContextCost::Integer { numerator: 1, denominator: 1, unit: 1 },
            per_spread: 0.0,
            kv_copy: ContextCost::Zero,
        }
    }
}

struct Script {
    requests: Vec<(SimTime, RequestSpec)>,
    taken: usize,
}

impl Workload for Script {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.requests.get(self.taken).map(|&(time, _)| time)
    }

    fn take(&mut self) -> RequestSpec {
        self.taken += 1;
        self.requests[self.taken - 1].1.clone()
    }

    fn on_reply(&mut self, _: &RequestRecord) {}
}

/// All that a run shows. `steps` is in full, the rest does not depend on how it was stepped.
#[derive(Debug, Default, PartialEq)]
struct Watch {
    every_step: bool,
    steps: Vec<String>,
    completed: u64,
    tokens: u64,
    time: StepTime,
    peak_kv: u64,
    gaps: BTreeMap<SimDuration, u64>,
    records: Vec<RequestRecord>,
    last: Occupancy,
    /// Of the newest step, if it was recorded.
    free_queue: Option<u64>,
}

impl Watch {
    fn without_steps(mut self) -> Self {
        self.every_step = false;
        self.steps.clear();
        if self.records.iter().any(|r| r.outcome == Outcome::Unfinished) {
            // Cut off in the middle: the newest step that was shown may be older than the end.
            self.last = Occupancy::default();
            self.free_queue = None;
        }
        self
    }
}

impl Observer for Watch {
    fn needs_every_step(&self) -> bool {
        self.every_step
    }

    fn on_scheduled(&mut self, s: &ScheduledStep<'_>) {
        self.free_queue = s.step.detail.as_ref().and_then(|detail| detail.free_queue_hash);
        if self.every_step {
            self.steps.push(format!("{} {} {:?} {:?}", s.start, s.end, s.step, s.occupancy));
        }
    }

    fn on_completed(&mut self, s: &CompletedStep<'_>) {
        if self.every_step {
            self.steps.push(format!("{} {:?} {:?}", s.end, s.outcome, s.occupancy_after));
        }
        self.completed += 1;
        self.tokens += s.outcome.tokens();
        self.time.accumulate(s.time, 1);
        self.peak_kv = self.peak_kv.max(s.occupancy.kv_used);
        self.last = s.occupancy_after;
    }

    fn on_steady(&mut self, run: &SteadyRun) {
        self.completed += u64::from(run.steps);
        self.tokens += u64::from(run.steps) * u64::from(run.seqs);
        self.time.accumulate(&run.time, 1);
        self.peak_kv = self.peak_kv.max(run.occupancy.kv_used);
    }

    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        *self.gaps.entry(gap).or_default() += u64::from(sequences);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        self.records.push(*record);
    }
}

#[derive(Clone, Debug)]
struct Case {
    config: VllmV1Config,
    requests: Vec<(SimTime, RequestSpec)>,
    aborts: Vec<(SimTime, u64)>,
    stop_at: Option<SimTime>,
}

impl Case {
    /// Two requests of equal urgency that each need most of the cache can preempt each other for
    /// ever, under our rules as under vLLM's.
    fn without_equal_urgency(mut self) -> Self {
        self.stop_at = None;
        for (late, (time, _)) in (0u64..).zip(&mut self.requests) {
            *time += SimDuration::from_nanos(late);
        }
        self
    }
}

/// How a case is run; the result must be the same.
#[derive(Clone, Copy)]
struct Mode {
    exact_only: bool,
    recording: bool,
    every_step: bool,
}

fn run(case: &Case, mode: Mode) -> (RunTotals, Watch) {
    let mut scheduler = VllmV1::new(case.config.clone());
    scheduler.exact_only = mode.exact_only;
    if mode.recording {
        scheduler.record_detail();
    }
    let replicas: Vec<(Box<dyn Scheduler>, Box<dyn StepCost>)> =
        vec![(Box::new(scheduler), Box::new(Cost))];
    let script = Script { requests: case.requests.clone(), taken: 0 };
    let watch = Watch { every_step: mode.every_step, ..Watch::default() };
    let options =
        RunOptions { aborts: case.aborts.clone(), stop_at: case.stop_at, ..RunOptions::default() };
    Simulation::new(replicas, Box::new(RoundRobin::default()), script, watch, options).run()
}

fn rules() -> impl Strategy<Value = VllmV1Rules> {
    prop_oneof![Just(VllmV1Rules::V0_13), Just(VllmV1Rules::V0_32)]
}

fn configs() -> impl Strategy<Value = VllmV1Config> {
    let sizes = (
        prop_oneof![Just(1u32), Just(3), Just(4), Just(8), Just(16)],
        10u32..120,
        1u32..14,
        1u32..80,
        2u32..60,
    );
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let extras = (
        prop_oneof![3 => Just(0u32), 1 => 1u32..30],
        prop_oneof![2 => Just(0.0), 1 => 0.0..0.3],
        prop::option::weighted(0.2, 1u32..14),
        rules(),
    );
    (sizes, switches, extras).prop_map(|(sizes, switches, extras)| {
        let (block_size, max_model_len, max_num_seqs, budget, spare_blocks) = sizes;
        let (caching, chunked, priority, asynchronous, adaptive) = switches;
        let (threshold, watermark, max_num_active_seqs, rules) = extras;
        VllmV1Config {
            max_model_len,
            max_num_seqs,
            max_num_active_seqs,
            max_num_batched_tokens: if chunked { budget } else { budget.max(max_model_len) },
            max_num_scheduled_tokens: None,
            num_gpu_blocks: max_model_len.div_ceil(block_size) + spare_blocks,
            block_size,
            enable_prefix_caching: caching,
            prompts_share: true,
            enable_chunked_prefill: chunked,
            policy: if priority { Policy::Priority } else { Policy::Fcfs },
            async_scheduling: asynchronous,
            watermark,
            long_prefill_token_threshold: threshold,
            long_prefill_token_threshold_adaptive: adaptive && threshold > 0,
            rules,
        }
    })
}

/// A prompt of up to three runs, of which the first two are likely to be somebody else's too; an
/// answer that follow-up prompts may quote.
fn content() -> impl Strategy<Value = Option<(u32, u32, u32, u32)>> {
    prop::option::weighted(0.7, (0u32..3, 0u32..30, 0u32..30, 0u32..3))
}

fn requests() -> impl Strategy<Value = Vec<(SimTime, RequestSpec)>> {
    let one = (
        prop_oneof![1 => Just(0u64), 2 => 0u64..4_000],
        1u32..100,
        1u32..60,
        prop_oneof![2 => Just(u32::MAX), 1 => 1u32..40],
        -1i32..3,
        content(),
    );
    prop::collection::vec(one, 1..40).prop_map(|list| {
        let mut time = 0;
        list.into_iter()
            .map(|(pause, prompt, output, stop_at, priority, content)| {
                time += pause;
                let content = content.map(|(family, shared, own, answer)| {
                    let (a, b) = (shared.min(prompt), own.min(prompt - shared.min(prompt)));
                    let run = |first: u64, len: u32| TokenRun { first, len };
                    let runs = vec![
                        run(u64::from(family) * 1000, a),
                        run(50_000 + u64::from(answer) * 1000, b),
                        run(90_000 + u64::from(family), prompt - a - b),
                    ];
                    let output_base = 50_000 + u64::from(answer) * 1000;
                    Arc::new(PromptContent { runs, output_base })
                });
                let spec = RequestSpec {
                    stop_at,
                    priority,
                    content,
                    ..RequestSpec::fixed(prompt, output)
                };
                (SimTime::from_nanos(time), spec)
            })
            .collect()
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let aborts = prop::collection::vec((0u64..100_000, 0u64..40), 0..4);
    let alone = prop::bool::weighted(0.3);
    (configs(), requests(), aborts, alone).prop_map(|(config, mut requests, aborts, alone)| {
        if alone {
            requests.iter_mut().for_each(|(_, spec)| spec.content = None);
        }
        let count = requests.len() as u64;
        let mut aborts: Vec<(SimTime, u64)> = aborts
            .into_iter()
            .filter(|&(_, uid)| uid < count)
            .map(|(time, uid)| (SimTime::from_nanos(time), uid))
            .collect();
        aborts.sort_unstable();
        let stop_at = Some(SimTime::from_nanos(2_000_000));
        let prompts_share = requests.iter().any(|(_, spec)| spec.content.is_some());
        let config = VllmV1Config { prompts_share, ..config };
        Case { config, requests, aborts, stop_at }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_lockstep_and_the_exact_loop_form_the_same_steps_with_the_same_blocks(case in cases()) {
        let mode = Mode { exact_only: true, recording: true, every_step: true };
        let exact = run(&case, mode);
        let fast = run(&case, Mode { exact_only: false, ..mode });
        for (exact, fast) in exact.1.steps.iter().zip(&fast.1.steps) {
            prop_assert_eq!(exact, fast);
        }
        prop_assert_eq!(exact, fast);
    }

    #[test]
    fn jumping_and_stepping_give_the_same_run_and_leave_the_same_free_queue(case in cases()) {
        let mode = Mode { exact_only: false, recording: true, every_step: true };
        let (recorded_totals, recorded) = run(&case, mode);
        let recorded = recorded.without_steps();
        for (recording, every_step) in [(true, false), (false, true), (false, false)] {
            let (totals, watch) = run(&case, Mode { recording, every_step, ..mode });
            let mut watch = watch.without_steps();
            if !recording {
                watch.free_queue = recorded.free_queue;
            }
            prop_assert_eq!(&recorded.records, &watch.records);
            prop_assert_eq!(&recorded, &watch);
            prop_assert_eq!(recorded_totals, totals);
        }
    }

    #[test]
    fn every_request_ends_with_its_tokens_and_all_blocks_come_back(case in cases()) {
        let mode = Mode { exact_only: false, recording: false, every_step: false };
        let case = case.without_equal_urgency();
        let (totals, watch) = run(&case, mode);
        prop_assert_eq!(watch.records.len() as u64, totals.requests);
        let in_use = Occupancy { kv_total: 0, ..watch.last };
        prop_assert_eq!(in_use, Occupancy::default());
        let mut delivered = 0;
        for record in &watch.records {
            let (_, spec) = &case.requests[record.uid as usize];
            let room = case.config.max_model_len.saturating_sub(spec.prompt_tokens);
            let most = spec.max_output_tokens.min(room);
            match record.outcome {
                Outcome::Ended(FinishReason::Stop) => {
                    prop_assert_eq!(record.output_tokens, spec.stop_at);
                }
                Outcome::Ended(FinishReason::Length) => {
                    prop_assert_eq!(record.output_tokens, most);
                    prop_assert!(most < spec.stop_at, "the end token is looked for first");
                }
                Outcome::Ended(FinishReason::Refused) => {
                    prop_assert!(spec.prompt_tokens >= case.config.max_model_len);
                }
                Outcome::Ended(FinishReason::Aborted) => {}
                other => prop_assert!(false, "{other:?}"),
            }
            delivered += u64::from(record.output_tokens);
        }
        prop_assert_eq!(delivered, watch.tokens, "tokens are conserved");
    }
}

fn plain() -> VllmV1Config {
    VllmV1Config {
        max_model_len: 64,
        max_num_seqs: 8,
        max_num_active_seqs: None,
        max_num_batched_tokens: 64,
        max_num_scheduled_tokens: None,
        num_gpu_blocks: 9,
        block_size: 8,
        enable_prefix_caching: true,
        prompts_share: true,
        enable_chunked_prefill: true,
        policy: Policy::Fcfs,
        async_scheduling: false,
        watermark: 0.0,
        long_prefill_token_threshold: 0,
        long_prefill_token_threshold_adaptive: false,
        rules: VllmV1Rules::V0_32,
    }
}

#[test]
fn a_prompt_that_leaves_no_room_for_a_token_is_refused_and_a_long_answer_is_cut() {
    let mut scheduler = VllmV1::new(plain());
    let mut ask = |prompt, output| {
        let spec = RequestSpec::fixed(prompt, output);
        scheduler.admit(&Request::new(0, spec, SimTime::ZERO))
    };
    assert_eq!(ask(64, 1), Err(Refusal::PromptTooLong { prompt: 64, limit: 63 }));
    assert_eq!(ask(63, 100), Ok(()));
    let requests = vec![(SimTime::ZERO, RequestSpec::fixed(60, 100))];
    let case = Case { config: plain(), requests, aborts: Vec::new(), stop_at: None };
    let (_, watch) = run(&case, Mode { exact_only: false, recording: false, every_step: false });
    assert_eq!(watch.records[0].output_tokens, 4);
}

#[test]
fn a_request_that_can_never_fit_is_refused_where_it_would_block_the_queue_for_ever() {
    let mut scheduler = VllmV1::new(VllmV1Config { num_gpu_blocks: 4, ..plain() });
    let mut ask = |spec| scheduler.admit(&Request::new(0, spec, SimTime::ZERO));
    assert_eq!(ask(RequestSpec::fixed(20, 5)), Ok(()));
    assert_eq!(ask(RequestSpec::fixed(20, 6)), Err(Refusal::TotalTooLong { total: 26, limit: 25 }));
    assert_eq!(ask(RequestSpec { stop_at: 5, ..RequestSpec::fixed(20, 6) }), Ok(()));
}

#[test]
fn a_preempted_request_finds_its_own_blocks_again_although_it_shares_them_with_nobody() {
    // Two sequences of 8 + 40 tokens need twelve blocks of eight; there are eight.
    let requests = vec![(SimTime::ZERO, RequestSpec::fixed(8, 40)); 2];
    let case = Case { config: plain(), requests, aborts: Vec::new(), stop_at: None };
    let (_, watch) = run(&case, Mode { exact_only: false, recording: true, every_step: true });
    assert_eq!(watch.records[1].preemptions, 1);
    let resumed = watch.steps.iter().find(|step| step.contains("Resumed")).expect("it comes back");
    // Of its four blocks the other sequence has meanwhile taken the last two: the tail goes first.
    assert!(resumed.contains("computed_tokens: 16, admission: Resumed"), "{resumed}");
}
