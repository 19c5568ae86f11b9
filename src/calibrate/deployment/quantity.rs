//! What serving measurements are of, and the same of a run.

use crate::deploy::Deployment;
use crate::engine::RunTotals;
use crate::engine::observer::{Observer, RequestRecord};
use crate::named::named_enum;

named_enum! {
    /// A measured quantity, named as the column of a table of measurements.
    pub enum Quantity as "quantity" {
        /// Tokens that left the server by the end of the run, over its duration.
        Throughput = "throughput_tok_s",
        /// Mean time to the first token.
        Ttft = "ttft_ms",
        /// Mean over requests of the time between two tokens.
        Tpot = "tpot_ms",
        /// Median over requests of the time on the GPU by the number of tokens, as TGI logs it.
        TimePerToken = "inference_ms_per_token",
        /// Mean time from sending a request to its last token.
        E2e = "e2e_ms",
        /// From the start to the last answer, by output tokens of the longest.
        BatchPerToken = "batch_ms_per_token",
        /// From the start to the last answer.
        Batch = "batch_ms",
    }
}

impl Quantity {
    /// What reports call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Ttft => "TTFT",
            Self::Tpot => "TPOT",
            Self::TimePerToken => "inference time per token",
            Self::E2e => "E2E latency",
            Self::BatchPerToken => "time per output token",
            Self::Batch => "batch latency",
        }
    }

    pub const fn unit(self) -> &'static str {
        if matches!(self, Self::Throughput) { "tok/s" } else { "ms" }
    }
}

/// What a run came to: requests that were answered, and tokens by the end.
#[derive(Clone, Debug)]
pub struct Outcome {
    requests: Vec<RequestRecord>,
    totals: RunTotals,
    /// Of the run, in seconds: the scenario's duration, else until the last answer.
    duration: f64,
}

/// Requests that were answered.
#[derive(Debug, Default)]
struct Answered(Vec<RequestRecord>);

impl Observer for Answered {
    fn on_request(&mut self, record: &RequestRecord) {
        if record.outcome.is_success() {
            self.0.push(*record);
        }
    }
}

impl Outcome {
    /// Runs `deployment` with `seed`; it remembers the prices of the run's steps.
    pub fn of(deployment: &mut Deployment<'_>, seed: u64) -> Self {
        Self::observed(deployment, seed, ()).0
    }

    /// The same with somebody else watching.
    pub fn observed<O: Observer>(
        deployment: &mut Deployment<'_>,
        seed: u64,
        observer: O,
    ) -> (Self, O) {
        let run = deployment.simulate_noting(seed, (Answered::default(), observer), false);
        deployment.learn(run.priced);
        let (answered, observer) = run.observer;
        (Self::new(deployment, run.totals, answered), observer)
    }

    /// Runs a deployment that remembers nothing of it.
    pub fn once(deployment: &Deployment<'_>, seed: u64) -> Self {
        let (totals, answered) = deployment.simulate(seed, Answered::default(), false);
        Self::new(deployment, totals, answered)
    }

    fn new(deployment: &Deployment<'_>, totals: RunTotals, answered: Answered) -> Self {
        let requests = answered.0;
        let last = requests.iter().map(|r| r.ended.as_secs_f64()).fold(0.0, f64::max);
        let duration = deployment.scenario().workload.duration.map_or(last, |d| d.as_secs_f64());
        Self { requests, totals, duration }
    }

    /// Requests that were answered.
    pub fn answered(&self) -> usize {
        self.requests.len()
    }

    /// `None` where no request of the kind was answered.
    pub fn get(&self, quantity: Quantity) -> Option<f64> {
        let requests = &self.requests;
        if requests.is_empty() {
            return None;
        }
        let mean = |of: &dyn Fn(&RequestRecord) -> Option<f64>| {
            let values: Vec<f64> = requests.iter().filter_map(of).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let last = requests.iter().map(|r| r.ended.as_secs_f64()).fold(0.0, f64::max) * 1e3;
        match quantity {
            Quantity::Throughput => Some(self.totals.output_tokens as f64 / self.duration),
            Quantity::Ttft => mean(&|r| Some(r.ttft()?.as_secs_f64() * 1e3)),
            Quantity::Tpot => mean(&|r| {
                let decoding = r.e2e().as_secs_f64() - r.ttft()?.as_secs_f64();
                Some(decoding * 1e3 / f64::from(r.output_tokens.checked_sub(1)?.max(1)))
            }),
            Quantity::TimePerToken => {
                let mut times: Vec<f64> = requests
                    .iter()
                    .filter_map(|r| {
                        let on_gpu = r.e2e().as_secs_f64() - r.queue()?.as_secs_f64();
                        Some(on_gpu * 1e3 / f64::from(r.output_tokens))
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                times.get(times.len() / 2).copied()
            }
            Quantity::E2e => mean(&|r| Some(r.e2e().as_secs_f64() * 1e3)),
            Quantity::BatchPerToken => {
                Some(last / f64::from(requests.iter().map(|r| r.output_tokens).max()?))
            }
            Quantity::Batch => Some(last),
        }
    }
}
