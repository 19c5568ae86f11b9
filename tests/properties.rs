//! What every engine promises, on random settings and workloads.
//!
//! A failing workload is shrunk to a few requests and saved below `target/tmp/failing`, as a file
//! that `servesim conformance` replays.

mod common;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use common::CurvedCost;
use common::engines::Engine;
use common::script::{Ask, Script, scripts};
use common::shrink::{save, shrink};
use servesim::conformance::{self, Run};
use servesim::deploy::EngineConfig;
use servesim::engine_name::EngineName;
use servesim::request::{FinishReason, Request, RequestId, RequestSpec};
use servesim::scheduler::audit::{Audit, Depth};
use servesim::scheduler::vllm_v1::{Policy, VllmV1Config, VllmV1Rules};
use servesim::scheduler::{Ended, Occupancy, Refusal, Scheduler, Step, StepOutcome};
use servesim::time::{SimDuration, SimTime};

fn as_it_is(scheduler: Box<dyn Scheduler>) -> Box<dyn Scheduler> {
    scheduler
}

/// The recording of a script, as bytes.
fn recorded(script: &Script) -> Vec<u8> {
    let run = Run {
        name: "a script",
        engine: script.engine.name,
        config: &script.engine.config,
        scheduler: script.engine.config.scheduler(),
        cost: Box::new(CurvedCost),
        workload: script.workload(&Default::default()),
        aborts: script.aborts(),
        stop_at: None,
    };
    let mut bytes = Vec::new();
    let recorded = conformance::record(run, &mut bytes).expect("it is recorded");
    assert_eq!(recorded.broken, [""; 0]);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        // The shrinking is our own: it ends in a file.
        max_shrink_iters: 0,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_engine_keeps_its_promises(script in scripts()) {
        if let Some(property) = script.violated(&as_it_is) {
            let small = shrink(script, |script| script.violated(&as_it_is).is_some());
            let path = save(&small, &property, &as_it_is);
            let (requests, path) = (small.asks.len(), path.display());
            prop_assert!(false, "{property}; {requests} requests do it: {path}\n{small:#?}");
        }
    }

    #[test]
    fn what_is_recorded_is_replayed(script in scripts()) {
        let bytes = recorded(&script);
        let verdict = conformance::check(&bytes).expect("a recording");
        prop_assert!(verdict.passes(), "{}", verdict.divergence.map_or_else(
            || verdict.broken.join("\n"),
            |divergence| divergence.to_string(),
        ));
    }
}

/// A scheduler that is never told of a long prompt if somebody runs already.
struct Forgetful {
    inner: Box<dyn Scheduler>,
    forgotten: Vec<RequestId>,
}

impl Scheduler for Forgetful {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        self.inner.admit(request)
    }
    fn enqueue(&mut self, id: RequestId, request: &Request) {
        if request.spec.prompt_tokens > 200 && self.inner.occupancy().running > 0 {
            self.forgotten.push(id);
        } else {
            self.inner.enqueue(id, request);
        }
    }
    fn abort(&mut self, now: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        self.inner.abort(now, id, ended);
    }
    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool {
        self.inner.schedule(now, step)
    }
    fn complete(&mut self, start: SimTime, now: SimTime, outcome: &mut StepOutcome) {
        self.inner.complete(start, now, outcome);
    }
    fn has_work(&self) -> bool {
        self.inner.has_work()
    }
    fn generated(&self, id: RequestId) -> u32 {
        if self.forgotten.contains(&id) { 0 } else { self.inner.generated(id) }
    }
    fn occupancy(&self) -> Occupancy {
        self.inner.occupancy()
    }
    fn pipeline_depth(&self) -> usize {
        self.inner.pipeline_depth()
    }
    fn record_detail(&mut self) {
        self.inner.record_detail();
    }
    fn audit(&self, depth: Depth) -> Option<Audit> {
        self.inner.audit(depth)
    }
}

fn forgetful(inner: Box<dyn Scheduler>) -> Box<dyn Scheduler> {
    Box::new(Forgetful { inner, forgotten: Vec::new() })
}

fn v1(policy: Policy, threshold: u32, num_gpu_blocks: u32) -> Engine {
    Engine {
        name: EngineName::Vllm0_13,
        config: EngineConfig::VllmV1(VllmV1Config {
            max_model_len: 400,
            max_num_seqs: 8,
            max_num_active_seqs: None,
            max_num_batched_tokens: 256,
            max_num_scheduled_tokens: None,
            num_gpu_blocks,
            block_size: 16,
            enable_prefix_caching: false,
            prompts_share: true,
            enable_chunked_prefill: true,
            policy,
            async_scheduling: false,
            watermark: 0.0,
            long_prefill_token_threshold: threshold,
            long_prefill_token_threshold_adaptive: false,
            rules: VllmV1Rules::V0_13,
        }),
    }
}

fn ask(at_ms: u64, prompt: u32, output: u32) -> Ask {
    let at = SimTime::ZERO + SimDuration::from_millis(at_ms);
    Ask { at, spec: RequestSpec::fixed(prompt, output), gone: None }
}

#[test]
fn a_scheduler_that_breaks_a_rule_is_found_and_its_workload_shrunk_to_a_file_that_shows_it() {
    let lengths = [(20, 30), (150, 9), (90, 40), (250, 12), (60, 5), (210, 80), (30, 30), (220, 3)];
    let asks = (0u64..).zip(lengths.iter().cycle().take(32));
    let asks = asks.map(|(i, &(prompt, output))| ask(i * 17, prompt, output)).collect();
    let script = Script { engine: v1(Policy::Fcfs, 0, 200), asks };
    assert_eq!(script.violated(&as_it_is), None);

    let property = script.violated(&forgetful).expect("requests are forgotten");
    assert!(property.starts_with("no request is lost: replica 0, step "), "{property}");
    assert!(property.ends_with(": it neither runs nor waits"), "{property}");
    let small = shrink(script, |script| script.violated(&forgetful).is_some());
    assert_eq!(small.asks.len(), 2, "one that runs and one that is forgotten: {small:#?}");

    let path = save(&small, &property, &forgetful);
    let bytes = std::fs::read(&path).expect("the file that was saved");
    let verdict = conformance::check(&bytes).expect("a recording");
    assert_eq!(verdict.broken, [""; 0], "the scheduler itself is sound");
    let divergence = verdict.divergence.expect("the sound one decides otherwise");
    assert_eq!(divergence.list, "steps");
    assert!(divergence.fields.contains(&"rw".to_owned()), "{divergence}");
    let text = String::from_utf8(bytes).expect("JSON");
    assert!(text.contains("no request is lost"), "the file names the property");
}

#[test]
fn two_equals_that_displace_each_other_for_ever_are_given_up_and_it_is_said() {
    let asks = vec![ask(0, 120, 4), ask(0, 120, 4)];
    let script = Script { engine: v1(Policy::Priority, 16, 9), asks };
    assert_eq!(script.violated(&as_it_is), None);
    let text = String::from_utf8(recorded(&script)).expect("JSON");
    assert!(text.contains(FinishReason::Starved.name()), "somebody has starved");
    assert!(text.contains("\"why\":\"length\""), "and the other has not");
}
