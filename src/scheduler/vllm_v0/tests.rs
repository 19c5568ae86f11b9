//! Conservation and fairness on random workloads, and the rules that recorded schedules reach rarely.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::request::RequestSpec;

#[derive(Clone, Debug)]
struct Case {
    config: VllmV0Config,
    /// (boundary at which it arrives, request).
    requests: Vec<(u64, RequestSpec)>,
    /// (boundary, whether while the step decided there runs, request).
    aborts: Vec<(u64, bool, u32)>,
}

/// Drives a scheduler from boundary to boundary, one nanosecond apart.
struct Driver {
    scheduler: VllmV0,
    boundary: u64,
    live: BTreeSet<RequestId>,
    step: Step,
    outcome: StepOutcome,
    tokens: u64,
    /// In order; a request's slot is its position in the case.
    ended: Vec<Ended>,
}

impl Driver {
    fn new(config: VllmV0Config) -> Self {
        let mut scheduler = VllmV0::new(config);
        scheduler.record_detail();
        Self {
            scheduler,
            boundary: 0,
            live: BTreeSet::new(),
            step: Step::default(),
            outcome: StepOutcome::default(),
            tokens: 0,
            ended: Vec::new(),
        }
    }

    fn now(&self) -> SimTime {
        SimTime::from_nanos(self.boundary)
    }

    fn arrive(&mut self, slot: u32, spec: RequestSpec) {
        let request = Request::new(u64::from(slot), spec, self.now());
        self.scheduler.admit(&request).expect("V0 refuses nobody");
        self.scheduler.enqueue(RequestId(slot), &request);
        self.live.insert(RequestId(slot));
    }

    fn apply_aborts(&mut self, case: &Case, in_flight: bool) {
        for &(boundary, during, slot) in &case.aborts {
            let due = boundary == self.boundary && during == in_flight;
            if due && self.live.contains(&RequestId(slot)) {
                let first = self.ended.len();
                self.scheduler.abort(self.now(), RequestId(slot), &mut self.ended);
                self.forget(first);
            }
        }
    }

    fn forget(&mut self, first: usize) {
        for ended in &self.ended[first..] {
            assert!(self.live.remove(&ended.id), "{ended:?} ends once");
        }
    }

    /// Decides a step, if there is work.
    fn decide(&mut self) -> bool {
        self.step.clear();
        let runs = self.scheduler.schedule(self.now(), &mut self.step);
        let first = self.ended.len();
        self.ended.extend(&self.step.ended);
        self.forget(first);
        self.check();
        runs
    }

    /// Ends the step.
    fn end(&mut self) {
        let start = self.now();
        self.boundary += 1;
        self.outcome.clear();
        self.scheduler.complete(start, self.now(), &mut self.outcome);
        let first = self.outcome.first_tokens.len() as u64;
        self.tokens += u64::from(self.outcome.decode_tokens) + first;
        let first = self.ended.len();
        self.ended.extend(&self.outcome.ended);
        self.forget(first);
        self.check();
    }

    fn run_step(&mut self) {
        assert!(self.decide(), "there is work");
        self.end();
    }

    /// What must hold at all times.
    fn check(&self) {
        let s = &self.scheduler;
        let mut held = 0;
        let (mut decodes, mut context, mut prefills) = (0, 0, 0);
        for &id in &s.running {
            let seq = &s.seqs[id.index()];
            held += match seq.phase {
                Phase::Waiting => panic!("{id:?} runs and waits"),
                Phase::Prefill => {
                    prefills += 1;
                    s.blocks(seq.len())
                }
                Phase::Decode => {
                    decodes += 1;
                    context += s.computed(id);
                    s.blocks(s.lockstep.computed(seq))
                }
            };
        }
        assert_eq!(held + s.free_blocks, s.config.num_gpu_blocks, "blocks are conserved");
        assert_eq!(prefills, s.prefilling);
        assert_eq!((decodes, context), (s.lockstep.seqs(), s.lockstep.computed_sum()));
        assert!(s.running.is_sorted_by_key(|id| s.seqs[id.index()].arrival));
        let queues: BTreeSet<_> = s.running.iter().chain(&s.waiting).copied().collect();
        assert_eq!(queues, self.live, "a live request stands in one queue");
        assert_eq!(s.running.len() + s.waiting.len(), self.live.len(), "and only once");
        let generated: u64 = self.live.iter().map(|&id| u64::from(s.generated(id))).sum();
        let of_ended: u64 = self.ended.iter().map(|e| u64::from(e.output_tokens)).sum();
        assert_eq!(generated + of_ended, self.tokens, "tokens are conserved");
    }
}

/// Runs a case to its end; what each step was.
fn run(case: &Case, exact_only: bool) -> (Vec<String>, Driver) {
    let mut driver = Driver::new(case.config.clone());
    driver.scheduler.exact_only = exact_only;
    let mut steps = Vec::new();
    let mut arrivals = (0u32..).zip(&case.requests).peekable();
    while arrivals.peek().is_some() || !driver.live.is_empty() {
        while let Some((slot, (_, spec))) = arrivals.next_if(|(_, r)| r.0 <= driver.boundary) {
            driver.arrive(slot, spec.clone());
        }
        driver.apply_aborts(case, false);
        if driver.decide() {
            steps.push(format!("{:?}", driver.step));
            driver.apply_aborts(case, true);
            driver.end();
            steps.push(format!("{:?}", driver.outcome));
        } else {
            driver.boundary += 1;
        }
        assert!(driver.boundary < 100_000, "nobody starves: {:?}", driver.live);
    }
    (steps, driver)
}

fn rules() -> impl Strategy<Value = (VllmV0Rules, bool)> {
    prop_oneof![
        Just((VllmV0Rules::V0_2_7, false)),
        Just((VllmV0Rules::V0_4_2, false)),
        Just((VllmV0Rules::V0_4_2, true)),
    ]
}

fn configs() -> impl Strategy<Value = VllmV0Config> {
    let block_size = prop_oneof![Just(1u32), Just(3), Just(4), Just(16)];
    let num_gpu_blocks = prop_oneof![2 => 2u32..60, 1 => 90u32..250];
    (rules(), block_size, num_gpu_blocks, 1u32..12, 1u32..80, 10u32..150, 0u32..60).prop_map(
        |(rules, block_size, num_gpu_blocks, max_num_seqs, budget, max_model_len, paddings)| {
            VllmV0Config {
                max_model_len,
                max_num_seqs,
                max_num_batched_tokens: if rules.1 { budget } else { 2 * budget },
                max_paddings: paddings,
                num_gpu_blocks,
                block_size,
                enable_chunked_prefill: rules.1,
                rules: rules.0,
            }
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let pause = prop_oneof![2 => Just(0u64), 2 => 1u64..8];
    let stop_at = prop_oneof![2 => Just(u32::MAX), 1 => 1u32..30];
    let request = (pause, 0u32..110, 1u32..50, stop_at);
    let abort = (0u64..150, any::<bool>(), 0u32..30);
    (configs(), prop::collection::vec(request, 1..30), prop::collection::vec(abort, 0..4)).prop_map(
        |(config, requests, aborts)| {
            let mut time = 0;
            let requests = requests.into_iter().map(|(pause, prompt, output, stop_at)| {
                time += pause;
                (time, RequestSpec { stop_at, ..RequestSpec::fixed(prompt, output) })
            });
            Case { config, requests: requests.collect(), aborts }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn tokens_and_blocks_are_conserved_and_nobody_starves(case in cases()) {
        let (_, driver) = run(&case, false);
        prop_assert_eq!(driver.ended.len(), case.requests.len());
        prop_assert_eq!(driver.scheduler.free_blocks, case.config.num_gpu_blocks);
        for ended in driver.ended {
            let spec = &case.requests[ended.id.index()].1;
            let asked = spec.max_output_tokens.min(spec.stop_at);
            let tokens = ended.output_tokens;
            let room = (case.config.max_model_len + 1).saturating_sub(spec.prompt_tokens.max(1));
            match ended.reason {
                FinishReason::Stop => prop_assert_eq!(tokens, spec.stop_at),
                FinishReason::Length => prop_assert_eq!(tokens, asked.min(room.max(1))),
                FinishReason::Ignored | FinishReason::Starved | FinishReason::Aborted => {
                    prop_assert!(tokens < asked)
                }
                other => prop_assert!(false, "V0 ends nobody by {}", other.name()),
            }
        }
    }

    #[test]
    fn the_look_up_and_the_loop_over_the_batch_form_the_same_steps(case in cases()) {
        let (exact, _) = run(&case, true);
        let (looked_up, _) = run(&case, false);
        for (exact, looked_up) in exact.iter().zip(&looked_up) {
            prop_assert_eq!(exact, looked_up);
        }
        prop_assert_eq!(exact.len(), looked_up.len());
    }
}

fn config(rules: VllmV0Rules, num_gpu_blocks: u32) -> VllmV0Config {
    VllmV0Config {
        max_model_len: 100,
        max_num_seqs: 8,
        max_num_batched_tokens: 100,
        max_paddings: 256,
        num_gpu_blocks,
        block_size: 4,
        enable_chunked_prefill: false,
        rules,
    }
}

fn chunked(max_num_batched_tokens: u32) -> VllmV0Config {
    VllmV0Config {
        max_num_batched_tokens,
        enable_chunked_prefill: true,
        ..config(VllmV0Rules::V0_4_2, 50)
    }
}

impl Driver {
    /// (slot, new tokens, computed tokens) of the batch.
    fn batch(&self) -> Vec<(u32, u32, u32)> {
        let detail = self.step.detail.as_ref().expect("it is recorded");
        detail.scheduled.iter().map(|s| (s.id.0, s.new_tokens, s.computed_tokens)).collect()
    }
}

#[test]
fn dropping_a_request_that_can_never_run_is_a_step_in_0_2_7_only() {
    for (rules, decodes) in [(VllmV0Rules::V0_2_7, 0), (VllmV0Rules::V0_4_2, 1)] {
        let mut driver = Driver::new(config(rules, 50));
        driver.arrive(0, RequestSpec::fixed(5, 9));
        driver.run_step();
        driver.arrive(1, RequestSpec::fixed(101, 1));
        driver.run_step();
        let ignored = Ended { id: RequestId(1), reason: FinishReason::Ignored, output_tokens: 0 };
        assert_eq!(driver.ended, [ignored]);
        assert_eq!(driver.batch().len(), decodes);
        driver.run_step();
        assert_eq!(driver.batch().len(), 1, "then the other one decodes on");
    }
}

#[test]
fn without_a_free_block_the_last_is_preempted_even_if_nobody_needs_one() {
    let mut driver = Driver::new(config(VllmV0Rules::V0_4_2, 4));
    driver.arrive(0, RequestSpec::fixed(6, 9));
    driver.arrive(1, RequestSpec::fixed(6, 9));
    driver.run_step();
    assert_eq!(driver.scheduler.free_blocks, 0);
    driver.run_step();
    assert_eq!(driver.step.preempted, [RequestId(1)]);
    assert_eq!(driver.batch(), [(0, 1, 6)]);
    assert_eq!(driver.scheduler.free_blocks, 2);
}

#[test]
fn a_sequence_ends_once_it_is_longer_than_the_model_allows() {
    let mut driver = Driver::new(config(VllmV0Rules::V0_2_7, 50));
    driver.arrive(0, RequestSpec::fixed(98, 50));
    while driver.ended.is_empty() {
        driver.run_step();
    }
    let length = Ended { id: RequestId(0), reason: FinishReason::Length, output_tokens: 3 };
    assert_eq!(driver.ended, [length], "at 101 tokens");
}

#[test]
fn padding_is_computed_and_billed_in_0_2_7() {
    for (rules, tokens, pairs) in
        [(VllmV0Rules::V0_2_7, 3 * 20, 3 * 400), (VllmV0Rules::V0_4_2, 33, 400 + 144 + 1)]
    {
        let mut driver = Driver::new(config(rules, 50));
        for (slot, prompt) in [(0, 20), (1, 12), (2, 1)] {
            driver.arrive(slot, RequestSpec::fixed(prompt, 5));
        }
        driver.run_step();
        let (shape, detail) = (driver.step.shape, driver.step.detail.expect("it is recorded"));
        assert_eq!((shape.tokens(), detail.batched_tokens), (tokens, tokens));
        assert_eq!(shape.prefill_pairs + u64::from(shape.decode_seqs), pairs);
        assert_eq!(shape.prefill_context + shape.decode_context, 33, "padding is not cached");
        assert_eq!((shape.sampled_seqs, shape.logits_rows), (3, 3));
    }
}

#[test]
fn decodes_left_over_by_the_budget_go_first_among_those_that_arrived_together() {
    let mut driver = Driver::new(chunked(2));
    for slot in 0..3 {
        driver.arrive(slot, RequestSpec::fixed(1, 9));
    }
    let mut batches = Vec::new();
    for _ in 0..4 {
        driver.run_step();
        batches.push(driver.batch().iter().map(|&(slot, ..)| slot).collect::<Vec<_>>());
    }
    assert_eq!(batches, [[0, 1], [0, 1], [0, 1], [0, 1]], "no budget is left for a third");
    driver.scheduler.config.max_num_batched_tokens = 3;
    driver.run_step();
    driver.scheduler.config.max_num_batched_tokens = 2;
    driver.run_step();
    assert_eq!(driver.batch(), [(2, 1, 1), (0, 1, 5)]);
    assert_eq!(driver.outcome.stalled, [RequestId(1)]);
    driver.run_step();
    assert_eq!(driver.batch(), [(1, 1, 5), (2, 1, 2)], "the one left over, then the others");
}

#[test]
fn a_prompt_that_takes_every_block_and_can_never_get_past_its_first_chunk_is_dropped() {
    let mut driver = Driver::new(VllmV0Config { num_gpu_blocks: 5, ..chunked(10) });
    driver.arrive(0, RequestSpec::fixed(20, 1));
    while driver.ended.is_empty() {
        driver.run_step();
    }
    assert_eq!(driver.ended[0].reason, FinishReason::Starved);
}

#[test]
fn a_prompt_is_chunked_into_what_decodes_leave_of_the_budget() {
    let mut driver = Driver::new(chunked(8));
    driver.arrive(0, RequestSpec::fixed(3, 9));
    driver.run_step();
    driver.arrive(1, RequestSpec::fixed(12, 9));
    driver.run_step();
    assert_eq!(driver.batch(), [(1, 7, 0), (0, 1, 3)]);
    assert_eq!(driver.step.kind, StepKind::Mixed);
    assert_eq!(driver.step.shape.sampled_seqs, 1, "the chunk yields no token");
    driver.run_step();
    assert_eq!(driver.batch(), [(1, 5, 7), (0, 1, 4)]);
    assert_eq!(driver.outcome.first_tokens, [RequestId(1)]);
}
