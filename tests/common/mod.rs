//! Helpers shared by the integration tests.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod engines;
pub mod script;
pub mod shrink;

use std::collections::BTreeMap;

use servesim::cost::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use servesim::engine::observer::{CompletedStep, Observer, RequestRecord, SteadyRun};
use servesim::time::{SimDuration, SimTime};

/// A cost with fractions of a nanosecond in every term, a host floor and a KV copy, so that rounding
/// differences would show.
pub struct CurvedCost;

impl StepCost for CurvedCost {
    fn step(&mut self, shape: &StepShape) -> StepTime {
        if shape.is_empty() {
            return StepTime::ZERO;
        }
        if shape.is_pure_decode() {
            let decode = self.decode(shape.decode_seqs);
            return decode.time(&decode.of(shape));
        }
        let mut time = StepTime::ZERO;
        let tokens = shape.tokens() as f64;
        time.set(CostTerm::Linear, SimDuration::from_secs_f64(5e-3 + tokens * 1.37e-5));
        let pairs = shape.prefill_pairs as f64 * 1.1e-9 + shape.decode_context as f64 * 3.3e-8;
        time.set(CostTerm::Attention, SimDuration::from_secs_f64(pairs));
        time.set(CostTerm::KvCopy, SimDuration::from_secs_f64(shape.kv_copy_tokens as f64 * 1e-9));
        time
    }

    fn decode(&mut self, seqs: u32) -> DecodeCost {
        let mut fixed = StepTime::ZERO;
        fixed.set(CostTerm::Linear, SimDuration::from_secs_f64(4e-3 + f64::from(seqs) * 1.3e-5));
        fixed.set(CostTerm::Serial, SimDuration::from_secs_f64(1.7e-4));
        DecodeCost {
            fixed,
            fixed_gpu: fixed.gpu(),
            fixed_total: fixed.total(),
            host: SimDuration::from_secs_f64(6e-3),
            attention: ContextCost::Curve { constant: 11.3, per_token: 310.7, per_sqrt: 17.9 },
            per_spread: 12.7,
            kv_copy: ContextCost::Curve { constant: 0.0, per_token: 91.3, per_sqrt: 0.0 },
        }
    }
}

/// Everything that a run shows, in a form that does not depend on how it was stepped.
#[derive(Default, Debug, PartialEq)]
pub struct Digest {
    pub every_step: bool,
    pub records: Vec<RequestRecord>,
    /// Attempts that were followed by another.
    pub lost: Vec<RequestRecord>,
    pub gaps: BTreeMap<SimDuration, u64>,
    pub steps: u64,
    pub tokens: u64,
    pub time: Vec<u64>,
    pub peak_kv: u64,
    pub last_end: SimTime,
}

impl Digest {
    fn add_time(&mut self, time: &StepTime) {
        self.time.resize(CostTerm::COUNT, 0);
        for (sum, (_, part)) in self.time.iter_mut().zip(time.terms()) {
            *sum += part.as_nanos();
        }
    }
}

impl Observer for Digest {
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        assert_eq!(step.time.total(), step.end.since(step.start), "the terms add up to the step");
        self.add_time(step.time);
        self.steps += 1;
        self.tokens += step.outcome.tokens();
        self.peak_kv = self.peak_kv.max(step.occupancy.kv_used);
        self.last_end = step.end;
    }

    fn on_steady(&mut self, run: &SteadyRun) {
        assert_eq!(run.time.total(), run.end.since(run.start), "the terms add up to the stretch");
        self.add_time(&run.time);
        self.steps += u64::from(run.steps);
        self.tokens += u64::from(run.steps) * u64::from(run.seqs);
        self.peak_kv = self.peak_kv.max(run.occupancy.kv_used);
        self.last_end = run.end;
    }

    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        *self.gaps.entry(gap).or_default() += u64::from(sequences);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        self.records.push(*record);
    }

    fn on_lost_attempt(&mut self, record: &RequestRecord) {
        self.lost.push(*record);
    }
}
