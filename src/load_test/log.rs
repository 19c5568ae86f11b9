//! Watches a run and keeps what its clients saw.

use crate::engine::observer::{
    CompletedStep, Observer, Outcome, RequestRecord, ScheduledStep, SteadyRun,
};
use crate::metrics::{Convention, Measure, Recorder};
use crate::scenario::{ArrivalSpec, Scenario};
use crate::time::{SimDuration, SimTime};
use crate::workload::ArrivalProcess;

use super::gaps::Gaps;
use super::{Load, Request, Run, Status};

const SECOND: u64 = 1_000_000_000;

/// Keeps every request: its memory grows with their number.
#[derive(Debug)]
pub struct Log {
    records: Vec<RequestRecord>,
    /// For the gaps between tokens, of all requests.
    recorder: Recorder,
    /// Tokens of each second since the first arrival.
    seconds: Vec<u64>,
    first_arrival: Option<SimTime>,
    tokens_in_time: u64,
    /// If they are wanted by request.
    each_gap: Option<Gaps>,
    measure: Measure,
}

impl Log {
    pub fn new(measure: Measure) -> Self {
        let vllm = Measure { convention: Convention::Vllm, ..measure.clone() };
        Self {
            records: Vec::new(),
            recorder: Recorder::new(vllm),
            seconds: Vec::new(),
            first_arrival: None,
            tokens_in_time: 0,
            each_gap: None,
            measure,
        }
    }

    /// The same, keeping the gaps between the tokens of each request too.
    #[must_use]
    pub fn with_each_gap(self) -> Self {
        Self { each_gap: Some(Gaps::default()), ..self }
    }

    /// What a load tester of this scenario has seen.
    pub fn run(mut self, scenario: &Scenario, seed: u64) -> Run {
        let workload = &scenario.workload;
        self.records.sort_by_key(|record| record.uid);
        let kept = self.records.iter().filter(|record| record.arrival >= self.measure.warm_up);
        let load = match &workload.arrivals {
            ArrivalSpec::ClosedLoop { clients, .. } => Load::Clients(*clients),
            ArrivalSpec::Open(process) => match *process {
                ArrivalProcess::Constant { request_rate: rate } => {
                    Load::Rate { rate, burstiness: f64::INFINITY }
                }
                ArrivalProcess::Poisson { request_rate: rate, .. } => {
                    Load::Rate { rate, burstiness: 1.0 }
                }
                ArrivalProcess::Gamma { request_rate: rate, burstiness, .. } => {
                    Load::Rate { rate, burstiness }
                }
                _ => Load::Other,
            },
            ArrivalSpec::Trace(_) => Load::Other,
        };
        Run {
            model: scenario.model.name.clone(),
            seed,
            load,
            num_requests: workload.num_requests,
            duration: workload.duration.map(SimDuration::as_secs_f64),
            warm_up: self.measure.warm_up.as_secs_f64(),
            slo: self.measure.slo,
            requests: kept
                .map(|record| {
                    let gaps = self.each_gap.as_ref().map(|gaps| gaps.of(record.uid));
                    seen(record, gaps.unwrap_or_default(), self.measure.deadline)
                })
                .collect(),
            each_gap: self.each_gap.is_some(),
            gaps: self.recorder.summary().itl_ms,
            tokens_in_time: self.tokens_in_time,
            busiest_second: self.seconds.iter().copied().max().unwrap_or(0),
        }
    }
}

fn seen(record: &RequestRecord, gaps: &[SimDuration], deadline: Option<SimTime>) -> Request {
    // Divided and not multiplied: so 1.1 s is written as 1.1.
    let seconds = |at: SimTime| at.as_nanos() as f64 / 1e9;
    let status = match record.outcome {
        Outcome::Unfinished => Status::CutOff,
        Outcome::Ended(reason) if reason.is_success() => Status::Answered,
        Outcome::Ended(reason) => Status::Failed(reason.name()),
    };
    let cut_off = status == Status::CutOff;
    Request {
        id: record.uid,
        user: record.client,
        start: seconds(record.arrival),
        first_token: record.first_token.map(seconds),
        // Of one that is cut off it lies somewhere before; nobody asks for it.
        last_token: record.first_token.filter(|_| !cut_off).map(|_| seconds(record.ended)),
        end: seconds(record.ended),
        input_tokens: record.prompt_tokens.into(),
        output_tokens: record.output_tokens.into(),
        cached_tokens: record.cached_tokens.into(),
        in_time: !cut_off && deadline.is_none_or(|deadline| record.ended <= deadline),
        status,
        gaps: gaps.iter().map(|gap| gap.as_nanos() as f64 / 1e9).collect(),
    }
}

impl Observer for Log {
    fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        if self.first_arrival.is_none() {
            let arrivals = step.requests.iter().map(|(_, request)| request.arrival);
            self.first_arrival = arrivals.min();
        }
        if let Some(gaps) = &mut self.each_gap {
            gaps.on_scheduled(step);
        }
    }

    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        self.recorder.on_completed(step);
        if let Some(gaps) = &mut self.each_gap {
            gaps.on_completed(step);
        }
        let second = step.end.since(self.first_arrival.unwrap_or_default()).as_nanos() / SECOND;
        let second = usize::try_from(second).expect("a run of fewer seconds than addresses");
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, 0);
        }
        self.seconds[second] += step.outcome.tokens();
        let Measure { warm_up, deadline, .. } = self.measure;
        if step.end > warm_up && deadline.is_none_or(|deadline| step.end <= deadline) {
            self.tokens_in_time += step.outcome.tokens();
        }
    }

    fn on_steady(&mut self, _: &SteadyRun) {
        unreachable!("every step is asked for one by one");
    }

    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        self.recorder.on_token_gap(gap, sequences);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        self.records.push(*record);
        if let Some(gaps) = &mut self.each_gap {
            gaps.on_request(record);
        }
    }

    fn on_lost_attempt(&mut self, record: &RequestRecord) {
        if let Some(gaps) = &mut self.each_gap {
            gaps.on_lost_attempt(record);
        }
    }

    /// Which second a token falls into is known of single steps only.
    fn needs_every_step(&self) -> bool {
        true
    }
}
